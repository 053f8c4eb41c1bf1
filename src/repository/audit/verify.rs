//! Recomputes the whole log: every MAC, leaf, root, header and seal, in the log's order, and then
//! the chains' ends that are not in order yet. Stops at the first break.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
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
    /// In the log's order, from this position on.
    Order(u64),
    /// The chains' ends, from this row of `A#HEADS` on.
    Ends(Option<String>),
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
    end: u64,
    phase: Phase,
    chains: BTreeMap<ChainId, ChainState>,
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
        let phase = Phase::Order(0);
        Self { records, clock, checked: 0, total: 0, end: 0, phase, chains: BTreeMap::new(), announced: 0 }
    }

    /// Checks some more.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE: nothing is known then.
    pub async fn step(&mut self) -> Result<Step, Failure> {
        let ended = match &mut self.phase {
            Phase::Order(0) => self.begin().await,
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
            Err(Stop::Broken(at)) => Ok(Step::Broken(at)),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    fn deadline(&self) -> Deadline {
        self.clock.deadline(READ)
    }

    async fn begin(&mut self) -> Result<bool, Stop> {
        let state = LogState::load(&self.records, self.deadline()).await;
        let state = state.map_err(or_broken("the record of how far the order goes does not verify"))?;
        (self.end, self.total, self.phase) = (state.next, state.records, Phase::Order(1));
        Ok(false)
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
        self.chains.entry(chain.clone()).or_default();
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
