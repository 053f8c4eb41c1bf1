//! What the tests of this room share.

use std::sync::{Arc, Mutex};

use super::entry::{Connection, Recorder};
use crate::{
    authz::claims::Claims,
    domain::{
        audit::AuditDraft,
        clock::{Clock as _, SystemClock, Timestamp},
        ids::{OrgId, Subject, TokenId},
        principal::{ClientCertificate, Peer},
        scope::Scope,
        token::TokenMode,
    },
};

/// Keeps what is noted.
#[derive(Debug, Default)]
pub(super) struct Notes(pub(super) Mutex<Vec<AuditDraft>>, pub(super) Mutex<Vec<OrgId>>);

impl Recorder for Notes {
    fn note(&self, draft: AuditDraft) {
        self.0.lock().unwrap().push(draft);
    }
    fn count(&self, org: &OrgId) {
        self.1.lock().unwrap().push(org.clone());
    }
}

impl Notes {
    pub(super) fn take(&self) -> Vec<AuditDraft> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub(super) fn connection(not_after: Timestamp) -> Connection {
    let certificate = ClientCertificate { identities: vec!["svc.test".into()], sha256: [7; 32], not_after };
    Connection::new(Peer { certificate: Arc::new(certificate), address: [127, 0, 0, 1].into() })
}

pub(super) fn later() -> Timestamp {
    SystemClock.now().plus(std::time::Duration::from_secs(3_600))
}

pub(super) fn claims(scopes: &[Scope]) -> Claims {
    Claims {
        org: OrgId::parse("org", "acme").unwrap(),
        subject: Subject::parse("sub", "svc").unwrap(),
        token_id: TokenId::parse("jti", &"a".repeat(32)).unwrap(),
        parent: None,
        mode: TokenMode::Live,
        scopes: scopes.to_vec(),
        grants_sha256: [0; 32],
        confirmation: crate::domain::token::Confirmation::Certificate([7; 32]),
        not_before: Timestamp::default(),
        is_use_limited: false,
        issued: Timestamp::default(),
        expires: later(),
        signing_key: "k".into(),
    }
}
