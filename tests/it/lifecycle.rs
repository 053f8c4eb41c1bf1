//! The main path end to end, as a client of the wire sees it: real TLS, real tokens, the generated
//! client, a clock that is moved by hand.

use std::time::Duration;

use ibyok::grpc::pb;
use tonic::{Code, Status};

use crate::{
    harness::{Caller, ORG, Vault, reason, within},
    tamper::stock::{Raw, create, grant, openai, retrieve, rotate},
};

mod attenuation;
mod keys;
mod kinds;
mod races;
mod tokens;

const HOUR: Duration = Duration::from_secs(3_600);

fn secret(text: &str) -> Option<pb::SecretValue> {
    Some(pb::SecretValue { text: text.to_owned() })
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Code and reason of a refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), reason(&status))
}

/// The value that the caller is handed for `name`.
async fn value(caller: &Caller, name: &str) -> String {
    retrieve(caller, name).await.unwrap().secret.unwrap().text.clone()
}

async fn key(caller: &Caller, id: &str) -> pb::Key {
    let request = pb::GetKeyRequest { name: id.to_owned() };
    caller.keys().get_key(request).await.unwrap().into_inner().key.unwrap()
}

fn version(id: &str, version: impl std::fmt::Display) -> String {
    format!("orgs/{ORG}/keys/{id}/versions/{version}")
}

/// The organization's events with that action, newest first.
async fn events(caller: &Caller, action: &str) -> Vec<pb::AuditEvent> {
    let filter = pb::AuditFilter { actions: vec![action.to_owned()], ..Default::default() };
    let request = pb::ListAuditEventsRequest { filter: Some(filter), page_size: 1_000, ..Default::default() };
    caller.audit().list_audit_events(request).await.unwrap().into_inner().events
}

/// The newest of them, once there is one.
async fn first_event(caller: &Caller, action: &str) -> pb::AuditEvent {
    within(action, async {
        loop {
            if let Some(event) = events(caller, action).await.into_iter().next() {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
