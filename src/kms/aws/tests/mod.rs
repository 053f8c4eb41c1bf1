//! The adapter on a scripted KMS, below the SDK: real requests, made-up answers, and a clock that
//! stands still unless something waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::domain::{clock::Timestamp, secret::WrappedDataKey};

mod breaking;
mod credentials;
mod refusals;
mod routes;
mod script;
mod slowness;

use script::{Call, Reply, Script};

const HOME: &str = "eu-west-1";
const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER: &str = "arn:aws:kms:eu-west-1:111122223333:key/5678abcd-12ab-34cd-56ef-1234567890ab";
const AWAY: &str = "arn:aws:kms:us-east-1:111122223333:key/9999abcd-12ab-34cd-56ef-1234567890ab";
const AWAY_MULTI: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-9999abcd12ab34cd56ef1234567890ab";
const HOME_MULTI: &str = "arn:aws:kms:eu-west-1:111122223333:key/mrk-9999abcd12ab34cd56ef1234567890ab";

/// Tokio's clock: it moves only when everything waits.
#[derive(Debug)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(0)
    }
    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// The adapter in `HOME`, with `us-east-1` to recover from, on `script`.
fn adapter(script: &Script) -> AwsKeyWrapper {
    adapter_of(script, "alias/vault", &["us-east-1"])
}

fn adapter_of(script: &Script, primary: &str, recovery: &[&str]) -> AwsKeyWrapper {
    let keys = Keys {
        primary: KmsKeyId(primary.to_owned()),
        recovery: recovery.iter().map(|&name| (name.to_owned(), None)).collect::<BTreeMap<_, _>>(),
    };
    AwsKeyWrapper::new(&script.sdk(), keys, Arc::new(TokioClock)).unwrap()
}

fn context() -> EncryptionContext {
    EncryptionContext([("key", "k1".to_owned()), ("org", "o1".to_owned())].into())
}

fn wrapped(key: &str) -> WrappedDataKey {
    WrappedDataKey { kms_key_id: KmsKeyId(key.to_owned()), ciphertext: vec![7; 100] }
}

fn within(span: Duration) -> Deadline {
    TokioClock.deadline(span)
}

fn in_time() -> Deadline {
    within(Duration::from_secs(5))
}

/// Unwraps something of `key`: nothing, or how it was refused.
async fn unwrap(kms: &AwsKeyWrapper, key: &str) -> Result<(), KmsError> {
    kms.unwrap(&wrapped(key), &context(), in_time()).await.map(drop)
}

/// How long `work` takes by the clock that stands still unless something waits.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begin = TokioClock.instant();
    let result = work.await;
    (result, TokioClock.instant() - begin)
}

/// What each call was, in order.
fn operations(script: &Script) -> Vec<String> {
    script.calls().into_iter().map(|call| call.operation).collect()
}
