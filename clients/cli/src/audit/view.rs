//! Audit events as JSON and as text.

use ibyok_client::pb;
use serde_json::{Value, json};

use crate::{output::Table, time};

pub(super) fn event_json(event: &pb::AuditEvent) -> Value {
    json!({
        "id": event.id,
        "chain": event.chain,
        "sequence": event.sequence,
        "position": event.position,
        "time": time::json(&event.time),
        "action": event.action,
        "outcome": outcome(event),
        "reason": event.reason,
        "resource": event.resource,
        "subject": event.subject,
        "token_id": event.token_id,
        "client_identity": event.client_identity,
        "client_address": event.client_address,
        "user_agent": event.user_agent,
        "purpose": event.purpose,
        "trace_id": event.trace_id,
        "details": event.details,
        "signals": event.signals,
        "leaf_hash": hex(&event.leaf_hash),
    })
}

fn outcome(event: &pb::AuditEvent) -> &'static str {
    match event.outcome() {
        pb::AuditOutcome::Allowed => "allowed",
        pb::AuditOutcome::Denied => "denied",
        pb::AuditOutcome::Failed => "failed",
        pb::AuditOutcome::Unspecified => "unspecified",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `denied SCOPE_MISSING`, or what unusual thing was seen.
fn verdict(event: &pb::AuditEvent) -> String {
    let words = [outcome(event), event.reason.as_str()].into_iter().chain(event.signals.iter().map(String::as_str));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(super) fn table(events: &[pb::AuditEvent]) -> Table {
    let mut table = Table::new(["TIME", "ACTION", "OUTCOME", "RESOURCE", "SUBJECT", "FROM", "PURPOSE"]);
    for event in events {
        table.row(vec![
            event.time.map(|time| time.to_string()).unwrap_or_default(),
            event.action.clone(),
            verdict(event),
            event.resource.clone(),
            event.subject.clone(),
            event.client_address.clone(),
            event.purpose.clone(),
        ]);
    }
    table
}

/// One event on one line, for a log that goes on.
pub(super) fn line(event: &pb::AuditEvent) -> String {
    let purpose = if event.purpose.is_empty() { String::new() } else { format!("  \"{}\"", event.purpose) };
    format!(
        "{}  {:<18} {:<9} {}  {}  {}{purpose}",
        event.time.map(|time| time.to_string()).unwrap_or_default(),
        event.action,
        verdict(event),
        event.resource,
        event.subject,
        event.client_address,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> pb::AuditEvent {
        pb::AuditEvent {
            chain: "c1".into(),
            sequence: 7,
            id: "c1.7".into(),
            time: Some(prost_types::Timestamp { seconds: 0, nanos: 250_000_000 }),
            action: "key.retrieve".into(),
            outcome: pb::AuditOutcome::Denied.into(),
            reason: "KEY_DISABLED".into(),
            resource: "orgs/dev/keys/a".into(),
            subject: "billing".into(),
            client_address: "127.0.0.1".into(),
            leaf_hash: vec![0xab, 1],
            ..Default::default()
        }
    }

    #[test]
    fn json_names_are_stable() {
        let json = event_json(&event());
        assert_eq!((&json["outcome"], &json["leaf_hash"]), (&"denied".into(), &"ab01".into()));
        assert_eq!((&json["id"], &json["time"]), (&"c1.7".into(), &"1970-01-01T00:00:00.250Z".into()));
    }

    #[test]
    fn people_see_why_something_was_denied() {
        assert!(table(&[event()]).lines()[1].contains("  denied KEY_DISABLED  orgs/dev/keys/a  billing"));
        assert_eq!(
            line(&event()),
            "1970-01-01T00:00:00.250Z  key.retrieve       denied KEY_DISABLED orgs/dev/keys/a  billing  127.0.0.1"
        );
    }
}
