//! The contract of `ibyok::kms::KeyWrapper`, one test for each of its sentences, on every adapter, and
//! the failures that the fake can show.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ibyok::{
    domain::{
        clock::{Clock, Deadline, SystemClock, SystemEntropy},
        secret::{EncryptionContext, KmsKeyId, WrappedDataKey},
    },
    kms::{
        KeyWrapper, KmsError,
        fake::{Calls, FakeKms, Fault},
        local::LocalKeyWrapper,
    },
};

use crate::{
    aws_kms,
    localstack::{Keys, REGION},
};

/// An adapter with two keys, the primary first.
struct Adapter {
    kms: Arc<dyn KeyWrapper>,
    primary: KmsKeyId,
    other: KmsKeyId,
}

fn local() -> Adapter {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("master.keys");
    LocalKeyWrapper::create_file(&path, &SystemEntropy).unwrap();
    let more = std::fs::read_to_string(&path).unwrap() + &"7a".repeat(32);
    std::fs::write(&path, more).unwrap();
    let kms = LocalKeyWrapper::from_file(&path, Arc::new(SystemEntropy)).unwrap();
    let ids: Vec<_> = kms.key_ids().collect();
    Adapter { primary: ids[0].clone(), other: ids[1].clone(), kms: Arc::new(kms) }
}

fn fake() -> Adapter {
    let [primary, other] = [FakeKms::PRIMARY, FakeKms::OTHER].map(|id| KmsKeyId(id.to_owned()));
    Adapter { kms: Arc::new(FakeKms::new()), primary, other }
}

async fn aws() -> Adapter {
    let keys = Keys::of(REGION).await;
    let (primary, other) = (keys.make().await, keys.make().await);
    Adapter { kms: Arc::new(aws_kms::adapter(&primary).await), primary, other }
}

fn in_time() -> Deadline {
    SystemClock.deadline(Duration::from_secs(30))
}

fn context() -> EncryptionContext {
    EncryptionContext([("key", "k1".to_owned()), ("org", "o1".to_owned()), ("version", "1".to_owned())].into())
}

macro_rules! on_every_adapter {
    ($($sentence:ident)*) => {
        mod local { $(#[tokio::test] async fn $sentence() { super::$sentence(super::local()).await; })* }
        mod aws { $(#[tokio::test] async fn $sentence() { super::$sentence(super::aws().await).await; })* }
        mod fake { $(#[tokio::test] async fn $sentence() { super::$sentence(super::fake()).await; })* }
    };
}

on_every_adapter! {
    generate_gives_a_fresh_data_key_plain_and_wrapped
    generate_takes_the_key_that_is_named_or_the_primary
    a_key_that_is_not_there_is_refused
    unwrap_gives_the_same_data_key
    unwrap_rejects_any_other_context
    unwrap_rejects_any_other_ciphertext_or_key
    rewrap_gives_the_same_data_key_under_the_other_key
    rewrap_rejects_what_unwrap_rejects
    every_call_answers_by_its_deadline
    status_says_something
}

async fn generate_gives_a_fresh_data_key_plain_and_wrapped(adapter: Adapter) {
    let mut plain = HashSet::new();
    let mut wrapped_keys = HashSet::new();
    for _ in 0..20 {
        let (data_key, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
        assert!(!wrapped.ciphertext.windows(8).any(|part| data_key.expose_secret().windows(8).any(|key| key == part)));
        plain.insert(*data_key.expose_secret());
        wrapped_keys.insert(wrapped.ciphertext);
    }
    assert_eq!((plain.len(), wrapped_keys.len()), (20, 20));
}

async fn generate_takes_the_key_that_is_named_or_the_primary(adapter: Adapter) {
    for (asked, used) in [(None, &adapter.primary), (Some(&adapter.other), &adapter.other)] {
        let (data_key, wrapped) = adapter.kms.generate_data_key(asked, &context(), in_time()).await.unwrap();
        assert_eq!(wrapped.kms_key_id, *used);
        let unwrapped = adapter.kms.unwrap(&wrapped, &context(), in_time()).await.unwrap();
        assert_eq!(unwrapped.expose_secret(), data_key.expose_secret());
    }
}

async fn a_key_that_is_not_there_is_refused(adapter: Adapter) {
    let nobody = KmsKeyId("nobody".to_owned());
    let (_, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    let elsewhere = WrappedDataKey { kms_key_id: nobody.clone(), ..wrapped.clone() };
    let generated = adapter.kms.generate_data_key(Some(&nobody), &context(), in_time()).await;
    assert!(matches!(generated, Err(KmsError::KeyRefused(_))));
    assert!(matches!(adapter.kms.unwrap(&elsewhere, &context(), in_time()).await, Err(KmsError::KeyRefused(_))));
    let rewrapped = adapter.kms.rewrap(&wrapped, &context(), &nobody, in_time()).await;
    assert!(matches!(rewrapped, Err(KmsError::KeyRefused(_))));
}

async fn unwrap_gives_the_same_data_key(adapter: Adapter) {
    let (data_key, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    for _ in 0..2 {
        let unwrapped = adapter.kms.unwrap(&wrapped, &context(), in_time()).await.unwrap();
        assert_eq!(unwrapped.expose_secret(), data_key.expose_secret());
    }
}

fn other_contexts() -> Vec<EncryptionContext> {
    let mut others = vec![EncryptionContext([].into())];
    for name in ["key", "org", "version"] {
        let mut less = context();
        less.0.remove(name);
        let mut changed = context();
        changed.0.insert(name, "2".to_owned());
        let mut emptied = context();
        emptied.0.insert(name, String::new());
        others.extend([less, changed, emptied]);
    }
    let mut more = context();
    more.0.insert("purpose", "service".to_owned());
    let mut exchanged = context();
    exchanged.0.extend([("key", "o1".to_owned()), ("org", "k1".to_owned())]);
    others.extend([more, exchanged]);
    others
}

async fn unwrap_rejects_any_other_context(adapter: Adapter) {
    let (_, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    for other in other_contexts() {
        let unwrapped = adapter.kms.unwrap(&wrapped, &other, in_time()).await;
        assert!(matches!(unwrapped, Err(KmsError::Rejected)), "{other:?}");
    }
}

async fn unwrap_rejects_any_other_ciphertext_or_key(adapter: Adapter) {
    let (_, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    let mut others = vec![WrappedDataKey { kms_key_id: adapter.other.clone(), ..wrapped.clone() }];
    let mut longer = wrapped.clone();
    longer.ciphertext.push(0);
    others.push(longer);
    for at in 0..wrapped.ciphertext.len() {
        let mut flipped = wrapped.clone();
        flipped.ciphertext[at] ^= 1;
        let mut cut = wrapped.clone();
        cut.ciphertext.truncate(at);
        others.extend([flipped, cut]);
    }
    for other in others {
        assert!(matches!(adapter.kms.unwrap(&other, &context(), in_time()).await, Err(KmsError::Rejected)));
    }
}

async fn rewrap_gives_the_same_data_key_under_the_other_key(adapter: Adapter) {
    let (data_key, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    let rewrapped = adapter.kms.rewrap(&wrapped, &context(), &adapter.other, in_time()).await.unwrap();
    assert_eq!(rewrapped.kms_key_id, adapter.other);
    assert_ne!(rewrapped.ciphertext, wrapped.ciphertext);
    for either in [&wrapped, &rewrapped] {
        let unwrapped = adapter.kms.unwrap(either, &context(), in_time()).await.unwrap();
        assert_eq!(unwrapped.expose_secret(), data_key.expose_secret());
    }
}

async fn rewrap_rejects_what_unwrap_rejects(adapter: Adapter) {
    let (_, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    let mut flipped = wrapped.clone();
    flipped.ciphertext[0] ^= 1;
    let rewrapped = adapter.kms.rewrap(&flipped, &context(), &adapter.other, in_time()).await;
    assert!(matches!(rewrapped, Err(KmsError::Rejected)));
    for other in other_contexts() {
        let rewrapped = adapter.kms.rewrap(&wrapped, &other, &adapter.other, in_time()).await;
        assert!(matches!(rewrapped, Err(KmsError::Rejected)), "{other:?}");
    }
}

async fn every_call_answers_by_its_deadline(adapter: Adapter) {
    // Passed already: whatever is answered, it is answered.
    let passed = SystemClock.deadline(Duration::ZERO);
    let (_, wrapped) = adapter.kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    let _ = adapter.kms.generate_data_key(None, &context(), passed).await;
    let _ = adapter.kms.unwrap(&wrapped, &context(), passed).await;
    let _ = adapter.kms.rewrap(&wrapped, &context(), &adapter.other, passed).await;
    let _ = adapter.kms.status(passed).await;
}

async fn status_says_something(adapter: Adapter) {
    assert!(!adapter.kms.status(in_time()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_held_fake_answers_at_the_deadline_and_goes_on_when_released() {
    let kms = FakeKms::new();
    let (_, wrapped) = kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    kms.hold();
    let soon = SystemClock.deadline(Duration::from_millis(20));
    assert!(matches!(kms.unwrap(&wrapped, &context(), soon).await, Err(KmsError::Unavailable(_))));

    let waiting = tokio::spawn({
        let (kms, wrapped) = (kms.clone(), wrapped.clone());
        async move { kms.unwrap(&wrapped, &context(), in_time()).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    kms.release();
    waiting.await.unwrap().unwrap();
    assert_eq!(kms.calls(), Calls { generate: 1, unwrap: 2, rewrap: 0 });
}

#[tokio::test]
async fn the_fake_fails_as_it_is_told() {
    let kms = FakeKms::new();
    let primary = KmsKeyId(FakeKms::PRIMARY.to_owned());
    let (_, wrapped) = kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    let unwrap = || async { kms.unwrap(&wrapped, &context(), in_time()).await.map(|_| ()) };
    kms.fail(Some(Fault::Unavailable));
    assert!(matches!(unwrap().await, Err(KmsError::Unavailable(_))));
    assert!(kms.status(in_time()).await.is_err());
    kms.fail(Some(Fault::Throttled));
    assert!(matches!(unwrap().await, Err(KmsError::Throttled { .. })));
    kms.fail(None);
    kms.disable(&primary);
    assert!(matches!(unwrap().await, Err(KmsError::KeyDisabled(_))));
    assert!(matches!(kms.generate_data_key(None, &context(), in_time()).await, Err(KmsError::KeyDisabled(_))));
    kms.enable(&primary);
    unwrap().await.unwrap();
}
