//! Audit events, filters and progress.

use prost::Message as _;

use super::{parse_timestamp, timestamp};
use crate::{
    domain::{
        audit::{Action, Outcome},
        clock::Timestamp,
        error::{Failure, InvalidInput},
    },
    grpc::pb,
    service::audit::{
        Event, EventFilter, EventName, EventQuery, StreamItem, Streamed, Verification, leaf_hash, outcome_number,
    },
};

/// The query of a listing or a stream; `token` goes on where another answer ended.
pub(in crate::grpc) fn event_query(
    parent: String,
    filter: Option<pb::AuditFilter>,
    token: String,
) -> Result<EventQuery, InvalidInput> {
    let filter = filter.unwrap_or_default();
    let filter_bytes = filter.encode_to_vec();
    Ok(EventQuery { parent, filter: event_filter(filter)?, filter_bytes, token })
}

fn event_filter(filter: pb::AuditFilter) -> Result<EventFilter, InvalidInput> {
    let time = |field, time: Option<prost_types::Timestamp>| time.map(|time| parse_timestamp(field, time)).transpose();
    let network = Some(filter.client_cidr.as_str()).filter(|text| !text.is_empty());
    Ok(EventFilter {
        start: time("filter.start_time", filter.start_time)?,
        end: time("filter.end_time", filter.end_time)?,
        actions: filter.actions.iter().map(|text| parse_action(text)).collect::<Result<_, _>>()?,
        outcomes: filter.outcomes.iter().map(|number| parse_outcome(*number)).collect::<Result<_, _>>()?,
        resource_prefix: filter.resource_prefix,
        subject: filter.subject,
        token_id: filter.token_id,
        client_identity: filter.client_identity,
        client_network: network.map(parse_network).transpose()?,
        has_signals: !filter.signals.is_empty(),
    })
}

fn parse_action(text: &str) -> Result<Action, InvalidInput> {
    let action = Action::ALL.iter().find(|action| action.as_str() == text);
    action.copied().ok_or_else(|| InvalidInput::new("filter.actions", "an action such as key.retrieve"))
}

fn parse_outcome(number: i32) -> Result<Outcome, InvalidInput> {
    [Outcome::Allowed, Outcome::Denied, Outcome::Failed]
        .into_iter()
        .find(|outcome| outcome_number(*outcome) == number)
        .ok_or_else(|| InvalidInput::new("filter.outcomes", "ALLOWED, DENIED or FAILED"))
}

fn parse_network(text: &str) -> Result<ipnet::IpNet, InvalidInput> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from);
    let network = text.parse().ok().or_else(address);
    network.ok_or_else(|| InvalidInput::new("filter.client_cidr", "a network such as 10.0.0.0/8"))
}

pub(in crate::grpc) fn event_name(
    which: Option<pb::get_audit_event_request::Which>,
    chain: String,
) -> Result<EventName, Failure> {
    use pb::get_audit_event_request::Which;
    match which {
        Some(Which::Id(id)) => Ok(EventName::Id(id)),
        Some(Which::Sequence(sequence)) => {
            let sequence = u64::try_from(sequence).map_err(|_| Failure::invalid("sequence", "not negative"))?;
            Ok(EventName::Place(chain, sequence))
        }
        None => Err(Failure::invalid("id", "an id, or a sequence and its chain")),
    }
}

pub(in crate::grpc) fn event(event: Event) -> pb::AuditEvent {
    let time = event.time();
    let Event { chain, sequence, position, record, bytes } = event;
    pb::AuditEvent {
        id: format!("{chain}.{sequence}"),
        chain: chain.to_string(),
        sequence: number(sequence),
        time: Some(timestamp(time)),
        action: record.action,
        outcome: record.outcome,
        reason: record.reason,
        resource: record.resource,
        subject: record.subject,
        token_id: record.token_id,
        client_identity: record.client_identity,
        client_address: record.client_address,
        user_agent: record.user_agent,
        purpose: record.purpose,
        trace_id: record.trace_id,
        details: record.details,
        leaf_hash: leaf_hash(&bytes).to_vec(),
        signals: Vec::new(),
        record: bytes,
        position: number(position),
    }
}

pub(in crate::grpc) fn streamed(streamed: Streamed) -> pb::StreamAuditEventsResponse {
    use pb::stream_audit_events_response::Item;
    let heartbeat = |time: Timestamp| Item::Heartbeat(timestamp(time));
    let item = match streamed.item {
        StreamItem::Event(found) => Item::Event(event(*found)),
        StreamItem::Heartbeat(time) => heartbeat(time),
    };
    pb::StreamAuditEventsResponse { item: Some(item), resume_token: streamed.resume_token }
}

pub(in crate::grpc) fn verification(verification: Verification) -> pb::VerifyAuditLogResponse {
    pb::VerifyAuditLogResponse {
        checked: number(verification.checked),
        total: number(verification.total),
        complete: verification.is_complete,
        intact: verification.is_intact,
        first_bad_sequence: number(verification.bad_sequence),
        problem: verification.problem,
        first_bad_chain: verification.bad_chain,
        first_position: number(verification.first_position),
        archived: number(verification.archived),
    }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_parsed_or_refused_by_field() {
        let filter = pb::AuditFilter {
            actions: vec!["key.retrieve".into()],
            outcomes: vec![pb::AuditOutcome::Denied.into()],
            client_cidr: "10.0.0.0/8".into(),
            signals: vec!["*".into()],
            ..pb::AuditFilter::default()
        };
        let query = event_query(String::new(), Some(filter.clone()), String::new()).unwrap();
        assert_eq!(query.filter.actions, [Action::KeyRetrieve]);
        assert_eq!(query.filter.outcomes, [Outcome::Denied]);
        assert!(query.filter.client_network.is_some() && query.filter.has_signals);
        assert_eq!(query.filter_bytes, filter.encode_to_vec());

        let base = pb::AuditFilter::default;
        let bad_time = prost_types::Timestamp { seconds: 0, nanos: -1 };
        for (filter, field) in [
            (pb::AuditFilter { actions: vec!["key.steal".into()], ..base() }, "filter.actions"),
            (pb::AuditFilter { outcomes: vec![0], ..base() }, "filter.outcomes"),
            (pb::AuditFilter { client_cidr: "ten".into(), ..base() }, "filter.client_cidr"),
            (pb::AuditFilter { start_time: Some(bad_time), ..base() }, "filter.start_time"),
        ] {
            assert_eq!(event_query(String::new(), Some(filter), String::new()).unwrap_err().field, field);
        }
    }

    #[test]
    fn an_event_is_named_one_way_or_the_other() {
        use pb::get_audit_event_request::Which;
        assert_eq!(event_name(Some(Which::Id("c.1".into())), String::new()).unwrap(), EventName::Id("c.1".into()));
        assert_eq!(event_name(Some(Which::Sequence(7)), "c".into()).unwrap(), EventName::Place("c".into(), 7));
        assert!(event_name(Some(Which::Sequence(-1)), "c".into()).is_err());
        assert!(event_name(None, "c".into()).is_err());
    }
}
