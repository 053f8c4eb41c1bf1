//! `ibyok keys`: provider keys.

mod read;
mod rotate;
mod view;
mod write;

use clap::{Args, Subcommand};

use self::{
    read::{Get, List, Show},
    rotate::{Promote, RollBack, Rotate},
    write::{Add, Delete, Destroy, Disable},
};
use crate::{failure::Failure, output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Store a new key; its value comes from standard input, --from-file, or a prompt
    Add(Box<Add>),
    /// List keys with their previews; never decrypts
    List(List),
    /// Show one key and its versions; never decrypts
    Show(Show),
    /// Retrieve the value itself; audited
    Get(Get),
    /// Give a key a new value: stage it, record how it was tried, make it current
    Rotate(Rotate),
    /// Make a staged version current
    Promote(Promote),
    /// Make the previous version current again
    RollBack(RollBack),
    /// Refuse retrieval from the next call on
    Disable(Disable),
    /// Allow retrieval again
    Enable(Named),
    /// Delete a key; it can be undeleted within its recovery window
    Delete(Delete),
    /// Bring a deleted key back, disabled
    Undelete(Named),
    /// Destroy a key and all its versions for good
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
        KeysCommand::List(list) => read::list(list, session, out).await,
        KeysCommand::Show(show) => read::show(show, session, out).await,
        KeysCommand::Get(get) => read::get(get, session, out).await,
        KeysCommand::Rotate(rotate) => rotate::rotate(rotate, session, out).await,
        KeysCommand::Promote(promote) => rotate::promote(promote, session, out).await,
        KeysCommand::RollBack(back) => rotate::roll_back(back, session, out).await,
        KeysCommand::Disable(disable) => write::disable(disable, session, out).await,
        KeysCommand::Enable(named) => write::enable(&named.name, session, out).await,
        KeysCommand::Delete(delete) => write::delete(delete, session, out).await,
        KeysCommand::Undelete(named) => write::undelete(&named.name, session, out).await,
        KeysCommand::Destroy(destroy) => write::destroy(destroy, session, out).await,
    }
}
