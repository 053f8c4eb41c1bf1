//! Why a call failed, decoded from the status and its google.rpc details. Display is one line: what
//! happened, and what to do. It never holds a secret: neither does what the server answers.

use std::{collections::BTreeMap, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    ConfigError, ServiceConfigError,
    pb::{ItemStatus, item_status::FieldViolation as FieldOfItem},
};

/// Reasons that this library itself gives; the server's stand beside its error table.
pub mod reason {
    /// No connection to the vault, or it was lost.
    pub const SERVER_UNREACHABLE: &str = "SERVER_UNREACHABLE";
    /// The TLS handshake failed: one side does not trust the other's certificate.
    pub const TLS_REFUSED: &str = "TLS_REFUSED";
    /// The call's own deadline passed before an answer.
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
    /// The token file can't be read, or does not hold a token.
    pub const TOKEN_FILE_UNUSABLE: &str = "TOKEN_FILE_UNUSABLE";
    /// The operating system gave no randomness for a request id.
    pub const NO_RANDOMNESS: &str = "NO_RANDOMNESS";
}

/// What can go wrong with this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The service config is not valid.
    #[error(transparent)]
    ServiceConfig(#[from] ServiceConfigError),
    /// A call was refused or got no answer.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The server's answer lacks what the contract promises.
    #[error("the answer lacks {0}: client and server are of different versions")]
    Contract(&'static str),
}

/// A call that was refused or got no answer.
#[derive(Clone, Debug)]
pub struct CallError {
    code: Code,
    message: String,
    reason: Option<String>,
    metadata: BTreeMap<String, String>,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
}

/// A field of the request that is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path as in the proto: `key.labels`.
    pub field: String,
    /// What it must be.
    pub description: String,
}

impl Error {
    /// The call that failed, if it was one.
    #[must_use]
    pub fn call(&self) -> Option<&CallError> {
        match self {
            Self::Call(error) => Some(error),
            _ => None,
        }
    }
    /// The stable UPPER_SNAKE_CASE reason to match on: `KEY_NOT_FOUND`.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.call().and_then(CallError::reason)
    }
    /// The gRPC code of a failed call.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.call().map(CallError::code)
    }
    /// The request's fields that are not valid.
    #[must_use]
    pub fn field_violations(&self) -> &[FieldViolation] {
        self.call().map(CallError::field_violations).unwrap_or_default()
    }
    /// When the server says a retry may help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.call().and_then(CallError::retry_after)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(CallError::from(&status)))
    }
}

impl CallError {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
    /// What happened, without the advice that Display adds.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
    /// `ErrorInfo.reason`
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
    /// `ErrorInfo.metadata`: with SCOPE_MISSING, which scope.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
    /// `BadRequest`
    #[must_use]
    pub fn field_violations(&self) -> &[FieldViolation] {
        &self.violations
    }
    /// `RetryInfo`
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
    /// What to do about it, where the message does not say so already.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match (self.reason.as_deref(), self.code) {
            (Some(reason::SERVER_UNREACHABLE), _) => "check that the vault runs and that IBYOK_ADDR is its address",
            (Some(reason::TLS_REFUSED), _) => {
                "check IBYOK_CACERT, IBYOK_CLIENT_CERT and IBYOK_CLIENT_KEY, and that the certificates have not expired"
            }
            (Some(reason::TOKEN_FILE_UNUSABLE | "TOKEN_MISSING" | "TOKEN_MALFORMED"), _) => {
                "point IBYOK_TOKEN_FILE at a file that holds a token of this vault"
            }
            (Some("TOKEN_REVOKED" | "TOKEN_USED_UP"), _) => "ask for a new token",
            (Some("TOKEN_CERTIFICATE_MISMATCH"), _) => "use the client certificate that the token was issued for",
            (Some("SCOPE_MISSING" | "RESOURCE_NOT_GRANTED" | "NETWORK_NOT_GRANTED"), _) => {
                "ask for a token whose grants cover it"
            }
            (_, Code::InvalidArgument | Code::AlreadyExists) => "change the request",
            (_, Code::Aborted) => "read the resource again and retry",
            (_, Code::ResourceExhausted) => "slow down",
            (_, Code::Unavailable | Code::DeadlineExceeded) => "try again later",
            (_, Code::DataLoss) => "tell whoever runs the vault: its store was changed or damaged",
            (_, Code::Internal | Code::Unknown) => "see the server's log",
            _ => return None,
        })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(self.code.description())?,
            message => f.write_str(message)?,
        }
        for violation in &self.violations {
            write!(f, "; {}: {}", violation.field, violation.description)?;
        }
        for (name, value) in &self.metadata {
            write!(f, "; {name}: {value}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        match (self.retry_after, self.advice()) {
            (Some(wait), _) => write!(f, "; try again in {:.1} s", wait.as_secs_f64()),
            (None, Some(advice)) => write!(f, "; {advice}"),
            (None, None) => Ok(()),
        }
    }
}
impl std::error::Error for CallError {}

impl From<&Status> for CallError {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            violations: details
                .bad_request()
                .map(|bad| bad.field_violations.as_slice())
                .unwrap_or_default()
                .iter()
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

impl From<ItemStatus> for CallError {
    /// One item of many, as its own call would have failed.
    fn from(status: ItemStatus) -> Self {
        let violation =
            |violation: FieldOfItem| FieldViolation { field: violation.field, description: violation.description };
        Self {
            code: Code::from_i32(status.code),
            message: status.message,
            reason: Some(status.reason).filter(|reason| !reason.is_empty()),
            metadata: status.metadata,
            violations: status.field_violations.into_iter().map(violation).collect(),
            retry_after: status.retry_delay.and_then(|wait| Duration::try_from(wait).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn error(code: Code, message: &str, details: ErrorDetails) -> Error {
        Status::with_error_details(code, message, details).into()
    }

    #[test]
    fn the_details_are_decoded() {
        let mut details = ErrorDetails::with_error_info(
            "SCOPE_MISSING",
            "ibyok",
            HashMap::from([("scope".to_owned(), "keys:read".to_owned())]),
        );
        details.add_bad_request_violation("key_id", "1 to 63 characters");
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let error = error(Code::PermissionDenied, "the token does not hold the scope", details);

        assert_eq!(error.reason(), Some("SCOPE_MISSING"));
        assert_eq!(error.code(), Some(Code::PermissionDenied));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
        assert_eq!(
            error.field_violations(),
            [FieldViolation { field: "key_id".into(), description: "1 to 63 characters".into() }]
        );
        assert_eq!(
            error.to_string(),
            "the token does not hold the scope; key_id: 1 to 63 characters; scope: keys:read (SCOPE_MISSING); \
             try again in 1.5 s"
        );
    }

    #[test]
    fn display_says_what_to_do() {
        let info = |reason: &str| ErrorDetails::with_error_info(reason, "ibyok", HashMap::new());
        let text = error(Code::Unavailable, "no connection", info(reason::SERVER_UNREACHABLE)).to_string();
        assert!(text.ends_with("check that the vault runs and that IBYOK_ADDR is its address"), "{text}");
        let bare: Error = Status::new(Code::Internal, "").into();
        assert_eq!(bare.to_string(), "Internal error; see the server's log");
        assert_eq!(bare.reason(), None);
    }
}
