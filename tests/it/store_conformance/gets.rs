//! What `get` promises.

use ibyok::{
    domain::clock::Timestamp,
    store::{ITEMS_MAX, PARTITION_BYTES_MAX, SORT_BYTES_MAX},
};

use super::*;

pub(crate) async fn answers_in_request_order(fixture: &Fixture) {
    let keys: Vec<_> = (0..30).map(|n| key(&format!("p{}", n % 4), &format!("s{n}"))).collect();
    let (there, absent): (Vec<_>, Vec<_>) = (0..30).partition(|n| n % 3 != 0);
    fixture.commit(there.iter().map(|&n| put(&keys[n], n as i64, Condition::Absent)).collect()).await;
    for count in [1, 2, 7, 8, 9, 16, 17, 30] {
        let order: Vec<_> = (0..count).map(|n| (n * 7 + 5) % 30).collect();
        let asked: Vec<_> = order.iter().map(|&n| keys[n].clone()).collect();
        let items = fixture.get(&asked).await;
        assert_eq!(items.len(), count);
        for (n, item) in order.into_iter().zip(items) {
            assert_eq!(item.is_none(), absent.contains(&n));
            if let Some(item) = item {
                assert_eq!((item.key.clone(), number(&item)), (keys[n].clone(), n as i64));
            }
        }
    }
}

pub(crate) async fn takes_up_to_the_limit(fixture: &Fixture) {
    let keys: Vec<_> = (0..ITEMS_MAX).map(|n| key("p", &n.to_string())).collect();
    fixture.commit(keys.iter().map(|key| put(key, 1, Condition::Absent)).collect()).await;
    assert_eq!(fixture.get(&keys).await.into_iter().flatten().count(), ITEMS_MAX);
}

pub(crate) async fn refuses_more_and_repeated_keys(fixture: &Fixture) {
    let keys: Vec<_> = (0..=ITEMS_MAX).map(|n| key("p", &n.to_string())).collect();
    assert_contract(fixture.store.get(&keys, soon()).await);
    assert_contract(fixture.store.get(&[key("p", "a"), key("p", "b"), key("p", "a")], soon()).await);
}

pub(crate) async fn reads_nothing_for_no_keys(fixture: &Fixture) {
    assert_eq!(fixture.get(&[]).await, []);
}

pub(crate) async fn sees_what_was_written(fixture: &Fixture) {
    let at = key("p", "s");
    for n in 1..=50 {
        fixture.commit(vec![put(&at, n, Condition::Any)]).await;
        let item = fixture.one(&at).await.unwrap();
        assert_eq!((number(&item), item.revision), (n, n as u64));
    }
    fixture.commit(vec![delete(&at, Condition::Any)]).await;
    assert_eq!(fixture.one(&at).await, None);
}

pub(crate) async fn keeps_every_part_of_an_item(fixture: &Fixture) {
    let map = Value::Map(Attributes::from([
        ("empty".into(), Value::List(vec![])),
        ("deeper".into(), Value::Map(Attributes::new())),
    ]));
    let full = NewItem {
        key: key("p", "full"),
        expires: Some(Timestamp::from_seconds(4_102_444_800)),
        sealed: Some((0..=255).collect()),
        mac: Some(vec![]),
        attributes: Attributes::from([
            ("text".into(), Value::Text("a\0ü\u{10ffff}".into())),
            ("empty".into(), Value::Text(String::new())),
            ("least".into(), Value::Int(i64::MIN)),
            ("most".into(), Value::Int(i64::MAX)),
            ("yes".into(), Value::Bool(true)),
            ("no".into(), Value::Bool(false)),
            ("bytes".into(), Value::Bytes(vec![0, 255])),
            ("none".into(), Value::Bytes(vec![])),
            ("list".into(), Value::List(vec![Value::Int(1), Value::Text("two".into()), map.clone()])),
            ("map".into(), map),
        ]),
    };
    let bare = NewItem::new(key("p", "bare"), Attributes::new());
    let puts = [&full, &bare].map(|item| Action::Put(item.clone(), Condition::Absent));
    fixture.commit(puts.to_vec()).await;
    let wanted: Vec<_> = [full, bare]
        .into_iter()
        .map(|NewItem { key, expires, sealed, mac, attributes }| {
            Some(Item { key, revision: 1, expires, sealed, mac, attributes })
        })
        .collect();
    assert_eq!(fixture.get(&[key("p", "full"), key("p", "bare")]).await, wanted);
    let mut found: Vec<_> = fixture.all(every("p")).await.into_iter().map(Some).collect();
    found.reverse();
    assert_eq!(found, wanted);
}

pub(crate) async fn refuses_a_key_that_is_empty_or_too_long(fixture: &Fixture) {
    let longest = key(&"p".repeat(PARTITION_BYTES_MAX), &"s".repeat(SORT_BYTES_MAX));
    fixture.commit(vec![put(&longest, 1, Condition::Absent)]).await;
    assert!(fixture.one(&longest).await.is_some());
    for bad in [
        key("", "s"),
        key("p", ""),
        key(&"p".repeat(PARTITION_BYTES_MAX + 1), "s"),
        key("p", &"s".repeat(SORT_BYTES_MAX + 1)),
    ] {
        assert_contract(fixture.store.get(std::slice::from_ref(&bad), soon()).await);
        assert_contract(fixture.write(vec![put(&bad, 1, Condition::Any)]).await);
        assert_contract(fixture.write(vec![delete(&bad, Condition::Any)]).await);
        assert_contract(fixture.write(vec![check(&bad, Condition::Any)]).await);
    }
}

pub(crate) async fn takes_keys_of_any_text(fixture: &Fixture) {
    let texts = ["'", "\"; --", "%", "_", " ", "a\0b", "a", "A", "ä", "\u{10ffff}", "file:x?mode=ro"];
    let keys: Vec<_> = texts.iter().flat_map(|p| texts.map(|s| key(p, s))).take(ITEMS_MAX).collect();
    let puts = keys.iter().zip(0..).map(|(key, n)| put(key, n, Condition::Absent));
    fixture.commit(puts.collect()).await;
    let items = fixture.get(&keys).await;
    for ((key, n), item) in keys.iter().zip(0..).zip(items) {
        let item = item.unwrap();
        assert_eq!((&item.key, number(&item)), (key, n));
    }
}

pub(crate) async fn answers_by_the_deadline(fixture: &Fixture) {
    fixture.commit(vec![put(&key("p", "s"), 1, Condition::Absent)]).await;
    let get = fixture.store.get(&[key("p", "s")], passed()).await;
    assert!(matches!(get, Err(StoreError::Unavailable(_))), "{get:?}");
    let query = fixture.store.query(every("p"), passed()).await;
    assert!(matches!(query, Err(StoreError::Unavailable(_))), "{query:?}");
    let status = fixture.store.status(passed()).await;
    assert!(matches!(status, Err(StoreError::Unavailable(_))), "{status:?}");
}
