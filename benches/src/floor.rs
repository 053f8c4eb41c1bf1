//! The floor: a bare tonic server that answers one call with a fixed message of the size of
//! RetrieveKey's answer, over TLS 1.3 with client certificates. No token, no store, no log; what else
//! is to be done before it answers, whoever serves it says.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use clap::Args;
use ibyok_client::pb;
use tonic::{
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tonic_prost::ProstCodec;

use crate::Failed;

/// Where it listens and which certificates it shows.
#[derive(Args, Clone, Debug)]
pub(crate) struct Floor {
    /// Address and port
    #[arg(long)]
    listen: SocketAddr,
    /// The vault's directory: its certificates are used
    #[arg(long)]
    dir: PathBuf,
}

/// What is done before each answer.
pub(crate) trait Work: Clone + Send + Sync + 'static {
    /// Does it.
    fn once(&self) -> impl Future<Output = Result<(), tonic::Status>> + Send;
}

impl Floor {
    /// Serves until it is killed.
    pub(crate) async fn serve(self, work: impl Work) -> Result<(), Failed> {
        let read = |name: &str| std::fs::read(self.dir.join(name));
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(read("server.pem")?, read("server.key")?))
            .client_ca_root(Certificate::from_pem(read("ca.pem")?));
        let (_, health) = tonic_health::server::health_reporter();
        Ok(Server::builder().tls_config(tls)?.add_service(health).add_service(Echo(work)).serve(self.listen).await?)
    }
}

/// The answer, made anew for each call as a handler would.
fn answer() -> pb::RetrieveKeyResponse {
    pb::RetrieveKeyResponse {
        secret: Some(pb::SecretValue { text: "x".repeat(164) }),
        key_version: "orgs/dev/keys/bench-000000/versions/1".to_owned(),
        provider: "openai".to_owned(),
        base_url: "https://api.openai.com/v1".to_owned(),
        auth_scheme: Some(pb::AuthScheme {
            header: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
            ..Default::default()
        }),
        cache_ttl: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        receipt: Some(pb::AuditReceipt {
            chain: "0123456789abcdef-s000000".to_owned(),
            sequence: 4_096,
            leaf_hash: vec![7; 32],
        }),
        ..Default::default()
    }
}

#[derive(Clone)]
struct Echo<W>(W);

impl<W> NamedService for Echo<W> {
    const NAME: &'static str = "ibyok.v1.KeyVault";
}

impl<W: Work> UnaryService<pb::RetrieveKeyRequest> for Echo<W> {
    type Response = pb::RetrieveKeyResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::Response>, tonic::Status>> + Send>>;
    fn call(&mut self, _request: tonic::Request<pb::RetrieveKeyRequest>) -> Self::Future {
        let work = self.0.clone();
        Box::pin(async move {
            work.once().await?;
            Ok(tonic::Response::new(answer()))
        })
    }
}

impl<W: Work> tower::Service<http::Request<Body>> for Echo<W> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(echo, request).await) })
    }
}
