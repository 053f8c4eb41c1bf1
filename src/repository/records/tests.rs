use std::{collections::VecDeque, sync::Mutex, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        PortFuture,
        clock::{Clock as _, SystemClock},
        mac::MacKey,
        secret::SecretKey,
    },
    store::{WriteId, Written},
};

fn mac_key(byte: u8) -> MacKey {
    MacKey::new(&SecretKey::new([byte; 32]))
}

fn ring() -> MacRing {
    MacRing::new(("second".to_owned(), mac_key(2)), [("first".to_owned(), mac_key(1))])
}

fn item() -> NewItem {
    let grant = Value::Map([("scopes".to_owned(), Value::List(vec![Value::Text("keys:read".to_owned())]))].into());
    NewItem {
        key: ItemKey::new("O#acme#T#01", "META"),
        expires: Some(Timestamp::from_seconds(1_700_000_000)),
        sealed: Some(vec![1, 2, 3]),
        mac: None,
        attributes: [
            ("state".to_owned(), Value::Text("active".to_owned())),
            ("uses".to_owned(), Value::Int(-7)),
            ("mock".to_owned(), Value::Bool(false)),
            ("hash".to_owned(), Value::Bytes(vec![4, 5])),
            ("grants".to_owned(), Value::List(vec![grant, Value::List(vec![])])),
        ]
        .into(),
    }
}

/// As a store gives it back.
fn stored(item: NewItem, expected: Expected) -> Item {
    let mut item = item;
    item.expires = item.expires.map(|expires| Timestamp::from_seconds(expires.seconds()));
    let revision = expected.next_revision();
    let mac = sign(&ring(), &item, revision);
    Item { key: item.key, revision, expires: item.expires, sealed: item.sealed, mac, attributes: item.attributes }
}

fn holds(item: &Item) -> bool {
    is_signed(&ring(), item)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Value::Text),
        any::<i64>().prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        any::<Vec<u8>>().prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Value::Map),
        ]
    })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    prop::collection::btree_map(any::<String>(), value(), 0..4)
}

#[test]
fn a_signed_record_holds_at_its_revision_alone() {
    for (expected, revision) in [(Expected::Absent, 1), (Expected::Revision(41), 42)] {
        let item = stored(item(), expected);
        assert_eq!(item.revision, revision);
        assert!(holds(&item));
        for other in [0, 2, revision - 1, revision + 1, revision ^ (1 << 63)] {
            assert!(other == revision || !holds(&Item { revision: other, ..item.clone() }), "{other}");
        }
    }
}

#[test]
fn the_format_does_not_move() {
    let mac = stored(item(), Expected::Revision(41)).mac.unwrap();
    // Computed independently: Python's `hmac` from the module's head.
    assert_eq!(
        data_encoding::HEXLOWER.encode(&mac[7..]),
        "eb2e15d11b00d81a6d588bc6172a0fe7e5e86beff52971627e581291c9a5e43d"
    );
}

#[test]
fn every_bit_of_the_mac_counts() {
    let item = stored(item(), Expected::Absent);
    let mac = item.mac.clone().unwrap();
    assert_eq!(mac[..7], *b"\x06second");
    assert_eq!(mac.len(), 7 + TAG_LEN);
    let holds_with = |mac: Option<Vec<u8>>| holds(&Item { mac, ..item.clone() });
    for bit in 0..mac.len() * 8 {
        let mut flipped = mac.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!holds_with(Some(flipped)), "bit {bit}");
    }
    for len in 0..mac.len() {
        assert!(!holds_with(Some(mac[..len].to_vec())), "length {len}");
    }
    assert!(!holds_with(Some([&mac[..], &[0]].concat())));
    assert!(!holds_with(None));
}

#[test]
fn every_bit_of_the_rest_counts() {
    let item = stored(item(), Expected::Absent);
    let refused = |what: &str, changed: Item| assert!(changed != item && !holds(&changed), "{what}");
    let flips = |bytes: &[u8], limit: u8| {
        let bytes = bytes.to_vec();
        (0..bytes.len()).flat_map(move |at| (0..limit).map(move |bit| (at, bit))).map({
            move |(at, bit)| {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                flipped
            }
        })
    };
    let texts = |text: &str| flips(text.as_bytes(), 7).map(|bytes| String::from_utf8(bytes).unwrap());

    for partition in texts(&item.key.partition) {
        refused("partition", Item { key: ItemKey::new(partition, "META"), ..item.clone() });
    }
    for sort in texts(&item.key.sort) {
        refused("sort", Item { key: ItemKey::new(item.key.partition.as_str(), sort), ..item.clone() });
    }
    for sealed in flips(item.sealed.as_deref().unwrap(), 8) {
        refused("sealed", Item { sealed: Some(sealed), ..item.clone() });
    }
    for bit in 0..64 {
        let micros = item.expires.unwrap().micros() ^ (1 << bit);
        refused("expiry", Item { expires: Some(Timestamp::from_micros(micros)), ..item.clone() });
        refused("revision", Item { revision: item.revision ^ (1 << bit), ..item.clone() });
        let mut changed = item.clone();
        changed.attributes.insert("uses".to_owned(), Value::Int(-7 ^ (1 << bit)));
        refused("number", changed);
    }
    for name in item.attributes.keys() {
        for other in texts(name) {
            let mut changed = item.clone();
            let value = changed.attributes.remove(name).unwrap();
            changed.attributes.insert(other, value);
            refused("name", changed);
        }
    }
    for text in texts("active") {
        let mut changed = item.clone();
        changed.attributes.insert("state".to_owned(), Value::Text(text));
        refused("text", changed);
    }
    for bytes in flips(&[4, 5], 8) {
        let mut changed = item.clone();
        changed.attributes.insert("hash".to_owned(), Value::Bytes(bytes));
        refused("bytes", changed);
    }
}

#[test]
fn parts_are_not_exchanged_left_out_or_emptied() {
    let item = stored(item(), Expected::Absent);
    let without = |name: &str| {
        let mut changed = item.clone();
        changed.attributes.remove(name).unwrap();
        changed
    };
    let with = |name: &str, value: Value| {
        let mut changed = item.clone();
        changed.attributes.insert(name.to_owned(), value);
        changed
    };
    let changed = [
        Item { key: ItemKey::new("O#acme#T#0", "1META"), ..item.clone() },
        Item { key: ItemKey::new("META", "O#acme#T#01"), ..item.clone() },
        Item { expires: None, ..item.clone() },
        Item { expires: Some(Timestamp::default()), ..item.clone() },
        Item { sealed: None, ..item.clone() },
        Item { sealed: Some(vec![]), ..item.clone() },
        Item { attributes: Attributes::new(), ..item.clone() },
        without("mock"),
        with("mock", Value::Bool(true)),
        with("mock", Value::Int(0)),
        with("more", Value::Bool(false)),
        with("state", Value::Bytes(b"active".to_vec())),
        with("hash", Value::Text("\u{4}\u{5}".to_owned())),
        with("grants", Value::List(vec![])),
    ];
    for changed in changed {
        assert!(!holds(&changed), "{changed:?}");
    }
    let empty = stored(NewItem { sealed: None, expires: None, ..self::item() }, Expected::Absent);
    assert!(holds(&empty));
    assert!(!holds(&Item { sealed: Some(vec![]), ..empty.clone() }));
    assert!(!holds(&Item { expires: Some(Timestamp::default()), ..empty }));
}

#[test]
fn no_two_values_are_written_alike() {
    let text = |text: &str| Value::Text(text.to_owned());
    let map = |entries: &[(&str, Value)]| {
        Value::Map(entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    };
    let list = Value::List;
    let alike = [
        text("1"),
        text("\u{1}"),
        Value::Int(1),
        Value::Int(1 << 56),
        Value::Bool(true),
        Value::Bytes(b"1".to_vec()),
        Value::Bytes(vec![0, 0, 0, 0, 0, 0, 0, 1]),
        list(vec![]),
        list(vec![list(vec![])]),
        list(vec![list(vec![]), list(vec![])]),
        list(vec![list(vec![list(vec![])])]),
        list(vec![list(vec![text("a")]), text("b")]),
        list(vec![list(vec![text("a"), text("b")])]),
        list(vec![text("a"), list(vec![text("b")])]),
        list(vec![text("a"), text("b")]),
        list(vec![text("ab")]),
        list(vec![text("b"), text("a")]),
        map(&[]),
        map(&[("a", text("b"))]),
        map(&[("b", text("a"))]),
        map(&[("a", map(&[("b", text(""))]))]),
        map(&[("a", map(&[])), ("b", text(""))]),
    ];
    let encoded = alike.map(|value| {
        let mut out = Vec::new();
        push_value(&mut out, &value, DEPTH_MAX).unwrap();
        out
    });
    for (i, one) in encoded.iter().enumerate() {
        for (j, other) in encoded.iter().enumerate() {
            assert!(i == j || one != other, "{i} and {j}");
        }
    }
}

#[test]
fn older_keys_verify_and_unknown_ones_do_not() {
    let old = MacRing::new(("first".to_owned(), mac_key(1)), []);
    let unknown = MacRing::new(("third".to_owned(), mac_key(3)), []);
    let usurper = MacRing::new(("first".to_owned(), mac_key(3)), []);
    for (signer, is_good) in [(old, true), (unknown, false), (usurper, false)] {
        let mut item = stored(item(), Expected::Absent);
        item.mac = sign(&signer, &self::item(), 1);
        assert_eq!(holds(&item), is_good, "{signer:?}");
    }
}

#[test]
fn what_is_nested_too_deep_is_never_let_through() {
    let nested = |depth| {
        let value = (0..depth).fold(Value::Int(1), |value, _| Value::List(vec![value]));
        stored(NewItem::new(ItemKey::new("p", "s"), [("v".to_owned(), value)].into()), Expected::Absent)
    };
    assert!(holds(&nested(DEPTH_MAX)));
    assert_eq!(nested(DEPTH_MAX + 1).mac, None);
    assert!(!holds(&nested(DEPTH_MAX + 1)));
}

#[test]
fn errors_of_the_store_become_refusals_that_keep_their_cause() {
    use std::error::Error as _;
    let cause = || Box::<dyn std::error::Error + Send + Sync>::from("disk full");
    let table = [
        (StoreError::Unavailable(cause()), Reason::StoreUnavailable, true),
        (StoreError::Throttled, Reason::StoreUnavailable, true),
        (StoreError::Contract("too many"), Reason::Internal, false),
        (StoreError::Corrupt(cause()), Reason::RecordRejected, false),
    ];
    for (error, reason, may_retry) in table {
        let failure = Failure::from(error);
        assert_eq!((failure.reason, failure.retry_after.is_some()), (reason, may_retry));
        assert!(failure.source().is_some());
        assert_eq!(failure.to_string(), reason.message());
    }
}

/// A store whose reads fail so, one after the other.
#[derive(Debug)]
struct Failing(Mutex<VecDeque<StoreError>>);

impl Failing {
    fn next<T>(&self) -> PortFuture<'_, Result<T, StoreError>> {
        Box::pin(async { Err(self.0.lock().unwrap().pop_front().expect("a read too many")) })
    }
}

impl ItemStore for Failing {
    fn get<'a>(&'a self, _: &'a [ItemKey], _: Deadline) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        self.next()
    }
    fn query(&self, _: Query, _: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        self.next()
    }
    fn write(&self, _: WriteId, _: Vec<Action>, _: Deadline) -> PortFuture<'_, Result<Written, StoreError>> {
        self.next()
    }
    fn is_exclusive(&self) -> bool {
        true
    }
    fn status(&self, _: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        self.next()
    }
}

#[tokio::test]
async fn a_store_that_fails_is_not_taken_for_items_that_cant_be_read() {
    let keys = ["a", "b"].map(|sort| ItemKey::new("p", sort));
    for errors in [
        vec![StoreError::Throttled],
        vec![StoreError::Corrupt("a".into()), StoreError::Throttled],
        vec![StoreError::Corrupt("a".into()), StoreError::Corrupt("a".into()), StoreError::Throttled],
    ] {
        let store = Arc::new(Failing(Mutex::new(errors.into())));
        let records = Records::new(Arc::<Failing>::clone(&store), Arc::new(ring()));
        let read = records.get_each(&keys, SystemClock.deadline(Duration::from_secs(60))).await;
        assert_eq!(read.unwrap_err().reason, Reason::StoreUnavailable);
        assert!(store.0.lock().unwrap().is_empty());
    }
}

proptest! {
    #[test]
    fn any_record_holds_and_any_change_of_it_does_not(
        partition in "[a-z#]{1,8}", sort in "[a-z#]{1,8}", revision in 0..i64::MAX as u64,
        sealed: Option<Vec<u8>>, one in attributes(), other in attributes(),
    ) {
        let new = NewItem { sealed, ..NewItem::new(ItemKey::new(partition, sort), one) };
        let item = stored(new, Expected::Revision(revision));
        prop_assert!(holds(&item));
        prop_assert_eq!(holds(&Item { attributes: other.clone(), ..item.clone() }), other == item.attributes);
    }
}
