//! `ibyok tokens`: who may call the vault.

pub(crate) mod issue;
mod manage;
pub(crate) mod view;

use clap::Subcommand;

use self::{
    issue::{Exchange, Issue, Renew},
    manage::{List, Revoke, Show},
};
use crate::{failure::Failure, output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Issue a token, never wider than your own; it is shown this once
    Issue(Box<Issue>),
    /// Trade the client certificate for a token, by a binding of the organization
    Exchange(Exchange),
    /// Renew your own token: same grants, later expiry
    Renew(Renew),
    /// List tokens; never the tokens themselves
    List(List),
    /// Show one token; never the token itself
    Show(Show),
    /// Revoke by name, by subject, or all issued before a time; at once
    Revoke(Revoke),
    /// Who you are to the vault, with which scopes, until when
    Whoami,
}

pub(crate) async fn run(command: TokensCommand, session: &Session, out: &mut Output) -> Result<(), Failure> {
    match command {
        TokensCommand::Issue(issue) => issue::issue(*issue, session, out).await,
        TokensCommand::Exchange(exchange) => issue::exchange(exchange, session, out).await,
        TokensCommand::Renew(renew) => issue::renew(renew, session, out).await,
        TokensCommand::List(list) => manage::list(list, session, out).await,
        TokensCommand::Show(show) => manage::show(show, session, out).await,
        TokensCommand::Revoke(revoke) => manage::revoke(revoke, session, out).await,
        TokensCommand::Whoami => manage::whoami(session, out).await,
    }
}
