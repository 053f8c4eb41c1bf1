//! Whether each part of the server works, in words for people: what `ibyok status` prints.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use super::{Parts, audit::retention::ArchiveStatus, call::Call, session::Access};
use crate::domain::{
    clock::{Deadline, Timestamp},
    error::{Failure, Reason},
    ids::{OrgId, Uid},
    scope::Scope,
};

/// A server certificate that ends sooner than that is reported.
const CERTIFICATE_DAYS_MIN: i64 = 7;

/// The longest cause in the metadata of a refusal, in characters: metadata travel in headers.
const CAUSE_MAX: usize = 1_000;

/// One part, and whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `store`, `kms`, `audit`, `certificate`, and `archive` where there is one.
    pub name: &'static str,
    /// Whether it works.
    pub is_ok: bool,
    /// What was found; never a secret.
    pub detail: String,
    /// What to do where it does not work, or empty.
    pub hint: &'static str,
}

/// The state of the server.
#[derive(Clone, Debug)]
pub struct Status {
    /// The server's version.
    pub version: &'static str,
    /// Its parts.
    pub checks: Vec<Check>,
}

/// Looks at the server's parts.
#[derive(Clone, Debug)]
pub struct StatusService {
    parts: Parts,
    /// Whole seconds since the Unix epoch; the listener moves it when it loads a new certificate.
    certificate_not_after: Arc<AtomicI64>,
    archive: Option<ArchiveStatus>,
}

impl StatusService {
    /// On those parts; `certificate_not_after` is the end of the server's certificate, in seconds
    /// since the Unix epoch.
    #[must_use]
    pub fn new(parts: Parts, certificate_not_after: Arc<AtomicI64>) -> Self {
        Self { parts, certificate_not_after, archive: None }
    }
    /// Tells of the audit log's archive, too.
    #[must_use]
    pub fn with_archive(self, archive: Option<ArchiveStatus>) -> Self {
        Self { archive, ..self }
    }

    /// The state of the server now.
    ///
    /// # Errors
    /// The reasons of sessions; with STORE_UNAVAILABLE the metadata say what the store's trouble is. Any
    /// other part that does not work is an answer, no error.
    pub async fn status(&self, call: &Call) -> Result<Status, Failure> {
        let access = Access::Plain(Scope::Admin, format!("orgs/{}/server", OrgId::SYSTEM));
        self.parts.sessions.open(call, access, &[]).await.map_err(why_no_store)?;
        let (store, kms) = tokio::join!(self.parts.records.store().status(call.deadline), self.kms(call.deadline));
        let store = store.map_err(|cause| Failure::from(cause).causes());
        let mut checks = vec![
            check("store", store, "look at the database and the server's log"),
            check("kms", kms, "look at the KMS, its key and the server's rights"),
            self.audit(),
            self.certificate(self.parts.clock.now()),
        ];
        let archive = self.archive.as_ref().map(ArchiveStatus::now);
        checks.extend(archive.map(|found| check("archive", found, "look at audit.archive_dir and the server's log")));
        Ok(Status { version: env!("CARGO_PKG_VERSION"), checks })
    }

    /// What the KMS says of its primary, and whether it gives a data key: unwrapping is not tried, because
    /// each is the opening of a value in the KMS's own log.
    async fn kms(&self, deadline: Deadline) -> Result<String, String> {
        let found = self.parts.sealer.kms().status(deadline).await?;
        let probe = Uid::random(&*self.parts.entropy).map_err(|cause| cause.to_string())?;
        let given = self.parts.sealer.resolve(None, &OrgId::system(), &probe, deadline).await;
        given.map_err(|failure| format!("{found}, but it gives no data key: {}", failure.causes()))?;
        Ok(found)
    }
    fn audit(&self) -> Check {
        let is_writable = self.parts.audit.is_writable();
        let found = if is_writable { Ok("records are written") } else { Err("records can't be written") };
        check(
            "audit",
            found.map(str::to_owned).map_err(str::to_owned),
            "nothing is released until the store takes writes",
        )
    }

    fn certificate(&self, now: Timestamp) -> Check {
        let seconds_left = self.certificate_not_after.load(Ordering::Relaxed).saturating_sub(now.seconds());
        let days = seconds_left.div_euclid(86_400);
        let found = if days < CERTIFICATE_DAYS_MIN { Err(days) } else { Ok(days) };
        let say = |days| format!("the server's certificate is good for {days} more days");
        let found = found
            .map(say)
            .map_err(|days| if days < 0 { "the server's certificate has expired".to_owned() } else { say(days) });
        check("certificate", found, "put a new certificate in place: it is loaded without a restart")
    }
}

/// Whoever comes here holds a signed token with the scope for this call. That it is good still, only the
/// store could say; why it can't is all that is told.
fn why_no_store(failure: Failure) -> Failure {
    if failure.reason != Reason::StoreUnavailable {
        return failure;
    }
    let why: String = failure.causes().chars().take(CAUSE_MAX).collect();
    failure.with("store", why)
}

fn check(name: &'static str, found: Result<String, String>, hint: &'static str) -> Check {
    match found {
        Ok(detail) => Check { name, is_ok: true, detail, hint: "" },
        Err(detail) => Check { name, is_ok: false, detail, hint },
    }
}
