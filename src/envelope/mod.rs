//! Seals and opens one value under one data key. Knows no KMS and no database.
//!
//! # The blob, format 1
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 32 | message id, random |
//! | 33 | 32 | key commitment |
//! | 65 | 12 | nonce, random |
//! | 77 | n | ciphertext, as long as the plaintext |
//! | 77+n | 16 | tag |
//!
//! HKDF-SHA-256 (RFC 5869) with the data key as input and the message id as salt gives two 32-byte
//! outputs: under the label `ibyok envelope 1 encryption` the AES-256-GCM key (NIST SP 800-38D),
//! under `ibyok envelope 1 commitment` the commitment. The commitment is compared in constant time
//! before anything is opened: GCM alone commits to no key, so that one ciphertext could be made
//! to open under two (Dodis, Grubbs, Ristenpart, Woodage, "Fast Message Franking", CRYPTO 2018;
//! Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key Commitment",
//! USENIX Security 2022, whose remedy this is).
//!
//! The associated data is a list of byte strings, each prefixed by its length as 8 bytes,
//! big-endian: the blob's first 65 bytes; name and value of each entry of the KMS's encryption
//! context in bytewise order of the names; organization, resource, provider.
//!
//! # The sealed value, format 1
//! Format byte 1, then three byte strings, each prefixed by its length as 4 bytes, big-endian: the
//! KMS key's id (UTF-8), the wrapped data key, the blob. Nothing follows.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::domain::{
    aead,
    clock::{Entropy, random},
    framing,
    hkdf::Derivation,
    ids::{OrgId, Uid},
    secret::{DataKey, EncryptionContext, KmsKeyId, SecretBytes, SecretKey, WrappedDataKey},
};

#[cfg(test)]
mod tests;

/// What a value is for; part of its context, so that one kind never opens as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A provider key.
    ProviderKey,
    /// A key of the vault itself.
    Service,
}

impl Purpose {
    /// The text that stands in the encryption context.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderKey => "provider-key",
            Self::Service => "service",
        }
    }
}

/// Where a sealed value belongs. Moved anywhere else it does not open.
#[derive(Clone, Copy, Debug)]
pub struct SealContext<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// The organization's opaque id.
    pub org_uid: &'a Uid,
    /// The key's opaque id; for a service key its kid.
    pub resource_uid: &'a Uid,
    /// The version, from 1.
    pub version: u32,
    /// The organization.
    pub org: &'a OrgId,
    /// The key's id within it; for a service key its item's sort key.
    pub resource: &'a str,
    /// The provider; empty for a service key.
    pub provider: &'a str,
}

impl SealContext<'_> {
    /// The KMS's encryption context: {format, purpose, org, key, version}, opaque ids only.
    #[must_use]
    pub fn kms_context(&self) -> EncryptionContext {
        EncryptionContext(self.entries(&self.version.to_string()).map(|(name, value)| (name, value.to_owned())).into())
    }

    /// Its entries, in bytewise order of the names.
    fn entries<'e>(&'e self, version: &'e str) -> [(&'static str, &'e str); 5] {
        [
            ("format", FORMAT_TEXT),
            ("key", self.resource_uid.as_str()),
            ("org", self.org_uid.as_str()),
            ("purpose", self.purpose.as_str()),
            ("version", version),
        ]
    }

    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        // About what it comes to: growing costs more than a few bytes too many.
        let mut out = Vec::with_capacity(header.len().saturating_add(512));
        framing::push(&mut out, header);
        for (name, value) in self.entries(&self.version.to_string()) {
            framing::push(&mut out, name.as_bytes());
            framing::push(&mut out, value.as_bytes());
        }
        for part in [self.org.as_str(), self.resource, self.provider] {
            framing::push(&mut out, part.as_bytes());
        }
        out
    }
}

/// A value at rest: its wrapped data key and the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedValue {
    /// The data key, as the KMS gave it out.
    pub wrapped: WrappedDataKey,
    /// Format byte, message id, commitment, nonce, ciphertext, tag.
    pub blob: Vec<u8>,
}

impl SealedValue {
    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for part in [self.wrapped.kms_key_id.0.as_bytes(), &self.wrapped.ciphertext, &self.blob] {
            // A part of 4 GiB can't be stored; cut short here, it would not be read back.
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }
    /// From what was stored.
    ///
    /// # Errors
    /// When the bytes are not of this format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let rest = bytes.strip_prefix(&[FORMAT]).ok_or(EnvelopeError)?;
        let (kms_key_id, rest) = take_part(rest)?;
        let (ciphertext, rest) = take_part(rest)?;
        let (blob, rest) = take_part(rest)?;
        if !rest.is_empty() {
            return Err(EnvelopeError);
        }
        let kms_key_id = KmsKeyId(std::str::from_utf8(kms_key_id).map_err(|_| EnvelopeError)?.to_owned());
        Ok(Self { wrapped: WrappedDataKey { kms_key_id, ciphertext: ciphertext.to_vec() }, blob: blob.to_vec() })
    }
}

/// One opaque error, whatever was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed value is rejected")]
pub struct EnvelopeError;

/// Seals `plaintext` under `data_key`, which must be used for nothing else.
///
/// # Errors
/// When the random source gives nothing.
pub fn seal(
    entropy: &dyn Entropy,
    data_key: &DataKey,
    context: &SealContext<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let message_id = random::<MESSAGE_ID_LEN>(entropy).map_err(|_| EnvelopeError)?;
    let nonce = random::<{ aead::NONCE_LEN }>(entropy).map_err(|_| EnvelopeError)?;
    let (key, commitment) = derive(data_key, &message_id)?;

    let mut blob = Vec::with_capacity(HEADER_LEN + nonce.len() + plaintext.len() + aead::TAG_LEN);
    blob.push(FORMAT);
    blob.extend_from_slice(&message_id);
    blob.extend_from_slice(&commitment);
    let aad = context.associated_data(&blob);
    blob.extend_from_slice(&nonce);
    aead::seal_onto(&mut blob, &key, nonce, &aad, plaintext).map_err(|_| EnvelopeError)?;
    Ok(blob)
}

/// Opens what [`seal`] made under the same key and context.
///
/// # Errors
/// [`EnvelopeError`], the same one for every cause.
pub fn open(data_key: &DataKey, context: &SealContext<'_>, blob: &[u8]) -> Result<SecretBytes, EnvelopeError> {
    let (header, rest) = blob.split_first_chunk::<HEADER_LEN>().ok_or(EnvelopeError)?;
    let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>().ok_or(EnvelopeError)?;
    let rest = header.strip_prefix(&[FORMAT]).ok_or(EnvelopeError)?;
    let (message_id, claimed) = rest.split_first_chunk::<MESSAGE_ID_LEN>().ok_or(EnvelopeError)?;

    let (key, commitment) = derive(data_key, message_id)?;
    verify_slices_are_equal(&commitment, claimed).map_err(|_| EnvelopeError)?;
    aead::open(&key, *nonce, &context.associated_data(header), sealed).map_err(|_| EnvelopeError)
}

const FORMAT: u8 = 1;
const FORMAT_TEXT: &str = "1";
const MESSAGE_ID_LEN: usize = 32;
const COMMITMENT_LEN: usize = 32;
const HEADER_LEN: usize = 1 + MESSAGE_ID_LEN + COMMITMENT_LEN;

fn derive(
    data_key: &DataKey,
    message_id: &[u8; MESSAGE_ID_LEN],
) -> Result<(SecretKey, [u8; COMMITMENT_LEN]), EnvelopeError> {
    let derivation = Derivation::new(message_id, data_key.expose_secret());
    let key = derivation.key(b"ibyok envelope 1 encryption").map_err(|_| EnvelopeError)?;
    let mut commitment = [0; COMMITMENT_LEN];
    derivation.fill(b"ibyok envelope 1 commitment", &mut commitment).map_err(|_| EnvelopeError)?;
    Ok((key, commitment))
}

fn take_part(bytes: &[u8]) -> Result<(&[u8], &[u8]), EnvelopeError> {
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or(EnvelopeError)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| EnvelopeError)?;
    rest.split_at_checked(len).ok_or(EnvelopeError)
}
