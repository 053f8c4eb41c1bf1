//! Recomputes the whole log: the roots of what has left for the archive, then every MAC, leaf, root,
//! header and seal of what is left, in the log's order, and then the chains' ends that are not in
//! order yet. Stops at the first break.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    archive::{self, ArchiveState, format::Chains},
    batch::{Batch, BatchKind, ChainId, batch_key, sequence},
    heads::Head,
    log::{self, LogRow, LogState, read_position, run_key},
    reader::{find_head, heads},
    tree::Hash,
};
use crate::{
    domain::{
        clock::{Clock, Deadline},
        error::{Failure, Reason},
    },
    repository::records::Records,
    store::{ITEMS_MAX, Item, ItemKey},
};

/// Batches that are read at once: at most 4 MB.
const AT_ONCE: usize = 16;
/// What is wrong with a batch that the store can't read.
const UNREADABLE: &str = "the batch can't be read";
/// How long one read may take.
const READ: Duration = Duration::from_secs(5);

/// Where and why the log does not verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The chain; None when it is the order itself.
    pub chain: Option<ChainId>,
    /// The first sequence of the batch that is bad.
    pub sequence: u64,
    /// For people.
    pub problem: &'static str,
}

/// How a verification stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So far everything holds.
    Going,
    /// Everything holds.
    Intact,
    /// The first thing that does not.
    Broken(Break),
}

#[derive(Clone, Copy, Debug, Default)]
struct ChainState {
    last: u64,
    previous: Hash,
    is_sealed: bool,
}

#[derive(Debug)]
enum Phase {
    /// Nothing is known yet.
    Beginning,
    /// The roots of the archive.
    Roots(Roots),
    /// In the log's order, from this position on.
    Order(u64),
    /// The chains' ends, from this row of `A#HEADS` on.
    Ends(Option<String>),
}

/// How far the roots have been followed.
#[derive(Debug, Default)]
struct Roots {
    /// The first position of the last one.
    after: Option<u64>,
    last: u64,
    records: u64,
    digest: Hash,
}

/// A verification of the log as it is when it begins.
#[derive(Debug)]
pub struct Verifier {
    records: Records,
    clock: Arc<dyn Clock>,
    /// Records that were checked.
    pub checked: u64,
    /// Records that are known to be there.
    pub total: u64,
    /// The first position that is checked: what is before has left for the archive.
    pub first: u64,
    /// Records that have left.
    pub archived: u64,
    end: u64,
    phase: Phase,
    chains: BTreeMap<ChainId, ChainState>,
    /// Chains that ended in the last file of the archive: their rows may still be there.
    ended: Chains,
    announced: usize,
}

/// A break, or a failure that says nothing about the log.
enum Stop {
    Broken(Break),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn broken(chain: &ChainId, batch: u64, problem: &'static str) -> Stop {
    Stop::Broken(Break { chain: Some(chain.clone()), sequence: sequence(batch, 0), problem })
}

fn order_broken(problem: &'static str) -> Stop {
    Stop::Broken(Break { chain: None, sequence: 0, problem })
}

/// What is rejected is a break; what is not read is a failure.
fn or_broken(problem: &'static str) -> impl Fn(Failure) -> Stop {
    move |failure| if failure.reason == Reason::RecordRejected { order_broken(problem) } else { failure.into() }
}

impl Verifier {
    /// Begins.
    #[must_use]
    pub fn new(records: Records, clock: Arc<dyn Clock>) -> Self {
        Self {
            records,
            clock,
            checked: 0,
            total: 0,
            first: 1,
            archived: 0,
            end: 0,
            phase: Phase::Beginning,
            chains: BTreeMap::new(),
            ended: Chains::new(),
            announced: 0,
        }
    }

    /// Checks some more. When some of the log has left meanwhile, it may begin again.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE: nothing is known then.
    pub async fn step(&mut self) -> Result<Step, Failure> {
        let ended = match &mut self.phase {
            Phase::Beginning => self.begin().await,
            Phase::Roots(roots) => {
                let roots = std::mem::take(roots);
                self.check_roots(roots).await
            }
            Phase::Order(next) => {
                let next = *next;
                self.check_row(next).await
            }
            Phase::Ends(after) => {
                let after = after.take();
                self.check_ends(after).await
            }
        };
        match ended {
            Ok(true) => Ok(Step::Intact),
            Ok(false) => Ok(Step::Going),
            Err(Stop::Broken(at)) => self.unless_it_left(at).await,
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    fn deadline(&self) -> Deadline {
        self.clock.deadline(READ)
    }

    async fn begin(&mut self) -> Result<bool, Stop> {
        let archive = ArchiveState::load(&self.records, self.deadline()).await;
        let archive = archive.map_err(or_broken("the record of how much has left for the archive does not verify"))?;
        let state = LogState::load(&self.records, self.deadline()).await;
        let state = state.map_err(or_broken("the record of how far the order goes does not verify"))?;
        (self.first, self.archived) = (archive.floor, archive.records);
        if state.next < archive.floor || state.records < archive.records {
            return Err(order_broken("more has left for the archive than was ever put in order"));
        }
        (self.end, self.total) = (state.next, state.records - archive.records);
        self.phase = Phase::Roots(Roots::default());
        Ok(false)
    }

    /// Checks that the roots lead from position 1 to what is left, and takes over how the chains
    /// stand after the last.
    async fn check_roots(&mut self, mut at: Roots) -> Result<bool, Stop> {
        let roots = archive::roots(&self.records, at.after, self.deadline()).await;
        let roots = roots.map_err(or_broken("a root of the archive does not verify"))?;
        let is_end = roots.is_empty();
        for root in roots {
            let found = &root.summary;
            if found.first != at.last + 1 || found.last < found.first || found.previous != at.digest {
                return Err(order_broken("a root of the archive is missing"));
            }
            let records = at.records + found.records;
            at = Roots { after: Some(found.first), last: found.last, records, digest: found.digest };
            let state = |end: archive::format::ChainEnd| ChainState {
                last: end.last,
                previous: end.hash,
                is_sealed: end.is_sealed,
            };
            self.chains = root.open.into_iter().map(|(chain, end)| (chain, state(end))).collect();
            self.ended = root.ended;
        }
        if !is_end {
            self.phase = Phase::Roots(at);
            return Ok(false);
        }
        if at.last + 1 != self.first || at.records != self.archived {
            return Err(order_broken("a root of the archive is missing"));
        }
        self.phase = Phase::Order(self.first);
        Ok(false)
    }

    /// Begins again when the floor has moved: what seemed broken may have left.
    async fn unless_it_left(&mut self, at: Break) -> Result<Step, Failure> {
        match ArchiveState::load(&self.records, self.deadline()).await {
            Ok(archive) if archive.floor > self.first => {
                *self = Self::new(self.records.clone(), Arc::clone(&self.clock));
                Ok(Step::Going)
            }
            Err(failure) if failure.reason != Reason::RecordRejected => Err(failure),
            _ => Ok(Step::Broken(at)),
        }
    }

    async fn check_row(&mut self, next: u64) -> Result<bool, Stop> {
        if next >= self.end {
            self.phase = Phase::Ends(None);
            return Ok(false);
        }
        let rows = log::rows(&self.records, next, 1, self.deadline()).await;
        let row = rows.map_err(or_broken("a row of the order does not verify"))?.into_iter().next();
        let Some(row) = row.filter(|row| row.position == next) else {
            return Err(order_broken("a row of the order is missing"));
        };
        self.check_runs(&row).await?;
        self.check_batches(&row).await?;
        self.phase = Phase::Order(row.end());
        Ok(false)
    }

    /// Checks the items that lead from the chains' batches to their positions.
    async fn check_runs(&self, row: &LogRow) -> Result<(), Stop> {
        let keys: Vec<ItemKey> = row.runs.iter().map(|run| run_key(&run.chain, run.first)).collect();
        let mut position = row.position;
        for (runs, keys) in row.runs.chunks(ITEMS_MAX).zip(keys.chunks(ITEMS_MAX)) {
            let items = self.records.get_each(keys, self.deadline()).await?;
            for (run, item) in runs.iter().zip(items) {
                let said = item.and_then(|item| item.map(|item| read_position(&self.records, item)).transpose());
                let count = run.batches.len() as u64;
                if said.ok().flatten() != Some((position, count)) {
                    return Err(broken(&run.chain, run.first, "the batch's position does not verify"));
                }
                position += count;
            }
        }
        Ok(())
    }

    async fn check_batches(&mut self, row: &LogRow) -> Result<(), Stop> {
        let batches: Vec<_> = row.batches().collect();
        for some in batches.chunks(AT_ONCE) {
            let keys: Vec<ItemKey> = some.iter().map(|(_, chain, number, ..)| batch_key(chain, *number)).collect();
            let items = self.records.get_each(&keys, self.deadline()).await?;
            for ((_, chain, number, hash, count), item) in some.iter().zip(items) {
                let item = item.map_err(|_| broken(chain, *number, UNREADABLE))?;
                let Some(item) = item else { return Err(broken(chain, *number, "the batch is missing")) };
                let batch = self.check_batch(chain, *number, item)?;
                if batch.header.hash() != **hash || batch.header.count != *count {
                    return Err(broken(chain, *number, "the batch is not the one that was put in order"));
                }
            }
        }
        Ok(())
    }

    /// Checks batch `number` of `chain`, which must be the next.
    fn check_batch(&mut self, chain: &ChainId, number: u64, item: Item) -> Result<Batch, Stop> {
        let state = self.chains.entry(chain.clone()).or_default();
        let problem = |problem| Err(broken(chain, number, problem));
        if number != state.last + 1 {
            return problem("the order leaves batches of the chain out");
        }
        let Ok(item) = self.records.verify(item) else { return problem("the batch's MAC does not hold") };
        let Some(batch) = Batch::read(item.into_item()) else { return problem("the item is not that batch") };
        if !batch.is_sound() {
            return problem("the batch's records are not those that were hashed");
        }
        if batch.header.previous != state.previous {
            return problem("the batch does not follow the one before it");
        }
        if state.is_sealed {
            return problem("the batch stands behind the chain's seal");
        }
        *state =
            ChainState { last: number, previous: batch.header.hash(), is_sealed: batch.header.kind == BatchKind::Seal };
        self.checked += u64::from(batch.header.count);
        self.total = self.total.max(self.checked);
        Ok(batch)
    }

    async fn check_ends(&mut self, after: Option<String>) -> Result<bool, Stop> {
        let page = heads(&self.records, after, self.deadline()).await;
        let (heads, next) = page.map_err(or_broken("the row of a chain does not verify"))?;
        for head in heads {
            self.announced += 1;
            self.check_end(head).await?;
        }
        if next.is_some() {
            self.phase = Phase::Ends(next);
            return Ok(false);
        }
        // Every announced chain has a state by now; one more was put in order without a row.
        if self.chains.len() > self.announced {
            return Err(order_broken("the row of a chain is missing"));
        }
        Ok(true)
    }

    /// Checks what of a chain is not in order yet, and its seal.
    async fn check_end(&mut self, head: Head) -> Result<(), Stop> {
        let Head { chain, sealed, .. } = head;
        let before = self.ended.get(&chain).map(|end| ChainState {
            last: end.last,
            previous: end.hash,
            is_sealed: end.is_sealed,
        });
        self.chains.entry(chain.clone()).or_insert_with(|| before.unwrap_or_default());
        let mut beyond = 0;
        loop {
            let last = self.chains.get(&chain).map_or(0, |state| state.last);
            let keys: Vec<ItemKey> = (last + 1..).take(AT_ONCE).map(|number| batch_key(&chain, number)).collect();
            let items = self.records.get_each(&keys, self.deadline()).await?;
            for (item, number) in items.into_iter().map_while(Result::transpose).zip(last + 1..) {
                self.check_batch(&chain, number, item.map_err(|_| broken(&chain, number, UNREADABLE))?)?;
            }
            let state = self.chains.get(&chain).copied().unwrap_or_default();
            if state.last < beyond.min(last + AT_ONCE as u64) {
                return Err(broken(&chain, state.last + 1, "the batch is missing"));
            }
            if state.last == last + AT_ONCE as u64 || state.last < beyond {
                continue;
            }
            // Batches come in order: where there is a later one, the next one was there before it.
            let head = find_head(&self.records, &chain, state.last, self.deadline()).await;
            let head = head.map_err(or_broken("the last batch of a chain does not verify"))?;
            match head {
                Some(head) => beyond = head.header.batch,
                None => return check_seal(&chain, state, sealed),
            }
        }
    }
}

fn check_seal(chain: &ChainId, state: ChainState, sealed: Option<u64>) -> Result<(), Stop> {
    let problem = |problem| Err(broken(chain, state.last + 1, problem));
    match sealed {
        Some(seal) if !state.is_sealed || state.last != seal => problem("the chain does not end with its seal"),
        _ if state.last == 0 => problem("the chain has no batch"),
        _ => Ok(()),
    }
}
