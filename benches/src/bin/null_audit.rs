//! `ibyok-bench-null-audit`: a vault whose records of retrievals are made, hashed and thrown away. It
//! shows what a retrieval costs beside the log, so that in all else it is as `ibyok-server serve`; the
//! server itself has no such setting.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use ibyok::{
    config::Config,
    process,
    repository::audit::Sink,
    server::{self, Sources},
};
use tokio::net::TcpListener;
use zeroizing_alloc::ZeroAlloc;

/// As the server's: what a call costs there, freeing memory costs here.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A vault whose records of retrievals are thrown away; started by `ibyok-bench run`
#[derive(Parser)]
#[command(name = "ibyok-bench-null-audit", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve it until it is killed
    Serve {
        /// Settings, as those of ibyok-server
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Serve { config } = Arguments::parse().command;
    let outcome = process::harden().map_err(Failed::from).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(serve(&config))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let _ = writeln!(io::stderr(), "ibyok-bench-null-audit: {failed}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: &Path) -> Result<(), Failed> {
    let config = Config::load(config, Vec::new())?;
    let socket = TcpListener::bind(config.listen).await?;
    let sources = Sources { sink: Sink::Nowhere, ..Sources::default() };
    Ok(server::run(config, socket, std::future::pending(), sources).await?)
}
