//! The end of the log, and what is added to it. A follower goes on where it was when the stream
//! ends or breaks, by its resume token.

use std::{collections::HashSet, time::Duration};

use clap::Args;
use ibyok_client::{
    Code, Error,
    pb::{self, stream_audit_events_response::Item},
};

use super::{
    read::{Filter, newest},
    view,
};
use crate::{failure::Failure, output::Output, session::Session, time};

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    filter: Filter,
    /// Go on with new events as they come
    #[arg(short, long)]
    follow: bool,
    /// How many events to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: usize,
}

pub(super) async fn tail(args: Tail, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let filter = args.filter.wire();
    let began = time::now();
    let mut events = newest(args.lines, filter.clone(), session).await?;
    events.reverse();
    events.iter().try_for_each(|event| show(event, out))?;
    if !args.follow {
        if events.is_empty() && !out.is_document() {
            out.note("no events");
        }
        return Ok(());
    }
    // From the oldest that was shown on, without those that were: nothing falls between list and stream.
    let start_time = events.first().and_then(|event| event.time).or(Some(began));
    let shown = events.into_iter().map(|event| event.id).collect();
    let request = pb::StreamAuditEventsRequest {
        parent: session.names.parent(),
        filter: Some(pb::AuditFilter { start_time, ..filter }),
        follow: true,
        ..Default::default()
    };
    Follower { request, shown, pause: PAUSE_MIN }.run(session, out).await
}

fn show(event: &pb::AuditEvent, out: &mut Output) -> Result<(), Failure> {
    if out.is_document() { out.document_of_many(&view::event_json(event)) } else { out.line(&view::line(event)) }
}

struct Follower {
    request: pb::StreamAuditEventsRequest,
    /// Ids that were listed before the stream began.
    shown: HashSet<String>,
    pause: Duration,
}

impl Follower {
    async fn run(mut self, session: &Session, out: &mut Output) -> Result<(), Failure> {
        loop {
            if let Err(stopped) = self.follow(session, out).await {
                match stopped {
                    Stopped::Call(status) if is_passing(&status) => {
                        out.note(&format!(
                            "note: the stream broke off; trying again in {} s",
                            self.pause.as_secs_f32()
                        ));
                    }
                    Stopped::Call(status) => return Err(status.into()),
                    Stopped::Output(failure) => return Err(failure),
                }
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    async fn follow(&mut self, session: &Session, out: &mut Output) -> Result<(), Stopped> {
        let mut stream = session.client.audit().stream_audit_events(self.request.clone()).await?.into_inner();
        while let Some(message) = stream.message().await? {
            self.pause = PAUSE_MIN;
            if !message.resume_token.is_empty() {
                self.request.resume_token = message.resume_token;
            }
            if let Some(Item::Event(event)) = message.item
                && !self.shown.remove(&event.id)
            {
                show(&event, out).map_err(Stopped::Output)?;
            }
        }
        Ok(())
    }
}

enum Stopped {
    Call(tonic::Status),
    Output(Failure),
}

impl From<tonic::Status> for Stopped {
    fn from(status: tonic::Status) -> Self {
        Self::Call(status)
    }
}

/// Whether the stream is worth opening again. A connection that breaks under an open stream comes
/// as one of several codes, but without a reason, as no server gave one.
fn is_passing(status: &tonic::Status) -> bool {
    let has_reason = || Error::Call(Box::new(status.into())).reason().is_some();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => !has_reason(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn what_passes_is_followed_on_and_a_refusal_ends_it() {
        let refused = |code, reason: &str| {
            Status::with_error_details(code, "", ErrorDetails::with_error_info(reason, "ibyok", HashMap::new()))
        };
        assert!(is_passing(&refused(Code::Unavailable, "DRAINING")));
        assert!(is_passing(&Status::unknown("h2 protocol error")));
        assert!(!is_passing(&refused(Code::Unauthenticated, "TOKEN_EXPIRED")));
        assert!(!is_passing(&refused(Code::Internal, "INTERNAL")));
        assert!(!is_passing(&refused(Code::PermissionDenied, "SCOPE_MISSING")));
    }
}
