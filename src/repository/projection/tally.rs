//! Records added up in memory: one pass over them serves every projection, and what is used again
//! and again costs one look each time. How often a use was seen is kept by position, so that a row
//! that has part of it already takes the rest.

use std::collections::HashMap;

use super::event::{Event, What};
use crate::{
    domain::{clock::Timestamp, framing, ids::OrgId},
    repository::audit::log::Entry,
};

const HOUR_MICROS: i64 = 3_600_000_000;

/// One way in which keys are used, as far as any projection tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::repository) struct Use {
    pub(in crate::repository) org: String,
    pub(in crate::repository) what: What,
    /// The key's id; empty: none was named. A refused one need not exist.
    pub(in crate::repository) key: String,
    /// The key's uid; empty where the record does not say.
    pub(in crate::repository) uid: String,
    pub(in crate::repository) provider: String,
    pub(in crate::repository) environment: String,
    /// 0: none.
    pub(in crate::repository) version: u32,
    pub(in crate::repository) subject: String,
    pub(in crate::repository) token: String,
    pub(in crate::repository) client: String,
    /// Hours since the Unix epoch.
    pub(in crate::repository) hour: i64,
}

/// When something was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::repository) struct Seen {
    /// How often in the batch at each position, rising; none of tokens.
    counts: Vec<(u64, u64)>,
    /// Its last record: position, and index in the batch.
    pub(in crate::repository) last: (u64, u32),
    /// The time of that record.
    pub(in crate::repository) last_time: Timestamp,
    /// The latest time of any.
    pub(in crate::repository) latest: Timestamp,
}

/// A token that records name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::repository) struct TokenUse {
    pub(in crate::repository) org: String,
    pub(in crate::repository) token: String,
}

/// Records added up, in the order in which each use was first seen.
#[derive(Debug, Default)]
pub(in crate::repository) struct Tally {
    uses: Group<Use>,
    tokens: Group<TokenUse>,
    /// How many counts all uses keep.
    counts: usize,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Group<T> {
    places: HashMap<Box<[u8]>, usize>,
    found: Vec<(T, Seen)>,
}

impl Tally {
    /// Every use.
    pub(in crate::repository) fn uses(&self) -> impl Iterator<Item = (&Use, &Seen)> {
        self.uses.found.iter().map(|(used, seen)| (used, seen))
    }
    /// Every token.
    pub(in crate::repository) fn tokens(&self) -> impl Iterator<Item = (&TokenUse, &Seen)> {
        self.tokens.found.iter().map(|(used, seen)| (used, seen))
    }
    /// How much there is, for who bounds it.
    pub(super) fn len(&self) -> usize {
        self.uses.found.len() + self.tokens.found.len()
    }

    /// How many counts are kept, for the same.
    pub(super) fn counts(&self) -> usize {
        self.counts
    }

    /// Adds a batch; batches come in order of their positions.
    pub(super) fn take(&mut self, entry: &Entry) {
        self.take_records(&entry.batch.records, entry.position);
    }

    pub(super) fn take_records(&mut self, records: &[Vec<u8>], position: u64) {
        for (bytes, index) in records.iter().zip(0_u32..) {
            if let Some(event) = Event::read(bytes) {
                self.add(&event, (position, index));
            }
        }
    }

    fn add(&mut self, event: &Event<'_>, place: (u64, u32)) {
        if !event.token.is_empty() {
            let make = || TokenUse { org: event.org.to_owned(), token: event.token.to_owned() };
            frame(&mut self.scratch, [event.org, event.token]);
            // Nobody asks how often.
            self.tokens.add(&self.scratch, event, place, make);
        }
        let Some(what) = event.what() else { return };
        let (version, hour) = (event.version(), event.time.micros().div_euclid(HOUR_MICROS));
        let (key, client) = (event.key(), event.client());
        let Event { org, subject, token, uid, provider, environment, .. } = *event;
        frame(&mut self.scratch, [org, key, uid, provider, environment, subject, token, client]);
        self.scratch.push(what as u8);
        self.scratch.extend(version.to_be_bytes());
        self.scratch.extend(hour.to_be_bytes());
        let seen = self.uses.add(&self.scratch, event, place, || Use {
            org: org.to_owned(),
            what,
            key: key.to_owned(),
            uid: uid.to_owned(),
            provider: provider.to_owned(),
            environment: environment.to_owned(),
            version,
            subject: subject.to_owned(),
            token: token.to_owned(),
            client: client.to_owned(),
            hour,
        });
        if seen.is_some_and(|seen| seen.count(place.0)) {
            self.counts += 1;
        }
    }
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { places: HashMap::new(), found: Vec::new() }
    }
}

impl<T> Group<T> {
    fn add(
        &mut self,
        name: &[u8],
        event: &Event<'_>,
        place: (u64, u32),
        make: impl FnOnce() -> T,
    ) -> Option<&mut Seen> {
        let at = match self.places.get(name) {
            Some(at) => *at,
            // A record that names no organization belongs to nobody's rows.
            None if OrgId::parse("org", event.org).is_err() => return None,
            None => {
                self.places.insert(name.into(), self.found.len());
                self.found.push((make(), Seen::default()));
                self.found.len() - 1
            }
        };
        let (_, seen) = self.found.get_mut(at)?;
        seen.add(event.time, place);
        Some(seen)
    }
}

impl Seen {
    fn add(&mut self, time: Timestamp, place: (u64, u32)) {
        self.latest = if self.last == (0, 0) { time } else { self.latest.max(time) };
        (self.last, self.last_time) = (place, time);
    }
    /// Counts it once at `position`; whether that is one count more to keep.
    fn count(&mut self, position: u64) -> bool {
        match self.counts.last_mut() {
            Some((last, count)) if *last == position => {
                *count += 1;
                false
            }
            _ => {
                self.counts.push((position, 1));
                true
            }
        }
    }
    /// How often it was seen at positions beyond `position`.
    pub(in crate::repository) fn count_after(&self, position: u64) -> u64 {
        self.counts.iter().rev().take_while(|(at, _)| *at > position).map(|(_, count)| count).sum()
    }
}

fn frame<const N: usize>(into: &mut Vec<u8>, texts: [&str; N]) {
    into.clear();
    texts.iter().for_each(|text| framing::push(into, text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        domain::audit::Action,
        repository::audit::{AuditRecord, RecordTime},
    };

    #[test]
    fn a_count_is_kept_for_each_use_and_batch_and_none_for_tokens() {
        let record = AuditRecord {
            org: "acme".into(),
            time: Some(RecordTime { seconds: 1_700_000_000, nanos: 0 }),
            action: Action::KeyRetrieve.as_str().into(),
            outcome: 1,
            resource: "orgs/acme/keys/openai".into(),
            token_id: "0".repeat(32),
            ..AuditRecord::default()
        };
        let records = vec![record.encode_to_vec(); 3];
        let mut tally = Tally::default();
        for position in 1..=5 {
            tally.take_records(&records, position);
        }
        assert_eq!((tally.len(), tally.counts()), (2, 5));
        assert_eq!(tally.uses().map(|(_, seen)| seen.count_after(2)).collect::<Vec<_>>(), [9]);
        assert!(tally.tokens().all(|(_, seen)| seen.counts.is_empty() && seen.last == (5, 2)));
    }
}
