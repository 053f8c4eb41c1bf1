//! Puts batches in order: what each chain has behind the last batch that is in order becomes the next
//! row of the log.

use std::sync::Arc;

use super::{
    batch::{Batch, ChainId, SEGMENT_BATCHES},
    log::{Entry, LogRow, LogState, Run, SEGMENT_POSITIONS, batches_after, open_chains, read_sound, run_key},
    writer::Lanes,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
    },
    repository::{fields::Builder, lease::Lease, records::Expected},
    store::NewItem,
};

/// The most runs of a row: each has its own `P#` item in the row's transaction.
const RUNS_MAX: usize = 90;
/// The most batches of a row: 36 bytes each, and each is held in memory for the index.
const BATCHES_MAX: usize = 512;
/// The most batches of one chain that one tick reads.
const CHAIN_BATCHES_MAX: usize = 64;

/// The sequencer.
#[derive(Debug)]
pub(super) struct Sequencer {
    lanes: Arc<Lanes>,
    /// As it was last written; None after a write that may or may not have happened.
    state: Option<LogState>,
    /// Everything that was recorded before then is in order; None: not known.
    until: Option<Timestamp>,
}

impl Sequencer {
    pub(super) fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes, state: None, until: None }
    }

    /// Appends one row with what is not in order yet; none when everything is.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; WRITE_CONFLICT when the lease is lost.
    pub(super) async fn advance(&mut self, lease: &Lease, deadline: Deadline) -> Result<Vec<Entry>, Failure> {
        let records = &self.lanes.records;
        let mut state = match self.state.take() {
            Some(state) => state,
            None => LogState::load(records, deadline).await?,
        };
        let began = self.lanes.clock.now();
        let open = open_chains(records, deadline).await?;
        let (fresh, is_all) = self.gather(&open, &state, deadline).await?;
        let until = if is_all { Some(began) } else { self.until };
        if fresh.is_empty() {
            (self.state, self.until) = (Some(state), until);
            return Ok(Vec::new());
        }
        let time = self.lanes.clock.now().max(state.time);
        let row = LogRow { position: state.next, time, runs: fresh.iter().map(Fresh::run).collect() };
        let mut actions = vec![lease.check(), row.put(records)];
        let mut position = state.next;
        for run in &row.runs {
            let key = run_key(&run.chain, run.first);
            let length = run.batches.len() as u64;
            let attributes = Builder::new().count("position", position).count("count", length).build();
            actions.push(records.put(NewItem::new(key, attributes), Expected::Absent));
            position += length;
            state.records += run.batches.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
            state.chains.insert(run.chain.clone(), run.first + length - 1);
        }
        // What has left the listing is indexed to its end.
        state.chains.retain(|chain, _| open.contains(chain));
        (state.next, state.time) = (position, time);
        let (put, revision) = state.put(records);
        actions.push(put);
        self.lanes.commit(actions, deadline).await?;
        (self.state, self.until) = (Some(LogState { revision: Some(revision), ..state }), until);
        let batches = fresh.into_iter().flat_map(|fresh| fresh.batches).map(Arc::new);
        Ok((row.position..).zip(batches).map(|(position, batch)| Entry { position, time, batch }).collect())
    }

    /// Everything that was recorded before then is in order; None: not known.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// The batches of each chain that are not in order yet, some of them; and whether all.
    async fn gather(
        &self,
        open: &[ChainId],
        state: &LogState,
        deadline: Deadline,
    ) -> Result<(Vec<Fresh>, bool), Failure> {
        let left = SEGMENT_POSITIONS - state.next % SEGMENT_POSITIONS;
        let mut room = BATCHES_MAX.min(usize::try_from(left).unwrap_or(BATCHES_MAX));
        let (mut fresh, mut is_all) = (Vec::new(), true);
        for chain in open {
            let last = state.chains.get(chain).copied().unwrap_or_default();
            if room == 0 || fresh.len() == RUNS_MAX {
                is_all = false;
                break;
            }
            if self.lanes.head(chain) == Some(last) {
                continue;
            }
            let limit = room.min(CHAIN_BATCHES_MAX);
            let (batches, is_rest) = self.next_batches(chain, last, limit, deadline).await?;
            is_all &= is_rest;
            if !batches.is_empty() {
                room -= batches.len();
                fresh.push(Fresh { chain: chain.clone(), first: last + 1, batches });
            }
        }
        Ok((fresh, is_all))
    }

    /// Some batches behind batch `last`, and whether these are all.
    async fn next_batches(
        &self,
        chain: &ChainId,
        last: u64,
        limit: usize,
        deadline: Deadline,
    ) -> Result<(Vec<Batch>, bool), Failure> {
        let page = self.lanes.records.query(batches_after(chain, last, limit), deadline).await?;
        let found = page.items.len();
        let mut batches = Vec::with_capacity(found);
        for (item, number) in page.items.into_iter().zip(last + 1..) {
            // Nothing behind a batch that is missing or not ours is put in order: verification
            // says where the chain breaks, and other chains go on.
            match read_sound(&self.lanes.records, item) {
                Ok(batch) if batch.header.batch == number => batches.push(batch),
                _ => {
                    tracing::error!(%chain, number, "a batch of the audit log does not verify");
                    break;
                }
            }
        }
        // A full page has more behind it, and a batch that is the last of its segment may have.
        let next = last + 1 + found as u64;
        let is_same_segment = next / SEGMENT_BATCHES == (last + 1) / SEGMENT_BATCHES;
        let is_all = batches.len() == found && found < limit && page.next.is_none() && is_same_segment;
        Ok((batches, is_all))
    }
}

/// Batches of one chain that are not in order yet.
struct Fresh {
    chain: ChainId,
    first: u64,
    batches: Vec<Batch>,
}

impl Fresh {
    fn run(&self) -> Run {
        let batches = self.batches.iter().map(|batch| (batch.header.hash(), batch.header.count)).collect();
        Run { chain: self.chain.clone(), first: self.first, batches }
    }
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;
