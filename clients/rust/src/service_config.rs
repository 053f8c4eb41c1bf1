//! The service config: per method, the deadline and when to retry, in the JSON form that gRPC
//! libraries share (<https://github.com/grpc/grpc/blob/master/doc/service_config.md>, retries as in
//! gRFC A6). tonic does not interpret it, so the transport does.

use std::time::Duration;

use serde::Deserialize;
use tonic::Code;

/// What clients of every language ship: `clients/service-config.json`.
const SHIPPED: &str = include_str!("../../service-config.json");
/// gRFC A6: more attempts than this are cut to it.
const ATTEMPTS_MAX: u32 = 5;

/// Deadlines and retries, method by method.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    methods: Vec<MethodConfig>,
}

/// The part of a service config for some methods.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodConfig {
    names: Vec<Name>,
    /// Deadline of a call, its retries included.
    pub timeout: Option<Duration>,
    /// None: never retried.
    pub retry: Option<RetryPolicy>,
}

/// When a call is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The first one included: 2 to 5.
    pub attempts_max: u32,
    /// Before the second attempt.
    pub initial_backoff: Duration,
    /// No backoff is longer.
    pub max_backoff: Duration,
    /// From one backoff to the next.
    pub backoff_multiplier: f64,
    /// Only these are retried.
    pub retryable_codes: Vec<Code>,
}

/// What is wrong with a service config.
#[derive(Debug, thiserror::Error)]
#[error("the service config is not valid: {0}")]
pub struct ServiceConfigError(String);

impl ServiceConfig {
    /// The config that this library ships with.
    ///
    /// # Errors
    /// Never, as a test proves.
    pub fn shipped() -> Result<Self, ServiceConfigError> {
        Self::from_json(SHIPPED)
    }

    /// Parses the JSON form. Fields that are not about names, timeouts and retries are ignored, as
    /// gRPC asks.
    ///
    /// # Errors
    /// When it is not JSON, or a value is outside what gRPC allows.
    pub fn from_json(json: &str) -> Result<Self, ServiceConfigError> {
        let wire: WireConfig = serde_json::from_str(json).map_err(|error| ServiceConfigError(error.to_string()))?;
        let methods = wire.method_config.into_iter().map(MethodConfig::try_from).collect::<Result<_, _>>()?;
        Ok(Self { methods })
    }

    /// What holds for `path` (`/package.Service/Method`): the entry of the method, else of its
    /// service, else of everything.
    #[must_use]
    pub fn method(&self, path: &str) -> Option<&MethodConfig> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let named = |service: &str, method: &str| {
            self.methods
                .iter()
                .find(|entry| entry.names.iter().any(|name| name.service == service && name.method == method))
        };
        named(service, method).or_else(|| named(service, "")).or_else(|| named("", ""))
    }
}

impl RetryPolicy {
    /// How long to wait before the next attempt when number `attempt` (from 1) failed with `code`;
    /// None when it is not to be tried again. `at_least` is what the server asked for in RetryInfo;
    /// `chance`, in 0..=1, spreads the backoff by a fifth to both sides.
    #[must_use]
    pub fn wait(&self, attempt: u32, code: Code, at_least: Option<Duration>, chance: f64) -> Option<Duration> {
        if attempt >= self.attempts_max || !self.retryable_codes.contains(&code) {
            return None;
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial_backoff.as_secs_f64() * self.backoff_multiplier.powi(exponent);
        let seconds = seconds.min(self.max_backoff.as_secs_f64()) * (0.8 + 0.4 * chance.clamp(0.0, 1.0));
        let backoff = Duration::try_from_secs_f64(seconds).unwrap_or(self.max_backoff);
        Some(at_least.map_or(backoff, |asked| asked.max(backoff)))
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Name {
    #[serde(default)]
    service: String,
    #[serde(default)]
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireConfig {
    #[serde(default)]
    method_config: Vec<WireMethodConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMethodConfig {
    name: Vec<Name>,
    timeout: Option<String>,
    retry_policy: Option<WireRetryPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRetryPolicy {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<String>,
}

impl TryFrom<WireMethodConfig> for MethodConfig {
    type Error = ServiceConfigError;

    fn try_from(wire: WireMethodConfig) -> Result<Self, Self::Error> {
        if wire.name.iter().any(|name| name.service.is_empty() && !name.method.is_empty()) {
            return Err(ServiceConfigError("a name has a method but no service".into()));
        }
        Ok(Self {
            names: wire.name,
            timeout: wire.timeout.as_deref().map(|text| duration("timeout", text)).transpose()?,
            retry: wire.retry_policy.map(RetryPolicy::try_from).transpose()?,
        })
    }
}

impl TryFrom<WireRetryPolicy> for RetryPolicy {
    type Error = ServiceConfigError;

    fn try_from(wire: WireRetryPolicy) -> Result<Self, Self::Error> {
        if wire.max_attempts < 2 {
            return Err(ServiceConfigError("maxAttempts must be at least 2".into()));
        }
        if !wire.backoff_multiplier.is_finite() || wire.backoff_multiplier <= 0.0 {
            return Err(ServiceConfigError("backoffMultiplier must be greater than 0".into()));
        }
        if wire.retryable_status_codes.is_empty() {
            return Err(ServiceConfigError("retryableStatusCodes must not be empty".into()));
        }
        Ok(Self {
            attempts_max: wire.max_attempts.min(ATTEMPTS_MAX),
            initial_backoff: positive("initialBackoff", &wire.initial_backoff)?,
            max_backoff: positive("maxBackoff", &wire.max_backoff)?,
            backoff_multiplier: wire.backoff_multiplier,
            retryable_codes: wire.retryable_status_codes.iter().map(|name| code(name)).collect::<Result<_, _>>()?,
        })
    }
}

fn positive(field: &str, text: &str) -> Result<Duration, ServiceConfigError> {
    match duration(field, text)? {
        Duration::ZERO => Err(ServiceConfigError(format!("{field} must be greater than 0"))),
        some => Ok(some),
    }
}

/// The JSON form of google.protobuf.Duration: decimal seconds and an `s`.
fn duration(field: &str, text: &str) -> Result<Duration, ServiceConfigError> {
    text.strip_suffix('s')
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        .and_then(|number| number.parse().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| ServiceConfigError(format!("{field} must be seconds, as in \"0.1s\"")))
}

fn code(name: &str) -> Result<Code, ServiceConfigError> {
    Ok(match name {
        "CANCELLED" => Code::Cancelled,
        "UNKNOWN" => Code::Unknown,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "INTERNAL" => Code::Internal,
        "UNAVAILABLE" => Code::Unavailable,
        _ => return Err(ServiceConfigError(format!("retryableStatusCodes: {name} is not a code that can be retried"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::METHODS;

    #[test]
    fn the_shipped_config_covers_every_method_and_names_only_existing_ones() {
        let config = ServiceConfig::shipped().unwrap();
        for method in METHODS {
            let entry = config.method(method.path).unwrap_or_else(|| panic!("{} has no entry", method.path));
            let streams = method.streams_request || method.streams_response;
            assert_eq!(entry.timeout.is_none(), streams, "{}: unary calls have a deadline, streams none", method.path);
            assert_eq!(entry.retry.is_none(), method.streams_request, "{}", method.path);
            if let Some(retry) = &entry.retry {
                assert_eq!(retry.retryable_codes, [Code::Unavailable]);
            }
        }
        for name in config.methods.iter().flat_map(|entry| &entry.names) {
            let start = format!("/{}/{}", name.service, name.method);
            assert!(METHODS.iter().any(|method| method.path.starts_with(&start)), "{start} exists");
        }
    }

    #[test]
    fn the_most_exact_name_wins() {
        let config = ServiceConfig::from_json(
            r#"{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [
                {"name": [{}], "timeout": "1s"},
                {"name": [{"service": "a.B"}], "timeout": "2s"},
                {"name": [{"service": "a.B", "method": "C"}], "timeout": "3.5s"}]}"#,
        )
        .unwrap();
        let timeout = |path| config.method(path).and_then(|entry| entry.timeout);
        assert_eq!(timeout("/a.B/C"), Some(Duration::from_millis(3500)));
        assert_eq!(timeout("/a.B/D"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("/a.X/C"), Some(Duration::from_secs(1)));
    }

    #[test]
    fn values_outside_what_grpc_allows_are_refused() {
        let policy = |attempts: &str, backoff: &str, multiplier: &str, codes: &str| {
            ServiceConfig::from_json(&format!(
                r#"{{"methodConfig": [{{"name": [{{"service": "a.B"}}], "retryPolicy": {{"maxAttempts": {attempts},
                "initialBackoff": "{backoff}", "maxBackoff": "1s", "backoffMultiplier": {multiplier},
                "retryableStatusCodes": {codes}}}}}]}}"#
            ))
        };
        let kept = policy("9", "0.1s", "2", r#"["UNAVAILABLE"]"#).unwrap();
        assert_eq!(kept.methods[0].retry.as_ref().unwrap().attempts_max, 5);
        for wrong in [
            policy("1", "0.1s", "2", r#"["UNAVAILABLE"]"#),
            policy("3", "0s", "2", r#"["UNAVAILABLE"]"#),
            policy("3", "100ms", "2", r#"["UNAVAILABLE"]"#),
            policy("3", "-1s", "2", r#"["UNAVAILABLE"]"#),
            policy("3", "0.1s", "0", r#"["UNAVAILABLE"]"#),
            policy("3", "0.1s", "2", "[]"),
            policy("3", "0.1s", "2", r#"["NOT_FOUND"]"#),
            ServiceConfig::from_json("{"),
            ServiceConfig::from_json(r#"{"methodConfig": [{"name": [{"method": "C"}]}]}"#),
        ] {
            wrong.unwrap_err();
        }
    }

    #[test]
    fn backoff_grows_to_its_limit_and_the_server_can_ask_for_more() {
        let policy = RetryPolicy {
            attempts_max: 5,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(300),
            backoff_multiplier: 2.0,
            retryable_codes: vec![Code::Unavailable],
        };
        let wait = |attempt, chance| policy.wait(attempt, Code::Unavailable, None, chance).map(|wait| wait.as_millis());
        assert_eq!([1, 2, 3, 4].map(|attempt| wait(attempt, 0.5)), [Some(100), Some(200), Some(300), Some(300)]);
        assert_eq!(wait(5, 0.5), None);
        assert_eq!((wait(1, 0.0), wait(1, 1.0)), (Some(80), Some(120)));
        assert_eq!(policy.wait(1, Code::DeadlineExceeded, None, 0.5), None);
        assert_eq!(policy.wait(1, Code::Unavailable, Some(Duration::from_secs(2)), 0.5), Some(Duration::from_secs(2)));
    }
}
