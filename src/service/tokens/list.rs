//! Pages of tokens' metadata.

use super::{
    Call, TokenService,
    look::{AT_ONCE, TokenView, covers},
};
use crate::{
    domain::{clock::Timestamp, error::Failure, framing, ids::Subject, scope::Scope, token::TokenRecord},
    repository::tokens,
    service::{page_token::PageScope, session::Access},
};

/// The most rows that one page looks at: a filter that few match gives a short page, never a long
/// wait.
const ROWS_MAX: usize = 2_000;

/// What ListTokens asks for.
#[derive(Clone, Debug)]
pub struct ListTokens {
    /// At most so many.
    pub page_size: usize,
    /// From the page before, or empty.
    pub page_token: String,
    /// Only this subject's.
    pub subject: Option<Subject>,
    /// Revoked, expired and used-up ones, too.
    pub show_inactive: bool,
    /// Only those not used since then.
    pub not_used_since: Option<Timestamp>,
}

/// A page of tokens.
#[derive(Debug)]
pub struct TokenPage {
    /// In order of their ids.
    pub tokens: Vec<TokenView>,
    /// Empty at the end.
    pub next_page_token: String,
}

impl TokenService {
    /// Tokens of the caller's organization that his grants cover.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN; the reasons of sessions.
    pub async fn list(&self, call: &Call, request: &ListTokens) -> Result<TokenPage, Failure> {
        let org = call.org()?;
        let session = self.parts.sessions.open(call, Access::Collection(Scope::TokensList), &[]).await?;
        let filter = request.filter();
        let scope = PageScope { org, subject: session.permit.subject(), method: call.method.path, filter: &filter };
        let mut after = crate::service::place(&self.parts, &scope, &request.page_token)?;
        let (mut found, mut looked_at) = (Vec::new(), 0);
        loop {
            let limit = AT_ONCE.min(request.page_size.saturating_sub(found.len()));
            let (rows, next) = tokens::rows(&self.parts.records, org, after, limit, call.deadline).await?;
            looked_at += limit;
            let keys: Vec<_> = rows
                .iter()
                .filter(|row| request.subject.as_ref().is_none_or(|subject| subject.as_str() == row.subject))
                .map(|row| tokens::item_key(org, &row.id))
                .collect();
            if !keys.is_empty() {
                let read = self.parts.records.get_each(&keys, call.deadline).await?;
                // One record that can't be read must not hide the others.
                let readable = |item| tokens::decode(&self.parts.records.verify(item).ok()?).ok();
                let items = read.into_iter().filter_map(|item| item.ok().flatten());
                let records: Vec<TokenRecord> = items.filter_map(readable).collect();
                let records = records.into_iter().filter(|record| covers(&session.permit, record)).collect();
                let views = self.views(org, records, call.deadline).await?;
                found.extend(views.into_iter().filter(|view| request.wants(view)));
            }
            after = next;
            if after.is_none() || found.len() >= request.page_size || looked_at >= ROWS_MAX {
                break;
            }
        }
        let next_page_token = crate::service::page_token(&self.parts, &scope, after)?;
        Ok(TokenPage { tokens: found, next_page_token })
    }
}

impl ListTokens {
    fn filter(&self) -> Vec<u8> {
        let since = self.not_used_since.map(|time| time.micros().to_be_bytes());
        framing::length_prefixed([
            self.subject.as_ref().map_or("", Subject::as_str).as_bytes(),
            &[u8::from(self.show_inactive)],
            since.as_ref().map_or(&[], |since| &since[..]),
        ])
    }
    fn wants(&self, view: &TokenView) -> bool {
        let is_unused = self.not_used_since.is_none_or(|since| view.last_used.is_none_or(|used| used < since));
        is_unused && (self.show_inactive || view.objection().is_none())
    }
}
