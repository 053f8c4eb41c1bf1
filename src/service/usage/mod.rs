//! GetUsage and ListKeyConsumers: what the audit log says of how keys are used, as far as the
//! caller's grants cover the keys. Knows no request and no row; both follow the log by seconds.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;

use super::{Parts, call::Call, page_token::PageScope, session::Access, vault};
use crate::{
    authz::permit::Permit,
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        framing,
        ids::OrgId,
        scope::Scope,
    },
    repository::usage::{self, Bucket, cells::Counts},
};

mod consumers;
mod group;

pub use consumers::{Consumer, ConsumerPage, ListConsumers};
pub use group::Dimension;

use group::{Facts, Grouping};

/// The longest span that one request covers.
pub const SPAN_MAX: Duration = Duration::from_secs(400 * 86_400);
/// The span where none is named: of hours, and of days.
const SPANS: (Duration, Duration) = (Duration::from_secs(86_400), Duration::from_secs(30 * 86_400));
/// Buckets and empty days that one page looks at: then it is short.
const LOOKS_MAX: usize = 100;

/// What GetUsage asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetUsage {
    /// From then on; the bucket that it is in counts whole.
    pub start: Option<Timestamp>,
    /// Before then; the bucket that it is in counts whole, unless it only begins there.
    pub end: Option<Timestamp>,
    /// An hour or a day; None: a day.
    pub bucket: Option<Duration>,
    /// By what, in order.
    pub group_by: Vec<Dimension>,
    /// With [`Dimension::Label`]: which label.
    pub label_key: String,
    /// How many rows.
    pub page_size: usize,
    /// From the page before, or empty.
    pub page_token: String,
}

/// One count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// When its bucket begins.
    pub start: Timestamp,
    /// By what, in the order that was asked for. Empty where it is not known or not there.
    pub values: Vec<String>,
    /// How often.
    pub counts: Counts,
}

/// A page of counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsagePage {
    /// By time, and then by value.
    pub rows: Vec<UsageRow>,
    /// Empty at the end.
    pub next_page_token: String,
}

/// Where a page ended; what its token seals.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Place {
    /// The bucket that is next, or that was not told to its end.
    #[prost(int64, tag = "1")]
    next: i64,
    /// The last bucket: the first page fixes it.
    #[prost(int64, tag = "2")]
    last: i64,
    /// The values of the last row that was told of bucket `next`.
    #[prost(message, optional, tag = "3")]
    told: Option<Told>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Told {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

/// Tells how keys are used.
#[derive(Clone, Debug)]
pub struct UsageService {
    parts: Parts,
}

impl UsageService {
    /// With these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Counts of the caller's organization, of the keys that his grants cover.
    ///
    /// # Errors
    /// INVALID_FIELD, INVALID_PAGE_TOKEN; those of sessions, STORE_UNAVAILABLE.
    pub async fn usage(&self, call: &Call, request: &GetUsage) -> Result<UsagePage, Failure> {
        let bucket = request.check()?;
        let session = self.parts.sessions.open(call, Access::Collection(Scope::UsageRead), &[]).await?;
        let permit = &session.permit;
        let filter = request.filter();
        let (org, subject) = (permit.org(), permit.subject());
        let scope = PageScope { org, subject, method: call.method.path, filter: &filter };
        let place = match request.page_token.as_str() {
            "" => request.first_place(bucket, self.parts.clock.now())?,
            token => {
                let place = self.parts.pages.open(&scope, "page_token", token)?;
                Place::decode(place.as_slice()).map_err(|_| Reason::InvalidPageToken)?
            }
        };
        let (rows, next) = self.page(call, permit, request, bucket, place).await?;
        let next = next.map(|place| self.parts.pages.seal(&scope, &place.encode_to_vec())).transpose()?;
        Ok(UsagePage { rows, next_page_token: next.unwrap_or_default() })
    }

    async fn page(
        &self,
        call: &Call,
        permit: &Permit,
        request: &GetUsage,
        bucket: Bucket,
        mut place: Place,
    ) -> Result<(Vec<UsageRow>, Option<Place>), Failure> {
        let records = &self.parts.records;
        let grouping = Grouping::new(permit, &request.group_by, &request.label_key);
        let mut facts = Facts::default();
        let mut rows = Vec::new();
        let mut looks = 0;
        // What is left of the time is for the bucket that is being read then, and for the answer.
        let half = self.parts.clock.left(call.deadline) / 2;
        while place.next <= place.last {
            let is_late = looks > 0 && self.parts.clock.left(call.deadline) < half;
            if looks == LOOKS_MAX || is_late {
                return Ok((rows, Some(place)));
            }
            looks += 1;
            // A bucket is megabytes to put together: others come between.
            tokio::task::yield_now().await;
            let now = self.parts.clock.now();
            let found = usage::first_of_day(records, permit.org(), bucket, place.next, now, call.deadline).await?;
            let Some(counted) = found.filter(|counted| counted.number <= place.last) else {
                place = Place { next: bucket.next_day(place.next), told: None, ..place };
                continue;
            };
            if counted.number != place.next {
                place = Place { next: counted.number, told: None, ..place };
            }
            if grouping.needs_facts() {
                facts.learn(&self.parts, permit.org(), counted.cells.keys(), call.deadline).await?;
            }
            let groups = grouping.group(&counted.cells, &facts);
            let told = place.told.take();
            for (values, counts) in groups {
                if told.as_ref().is_some_and(|told| values <= told.values) {
                    continue;
                }
                if rows.len() == request.page_size {
                    let told = rows.last().filter(|row: &&UsageRow| row.start == bucket.start(place.next));
                    place.told = told.map(|row| Told { values: row.values.clone() });
                    return Ok((rows, Some(place)));
                }
                rows.push(UsageRow { start: bucket.start(place.next), values, counts });
            }
            place.next += 1;
        }
        Ok((rows, None))
    }
}

impl GetUsage {
    /// Whether it can be asked, and in which buckets.
    fn check(&self) -> Result<Bucket, Failure> {
        let has = |dimension| self.group_by.contains(&dimension);
        for (n, dimension) in self.group_by.iter().enumerate() {
            if self.group_by.iter().skip(n + 1).any(|other| other == dimension) {
                return Err(Failure::invalid("group_by", "each dimension once"));
            }
        }
        match (has(Dimension::Label), self.label_key.is_empty()) {
            (true, true) => return Err(Failure::invalid("label_key", "the label's key, with the dimension LABEL")),
            (false, false) => return Err(Failure::invalid("label_key", "empty, without the dimension LABEL")),
            _ => {}
        }
        match self.bucket {
            None => Ok(Bucket::Day),
            Some(span) => [Bucket::Hour, Bucket::Day]
                .into_iter()
                .find(|bucket| bucket.span() == span)
                .ok_or_else(|| Failure::invalid("bucket", "an hour (3600s) or a day (86400s)")),
        }
    }

    fn first_place(&self, bucket: Bucket, now: Timestamp) -> Result<Place, Failure> {
        let end = self.end.unwrap_or(now);
        let span = if bucket == Bucket::Hour { SPANS.0 } else { SPANS.1 };
        let start = self.start.unwrap_or_else(|| end.minus(span));
        if start >= end {
            return Err(Failure::invalid("end_time", "later than start_time"));
        }
        if end.since(start) > SPAN_MAX {
            return Err(Failure::invalid("start_time", "at most 400 days before end_time"));
        }
        // What begins at the end is not asked for.
        let last = bucket.of(end.minus(Duration::from_micros(1)));
        Ok(Place { next: bucket.of(start), last, told: None })
    }

    /// What the next page must ask, too.
    fn filter(&self) -> Vec<u8> {
        let time = |time: Option<Timestamp>| time.map(|time| time.micros().to_be_bytes().to_vec()).unwrap_or_default();
        let bucket = self.bucket.map(|span| span.as_nanos().to_be_bytes().to_vec()).unwrap_or_default();
        let group_by: Vec<u8> = self.group_by.iter().map(|dimension| *dimension as u8).collect();
        framing::length_prefixed([
            time(self.start).as_slice(),
            time(self.end).as_slice(),
            bucket.as_slice(),
            group_by.as_slice(),
            self.label_key.as_bytes(),
        ])
    }
}

/// Whether the permit covers every key of `org`, whatever its environment and labels, those that
/// are gone or never were, too.
fn sees_all(permit: &Permit, org: &OrgId) -> bool {
    permit.covers(&format!("{}/keys/*", org.full_name()), None, &BTreeMap::new())
}

fn own(call: &Call, name: &crate::domain::ids::KeyName) -> Result<(), Failure> {
    call.own(&name.org, Reason::KeyNotFound)
}
