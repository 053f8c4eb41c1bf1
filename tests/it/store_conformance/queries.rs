//! What `query` promises.

use ibyok::store::{ITEM_BYTES_MAX, PARTITION_BYTES_MAX};

use super::*;

/// In bytewise order.
const SORTS: [&str; 14] =
    ["\0", "A", "Z", "a", "a\0", "a#", "a#1", "a#10", "a#2", "aa", "b", "ß", "\u{d7ff}", "\u{1f511}"];

async fn filled(fixture: &Fixture) {
    let mut puts = Vec::new();
    for partition in ["o", "p", "p\0", "q"] {
        for sort in SORTS {
            puts.push(put(&key(partition, sort), 1, Condition::Absent));
        }
    }
    puts.reverse();
    fixture.commit(puts).await;
}

fn reversed(query: Query) -> Query {
    Query { order: Order::Descending, ..query }
}

fn ranged(range: SortRange) -> Query {
    Query { range, ..every("p") }
}

/// What the query covers, in both orders, by pages of one, of three and of all.
async fn assert_covers(fixture: &Fixture, query: Query, wanted: &[&str]) {
    let mut backwards = wanted.to_vec();
    backwards.reverse();
    for limit in [1, 3, 1_000] {
        let query = Query { limit, ..query.clone() };
        assert_eq!(sorts(&fixture.all(query.clone()).await), wanted, "{query:?}");
        let query = reversed(query);
        assert_eq!(sorts(&fixture.all(query.clone()).await), backwards, "{query:?}");
    }
}

pub(crate) async fn answers_bytewise_in_both_orders(fixture: &Fixture) {
    filled(fixture).await;
    let mut bytewise = SORTS.to_vec();
    bytewise.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(bytewise, SORTS);
    assert_covers(fixture, every("p"), &SORTS).await;
}

pub(crate) async fn stays_in_its_partition(fixture: &Fixture) {
    filled(fixture).await;
    for partition in ["o", "p", "p\0", "q"] {
        let items = fixture.all(every(partition)).await;
        assert_eq!(sorts(&items), SORTS);
        assert!(items.iter().all(|item| item.key.partition == partition));
    }
    assert_eq!(fixture.query(every("none")).await, Page { items: vec![], next: None });
}

pub(crate) async fn starts_after_the_exclusive_start(fixture: &Fixture) {
    filled(fixture).await;
    for (place, after) in SORTS.iter().enumerate() {
        let query = Query { after: Some((*after).into()), ..every("p") };
        assert_eq!(sorts(&fixture.all(query.clone()).await), &SORTS[place + 1..]);
        let mut before = SORTS[..place].to_vec();
        before.reverse();
        assert_eq!(sorts(&fixture.all(reversed(query)).await), before);
    }
    // The start need not be there: its item may have been deleted since.
    let query = Query { after: Some("a#11".into()), ..every("p") };
    assert_eq!(fixture.all(query).await[0].key.sort, "a#2");
}

pub(crate) async fn covers_a_prefix_and_nothing_else(fixture: &Fixture) {
    filled(fixture).await;
    for prefix in ["", "a", "a#", "a#1", "a#10", "x", "\0", "\u{d7ff}", "\u{1f511}", "\u{10ffff}"] {
        let wanted: Vec<_> = SORTS.into_iter().filter(|sort| sort.starts_with(prefix)).collect();
        assert_covers(fixture, ranged(SortRange::Prefix(prefix.into())), &wanted).await;
    }
}

pub(crate) async fn covers_both_ends_of_between(fixture: &Fixture) {
    filled(fixture).await;
    for first in SORTS.into_iter().chain(["a#11", "zz"]) {
        for last in ["A", "a#10", "a#100", "b", "\u{10ffff}"] {
            let wanted: Vec<_> = SORTS.into_iter().filter(|&sort| first <= sort && sort <= last).collect();
            let query = ranged(SortRange::Between(first.into(), last.into()));
            assert_eq!(sorts(&fixture.all(query).await), wanted);
        }
    }
    let query = ranged(SortRange::Between("a".into(), "a#10".into()));
    assert_covers(fixture, query, &["a", "a\0", "a#", "a#1", "a#10"]).await;
}

pub(crate) async fn fills_pages_up_to_the_limit(fixture: &Fixture) {
    filled(fixture).await;
    for limit in 1..=SORTS.len() + 1 {
        let mut query = Query { limit, ..every("p") };
        let mut seen = 0;
        loop {
            let page = fixture.query(query.clone()).await;
            assert_eq!(page.items.len(), limit.min(SORTS.len() - seen), "fewer only at the end");
            seen += page.items.len();
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(seen, SORTS.len(), "none only at the end");
    }
}

pub(crate) async fn ends_early_only_at_a_megabyte(fixture: &Fixture) {
    let size = 90_000;
    for half in 0..2 {
        let puts = (0..20).map(|n| sized(key("p", &format!("{half}{n:02}")), size));
        fixture.commit(puts.map(|item| Action::Put(item, Condition::Absent)).collect()).await;
    }
    for query in [every("p"), reversed(every("p"))] {
        let page = fixture.query(query.clone()).await;
        assert!(page.next.is_some());
        assert!((page.items.len() + 1) * size > 1_000_000, "only {} items", page.items.len());
        assert!(page.items.len() * size < 1_200_000, "{} items", page.items.len());
        assert_eq!(fixture.all(query).await.len(), 40);
    }
}

pub(crate) async fn answers_one_item_however_large(fixture: &Fixture) {
    for sort in ["a", "b", "c", "d"] {
        fixture.commit(vec![Action::Put(sized(key("p", sort), ITEM_BYTES_MAX), Condition::Absent)]).await;
    }
    let page = fixture.query(Query { limit: 1, ..every("p") }).await;
    assert_eq!(sorts(&page.items), ["a"]);
    assert_covers(fixture, every("p"), &["a", "b", "c", "d"]).await;
}

pub(crate) async fn refuses_a_limit_of_none(fixture: &Fixture) {
    assert_contract(fixture.store.query(Query { limit: 0, ..every("p") }, soon()).await);
}

pub(crate) async fn an_unreadable_item_hides_no_other(fixture: &Fixture) {
    let keys = ["a", "b", "c", "d"].map(|sort| key("p", sort));
    fixture.commit(keys.iter().map(|key| put(key, 1, Condition::Absent)).collect()).await;
    fixture.damage(&keys[1]).await;
    for query in [every("p"), reversed(every("p")), Query { limit: 1, ..every("p") }] {
        let mut items = fixture.all(query).await;
        items.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(sorts(&items), ["a", "b", "c", "d"]);
        assert_eq!(items[1], Item::unreadable(keys[1].clone()));
        assert_eq!(items.iter().filter(|item| item.attributes.is_empty()).count(), 1);
    }
    assert!(matches!(fixture.store.get(&keys, soon()).await, Err(StoreError::Corrupt(_))));
    let conflict = fixture.write(vec![put(&keys[1], 2, Condition::Absent)]).await;
    assert!(matches!(conflict, Err(StoreError::Corrupt(_))), "{conflict:?}");
    fixture.commit(vec![put(&keys[1], 2, Condition::Present)]).await;
    assert_eq!(number(&fixture.one(&keys[1]).await.unwrap()), 2, "written again it is whole");
    fixture.damage(&keys[1]).await;
    fixture.commit(vec![delete(&keys[1], Condition::Any)]).await;
    assert_eq!(sorts(&fixture.all(every("p")).await), ["a", "c", "d"]);
}

pub(crate) async fn an_empty_range_is_an_empty_page(fixture: &Fixture) {
    filled(fixture).await;
    let none = Page { items: vec![], next: None };
    for query in [
        ranged(SortRange::Between("b".into(), "a".into())),
        ranged(SortRange::Prefix("zzz".into())),
        Query { after: Some("b".into()), ..ranged(SortRange::Prefix("a".into())) },
        Query { after: Some("\u{10ffff}".into()), ..every("p") },
        reversed(Query { after: Some("A".into()), ..ranged(SortRange::Prefix("a".into())) }),
        reversed(Query { after: Some("\0".into()), ..every("p") }),
    ] {
        assert_eq!(fixture.query(query.clone()).await, none, "{query:?}");
    }
}

pub(crate) async fn sees_deletes_and_puts_at_once(fixture: &Fixture) {
    filled(fixture).await;
    let first = fixture.query(Query { limit: 5, ..every("p") }).await;
    fixture.commit(vec![delete(&key("p", "b"), Condition::Present), put(&key("p", "c"), 1, Condition::Absent)]).await;
    let rest = fixture.all(Query { after: first.next, ..every("p") }).await;
    assert!(!sorts(&rest).contains(&"b"));
    assert!(sorts(&rest).contains(&"c"));
}

pub(crate) async fn refuses_a_bad_partition(fixture: &Fixture) {
    for partition in ["", &"p".repeat(PARTITION_BYTES_MAX + 1)] {
        assert_contract(fixture.store.query(every(partition), soon()).await);
    }
}
