//! One connection, from its handshake to its end.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectionLimits, Listener,
    one_write::OneWrite,
    peer,
    tls::{Trust, unix_time},
};
use crate::{
    domain::{
        clock::random,
        principal::{ClientCertificate, Peer},
    },
    grpc::entry::Connection,
};

/// A connection whose handshake succeeded.
pub(super) struct Open {
    stream: TlsStream<TcpStream>,
    chain: Vec<CertificateDer<'static>>,
    connection: Connection,
    trust: watch::Receiver<Trust>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// TLS refused it, or the other side went away.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other side did not ask for HTTP/2.
    #[error("ALPN h2 was not negotiated")]
    NotHttp2,
    /// The certificate can't be read.
    #[error("{0}")]
    Certificate(#[from] peer::UnreadableCertificate),
}

/// Performs the handshake.
pub(super) async fn open(listener: &Listener, stream: TcpStream, address: SocketAddr) -> Result<Open, HandshakeError> {
    stream.set_nodelay(true)?;
    let mut trust = listener.trust.clone();
    let config = Arc::clone(&trust.borrow_and_update().config);
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        return Err(HandshakeError::NotHttp2);
    }
    let chain: Vec<_> =
        session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    let leaf = chain.first().ok_or(peer::UnreadableCertificate)?;
    let certificate = Arc::new(peer::certificate(leaf)?);
    let connection = Connection::new(Peer { certificate, address: address.ip().to_canonical() });
    Ok(Open { stream, chain, connection, trust })
}

impl Open {
    /// Who has it.
    pub(super) fn certificate(&self) -> &ClientCertificate {
        &self.connection.peer.certificate
    }

    /// Serves calls until the other side goes, the connection is old, its certificate loses its
    /// trust, or the server drains. An end is announced, and calls have the grace to finish.
    pub(super) async fn serve(self, listener: &Listener, drain: CancellationToken) {
        let Self { stream, chain, connection, mut trust } = self;
        let (front, of_calls) = (listener.front.clone(), connection.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let answer = front.clone().answer(request, of_calls.clone());
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let stream = TokioIo::new(OneWrite(stream));
        let mut serving = pin!(protocol(&listener.limits).serve_connection(stream, service));
        let mut age = pin!(tokio::time::sleep(age(listener)));
        loop {
            tokio::select! {
                ended = serving.as_mut() => return log(ended),
                () = drain.cancelled() => break,
                () = &mut age => break,
                Ok(()) = trust.changed() => {
                    if !is_trusted(listener, &trust.borrow_and_update(), &chain) {
                        connection.is_revoked.store(true, Ordering::Release);
                        break;
                    }
                }
            }
        }
        connection.ending.cancel();
        serving.as_mut().graceful_shutdown();
        if let Ok(ended) = tokio::time::timeout(listener.limits.grace, serving).await {
            log(ended);
        }
    }
}

/// HTTP/2 with every limit that defaults to none, or to much.
fn protocol(limits: &ConnectionLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(1_024)
        .max_header_list_size(8 << 10)
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

fn is_trusted(listener: &Listener, trust: &Trust, chain: &[CertificateDer<'static>]) -> bool {
    let (Some((leaf, between)), Some(now)) = (chain.split_first(), unix_time(&*listener.clock)) else {
        return false;
    };
    trust.verifier.verify_client_cert(leaf, between, now).is_ok()
}

/// The age at which a connection ends: within 10% of the limit.
fn age(listener: &Listener) -> Duration {
    let part = random::<2>(&*listener.entropy).map_or(0.5, |bytes| f64::from(u16::from_be_bytes(bytes)) / 65_536.0);
    listener.limits.age.mul_f64(0.9 + 0.2 * part)
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
