//! The contract of `ItemStore`, one test for each sentence, on every adapter; then what only the
//! embedded one promises. A new adapter needs a [`Fixture`] and one line of `conformance!`.

mod dynamodb;
mod fake;
mod gets;
mod model;
mod queries;
mod sqlite;
mod writes;

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::clock::{Clock, Deadline, SystemClock},
    store::{
        Action, Attributes, Condition, Item, ItemKey, ItemStore, NewItem, Order, Page, Query, SharedItem, SortRange,
        StoreError, Value, WriteId, Written, fake::MemoryStore, sqlite::SqliteStore,
    },
};
use tempfile::TempDir;

use crate::dynamodb::local;

/// One test of the suite for one adapter, each in its own module.
macro_rules! conformance {
    ($($adapter:ident = $open:expr;)*) => {$(
        mod $adapter {
            use super::*;

            conformance!(@tests $open;
                gets: answers_in_request_order, takes_up_to_the_limit, refuses_more_and_repeated_keys,
                    reads_nothing_for_no_keys, sees_what_was_written, keeps_every_part_of_an_item,
                    refuses_a_key_that_is_empty_or_too_long, takes_keys_of_any_text, answers_by_the_deadline;
                queries: answers_bytewise_in_both_orders, stays_in_its_partition, starts_after_the_exclusive_start,
                    covers_a_prefix_and_nothing_else, covers_both_ends_of_between, fills_pages_up_to_the_limit,
                    ends_early_only_at_a_megabyte, answers_one_item_however_large, refuses_a_limit_of_none,
                    an_unreadable_item_hides_no_other,
                    an_empty_range_is_an_empty_page, sees_deletes_and_puts_at_once, refuses_a_bad_partition;
                writes: revisions_count_from_one, conditions_hold_as_they_say, deleting_nothing_is_no_error,
                    a_conflict_says_which_and_what_is_there, a_conflict_leaves_nothing, a_check_changes_nothing,
                    takes_a_hundred_actions_and_no_more, takes_one_action_for_each_item,
                    takes_items_up_to_the_limit, takes_four_megabytes_and_no_more,
                    refuses_keys_names_and_times_that_no_adapter_keeps, a_passed_deadline_writes_nothing,
                    racing_writers_lose_nothing, racing_transactions_keep_their_sum, tells_its_status;
            );

            #[test]
            fn agrees_with_the_model() {
                model::agrees(|| async { $open });
            }
        }
    )*};
    (@tests $open:expr; $($file:ident: $($test:ident),* $(,)?;)*) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $file::$test(&$open).await;
        }
    )*)*};
}

conformance! {
    on_sqlite = Fixture::sqlite();
    on_memory = Fixture::memory();
    on_dynamodb = Fixture::dynamodb().await;
}

/// A fresh store of one adapter.
pub(crate) struct Fixture {
    store: Arc<dyn ItemStore>,
    backing: Backing,
}

/// Where a store lives.
enum Backing {
    File(TempDir),
    Memory(MemoryStore),
    Table(String),
}

impl Fixture {
    fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open_or_make(&directory.path().join("vault.db"), Arc::new(SystemClock)).unwrap();
        Self { store: Arc::new(store), backing: Backing::File(directory) }
    }

    fn memory() -> Self {
        let store = MemoryStore::new(Arc::new(SystemClock));
        Self { store: Arc::new(store.clone()), backing: Backing::Memory(store) }
    }

    async fn dynamodb() -> Self {
        let (store, table) = local::table().await;
        Self { store: Arc::new(store), backing: Backing::Table(table) }
    }

    /// Makes the item at `key` unreadable, past the store.
    async fn damage(&self, key: &ItemKey) {
        match &self.backing {
            Backing::Memory(store) => store.damage(key),
            Backing::Table(table) => dynamodb::damage(table, key).await,
            Backing::File(directory) => {
                let connection = rusqlite::Connection::open(directory.path().join("vault.db")).unwrap();
                let sql = "UPDATE items SET attributes = x'ff' WHERE partition = ?1 AND sort = ?2";
                assert_eq!(connection.execute(sql, (&key.partition, &key.sort)).unwrap(), 1);
            }
        }
    }

    async fn write(&self, actions: Vec<Action>) -> Result<Written, StoreError> {
        self.store.write(write_id(), actions, soon()).await
    }

    async fn commit(&self, actions: Vec<Action>) {
        assert_eq!(self.write(actions).await.unwrap(), Written::Committed);
    }

    async fn get(&self, keys: &[ItemKey]) -> Vec<Option<Item>> {
        let items = self.store.get(keys, soon()).await.unwrap();
        items.into_iter().map(|item| item.map(SharedItem::into_item)).collect()
    }

    async fn one(&self, key: &ItemKey) -> Option<Item> {
        self.get(std::slice::from_ref(key)).await.remove(0)
    }

    async fn query(&self, query: Query) -> Page {
        self.store.query(query, soon()).await.unwrap()
    }

    /// Follows `next` to the end.
    async fn all(&self, mut query: Query) -> Vec<Item> {
        let mut items = Vec::new();
        loop {
            let page = self.query(query.clone()).await;
            items.extend(page.items);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return items,
            }
        }
    }
}

fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(600))
}

fn passed() -> Deadline {
    SystemClock.deadline(Duration::ZERO)
}

fn write_id() -> WriteId {
    use ibyok::domain::clock::{SystemEntropy, random};
    WriteId(random(&SystemEntropy).unwrap())
}

fn key(partition: &str, sort: &str) -> ItemKey {
    ItemKey::new(partition, sort)
}

fn numbered(key: ItemKey, number: i64) -> NewItem {
    NewItem::new(key, Attributes::from([("n".into(), Value::Int(number))]))
}

fn put(key: &ItemKey, number: i64, condition: Condition) -> Action {
    Action::Put(numbered(key.clone(), number), condition)
}

fn delete(key: &ItemKey, condition: Condition) -> Action {
    Action::Delete(key.clone(), condition)
}

fn check(key: &ItemKey, condition: Condition) -> Action {
    Action::Check(key.clone(), condition)
}

/// An item of exactly `bytes` bytes by the contract's count.
fn sized(key: ItemKey, bytes: usize) -> NewItem {
    let rest = bytes - key.partition.len() - key.sort.len();
    NewItem { sealed: Some(vec![0x5a; rest]), ..NewItem::new(key, Attributes::new()) }
}

fn number(item: &Item) -> i64 {
    match item.attributes.get("n") {
        Some(Value::Int(number)) => *number,
        other => panic!("no number but {other:?}"),
    }
}

fn sorts(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.key.sort.as_str()).collect()
}

fn every(partition: &str) -> Query {
    Query { partition: partition.into(), range: SortRange::All, order: Order::Ascending, limit: 1_000, after: None }
}

#[track_caller]
fn assert_contract<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Contract(_))), "{outcome:?}");
}
