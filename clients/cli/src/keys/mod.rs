//! `ibyok keys`: provider keys.

mod import;
mod read;
mod rotate;
pub(crate) mod view;
mod walk;
mod write;

use clap::{Args, Subcommand};

use self::{
    import::Import,
    read::{Consumers, Get, List, Show, Versions},
    rotate::{Promote, RollBack, Verify},
    walk::Rotate,
    write::{Add, Delete, Destroy, Disable},
};
use crate::{failure::Failure, output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Store a new key; its value comes from standard input, --from-file, or a prompt
    Add(Box<Add>),
    /// Store many keys, from CSV, JSON Lines, or a .env file
    Import(Import),
    /// List keys with their previews; never decrypts
    List(List),
    /// Show one key and its live versions; never decrypts
    Show(Show),
    /// List every version that a key ever had; never decrypts
    Versions(Versions),
    /// Retrieve the value itself; audited
    Get(Get),
    /// Show who was handed which version last
    Consumers(Consumers),
    /// Give a key a new value, step by step: add, verify, promote, wait, retire; run it again to go on
    Rotate(Box<Rotate>),
    /// Record how a staged version was tried
    Verify(Verify),
    /// Make a staged version current
    Promote(Promote),
    /// Make the previous version current again
    #[command(visible_alias = "roll-back")]
    Rollback(RollBack),
    /// Refuse retrieval from the next call on
    Disable(Disable),
    /// Allow retrieval again
    Enable(Named),
    /// Delete a key; it can be undeleted within its recovery window
    Delete(Delete),
    /// Bring a deleted key back, disabled
    Undelete(Named),
    /// Destroy a key and all its versions, or one version, for good
    Destroy(Destroy),
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
}

pub(crate) async fn run(command: KeysCommand, session: &Session, out: &mut Output) -> Result<(), Failure> {
    match command {
        KeysCommand::Add(add) => write::add(*add, session, out).await,
        KeysCommand::Import(import) => import::import(import, session, out).await,
        KeysCommand::List(list) => read::list(list, session, out).await,
        KeysCommand::Show(show) => read::show(show, session, out).await,
        KeysCommand::Versions(versions) => read::versions(versions, session, out).await,
        KeysCommand::Get(get) => read::get(get, session, out).await,
        KeysCommand::Consumers(consumers) => read::consumers(consumers, session, out).await,
        KeysCommand::Rotate(rotate) => walk::rotate(*rotate, session, out).await,
        KeysCommand::Verify(verify) => rotate::verify(verify, session, out).await,
        KeysCommand::Promote(promote) => rotate::promote(promote, session, out).await,
        KeysCommand::Rollback(back) => rotate::roll_back(back, session, out).await,
        KeysCommand::Disable(disable) => write::disable(disable, session, out).await,
        KeysCommand::Enable(named) => write::enable(&named.name, session, out).await,
        KeysCommand::Delete(delete) => write::delete(delete, session, out).await,
        KeysCommand::Undelete(named) => write::undelete(&named.name, session, out).await,
        KeysCommand::Destroy(destroy) => write::destroy(destroy, session, out).await,
    }
}
