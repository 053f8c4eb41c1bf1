//! The connection of one run, and what names mean in it.

use ibyok_client::{Client, Config, pb};

use crate::{args::Global, failure::Failure};

/// A connected client and the organization to work in.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) names: Names,
}

impl Session {
    pub(crate) async fn open(global: Global, needs_token: bool) -> Result<Self, Failure> {
        let mut config = Config::builder().user_agent(concat!("ibyok/", env!("CARGO_PKG_VERSION")));
        if let Some(address) = global.addr {
            config = config.address(address);
        }
        if let Some(path) = global.cacert {
            config = config.ca_certificate(path);
        }
        if let Some(path) = global.cert {
            config = config.client_certificate(path);
        }
        if let Some(path) = global.key {
            config = config.client_key(path);
        }
        if let Some(name) = global.server_name {
            config = config.server_name(name);
        }
        if let Some(timeout) = global.timeout {
            config = config.timeout(timeout);
        }
        config = match global.token_file {
            Some(path) if needs_token => config.token_file(path),
            _ if !needs_token => config.without_token(),
            _ => config,
        };
        let client = Client::connect(config.build().map_err(ibyok_client::Error::from)?).await?;
        Ok(Self { client, names: Names { org: global.org } })
    }

    /// The full name of a key, which destroying asks for; the organization of a short one is the
    /// token's, as the vault itself says.
    pub(crate) async fn full_key_name(&self, name: &str) -> Result<String, Failure> {
        let full = self.names.key(name);
        if full.starts_with("orgs/") {
            return Ok(full);
        }
        let answer = self.client.tokens().introspect_token(pb::IntrospectTokenRequest::default()).await?.into_inner();
        let token = answer.token.ok_or_else(|| Failure::contract("the token"))?;
        let (org, _) = token.name.split_once("/tokens/").ok_or_else(|| Failure::contract("the token's full name"))?;
        Ok(format!("{org}/keys/{name}"))
    }
}

/// What names mean: full ones are themselves, short ones belong to the organization that was named,
/// or else, as the server reads them, to the token's.
pub(crate) struct Names {
    org: Option<String>,
}

impl Names {
    /// `orgs/{org}`, or empty: the token's own.
    pub(crate) fn parent(&self) -> String {
        match self.org.as_deref() {
            Some(org) if org.starts_with("orgs/") => org.to_owned(),
            Some(org) => format!("orgs/{org}"),
            None => String::new(),
        }
    }
    pub(crate) fn key(&self, name: &str) -> String {
        self.full("keys", name)
    }
    pub(crate) fn token(&self, name: &str) -> String {
        self.full("tokens", name)
    }
    pub(crate) fn binding(&self, name: &str) -> String {
        self.full("bindings", name)
    }
    /// `{key}/versions/{version}`
    pub(crate) fn version(&self, key: &str, version: &str) -> String {
        format!("{}/versions/{version}", self.key(key))
    }
    fn full(&self, kind: &str, name: &str) -> String {
        match self.parent() {
            parent if parent.is_empty() || name.starts_with("orgs/") => name.to_owned(),
            parent => format!("{parent}/{kind}/{name}"),
        }
    }
}

/// What stands behind the last slash of a full name.
pub(crate) fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_belong_to_the_organization_that_was_named() {
        let names = |org: Option<&str>| Names { org: org.map(str::to_owned) };
        assert_eq!(names(None).key("a"), "a");
        assert_eq!(names(None).version("a", "2"), "a/versions/2");
        assert_eq!(names(Some("acme")).key("a"), "orgs/acme/keys/a");
        assert_eq!(names(Some("orgs/acme")).token("t"), "orgs/acme/tokens/t");
        assert_eq!(names(Some("acme")).key("orgs/dev/keys/a"), "orgs/dev/keys/a");
        assert_eq!((names(None).parent().as_str(), short("orgs/dev/keys/a")), ("", "a"));
    }
}
