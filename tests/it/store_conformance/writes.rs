//! What `write` promises.

use futures_util::future::join_all;
use ibyok::{
    domain::clock::Timestamp,
    store::{DEPTH_MAX, ITEM_BYTES_MAX, ITEMS_MAX, WRITE_BYTES_MAX},
};

use super::*;

pub(crate) async fn revisions_count_from_one(fixture: &Fixture) {
    let at = key("p", "s");
    fixture.commit(vec![put(&at, 1, Condition::Absent)]).await;
    assert_eq!(fixture.one(&at).await.unwrap().revision, 1);
    fixture.commit(vec![put(&at, 2, Condition::Revision(1))]).await;
    assert_eq!(fixture.one(&at).await.unwrap().revision, 2);
    fixture.commit(vec![put(&at, 3, Condition::Present)]).await;
    assert_eq!(fixture.one(&at).await.unwrap().revision, 3);
    fixture.commit(vec![put(&at, 4, Condition::Any)]).await;
    assert_eq!(fixture.one(&at).await.unwrap().revision, 4);
    fixture.commit(vec![delete(&at, Condition::Revision(4))]).await;
    fixture.commit(vec![put(&at, 5, Condition::Any)]).await;
    assert_eq!(fixture.one(&at).await.unwrap().revision, 1, "deleted and made again");
}

pub(crate) async fn conditions_hold_as_they_say(fixture: &Fixture) {
    let (there, absent) = (key("p", "there"), key("p", "absent"));
    for (condition, of_there, of_absent) in [
        (Condition::Any, true, true),
        (Condition::Absent, false, true),
        (Condition::Present, true, false),
        (Condition::Revision(2), true, false),
        (Condition::Revision(1), false, false),
        (Condition::Revision(3), false, false),
        (Condition::Revision(0), false, false),
    ] {
        for (at, holds) in [(&there, of_there), (&absent, of_absent)] {
            for action in [put(at, 9, condition), delete(at, condition), check(at, condition)] {
                fixture.commit(vec![delete(&there, Condition::Any), delete(&absent, Condition::Any)]).await;
                fixture.commit(vec![put(&there, 1, Condition::Absent)]).await;
                fixture.commit(vec![put(&there, 2, Condition::Revision(1))]).await;
                let written = fixture.write(vec![action.clone()]).await.unwrap();
                assert_eq!(written == Written::Committed, holds, "{action:?} gave {written:?}");
                let changed = match action {
                    Action::Put(..) => Some(9),
                    Action::Delete(..) => None,
                    Action::Check(..) => (*at == there).then_some(2),
                };
                let unchanged = (*at == there).then_some(2);
                let now = fixture.one(at).await.map(|item| number(&item));
                assert_eq!(now, if holds { changed } else { unchanged });
            }
        }
    }
}

pub(crate) async fn deleting_nothing_is_no_error(fixture: &Fixture) {
    fixture.commit(vec![delete(&key("p", "s"), Condition::Any)]).await;
    fixture.commit(vec![delete(&key("p", "s"), Condition::Absent)]).await;
}

pub(crate) async fn a_conflict_says_which_and_what_is_there(fixture: &Fixture) {
    let keys = ["a", "b", "c"].map(|sort| key("p", sort));
    fixture.commit(vec![put(&keys[1], 1, Condition::Absent)]).await;
    let current = fixture.one(&keys[1]).await;
    let actions = vec![
        put(&keys[0], 2, Condition::Absent),
        put(&keys[1], 2, Condition::Absent),
        check(&keys[2], Condition::Present),
    ];
    assert_eq!(fixture.write(actions).await.unwrap(), Written::Conflict { index: 1, current });
    let actions = vec![put(&keys[0], 2, Condition::Absent), check(&keys[2], Condition::Present)];
    assert_eq!(fixture.write(actions).await.unwrap(), Written::Conflict { index: 1, current: None });
}

pub(crate) async fn a_conflict_leaves_nothing(fixture: &Fixture) {
    let keys = ["a", "b", "c", "d"].map(|sort| key("p", sort));
    fixture.commit(vec![put(&keys[0], 1, Condition::Absent), put(&keys[1], 1, Condition::Absent)]).await;
    let before = fixture.get(&keys).await;
    let actions = vec![
        put(&keys[0], 2, Condition::Any),
        delete(&keys[1], Condition::Any),
        put(&keys[2], 2, Condition::Absent),
        check(&keys[3], Condition::Present),
    ];
    assert!(matches!(fixture.write(actions).await.unwrap(), Written::Conflict { index: 3, current: None }));
    assert_eq!(fixture.get(&keys).await, before);
}

pub(crate) async fn a_check_changes_nothing(fixture: &Fixture) {
    let at = key("p", "s");
    fixture.commit(vec![put(&at, 1, Condition::Absent)]).await;
    let before = fixture.one(&at).await;
    fixture.commit(vec![check(&at, Condition::Revision(1))]).await;
    fixture.commit(vec![check(&at, Condition::Present), put(&key("p", "t"), 1, Condition::Absent)]).await;
    assert_eq!(fixture.one(&at).await, before);
}

pub(crate) async fn takes_a_hundred_actions_and_no_more(fixture: &Fixture) {
    let keys: Vec<_> = (0..=ITEMS_MAX).map(|n| key("p", &n.to_string())).collect();
    let puts = |count| keys.iter().take(count).map(|key| put(key, 1, Condition::Absent)).collect::<Vec<_>>();
    assert_contract(fixture.write(puts(ITEMS_MAX + 1)).await);
    assert_contract(fixture.write(vec![]).await);
    assert_eq!(fixture.all(every("p")).await, []);
    fixture.commit(puts(ITEMS_MAX)).await;
    assert_eq!(fixture.all(every("p")).await.len(), ITEMS_MAX);
}

pub(crate) async fn takes_one_action_for_each_item(fixture: &Fixture) {
    let at = key("p", "s");
    assert_contract(fixture.write(vec![check(&at, Condition::Absent), put(&at, 1, Condition::Any)]).await);
    assert_contract(fixture.write(vec![put(&at, 1, Condition::Any), delete(&at, Condition::Any)]).await);
    assert_eq!(fixture.one(&at).await, None);
}

pub(crate) async fn takes_items_up_to_the_limit(fixture: &Fixture) {
    let at = key("p", "s");
    let write = |bytes| fixture.write(vec![Action::Put(sized(key("p", "s"), bytes), Condition::Any)]);
    assert_contract(write(ITEM_BYTES_MAX + 1).await);
    assert_eq!(fixture.one(&at).await, None);
    assert_eq!(write(ITEM_BYTES_MAX).await.unwrap(), Written::Committed);
    assert_eq!(fixture.one(&at).await.unwrap().sealed.unwrap().len(), ITEM_BYTES_MAX - 2);
}

pub(crate) async fn takes_four_megabytes_and_no_more(fixture: &Fixture) {
    let puts = |last: usize| {
        let sizes = [ITEM_BYTES_MAX; 9].into_iter().chain([WRITE_BYTES_MAX - 9 * ITEM_BYTES_MAX - 2 + last]);
        let items = sizes.zip('a'..).map(|(bytes, sort)| sized(key("p", &sort.to_string()), bytes));
        let puts = items.map(|item| Action::Put(item, Condition::Absent));
        puts.chain([check(&key("p", "z"), Condition::Absent)]).collect::<Vec<_>>()
    };
    assert_contract(fixture.write(puts(1)).await);
    assert_eq!(fixture.all(every("p")).await, []);
    fixture.commit(puts(0)).await;
    assert_eq!(fixture.all(every("p")).await.len(), 10);
}

pub(crate) async fn refuses_keys_names_and_times_that_no_adapter_keeps(fixture: &Fixture) {
    let item = || NewItem::new(key("p", "s"), Attributes::new());
    let deep = (0..=DEPTH_MAX).fold(Value::Bool(true), |inner, _| Value::List(vec![inner]));
    for bad in [
        NewItem { expires: Some(Timestamp::from_micros(1_500_000)), ..item() },
        NewItem { attributes: Attributes::from([(String::new(), Value::Int(1))]), ..item() },
        NewItem { attributes: Attributes::from([("deep".into(), deep)]), ..item() },
    ] {
        assert_contract(fixture.write(vec![Action::Put(bad, Condition::Any)]).await);
    }
    assert_eq!(fixture.one(&key("p", "s")).await, None);
}

pub(crate) async fn a_passed_deadline_writes_nothing(fixture: &Fixture) {
    let at = key("p", "s");
    let written = fixture.store.write(write_id(), vec![put(&at, 1, Condition::Any)], passed()).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    assert_eq!(fixture.one(&at).await, None);
}

/// Many tasks add one to the same item under its revision, each until it succeeds.
pub(crate) async fn racing_writers_lose_nothing(fixture: &Fixture) {
    let at = key("p", "counter");
    fixture.commit(vec![put(&at, 0, Condition::Absent)]).await;
    let tasks = (0..16).map(|_| {
        let (store, at) = (Arc::clone(&fixture.store), at.clone());
        tokio::spawn(async move {
            for _ in 0..5 {
                let keys = [at.clone()];
                let mut current = store.get(&keys, soon()).await.unwrap().remove(0).unwrap().into_item();
                loop {
                    let action = put(&at, number(&current) + 1, Condition::Revision(current.revision));
                    match store.write(write_id(), vec![action], soon()).await.unwrap() {
                        Written::Committed => break,
                        Written::Conflict { index: 0, current: Some(now) } => {
                            assert!(now.revision > current.revision, "a conflict tells of something newer");
                            current = now;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    let item = fixture.one(&at).await.unwrap();
    assert_eq!((number(&item), item.revision), (80, 81));
}

/// Tasks move ones between two items; whoever reads in one transaction's wake finds the sum.
pub(crate) async fn racing_transactions_keep_their_sum(fixture: &Fixture) {
    let keys = [key("p", "a"), key("q", "b")];
    fixture.commit(keys.iter().map(|key| put(key, 100, Condition::Absent)).collect()).await;
    let tasks = (0..8).map(|task: i64| {
        let (store, keys) = (Arc::clone(&fixture.store), keys.clone());
        tokio::spawn(async move {
            let moved = if task % 2 == 0 { 1 } else { -2 };
            loop {
                let items: Vec<_> = store.get(&keys, soon()).await.unwrap().into_iter().flatten().collect();
                let actions = vec![
                    put(&keys[0], number(&items[0]) - moved, Condition::Revision(items[0].revision)),
                    put(&keys[1], number(&items[1]) + moved, Condition::Revision(items[1].revision)),
                ];
                match store.write(write_id(), actions, soon()).await.unwrap() {
                    Written::Committed => break,
                    Written::Conflict { .. } => {}
                    Written::Unknown => panic!("nothing failed"),
                }
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    let items: Vec<_> = fixture.get(&keys).await.into_iter().flatten().collect();
    assert_eq!((number(&items[0]), number(&items[1])), (104, 96));
    assert_eq!((items[0].revision, items[1].revision), (9, 9));
}

pub(crate) async fn tells_its_status(fixture: &Fixture) {
    assert!(!fixture.store.status(soon()).await.unwrap().is_empty());
}
