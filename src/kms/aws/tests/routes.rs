//! Which key is called where, and by which name.

use serde_json::json;

use super::{script::DATA_KEY, *};

/// Keys that are not there; the others are in order.
fn without(absent: &'static [&'static str]) -> Script {
    Script::new(move |call| {
        let key = call.body["KeyId"].as_str().or(call.body["SourceKeyId"].as_str()).unwrap();
        if absent.contains(&key) { Reply::Error("NotFoundException") } else { Reply::Well }
    })
}

fn called(script: &Script) -> Vec<(String, String)> {
    called_after(script, 0)
}

fn pair(region: &str, key: &str) -> (String, String) {
    (region.to_owned(), key.to_owned())
}

#[tokio::test(start_paused = true)]
async fn every_call_says_the_key_and_the_context() {
    let script = Script::new(|_| Reply::Well);
    let kms = adapter(&script);
    let (plain, made) = kms.generate_data_key(None, &context(), in_time()).await.unwrap();
    assert_eq!((plain.expose_secret(), made.kms_key_id.0.as_str()), (&DATA_KEY, KEY), "the ARN, not the alias");
    assert_eq!(kms.unwrap(&made, &context(), in_time()).await.unwrap().expose_secret(), &DATA_KEY);
    let moved = kms.rewrap(&made, &context(), &KmsKeyId(OTHER.to_owned()), in_time()).await.unwrap();
    assert_eq!((moved.kms_key_id.0.as_str(), moved.ciphertext), (OTHER, vec![8; 100]));

    let context = json!({ "key": "k1", "org": "o1" });
    let ciphertext = data_encoding::BASE64.encode(&[7; 100]);
    let bodies: Vec<_> = script.calls().into_iter().map(|call| call.body).collect();
    assert_eq!(
        bodies,
        [
            json!({ "KeyId": "alias/vault", "KeySpec": "AES_256", "EncryptionContext": context }),
            json!({ "KeyId": KEY, "CiphertextBlob": ciphertext, "EncryptionContext": context }),
            json!({
                "SourceKeyId": KEY, "DestinationKeyId": OTHER, "CiphertextBlob": ciphertext,
                "SourceEncryptionContext": context, "DestinationEncryptionContext": context,
            }),
        ]
    );
    assert_eq!(operations(&script), ["GenerateDataKey", "Decrypt", "ReEncrypt"]);
}

#[tokio::test(start_paused = true)]
async fn an_arn_is_called_in_its_own_region() {
    let script = Script::new(|_| Reply::Well);
    let kms = adapter(&script);
    for key in [KEY, AWAY] {
        unwrap(&kms, key).await.unwrap();
        kms.generate_data_key(Some(&KmsKeyId(key.to_owned())), &context(), in_time()).await.unwrap();
    }
    let expected = [pair(HOME, KEY), pair(HOME, KEY), pair("us-east-1", AWAY), pair("us-east-1", AWAY)];
    assert_eq!(called(&script), expected);
    let hosts: Vec<_> = script.calls().into_iter().map(|call| call.host).collect();
    assert_eq!((hosts[0].as_str(), hosts[2].as_str()), ("kms.eu-west-1.amazonaws.com", "kms.us-east-1.amazonaws.com"));
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_not_listed_is_never_called() {
    let script = Script::new(|_| Reply::Well);
    let kms = adapter_of(&script, KEY, &[]);
    let refused = unwrap(&kms, AWAY).await.unwrap_err();
    let KmsError::KeyRefused(said) = refused else { panic!("{refused:?}") };
    assert_eq!(
        said.to_string(),
        "the key is in us-east-1, which is neither kms.region nor one of kms.recovery_regions"
    );
    let generated = kms.generate_data_key(Some(&KmsKeyId(AWAY.to_owned())), &context(), in_time()).await;
    assert!(matches!(generated, Err(KmsError::KeyRefused(_))));
    assert!(script.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_a_multi_region_key_the_replica_here_is_called() {
    for recovery in [&["us-east-1"][..], &[]] {
        let script = Script::new(|_| Reply::Well);
        let kms = adapter_of(&script, KEY, recovery);
        unwrap(&kms, AWAY_MULTI).await.unwrap();
        unwrap(&kms, HOME_MULTI).await.unwrap();
        assert_eq!(called(&script), [pair(HOME, HOME_MULTI), pair(HOME, HOME_MULTI)]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_replica_here_the_key_is_called_where_it_is_and_that_is_remembered() {
    for refusal in ["NotFoundException", "AccessDeniedException"] {
        let script = Script::new(move |call| if call.region == HOME { Reply::Error(refusal) } else { Reply::Well });
        let kms = adapter(&script);
        for _ in 0..3 {
            unwrap(&kms, AWAY_MULTI).await.unwrap();
        }
        let there = || pair("us-east-1", AWAY_MULTI);
        assert_eq!(called(&script), [pair(HOME, HOME_MULTI), there(), there(), there()]);
        tokio::time::advance(REPLICA_MEMORY).await;
        unwrap(&kms, AWAY_MULTI).await.unwrap();
        assert_eq!(called(&script)[4..], [pair(HOME, HOME_MULTI), there()], "a replica may have been made");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_disabled_or_rejects_is_the_answer() {
    for (code, is_expected) in [
        ("DisabledException", (|error| matches!(error, KmsError::KeyDisabled(_))) as fn(KmsError) -> bool),
        ("InvalidCiphertextException", |error| matches!(error, KmsError::Rejected)),
        ("ThrottlingException", |error| matches!(error, KmsError::Throttled { .. })),
    ] {
        let script = Script::new(move |call| if call.region == HOME { Reply::Error(code) } else { Reply::Well });
        assert!(is_expected(unwrap(&adapter(&script), AWAY_MULTI).await.unwrap_err()), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_answer_leaves_its_time_to_the_key_itself() {
    let script = Script::new(|call| if call.region == HOME { Reply::Cut } else { Reply::Well });
    unwrap(&adapter(&script), AWAY_MULTI).await.unwrap();
    assert_eq!(called(&script).last(), Some(&pair("us-east-1", AWAY_MULTI)));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_nowhere_is_refused_where_it_is() {
    let script = without(&[HOME_MULTI, AWAY_MULTI]);
    assert!(matches!(unwrap(&adapter(&script), AWAY_MULTI).await, Err(KmsError::KeyRefused(_))));
    assert_eq!(called(&script), [pair(HOME, HOME_MULTI), pair("us-east-1", AWAY_MULTI)]);
}

#[tokio::test(start_paused = true)]
async fn re_encryption_crosses_no_regions_but_by_a_replica() {
    let script = Script::new(|_| Reply::Well);
    let kms = adapter(&script);
    let to = KmsKeyId(OTHER.to_owned());
    let refused = kms.rewrap(&wrapped(AWAY), &context(), &to, in_time()).await;
    assert!(matches!(refused, Err(KmsError::KeyRefused(_))));
    assert!(script.calls().is_empty());
    kms.rewrap(&wrapped(AWAY_MULTI), &context(), &to, in_time()).await.unwrap();
    let call = script.calls().remove(0);
    assert_eq!((call.region.as_str(), &call.body["SourceKeyId"]), (HOME, &json!(HOME_MULTI)));
    // Within the other region it is like any other.
    kms.rewrap(&wrapped(AWAY), &context(), &KmsKeyId(AWAY_MULTI.to_owned()), in_time()).await.unwrap();
    let call = script.calls().remove(1);
    let keys = (&call.body["SourceKeyId"], &call.body["DestinationKeyId"]);
    assert_eq!((call.region.as_str(), keys), ("us-east-1", (&json!(AWAY), &json!(AWAY_MULTI))));
}

/// That the source is not there says nothing about where the target is.
#[tokio::test(start_paused = true)]
async fn a_source_that_is_missing_leaves_the_replica_of_the_target_known() {
    let script = Script::new(|call| match call.operation.as_str() {
        "ReEncrypt" => Reply::Error("NotFoundException"),
        _ => Reply::Well,
    });
    let kms = adapter(&script);
    let to = KmsKeyId(AWAY_MULTI.to_owned());
    assert!(kms.rewrap(&wrapped(KEY), &context(), &to, in_time()).await.is_err());
    let before = script.calls().len();
    unwrap(&kms, AWAY_MULTI).await.unwrap();
    assert_eq!(called_after(&script, before), [pair(HOME, HOME_MULTI)]);
}

fn called_after(script: &Script, before: usize) -> Vec<(String, String)> {
    let key = |call: &Call| call.body["KeyId"].as_str().unwrap().to_owned();
    script.calls()[before..].iter().map(|call| (call.region.clone(), key(call))).collect()
}

#[tokio::test(start_paused = true)]
async fn fips_and_dual_stack_endpoints_are_those_that_are_called() {
    for (fips, dual_stack, hosts) in [
        (true, false, ["kms-fips.eu-west-1.amazonaws.com", "kms-fips.us-east-1.amazonaws.com"]),
        (false, true, ["kms.eu-west-1.api.aws", "kms.us-east-1.api.aws"]),
        (true, true, ["kms-fips.eu-west-1.api.aws", "kms-fips.us-east-1.api.aws"]),
    ] {
        let script = Script::new(|_| Reply::Well);
        let sdk = script.sdk().into_builder().use_fips(fips).use_dual_stack(dual_stack).build();
        let keys = Keys { primary: KmsKeyId(KEY.to_owned()), recovery: [("us-east-1".to_owned(), None)].into() };
        let kms = AwsKeyWrapper::new(&sdk, keys, Arc::new(TokioClock)).unwrap();
        unwrap(&kms, KEY).await.unwrap();
        unwrap(&kms, AWAY).await.unwrap();
        assert_eq!(script.calls().into_iter().map(|call| call.host).collect::<Vec<_>>(), hosts);
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_kms_of_aws_wrapped_is_refused_without_a_call() {
    let script = Script::new(|_| Reply::Well);
    let kms = adapter(&script);
    for key in ["local:0123456789abcdef", "nobody", "", "alias/vault", "arn:aws:kms:eu-west-1:111122223333:alias/vault"]
    {
        assert!(matches!(unwrap(&kms, key).await, Err(KmsError::KeyRefused(_))), "{key}");
    }
    for length in [0, CIPHERTEXT_MAX + 1] {
        let odd = WrappedDataKey { ciphertext: vec![7; length], ..wrapped(KEY) };
        assert!(matches!(kms.unwrap(&odd, &context(), in_time()).await, Err(KmsError::Rejected)), "{length}");
    }
    assert!(script.calls().is_empty());
}

#[tokio::test]
async fn the_region_of_the_primary_is_none_to_recover_from() {
    let script = Script::new(|_| Reply::Well);
    let keys = Keys { primary: KmsKeyId("alias/vault".to_owned()), recovery: [(HOME.to_owned(), None)].into() };
    let unfit = AwsKeyWrapper::new(&script.sdk(), keys, Arc::new(TokioClock)).unwrap_err();
    let line = "kms.recovery_regions: must be other regions than that of the primary, eu-west-1";
    assert_eq!(unfit.to_string(), line);
}

#[tokio::test]
async fn without_a_region_there_is_no_adapter() {
    let sdk = SdkConfig::builder().build();
    let keys = Keys { primary: KmsKeyId(KEY.to_owned()), recovery: BTreeMap::new() };
    let unfit = AwsKeyWrapper::new(&sdk, keys, Arc::new(TokioClock)).unwrap_err();
    assert_eq!(unfit.setting, "kms.region");
}
