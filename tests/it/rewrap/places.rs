//! What a database's writer changed: no key is passed over in silence, and what is sound moves.

use ibyok::{
    domain::{error::Reason, secret::KmsKeyId},
    grpc::pb,
    kms::fake::FakeKms,
    store::{Action, Condition, ItemKey, NewItem},
};

use super::{another_key, canary, counts, ended, read, rewrap, run, serve_with, store, with_keys};
use crate::{
    fixture::keys::{Setting, add, retrieve, value},
    harness::{ORG, Vault},
    tamper::raw::{Raw, Row},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_listing_that_can_not_be_read_hides_no_key() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    for number in 0..4 {
        store(&admin, &format!("k{number}"), &canary(number)).await;
    }
    let home = vault.stop().await;
    let listing = format!("O#{ORG}#KEYS");
    let raw = Raw::of(&home).await;
    raw.put(&raw.row(&listing, "groq#k1").await.broken()).await;
    raw.put(&raw.row(&listing, "groq#k2").await.changed("k2", "k9")).await;
    let astray = Row { sort: "groq#NO KEY\u{1b}".to_owned(), ..raw.row(&listing, "groq#k0").await };
    raw.put(&astray).await;
    drop(raw);

    let [new, old] = another_key(&home);
    let vault = serve_with(home, &[&new, &old]).await;
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    let reports = rewrap(&admin, pb::RewrapKeysRequest::default()).await;
    assert_eq!(counts(&reports), (5, 1, 5), "four keys, and the organization's own");
    let failures: Vec<_> = reports.iter().flat_map(|report| &report.failures).collect();
    assert_eq!((failures.len(), failures[0].reason.as_str()), (1, "RECORD_REJECTED"));
    assert_eq!(failures[0].metadata["name"], r#"orgs/acme/keys: the row "groq#NO KEY\u{1b}" of the listing"#);
    let listed = admin.keys().list_keys(pb::ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(listed.len(), 4, "the rows are whole again: {listed:?}");
    rewrap(&operator, pb::RewrapKeysRequest::default()).await;

    let vault = serve_with(vault.stop().await, &[&new]).await;
    let admin = vault.admin().await;
    for number in 0..4 {
        assert_eq!(read(&admin, &format!("k{number}")).await, canary(number));
    }
    vault.stop().await;
}

#[tokio::test]
async fn a_version_that_the_key_lists_must_be_there() {
    let Setting { fixture, vault, admin, .. } = with_keys(3).await;
    add(&vault, &admin, "k1", &canary(50)).await.unwrap();
    fixture.write(vec![Action::Delete(ItemKey::new("O#acme#K#k1", "V#00000001"), Condition::Any)]).await;
    let reports = run(&vault, &admin, FakeKms::OTHER).await.unwrap();
    let (counted, failed) = ended(&reports);
    assert_eq!(counted, (3, 1, 4), "its other version, two keys, and the organization's own");
    assert_eq!(failed, [("orgs/acme/keys/k1", Reason::RecordRejected)]);
}

#[tokio::test]
async fn a_version_that_does_not_verify_keeps_no_other_one_back() {
    let Setting { fixture, vault, admin, .. } = with_keys(1).await;
    for number in 2..=7 {
        assert_eq!(add(&vault, &admin, "k0", &canary(number)).await.unwrap(), number as u32);
    }
    let partition = fixture.partition("O#acme#K#k0");
    let found = partition.into_iter().find(|item| item.key.sort == "V#00000006").unwrap();
    let spoiled = NewItem { mac: found.mac, sealed: found.sealed, ..NewItem::new(found.key, Default::default()) };
    fixture.write(vec![Action::Put(spoiled, Condition::Any)]).await;
    let reports = run(&vault, &admin, FakeKms::OTHER).await.unwrap();
    let (counted, failed) = ended(&reports);
    assert_eq!(counted, (1, 1, 7), "six versions, and the organization's own key");
    assert_eq!(failed, [("orgs/acme/keys/k0", Reason::RecordRejected)]);
    fixture.kms.disable(&KmsKeyId(FakeKms::PRIMARY.to_owned()));
    assert_eq!(value(&retrieve(&vault, &admin, "k0").await.unwrap()), canary(0));
    for number in [2, 3, 4, 5, 7] {
        let retrieved = retrieve(&vault, &admin, &format!("k0/versions/{number}")).await.unwrap();
        assert_eq!(value(&retrieved), canary(number));
    }
}
