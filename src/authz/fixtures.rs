//! A token, its records and its holder, for this room's tests.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use super::{claims::Claims, permit::Evidence};
use crate::domain::{
    clock::Timestamp,
    ids::{OrgId, Subject, TokenId},
    pattern::ResourcePattern,
    principal::{ClientCertificate, Peer},
    scope::Scope,
    secret::SecretKey,
    token::{Confirmation, Epoch, Grant, SubjectRecord, TokenMode, TokenRecord},
};

pub(super) const IDENTITY: &str = "spiffe://acme.org/billing";
pub(super) const KID: &str = "k1";

pub(super) fn acme() -> OrgId {
    OrgId::parse("org", "acme").unwrap()
}
pub(super) fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}
pub(super) fn token_id(n: u8) -> TokenId {
    TokenId::parse("id", &format!("{n:032x}")).unwrap()
}
pub(super) fn pattern(text: &str) -> ResourcePattern {
    ResourcePattern::parse("resources", text, &acme()).unwrap()
}
pub(super) fn seed(n: u8) -> SecretKey {
    SecretKey::new([n; 32])
}
pub(super) fn public(n: u8) -> [u8; 32] {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap();
    pair.public_key().as_ref().try_into().unwrap()
}
pub(super) fn keys() -> Vec<(String, [u8; 32])> {
    vec![(KID.to_owned(), public(1)), ("k2".to_owned(), public(2))]
}
pub(super) fn peer() -> Peer {
    Peer {
        certificate: Arc::new(ClientCertificate {
            identities: vec![IDENTITY.to_owned(), "billing.acme.org".to_owned()],
            sha256: [7; 32],
            not_after: seconds(1_000_000),
        }),
        address: "10.1.2.3".parse().unwrap(),
    }
}
pub(super) fn grant() -> Grant {
    Grant {
        scopes: vec![Scope::KeysRead, Scope::KeysList],
        resources: vec![pattern("orgs/acme/keys/*")],
        labels: [].into(),
        environments: vec![],
        client_cidrs: vec![],
    }
}

/// All that a call is admitted on.
#[derive(Clone)]
pub(super) struct Case {
    pub claims: Claims,
    pub token: Option<Arc<TokenRecord>>,
    pub parent: Option<TokenRecord>,
    pub subject: Option<SubjectRecord>,
    pub epoch: Epoch,
    pub peer: Peer,
    pub now: Timestamp,
}

impl Case {
    /// A token with these grants, issued at 1000 s, good until 4600 s; it is 2000 s.
    pub(super) fn with(grants: Vec<Grant>) -> Self {
        let token = TokenRecord {
            org: acme(),
            id: token_id(1),
            subject: Subject::parse("subject", "billing").unwrap(),
            description: String::new(),
            grants: grants.into(),
            mode: TokenMode::Live,
            confirmation: Confirmation::Identity(IDENTITY.to_owned()),
            created: seconds(1000),
            expires: seconds(4600),
            max_expires: seconds(90_000),
            issued_by: "admin".to_owned(),
            signing_keys: vec![KID.to_owned()],
            org_generation: 3,
            subject_generation: 5,
            parent: None,
            uses_max: None,
            revoked: None,
            revision: 1,
        };
        Self {
            claims: claims_of(&token),
            token: Some(token.into()),
            parent: None,
            subject: Some(SubjectRecord { generation: 5, revoked: None, revision: 1 }),
            epoch: Epoch { generation: 3, issued_before: seconds(500), revoked: None, revision: 1 },
            peer: peer(),
            now: seconds(2000),
        }
    }
    /// One whose token was exchanged from another.
    pub(super) fn child() -> Self {
        let mut case = Self::with(vec![grant()]);
        let token = case.record();
        let parent = TokenRecord { id: token_id(2), ..token.clone() };
        token.parent = Some(token_id(2));
        case.parent = Some(parent);
        case.claims.parent = Some(token_id(2));
        case
    }
    /// The token's record, to be changed.
    pub(super) fn record(&mut self) -> &mut TokenRecord {
        Arc::make_mut(self.token.as_mut().unwrap())
    }
    pub(super) fn evidence(&self) -> Evidence<'_> {
        Evidence {
            claims: &self.claims,
            token: self.token.as_ref(),
            parent: self.parent.as_ref(),
            subject: self.subject.as_ref(),
            epoch: &self.epoch,
            peer: &self.peer,
            now: self.now,
        }
    }
}

pub(super) fn claims_of(token: &TokenRecord) -> Claims {
    Claims {
        org: token.org.clone(),
        subject: token.subject.clone(),
        token_id: token.id.clone(),
        parent: token.parent.clone(),
        mode: token.mode,
        scopes: token.grants.iter().flat_map(|grant| grant.scopes.clone()).collect(),
        grants_sha256: *token.grants.sha256(),
        confirmation: token.confirmation.clone(),
        issued: token.created,
        not_before: token.created,
        expires: token.expires,
        is_use_limited: token.uses_max.is_some(),
        signing_key: KID.to_owned(),
    }
}
