//! `ibyok-server audit verify-archive`: checks the files of the audit log's archive, without a
//! store, or against the roots in one that nobody serves.

use std::{io::Write, path::PathBuf, sync::Arc};

use super::{PATIENCE, ServerError, Sources, Store, adapters};
use crate::{
    config::Config,
    repository::{
        audit::archive::{
            Directory, Root,
            offline::{self, Report},
        },
        records::Records,
    },
    service::keyring::Keyring,
};

/// What is checked.
#[derive(Debug)]
pub struct VerifyArchive {
    /// The directory of the files.
    pub dir: PathBuf,
    /// The position that they begin with: 1, unless older files were removed on purpose.
    pub first: u64,
    /// The vault whose roots they are compared with.
    pub config: Option<Config>,
}

/// Checks the files and writes a line to `out` for each thing that is worth one. Whether all is well.
///
/// # Errors
/// When the directory or the store can't be read.
pub async fn verify(
    wanted: VerifyArchive,
    sources: &Sources,
    out: &mut (impl Write + Send),
) -> Result<bool, ServerError> {
    let roots = match &wanted.config {
        Some(config) => Some(roots(config, sources).await?),
        None => None,
    };
    let directory = Directory::new(wanted.dir);
    let report = tokio::task::spawn_blocking(move || offline::verify(&directory, wanted.first, roots.as_deref()));
    let report = report.await.map_err(std::io::Error::other).and_then(|report| report);
    let report = report.map_err(|source| ServerError::Io { what: "--dir".into(), source })?;
    tell(&report, out).map_err(|source| ServerError::Io { what: "standard output".into(), source })?;
    Ok(report.problems.is_empty())
}

fn tell(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for problem in &report.problems {
        writeln!(out, "problem: {problem}")?;
    }
    let Report { files, records, .. } = report;
    match report.positions {
        None => writeln!(out, "there is no archive file"),
        Some((first, last)) => writeln!(out, "{files} files, positions {first} to {last}, {records} records verified"),
    }
}

/// The roots in the store that `config` names.
async fn roots(config: &Config, sources: &Sources) -> Result<Vec<Root>, ServerError> {
    let sealer = adapters::sealer(&config.kms, sources).await?;
    let store = Store::open(&config.store, sources).await?;
    let deadline = sources.clock.deadline(PATIENCE);
    let (clock, entropy) = (Arc::clone(&sources.clock), Arc::clone(&sources.entropy));
    let found = async {
        let keyring = Keyring::load(store.port(), sealer, entropy, clock, deadline).await?;
        let keyring = keyring.ok_or(ServerError::NotInitialised)?;
        let records = Records::new(store.port(), keyring.records());
        Ok(offline::all_roots(&records, deadline).await?)
    };
    let found = found.await;
    store.close().await;
    found
}
