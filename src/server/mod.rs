//! The composition root: it alone wires adapters to ports, and everything else together.

mod adapters;
pub mod archive;
pub mod check;
pub mod dev;
pub mod init;
pub mod rebuild;
mod services;
pub mod table;
mod tasks;
mod tokens;
mod vault;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{adapters::Store, tasks::Tasks, tokens::Tokens, vault::Vault};
use crate::{
    aws::Keys,
    config::Config,
    domain::{
        clock::{Clock, Entropy, SystemClock, SystemEntropy},
        error::{Failure, InvalidInput},
    },
    grpc::{
        entry::Recorder,
        gate::Gate,
        health::Condition,
        layers::{Front, FrontLimits, FrontParts, Rate, Share},
        listener::{
            ConnectionLimits, Listener,
            tls::{TlsError, TlsFiles, TlsSource, Trust},
        },
    },
    pki::PkiError,
    repository::audit::Sink,
};

/// How long the parts have to open at the start, and to close at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where time and randomness come from, and where the records of retrievals go; tests bring their own
/// clock and keys of AWS, one measurement a log that keeps nothing.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where the records of single retrievals go: into the log, in production.
    pub sink: Sink,
    /// Credentials of AWS in place of those that its default chain finds.
    pub aws_keys: Option<Keys>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), sink: Sink::Log, aws_keys: None }
    }
}

/// Why the server does not run. Each is a sentence for the one who starts it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A setting is good in itself, but what it names is not there or not right.
    #[error("{setting}: {problem}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// There is no file where the vault should be.
    #[error(
        "store.path: there is no vault at {}: correct the setting, or make one with `ibyok-server init --org ORG \
         --admin-identity IDENTITY --config FILE`", .0.display()
    )]
    NoVault(PathBuf),
    /// There is no vault in the store.
    #[error(
        "the store holds no vault yet: run `ibyok-server init --org ORG --admin-identity IDENTITY --config FILE` first"
    )]
    NotInitialised,
    /// There is one.
    #[error("the store holds a vault already: it is left as it is")]
    Initialised,
    /// A server runs where none may.
    #[error("a server of this vault runs, or ended less than 10 s ago: stop it and try again")]
    Running,
    /// The vault's parts can't be opened.
    #[error("the vault can't be opened: {0} ({reason})", reason = .0.reason.as_str())]
    Vault(#[from] Failure),
    /// The socket, a directory or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The description of the services, which reflection answers, can't be made.
    #[error("the services can't be described for reflection: {0}")]
    Reflection(String),
    /// A certificate of `dev` can't be made.
    #[error("in the directory of `dev`: {0}")]
    Certificate(#[from] PkiError),
    /// A name that `dev` gives of itself is not one.
    #[error("`dev` gives a name that is not valid: {0}")]
    DevName(#[from] InvalidInput),
    /// The self-check of `dev` found something wrong.
    #[error("the self-check failed: {0}")]
    SelfCheck(String),
}

impl ServerError {
    fn setting(setting: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Setting { setting, problem: problem.to_string() }
    }
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<TlsError> for ServerError {
    fn from(error: TlsError) -> Self {
        Self::setting(error.setting, error.problem)
    }
}

/// Serves `config` on `socket` until `shutdown`, then drains: NOT_SERVING, no new connections,
/// streams end, calls in flight finish; then the audit log is flushed and sealed, and the store
/// closed.
///
/// # Errors
/// When it can't start. Once it serves, it runs to its end.
pub async fn run(
    config: Config,
    socket: TcpListener,
    shutdown: impl Future<Output = ()>,
    sources: Sources,
) -> Result<(), ServerError> {
    let opened = Opened::new(&config, &sources).await?;
    serve(opened.listener.clone(), socket, shutdown, &opened.tasks, &opened.serving).await;
    opened.close().await;
    Ok(())
}

/// A vault that is open, with everything that answers and runs beside it, and no socket yet.
#[derive(Debug)]
pub struct Opened {
    listener: Listener,
    vault: Vault,
    tasks: Tasks,
    serving: watch::Sender<bool>,
    handlers: TaskTracker,
}

impl Opened {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// When a part can't be opened; those that were are closed again.
    pub async fn new(config: &Config, sources: &Sources) -> Result<Self, ServerError> {
        let tls = TlsSource::load(tls_files(config), Arc::clone(&sources.clock))?;
        let vault = Vault::open(config, sources).await?;
        let serving = watch::Sender::new(vault.parts.audit.is_writable());
        let tasks = Tasks::start(&vault, config.tokens.ttl_longest, &serving);
        let trust = tls.subscribe();
        tasks.spawn(tls.keep_current());

        let handlers = TaskTracker::new();
        match listener(config, &vault, sources, (&tasks, &handlers), (&serving, trust)) {
            Ok(listener) => Ok(Self { listener, vault, tasks, serving, handlers }),
            Err(error) => {
                tasks.stop(&vault.parts).await;
                vault.store.close().await;
                Err(error)
            }
        }
    }

    /// What answers the calls of every connection: for whoever calls from within this process.
    #[must_use]
    pub fn front(&self) -> Front {
        self.listener.front.clone()
    }

    /// Waits for the calls that still run, flushes and seals the audit log, closes the store.
    pub async fn close(self) {
        self.handlers.close();
        if tokio::time::timeout(PATIENCE, self.handlers.wait()).await.is_err() {
            tracing::warn!("calls are still running: they are given up");
        }
        self.tasks.stop(&self.vault.parts).await;
        self.vault.store.close().await;
    }
}

/// Everything that answers, put together.
fn listener(
    config: &Config,
    vault: &Vault,
    sources: &Sources,
    (tasks, handlers): (&Tasks, &TaskTracker),
    (serving, trust): (&watch::Sender<bool>, watch::Receiver<Trust>),
) -> Result<Listener, ServerError> {
    let Sources { clock, entropy, .. } = sources.clone();
    let recorder: Arc<dyn Recorder> = Arc::new(vault.parts.audit.clone());
    let gate = Gate::new(Arc::clone(&recorder), Arc::clone(&clock), handlers.clone());
    let (not_after, keep_not_after) = services::certificate_expiry(trust.clone());
    tasks.spawn(keep_not_after);
    let condition = Condition { serving: serving.subscribe(), kms: tasks.kms() };
    let routes = services::routes(vault, config, &gate, condition, not_after)?;
    let tokens = Tokens::new(&config.tokens, Arc::clone(&vault.parts.keyring), Arc::clone(&clock));
    let parts =
        FrontParts { tokens: Arc::new(tokens), recorder, clock: Arc::clone(&clock), limits: front_limits(config) };
    Ok(Listener { front: Front::new(routes, parts), trust, limits: connection_limits(config), clock, entropy })
}

/// Accepts connections until `shutdown`, and waits for those that are open. From then on health
/// says NOT_SERVING, whatever the audit log says.
async fn serve(
    listener: Listener,
    socket: TcpListener,
    shutdown: impl Future<Output = ()>,
    tasks: &Tasks,
    serving: &watch::Sender<bool>,
) {
    let drain = CancellationToken::new();
    let accepting = tokio::spawn(listener.serve(socket, drain.clone()));
    tracing::info!("serving");
    shutdown.await;
    tracing::info!("draining");
    tasks.stop_health();
    serving.send_replace(false);
    drain.cancel();
    // A panic of the accept loop has been logged by the hook; there is nothing left to wait for.
    let _ = accepting.await;
}

fn tls_files(config: &Config) -> TlsFiles {
    let tls = &config.tls;
    TlsFiles {
        certificate: tls.cert.clone(),
        key: tls.key.clone(),
        client_authorities: tls.client_ca.clone(),
        revocations: tls.crl.clone(),
    }
}

fn front_limits(config: &Config) -> FrontLimits {
    let limits = &config.limits;
    FrontLimits {
        calls: limits.calls,
        streams: limits.streams,
        share: Share::new(limits.share),
        token_rate: Rate::new(limits.token_rate),
        org_rate: Rate::new(limits.org_rate),
        certificate_rate: Rate::new(limits.certificate_rate),
        address_rate: Rate::new(limits.address_rate),
    }
}

fn connection_limits(config: &Config) -> ConnectionLimits {
    let limits = &config.limits;
    ConnectionLimits {
        connections: limits.connections,
        share: Share::new(limits.share),
        streams: limits.connection_streams,
        age: limits.connection_age,
        grace: limits.drain,
        ..ConnectionLimits::default()
    }
}
