//! TLS from files: 1.3 only, ALPN h2 only, a client certificate required, nothing resumed. The
//! files are looked at again and again; a change that doesn't hold is logged, and the old stays.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::TimeProvider,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::peer;
use crate::domain::clock::{Clock, Timestamp};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Where certificates, key, authorities and revocations are kept, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and what is between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that sign clients' certificates.
    pub client_authorities: PathBuf,
    /// Certificates that those authorities revoked. With it, an authority without a list is
    /// refused.
    pub revocations: Option<PathBuf>,
}

/// What connections are accepted with now.
#[derive(Clone)]
pub struct Trust {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// For looking at an open connection's certificate again.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// When the server's own certificate expires.
    pub not_after: Timestamp,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A file that TLS can't be served with.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct TlsError {
    /// The setting that names the file.
    pub setting: &'static str,
    /// What is wrong with it; never its content.
    pub problem: String,
}

impl TlsError {
    fn new(setting: &'static str, problem: impl fmt::Display) -> Self {
        Self { setting, problem: problem.to_string() }
    }
}

/// The trust in the files, kept up to date by [`Self::keep_current`].
#[derive(Debug)]
pub struct TlsSource {
    files: TlsFiles,
    clock: Arc<dyn Clock>,
    seen: [u8; 32],
    current: watch::Sender<Trust>,
}

impl TlsSource {
    /// Loads the files.
    ///
    /// # Errors
    /// When one can't be read or they don't fit.
    pub fn load(files: TlsFiles, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let contents = Contents::read(&files)?;
        let trust = contents.trust(&clock)?;
        Ok(Self { files, clock, seen: contents.sha256(), current: watch::Sender::new(trust) })
    }
    /// The trust, and its changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Trust> {
        self.current.subscribe()
    }
    /// Looks at the files again, for ever.
    pub async fn keep_current(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }

    /// Looks at the files once.
    fn look(&mut self) {
        let contents = match Contents::read(&self.files) {
            Ok(contents) if contents.sha256() == self.seen => return,
            Ok(contents) => contents,
            Err(problem) => return tracing::warn!(%problem, "a TLS file can't be read; the old one is still served"),
        };
        // Remembered even if it doesn't hold, so that the log says so once.
        self.seen = contents.sha256();
        match contents.trust(&self.clock) {
            Ok(trust) => {
                tracing::info!(not_after = %trust.not_after, "TLS files were loaded again");
                self.current.send_replace(trust);
            }
            Err(problem) => tracing::warn!(%problem, "new TLS files don't hold; the old ones are still served"),
        }
    }
}

struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_authorities: Vec<u8>,
    revocations: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |setting, path: &PathBuf| std::fs::read(path).map_err(|error| TlsError::new(setting, error));
        Ok(Self {
            certificate: read("tls.cert", &files.certificate)?,
            key: Zeroizing::new(read("tls.key", &files.key)?),
            client_authorities: read("tls.client_ca", &files.client_authorities)?,
            revocations: files.revocations.as_ref().map(|path| read("tls.crl", path)).transpose()?,
        })
    }

    fn sha256(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let none = Vec::new();
        for part in
            [&self.certificate, &*self.key, &self.client_authorities, self.revocations.as_ref().unwrap_or(&none)]
        {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.finish().as_ref().try_into().unwrap_or_default()
    }

    fn trust(&self, clock: &Arc<dyn Clock>) -> Result<Trust, TlsError> {
        let verifier = self.verifier()?;
        let chain = certificates("tls.cert", &self.certificate)?;
        let leaf = chain.first().ok_or_else(|| TlsError::new("tls.cert", "holds no certificate"))?;
        let not_after = peer::certificate(leaf).map_err(|error| TlsError::new("tls.cert", error))?.not_after;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::new("tls.key", "holds no private key in PEM"))?;
        let time = Arc::new(Time(Arc::clone(clock)));
        let mut config = ServerConfig::builder_with_details(provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::new("tls", error))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::new("tls.key", error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection shows its certificate anew: a resumed one would outlive a revocation.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Trust { config: Arc::new(config), verifier, not_after })
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates("tls.client_ca", &self.client_authorities)? {
            roots.add(authority).map_err(|error| TlsError::new("tls.client_ca", error))?;
        }
        if roots.is_empty() {
            return Err(TlsError::new("tls.client_ca", "holds no certificate"));
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        if let Some(revocations) = &self.revocations {
            let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(revocations)
                .collect::<Result<_, _>>()
                .map_err(|_| TlsError::new("tls.crl", "is not PEM"))?;
            if lists.is_empty() {
                return Err(TlsError::new("tls.crl", "holds no revocation list"));
            }
            builder = builder.with_crls(lists).only_check_end_entity_revocation();
        }
        builder.build().map_err(|error| TlsError::new("tls.client_ca", error))
    }
}

fn certificates(setting: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| TlsError::new(setting, "is not PEM"))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Certificates are judged by the same clock as everything else.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        unix_time(&*self.0)
    }
}

/// Now, as certificate verifiers take it.
#[must_use]
pub fn unix_time(clock: &dyn Clock) -> Option<UnixTime> {
    u64::try_from(clock.now().seconds()).ok().map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::clock::SystemClock,
        pki::{Authority, Issued, Validity},
    };

    fn write(dir: &std::path::Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn files_that_do_not_hold_change_nothing_and_good_ones_are_taken() {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("test").unwrap());
        let put = |issued: &Issued| {
            (write(dir.path(), "cert", &issued.certificate), write(dir.path(), "key", issued.key.as_str()))
        };
        let (certificate, key) = put(&authority.server(Validity::days(1)).unwrap());
        let client_authorities = write(dir.path(), "ca", authority.certificate());
        let files = TlsFiles { certificate, key, client_authorities, revocations: None };
        let mut source = TlsSource::load(files.clone(), Arc::new(SystemClock)).unwrap();
        let mut trust = source.subscribe();

        let renewed = authority.server(Validity::days(9)).unwrap();
        for (name, text) in [("ca", ""), ("ca", "garbage"), ("key", "garbage"), ("cert", renewed.certificate.as_str())]
        {
            let path = dir.path().join(name);
            let before = std::fs::read(&path).unwrap();
            write(dir.path(), name, text);
            source.look();
            assert!(!trust.has_changed().unwrap(), "{name}");
            assert!(TlsSource::load(files.clone(), Arc::new(SystemClock)).is_err(), "{name}");
            std::fs::write(&path, before).unwrap();
        }
        std::fs::remove_file(dir.path().join("key")).unwrap();
        source.look();
        put(&renewed);
        source.look();
        assert!(trust.has_changed().unwrap());
        let days = trust.borrow_and_update().not_after.since(SystemClock.now()).as_secs() / 86_400;
        assert_eq!(days, 8);
        source.look();
        assert!(!trust.has_changed().unwrap());
    }
}
