//! The embedded default: one SQLite file in WAL mode, for one process. Knows items as the port
//! does, and only ciphertext.
//!
//! - `schema`: the file, its lock, its one table.
//! - `codec`: attributes as bytes, the format on disk.
//! - `reader`: reads, inline on the caller's thread; `cache`: what was read lately.
//! - `writer`, `apply`: the one hand that writes, and what a write does; `desk`: whose hand it is.
//! - `row`: rows as items, errors as the port's.
//!
//! Beside the vault's file stand `-wal` and `-shm`, SQLite's own, and `.lock`, whose lock says that
//! a server has the vault open. A clean end leaves everything in the one file.

mod apply;
mod cache;
mod codec;
mod desk;
mod reader;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokio::{sync::oneshot, time::timeout};

pub use self::schema::OpenError;
use self::{
    cache::ItemCache,
    desk::Desk,
    reader::Readers,
    schema::Locked,
    writer::{Command, Doubt, Pending, Reply, Writer},
};
use super::{Action, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written, limits};
use crate::domain::{
    PortFuture,
    clock::{Clock, Deadline, Timestamp},
};

/// The store in one SQLite file. Dropping it does what [`SqliteStore::close`] does, and waits.
pub struct SqliteStore {
    clock: Arc<dyn Clock>,
    readers: Readers,
    doubt: Doubt,
    desk: Arc<Desk>,
    /// None only while it is dropped.
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the vault at `path`; where there is none, nothing is made. Until the store is closed no
    /// other process can open it.
    ///
    /// # Errors
    /// [`OpenError`], each a sentence for the one who starts the server.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let locked = Locked::take(path)?;
        let connection = schema::open_vault(locked.path())?;
        Self::on(locked, connection, clock)
    }

    /// Opens the vault at `path`, and makes it if there is none; its directory must exist.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_or_make(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let locked = Locked::take_or_make(path)?;
        let connection = schema::make_writer(locked.path())?;
        Self::on(locked, connection, clock)
    }

    fn on(locked: Locked, connection: Connection, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let path = locked.path().to_owned();
        let doubt: Doubt = Arc::new(AtomicBool::new(false));
        let cache = Arc::new(ItemCache::new());
        let writer = |commands| Writer::new(locked, connection, commands, Arc::clone(&doubt), Arc::clone(&cache));
        let desk = Arc::new(Desk::new(Arc::clone(&doubt), writer));
        let (of_thread, its_clock) = (Arc::clone(&desk), Arc::clone(&clock));
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || of_thread.run(&*its_clock))
            .map_err(|source| OpenError::Io { action: "start the writer of", path: path.clone(), source })?;
        desk.attend(writer.thread().clone());
        Ok(Self { clock, readers: Readers::new(path, cache), doubt, desk, writer: Some(writer) })
    }

    /// Deletes up to `limit` items that expired before `now`, and answers how many. What was
    /// deleted or overwritten until then leaves the write-ahead log too.
    ///
    /// # Errors
    /// As [`ItemStore::write`].
    pub async fn sweep_expired(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.ask(|reply| Command::Sweep { before: now.seconds(), limit, reply }).await
    }

    /// Commits what is queued, moves everything into the one file and lets go of it. Every later
    /// call answers [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// When the file could not be completed; the next open does it.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.readers.close();
        self.ask(|reply| Command::Close { reply }).await
    }

    /// Hands a command to the writer and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.desk.leave(command(reply)).await?;
        answer.await.map_err(|_| row::closed())?
    }

    fn check_deadline(&self, deadline: Deadline) -> Result<(), StoreError> {
        if self.clock.left(deadline).is_zero() { Err(too_late()) } else { Ok(()) }
    }

    /// Nothing is read while a failed commit may come back; asks the writer to settle it.
    fn check_readable(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.check_deadline(deadline)?;
        if self.doubt.load(Ordering::SeqCst) {
            // A full queue settles it as well.
            let _ = self.desk.try_send(Command::Recover);
            return Err(writer::in_doubt());
        }
        Ok(())
    }

    /// A write that was withdrawn before the writer took it is an error: it will never happen.
    async fn hand_over(&self, actions: Vec<Action>, deadline: Deadline) -> Result<Written, StoreError> {
        let (pending, claim, answer) = Pending::new(actions);
        let answered = timeout(self.clock.left(deadline), async {
            self.desk.write(Command::Write(pending), &*self.clock).await.ok()?;
            answer.await.ok()
        });
        match answered.await {
            Ok(Some(answer)) => answer,
            Ok(None) if claim.take() => Err(row::closed()),
            Err(_) if claim.take() => Err(too_late()),
            Ok(None) | Err(_) => Ok(Written::Unknown),
        }
    }
}

impl ItemStore for SqliteStore {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        deadline: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        Box::pin(async move {
            limits::check_get(keys)?;
            self.check_readable(deadline)?;
            Ok(self.readers.get(keys)?)
        })
    }

    fn query(&self, query: Query, deadline: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            limits::check_query(&query)?;
            self.check_readable(deadline)?;
            Ok(self.readers.query(query)?)
        })
    }

    /// `id` is not needed: nothing here is tried twice.
    fn write(
        &self,
        _id: WriteId,
        actions: Vec<Action>,
        deadline: Deadline,
    ) -> PortFuture<'_, Result<Written, StoreError>> {
        Box::pin(async move {
            limits::check_write(&actions)?;
            self.check_deadline(deadline)?;
            self.hand_over(actions, deadline).await
        })
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        Box::pin(async move {
            self.check_deadline(deadline)?;
            let probe = self.ask(|reply| Command::Probe { reply });
            timeout(self.clock.left(deadline), probe).await.map_err(|_| too_late())??;
            self.readers.probe()?;
            Ok(format!("SQLite {} in one file; reads and writes", rusqlite::version()))
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.readers.close();
        self.desk.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has told so already.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

fn too_late() -> StoreError {
    StoreError::Unavailable("the deadline passed".into())
}
