//! What is easy to forget: fields of the contract whose effect shows only from another network, at
//! the same moment, again and again, or at the very end of a life.

mod life;
mod network;
mod uses;
mod versions;

use ibyok::grpc::pb;
use tonic::{Code, Status};

use crate::{
    harness::{Caller, ORG, Vault, reason},
    tamper::stock::{create, grant, openai, retrieve, rotate},
};

/// Code and reason of a refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), reason(&status))
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// The organization's events with that action, of every page.
async fn events(caller: &Caller, action: &str) -> Vec<pb::AuditEvent> {
    let filter = pb::AuditFilter { actions: vec![action.to_owned()], ..Default::default() };
    let request = pb::ListAuditEventsRequest { filter: Some(filter), page_size: 1_000, ..Default::default() };
    caller.audit_events(request).await
}

fn allowed(events: &[pb::AuditEvent]) -> usize {
    events.iter().filter(|event| event.outcome() == pb::AuditOutcome::Allowed).count()
}
