//! Who holds which version of a key.

use prost::Message as _;

use super::{Call, Failure, PageScope, Reason, UsageService, own, vault};
use crate::{
    domain::{clock::Timestamp, ids::KeyName, scope::Scope},
    repository::{
        consumers::{self, Consumers, Holder},
        keys,
    },
    service::session::Access,
};

/// What ListKeyConsumers asks for.
#[derive(Clone, Debug)]
pub struct ListConsumers {
    /// Of which key.
    pub name: KeyName,
    /// How many.
    pub page_size: usize,
    /// From the page before, or empty.
    pub page_token: String,
}

/// One consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Who.
    pub holder: Holder,
    /// The full name of the version that it was handed last.
    pub version: String,
    /// When.
    pub time: Timestamp,
    /// Whether that version is the key's CURRENT one.
    pub holds_current: bool,
}

/// A page of consumers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerPage {
    /// By subject, token and client.
    pub consumers: Vec<Consumer>,
    /// Empty at the end.
    pub next_page_token: String,
    /// What was handed out before then is in it; None: not known.
    pub as_of: Option<Timestamp>,
    /// There were more consumers than are kept.
    pub is_truncated: bool,
}

/// The last consumer that was told; what a page token seals.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Place {
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(string, tag = "3")]
    client: String,
}

impl UsageService {
    /// The consumers of a key, as far as the log is folded.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, INVALID_PAGE_TOKEN; those of sessions, STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn consumers(&self, call: &Call, request: &ListConsumers) -> Result<ConsumerPage, Failure> {
        let ListConsumers { name, page_size, page_token } = request;
        own(call, name)?;
        let access = Access::Resource(Scope::UsageRead, name.to_string());
        let session = self.parts.sessions.open(call, access, &[keys::meta_key(&name.org, &name.id)]).await?;
        let item = session.items.into_iter().next().flatten();
        let stored = vault::covered(&self.parts, &session.permit, name, item)?.ok_or(Reason::KeyNotFound)?;
        let record = stored.record;

        // A key that got the name since has other consumers.
        let filter = record.uid.as_str().as_bytes();
        let (org, subject) = (session.permit.org(), session.permit.subject());
        let scope = PageScope { org, subject, method: call.method.path, filter };
        let after = match page_token.as_str() {
            "" => None,
            token => {
                let place = self.parts.pages.open(&scope, "page_token", token)?;
                let Place { subject, token, client } =
                    Place::decode(place.as_slice()).map_err(|_| Reason::InvalidPageToken)?;
                Some(Holder { subject, token, client })
            }
        };
        let now = self.parts.clock.now();
        let as_of = consumers::as_of_time(&self.parts.records, now, call.deadline).await?;
        let Consumers { each, is_truncated } =
            consumers::of_key(&self.parts.records, name, &record.uid, now, call.deadline).await?;
        let current = record.current().map(|version| version.number);
        let mut left = each.into_iter().filter(|(holder, _)| after.as_ref().is_none_or(|after| holder > after));
        let page = left.by_ref().take(*page_size).map(|(holder, handed)| Consumer {
            holder,
            version: record.version_name(handed.version),
            time: handed.time,
            holds_current: current == Some(handed.version),
        });
        let consumers: Vec<Consumer> = page.collect();
        let last = consumers.last().filter(|_| left.next().is_some());
        let place = last.map(|Consumer { holder, .. }| {
            let Holder { subject, token, client } = holder.clone();
            Place { subject, token, client }.encode_to_vec()
        });
        let next = place.map(|place| self.parts.pages.seal(&scope, &place)).transpose()?;
        Ok(ConsumerPage { consumers, next_page_token: next.unwrap_or_default(), as_of, is_truncated })
    }
}
