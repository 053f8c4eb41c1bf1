//! Secrets are where they belong and nowhere else: not in the log at any level, not in the
//! database, not in the server's memory once the connections on which they travelled are closed.
//!
//! The real server runs as a process of its own; this one is its client, and knows every secret.

use std::{collections::BTreeMap, fs};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ibyok::{
    domain::clock::{SystemEntropy, random},
    grpc::pb,
};
use tonic::{
    Code,
    metadata::{AsciiMetadataValue, MetadataValue},
};

use crate::{
    harness::{ADMIN, Caller, Home, ORG, Place, reason, within},
    tamper::stock::Raw,
};

mod calls;
pub(crate) mod needles;
pub(crate) mod process;

use calls::drive;
use needles::Needles;
use process::Server;

/// An organization of which everybody may know: it shows that a search finds what is there.
const KNOWN: &str = "known-to-be-in-memory-0123456789";

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_but_where_they_belong() {
    let server = Server::start_readable().await;
    let secrets = drive(&server).await;
    let travelled = Needles::of(&secrets.travelled);
    let control = Needles::of(&[("control".to_owned(), KNOWN.into())]);

    // The driver's connections are closed on this side; the server notices.
    within("the end of the connections", async {
        while server.has_connections() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(!server.memory(&control).is_empty(), "a search of the memory finds what is there");
    let found = settled(|| server.memory(&travelled)).await;
    assert!(found.is_empty(), "{} in the server's memory: {found:#?}", found.len());

    let all = Needles::of(&[secrets.travelled, secrets.kept].concat());
    assert_none(&all, &control, stored(&server.site.home).await, "while it is served");
    let (site, log) = server.terminate().await;
    assert_none(&all, &control, stored(&site.home).await, "afterwards");
    let lines = String::from_utf8_lossy(&log);
    assert!(lines.contains("TRACE") || lines.contains("DEBUG"), "the log says everything that it ever says: {lines}");
    let found: Vec<_> = all.found_in(&log).collect();
    assert!(found.is_empty(), "in the log: {found:#?}\n{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_leaves_no_core_and_lets_nobody_look() {
    let server = Server::start_plain().await;
    server.assert_hardened();
    server.terminate().await;
}

/// What is found once two looks in a row find the same: the last buffers go with the tasks that
/// held them, a moment after the socket.
pub(crate) async fn settled(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let mut before = look();
    loop {
        if before.is_empty() {
            return before;
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let now = look();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// The database: its files, or each row of its table.
async fn stored(home: &Home) -> BTreeMap<String, Vec<u8>> {
    if let Place::Table { .. } = home.place() {
        let rows = Raw::of(home).await.rows().await;
        return rows.iter().map(|row| (format!("{} / {}", row.partition, row.sort), row.bytes())).collect();
    }
    let entries = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    let database = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("vault.db"));
    let files: BTreeMap<_, _> = database.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    assert!(files.keys().any(|path| path.ends_with("vault.db")));
    files
}

fn assert_none(needles: &Needles, control: &Needles, stored: BTreeMap<String, Vec<u8>>, when: &str) {
    assert!(stored.values().any(|bytes| control.found_in(bytes).next().is_some()), "a search finds what is there");
    for (place, bytes) in stored {
        let found: Vec<_> = needles.found_in(&bytes).collect();
        assert!(found.is_empty(), "{when}, in {place}: {found:#?}");
    }
}
