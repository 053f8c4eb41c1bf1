//! The provider table: routes, key shapes, model patterns, made-up keys. One data file, which a
//! configuration extends; it advises and never refuses.

use std::{collections::BTreeMap, error::Error as StdError};

use regex::bytes::Regex;

use super::{
    ids::ProviderId,
    key::{AuthScheme, KeyKind},
    secret::ProviderKey,
};

mod advice;
mod mock;
mod table;

pub use advice::Warning;

/// How sure a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// The shape fits, and others' would, too.
    Low,
    /// It begins like that provider's, but the whole shape is new.
    High,
    /// The whole shape is that provider's alone.
    Certain,
}

impl Confidence {
    /// For answers and metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "LOW",
            Self::High => "HIGH",
            Self::Certain => "CERTAIN",
        }
    }
}

/// A provider that a key or a model may belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub provider: ProviderId,
    /// How sure.
    pub confidence: Confidence,
    /// By which rule of the table.
    pub rule: String,
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its id.
    pub id: ProviderId,
    /// For people.
    pub display_name: String,
    /// Where it answers; empty: set for each key.
    pub base_url: String,
    /// How it wants to be shown its key.
    pub auth_scheme: AuthScheme,
    /// Where its SDK looks for the key.
    pub env_var: String,
    /// Model ids, with `*` at the end.
    pub models: Vec<String>,
    /// Whether entries without a key are taken.
    pub is_secret_optional: bool,
    mock: String,
}

/// The table is not one.
#[derive(Debug, thiserror::Error)]
#[error("the provider table can't be read: {0}")]
pub struct TableError(#[source] Box<dyn StdError + Send + Sync>);

/// The provider table.
#[derive(Debug)]
pub struct Providers {
    rows: BTreeMap<ProviderId, Provider>,
    /// In the order in which they are tried.
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    providers: Vec<ProviderId>,
    prefix: String,
    whole: Regex,
    rule: String,
    is_certain: bool,
    kind: Option<KeyKind>,
    warning: Option<Warning>,
    is_last: bool,
}

impl Providers {
    /// The embedded table and `extra`, TOML of the same form.
    ///
    /// # Errors
    /// When `extra` can't be read, or names a provider that there is no row of.
    pub fn load(extra: Option<&str>) -> Result<Self, TableError> {
        table::load(extra)
    }
    /// Every provider, by id.
    pub fn all(&self) -> impl Iterator<Item = &Provider> {
        self.rows.values()
    }
    /// One provider.
    #[must_use]
    pub fn get(&self, id: &ProviderId) -> Option<&Provider> {
        self.rows.get(id)
    }
    /// Whose key this may be: the one certain provider, else the likeliest first.
    #[must_use]
    pub fn detect_secret(&self, secret: &ProviderKey) -> Vec<Candidate> {
        let text = secret.expose_secret().trim();
        if let Some(pattern) = self.certain(text) {
            return pattern.candidates(Confidence::Certain).collect();
        }
        let hinted = self.hinted(text).into_iter().flat_map(|pattern| pattern.candidates(Confidence::High));
        let fits =
            self.patterns.iter().filter(|pattern| !pattern.is_certain && pattern.whole.is_match(text.as_bytes()));
        let mut candidates: Vec<Candidate> = Vec::new();
        for candidate in hinted.chain(fits.flat_map(|pattern| pattern.candidates(Confidence::Low))) {
            if !candidates.iter().any(|known| known.provider == candidate.provider) {
                candidates.push(candidate);
            }
        }
        candidates
    }
    /// Whose model this may be: the providers with the longest pattern that fits.
    #[must_use]
    pub fn detect_model(&self, model: &str) -> Vec<Candidate> {
        let fits: Vec<(&Provider, &String)> = self
            .rows
            .values()
            .flat_map(|row| row.models.iter().map(move |pattern| (row, pattern)))
            .filter(|(_, pattern)| fits_model(pattern, model))
            .collect();
        let longest = fits.iter().map(|(_, pattern)| pattern.len()).max().unwrap_or(0);
        let best: Vec<_> = fits.into_iter().filter(|(_, pattern)| pattern.len() == longest).collect();
        let confidence = if best.len() == 1 { Confidence::High } else { Confidence::Low };
        best.into_iter()
            .map(|(row, pattern)| Candidate { provider: row.id.clone(), confidence, rule: pattern.clone() })
            .collect()
    }
    /// The kind that a key of this shape has, where its shape says so.
    #[must_use]
    pub fn kind_of(&self, secret: &ProviderKey) -> Option<KeyKind> {
        let text = secret.expose_secret().trim();
        self.certain(text).or_else(|| self.hinted(text)).and_then(|pattern| pattern.kind)
    }
    /// A made-up key of `provider`'s shape for that name and version: always the same, and it
    /// says MOCK.
    #[must_use]
    pub fn mock_value(&self, provider: &ProviderId, name: &str, version: u32) -> String {
        let template = self.rows.get(provider).map_or(mock::DEFAULT, |row| row.mock.as_str());
        mock::value(template, name, version)
    }

    fn certain(&self, text: &str) -> Option<&Pattern> {
        self.patterns.iter().find(|pattern| pattern.is_certain && pattern.whole.is_match(text.as_bytes()))
    }
    /// The pattern with the longest prefix that `text` begins with.
    fn hinted(&self, text: &str) -> Option<&Pattern> {
        let mut hints = self.patterns.iter().filter(|pattern| !pattern.prefix.is_empty());
        hints.find(|pattern| text.starts_with(&pattern.prefix))
    }
}

impl Pattern {
    fn candidates(&self, confidence: Confidence) -> impl Iterator<Item = Candidate> {
        self.providers.iter().map(move |provider| Candidate {
            provider: provider.clone(),
            confidence,
            rule: self.rule.clone(),
        })
    }
}

fn fits_model(pattern: &str, model: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => model.starts_with(prefix),
        None => model == pattern,
    }
}

#[cfg(test)]
mod tests;
