//! A write happens once, whatever becomes of its requests and answers.

use super::*;

/// A write of one item that is there at revision 1, the number and revision that it leaves, and its
/// operation.
type Kind = (Action, Option<(i64, u64)>, &'static str);

fn kinds() -> [Kind; 6] {
    let key = at("there");
    [
        (put(&key, 2, Condition::Revision(1)), Some((2, 2)), "PutItem"),
        (put(&key, 2, Condition::Any), Some((2, 2)), "TransactWriteItems"),
        (put(&key, 2, Condition::Present), Some((2, 2)), "TransactWriteItems"),
        (delete(&key, Condition::Any), None, "TransactWriteItems"),
        (delete(&key, Condition::Present), None, "TransactWriteItems"),
        (delete(&key, Condition::Revision(1)), None, "TransactWriteItems"),
    ]
}

async fn there(ways: &Ways) {
    ways.other.commit(vec![delete(&at("there"), Condition::Any)]).await;
    ways.other.commit(vec![put(&at("there"), 1, Condition::Absent)]).await;
}

#[tokio::test]
async fn a_lost_answer_is_found_to_have_committed() {
    let ways = Ways::open().await;
    for (action, left, operation) in kinds() {
        for lost in [1, 2] {
            there(&ways).await;
            ways.proxy.next(operation, vec![Fate::LoseReply; lost]);
            assert_eq!(ways.write(vec![action.clone()]).await.unwrap(), Written::Committed, "{action:?}");
            assert_eq!(ways.seen(&at("there")).await, left, "{action:?}");
            assert_eq!(ways.proxy.operations(), vec![operation; lost + 1]);
        }
    }
    ways.proxy.next("PutItem", [Fate::LoseReply]);
    assert_eq!(ways.write(vec![put(&at("new"), 7, Condition::Absent)]).await.unwrap(), Written::Committed);
    assert_eq!(ways.seen(&at("new")).await, Some((7, 1)));
}

#[tokio::test]
async fn a_lost_answer_of_a_transaction_is_found_to_have_committed() {
    let ways = Ways::open().await;
    there(&ways).await;
    ways.proxy.next("TransactWriteItems", [Fate::LoseReply, Fate::LoseReply]);
    let actions = vec![
        put(&at("there"), 2, Condition::Any),
        put(&at("new"), 3, Condition::Absent),
        check(&at("absent"), Condition::Absent),
    ];
    assert_eq!(ways.write(actions).await.unwrap(), Written::Committed);
    assert_eq!((ways.seen(&at("there")).await, ways.seen(&at("new")).await), (Some((2, 2)), Some((3, 1))));
    let came = ways.proxy.came();
    assert_eq!(came.len(), 3);
    assert!(came.iter().all(|it| it.body["ClientRequestToken"] == came[0].body["ClientRequestToken"]));
}

/// DynamoDB refuses a token that comes with something else, and does not say what is the same to it.
#[tokio::test]
async fn a_transaction_is_tried_again_to_the_byte() {
    let ways = Ways::open().await;
    let attributes = |depth: i64| (0..12).map(move |n| (format!("name-{depth}-{n}"), Value::Int(n)));
    let many = || attributes(0).chain([("map".to_owned(), Value::Map(attributes(1).collect()))]).collect();
    let whole = |sort| NewItem {
        expires: Some(Timestamp::from_seconds(4_000_000_000)),
        sealed: Some(vec![1; 20]),
        mac: Some(vec![2; 20]),
        ..NewItem::new(at(sort), many())
    };
    let actions = vec![
        Action::Put(whole("new"), Condition::Absent),
        Action::Put(whole("any"), Condition::Any),
        check(&at("absent"), Condition::Absent),
    ];
    ways.proxy.next("TransactWriteItems", [Fate::LoseReply, Fate::LoseRequest, Fate::LoseReply]);
    assert_eq!(ways.write(actions).await.unwrap(), Written::Committed);
    let came = ways.proxy.came();
    assert_eq!(came.len(), 4);
    assert!(came.iter().all(|it| it.bytes == came[0].bytes), "{came:#?}");
}

#[tokio::test]
async fn a_lost_request_is_sent_again() {
    let ways = Ways::open().await;
    for (action, left, operation) in kinds() {
        there(&ways).await;
        ways.proxy.next(operation, [Fate::LoseRequest]);
        assert_eq!(ways.write(vec![action.clone()]).await.unwrap(), Written::Committed, "{action:?}");
        assert_eq!(ways.seen(&at("there")).await, left, "{action:?}");
    }
}

/// The first answer is lost; before the second try comes, another replica writes.
#[tokio::test]
async fn what_was_overwritten_since_is_unknown() {
    let ways = Ways::open().await;
    for (first, is_done) in [(Fate::LoseReply, true), (Fate::LoseRequest, false)] {
        there(&ways).await;
        let gate = Gate::new();
        ways.proxy.next("PutItem", [first, Fate::HoldRequest(gate.clone())]);
        let (written, ()) = tokio::join!(ways.write(vec![put(&at("there"), 2, Condition::Revision(1))]), async {
            gate.holds_one().await;
            let revision = if is_done { 2 } else { 1 };
            ways.other.commit(vec![put(&at("there"), 9, Condition::Revision(revision))]).await;
            gate.open();
        });
        assert_eq!(written.unwrap(), Written::Unknown);
        assert_eq!(ways.seen(&at("there")).await.unwrap().0, 9);
    }
    // The token of a transaction knows more: what was done stays done.
    there(&ways).await;
    let gate = Gate::new();
    ways.proxy.next("TransactWriteItems", [Fate::LoseReply, Fate::HoldRequest(gate.clone())]);
    let (written, ()) = tokio::join!(ways.write(vec![delete(&at("there"), Condition::Revision(1))]), async {
        gate.holds_one().await;
        ways.other.commit(vec![put(&at("there"), 9, Condition::Absent)]).await;
        gate.open();
    });
    assert_eq!(written.unwrap(), Written::Committed);
    assert_eq!(ways.seen(&at("there")).await, Some((9, 1)));
}

/// A try stalls on its way, the next one is done, another replica writes; then the first arrives.
#[tokio::test]
async fn a_stalled_try_that_arrives_late_changes_nothing() {
    let ways = Ways::open().await;
    for (stalled, (action, left, operation)) in (1..).zip(kinds()) {
        there(&ways).await;
        let gate = Gate::new();
        ways.proxy.next(operation, [Fate::HoldRequest(gate.clone())]);
        assert_eq!(ways.write(vec![action.clone()]).await.unwrap(), Written::Committed, "{action:?}");
        assert_eq!(ways.seen(&at("there")).await, left, "{action:?}");
        ways.other.commit(vec![put(&at("there"), 9, Condition::Any)]).await;
        let after = ways.seen(&at("there")).await;
        gate.open();
        ways.proxy.landed(stalled).await;
        assert_eq!(ways.seen(&at("there")).await, after, "{action:?}");
    }
}

/// A writer stalls past its deadline, and its lease is taken meanwhile: it is fenced.
#[tokio::test]
async fn a_writer_that_stalled_and_resumes_is_fenced() {
    let ways = Ways::open().await;
    let (lease, item) = (at("lease"), at("there"));
    for (stalled, operation) in [(1, "TransactWriteItems"), (2, "PutItem")] {
        there(&ways).await;
        ways.other.commit(vec![put(&lease, 1, Condition::Any)]).await;
        let term = ways.seen(&lease).await.unwrap().1;
        let mut actions = vec![put(&item, 2, Condition::Revision(1))];
        if operation == "TransactWriteItems" {
            actions.push(check(&lease, Condition::Revision(term)));
        }
        let gate = Gate::new();
        ways.proxy.next(operation, [Fate::HoldRequest(gate.clone())]);
        let written = ways.write_until(gate.holds_one(), actions).await.unwrap();
        assert_eq!(written, Written::Unknown, "it may yet land");
        ways.other.commit(vec![put(&lease, 2, Condition::Revision(term))]).await;
        if operation == "PutItem" {
            ways.other.commit(vec![put(&item, 9, Condition::Revision(1))]).await;
        }
        let before = ways.seen(&item).await;
        gate.open();
        ways.proxy.landed(stalled).await;
        assert_eq!(ways.seen(&item).await, before);
    }
}

/// Nobody was in its way: what was Unknown lands.
#[tokio::test]
async fn what_passes_the_deadline_is_unknown_and_may_land() {
    let ways = Ways::open().await;
    for (landed, (action, left, operation)) in (1..).zip(kinds()) {
        there(&ways).await;
        let gate = Gate::new();
        ways.proxy.next(operation, [Fate::HoldRequest(gate.clone())]);
        let written = ways.write_until(gate.holds_one(), vec![action.clone()]).await.unwrap();
        assert_eq!(written, Written::Unknown, "{action:?}");
        assert_eq!(ways.seen(&at("there")).await, Some((1, 1)));
        gate.open();
        ways.proxy.landed(landed).await;
        assert_eq!(ways.seen(&at("there")).await, left, "{action:?}");
    }
    let gate = Gate::new();
    ways.proxy.next("PutItem", [Fate::HoldReply(gate.clone())]);
    let put = put(&at("new"), 1, Condition::Absent);
    assert_eq!(ways.write_until(gate.holds_one(), vec![put]).await.unwrap(), Written::Unknown);
    gate.open();
}

#[tokio::test]
async fn a_conflict_after_a_lost_try_is_unknown_for_that_try_may_yet_land() {
    let ways = Ways::open().await;
    there(&ways).await;
    for actions in [
        vec![put(&at("there"), 2, Condition::Absent)],
        vec![put(&at("there"), 2, Condition::Absent), put(&at("new"), 2, Condition::Absent)],
    ] {
        let operation = if actions.len() == 1 { "PutItem" } else { "TransactWriteItems" };
        assert!(matches!(ways.write(actions.clone()).await.unwrap(), Written::Conflict { index: 0, .. }));
        ways.proxy.next(operation, [Fate::LoseRequest]);
        assert_eq!(ways.write(actions).await.unwrap(), Written::Unknown);
    }
    assert_eq!(ways.seen(&at("there")).await, Some((1, 1)));
}
