//! Rows as items, and SQLite's errors as the port's. Knows no statement.

use std::{error::Error, sync::Arc};

use rusqlite::{ErrorCode, Row};

use super::codec::{self, CodecError};
use crate::{
    domain::clock::Timestamp,
    store::{Item, ItemKey, StoreError},
};

/// What [`item`] reads, in its order.
macro_rules! columns {
    () => {
        "revision, expires, sealed, mac, attributes"
    };
}
pub(super) use columns;

/// Why a row gave no item.
#[derive(Debug)]
pub(super) enum RowError {
    /// The database failed; the connection may be no good any more.
    Database(rusqlite::Error),
    /// The row is no item.
    Corrupt(Box<dyn Error + Send + Sync>),
    /// The store is closed.
    Closed,
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
        match &error {
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => {
                Self::Corrupt(Box::new(error))
            }
            _ => Self::Database(error),
        }
    }
}

impl From<CodecError> for RowError {
    fn from(error: CodecError) -> Self {
        Self::Corrupt(Box::new(error))
    }
}

impl From<RowError> for StoreError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Corrupt(source) => Self::Corrupt(source),
            RowError::Database(error) => database_error(error),
            RowError::Closed => closed(),
        }
    }
}

/// A failure of the database: its own damage, or else no answer.
pub(super) fn database_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(Box::new(error)),
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

/// The store answers no more.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

/// A failure that several callers are told of.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the transaction failed")]
pub(super) struct GroupFailed(#[source] pub(super) Arc<rusqlite::Error>);

/// The item at `key` that the columns from `first` on say.
pub(super) fn item(row: &Row<'_>, first: usize, key: ItemKey) -> Result<Item, RowError> {
    let column = |offset: usize| first.saturating_add(offset);
    let revision: i64 = row.get(column(0))?;
    let attributes = row.get_ref(column(4))?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(Item {
        key,
        revision: revision.try_into().map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column(0), revision))?,
        expires: row.get::<_, Option<i64>>(column(1))?.map(Timestamp::from_seconds),
        sealed: row.get(column(2))?,
        mac: row.get(column(3))?,
        attributes: codec::decode(attributes)?,
    })
}
