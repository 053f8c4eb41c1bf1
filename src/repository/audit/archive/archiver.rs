//! Moves what is older than the retention from the log into files, one file at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, BufWriter},
    sync::Arc,
    time::Duration,
};

use super::{
    ArchiveState, Directory, FILE_BATCHES_MAX, Root,
    format::{Beginning, FileWriter, Summary, Unsound},
    last_root,
};
use crate::{
    domain::{
        audit::{Action as Done, AuditDraft},
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::OrgId,
    },
    repository::{
        audit::{
            AuditLog, AuditRecord, Commit,
            batch::{BATCH_BYTES_MAX, Batch, batch_key},
            heads::Head,
            index::{self, IndexState},
            log::{self, Entry, LogRow, SEGMENT_POSITIONS, read_sound, run_key},
            writer::Lanes,
        },
        fields::{Fields as _, rejected},
        projection,
    },
    store::{Action, Condition, Item, ItemKey, Order, Query, SortRange},
};

/// The most chains of a file, about: the root holds the ends of them.
const FILE_CHAINS_MAX: usize = 1_000;
/// Batches that are read at once: at most 4 MB.
const AT_ONCE: usize = 16;
/// Items that one write deletes; the lease and the state go with them.
const DELETES: usize = 90;
/// Bytes of the items that one write deletes, about: a database may count each deletion as a write of
/// what was there.
const DELETE_BYTES: usize = BATCH_BYTES_MAX;
/// About how large an item is that leads to a batch.
const SMALL: usize = 1_024;
/// About how large a record is in a file, and a batch without its records, in bytes: for a first look
/// whether there is room. Room is looked after while the file is written, too.
const TYPICAL_BYTES: (u64, u64) = (1_024, 512);
/// How long one read or write may take.
const STEP: Duration = Duration::from_secs(5);

/// What one call of [`Archiver::step`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archived {
    /// There is nothing that can leave now.
    Nothing,
    /// What would be next holds a record whose time is later than its place in the order says: before
    /// then nothing leaves.
    Waits(Timestamp),
    /// A file was written, checked and taken over, and its part of the log deleted.
    File(Summary),
    /// The deletion that an earlier call had begun was completed.
    Completed,
}

/// Why nothing leaves; a sentence for people.
#[derive(Debug)]
pub enum Trouble {
    /// The store or the log's writer.
    Store(Failure),
    /// The directory or the disk.
    Disk(io::Error),
    /// The log does not verify, or the archive does not.
    Problem(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Store(failure)
    }
}
impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(failure) if failure.reason == Reason::RecordRejected => {
                f.write_str("a record of the log does not verify: it stays where it is")
            }
            Self::Store(failure) => write!(f, "{failure}"),
            Self::Disk(error) => write!(f, "the archive's directory: {error}"),
            Self::Problem(problem) => f.write_str(problem),
        }
    }
}

/// Moves the log of one vault.
#[derive(Clone, Debug)]
pub struct Archiver {
    log: AuditLog,
    directory: Directory,
    retention: Duration,
}

/// The rows of one file.
struct Plan {
    rows: Vec<LogRow>,
    /// What is this old or older may leave.
    cutoff: Timestamp,
}

impl Plan {
    /// About how large the file will be.
    fn bytes(&self) -> u64 {
        let (record, batch) = TYPICAL_BYTES;
        let counts = self.rows.iter().flat_map(|row| row.runs.iter().flat_map(|run| &run.batches));
        counts.map(|(_, count)| batch + u64::from(*count) * record).sum()
    }
}

/// What came of drawing up a file.
enum Drawn {
    File(Summary),
    /// A record is newer than its place in the order says: it leaves then.
    Waits(Timestamp),
}

impl Archiver {
    /// What of `log` is older than `retention` goes to `directory`.
    #[must_use]
    pub fn new(log: &AuditLog, directory: Directory, retention: Duration) -> Self {
        Self { log: log.clone(), directory, retention }
    }

    /// Completes what was begun, else moves one file's part of the log. `fence` must hold for each
    /// write. Whatever ends it, the next call goes on from there.
    ///
    /// # Errors
    /// What stops it. The log is then as whole as before.
    pub async fn step(&self, fence: Option<&Action>) -> Result<Archived, Trouble> {
        let state = ArchiveState::load(&self.lanes().records, self.deadline()).await?;
        if state.deleted < state.floor {
            self.delete(state, fence).await?;
            return Ok(Archived::Completed);
        }
        let Some(plan) = self.plan(&state).await? else { return Ok(Archived::Nothing) };
        let before = last_root(&self.lanes().records, self.deadline()).await?;
        if before.as_ref().map_or(1, |root| root.summary.last + 1) != state.floor {
            return Err(Trouble::Problem("the roots of the archive do not lead to its state".into()));
        }
        let summary = match self.write(&plan, &state, before.as_ref()).await? {
            Drawn::File(summary) => summary,
            Drawn::Waits(until) => return Ok(Archived::Waits(until)),
        };
        let root = self.read_back(summary, before).await?;
        let state = self.take_over(&root, state, fence).await?;
        self.delete(state, fence).await?;
        Ok(Archived::File(root.summary))
    }

    /// The rows of the next file; None when they can't leave yet.
    async fn plan(&self, state: &ArchiveState) -> Result<Option<Plan>, Trouble> {
        let records = &self.lanes().records;
        let cutoff = self.lanes().clock.now().minus(self.retention);
        let (mut rows, mut next) = (Vec::<LogRow>::new(), state.floor);
        let (mut batches, mut chains) = (0, BTreeSet::new());
        let passed = self.passed().await?;
        'file: loop {
            let found = log::rows(records, next, AT_ONCE, self.deadline()).await?;
            if found.is_empty() {
                break;
            }
            for row in found {
                if row.position != next {
                    return Err(rejected("position").into());
                }
                if row.time.day() >= cutoff.day() {
                    break 'file;
                }
                let is_other = |first: &LogRow| {
                    row.time.day() != first.time.day()
                        || row.position / SEGMENT_POSITIONS != first.position / SEGMENT_POSITIONS
                };
                if rows.first().is_some_and(is_other) {
                    break 'file;
                }
                next = row.end();
                // Not indexed or folded: the file waits for it, so that its bounds stay.
                if next > passed {
                    return Ok(None);
                }
                batches += next - row.position;
                chains.extend(row.runs.iter().map(|run| run.chain.clone()));
                rows.push(row);
                if batches >= FILE_BATCHES_MAX || chains.len() >= FILE_CHAINS_MAX {
                    break 'file;
                }
            }
        }
        Ok((!rows.is_empty()).then_some(Plan { rows, cutoff }))
    }

    /// The position that the index and every projection have passed.
    async fn passed(&self) -> Result<u64, Failure> {
        let records = &self.lanes().records;
        let mut passed = IndexState::load(records, self.deadline()).await?.next;
        let query = Query {
            partition: "PROJ".to_owned(),
            range: SortRange::All,
            order: Order::Ascending,
            limit: 100,
            after: None,
        };
        let mut missing: BTreeSet<&str> = projection::names().collect();
        for item in records.query(query, self.deadline()).await?.items {
            missing.remove(item.key.sort.as_str());
            // The janitor's mark stands there, too; it follows no position.
            if let Some(next) = records.verify(item)?.opt_number("next")? {
                passed = passed.min(next);
            }
        }
        Ok(if missing.is_empty() { passed } else { 1 })
    }

    /// Writes the file, and removes what there is of it when nothing comes of it.
    async fn write(&self, plan: &Plan, state: &ArchiveState, before: Option<&Root>) -> Result<Drawn, Trouble> {
        let drawn = self.draw(plan, state, before).await;
        if !matches!(drawn, Ok(Drawn::File(_))) {
            let directory = self.directory.clone();
            if let Err(error) = blocking(move || directory.give_up()).await {
                tracing::warn!(%error, "a file of the archive that was given up can't be removed");
            }
        }
        drawn
    }

    async fn draw(&self, plan: &Plan, state: &ArchiveState, before: Option<&Root>) -> Result<Drawn, Trouble> {
        let previous = before.map_or([0; 32], |root| root.summary.digest);
        let (directory, first, bytes) = (self.directory.clone(), state.floor, plan.bytes());
        let mut writer = blocking(move || directory.begin(first, previous, bytes)).await?;
        for row in &plan.rows {
            let time = row.time;
            let count = u32::try_from(row.end() - row.position).unwrap_or(u32::MAX);
            writer = blocking(move || writer.row(time, count).map(|()| writer)).await?;
            let places: Vec<_> = row.batches().collect();
            for some in places.chunks(AT_ONCE) {
                let keys: Vec<ItemKey> = some.iter().map(|(_, chain, number, ..)| batch_key(chain, *number)).collect();
                let items = self.lanes().records.get(&keys, self.deadline()).await?;
                let mut batches = Vec::with_capacity(items.len());
                for ((_, chain, number, hash, count), item) in some.iter().zip(items) {
                    batches.push(self.ordered(item, **hash, *count).inspect_err(|_| {
                        tracing::error!(%chain, number, "a batch does not verify: it is not archived");
                    })?);
                }
                // The clock of its writer was ahead: it leaves when its own time has come.
                if let Some(newest) = batches.iter().filter_map(newest).max().filter(|newest| *newest > plan.cutoff) {
                    return Ok(Drawn::Waits(newest.plus(self.retention)));
                }
                let directory = self.directory.clone();
                writer = blocking(move || directory.check_room(0).and_then(|()| put_all(writer, &batches))).await?;
            }
        }
        let directory = self.directory.clone();
        Ok(Drawn::File(blocking(move || directory.finish(writer)).await?))
    }

    /// The batch in `item`, if it is the one that was put in order.
    fn ordered(&self, item: Option<Item>, hash: [u8; 32], count: u32) -> Result<Batch, Failure> {
        let batch = read_sound(&self.lanes().records, item.ok_or_else(|| rejected("batch"))?)?;
        let is_it = batch.header.hash() == hash && batch.header.count == count;
        if is_it { Ok(batch) } else { Err(rejected("header")) }
    }

    /// Reads the file of `summary` and checks it, from the chains' ends before it to those after.
    async fn read_back(&self, summary: Summary, before: Option<Root>) -> Result<Root, Trouble> {
        let entry = super::Entry { first: summary.first, last: summary.last };
        let name = entry.name();
        let (directory, mut chains) = (self.directory.clone(), before.map(|root| root.open).unwrap_or_default());
        let checked = tokio::task::spawn_blocking(move || {
            let checked = directory.check(&entry, &mut chains, Beginning::Strict);
            checked.map(|found| (found, chains))
        });
        let (found, chains) = match checked.await.map_err(io::Error::other)? {
            Ok(checked) => checked,
            Err(Unsound::Io(error)) => return Err(error.into()),
            Err(Unsound::Fault(fault)) => {
                let place = fault.position;
                let problem = fault.problem;
                return Err(Trouble::Problem(format!("{name} does not verify at position {place}: {problem}")));
            }
        };
        if found != summary {
            return Err(Trouble::Problem(format!(
                "{name} is there already and holds something else: it is left as it is"
            )));
        }
        Ok(Root::new(found, chains))
    }

    /// Writes the root, moves the floor and records it, in one transaction.
    async fn take_over(
        &self,
        root: &Root,
        state: ArchiveState,
        fence: Option<&Action>,
    ) -> Result<ArchiveState, Trouble> {
        let Summary { last, records, until, .. } = root.summary;
        let moved = ArchiveState {
            floor: last + 1,
            records: state.records + records,
            until: Some(state.until.unwrap_or(until).max(until)),
            ..state
        };
        let lanes = self.lanes();
        let mut actions = vec![root.put(&lanes.records), moved.put(&lanes.records)];
        actions.extend(fence.cloned());
        match self.log.commit(actions, draft(&root.summary, lanes.clock.now()), self.deadline()).await? {
            Commit::Done(_) => Ok(moved.written()),
            Commit::Conflict { .. } => Err(Failure::from(Reason::WriteConflict).into()),
        }
    }

    /// Deletes what is below the floor.
    async fn delete(&self, mut state: ArchiveState, fence: Option<&Action>) -> Result<(), Failure> {
        let records = &self.lanes().records;
        // Before the last row goes: then this is not come back to.
        let ended = last_root(records, self.deadline()).await?.map(|root| root.ended).unwrap_or_default();
        self.delete_all(ended.keys().map(|chain| (Head::key(chain), SMALL)).collect(), fence).await?;
        while state.deleted < state.floor {
            let row = log::rows(records, state.deleted, 1, self.deadline()).await?.into_iter().next();
            let row = row.filter(|row| row.position < state.floor);
            if let Some(row) = &row {
                self.delete_row(row, fence).await?;
            }
            state.deleted = row.as_ref().map_or(state.floor, LogRow::end);
            let mut actions = vec![state.put(records)];
            actions.extend(row.map(|row| Action::Delete(row.key(), Condition::Any)));
            self.commit(actions, fence).await?;
            state = state.written();
        }
        Ok(())
    }

    /// Deletes what hangs on `row`: first what its batches lead to, then they themselves.
    async fn delete_row(&self, row: &LogRow, fence: Option<&Action>) -> Result<(), Failure> {
        let places: Vec<_> = row.batches().collect();
        let (mut orgs, mut batches) = (BTreeSet::new(), Vec::with_capacity(places.len()));
        for some in places.chunks(AT_ONCE) {
            let keys: Vec<ItemKey> = some.iter().map(|(_, chain, number, ..)| batch_key(chain, *number)).collect();
            let items = self.lanes().records.get_each(&keys, self.deadline()).await?;
            let mut rows = Vec::new();
            for (((position, ..), key), item) in some.iter().zip(keys).zip(items) {
                // One that is gone was deleted after its rows; one that can't be read leaves its
                // rows behind, which lead nowhere.
                let batch = match item {
                    Ok(None) => continue,
                    Ok(Some(item)) => Batch::read(item),
                    Err(_) => None,
                };
                let Some(batch) = batch else {
                    batches.push((key, BATCH_BYTES_MAX));
                    continue;
                };
                batches.push((key, SMALL + batch.records.iter().map(Vec::len).sum::<usize>()));
                let entry = Entry { position: *position, time: row.time, batch: Arc::new(batch) };
                for (org, key) in index::row_keys(&entry) {
                    orgs.insert(org);
                    rows.push((key, SMALL));
                }
            }
            self.delete_all(rows, fence).await?;
        }
        self.delete_empty_days(&orgs, row.time, fence).await?;
        batches.extend(row.runs.iter().map(|run| (run_key(&run.chain, run.first), SMALL)));
        self.delete_all(batches, fence).await
    }

    /// Takes the day of `time` out of the listings of those organizations that have no row of it any
    /// more: the day is over, and none is added.
    async fn delete_empty_days(
        &self,
        orgs: &BTreeSet<OrgId>,
        time: Timestamp,
        fence: Option<&Action>,
    ) -> Result<(), Failure> {
        let day = u64::try_from(time.day()).unwrap_or_default();
        let mut empty = Vec::new();
        for org in orgs {
            let records = &self.lanes().records;
            let (rows, _) = index::rows(records, org, day, Order::Ascending, None, 1, self.deadline()).await?;
            if rows.is_empty() {
                empty.push((index::day_key(org, day), SMALL));
            }
        }
        self.delete_all(empty, fence).await
    }

    /// Deletes items, of each of which it is known how many bytes it has, about.
    async fn delete_all(&self, items: Vec<(ItemKey, usize)>, fence: Option<&Action>) -> Result<(), Failure> {
        let (mut deletes, mut bytes) = (Vec::new(), 0);
        for (key, size) in items {
            if deletes.len() == DELETES || !deletes.is_empty() && bytes + size > DELETE_BYTES {
                self.commit(std::mem::take(&mut deletes), fence).await?;
                bytes = 0;
            }
            deletes.push(Action::Delete(key, Condition::Any));
            bytes += size;
        }
        if !deletes.is_empty() {
            self.commit(deletes, fence).await?;
        }
        Ok(())
    }

    async fn commit(&self, mut actions: Vec<Action>, fence: Option<&Action>) -> Result<(), Failure> {
        actions.extend(fence.cloned());
        self.lanes().commit(actions, self.deadline()).await
    }

    fn lanes(&self) -> &Lanes {
        &self.log.0.lanes
    }
    fn deadline(&self) -> Deadline {
        self.lanes().clock.deadline(STEP)
    }
}

fn put_all(mut writer: FileWriter<BufWriter<File>>, batches: &[Batch]) -> io::Result<FileWriter<BufWriter<File>>> {
    for batch in batches {
        writer.batch(batch)?;
    }
    Ok(writer)
}

/// The time of the newest record.
fn newest(batch: &Batch) -> Option<Timestamp> {
    let records = batch.records.iter().filter_map(|bytes| AuditRecord::read(bytes));
    records.map(|record| record.timestamp()).max()
}

/// Runs `work` where it may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The record of a removal: nobody called.
fn draft(summary: &Summary, now: Timestamp) -> AuditDraft {
    let Summary { first, last, records, digest, .. } = summary;
    let details = BTreeMap::from([
        ("first_position", first.to_string()),
        ("last_position", last.to_string()),
        ("records", records.to_string()),
        ("file_digest", data_encoding::HEXLOWER.encode(digest)),
    ]);
    AuditDraft {
        resource: format!("orgs/{}/audit", OrgId::SYSTEM),
        purpose: "it is older than audit.retention".to_owned(),
        details,
        ..AuditDraft::of_server(OrgId::system(), now, Done::AuditArchive)
    }
}
