use std::time::Duration;

use super::*;
use crate::{
    domain::{
        clock::Timestamp,
        error::Reason,
        ids::Environment,
        key::{AuthScheme, KeyKind, KeyState, RotationPolicy, Stage},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    store::{Page, StoreError, WriteId, Written},
};

/// These tests never come to the store.
#[derive(Debug)]
struct NoStore;

impl crate::store::ItemStore for NoStore {
    fn get<'a>(
        &'a self,
        _: &'a [ItemKey],
        _: Deadline,
    ) -> crate::domain::PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        unreachable!()
    }
    fn query(&self, _: Query, _: Deadline) -> crate::domain::PortFuture<'_, Result<Page, StoreError>> {
        unreachable!()
    }
    fn write(
        &self,
        _: WriteId,
        _: Vec<Action>,
        _: Deadline,
    ) -> crate::domain::PortFuture<'_, Result<Written, StoreError>> {
        unreachable!()
    }
    fn is_exclusive(&self) -> bool {
        true
    }
    fn status(&self, _: Deadline) -> crate::domain::PortFuture<'_, Result<String, StoreError>> {
        unreachable!()
    }
}

fn records() -> Records {
    let key = || MacKey::new(&SecretKey::new([7; 32]));
    Records::new(Arc::new(NoStore), Arc::new(MacRing::new(("k".to_owned(), key()), [])))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn full_version(number: u32) -> Version {
    Version {
        number,
        stage: Stage::Previous,
        preview: "sk-pr...abcd".to_owned(),
        fingerprint: "0123".to_owned(),
        created: at(1),
        verified: Some(at(2)),
        promoted: Some(at(3)),
        retires: Some(at(4)),
        destroyed: Some(at(5)),
        kms_key: "local:1".to_owned(),
        base_url: "https://a.example".to_owned(),
        auth_scheme: AuthScheme {
            header: "x-api-key".to_owned(),
            prefix: "P ".to_owned(),
            extra_headers: [("a".to_owned(), "b".to_owned())].into(),
        },
    }
}

fn full_record() -> KeyRecord {
    let org = OrgId::parse("org", "acme").unwrap();
    KeyRecord {
        name: KeyName::parse("name", "openai-prod", &org).unwrap(),
        uid: Uid::stored("uid"),
        org_uid: Uid::stored("org-uid"),
        provider: crate::domain::ids::ProviderId::parse("provider", "openai").unwrap(),
        kind: KeyKind::Tripwire,
        environment: Some(Environment::parse("environment", "production").unwrap()),
        state: KeyState::Deleted,
        base_url: "https://b.example".to_owned(),
        auth_scheme: AuthScheme::default(),
        description: "d".to_owned(),
        labels: [("team".to_owned(), "x".to_owned())].into(),
        models: vec!["gpt-4o".to_owned(), "o3".to_owned()],
        rotation: RotationPolicy {
            period: Some(Duration::from_secs(3_600)),
            next: Some(at(6)),
            grace: Some(Duration::from_secs(60)),
        },
        created: at(7),
        updated: at(8),
        expires: Some(at(9)),
        deleted: Some(at(10)),
        purges: Some(at(11)),
        versions: vec![full_version(6), full_version(7)],
        first_version: 2,
        last_version: 9,
        revision: 3,
    }
}

/// The item that a store would make of the put.
fn stored(action: Action) -> Item {
    let Action::Put(item, condition) = action else { panic!("no put") };
    let revision = match condition {
        Condition::Absent => 1,
        Condition::Revision(revision) => revision + 1,
        other => panic!("{other:?} signs no revision"),
    };
    Item {
        key: item.key,
        revision,
        expires: item.expires,
        sealed: item.sealed,
        mac: item.mac,
        attributes: item.attributes,
    }
}

#[test]
fn a_key_and_a_version_come_back_as_they_were_written() {
    let (records, record) = (records(), full_record());
    let item = stored(put(&records, &record, Some(vec![1, 2])));
    let opened = open(&records, &record.name.org, &record.name.id, item).unwrap();
    assert_eq!(opened, StoredKey { record: KeyRecord { revision: 4, ..record.clone() }, sealed: Some(vec![1, 2]) });

    let version = StoredVersion {
        key_uid: record.uid.clone(),
        version: full_version(7),
        evidence: "GET /v1/models 200".to_owned(),
        sealed: None,
        revision: 0,
    };
    let item = stored(put_version(&records, &record.name, &version));
    let opened = open_version(&records, &record, 7, item).unwrap();
    assert_eq!(opened, StoredVersion { revision: 1, ..version });
}

#[test]
fn a_record_in_another_place_is_rejected() {
    let (records, record) = (records(), full_record());
    let item = stored(put(&records, &record, None));
    let other = KeyId::parse("key", "other").unwrap();
    assert_eq!(open(&records, &record.name.org, &other, item.clone()).unwrap_err().reason, Reason::RecordRejected);
    let moved = Item { key: meta_key(&record.name.org, &other), ..item };
    assert_eq!(open(&records, &record.name.org, &other, moved).unwrap_err().reason, Reason::RecordRejected);
}

#[test]
fn a_version_of_an_earlier_key_of_the_name_is_rejected() {
    let (records, record) = (records(), full_record());
    let version = StoredVersion {
        key_uid: Uid::stored("another"),
        version: full_version(7),
        evidence: String::new(),
        sealed: None,
        revision: 0,
    };
    let item = stored(put_version(&records, &record.name, &version));
    assert_eq!(open_version(&records, &record, 7, item).unwrap_err().reason, Reason::RecordRejected);
}

#[test]
fn only_routes_that_change_are_written() {
    let before = full_record();
    let after = KeyRecord { models: vec!["o3".to_owned(), "gpt-5".to_owned()], ..before.clone() };
    let keys: Vec<_> = lookup::change_routes(&before, &after).iter().map(|a| a.key().partition.clone()).collect();
    assert_eq!(keys, ["O#acme#R#model:gpt-4o", "O#acme#R#model:gpt-5"]);
    assert!(matches!(lookup::change_routes(&before, &after)[0], Action::Delete(..)));
}

#[test]
fn the_largest_record_stays_below_48_kilobytes() {
    let long = |n: usize| "x".repeat(n);
    let scheme = AuthScheme {
        header: long(64),
        prefix: long(32),
        extra_headers: (0..4).map(|i| (format!("{i}{}", long(63)), long(256))).collect(),
    };
    let version = Version {
        fingerprint: long(32),
        kms_key: long(100),
        base_url: long(256),
        auth_scheme: scheme.clone(),
        ..full_version(1)
    };
    let record = KeyRecord {
        base_url: long(256),
        auth_scheme: scheme,
        description: long(1_024),
        labels: (0..32).map(|i| (format!("{i:02}{}", long(61)), long(255))).collect(),
        models: (0..32).map(|i| format!("{i:02}{}", long(98))).collect(),
        versions: vec![version; 8],
        ..full_record()
    };
    let Action::Put(item, _) = put(&records(), &record, Some(vec![0; 16_384 + 400])) else { panic!() };
    let bytes = size(&item.attributes) + item.sealed.unwrap().len();
    assert!(bytes <= 48 << 10, "{bytes}");
}

fn size(attributes: &crate::store::Attributes) -> usize {
    use crate::store::Value;
    fn of(value: &Value) -> usize {
        match value {
            Value::Text(text) => text.len(),
            Value::Int(_) | Value::Bool(_) => 8,
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.iter().map(of).sum(),
            Value::Map(map) => size(map),
        }
    }
    attributes.iter().map(|(name, value)| name.len() + of(value)).sum()
}
