//! A whole vault in this process: a real store and audit log in a directory of its own, the local
//! KMS, real TLS on a free port of 127.0.0.1, and an authority that makes any certificate a test
//! asks for.
//!
//! ```ignore
//! let vault = Vault::start().await;
//! let admin = vault.admin().await;                  // token of org acme, every scope
//! let mut keys = admin.keys();                      // generated client; certificate and token ride along
//! keys.create_key(CreateKeyRequest { .. }).await?;
//! vault.stop().await;                               // drains as on SIGTERM
//! ```

#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ibyok::{
    config::Config,
    domain::{
        clock::{ShiftedClock, SystemClock, SystemEntropy},
        ids::OrgId,
        principal::IdentityPattern,
    },
    grpc::pb::{
        self, admin_client::AdminClient, audit_client::AuditClient, key_vault_client::KeyVaultClient,
        tokens_client::TokensClient,
    },
    kms::local::LocalKeyWrapper,
    pki::{Authority, ClientNames, Issued, Validity},
    server::{self, ServerError, Sources, init::Init},
    store::{ItemStore, sqlite::SqliteStore},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{dynamodb::local, localstack, trace};

/// The first organization of every test's vault.
pub const ORG: &str = "acme";
/// The identity that `init` binds in [`ORG`] and in `system`.
pub const ADMIN: &str = "spiffe://ibyok.test/admin";

/// What `future` brings. A test that waits for what never comes fails and says for what, instead of
/// hanging; how long anything takes is not what it asserts.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    const PATIENCE: Duration = Duration::from_secs(60);
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited for in vain: {what}"))
}

/// A running vault.
pub struct Vault {
    pub address: SocketAddr,
    pub authority: Arc<Authority>,
    /// Moves the server's wall clock.
    pub clock: Arc<ShiftedClock>,
    pub dir: Arc<TempDir>,
    place: Place,
    stop: CancellationToken,
    served: JoinHandle<Result<(), ServerError>>,
}

impl Vault {
    /// A new vault with the default settings.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// A new vault; `settings` is TOML that goes behind the harness's own.
    pub async fn start_with(settings: &str) -> Self {
        let home = Home::make();
        home.init().await.unwrap();
        home.serve(settings).await
    }

    /// Drains it, as on SIGTERM, and gives what is left of it.
    pub async fn stop(self) -> Home {
        let home = self.home();
        self.stop.cancel();
        self.served.await.unwrap().unwrap();
        home
    }

    /// Its directory, for whoever looks at it meanwhile.
    pub fn home(&self) -> Home {
        let (dir, authority, clock) = (self.dir.clone(), self.authority.clone(), self.clock.clone());
        Home { dir, authority, clock, place: self.place.clone(), makes_table: false }
    }

    /// A new certificate of the vault's authority with that identity (SPIFFE id or DNS name).
    pub fn certificate(&self, identity: &str) -> Issued {
        client_certificate(&self.authority, identity, Validity::days(1))
    }

    /// A connection with that certificate; it is opened by the first call.
    pub fn channel(&self, certificate: &Issued) -> Channel {
        channel(&self.authority, self.address, certificate)
    }

    /// Whoever has a certificate with that identity, and no token.
    pub fn stranger(&self, identity: &str) -> Caller {
        Caller::new(self.channel(&self.certificate(identity)), None)
    }

    /// The administrator of [`ORG`]: every ordinary scope on everything.
    pub async fn admin(&self) -> Caller {
        self.exchange(ADMIN, ORG).await
    }

    /// The administrator of the whole vault: a token of organization `system`.
    pub async fn operator(&self) -> Caller {
        self.exchange(ADMIN, OrgId::SYSTEM).await
    }

    /// Whoever has a certificate with `identity`, after exchanging it for a token of `org`.
    pub async fn exchange(&self, identity: &str, org: &str) -> Caller {
        self.stranger(identity).exchange(org).await
    }

    /// A token that `issuer` issues, and its holder's connection: bound to a new certificate with
    /// `identity`.
    pub async fn issue(&self, issuer: &Caller, identity: &str, request: pb::IssueTokenRequest) -> Caller {
        let request = pb::IssueTokenRequest { client_identity: identity.to_owned(), ..request };
        let answer = issuer.tokens().issue_token(request).await.unwrap().into_inner();
        Caller::new(self.channel(&self.certificate(identity)), Some(answer.access_token.unwrap().text.clone()))
    }
}

/// A vault's directory while nobody serves it.
#[derive(Clone)]
pub struct Home {
    pub dir: Arc<TempDir>,
    pub authority: Arc<Authority>,
    pub clock: Arc<ShiftedClock>,
    place: Place,
    /// Whether its table is its own, which `init` makes first.
    makes_table: bool,
}

/// Where a vault's items are.
#[derive(Clone)]
pub enum Place {
    /// In that file of its directory.
    File(&'static str),
    /// In that table, reached through that endpoint.
    Table { name: String, endpoint: String },
}

impl Place {
    /// Where the suite runs: a new one.
    fn of_the_suite() -> Self {
        match std::env::var("IBYOK_TEST_STORE").as_deref() {
            Err(_) | Ok("sqlite") => FILE,
            Ok("dynamodb") => Self::table(&local::name()),
            Ok(_) => panic!("IBYOK_TEST_STORE is sqlite or dynamodb"),
        }
    }
    /// That table of DynamoDB Local.
    pub fn table(name: &str) -> Self {
        Self::Table { name: name.to_owned(), endpoint: local::endpoint() }
    }
    /// What a server needs in its environment to come there.
    pub fn environment(&self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::File(_) => Vec::new(),
            Self::Table { .. } => localstack::ENVIRONMENT.to_vec(),
        }
    }
    /// The setting `store`, TOML.
    pub fn setting(&self) -> String {
        match self {
            Self::File(path) => format!("store = {{ path = '{path}' }}"),
            Self::Table { name, endpoint } => {
                let region = local::REGION;
                format!(
                    "store = {{ kind = 'dynamodb', table = '{name}', region = '{region}', endpoint = '{endpoint}' }}"
                )
            }
        }
    }
}

/// The items of a vault that nobody serves, in the store that a server would open.
pub struct Items {
    port: Arc<dyn ItemStore>,
    file: Option<Arc<SqliteStore>>,
}

impl Items {
    pub fn port(&self) -> Arc<dyn ItemStore> {
        Arc::clone(&self.port)
    }
    /// Lets go of them.
    pub async fn close(self) {
        if let Some(file) = self.file {
            file.close().await.unwrap();
        }
    }
}

impl Home {
    /// A directory with certificates and a master key, and no vault yet; the store is the suite's.
    pub fn make() -> Self {
        let home = Self::at(Place::of_the_suite());
        let makes_table = matches!(home.place, Place::Table { .. });
        Self { makes_table, ..home }
    }

    /// The same with the store in a file, whatever the suite's is.
    pub fn sqlite() -> Self {
        Self::at(FILE)
    }

    /// The same with the store there, where whoever asks for it has made what it needs.
    pub fn at(place: Place) -> Self {
        let (dir, authority) = (TempDir::new().unwrap(), Authority::new("ibyok test").unwrap());
        let server = authority.server(Validity::days(1)).unwrap();
        fs::write(dir.path().join("ca.pem"), authority.certificate()).unwrap();
        fs::write(dir.path().join("server.pem"), &server.certificate).unwrap();
        fs::write(dir.path().join("server.key"), server.key.as_bytes()).unwrap();
        LocalKeyWrapper::create_file(&dir.path().join("master.keys"), &SystemEntropy).unwrap();
        let clock = Arc::new(ShiftedClock::default());
        Self { dir: Arc::new(dir), authority: Arc::new(authority), clock, place, makes_table: false }
    }

    /// The same vault through another way, or at another place.
    pub fn moved(self, place: Place) -> Self {
        Self { place, makes_table: false, ..self }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its items, while nobody serves it.
    pub async fn items(&self) -> Items {
        match &self.place {
            Place::File(path) => {
                let store = SqliteStore::open(&self.path().join(path), Arc::new(SystemClock)).unwrap();
                let store = Arc::new(store);
                Items { port: store.clone(), file: Some(store) }
            }
            Place::Table { name, endpoint } => {
                Items { port: Arc::new(local::store(name, endpoint.clone()).await), file: None }
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The settings; `more` is TOML that goes behind them.
    pub fn config(&self, more: &str) -> Config {
        let text = format!("{SETTINGS}{}\n{}\n{more}", self.place.setting(), self.kms());
        Config::parse(&text, self.path().to_owned(), Vec::new()).unwrap()
    }

    /// The settings of its KMS.
    pub fn kms(&self) -> String {
        fs::read_to_string(self.path().join(KMS_SETTINGS)).unwrap_or_else(|_| LOCAL_KMS.to_owned())
    }

    /// Where the server's time and randomness come from.
    pub fn sources(&self) -> Sources {
        let clock = Arc::<ShiftedClock>::clone(&self.clock);
        Sources { clock, aws_keys: Some(localstack::keys()), ..Sources::default() }
    }

    /// What `ibyok-server init` does.
    pub async fn init(&self) -> Result<(), ServerError> {
        self.init_by(&self.sources()).await
    }

    /// The same by another clock.
    pub async fn init_by(&self, sources: &Sources) -> Result<(), ServerError> {
        if let (true, Place::Table { name, .. }) = (self.makes_table, &self.place) {
            local::make(name).await;
        }
        let init =
            Init { org: OrgId::parse("org", ORG).unwrap(), admin: IdentityPattern::parse("identity", ADMIN).unwrap() };
        server::init::init(&self.config(""), &init, sources).await
    }

    /// What `ibyok-server serve` does.
    pub async fn serve(self, settings: &str) -> Vault {
        self.serve_on("127.0.0.1:0", settings).await
    }

    /// The same on another address of this machine.
    pub async fn serve_on(self, address: &str, settings: &str) -> Vault {
        trace::start();
        let (config, sources) = (self.config(settings), self.sources());
        let socket = TcpListener::bind(address).await.unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let served = tokio::spawn(server::run(config, socket, stop.clone().cancelled_owned(), sources));
        let vault = Vault {
            address,
            authority: self.authority,
            clock: self.clock,
            dir: self.dir,
            place: self.place,
            stop,
            served,
        };
        // Connections wait in the socket's queue until the vault is open.
        let mut health = HealthClient::new(vault.channel(&vault.certificate("harness.test")));
        let ready = health.check(HealthCheckRequest::default()).await;
        assert!(ready.is_ok(), "the vault did not start: {:?}", vault.served.await);
        vault
    }
}

const SETTINGS: &str = r#"
tls = { cert = "server.pem", key = "server.key", client_ca = "ca.pem" }
"#;
const LOCAL_KMS: &str = r#"kms = { key_file = "master.keys" }"#;

/// What a test puts into this file of the home, `kms = { .. }`, stands in the place of the local KMS.
pub const KMS_SETTINGS: &str = "kms.toml";

const FILE: Place = Place::File("vault.db");

/// A connection with that certificate to a server of `authority`; it is opened by the first call.
pub fn channel(authority: &Authority, address: SocketAddr, certificate: &Issued) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.certificate()))
        .identity(Identity::from_pem(&certificate.certificate, certificate.key.as_str()))
        .domain_name("localhost");
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect_lazy()
}

/// A client certificate of `authority` with one identity.
pub fn client_certificate(authority: &Authority, identity: &str, validity: Validity) -> Issued {
    let mut names = ClientNames::default();
    if identity.starts_with("spiffe://") {
        names.spiffe.push(identity.to_owned());
    } else {
        names.dns.push(identity.to_owned());
    }
    authority.client(&names, validity).unwrap()
}

/// One who calls: a connection with a certificate, and perhaps a token that goes with every call.
#[derive(Clone)]
pub struct Caller {
    pub channel: Channel,
    pub token: Option<String>,
}

/// A channel whose calls carry the caller's token.
pub type Carried = InterceptedService<Channel, Bearer>;

impl Caller {
    pub fn new(channel: Channel, token: Option<String>) -> Self {
        Self { channel, token }
    }
    /// The same connection with another token.
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self::new(self.channel.clone(), Some(token.into()))
    }
    /// The same connection with the token of `org` that its certificate exchanges itself for.
    pub async fn exchange(&self, org: &str) -> Self {
        let request = pb::ExchangeTokenRequest {
            subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
            parent: format!("orgs/{org}"),
            ..Default::default()
        };
        let answer = self.tokens().exchange_token(request).await.unwrap().into_inner();
        self.with_token(answer.access_token.unwrap().text.clone())
    }
    pub fn keys(&self) -> KeyVaultClient<Carried> {
        KeyVaultClient::with_interceptor(self.channel.clone(), self.bearer())
    }
    pub fn tokens(&self) -> TokensClient<Carried> {
        TokensClient::with_interceptor(self.channel.clone(), self.bearer())
    }
    pub fn audit(&self) -> AuditClient<Carried> {
        AuditClient::with_interceptor(self.channel.clone(), self.bearer())
    }
    pub fn admin(&self) -> AdminClient<Carried> {
        AdminClient::with_interceptor(self.channel.clone(), self.bearer())
    }
    /// The audit events that `request` asks for, of every page.
    pub async fn audit_events(&self, mut request: pb::ListAuditEventsRequest) -> Vec<pb::AuditEvent> {
        let mut events = Vec::new();
        loop {
            let page = self.audit().list_audit_events(request.clone()).await.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }
    fn bearer(&self) -> Bearer {
        Bearer(self.token.as_ref().map(|token| format!("Bearer {token}").parse().unwrap()))
    }
}

/// Puts the token on each call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        // A test fails rather than hangs.
        request.set_timeout(Duration::from_secs(30));
        Ok(request)
    }
}

/// The `ErrorInfo.reason` of a refusal; empty if it has none.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
