//! The directory of `dev`: its certificates, keys, tokens, and `env.sh`. What is there and good is
//! kept; nothing in it is for other users of the machine.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{IDENTITY, env_text};
use crate::{
    domain::clock::Timestamp,
    grpc::listener::peer,
    kms::local::LocalKeyWrapper,
    pki::{Authority, ClientNames, Issued, PkiError, Validity},
    server::{ServerError, Sources},
};

/// How long the certificates are good.
const DAYS: u32 = 365;
/// A certificate that is good for less is made anew.
const LEFT: Duration = Duration::from_secs(30 * 86_400);

/// The directory, ready to be served.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes what is missing or about to expire.
    pub(super) fn prepare(path: &Path, sources: &Sources) -> Result<Self, ServerError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(ServerError::io(format!("make {}", path.display())))?;
        let path = path.canonicalize().map_err(ServerError::io(format!("find {}", path.display())))?;
        let directory = Self(path);
        // It says that calls are served; until they are, there is none.
        match fs::remove_file(directory.path("env.sh")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ServerError::io("remove the old env.sh")(error));
            }
            _ => {}
        }
        directory.certificates(sources.clock.now())?;
        directory.master_key(sources)?;
        Ok(directory)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    pub(super) fn read(&self, name: &str) -> Result<String, ServerError> {
        fs::read_to_string(self.path(name)).map_err(ServerError::io(format!("read {name}")))
    }
    /// Replaces a file at once, so that nobody reads half of it.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), ServerError> {
        let (path, next) = (self.path(name), self.path(&format!(".{name}.new")));
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &path)
        };
        write().map_err(ServerError::io(format!("write {}", path.display())))
    }
    pub(super) fn write_env(&self, address: SocketAddr) -> Result<(), ServerError> {
        self.write("env.sh", &env_text(&self.0, address))
    }

    fn certificates(&self, now: Timestamp) -> Result<(), ServerError> {
        let is_good = |name: &str| self.is_good(name, now);
        if is_good("ca.pem") && is_good("server.pem") && is_good("client.pem") {
            return Ok(());
        }
        let authority = match self.authority(now) {
            Some(authority) => authority,
            None => self.new_authority()?,
        };
        self.issue("server", authority.server(Validity::days(DAYS)))?;
        let names = ClientNames { spiffe: vec![IDENTITY.to_owned()], dns: vec!["dev.ibyok.dev".to_owned()] };
        self.issue("client", authority.client(&names, Validity::days(DAYS)))
    }

    /// Whether a certificate and its key are there, and it is good for a while.
    fn is_good(&self, name: &str, now: Timestamp) -> bool {
        let has_key = name == "ca.pem" || self.path(&name.replace(".pem", ".key")).is_file();
        let not_after = self.read(name).ok().and_then(|pem| not_after(&pem));
        has_key && not_after.is_some_and(|not_after| not_after.since(now) > LEFT)
    }
    /// The authority that was made before.
    fn authority(&self, now: Timestamp) -> Option<Authority> {
        let (certificate, key) = (self.read("ca.pem").ok()?, self.read("ca.key").ok()?);
        let is_good = not_after(&certificate)?.since(now) > LEFT;
        Authority::from_pem(&certificate, &key).ok().filter(|_| is_good)
    }
    fn new_authority(&self) -> Result<Authority, ServerError> {
        let authority = Authority::new("ibyok dev")?;
        self.write("ca.key", &authority.key())?;
        self.write("ca.pem", authority.certificate())?;
        Ok(authority)
    }
    fn issue(&self, name: &str, issued: Result<Issued, PkiError>) -> Result<(), ServerError> {
        let issued = issued?;
        self.write(&format!("{name}.key"), &issued.key)?;
        self.write(&format!("{name}.pem"), &issued.certificate)
    }

    fn master_key(&self, sources: &Sources) -> Result<(), ServerError> {
        let path = self.path("master.keys");
        if path.exists() {
            return Ok(());
        }
        if self.path("vault.db").exists() {
            let problem = "is gone, but vault.db is there, which nothing else opens: bring it back, or remove both";
            return Err(ServerError::setting("master.keys", problem));
        }
        LocalKeyWrapper::create_file(&path, &*sources.entropy)
            .map_err(|error| ServerError::setting("master.keys", error))
    }
}

fn not_after(pem: &str) -> Option<Timestamp> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    peer::certificate(&der).ok().map(|certificate| certificate.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_is_kept_and_what_expires_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("dev");
        let directory = Directory::prepare(&path, &Sources::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let names = ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key", "master.keys"];
        let read = || names.map(|name| directory.read(name).unwrap());
        for name in names {
            let mode = fs::metadata(directory.path(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let before = read();
        Directory::prepare(&path, &Sources::default()).unwrap();
        assert_eq!(read(), before);

        // All but the authority and the master key is near its end in 340 days.
        let clock = crate::domain::clock::ShiftedClock::default();
        clock.advance(Duration::from_secs(340 * 86_400));
        let later = Sources { clock: std::sync::Arc::new(clock), ..Sources::default() };
        Directory::prepare(&path, &later).unwrap();
        for (index, (name, text)) in names.iter().zip(read()).enumerate() {
            let is_kept = matches!(*name, "ca.pem" | "ca.key" | "master.keys");
            assert_eq!(text == before[index], is_kept, "{name}");
        }
    }

    #[test]
    fn a_vault_without_its_master_key_is_not_given_another() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("vault.db"), "a vault").unwrap();
        let refused = Directory::prepare(home.path(), &Sources::default()).unwrap_err();
        assert!(refused.to_string().contains("bring it back"));
        assert!(!home.path().join("master.keys").exists());
    }
}
