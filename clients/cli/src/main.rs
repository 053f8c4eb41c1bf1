//! `ibyok`: the command line of the vault. A command parses its arguments, calls through
//! `ibyok-client`, and hands what it got to `output`; it knows nothing of the server's code.

mod args;
mod audit;
mod failure;
mod keys;
mod output;
mod secret_input;
mod session;
mod status;
mod time;
mod token_file;
mod tokens;

use std::process::ExitCode;

use clap::Parser as _;

use self::{
    args::{Arguments, Command},
    failure::{Exit, Failure},
    output::Output,
    session::Session,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Output::standard(arguments.global.output);
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
    let session = Session::open(arguments.global, arguments.command.needs_token()).await?;
    match arguments.command {
        Command::Keys { command } => keys::run(command, &session, out).await,
        Command::Tokens { command } => tokens::run(command, &session, out).await,
        Command::Audit { command } => audit::run(command, &session, out).await,
        Command::Status => status::run(&session, out).await,
    }
}
