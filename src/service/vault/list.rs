//! ListKeys: a page of the listing rows, each looked up in its record; never decrypts, and never
//! fails because one record does not verify.

use super::{KeyView, Vault};
use crate::{
    authz::permit::Permit,
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        framing,
        ids::{KeyId, KeyName, OrgId, ProviderId},
        key::{KeyRecord, KeyState, Labels},
        scope::Scope,
    },
    repository::{
        keys::{
            self,
            listing::{self, Row},
        },
        last_used,
    },
    service::{call::Call, filling::Filling, page_token::PageScope, session::Access},
};

/// How many rows are looked up at once.
const CHUNK: usize = 100;

/// Which keys are meant; what is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFilter {
    /// Of one of these providers.
    pub providers: Vec<ProviderId>,
    /// In one of these states.
    pub states: Vec<KeyState>,
    /// With all of these labels.
    pub labels: Labels,
    /// Whose id begins so.
    pub name_prefix: String,
    /// Not used since.
    pub not_used_since: Option<Timestamp>,
    /// To be rotated before.
    pub rotation_due_before: Option<Timestamp>,
}

/// A page of keys is asked for.
#[derive(Clone, Debug)]
pub struct ListKeys {
    /// Whose.
    pub org: OrgId,
    /// How many.
    pub page_size: usize,
    /// Where the page before ended; empty: from the beginning.
    pub page_token: String,
    /// Which.
    pub filter: KeyFilter,
    /// Deleted ones, too.
    pub show_deleted: bool,
}

/// A page of keys, by provider and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The keys.
    pub keys: Vec<KeyView>,
    /// Where the next begins; empty at the end.
    pub next_page_token: String,
}

impl Vault {
    /// A page of metadata and previews.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, INVALID_PAGE_TOKEN; those of sessions.
    pub async fn list_keys(&self, call: &Call, request: &ListKeys) -> Result<Listed, Failure> {
        call.own(&request.org, Reason::OrgNotFound)?;
        let session = self.parts.sessions.open(call, Access::Collection(Scope::KeysList), &[]).await?;
        let permit = &session.permit;
        let asked = request.filter();
        let (org, subject) = (permit.org(), permit.subject());
        let scope = PageScope { org, subject, method: call.method.path, filter: &asked };
        let place = crate::service::place(&self.parts, &scope, &request.page_token)?;
        let (keys, place) = self.page(call, permit, request, place).await?;
        Ok(Listed { keys, next_page_token: crate::service::page_token(&self.parts, &scope, place)? })
    }

    /// The page after `place`, and where it ends if there may be more.
    async fn page(
        &self,
        call: &Call,
        permit: &Permit,
        request: &ListKeys,
        mut place: Option<String>,
    ) -> Result<(Vec<KeyView>, Option<String>), Failure> {
        let mut found = Filling::new(request.page_size, request.filter != KeyFilter::default(), CHUNK);
        for provider in request.filter.sources() {
            if is_before(provider.as_ref(), place.as_deref()) {
                continue;
            }
            let mut after = place.take().filter(|place| is_within(provider.as_ref(), place));
            loop {
                if found.is_done() {
                    let place = after.or_else(|| provider.map(|provider| format!("{provider}#")));
                    return Ok((found.into_page(), place));
                }
                let (records, chunk) = (&self.parts.records, found.next_chunk());
                let (rows, next) =
                    listing::page(records, permit.org(), provider.as_ref(), chunk, after, call.deadline).await?;
                let views = self.look_up(call, permit, request, &rows).await?;
                if let Some(place) = found.take(rows.len(), views) {
                    return Ok((found.into_page(), Some(place)));
                }
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok((found.into_page(), None))
    }

    /// The keys of `rows` that are asked for and covered, each with its place.
    async fn look_up(
        &self,
        call: &Call,
        permit: &Permit,
        request: &ListKeys,
        rows: &[Row],
    ) -> Result<Vec<(String, KeyView)>, Failure> {
        let rows: Vec<_> = rows.iter().filter(|row| request.takes_row(row)).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let org = permit.org();
        let metas: Vec<_> = rows.iter().map(|row| keys::meta_key(org, &row.key)).collect();
        let items = self.parts.records.get_each(&metas, call.deadline).await?;
        let mut records = Vec::new();
        for (row, item) in rows.into_iter().zip(items) {
            let name = KeyName { org: org.clone(), id: row.key.clone() };
            match item.and_then(|item| self.covered(permit, &name, item)) {
                Ok(Some(stored)) if request.takes(&stored.record) => records.push((row.sort.clone(), stored.record)),
                Ok(_) => {}
                Err(_) => tracing::warn!(key = %name, "a key's record does not verify: the listing leaves it out"),
            }
        }
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<KeyId> = records.iter().map(|(_, record)| record.name.id.clone()).collect();
        let used = last_used::keys(&self.parts.records, org, &ids, call.deadline).await?;
        let views =
            records.into_iter().zip(used).map(|((sort, record), used)| (sort, self.view_used(call, record, used)));
        Ok(views.filter(|(_, view)| request.filter.takes_use(view.last_used)).collect())
    }
}

impl ListKeys {
    /// What the next page must ask for, too: each list is a part of its own.
    fn filter(&self) -> Vec<u8> {
        let KeyFilter { providers, states, labels, name_prefix, not_used_since, rotation_due_before } = &self.filter;
        let texts = |texts: Vec<&str>| framing::length_prefixed(texts.into_iter().map(str::as_bytes));
        let time = |time: &Option<Timestamp>| time.map_or(Vec::new(), |time| time.micros().to_be_bytes().to_vec());
        let parts = [
            texts(providers.iter().map(ProviderId::as_str).collect()),
            texts(states.iter().map(|state| state.as_str()).collect()),
            texts(labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect()),
            name_prefix.clone().into_bytes(),
            time(not_used_since),
            time(rotation_due_before),
            vec![u8::from(self.show_deleted)],
        ];
        framing::length_prefixed(parts.iter().map(Vec::as_slice))
    }
    fn takes_state(&self, state: KeyState) -> bool {
        let states = &self.filter.states;
        if states.is_empty() { self.show_deleted || state != KeyState::Deleted } else { states.contains(&state) }
    }
    /// What can be told from the row: it carries no MAC, so it can only narrow.
    fn takes_row(&self, row: &Row) -> bool {
        row.key.as_str().starts_with(&self.filter.name_prefix)
            && self.takes_state(row.state)
            && self.filter.takes_labels(&row.labels)
    }
    fn takes(&self, record: &KeyRecord) -> bool {
        let due = self.filter.rotation_due_before;
        self.takes_state(record.state)
            && (self.filter.providers.is_empty() || self.filter.providers.contains(&record.provider))
            && self.filter.takes_labels(&record.labels)
            && due.is_none_or(|due| record.rotation.next.is_some_and(|next| next < due))
    }
}

impl KeyFilter {
    /// The parts of the listing that are looked through, in its order.
    fn sources(&self) -> Vec<Option<ProviderId>> {
        let mut providers: Vec<_> = self.providers.iter().cloned().map(Some).collect();
        // By the text with its separator: that is how the rows are sorted.
        providers.sort_by_key(|provider| provider.as_ref().map(|provider| format!("{provider}#")));
        providers.dedup();
        if providers.is_empty() { vec![None] } else { providers }
    }
    fn takes_labels(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
    fn takes_use(&self, used: Option<Timestamp>) -> bool {
        self.not_used_since.is_none_or(|since| used.is_none_or(|used| used < since))
    }
}

fn is_within(provider: Option<&ProviderId>, place: &str) -> bool {
    provider.is_none_or(|provider| place.starts_with(&format!("{provider}#")))
}
/// Whether a provider's rows all come before `place`.
fn is_before(provider: Option<&ProviderId>, place: Option<&str>) -> bool {
    let (Some(provider), Some(place)) = (provider, place) else { return false };
    let prefix = format!("{provider}#");
    !place.starts_with(&prefix) && prefix.as_str() < place
}
