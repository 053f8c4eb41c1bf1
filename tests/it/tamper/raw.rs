//! The database behind the vault's back, as its writer has it, who has no key: plain SQL on the vault's
//! file, plain requests to its table.

use std::{collections::HashMap, path::Path, time::Duration};

use aws_sdk_dynamodb::{Client, primitives::Blob, types::AttributeValue};
use ibyok::store::ItemKey;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{
    dynamodb::local,
    harness::{Home, Place},
};

/// One row, byte for byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub partition: String,
    pub sort: String,
    pub revision: i64,
    pub expires: Option<i64>,
    pub sealed: Option<Vec<u8>>,
    pub mac: Option<Vec<u8>>,
    pub attributes: Attributes,
}

/// An item's own attributes, as the store has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Attributes {
    /// In SQLite's file.
    Encoded(Vec<u8>),
    /// In DynamoDB's table: a map.
    Native(AttributeValue),
}

impl Row {
    pub fn key(&self) -> ItemKey {
        ItemKey::new(&self.partition, &self.sort)
    }

    /// Everything that it holds.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.partition.as_bytes(), self.sort.as_bytes()].concat();
        bytes.extend(self.sealed.iter().chain(&self.mac).flatten());
        match &self.attributes {
            Attributes::Encoded(encoded) => bytes.extend(encoded),
            Attributes::Native(value) => collect(value, &mut bytes),
        }
        bytes
    }

    /// With an attribute's text changed, so that the row is still readable.
    pub fn changed(&self, from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let attributes = match &self.attributes {
            Attributes::Encoded(bytes) => {
                let mut bytes = bytes.clone();
                let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
                bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
                Attributes::Encoded(bytes)
            }
            Attributes::Native(value) => {
                let with_text = |leaf: &AttributeValue| match leaf {
                    AttributeValue::S(text) if text.contains(from) => {
                        vec![AttributeValue::S(text.replacen(from, to, 1))]
                    }
                    _ => Vec::new(),
                };
                Attributes::Native(variants(value, &with_text).remove(0))
            }
        };
        Self { attributes, ..self.clone() }
    }

    /// Changed so that the row is not even one of ours any more.
    pub fn broken(&self) -> Self {
        let attributes = match &self.attributes {
            Attributes::Encoded(bytes) => {
                let mut bytes = bytes.clone();
                bytes[0] ^= 0x80;
                Attributes::Encoded(bytes)
            }
            Attributes::Native(_) => Attributes::Native(AttributeValue::S("no map".to_owned())),
        };
        Self { attributes, ..self.clone() }
    }

    /// With one bit of its attributes changed, or one of them.
    pub fn spoiled(&self) -> Self {
        let attributes = match &self.attributes {
            Attributes::Encoded(bytes) => {
                let mut bytes = bytes.clone();
                *bytes.last_mut().unwrap() ^= 1;
                Attributes::Encoded(bytes)
            }
            Attributes::Native(value) => Attributes::Native(leaf_by_leaf(value).remove(0)),
        };
        Self { attributes, ..self.clone() }
    }
}

impl Attributes {
    /// About how much it is.
    pub fn size(&self) -> usize {
        match self {
            Self::Encoded(bytes) => bytes.len(),
            Self::Native(value) => format!("{value:?}").len(),
        }
    }
}

/// Every name and every leaf.
fn collect(value: &AttributeValue, bytes: &mut Vec<u8>) {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => bytes.extend(text.as_bytes()),
        AttributeValue::B(blob) => bytes.extend(blob.as_ref()),
        AttributeValue::L(values) => values.iter().for_each(|value| collect(value, bytes)),
        AttributeValue::M(values) => {
            for (name, value) in values {
                bytes.extend(name.as_bytes());
                collect(value, bytes);
            }
        }
        _ => {}
    }
}

/// The map with each of its values in turn changed, given another type, or taken out.
pub fn leaf_by_leaf(value: &AttributeValue) -> Vec<AttributeValue> {
    let mut all = variants(value, &|leaf| match leaf {
        AttributeValue::S(text) => {
            vec![AttributeValue::S(format!("{text} ")), AttributeValue::B(Blob::new(text.as_bytes()))]
        }
        AttributeValue::N(digits) => {
            let more = digits.parse::<i64>().unwrap() ^ 1;
            vec![AttributeValue::N(more.to_string()), AttributeValue::S(digits.clone())]
        }
        AttributeValue::Bool(it) => vec![AttributeValue::Bool(!it), AttributeValue::S(it.to_string())],
        AttributeValue::B(bytes) => {
            let flipped = |at: usize| {
                let mut bytes = bytes.as_ref().to_vec();
                bytes[at] ^= 1 << (at % 8);
                AttributeValue::B(Blob::new(bytes))
            };
            let text = AttributeValue::S(data_encoding::BASE64.encode(bytes.as_ref()));
            (0..bytes.as_ref().len()).step_by(16).map(flipped).chain([text]).collect()
        }
        _ => Vec::new(),
    });
    let AttributeValue::M(values) = value else { return all };
    for name in values.keys() {
        let mut less = values.clone();
        less.remove(name);
        all.push(AttributeValue::M(less));
    }
    let mut more = values.clone();
    more.insert("added".to_owned(), AttributeValue::Bool(true));
    all.push(AttributeValue::M(more));
    all
}

/// `value` with each of its leaves in turn replaced by what `change` makes of it.
fn variants(value: &AttributeValue, change: &dyn Fn(&AttributeValue) -> Vec<AttributeValue>) -> Vec<AttributeValue> {
    let mut all = Vec::new();
    match value {
        AttributeValue::M(values) => {
            for (name, inner) in values {
                for variant in variants(inner, change) {
                    let mut values = values.clone();
                    values.insert(name.clone(), variant);
                    all.push(AttributeValue::M(values));
                }
            }
        }
        AttributeValue::L(values) => {
            for (at, inner) in values.iter().enumerate() {
                for variant in variants(inner, change) {
                    let mut values = values.clone();
                    values[at] = variant;
                    all.push(AttributeValue::L(values));
                }
            }
        }
        leaf => all = change(leaf),
    }
    all
}

/// The database's writer.
pub enum Raw {
    File(Connection),
    Table(Client, String),
}

const COLUMNS: &str = "partition, sort, revision, expires, sealed, mac, attributes";

impl Raw {
    /// That of the vault in `home`, which may be served meanwhile.
    pub async fn of(home: &Home) -> Self {
        match home.place() {
            Place::File(path) => Self::open(&home.path().join(path)),
            Place::Table { name, .. } => Self::Table(local::client().await, name.clone()),
        }
    }

    fn open(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        // What this writer does need not outlive the machine.
        connection.pragma_update(None, "synchronous", "OFF").unwrap();
        Self::File(connection)
    }

    pub async fn rows(&self) -> Vec<Row> {
        match self {
            Self::File(connection) => {
                let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM items")).unwrap();
                let rows = statement.query_map((), of_columns).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Self::Table(client, name) => {
                let pages = client.scan().table_name(name).consistent_read(true).into_paginator().items().send();
                pages.collect::<Result<Vec<_>, _>>().await.unwrap().into_iter().map(of_item).collect()
            }
        }
    }

    pub async fn find(&self, partition: &str, sort: &str) -> Option<Row> {
        match self {
            Self::File(connection) => {
                let sql = format!("SELECT {COLUMNS} FROM items WHERE partition = ?1 AND sort = ?2");
                connection.query_row(&sql, (partition, sort), of_columns).optional().unwrap()
            }
            Self::Table(client, name) => {
                let key = Some(key_of(partition, sort));
                let got = client.get_item().table_name(name).set_key(key).consistent_read(true).send().await;
                got.unwrap().item.map(of_item)
            }
        }
    }

    /// The row, which must be there.
    pub async fn row(&self, partition: &str, sort: &str) -> Row {
        self.find(partition, sort).await.unwrap_or_else(|| panic!("no item {partition} / {sort}"))
    }

    pub async fn put(&self, row: &Row) {
        match self {
            Self::File(connection) => {
                let Row { partition, sort, revision, expires, sealed, mac, attributes } = row;
                let Attributes::Encoded(attributes) = attributes else { panic!("a row of a table") };
                let sql = format!("INSERT OR REPLACE INTO items ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
                let values = params![partition, sort, revision, expires, sealed, mac, attributes];
                connection.prepare_cached(&sql).unwrap().execute(values).unwrap();
            }
            Self::Table(client, name) => {
                client.put_item().table_name(name).set_item(Some(item_of(row))).send().await.unwrap();
            }
        }
    }

    pub async fn delete(&self, partition: &str, sort: &str) {
        let is_gone = match self {
            Self::File(connection) => {
                let sql = "DELETE FROM items WHERE partition = ?1 AND sort = ?2";
                connection.execute(sql, (partition, sort)).unwrap() == 1
            }
            Self::Table(client, name) => {
                let key = Some(key_of(partition, sort));
                let delete = client.delete_item().table_name(name).set_key(key).return_values("ALL_OLD".into());
                delete.send().await.unwrap().attributes.is_some()
            }
        };
        assert!(is_gone, "no item {partition} / {sort}");
    }
}

fn of_columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        partition: row.get(0)?,
        sort: row.get(1)?,
        revision: row.get(2)?,
        expires: row.get(3)?,
        sealed: row.get(4)?,
        mac: row.get(5)?,
        attributes: Attributes::Encoded(row.get(6)?),
    })
}

type Item = HashMap<String, AttributeValue>;

fn of_item(mut item: Item) -> Row {
    let mut part = |name| item.remove(name);
    let text = |value: Option<AttributeValue>| value.unwrap().as_s().unwrap().clone();
    let number = |value: AttributeValue| value.as_n().unwrap().parse().unwrap();
    let bytes = |value: AttributeValue| value.as_b().unwrap().as_ref().to_vec();
    Row {
        partition: text(part("pk")),
        sort: text(part("sk")),
        revision: number(part("rev").unwrap()),
        expires: part("exp").map(number),
        sealed: part("sealed").map(bytes),
        mac: part("mac").map(bytes),
        attributes: Attributes::Native(part("attrs").unwrap()),
    }
}

fn key_of(partition: &str, sort: &str) -> Item {
    [("pk", partition), ("sk", sort)].map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned()))).into()
}

fn item_of(row: &Row) -> Item {
    let Attributes::Native(attributes) = row.attributes.clone() else { panic!("a row of a file") };
    let number = |number: i64| AttributeValue::N(number.to_string());
    let bytes = |bytes: &Vec<u8>| AttributeValue::B(Blob::new(bytes.as_slice()));
    let mut item = key_of(&row.partition, &row.sort);
    let parts = [
        ("rev", Some(number(row.revision))),
        ("exp", row.expires.map(number)),
        ("sealed", row.sealed.as_ref().map(bytes)),
        ("mac", row.mac.as_ref().map(bytes)),
        ("wid", Some(AttributeValue::B(Blob::new([0; 16])))),
        ("attrs", Some(attributes)),
    ];
    item.extend(parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    item
}
