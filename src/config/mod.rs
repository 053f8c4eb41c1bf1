//! Settings, parsed once into types: a TOML file, and for each setting an environment variable
//! that goes before it (`tls.client_ca` is `IBYOK_SERVER_TLS_CLIENT_CA`). Opens nothing but the
//! file; whether what it names is there, the parts find out.
//!
//! A setting that does not exist is refused by name, in the file and in the environment.

mod aws;
mod reader;
mod value;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

pub use self::aws::{AwsConfig, AwsKmsConfig};
use self::reader::Reader;
use crate::domain::secret::SecretBytes;

/// Every setting of the server.
#[derive(Debug)]
pub struct Config {
    /// `listen`: address and port; port 0 takes any.
    pub listen: SocketAddr,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[kms]`
    pub kms: KmsConfig,
    /// `[tokens]`
    pub tokens: TokenConfig,
    /// `[keys]`
    pub keys: KeyConfig,
    /// `[audit]`
    pub audit: AuditConfig,
    /// `[limits]`
    pub limits: LimitConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[providers]`
    pub providers: ProviderConfig,
}

/// PEM files; a change of them is served without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// `cert`: the server's certificate chain.
    pub cert: PathBuf,
    /// `key`: its private key.
    pub key: PathBuf,
    /// `client_ca`: the authorities of clients' certificates.
    pub client_ca: PathBuf,
    /// `crl`: revocation lists of those authorities.
    pub crl: Option<PathBuf>,
}

/// The database: `kind` and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// `kind = "sqlite"`: one file.
    Sqlite {
        /// `path`
        path: PathBuf,
    },
    /// `kind = "dynamodb"`: one table, for many replicas.
    DynamoDb {
        /// `table`: its name.
        table: String,
        /// `kms_key`: what DynamoDB encrypts it with; None: a key of DynamoDB's own.
        kms_key: Option<String>,
        /// Where AWS is.
        aws: AwsConfig,
    },
}

/// The KMS: `kind` and what it needs.
#[derive(Debug)]
pub enum KmsConfig {
    /// `kind = "local"` and `key_file`: a ring of master keys, mode 0600.
    LocalFile {
        /// `key_file`
        path: PathBuf,
    },
    /// `kind = "local"` and the environment's `IBYOK_MASTER_KEY`: 64 hex digits.
    LocalKey {
        /// The text of that variable.
        text: SecretBytes,
    },
    /// `kind = "aws"`: AWS KMS.
    Aws(AwsKmsConfig),
}

/// Tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// `issuer`: the `iss` claim.
    pub issuer: String,
    /// `audience`: the `aud` claim.
    pub audience: String,
    /// `ttl_default`: the life of a token that asks for none.
    pub ttl_default: Duration,
    /// `ttl_longest`: the longest life, at most 90 days.
    pub ttl_longest: Duration,
}

/// Provider keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyConfig {
    /// `cache_ttl`: how long a client may keep a retrieved value in memory.
    pub cache_ttl: Duration,
    /// `backup_retention`: how long backups of the database are kept; after that nothing brings a
    /// destroyed key back.
    pub backup_retention: Duration,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// `shared_lanes`: 1 or 2.
    pub shared_lanes: usize,
    /// `mutation_lanes`: 1 to 16.
    pub mutation_lanes: usize,
    /// What leaves for the archive; None: the log is kept for ever.
    pub archive: Option<ArchiveConfig>,
}

/// The audit log's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveConfig {
    /// `retention`: how long records stay in the log, at least a day.
    pub retention: Duration,
    /// `archive_dir`: where they go then.
    pub dir: PathBuf,
}

/// Limits of this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// `connections`: at a time.
    pub connections: usize,
    /// `connection_age`: about how long one lives.
    pub connection_age: Duration,
    /// `connection_streams`: calls at a time on one connection.
    pub connection_streams: u32,
    /// `calls`: unary calls at a time.
    pub calls: usize,
    /// `streams`: streams at a time.
    pub streams: usize,
    /// `share`: percent of these places, and of connections, that one organization, or one certificate,
    /// alone may hold.
    pub share: u8,
    /// `token_rate`: calls a second with one token.
    pub token_rate: u32,
    /// `org_rate`: calls a second of one organization.
    pub org_rate: u32,
    /// `certificate_rate`: calls a second without a verified token from one certificate.
    pub certificate_rate: u32,
    /// `address_rate`: calls a second without a verified token from one address.
    pub address_rate: u32,
    /// `drain`: how long a server that shuts down waits for its calls.
    pub drain: Duration,
}

/// Logs, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`
    pub format: LogFormat,
    /// `level`: `info`, or a filter such as `info,ibyok=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Providers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderConfig {
    /// `file`: rows that add to the table, or replace some of it.
    pub file: Option<PathBuf>,
    /// `plain_hosts`: hosts whose base URL may be http.
    pub plain_hosts: Vec<String>,
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as it is written where it stands.
    pub setting: String,
    /// What it must be; never what it is.
    pub must: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.must)
    }
}

/// The settings can't be used: every problem at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
impl std::error::Error for ConfigError {}

/// The environment's variables that concern the server.
pub type Environment = Vec<(String, String)>;

impl Config {
    /// From the file at `path` and the environment. Paths in the file are relative to it.
    ///
    /// # Errors
    /// Every problem, by setting.
    pub fn load(path: &std::path::Path, environment: Environment) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            problems: vec![Problem {
                setting: "--config".into(),
                must: format!("a file that can be read ({})", error.kind()),
            }],
        })?;
        let base = path.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        Self::parse(&text, base, environment)
    }

    /// From a file's text, whose paths are relative to `base`, and the environment.
    ///
    /// # Errors
    /// Every problem, by setting.
    pub fn parse(text: &str, base: PathBuf, environment: Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(text, base, environment)?;
        let config = read(&mut reader);
        let problems = reader.problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

fn read(from: &mut Reader) -> Option<Config> {
    // Every setting is asked for, so that every problem is found at once.
    let listen = from.address("listen", ([127, 0, 0, 1], 7443).into());
    let tls = tls(from);
    let store = store(from);
    let kms = kms(from);
    let tokens = tokens(from);
    let keys = keys(from);
    let audit = audit(from);
    let limits = limits(from);
    let log = log(from);
    let providers =
        ProviderConfig { file: from.path("providers.file"), plain_hosts: from.texts("providers.plain_hosts") };
    Some(Config {
        listen: listen?,
        tls: tls?,
        store: store?,
        kms: kms?,
        tokens: tokens?,
        keys: keys?,
        audit: audit?,
        limits: limits?,
        log: log?,
        providers,
    })
}

fn tls(from: &mut Reader) -> Option<TlsConfig> {
    let cert = from.needed_path("tls.cert");
    let key = from.needed_path("tls.key");
    let client_ca = from.needed_path("tls.client_ca");
    let crl = from.path("tls.crl");
    Some(TlsConfig { cert: cert?, key: key?, client_ca: client_ca?, crl })
}

fn store(from: &mut Reader) -> Option<StoreConfig> {
    let is_dynamodb = from.one_of("store.kind", "sqlite", &[("sqlite", false), ("dynamodb", true)]);
    // Asked for whatever the kind, so that every problem is found at once.
    let path = from.path("store.path");
    let table = from.opt("store.table", "3 to 255 letters, digits, `_`, `-` and `.`", value::table);
    let kms_key = from.opt("store.kms_key", "text", value::text);
    let aws = aws::place(from, ["store.region", "store.endpoint", "store.fips", "store.dual_stack"]);
    if is_dynamodb? {
        from.refuse_set(&["store.path"], "only with store.kind = \"sqlite\"");
        from.need("store.table", "the table's name");
        return Some(StoreConfig::DynamoDb { table: table?, kms_key, aws: aws? });
    }
    from.refuse_set(&OF_DYNAMODB, "only with store.kind = \"dynamodb\"");
    from.need("store.path", "a path");
    Some(StoreConfig::Sqlite { path: path? })
}

const OF_DYNAMODB: [&str; 6] =
    ["store.table", "store.kms_key", "store.region", "store.endpoint", "store.fips", "store.dual_stack"];

fn kms(from: &mut Reader) -> Option<KmsConfig> {
    let is_aws = from.one_of("kms.kind", "local", &[("local", false), ("aws", true)]);
    // Asked for whatever the kind, so that every problem is found at once.
    let key_file = from.path("kms.key_file");
    let aws = aws::kms(from);
    if is_aws? {
        from.refuse_set(&["kms.key_file"], "only with kms.kind = \"local\"");
        return aws.complete(from).map(KmsConfig::Aws);
    }
    from.refuse_set(&aws::KMS, "only with kms.kind = \"aws\"");
    match (key_file, from.master_key()) {
        (Some(path), None) => Some(KmsConfig::LocalFile { path }),
        (None, Some(text)) => Some(KmsConfig::LocalKey { text }),
        (None, None) => from.refuse("kms.key_file", "needed: the file of master keys, or IBYOK_MASTER_KEY instead"),
        (Some(_), Some(_)) => from.refuse("kms.key_file", "either this or IBYOK_MASTER_KEY, not both"),
    }
}

fn tokens(from: &mut Reader) -> Option<TokenConfig> {
    let issuer = from.text("tokens.issuer", "ibyok");
    let audience = from.text("tokens.audience", "ibyok");
    let ttl_default = from.duration("tokens.ttl_default", HOUR, SECOND * 60..=DAY * 90);
    let ttl_longest = from.duration("tokens.ttl_longest", DAY * 90, SECOND * 60..=DAY * 90);
    let config =
        TokenConfig { issuer: issuer?, audience: audience?, ttl_default: ttl_default?, ttl_longest: ttl_longest? };
    if config.ttl_default > config.ttl_longest {
        return from.refuse("tokens.ttl_default", "at most tokens.ttl_longest");
    }
    Some(config)
}

fn keys(from: &mut Reader) -> Option<KeyConfig> {
    let cache_ttl = from.duration("keys.cache_ttl", SECOND * 300, Duration::ZERO..=DAY);
    let backup_retention = from.duration("keys.backup_retention", DAY * 35, Duration::ZERO..=DAY * 3_650);
    Some(KeyConfig { cache_ttl: cache_ttl?, backup_retention: backup_retention? })
}

fn audit(from: &mut Reader) -> Option<AuditConfig> {
    let shared_lanes = from.number("audit.shared_lanes", 1, 1..=2);
    let mutation_lanes = from.number("audit.mutation_lanes", 16, 1..=16);
    let retention = from.opt_duration("audit.retention", DAY..=DAY * 36_500);
    let dir = from.path("audit.archive_dir");
    let archive = match (retention?, dir) {
        (Some(retention), Some(dir)) => Some(ArchiveConfig { retention, dir }),
        (Some(_), None) => return from.refuse("audit.archive_dir", "needed with audit.retention: a path"),
        // What has left may still be read there; nothing more leaves.
        (None, _) => None,
    };
    Some(AuditConfig { shared_lanes: size(shared_lanes?), mutation_lanes: size(mutation_lanes?), archive })
}

fn limits(from: &mut Reader) -> Option<LimitConfig> {
    let connections = from.number("limits.connections", 4_096, 1..=1_000_000);
    let connection_age = from.duration("limits.connection_age", HOUR / 2, SECOND..=DAY);
    let connection_streams = from.number("limits.connection_streams", 128, 1..=10_000);
    let calls = from.number("limits.calls", 1_024, 1..=100_000);
    let streams = from.number("limits.streams", 1_024, 1..=100_000);
    let share = from.number("limits.share", 50, 1..=100);
    let token_rate = from.number("limits.token_rate", 2_000, 1..=1_000_000);
    let org_rate = from.number("limits.org_rate", 10_000, 1..=1_000_000);
    let certificate_rate = from.number("limits.certificate_rate", 50, 1..=1_000_000);
    let address_rate = from.number("limits.address_rate", 1_000, 1..=1_000_000);
    let drain = from.duration("limits.drain", SECOND * 25, SECOND..=HOUR);
    Some(LimitConfig {
        connections: size(connections?),
        connection_age: connection_age?,
        connection_streams: connection_streams?,
        calls: size(calls?),
        streams: size(streams?),
        share: u8::try_from(share?).unwrap_or(100),
        token_rate: token_rate?,
        org_rate: org_rate?,
        certificate_rate: certificate_rate?,
        address_rate: address_rate?,
        drain: drain?,
    })
}

fn log(from: &mut Reader) -> Option<LogConfig> {
    let format = from.one_of("log.format", "text", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let level = from.text("log.level", "info");
    Some(LogConfig { format: format?, level: level? })
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
