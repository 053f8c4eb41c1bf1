//! `ibyok-bench-null-audit`: a vault whose shared audit batches are answered as written and thrown
//! away. It shows what the durable log costs, so that in all else it is as `ibyok-server serve`; the
//! server itself has no such setting.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use ibyok::{
    config::Config,
    domain::{PortFuture, clock::Deadline},
    process,
    server::{self, Sources},
    store::{Action, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written},
};
use tokio::net::TcpListener;
use zeroizing_alloc::ZeroAlloc;

/// As the server's: what a call costs there, freeing memory costs here.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A vault whose audit batches are thrown away; started by `ibyok-bench run`
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
    let sources = Sources { over: |store| Arc::new(NullAudit(store)), ..Sources::default() };
    Ok(server::run(config, socket, std::future::pending(), sources).await?)
}

#[derive(Debug)]
struct NullAudit(Arc<dyn ItemStore>);

/// Whether the write is one batch of a chain and nothing else, as a shared lane's is.
fn is_batch(actions: &[Action]) -> bool {
    matches!(actions, [Action::Put(item, _)] if item.key.partition.starts_with("A#") && item.key.sort.starts_with("B#"))
}

impl ItemStore for NullAudit {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        deadline: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        self.0.get(keys, deadline)
    }
    fn query(&self, query: Query, deadline: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        self.0.query(query, deadline)
    }
    fn write(
        &self,
        id: WriteId,
        actions: Vec<Action>,
        deadline: Deadline,
    ) -> PortFuture<'_, Result<Written, StoreError>> {
        if is_batch(&actions) {
            return Box::pin(async { Ok(Written::Committed) });
        }
        self.0.write(id, actions, deadline)
    }
    fn is_exclusive(&self) -> bool {
        self.0.is_exclusive()
    }
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        self.0.status(deadline)
    }
}
