//! The envelope: what is read from any bytes is what they say, and of all that can be made from
//! sealed values only these themselves open, at their own place and under their own key.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use ibyok::{
    domain::{
        ids::{OrgId, Uid},
        secret::{DataKey, KmsKeyId, SecretKey, WrappedDataKey},
    },
    envelope::{Purpose, SealContext, SealedValue, open, seal},
};
use ibyok_fuzz::{
    dice::Dice,
    edits::{Edit, apply},
};
use libfuzzer_sys::fuzz_target;

/// What is tried.
#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Any bytes as a stored value.
    Stored(&'a [u8]),
    /// Any bytes as a blob.
    Blob(&'a [u8], Place),
    /// A good stored value after some changes.
    Changed { plaintext: &'a [u8], sealed_at: Place, opened_at: Place, edits: Vec<Edit> },
}

/// Where a value belongs, and under which key.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    key: bool,
    purpose: bool,
    org_uid: bool,
    resource_uid: bool,
    version: u32,
    org: bool,
    resource: u8,
    provider: u8,
}

/// Names that end where others begin.
const NAMES: [&str; 6] = ["", "a", "ab", "abc", "openai", "a/b"];

static UIDS: LazyLock<[Uid; 2]> = LazyLock::new(|| [1, 2].map(|seed| Uid::random(&Dice::new(seed)).unwrap()));
static ORGS: LazyLock<[OrgId; 2]> = LazyLock::new(|| ["acme", "beta"].map(|org| OrgId::parse("org", org).unwrap()));

impl Place {
    /// The same place, written one way.
    fn normal(self) -> Self {
        let name = |n| n % u8::try_from(NAMES.len()).unwrap();
        Self { resource: name(self.resource), provider: name(self.provider), ..self }
    }
    fn context(&self) -> SealContext<'static> {
        SealContext {
            purpose: if self.purpose { Purpose::ProviderKey } else { Purpose::Service },
            org_uid: &UIDS[usize::from(self.org_uid)],
            resource_uid: &UIDS[usize::from(self.resource_uid)],
            version: self.version,
            org: &ORGS[usize::from(self.org)],
            resource: NAMES[usize::from(self.resource)],
            provider: NAMES[usize::from(self.provider)],
        }
    }
    fn data_key(&self) -> DataKey {
        SecretKey::new([u8::from(self.key); 32])
    }
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Stored(bytes) => {
            if let Ok(read) = SealedValue::from_bytes(bytes) {
                assert_eq!(read.to_bytes(), bytes, "a stored value is written in one way");
            }
        }
        Input::Blob(bytes, place) => {
            let place = place.normal();
            assert!(open(&place.data_key(), &place.context(), bytes).is_err(), "a blob that nobody sealed opens");
        }
        Input::Changed { plaintext, sealed_at, opened_at, edits } => {
            changed(plaintext, sealed_at.normal(), opened_at.normal(), &edits);
        }
    }
});

fn changed(plaintext: &[u8], sealed_at: Place, opened_at: Place, edits: &[Edit]) {
    let stored = |entropy: u64, plaintext: &[u8]| {
        let blob = seal(&Dice::new(entropy), &sealed_at.data_key(), &sealed_at.context(), plaintext).unwrap();
        let wrapped = WrappedDataKey { kms_key_id: KmsKeyId("local:1".to_owned()), ciphertext: vec![7; 40] };
        SealedValue { wrapped, blob }
    };
    let (good, other) = (stored(1, plaintext), stored(2, &plaintext.repeat(2)));
    assert_eq!(SealedValue::from_bytes(&good.to_bytes()).as_ref(), Ok(&good));

    // As it is stored: what is read is what was changed, and no more than that.
    let bytes = apply(edits, &good.to_bytes(), &other.to_bytes());
    if let Ok(read) = SealedValue::from_bytes(&bytes) {
        assert_eq!(read.to_bytes(), bytes);
        judge(&read.blob, &good, &other, plaintext, (sealed_at, opened_at));
    }
    // The blob alone.
    judge(&apply(edits, &good.blob, &other.blob), &good, &other, plaintext, (sealed_at, opened_at));
}

fn judge(
    blob: &[u8],
    good: &SealedValue,
    other: &SealedValue,
    plaintext: &[u8],
    (sealed_at, opened_at): (Place, Place),
) {
    let opened = open(&opened_at.data_key(), &opened_at.context(), blob);
    let is_here = sealed_at == opened_at;
    match opened {
        Ok(opened) if blob == good.blob => {
            assert!(is_here, "it opens where it does not belong");
            assert_eq!(opened.expose_secret(), plaintext);
        }
        Ok(opened) => {
            assert!(is_here && blob == other.blob, "a blob that nobody sealed opens");
            assert_eq!(opened.expose_secret(), plaintext.repeat(2));
        }
        Err(_) => assert!(!(is_here && (blob == good.blob || blob == other.blob)), "a good value does not open"),
    }
}
