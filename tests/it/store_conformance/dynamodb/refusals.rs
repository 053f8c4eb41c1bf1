//! Where nothing was written, an error says so: nothing happened, and nothing will.

use std::error::Error as _;

use ibyok::aws::{Settings, sdk_config};
use ibyok::domain::clock::SystemEntropy;
use ibyok::store::dynamodb::TableSettings;

use super::*;

fn one() -> Vec<Action> {
    vec![put(&at("s"), 1, Condition::Absent)]
}

fn two() -> Vec<Action> {
    vec![put(&at("s"), 1, Condition::Absent), put(&at("t"), 1, Condition::Absent)]
}

/// What the log says of it.
fn said(written: Result<Written, StoreError>) -> String {
    match written {
        Err(error @ StoreError::Unavailable(_)) => error.source().unwrap().to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_passed_deadline_sends_nothing() {
    let ways = Ways::open().await;
    for actions in [one(), two(), vec![check(&at("s"), Condition::Any)], vec![check(&at("s"), Condition::Absent)]] {
        let written = ways.store.write(write_id(), actions, passed()).await;
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    }
    assert!(ways.proxy.came().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_not_unknown() {
    // Taken, and nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = format!("http://{}", socket.local_addr().unwrap());
    let store = local::store("nowhere", nobody).await;
    for actions in [one(), two()] {
        said(store.write(write_id(), actions, brief()).await);
    }
}

#[tokio::test]
async fn without_credentials_nothing_is_sent() {
    let ways = Ways::open().await;
    let settings =
        Settings { region: Some(local::REGION.into()), endpoint: Some(ways.proxy.endpoint()), ..Settings::default() };
    let mut sdk = sdk_config(&settings).await.into_builder();
    sdk.set_credentials_provider(None);
    let sdk = sdk.build();
    let table = TableSettings { name: ways.table.clone(), kms_key: None };
    let store = DynamoStore::new(&sdk, table, Arc::new(SystemClock), Arc::new(SystemEntropy));
    for actions in [one(), two()] {
        said(store.write(write_id(), actions, brief()).await);
    }
    assert!(ways.proxy.came().is_empty());
}

#[tokio::test]
async fn a_refusal_is_told_at_once_and_in_one_line() {
    let ways = Ways::open().await;
    for (actions, operation) in [(one(), "PutItem"), (two(), "TransactWriteItems")] {
        let of_credentials = "there are no good AWS credentials: ";
        for (name, begins) in [
            ("AccessDeniedException", ""),
            ("UnrecognizedClientException", of_credentials),
            ("ExpiredTokenException", of_credentials),
        ] {
            ways.proxy.next(operation, [Fate::error(400, name)]);
            let text = said(ways.write(actions.clone()).await);
            assert_eq!(text, format!("{begins}AWS answers {name}: the proxy says so"));
            assert_eq!(ways.proxy.operations().len(), 1, "{name}");
        }
    }
    // Messages about what was sent may quote it.
    ways.proxy.next("PutItem", [Fate::error(400, "ValidationException")]);
    assert_eq!(said(ways.write(one()).await), "AWS answers ValidationException");
    let store = local::store("absent", local::endpoint()).await;
    let text = said(store.write(write_id(), one(), soon()).await);
    assert!(text.contains("ResourceNotFoundException"), "{text}");
}

#[tokio::test]
async fn an_id_that_was_used_for_another_write_is_a_defect_of_the_caller() {
    let ways = Ways::open().await;
    let id = write_id();
    assert_eq!(ways.store.write(id, two(), soon()).await.unwrap(), Written::Committed);
    let others = vec![put(&at("x"), 1, Condition::Absent), put(&at("y"), 1, Condition::Absent)];
    assert_contract(ways.store.write(id, others, soon()).await);
}

/// The number that the store counts with is not one.
#[tokio::test]
async fn an_item_without_a_revision_takes_no_update_and_can_be_deleted() {
    let ways = Ways::open().await;
    let raw = local::client().await.put_item().table_name(&ways.table);
    let raw = raw.item("pk", AttributeValue::S("p".into())).item("sk", AttributeValue::S("s".into()));
    raw.item("rev", AttributeValue::S("one".into())).send().await.unwrap();
    // DynamoDB can't add one to it, and says no more than that.
    let counted = ways.write(vec![put(&at("s"), 1, Condition::Any)]).await;
    assert!(matches!(counted, Err(StoreError::Corrupt(_) | StoreError::Unavailable(_))), "{counted:?}");
    let compared = ways.write(vec![put(&at("s"), 1, Condition::Revision(1))]).await;
    assert!(matches!(compared, Err(StoreError::Corrupt(_))), "{compared:?}");
    assert_eq!(ways.write(vec![check(&at("s"), Condition::Present)]).await.unwrap(), Written::Committed);
    let unread = ways.write(vec![check(&at("s"), Condition::Revision(1))]).await;
    assert!(matches!(unread, Err(StoreError::Corrupt(_))), "{unread:?}");
    assert_eq!(ways.write(vec![delete(&at("s"), Condition::Any)]).await.unwrap(), Written::Committed);
    assert_eq!(ways.write(one()).await.unwrap(), Written::Committed);
}
