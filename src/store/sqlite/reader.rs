//! Reads: inline on the caller's thread, because handing them over costs several times what they
//! take, and from memory where it can be. Connections wait in a pool; one that failed is dropped,
//! so a file that is back is read again.

use std::{
    fmt::Write,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::Connection;

use super::{
    cache::ItemCache,
    row::{self, RowError, columns},
    schema,
};
use crate::store::{Item, ItemKey, Order, PAGE_BYTES_MAX, Page, Query, SharedItem, limits, range::Interval};

/// So many items are read by one statement; more are read by several.
const CHUNK: usize = 8;
/// So many idle connections are kept.
const IDLE_MAX: usize = 32;

/// One statement for each number of items: each arm is one seek by name.
static GET: LazyLock<Vec<String>> = LazyLock::new(|| (1..=CHUNK).map(get_sql).collect());

/// The connections that read.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    cache: Arc<ItemCache>,
    closed: AtomicBool,
}

impl Readers {
    pub(super) fn new(path: PathBuf, cache: Arc<ItemCache>) -> Self {
        Self { path, idle: Mutex::new(Vec::new()), cache, closed: AtomicBool::new(false) }
    }

    /// Reads `keys`, in their order.
    pub(super) fn get(&self, keys: &[ItemKey]) -> Result<Vec<Option<SharedItem>>, RowError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(RowError::Closed);
        }
        let mut items: Vec<_> = keys.iter().map(|key| self.cache.get(key)).collect();
        let missing: Vec<&ItemKey> =
            keys.iter().zip(&items).filter(|(_, item)| item.is_none()).map(|(key, _)| key).collect();
        if missing.is_empty() {
            return Ok(items);
        }
        // Before the file is read, so that a write in between is noticed.
        let looks: Vec<_> = missing.iter().map(|key| self.cache.look(key)).collect();
        let mut read = Vec::with_capacity(missing.len());
        self.with(|connection| missing.chunks(CHUNK).try_for_each(|chunk| get(connection, chunk, &mut read)))?;
        let slots = items.iter_mut().filter(|item| item.is_none());
        for ((slot, item), look) in slots.zip(read).zip(looks) {
            let item = item.map(SharedItem::from);
            if let Some(item) = &item {
                self.cache.remember(look, item);
            }
            *slot = item;
        }
        Ok(items)
    }

    /// Reads a page.
    pub(super) fn query(&self, query: Query) -> Result<Page, RowError> {
        self.with(|connection| page(connection, query))
    }

    /// Reads something, to see whether that works.
    pub(super) fn probe(&self) -> Result<(), RowError> {
        self.with(|connection| Ok(connection.query_row("SELECT count FROM fence", (), |_| Ok(()))?))
    }

    /// Closes the idle connections and keeps none from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.idle().clear();
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, RowError>) -> Result<T, RowError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(RowError::Closed);
        }
        let pooled = self.idle().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => schema::open_reader(&self.path)?,
        };
        let answer = read(&connection);
        if !matches!(answer, Err(RowError::Database(_))) {
            let mut idle = self.idle();
            if idle.len() < IDLE_MAX && !self.closed.load(Ordering::SeqCst) {
                idle.push(connection);
            }
        }
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn get_sql(count: usize) -> String {
    let mut sql = String::new();
    for index in 0..count {
        let joint = if index == 0 { "" } else { " UNION ALL " };
        let first = index.saturating_mul(2).saturating_add(1);
        let second = first.saturating_add(1);
        let columns = columns!();
        // Writing to a String can't fail.
        let _ =
            write!(sql, "{joint}SELECT {index}, {columns} FROM items WHERE partition = ?{first} AND sort = ?{second}");
    }
    sql
}

/// Adds what is at `keys`, at most [`CHUNK`] of them, to `items`.
fn get(connection: &Connection, keys: &[&ItemKey], items: &mut Vec<Option<Item>>) -> Result<(), RowError> {
    let Some(sql) = keys.len().checked_sub(1).and_then(|at| GET.get(at)) else { return Ok(()) };
    let mut statement = connection.prepare_cached(sql)?;
    let texts = keys.iter().flat_map(|key| [&key.partition, &key.sort]);
    for (index, text) in (1_usize..).zip(texts) {
        statement.raw_bind_parameter(index, text.as_str())?;
    }
    let first = items.len();
    items.resize(first.saturating_add(keys.len()), None);
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let index = usize::from(row.get::<_, u8>(0)?);
        let (key, slot) = keys
            .get(index)
            .zip(items.get_mut(first.saturating_add(index)))
            .ok_or(rusqlite::Error::IntegralValueOutOfRange(0, -1))?;
        *slot = Some(row::item(row, 1, ItemKey::clone(key))?);
    }
    Ok(())
}

const ASCENDING: &str =
    concat!("SELECT sort, ", columns!(), " FROM items WHERE partition = ?1 AND sort >= ?2 ORDER BY sort");
const ASCENDING_UNTIL: &str =
    concat!("SELECT sort, ", columns!(), " FROM items WHERE partition = ?1 AND sort >= ?2 AND sort < ?3 ORDER BY sort");
const DESCENDING: &str =
    concat!("SELECT sort, ", columns!(), " FROM items WHERE partition = ?1 AND sort >= ?2 ORDER BY sort DESC");
const DESCENDING_UNTIL: &str = concat!(
    "SELECT sort, ",
    columns!(),
    " FROM items WHERE partition = ?1 AND sort >= ?2 AND sort < ?3 ORDER BY sort DESC"
);

fn page(connection: &Connection, query: Query) -> Result<Page, RowError> {
    let interval = Interval::of(&query);
    let mut page = Page { items: Vec::new(), next: None };
    if interval.is_empty() {
        return Ok(page);
    }
    let mut statement = connection.prepare_cached(match (query.order, &interval.until) {
        (Order::Ascending, None) => ASCENDING,
        (Order::Ascending, Some(_)) => ASCENDING_UNTIL,
        (Order::Descending, None) => DESCENDING,
        (Order::Descending, Some(_)) => DESCENDING_UNTIL,
    })?;
    statement.raw_bind_parameter(1, query.partition.as_str())?;
    statement.raw_bind_parameter(2, interval.from.as_str())?;
    if let Some(until) = &interval.until {
        statement.raw_bind_parameter(3, until.as_str())?;
    }
    let mut bytes = 0_usize;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if page.items.len() >= query.limit {
            page.next = page.items.last().map(|item| item.key.sort.clone());
            break;
        }
        let key = ItemKey { partition: query.partition.clone(), sort: row.get(0)? };
        let item = match row::item(row, 1, key.clone()) {
            Err(RowError::Corrupt(_)) => {
                tracing::error!(partition = key.partition, sort = key.sort, "a stored item can't be read");
                Item::unreadable(key)
            }
            read => read?,
        };
        bytes = bytes.saturating_add(limits::bytes_of(&item));
        if bytes > PAGE_BYTES_MAX && !page.items.is_empty() {
            page.next = page.items.last().map(|item| item.key.sort.clone());
            break;
        }
        page.items.push(item);
    }
    Ok(page)
}

/// Every statement, for its plan to be looked at.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    let queries = [ASCENDING, ASCENDING_UNTIL, DESCENDING, DESCENDING_UNTIL];
    GET.iter().cloned().chain(queries.map(str::to_owned)).collect()
}
