//! One `write` inside the open transaction: judge every condition, then change every item.

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{
    codec,
    row::{self, RowError, columns},
};
use crate::store::{Action, Condition, Item, ItemKey, NewItem, StoreError, Written};

const REVISION: &str = "SELECT revision FROM items WHERE partition = ?1 AND sort = ?2";
const CURRENT: &str = concat!("SELECT ", columns!(), " FROM items WHERE partition = ?1 AND sort = ?2");
const PUT: &str = "
    INSERT INTO items (partition, sort, revision, expires, sealed, mac, attributes)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (partition, sort) DO UPDATE SET revision = excluded.revision, expires = excluded.expires,
        sealed = excluded.sealed, mac = excluded.mac, attributes = excluded.attributes";
const INSERT: &str = "
    INSERT INTO items (partition, sort, revision, expires, sealed, mac, attributes)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (partition, sort) DO NOTHING";
const DELETE: &str = "DELETE FROM items WHERE partition = ?1 AND sort = ?2";
const SWEEP: &str = "
    DELETE FROM items WHERE id IN
        (SELECT id FROM items WHERE expires IS NOT NULL AND expires < ?1 ORDER BY expires LIMIT ?2)";

/// Why a write did nothing.
#[derive(Debug)]
pub(super) enum ApplyError {
    /// The database failed, and this write changed nothing; the transaction may be gone.
    Database(rusqlite::Error),
    /// The database failed and left part of this write: the transaction must not be committed.
    Partial(rusqlite::Error),
    /// This write is at fault, or an item that it met.
    Refused(StoreError),
}

impl From<rusqlite::Error> for ApplyError {
    fn from(error: rusqlite::Error) -> Self {
        RowError::from(error).into()
    }
}

impl From<RowError> for ApplyError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Database(error) => Self::Database(error),
            other => Self::Refused(other.into()),
        }
    }
}

/// Runs `actions` in the open transaction: all of them or none.
pub(super) fn write(connection: &Connection, actions: &[Action]) -> Result<Written, ApplyError> {
    if let [Action::Put(item, Condition::Absent)] = actions {
        return insert(connection, item);
    }
    let mut revisions = Vec::with_capacity(actions.len());
    for (index, action) in actions.iter().enumerate() {
        let revision = revision(connection, action.key())?;
        if !condition(action).holds(revision) {
            return Ok(Written::Conflict { index, current: current(connection, action.key())? });
        }
        revisions.push(revision);
    }
    if actions.iter().all(|action| matches!(action, Action::Check(..))) {
        return Ok(Written::Committed);
    }
    let mut changes = actions.iter().zip(revisions);
    if actions.len() == 1 {
        // One statement is whole or not at all by itself.
        let changed = changes.try_for_each(|(action, revision)| change(connection, action, revision));
        return changed.map(|()| Written::Committed).map_err(unless_damaged);
    }
    execute(connection, "SAVEPOINT one")?;
    let changed = changes.try_for_each(|(action, revision)| change(connection, action, revision));
    // A database without room undoes the whole transaction by itself.
    if changed.is_err() && !connection.is_autocommit() {
        execute(connection, "ROLLBACK TO one").map_err(ApplyError::Partial)?;
        execute(connection, "RELEASE one").map_err(ApplyError::Partial)?;
    }
    changed?;
    execute(connection, "RELEASE one").map_err(ApplyError::Partial)?;
    Ok(Written::Committed)
}

/// Deletes up to `limit` items that expired before the second `before`; answers how many.
pub(super) fn sweep(connection: &Connection, before: i64, limit: i64) -> rusqlite::Result<usize> {
    connection.prepare_cached(SWEEP)?.execute((before, limit))
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(()).map(drop)
}

fn condition(action: &Action) -> Condition {
    match action {
        Action::Put(_, condition) | Action::Delete(_, condition) | Action::Check(_, condition) => *condition,
    }
}

fn revision(connection: &Connection, key: &ItemKey) -> Result<Option<u64>, ApplyError> {
    let revision = connection
        .prepare_cached(REVISION)?
        .query_row((&key.partition, &key.sort), |row| row.get::<_, i64>(0))
        .optional()?;
    revision.map(|it| it.try_into().map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, it).into())).transpose()
}

fn current(connection: &Connection, key: &ItemKey) -> Result<Option<Item>, ApplyError> {
    let mut statement = connection.prepare_cached(CURRENT)?;
    let mut rows = statement.query((&key.partition, &key.sort))?;
    rows.next()?.map(|row| row::item(row, 0, key.clone())).transpose().map_err(ApplyError::from)
}

fn change(connection: &Connection, action: &Action, revision: Option<u64>) -> Result<(), ApplyError> {
    match action {
        Action::Put(item, _) => put(connection, item, revision),
        Action::Delete(key, _) => {
            connection.prepare_cached(DELETE)?.execute((&key.partition, &key.sort))?;
            Ok(())
        }
        Action::Check(..) => Ok(()),
    }
}

fn put(connection: &Connection, item: &NewItem, revision: Option<u64>) -> Result<(), ApplyError> {
    let next = revision.unwrap_or(0).checked_add(1).and_then(|it| i64::try_from(it).ok());
    let next = next.ok_or(ApplyError::Refused(StoreError::Contract("a revision fits 63 bits")))?;
    store(connection, PUT, item, next).map(drop)
}

/// A put of what must not be there: the batches of the audit log, on the path of every retrieval. One
/// statement finds out and puts.
fn insert(connection: &Connection, item: &NewItem) -> Result<Written, ApplyError> {
    match store(connection, INSERT, item, 1).map_err(unless_damaged)? {
        0 => Ok(Written::Conflict { index: 0, current: current(connection, &item.key)? }),
        _ => Ok(Written::Committed),
    }
}

/// In a damaged file a statement may fail half way: in the table, say, when the index of names has it
/// already.
fn unless_damaged(error: ApplyError) -> ApplyError {
    match error {
        ApplyError::Database(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            ApplyError::Partial(error)
        }
        other => other,
    }
}

/// Runs `statement`, [`PUT`] or [`INSERT`]; how many rows it changed.
fn store(connection: &Connection, statement: &str, item: &NewItem, revision: i64) -> Result<usize, ApplyError> {
    let attributes = codec::encode(&item.attributes)
        .map_err(|_| ApplyError::Refused(StoreError::Contract("the attributes can't be encoded")))?;
    Ok(connection.prepare_cached(statement)?.execute(params![
        item.key.partition,
        item.key.sort,
        revision,
        item.expires.map(|it| it.seconds()),
        item.sealed,
        item.mac,
        attributes
    ])?)
}

/// Every statement, for its plan to be looked at.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    [REVISION, CURRENT, PUT, INSERT, DELETE, SWEEP].map(str::to_owned).to_vec()
}
