use super::*;
use crate::domain::clock::SystemEntropy;

struct Place {
    org_uid: Uid,
    resource_uid: Uid,
    org: OrgId,
}

fn place() -> Place {
    Place {
        org_uid: Uid::stored("orguid"),
        resource_uid: Uid::stored("keyuid"),
        org: OrgId::parse("org", "acme").unwrap(),
    }
}

impl Place {
    fn context(&self) -> SealContext<'_> {
        SealContext {
            purpose: Purpose::ProviderKey,
            org_uid: &self.org_uid,
            resource_uid: &self.resource_uid,
            version: 7,
            org: &self.org,
            resource: "openai-prod",
            provider: "openai",
        }
    }
}

fn data_key() -> DataKey {
    DataKey::new([42; 32])
}

#[test]
fn what_is_sealed_opens() {
    let place = place();
    for plaintext in [&b""[..], b"s", b"sk-proj-something", &[0xff; 16_384]] {
        let blob = seal(&SystemEntropy, &data_key(), &place.context(), plaintext).unwrap();
        assert_eq!(blob.len(), 1 + 32 + 32 + 12 + plaintext.len() + 16);
        assert_eq!(open(&data_key(), &place.context(), &blob).unwrap().expose_secret(), plaintext);
    }
}

#[test]
fn no_two_seals_are_alike() {
    let place = place();
    let blob = || seal(&SystemEntropy, &data_key(), &place.context(), b"same").unwrap();
    let (one, other) = (blob(), blob());
    assert_ne!(one[1..33], other[1..33], "message id");
    assert_ne!(one[33..65], other[33..65], "commitment");
    assert_ne!(one[65..77], other[65..77], "nonce");
    assert_ne!(one[77..], other[77..], "ciphertext");
}

#[test]
fn the_encryption_context_holds_opaque_ids_alone() {
    let place = place();
    let expected =
        [("format", "1"), ("key", "keyuid"), ("org", "orguid"), ("purpose", "provider-key"), ("version", "7")];
    let context = place.context().kms_context();
    assert_eq!(context.0.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expected);
}

#[test]
fn moved_anywhere_it_does_not_open() {
    let place = place();
    let here = place.context();
    let blob = seal(&SystemEntropy, &data_key(), &here, b"secret").unwrap();
    let (other_uid, other_org) = (Uid::stored("other"), OrgId::parse("org", "other").unwrap());
    let elsewhere = [
        SealContext { purpose: Purpose::Service, ..here },
        SealContext { org_uid: &other_uid, ..here },
        SealContext { resource_uid: &other_uid, ..here },
        SealContext { version: 8, ..here },
        SealContext { org: &other_org, ..here },
        SealContext { resource: "openai-dev", ..here },
        SealContext { provider: "anthropic", ..here },
        SealContext { resource: "openai-prodopenai", provider: "", ..here },
        SealContext { org_uid: &place.resource_uid, resource_uid: &place.org_uid, ..here },
    ];
    for context in elsewhere {
        assert_eq!(open(&data_key(), &context, &blob).err(), Some(EnvelopeError), "{context:?}");
    }
    assert!(open(&data_key(), &here, &blob).is_ok());
}

#[test]
fn every_bit_of_the_blob_counts() {
    let place = place();
    let blob = seal(&SystemEntropy, &data_key(), &place.context(), b"secret").unwrap();
    for bit in 0..blob.len() * 8 {
        let mut flipped = blob.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&data_key(), &place.context(), &flipped).err(), Some(EnvelopeError), "bit {bit}");
    }
    for len in 0..blob.len() {
        assert_eq!(open(&data_key(), &place.context(), &blob[..len]).err(), Some(EnvelopeError), "length {len}");
    }
    let longer = [&blob[..], &[0]].concat();
    assert_eq!(open(&data_key(), &place.context(), &longer).err(), Some(EnvelopeError));
}

#[test]
fn another_data_key_fails_at_the_commitment() {
    let place = place();
    let blob = seal(&SystemEntropy, &data_key(), &place.context(), b"secret").unwrap();
    let other = DataKey::new([43; 32]);
    assert_eq!(open(&other, &place.context(), &blob).err(), Some(EnvelopeError));

    // Ciphertext and tag made anew under the other key: only the commitment still tells.
    let message_id = *blob[1..].first_chunk::<32>().unwrap();
    let (other_cipher_key, other_commitment) = derive(&other, &message_id).unwrap();
    let mut forged = blob[..77].to_vec();
    let nonce = *blob[65..].first_chunk::<12>().unwrap();
    let aad = place.context().associated_data(&blob[..65]);
    aead::seal_onto(&mut forged, &other_cipher_key, nonce, &aad, b"forged").unwrap();
    assert_eq!(open(&other, &place.context(), &forged).err(), Some(EnvelopeError));
    assert_ne!(other_commitment, blob[33..65]);
}

#[test]
fn the_format_does_not_move() {
    #[derive(Debug)]
    struct Counting(std::sync::atomic::AtomicU8);
    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), crate::domain::clock::EntropyError> {
            for byte in bytes {
                *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        }
    }
    let place = place();
    let blob = seal(&Counting(0.into()), &data_key(), &place.context(), b"sk-test").unwrap();
    assert_eq!(data_encoding::HEXLOWER.encode(&blob), GOLDEN);
    assert_eq!(open(&data_key(), &place.context(), &blob).unwrap().expose_secret(), b"sk-test");
}

/// Computed independently: Python's `hmac` and `cryptography` from the module's tables.
const GOLDEN: &str = "\
    01000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f8d4ef9d83734b49f490b320d6601f902eb\
    347c3f84a0efe178127d9aa0b9bf32202122232425262728292a2bbd95eb5871ab31a502f1d61a2ad6c488458b632a7581fe";

fn sealed_value() -> SealedValue {
    SealedValue {
        wrapped: WrappedDataKey { kms_key_id: KmsKeyId("local:0123".to_owned()), ciphertext: vec![1, 2, 3] },
        blob: vec![9; 80],
    }
}

#[test]
fn a_sealed_value_is_read_back_strictly() {
    let value = sealed_value();
    let bytes = value.to_bytes();
    assert_eq!(bytes[..6], [1, 0, 0, 0, 10, b'l']);
    assert_eq!(SealedValue::from_bytes(&bytes), Ok(value));
    for len in 0..bytes.len() {
        assert_eq!(SealedValue::from_bytes(&bytes[..len]), Err(EnvelopeError), "length {len}");
    }
    assert_eq!(SealedValue::from_bytes(&[&bytes[..], &[0]].concat()), Err(EnvelopeError));
    for format in [0, 2, 255] {
        assert_eq!(SealedValue::from_bytes(&[&[format], &bytes[1..]].concat()), Err(EnvelopeError));
    }
    let mut no_text = bytes;
    no_text[5] = 0xff;
    assert_eq!(SealedValue::from_bytes(&no_text), Err(EnvelopeError));
}

proptest::proptest! {
    #[test]
    fn any_plaintext_comes_back(plaintext: Vec<u8>, key: [u8; 32], version: u32, resource: String, provider: String) {
        let place = place();
        let context = SealContext { version, resource: &resource, provider: &provider, ..place.context() };
        let key = DataKey::new(key);
        let blob = seal(&SystemEntropy, &key, &context, &plaintext).unwrap();
        let opened = open(&key, &context, &blob).unwrap();
        proptest::prop_assert_eq!(opened.expose_secret(), &plaintext[..]);
    }

    #[test]
    fn any_bytes_are_no_blob_and_read_back_only_as_written(bytes: Vec<u8>) {
        let place = place();
        proptest::prop_assert!(open(&data_key(), &place.context(), &bytes).is_err());
        if let Ok(value) = SealedValue::from_bytes(&bytes) {
            proptest::prop_assert_eq!(value.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_sealed_value_comes_back(id: String, ciphertext: Vec<u8>, blob: Vec<u8>) {
        let value = SealedValue { wrapped: WrappedDataKey { kms_key_id: KmsKeyId(id), ciphertext }, blob };
        proptest::prop_assert_eq!(SealedValue::from_bytes(&value.to_bytes()), Ok(value));
    }
}
