//! The directory of archive files: names, and how a file gets there for good. A file is written
//! under another name, synchronised, and then linked to its own, so that a file of an archive's
//! name is whole; one that is there is never written over. Mode 0600: records hold no secrets, but
//! they hold names.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::Access;

use super::format::{Beginning, Chains, FileWriter, Summary, Unsound, check};
use crate::repository::audit::tree::Hash;

/// What stays free where archive files go, in bytes: the database may be on the same file system, and
/// a vault whose database has no room writes no audit record and releases nothing.
const FREE_MIN: u64 = 256 << 20;

/// The file that is being written; what a crash leaves of it is written anew.
const UNFINISHED: &str = "unfinished.part";
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".ibyok";

/// Where archive files are.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    free_min: u64,
}

/// An archive file's name, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The position of its first batch.
    pub first: u64,
    /// The position of its last batch.
    pub last: u64,
}

impl Entry {
    /// `audit-{first}-{last}.ibyok`, 20 digits each, so that names sort as positions do.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{PREFIX}{:020}-{:020}{SUFFIX}", self.first, self.last)
    }
    /// What a name says; None when it is not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (first, last) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
        let entry = Self { first: first.parse().ok()?, last: last.parse().ok()? };
        (entry.name() == name && entry.first <= entry.last).then_some(entry)
    }
}

impl Directory {
    /// At `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, free_min: FREE_MIN }
    }
    /// The same, where so many bytes must stay free.
    #[cfg(test)]
    pub(super) fn with_free_min(self, free_min: u64) -> Self {
        Self { free_min, ..self }
    }
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files can be put there, in a sentence for people when they can't. Writes nothing.
    ///
    /// # Errors
    /// The sentence.
    pub fn look(&self) -> Result<(), String> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err("the directory does not exist".into()),
            Err(error) => return Err(format!("the directory can't be read: {error}")),
            Ok(metadata) if !metadata.is_dir() => return Err("it is not a directory".into()),
            Ok(_) => {}
        }
        let access = Access::from_iter([Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK]);
        rustix::fs::access(&self.path, access).map_err(|error| format!("the server can't write there: {error}"))
    }

    /// The archive files, in order of position, and the names of what else looks like one.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn entries(&self) -> io::Result<(Vec<Entry>, Vec<String>)> {
        let (mut entries, mut strangers) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            match Entry::parse(&name) {
                Some(entry) => entries.push(entry),
                None if name.starts_with(PREFIX) || name.ends_with(SUFFIX) => strangers.push(name),
                None => {}
            }
        }
        entries.sort_unstable();
        strangers.sort_unstable();
        Ok((entries, strangers))
    }

    /// Reads a file and checks all of it; see [`check`].
    pub(super) fn check(&self, entry: &Entry, chains: &mut Chains, beginning: Beginning) -> Result<Summary, Unsound> {
        let file = File::open(self.path.join(entry.name())).map_err(Unsound::Io)?;
        check(BufReader::with_capacity(1 << 16, file), chains, beginning)
    }

    /// Whether `bytes` more leave enough free for others.
    ///
    /// # Errors
    /// When they don't, or nobody can tell.
    pub(super) fn check_room(&self, bytes: u64) -> io::Result<()> {
        let found = rustix::fs::statvfs(&self.path)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let wanted = self.free_min.saturating_add(bytes);
        if free < wanted {
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            let problem = format!("{} MiB are free, and {} MiB are needed", free >> 20, mebibytes(wanted));
            return Err(io::Error::new(ErrorKind::StorageFull, problem));
        }
        Ok(())
    }

    /// Removes the file that was being written.
    pub(super) fn give_up(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(UNFINISHED)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Begins a file of about `bytes` with position `first`, behind the file of that digest.
    pub(super) fn begin(&self, first: u64, previous: Hash, bytes: u64) -> io::Result<FileWriter<BufWriter<File>>> {
        self.give_up()?;
        // Deleting what has left needs room in the database, too, about as much once more.
        self.check_room(bytes.saturating_mul(2))?;
        let path = self.path.join(UNFINISHED);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        FileWriter::new(BufWriter::with_capacity(1 << 16, file), first, previous)
    }

    /// Ends that file and gives it its name; durable on return. Where a file of the name is already,
    /// that one stays: whether it is the same, checking it says.
    pub(super) fn finish(&self, writer: FileWriter<BufWriter<File>>) -> io::Result<Summary> {
        let (file, summary) = writer.finish()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let entry = Entry { first: summary.first, last: summary.last };
        let (from, to) = (self.path.join(UNFINISHED), self.path.join(entry.name()));
        // Some file systems have no links; nobody else writes here, so looking first will do.
        if fs::hard_link(&from, &to).is_err() && fs::symlink_metadata(&to).is_err() {
            fs::rename(&from, &to)?;
        }
        self.give_up()?;
        File::open(&self.path)?.sync_all()?;
        Ok(summary)
    }
}
