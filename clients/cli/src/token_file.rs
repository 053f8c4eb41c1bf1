//! Writing a token where only its owner reads it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

use crate::failure::Failure;

/// A file of mode 0600 beside its destination, put in its place at the end: made before the token is
/// asked for, so that no token is issued that could not be kept.
pub(crate) struct TokenFile {
    file: File,
    temporary: PathBuf,
    destination: PathBuf,
}

impl TokenFile {
    pub(crate) fn create(destination: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::file("write", destination, &error);
        let name = destination.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        if destination.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", process::id()));
        let temporary = destination.with_file_name(hidden);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary).map_err(failed)?;
        Ok(Self { file, temporary, destination: destination.to_owned() })
    }

    pub(crate) fn keep(mut self, token: &str) -> Result<(), Failure> {
        self.write(token).map_err(|error| Failure::file("write", &self.destination, &error))
    }

    fn write(&mut self, token: &str) -> io::Result<()> {
        self.file.write_all(token.as_bytes())?;
        self.file.write_all(b"\n")?;
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.destination)
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        // After keep() it is gone already.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_replaces_the_old_one_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "old").unwrap();
        TokenFile::create(&path).unwrap().keep("eyJ").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "eyJ\n");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn without_a_token_nothing_is_left_or_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "old").unwrap();
        drop(TokenFile::create(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(TokenFile::create(directory.path()).is_err());
        assert!(TokenFile::create(&directory.path().join("none/token")).is_err());
    }
}
