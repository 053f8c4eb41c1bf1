//! A use case's failure as a gRPC status: the one place where a [`Class`] becomes a code. The same
//! failure is the same bytes, always: nothing in it comes from a request, and of an inner error only what a
//! use case made metadata of.

use std::collections::BTreeMap;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::pb::{BadRequest, RetryInfo, bad_request::FieldViolation};

use super::pb;
use crate::domain::error::{Class, Failure, InvalidInput, Reason};

/// The `domain` of every `google.rpc.ErrorInfo` of ours.
pub const ERROR_DOMAIN: &str = "ibyok";

/// The status of `failure`: its reason's message, and as details an ErrorInfo, a BadRequest where
/// fields are named, a RetryInfo where a retry helps.
#[must_use]
pub fn status_of(failure: &Failure) -> Status {
    let code = code_of(failure.reason.class());
    let message = failure.reason.message();
    let details = tonic_types::pb::Status { code: code.into(), message: message.into(), details: details(failure) };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// The status of `reason` alone.
#[must_use]
pub fn status_for(reason: Reason) -> Status {
    status_of(&Failure::new(reason))
}

/// The same of one item of many, as it stands in an answer.
#[must_use]
pub fn item_status_of(failure: &Failure) -> pb::ItemStatus {
    let violation = |field: &InvalidInput| pb::item_status::FieldViolation {
        field: field.field.clone().into_owned(),
        description: field.problem.clone().into_owned(),
    };
    pb::ItemStatus {
        code: code_of(failure.reason.class()).into(),
        reason: failure.reason.as_str().to_owned(),
        message: failure.reason.message().to_owned(),
        field_violations: failure.fields.iter().map(violation).collect(),
        metadata: failure.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        retry_delay: failure.retry_after.and_then(|wait| prost_types::Duration::try_from(wait).ok()),
    }
}

/// What a refusal of tonic itself says: a message that is too large, does not decode, or is
/// compressed.
#[must_use]
pub fn failure_of(refusal: &Status) -> Failure {
    match refusal.code() {
        Code::OutOfRange | Code::ResourceExhausted => Reason::MessageTooLarge.into(),
        Code::Unimplemented => Failure::invalid("grpc-encoding", "identity: messages are taken uncompressed"),
        // tonic answers what is no protobuf message, and no message at all, as an internal error.
        Code::Internal | Code::InvalidArgument | Code::Unknown => {
            Failure::invalid("request", "one protobuf message of this method's request type")
        }
        Code::Cancelled | Code::DeadlineExceeded => Reason::DeadlineExceeded.into(),
        _ => Reason::Internal.into(),
    }
}

fn code_of(class: Class) -> Code {
    match class {
        Class::InvalidArgument => Code::InvalidArgument,
        Class::Unauthenticated => Code::Unauthenticated,
        Class::PermissionDenied => Code::PermissionDenied,
        Class::NotFound => Code::NotFound,
        Class::FailedPrecondition => Code::FailedPrecondition,
        Class::Aborted => Code::Aborted,
        Class::AlreadyExists => Code::AlreadyExists,
        Class::ResourceExhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::DataLoss => Code::DataLoss,
        Class::DeadlineExceeded => Code::DeadlineExceeded,
        Class::Unimplemented => Code::Unimplemented,
        Class::Internal => Code::Internal,
    }
}

/// `google.rpc.ErrorInfo`, with its metadata in order: a hash map would answer the same failure in
/// different bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

fn details(failure: &Failure) -> Vec<prost_types::Any> {
    let metadata = failure.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let info = ErrorInfo { reason: failure.reason.as_str().into(), domain: ERROR_DOMAIN.into(), metadata };
    let mut details = vec![any("google.rpc.ErrorInfo", &info)];
    if !failure.fields.is_empty() {
        let violation = |field: &InvalidInput| FieldViolation {
            field: field.field.clone().into_owned(),
            description: field.problem.clone().into_owned(),
            ..FieldViolation::default()
        };
        let bad = BadRequest { field_violations: failure.fields.iter().map(violation).collect() };
        details.push(any("google.rpc.BadRequest", &bad));
    }
    if let Some(wait) = failure.retry_after {
        let retry_delay = prost_types::Duration::try_from(wait).ok();
        details.push(any("google.rpc.RetryInfo", &RetryInfo { retry_delay }));
    }
    details
}

fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn every_reason_has_a_code_a_text_and_an_error_info() {
        for reason in Reason::ALL {
            let status = status_for(*reason);
            assert_ne!(status.code(), Code::Ok);
            assert_ne!(status.code(), Code::Unknown);
            assert_eq!(status.message(), reason.message());
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.as_str(), "ibyok"));
        }
    }

    #[test]
    fn fields_metadata_and_the_wait_are_answered_and_the_cause_is_not() {
        let failure = Failure::invalid("key.labels", "at most 32")
            .with("scope", "keys:read")
            .retry_after(Duration::from_millis(1500))
            .caused_by("sk-inner");
        let status = status_of(&failure);
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((violation.field.as_str(), violation.description.as_str()), ("key.labels", "at most 32"));
        assert_eq!(details.error_info().unwrap().metadata["scope"], "keys:read");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1500)));
        assert!(!format!("{status:?}").contains("sk-inner"));
        assert!(!String::from_utf8_lossy(status.details()).contains("sk-inner"));
    }

    #[test]
    fn the_same_failure_is_the_same_bytes() {
        let status = || {
            let failure = Failure::new(Reason::ScopeMissing);
            status_of(&failure.with("b", "2").with("a", "1").with("d", "4").with("c", "3"))
        };
        for _ in 0..32 {
            assert_eq!(status().details(), status().details());
        }
    }
}
