//! Secrets in memory: no Display, no Serialize, no Clone, a redacted Debug, wiped on drop, and
//! one way in: `expose_secret()`.

use std::{collections::BTreeMap, fmt};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    clock::{Entropy, EntropyError},
    error::InvalidInput,
};

/// The longest provider key that is taken, in bytes of UTF-8.
pub const PROVIDER_KEY_MAX: usize = 16_384;

/// An LLM provider's API key in plain text.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ProviderKey(String);

impl ProviderKey {
    /// Takes `text`, which came in `field`; it is wiped if refused.
    ///
    /// # Errors
    /// When it is empty, longer than [`PROVIDER_KEY_MAX`], or holds control characters.
    pub fn parse(field: &'static str, text: String) -> Result<Self, InvalidInput> {
        let mut text = Zeroizing::new(text);
        if text.is_empty() || text.len() > PROVIDER_KEY_MAX {
            return Err(InvalidInput::new(field, "1 to 16384 bytes"));
        }
        if text.trim().is_empty() || text.trim().chars().any(char::is_control) {
            return Err(InvalidInput::new(field, "text without control characters"));
        }
        Ok(Self(std::mem::take(&mut *text)))
    }
    /// From bytes that were sealed as one.
    ///
    /// # Errors
    /// When they are not UTF-8.
    pub fn from_opened(bytes: SecretBytes) -> Result<Self, InvalidInput> {
        let mut bytes = bytes;
        match String::from_utf8(std::mem::take(&mut bytes.0)) {
            Ok(text) => Ok(Self(text)),
            Err(refused) => {
                refused.into_bytes().zeroize();
                Err(InvalidInput::new("secret", "UTF-8"))
            }
        }
    }
    /// The key itself.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

/// Secret bytes of any length: an opened value before it is known what it is.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// The bytes themselves.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
    /// The bytes themselves, to be filled where they lie.
    pub fn expose_secret_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// 256 secret bits: a data key, a record-MAC key, a master key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

/// The plaintext key of one encryption.
pub type DataKey = SecretKey;

impl SecretKey {
    /// Takes `bytes`.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// A new random one.
    ///
    /// # Errors
    /// When the random source gives nothing.
    pub fn random(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut key = Self([0; 32]);
        entropy.fill(&mut key.0)?;
        Ok(key)
    }
    /// From exactly 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != 32 {
            return None;
        }
        let mut key = Self([0; 32]);
        key.0.copy_from_slice(bytes);
        Some(key)
    }
    /// The bytes themselves.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }
    /// The bytes themselves, to be filled where they lie.
    pub fn expose_secret_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )*};
}
redacted!(ProviderKey, SecretBytes, SecretKey);

/// Names a key of the KMS: an ARN, or the id of a local master key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KmsKeyId(pub String);

/// A data key as the KMS gave it out: only that KMS key opens it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedDataKey {
    /// The KMS key that wrapped it.
    pub kms_key_id: KmsKeyId,
    /// The KMS's ciphertext.
    pub ciphertext: Vec<u8>,
}

/// What a wrapped data key is bound to: opaque ids only, they show in the KMS's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionContext(pub BTreeMap<&'static str, String>);

/// Overwrites what calls that have returned left on the stack, as deep as they may have gone: libraries
/// keep copies there that nobody wipes. For the caller of such a call, at once after it.
#[inline(never)]
pub fn wipe_stack() {
    // Nobody may know that these zeros are never read: they are written where the dead frames were.
    std::hint::black_box(&mut [0_u8; 32 << 10]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: String) -> Option<InvalidInput> {
        ProviderKey::parse("secret", text).err()
    }

    #[test]
    fn a_provider_key_is_text_of_1_to_16384_bytes_without_control_characters() {
        for text in ["a".to_owned(), "a b".to_owned(), " a\n".to_owned(), "\u{e9}".repeat(PROVIDER_KEY_MAX / 2)] {
            assert_eq!(ProviderKey::parse("secret", text.clone()).unwrap().expose_secret(), text);
        }
        for text in [String::new(), "a".repeat(PROVIDER_KEY_MAX + 1), "\u{e9}".repeat(PROVIDER_KEY_MAX / 2 + 1)] {
            assert_eq!(refusal(text).unwrap().problem, "1 to 16384 bytes");
        }
        for text in [" ", "\n\t", "a\nb", "a\u{7f}b"] {
            assert_eq!(refusal(text.to_owned()).unwrap().problem, "text without control characters");
        }
    }

    #[test]
    fn a_key_has_exactly_32_bytes() {
        assert_eq!(SecretKey::from_slice(&[7; 32]).unwrap().expose_secret(), &[7; 32]);
        assert!(SecretKey::from_slice(&[7; 31]).is_none() && SecretKey::from_slice(&[7; 33]).is_none());
    }
}
