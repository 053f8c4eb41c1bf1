//! One key of a file, before it is sent; and the fields that the formats share.

use std::{collections::BTreeMap, time::Duration};

use ibyok_client::{ProviderKey, pb};

use super::Problem;
use crate::{args::parse_pair, time};

/// The names of the fields, the first two required; others than these are refused.
pub(super) const FIELDS: [&str; 11] = [
    "name",
    "secret",
    "provider",
    "environment",
    "description",
    "labels",
    "models",
    "base_url",
    "kind",
    "rotate_every",
    "ttl",
];

/// A key to be imported.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) line: u64,
    pub(super) id: String,
    /// Of a `.env` file: the variable.
    pub(super) variable: String,
    pub(super) secret: Option<ProviderKey>,
    pub(super) provider: String,
    pub(super) environment: String,
    pub(super) description: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) models: Vec<String>,
    pub(super) base_url: String,
    pub(super) kind: pb::KeyKind,
    pub(super) rotate_every: Option<Duration>,
    pub(super) ttl: Option<Duration>,
}

impl Record {
    /// Sets the field `name`, one of [`FIELDS`], from text. Labels are `a=b;c=d`, models `a;b`.
    pub(super) fn set(&mut self, name: &'static str, text: &str) -> Result<(), Problem> {
        let problem = |problem: &str| Problem::new(self.line, Some(name), problem);
        let plain = text.trim();
        match name {
            "name" if plain.is_empty() => return Err(problem("is empty")),
            "name" => plain.clone_into(&mut self.id),
            // As it is, white space too: the vault warns of it.
            "secret" => self.secret = (!text.is_empty()).then(|| ProviderKey::new(text.to_owned())),
            "provider" => plain.clone_into(&mut self.provider),
            "environment" => plain.clone_into(&mut self.environment),
            "description" => plain.clone_into(&mut self.description),
            "base_url" => plain.clone_into(&mut self.base_url),
            "labels" => {
                let labels = parts(plain).map(parse_pair).collect::<Result<_, _>>();
                self.labels = labels.map_err(|_| problem("is not NAME=VALUE;NAME=VALUE"))?;
            }
            "models" => self.models = parts(plain).map(str::to_owned).collect(),
            "kind" => {
                self.kind = match plain {
                    "" => pb::KeyKind::Unspecified,
                    "live" => pb::KeyKind::Live,
                    "provider-admin" | "provider_admin" => pb::KeyKind::ProviderAdmin,
                    "tripwire" => pb::KeyKind::Tripwire,
                    _ => return Err(problem("is not live, provider-admin or tripwire")),
                }
            }
            "rotate_every" => self.rotate_every = span(plain).map_err(|()| problem("is no duration, as 90d is"))?,
            _ => self.ttl = span(plain).map_err(|()| problem("is no duration, as 90d is"))?,
        }
        Ok(())
    }

    /// Everything but the secret, in an order that stays.
    pub(super) fn public_parts(&self) -> Vec<String> {
        let span = |span: Option<Duration>| span.map(|span| span.as_secs().to_string()).unwrap_or_default();
        let labels = self.labels.iter().flat_map(|(name, value)| [name.clone(), value.clone()]);
        [self.id.clone(), self.provider.clone(), self.environment.clone(), self.description.clone()]
            .into_iter()
            .chain([self.base_url.clone(), (self.kind as i32).to_string(), span(self.rotate_every), span(self.ttl)])
            .chain([self.labels.len().to_string()])
            .chain(labels)
            .chain(self.models.iter().cloned())
            .collect()
    }

    /// As the wire has it; the secret is copied, since it may have to be sent again.
    pub(super) fn wire(&self) -> pb::CreateKeyRequest {
        pb::CreateKeyRequest {
            key_id: self.id.clone(),
            secret: self.secret.as_ref().map(|secret| pb::SecretValue { text: secret.expose_secret().to_owned() }),
            provider: self.provider.clone(),
            base_url: self.base_url.clone(),
            description: self.description.clone(),
            labels: self.labels.clone().into_iter().collect(),
            models: self.models.clone(),
            rotation: self
                .rotate_every
                .map(|period| pb::RotationPolicy { period: Some(time::wire(period)), ..Default::default() }),
            ttl: self.ttl.map(time::wire),
            environment: self.environment.clone(),
            kind: self.kind.into(),
            ..Default::default()
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty())
}

fn span(text: &str) -> Result<Option<Duration>, ()> {
    if text.is_empty() { Ok(None) } else { time::parse_duration(text).map(Some).map_err(|_| ()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_reaches_the_wire() {
        let mut record = Record { line: 2, ..Default::default() };
        for (name, text) in [
            ("name", " openai-prod "),
            ("secret", " canary "),
            ("provider", "openai"),
            ("environment", "production"),
            ("description", "a key"),
            ("labels", "team=search; tier=1"),
            ("models", "gpt-*;o3"),
            ("base_url", "https://example.com"),
            ("kind", "tripwire"),
            ("rotate_every", "90d"),
            ("ttl", "1h"),
        ] {
            record.set(name, text).unwrap();
        }
        let wire = record.wire();
        assert_eq!((wire.key_id.as_str(), wire.secret.as_ref().unwrap().text.as_str()), ("openai-prod", " canary "));
        assert_eq!(wire.labels.get("tier").map(String::as_str), Some("1"));
        assert_eq!((wire.models.len(), wire.kind()), (2, pb::KeyKind::Tripwire));
        assert_eq!(wire.rotation.and_then(|rotation| rotation.period).map(|period| period.seconds), Some(7_776_000));
        assert_eq!(wire.ttl.map(|ttl| ttl.seconds), Some(3_600));
        assert!(!format!("{record:?}").contains("canary"));
    }

    #[test]
    fn what_can_not_be_is_named_without_its_value() {
        let mut record = Record { line: 7, ..Default::default() };
        for (name, text) in [("name", " "), ("labels", "canary"), ("kind", "canary"), ("ttl", "canary")] {
            let problem = record.set(name, text).unwrap_err();
            assert_eq!((problem.line, problem.field.as_deref()), (7, Some(name)));
            assert!(!problem.problem.contains("canary"));
        }
    }
}
