//! `ibyok`: the command line of the vault. A command parses its arguments, calls through
//! `ibyok-client`, and hands what it got to `output`; it knows nothing of the server's code.

mod args;
mod audit;
mod bindings;
mod failure;
mod generate;
mod keys;
mod orgs;
mod output;
mod pages;
mod prompt;
mod providers;
#[cfg(test)]
mod reference;
mod request_id;
mod rewrap;
mod run;
mod secret_input;
mod session;
mod status;
mod streams;
mod terminal;
mod time;
mod token_file;
mod tokens;
mod usage;
mod yaml;

use std::{alloc::System, process::ExitCode};

use clap::Parser as _;
use zeroizing_alloc::ZeroAlloc;

use self::{
    args::{Arguments, Command},
    failure::{Exit, Failure},
    output::Output,
    session::Session,
};

/// Wipes what is freed: keys pass through buffers of libraries, too.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Output::standard(arguments.global.output, arguments.global.color);
    match start(arguments, &mut out) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            out.failure(&failure);
            failure.exit.into()
        }
    }
}

fn start(arguments: Arguments, out: &mut Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|_| Failure::new(Exit::Internal, "the system gives no resources to run with", "try again"))?;
    runtime.block_on(run(arguments, out))
}

async fn run(arguments: Arguments, out: &mut Output) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    let needs_token = command.needs_token();
    let session = || Session::open(global, needs_token);
    match command {
        Command::Keys { command } => keys::run(command, &session().await?, out).await,
        Command::Run(run) => run::run(run, &session().await?, out).await,
        Command::Tokens { command } => tokens::run(command, &session().await?, out).await,
        Command::Bindings { command } => bindings::run(command, &session().await?, out).await,
        Command::Providers { command } => providers::run(command, &session().await?, out).await,
        Command::Usage(usage) => usage::run(usage, &session().await?, out).await,
        Command::Audit { command } => audit::run(command, &session().await?, out).await,
        Command::Orgs { command } => orgs::run(command, &session().await?, out).await,
        Command::Rewrap(rewrap) => rewrap::run(rewrap, &session().await?, out).await,
        Command::Status => status::run(&session().await?, out).await,
        Command::Completions(completions) => generate::completions(&completions, out),
        Command::Man(man) => generate::man(&man, out),
    }
}
