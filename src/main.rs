//! `ibyok-server`: arguments in, exit code out. 0: done; 1: it did not work; 2: arguments or
//! settings are wrong.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use ibyok::{
    config::{Config, Environment},
    domain::{ids::OrgId, principal::IdentityPattern},
    process,
    server::{self, Sources, archive::VerifyArchive, dev::Dev, init::Init},
    telemetry,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use zeroizing_alloc::ZeroAlloc;

/// tonic and prost leave copies of a secret in freed memory; with this they hold nothing.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

/// The vault for LLM-provider API keys.
#[derive(Parser)]
#[command(name = "ibyok-server", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make and serve a vault for one developer: everything in one directory
    Dev {
        /// Where certificates, keys and the vault are kept
        #[arg(long, default_value = ".ibyok-dev")]
        dir: PathBuf,
        /// Where to listen; port 0 takes any
        #[arg(long, default_value = "127.0.0.1:7443")]
        listen: SocketAddr,
    },
    /// Make a new vault: the organization system, the first organization, and who administrates both
    Init {
        /// The first organization
        #[arg(long)]
        org: String,
        /// SPIFFE id or DNS name of the client certificate that becomes administrator
        #[arg(long)]
        admin_identity: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Serve a vault
    Serve {
        #[command(flatten)]
        settings: Settings,
    },
    /// Make last uses, usage and consumers anew from the audit log, while the server is stopped
    Rebuild {
        #[command(flatten)]
        settings: Settings,
    },
    /// Look at the audit log where no server does
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// The table of store.kind = "dynamodb"
    Table {
        #[command(subcommand)]
        command: TableCommand,
    },
    /// Name every problem of the settings, or say OK
    Check {
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check the files of the audit log's archive: each record, each chain, and that nothing is missing
    VerifyArchive {
        /// The directory of the files
        #[arg(long)]
        dir: PathBuf,
        /// The position that they begin with, where older files were removed on purpose
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// The settings of the vault whose roots the files are compared with; nobody may serve it
        /// meanwhile
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum TableCommand {
    /// Make the table, or turn on what it lacks: expiry, point-in-time recovery, deletion protection
    Create {
        #[command(flatten)]
        settings: Settings,
    },
    /// Name everything that is off about the table, or say OK
    Check {
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(clap::Args)]
struct Settings {
    /// The settings, TOML; each is also an environment variable: tls.cert is IBYOK_SERVER_TLS_CERT
    #[arg(long)]
    config: PathBuf,
}

/// What ends a command early: what to print, and the exit code.
struct Refusal(String, u8);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = process::harden().map_err(failed).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(execute(arguments.command))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal(text, code)) => {
            // Where standard error is gone, the exit code says it alone.
            let _ = writeln!(io::stderr(), "ibyok-server: {text}");
            ExitCode::from(code)
        }
    }
}

async fn execute(command: Command) -> Result<(), Refusal> {
    // A file that may not grow (RLIMIT_FSIZE) is then a write that fails, as on a full disk, and not
    // the end of the process.
    let _file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map_err(failed)?;
    match command {
        Command::Dev { dir, listen } => {
            let dev = Dev { dir, listen, environment: environment() };
            let config = dev.config().map_err(wrong)?;
            telemetry::start(&config.log).map_err(wrong)?;
            server::dev::dev(&dev, config, shutdown()?, &mut io::stdout()).await.map_err(failed)
        }
        Command::Init { org, admin_identity, settings } => {
            let config = settings.load()?;
            let org = OrgId::parse("--org", &org).map_err(wrong)?;
            let admin = IdentityPattern::parse("--admin-identity", &admin_identity).map_err(wrong)?;
            server::init::init(&config, &Init { org, admin }, &Sources::default()).await.map_err(failed)
        }
        Command::Serve { settings } => {
            let config = settings.load()?;
            telemetry::start(&config.log).map_err(wrong)?;
            let socket = TcpListener::bind(config.listen).await.map_err(failed)?;
            server::run(config, socket, shutdown()?, Sources::default()).await.map_err(failed)
        }
        Command::Rebuild { settings } => {
            let config = settings.load()?;
            telemetry::start(&config.log).map_err(wrong)?;
            server::rebuild::rebuild(&config, &Sources::default()).await.map_err(failed)
        }
        Command::Audit { command: AuditCommand::VerifyArchive { dir, first, config } } => {
            let config = config.map(|config| Settings { config }.load()).transpose()?;
            let wanted = VerifyArchive { dir, first, config };
            match server::archive::verify(wanted, &Sources::default(), &mut io::stdout()).await.map_err(failed)? {
                true => Ok(()),
                false => Err(Refusal("the archive does not verify".to_owned(), 1)),
            }
        }
        Command::Table { command } => {
            let sources = Sources::default();
            let fits = match command {
                TableCommand::Create { settings } => {
                    server::table::create(&settings.load()?, &sources, &mut io::stdout()).await
                }
                TableCommand::Check { settings } => {
                    server::table::check(&settings.load()?, &sources, &mut io::stdout()).await
                }
            };
            match fits.map_err(failed)? {
                true => Ok(()),
                false => Err(Refusal("no server can use the table".to_owned(), 1)),
            }
        }
        Command::Check { settings } => {
            let problems = server::check::problems(&settings.load()?).await;
            match problems.is_empty() {
                true => writeln!(io::stdout(), "OK").map_err(failed),
                false => Err(Refusal(problems.join("\n"), 2)),
            }
        }
    }
}

impl Settings {
    fn load(&self) -> Result<Config, Refusal> {
        Config::load(&self.config, environment()).map_err(wrong)
    }
}

/// The variables that concern the server; those that are not text can't be one of them.
fn environment() -> Environment {
    let ours = |name: &str| name.starts_with("IBYOK_");
    let text =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    text.filter(|(name, _)| ours(name)).collect()
}

/// Ends with Ctrl-C or SIGTERM.
fn shutdown() -> Result<impl Future<Output = ()>, Refusal> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn failed(error: impl std::error::Error) -> Refusal {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.contains(&error_text) {
            text = format!("{text}: {error_text}");
        }
        cause = error.source();
    }
    Refusal(text, 1)
}

fn wrong(error: impl std::fmt::Display) -> Refusal {
    Refusal(error.to_string(), 2)
}
