//! Which events a caller wants to see.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Event, outcome_number};
use crate::domain::{
    audit::{Action, Outcome},
    clock::Timestamp,
};

/// All of it must hold of an event; what is empty holds of every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// At this time or later.
    pub start: Option<Timestamp>,
    /// Before this time.
    pub end: Option<Timestamp>,
    /// One of these was done or tried.
    pub actions: Vec<Action>,
    /// It ended in one of these ways.
    pub outcomes: Vec<Outcome>,
    /// The resource's full name begins so.
    pub resource_prefix: String,
    /// The token's subject.
    pub subject: String,
    /// The token's id.
    pub token_id: String,
    /// The identity of the client's certificate.
    pub client_identity: String,
    /// The network that the client's address is in.
    pub client_network: Option<IpNet>,
    /// Whether only events are wanted that bear signals. No event bears one yet.
    pub has_signals: bool,
}

impl EventFilter {
    pub(super) fn matches(&self, event: &Event) -> bool {
        let record = &event.record;
        let time = event.time();
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        self.start.is_none_or(|start| time >= start)
            && self.end.is_none_or(|end| time < end)
            && (self.actions.is_empty() || self.actions.iter().any(|action| action.as_str() == record.action))
            && (self.outcomes.is_empty() || self.outcomes.iter().any(|of| outcome_number(*of) == record.outcome))
            && record.resource.starts_with(&self.resource_prefix)
            && is(&self.subject, &record.subject)
            && is(&self.token_id, &record.token_id)
            && is(&self.client_identity, &record.client_identity)
            && self.client_network.is_none_or(|network| contains(&network, &record.client_address))
            && !self.has_signals
    }
}

fn contains(network: &IpNet, address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| network.contains(&address.to_canonical()))
}
