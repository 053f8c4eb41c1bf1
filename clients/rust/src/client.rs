//! The vault as a value: connect once, ask for keys by name.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use crate::{
    Config, ConfigError, Error, ProviderKey, ServiceConfig, pb,
    transport::{Rules, TokenSource, Transport},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const LIBRARY: &str = concat!("ibyok-client/", env!("CARGO_PKG_VERSION"));

/// A connection to the vault. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// Reads the certificates and prepares the connection, which opens with the first call and
    /// again whenever it was lost.
    ///
    /// # Errors
    /// When a file can't be read or does not hold what it should.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let service_config = match config.service_config.clone() {
            Some(given) => given,
            None => ServiceConfig::shipped()?,
        };
        let channel = endpoint(&config)?.connect_lazy();
        let rules = Rules {
            address: config.address,
            token: TokenSource::new(config.token),
            service_config,
            timeout: config.timeout,
        };
        Ok(Self { transport: Transport::new(channel, rules) })
    }

    /// The current value of the key `name`: a key id, or `orgs/{org}/keys/{key}`.
    ///
    /// # Errors
    /// When the call is refused, or the entry keeps no secret.
    pub async fn key(&self, name: &str) -> Result<ProviderKey, Error> {
        Ok(self.retrieve(name, "").await?.secret)
    }

    /// The value of `name` (which may end in `/versions/{n|current|previous|pending}`) with all that
    /// is needed to use it. `purpose` is kept in the audit log.
    ///
    /// # Errors
    /// As [`Client::key`].
    pub async fn retrieve(&self, name: &str, purpose: &str) -> Result<RetrievedKey, Error> {
        let request =
            pb::RetrieveKeyRequest { name: name.to_owned(), purpose: purpose.to_owned(), ..Default::default() };
        RetrievedKey::from_response(self.key_vault().retrieve_key(request).await?.into_inner())
    }

    /// Keys and their versions.
    #[must_use]
    pub fn key_vault(&self) -> pb::key_vault_client::KeyVaultClient<Transport> {
        pb::key_vault_client::KeyVaultClient::new(self.transport.clone())
    }
    /// Groups of keys.
    #[must_use]
    pub fn key_groups(&self) -> pb::key_groups_client::KeyGroupsClient<Transport> {
        pb::key_groups_client::KeyGroupsClient::new(self.transport.clone())
    }
    /// Tokens and identity bindings.
    #[must_use]
    pub fn tokens(&self) -> pb::tokens_client::TokensClient<Transport> {
        pb::tokens_client::TokensClient::new(self.transport.clone())
    }
    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> pb::audit_client::AuditClient<Transport> {
        pb::audit_client::AuditClient::new(self.transport.clone())
    }
    /// The whole vault.
    #[must_use]
    pub fn admin(&self) -> pb::admin_client::AdminClient<Transport> {
        pb::admin_client::AdminClient::new(self.transport.clone())
    }
}

/// A provider key and how to use it.
#[derive(Debug)]
pub struct RetrievedKey {
    /// The key itself.
    pub secret: ProviderKey,
    /// `orgs/{org}/keys/{key}/versions/{n}`
    pub key_version: String,
    /// `openai`, `anthropic`...
    pub provider: String,
    /// Where the provider is called.
    pub base_url: String,
    /// How the key is sent to it.
    pub auth_scheme: AuthScheme,
    /// How long the value may be kept in memory; None: not at all.
    pub cache_ttl: Option<Duration>,
    /// Where the record of this retrieval stands in the audit log.
    pub receipt: Option<AuditReceipt>,
    /// Whether the value is made up.
    pub mock: bool,
}

/// How a key is sent to its provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthScheme {
    /// `authorization`, `x-api-key`...
    pub header: String,
    /// `Bearer `, or nothing.
    pub prefix: String,
    /// Headers that the provider wants beside it.
    pub extra_headers: BTreeMap<String, String>,
}

/// Where a record stands in the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReceipt {
    /// Hash chain of one writer.
    pub chain: String,
    /// Place in it.
    pub sequence: i64,
    /// RFC 6962 leaf hash of the record.
    pub leaf_hash: Vec<u8>,
}

impl RetrievedKey {
    /// What RetrieveKey, or AcquireKey within its answer, gave.
    ///
    /// # Errors
    /// When it holds no secret, as an answer of `not_modified` does.
    pub fn from_response(response: pb::RetrieveKeyResponse) -> Result<Self, Error> {
        let scheme = response.auth_scheme.unwrap_or_default();
        Ok(Self {
            secret: response.secret.map(ProviderKey::from).ok_or(Error::Contract("the secret"))?,
            key_version: response.key_version,
            provider: response.provider,
            base_url: response.base_url,
            auth_scheme: AuthScheme {
                header: scheme.header,
                prefix: scheme.prefix,
                extra_headers: scheme.extra_headers,
            },
            cache_ttl: response.cache_ttl.and_then(|ttl| Duration::try_from(ttl).ok()).filter(|ttl| !ttl.is_zero()),
            receipt: response.receipt.map(|receipt| AuditReceipt {
                chain: receipt.chain,
                sequence: receipt.sequence,
                leaf_hash: receipt.leaf_hash,
            }),
            mock: response.mock,
        })
    }
}

fn endpoint(config: &Config) -> Result<Endpoint, Error> {
    let ca = file("IBYOK_CACERT", &config.ca_certificate)?;
    let certificate = file("IBYOK_CLIENT_CERT", &config.client_certificate)?;
    let key = Zeroizing::new(file("IBYOK_CLIENT_KEY", &config.client_key)?);
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca))
        .identity(Identity::from_pem(&certificate, key.as_slice()));
    if let Some(name) = &config.server_name {
        tls = tls.domain_name(name);
    }
    let user_agent = config.user_agent.as_ref().map_or_else(|| LIBRARY.to_owned(), |name| format!("{name} {LIBRARY}"));
    let refused = |variable, problem: &str, advice: &str| Error::from(ConfigError::new(variable, problem, advice));
    Endpoint::from_shared(format!("https://{}", config.address))
        .map_err(|_| refused("IBYOK_ADDR", "is not an address", "set it to host:port, as in 127.0.0.1:7443"))?
        .user_agent(user_agent)
        .map_err(|_| refused("user agent", "is not a header value", "use printable ASCII"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .tls_config(tls)
        .map_err(|_| {
            refused(
                "IBYOK_CACERT, IBYOK_CLIENT_CERT or IBYOK_CLIENT_KEY",
                "does not fit",
                "each is a PEM file, and the key belongs to the certificate",
            )
        })
}

fn file(variable: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let bytes = fs::read(path).map_err(|error| {
        ConfigError::new(
            variable,
            format!("names {}, which can't be read ({})", path.display(), error.kind()),
            "check the path and its permissions",
        )
    })?;
    // Caught here, the setting can be named; later it would only be "invalid certificate".
    if bytes.windows(10).any(|window| window == b"-----BEGIN") {
        Ok(bytes)
    } else {
        let problem = format!("names {}, which is not PEM", path.display());
        Err(ConfigError::new(variable, problem, "convert it, or name the right file"))
    }
}

// Compile-time proof that the raw clients are what a caller may share between tasks.
const _: fn() = || {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<Client>();
    is_shareable::<pb::key_vault_client::KeyVaultClient<Transport<Channel>>>();
};

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        Config::builder()
            .address("127.0.0.1:1")
            .ca_certificate(directory.join("ca.pem"))
            .client_certificate(directory.join("client.pem"))
            .client_key(directory.join("client.key"))
            .without_token()
            .build()
            .unwrap()
    }

    #[tokio::test]
    async fn a_file_that_does_not_fit_is_named_by_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let problem = async || Client::connect(config(directory.path())).await.unwrap_err().to_string();
        assert!(problem().await.starts_with("IBYOK_CACERT names "));
        fs::write(directory.path().join("ca.pem"), "not PEM").unwrap();
        assert!(problem().await.contains("ca.pem, which is not PEM: "));
        fs::write(directory.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(problem().await.starts_with("IBYOK_CLIENT_CERT names "));
    }

    #[test]
    fn an_answer_without_a_secret_is_an_error() {
        let response = pb::RetrieveKeyResponse { not_modified: true, ..Default::default() };
        assert!(matches!(RetrievedKey::from_response(response), Err(Error::Contract("the secret"))));
    }

    #[test]
    fn an_answer_becomes_what_a_caller_needs() {
        let response = pb::RetrieveKeyResponse {
            secret: Some(pb::SecretValue { text: "sk-1".into() }),
            provider: "openai".into(),
            auth_scheme: Some(pb::AuthScheme {
                header: "authorization".into(),
                prefix: "Bearer ".into(),
                ..Default::default()
            }),
            cache_ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..Default::default()
        };
        let key = RetrievedKey::from_response(response).unwrap();
        assert_eq!((key.secret.expose_secret(), key.provider.as_str()), ("sk-1", "openai"));
        assert_eq!(key.auth_scheme.prefix, "Bearer ");
        assert_eq!(key.cache_ttl, Some(Duration::from_secs(60)));
        assert!(!format!("{key:?}").contains("sk-1"));
    }
}
