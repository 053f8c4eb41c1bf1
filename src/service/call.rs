//! One call, as every use case sees it.

use std::sync::Arc;

use crate::{
    authz::{claims::Claims, methods::Method},
    domain::{
        audit::{AuditDraft, Outcome},
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::OrgId,
        principal::Peer,
    },
};

/// A call that came through the layers.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its row in the authorization table.
    pub method: &'static Method,
    /// What its token says; None only where the table asks for no token.
    pub claims: Option<Arc<Claims>>,
    /// Who called.
    pub peer: Peer,
    /// At most 256 bytes, or empty.
    pub user_agent: String,
    /// W3C trace id, 32 hex digits, or empty.
    pub trace_id: String,
    /// When it came in.
    pub time: Timestamp,
    /// By when store and KMS work must have ended: the caller's deadline, at most 2.5 s from now.
    pub deadline: Deadline,
    /// SHA-256 of the request message's canonical bytes; what a replay by request_id must repeat.
    pub content: [u8; 32],
}

impl Call {
    /// The token's claims.
    ///
    /// # Errors
    /// TOKEN_MISSING.
    pub fn claims(&self) -> Result<&Claims, Failure> {
        self.claims.as_deref().ok_or_else(|| Reason::TokenMissing.into())
    }
    /// The caller's organization.
    ///
    /// # Errors
    /// TOKEN_MISSING.
    pub fn org(&self) -> Result<&OrgId, Failure> {
        self.claims().map(|claims| &claims.org)
    }
    /// Refuses another organization's name with the bytes of absence, before anything is looked up.
    ///
    /// # Errors
    /// `absent`, when `org` is not the caller's.
    pub fn own(&self, org: &OrgId, absent: Reason) -> Result<(), Failure> {
        if self.org()? == org { Ok(()) } else { Err(absent.into()) }
    }
    /// The beginnings of this call's audit record: who, whence, when; ALLOWED, no resource yet.
    #[must_use]
    pub fn draft(&self, org: OrgId, resource: impl Into<String>) -> AuditDraft {
        let claims = self.claims.as_ref();
        AuditDraft {
            org,
            time: self.time,
            action: self.method.action,
            outcome: Outcome::Allowed,
            reason: None,
            resource: resource.into(),
            subject: claims.map(|claims| claims.subject.to_string()).unwrap_or_default(),
            token_id: claims.map(|claims| claims.token_id.to_string()).unwrap_or_default(),
            client_identity: self.peer.certificate.primary_identity().unwrap_or_default().to_owned(),
            client_address: self.peer.address.to_string(),
            user_agent: self.user_agent.clone(),
            purpose: String::new(),
            trace_id: self.trace_id.clone(),
            details: std::collections::BTreeMap::new(),
            revision: 0,
        }
    }
}
