//! `ibyok audit`: what happened, and that nothing was removed.

mod read;
mod tail;
mod verify;
mod view;

use clap::Subcommand;

use self::{read::List, tail::Tail, verify::Verify};
use crate::{failure::Failure, output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List events, newest first
    List(List),
    /// Show the latest events, oldest first; -f follows the log
    Tail(Tail),
    /// Let the server recompute the whole log (needs the scope admin); exits 8 when it is broken
    Verify(Verify),
}

pub(crate) async fn run(command: AuditCommand, session: &Session, out: &mut Output) -> Result<(), Failure> {
    match command {
        AuditCommand::List(list) => read::list(list, session, out).await,
        AuditCommand::Tail(tail) => tail::tail(tail, session, out).await,
        AuditCommand::Verify(verify) => verify::verify(verify, session, out).await,
    }
}
