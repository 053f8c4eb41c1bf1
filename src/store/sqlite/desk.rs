//! Where writes are taken up: by the writer's thread, or, while commits are quick, by whoever has
//! just queued one and finds the writer free. A hand-over to the thread and back costs more than a
//! quick commit itself; a slow one would keep a worker of the runtime from its other tasks.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::mpsc,
};

use super::{
    row,
    writer::{Command, Doubt, QUEUE_MAX, Taken, Writer},
};
use crate::{domain::clock::Clock, store::StoreError};

/// Commits that take no longer on average are made by whoever wrote.
const QUICK: Duration = Duration::from_millis(1);
/// So many commits are the average taken over.
const AVERAGED: u64 = 8;

/// The desk.
pub(super) struct Desk {
    queue: mpsc::Sender<Command>,
    /// None once it is closed, or something in it panicked: then nobody writes any more.
    writer: Mutex<Option<Writer>>,
    thread: OnceLock<Thread>,
    closing: AtomicBool,
    /// A disk that fails commits is the thread's to deal with.
    doubt: Doubt,
    /// What a commit takes on average, in nanoseconds. The first are the thread's: nothing is known.
    pace: AtomicU64,
}

impl Desk {
    /// A desk with nobody behind it yet: [`Self::run`] is its thread's, which is then [`Self::attend`]ing.
    pub(super) fn new(doubt: Doubt, writer: impl FnOnce(mpsc::Receiver<Command>) -> Writer) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE_MAX);
        Self {
            queue,
            writer: Mutex::new(Some(writer(commands))),
            thread: OnceLock::new(),
            closing: AtomicBool::new(false),
            doubt,
            pace: AtomicU64::new(2 * nanos(QUICK)),
        }
    }

    /// Whom to wake.
    pub(super) fn attend(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// A desk whose queue is the test's.
    #[cfg(test)]
    pub(super) fn unattended() -> (Self, mpsc::Receiver<Command>) {
        let (queue, commands) = mpsc::channel(1);
        let (writer, thread) = (Mutex::new(None), OnceLock::new());
        let pace = AtomicU64::new(u64::MAX);
        (Self { queue, writer, thread, closing: AtomicBool::new(false), doubt: Doubt::default(), pace }, commands)
    }

    /// Queues a write, once there is a place, and sees to it that it is taken up.
    ///
    /// # Errors
    /// When the store is closed.
    pub(super) async fn write(&self, command: Command, clock: &dyn Clock) -> Result<(), StoreError> {
        self.queue.send(command).await.map_err(|_| row::closed())?;
        if !self.is_quick() {
            self.wake();
            return Ok(());
        }
        // Others who are about to write come first: one commit is then for all of them.
        let mut left = Left { desk: self, is_taken: false };
        tokio::task::yield_now().await;
        left.is_taken = true;
        self.take_up(clock);
        Ok(())
    }

    /// Queues a command for the thread, once there is a place.
    ///
    /// # Errors
    /// When the store is closed.
    pub(super) async fn leave(&self, command: Command) -> Result<(), StoreError> {
        self.queue.send(command).await.map_err(|_| row::closed())?;
        self.wake();
        Ok(())
    }

    /// Queues a command if there is a place.
    pub(super) fn try_send(&self, command: Command) -> bool {
        let sent = self.queue.try_send(command).is_ok();
        self.wake();
        sent
    }

    /// Has the thread end when it has done what is queued.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The thread's work, to the end.
    pub(super) fn run(&self, clock: &dyn Clock) {
        loop {
            let mut place = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            match self.whole(&mut place, |writer| self.turn(writer, clock)) {
                Some(false) => {}
                Some(true) => {
                    let writer = place.take();
                    drop(place);
                    return writer.map_or((), Writer::close);
                }
                None => return,
            }
            drop(place);
            if !self.has_work() && !self.closing.load(Ordering::SeqCst) {
                thread::park();
            }
        }
    }

    /// Does all that is queued; whether that was the last of it.
    fn turn(&self, writer: &mut Writer, clock: &dyn Clock) -> bool {
        while self.commit(writer, clock) {}
        let is_closing = self.closing.load(Ordering::SeqCst);
        writer.serve_held() || is_closing
    }

    fn take_up(&self, clock: &dyn Clock) {
        // Whoever has the writer looks at the queue once more when he is done: either he sees what was
        // queued, or this sees that he is done.
        fence(Ordering::SeqCst);
        let Ok(mut place) = self.writer.try_lock() else { return };
        let is_left = self.whole(&mut place, |writer| {
            self.commit(writer, clock);
            writer.holds()
        });
        drop(place);
        if is_left == Some(true) || self.has_work() {
            self.wake();
        }
    }

    /// What `work` makes of the writer. A writer in which something panicked is given up, and its
    /// transaction with it: whoever waits for it, or comes, is told that the store is closed.
    fn whole<T>(&self, place: &mut Option<Writer>, work: impl FnOnce(&mut Writer) -> T) -> Option<T> {
        let writer = place.as_mut()?;
        let done = catch_unwind(AssertUnwindSafe(|| work(writer)));
        if done.is_err() {
            tracing::error!("the store's writer broke: nothing is written any more");
            *place = None;
            self.wake();
        }
        done.ok()
    }

    /// Commits one group of what is queued; whether there was any.
    fn commit(&self, writer: &mut Writer, clock: &dyn Clock) -> bool {
        let began = clock.instant();
        let taken = writer.commit_queued();
        // What changed nothing was not synced: it says nothing of the disk.
        if taken == Taken::Changed {
            let took = nanos(clock.instant().saturating_duration_since(began));
            let average = self.pace.load(Ordering::Relaxed);
            let average = (average / AVERAGED).saturating_mul(AVERAGED - 1).saturating_add(took / AVERAGED);
            self.pace.store(average, Ordering::Relaxed);
        }
        taken != Taken::None
    }

    /// Whether a commit may be made here and now: soon over, and others go on meanwhile.
    fn is_quick(&self) -> bool {
        self.pace.load(Ordering::Relaxed) <= nanos(QUICK)
            && !self.doubt.load(Ordering::SeqCst)
            && Handle::try_current().is_ok_and(|runtime| {
                runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
            })
    }

    fn has_work(&self) -> bool {
        fence(Ordering::SeqCst);
        self.queue.capacity() < self.queue.max_capacity()
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// A write that was queued by somebody who has not taken it up yet; who goes before he does leaves it to
/// the thread.
struct Left<'a> {
    desk: &'a Desk,
    is_taken: bool,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.desk.wake();
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;
    use crate::{
        domain::clock::{SystemClock, Timestamp},
        store::{
            Action, Attributes, Condition, ItemKey, ItemStore as _, NewItem, WriteId, Written, sqlite::SqliteStore,
        },
    };

    /// A clock by which every commit takes `step`, however long the disk takes, and which knows how often
    /// the thread looked at it: twice for each of its commits.
    #[derive(Debug)]
    struct Watch {
        start: Instant,
        step: AtomicU64,
        passed: AtomicU64,
        looks: AtomicU64,
    }

    impl Clock for Watch {
        fn now(&self) -> Timestamp {
            SystemClock.now()
        }
        fn instant(&self) -> Instant {
            if thread::current().name() == Some("store-writer") {
                self.looks.fetch_add(1, Ordering::SeqCst);
            }
            let step = self.step.load(Ordering::SeqCst);
            let passed = self.passed.fetch_add(step, Ordering::SeqCst) + step;
            self.start + Duration::from_nanos(passed)
        }
    }

    struct Vault {
        store: Arc<SqliteStore>,
        watch: Arc<Watch>,
        _directory: tempfile::TempDir,
    }

    impl Vault {
        fn new() -> Self {
            let none = AtomicU64::default;
            let watch = Watch { start: SystemClock.instant(), step: none(), passed: none(), looks: none() };
            let (watch, directory) = (Arc::new(watch), tempfile::tempdir().unwrap());
            let clock: Arc<dyn Clock> = Arc::<Watch>::clone(&watch);
            let store = Arc::new(SqliteStore::open_or_make(&directory.path().join("vault.db"), clock).unwrap());
            Self { store, watch, _directory: directory }
        }

        /// Writes from a task of its own.
        async fn write(&self, sort: String) {
            let (store, deadline) = (Arc::clone(&self.store), SystemClock.deadline(Duration::from_secs(600)));
            let written = tokio::spawn(async move {
                let item = NewItem::new(ItemKey::new("p", sort), Attributes::new());
                store.write(WriteId([0; 16]), vec![Action::Put(item, Condition::Absent)], deadline).await
            });
            assert_eq!(written.await.unwrap().unwrap(), Written::Committed);
        }

        /// How many of 64 commits the thread makes, once it could be known how long they take.
        async fn by_the_thread(&self, name: &str, step: Duration) -> u64 {
            self.watch.step.store(nanos(step), Ordering::SeqCst);
            for n in 0..64 {
                self.write(format!("{name} first {n}")).await;
            }
            let before = self.watch.looks.load(Ordering::SeqCst);
            for n in 0..64 {
                self.write(format!("{name} then {n}")).await;
            }
            (self.watch.looks.load(Ordering::SeqCst) - before) / 2
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn quick_commits_are_made_where_they_were_asked_for_and_slow_ones_by_the_thread() {
        let vault = Vault::new();
        assert!(vault.by_the_thread("slow", QUICK * 40).await >= 63);
        // It may still be about when the first comes.
        assert!(vault.by_the_thread("quick", Duration::ZERO).await < 32);
        assert!(vault.by_the_thread("slow again", QUICK * 40).await >= 63);
    }

    #[tokio::test]
    async fn a_runtime_of_one_worker_is_never_kept_from_its_tasks() {
        let vault = Vault::new();
        assert!(vault.by_the_thread("quick", Duration::ZERO).await >= 63);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_write_is_left_lying_whoever_takes_it_up() {
        let vault = Arc::new(Vault::new());
        let writers: Vec<_> = (0..32)
            .map(|writer| {
                let vault = Arc::clone(&vault);
                tokio::spawn(async move {
                    for n in 0..50 {
                        // Whose hand it is changes all the time.
                        let step = if (writer + n) % 16 == 0 { QUICK * 40 } else { Duration::ZERO };
                        vault.watch.step.store(nanos(step), Ordering::SeqCst);
                        vault.write(format!("{writer} {n}")).await;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    }
}
