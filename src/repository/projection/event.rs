//! What the projections see of a record: read where it lies, since every record of the log passes
//! here and few of its bytes count. It agrees with [`AuditRecord::read`](crate::repository::audit::AuditRecord::read),
//! which copies.

use prost::encoding::decode_varint;

use crate::domain::{
    audit::{Action, Outcome},
    clock::Timestamp,
};

/// The longest client identity that a projection keeps, in bytes: a longer one is cut.
const CLIENT_MAX: usize = 255;

/// The parts of a record that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) org: &'a str,
    pub(super) time: Timestamp,
    action: &'a str,
    outcome: u64,
    resource: &'a str,
    pub(super) subject: &'a str,
    pub(super) token: &'a str,
    client: &'a str,
    pub(super) uid: &'a str,
    pub(super) provider: &'a str,
    pub(super) environment: &'a str,
    version: &'a str,
}

/// What a record says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::repository) enum What {
    /// Its value may have left.
    Released,
    /// The caller learned that the version he has is the one.
    Checked,
    /// The caller was refused.
    Refused,
    /// He was let in, and it did not work.
    Failed,
}

impl<'a> Event<'a> {
    /// The record of these bytes; None when they are not one.
    pub(super) fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let mut event = Self::default();
        while !bytes.is_empty() {
            match field(&mut bytes)? {
                (2, Value::Bytes(org)) => event.org = text(org)?,
                (3, Value::Bytes(time)) => event.time = read_time(time)?,
                (4, Value::Bytes(action)) => event.action = text(action)?,
                (5, Value::Number(outcome)) => event.outcome = outcome,
                (7, Value::Bytes(resource)) => event.resource = text(resource)?,
                (8, Value::Bytes(subject)) => event.subject = text(subject)?,
                (9, Value::Bytes(token)) => event.token = text(token)?,
                (10, Value::Bytes(client)) => event.client = text(client)?,
                (15, Value::Bytes(detail)) => event.read_detail(detail)?,
                _ => {}
            }
        }
        Some(event)
    }

    fn read_detail(&mut self, mut bytes: &'a [u8]) -> Option<()> {
        let (mut name, mut value) = ("", "");
        while !bytes.is_empty() {
            match field(&mut bytes)? {
                (1, Value::Bytes(bytes)) => name = text(bytes)?,
                (2, Value::Bytes(bytes)) => value = text(bytes)?,
                _ => {}
            }
        }
        match name {
            "uid" => self.uid = value,
            "provider" => self.provider = value,
            "environment" => self.environment = value,
            "version" => self.version = value,
            _ => {}
        }
        Some(())
    }

    /// What it says of a key; None: nothing that is counted. Mock values are none of a key's.
    pub(super) fn what(&self) -> Option<What> {
        let is = |action: Action| self.action == action.as_str();
        let ended = |outcome| u64::try_from(crate::repository::audit::outcome_number(outcome)) == Ok(self.outcome);
        if is(Action::KeyRetrieveFailed) {
            return Some(What::Failed);
        }
        if is(Action::KeyCheck) {
            return ended(Outcome::Allowed).then_some(What::Checked);
        }
        if !is(Action::KeyRetrieve) && !is(Action::KeyAcquire) {
            return None;
        }
        [(Outcome::Allowed, What::Released), (Outcome::Denied, What::Refused), (Outcome::Failed, What::Failed)]
            .into_iter()
            .find_map(|(outcome, what)| ended(outcome).then_some(what))
    }

    /// The key of its own organization that it names, which need not exist; empty: none.
    pub(super) fn key(&self) -> &'a str {
        let rest = self.resource.strip_prefix("orgs/").and_then(|rest| rest.strip_prefix(self.org));
        let key = rest.and_then(|rest| rest.strip_prefix("/keys/")).and_then(|rest| rest.split('/').next());
        key.unwrap_or_default()
    }

    /// The version that it names; 0: none.
    pub(super) fn version(&self) -> u32 {
        self.version.parse().unwrap_or_default()
    }

    /// The client's identity.
    pub(super) fn client(&self) -> &'a str {
        self.client.get(..self.client.floor_char_boundary(CLIENT_MAX)).unwrap_or_default()
    }
}

/// A value as it stands on the wire.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The next field (Protocol Buffers, "Encoding"): its number and value; None when it is none.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = decode_varint(bytes).ok()?;
    let length = match key & 7 {
        0 => return Some((key >> 3, Value::Number(decode_varint(bytes).ok()?))),
        1 => 8,
        2 => usize::try_from(decode_varint(bytes).ok()?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((key >> 3, Value::Bytes(value)))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn read_time(mut bytes: &[u8]) -> Option<Timestamp> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Value::Number(number)) => seconds = number.cast_signed(),
            (2, Value::Number(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    Some(Timestamp::from_micros(Timestamp::from_seconds(seconds).micros().saturating_add(nanos / 1_000)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::repository::audit::{AuditRecord, RecordTime};

    fn record() -> AuditRecord {
        AuditRecord {
            salt: vec![1; 16],
            org: "acme".into(),
            time: Some(RecordTime { seconds: 1_700_000_000, nanos: 123_456_000 }),
            action: Action::KeyRetrieve.as_str().into(),
            outcome: 1,
            resource: "orgs/acme/keys/openai/versions/7".into(),
            subject: "svc".into(),
            token_id: "0".repeat(32),
            client_identity: "é".repeat(200),
            user_agent: "agent".into(),
            details: BTreeMap::from(
                [("version", "7"), ("uid", "u"), ("provider", "openai"), ("environment", "prod")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned())),
            ),
            revision: 5,
            ..AuditRecord::default()
        }
    }

    #[test]
    fn it_reads_what_the_record_says() {
        let record = record();
        let bytes = record.encode_to_vec();
        let event = Event::read(&bytes).unwrap();
        assert_eq!((event.org, event.time), ("acme", record.timestamp()));
        assert_eq!((event.key(), event.version(), event.uid), ("openai", 7, "u"));
        assert_eq!((event.subject, event.token), ("svc", record.token_id.as_str()));
        assert_eq!((event.provider, event.environment), ("openai", "prod"));
        assert_eq!(event.client(), "é".repeat(127));
        assert_eq!(event.what(), Some(What::Released));
    }

    #[test]
    fn what_counts_depends_on_action_and_outcome() {
        let what = |action: Action, outcome| {
            let bytes = AuditRecord { action: action.as_str().into(), outcome, ..record() }.encode_to_vec();
            Event::read(&bytes).unwrap().what()
        };
        assert_eq!(what(Action::KeyRetrieve, 2), Some(What::Refused));
        assert_eq!(what(Action::KeyAcquire, 3), Some(What::Failed));
        assert_eq!(what(Action::KeyRetrieveFailed, 3), Some(What::Failed));
        assert_eq!(what(Action::KeyCheck, 1), Some(What::Checked));
        assert_eq!(what(Action::KeyRetrieveMock, 1), None);
        assert_eq!(what(Action::KeyUpdate, 1), None);
        assert_eq!(what(Action::KeyRetrieve, 9), None);
    }

    #[test]
    fn a_foreign_resource_is_no_key_of_ours() {
        for resource in ["orgs/globex/keys/k", "orgs/acme/tokens/t", "orgs/acmes/keys/k", ""] {
            let bytes = AuditRecord { resource: resource.into(), ..record() }.encode_to_vec();
            assert_eq!(Event::read(&bytes).unwrap().key(), "", "{resource}");
        }
    }

    proptest! {
        #[test]
        fn what_is_no_record_is_read_by_neither(at in 0_usize..300, byte in any::<u8>(), len in 0_usize..400) {
            let mut bytes = record().encode_to_vec();
            if let Some(here) = bytes.get_mut(at) {
                *here = byte;
            }
            bytes.truncate(len);
            if let Some(record) = AuditRecord::read(&bytes) {
                let event = Event::read(&bytes).unwrap();
                prop_assert_eq!(event.org, record.org);
                prop_assert_eq!(event.token, record.token_id);
                prop_assert_eq!(event.subject, record.subject);
                prop_assert_eq!(event.resource, record.resource);
            }
        }
    }
}
