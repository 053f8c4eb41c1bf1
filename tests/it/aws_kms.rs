//! `kms::aws` on a KMS that holds to key ids, contexts and states: what the port's contract does not
//! say, and what is seen only on a real connection.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_sdk_kms::types::{KeySpec, KeyUsageType};
use ibyok::{
    aws,
    domain::{
        clock::{Clock, Deadline, SystemClock},
        secret::{EncryptionContext, KmsKeyId, WrappedDataKey},
    },
    kms::{
        KeyWrapper as _, KmsError,
        aws::{AwsKeyWrapper, Keys as KeySettings},
    },
};

use crate::{
    aws_proxy::{Fate, Proxy},
    localstack::{self, AWAY, Keys, REGION},
};

/// An adapter with that primary, and the region `AWAY` to recover from.
pub async fn adapter(primary: &KmsKeyId) -> AwsKeyWrapper {
    adapter_at(primary, localstack::endpoint().await).await
}

async fn adapter_at(primary: &KmsKeyId, endpoint: &str) -> AwsKeyWrapper {
    let settings = aws::Settings {
        region: Some(REGION.to_owned()),
        endpoint: Some(endpoint.to_owned()),
        ..aws::Settings::default()
    };
    let sdk = localstack::keys().of(aws::sdk_config(&settings).await);
    let recovery = BTreeMap::from([(AWAY.to_owned(), Some(endpoint.to_owned()))]);
    let keys = KeySettings { primary: primary.clone(), recovery };
    AwsKeyWrapper::new(&sdk, keys, Arc::new(SystemClock)).unwrap()
}

fn in_time() -> Deadline {
    SystemClock.deadline(Duration::from_secs(30))
}

fn context() -> EncryptionContext {
    EncryptionContext([("key", "k1".to_owned()), ("org", "o1".to_owned())].into())
}

async fn wrap(kms: &AwsKeyWrapper, key: Option<&KmsKeyId>) -> WrappedDataKey {
    kms.generate_data_key(key, &context(), in_time()).await.unwrap().1
}

async fn unwrap(kms: &AwsKeyWrapper, wrapped: &WrappedDataKey) -> Result<(), KmsError> {
    kms.unwrap(wrapped, &context(), in_time()).await.map(drop)
}

#[tokio::test]
async fn an_alias_and_an_id_name_a_key_and_what_is_stored_is_its_arn() {
    let keys = Keys::of(REGION).await;
    let arn = keys.make().await;
    let id = arn.0.rsplit('/').next().unwrap();
    let alias = keys.alias(&format!("vault-{id}"), &arn).await;
    for name in [&alias, &KmsKeyId(id.to_owned()), &arn] {
        let kms = adapter(name).await;
        assert_eq!(kms.status(in_time()).await.unwrap(), format!("AWS KMS key {}, enabled", arn.0));
        let wrapped = wrap(&kms, None).await;
        assert_eq!(wrapped.kms_key_id, arn);
        unwrap(&kms, &wrapped).await.unwrap();
    }
}

#[tokio::test]
async fn a_disabled_key_is_disabled_until_it_is_enabled_again() {
    let keys = Keys::of(REGION).await;
    let (primary, other) = (keys.make().await, keys.make().await);
    let kms = adapter(&primary).await;
    let wrapped = wrap(&kms, None).await;
    let of_other = wrap(&kms, Some(&other)).await;
    keys.disable(&primary).await;
    for _ in 0..10 {
        assert!(matches!(unwrap(&kms, &wrapped).await, Err(KmsError::KeyDisabled(_))));
    }
    assert!(matches!(kms.generate_data_key(None, &context(), in_time()).await, Err(KmsError::KeyDisabled(_))));
    assert!(matches!(kms.rewrap(&wrapped, &context(), &other, in_time()).await, Err(KmsError::KeyDisabled(_))));
    let problem = kms.status(in_time()).await.unwrap_err();
    assert_eq!(problem, format!("kms.key_id: {} is disabled: enable it", primary.0));
    unwrap(&kms, &of_other).await.unwrap();
    keys.enable(&primary).await;
    unwrap(&kms, &wrapped).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_pending_deletion_is_disabled() {
    let keys = Keys::of(REGION).await;
    let primary = keys.make().await;
    let kms = adapter(&primary).await;
    let wrapped = wrap(&kms, None).await;
    keys.schedule_deletion(&primary).await;
    assert!(matches!(unwrap(&kms, &wrapped).await, Err(KmsError::KeyDisabled(_))));
    assert!(matches!(kms.generate_data_key(None, &context(), in_time()).await, Err(KmsError::KeyDisabled(_))));
    let problem = kms.status(in_time()).await.unwrap_err();
    assert!(problem.contains("is pending deletion"), "{problem}");
}

#[tokio::test]
async fn keys_of_another_kind_and_keys_that_are_not_there_are_named() {
    let keys = Keys::of(REGION).await;
    for (spec, usage, what) in [
        (KeySpec::Rsa2048, KeyUsageType::EncryptDecrypt, "a key RSA_2048 for ENCRYPT_DECRYPT"),
        (KeySpec::EccNistP256, KeyUsageType::SignVerify, "a key ECC_NIST_P256 for SIGN_VERIFY"),
        (KeySpec::Hmac256, KeyUsageType::GenerateVerifyMac, "a key HMAC_256 for GENERATE_VERIFY_MAC"),
    ] {
        let key = keys.make_other(spec, usage).await;
        let kms = adapter(&key).await;
        let problem = kms.status(in_time()).await.unwrap_err();
        assert_eq!(
            problem,
            format!("kms.key_id: {} is {what}; needed is one SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT", key.0)
        );
    }
    let nobody = KmsKeyId("alias/nobody".to_owned());
    let kms = adapter(&nobody).await;
    let problem = kms.status(in_time()).await.unwrap_err();
    assert_eq!(problem, "kms.key_id: there is no KMS key alias/nobody in eu-west-1; is it in another region?");
    assert!(matches!(kms.generate_data_key(None, &context(), in_time()).await, Err(KmsError::KeyRefused(_))));
}

#[tokio::test]
async fn what_another_key_wrapped_is_rejected_and_what_older_material_wrapped_opens() {
    let keys = Keys::of(REGION).await;
    let (primary, other) = (keys.make().await, keys.make().await);
    let kms = adapter(&primary).await;
    let wrapped = wrap(&kms, None).await;
    let moved = WrappedDataKey { kms_key_id: other, ..wrapped.clone() };
    assert!(matches!(unwrap(&kms, &moved).await, Err(KmsError::Rejected)));
    keys.rotate(&primary).await;
    unwrap(&kms, &wrapped).await.unwrap();
    unwrap(&kms, &wrap(&kms, None).await).await.unwrap();
}

#[tokio::test]
async fn keys_of_a_recovery_region_open_what_they_wrapped() {
    let (here, there) = (Keys::of(REGION).await, Keys::of(AWAY).await);
    let (primary, away) = (here.make().await, there.make().await);
    let kms = adapter(&primary).await;
    let wrapped = wrap(&kms, Some(&away)).await;
    assert_eq!(wrapped.kms_key_id, away);
    unwrap(&kms, &wrapped).await.unwrap();
    let refused = kms.rewrap(&wrapped, &context(), &primary, in_time()).await;
    assert!(matches!(refused, Err(KmsError::KeyRefused(_))), "ReEncrypt crosses no regions");
}

#[tokio::test]
async fn a_multi_region_key_opens_by_its_replica_here_or_where_it_is() {
    let (here, there) = (Keys::of(REGION).await, Keys::of(AWAY).await);
    let (primary, multi) = (here.make().await, there.make_multi_region().await);
    let proxy = Proxy::before(localstack::endpoint().await).await;
    let kms = adapter_at(&primary, &proxy.endpoint).await;
    // Not replicated yet: two calls the first time, one from then on.
    let wrapped = wrap(&kms, Some(&multi)).await;
    assert_eq!(wrapped.kms_key_id, multi);
    proxy.take_calls();
    unwrap(&kms, &wrapped).await.unwrap();
    assert_eq!(proxy.take_calls(), BTreeMap::from([("Decrypt".to_owned(), 1)]));

    let replica = there.replicate(&multi, REGION).await;
    let kms = adapter_at(&primary, &proxy.endpoint).await;
    unwrap(&kms, &wrapped).await.unwrap();
    assert_eq!(proxy.take_calls(), BTreeMap::from([("Decrypt".to_owned(), 1)]));
    there.disable(&multi).await;
    unwrap(&kms, &wrapped).await.unwrap();
    let moved = kms.rewrap(&wrapped, &context(), &primary, in_time()).await.unwrap();
    assert_eq!(moved.kms_key_id, primary);
    here.disable(&replica).await;
    assert!(matches!(unwrap(&kms, &wrapped).await, Err(KmsError::KeyDisabled(_))));
}

#[tokio::test]
async fn a_reply_that_is_lost_is_asked_for_again() {
    let keys = Keys::of(REGION).await;
    let proxy = Proxy::before(localstack::endpoint().await).await;
    let kms = adapter_at(&keys.make().await, &proxy.endpoint).await;
    let wrapped = wrap(&kms, None).await;
    proxy.take_calls();
    for fate in [Fate::LoseReply, Fate::Cut] {
        proxy.set(fate);
        assert!(matches!(unwrap(&kms, &wrapped).await, Err(KmsError::Unavailable(_))));
        assert_eq!(proxy.take_calls()["Decrypt"], 3);
    }
    proxy.set(Fate::Pass);
    unwrap(&kms, &wrapped).await.unwrap();
    assert_eq!(proxy.take_calls()["Decrypt"], 1);
}

#[tokio::test]
async fn an_answer_that_is_held_ends_with_the_deadline() {
    let keys = Keys::of(REGION).await;
    let proxy = Proxy::before(localstack::endpoint().await).await;
    let kms = adapter_at(&keys.make().await, &proxy.endpoint).await;
    let wrapped = wrap(&kms, None).await;
    proxy.set(Fate::Hold);
    let soon = SystemClock.deadline(Duration::from_millis(50));
    let refused = kms.unwrap(&wrapped, &context(), soon).await;
    assert!(matches!(refused, Err(KmsError::Unavailable(_))));
    proxy.set(Fate::Pass);
    unwrap(&kms, &wrapped).await.unwrap();
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_one_line() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", socket.local_addr().unwrap());
    drop(socket);
    let kms = adapter_at(&KmsKeyId("alias/vault".to_owned()), &endpoint).await;
    let problem = kms.status(in_time()).await.unwrap_err();
    let line = "kms.endpoint: AWS KMS gives no answer: DescribeKey in eu-west-1: no connection: ";
    assert!(problem.starts_with(line) && !problem.contains('\n'), "{problem}");
    let refused = kms.generate_data_key(None, &context(), in_time()).await;
    assert!(matches!(refused, Err(KmsError::Unavailable(_))));
}
