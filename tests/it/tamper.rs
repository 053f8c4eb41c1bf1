//! What the database's writer changes is refused: every bit of every sealed value and of every
//! record that has a MAC, whole items in other places, older items under newer revisions. What he
//! replays is consistent, and is found by comparing revisions with the log.
//!
//! Bits are flipped in the database's own rows and read back as the vault reads them. In SQLite's file:
//! every bit of one record of each kind, and of each other record one bit of every byte, in turn the
//! first to the eighth. In a table: each attribute is changed, given another type and taken out, and
//! some of those bits are flipped.

use std::collections::{BTreeMap, BTreeSet};

use ibyok::{
    domain::{
        error::{Class, Failure, Reason},
        ids::{KeyId, OrgId, Uid},
        key::KeyRecord,
    },
    envelope::{Purpose, SealContext, SealedValue},
    repository::{fields::Fields as _, keys},
    store::{Item, ItemKey},
};

use crate::harness::{ADMIN, ORG, Place, Vault, reason};

mod door;
mod kinds;
pub mod raw;
pub mod stock;

use kinds::{Guard, kind_of, kinds};
use raw::{Attributes, Raw, Row, leaf_by_leaf};
use stock::{Opened, soon};

/// A filled vault's database.
async fn stocked() -> (crate::harness::Home, Opened) {
    let vault = Vault::start().await;
    stock::fill(&vault).await;
    let home = vault.stop().await;
    let opened = Opened::of(&home).await;
    stock::archive(&home, &opened).await;
    (home, opened)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_is_of_a_known_kind_and_guarded_as_it_says() {
    let (_home, opened) = stocked().await;
    let kinds = kinds();
    let mut seen = BTreeSet::new();
    for row in opened.raw.rows().await {
        let kind = kind_of(&kinds, &row.partition, &row.sort);
        let place = format!("{}: {} / {}", kind.name, row.partition, row.sort);
        assert_eq!(row.mac.is_some(), kind.guard != Guard::Nothing, "{place}");
        assert!(row.sealed.is_none() || kind.guard == Guard::MacAndSeal, "{place}");
        if row.sealed.is_some() || kind.guard != Guard::MacAndSeal {
            seen.insert(kind.name);
        }
        if row.mac.is_some() {
            opened.verify(&row.key()).await.unwrap();
        }
    }
    // A chain's row leaves the listing of open ones once the chain is indexed to its end.
    let comes_and_goes = |name: &str| name == "audit open chain";
    let mut missing = kinds.iter().map(|kind| kind.name).filter(|name| !seen.contains(name) && !comes_and_goes(name));
    assert_eq!(missing.next(), None, "the stock has none of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bit_of_a_record_can_be_flipped() {
    let (home, opened) = stocked().await;
    let kinds = kinds();
    let mut rows: Vec<_> = opened.raw.rows().await.into_iter().filter(|row| row.mac.is_some()).collect();
    // The representative of a kind shall have everything: a sealed value, an expiry; and be small.
    rows.sort_by_key(|row| (row.sealed.is_none(), row.expires.is_none(), row.attributes.size()));
    let mut refusals = Refusals::default();
    let mut represented = BTreeSet::new();
    for row in &rows {
        let every_bit = represented.insert(kind_of(&kinds, &row.partition, &row.sort).name);
        for flipped in flips(row, every_bit) {
            opened.raw.put(&flipped).await;
            let refusal = opened.verify(&row.key()).await;
            refusals.take(refusal, Reason::RecordRejected, || format!("{row:?}\nbecame\n{flipped:?}"));
        }
        opened.raw.put(row).await;
        opened.verify(&row.key()).await.unwrap();
    }
    refusals.assert_one_error(match home.place() {
        Place::File(_) => 10_000,
        Place::Table { .. } => 3_000,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bit_of_a_sealed_value_can_be_flipped() {
    let (_home, opened) = stocked().await;
    let mut refusals = Refusals::default();
    let values = sealed_values(&opened).await;
    for (index, value) in values.iter().enumerate() {
        value.open(&opened, &value.sealed).await.unwrap();
        let kms_key = value.kms_key_id();
        for (at, bit) in bits(value.sealed.len(), index == 0) {
            let mut flipped = value.sealed.clone();
            flipped[at] ^= 1 << bit;
            let refusal = value.open(&opened, &flipped).await;
            // The name of the KMS key is no secret and opens nothing: another name is an unknown
            // key, which ops must be able to tell from a damaged value. Behind the record's MAC,
            // where every caller stands, it is the one error, as the test above shows.
            let expected = if kms_key.contains(&at) && utf8(&flipped[kms_key.clone()]) {
                Reason::KmsKeyRefused
            } else {
                Reason::SealedValueRejected
            };
            refusals.take(refusal, expected, || format!("{} at byte {at} bit {bit}", value.place));
        }
        for len in 0..value.sealed.len() {
            let refusal = value.open(&opened, &value.sealed[..len]).await;
            refusals.take(refusal, Reason::SealedValueRejected, || format!("{} cut to {len}", value.place));
        }
        let longer = [&value.sealed[..], &[0]].concat();
        refusals.take(value.open(&opened, &longer).await, Reason::SealedValueRejected, || value.place.clone());
    }
    assert!(values.len() >= 15, "the stock has sealed values of every kind");
    refusals.assert_one_error(5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_value_opens_in_its_own_place_only() {
    let (_home, opened) = stocked().await;
    let mut refusals = Refusals::default();
    let values = sealed_values(&opened).await;
    for here in &values {
        for there in values.iter().filter(|there| there.context != here.context) {
            let refusal = here.open(&opened, &there.sealed).await;
            refusals.take(refusal, Reason::SealedValueRejected, || format!("{} in {}", there.place, here.place));
        }
    }
    refusals.assert_one_error(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_good_in_its_own_place_only() {
    let (_home, opened) = stocked().await;
    let mut items = Vec::new();
    for row in opened.raw.rows().await.iter().filter(|row| row.mac.is_some()) {
        items.push(opened.item(row).await);
    }
    let mut refusals = Refusals::default();
    // All places, of whatever kind: names, versions, organizations, tokens, batches.
    for item in &items {
        for place in items.iter().map(|other| &other.key).filter(|place| **place != item.key) {
            let moved = Item { key: place.clone(), ..item.clone() };
            let refusal = opened.records.verify(moved).map(drop);
            refusals.take(refusal, Reason::RecordRejected, || format!("{:?} in {place:?}", item.key));
        }
    }
    refusals.assert_one_error(5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_two_items_are_no_third() {
    let (_home, opened) = stocked().await;
    let row = async |org: &str, key: &str, sort: &str| opened.raw.row(&format!("O#{org}#K#{key}"), sort).await;
    let here = row(ORG, "openai", "META").await;
    let others = [
        row(ORG, "spare", "META").await,
        row(stock::OTHER, "openai", "META").await,
        row(ORG, "openai", "V#00000001").await,
        row(ORG, "openai", "V#00000002").await,
    ];
    let mut refusals = Refusals::default();
    for other in others {
        let mixed = [
            Row { sealed: other.sealed.clone(), ..here.clone() },
            Row { attributes: other.attributes.clone(), ..here.clone() },
            Row { mac: other.mac.clone(), ..here.clone() },
            Row { mac: None, ..here.clone() },
            Row { sealed: None, ..here.clone() },
            Row { partition: here.partition.clone(), sort: here.sort.clone(), ..other.clone() },
        ];
        for mixed in mixed.into_iter().filter(|mixed| *mixed != here) {
            opened.raw.put(&mixed).await;
            refusals.take(opened.verify(&here.key()).await, Reason::RecordRejected, || format!("{mixed:?}"));
        }
    }
    refusals.assert_one_error(15);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_item_is_refused_under_another_revision() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    stock::create(&admin, "openai", &stock::openai("a")).await;
    let home = vault.stop().await;
    let place = (format!("O#{ORG}#K#openai"), "META");
    let older = Raw::of(&home).await.row(&place.0, place.1).await;

    let vault = home.serve("").await;
    stock::rotate(&vault.admin().await, "openai", &stock::openai("b"), true).await;
    let home = vault.stop().await;
    let opened = Opened::of(&home).await;
    let newer = opened.raw.row(&place.0, place.1).await;
    assert!(newer.revision > older.revision);
    let mut refusals = Refusals::default();
    for revision in (0..=newer.revision + 1).filter(|revision| *revision != older.revision) {
        opened.raw.put(&Row { revision, ..older.clone() }).await;
        let refusal = opened.verify(&older.key()).await;
        refusals.take(refusal, Reason::RecordRejected, || format!("revision {revision}"));
    }
    refusals.assert_one_error(3);
}

/// Refusals, counted by what a caller would see of them.
#[derive(Default)]
struct Refusals(BTreeMap<(String, String), usize>);

impl Refusals {
    fn take<T>(&mut self, outcome: Result<T, Failure>, expected: Reason, what: impl Fn() -> String) {
        let Err(failure) = outcome else { panic!("went through: {}", what()) };
        assert_eq!(failure.reason, expected, "{failure:?}: {}", what());
        assert!(failure.fields.is_empty() && failure.metadata.is_empty() && failure.retry_after.is_none());
        *self.0.entry((failure.reason.as_str().to_owned(), failure.to_string())).or_default() += 1;
    }

    /// All of them were the same, unknown KMS keys apart, and there were not fewer than the test
    /// means to try.
    fn assert_one_error(mut self, at_least: usize) {
        self.0.retain(|(reason, _), _| reason != Reason::KmsKeyRefused.as_str());
        assert_eq!(self.0.len(), 1, "{:?}", self.0);
        assert!(self.0.values().sum::<usize>() >= at_least, "{:?}", self.0);
        assert_eq!(Reason::RecordRejected.class(), Class::DataLoss);
        assert_eq!(Reason::SealedValueRejected.class(), Class::DataLoss);
    }
}

/// Byte and bit: all of them, or one of each byte.
fn bits(len: usize, every: bool) -> impl Iterator<Item = (usize, usize)> {
    (0..len).flat_map(move |at| (0..8).filter(move |bit| every || at % 8 == *bit).map(move |bit| (at, bit)))
}

/// The row with each of its bits flipped.
fn flips(row: &Row, every: bool) -> Vec<Row> {
    let mut flipped = Vec::new();
    let blob = |bytes: &[u8], at: usize, bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1 << bit;
        bytes
    };
    let step = match &row.attributes {
        Attributes::Encoded(bytes) => {
            let encoded = bits(bytes.len(), every).map(|(at, bit)| Attributes::Encoded(blob(bytes, at, bit)));
            flipped.extend(encoded.map(|attributes| Row { attributes, ..row.clone() }));
            1
        }
        // A request for each takes its time: some of them, of each part.
        Attributes::Native(value) => {
            let native = leaf_by_leaf(value).into_iter().map(Attributes::Native);
            flipped.extend(native.map(|attributes| Row { attributes, ..row.clone() }));
            if every { 11 } else { 61 }
        }
    };
    let mac = row.mac.as_deref().unwrap();
    for (at, bit) in bits(mac.len(), every).step_by(step) {
        flipped.push(Row { mac: Some(blob(mac, at, bit)), ..row.clone() });
    }
    if let Some(sealed) = &row.sealed {
        for (at, bit) in bits(sealed.len(), every).step_by(step) {
            flipped.push(Row { sealed: Some(blob(sealed, at, bit)), ..row.clone() });
        }
    }
    for bit in (0..64).step_by(step) {
        flipped.push(Row { revision: row.revision ^ (1 << bit), ..row.clone() });
        flipped.push(Row { expires: Some(row.expires.unwrap_or_default() ^ (1 << bit)), ..row.clone() });
    }
    if row.expires.is_some() {
        flipped.push(Row { expires: None, ..row.clone() });
    }
    flipped
}

fn utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// A sealed value and the place that it belongs to, written down here anew from what the formats
/// say.
struct Stored {
    place: String,
    sealed: Vec<u8>,
    context: Context,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Context {
    purpose: Purpose,
    org_uid: Uid,
    resource_uid: Uid,
    version: u32,
    org: OrgId,
    resource: String,
    provider: String,
}

impl Context {
    fn service(org: OrgId, org_uid: Uid, kid: &str, resource: &str) -> Self {
        let (purpose, resource_uid, resource) = (Purpose::Service, Uid::stored(kid), resource.to_owned());
        Self { purpose, org_uid, resource_uid, version: 1, org, resource, provider: String::new() }
    }
    fn of_key(record: &KeyRecord, version: u32) -> Self {
        Self {
            purpose: Purpose::ProviderKey,
            org_uid: record.org_uid.clone(),
            resource_uid: record.uid.clone(),
            version,
            org: record.name.org.clone(),
            resource: record.name.id.to_string(),
            provider: record.provider.to_string(),
        }
    }
}

impl Stored {
    async fn open(&self, opened: &Opened, sealed: &[u8]) -> Result<(), Failure> {
        let Context { purpose, org_uid, resource_uid, version, org, resource, provider } = &self.context;
        let (purpose, version) = (*purpose, *version);
        let context = SealContext { purpose, org_uid, resource_uid, version, org, resource, provider };
        let sealed = SealedValue::from_bytes(sealed)?;
        opened.sealer.open(&sealed, &context, soon()).await.map(drop)
    }
    /// Where the KMS key's name stands: behind the format byte and its length.
    fn kms_key_id(&self) -> std::ops::Range<usize> {
        let len = u32::from_be_bytes(self.sealed[1..5].try_into().unwrap()) as usize;
        5..5 + len
    }
}

/// Every sealed value in the store.
async fn sealed_values(opened: &Opened) -> Vec<Stored> {
    let mut values = Vec::new();
    for row in opened.raw.rows().await {
        let Some(sealed) = row.sealed.clone() else { continue };
        let item = opened.item(&row).await;
        let kind = row.sort.split('#').next().unwrap();
        let context = match kind {
            "RECMAC" | "SIGN" | "PAGE" => {
                let kid = row.sort.split_once('#').unwrap().1;
                Context::service(OrgId::system(), Uid::stored(OrgId::SYSTEM), kid, &row.sort)
            }
            "FPKEY" => {
                let org = OrgId::parse("org", row.partition.strip_prefix("O#").unwrap()).unwrap();
                let attributes = &item.attributes;
                let org_uid = Uid::stored(attributes.text("org_uid").unwrap());
                Context::service(org, org_uid, attributes.text("kid").unwrap(), "FPKEY")
            }
            "META" | "V" => {
                let (org, key) = row.partition.strip_prefix("O#").unwrap().split_once("#K#").unwrap();
                let (org, key) = (OrgId::parse("org", org).unwrap(), KeyId::parse("key", key).unwrap());
                let meta = opened.records.get_verified(ItemKey::new(&row.partition, "META"), soon()).await;
                let meta = meta.unwrap().unwrap().into_item();
                let record = keys::open(&opened.records, &org, &key, meta).unwrap().record;
                let own = row.sort.strip_prefix("V#").map(|number| number.parse().unwrap());
                Context::of_key(&record, own.unwrap_or_else(|| record.current().unwrap().number))
            }
            other => panic!("a sealed value in an item {other}: say what it is sealed for"),
        };
        values.push(Stored { place: format!("{} / {}", row.partition, row.sort), sealed, context });
    }
    values
}
