//! What is said of files by themselves: exactly what is wrong with each, and what there is.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{
    domain::clock::Timestamp,
    repository::audit::{
        archive::{format::FileWriter, offline::Report},
        batch::{Header, LaneKind},
        record::Encoded,
        tree::{Hash, leaf_hash},
    },
};

/// Chains that go on from file to file.
#[derive(Default)]
struct Writer(Chains);

impl Writer {
    /// The next batch of chain `chain`, with two records.
    fn batch(&mut self, chain: u32) -> Batch {
        let chain = ChainId::new("0123456789abcdef", LaneKind::Shared, chain);
        let (last, previous) = self.0.get(&chain).map_or((0, [0; 32]), |end| (end.last, end.hash));
        let records = vec![vec![1], vec![2]];
        let encoded: Vec<_> =
            records.iter().map(|bytes| Encoded { bytes: bytes.clone(), leaf: leaf_hash(bytes) }).collect();
        let header = Header::of(chain.clone(), last + 1, previous, &encoded);
        self.0.insert(chain, ChainEnd { last: last + 1, hash: header.hash(), is_sealed: false });
        Batch { header, records }
    }
}

struct Archive {
    folder: TempDir,
    chains: Writer,
    files: Vec<Summary>,
}

impl Archive {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), chains: Writer::default(), files: Vec::new() }
    }
    /// Files of these rows: when, and of which chains a batch.
    fn of(files: &[(i64, &[u32])]) -> Self {
        let mut archive = Self::new();
        for (seconds, chains) in files {
            let (first, previous) = archive.files.last().map_or((1, [0; 32]), |file| (file.last + 1, file.digest));
            archive.put(first, previous, *seconds, chains);
        }
        archive
    }
    fn put(&mut self, first: u64, previous: Hash, seconds: i64, chains: &[u32]) {
        let mut writer = FileWriter::new(Vec::new(), first, previous).unwrap();
        writer.row(Timestamp::from_seconds(seconds), chains.len().try_into().unwrap()).unwrap();
        for chain in chains {
            writer.batch(&self.chains.batch(*chain)).unwrap();
        }
        let (bytes, summary) = writer.finish().unwrap();
        self.files.push(summary);
        fs::write(self.path(self.files.len() - 1), bytes).unwrap();
    }
    fn name(&self, file: usize) -> String {
        Entry { first: self.files[file].first, last: self.files[file].last }.name()
    }
    fn path(&self, file: usize) -> std::path::PathBuf {
        self.folder.path().join(self.name(file))
    }
    fn damage(&self, file: usize) {
        fs::write(self.path(file), "something").unwrap();
    }
    fn report(&self, first: u64, roots: Option<&[Root]>) -> Report {
        verify(&Directory::new(self.folder.path().to_owned()), first, roots).unwrap()
    }
    fn problems(&self) -> Vec<String> {
        self.report(1, None).problems
    }
    fn root(&self, file: usize) -> Root {
        Root::new(self.files[file].clone(), Chains::new())
    }
}

#[test]
fn what_there_is_is_counted() {
    let archive = Archive::of(&[(10, &[1, 2]), (20, &[1]), (20, &[2, 1])]);
    let whole = Report {
        files: 3,
        records: 10,
        positions: Some((1, 5)),
        until: Some(Timestamp::from_seconds(20)),
        problems: vec![],
        notes: vec![],
    };
    assert_eq!(archive.report(1, None), whole);
    assert_eq!(archive.report(3, None), Report { files: 2, records: 6, positions: Some((3, 5)), ..whole });
}

/// The first chain is not in the third file, so that the fourth goes on with one of which it can't be
/// known any more where it stood.
#[test]
fn a_file_that_is_not_whole_or_removed_is_held_against_no_other() {
    let archive = Archive::of(&[(1, &[1, 2]), (2, &[1, 2]), (3, &[2, 2]), (4, &[1, 2])]);
    assert_eq!(archive.problems(), Vec::<String>::new());
    assert_eq!(archive.report(5, None).problems, Vec::<String>::new());
    archive.damage(1);
    let problem = format!("{}: position 0: the file ends too early", archive.name(1));
    assert_eq!(archive.problems(), [problem]);
    fs::remove_file(archive.path(1)).unwrap();
    let problem = format!("{}: the positions 3 to 4 before it are missing", archive.name(2));
    assert_eq!(archive.problems(), [problem]);
    fs::create_dir(archive.path(1)).unwrap();
    let found = archive.problems();
    let begins = format!("{}: it can't be read: ", archive.name(1));
    assert!(found.len() == 1 && found[0].starts_with(&begins), "{found:?}");
}

#[test]
fn a_chain_that_begins_in_the_middle_of_whole_files_is_named() {
    let mut archive = Archive::of(&[(1, &[1]), (2, &[1])]);
    archive.chains.batch(2);
    archive.put(3, archive.files[1].digest, 3, &[2]);
    let problem = format!("{}: position 3: the chain does not begin with its first batch", archive.name(2));
    assert_eq!(archive.problems(), [problem]);
}

#[test]
fn a_file_that_does_not_follow_the_one_before_it_is_named() {
    let mut archive = Archive::new();
    archive.put(1, [7; 32], 5, &[1]);
    archive.put(2, archive.files[0].digest, 4, &[1]);
    archive.put(3, [7; 32], 4, &[1]);
    // What has been followed since a problem begins anywhere, and still has to follow its file.
    let problem = |file, problem| format!("{}: {problem}", archive.name(file));
    assert_eq!(
        archive.problems(),
        [
            problem(0, "it says that a file goes before it, and begins with position 1"),
            problem(1, "its time goes back behind the file before it"),
            problem(2, "it follows another file than the one before it"),
        ]
    );
}

#[test]
fn a_file_that_overlaps_with_the_one_before_it_is_named() {
    let mut archive = Archive::of(&[(1, &[1, 1]), (2, &[1, 1])]);
    let mut stray = Archive::new();
    stray.put(4, [7; 32], 2, &[1]);
    fs::copy(stray.path(0), archive.folder.path().join(stray.name(0))).unwrap();
    archive.put(5, archive.files[1].digest, 3, &[2]);
    let roots = [archive.root(0), archive.root(1)];
    let report = archive.report(1, Some(&roots));
    let problem = |name: &str, problem| format!("{name}: {problem}");
    assert_eq!(
        report.problems,
        [
            problem(&stray.name(0), "it overlaps with the file before it"),
            problem(&stray.name(0), "the vault knows of no such file"),
            problem(&archive.name(2), "it follows another file than the one before it"),
        ]
    );
    let later = "the vault has not taken it over yet: its content is still in the log";
    assert_eq!(report.notes, [problem(&archive.name(2), later)]);
}
