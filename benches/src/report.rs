//! The figures: kept as JSON, shown as Markdown tables.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::Failed;

/// Everything that a run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How many keys were stored.
    pub(crate) keys: usize,
    /// One row for each server and number of callers.
    pub(crate) rows: Vec<Row>,
    /// From the start of the process to the first answer that it serves, in milliseconds.
    pub(crate) ready_ms: f64,
    /// Resident memory before the first call, in MB of 1,000,000 bytes.
    pub(crate) idle_mb: f64,
}

/// The median window of one server under so many callers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// `floor`, `vault`, `null audit` or `rotations`.
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
        let mut text = format!("{} keys stored\n\n", self.keys);
        text.push_str(
            "| server | callers | calls/s | p50 ms | p99 ms | p99.9 ms | CPU us a call | of the floor | RSS MB |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let floor = self.row("floor", row.callers).filter(|_| row.server != "rotations");
            let ratio = floor.map_or_else(String::new, |floor| format!("{:.2}", row.cpu_us / floor.cpu_us));
            let Row { server, callers, rate, p50_ms, p99_ms, p999_ms, cpu_us, resident_mb } = row;
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
