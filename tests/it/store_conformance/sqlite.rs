//! What the store in one file promises besides.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use futures_util::future::join_all;
use ibyok::{domain::clock::Timestamp, store::sqlite::OpenError};

use super::*;

/// Found nowhere else in a file.
const NEEDLE: &[u8] = b"\xf3needle-in-the-ciphertext\xf3";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("vault.db")
    }

    fn open(&self) -> Result<SqliteStore, OpenError> {
        SqliteStore::open_or_make(&self.file(), Arc::new(SystemClock))
    }

    /// Whether any file of the vault holds the needle.
    fn holds_needle(&self) -> bool {
        let files = fs::read_dir(self.0.path()).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        files.into_iter().any(|bytes| bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE))
    }
}

async fn commit(store: &SqliteStore, actions: Vec<Action>) {
    assert_eq!(store.write(write_id(), actions, soon()).await.unwrap(), Written::Committed);
}

async fn one(store: &SqliteStore, key: &ItemKey) -> Option<Item> {
    store.get(std::slice::from_ref(key), soon()).await.unwrap().remove(0).map(SharedItem::into_item)
}

fn sealed(sort: &str, length: usize) -> NewItem {
    let bytes = NEEDLE.iter().copied().cycle().take(length).collect();
    NewItem { sealed: Some(bytes), ..NewItem::new(key("p", sort), Attributes::new()) }
}

#[tokio::test]
async fn a_second_open_is_refused_and_says_why() {
    let place = Place::new();
    let store = place.open().unwrap();
    let refused = place.open().unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, OpenError::Held { .. }));
    assert!(said.contains("another server has the vault") && said.contains("vault.db.lock"), "{said}");
    commit(&store, vec![put(&key("p", "s"), 1, Condition::Absent)]).await;
    drop(store);
    assert!(one(&place.open().unwrap(), &key("p", "s")).await.is_some());
}

#[tokio::test]
async fn another_name_of_the_file_meets_the_same_lock() {
    let place = Place::new();
    let store = place.open().unwrap();
    let link = place.0.path().join("link.db");
    std::os::unix::fs::symlink(place.file(), &link).unwrap();
    assert!(matches!(SqliteStore::open_or_make(&link, Arc::new(SystemClock)), Err(OpenError::Held { .. })));
    drop(store);
    assert!(SqliteStore::open_or_make(&link, Arc::new(SystemClock)).is_ok());
}

#[tokio::test]
async fn what_is_written_survives() {
    let place = Place::new();
    let wanted = {
        let store = place.open().unwrap();
        commit(&store, vec![put(&key("p", "a"), 1, Condition::Absent)]).await;
        commit(&store, vec![put(&key("p", "a"), 2, Condition::Revision(1))]).await;
        commit(&store, vec![Action::Put(sealed("b", 300_000), Condition::Absent)]).await;
        store.query(every("p"), soon()).await.unwrap()
    };
    let store = place.open().unwrap();
    assert_eq!(store.query(every("p"), soon()).await.unwrap(), wanted);
    commit(&store, vec![put(&key("p", "a"), 3, Condition::Revision(2))]).await;
}

/// What queued before the end is written; a copy of the one file is the vault.
#[tokio::test]
async fn a_clean_end_drains_the_queue_into_one_file() {
    let place = Place::new();
    let store = place.open().unwrap();
    let writes =
        (0..50).map(|n| store.write(write_id(), vec![put(&key("p", &format!("{n}")), n, Condition::Absent)], soon()));
    let (outcomes, closed) = tokio::join!(biased; join_all(writes), store.close());
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap() == Written::Committed));
    closed.unwrap();
    let elsewhere = Place::new();
    fs::copy(place.file(), elsewhere.file()).unwrap();
    let names: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with("-wal")), "{names:?}");
    let copy = elsewhere.open().unwrap();
    assert_eq!(copy.query(every("p"), soon()).await.unwrap().items.len(), 50);
}

#[tokio::test]
async fn a_closed_store_answers_that_and_lets_go_of_its_file() {
    let place = Place::new();
    let store = place.open().unwrap();
    let at = key("p", "s");
    commit(&store, vec![put(&at, 1, Condition::Absent)]).await;
    store.close().await.unwrap();
    let again = place.open().unwrap();
    assert!(matches!(store.get(std::slice::from_ref(&at), soon()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.query(every("p"), soon()).await, Err(StoreError::Unavailable(_))));
    let written = store.write(write_id(), vec![put(&at, 2, Condition::Any)], soon()).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.status(soon()).await, Err(StoreError::Unavailable(_))));
    drop(store);
    assert_eq!(number(&one(&again, &at).await.unwrap()), 1);
}

#[tokio::test]
async fn deleted_and_overwritten_values_are_in_no_file() {
    for length in [NEEDLE.len(), 3_000, 100_000] {
        let place = Place::new();
        let store = place.open().unwrap();
        for sort in ["deleted", "overwritten", "neighbour"] {
            commit(&store, vec![Action::Put(sealed(sort, length), Condition::Absent)]).await;
        }
        commit(&store, vec![delete(&key("p", "neighbour"), Condition::Present)]).await;
        store.sweep_expired(Timestamp::default(), 1).await.unwrap();
        assert!(place.holds_needle(), "two are left");
        commit(&store, vec![delete(&key("p", "deleted"), Condition::Present)]).await;
        commit(&store, vec![put(&key("p", "overwritten"), 1, Condition::Revision(1))]).await;
        store.sweep_expired(Timestamp::default(), 1).await.unwrap();
        assert!(!place.holds_needle(), "a sweep wipes the log, {length}");
        commit(&store, vec![Action::Put(sealed("last", length), Condition::Absent)]).await;
        assert!(place.holds_needle());
        commit(&store, vec![delete(&key("p", "last"), Condition::Present)]).await;
        store.close().await.unwrap();
        assert!(!place.holds_needle(), "{length}");
    }
}

#[tokio::test]
async fn a_sweep_deletes_what_expired_oldest_first_and_nothing_else() {
    let place = Place::new();
    let store = place.open().unwrap();
    let at = |second| Some(Timestamp::from_seconds(second));
    for (sort, expires) in [("a", at(30)), ("b", at(10)), ("c", at(20)), ("d", at(40)), ("e", None)] {
        let item = NewItem { expires, ..numbered(key("p", sort), 1) };
        commit(&store, vec![Action::Put(item, Condition::Absent)]).await;
    }
    let left = async || {
        let items = store.query(every("p"), soon()).await.unwrap().items;
        items.into_iter().map(|item| item.key.sort).collect::<String>()
    };
    let sweep = async |second, limit| store.sweep_expired(Timestamp::from_seconds(second), limit).await.unwrap();
    assert_eq!(sweep(10, 9).await, 0, "not in its last second");
    assert_eq!(left().await, "abcde");
    assert_eq!(sweep(35, 2).await, 2);
    assert_eq!(left().await, "ade");
    assert_eq!(sweep(35, 2).await, 1);
    assert_eq!(sweep(35, 2).await, 0);
    assert_eq!(left().await, "de");
    // An item that lives longer now is not swept by its former time.
    let item = NewItem { expires: at(90), ..numbered(key("p", "d"), 2) };
    commit(&store, vec![Action::Put(item, Condition::Revision(1))]).await;
    assert_eq!(sweep(50, 9).await, 0);
    assert_eq!(sweep(i64::MAX / 1_000_000, 9).await, 1);
    assert_eq!(left().await, "e");
}

#[tokio::test]
async fn the_files_are_for_their_owner() {
    let place = Place::new();
    let store = place.open().unwrap();
    commit(&store, vec![put(&key("p", "s"), 1, Condition::Absent)]).await;
    let modes = |place: &Place| {
        let files = fs::read_dir(place.0.path()).unwrap().map(|file| file.unwrap());
        let modes = files.map(|file| file.metadata().unwrap().permissions().mode() & 0o777);
        modes.collect::<Vec<_>>()
    };
    assert_eq!(modes(&place), [0o600; 4]);
    drop(store);
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let _store = place.open().unwrap();
    assert!(modes(&place).iter().all(|mode| *mode == 0o600));
}

#[tokio::test]
async fn what_is_no_vault_is_left_as_it_is() {
    let place = Place::new();
    let text = "not a database, but long enough to have the size of a header. ".repeat(20);
    fs::write(place.file(), &text).unwrap();
    let refused = place.open().unwrap_err();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
    assert_eq!(fs::read_to_string(place.file()).unwrap(), text);
}

#[tokio::test]
async fn an_empty_file_becomes_a_vault_where_one_may_be_made() {
    let place = Place::new();
    fs::write(place.file(), "").unwrap();
    let refused = SqliteStore::open(&place.file(), Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(refused, OpenError::Absent(_)), "{refused}");
    assert!(fs::read(place.file()).unwrap().is_empty());
    assert!(place.open().is_ok());
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let place = Place::new();
    let path = place.0.path().join("missing").join("vault.db");
    let said = SqliteStore::open_or_make(&path, Arc::new(SystemClock)).unwrap_err().to_string();
    assert!(said.contains("missing"), "{said}");
}

#[tokio::test]
async fn it_is_the_only_user_of_its_file() {
    assert!(Place::new().open().unwrap().is_exclusive());
}

/// Readers on many threads beside a writer: each sees whole items, and never an older one again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_beside_writes_are_whole_and_never_go_back() {
    let place = Place::new();
    let store = Arc::new(place.open().unwrap());
    let at = key("p", "s");
    let value = |n: u8| NewItem { sealed: Some(vec![n; 5_000]), ..numbered(key("p", "s"), n.into()) };
    commit(&store, vec![Action::Put(value(0), Condition::Absent)]).await;
    let readers = (0..4).map(|_| {
        let (store, at) = (Arc::clone(&store), at.clone());
        tokio::spawn(async move {
            let mut seen = 0;
            while seen < 100 {
                let item = one(&store, &at).await.unwrap();
                assert!(number(&item) >= seen, "{} after {seen}", number(&item));
                seen = number(&item);
                assert!(item.sealed.unwrap().iter().all(|byte| i64::from(*byte) == seen));
                tokio::task::yield_now().await;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for n in 1..=100 {
        commit(&store, vec![Action::Put(value(n), Condition::Revision(n.into()))]).await;
        assert_eq!(number(&one(&store, &at).await.unwrap()), i64::from(n));
    }
    join_all(readers).await.into_iter().for_each(|reader| reader.unwrap());
}
