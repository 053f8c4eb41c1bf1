//! Pages of tokens' metadata.

use super::{
    Call, TokenService,
    look::{AT_ONCE, TokenView, covers},
};
use crate::{
    authz::permit::Permit,
    domain::{clock::Timestamp, error::Failure, framing, ids::Subject, scope::Scope, token::TokenRecord},
    repository::tokens::{self, TokenRow},
    service::{filling::Filling, page_token::PageScope, session::Access},
};

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
        let is_narrowed = request.subject.is_some() || request.not_used_since.is_some();
        let mut page = Filling::new(request.page_size, is_narrowed, AT_ONCE);
        loop {
            let limit = page.next_chunk();
            let (rows, next) = tokens::rows(&self.parts.records, org, after, limit, call.deadline).await?;
            let views = self.look_up(call, &session.permit, request, &rows).await?;
            after = page.take(limit, views).or(next);
            if after.is_none() || page.is_done() {
                break;
            }
        }
        let next_page_token = crate::service::page_token(&self.parts, &scope, after)?;
        Ok(TokenPage { tokens: page.into_page(), next_page_token })
    }

    /// The tokens of `rows` that are asked for and covered, each with its place.
    async fn look_up(
        &self,
        call: &Call,
        permit: &Permit,
        request: &ListTokens,
        rows: &[TokenRow],
    ) -> Result<Vec<(String, TokenView)>, Failure> {
        let org = permit.org();
        let keys: Vec<_> = rows
            .iter()
            .filter(|row| request.subject.as_ref().is_none_or(|subject| subject.as_str() == row.subject))
            .map(|row| tokens::item_key(org, &row.id))
            .collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.parts.records.get_each(&keys, call.deadline).await?;
        // One record that can't be read must not hide the others.
        let readable = |item| tokens::decode(&self.parts.records.verify(item).ok()?).ok();
        let records = read.into_iter().filter_map(|item| item.ok().flatten()).filter_map(readable);
        let records: Vec<TokenRecord> = records.filter(|record| covers(permit, record)).collect();
        let views = self.views(org, records, call.deadline).await?;
        let wanted = views.into_iter().filter(|view| request.wants(view));
        Ok(wanted.map(|view| (view.record.id.to_string(), view)).collect())
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

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{at, view},
        *,
    };
    use crate::authz::standing::Standing;

    fn request() -> ListTokens {
        ListTokens {
            page_size: 10,
            page_token: String::new(),
            subject: None,
            show_inactive: false,
            not_used_since: None,
        }
    }

    #[test]
    fn what_was_used_since_or_stands_no_more_is_left_out_where_it_is_asked() {
        let not_used_since = |seconds| ListTokens { not_used_since: Some(at(seconds)), ..request() };
        assert!(request().wants(&view()) && not_used_since(501).wants(&view()));
        assert!(!not_used_since(500).wants(&view()) && !not_used_since(499).wants(&view()));
        assert!(not_used_since(0).wants(&TokenView { last_used: None, ..view() }), "never used");

        let expired = TokenView { standing: Standing::Expired, ..view() };
        assert!(!request().wants(&expired) && !not_used_since(501).wants(&expired));
        let all = |request| ListTokens { show_inactive: true, ..request };
        assert!(all(request()).wants(&expired) && all(not_used_since(501)).wants(&expired));
        assert!(!all(not_used_since(500)).wants(&expired));
    }

    #[test]
    fn every_part_of_the_question_is_in_what_a_page_token_is_good_for() {
        let subject = |text| Some(Subject::parse("subject", text).unwrap());
        let asked = [
            request(),
            ListTokens { subject: subject("a"), ..request() },
            ListTokens { subject: subject("b"), ..request() },
            ListTokens { show_inactive: true, ..request() },
            ListTokens { not_used_since: Some(at(0)), ..request() },
            ListTokens { not_used_since: Some(at(1)), ..request() },
        ];
        let filters: std::collections::BTreeSet<_> = asked.iter().map(ListTokens::filter).collect();
        assert_eq!(filters.len(), asked.len());
    }
}
