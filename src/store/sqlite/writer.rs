//! The one hand that writes; whose it is at a time, `desk` knows. It runs what queued meanwhile in one
//! transaction and answers every write of it, conflicts too, after that commit.
//!
//! A commit that failed may still be in the write-ahead log, and a crash could bring it back. So
//! the store is in doubt until a later commit (the fence) has overwritten those frames: meanwhile
//! nothing is read and nothing written, and what is read afterwards is what stays.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    apply::{self, ApplyError},
    cache::ItemCache,
    row::{self, GroupFailed},
    schema::{self, Locked},
};
use crate::store::{Action, ItemKey, StoreError, Written};

/// How many writes wait at most; whoever finds the queue full waits for a place.
pub(super) const QUEUE_MAX: usize = 1_024;
/// How many writes one commit takes at most: bounds the longest wait, not the throughput.
const GROUP_MAX: usize = 256;

/// What the writer is asked.
pub(super) enum Command {
    /// Write.
    Write(Pending),
    /// Delete up to `limit` items that expired before the second `before`, and wipe the log.
    Sweep { before: i64, limit: i64, reply: Reply<usize> },
    /// Commit something, to see whether that works.
    Probe { reply: Reply<()> },
    /// Try to leave the doubt.
    Recover,
    /// Put everything into the one file, and end.
    Close { reply: Reply<()> },
    #[cfg(test)]
    /// Meddle.
    Meddle(Box<dyn FnOnce(&Connection) + Send>),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What came of taking up the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// No write was in it.
    None,
    /// Writes, and nothing was changed: withdrawn, refused, or in conflict.
    Unchanged,
    /// Writes that were committed, or should have been.
    Changed,
}

/// A write on its way.
pub(super) struct Pending {
    actions: Vec<Action>,
    claim: Claim,
    reply: Reply<Written>,
}

impl Pending {
    /// The write, its claim, and where its answer will be.
    pub(super) fn new(actions: Vec<Action>) -> (Self, Claim, oneshot::Receiver<Result<Written, StoreError>>) {
        let claim = Claim(Arc::new(AtomicBool::new(false)));
        let (reply, answer) = oneshot::channel();
        (Self { actions, claim: claim.clone(), reply }, claim, answer)
    }

    /// Whether the writer has it from now on.
    pub(super) fn take(&self) -> bool {
        self.claim.take()
    }
}

/// Who takes a write first has it: the writer, to run it, or its caller, to withdraw it.
#[derive(Clone)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether it was free until now.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Whether a failed commit may yet come back; read by the readers.
pub(super) type Doubt = Arc<AtomicBool>;

/// Why a transaction did not end well.
enum GroupError {
    /// Nothing of it is in the log as committed.
    Undone(rusqlite::Error),
    /// Its commit failed: it may be.
    Doubtful(rusqlite::Error),
}

impl From<GroupError> for rusqlite::Error {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Undone(error) | GroupError::Doubtful(error) => error,
        }
    }
}

/// The writer's side of the file.
pub(super) struct Writer {
    locked: Locked,
    connection: Connection,
    queue: mpsc::Receiver<Command>,
    /// A command that is no write, and came behind those that were taken: it is the thread's.
    held: Option<Command>,
    /// Who asked for the end.
    closing: Option<Reply<()>>,
    doubt: Doubt,
    cache: Arc<ItemCache>,
    /// SQLite's count of what other connections changed, as it was last seen.
    foreign: Option<i64>,
}

impl Writer {
    pub(super) fn new(
        locked: Locked,
        connection: Connection,
        queue: mpsc::Receiver<Command>,
        doubt: Doubt,
        cache: Arc<ItemCache>,
    ) -> Self {
        Self { locked, connection, queue, held: None, closing: None, doubt, cache, foreign: None }
    }

    /// Commits the writes that are next in the queue.
    pub(super) fn commit_queued(&mut self) -> Taken {
        let mut group = Vec::new();
        while self.held.is_none() && group.len() < GROUP_MAX {
            match self.queue.try_recv() {
                Ok(Command::Write(pending)) => group.push(pending),
                Ok(other) => self.held = Some(other),
                Err(_) => break,
            }
        }
        if group.is_empty() {
            return Taken::None;
        }
        let before = self.connection.total_changes();
        self.commit(group);
        if self.connection.total_changes() == before { Taken::Unchanged } else { Taken::Changed }
    }

    /// Whether a command is next that is no write.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Serves that command; whether it asks for the end.
    pub(super) fn serve_held(&mut self) -> bool {
        match self.held.take() {
            Some(Command::Close { reply }) => {
                self.closing = Some(reply);
                return true;
            }
            Some(command) => self.serve(command),
            None => {}
        }
        false
    }

    fn serve(&mut self, command: Command) {
        match command {
            Command::Sweep { before, limit, reply } => answer(reply, self.sweep(before, limit)),
            Command::Probe { reply } => answer(reply, self.fence().map_err(row::database_error)),
            Command::Recover => drop(self.is_certain()),
            #[cfg(test)]
            Command::Meddle(meddle) => meddle(&self.connection),
            // These are taken elsewhere.
            Command::Write(_) | Command::Close { .. } => {}
        }
    }

    fn commit(&mut self, mut group: Vec<Pending>) {
        group.retain(Pending::take);
        if group.is_empty() {
            return;
        }
        if !self.is_certain() {
            return group.into_iter().for_each(|it| answer(it.reply, Err(in_doubt())));
        }
        let cache = Arc::clone(&self.cache);
        cache.begin(touched(&group));
        let outcome = self.transaction(|connection| write_each(connection, &group));
        cache.end(touched(&group));
        match outcome {
            Ok(outcomes) => group.into_iter().zip(outcomes).for_each(|(it, outcome)| answer(it.reply, outcome)),
            Err(GroupError::Undone(error)) => {
                let failed = GroupFailed(Arc::new(error));
                for pending in group {
                    answer(pending.reply, Err(StoreError::Unavailable(Box::new(failed.clone()))));
                }
            }
            Err(GroupError::Doubtful(error)) => {
                tracing::error!(error = %error, writes = group.len(), "a commit failed; its outcome is unknown");
                self.is_certain();
                group.into_iter().for_each(|it| answer(it.reply, Ok(Written::Unknown)));
            }
        }
    }

    fn sweep(&mut self, before: i64, limit: i64) -> Result<usize, StoreError> {
        if !self.is_certain() {
            return Err(in_doubt());
        }
        let cache = Arc::clone(&self.cache);
        let swept = cache.forget_while(|| self.transaction(|connection| apply::sweep(connection, before, limit)));
        // What was deleted or overwritten since is still in the log: now it leaves the disk. A
        // reader in the way puts that off to the next sweep.
        let _ = self.checkpoint();
        swept.map_err(|error| row::database_error(error.into()))
    }

    /// Runs `work` in a transaction of its own, and on any failure leaves none open.
    fn transaction<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, GroupError> {
        let done = self
            .execute("BEGIN IMMEDIATE")
            .and_then(|()| self.forget_what_others_changed())
            .and_then(|()| work(&self.connection))
            .map_err(GroupError::Undone)
            .and_then(|value| self.execute("COMMIT").map(|()| value).map_err(GroupError::Doubtful));
        if let Err(error) = &done {
            if matches!(error, GroupError::Doubtful(_)) || !self.roll_back() {
                self.doubt.store(true, Ordering::SeqCst);
            }
            self.roll_back();
        }
        done
    }

    /// Nobody else writes the file while the lock is ours. Who does so all the same, from a shell on
    /// it, is noticed with the next write, and what is remembered is read again.
    fn forget_what_others_changed(&mut self) -> rusqlite::Result<()> {
        let now = self.connection.prepare_cached("PRAGMA data_version")?.query_row((), |row| row.get(0))?;
        if self.foreign.replace(now).is_some_and(|seen| seen != now) {
            tracing::warn!("somebody else has written the vault's file");
            self.cache.forget_while(|| ());
        }
        Ok(())
    }

    /// Whether no failed commit can come back; tries to make it so.
    fn is_certain(&mut self) -> bool {
        if !self.doubt.load(Ordering::SeqCst) {
            return true;
        }
        // What was read before may be of another end than the one that is settled now.
        let cache = Arc::clone(&self.cache);
        cache.forget_while(|| self.fence().is_ok() || (self.reopen() && self.fence().is_ok()))
    }

    /// Commits a change of its own, over whatever a failed commit left in the log.
    fn fence(&mut self) -> rusqlite::Result<()> {
        self.roll_back();
        self.transaction(|connection| {
            connection.prepare_cached("UPDATE fence SET count = count + 1")?.execute(()).map(drop)
        })?;
        self.doubt.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn reopen(&mut self) -> bool {
        match schema::open_writer(self.locked.path()) {
            Ok(connection) => {
                self.connection = connection;
                self.foreign = None;
                true
            }
            Err(_) => false,
        }
    }

    /// Whether no transaction is open.
    fn roll_back(&self) -> bool {
        self.connection.is_autocommit() || self.execute("ROLLBACK").is_ok()
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute(()).map(drop)
    }

    /// Moves the log into the file and empties it; whether it is empty now.
    fn checkpoint(&self) -> rusqlite::Result<bool> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| Ok(row.get::<_, i64>(0)? == 0))
    }

    /// Leaves one whole file.
    pub(super) fn close(mut self) {
        self.queue.close();
        let certain = self.is_certain();
        let checkpointed = self.checkpoint().map_err(row::database_error);
        let closed = self.connection.close().map_err(|(_, error)| row::database_error(error));
        drop(self.locked);
        if let Some(reply) = self.closing {
            answer(reply, if certain { checkpointed.and(closed) } else { Err(in_doubt()) });
        }
    }
}

/// What a group may change.
fn touched(group: &[Pending]) -> impl Iterator<Item = &ItemKey> {
    let changes = |action: &&Action| !matches!(action, Action::Check(..));
    group.iter().flat_map(move |pending| pending.actions.iter().filter(changes).map(Action::key))
}

/// What each write of `group` comes to, once the transaction is committed.
fn write_each(connection: &Connection, group: &[Pending]) -> rusqlite::Result<Vec<Result<Written, StoreError>>> {
    let one = |pending: &Pending| match apply::write(connection, &pending.actions) {
        Ok(written) => Ok(Ok(written)),
        Err(ApplyError::Refused(error)) => Ok(Err(error)),
        Err(ApplyError::Partial(error)) => Err(error),
        Err(ApplyError::Database(error)) if connection.is_autocommit() => Err(error),
        Err(ApplyError::Database(error)) => Ok(Err(row::database_error(error))),
    };
    group.iter().map(one).collect()
}

/// The store refuses until a failed commit is settled.
pub(super) fn in_doubt() -> StoreError {
    StoreError::Unavailable("a failed commit is not settled yet".into())
}

fn answer<T>(reply: Reply<T>, value: Result<T, StoreError>) {
    // Whoever asked may have gone.
    let _ = reply.send(value);
}
