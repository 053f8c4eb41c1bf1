//! What both AWS adapters, `kms::aws` and `store::dynamodb`, need of AWS: region, endpoint,
//! credentials and timeouts. Knows no service.
//!
//! Credentials are found where every AWS tool looks (environment, profiles, IRSA, EKS Pod Identity,
//! ECS, EC2), and none is ever a setting of this server.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, identity::IdentityCache, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};

/// The longest that a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that one try of a call may take, its connection included.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that one operation of the SDK may take. An adapter ends it at its call's deadline,
/// if that is sooner.
pub const OPERATION_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Where AWS is, as the settings of one adapter say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The region; None: what the environment, the profile or the instance says.
    pub region: Option<String>,
    /// A URL that goes before the region's own endpoint.
    pub endpoint: Option<String>,
    /// Whether only FIPS 140 endpoints are called.
    pub fips: bool,
    /// Whether endpoints are called that have IPv6 addresses, too.
    pub dual_stack: bool,
}

/// What a client of any AWS service is made from: the default chain of credentials and region, these
/// settings before it, and the timeouts above. A client made from it tries once: an adapter alone
/// knows what may be tried again.
///
/// Never fails: what is missing, a region or credentials, the first call tells.
pub async fn sdk_config(settings: &Settings) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        // For the calls that fetch credentials; those of the adapters are set below.
        .retry_config(RetryConfig::standard())
        .identity_cache(IdentityCache::lazy().load_timeout(OPERATION_TIMEOUT).build())
        // Every call is bounded as a whole, and no answer is a long stream.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    // Not set, they are what the environment or the profile says (AWS_USE_FIPS_ENDPOINT).
    if settings.fips {
        loader = loader.use_fips(true);
    }
    if settings.dual_stack {
        loader = loader.use_dual_stack(true);
    }
    loader.load().await.into_builder().retry_config(RetryConfig::disabled()).build()
}

/// Credentials that go before what the default chain finds: tests bring them.
#[derive(Clone, Debug)]
pub struct Keys(SharedCredentialsProvider);

impl Keys {
    /// An access key and its secret, that last.
    #[must_use]
    pub fn new(id: &str, secret: &str) -> Self {
        Self(SharedCredentialsProvider::new(Credentials::new(id, secret, None, None, "ibyok")))
    }

    /// What `sdk` is, with these credentials.
    #[must_use]
    pub fn of(&self, sdk: SdkConfig) -> SdkConfig {
        sdk.into_builder().credentials_provider(self.0.clone()).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_go_into_every_client_and_each_try_is_bounded() {
        let settings = Settings { region: Some("eu-central-1".into()), fips: true, dual_stack: true, endpoint: None };
        let sdk = sdk_config(&settings).await;
        assert_eq!(sdk.region().map(AsRef::as_ref), Some("eu-central-1"));
        assert_eq!((sdk.use_fips(), sdk.use_dual_stack()), (Some(true), Some(true)));
        let timeouts = sdk.timeout_config().unwrap();
        assert_eq!(timeouts.connect_timeout(), Some(CONNECT_TIMEOUT));
        assert_eq!(timeouts.operation_attempt_timeout(), Some(ATTEMPT_TIMEOUT));
        assert_eq!(timeouts.operation_timeout(), Some(OPERATION_TIMEOUT));
        assert!(!sdk.retry_config().unwrap().has_retry());

        let endpoint = "http://127.0.0.1:8000";
        let sdk = sdk_config(&Settings { endpoint: Some(endpoint.into()), ..settings }).await;
        assert_eq!(sdk.endpoint_url(), Some(endpoint));
    }

    #[test]
    fn no_debug_output_says_a_secret_key() {
        let keys = Keys::new("AKIDCANARY", "canary-secret");
        assert!(!format!("{keys:?}").contains("canary-secret"));
    }
}
