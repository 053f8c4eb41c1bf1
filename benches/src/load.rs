//! Callers in a closed loop: each on a connection of its own, one call after the other.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ibyok_client::pb::{self, key_vault_client::KeyVaultClient};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::Failed;

/// How to reach a server and what to show there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    endpoint: Endpoint,
    token: MetadataValue<Ascii>,
}

impl Target {
    /// The server at `port`, with the certificates in the vault's directory.
    pub(crate) fn new(dir: &Path, port: u16, token: &str) -> Result<Self, Failed> {
        let read = |name: &str| std::fs::read(dir.join(name));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")?))
            .identity(Identity::from_pem(read("client.pem")?, read("client.key")?))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?.tls_config(tls)?;
        let mut token: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse()?;
        token.set_sensitive(true);
        Ok(Self { endpoint, token })
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Result<Caller, Failed> {
        let channel = self.endpoint.connect().await?;
        let vault = KeyVaultClient::new(channel.clone());
        Ok(Caller { vault, channel, token: self.token.clone(), luck: Luck::default() })
    }
}

/// One caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) vault: KeyVaultClient<Channel>,
    pub(crate) channel: Channel,
    token: MetadataValue<Ascii>,
    /// Goes on from window to window.
    luck: Luck,
}

impl Caller {
    /// The same as that with `number` of so many: it asks for keys, and stages values, of its own.
    pub(crate) fn among(self, callers: usize, number: usize) -> Self {
        Self { luck: Luck::new(callers, number), ..self }
    }

    /// `message` with the caller's token.
    pub(crate) fn with_token<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }
}

/// What a window saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// How long it was.
    pub(crate) span: Duration,
    /// How long each call took.
    pub(crate) latencies: Vec<Duration>,
}

/// What each caller does over and over; answers how often it has done so.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// RetrieveKey of a key among so many.
    Retrieve(usize),
    /// AddKeyVersion and PromoteKeyVersion, of a key that nobody else rotates.
    Rotate,
}

/// The name of the stored key with that number.
pub(crate) fn key_id(number: usize) -> String {
    format!("bench-{number:07}")
}

/// Which keys and values come next: the same for every server.
#[derive(Clone, Debug, Default)]
struct Luck {
    /// The caller's, among those at work.
    number: usize,
    /// The caller's, among all that ever are.
    id: u64,
    state: u64,
    values: u64,
}

impl Luck {
    fn new(callers: usize, number: usize) -> Self {
        let id = ((callers as u64) << 12) | number as u64;
        Self { number, id, state: id, values: 0 }
    }

    /// The number of a key, of so many.
    fn key(&mut self, keys: usize) -> Result<usize, Failed> {
        // A linear congruential generator (Knuth, MMIX).
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Ok(usize::try_from(self.state >> 33)? % keys)
    }

    /// A value that nobody staged or stored: the vault would have to warn of it.
    fn value(&mut self) -> String {
        self.values += 1;
        made_up((self.id << 40) | self.values)
    }
}

/// Has `callers` work until `span` is over.
pub(crate) async fn drive(callers: &mut [Caller], work: Work, span: Duration) -> Result<Window, Failed> {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks: Vec<_> =
        callers.iter().map(|caller| tokio::spawn(run(caller.clone(), work, Arc::clone(&stop)))).collect();
    tokio::time::sleep(span).await;
    stop.store(true, Ordering::Relaxed);
    let span = began.elapsed();
    let mut window = Window { span, latencies: Vec::new() };
    for (caller, task) in callers.iter_mut().zip(tasks) {
        let latencies;
        (caller.luck, latencies) = task.await??;
        window.latencies.extend(latencies);
    }
    Ok(window)
}

async fn run(mut caller: Caller, work: Work, stop: Arc<AtomicBool>) -> Result<(Luck, Vec<Duration>), Failed> {
    let mut latencies = Vec::with_capacity(1 << 16);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match work {
            Work::Retrieve(keys) => {
                let name = key_id(caller.luck.key(keys)?);
                let request = pb::RetrieveKeyRequest { name, ..Default::default() };
                let request = caller.with_token(request);
                caller.vault.retrieve_key(request).await?;
            }
            Work::Rotate => {
                let (id, value) = (key_id(caller.luck.number), caller.luck.value());
                rotate(&mut caller, &id, &value).await?;
            }
        }
        latencies.push(began.elapsed());
    }
    Ok((caller.luck, latencies))
}

/// A value of OpenAI's shape that was never issued.
pub(crate) fn made_up(number: u64) -> String {
    format!("sk-proj-{number:A>74}T3BlbkFJ{number:b>74}")
}

async fn rotate(caller: &mut Caller, id: &str, value: &str) -> Result<(), Failed> {
    let secret = Some(pb::SecretValue { text: value.to_owned() });
    let add = pb::AddKeyVersionRequest { name: id.to_owned(), secret, ..Default::default() };
    let add = caller.with_token(add);
    let version = caller.vault.add_key_version(add).await?.into_inner().version.ok_or("no version was answered")?;
    let promote = pb::PromoteKeyVersionRequest {
        name: version.name,
        allow_unverified: true,
        grace: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let promote = caller.with_token(promote);
    caller.vault.promote_key_version(promote).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_value_is_staged_twice_and_no_callers_ask_for_the_same_keys() {
        let (mut values, mut walks) = (HashSet::new(), HashSet::new());
        for (callers, number) in [1, 16, 64].into_iter().flat_map(|callers| (0..callers).map(move |n| (callers, n))) {
            let mut luck = Luck::new(callers, number);
            assert!((0..100).all(|_| values.insert(luck.value())));
            assert!(walks.insert((0..20).map(|_| luck.key(1_000_000).unwrap()).collect::<Vec<_>>()));
        }
        assert!((0..1_000).all(|stored| values.insert(made_up(stored))));
    }
}
