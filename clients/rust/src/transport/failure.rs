//! How an attempt failed: as the retry rules see it, and as a status for the caller when there was
//! no answer.

use std::{collections::HashMap, error::Error, io, time::Duration};

use http::{HeaderMap, StatusCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::reason;

/// `ErrorInfo.domain` of reasons that this library gives.
const DOMAIN: &str = "ibyok-client";

/// A failed attempt, as the retry rules see it.
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) retry_after: Option<Duration>,
    /// What was said, for people.
    pub(super) said: String,
}

impl Failure {
    /// An answer that is a status alone, or none of a gRPC server.
    pub(super) fn of_response(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key("grpc-status") {
            return Self::of_trailers(headers);
        }
        let code = match status.as_u16() {
            200 => return None,
            // https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        Some(Self { code, retry_after: None, said: format!("HTTP status {}", status.as_u16()) })
    }

    /// The status at the end of an answer.
    pub(super) fn of_trailers(trailers: &HeaderMap) -> Option<Self> {
        let status = Status::from_header_map(trailers).filter(|status| status.code() != Code::Ok)?;
        let retry_after = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
        Some(Self { retry_after, ..Self::of_status(&status) })
    }

    /// Of no answer at all.
    pub(super) fn of_status(status: &Status) -> Self {
        let reason = status.get_error_details().error_info().map(|info| format!(" ({})", info.reason));
        let said = format!("{}{}", status.message(), reason.unwrap_or_default());
        Self { code: status.code(), retry_after: None, said }
    }
}

/// The call's deadline passed. `before`: what the last attempt said, if there was one that ended.
pub(super) fn deadline(before: Option<&str>) -> Status {
    let mut message = "the deadline passed before the vault answered".to_owned();
    if let Some(before) = before {
        message = format!("{message} again; the try before failed: {before}");
    }
    with_reason(Code::DeadlineExceeded, message, reason::DEADLINE_EXCEEDED)
}

/// The connection failed in some way. All of them are UNAVAILABLE, whatever HTTP/2 called them: the
/// call was safe to repeat or would not be here; except where TLS says that repeating is no use.
pub(super) fn connection(address: &str, error: &(dyn Error + 'static)) -> Status {
    let mut innermost = error;
    let mut is_tls = false;
    loop {
        if innermost.is::<tonic::TimeoutExpired>() {
            return deadline(None);
        }
        // rustls reports what it refuses, and alerts of the other side, as invalid data.
        is_tls |= innermost.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    let cause = innermost.to_string();
    if is_tls || cause.contains("fatal alert") || cause.contains("peer certificate") {
        let message = format!("no TLS connection to the vault at {address}: {cause}");
        return with_reason(Code::Unauthenticated, message, reason::TLS_REFUSED);
    }
    with_reason(
        Code::Unavailable,
        format!("no connection to the vault at {address}: {cause}"),
        reason::SERVER_UNREACHABLE,
    )
}

/// A status as the server would give it, with a reason of this library.
pub(super) fn with_reason(code: Code, message: impl Into<String>, reason: &str) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}
