//! A page of an organization's events, newest first: what is not indexed yet from the chains, by
//! time, and then the index down from the position that the first page fixed.

use std::time::Duration;

use super::{Event, EventFilter, Source};
use crate::{
    domain::{
        clock::Deadline,
        error::{Failure, Reason},
        ids::OrgId,
    },
    repository::audit::{
        archive::ArchiveState,
        batch::{Batch, ChainId, place, sequence},
        index::{self, IndexRow},
        reader::{self, Unindexed},
    },
    store::Order,
};

/// Index rows whose batches are read at once.
const ROWS_AT_ONCE: usize = 24;
/// Index rows, and batches of the chains' ends, that one page looks at; then it is short. Each end's
/// first batch is not counted, so that a page gets on however many ends there are.
const LOOKS_MAX: usize = 480;
/// Batches of one chain's end that are read at once, at most.
const CHUNK_MAX: u64 = 8;
/// Days of the index that are asked for at once.
const DAYS_AT_ONCE: usize = 64;

/// What a page shall hold.
pub(super) struct Wanted<'a> {
    pub(super) org: &'a OrgId,
    pub(super) filter: &'a EventFilter,
    pub(super) sees: &'a (dyn Fn(&Event) -> bool + Send + Sync),
    pub(super) most: usize,
    pub(super) deadline: Deadline,
}

/// Where a page ended; what its token seals.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Place {
    /// What is left of the chains' ends.
    #[prost(message, repeated, tag = "1")]
    ends: Vec<End>,
    /// The last day of the index that is left; None: every day.
    #[prost(uint64, optional, tag = "2")]
    day: Option<u64>,
    /// The last position that is left.
    #[prost(uint64, tag = "3")]
    position: u64,
    /// In that position's row, the records below this index are left; None: all.
    #[prost(uint32, optional, tag = "4")]
    below: Option<u32>,
}

/// The part of a chain that is left: `from` <= sequence < `below`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct End {
    #[prost(string, tag = "1")]
    chain: String,
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(uint64, tag = "3")]
    below: u64,
}

/// Up to `wanted.most` events from `at` on (None: from the present end), and where to go on; None
/// at the end.
pub(super) async fn page(
    source: &Source,
    wanted: &Wanted<'_>,
    at: Option<Place>,
) -> Result<(Vec<Event>, Option<Place>), Failure> {
    let spare = source.clock.left(wanted.deadline) / 2;
    let at = match at {
        Some(at) => at,
        None => {
            let snapshot = source.audit.snapshot(wanted.deadline).await?;
            let ends = snapshot.unindexed.into_iter().map(End::of).collect();
            Place { ends, day: None, position: snapshot.position, below: None }
        }
    };
    let floor = ArchiveState::load(&source.records, wanted.deadline).await?.floor;
    let looks_max = LOOKS_MAX + at.ends.len();
    let mut walk = Walk { source, wanted, floor, events: Vec::new(), looks: 0, looks_max, spare };
    let next = match walk.ends(at).await? {
        Walked::All(place) => walk.index(place).await?,
        Walked::Until(place) => Some(place),
    };
    Ok((walk.events, next))
}

enum Walked {
    All(Place),
    Until(Place),
}

struct Walk<'a> {
    source: &'a Source,
    wanted: &'a Wanted<'a>,
    /// What is below has left for the archive, though some of it may not be deleted yet.
    floor: u64,
    events: Vec<Event>,
    looks: usize,
    looks_max: usize,
    /// What must be left of the time for the page to look on.
    spare: Duration,
}

impl Walk<'_> {
    /// Takes `event` in; false when the page is full, and the next one begins with it.
    fn take(&mut self, event: Event) -> bool {
        if (self.wanted.sees)(&event) {
            if self.events.len() == self.wanted.most {
                return false;
            }
            self.events.push(event);
        }
        true
    }
    /// Whether the page has looked at enough, or for long enough: a short page now is worth more than
    /// none in time.
    fn is_tired(&self) -> bool {
        self.looks >= self.looks_max || self.source.clock.left(self.wanted.deadline) < self.spare
    }

    async fn ends(&mut self, at: Place) -> Result<Walked, Failure> {
        let mut ends = Vec::new();
        for end in &at.ends {
            let chain = ChainId::parse(&end.chain).ok_or(Reason::InvalidPageToken)?;
            ends.push(Backwards { chain, from: end.from, below: end.below, loaded: Vec::new(), chunk: 1 });
        }
        loop {
            // Only when each has its newest event in hand is it known which one is the newest.
            while ends.iter().any(Backwards::is_wanting) && !self.is_tired() {
                self.load(&mut ends, at.position).await?;
            }
            ends.retain(|end| !end.loaded.is_empty() || end.is_wanting());
            let place = |ends: &[Backwards]| Place { ends: ends.iter().map(Backwards::end).collect(), ..at.clone() };
            if ends.is_empty() {
                return Ok(Walked::All(place(&ends)));
            }
            if ends.iter().any(Backwards::is_wanting) {
                return Ok(Walked::Until(place(&ends)));
            }
            let newest = ends.iter_mut().max_by_key(|end| end.loaded.last().map(Event::time));
            let Some((event, below)) = newest.and_then(|end| Some((end.loaded.pop()?, &mut end.below))) else {
                return Ok(Walked::Until(place(&ends)));
            };
            let sequence = event.sequence;
            if !self.take(event) {
                return Ok(Walked::Until(place(&ends)));
            }
            *below = sequence;
        }
    }

    /// Reads on, at once, of all ends that have nothing in hand. `indexed`: the position up to which the
    /// index went.
    async fn load(&mut self, ends: &mut [Backwards], indexed: u64) -> Result<(), Failure> {
        let mut wanting: Vec<_> = ends.iter_mut().filter(|end| end.is_wanting()).collect();
        let windows: Vec<_> = wanting.iter_mut().map(|end| end.next_window()).collect();
        let mut places = Vec::new();
        for (end, window) in wanting.iter().zip(&windows) {
            places.extend(window.iter().map(|number| (end.chain.clone(), *number)));
        }
        self.looks += places.len();
        let deadline = self.wanted.deadline;
        let batches = reader::batches(&self.source.records, &places, deadline).await?;
        // They stand behind what was indexed: they may have left only once all of that has.
        if batches.iter().any(Option::is_none)
            && ArchiveState::load(&self.source.records, deadline).await?.floor <= indexed + 1
        {
            let missing = places.iter().zip(&batches).filter(|(_, batch)| batch.is_none());
            missing.for_each(|((chain, number), _)| reader::left_out(chain, *number));
        }
        let mut batches = batches.into_iter();
        for (end, window) in wanting.into_iter().zip(windows) {
            end.take_in(self.wanted.org, &window, batches.by_ref().take(window.len()).collect());
        }
        Ok(())
    }

    async fn index(&mut self, mut at: Place) -> Result<Option<Place>, Failure> {
        let Wanted { org, filter, deadline, .. } = self.wanted;
        let records = &self.source.records;
        loop {
            let days = index::days(records, org, Order::Descending, at.day, DAYS_AT_ONCE, *deadline).await?;
            let Some(last) = days.last().map(|day| day.day) else { return Ok(None) };
            for day in days {
                // A record is indexed after it was made: no day before the start's can hold it. The
                // clocks of two servers may differ by less than a day.
                let first = filter.start.map_or(0, |start| u64::try_from(start.day()).unwrap_or_default());
                if day.day + 1 < first {
                    return Ok(None);
                }
                at.day = Some(day.day);
                if filter.end.is_some_and(|end| day.from >= end) {
                    continue;
                }
                if let Some(next) = self.day(&mut at, day.day).await? {
                    return Ok(Some(next));
                }
            }
            match last.checked_sub(1) {
                Some(before) => at.day = Some(before),
                None => return Ok(None),
            }
        }
    }

    /// Walks what is left of one day; Some: the page ended there.
    async fn day(&mut self, at: &mut Place, day: u64) -> Result<Option<Place>, Failure> {
        let Wanted { org, deadline, .. } = self.wanted;
        let records = &self.source.records;
        loop {
            let after = Some(at.position.saturating_add(1));
            let (mut rows, is_more) =
                index::rows(records, org, day, Order::Descending, after, ROWS_AT_ONCE, *deadline).await?;
            let read = rows.len();
            rows.retain(|row| row.position >= self.floor);
            let is_more = is_more && rows.len() == read;
            self.looks += rows.len();
            let places: Vec<_> = rows.iter().map(|row| (row.chain.clone(), row.batch)).collect();
            let batches = reader::batches(records, &places, *deadline).await?;
            if batches.iter().any(Option::is_none) {
                // It may just have left.
                self.floor = ArchiveState::load(records, *deadline).await?.floor;
                let missing = rows.iter().zip(&batches).filter(|(_, batch)| batch.is_none()).map(|(row, _)| row);
                let missing = missing.filter(|row| row.position >= self.floor);
                missing.for_each(|row| reader::left_out(&row.chain, row.batch));
            }
            for (row, batch) in rows.iter().zip(&batches) {
                let below = at.below.filter(|_| row.position == at.position);
                for (batch, index) in batch.iter().flat_map(|batch| left_of(row, below).map(move |it| (batch, it))) {
                    // A forged row may lead to another organization's record: it is not one of ours.
                    let Some(event) = Event::of(org, batch, index.into(), row.position) else { continue };
                    if !self.take(event) {
                        let below = Some(u32::from(index) + 1);
                        return Ok(Some(Place { position: row.position, below, ..at.clone() }));
                    }
                }
                (at.position, at.below) = (row.position.saturating_sub(1), None);
            }
            if !is_more {
                return Ok(None);
            }
            if self.is_tired() {
                return Ok(Some(at.clone()));
            }
        }
    }
}

/// The record indexes of `row` below `below`, largest first.
fn left_of(row: &IndexRow, below: Option<u32>) -> impl Iterator<Item = u16> {
    row.records.iter().rev().copied().filter(move |index| below.is_none_or(|below| u32::from(*index) < below))
}

impl End {
    fn of(unindexed: Unindexed) -> Self {
        let Unindexed { chain, cut, head } = unindexed;
        Self { chain: chain.to_string(), from: sequence(cut + 1, 0), below: sequence(head + 1, 0) }
    }
}

/// A chain's end, read backwards.
struct Backwards {
    chain: ChainId,
    from: u64,
    below: u64,
    /// The organization's events of the batches that were read, the newest last.
    loaded: Vec<Event>,
    /// How many batches are read next: ever more of a chain of which one did not do.
    chunk: u64,
}

impl Backwards {
    /// Whether nothing is loaded and something is left.
    fn is_wanting(&self) -> bool {
        self.loaded.is_empty() && self.from < self.below
    }
    /// The batches that are read next, the newest first.
    fn next_window(&mut self) -> Vec<u64> {
        let (newest, _) = place(self.below.saturating_sub(1));
        let (oldest, _) = place(self.from);
        let oldest = oldest.max(newest.saturating_sub(self.chunk - 1));
        self.chunk = (self.chunk * 2).min(CHUNK_MAX);
        (oldest..=newest).rev().collect()
    }
    /// Takes in what was read of `window`.
    fn take_in(&mut self, org: &OrgId, window: &[u64], batches: Vec<Option<Batch>>) {
        let left = |event: &Event| event.sequence < self.below;
        let events = batches
            .iter()
            .flatten()
            .rev()
            .flat_map(|batch| (0..batch.records.len()).filter_map(|index| Event::of(org, batch, index, 0)));
        self.loaded = events.filter(left).collect();
        if let (true, Some(oldest)) = (self.loaded.is_empty(), window.last()) {
            self.below = sequence(*oldest, 0);
        }
    }
    fn end(&self) -> End {
        End { chain: self.chain.to_string(), from: self.from, below: self.below }
    }
}
