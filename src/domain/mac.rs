//! HMAC-SHA-256 under keys that are named by id, so that they can be rotated with overlap.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;

use super::secret::SecretKey;

/// The length of a tag, in bytes.
pub const TAG_LEN: usize = 32;

/// One MAC key.
pub struct MacKey(hmac::Key);

impl MacKey {
    /// From 256 secret bits.
    #[must_use]
    pub fn new(key: &SecretKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret()))
    }
    /// The tag of `parts`, each prefixed by its length as 8 bytes, big-endian.
    #[must_use]
    pub fn tag<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; TAG_LEN];
        for (to, from) in tag.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        tag
    }
    /// Whether `tag` is that of `parts`, in constant time.
    #[must_use]
    pub fn verify<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>, tag: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.tag(parts), tag).is_ok()
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(redacted)")
    }
}

/// The MAC keys in use: one signs, all verify.
#[derive(Debug)]
pub struct MacRing {
    primary: String,
    keys: BTreeMap<String, MacKey>,
}

impl MacRing {
    /// `primary` signs; `others` only verify.
    #[must_use]
    pub fn new(primary: (String, MacKey), others: impl IntoIterator<Item = (String, MacKey)>) -> Self {
        let mut keys: BTreeMap<_, _> = others.into_iter().collect();
        let (id, key) = primary;
        keys.insert(id.clone(), key);
        Self { primary: id, keys }
    }
    /// The signing key and its id; None never happens for a ring made by [`Self::new`].
    #[must_use]
    pub fn primary(&self) -> Option<(&str, &MacKey)> {
        self.keys.get(&self.primary).map(|key| (self.primary.as_str(), key))
    }
    /// The key with that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&MacKey> {
        self.keys.get(id)
    }
}
