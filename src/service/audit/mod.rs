//! Reading the audit log: pages, single events, streams, verification. Knows what a caller may
//! see; where it is kept is the repository's.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Parts,
    call::Call,
    page_token::PageScope,
    session::{Access, REOPEN_EVERY},
};
use crate::{
    authz::permit::Permit,
    domain::{
        clock::{Clock, Timestamp},
        error::{Failure, Reason},
        ids::{Environment, OrgId},
        key::Labels,
        scope::Scope,
    },
    repository::{
        audit::{
            AuditLog,
            archive::ArchiveState,
            batch::ChainId,
            reader,
            verify::{Step, Verifier},
        },
        records::Records,
    },
};

mod filter;
mod list;
pub mod retention;
mod stream;
#[cfg(test)]
mod tests;

pub use crate::repository::audit::{outcome_number, reader::Event, tree::leaf_hash};
pub use filter::EventFilter;

/// What a listing or a stream asks for.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// `orgs/{org}`, or empty for the caller's own.
    pub parent: String,
    /// Which events.
    pub filter: EventFilter,
    /// Canonical bytes of the filter: a page or resume token is good for the same filter only.
    pub filter_bytes: Vec<u8>,
    /// Where to go on; empty: at the beginning.
    pub token: String,
}

/// A page of events, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// Empty at the end. A page can be short, or empty, and still not the last.
    pub next_page_token: String,
}

/// Which event is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventName {
    /// `{chain}.{sequence}`
    Id(String),
    /// A chain, and a place in it.
    Place(String, u64),
}

/// What a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// An event.
    Event(Box<Event>),
    /// Nothing happened; it is this late.
    Heartbeat(Timestamp),
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streamed {
    /// What it brings.
    pub item: StreamItem,
    /// Goes on behind it.
    pub resume_token: String,
}

/// How far a verification is, or how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Records that were checked.
    pub checked: u64,
    /// Records that are known to be there.
    pub total: u64,
    /// Whether this is the verdict.
    pub is_complete: bool,
    /// The verdict.
    pub is_intact: bool,
    /// Chain of the first break; empty when it is the order itself.
    pub bad_chain: String,
    /// First sequence of the first bad batch.
    pub bad_sequence: u64,
    /// What is wrong there.
    pub problem: String,
    /// The first position that is checked record by record; before it, the roots of the archive are.
    pub first_position: u64,
    /// Records that have left for the archive.
    pub archived: u64,
}

/// A stream that a task of the server fills.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Failure>> + Send>>;

/// What a slow reader may be behind: then the server waits for him. He is never skipped.
const BUFFERED: usize = 16;

/// The log as the readers need it.
#[derive(Clone, Debug)]
struct Source {
    records: Records,
    audit: AuditLog,
    clock: Arc<dyn Clock>,
}

/// The beats of a stream.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    /// How often it opens its session again.
    reopen: Duration,
    /// How often it says that it lives, when nothing happens.
    heartbeat: Duration,
}

/// Reads the audit log for callers.
#[derive(Clone, Debug)]
pub struct AuditReader {
    parts: Parts,
    source: Source,
    rhythm: Rhythm,
}

impl AuditReader {
    /// A reader of the parts' log.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { records, audit, clock, .. } = &parts;
        let source = Source { records: records.clone(), audit: audit.clone(), clock: Arc::clone(clock) };
        let rhythm = Rhythm { reopen: REOPEN_EVERY, heartbeat: Duration::from_secs(5) };
        Self { parts, source, rhythm }
    }

    /// A page, newest first, with everything in it that was acknowledged before the first page.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, INVALID_PAGE_TOKEN, SCOPE_MISSING and what else a session refuses;
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn list(&self, call: &Call, query: &EventQuery, page_size: usize) -> Result<EventPage, Failure> {
        let org = own_parent(call, &query.parent)?;
        let permit = self.admit(call, Scope::AuditRead).await?;
        let scope = page_scope(&permit, call, query);
        let place = match query.token.as_str() {
            "" => None,
            token => {
                let place = self.parts.pages.open(&scope, "page_token", token)?;
                let refused = || Failure::from(Reason::InvalidPageToken);
                Some(list::Place::decode(place.as_slice()).map_err(|_| refused())?)
            }
        };
        let sees = |event: &Event| query.filter.matches(event) && may_see(&permit, event);
        let (events, next) = list::page(
            &self.source,
            &list::Wanted { org: &org, filter: &query.filter, sees: &sees, most: page_size, deadline: call.deadline },
            place,
        )
        .await?;
        let next_page_token =
            next.map(|place| self.parts.pages.seal(&scope, &place.encode_to_vec())).transpose()?.unwrap_or_default();
        Ok(EventPage { events, next_page_token })
    }

    /// One event, read from its chain. A foreign one, an absent one and one that the caller's
    /// grants do not cover answer the same bytes.
    ///
    /// # Errors
    /// EVENT_NOT_FOUND, what a session refuses; STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn event(&self, call: &Call, parent: &str, name: &EventName) -> Result<Event, Failure> {
        let org = OrgId::parse_parent("parent", parent, call.org()?)?;
        call.own(&org, Reason::EventNotFound)?;
        let permit = self.admit(call, Scope::AuditRead).await?;
        let (chain, sequence) = match name {
            EventName::Id(id) => {
                id.rsplit_once('.').and_then(|(chain, sequence)| Some((chain, sequence.parse().ok()?)))
            }
            EventName::Place(chain, sequence) => Some((chain.as_str(), *sequence)),
        }
        .and_then(|(chain, sequence)| Some((ChainId::parse(chain)?, sequence)))
        .ok_or(Reason::EventNotFound)?;
        let event = reader::event(&self.source.records, &org, &chain, sequence, call.deadline).await?;
        event.filter(|event| may_see(&permit, event)).ok_or_else(|| Reason::EventNotFound.into())
    }

    /// Events, oldest first, from the query's token, else from its filter's start. Without
    /// `follow` it ends at the present end; with it, it stays open until its session no longer
    /// opens, or its token ends. A slow reader slows the stream down; nothing is left out: when
    /// events behind his place have left for the archive, the stream ends with EVENTS_ARCHIVED.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn stream(&self, call: Call, query: EventQuery, follow: bool) -> Result<Answers<Streamed>, Failure> {
        let org = own_parent(&call, &query.parent)?;
        let permit = self.admit(&call, Scope::AuditRead).await?;
        let cursor = match query.token.as_str() {
            "" => {
                let floor = ArchiveState::load(&self.source.records, call.deadline).await?.floor;
                stream::Cursor::from_start(query.filter.start, floor)
            }
            token => {
                let place = self.parts.pages.open(&page_scope(&permit, &call, &query), "resume_token", token)?;
                let refused = || Failure::from(Reason::InvalidPageToken);
                stream::Cursor::decode(place.as_slice()).map_err(|_| refused())?
            }
        };
        let (pages, source, heartbeat) = (Arc::clone(&self.parts.pages), self.source.clone(), self.rhythm.heartbeat);
        let end = if follow { None } else { Some(source.audit.snapshot(call.deadline).await?) };
        let (ends, reopened) = (permit.ends(), call.clone());
        Ok(self.answer(reopened, Scope::AuditRead, ends, |answers| async move {
            let seal =
                |cursor: &stream::Cursor| pages.seal(&page_scope(&permit, &call, &query), &cursor.encode_to_vec());
            let sees = |event: &Event| query.filter.matches(event) && may_see(&permit, event);
            let pump =
                stream::Pump { source: &source, org: &org, sees: &sees, seal: &seal, answers: &answers, heartbeat };
            pump.run(cursor, end.as_ref()).await
        }))
    }

    /// Recomputes the whole log of every organization; ends with the verdict.
    ///
    /// # Errors
    /// SCOPE_MISSING and what else a session refuses; NOT_IMPLEMENTED for a trusted checkpoint.
    pub async fn verify(&self, call: Call, trusted_note: &str) -> Result<Answers<Verification>, Failure> {
        let permit = self.admit(&call, Scope::Admin).await?;
        if !trusted_note.is_empty() {
            return Err(Reason::NotImplemented.into());
        }
        let verifier = Verifier::new(self.source.records.clone(), Arc::clone(&self.source.clock));
        Ok(self.answer(call, Scope::Admin, permit.ends(), |answers| run_verification(verifier, answers)))
    }

    async fn admit(&self, call: &Call, scope: Scope) -> Result<Permit, Failure> {
        Ok(self.parts.sessions.open(call, Access::Collection(scope), &[]).await?.permit)
    }

    /// Runs `pump` in a task of its own, and the call's session beside it: whichever fails first
    /// ends the stream. It ends, too, when nobody reads it any more.
    fn answer<T, P, R>(&self, call: Call, scope: Scope, ends: Timestamp, pump: P) -> Answers<T>
    where
        T: Send + 'static,
        P: FnOnce(mpsc::Sender<Result<T, Failure>>) -> R,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (answers, answered) = mpsc::channel(BUFFERED);
        let (pump, sessions, reopen) = (pump(answers.clone()), self.parts.sessions.clone(), self.rhythm.reopen);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = pump => ended,
                failure = sessions.closed(call, Access::Collection(scope), ends, reopen) => Err(failure),
                () = answers.closed() => return,
            };
            if let Err(failure) = ended {
                let _ = answers.send(Err(failure)).await;
            }
        });
        Box::pin(ReceiverStream::new(answered))
    }
}

async fn run_verification(
    mut verifier: Verifier,
    answers: mpsc::Sender<Result<Verification, Failure>>,
) -> Result<(), Failure> {
    loop {
        let step = verifier.step().await?;
        let mut answer = Verification {
            checked: verifier.checked,
            total: verifier.total,
            first_position: verifier.first,
            archived: verifier.archived,
            ..Verification::default()
        };
        match step {
            Step::Going => {}
            Step::Intact => (answer.is_complete, answer.is_intact) = (true, true),
            Step::Broken(at) => {
                answer.is_complete = true;
                answer.bad_chain = at.chain.map(|chain| chain.to_string()).unwrap_or_default();
                answer.bad_sequence = at.sequence;
                answer.problem = at.problem.to_owned();
            }
        }
        let is_complete = answer.is_complete;
        if answers.send(Ok(answer)).await.is_err() || is_complete {
            return Ok(());
        }
    }
}

fn own_parent(call: &Call, parent: &str) -> Result<OrgId, Failure> {
    let org = OrgId::parse_parent("parent", parent, call.org()?)?;
    call.own(&org, Reason::OrgNotFound)?;
    Ok(org)
}

fn page_scope<'a>(permit: &'a Permit, call: &Call, query: &'a EventQuery) -> PageScope<'a> {
    PageScope { org: permit.org(), subject: permit.subject(), method: call.method.path, filter: &query.filter_bytes }
}

/// Whether a grant covers the event's resource. What is of no resource of the organization, a
/// refused exchange or a listing, is seen by who may see the whole log.
fn may_see(permit: &Permit, event: &Event) -> bool {
    let org = permit.org().full_name();
    let resource = &event.record.resource;
    let is_within = resource.strip_prefix(&org).is_some_and(|rest| rest.starts_with('/'));
    let environment = event.record.details.get("environment");
    let environment = environment.and_then(|text| Environment::parse("environment", text).ok());
    let whole = format!("{org}/audit");
    permit.covers(if is_within { resource } else { &whole }, environment.as_ref(), &Labels::new())
}
