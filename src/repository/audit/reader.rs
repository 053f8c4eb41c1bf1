//! What is read of the log: batches by chain, records by place, the end of chains that the index
//! has not reached yet. Every batch that is read is verified, and one that does not verify hides no
//! other: verification is who reports it. Whose records may be seen is the use case's question.

use std::collections::BTreeMap;

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, try_join_all},
    stream,
};

use super::{
    AuditLog, AuditRecord,
    batch::{Batch, BatchKind, ChainId, SEGMENT_BATCHES, batch_key, batch_sort, place, segment_partition, sequence},
    heads::{HEADS, Head},
    index::IndexState,
    log::{CHAINS_AT_ONCE, open_chains, read_position, read_sound, run_sort},
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::OrgId,
    },
    repository::{fields::rejected, records::Records},
    store::{ITEMS_MAX, ItemKey, Order, Query, SortRange},
};

/// One event of an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its chain.
    pub chain: ChainId,
    /// Its sequence in the chain.
    pub sequence: u64,
    /// Its batch's position; 0: not in order yet.
    pub position: u64,
    /// What it says.
    pub record: AuditRecord,
    /// The record, exactly as it was hashed.
    pub bytes: Vec<u8>,
}

impl Event {
    /// Record `index` of `batch`, if it is of `org`.
    #[must_use]
    pub fn of(org: &OrgId, batch: &Batch, index: usize, position: u64) -> Option<Self> {
        let bytes = batch.records.get(index)?;
        let record = AuditRecord::read(bytes).filter(|record| record.org == org.as_str())?;
        let Batch { header, .. } = batch;
        let sequence = sequence(header.batch, index);
        Some(Self { chain: header.chain.clone(), sequence, position, record, bytes: bytes.clone() })
    }
    /// When the call came in.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.record.timestamp()
    }
}

/// Batches of a chain that the index has not reached: `cut` < number <= `head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unindexed {
    /// The chain.
    pub chain: ChainId,
    /// Its last indexed batch; 0: none.
    pub cut: u64,
    /// Its last batch.
    pub head: u64,
}

/// The log at one moment: the index up to `position`, and behind it the chains' ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last indexed position; 0: none.
    pub position: u64,
    /// What is not indexed.
    pub unindexed: Vec<Unindexed>,
}

impl AuditLog {
    /// The log now; every record that was acknowledged before is in it, once. Of a chain whose last
    /// batch does not verify, only what is indexed.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn snapshot(&self, deadline: Deadline) -> Result<Snapshot, Failure> {
        let lanes = &self.0.lanes;
        // The listing before the cuts before the heads: a chain that was there before this began is
        // listed, or indexed to its end by then. One that is listed and not among the cuts is new,
        // or was indexed to its end in between: where its end stands tells.
        let open = open_chains(&lanes.records, deadline).await?;
        let index = IndexState::load(&lanes.records, deadline).await?;
        let position = index.next - 1;
        let mut cuts: BTreeMap<_, _> = index.chains.into_iter().map(|(chain, cut)| (chain, Some(cut))).collect();
        for chain in open {
            cuts.entry(chain).or_default();
        }
        // Those of other servers are looked for, each by a query of its own: several at a time.
        let ends: Vec<_> =
            cuts.into_iter().map(|(chain, cut)| self.unindexed(chain, cut, position, deadline)).collect();
        let unindexed: Vec<_> = stream::iter(ends).buffered(CHAINS_AT_ONCE).try_collect().await?;
        Ok(Snapshot { position, unindexed: unindexed.into_iter().flatten().collect() })
    }

    /// What of `chain` the index up to `indexed` lacks; `cut` is the last batch that it says it has.
    fn unindexed(
        &self,
        chain: ChainId,
        cut: Option<u64>,
        indexed: u64,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Unindexed>, Failure>> {
        Box::pin(async move {
            let head = match self.0.lanes.head(&chain) {
                Some(head) => head,
                None => match self.end_of(&chain, cut, indexed, deadline).await {
                    Ok(head) => head,
                    Err(failure) if failure.reason == Reason::RecordRejected => {
                        tracing::error!(%chain, "the last batch of a chain does not verify");
                        return Ok(None);
                    }
                    Err(failure) => return Err(failure),
                },
            };
            let cut = cut.unwrap_or_default();
            Ok((head > cut).then_some(Unindexed { chain, cut, head }))
        })
    }

    /// The last batch of `chain` that the index up to `position` may lack; 0: it has all.
    async fn end_of(
        &self,
        chain: &ChainId,
        cut: Option<u64>,
        indexed: u64,
        deadline: Deadline,
    ) -> Result<u64, Failure> {
        let records = &self.0.lanes.records;
        let Some(last) = find_head(records, chain, cut.unwrap_or_default(), deadline).await? else { return Ok(0) };
        let number = last.header.batch;
        if cut.is_none() && last.header.kind == BatchKind::Seal {
            let end = position(records, chain, number, deadline).await?;
            return Ok(if (1..=indexed).contains(&end) { 0 } else { number });
        }
        Ok(number)
    }
}

/// The last batch of `chain` beyond `last`; None when there is none.
pub(super) async fn find_head(
    records: &Records,
    chain: &ChainId,
    mut last: u64,
    deadline: Deadline,
) -> Result<Option<Batch>, Failure> {
    let mut head = None;
    loop {
        let query = Query {
            partition: segment_partition(chain, last + 1),
            range: SortRange::Between(batch_sort(last + 1), batch_sort(u64::MAX)),
            order: Order::Descending,
            limit: 1,
            after: None,
        };
        let Some(item) = records.query(query, deadline).await?.items.into_iter().next() else { return Ok(head) };
        let batch = read_sound(records, item)?;
        last = batch.header.batch;
        head = Some(batch);
        if !(last + 1).is_multiple_of(SEGMENT_BATCHES) {
            return Ok(head);
        }
    }
}

/// Batch `batch` of `chain`, if its MAC and its hashes hold.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn batch(
    records: &Records,
    chain: &ChainId,
    batch: u64,
    deadline: Deadline,
) -> Result<Option<Batch>, Failure> {
    let found = records.get(&[batch_key(chain, batch)], deadline).await?.into_iter().flatten().next();
    found.map(|item| read_sound(records, item)).transpose()
}

/// These batches, in order; None in the place of one that is missing or does not verify. Who knows
/// that it has not left for the archive tells with [`left_out`].
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn batches(
    records: &Records,
    places: &[(ChainId, u64)],
    deadline: Deadline,
) -> Result<Vec<Option<Batch>>, Failure> {
    // Two rows of one index never lead to the same batch, but rows can be forged.
    let mut items = BTreeMap::new();
    let mut keys: Vec<ItemKey> = places.iter().map(|(chain, number)| batch_key(chain, *number)).collect();
    keys.sort_unstable();
    keys.dedup();
    let reads = keys.chunks(ITEMS_MAX).map(|keys| records.get_each(keys, deadline));
    for found in try_join_all(reads).await? {
        items.extend(found.into_iter().filter_map(|item| item.ok().flatten()).map(|item| (item.key.clone(), item)));
    }
    let read = |(chain, number): &(ChainId, u64)| {
        items.remove(&batch_key(chain, *number)).and_then(|item| read_sound(records, item).ok())
    };
    Ok(places.iter().map(read).collect())
}

/// Tells the server's log of a batch that a reader leaves out.
pub fn left_out(chain: &ChainId, number: u64) {
    tracing::error!(%chain, number, "a batch of the audit log does not verify: readers leave it out");
}

/// The event at `sequence` of `chain`, if it is of `org`.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn event(
    records: &Records,
    org: &OrgId,
    chain: &ChainId,
    sequence: u64,
    deadline: Deadline,
) -> Result<Option<Event>, Failure> {
    let (number, index) = place(sequence);
    let Some(batch) = batch(records, chain, number, deadline).await? else { return Ok(None) };
    let Some(event) = Event::of(org, &batch, index, 0) else { return Ok(None) };
    Ok(Some(Event { position: position(records, chain, number, deadline).await?, ..event }))
}

/// The position of batch `batch` of `chain`; 0: not in order yet.
async fn position(records: &Records, chain: &ChainId, batch: u64, deadline: Deadline) -> Result<u64, Failure> {
    let query = Query {
        partition: segment_partition(chain, batch),
        range: SortRange::Between(run_sort(0), run_sort(batch)),
        order: Order::Descending,
        limit: 1,
        after: None,
    };
    let Some(item) = records.query(query, deadline).await?.items.into_iter().next() else { return Ok(0) };
    let first: u64 =
        item.key.sort.strip_prefix("P#").and_then(|first| first.parse().ok()).ok_or_else(|| rejected("P#"))?;
    let (position, count) = read_position(records, item)?;
    let behind = batch - first;
    Ok(if behind < count { position + behind } else { 0 })
}

/// What `A#HEADS` says of the chains after `after`, and where to go on.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn heads(
    records: &Records,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<Head>, Option<String>), Failure> {
    let partition = HEADS.to_owned();
    let query = Query { partition, range: SortRange::All, order: Order::Ascending, limit: 1_000, after };
    let page = records.query(query, deadline).await?;
    let rows = page.items.into_iter().filter(|item| Head::is_row(&item.key));
    let head = |item| Head::read(&records.verify(item)?).ok_or_else(|| rejected("sealed"));
    Ok((rows.map(head).collect::<Result<_, Failure>>()?, page.next))
}
