use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    domain::{
        clock::{Clock as _, SystemClock, SystemEntropy, random},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    store::{ItemStore as _, WriteId, Written, fake::MemoryStore},
};

fn in_time() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}
fn records() -> (MemoryStore, Records) {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let ring = MacRing::new(("k1".to_owned(), MacKey::new(&SecretKey::new([7; 32]))), []);
    (store.clone(), Records::new(Arc::new(store), Arc::new(ring)))
}
async fn write(store: &MemoryStore, actions: Vec<Action>) -> Written {
    store.write(WriteId(random(&SystemEntropy).unwrap()), actions, in_time()).await.unwrap()
}
fn org(text: &str) -> OrgId {
    OrgId::parse("org", text).unwrap()
}
fn token(of: &str, id: char) -> TokenRecord {
    TokenRecord {
        org: org(of),
        id: TokenId::parse("id", &id.to_string().repeat(32)).unwrap(),
        subject: Subject::parse("subject", "svc").unwrap(),
        description: String::new(),
        grants: vec![].into(),
        mode: TokenMode::Live,
        confirmation: Confirmation::Certificate([7; 32]),
        created: Timestamp::from_seconds(1_000),
        expires: Timestamp::from_seconds(2_000),
        max_expires: Timestamp::from_seconds(3_000_000_000),
        issued_by: "admin".to_owned(),
        signing_keys: vec!["k1".to_owned()],
        org_generation: 1,
        subject_generation: 1,
        parent: None,
        uses_max: Some(2),
        revoked: None,
        revision: 1,
    }
}

#[tokio::test]
async fn each_organization_has_a_listing_of_its_own() {
    let (store, records) = records();
    for token in [token("acme", 'a'), token("acme", 'b'), token("beta", 'c')] {
        write(&store, put(&records, &token, Expected::Absent).into()).await;
    }
    for (of, expected) in [("acme", vec!['a', 'b']), ("beta", vec!['c']), ("gamma", vec![])] {
        let (rows, next) = rows(&records, &org(of), None, 100, in_time()).await.unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row.id.as_str().chars().next().unwrap()).collect();
        assert_eq!((ids, next), (expected, None), "{of}");
    }
}

#[tokio::test]
async fn all_that_is_kept_of_a_token_leaves_30_days_after_its_last_possible_end() {
    let (store, records) = records();
    let token = token("acme", 'a');
    let mut actions = Vec::from(put(&records, &token, Expected::Absent));
    actions.extend(new_uses(&records, &token));
    write(&store, actions).await;
    let uses = read_uses(&records, &token.org, &token, in_time()).await.unwrap().unwrap();
    write(&store, vec![spend(&records, &uses).unwrap()]).await;
    let items = store.dump();
    assert_eq!(items.len(), 3, "the record, its row, its uses");
    for item in items {
        let swept = Timestamp::from_seconds(3_000_000_000 + 30 * 86_400);
        assert_eq!(item.expires, Some(swept), "{}", item.key.sort);
    }
}

#[tokio::test]
async fn uses_are_counted_one_by_one_up_to_the_last() {
    let (store, records) = records();
    let token = token("acme", 'a');
    write(&store, new_uses(&records, &token).into_iter().collect()).await;
    let read = async || read_uses(&records, &token.org, &token, in_time()).await.unwrap().unwrap();
    for count in 0..2 {
        let uses = read().await;
        assert_eq!((uses.count, uses.max), (count, 2));
        assert_eq!(write(&store, vec![spend(&records, &uses).unwrap()]).await, Written::Committed);
        assert_eq!(read().await, uses.clone().spent());
        let again = write(&store, vec![spend(&records, &uses).unwrap()]).await;
        assert!(matches!(again, Written::Conflict { index: 0, .. }), "one use is spent once");
    }
    assert_eq!(spend(&records, &read().await).unwrap_err().reason, Reason::TokenUsedUp);

    let uncounted = TokenRecord { uses_max: None, ..token };
    assert_eq!(new_uses(&records, &uncounted), None);
    assert_eq!(read_uses(&records, &uncounted.org, &uncounted, in_time()).await.unwrap(), None);
}
