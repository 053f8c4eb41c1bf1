//! An archive file: consecutive rows of the log's order with their batches, byte for byte as they
//! were hashed. Knows neither stores nor directories; whoever has the file can check it with this
//! page and SHA-256.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `ibyok archive 1` and a line feed: the format and its version |
//! | 8 | position of the first batch |
//! | 32 | digest of the file before; zeros for the first |
//! | | rows, at least one |
//! | 1 | 2: the end |
//! | 8 | position of the last batch |
//! | 8 | number of records |
//! | 32 | digest: SHA-256 of all bytes before it |
//!
//! A row, one tick of the sequencer:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | 1: a row |
//! | 8 | its time, microseconds since the Unix epoch |
//! | 4 | number of batches, at least 1 |
//! | | for each: 2 bytes length of the header, the [header](super::super::batch); and for each record that it counts 4 bytes length and the record, a serialized `ibyok.v1.AuditRecord` |
//!
//! Numbers are big-endian, and positions rise by one from batch to batch. Nothing follows the digest.
//! Batches are chained by their headers, files by their digests.

use std::{
    io::{self, ErrorKind, Read, Write},
    num::TryFromIntError,
};

use aws_lc_rs::digest::{Context, SHA256};

use super::super::{
    batch::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, BatchKind, ChainId, Header},
    log::SEGMENT_POSITIONS,
    record::RECORD_BYTES_MAX,
    tree::Hash,
};
use crate::domain::clock::Timestamp;

const MAGIC: &[u8; 16] = b"ibyok archive 1\n";
const ROW: u8 = 1;
const END: u8 = 2;

/// What a whole file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The position of its first batch.
    pub first: u64,
    /// The position of its last batch.
    pub last: u64,
    /// Its records.
    pub records: u64,
    /// The time of its last row.
    pub until: Timestamp,
    /// The digest of the file before it; zeros for the first.
    pub previous: Hash,
    /// Its own.
    pub digest: Hash,
}

/// How a chain stands after a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainEnd {
    /// The batch's number.
    pub last: u64,
    /// SHA-256 of its header.
    pub hash: Hash,
    /// Whether it is the chain's seal.
    pub is_sealed: bool,
}

/// The chains, as far as they have been followed.
pub type Chains = std::collections::BTreeMap<ChainId, ChainEnd>;

/// What is wrong with a file, and at which position it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The position of the batch; that of the first while no batch has been read.
    pub position: u64,
    /// For people.
    pub problem: &'static str,
}

/// Where a chain begins that has not been met before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With its first batch: everything before was followed.
    Strict,
    /// Anywhere: files before are missing.
    Anywhere,
}

/// Follows `header`'s chain one batch on.
pub(super) fn follow(chains: &mut Chains, header: &Header, beginning: Beginning) -> Result<(), &'static str> {
    match chains.get(&header.chain) {
        Some(end) if end.is_sealed => return Err("the batch stands behind the chain's seal"),
        Some(end) if header.batch != end.last + 1 => return Err("the order leaves batches of the chain out"),
        Some(end) if header.previous != end.hash => return Err("the batch does not follow the one before it"),
        None if beginning == Beginning::Strict && (header.batch != 1 || header.previous != [0; 32]) => {
            return Err("the chain does not begin with its first batch");
        }
        _ => {}
    }
    let end = ChainEnd { last: header.batch, hash: header.hash(), is_sealed: header.kind == BatchKind::Seal };
    chains.insert(header.chain.clone(), end);
    Ok(())
}

/// Writes a file.
pub(super) struct FileWriter<W> {
    to: W,
    digest: Context,
    summary: Summary,
}

impl<W: Write> FileWriter<W> {
    /// Begins with position `first`, behind the file of that digest.
    pub(super) fn new(to: W, first: u64, previous: Hash) -> io::Result<Self> {
        let (records, until, digest) = (0, Timestamp::default(), [0; 32]);
        let summary = Summary { first, last: first.saturating_sub(1), records, until, previous, digest };
        let mut writer = Self { to, digest: Context::new(&SHA256), summary };
        writer.put(MAGIC)?;
        writer.put(&first.to_be_bytes())?;
        writer.put(&previous)?;
        Ok(writer)
    }
    /// A row of `batches` follows.
    pub(super) fn row(&mut self, time: Timestamp, batches: u32) -> io::Result<()> {
        self.summary.until = time;
        self.put(&[ROW])?;
        self.put(&time.micros().to_be_bytes())?;
        self.put(&batches.to_be_bytes())
    }
    /// The next batch of the row.
    pub(super) fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        let header = batch.header.encode();
        self.put(&u16::try_from(header.len()).map_err(too_long)?.to_be_bytes())?;
        self.put(&header)?;
        for record in &batch.records {
            self.put(&u32::try_from(record.len()).map_err(too_long)?.to_be_bytes())?;
            self.put(record)?;
        }
        self.summary.last += 1;
        self.summary.records += batch.records.len() as u64;
        Ok(())
    }
    /// Ends the file.
    pub(super) fn finish(mut self) -> io::Result<(W, Summary)> {
        let Summary { last, records, .. } = self.summary;
        self.put(&[END])?;
        self.put(&last.to_be_bytes())?;
        self.put(&records.to_be_bytes())?;
        let digest = hash_of(&self.digest);
        self.to.write_all(&digest)?;
        self.to.flush()?;
        Ok((self.to, Summary { digest, ..self.summary }))
    }
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.to.write_all(bytes)
    }
}

fn too_long(_: TryFromIntError) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is too long for the format")
}

fn hash_of(context: &Context) -> Hash {
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(context.clone().finish().as_ref()) {
        *to = *from;
    }
    hash
}

/// Why a file could not be checked to its end.
#[derive(Debug)]
pub(super) enum Unsound {
    /// It is not a file of ours, or not whole.
    Fault(Fault),
    /// It could not be read.
    Io(io::Error),
}

/// Reads a whole file and checks everything that it says: structure, counts, every leaf, root,
/// header and chain, its digest. `chains` is how the chains stand before, and then after it.
///
/// # Errors
/// The first fault; then `chains` has been followed up to it.
pub(super) fn check<R: Read>(from: R, chains: &mut Chains, beginning: Beginning) -> Result<Summary, Unsound> {
    let mut reader = FileReader { from, digest: Context::new(&SHA256), position: 0 };
    let ended = reader.check(chains, beginning);
    let position = reader.position;
    ended.map_err(|stop| match stop {
        Stop::Fault(problem) => Unsound::Fault(Fault { position, problem }),
        Stop::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Unsound::Fault(Fault { position, problem: "the file ends too early" })
        }
        Stop::Io(error) => Unsound::Io(error),
    })
}

struct FileReader<R> {
    from: R,
    digest: Context,
    position: u64,
}

enum Stop {
    Fault(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
impl From<&'static str> for Stop {
    fn from(problem: &'static str) -> Self {
        Self::Fault(problem)
    }
}

impl<R: Read> FileReader<R> {
    fn check(&mut self, chains: &mut Chains, beginning: Beginning) -> Result<Summary, Stop> {
        if self.take::<16>()? != *MAGIC {
            return Err("it is not an archive file of this version".into());
        }
        let first = self.number()?;
        let previous = self.take::<32>()?;
        if first == 0 || first > u64::MAX / 2 {
            return Err("its first position can't be".into());
        }
        self.position = first;
        let (mut records, mut until) = (0, Timestamp::from_micros(i64::MIN));
        loop {
            match self.take::<1>()? {
                [ROW] => {}
                [END] => break,
                _ => return Err("neither a row nor the end follows".into()),
            }
            let time = Timestamp::from_micros(i64::from_be_bytes(self.take()?));
            if time < until {
                return Err("the row's time goes back".into());
            }
            until = time;
            let batches = u32::from_be_bytes(self.take()?);
            if batches == 0 || u64::from(batches) > SEGMENT_POSITIONS {
                return Err("the row's number of batches can't be".into());
            }
            for _ in 0..batches {
                let batch = self.batch()?;
                if !batch.is_sound() {
                    return Err("the batch's records are not those that were hashed".into());
                }
                follow(chains, &batch.header, beginning)?;
                records += batch.records.len() as u64;
                self.position += 1;
            }
        }
        if self.position == first {
            return Err("it holds no batch".into());
        }
        let last = self.position - 1;
        if self.number()? != last || self.number()? != records {
            return Err("it does not hold what its end says".into());
        }
        let digest = hash_of(&self.digest);
        if self.take::<32>()? != digest {
            return Err("its digest is not that of its content".into());
        }
        if self.from.read(&mut [0])? != 0 {
            return Err("something follows its end".into());
        }
        Ok(Summary { first, last, records, until, previous, digest })
    }

    fn batch(&mut self) -> Result<Batch, Stop> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let header = Header::decode(&self.bytes(length)?).ok_or("the batch's header is none")?;
        if header.count as usize > BATCH_RECORDS_MAX {
            return Err("the batch's number of records can't be".into());
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        for _ in 0..header.count {
            let length = u32::from_be_bytes(self.take()?) as usize;
            bytes += length;
            if length > RECORD_BYTES_MAX || bytes > BATCH_BYTES_MAX + RECORD_BYTES_MAX {
                return Err("the record's length can't be".into());
            }
            records.push(self.bytes(length)?);
        }
        Ok(Batch { header, records })
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }
    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }
    fn number(&mut self) -> io::Result<u64> {
        self.take().map(u64::from_be_bytes)
    }
}
