use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::domain::clock::{Clock as _, SystemClock, SystemEntropy};

const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const TWO: &str = "FFFEFDFCFBFAF9F8F7F6F5F4F3F2F1F0EFEEEDECEBEAE9E8E7E6E5E4E3E2E1E0";

fn entropy() -> Arc<dyn Entropy> {
    Arc::new(SystemEntropy)
}

fn ring(text: &str) -> Result<LocalKeyWrapper, LocalKeyError> {
    LocalKeyWrapper::parse(text, entropy())
}

fn context() -> EncryptionContext {
    EncryptionContext([("org", "o".to_owned()), ("version", "1".to_owned())].into())
}

#[test]
fn the_first_key_is_primary_and_comments_are_left_out() {
    let both = ring(&format!("# made today\n\n  {ONE} # the first\r\n{TWO}\n")).unwrap();
    let ids: Vec<_> = both.key_ids().collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(&ids[0], both.primary());
    assert_eq!(both.primary(), ring(ONE).unwrap().primary());
    assert_eq!(&ids[1], ring(TWO).unwrap().primary());
    // Computed with sha256sum.
    assert_eq!(ids[0].0, "local:b1b5c45805b9fef4");
}

#[test]
fn what_is_no_key_is_refused_by_line() {
    let line = |text: &str| match ring(text) {
        Err(LocalKeyError::Line(line)) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line(&format!("{ONE}\n{}", &TWO[1..])), 2);
    assert_eq!(line(&format!("{ONE}0")), 1);
    assert_eq!(line(&ONE.replace('0', "g")), 1);
    assert_eq!(line(&format!("{ONE} {TWO}")), 1);
    assert!(matches!(ring(&format!("{ONE}\n{}", ONE.to_uppercase())), Err(LocalKeyError::Repeated(2))));
    for text in ["", "\n\n", "# nothing"] {
        assert!(matches!(ring(text), Err(LocalKeyError::Empty)));
    }
}

#[test]
fn the_environment_holds_one_key() {
    let from_hex = |text: &str| LocalKeyWrapper::from_hex(text, entropy());
    assert_eq!(from_hex(&format!("{ONE}\n")).unwrap().primary(), ring(ONE).unwrap().primary());
    for text in ["", "12", "#", &format!("{ONE}\n{TWO}"), &format!("{ONE}0")] {
        assert!(from_hex(text).is_err());
    }
}

#[test]
fn a_new_file_is_private_read_back_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("master.keys");
    LocalKeyWrapper::create_file(&path, &SystemEntropy).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let before = fs::read(&path).unwrap();
    LocalKeyWrapper::from_file(&path, entropy()).unwrap();

    assert!(matches!(LocalKeyWrapper::create_file(&path, &SystemEntropy), Err(LocalKeyError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_file_that_others_can_read_is_refused_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("master.keys");
    LocalKeyWrapper::create_file(&path, &SystemEntropy).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = LocalKeyWrapper::from_file(&path, entropy()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{mode:o}: {error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(LocalKeyWrapper::from_file(&path, entropy()).is_ok());
}

#[test]
fn a_file_that_is_absent_or_far_too_long_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("master.keys");
    assert!(matches!(LocalKeyWrapper::from_file(&path, entropy()), Err(LocalKeyError::File(..))));
    LocalKeyWrapper::create_file(&path, &SystemEntropy).unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&vec![b'\n'; FILE_BYTES_MAX]).unwrap();
    assert!(matches!(LocalKeyWrapper::from_file(&path, entropy()), Err(LocalKeyError::File(..))));
}

#[test]
fn nothing_of_a_key_is_in_its_debug_text() {
    let shown = format!("{:?} {:?}", ring(&format!("{ONE}\n{TWO}")).unwrap(), ring("1234").unwrap_err());
    for secret in [ONE, TWO, "[0, 1, 2", "255, 254", "1234"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn the_format_does_not_move() {
    // Computed independently: Python's `hmac` and `cryptography` from the module's head.
    let ciphertext = "\
        016465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8ff0f8\
        d8b7cb30678ce190587ad6c54e351fbc79c0c27ddf0cdbc56a3765e20d387f97a692e0250cb7e5aa64e344f2e346";
    let ring = ring(ONE).unwrap();
    let ciphertext = HEXLOWER.decode(ciphertext.as_bytes()).unwrap();
    let wrapped = WrappedDataKey { kms_key_id: ring.primary().clone(), ciphertext };
    assert_eq!(ring.open(&wrapped, &context()).unwrap().expose_secret(), &[42; 32]);
}

#[tokio::test]
async fn every_bit_of_a_wrapped_key_counts() {
    let ring = ring(&format!("{ONE}\n{TWO}")).unwrap();
    let deadline = SystemClock.deadline(std::time::Duration::from_secs(5));
    let (_, wrapped) = ring.generate_data_key(None, &context(), deadline).await.unwrap();
    assert_eq!(wrapped.ciphertext.len(), 93);
    let unwrap = |ciphertext: Vec<u8>| {
        let wrapped = WrappedDataKey { kms_key_id: wrapped.kms_key_id.clone(), ciphertext };
        ring.open(&wrapped, &context())
    };
    for bit in 0..wrapped.ciphertext.len() * 8 {
        let mut flipped = wrapped.ciphertext.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(unwrap(flipped), Err(KmsError::Rejected)), "bit {bit}");
    }
    for len in 0..wrapped.ciphertext.len() {
        assert!(matches!(unwrap(wrapped.ciphertext[..len].to_vec()), Err(KmsError::Rejected)), "length {len}");
    }
    assert!(matches!(unwrap([&wrapped.ciphertext[..], &[0]].concat()), Err(KmsError::Rejected)));

    let other = ring.key_ids().nth(1).unwrap();
    let moved = WrappedDataKey { kms_key_id: other, ..wrapped.clone() };
    assert!(matches!(ring.open(&moved, &context()), Err(KmsError::Rejected)));
}

#[tokio::test]
async fn older_master_keys_unwrap_after_a_new_one_leads() {
    let deadline = SystemClock.deadline(std::time::Duration::from_secs(5));
    let before = ring(ONE).unwrap();
    let (data_key, wrapped) = before.generate_data_key(None, &context(), deadline).await.unwrap();
    let after = ring(&format!("{TWO}\n{ONE}")).unwrap();
    assert_ne!(after.primary(), before.primary());
    let opened = after.unwrap(&wrapped, &context(), deadline).await.unwrap();
    assert_eq!(opened.expose_secret(), data_key.expose_secret());
}
