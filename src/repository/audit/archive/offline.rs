//! Checks a directory of archive files without a store: each file, and that they follow one another.
//! With a store's roots, also that they are the files that were taken over.

use std::{cmp::Ordering, io};

use super::{
    Directory, Entry, Root,
    format::{Beginning, Chains, Summary, Unsound},
};
use crate::{
    domain::{clock::Timestamp, error::Failure},
    repository::{audit::tree::Hash, records::Records},
};

/// What was found in the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Files that were checked.
    pub files: usize,
    /// Records in the files that are whole.
    pub records: u64,
    /// The positions from the first to the last file; None where there is none.
    pub positions: Option<(u64, u64)>,
    /// The time of the last row.
    pub until: Option<Timestamp>,
    /// A line for each problem.
    pub problems: Vec<String>,
    /// What is not a problem and worth a line.
    pub notes: Vec<String>,
}

/// The roots of a vault, from first to last.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn all_roots(records: &Records, deadline: crate::domain::clock::Deadline) -> Result<Vec<Root>, Failure> {
    let mut roots = Vec::<Root>::new();
    loop {
        let more = super::roots(records, roots.last().map(|root| root.summary.first), deadline).await?;
        if more.is_empty() {
            return Ok(roots);
        }
        roots.extend(more);
    }
}

/// Checks all files. `first` is the position with which they must begin; files before it were
/// removed on purpose. `roots`, if there are any to compare with, are all of the vault's.
///
/// # Errors
/// When the directory can't be read.
pub fn verify(directory: &Directory, first: u64, roots: Option<&[Root]>) -> io::Result<Report> {
    let (entries, strangers) = directory.entries()?;
    let mut walk = Walk::new(first.max(1));
    for name in strangers {
        walk.problem(&name, "its name is not that of an archive file");
    }
    for entry in entries.iter().filter(|entry| entry.last >= first) {
        walk.file(directory, entry, roots);
    }
    if let Some(roots) = roots {
        walk.missing(&entries, roots, first);
    }
    Ok(walk.report)
}

/// What the next file must go on from.
enum Before {
    /// The beginning of the archive, or what is left of it.
    Nothing { first: u64 },
    /// A whole file.
    File(Summary),
    /// A file that is not whole, or a gap: the next may begin anywhere behind it.
    Unknown { last: u64 },
}

struct Walk {
    report: Report,
    before: Before,
    chains: Chains,
}

impl Walk {
    fn new(first: u64) -> Self {
        let (problems, notes) = (Vec::new(), Vec::new());
        let report = Report { files: 0, records: 0, positions: None, until: None, problems, notes };
        Self { report, before: Before::Nothing { first }, chains: Chains::new() }
    }

    fn problem(&mut self, what: &str, problem: &str) {
        self.report.problems.push(format!("{what}: {problem}"));
    }

    fn file(&mut self, directory: &Directory, entry: &Entry, roots: Option<&[Root]>) {
        let name = entry.name();
        let beginning = self.place(entry, &name);
        // What is followed of a bad file says nothing of the next.
        let mut chains = std::mem::take(&mut self.chains);
        self.report.files += 1;
        let (first, _) = self.report.positions.unwrap_or((entry.first, entry.last));
        self.report.positions = Some((first, entry.last));
        let summary = match directory.check(entry, &mut chains, beginning) {
            Ok(summary) => summary,
            Err(unsound) => {
                self.before = Before::Unknown { last: entry.last };
                return match unsound {
                    Unsound::Io(error) => self.problem(&name, &format!("it can't be read: {error}")),
                    Unsound::Fault(fault) => {
                        self.problem(&name, &format!("position {}: {}", fault.position, fault.problem));
                    }
                };
            }
        };
        if (summary.first, summary.last) != (entry.first, entry.last) {
            self.before = Before::Unknown { last: entry.last };
            return self.problem(&name, "it does not hold the positions that its name says");
        }
        if let Some(problem) = self.is_out_of_line(&summary) {
            self.problem(&name, problem);
        }
        if let Some(problem) = roots.and_then(|roots| compare(&summary, roots)) {
            match problem {
                Ok(note) => self.report.notes.push(format!("{name}: {note}")),
                Err(problem) => self.problem(&name, problem),
            }
        }
        self.report.records += summary.records;
        self.report.until = Some(summary.until);
        self.before = Before::File(summary);
        chains.retain(|_, end| !end.is_sealed);
        self.chains = chains;
    }

    /// Names a gap or an overlap before `entry`, and says where its chains may begin.
    fn place(&mut self, entry: &Entry, name: &str) -> Beginning {
        let (expected, beginning) = match &self.before {
            Before::Nothing { first: 1 } => (1, Beginning::Strict),
            Before::Nothing { first } => (*first, Beginning::Anywhere),
            Before::File(summary) => (summary.last + 1, Beginning::Strict),
            Before::Unknown { last } => (last + 1, Beginning::Anywhere),
        };
        // Once something is missing, a chain may begin anywhere in every later file, too.
        let beginning = if self.is_partial() { Beginning::Anywhere } else { beginning };
        let problem = match entry.first.cmp(&expected) {
            Ordering::Equal => return beginning,
            Ordering::Greater => format!("the positions {expected} to {} before it are missing", entry.first - 1),
            Ordering::Less => "it overlaps with the file before it".to_owned(),
        };
        self.problem(name, &problem);
        self.before = Before::Unknown { last: entry.last };
        self.chains.clear();
        Beginning::Anywhere
    }

    /// Whether the files that were met do not go back to the log's beginning without a fault.
    fn is_partial(&self) -> bool {
        !self.report.problems.is_empty() || self.report.positions.is_some_and(|(first, _)| first != 1)
    }

    fn is_out_of_line(&self, summary: &Summary) -> Option<&'static str> {
        const ZEROS: Hash = [0; 32];
        match &self.before {
            Before::Nothing { first: 1 } if summary.previous != ZEROS => {
                Some("it says that a file goes before it, and begins with position 1")
            }
            Before::File(before) if summary.previous != before.digest => {
                Some("it follows another file than the one before it")
            }
            Before::File(before) if summary.until < before.until => {
                Some("its time goes back behind the file before it")
            }
            _ => None,
        }
    }

    /// Names the files that the store says there are.
    fn missing(&mut self, entries: &[Entry], roots: &[Root], first: u64) {
        for root in roots.iter().filter(|root| root.summary.first >= first) {
            let entry = root.entry();
            if !entries.contains(&entry) {
                self.problem(&entry.name(), "the vault says that it is there, and it is missing");
            }
        }
    }
}

/// What the store's roots say of a whole file: a note, or a problem.
fn compare(summary: &Summary, roots: &[Root]) -> Option<Result<&'static str, &'static str>> {
    let last = roots.last().map_or(0, |root| root.summary.last);
    match roots.iter().find(|root| root.summary.first == summary.first) {
        Some(root) if root.summary == *summary => None,
        Some(_) => Some(Err("it is not the file that the vault wrote")),
        None if summary.first > last => {
            Some(Ok("the vault has not taken it over yet: its content is still in the log"))
        }
        None => Some(Err("the vault knows of no such file")),
    }
}
