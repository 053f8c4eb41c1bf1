//! Values sealed as the vault seals them, with a KMS below: what opens, and what does not.

use std::{error::Error as _, sync::Arc, time::Duration};

use ibyok::{
    domain::{
        clock::{Clock, Deadline, SystemClock, SystemEntropy},
        error::{Failure, Reason},
        ids::{OrgId, Uid},
        secret::{KmsKeyId, SecretBytes},
    },
    envelope::{Purpose, SealContext, SealedValue},
    kms::{
        KeyWrapper,
        fake::{FakeKms, Fault},
        local::LocalKeyWrapper,
    },
    service::sealing::Sealer,
};

const SECRET: &[u8] = b"sk-proj-canary-0123456789";

struct Place {
    org: OrgId,
    org_uid: Uid,
    resource_uid: Uid,
}

impl Place {
    fn new() -> Self {
        let org = OrgId::parse("org", "acme").unwrap();
        Self { org, org_uid: Uid::stored("orguid"), resource_uid: Uid::stored("keyuid") }
    }
    fn context(&self) -> SealContext<'_> {
        SealContext {
            purpose: Purpose::ProviderKey,
            org_uid: &self.org_uid,
            resource_uid: &self.resource_uid,
            version: 1,
            org: &self.org,
            resource: "openai-prod",
            provider: "openai",
        }
    }
}

fn in_time() -> Deadline {
    SystemClock.deadline(Duration::from_secs(30))
}

fn on(kms: impl KeyWrapper + 'static) -> Sealer {
    Sealer::new(Arc::new(kms), Arc::new(SystemEntropy))
}

fn local() -> Sealer {
    on(LocalKeyWrapper::from_hex(&"5c".repeat(32), Arc::new(SystemEntropy)).unwrap())
}

async fn open_stored(sealer: &Sealer, context: &SealContext<'_>, bytes: &[u8]) -> Result<SecretBytes, Failure> {
    sealer.open(&SealedValue::from_bytes(bytes)?, context, in_time()).await
}

#[tokio::test]
async fn what_is_sealed_opens_and_shows_nothing_of_itself() {
    let (place, sealer) = (Place::new(), local());
    let sealed = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap();
    let bytes = sealed.to_bytes();
    assert!(!bytes.windows(8).any(|part| SECRET.windows(8).any(|secret| secret == part)));
    let opened = open_stored(&sealer, &place.context(), &bytes).await.unwrap();
    assert_eq!(opened.expose_secret(), SECRET);
    assert_eq!(format!("{opened:?}"), "SecretBytes(redacted)");
}

#[tokio::test]
async fn moved_anywhere_it_is_rejected() {
    let (place, sealer) = (Place::new(), local());
    let here = place.context();
    let sealed = sealer.seal(None, &here, SECRET, in_time()).await.unwrap();
    let (uid, org) = (Uid::stored("other"), OrgId::parse("org", "other").unwrap());
    let elsewhere = [
        SealContext { purpose: Purpose::Service, ..here },
        SealContext { org_uid: &uid, ..here },
        SealContext { resource_uid: &uid, ..here },
        SealContext { version: 2, ..here },
        SealContext { org: &org, ..here },
        SealContext { resource: "openai-dev", ..here },
        SealContext { provider: "anthropic", ..here },
    ];
    for context in elsewhere {
        let refused = sealer.open(&sealed, &context, in_time()).await.unwrap_err();
        assert_eq!((refused.reason, refused.to_string()), rejected(), "{context:?}");
    }
}

fn rejected() -> (Reason, String) {
    (Reason::SealedValueRejected, Reason::SealedValueRejected.message().to_owned())
}

#[tokio::test]
async fn every_bit_of_what_is_stored_counts() {
    let (place, sealer) = (Place::new(), local());
    let sealed = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap();
    let bytes = sealed.to_bytes();
    let kms_key_id = 5..5 + sealed.wrapped.kms_key_id.0.len();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = open_stored(&sealer, &place.context(), &flipped).await.unwrap_err();
        // Another KMS key's name is a question to the KMS, which says that it has no such key.
        if !(kms_key_id.contains(&(bit / 8)) && refused.reason == Reason::KmsKeyRefused) {
            assert_eq!((refused.reason, refused.to_string()), rejected(), "bit {bit}");
        }
    }
    for len in 0..bytes.len() {
        let refused = open_stored(&sealer, &place.context(), &bytes[..len]).await.unwrap_err();
        assert_eq!((refused.reason, refused.to_string()), rejected(), "length {len}");
    }
}

#[tokio::test]
async fn parts_of_two_values_do_not_go_together() {
    let (place, sealer) = (Place::new(), local());
    let one = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap();
    let other = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap();
    assert_ne!(one.wrapped.ciphertext, other.wrapped.ciphertext);
    let mixed = SealedValue { wrapped: other.wrapped, blob: one.blob };
    let refused = sealer.open(&mixed, &place.context(), in_time()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SealedValueRejected);
}

#[tokio::test]
async fn a_rewrapped_data_key_opens_the_same_blob() {
    let place = Place::new();
    let kms = FakeKms::new();
    let sealer = on(kms.clone());
    let sealed = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap();
    let to = KmsKeyId(FakeKms::OTHER.to_owned());
    let wrapped = kms.rewrap(&sealed.wrapped, &place.context().kms_context(), &to, in_time()).await.unwrap();
    let opened = sealer.open(&SealedValue { wrapped, ..sealed }, &place.context(), in_time()).await.unwrap();
    assert_eq!(opened.expose_secret(), SECRET);
}

#[tokio::test]
async fn each_failure_of_the_kms_has_its_reason_and_keeps_its_cause() {
    let place = Place::new();
    let kms = FakeKms::new();
    let sealer = on(kms.clone());
    let sealed = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap();
    let both = async || {
        let opened = sealer.open(&sealed, &place.context(), in_time()).await.unwrap_err();
        let again = sealer.seal(None, &place.context(), SECRET, in_time()).await.unwrap_err();
        assert_eq!((opened.reason, opened.retry_after), (again.reason, again.retry_after));
        assert!(opened.source().is_some());
        (opened.reason, opened.retry_after)
    };
    kms.fail(Some(Fault::Unavailable));
    assert_eq!(both().await, (Reason::KmsUnavailable, Some(Duration::from_secs(1))));
    kms.fail(Some(Fault::Throttled));
    assert_eq!(both().await, (Reason::KmsUnavailable, Some(Duration::from_millis(250))));
    kms.fail(None);
    kms.disable(&KmsKeyId(FakeKms::PRIMARY.to_owned()));
    assert_eq!(both().await, (Reason::KmsKeyDisabled, None));

    let nobody = KmsKeyId("nobody".to_owned());
    let refused = sealer.seal(Some(&nobody), &place.context(), SECRET, in_time()).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after), (Reason::KmsKeyRefused, None));
}

#[tokio::test]
async fn a_kms_that_hangs_is_given_up_at_the_deadline() {
    let place = Place::new();
    let kms = FakeKms::new();
    let sealer = on(kms.clone());
    kms.hold();
    let soon = SystemClock.deadline(Duration::from_millis(20));
    let refused = sealer.seal(None, &place.context(), SECRET, soon).await.unwrap_err();
    assert_eq!(refused.reason, Reason::KmsUnavailable);
}
