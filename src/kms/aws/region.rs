//! AWS KMS in one region: the four calls that this server makes, always with the key's id. Retries
//! what may be tried again; knows no deadline, no breaker, and no other region.

use std::{collections::HashMap, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_kms::{
    Client,
    config::{
        Builder, Region as RegionName,
        retry::{RetryConfig, RetryPartition, TokenBucket},
        timeout::TimeoutConfig,
    },
    primitives::Blob,
    types::{DataKeySpec, KeyMetadata},
};
use zeroize::Zeroizing;

use super::{
    arn::KeyArn,
    refusal::{Kind, Refusal},
    sent::Sent,
};
use crate::{
    aws::{CONNECT_TIMEOUT, OPERATION_TIMEOUT},
    domain::secret::{DataKey, EncryptionContext, KmsKeyId, WrappedDataKey},
};

/// The attempts of one call, the first among them; the pauses between them are random, up to these.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: String,
    /// Whether the settings name its endpoint.
    pub(super) has_endpoint: bool,
    client: Client,
}

impl Region {
    /// The region of the settings, where they, AWS's own variables or the profile say.
    pub(super) fn home(sdk: &SdkConfig, name: &str) -> Self {
        let has_endpoint = sdk.endpoint_url().is_some();
        Self::on(Builder::from(sdk), name, has_endpoint)
    }
    /// Another region; None: the endpoint that AWS has there.
    pub(super) fn away(sdk: &SdkConfig, name: &str, endpoint: Option<&str>) -> Self {
        let mut config = Builder::from(sdk);
        config.set_endpoint_url(endpoint.map(str::to_owned));
        Self::on(config, name, endpoint.is_some())
    }
    fn on(config: Builder, name: &str, has_endpoint: bool) -> Self {
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_PAUSE)
            .with_max_backoff(LONGEST_PAUSE);
        // What may be tried again beyond the first attempts of all calls is counted here, so that a KMS
        // that throttles or fails is not called three times as often.
        let budget = RetryPartition::custom(format!("kms-{name}")).token_bucket(TokenBucket::default()).build();
        let config = config.region(RegionName::new(name.to_owned())).retry_config(retries).retry_partition(budget);
        Self { name: name.to_owned(), has_endpoint, client: Client::from_conf(config.build()) }
    }

    /// GenerateDataKey.
    pub(super) async fn generate(
        &self,
        key: &str,
        context: &EncryptionContext,
        sent: Sent,
    ) -> Result<(DataKey, WrappedDataKey), Refusal> {
        const OPERATION: &str = "GenerateDataKey";
        let call = self.client.generate_data_key().key_id(key).key_spec(DataKeySpec::Aes256);
        let call = call.set_encryption_context(Some(pairs(context)));
        let answer = call.customize().interceptor(sent).send().await;
        let answer = answer.map_err(|error| Refusal::of(&error, OPERATION, &self.name))?;
        let wrapped = wrapped(answer.key_id, answer.ciphertext_blob);
        plain(answer.plaintext).zip(wrapped).ok_or_else(|| self.strange(OPERATION))
    }

    /// Decrypt, by that key alone.
    pub(super) async fn decrypt(
        &self,
        key: &str,
        ciphertext: &[u8],
        context: &EncryptionContext,
        sent: Sent,
    ) -> Result<DataKey, Refusal> {
        const OPERATION: &str = "Decrypt";
        let call = self.client.decrypt().key_id(key).ciphertext_blob(Blob::new(ciphertext));
        let call = call.set_encryption_context(Some(pairs(context)));
        let answer = call.customize().interceptor(sent).send().await;
        let answer = answer.map_err(|error| Refusal::of(&error, OPERATION, &self.name))?;
        plain(answer.plaintext).ok_or_else(|| self.strange(OPERATION))
    }

    /// ReEncrypt, from that key alone: what is wrapped does not leave the KMS.
    pub(super) async fn re_encrypt(
        &self,
        (from, ciphertext): (&str, &[u8]),
        to: &str,
        context: &EncryptionContext,
        sent: Sent,
    ) -> Result<WrappedDataKey, Refusal> {
        const OPERATION: &str = "ReEncrypt";
        let call = self.client.re_encrypt().source_key_id(from).destination_key_id(to);
        let call = call
            .ciphertext_blob(Blob::new(ciphertext))
            .set_source_encryption_context(Some(pairs(context)))
            .set_destination_encryption_context(Some(pairs(context)));
        let answer = call.customize().interceptor(sent).send().await;
        let answer = answer.map_err(|error| Refusal::of(&error, OPERATION, &self.name))?;
        wrapped(answer.key_id, answer.ciphertext_blob).ok_or_else(|| self.strange(OPERATION))
    }

    /// DescribeKey. An attempt has all the time: credentials that are fetched meanwhile may need it,
    /// and are kept for the calls that come.
    pub(super) async fn describe(&self, key: &str, sent: Sent) -> Result<KeyMetadata, Refusal> {
        const OPERATION: &str = "DescribeKey";
        let patient = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(OPERATION_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let patient = aws_sdk_kms::Config::builder().timeout_config(patient);
        let call = self.client.describe_key().key_id(key).customize().config_override(patient);
        let answer = call.interceptor(sent).send().await;
        let answer = answer.map_err(|error| Refusal::of(&error, OPERATION, &self.name))?;
        answer.key_metadata.ok_or_else(|| self.strange(OPERATION))
    }

    fn strange(&self, operation: &'static str) -> Refusal {
        Refusal::new(Kind::Down, operation, &self.name, "an answer that is none of AWS KMS")
    }
}

fn pairs(context: &EncryptionContext) -> HashMap<String, String> {
    context.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The data key of an answer, whose copy in the SDK is overwritten.
fn plain(answer: Option<Blob>) -> Option<DataKey> {
    let bytes = Zeroizing::new(answer?.into_inner());
    let key = DataKey::from_slice(&bytes);
    wipe_deep_stack();
    key
}

/// As [`wipe_stack`](crate::domain::secret::wipe_stack), for the SDK: it goes deeper, and leaves copies of
/// the JSON and of what it decodes.
#[inline(never)]
fn wipe_deep_stack() {
    std::hint::black_box(&mut [0_u8; 256 << 10]);
}

/// The wrapped key of an answer, by the ARN of the key that wrapped it: an alias may name another
/// key tomorrow.
fn wrapped(key: Option<String>, ciphertext: Option<Blob>) -> Option<WrappedDataKey> {
    let kms_key_id = key.filter(|key| KeyArn::parse(key).is_some_and(|arn| arn.is_of_key()))?;
    let ciphertext = ciphertext?.into_inner();
    (!ciphertext.is_empty()).then_some(WrappedDataKey { kms_key_id: KmsKeyId(kms_key_id), ciphertext })
}
