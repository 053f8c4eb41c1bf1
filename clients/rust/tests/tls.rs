//! The client over real connections: mutual TLS with a small server that answers one message, and
//! what is said when either side is not who the other expects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use ibyok_client::{Client, Code, Config, Error, pb, reason};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tower::Service;

const CANARY: &str = "sk-canary-9c1e";

/// An authority and what it signs.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// The files of a client that trusts `trusted` and was signed by `signer`.
fn files(trusted: &Authority, signer: &Authority) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = signer.sign("client");
    for (name, text) in [("ca.pem", &trusted.1), ("client.pem", &certificate), ("client.key", &key)] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    fs::write(directory.path().join("token"), "eyJ-token\n").unwrap();
    directory
}

async fn client(address: impl ToString, directory: &Path) -> Client {
    let file = |name: &str| directory.join(name).into_os_string();
    let config = Config::builder()
        .address(address.to_string())
        .ca_certificate(file("ca.pem"))
        .client_certificate(file("client.pem"))
        .client_key(file("client.key"))
        .token_file(file("token"))
        .build()
        .unwrap();
    Client::connect(config).await.unwrap()
}

/// Answers RetrieveKey with the canary, and keeps the headers that came.
#[derive(Clone, Default)]
struct Vault(Arc<Mutex<Vec<HeaderMap>>>);

impl NamedService for Vault {
    const NAME: &'static str = "ibyok.v1.KeyVault";
}

impl Service<Request<Body>> for Vault {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.lock().unwrap().push(request.headers().clone());
        let message =
            pb::RetrieveKeyResponse { secret: Some(pb::SecretValue { text: CANARY.into() }), ..Default::default() };
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        frame.extend(message.encode_to_vec());
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let body = Full::from(frame).with_trailers(std::future::ready(Some(Ok(trailers))));
        let response = Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap();
        Box::pin(std::future::ready(Ok(response)))
    }
}

async fn serve(authority: &Authority, vault: Vault) -> (SocketAddr, JoinHandle<()>) {
    let (certificate, key) = authority.sign("localhost");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(&authority.1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().tls_config(tls).unwrap().add_service(vault);
    let task = tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
    (address, task)
}

#[tokio::test]
async fn a_key_comes_over_mutual_tls() {
    let (authority, vault) = (Authority::new(), Vault::default());
    let (address, _server) = serve(&authority, vault.clone()).await;
    let files = files(&authority, &authority);
    let client = client(format!("localhost:{}", address.port()), files.path()).await;

    assert_eq!(client.key("openai-prod").await.unwrap().expose_secret(), CANARY);
    let headers = vault.0.lock().unwrap()[0].clone();
    assert_eq!(headers["authorization"], "Bearer eyJ-token");
    let agent = headers["user-agent"].to_str().unwrap();
    assert!(agent.starts_with("ibyok-client/"), "{agent}");
}

#[tokio::test]
async fn a_server_under_another_name_or_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _server) = serve(&authority, Vault::default()).await;
    let trusting_other = files(&other, &authority);
    let error =
        client(format!("localhost:{}", address.port()), trusting_other.path()).await.key("a").await.unwrap_err();
    assert_tls_refused(&error);

    let trusting = files(&authority, &authority);
    assert_tls_refused(&client(address, trusting.path()).await.key("a").await.unwrap_err());
}

#[tokio::test]
async fn a_client_that_the_server_does_not_trust_is_told_so() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _server) = serve(&authority, Vault::default()).await;
    let stranger = files(&authority, &other);
    let error = client(format!("localhost:{}", address.port()), stranger.path()).await.key("a").await.unwrap_err();
    assert_tls_refused(&error);
}

fn assert_tls_refused(error: &Error) {
    assert_eq!(error.reason(), Some(reason::TLS_REFUSED), "{error}");
    assert_eq!(error.code(), Some(Code::Unauthenticated));
    assert!(error.to_string().contains("IBYOK_CACERT"), "{error}");
}

#[tokio::test]
async fn a_vault_that_is_not_there_is_named_by_its_address() {
    let authority = Authority::new();
    let files = files(&authority, &authority);
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = client(unused, files.path()).await.key("a").await.unwrap_err();
    assert_eq!(error.reason(), Some(reason::SERVER_UNREACHABLE), "{error}");
    assert!(error.to_string().contains(&unused.to_string()), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}
