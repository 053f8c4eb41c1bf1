//! Credentials that are missing, or no longer good.

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future};
use serde_json::json;

use super::*;

/// Credentials that fail, or never come.
#[derive(Clone, Copy, Debug)]
enum Source {
    None,
    Denied,
    Silent,
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            match self {
                Self::None => Err(CredentialsError::not_loaded("no provider in the chain gave any")),
                Self::Denied => Err(CredentialsError::provider_error("the role may not be assumed")),
                Self::Silent => std::future::pending().await,
            }
        })
    }
}

fn adapter_as(script: &Script, source: Source) -> AwsKeyWrapper {
    let keys = Keys { primary: KmsKeyId(KEY.to_owned()), recovery: BTreeMap::new() };
    let sdk = script.sdk_as(crate::aws::in_time(SharedCredentialsProvider::new(source)));
    AwsKeyWrapper::new(&sdk, keys, Arc::new(TokioClock)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn missing_credentials_are_told_apart_from_a_kms_that_is_down() {
    for (source, why) in [(Source::None, "no provider in the chain"), (Source::Denied, "may not be assumed")] {
        let script = Script::new(|_| Reply::Well);
        let kms = adapter_as(&script, source);
        let status = kms.status(in_time()).await.unwrap_err();
        let line = "kms.kind: there are no good AWS credentials: ";
        assert!(status.starts_with(line) && status.contains(why) && !status.contains('\n'), "{status}");
        for _ in 0..10 {
            let KmsError::Unavailable(cause) = unwrap(&kms, KEY).await.unwrap_err() else { panic!() };
            assert!(cause.to_string().contains(why), "the breaker stays closed: {cause}");
        }
        assert!(script.calls().is_empty());
    }
}

/// However many wait for them at once, none is told that the KMS is silent, and no breaker opens.
#[tokio::test(start_paused = true)]
async fn credentials_that_never_come_hold_no_call() {
    let script = Script::new(|_| Reply::Well);
    let kms = adapter_as(&script, Source::Silent);
    let (status, took) = timed(kms.status(in_time())).await;
    let line = "kms.kind: there are no good AWS credentials: credentials provider timed out after 2 seconds";
    assert_eq!(status.unwrap_err(), line);
    assert!(took <= OPERATION_TIMEOUT);
    for _ in 0..2 {
        let calls = (0..10).map(|_| unwrap(&kms, KEY));
        let (refused, took) = timed(futures_util::future::join_all(calls)).await;
        assert!(took <= OPERATION_TIMEOUT, "{took:?}");
        for refused in refused {
            let KmsError::Unavailable(cause) = refused.unwrap_err() else { panic!() };
            assert!(cause.to_string().contains("credentials"), "{cause}");
        }
    }
    assert!(script.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn credentials_that_have_expired_are_named_and_new_ones_are_taken_without_a_restart() {
    let expired = json!({
        "__type": "ExpiredTokenException", "message": "The security token included in the request is expired",
    });
    let script = Script::counted(move |n| if n <= 20 { Reply::With(400, expired.clone()) } else { Reply::Well });
    let kms = adapter(&script);
    let status = kms.status(in_time()).await.unwrap_err();
    let line = "kms.kind: there are no good AWS credentials: The security token included in the request is expired";
    assert_eq!(status, line);
    while script.calls().len() < 20 {
        assert!(matches!(unwrap(&kms, KEY).await, Err(KmsError::Unavailable(_))));
    }
    unwrap(&kms, KEY).await.unwrap();
}
