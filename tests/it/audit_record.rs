//! The audit log's own record type against the generated one: the same bytes.

use std::collections::BTreeMap;

use ibyok::{
    domain::audit::Outcome,
    grpc::pb,
    repository::audit::{AuditRecord, RecordTime, outcome_number},
};
use prost::Message as _;

#[test]
fn a_record_has_the_bytes_of_the_contract() {
    let details = BTreeMap::from([("provider".to_owned(), "openai".to_owned()), ("version".into(), "7".into())]);
    let ours = AuditRecord {
        salt: vec![7; 16],
        org: "acme".into(),
        time: Some(RecordTime { seconds: 1_700_000_000, nanos: 123_456_000 }),
        action: "key.retrieve".into(),
        outcome: outcome_number(Outcome::Denied),
        reason: "KEY_DISABLED".into(),
        resource: "orgs/acme/keys/openai-prod".into(),
        subject: "svc".into(),
        token_id: "t".repeat(32),
        client_identity: "spiffe://acme/svc".into(),
        client_address: "127.0.0.1".into(),
        user_agent: "agent/1".into(),
        purpose: "chat".into(),
        trace_id: "a".repeat(32),
        details: details.clone(),
        revision: 42,
    };
    let wire = pb::AuditRecord {
        salt: vec![7; 16],
        org: "acme".into(),
        time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 }),
        action: "key.retrieve".into(),
        outcome: pb::AuditOutcome::Denied.into(),
        reason: "KEY_DISABLED".into(),
        resource: "orgs/acme/keys/openai-prod".into(),
        subject: "svc".into(),
        token_id: "t".repeat(32),
        client_identity: "spiffe://acme/svc".into(),
        client_address: "127.0.0.1".into(),
        user_agent: "agent/1".into(),
        purpose: "chat".into(),
        trace_id: "a".repeat(32),
        details,
        revision: 42,
    };
    assert_eq!(ours.encode_to_vec(), wire.encode_to_vec());
}

#[test]
fn outcomes_have_the_numbers_of_the_contract() {
    for (outcome, wire) in [
        (Outcome::Allowed, pb::AuditOutcome::Allowed),
        (Outcome::Denied, pb::AuditOutcome::Denied),
        (Outcome::Failed, pb::AuditOutcome::Failed),
    ] {
        assert_eq!(outcome_number(outcome), i32::from(wire));
    }
}
