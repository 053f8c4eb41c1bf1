//! Throttling, transactions of others, and servers that fail: tried again, and never a conflict.

use super::*;

fn one() -> Vec<Action> {
    vec![put(&at("s"), 1, Condition::Absent)]
}

fn two() -> Vec<Action> {
    vec![put(&at("s"), 1, Condition::Absent), put(&at("t"), 1, Condition::Absent)]
}

async fn clear(ways: &Ways) {
    ways.other.commit(vec![delete(&at("s"), Condition::Any), delete(&at("t"), Condition::Any)]).await;
    ways.proxy.came();
}

fn refusals() -> Vec<Fate> {
    let names = [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TransactionConflictException",
        "ReplicatedWriteConflictException",
    ];
    names.map(|name| Fate::error(400, name)).to_vec()
}

fn cancellations() -> Vec<Fate> {
    vec![
        cancelled(&["TransactionConflict", "None"]),
        cancelled(&["None", "ThrottlingError"]),
        cancelled(&["ProvisionedThroughputExceeded", "TransactionConflict"]),
    ]
}

#[tokio::test]
async fn throttling_and_others_transactions_are_waited_out() {
    let ways = Ways::open().await;
    for (actions, operation, fates) in [
        (one(), "PutItem", refusals()),
        (two(), "TransactWriteItems", refusals()),
        (two(), "TransactWriteItems", cancellations()),
    ] {
        clear(&ways).await;
        let count = fates.len();
        ways.proxy.next(operation, fates);
        assert_eq!(ways.write(actions).await.unwrap(), Written::Committed);
        assert_eq!(ways.proxy.operations(), vec![operation; count + 1]);
        assert_eq!(ways.seen(&at("s")).await, Some((1, 1)));
    }
}

#[tokio::test]
async fn who_is_throttled_to_the_end_is_told_and_nothing_happened() {
    let ways = Ways::open().await;
    for (actions, operation, fate) in [
        (one(), "PutItem", Fate::error(400, "ThrottlingException")),
        (one(), "PutItem", Fate::error(400, "TransactionConflictException")),
        (two(), "TransactWriteItems", cancelled(&["TransactionConflict", "None"])),
    ] {
        clear(&ways).await;
        ways.proxy.next(operation, vec![fate; 1_000]);
        let written = ways.write_until(ways.proxy.has_come(3), actions).await;
        assert!(matches!(written, Err(StoreError::Throttled)), "{written:?}");
        ways.proxy.forget();
        assert_eq!(ways.seen(&at("s")).await, None);
    }
}

/// A condition that failed did so whatever hindered the other actions.
#[tokio::test]
async fn a_conflict_beside_throttling_is_a_conflict() {
    let ways = Ways::open().await;
    ways.proxy.next("TransactWriteItems", [cancelled(&["TransactionConflict", "ConditionalCheckFailed"])]);
    assert_eq!(ways.write(two()).await.unwrap(), Written::Conflict { index: 1, current: None });
}

#[tokio::test]
async fn a_server_that_fails_is_asked_again_and_leaves_a_doubt() {
    let ways = Ways::open().await;
    for (actions, operation) in [(one(), "PutItem"), (two(), "TransactWriteItems")] {
        for fate in [
            Fate::error(500, "InternalServerError"),
            Fate::error(503, "ServiceUnavailable"),
            Fate::Answer(502, serde_json::json!("not DynamoDB")),
            Fate::Answer(403, serde_json::json!("not DynamoDB")),
            Fate::Answer(200, serde_json::json!("no answer")),
        ] {
            clear(&ways).await;
            ways.proxy.next(operation, [fate.clone()]);
            assert_eq!(ways.write(actions.clone()).await.unwrap(), Written::Committed, "{fate:?}");
            clear(&ways).await;
            ways.proxy.next(operation, vec![fate.clone(); 1_000]);
            let written = ways.write_until(ways.proxy.has_come(3), actions.clone()).await.unwrap();
            assert_eq!(written, Written::Unknown, "{fate:?}");
            ways.proxy.forget();
        }
    }
    clear(&ways).await;
    ways.proxy.next("TransactWriteItems", [Fate::LoseReply, Fate::error(400, "TransactionInProgressException")]);
    assert_eq!(ways.write(two()).await.unwrap(), Written::Committed);
    assert_eq!(ways.seen(&at("t")).await, Some((1, 1)));
}

#[tokio::test]
async fn a_refusal_after_a_lost_try_does_not_undo_the_doubt() {
    let ways = Ways::open().await;
    ways.proxy.next("PutItem", [Fate::LoseReply, Fate::error(400, "AccessDeniedException")]);
    assert_eq!(ways.write(one()).await.unwrap(), Written::Unknown);
    assert_eq!(ways.seen(&at("s")).await, Some((1, 1)), "it had happened");
    ways.proxy.next("PutItem", [Fate::LoseReply, Fate::error(400, "ThrottlingException")]);
    let action = put(&at("t"), 1, Condition::Absent);
    assert_eq!(ways.write(vec![action]).await.unwrap(), Written::Committed);
}
