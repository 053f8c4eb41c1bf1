//! Accepts connections: a cap before TLS, a bounded handshake, HTTP/2 with its limits set by hand,
//! an end to every connection, and a drain. Knows nothing of what is served on them.

mod connection;
mod one_write;
pub mod peer;
pub mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::tls::Trust;
use super::{
    layers::{Front, Share, network_of},
    share::{Holder, Pool, Taken},
};
use crate::domain::clock::{Clock, Entropy};

/// What connections may cost.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time, those in their handshake among them.
    pub connections: usize,
    /// What one certificate alone may hold of them, and one address while its certificate is not
    /// known yet.
    pub share: Share,
    /// The longest that a handshake takes.
    pub handshake: Duration,
    /// Calls at a time on one connection.
    pub streams: u32,
    /// About how long a connection lives; 10% more or less, so that not all end together.
    pub age: Duration,
    /// How long a connection that is to end waits for its calls.
    pub grace: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            share: Share::default(),
            handshake: Duration::from_secs(5),
            streams: 128,
            age: Duration::from_secs(30 * 60),
            grace: Duration::from_secs(25),
        }
    }
}

/// What every connection works with.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Answers the calls.
    pub front: Front,
    /// TLS, and its changes.
    pub trust: watch::Receiver<Trust>,
    /// What connections may cost.
    pub limits: ConnectionLimits,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Listener {
    /// Serves connections of `listener` until `drain` is cancelled; then lets those that are open
    /// end within their grace, and returns when none is left.
    pub async fn serve(self, listener: TcpListener, drain: CancellationToken) {
        let places = Pool::new(self.limits.connections, self.limits.share);
        let connections = TaskTracker::new();
        let shared = Arc::new(self);
        loop {
            let (stream, address) = tokio::select! {
                biased;
                () = drain.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => { pause(&error).await; continue }
                },
            };
            // Beyond the cap a connection is closed before it costs a handshake.
            let Some(place) = places.take(Holder::Address(network_of(address.ip()))) else {
                tracing::warn!(%address, "the connection cap is reached");
                continue;
            };
            let (shared, drain) = (Arc::clone(&shared), drain.clone());
            connections.spawn(async move { shared.connection(stream, address, place, drain).await });
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr, mut place: Taken, drain: CancellationToken) {
        let opened = tokio::select! {
            () = drain.cancelled() => return,
            opened = tokio::time::timeout(self.limits.handshake, connection::open(self, stream, address)) => opened,
        };
        match opened {
            // From here on it is its certificate's: many may come from one address, a proxy's.
            Ok(Ok(open)) if place.pass_to(Holder::Certificate(&open.certificate().sha256)) => {
                open.serve(self, drain).await;
            }
            Ok(Ok(_)) => tracing::warn!(%address, "one certificate holds its share of the connections"),
            Ok(Err(error)) => tracing::debug!(%address, %error, "a handshake failed"),
            Err(_) => tracing::debug!(%address, "a handshake took too long"),
        }
    }
}

/// Out of file descriptors, most likely: a moment's rest, or the loop would spin.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "a connection can't be accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
