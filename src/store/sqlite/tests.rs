//! What only shows from inside: failing commits, doubt, damaged rows, query plans.

use std::{sync::mpsc as blocking, time::Duration};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::{
    domain::clock::SystemClock,
    store::{Attributes, Condition, ITEMS_MAX, Item, NewItem, Order, SortRange, Value},
};

struct Vault {
    store: SqliteStore,
    directory: TempDir,
}

impl Vault {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { store: open(&directory).unwrap(), directory }
    }

    fn reopened(self) -> Result<Self, OpenError> {
        let Self { store, directory } = self;
        drop(store);
        Ok(Self { store: open(&directory)?, directory })
    }

    fn meddle(&self, meddle: impl FnOnce(&Connection) + Send + 'static) {
        assert!(self.store.desk.try_send(Command::Meddle(Box::new(meddle))));
    }

    fn sql(&self, sql: &'static str) {
        self.meddle(move |connection| connection.execute_batch(sql).unwrap());
    }

    /// Holds the writer until the answer is dropped.
    fn hold(&self) -> blocking::Sender<()> {
        let (release, held) = blocking::channel();
        self.meddle(move |_| assert!(held.recv().is_err(), "nothing is sent"));
        release
    }

    async fn write(&self, actions: Vec<Action>) -> Result<Written, StoreError> {
        self.store.write(WriteId([0; 16]), actions, soon()).await
    }

    async fn get(&self, sort: &str) -> Result<Option<Item>, StoreError> {
        Ok(self.store.get(&[key(sort)], soon()).await?.remove(0).map(SharedItem::into_item))
    }
}

fn open(directory: &TempDir) -> Result<SqliteStore, OpenError> {
    SqliteStore::open_or_make(&directory.path().join("vault.db"), Arc::new(SystemClock))
}

fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}

fn key(sort: &str) -> ItemKey {
    ItemKey::new("p", sort)
}

fn put(sort: &str, condition: Condition) -> Vec<Action> {
    vec![Action::Put(NewItem::new(key(sort), Attributes::from([("n".into(), Value::Int(1))])), condition)]
}

fn put_bytes(sort: &str, length: usize) -> Vec<Action> {
    let item = NewItem { sealed: Some(vec![7; length]), ..NewItem::new(key(sort), Attributes::new()) };
    vec![Action::Put(item, Condition::Any)]
}

/// A put of `spoilt` breaks the COMMIT of its transaction, as a failing disk does.
const SPOIL: &str = "
    CREATE TEMP TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TEMP TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TEMP TRIGGER spoil AFTER INSERT ON main.items WHEN new.sort = 'spoilt'
        BEGIN INSERT INTO child VALUES (1); END;";

#[tokio::test]
async fn a_failed_commit_is_unknown_for_all_in_it() {
    let vault = Vault::new();
    assert_eq!(vault.write(put("there", Condition::Absent)).await.unwrap(), Written::Committed);
    vault.sql(SPOIL);
    let held = vault.hold();
    let (spoilt, good, conflict, ()) = tokio::join!(
        biased;
        vault.write(put("spoilt", Condition::Absent)),
        vault.write(put("good", Condition::Absent)),
        vault.write(put("there", Condition::Absent)),
        async move { drop(held) },
    );
    for outcome in [spoilt, good, conflict] {
        assert_eq!(outcome.unwrap(), Written::Unknown);
    }
    assert_eq!(vault.get("spoilt").await.unwrap(), None);
    assert_eq!(vault.get("good").await.unwrap(), None);
    assert_eq!(vault.write(put("good", Condition::Absent)).await.unwrap(), Written::Committed);
}

#[tokio::test]
async fn a_store_that_can_not_leave_the_doubt_opens_its_file_again() {
    let vault = Vault::new();
    vault.sql(SPOIL);
    vault.sql("CREATE TEMP TRIGGER broken AFTER UPDATE ON main.fence BEGIN SELECT raise(ROLLBACK, 'broken'); END;");
    assert_eq!(vault.write(put("spoilt", Condition::Absent)).await.unwrap(), Written::Unknown);
    // The new connection has no triggers.
    assert_eq!(vault.get("spoilt").await.unwrap(), None);
    assert_eq!(vault.write(put("spoilt", Condition::Absent)).await.unwrap(), Written::Committed);
}

#[tokio::test]
async fn nothing_is_read_in_doubt_and_a_read_has_it_settled() {
    let vault = Vault::new();
    let held = vault.hold();
    vault.store.doubt.store(true, Ordering::SeqCst);
    assert!(matches!(vault.get("a").await, Err(StoreError::Unavailable(_))));
    drop(held);
    // Anything that the writer answers comes after the read's request.
    vault.store.sweep_expired(Timestamp::default(), 1).await.unwrap();
    assert!(!vault.store.doubt.load(Ordering::SeqCst));
    assert_eq!(vault.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_until_there_is_room() {
    let vault = Vault::new();
    vault.meddle(|connection| {
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        connection.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(())).unwrap();
    });
    let held = vault.hold();
    let (large, small, ()) =
        tokio::join!(vault.write(put_bytes("large", 100_000)), vault.write(put_bytes("small", 10)), async move {
            drop(held)
        },);
    // SQLite undoes the whole transaction then, so both know that nothing happened.
    for outcome in [large, small] {
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    }
    for sort in ["large", "small"] {
        assert_eq!(vault.get(sort).await.unwrap(), None);
    }
    assert_eq!(vault.write(put_bytes("small", 10)).await.unwrap(), Written::Committed);
    vault.sql("PRAGMA max_page_count = 1000000");
    assert_eq!(vault.write(put_bytes("large", 100_000)).await.unwrap(), Written::Committed);
}

#[tokio::test]
async fn a_write_that_fails_half_way_leaves_nothing_and_spares_the_others() {
    let vault = Vault::new();
    vault.sql(
        "CREATE TEMP TRIGGER refuse AFTER INSERT ON main.items WHEN new.sort = 'bad'
             BEGIN SELECT raise(ABORT, 'no'); END;",
    );
    let held = vault.hold();
    let (half, other, ()) = tokio::join!(
        biased;
        vault.write([put("first", Condition::Absent), put("bad", Condition::Absent)].concat()),
        vault.write(put("other", Condition::Absent)),
        async move { drop(held) },
    );
    assert!(matches!(half, Err(StoreError::Unavailable(_))));
    assert_eq!(other.unwrap(), Written::Committed);
    assert_eq!(vault.get("first").await.unwrap(), None);
    assert!(vault.get("other").await.unwrap().is_some());
}

#[tokio::test]
async fn status_says_whether_it_takes_writes() {
    let vault = Vault::new();
    assert!(vault.store.status(soon()).await.unwrap().contains("reads and writes"));
    vault.sql("PRAGMA query_only = ON");
    assert!(matches!(vault.store.status(soon()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(vault.write(put("a", Condition::Any)).await, Err(StoreError::Unavailable(_))));
    vault.sql("PRAGMA query_only = OFF");
    assert!(vault.store.status(soon()).await.is_ok());
    assert_eq!(vault.write(put("a", Condition::Any)).await.unwrap(), Written::Committed);
}

#[tokio::test]
async fn a_write_withdrawn_at_its_deadline_never_happens() {
    let vault = Vault::new();
    let held = vault.hold();
    let late = SystemClock.deadline(Duration::from_millis(5));
    let outcome = vault.store.write(WriteId([0; 16]), put("a", Condition::Absent), late).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    drop(held);
    assert_eq!(vault.write(put("b", Condition::Absent)).await.unwrap(), Written::Committed);
    assert_eq!(vault.get("a").await.unwrap(), None);
}

/// A store whose writer is the test.
fn unanswered() -> (SqliteStore, mpsc::Receiver<Command>) {
    let (desk, commands) = Desk::unattended();
    let store = SqliteStore {
        clock: Arc::new(SystemClock),
        readers: Readers::new("none".into(), Arc::new(ItemCache::new())),
        doubt: Doubt::default(),
        desk: Arc::new(desk),
        writer: None,
    };
    (store, commands)
}

#[tokio::test]
async fn a_write_that_the_writer_took_is_unknown_without_an_answer() {
    let (store, mut commands) = unanswered();
    let late = SystemClock.deadline(Duration::from_millis(5));
    let (outcome, taken) = tokio::join!(store.write(WriteId([0; 16]), put("a", Condition::Any), late), async {
        let Some(Command::Write(pending)) = commands.recv().await else { panic!("a write") };
        assert!(pending.take());
        pending
    });
    assert_eq!(outcome.unwrap(), Written::Unknown, "at the deadline");
    drop(taken);
    let (outcome, ()) = tokio::join!(store.write(WriteId([0; 16]), put("a", Condition::Any), soon()), async {
        let Some(Command::Write(pending)) = commands.recv().await else { panic!("a write") };
        assert!(pending.take());
    });
    assert_eq!(outcome.unwrap(), Written::Unknown, "when the writer is gone");
}

#[tokio::test]
async fn a_write_that_nobody_took_is_an_error() {
    let (store, mut commands) = unanswered();
    let (outcome, ()) = tokio::join!(store.write(WriteId([0; 16]), put("a", Condition::Any), soon()), async {
        drop(commands.recv().await);
    });
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    drop(commands);
    let outcome = store.write(WriteId([0; 16]), put("a", Condition::Any), soon()).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_writer_that_broke_is_closed_for_everybody_at_once() {
    let vault = Vault::new();
    vault.meddle(|_| panic!("as a defect would"));
    let waiting = vault.write(put("a", Condition::Any)).await;
    assert!(matches!(waiting, Err(StoreError::Unavailable(_))));
    assert!(vault.store.close().await.is_err());
    let Vault { store, directory } = vault;
    drop(store);
    assert!(open(&directory).is_ok(), "the file is free again");
}

#[tokio::test]
async fn a_damaged_row_is_corrupt_and_spares_the_others() {
    for damage in [
        "UPDATE items SET attributes = x'ff' WHERE sort = 'bad'",
        "UPDATE items SET attributes = x'01ffffffff' WHERE sort = 'bad'",
        "UPDATE items SET attributes = x'' WHERE sort = 'bad'",
        "UPDATE items SET revision = -1 WHERE sort = 'bad'",
    ] {
        let vault = Vault::new();
        for sort in ["bad", "good"] {
            assert_eq!(vault.write(put(sort, Condition::Absent)).await.unwrap(), Written::Committed);
        }
        vault.sql(damage);
        let held = vault.hold();
        let (conflict, other, ()) = tokio::join!(
            biased;
            vault.write(put("bad", Condition::Absent)),
            vault.write(put("other", Condition::Absent)),
            async move { drop(held) },
        );
        assert!(matches!(conflict, Err(StoreError::Corrupt(_))), "{damage}");
        assert_eq!(other.unwrap(), Written::Committed);
        assert!(matches!(vault.get("bad").await, Err(StoreError::Corrupt(_))), "{damage}");
        assert!(vault.get("good").await.unwrap().is_some());
        let query =
            Query { partition: "p".into(), range: SortRange::All, order: Order::Ascending, limit: 9, after: None };
        let page = vault.store.query(query, soon()).await.unwrap();
        let sorts: Vec<_> = page.items.iter().map(|item| item.key.sort.as_str()).collect();
        assert_eq!(sorts, ["bad", "good", "other"], "{damage}");
        assert_eq!(page.items.first(), Some(&Item::unreadable(key("bad"))), "{damage}");
    }
}

#[tokio::test]
async fn a_vault_of_another_version_is_refused() {
    let vault = Vault::new();
    vault.sql("PRAGMA user_version = 1");
    assert!(matches!(vault.reopened(), Err(OpenError::Version { found: 1, .. })));
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let vault = Vault::new();
    vault.sql("PRAGMA application_id = 7");
    assert!(matches!(vault.reopened(), Err(OpenError::Foreign(_))));
}

#[tokio::test]
async fn the_writer_works_as_durably_as_the_port_says() {
    let vault = Vault::new();
    let (settings, answer) = blocking::channel();
    vault.meddle(move |connection| {
        let value = |name: &str| -> i64 { connection.pragma_query_value(None, name, |row| row.get(0)).unwrap() };
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        settings.send((mode, value("synchronous"), value("secure_delete"))).unwrap();
    });
    assert_eq!(answer.recv().unwrap(), ("wal".to_owned(), 2, 1));
}

#[tokio::test]
async fn every_statement_seeks() {
    let vault = Vault::new();
    let (plans, answer) = blocking::channel();
    vault.meddle(move |connection| {
        for sql in reader::statements().into_iter().chain(apply::statements()) {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan = statement.raw_query().mapped(|row| row.get::<_, String>(3));
            plans.send((sql, plan.collect::<Result<Vec<_>, _>>().unwrap())).unwrap();
        }
    });
    let mut seeks = 0;
    for (sql, plan) in answer {
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{sql}: {plan:?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN items")), "{sql}: {plan:?}");
        seeks += plan.iter().filter(|step| step.contains("SEARCH items")).count();
    }
    assert!(seeks > ITEMS_MAX / 10);
}
