//! The token that calls carry. A token file is looked at for each call, and read again when it has
//! changed: whoever renews the token replaces the file, and nobody restarts anything.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use http::HeaderValue;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::failure::with_reason;
use crate::{AccessToken, config::TokenFrom, reason};

/// Where calls get their token.
pub(crate) enum TokenSource {
    Nowhere,
    Memory(Arc<AccessToken>),
    File(TokenFile),
}

/// A token file and what was last read from it.
pub(crate) struct TokenFile {
    path: PathBuf,
    seen: Mutex<Option<(Stamp, HeaderValue)>>,
}

impl TokenSource {
    pub(crate) fn new(from: TokenFrom) -> Self {
        match from {
            TokenFrom::Nowhere => Self::Nowhere,
            TokenFrom::Memory(token) => Self::Memory(token),
            TokenFrom::File(path) => Self::File(TokenFile { path, seen: Mutex::new(None) }),
        }
    }

    /// The authorization header as it stands now.
    pub(super) fn current(&self) -> Result<Option<HeaderValue>, Status> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Memory(token) => header(token.expose_secret())
                .map(Some)
                .ok_or_else(|| with_reason(Code::Unauthenticated, "the token is not one", reason::TOKEN_FILE_UNUSABLE)),
            Self::File(file) => file.current().map(Some).map_err(|problem| {
                let message = format!("the token file {} {problem}", file.path.display());
                with_reason(Code::Unauthenticated, message, reason::TOKEN_FILE_UNUSABLE)
            }),
        }
    }

    /// Whether the file, read afresh, holds another token than `used`.
    pub(super) fn has_other_than(&self, used: &HeaderValue) -> bool {
        let Self::File(file) = self else { return false };
        file.forget();
        file.current().is_ok_and(|now| now != *used)
    }
}

impl TokenFile {
    fn current(&self) -> Result<HeaderValue, String> {
        let unreadable = |error: io::Error| format!("can't be read: {}", error.kind());
        let stamp = Stamp::of(&self.path).map_err(unreadable)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, token)) = seen.as_ref()
            && *then == stamp
        {
            return Ok(token.clone());
        }
        let text = Zeroizing::new(fs::read_to_string(&self.path).map_err(unreadable)?);
        let token = header(text.trim()).ok_or_else(|| "does not hold a token".to_owned())?;
        *seen = Some((stamp, token.clone()));
        Ok(token)
    }

    fn forget(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What changes when a file is written or replaced.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { modified: metadata.modified().ok(), length: metadata.len(), inode })
    }
}

fn header(token: &str) -> Option<HeaderValue> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("Nowhere"),
            Self::Memory(token) => write!(f, "Memory({token:?})"),
            Self::File(file) => write!(f, "File({})", file.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn file(path: &Path) -> TokenSource {
        TokenSource::new(TokenFrom::File(path.to_owned()))
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let source = file(&path);
        let first = source.current().unwrap().unwrap();
        assert_eq!(first, "Bearer first");
        assert!(first.is_sensitive());
        assert!(!source.has_other_than(&first));

        fs::write(directory.path().join("next"), "other").unwrap();
        fs::rename(directory.path().join("next"), &path).unwrap();
        assert_eq!(source.current().unwrap().unwrap(), "Bearer other");
        assert!(source.has_other_than(&first));
    }

    #[test]
    fn an_unusable_file_is_named_and_its_content_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let problem = || Error::from(file(&path).current().unwrap_err());
        assert!(problem().to_string().contains("can't be read: entity not found"), "{}", problem());
        for content in ["", "canary with blanks", "canary\u{e9}"] {
            fs::write(&path, content).unwrap();
            assert_eq!(problem().reason(), Some(reason::TOKEN_FILE_UNUSABLE));
            assert!(problem().to_string().contains("does not hold a token"));
            assert!(!problem().to_string().contains("canary"));
        }
    }
}
