//! Which counts a caller may see, and how they are put together: cells in, groups out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Parts, sees_all};
use crate::{
    authz::permit::Permit,
    domain::{
        clock::Deadline,
        error::Failure,
        ids::{Environment, KeyId, OrgId},
        key::{KeyRecord, Labels},
    },
    repository::{
        keys,
        usage::cells::{Cell, Counts, OTHER, Part},
    },
    store::ITEMS_MAX,
};

/// What usage is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The key's full name.
    Key,
    /// The key's provider.
    Provider,
    /// The token's full name.
    Token,
    /// The client certificate's identity.
    Client,
    /// `allowed`, `denied` or `failed`.
    Outcome,
    /// The key's environment.
    Environment,
    /// The value that the key has now of one label.
    Label,
}

impl Dimension {
    /// Its name in an answer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Provider => "provider",
            Self::Token => "token",
            Self::Client => "client",
            Self::Outcome => "outcome",
            Self::Environment => "environment",
            Self::Label => "label",
        }
    }
    fn is_of_keys(self) -> bool {
        matches!(self, Self::Key | Self::Provider | Self::Environment | Self::Label)
    }
}

/// The keys as they are now, as far as cells name them: None, there is none (any more).
#[derive(Debug, Default)]
pub(super) struct Facts(BTreeMap<String, Option<KeyRecord>>);

impl Facts {
    /// Reads the keys of `cells` that are not known yet. One whose record does not verify counts as
    /// gone: what demands more than its name does not cover it.
    pub(super) async fn learn(
        &mut self,
        parts: &Parts,
        org: &OrgId,
        cells: impl Iterator<Item = &Cell>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let named: BTreeSet<&str> = cells.map(|cell| cell.key.as_str()).collect();
        let unknown = named.into_iter().filter(|key| !self.0.contains_key(*key));
        let unknown: Vec<KeyId> = unknown.filter_map(|key| KeyId::parse("key", key).ok()).collect();
        for ids in unknown.chunks(ITEMS_MAX) {
            let metas: Vec<_> = ids.iter().map(|id| keys::meta_key(org, id)).collect();
            let items = parts.records.get_each(&metas, deadline).await?;
            for (id, item) in ids.iter().zip(items) {
                let stored = item.ok().flatten().and_then(|item| keys::open(&parts.records, org, id, item).ok());
                let stored = stored.filter(|stored| !stored.record.is_purged(parts.clock.now()));
                self.0.insert(id.as_str().to_owned(), stored.map(|stored| stored.record));
            }
        }
        Ok(())
    }

    /// The key that a cell is of, if it is still there: a refused call tells no uid, and is counted
    /// for the key that has the name now.
    fn of(&self, cell: &Cell) -> Option<&KeyRecord> {
        let record = self.0.get(&cell.key)?.as_ref()?;
        (cell.uid.is_empty() || cell.uid == record.uid.as_str()).then_some(record)
    }
}

/// How one caller's question is answered.
pub(super) struct Grouping<'a> {
    permit: &'a Permit,
    group_by: &'a [Dimension],
    label_key: &'a str,
    sees_all: bool,
    /// Of what found no room of its own, the sums by key; else those by token and client.
    by_keys: bool,
}

impl<'a> Grouping<'a> {
    pub(super) fn new(permit: &'a Permit, group_by: &'a [Dimension], label_key: &'a str) -> Self {
        let sees_all = sees_all(permit, permit.org());
        let by_keys = !sees_all || group_by.iter().any(|dimension| dimension.is_of_keys());
        Self { permit, group_by, label_key, sees_all, by_keys }
    }

    /// Whether it depends on the keys as they are now.
    pub(super) fn needs_facts(&self) -> bool {
        let is_of_now = |by: &Dimension| matches!(by, Dimension::Provider | Dimension::Environment | Dimension::Label);
        !self.sees_all || self.group_by.iter().any(is_of_now)
    }

    /// The counts that the caller may see, by value.
    pub(super) fn group(&self, cells: &BTreeMap<Cell, Counts>, facts: &Facts) -> BTreeMap<Vec<String>, Counts> {
        let mut groups = BTreeMap::<Vec<String>, Counts>::new();
        for (cell, counts) in cells {
            let is_counted_elsewhere = match cell.part {
                Part::Whole => false,
                Part::OfKey => !self.by_keys,
                Part::OfCaller => self.by_keys,
            };
            let record = facts.of(cell);
            if is_counted_elsewhere || !self.covers(cell, record) {
                continue;
            }
            for (outcome, counts) in self.outcomes(*counts) {
                let values = self.group_by.iter().map(|by| self.value(*by, cell, record, outcome));
                *groups.entry(values.collect()).or_default() += counts;
            }
        }
        groups
    }

    /// What a listing would show of the key, it shows; of a key that is gone, and of calls that
    /// named none, what would be shown of an absent one.
    fn covers(&self, cell: &Cell, record: Option<&KeyRecord>) -> bool {
        if self.sees_all {
            return true;
        }
        if cell.key.is_empty() || cell.key == OTHER {
            return false;
        }
        let name = format!("{}/keys/{}", self.permit.org().full_name(), cell.key);
        match record {
            Some(record) => self.permit.covers(&name, record.environment.as_ref(), &record.labels),
            None => {
                let environment = Environment::parse("environment", &cell.environment).ok();
                self.permit.covers(&name, environment.as_ref(), &Labels::new())
            }
        }
    }

    /// The counts of each outcome apart, where they are asked for so.
    fn outcomes(&self, counts: Counts) -> Vec<(&'static str, Counts)> {
        if !self.group_by.contains(&Dimension::Outcome) {
            return vec![("", counts)];
        }
        let Counts { retrievals, denials, failures, checks } = counts;
        let apart = [
            ("allowed", Counts { retrievals, checks, ..Counts::default() }),
            ("denied", Counts { denials, ..Counts::default() }),
            ("failed", Counts { failures, ..Counts::default() }),
        ];
        apart.into_iter().filter(|(_, counts)| *counts != Counts::default()).collect()
    }

    fn value(&self, by: Dimension, cell: &Cell, record: Option<&KeyRecord>, outcome: &str) -> String {
        let org = self.permit.org().full_name();
        let named = |collection: &str, id: &str| match id {
            "" | OTHER => id.to_owned(),
            id => format!("{org}/{collection}/{id}"),
        };
        match by {
            Dimension::Key => named("keys", &cell.key),
            Dimension::Token => named("tokens", &cell.token),
            Dimension::Client => cell.client.clone(),
            Dimension::Outcome => outcome.to_owned(),
            Dimension::Provider => match record {
                Some(record) => record.provider.to_string(),
                None => cell.provider.clone(),
            },
            Dimension::Environment => match record {
                Some(record) => record.environment.as_ref().map(Environment::to_string).unwrap_or_default(),
                None => cell.environment.clone(),
            },
            Dimension::Label => match record {
                Some(record) => record.labels.get(self.label_key).cloned().unwrap_or_default(),
                None if cell.key == OTHER => OTHER.to_owned(),
                None => String::new(),
            },
        }
    }
}
