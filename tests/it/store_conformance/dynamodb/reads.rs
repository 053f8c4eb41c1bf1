//! Round trips of reads, and reads that are answered in part or not at all.

use serde_json::{Value as Json, json};

use super::*;

async fn filled(ways: &Ways, count: i64) -> Vec<ItemKey> {
    let keys: Vec<_> = (0..count).map(|n| key(&format!("p{n}"), "s")).collect();
    ways.other.commit(keys.iter().zip(0..).map(|(key, n)| put(key, n, Condition::Absent)).collect()).await;
    keys
}

async fn numbers(ways: &Ways, keys: &[ItemKey]) -> Vec<i64> {
    let items = ways.store.get(keys, soon()).await.unwrap();
    items.into_iter().map(|item| number(&item.unwrap())).collect()
}

/// What a retrieval reads: token, subject, epoch, key, each in a partition of its own.
#[tokio::test]
async fn one_get_is_one_request() {
    let ways = Ways::open().await;
    for count in [1, 4, 100] {
        let keys = filled(&ways, count).await;
        assert_eq!(numbers(&ways, &keys).await, (0..count).collect::<Vec<_>>());
        let came = ways.proxy.came();
        assert_eq!(came.len(), 1);
        assert_eq!(came[0].operation, "BatchGetItem");
        assert_eq!(came[0].body["RequestItems"][&ways.table]["ConsistentRead"], true);
        ways.other.commit(keys.iter().map(|key| delete(key, Condition::Any)).collect()).await;
    }
    assert_eq!(ways.store.get(&[], soon()).await.unwrap(), []);
    assert!(ways.proxy.came().is_empty(), "nothing is asked for no keys");
}

#[tokio::test]
async fn one_write_is_one_request_and_a_check_is_a_read() {
    let ways = Ways::open().await;
    let key = at("s");
    for (actions, operations) in [
        (vec![put(&key, 1, Condition::Absent)], vec!["PutItem"]),
        (vec![put(&key, 2, Condition::Revision(1))], vec!["PutItem"]),
        (vec![put(&key, 3, Condition::Any)], vec!["TransactWriteItems"]),
        (vec![check(&key, Condition::Revision(3))], vec!["BatchGetItem"]),
        (vec![check(&key, Condition::Any)], vec![]),
        (vec![check(&key, Condition::Any), check(&at("t"), Condition::Any)], vec![]),
        (vec![check(&at("t"), Condition::Any), put(&key, 4, Condition::Revision(3))], vec!["PutItem"]),
        (vec![check(&at("t"), Condition::Absent), put(&key, 5, Condition::Present)], vec!["TransactWriteItems"]),
        (vec![delete(&key, Condition::Any)], vec!["TransactWriteItems"]),
    ] {
        assert_eq!(ways.write(actions).await.unwrap(), Written::Committed);
        assert_eq!(ways.proxy.operations(), operations);
    }
    // The place of an action is that in the write, also where others before it are not sent.
    let actions = vec![check(&at("t"), Condition::Any), put(&key, 1, Condition::Revision(1))];
    assert_eq!(ways.write(actions).await.unwrap(), Written::Conflict { index: 1, current: None });
}

/// Reads nothing, and gives all that was asked for back.
fn nothing(request: &Json) -> Json {
    json!({ "Responses": {}, "UnprocessedKeys": request["RequestItems"] })
}

/// Says that the first key's item is absent, and gives the rest back.
fn all_but_one(request: &Json) -> Json {
    let mut left = request["RequestItems"].clone();
    for (_, of_table) in left.as_object_mut().unwrap() {
        of_table["Keys"].as_array_mut().unwrap().remove(0);
    }
    json!({ "Responses": {}, "UnprocessedKeys": left })
}

#[tokio::test]
async fn unprocessed_keys_are_asked_again() {
    let ways = Ways::open().await;
    let keys = filled(&ways, 7).await;
    ways.proxy.next("BatchGetItem", [Fate::AnswerBy(nothing), Fate::AnswerBy(nothing)]);
    assert_eq!(numbers(&ways, &keys).await, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(ways.proxy.operations().len(), 3);

    ways.proxy.next("BatchGetItem", [Fate::AnswerBy(all_but_one), Fate::AnswerBy(all_but_one)]);
    let items = ways.store.get(&keys, soon()).await.unwrap();
    let found: Vec<_> = items.iter().map(|item| item.as_ref().map(|item| number(item))).collect();
    assert_eq!(found, [None, None, Some(2), Some(3), Some(4), Some(5), Some(6)]);
    let asked = ways.proxy.came();
    let asked: Vec<_> =
        asked.iter().map(|it| it.body["RequestItems"][&ways.table]["Keys"].as_array().unwrap().len()).collect();
    assert_eq!(asked, [7, 6, 5], "only what is missing");
}

#[tokio::test]
async fn keys_that_stay_unprocessed_are_an_error_and_not_absent() {
    let ways = Ways::open().await;
    let keys = filled(&ways, 2).await;
    ways.proxy.next("BatchGetItem", vec![Fate::AnswerBy(nothing); 1_000]);
    let read = ways.until(ways.proxy.has_come(3), ways.store.get(&keys, soon())).await;
    assert!(matches!(read, Err(StoreError::Throttled)), "{read:?}");
}

#[tokio::test]
async fn a_read_that_fails_is_tried_again() {
    let ways = Ways::open().await;
    let keys = filled(&ways, 2).await;
    let fates = || {
        [
            Fate::LoseRequest,
            Fate::LoseReply,
            Fate::error(500, "InternalServerError"),
            Fate::error(503, "ServiceUnavailable"),
            Fate::error(400, "ProvisionedThroughputExceededException"),
            Fate::error(400, "ThrottlingException"),
            Fate::error(400, "RequestLimitExceeded"),
            Fate::Answer(502, json!("not DynamoDB")),
            Fate::Answer(403, json!("not DynamoDB")),
            Fate::Answer(200, json!("no answer")),
        ]
    };
    ways.proxy.next("BatchGetItem", fates());
    assert_eq!(numbers(&ways, &keys).await, [0, 1]);
    assert_eq!(ways.proxy.operations().len(), fates().len() + 1);
    ways.proxy.next("Query", fates());
    assert_eq!(ways.store.query(every("p0"), soon()).await.unwrap().items.len(), 1);
    assert_eq!(ways.proxy.operations().len(), fates().len() + 1);
}

#[tokio::test]
async fn a_read_answers_by_its_deadline() {
    let ways = Ways::open().await;
    let keys = filled(&ways, 2).await;
    let gate = Gate::new();
    for operation in ["BatchGetItem", "Query", "BatchGetItem"] {
        ways.proxy.next(operation, [Fate::HoldReply(gate.clone())]);
    }
    let get = ways.store.get(&keys, brief()).await;
    assert!(matches!(get, Err(StoreError::Unavailable(_))), "{get:?}");
    let query = ways.store.query(every("p0"), brief()).await;
    assert!(matches!(query, Err(StoreError::Unavailable(_))), "{query:?}");
    let status = ways.store.status(brief()).await;
    assert!(matches!(status, Err(StoreError::Unavailable(_))), "{status:?}");
    gate.open();
    assert!(ways.store.status(soon()).await.unwrap().contains(&ways.table));
}

/// An empty page that is not the last.
fn empty(request: &Json) -> Json {
    let after = json!({ "pk": request["ExpressionAttributeValues"][":p"], "sk": { "S": "a" } });
    json!({ "Items": [], "Count": 0, "ScannedCount": 0, "LastEvaluatedKey": after })
}

#[tokio::test]
async fn a_page_that_is_short_is_filled() {
    let ways = Ways::open().await;
    ways.other.commit(["a", "b", "c", "d"].map(|sort| put(&at(sort), 1, Condition::Absent)).to_vec()).await;
    ways.proxy.next("Query", [Fate::AnswerBy(empty), Fate::AnswerBy(empty)]);
    let page = ways.store.query(Query { limit: 2, ..every("p") }, soon()).await.unwrap();
    assert_eq!((sorts(&page.items), page.next.as_deref()), (vec!["b", "c"], Some("c")));
    let came = ways.proxy.came();
    assert_eq!(came.len(), 3);
    assert!(came.iter().all(|it| it.body["ConsistentRead"] == true));
    assert_eq!(came[2].body["ExclusiveStartKey"]["sk"]["S"], "a");

    // A page that ends with the partition says so: nobody asks for an empty one.
    let page = ways.store.query(Query { limit: 4, ..every("p") }, soon()).await.unwrap();
    assert_eq!((page.items.len(), page.next), (4, None));
    assert_eq!(ways.proxy.operations().len(), 1);
}

/// Each of its short answers comes in time; all of them together do not.
#[tokio::test]
async fn a_page_of_many_short_answers_ends_by_its_deadline() {
    let ways = Ways::open().await;
    ways.other.commit(vec![put(&at("b"), 1, Condition::Absent)]).await;
    let gate = Gate::new();
    ways.proxy.next("Query", [Fate::AnswerBy(empty), Fate::AnswerBy(empty), Fate::HoldRequest(gate.clone())]);
    let page = ways.until(gate.holds_one(), ways.store.query(every("p"), soon())).await;
    assert!(matches!(page, Err(StoreError::Unavailable(_))), "{page:?}");
    gate.open();

    ways.proxy.next("Query", vec![Fate::AnswerBy(empty); 1_000]);
    ways.proxy.came();
    let page = ways.until(ways.proxy.has_come(3), ways.store.query(every("p"), soon())).await;
    assert!(matches!(page, Err(StoreError::Unavailable(_))), "{page:?}");
}
