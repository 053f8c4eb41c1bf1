//! What one row of usage holds: cells, each a count for one key, token and client.
//!
//! A row is bounded: cells are taken in the order in which they were first seen, until the room of
//! their kind is used up. What finds no room is counted twice over, in sums that need less: once by
//! its key, for whoever asks by what belongs to keys, and once by its token and client, for whoever
//! asks by these. So 1,000 keys that 1,000 tokens use each are counted exactly by key and by token,
//! and only their pairs run together. The room is taken by what a cell would cost alone, and never
//! given back: which cells are in depends on the order of the log, not on how much of it was folded
//! at once. Records that know their key (it was found) and those that only name it (the call was
//! refused, and anybody can name anything) have rooms of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
};

use prost::Message as _;

use crate::repository::projection::{Use, What};

/// Stands for keys, tokens or clients that found no room; no name of any of these looks so.
pub const OTHER: &str = "(other)";

/// What a count covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A key, token and client.
    #[default]
    Whole,
    /// What found no room, by key: token and client are [`OTHER`].
    OfKey,
    /// The same once more, by token and client: the key is [`OTHER`].
    OfCaller,
}

/// What is counted. Texts are empty where the record does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// What the count covers.
    pub part: Part,
    /// The key's id; empty: the call named none.
    pub key: String,
    /// The key's uid; empty where the call was refused before the key was found.
    pub uid: String,
    /// The key's, as recorded.
    pub provider: String,
    /// The key's, as recorded.
    pub environment: String,
    /// The token's id.
    pub token: String,
    /// The client's identity.
    pub client: String,
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A value may have left.
    pub retrievals: u64,
    /// The caller was refused.
    pub denials: u64,
    /// The caller was let in, and nothing came of it.
    pub failures: u64,
    /// The caller learned that the version he has is the one.
    pub checks: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.retrievals += other.retrievals;
        self.denials += other.denials;
        self.failures += other.failures;
        self.checks += other.checks;
    }
}

impl Counts {
    pub(super) fn of(what: What, count: u64) -> Self {
        let mut counts = Self::default();
        *match what {
            What::Released => &mut counts.retrievals,
            What::Refused => &mut counts.denials,
            What::Failed => &mut counts.failures,
            What::Checked => &mut counts.checks,
        } = count;
        counts
    }
}

/// How many bytes the cells of each kind may take: [`Part`]s of records that know their key, and of
/// those that only name it. Together with their overhead they stay below an item's 400,000.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) known: [usize; 3],
    pub(super) named: [usize; 3],
}

pub(super) const ROOM: Room = Room { known: [120_000, 24_000, 164_000], named: [24_000, 8_000, 16_000] };

/// The most that a cell takes besides its texts: 59 bytes, by [`Stored`], for counts below 2^35.
const CELL_BYTES: usize = 64;

impl Cell {
    pub(super) fn of(used: &Use) -> Self {
        let Use { key, uid, provider, environment, token, client, .. } = used.clone();
        Self { part: Part::Whole, key, uid, provider, environment, token, client }
    }
    fn is_known(&self) -> bool {
        !self.uid.is_empty()
    }
    fn texts(&self) -> [&str; 6] {
        [&self.key, &self.uid, &self.provider, &self.environment, &self.token, &self.client].map(String::as_str)
    }
    fn bytes(&self) -> usize {
        CELL_BYTES + self.texts().iter().filter(|text| **text != OTHER).map(|text| text.len()).sum::<usize>()
    }
    fn of_key(&self) -> Self {
        Self { part: Part::OfKey, token: OTHER.to_owned(), client: OTHER.to_owned(), ..self.clone() }
    }
    fn of_caller(&self) -> Self {
        let uid = if self.is_known() { OTHER } else { "" };
        let [key, uid, provider, environment] = [OTHER, uid, OTHER, OTHER].map(str::to_owned);
        Self { part: Part::OfCaller, key, uid, provider, environment, ..self.clone() }
    }
    /// What stands for every cell of the kind that finds no room.
    fn rest(&self) -> Self {
        let caller = self.of_caller();
        Self { part: self.part, token: OTHER.to_owned(), client: OTHER.to_owned(), ..caller }
    }
}

/// The cells of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cells {
    cells: BTreeMap<Cell, Counts>,
    /// What each kind takes: known, then named.
    taken: [[usize; 3]; 2],
}

impl Cells {
    pub(super) fn into_inner(self) -> BTreeMap<Cell, Counts> {
        self.cells
    }

    /// Counts `whole`, or where there is no room for it the two sums that it is part of.
    pub(super) fn add(&mut self, whole: Cell, counts: Counts, room: &Room) {
        if self.admit(&whole, room) {
            *self.cells.entry(whole).or_default() += counts;
            return;
        }
        for sum in [whole.of_key(), whole.of_caller()] {
            let cell = if self.admit(&sum, room) { sum } else { sum.rest() };
            *self.cells.entry(cell).or_default() += counts;
        }
    }

    fn admit(&mut self, cell: &Cell, room: &Room) -> bool {
        if self.cells.contains_key(cell) {
            return true;
        }
        let rooms = if cell.is_known() { room.known } else { room.named };
        let (Some(taken), Some(room)) = (self.taken_by(cell), rooms.get(cell.part as usize).copied()) else {
            return false;
        };
        let is_admitted = *taken + cell.bytes() <= room;
        if is_admitted {
            *taken += cell.bytes();
        }
        is_admitted
    }

    fn taken_by(&mut self, cell: &Cell) -> Option<&mut usize> {
        self.taken.get_mut(usize::from(!cell.is_known()))?.get_mut(cell.part as usize)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut names: BTreeSet<&str> = self.cells.keys().flat_map(Cell::texts).collect();
        names.insert("");
        let names: Vec<&str> = names.into_iter().collect();
        let at = |text: &str| names.binary_search(&text).ok().and_then(|at| u32::try_from(at).ok()).unwrap_or_default();
        let cells = self.cells.iter().map(|(cell, counts)| {
            let [key, uid, provider, environment, token, client] = cell.texts().map(at);
            let Counts { retrievals, denials, failures, checks } = *counts;
            let part = cell.part as u32;
            StoredCell { part, key, uid, provider, environment, token, client, retrievals, denials, failures, checks }
        });
        let cells = cells.collect();
        Stored { names: names.into_iter().map(str::to_owned).collect(), cells }.encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let Stored { names, cells } = Stored::decode(bytes).ok()?;
        let name = |at: u32| names.get(usize::try_from(at).ok()?).cloned();
        let mut read = Self::default();
        for stored in cells {
            let cell = Cell {
                part: *[Part::Whole, Part::OfKey, Part::OfCaller].get(usize::try_from(stored.part).ok()?)?,
                key: name(stored.key)?,
                uid: name(stored.uid)?,
                provider: name(stored.provider)?,
                environment: name(stored.environment)?,
                token: name(stored.token)?,
                client: name(stored.client)?,
            };
            let StoredCell { retrievals, denials, failures, checks, .. } = stored;
            let is_rest = cell.part != Part::Whole && cell == cell.rest();
            let bytes = if is_rest { 0 } else { cell.bytes() };
            *read.taken_by(&cell)? += bytes;
            read.cells.insert(cell, Counts { retrievals, denials, failures, checks });
        }
        Some(read)
    }
}

/// As the cells are stored: each text once, in order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Stored {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    cells: Vec<StoredCell>,
}

/// One cell; its texts are places among the names.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct StoredCell {
    #[prost(uint32, tag = "1")]
    part: u32,
    #[prost(uint32, tag = "2")]
    key: u32,
    #[prost(uint32, tag = "3")]
    uid: u32,
    #[prost(uint32, tag = "4")]
    provider: u32,
    #[prost(uint32, tag = "5")]
    environment: u32,
    #[prost(uint32, tag = "6")]
    token: u32,
    #[prost(uint32, tag = "7")]
    client: u32,
    #[prost(uint64, tag = "8")]
    retrievals: u64,
    #[prost(uint64, tag = "9")]
    denials: u64,
    #[prost(uint64, tag = "10")]
    failures: u64,
    #[prost(uint64, tag = "11")]
    checks: u64,
}
