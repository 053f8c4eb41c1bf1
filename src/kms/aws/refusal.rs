//! What AWS KMS says when it gives no key, and what it means for the port. Nothing of it is a
//! secret: names, codes, and sentences about keys and roles, for the log.

use std::{error::Error, fmt};

use aws_sdk_kms::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};

use super::{THROTTLED_PAUSE, sent::Sent};
use crate::{
    aws::{credentials_problem, is_of_credentials, one_line},
    kms::KmsError,
};

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    said: Said,
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No answer in time, no connection, or an error within the KMS.
    Down,
    /// Fewer calls are asked for.
    Throttled,
    /// There are no credentials, or they are not good, or no more.
    Credentials,
    /// The key is disabled, pending deletion or import, or cut off from its key store.
    Disabled,
    /// There is no such key in this region.
    NoSuchKey,
    /// The policies of the key or of the server's role don't allow it.
    Denied,
    /// The key is of a kind that wraps no data keys.
    Unsuited,
    /// It takes no such call, or is no KMS of AWS.
    Strange,
    /// The ciphertext is not of this key and context.
    Rejected,
}

/// What was said, for the log.
#[derive(Debug)]
struct Said {
    operation: &'static str,
    region: String,
    code: String,
    text: String,
    request_id: String,
}

/// The most of AWS's own sentence that is kept.
const TEXT_MAX: usize = 400;

impl Refusal {
    pub(super) fn new(kind: Kind, operation: &'static str, region: &str, text: &str) -> Self {
        let said = Said {
            operation,
            region: region.to_owned(),
            code: String::new(),
            text: one_line(text).chars().take(TEXT_MAX).collect(),
            request_id: String::new(),
        };
        Self { kind, said }
    }
    pub(super) fn of<E>(error: &SdkError<E>, operation: &'static str, region: &str) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(problem) = credentials_problem(error) {
            let mut refusal = Self::new(Kind::Credentials, operation, region, "");
            // It is bounded already, and what it says last matters as much as what it says first.
            refusal.said.text = problem;
            return refusal;
        }
        let code = error.code().unwrap_or_default();
        let (kind, text) = match error {
            SdkError::ServiceError(refused) => {
                let (status, message) = (refused.raw().status().as_u16(), error.message().unwrap_or_default());
                let is_bare = code.is_empty() && message.is_empty();
                let text = if is_bare { format!("HTTP status {status}") } else { message.to_owned() };
                (of_code(code, status), text)
            }
            SdkError::TimeoutError(_) => (Kind::Down, "no answer in time".to_owned()),
            SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
                (Kind::Down, format!("no connection: {}", innermost(error)))
            }
            _ => (Kind::Down, innermost(error)),
        };
        let mut refusal = Self::new(kind, operation, region, &text);
        refusal.said.code = code.to_owned();
        refusal.said.request_id = error.request_id().unwrap_or_default().to_owned();
        refusal
    }
    /// The same, when it is known whether the call was sent: what did not answer was else the credentials.
    pub(super) fn knowing(self, sent: &Sent) -> Self {
        if self.kind != Kind::Down || sent.is_sent() {
            return self;
        }
        let said = Said { text: "no credentials came in time".to_owned(), ..self.said };
        Self { kind: Kind::Credentials, said }
    }
    /// What it is about, of all that the same key may be refused for; None: it is no matter of the key.
    pub(super) fn matter(&self) -> Option<String> {
        match self.kind {
            Kind::Disabled | Kind::NoSuchKey | Kind::Denied | Kind::Unsuited | Kind::Strange => {
                Some(format!("{} {}", self.said.operation, self.said.code))
            }
            Kind::Down | Kind::Throttled | Kind::Credentials | Kind::Rejected => None,
        }
    }
    /// What was said, in one line.
    pub(super) fn said(&self) -> String {
        self.said.to_string()
    }
    /// AWS's own sentence, or its code where it said no more.
    pub(super) fn text(&self) -> &str {
        if self.said.text.is_empty() { &self.said.code } else { &self.said.text }
    }
}

impl From<Refusal> for KmsError {
    fn from(refusal: Refusal) -> Self {
        match refusal.kind {
            Kind::Down | Kind::Credentials => Self::Unavailable(refusal.said.into()),
            Kind::Throttled => Self::Throttled { retry_after: THROTTLED_PAUSE },
            Kind::Disabled => Self::KeyDisabled(refusal.said.into()),
            Kind::NoSuchKey | Kind::Denied | Kind::Strange => Self::KeyRefused(refusal.said.into()),
            Kind::Unsuited => Self::KeyUnsuited(refusal.text().to_owned()),
            Kind::Rejected => Self::Rejected,
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.operation, self.region)?;
        for (before, part) in [(": ", &self.code), (": ", &self.text), (", request ", &self.request_id)] {
            if !part.is_empty() {
                write!(f, "{before}{part}")?;
            }
        }
        Ok(())
    }
}
impl Error for Said {}

/// Codes: <https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html> and the errors of
/// each call there. One that is not known is the KMS's trouble if its status says so, and else ours.
fn of_code(code: &str, status: u16) -> Kind {
    match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "RequestThrottled"
        | "SlowDown" => Kind::Throttled,
        "DisabledException" | "KMSInvalidStateException" => Kind::Disabled,
        "NotFoundException" | "InvalidArnException" => Kind::NoSuchKey,
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => Kind::Denied,
        "InvalidKeyUsageException" | "UnsupportedOperationException" => Kind::Unsuited,
        "IncorrectKeyException" | "InvalidCiphertextException" => Kind::Rejected,
        "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "KMSInternalException"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Kind::Down,
        _ if is_of_credentials(code) => Kind::Credentials,
        _ if status == 429 => Kind::Throttled,
        _ if status >= 500 => Kind::Down,
        _ => Kind::Strange,
    }
}

/// The last cause, which says most.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_not_known_is_the_kmss_trouble_if_its_status_says_so() {
        assert_eq!(of_code("Newcomer", 500), Kind::Down);
        assert_eq!(of_code("", 503), Kind::Down);
        assert_eq!(of_code("", 429), Kind::Throttled);
        assert_eq!(of_code("Newcomer", 400), Kind::Strange);
    }

    #[test]
    fn what_was_said_is_one_short_line() {
        let refusal = Refusal::new(Kind::Denied, "Decrypt", "eu-west-1", &format!("a\nb{}", "c".repeat(2_000)));
        let said = refusal.said();
        assert!(said.starts_with("Decrypt in eu-west-1: a; bc") && said.len() < 500 && !said.contains('\n'), "{said}");
    }
}
