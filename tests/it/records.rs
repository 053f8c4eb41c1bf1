//! Records with a MAC, as a repository writes and reads them.

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::{
        clock::{Clock as _, SystemClock, Timestamp},
        error::Reason,
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    repository::{
        fields::{Builder, Fields as _},
        records::{Expected, Records},
    },
    store::{
        Action, Condition, Item, ItemKey, NewItem, Value, WriteId, Written,
        fake::{Fault, MemoryStore},
    },
};

fn as_written(action: Action) -> Item {
    let Action::Put(new, condition) = action else { panic!("a put") };
    let revision = match condition {
        Condition::Absent => 1,
        Condition::Revision(revision) => revision + 1,
        other => panic!("a signed record under {other:?}"),
    };
    let NewItem { key, expires, sealed, mac, attributes } = new;
    Item { key, revision, expires, sealed, mac, attributes }
}

/// Records that are only signed and verified here: the store is not asked.
fn records(byte: u8) -> Records {
    let ring = MacRing::new((format!("k{byte}"), MacKey::new(&SecretKey::new([byte; 32]))), []);
    Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))), Arc::new(ring))
}

fn item() -> NewItem {
    let labels = [("team".to_owned(), "search".to_owned())].into();
    let attributes = Builder::new().text("state", "active").int("uses", 3).map_of_text("labels", &labels).build();
    let expires = Some(Timestamp::from_micros(1_700_000_000_999_999));
    let sealed = Some(vec![1, 2, 3]);
    NewItem { expires, sealed, ..NewItem::new(ItemKey::new("O#acme#K#a", "META"), attributes) }
}

#[test]
fn a_put_carries_the_mac_of_the_revision_that_it_makes() {
    let records = records(1);
    for (expected, revision) in [(Expected::Absent, 1), (Expected::Revision(1), 2), (Expected::Revision(99), 100)] {
        let item = as_written(records.put(item(), expected));
        assert_eq!(item.revision, revision);
        assert_eq!(item.expires, Some(Timestamp::from_seconds(1_700_000_000)), "cut to what every store keeps");
        let verified = records.verify(item.clone()).unwrap();
        assert_eq!((verified.revision(), verified.text("state").unwrap()), (revision, "active"));
        assert_eq!(verified.sealed().unwrap(), [1, 2, 3]);
        assert_eq!(verified.into_item(), item);
    }
}

#[test]
fn what_was_changed_moved_replayed_or_signed_by_another_is_rejected() {
    let records = records(1);
    let good = as_written(records.put(item(), Expected::Absent));
    let newer = as_written(records.put(item(), Expected::Revision(1)));
    let foreign = as_written(self::records(2).put(item(), Expected::Absent));
    let mut changed = good.clone();
    changed.attributes.insert("uses".to_owned(), Value::Text("3".to_owned()));
    let bad = [
        changed,
        foreign,
        Item { revision: newer.revision, ..good.clone() },
        Item { mac: newer.mac, ..good.clone() },
        Item { key: ItemKey::new("O#other#K#a", "META"), ..good.clone() },
        Item { key: ItemKey::new("O#acme#K#a", "V#00000001"), ..good.clone() },
        Item { mac: None, ..good.clone() },
    ];
    for bad in bad {
        let refused = records.verify(bad.clone()).unwrap_err();
        assert_eq!(
            (refused.reason, refused.to_string().as_str()),
            (Reason::RecordRejected, Reason::RecordRejected.message()),
            "{bad:?}"
        );
    }
    assert!(records.verify(good).is_ok());
}

#[tokio::test]
async fn a_record_is_written_read_and_written_again() {
    let records = records(1);
    let key = item().key;
    let deadline = || SystemClock.deadline(Duration::from_secs(30));
    assert_eq!(records.get_verified(key.clone(), deadline()).await.unwrap(), None);
    for (number, expected) in [(1, Expected::Absent), (2, Expected::Revision(1)), (3, Expected::Revision(2))] {
        let write = records.store().write(WriteId([number; 16]), vec![records.put(item(), expected)], deadline());
        assert_eq!(write.await.unwrap(), Written::Committed);
        let read = records.get_verified(key.clone(), deadline()).await.unwrap().unwrap();
        assert_eq!((read.revision(), read.int("uses").unwrap()), (u64::from(number), 3));
    }
    let stale = records.store().write(WriteId([9; 16]), vec![records.put(item(), Expected::Revision(1))], deadline());
    assert!(matches!(stale.await.unwrap(), Written::Conflict { index: 0, current: Some(_) }));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_said_so() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let ring = MacRing::new(("k1".to_owned(), MacKey::new(&SecretKey::new([1; 32]))), []);
    let records = Records::new(Arc::new(store.clone()), Arc::new(ring));
    store.faults().break_down(Fault::Unavailable);
    let refused = records.get_verified(item().key, SystemClock.deadline(Duration::from_secs(30))).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
}
