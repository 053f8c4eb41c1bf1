//! An organization's events, oldest first, by position: what is indexed now, and, where it is
//! followed, what is indexed from then on.

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep};

use super::{Event, Source, StreamItem, Streamed};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::OrgId,
    },
    repository::audit::{
        archive::ArchiveState,
        index::{self, IndexState},
        reader::{self, Snapshot, Unindexed},
    },
    store::Order,
};

/// How often the index is looked at where nobody tells of it: another server may write it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the index may lag behind the end that a stream was asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one read may take.
const READ: Duration = Duration::from_millis(2_500);
/// Index rows whose batches are read at once.
const ROWS_AT_ONCE: usize = 24;

/// The place of the next event; what a resume token seals.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Cursor {
    /// The day of the index.
    #[prost(uint64, tag = "1")]
    day: u64,
    /// The position of its row.
    #[prost(uint64, tag = "2")]
    position: u64,
    /// The index of its record.
    #[prost(uint32, tag = "3")]
    record: u32,
}

impl Cursor {
    /// Before the first event that can be of `start` or later. A record is indexed after it was
    /// made, and the clocks of two servers may differ by less than a day.
    /// What is below `floor` has left for the archive.
    pub(super) fn from_start(start: Option<Timestamp>, floor: u64) -> Self {
        let day = start.map_or(0, |start| u64::try_from(start.day()).unwrap_or_default());
        Self { day: day.saturating_sub(1), position: floor, record: 0 }
    }
}

/// What of a day was sent.
struct Sent {
    /// Whether there was an event to send.
    any: bool,
    /// Whether the day has no row that is left for later.
    all: bool,
}

/// Fills a stream.
pub(super) struct Pump<'a, S> {
    pub(super) source: &'a Source,
    pub(super) org: &'a OrgId,
    pub(super) sees: &'a (dyn Fn(&Event) -> bool + Send + Sync),
    pub(super) seal: &'a S,
    pub(super) answers: &'a mpsc::Sender<Result<Streamed, Failure>>,
    pub(super) heartbeat: Duration,
}

impl<S: Fn(&Cursor) -> Result<String, Failure> + Send + Sync> Pump<'_, S> {
    /// Runs until everything of `end` has been sent; None: for ever.
    ///
    /// # Errors
    /// EVENTS_ARCHIVED when events behind `at` have left; STORE_UNAVAILABLE, RECORD_REJECTED.
    pub(super) async fn run(&self, mut at: Cursor, end: Option<&Snapshot>) -> Result<(), Failure> {
        let mut indexed = self.source.audit.indexed();
        let give_up = self.source.clock.deadline(PATIENCE);
        let mut heartbeat = Box::pin(sleep(self.heartbeat));
        self.source.audit.poke();
        loop {
            indexed.mark_unchanged();
            let is_last = match end {
                Some(end) => self.has_passed(end).await?,
                None => false,
            };
            let until = IndexState::load(&self.source.records, self.deadline()).await?.next;
            if self.send_until(&mut at, until).await? {
                heartbeat.as_mut().set(sleep(self.heartbeat));
            }
            // Everything before has been looked at: a token of a quiet organization moves on, too.
            (at.position, at.record) = (at.position, at.record).max((until, 0));
            if is_last {
                return Ok(());
            }
            if end.is_some() && self.source.clock.left(give_up).is_zero() {
                return Err(Failure::new(Reason::StoreUnavailable).retry_after(LOOK_EVERY));
            }
            if end.is_some() {
                self.source.audit.poke();
            }
            tokio::select! {
                // An error here is the end of the log's writer; looking goes on until it ends, too.
                _ = async { if indexed.changed().await.is_err() { std::future::pending().await } } => {}
                () = sleep(LOOK_EVERY) => {}
                () = &mut heartbeat, if end.is_none() => {
                    self.send(StreamItem::Heartbeat(self.source.clock.now()), &at).await?;
                    heartbeat.as_mut().set(sleep(self.heartbeat));
                }
            }
        }
    }

    fn deadline(&self) -> Deadline {
        self.source.clock.deadline(READ)
    }

    /// Whether the index holds everything that stood in the log at `end` and that it can hold:
    /// nothing behind a batch that does not verify is put in order, and nobody waits for it.
    pub(super) async fn has_passed(&self, end: &Snapshot) -> Result<bool, Failure> {
        let now = self.source.audit.snapshot(self.deadline()).await?;
        let is_behind = |left: &Unindexed| end.unindexed.iter().any(|it| it.chain == left.chain && left.cut < it.head);
        let behind = now.unindexed.into_iter().filter(is_behind);
        let next: Vec<_> = behind.map(|left| (left.chain, left.cut + 1)).collect();
        let next = reader::batches(&self.source.records, &next, self.deadline()).await?;
        Ok(next.iter().all(Option::is_none))
    }

    /// Sends what stands between `at` and position `until`, which is moved on; whether there was
    /// anything to send.
    pub(super) async fn send_until(&self, at: &mut Cursor, until: u64) -> Result<bool, Failure> {
        let records = &self.source.records;
        let mut has_sent = false;
        self.check_floor(at).await?;
        loop {
            let from = Some(at.day);
            let days = index::days(records, self.org, Order::Ascending, from, 2, self.deadline()).await?;
            let Some(day) = days.first().map(|day| day.day) else { return Ok(has_sent) };
            at.day = day;
            let sent = self.send_day(at, until).await?;
            has_sent |= sent.any;
            // Only a day after this one, seen before its rows were read, makes it sure that it gets
            // no more of them.
            match days.get(1) {
                Some(next) if sent.all => at.day = next.day,
                _ => return Ok(has_sent),
            }
        }
    }

    async fn send_day(&self, at: &mut Cursor, until: u64) -> Result<Sent, Failure> {
        let (records, org) = (&self.source.records, self.org);
        let mut sent = Sent { any: false, all: false };
        loop {
            let after = at.position.checked_sub(1);
            let (rows, is_more) =
                index::rows(records, org, at.day, Order::Ascending, after, ROWS_AT_ONCE, self.deadline()).await?;
            let length = rows.len();
            let rows: Vec<_> = rows.into_iter().take_while(|row| row.position < until).collect();
            let places: Vec<_> = rows.iter().map(|row| (row.chain.clone(), row.batch)).collect();
            let batches = reader::batches(records, &places, self.deadline()).await?;
            // After the reads: what was there then was not leaving.
            self.check_floor(at).await?;
            for (row, batch) in rows.iter().zip(&batches) {
                let first = if row.position == at.position { at.record } else { 0 };
                for index in row.records.iter().copied().filter(|index| u32::from(*index) >= first) {
                    let Some(batch) = batch else {
                        reader::left_out(&row.chain, row.batch);
                        break;
                    };
                    (at.position, at.record) = (row.position, u32::from(index) + 1);
                    let Some(event) = Event::of(org, batch, index.into(), row.position) else { continue };
                    if (self.sees)(&event) {
                        self.send(StreamItem::Event(Box::new(event)), at).await?;
                        sent.any = true;
                    }
                }
                (at.position, at.record) = (row.position + 1, 0);
            }
            sent.all = !is_more && rows.len() == length;
            if !is_more || rows.len() < length {
                return Ok(sent);
            }
        }
    }

    /// Whether everything from `at` on is still there: nothing is left out unsaid.
    async fn check_floor(&self, at: &Cursor) -> Result<(), Failure> {
        let archive = ArchiveState::load(&self.source.records, self.deadline()).await?;
        if archive.floor <= at.position {
            return Ok(());
        }
        Err(archived(&archive))
    }

    async fn send(&self, item: StreamItem, at: &Cursor) -> Result<(), Failure> {
        let resume_token = (self.seal)(at)?;
        let sent = self.answers.send(Ok(Streamed { item, resume_token })).await;
        // Nobody reads: the task that runs this ends with its stream.
        sent.map_err(|_| Reason::Internal.into())
    }
}

/// EVENTS_ARCHIVED, and up to when.
fn archived(archive: &ArchiveState) -> Failure {
    let until = Timestamp::from_seconds(archive.until.unwrap_or_default().seconds());
    Failure::new(Reason::EventsArchived).with("archived_until", until.to_string())
}
