//! The KMS within: a ring of 256-bit master keys from a file that its owner alone can read, or from
//! an environment variable. The embedded default, and an offline fallback.
//!
//! # The file
//! One key a line, 64 hex digits; the first is the primary, under which data keys are generated,
//! the others only unwrap. Empty lines and what follows a `#` are left out.
//!
//! # The id of a master key
//! `local:` and the first 16 hex digits of SHA-256(`ibyok master key id 1` || key).
//!
//! # A wrapped data key, format 1
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 32 | salt, random |
//! | 33 | 12 | nonce, random |
//! | 45 | 32 | ciphertext |
//! | 77 | 16 | tag |
//!
//! HKDF-SHA-256 (RFC 5869) with the master key as input and the salt derives, under the label
//! `ibyok local data key 1`, the key of AES-256-GCM (NIST SP 800-38D): a fresh one each time, so
//! that random nonces never wear a master key out. The associated data is a list of byte strings,
//! each prefixed by its length as 8 bytes, big-endian: that label, the master key's id, and name
//! and value of each entry of the encryption context in bytewise order of the names.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::{KeyWrapper, KmsError};
use crate::domain::{
    PortFuture, aead,
    clock::{Deadline, Entropy, EntropyError, random},
    framing,
    hkdf::Derivation,
    secret::{DataKey, EncryptionContext, KmsKeyId, SecretKey, WrappedDataKey},
};

#[cfg(test)]
mod tests;

/// Why there are no master keys.
#[derive(Debug, thiserror::Error)]
pub enum LocalKeyError {
    /// The file can't be read or made.
    #[error("the master key file {} can't be used", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Others than its owner could read it.
    #[error("the master key file {} is open to group or others: chmod 600 it", .0.display())]
    Permissions(PathBuf),
    /// It is there already, and is never overwritten: without it nothing opens again.
    #[error("the master key file {} exists already; it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// A line holds something else than a key.
    #[error("line {0} of the master keys is not 64 hex digits")]
    Line(usize),
    /// A key stands there twice.
    #[error("line {0} of the master keys repeats a key")]
    Repeated(usize),
    /// There is no key in it.
    #[error("there is no master key: give at least one line of 64 hex digits")]
    Empty,
    /// The random source gave nothing.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// The KMS on a ring of local master keys.
#[derive(Debug)]
pub struct LocalKeyWrapper {
    primary: KmsKeyId,
    keys: BTreeMap<String, SecretKey>,
    entropy: Arc<dyn Entropy>,
}

impl LocalKeyWrapper {
    /// The master keys in the file at `path`.
    ///
    /// # Errors
    /// When it can't be read, is open to group or others, or holds something else than keys.
    pub fn from_file(path: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, LocalKeyError> {
        let error = |error| LocalKeyError::File(path.to_owned(), error);
        let file = File::open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(LocalKeyError::Permissions(path.to_owned()));
        }
        // Room for all of it at once: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
        file.take(FILE_BYTES_MAX as u64).read_to_string(&mut text).map_err(error)?;
        if metadata.len() > FILE_BYTES_MAX as u64 {
            return Err(error(io::ErrorKind::FileTooLarge.into()));
        }
        Self::parse(&text, entropy)
    }
    /// The one master key in `text`, as the environment gives it: 64 hex digits.
    ///
    /// # Errors
    /// When it is not that.
    pub fn from_hex(text: &str, entropy: Arc<dyn Entropy>) -> Result<Self, LocalKeyError> {
        let text = text.trim();
        if text.len() == KEY_DIGITS { Self::parse(text, entropy) } else { Err(LocalKeyError::Line(1)) }
    }
    /// Makes a file with one new master key, mode 0600.
    ///
    /// # Errors
    /// When there is one already, or it can't be written.
    pub fn create_file(path: &Path, entropy: &dyn Entropy) -> Result<(), LocalKeyError> {
        let key = SecretKey::random(entropy)?;
        let mut digits = Zeroizing::new([0; KEY_DIGITS]);
        HEXLOWER.encode_mut(key.expose_secret(), &mut *digits);
        // Half a file would stand in the way of every later start: it gets its name when it is whole.
        let unnamed = path.with_added_extension(HEXLOWER.encode(&random::<8>(entropy)?));
        let made = write_new(&unnamed, &*digits).and_then(|()| fs::hard_link(&unnamed, path));
        let made = made.and_then(|()| {
            fs::remove_file(&unnamed)?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        });
        made.map_err(|error| {
            let _ = fs::remove_file(&unnamed);
            match error.kind() {
                io::ErrorKind::AlreadyExists => LocalKeyError::Exists(path.to_owned()),
                _ => LocalKeyError::File(path.to_owned(), error),
            }
        })
    }
    /// The id of the primary.
    #[must_use]
    pub fn primary(&self) -> &KmsKeyId {
        &self.primary
    }
    /// The ids of all master keys, the primary first.
    pub fn key_ids(&self) -> impl Iterator<Item = KmsKeyId> {
        let others = self.keys.keys().filter(|id| **id != self.primary.0);
        std::iter::once(self.primary.clone()).chain(others.cloned().map(KmsKeyId))
    }

    fn parse(text: &str, entropy: Arc<dyn Entropy>) -> Result<Self, LocalKeyError> {
        let mut primary = None;
        let mut keys = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let digits = line.split('#').next().unwrap_or_default().trim();
            if digits.is_empty() {
                continue;
            }
            let key = parse_key(digits).ok_or(LocalKeyError::Line(number))?;
            let id = key_id(&key);
            primary.get_or_insert_with(|| KmsKeyId(id.clone()));
            if keys.insert(id, key).is_some() {
                return Err(LocalKeyError::Repeated(number));
            }
        }
        Ok(Self { primary: primary.ok_or(LocalKeyError::Empty)?, keys, entropy })
    }
    fn master(&self, id: &KmsKeyId) -> Result<&SecretKey, KmsError> {
        self.keys.get(&id.0).ok_or_else(|| KmsError::KeyRefused("no such master key in the ring".into()))
    }
    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext, id: &KmsKeyId) -> Result<WrappedDataKey, KmsError> {
        let master = self.master(id)?;
        let salt = random::<SALT_LEN>(&*self.entropy).map_err(unavailable)?;
        let nonce = random::<{ aead::NONCE_LEN }>(&*self.entropy).map_err(unavailable)?;
        let key = Derivation::new(&salt, master.expose_secret()).key(LABEL).map_err(unavailable)?;
        let mut ciphertext = [&[FORMAT], &salt[..], &nonce[..]].concat();
        aead::seal_onto(&mut ciphertext, &key, nonce, &associated_data(id, context), data_key.expose_secret())
            .map_err(unavailable)?;
        Ok(WrappedDataKey { kms_key_id: id.clone(), ciphertext })
    }
    fn open(&self, wrapped: &WrappedDataKey, context: &EncryptionContext) -> Result<DataKey, KmsError> {
        let master = self.master(&wrapped.kms_key_id)?;
        let parts = || {
            let rest = wrapped.ciphertext.strip_prefix(&[FORMAT])?;
            let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
            let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
            let key = Derivation::new(salt, master.expose_secret()).key(LABEL).ok()?;
            let opened = aead::open(&key, *nonce, &associated_data(&wrapped.kms_key_id, context), sealed).ok()?;
            DataKey::from_slice(opened.expose_secret())
        };
        parts().ok_or(KmsError::Rejected)
    }
}

/// A file with that key, durable, mode 0600.
fn write_new(path: &Path, digits: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(b"# IBYOK master keys, the first is primary. Without this file nothing opens again.\n")?;
    file.write_all(digits)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

impl KeyWrapper for LocalKeyWrapper {
    fn generate_data_key<'a>(
        &'a self,
        kms_key: Option<&'a KmsKeyId>,
        context: &'a EncryptionContext,
        _deadline: Deadline,
    ) -> PortFuture<'a, Result<(DataKey, WrappedDataKey), KmsError>> {
        Box::pin(async move {
            let data_key = DataKey::random(&*self.entropy).map_err(unavailable)?;
            let wrapped = self.wrap(&data_key, context, kms_key.unwrap_or(&self.primary))?;
            Ok((data_key, wrapped))
        })
    }
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        _deadline: Deadline,
    ) -> PortFuture<'a, Result<DataKey, KmsError>> {
        Box::pin(async move { self.open(wrapped, context) })
    }
    fn rewrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        to_key: &'a KmsKeyId,
        _deadline: Deadline,
    ) -> PortFuture<'a, Result<WrappedDataKey, KmsError>> {
        Box::pin(async move { self.wrap(&self.open(wrapped, context)?, context, to_key) })
    }
    fn status(&self, _deadline: Deadline) -> PortFuture<'_, Result<String, String>> {
        let count = self.keys.len();
        let keys = if count == 1 { "1 master key".to_owned() } else { format!("{count} master keys") };
        Box::pin(async move { Ok(format!("local ring of {keys}, primary {}", self.primary.0)) })
    }
}

const FORMAT: u8 = 1;
const SALT_LEN: usize = 32;
const LABEL: &[u8] = b"ibyok local data key 1";
const KEY_DIGITS: usize = 64;
const FILE_BYTES_MAX: usize = 64 << 10;

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> KmsError {
    KmsError::Unavailable(error.into())
}

fn parse_key(digits: &str) -> Option<SecretKey> {
    let mut key = SecretKey::new([0; 32]);
    if digits.len() != KEY_DIGITS {
        return None;
    }
    HEXLOWER_PERMISSIVE.decode_mut(digits.as_bytes(), key.expose_secret_mut()).ok()?;
    Some(key)
}

fn key_id(key: &SecretKey) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"ibyok master key id 1");
    context.update(key.expose_secret());
    let hash = HEXLOWER.encode(context.finish().as_ref());
    format!("local:{}", hash.get(..16).unwrap_or_default())
}

fn associated_data(id: &KmsKeyId, context: &EncryptionContext) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    framing::push(&mut out, LABEL);
    framing::push(&mut out, id.0.as_bytes());
    for (name, value) in &context.0 {
        framing::push(&mut out, name.as_bytes());
        framing::push(&mut out, value.as_bytes());
    }
    out
}
