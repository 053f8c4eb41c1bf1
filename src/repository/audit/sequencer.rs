//! Puts batches in order: what each chain has behind the last batch that is in order becomes the next
//! row of the log.

use std::{pin::pin, sync::Arc};

use futures_util::{StreamExt as _, future::BoxFuture, stream};

use super::{
    batch::{Batch, ChainId, SEGMENT_BATCHES},
    log::{
        CHAINS_AT_ONCE, Entry, LogRow, LogState, Run, SEGMENT_POSITIONS, batches_after, open_chains, read_sound,
        run_key,
    },
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
/// The most batches of one chain that one row takes.
const CHAIN_BATCHES_MAX: usize = 64;

/// The sequencer.
#[derive(Debug)]
pub(super) struct Sequencer {
    lanes: Arc<Lanes>,
    /// As it was last written; None after a write that may or may not have happened.
    state: Option<LogState>,
    /// The round through all chains that the last row did not end.
    round: Option<Round>,
    /// Everything that was recorded before then is in order; None: not known.
    until: Option<Timestamp>,
}

/// One way through all open chains, which may take several rows.
#[derive(Clone, Debug)]
struct Round {
    began: Timestamp,
    /// The last chain that was asked.
    behind: Option<ChainId>,
    /// Whether all that the chains asked so far had is in order.
    is_all: bool,
}

/// What one row put in order.
#[derive(Debug)]
pub(super) struct Advanced {
    pub(super) entries: Vec<Entry>,
    /// Whether there may be more to put in order at once.
    pub(super) is_more: bool,
}

impl Sequencer {
    pub(super) fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes, state: None, round: None, until: None }
    }

    /// Appends one row with what is not in order yet; none when nothing was found. The chains that it
    /// did not come to, for want of time or room, the next one begins with.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; WRITE_CONFLICT when the lease is lost.
    pub(super) async fn advance(&mut self, lease: &Lease, deadline: Deadline) -> Result<Advanced, Failure> {
        let records = &self.lanes.records;
        let mut state = match self.state.take() {
            Some(state) => state,
            None => LogState::load(records, deadline).await?,
        };
        let began = self.lanes.clock.now();
        let round = self.round.take().unwrap_or(Round { began, behind: None, is_all: true });
        let open = open_chains(records, deadline).await?;
        let Gathered { runs: fresh, round, is_more } = self.gather(&open, &state, round, deadline).await?;
        let is_whole = round.behind.is_none();
        let until = if is_whole && round.is_all { Some(round.began) } else { self.until };
        let round = (!is_whole).then_some(round);
        if fresh.is_empty() {
            (self.state, self.round, self.until) = (Some(state), round, until);
            return Ok(Advanced { entries: Vec::new(), is_more });
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
        (self.state, self.round, self.until) = (Some(LogState { revision: Some(revision), ..state }), round, until);
        let batches = fresh.into_iter().flat_map(|fresh| fresh.batches).map(Arc::new);
        let entries = (row.position..).zip(batches).map(|(position, batch)| Entry { position, time, batch }).collect();
        Ok(Advanced { entries, is_more })
    }

    /// Everything that was durable before then, by this server's clock, is in order; None: not known. A
    /// record that was under way then has an earlier time of its own and comes later.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// What the chains that `round` has not come to have behind what is in order, some of it.
    async fn gather(
        &self,
        open: &[ChainId],
        state: &LogState,
        mut round: Round,
        deadline: Deadline,
    ) -> Result<Gathered, Failure> {
        let left = SEGMENT_POSITIONS - state.next % SEGMENT_POSITIONS;
        let mut room = BATCHES_MAX.min(usize::try_from(left).unwrap_or(BATCHES_MAX));
        // The other half is for the write.
        let half = self.lanes.clock.left(deadline) / 2;
        let behind = round.behind.take();
        let asked = open.iter().filter(|chain| behind.as_ref().is_none_or(|behind| *chain > behind));
        let asked: Vec<_> = asked.map(|chain| self.ask(chain, state, deadline)).collect();
        let mut asked = pin!(stream::iter(asked).buffered(CHAINS_AT_ONCE));
        let (mut runs, mut is_more, mut last) = (Vec::<Fresh>::new(), false, None);
        while let Some(answer) = asked.next().await {
            let (mut fresh, rest) = answer?;
            if !fresh.batches.is_empty() && (room == 0 || runs.len() == RUNS_MAX) {
                round.behind = last;
                break;
            }
            let is_cut = fresh.batches.len() > room;
            fresh.batches.truncate(room);
            room -= fresh.batches.len();
            round.is_all &= rest == Rest::Nothing && !is_cut;
            is_more |= rest == Rest::More || is_cut;
            last = Some(fresh.chain.clone());
            if !fresh.batches.is_empty() {
                runs.push(fresh);
            }
            if self.lanes.clock.left(deadline) < half {
                round.behind = last;
                break;
            }
        }
        is_more |= round.behind.is_some();
        Ok(Gathered { runs, round, is_more })
    }

    /// Some batches of `chain` behind what is in order.
    fn ask<'a>(
        &'a self,
        chain: &'a ChainId,
        state: &LogState,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(Fresh, Rest), Failure>> {
        let last = state.chains.get(chain).copied().unwrap_or_default();
        Box::pin(async move {
            let (batches, rest) = match self.lanes.head(chain) {
                Some(head) if head == last => (Vec::new(), Rest::Nothing),
                _ => self.next_batches(chain, last, deadline).await?,
            };
            Ok((Fresh { chain: chain.clone(), first: last + 1, batches }, rest))
        })
    }

    /// Some batches behind batch `last`, and what is behind them.
    async fn next_batches(
        &self,
        chain: &ChainId,
        last: u64,
        deadline: Deadline,
    ) -> Result<(Vec<Batch>, Rest), Failure> {
        let page = self.lanes.records.query(batches_after(chain, last, CHAIN_BATCHES_MAX), deadline).await?;
        let found = page.items.len();
        let mut batches = Vec::with_capacity(found);
        for (item, number) in page.items.into_iter().zip(last + 1..) {
            // Nothing behind a batch that is missing or not ours is put in order: verification
            // says where the chain breaks, and other chains go on.
            match read_sound(&self.lanes.records, item) {
                Ok(batch) if batch.header.batch == number => batches.push(batch),
                _ => {
                    tracing::error!(%chain, number, "a batch of the audit log does not verify");
                    return Ok((batches, Rest::Broken));
                }
            }
        }
        // A full page has more behind it, and a batch that is the last of its segment may have.
        let next = last + 1 + found as u64;
        let is_same_segment = next / SEGMENT_BATCHES == (last + 1) / SEGMENT_BATCHES;
        let is_end = found < CHAIN_BATCHES_MAX && page.next.is_none() && is_same_segment;
        Ok((batches, if is_end { Rest::Nothing } else { Rest::More }))
    }
}

/// What a way through the chains brought.
struct Gathered {
    runs: Vec<Fresh>,
    /// Where it ended.
    round: Round,
    is_more: bool,
}

/// What a chain has behind the batches that were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    More,
    /// A batch that does not verify: what is behind it is never put in order.
    Broken,
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
