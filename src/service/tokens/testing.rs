//! A token as it is looked at, for this room's tests.

use super::look::TokenView;
use crate::{
    authz::standing::Standing,
    domain::{
        clock::Timestamp,
        ids::{OrgId, Subject, TokenId},
        token::{Confirmation, TokenMode, TokenRecord},
    },
};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

/// One of `acme` that stands, and was used twice, at 500 s.
pub(super) fn view() -> TokenView {
    let record = TokenRecord {
        org: OrgId::parse("org", "acme").unwrap(),
        id: TokenId::parse("id", &"0".repeat(32)).unwrap(),
        subject: Subject::parse("subject", "a").unwrap(),
        description: String::new(),
        grants: vec![].into(),
        mode: TokenMode::Live,
        confirmation: Confirmation::Certificate([7; 32]),
        created: at(100),
        expires: at(1_000),
        max_expires: at(1_000),
        issued_by: "admin".to_owned(),
        signing_keys: vec![],
        org_generation: 1,
        subject_generation: 1,
        parent: None,
        uses_max: None,
        revoked: None,
        revision: 1,
    };
    TokenView { record, standing: Standing::Active, uses: 2, last_used: Some(at(500)) }
}
