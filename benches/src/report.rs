//! The figures: kept as JSON, shown as Markdown tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{Engines, Failed};

/// The rows of bare requests, and what `ibyok-bench-requests` calls them; the last makes all of them, as
/// a retrieval does.
pub(crate) const BARE: [(&str, &str); 4] =
    [("BatchGetItem", "batch-get-item"), ("Decrypt", "decrypt"), ("PutItem", "put-item"), ("bare requests", "all")];

/// Everything that a run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What the vault ran on.
    #[serde(default)]
    pub(crate) engines: Engines,
    /// How many keys were stored.
    pub(crate) keys: usize,
    /// One row for each server and number of callers.
    pub(crate) rows: Vec<Row>,
    /// From the start of the process to the first answer that it serves, in milliseconds.
    pub(crate) ready_ms: f64,
    /// Resident memory before the first call, in MB of 1,000,000 bytes.
    pub(crate) idle_mb: f64,
    /// The requests of retrievals, one entry for each number of callers.
    #[serde(default)]
    pub(crate) counted: Vec<Counted>,
    /// The bytes of a retrieval's record, where requests were counted.
    #[serde(default)]
    pub(crate) record_bytes: Option<usize>,
}

/// What retrievals asked of the engines, and what the server asked beside them meanwhile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Callers at a time.
    pub(crate) callers: usize,
    /// By operation, for each retrieval.
    pub(crate) requests: BTreeMap<String, f64>,
    /// Records of the audit log in each PutItem.
    pub(crate) records_per_put: f64,
}

/// The median window of one server under so many callers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// `floor`, `vault`, `null audit`, `rotations`, or one of [`BARE`].
    pub(crate) server: String,
    /// Callers at a time.
    pub(crate) callers: usize,
    /// Calls a second; rotations a second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p50_ms: f64,
    /// Milliseconds.
    pub(crate) p99_ms: f64,
    /// Milliseconds.
    pub(crate) p999_ms: f64,
    /// The server's CPU time for each, in microseconds.
    pub(crate) cpu_us: f64,
    /// The emulators' CPU time for each, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) emulators_us: Option<f64>,
    /// Resident memory at the end of the windows, in MB.
    pub(crate) resident_mb: f64,
}

impl Report {
    /// The row of `server` under `callers`.
    pub(crate) fn row(&self, server: &str, callers: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.server == server && row.callers == callers)
    }

    /// As tables.
    pub(crate) fn markdown(&self) -> String {
        let engines = match self.engines {
            Engines::Embedded => "SQLite and the local KMS",
            Engines::Aws => "DynamoDB Local and LocalStack's KMS",
        };
        let mut text = format!("{} keys stored; {engines}\n\n", self.keys);
        text.push_str(
            "| server | callers | calls/s | p50 ms | p99 ms | p99.9 ms | CPU us a call | of the floor | RSS MB |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let floor = self.row("floor", row.callers).filter(|_| row.server != "rotations");
            let ratio = floor.map_or_else(String::new, |floor| format!("{:.2}", row.cpu_us / floor.cpu_us));
            let Row { server, callers, rate, p50_ms, p99_ms, p999_ms, cpu_us, resident_mb, .. } = row;
            // Writing to a String can't fail.
            let _ = writeln!(
                text,
                "| {server} | {callers} | {rate:.0} | {p50_ms:.2} | {p99_ms:.2} | {p999_ms:.2} | {cpu_us:.1} | {ratio} | {resident_mb:.1} |"
            );
        }
        let _ = writeln!(
            text,
            "\nstart to serving {:.0} ms; resident before the first call {:.1} MB",
            self.ready_ms, self.idle_mb
        );
        text + &self.shares() + &self.requests()
    }

    /// What of a retrieval is the emulators', the SDK's, and the vault's own; empty without emulators.
    fn shares(&self) -> String {
        let mut text = "\n| callers | p50 ms: RetrieveKey | bare requests | rest | CPU us: RetrieveKey | floor | SDK: \
             bare requests less floor | rest | of one core, a second | emulators' CPU us |\n\
             |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        let [.., (bare, _)] = BARE;
        let mut is_empty = true;
        for vault in self.rows.iter().filter(|row| row.server == "vault") {
            let callers = vault.callers;
            let (Some(floor), Some(bare)) = (self.row("floor", callers), self.row(bare, callers)) else { continue };
            is_empty = false;
            let _ = writeln!(
                text,
                "| {callers} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
                vault.p50_ms,
                bare.p50_ms,
                vault.p50_ms - bare.p50_ms,
                vault.cpu_us,
                floor.cpu_us,
                bare.cpu_us - floor.cpu_us,
                vault.cpu_us - bare.cpu_us,
                1e6 / vault.cpu_us,
                vault.emulators_us.unwrap_or_default(),
            );
        }
        if is_empty { String::new() } else { text }
    }

    /// Requests for each retrieval; empty where none were counted.
    fn requests(&self) -> String {
        if self.counted.is_empty() {
            return String::new();
        }
        let names: BTreeSet<_> = self.counted.iter().flat_map(|counted| counted.requests.keys()).collect();
        let mut text = "\n| requests a retrieval, callers |".to_owned();
        for name in &names {
            let _ = write!(text, " {name} |");
        }
        let _ = writeln!(text, " records a PutItem |\n|---|{}---|", "---|".repeat(names.len()));
        for Counted { callers, requests, records_per_put } in &self.counted {
            let _ = write!(text, "| {callers} |");
            for name in &names {
                let _ = write!(text, " {:.3} |", requests.get(*name).copied().unwrap_or_default());
            }
            let _ = writeln!(text, " {records_per_put:.1} |");
        }
        if let Some(bytes) = self.record_bytes {
            let _ = writeln!(text, "\na retrieval's record has {bytes} bytes");
        }
        text
    }

    /// Writes it to `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failed> {
        Ok(fs::write(path, serde_json::to_string_pretty(self)?)?)
    }
}

/// The report that [`Report::write`] wrote.
pub(crate) fn read(path: &Path) -> Result<Report, Failed> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// A line for the one who waits; where standard error is gone, nobody does.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
