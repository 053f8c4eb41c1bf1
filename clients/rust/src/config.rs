//! Where the vault is and as whom to call it. Nothing is opened here: [`Client::connect`] reads
//! the files.
//!
//! [`Client::connect`]: crate::Client::connect

use std::{env, ffi::OsString, fmt, path::PathBuf, sync::Arc, time::Duration};

use crate::{AccessToken, ServiceConfig};

/// A vault's address, the files of mutual TLS, and the token.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) address: String,
    pub(crate) server_name: Option<String>,
    pub(crate) ca_certificate: PathBuf,
    pub(crate) client_certificate: PathBuf,
    pub(crate) client_key: PathBuf,
    pub(crate) token: TokenFrom,
    pub(crate) timeout: Option<Duration>,
    pub(crate) service_config: Option<ServiceConfig>,
    pub(crate) user_agent: Option<String>,
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub(crate) enum TokenFrom {
    Nowhere,
    File(PathBuf),
    Memory(Arc<AccessToken>),
}

impl Config {
    /// From `IBYOK_ADDR`, `IBYOK_TOKEN_FILE`, `IBYOK_CACERT`, `IBYOK_CLIENT_CERT`,
    /// `IBYOK_CLIENT_KEY` and, optionally, `IBYOK_SERVER_NAME`.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong, and what to do.
    pub fn from_env() -> Result<Self, ConfigError> {
        ConfigBuilder::from_variables(|name| env::var_os(name)).build()
    }
    /// Setting by setting.
    #[must_use]
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }
    /// `host:port`
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Collects what a [`Config`] needs.
#[derive(Clone, Debug, Default)]
pub struct ConfigBuilder {
    address: Option<OsString>,
    server_name: Option<OsString>,
    ca_certificate: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    token: Option<TokenFrom>,
    timeout: Option<Duration>,
    service_config: Option<ServiceConfig>,
    user_agent: Option<String>,
}

impl ConfigBuilder {
    /// From variables as [`Config::from_env`] names them; an empty one counts as not set.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            address: set("IBYOK_ADDR"),
            server_name: set("IBYOK_SERVER_NAME"),
            ca_certificate: set("IBYOK_CACERT").map(PathBuf::from),
            client_certificate: set("IBYOK_CLIENT_CERT").map(PathBuf::from),
            client_key: set("IBYOK_CLIENT_KEY").map(PathBuf::from),
            token: set("IBYOK_TOKEN_FILE").map(|path| TokenFrom::File(path.into())),
            ..Self::default()
        }
    }
    /// `host:port` of the vault.
    #[must_use]
    pub fn address(mut self, address: impl Into<OsString>) -> Self {
        self.address = Some(address.into());
        self
    }
    /// Name the server's certificate must bear, where it is not the host of the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<OsString>) -> Self {
        self.server_name = Some(name.into());
        self
    }
    /// PEM file of the authority that signed the server's certificate.
    #[must_use]
    pub fn ca_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_certificate = Some(path.into());
        self
    }
    /// PEM file of the client's certificate chain.
    #[must_use]
    pub fn client_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_certificate = Some(path.into());
        self
    }
    /// PEM file of the private key that belongs to the client's certificate.
    #[must_use]
    pub fn client_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_key = Some(path.into());
        self
    }
    /// File that holds the token; it is read again whenever it changes.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(TokenFrom::File(path.into()));
        self
    }
    /// The token itself.
    #[must_use]
    pub fn token(mut self, token: AccessToken) -> Self {
        self.token = Some(TokenFrom::Memory(Arc::new(token)));
        self
    }
    /// No token: only ExchangeToken and GetJwks answer.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.token = Some(TokenFrom::Nowhere);
        self
    }
    /// Deadline of a unary call, its retries included; otherwise what the service config says.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
    /// Another service config than the shipped one.
    #[must_use]
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.service_config = Some(config);
        self
    }
    /// What the audit log shows before this library's own name.
    #[must_use]
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = Some(name.into());
        self
    }
    /// Everything that is needed is there.
    ///
    /// # Errors
    /// Names the variable of the first thing that is missing or wrong.
    pub fn build(self) -> Result<Config, ConfigError> {
        let address = text("IBYOK_ADDR", self.address)?.ok_or(ConfigError::new(
            "IBYOK_ADDR",
            "is not set",
            "`source .ibyok-dev/env.sh`, or set it to host:port",
        ))?;
        let token = self.token.ok_or(missing_file("IBYOK_TOKEN_FILE", "the file that holds your token"))?;
        Ok(Config {
            address: host_and_port(&address)?,
            server_name: text("IBYOK_SERVER_NAME", self.server_name)?,
            ca_certificate: self
                .ca_certificate
                .ok_or(missing_file("IBYOK_CACERT", "the PEM file of the vault's certificate authority"))?,
            client_certificate: self
                .client_certificate
                .ok_or(missing_file("IBYOK_CLIENT_CERT", "the PEM file of your client certificate"))?,
            client_key: self
                .client_key
                .ok_or(missing_file("IBYOK_CLIENT_KEY", "the PEM file of your client certificate's private key"))?,
            token,
            timeout: self.timeout,
            service_config: self.service_config,
            user_agent: self.user_agent,
        })
    }
}

/// A setting that is missing or wrong: Display names it and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
    advice: String,
}

impl ConfigError {
    pub(crate) fn new(variable: &'static str, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { variable, problem: problem.into(), advice: advice.into() }
    }
    /// The environment variable of the setting.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        self.variable
    }
    /// What is wrong with it: `is not set`.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.advice
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.variable, self.problem, self.advice)
    }
}
impl std::error::Error for ConfigError {}

fn missing_file(variable: &'static str, what: &str) -> ConfigError {
    ConfigError::new(variable, "is not set", format!("`source .ibyok-dev/env.sh`, or set it to {what}"))
}

fn text(variable: &'static str, value: Option<OsString>) -> Result<Option<String>, ConfigError> {
    value
        .map(|value| {
            value.into_string().map_err(|_| ConfigError::new(variable, "is not UTF-8", "set it to plain text"))
        })
        .transpose()
}

/// `host:port`, which may come as an https URL; anything else of a URL is refused rather than
/// silently dropped.
fn host_and_port(address: &str) -> Result<String, ConfigError> {
    let wrong = |problem: &str| ConfigError::new("IBYOK_ADDR", problem, "set it to host:port, as in 127.0.0.1:7443");
    if address.starts_with("http://") {
        return Err(wrong("asks for a connection without TLS, which the vault does not take"));
    }
    let bare = address.strip_prefix("https://").unwrap_or(address);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let authority: http::uri::Authority = bare.parse().map_err(|_| wrong("is not an address"))?;
    if authority.port_u16().is_none() || authority.host().is_empty() || bare.contains('@') {
        return Err(wrong("has no port, or no host"));
    }
    Ok(bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 5] = [
        ("IBYOK_ADDR", "127.0.0.1:7443"),
        ("IBYOK_TOKEN_FILE", "/dir/token"),
        ("IBYOK_CACERT", "/dir/ca.pem"),
        ("IBYOK_CLIENT_CERT", "/dir/client.pem"),
        ("IBYOK_CLIENT_KEY", "/dir/client.key"),
    ];

    fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        ConfigBuilder::from_variables(|name| {
            variables.iter().find(|(there, _)| *there == name).map(|(_, value)| OsString::from(value))
        })
        .build()
    }

    #[test]
    fn the_five_variables_are_enough() {
        let config = with(&COMPLETE).unwrap();
        assert_eq!(config.address(), "127.0.0.1:7443");
        assert_eq!(config.client_key, PathBuf::from("/dir/client.key"));
        assert!(matches!(config.token, TokenFrom::File(path) if path.as_os_str() == "/dir/token"));
        assert_eq!(config.server_name, None);
    }

    #[test]
    fn each_missing_or_empty_variable_is_named_with_what_to_do() {
        for (name, _) in COMPLETE {
            let rest: Vec<_> = COMPLETE.into_iter().filter(|(there, _)| *there != name).collect();
            let mut empty = rest.clone();
            empty.push((name, ""));
            for variables in [rest, empty] {
                let error = with(&variables).unwrap_err();
                assert_eq!(error.variable(), name);
                assert!(error.to_string().starts_with(&format!("{name} is not set: `source .ibyok-dev/env.sh`, or")));
            }
        }
    }

    #[test]
    fn an_address_is_host_and_port() {
        let address = |address: &str| {
            let mut variables = COMPLETE;
            variables[0].1 = address;
            with(&variables).map(|config| config.address).map_err(|error| error.to_string())
        };
        assert_eq!(address("vault.example:7443"), Ok("vault.example:7443".into()));
        assert_eq!(address("https://[::1]:7443/"), Ok("[::1]:7443".into()));
        for wrong in ["vault.example", "http://vault:7443", "a:b:c", "https://vault:7443/path", "user@vault:1", ":7443"]
        {
            let text = address(wrong).unwrap_err();
            assert!(text.starts_with("IBYOK_ADDR ") && text.ends_with("as in 127.0.0.1:7443"), "{wrong}: {text}");
        }
    }

    #[test]
    fn debug_never_shows_the_token() {
        let config = Config::builder().token(AccessToken::new("eyJ-canary".into()));
        assert!(!format!("{config:?}").contains("canary"));
    }
}
