//! Reads the provider table.

use std::{cmp::Reverse, collections::BTreeMap};

use regex::bytes::RegexBuilder;
use serde::Deserialize;

use super::{Pattern, Provider, Providers, TableError, Warning, mock};
use crate::domain::{
    ids::ProviderId,
    key::{AuthScheme, KeyKind},
};

const EMBEDDED: &str = include_str!("providers.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    provider: Vec<ProviderRow>,
    #[serde(default)]
    pattern: Vec<PatternRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderRow {
    id: String,
    name: String,
    base_url: String,
    #[serde(default = "authorization")]
    header: String,
    #[serde(default = "bearer")]
    prefix: String,
    #[serde(default)]
    extra_headers: BTreeMap<String, String>,
    #[serde(default)]
    env_var: String,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    secret: Presence,
    #[serde(default)]
    mock: Option<String>,
}

#[derive(Deserialize, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Presence {
    #[default]
    Required,
    Optional,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternRow {
    provider: Vec<String>,
    #[serde(default)]
    prefix: String,
    regex: String,
    rule: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    warning: Option<String>,
    #[serde(default)]
    ambiguous: bool,
    #[serde(default)]
    last: bool,
}

fn authorization() -> String {
    "authorization".to_owned()
}
fn bearer() -> String {
    "Bearer ".to_owned()
}

pub(super) fn load(extra: Option<&str>) -> Result<Providers, TableError> {
    let mut rows = BTreeMap::new();
    let mut patterns = Vec::new();
    for text in [Some(EMBEDDED), extra].into_iter().flatten() {
        let table: Table = toml::from_str(text).map_err(|error| TableError(Box::new(error)))?;
        for row in table.provider {
            let row = provider(row)?;
            rows.insert(row.id.clone(), row);
        }
        for row in table.pattern {
            patterns.push(pattern(row)?);
        }
    }
    if let Some(pattern) = patterns.iter().find(|pattern| !pattern.providers.iter().all(|id| rows.contains_key(id))) {
        return Err(TableError(format!("the pattern {} names a provider without a row", pattern.rule).into()));
    }
    patterns.sort_by_key(|pattern| (pattern.is_last, Reverse(pattern.prefix.len())));
    Ok(Providers { rows, patterns })
}

fn provider(row: ProviderRow) -> Result<Provider, TableError> {
    let mock = row.mock.unwrap_or_else(|| mock::DEFAULT.to_owned());
    if !mock.contains("MOCK") {
        return Err(TableError(format!("the mock of {} does not say MOCK", row.id).into()));
    }
    Ok(Provider {
        id: id(&row.id)?,
        display_name: row.name,
        base_url: row.base_url,
        auth_scheme: AuthScheme { header: row.header, prefix: row.prefix, extra_headers: row.extra_headers },
        env_var: row.env_var,
        models: row.models,
        is_secret_optional: row.secret == Presence::Optional,
        mock,
    })
}

fn pattern(row: PatternRow) -> Result<Pattern, TableError> {
    // Without Unicode, `\w` and `\d` mean what the formats' authors meant.
    let whole = RegexBuilder::new(&format!(r"\A(?:{})\z", row.regex)).unicode(false).build();
    let whole = whole.map_err(|error| TableError(Box::new(error)))?;
    let unknown = |what: &str| TableError(format!("the pattern {} has an unknown {what}", row.rule).into());
    let kind = row.kind.as_deref().map(|text| KeyKind::from_text(text).ok_or_else(|| unknown("kind")));
    let warning = row.warning.as_deref().map(|text| Warning::from_code(text).ok_or_else(|| unknown("warning")));
    Ok(Pattern {
        is_certain: row.provider.len() == 1 && !row.ambiguous,
        providers: row.provider.iter().map(|text| id(text)).collect::<Result<_, _>>()?,
        prefix: row.prefix,
        whole,
        kind: kind.transpose()?,
        warning: warning.transpose()?,
        is_last: row.last,
        rule: row.rule,
    })
}

fn id(text: &str) -> Result<ProviderId, TableError> {
    ProviderId::parse("provider", text).map_err(|error| TableError(Box::new(error)))
}
