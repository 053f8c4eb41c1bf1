//! What both AWS adapters, `kms::aws` and `store::dynamodb`, need of AWS: region, endpoint,
//! credentials and timeouts. Knows no service.
//!
//! Credentials are found where AWS tools look (environment, profiles, IRSA, EKS Pod Identity,
//! ECS, EC2), and none is ever a setting of this server.

use std::{error::Error, iter, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, identity::IdentityCache, meta::ProviderChainError, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError},
};

/// The longest that a connection may take to be made: less than a try, so that one which was never made is
/// known as such.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// The longest that one try of a call may take, its connection included.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that one operation of the SDK may take. An adapter ends it at its call's deadline,
/// if that is sooner.
pub const OPERATION_TIMEOUT: Duration = Duration::from_millis(2_500);
/// The longest that credentials may take to come: less than an operation, which can then say that they are
/// what it lacked.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(2);

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
    let sdk = loader.load().await;
    let credentials = sdk.credentials_provider().map(in_time);
    let mut builder = sdk.into_builder().retry_config(RetryConfig::disabled());
    builder.set_credentials_provider(credentials);
    builder.build()
}

/// The same credentials, or within 2 s the word that they did not come.
pub(crate) fn in_time(credentials: SharedCredentialsProvider) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(InTime(credentials))
}

#[derive(Debug)]
struct InTime(SharedCredentialsProvider);

impl InTime {
    async fn load(&self) -> provider::Result {
        let Ok(loaded) = tokio::time::timeout(CREDENTIALS_TIMEOUT, self.0.provide_credentials()).await else {
            let late = || CredentialsError::provider_timed_out(CREDENTIALS_TIMEOUT);
            return self.0.fallback_on_interrupt().ok_or_else(late);
        };
        loaded
    }
}

impl ProvideCredentials for InTime {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::new(self.load())
    }
    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.0.fallback_on_interrupt()
    }
}

/// Why there are no credentials, in one line without secrets, if that is what `error` is about: None where
/// no [`CredentialsError`] is among its causes. Of a chain it says what each source of credentials said.
pub(crate) fn credentials_problem(error: &(dyn Error + 'static)) -> Option<String> {
    let problem: &CredentialsError = causes(error).find_map(|cause| cause.downcast_ref())?;
    Some(line_of(problem).chars().take(PROBLEM_MAX).collect())
}

/// The longest line about credentials, in characters: a chain has five sources with a sentence or two each.
const PROBLEM_MAX: usize = 2_000;

fn line_of(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let chain: Option<&ProviderChainError<CredentialsError>> = cause.downcast_ref();
        let text = match (chain, cause.downcast_ref()) {
            (Some(chain), _) => {
                let said = chain.attempts().iter();
                said.map(|tried| format!("{}: {}", tried.name(), line_of(tried.error()))).collect::<Vec<_>>().join("; ")
            }
            // That it was not enabled says less than why.
            (None, Some(CredentialsError::CredentialsNotLoaded(_))) if cause.source().is_some() => continue,
            (None, _) => one_line(&cause.to_string()),
        };
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// Whether an error of that code says that AWS does not take the credentials, or not any more.
pub(crate) fn is_of_credentials(code: &str) -> bool {
    const CODES: [&str; 11] = [
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ];
    CODES.contains(&code)
}

/// `text` without line breaks and what else a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(char::is_control, " ")
}

/// `error` and what is behind it, from the outside in.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
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
    use aws_config::meta::credentials::CredentialsProviderChain;
    use aws_credential_types::credential_fn::provide_credentials_fn;

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
        assert!(CONNECT_TIMEOUT < ATTEMPT_TIMEOUT, "a connection that was not made ends as such");
        assert!(!sdk.retry_config().unwrap().has_retry());

        let endpoint = "http://127.0.0.1:8000";
        let sdk = sdk_config(&Settings { endpoint: Some(endpoint.into()), ..settings }).await;
        assert_eq!(sdk.endpoint_url(), Some(endpoint));
    }

    /// Whatever stood in front of it in an SDK's error.
    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Dispatch(#[source] CredentialsError);

    #[tokio::test]
    async fn what_a_chain_of_credentials_tried_is_one_line() {
        let saying =
            |why: &'static str| provide_credentials_fn(move || async move { Err(CredentialsError::not_loaded(why)) });
        let chain = CredentialsProviderChain::first_try("Environment", saying("no variable is set"))
            .or_else("Ec2InstanceMetadata", saying("nobody answers"));
        let error = Dispatch(chain.provide_credentials().await.unwrap_err());
        let line = "Environment: no variable is set; Ec2InstanceMetadata: nobody answers";
        assert_eq!(credentials_problem(&error).as_deref(), Some(line));
    }

    #[test]
    fn a_problem_of_credentials_is_told_once_and_whole() {
        let said = |error| credentials_problem(&Dispatch(error)).unwrap();
        let timed_out = "credentials provider timed out after 2 seconds";
        assert_eq!(said(CredentialsError::provider_timed_out(Duration::from_secs(2))), timed_out);
        let denied = CredentialsError::provider_error("a role\n\n  may not be\tassumed\n");
        assert_eq!(said(denied), "an error occurred while loading credentials: a role; may not be assumed");
        let nested = CredentialsError::not_loaded(CredentialsError::provider_error(Dispatch(
            CredentialsError::provider_error("no such host"),
        )));
        assert_eq!(said(nested), "an error occurred while loading credentials: dispatch failure: no such host");
        assert_eq!(said(CredentialsError::not_loaded("x".repeat(5_000))).len(), PROBLEM_MAX);
        assert_eq!(credentials_problem(&std::io::Error::other("a cable")), None);
    }

    #[test]
    fn no_debug_output_says_a_secret_key() {
        let keys = Keys::new("AKIDCANARY", "canary-secret");
        assert!(!format!("{keys:?}").contains("canary-secret"));
    }
}
