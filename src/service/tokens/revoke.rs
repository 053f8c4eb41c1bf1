//! Revocation: of one token, of a subject, or of all that were issued before a time. Each is one
//! transaction over records that every call reads, so it is exact on every replica once answered.

use std::collections::BTreeMap;

use super::{Call, ROUNDS, SKEW, TokenService, look::covers};
use crate::{
    domain::{
        audit::AuditDraft,
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::{OrgId, Subject, TokenName},
        key::input::check_text,
        scope::Scope,
        token::{Epoch, SubjectRecord, TokenRecord},
    },
    repository::{
        records::Expected,
        tokens::{self, TokenRow},
    },
    service::{
        mutation::{Mutated, Remembered},
        session::{Access, Session},
    },
    store::{Action, Condition, ITEMS_MAX, Item, ItemKey},
};

/// Rows counted at once.
const AT_ONCE: usize = 1_000;
/// The pages that a count goes through, at most.
const PAGES_MAX: usize = 100;

/// Which tokens are revoked.
#[derive(Clone, Debug)]
pub enum Revoke {
    /// That one, and whatever was exchanged from it.
    Name(TokenName),
    /// All of a subject that were issued so far.
    Subject(Subject),
    /// All of the organization that were created before that time, which is not in the future; all
    /// that were issued so far, where the servers' clocks may differ by what has passed since.
    IssuedBefore(Timestamp),
}

/// What a revocation writes, and which rows it was about.
struct Plan {
    actions: Vec<Action>,
    revision: u64,
    rows: Rows,
}

/// The listing rows that a revocation was about; kept for its replay.
enum Rows {
    /// The one that was named.
    Named,
    /// Those that stood under these generations and were created in this span.
    Standing { org_generation: u64, subject_generation: Option<u64>, from: Timestamp, before: Timestamp },
    /// None.
    Nothing,
}

impl TokenService {
    /// Revokes, and answers how many tokens that was: 1 for a name, else the live listing rows
    /// counted after the commit, as far as the count came: a revocation that stands is never
    /// answered with an error.
    ///
    /// # Errors
    /// TOKEN_NOT_FOUND, INVALID_FIELD; the reasons of sessions and mutations.
    pub async fn revoke(&self, call: &Call, which: &Revoke, reason: &str, request_id: &str) -> Result<u64, Failure> {
        check_text("reason", reason, 256)?;
        let org = call.org()?;
        let (access, needs) = self.asks(call, org, which)?;
        let idempotency = self.parts.mutations.idempotency(call, org, request_id).await?;
        for _ in 0..ROUNDS {
            let mut keys = needs.clone();
            keys.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
            let mut session = self.parts.sessions.open(call, access.clone(), &keys).await?;
            let row = session.items.split_off(needs.len()).pop().flatten();
            if let Some(prior) = self.parts.mutations.prior(idempotency.as_ref(), row)? {
                return self.recounted(call, org, which, &prior).await;
            }
            let plan = self.plan(call, org, which, session)?;
            let remembered = Remembered {
                resource: resource(org, which),
                uid: None,
                revision: plan.revision,
                numbers: plan.rows.remembered(),
                codes: Vec::new(),
            };
            let draft = draft(call, org, which, reason, plan.revision);
            let commit =
                self.parts.mutations.commit(call, idempotency.as_ref(), remembered, plan.actions, draft).await?;
            match commit {
                Mutated::Done(_) => return Ok(self.count(org, which, &plan.rows, call.time, call.deadline).await),
                Mutated::Replayed(prior) => return self.recounted(call, org, which, &prior).await,
                Mutated::Conflict { .. } => {}
            }
        }
        Err(Reason::WriteConflict.into())
    }

    fn asks(&self, call: &Call, org: &OrgId, which: &Revoke) -> Result<(Access, Vec<ItemKey>), Failure> {
        let needs = match which {
            Revoke::Name(name) => {
                call.own(&name.org, Reason::TokenNotFound)?;
                vec![tokens::item_key(org, &name.id)]
            }
            Revoke::Subject(subject) => {
                let mut needs = tokens::epoch_keys(org);
                needs.truncate(1);
                needs.push(tokens::subject_key(org, subject));
                needs
            }
            Revoke::IssuedBefore(time) => {
                check_has_come(*time, self.parts.clock.now())?;
                tokens::epoch_keys(org)
            }
        };
        let resource = resource(org, which);
        let access = match which {
            // Whether a grant covers a token is asked once it was read: absence answers the same.
            Revoke::Name(_) => Access::Resource(Scope::TokensRevoke, resource),
            Revoke::Subject(_) | Revoke::IssuedBefore(_) => Access::Plain(Scope::TokensRevoke, resource),
        };
        Ok((access, needs))
    }

    fn plan(&self, call: &Call, org: &OrgId, which: &Revoke, session: Session) -> Result<Plan, Failure> {
        let records = &self.parts.records;
        let verified = |item: Option<Item>| item.map(|item| records.verify(item)).transpose();
        let mut items = session.items.into_iter();
        match which {
            Revoke::Name(name) => {
                let item = verified(items.next().flatten())?.ok_or(Reason::TokenNotFound)?;
                let token = tokens::decode(&item)?;
                if !covers(&session.permit, &token) {
                    return Err(Reason::TokenNotFound.into());
                }
                Ok(self.plan_one(call, name, token))
            }
            Revoke::Subject(subject) => {
                let epoch = verified(items.next().flatten())?.ok_or(Reason::RecordRejected)?;
                let epoch = tokens::decode_epoch(&epoch)?;
                let record = verified(items.next().flatten())?.as_ref().map(tokens::decode_subject).transpose()?;
                Ok(self.plan_subject(call, org, subject, &epoch, record))
            }
            Revoke::IssuedBefore(time) => {
                let epochs = items.map(|item| tokens::decode_epoch(&verified(item)?.ok_or(Reason::RecordRejected)?));
                self.plan_epoch(call, org, *time, &epochs.collect::<Result<Vec<_>, _>>()?)
            }
        }
    }

    fn plan_one(&self, call: &Call, name: &TokenName, token: TokenRecord) -> Plan {
        let expected = Expected::Revision(token.revision);
        if token.revoked.is_some() {
            let check = Action::Check(tokens::item_key(&name.org, &name.id), Condition::Revision(token.revision));
            return Plan { actions: vec![check], revision: token.revision, rows: Rows::Named };
        }
        let token = TokenRecord { revoked: Some(call.time), ..token };
        let actions = Vec::from(tokens::put(&self.parts.records, &token, expected));
        Plan { actions, revision: expected.next_revision(), rows: Rows::Named }
    }

    fn plan_subject(
        &self,
        call: &Call,
        org: &OrgId,
        subject: &Subject,
        epoch: &Epoch,
        record: Option<SubjectRecord>,
    ) -> Plan {
        // Without a record no token was ever issued to it: there is nothing to revoke.
        let Some(record) = record else {
            let check = Action::Check(tokens::subject_key(org, subject), Condition::Absent);
            return Plan { actions: vec![check], revision: 0, rows: Rows::Nothing };
        };
        let expected = Expected::Revision(record.revision);
        let generation = record.generation.saturating_add(1);
        let next = SubjectRecord { generation, revoked: Some(call.time), revision: 0 };
        let rows = Rows::Standing {
            org_generation: epoch.generation,
            subject_generation: Some(record.generation),
            from: epoch.issued_before,
            before: Timestamp::from_micros(i64::MAX),
        };
        let put = tokens::put_subject(&self.parts.records, org, subject, &next, expected);
        Plan { actions: vec![put], revision: expected.next_revision(), rows }
    }

    fn plan_epoch(&self, call: &Call, org: &OrgId, before: Timestamp, epochs: &[Epoch]) -> Result<Plan, Failure> {
        let first = epochs.first().ok_or(Reason::RecordRejected)?;
        let keys = tokens::epoch_keys(org);
        // A server whose clock is ahead has issued tokens that were created after `before`, and one
        // that is behind will yet issue some from before it: no time tells them, the generation does.
        let is_all = call.time < before.plus(SKEW);
        if !is_all && first.issued_before >= before {
            let checks = keys.into_iter().zip(epochs);
            let checks = checks.map(|(key, epoch)| Action::Check(key, Condition::Revision(epoch.revision)));
            return Ok(Plan { actions: checks.collect(), revision: first.revision, rows: Rows::Nothing });
        }
        let revoked = Some(call.time);
        let (next, before) = if is_all {
            let generation = first.generation.saturating_add(1);
            (Epoch { generation, revoked, ..first.clone() }, Timestamp::from_micros(i64::MAX))
        } else {
            (Epoch { issued_before: before, revoked, ..first.clone() }, before)
        };
        let put = |(key, epoch): (ItemKey, &Epoch)| {
            tokens::put_epoch(&self.parts.records, key, &next, Expected::Revision(epoch.revision))
        };
        let rows = Rows::Standing {
            org_generation: first.generation,
            subject_generation: None,
            from: first.issued_before,
            before,
        };
        let revision = Expected::Revision(first.revision).next_revision();
        Ok(Plan { actions: keys.into_iter().zip(epochs).map(put).collect(), revision, rows })
    }

    async fn recounted(&self, call: &Call, org: &OrgId, which: &Revoke, prior: &Remembered) -> Result<u64, Failure> {
        let rows = Rows::recalled(which, &prior.numbers)?;
        Ok(self.count(org, which, &rows, call.time, call.deadline).await)
    }

    async fn count(&self, org: &OrgId, which: &Revoke, rows: &Rows, now: Timestamp, deadline: Deadline) -> u64 {
        match rows {
            Rows::Named => return 1,
            Rows::Nothing => return 0,
            Rows::Standing { .. } => {}
        }
        let (mut count, mut after, mut generations) = (0, None, BTreeMap::new());
        for _ in 0..PAGES_MAX {
            let page = tokens::rows(&self.parts.records, org, after, AT_ONCE, deadline).await;
            let Ok((page, next)) = page else { break };
            let page: Vec<_> = page.into_iter().filter(|row| rows.hold(which, row, now)).collect();
            let by_time = matches!(which, Revoke::IssuedBefore(_));
            if by_time && self.read_generations(org, &page, &mut generations, deadline).await.is_err() {
                break;
            }
            let is_live =
                |row: &&TokenRow| generations.get(&row.subject).is_none_or(|now| *now == Some(row.subject_generation));
            count += page.iter().filter(is_live).count() as u64;
            after = next;
            if after.is_none() {
                return count;
            }
        }
        tracing::warn!(%org, "not all of the tokens that were revoked were counted");
        count
    }

    /// The generations of the rows' subjects: what was revoked by subject before is not counted.
    async fn read_generations(
        &self,
        org: &OrgId,
        rows: &[TokenRow],
        known: &mut BTreeMap<String, Option<u64>>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let mut unknown: Vec<_> = rows.iter().map(|row| row.subject.as_str()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|subject| !known.contains_key(*subject));
        let subjects: Vec<_> = unknown.iter().filter_map(|text| Subject::parse("subject", text).ok()).collect();
        for subjects in subjects.chunks(ITEMS_MAX) {
            let keys: Vec<_> = subjects.iter().map(|subject| tokens::subject_key(org, subject)).collect();
            let items = self.parts.records.get_each(&keys, deadline).await?;
            for (subject, item) in subjects.iter().zip(items) {
                let record = item.ok().flatten().and_then(|item| self.parts.records.verify(item).ok());
                let record = record.and_then(|item| tokens::decode_subject(&item).ok());
                known.insert(subject.to_string(), record.map(|record| record.generation));
            }
        }
        Ok(())
    }
}

impl Rows {
    fn remembered(&self) -> BTreeMap<String, i64> {
        let Self::Standing { org_generation, subject_generation, from, before } = self else {
            return BTreeMap::new();
        };
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut numbers = BTreeMap::from([
            ("org_generation".to_owned(), count(*org_generation)),
            ("from".to_owned(), from.micros()),
            ("before".to_owned(), before.micros()),
        ]);
        numbers.extend(subject_generation.map(|generation| ("subject_generation".to_owned(), count(generation))));
        numbers
    }
    fn recalled(which: &Revoke, numbers: &BTreeMap<String, i64>) -> Result<Self, Failure> {
        if matches!(which, Revoke::Name(_)) {
            return Ok(Self::Named);
        }
        if numbers.is_empty() {
            return Ok(Self::Nothing);
        }
        let number = |name| numbers.get(name).copied().ok_or(Reason::RecordRejected);
        let count = |number: i64| u64::try_from(number).map_err(|_| Reason::RecordRejected);
        let subject_generation = numbers.get("subject_generation").copied().map(count).transpose()?;
        Ok(Self::Standing {
            org_generation: count(number("org_generation")?)?,
            subject_generation,
            from: Timestamp::from_micros(number("from")?),
            before: Timestamp::from_micros(number("before")?),
        })
    }
    /// Whether this row's token was live and is not any more.
    fn hold(&self, which: &Revoke, row: &TokenRow, now: Timestamp) -> bool {
        let Self::Standing { org_generation, subject_generation, from, before } = self else { return false };
        let is_meant = match which {
            Revoke::Subject(subject) => row.subject == subject.as_str(),
            Revoke::Name(_) | Revoke::IssuedBefore(_) => true,
        };
        is_meant
            && row.revoked.is_none()
            && now < row.expires
            && row.org_generation == *org_generation
            && subject_generation.is_none_or(|generation| row.subject_generation == generation)
            && (*from..*before).contains(&row.created)
    }
}

fn check_has_come(time: Timestamp, now: Timestamp) -> Result<(), Failure> {
    if time > now { Err(Failure::invalid("issued_before", "a time that is not in the future")) } else { Ok(()) }
}

fn resource(org: &OrgId, which: &Revoke) -> String {
    match which {
        Revoke::Name(name) => name.to_string(),
        Revoke::Subject(_) | Revoke::IssuedBefore(_) => format!("orgs/{org}/tokens/*"),
    }
}

fn draft(call: &Call, org: &OrgId, which: &Revoke, reason: &str, revision: u64) -> AuditDraft {
    let mut draft = call.draft(org.clone(), resource(org, which));
    reason.clone_into(&mut draft.purpose);
    draft.revision = revision;
    match which {
        Revoke::Name(_) => None,
        Revoke::Subject(subject) => draft.details.insert("revoked_subject", subject.to_string()),
        Revoke::IssuedBefore(time) => draft.details.insert("issued_before_micros", time.micros().to_string()),
    };
    draft
}

#[cfg(test)]
mod tests {
    use super::{super::testing::at, *};
    use crate::domain::ids::TokenId;

    #[test]
    fn what_is_issued_up_to_now_can_be_revoked_and_nothing_that_is_to_come() {
        assert!(check_has_come(at(9), at(10)).is_ok() && check_has_come(at(10), at(10)).is_ok());
        assert_eq!(check_has_come(at(11), at(10)).unwrap_err().fields[0].field, "issued_before");
    }

    #[test]
    fn only_rows_of_tokens_that_were_live_until_then_are_counted() {
        let subject = |text: &str| Revoke::Subject(Subject::parse("subject", text).unwrap());
        let rows =
            |subject_generation| Rows::Standing { org_generation: 1, subject_generation, from: at(10), before: at(20) };
        let row = TokenRow {
            id: TokenId::parse("id", &"0".repeat(32)).unwrap(),
            subject: "a".to_owned(),
            created: at(10),
            expires: at(100),
            org_generation: 1,
            subject_generation: 2,
            revoked: None,
        };
        let hold = |row: &TokenRow, now| rows(Some(2)).hold(&subject("a"), row, at(now));
        assert!(hold(&row, 99) && hold(&TokenRow { created: at(19), ..row.clone() }, 20));
        assert!(!hold(&row, 100) && !hold(&row, 101), "expired");
        for (why, other) in [
            ("another's", TokenRow { subject: "b".to_owned(), ..row.clone() }),
            ("revoked by name", TokenRow { revoked: Some(at(1)), ..row.clone() }),
            ("of another generation", TokenRow { org_generation: 2, ..row.clone() }),
            ("of another generation of its subject", TokenRow { subject_generation: 1, ..row.clone() }),
            ("revoked by time before", TokenRow { created: at(9), ..row.clone() }),
            ("issued later", TokenRow { created: at(20), ..row.clone() }),
        ] {
            assert!(!hold(&other, 99), "{why}");
        }
        let other = TokenRow { subject: "b".to_owned(), subject_generation: 7, ..row.clone() };
        assert!(rows(None).hold(&Revoke::IssuedBefore(at(20)), &other, at(99)), "by time, whoever's it is");
        assert!(!Rows::Named.hold(&subject("a"), &row, at(99)) && !Rows::Nothing.hold(&subject("a"), &row, at(99)));
    }
}
