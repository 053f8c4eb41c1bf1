//! Pages of the log, and the filter that reading and following share.

use clap::{Args, ValueEnum};
use ibyok_client::pb;

use super::view;
use crate::{
    failure::Failure,
    output::Output,
    session::Session,
    time::{self, When, parse_when},
};

const PAGE_SIZE: usize = 500;

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only this action, e.g. key.retrieve; repeatable
    #[arg(long = "action", value_name = "ACTION")]
    actions: Vec<String>,
    /// Only this outcome; repeatable
    #[arg(long = "outcome", value_name = "OUTCOME", value_enum)]
    outcomes: Vec<Outcome>,
    /// Only resources whose name begins so
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    resource: String,
    /// Only this subject
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    subject: String,
    /// Only this token
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    token_id: String,
    /// Only this client certificate's identity
    #[arg(long, value_name = "IDENTITY", default_value = "", hide_default_value = true)]
    client_identity: String,
    /// Only from this network
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true)]
    client_cidr: String,
    /// Only events since: RFC 3339, or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    since: Option<When>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Outcome {
    Allowed,
    Denied,
    Failed,
}

impl Filter {
    pub(super) fn wire(self) -> pb::AuditFilter {
        let outcomes = self.outcomes.iter().map(|outcome| match outcome {
            Outcome::Allowed => pb::AuditOutcome::Allowed.into(),
            Outcome::Denied => pb::AuditOutcome::Denied.into(),
            Outcome::Failed => pb::AuditOutcome::Failed.into(),
        });
        pb::AuditFilter {
            start_time: self.since.map(|when| when.before(&time::now())),
            outcomes: outcomes.collect(),
            actions: self.actions,
            resource_prefix: self.resource,
            subject: self.subject,
            token_id: self.token_id,
            client_identity: self.client_identity,
            client_cidr: self.client_cidr,
            ..Default::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only events until: RFC 3339, or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    until: Option<When>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(super) async fn list(args: List, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut filter = args.filter.wire();
    filter.end_time = args.until.map(|when| when.before(&time::now()));
    let events = newest(args.limit, filter, session).await?;
    let values = events.iter().map(view::event_json).collect();
    out.list("events", values, view::table(&events), "no events")
}

/// The newest `limit` events, newest first.
pub(super) async fn newest(
    limit: usize,
    filter: pb::AuditFilter,
    session: &Session,
) -> Result<Vec<pb::AuditEvent>, Failure> {
    let mut request = pb::ListAuditEventsRequest {
        parent: session.names.parent(),
        page_size: i32::try_from(limit.clamp(1, PAGE_SIZE)).unwrap_or_default(),
        filter: Some(filter),
        ..Default::default()
    };
    let mut events = Vec::new();
    while events.len() < limit {
        let page = session.client.audit().list_audit_events(request.clone()).await?.into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    events.truncate(limit);
    Ok(events)
}
