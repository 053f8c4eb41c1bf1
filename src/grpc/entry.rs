//! What the edge knows of a connection and of a call on it, before any use case runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::layers::{Pace, Place, Rates};
use crate::{
    authz::{claims::Claims, methods::Method},
    domain::{
        audit::{Action, AuditDraft, Outcome},
        clock::{Clock, Timestamp},
        error::{Class, Failure, Reason},
        ids::OrgId,
        principal::Peer,
    },
    service::call::Call,
};

/// The longest user agent that is kept, in bytes.
const USER_AGENT_MAX: usize = 256;
/// The most that store and KMS work of one call may take.
const WORK_MAX: Duration = Duration::from_millis(2_500);
/// The most that a unary call, or the opening of a stream, may take.
pub(super) const CALL_MAX: Duration = Duration::from_secs(5);

/// A connection, as every call on it sees it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end.
    pub peer: Peer,
    /// Set when the certificate lost its trust while the connection was open.
    pub is_revoked: Arc<AtomicBool>,
    /// Cancelled when the connection is to end: its streams end then.
    pub ending: CancellationToken,
}

impl Connection {
    /// A connection from `peer`.
    #[must_use]
    pub fn new(peer: Peer) -> Self {
        Self { peer, is_revoked: Arc::default(), ending: CancellationToken::new() }
    }
    /// Refuses a certificate that expired or was revoked since the handshake.
    ///
    /// # Errors
    /// CERTIFICATE_REVOKED, CERTIFICATE_EXPIRED.
    pub fn check(&self, now: Timestamp) -> Result<(), Failure> {
        if self.is_revoked.load(Ordering::Acquire) {
            return Err(Reason::CertificateRevoked.into());
        }
        if self.peer.certificate.is_expired(now) {
            return Err(Reason::CertificateExpired.into());
        }
        Ok(())
    }
}

/// A call at the edge: what its headers and its token say.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its row in the authorization table.
    pub method: &'static Method,
    /// What its token says, once verified.
    pub claims: Option<Arc<Claims>>,
    /// Its connection.
    pub connection: Connection,
    /// At most 256 bytes.
    pub user_agent: String,
    /// 32 hex digits, or empty.
    pub trace_id: String,
    /// When it came in.
    pub time: Timestamp,
    /// What `grpc-timeout` says.
    pub timeout: Option<Duration>,
    /// Its place among those that run.
    pub(super) place: Option<Arc<Place>>,
    /// Admits the items of an import.
    pub(super) pace: Option<Pace>,
    /// Where it was counted; None where it has no token.
    pub(super) rates: Option<Arc<Rates>>,
    /// Whether another call was refused for the same rate a moment ago, and recorded.
    pub(super) is_repeated: bool,
}

impl Entry {
    /// Reads what `headers` say; none of it can refuse the call.
    #[must_use]
    pub fn new(method: &'static Method, connection: Connection, headers: &HeaderMap, time: Timestamp) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Self {
            method,
            claims: None,
            connection,
            user_agent: text("user-agent").chars().take(USER_AGENT_MAX).collect(),
            trace_id: trace_id(text("traceparent")).unwrap_or_default().to_owned(),
            time,
            timeout: timeout(text("grpc-timeout")),
            place: None,
            pace: None,
            rates: None,
            is_repeated: false,
        }
    }
    /// Counts `calls` more against its token's and its organization's rate.
    pub(super) fn charge(&self, calls: u32) {
        if let (Some(rates), Some(claims), 1..) = (&self.rates, &self.claims, calls) {
            rates.charge(claims, calls);
        }
    }
    /// How long the caller waits for an answer, or for a stream to open.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.timeout.unwrap_or(CALL_MAX).min(CALL_MAX)
    }
    /// The call, as a use case sees it.
    #[must_use]
    pub fn call(&self, clock: &dyn Clock, content: [u8; 32]) -> Call {
        Call {
            method: self.method,
            claims: self.claims.clone(),
            peer: self.connection.peer.clone(),
            user_agent: self.user_agent.clone(),
            trace_id: self.trace_id.clone(),
            time: self.time,
            deadline: clock.deadline(self.patience().min(WORK_MAX)),
            content,
        }
    }
}

/// Where refusals are recorded: the audit log, without waiting for it.
pub trait Recorder: Send + Sync + std::fmt::Debug {
    /// Takes the record of a refusal.
    fn note(&self, draft: AuditDraft);
    /// Counts a refusal in that organization that needs no record of its own.
    fn count(&self, org: &OrgId);
}

impl Recorder for crate::repository::audit::AuditLog {
    fn note(&self, draft: AuditDraft) {
        Self::note(self, draft);
    }
    fn count(&self, org: &OrgId) {
        Self::count(self, org);
    }
}

/// Records and logs that `entry` was refused. Bad input is no event; nor are calls that the server
/// sheds, ends or does not answer yet: they say nothing of the caller.
pub fn record(recorder: &dyn Recorder, clock: &dyn Clock, entry: &Entry, resource: String, failure: &Failure) {
    if matches!(failure.reason, Reason::Overloaded | Reason::Draining | Reason::DeadlineExceeded) {
        return;
    }
    log(entry, failure);
    // A flood without a verified token must not become a flood of records.
    let is_flood = failure.reason == Reason::RateLimited && entry.claims.is_none();
    if is_flood || failure.is_recorded() {
        return;
    }
    let outcome = match failure.reason.class() {
        // Who asks for a token is recorded whatever comes of it.
        Class::InvalidArgument | Class::Unimplemented if entry.method.action != Action::TokenExchange => return,
        Class::InvalidArgument
        | Class::Unimplemented
        | Class::Unauthenticated
        | Class::PermissionDenied
        | Class::NotFound
        | Class::FailedPrecondition
        | Class::Aborted
        | Class::AlreadyExists
        | Class::ResourceExhausted => Outcome::Denied,
        Class::Unavailable | Class::DataLoss | Class::DeadlineExceeded | Class::Internal => Outcome::Failed,
    };
    let call = entry.call(clock, [0; 32]);
    // A call without a verified token belongs to no organization but the vault's own.
    let org = call.org().cloned().unwrap_or_else(|_| OrgId::system());
    // Nor a flood of one organization: it would crowd the others' refusals out of the log's queue.
    if entry.is_repeated {
        return recorder.count(&org);
    }
    // A stream may have come in long ago.
    let draft = AuditDraft { time: clock.now(), ..call.draft(org, resource) };
    recorder.note(AuditDraft { outcome, reason: Some(failure.reason), ..draft });
}

/// Defects and outages are logged with their causes; refusals only when asked for.
fn log(entry: &Entry, failure: &Failure) {
    let (method, reason, trace_id) = (entry.method.path, failure.reason.as_str(), entry.trace_id.as_str());
    match failure.reason.class() {
        Class::Unavailable | Class::DataLoss | Class::DeadlineExceeded | Class::Internal => {
            tracing::warn!(method, reason, trace_id, cause = failure.causes(), "a call failed");
        }
        Class::FailedPrecondition => {
            tracing::debug!(method, reason, trace_id, cause = failure.causes(), "a call was refused");
        }
        _ => tracing::debug!(method, reason, trace_id, "a call was refused"),
    }
}

/// The trace id of a W3C `traceparent`.
fn trace_id(header: &str) -> Option<&str> {
    let mut parts = header.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_one = version.len() == 2 && trace.len() == 32 && is_hex(version) && is_hex(trace);
    (is_one && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

/// `grpc-timeout`: at most 8 digits and a unit.
fn timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3_600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_taken_only_from_a_good_traceparent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        for bad in ["", "00", "00-xyz-1-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
        assert_eq!(trace_id(&format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase())), None);
    }

    #[test]
    fn timeouts_are_read_with_every_unit() {
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "-1S", "1", "123456789S", "1X", "１S"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
