//! The listener and the front, over real TLS, before any vault is behind them.

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ibyok::{
    authz::{claims::Claims, verifier::Refused},
    domain::{
        PortFuture,
        audit::AuditDraft,
        clock::{SystemClock, SystemEntropy, Timestamp},
        error::Reason,
        ids::OrgId,
        principal::Peer,
    },
    grpc::{
        entry::Recorder,
        health,
        layers::{Front, FrontLimits, FrontParts, Rate, VerifyToken},
        listener::{
            ConnectionLimits, Listener,
            tls::{TlsFiles, TlsSource},
        },
        reflection,
        routes::Routes,
    },
    pki::{Authority, ClientNames, Issued, Validity},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{self, within};
use tonic_types::StatusExt as _;

/// A listener with health and reflection behind it.
struct Edge {
    address: SocketAddr,
    authority: Authority,
    dir: TempDir,
    serving: watch::Sender<bool>,
    drain: CancellationToken,
    served: JoinHandle<()>,
}

#[derive(Debug)]
struct NoTokens;

impl VerifyToken for NoTokens {
    fn verify(&self, _: &str, _: &Peer, _: Timestamp) -> Result<Arc<Claims>, Refused> {
        Err(Refused { failure: Reason::TokenMalformed.into(), claims: None })
    }
    fn learned<'a>(&'a self, _: &'a str) -> PortFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }
}

#[derive(Debug)]
struct NoRecords;

impl Recorder for NoRecords {
    fn note(&self, _: AuditDraft) {}
    fn count(&self, _: &OrgId) {}
}

fn limits() -> ConnectionLimits {
    ConnectionLimits { grace: Duration::from_secs(2), ..ConnectionLimits::default() }
}

impl Edge {
    async fn start(limits: ConnectionLimits) -> Self {
        let (authority, dir) = (Authority::new("edge test").unwrap(), TempDir::new().unwrap());
        std::fs::write(dir.path().join("ca.pem"), authority.certificate()).unwrap();
        write_server(dir.path(), &authority.server(Validity::days(1)).unwrap());
        write_revocations(dir.path(), &authority, &[]);
        let clock = Arc::new(SystemClock);
        let files = TlsFiles {
            certificate: dir.path().join("server.pem"),
            key: dir.path().join("server.key"),
            client_authorities: dir.path().join("ca.pem"),
            revocations: Some(dir.path().join("crl.pem")),
        };
        let source = TlsSource::load(files, Arc::<SystemClock>::clone(&clock)).unwrap();
        let trust = source.subscribe();
        tokio::spawn(source.keep_current());
        let (serving, is_serving) = watch::channel(true);
        let condition = health::Condition { kms: is_serving.clone(), serving: is_serving };
        let routes =
            reflection::add_to(Routes::default().add_service(health::service(&["ibyok.v1.KeyVault"], &[], condition)))
                .unwrap();
        let parts = FrontParts {
            tokens: Arc::new(NoTokens),
            recorder: Arc::new(NoRecords),
            clock: Arc::<SystemClock>::clone(&clock),
            limits: FrontLimits {
                certificate_rate: Rate::new(1_000_000),
                address_rate: Rate::new(1_000_000),
                ..FrontLimits::default()
            },
        };
        let front = Front::new(routes, parts);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, drain) = (socket.local_addr().unwrap(), CancellationToken::new());
        let listener = Listener { front, trust, limits, clock, entropy: Arc::new(SystemEntropy) };
        let served = tokio::spawn(listener.serve(socket, drain.clone()));
        Self { address, authority, dir, serving, drain, served }
    }

    fn client(&self) -> Issued {
        client_of(&self.authority, Validity::days(1))
    }
    fn channel(&self, client: &Issued) -> Channel {
        harness::channel(&self.authority, self.address, client)
    }
    fn health(&self, client: &Issued) -> HealthClient<Channel> {
        HealthClient::new(self.channel(client))
    }
    async fn is_serving(&self) -> bool {
        self.health(&self.client()).check(HealthCheckRequest::default()).await.is_ok()
    }
    /// Connects and waits for the first byte of HTTP/2: with TLS 1.3 a client learns only then
    /// whether it was let in.
    async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        match stream.read(&mut [0]).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(stream),
        }
    }
    fn config(&self, client: Option<&Issued>, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![client.certificate_der().unwrap()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn client_of(authority: &Authority, validity: Validity) -> Issued {
    authority.client(&ClientNames { dns: vec!["svc.test".into()], ..ClientNames::default() }, validity).unwrap()
}

fn write_server(dir: &Path, issued: &Issued) {
    std::fs::write(dir.join("server.pem"), &issued.certificate).unwrap();
    std::fs::write(dir.join("server.key"), issued.key.as_bytes()).unwrap();
}

fn write_revocations(dir: &Path, authority: &Authority, revoked: &[&Issued]) {
    let now = rcgen::date_time_ymd(2020, 1, 1);
    let entry = |issued: &&Issued| {
        let der = issued.certificate_der().unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(parsed.raw_serial()),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }
    };
    let params = rcgen::CertificateRevocationListParams {
        this_update: now,
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    std::fs::write(dir.join("crl.pem"), params.signed_by(authority.issuer()).unwrap().pem().unwrap()).unwrap();
}

/// Asks again until it is so.
async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    within("a change of the edge", async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn only_tls_1_3_with_a_good_certificate_and_h2_is_let_in() {
    let edge = Edge::start(limits()).await;
    let good = edge.client();
    edge.connect(edge.config(Some(&good), TLS13)).await.unwrap();

    let old = edge.config(Some(&good), &[&rustls::version::TLS12]);
    assert!(edge.connect(old).await.is_err(), "TLS 1.2");
    assert!(edge.connect(edge.config(None, TLS13)).await.is_err(), "no certificate");
    let stranger = client_of(&Authority::new("stranger").unwrap(), Validity::days(1));
    assert!(edge.connect(edge.config(Some(&stranger), TLS13)).await.is_err(), "another authority");
    let expired = client_of(&edge.authority, Validity::past());
    assert!(edge.connect(edge.config(Some(&expired), TLS13)).await.is_err(), "expired");
    let server = edge.authority.server(Validity::days(1)).unwrap();
    assert!(edge.connect(edge.config(Some(&server), TLS13)).await.is_err(), "a server's certificate");
    for alpn in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut config = edge.config(Some(&good), TLS13);
        config.alpn_protocols = alpn;
        assert!(edge.connect(config).await.is_err(), "no h2");
    }
    assert!(edge.is_serving().await);
}

#[tokio::test]
async fn nothing_is_resumed() {
    let edge = Edge::start(limits()).await;
    let mut config = edge.config(Some(&edge.client()), TLS13);
    config.enable_early_data = true;
    for _ in 0..3 {
        let stream = edge.connect(config.clone()).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn garbage_and_half_open_handshakes_leave_it_serving() {
    let edge = Edge::start(ConnectionLimits { handshake: Duration::from_millis(300), ..limits() }).await;
    let mut held = Vec::new();
    for n in 0..200_u8 {
        let mut socket = TcpStream::connect(edge.address).await.unwrap();
        let bytes: Vec<u8> = (0..=255).map(|byte: u8| byte.wrapping_mul(n).wrapping_add(n)).collect();
        // The other side may have hung up already.
        let _ = socket.write_all(&bytes).await;
        held.push(socket);
        held.push(TcpStream::connect(edge.address).await.unwrap());
    }
    assert!(edge.is_serving().await);
    for mut socket in held {
        // Each is closed by the server, not by us.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    assert!(edge.is_serving().await);
}

#[tokio::test]
async fn beyond_the_cap_connections_are_closed_before_tls() {
    let edge = Edge::start(ConnectionLimits { connections: 2, ..limits() }).await;
    let first = edge.connect(edge.config(Some(&edge.client()), TLS13)).await.unwrap();
    let second = TcpStream::connect(edge.address).await.unwrap();
    // Accepted in order: the third comes when both places are taken.
    let mut third = TcpStream::connect(edge.address).await.unwrap();
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)));
    drop((first, second));
    until(|| edge.is_serving()).await;
}

#[tokio::test]
async fn new_certificates_are_served_without_a_dropped_call() {
    let edge = Edge::start(limits()).await;
    let client = edge.client();
    let served = async || {
        let stream = edge.connect(edge.config(Some(&client), TLS13)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let mut watching = edge.health(&client).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);

    let renewed = edge.authority.server(Validity::days(2)).unwrap();
    write_server(edge.dir.path(), &renewed);
    until(async || served().await == renewed.certificate_der().unwrap().to_vec()).await;
    edge.serving.send_replace(false);
    assert_eq!(watching.message().await.unwrap().unwrap().status, 2, "the call of before goes on");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_open_connections_and_new_ones() {
    let edge = Edge::start(limits()).await;
    let (revoked, other) = (edge.client(), edge.client());
    let mut of_revoked = edge.health(&revoked).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut of_other = edge.health(&other).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(of_revoked.message().await.unwrap().is_some() && of_other.message().await.unwrap().is_some());

    write_revocations(edge.dir.path(), &edge.authority, &[&revoked]);
    assert!(matches!(of_revoked.message().await, Ok(None) | Err(_)), "its stream ends");
    assert!(edge.connect(edge.config(Some(&revoked), TLS13)).await.is_err());
    edge.connect(edge.config(Some(&other), TLS13)).await.unwrap();
    edge.serving.send_replace(false);
    assert_eq!(of_other.message().await.unwrap().unwrap().status, 2, "the other's stream goes on");
}

#[tokio::test]
async fn ten_thousand_streams_leave_it_serving() {
    let edge = Edge::start(limits()).await;
    let health = edge.health(&edge.client());
    let calls = (0..10_000).map(|_| {
        let mut health = health.clone();
        tokio::spawn(async move { health.check(HealthCheckRequest::default()).await })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(edge.is_serving().await);
}

#[tokio::test]
async fn a_connection_ends_at_its_age_and_the_client_goes_on_over_another() {
    let edge = Edge::start(ConnectionLimits { age: Duration::from_millis(200), ..limits() }).await;
    let mut health = edge.health(&edge.client());
    let mut watching = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    while let Ok(Some(_)) = watching.message().await {}
    health.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_streams_and_then_the_server() {
    let edge = Edge::start(limits()).await;
    let mut watching = edge.health(&edge.client()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().is_some());
    edge.drain.cancel();
    while let Ok(Some(_)) = watching.message().await {}
    edge.served.await.unwrap();
    assert!(TcpStream::connect(edge.address).await.is_err());
}

#[tokio::test]
async fn health_ignores_authorization_and_knows_its_services() {
    let edge = Edge::start(limits()).await;
    let mut health = edge.health(&edge.client());
    for service in ["", "ibyok.v1.KeyVault"] {
        let mut request = Request::new(HealthCheckRequest { service: service.into() });
        request.metadata_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    }
    edge.serving.send_replace(false);
    assert_eq!(health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status, 2);
    let unknown = health.check(HealthCheckRequest { service: "no.such".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn methods_are_refused_with_details_over_the_wire() {
    let edge = Edge::start(limits()).await;
    let mut grpc = tonic::client::Grpc::new(edge.channel(&edge.client()));
    for (path, code, reason) in [
        ("/ibyok.v1.KeyVault/Nothing", Code::PermissionDenied, "METHOD_UNKNOWN"),
        ("/any.Service/Method", Code::PermissionDenied, "METHOD_UNKNOWN"),
        ("/ibyok.v1.KeyVault/GetKey", Code::Unauthenticated, "TOKEN_MISSING"),
    ] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let refused = grpc.unary(Request::new(()), path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert_eq!(refused.get_error_details().error_info().unwrap().reason, reason);
    }
}

#[tokio::test]
async fn both_reflections_know_the_contract_error_details_and_health() {
    let edge = Edge::start(limits()).await;
    let channel = edge.channel(&edge.client());
    for symbol in ["ibyok.v1.KeyVault", "google.rpc.ErrorInfo", "google.rpc.RetryInfo", "grpc.health.v1.Health"] {
        assert!(reflects_v1(&channel, symbol).await, "v1: {symbol}");
        assert!(reflects_v1alpha(&channel, symbol).await, "v1alpha: {symbol}");
    }
    assert!(!reflects_v1(&channel, "ibyok.v1.Nothing").await);
}

#[tokio::test]
async fn health_and_reflection_take_no_large_messages() {
    let edge = Edge::start(limits()).await;
    let channel = edge.channel(&edge.client());
    let large = "x".repeat(65 << 10);
    let mut health = edge.health(&edge.client());
    let request = HealthCheckRequest { service: large.clone() };
    assert_eq!(health.check(request.clone()).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(health.watch(request).await.unwrap_err().code(), Code::OutOfRange);
    assert!(!reflects_v1_to(&channel, "ibyok.v1.KeyVault", &large).await);
    assert!(!reflects_v1alpha_to(&channel, "ibyok.v1.KeyVault", &large).await);
}

macro_rules! reflects {
    ($name:ident, $name_to:ident, $version:ident) => {
        async fn $name(channel: &Channel, symbol: &str) -> bool {
            $name_to(channel, symbol, "").await
        }

        async fn $name_to(channel: &Channel, symbol: &str, host: &str) -> bool {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let message_request = Some(MessageRequest::FileContainingSymbol(symbol.to_owned()));
            let request = ServerReflectionRequest { message_request, host: host.to_owned() };
            let mut client = ServerReflectionClient::new(channel.clone());
            let asked = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
            let answer = asked.into_inner().message().await;
            let answer = answer.ok().flatten().and_then(|answer| answer.message_response);
            matches!(answer, Some(MessageResponse::FileDescriptorResponse(_)))
        }
    };
}
reflects!(reflects_v1, reflects_v1_to, v1);
reflects!(reflects_v1alpha, reflects_v1alpha_to, v1alpha);
