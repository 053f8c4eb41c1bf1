//! BatchRetrieveKeys: one read for all names, then their records in one batch, and the KMS at once;
//! no value leaves before the record of it is durable. Each name is decided as RetrieveKey decides.

use std::sync::Arc;

use futures_util::{StreamExt as _, future::BoxFuture, stream};

use super::{
    Vault,
    retrieve::{Chosen, Retrieved, retrieval, unread_version},
};
use crate::{
    authz::permit::Permit,
    domain::{
        audit::{Action, AuditDraft, Receipt},
        error::{Failure, Reason},
        ids::{VersionName, VersionSelector},
        key::{KeyKind, input},
        scope::Scope,
        secret::ProviderKey,
        token::TokenMode,
    },
    repository::{
        keys::{self, StoredKey},
        tokens::Uses,
    },
    service::{call::Call, session::Access},
    store::{Item, ItemKey, SharedItem},
};

/// The most names of one call: with its session, its reads fit into one of the store's.
pub const NAMES_MAX: usize = 40;
/// The most data keys of one call that are unwrapped at a time.
const UNWRAPS_MAX: usize = 8;

/// Several values are asked for.
#[derive(Debug)]
pub struct BatchRetrieve {
    /// Which; what is no name of a key keeps its refusal.
    pub names: Vec<Result<VersionName, Failure>>,
    /// What for; kept in the audit log.
    pub purpose: String,
}

/// A key that may be read, and the version that is meant.
struct Found {
    stored: Arc<StoredKey>,
    number: u32,
    own: Option<Item>,
}

impl Vault {
    /// Decrypts one version of each name just in time; one refusal does not refuse the others. A
    /// name that stands twice is answered twice, with a record and a use each.
    ///
    /// # Errors
    /// INVALID_FIELD, AUDIT_UNAVAILABLE; those of sessions. In the place of a name: those of
    /// [`Self::retrieve_key`]; ADMIN_KEY_NEEDS_SCOPE for every administration key.
    pub async fn batch_retrieve(
        &self,
        call: &Call,
        request: BatchRetrieve,
    ) -> Result<Vec<Result<Retrieved, Failure>>, Failure> {
        if !(1..=NAMES_MAX).contains(&request.names.len()) {
            return Err(Failure::invalid("names", "1 to 40 names"));
        }
        input::check_text("purpose", &request.purpose, 256)?;
        let names: Vec<_> = request.names.into_iter().map(|name| own_name(call, name)).collect();
        let needs: Vec<_> = names.iter().flatten().flat_map(needs).collect();
        let session = self.parts.sessions.open_shared(call, Access::Identity, &needs).await?;
        let permit = &session.permit;
        let mut items = session.items.into_iter();
        let found = names.into_iter().map(|name| {
            let name = name?;
            let meta = items.next().flatten();
            let own = if is_numbered(&name) { items.next().flatten() } else { None };
            self.find(call, permit, &name, meta.as_ref(), own.map(SharedItem::into_item))
        });
        let found = found.collect();
        let ready = self.read_others(call, found).await?;
        self.hand_out(call, permit, session.uses, ready, &request.purpose).await
    }

    /// The key that `name` means, if it may be read: scope, resource and network first.
    fn find(
        &self,
        call: &Call,
        permit: &Permit,
        name: &VersionName,
        meta: Option<&SharedItem>,
        own: Option<Item>,
    ) -> Result<Found, Failure> {
        let access = Access::Resource(Scope::KeysRead, name.key.to_string());
        let permit = permit.narrowed(&call.peer, &access)?;
        let now = self.parts.clock.now();
        let stored = self.readable(&permit, &name.key, meta, now)?;
        if stored.record.kind == KeyKind::ProviderAdmin {
            return Err(Failure::new(Reason::AdminKeyNeedsScope).with("scope", Scope::KeysReadAdmin.as_str()));
        }
        let number = stored.record.select(name.version, now)?;
        Ok(Found { stored, number, own })
    }

    /// Reads, at once, the versions that did not come with their keys; most calls have none.
    async fn read_others(
        &self,
        call: &Call,
        mut found: Vec<Result<Found, Failure>>,
    ) -> Result<Vec<Result<Chosen, Failure>>, Failure> {
        let unread = |found: &Found| unread_version(&found.stored.record, found.number, found.own.as_ref());
        let mut others: Vec<ItemKey> = found.iter().flatten().filter_map(unread).collect();
        others.sort();
        others.dedup();
        if !others.is_empty() {
            let items = self.parts.records.get_each(&others, call.deadline).await?;
            for place in &mut found {
                let key = place.as_ref().ok().and_then(unread);
                let at = key.and_then(|key| others.iter().position(|other| *other == key));
                let item = at.and_then(|at| items.get(at));
                match (item, place) {
                    (Some(Ok(item)), Ok(found)) => found.own.clone_from(item),
                    (Some(Err(failure)), place) => *place = Err(failure.reason.into()),
                    _ => {}
                }
            }
        }
        let now = self.parts.clock.now();
        let ready = |found: Found| self.choose(found.stored, found.number, found.own, now);
        Ok(found.into_iter().map(|found| found.and_then(ready)).collect())
    }

    /// Writes the records and opens the values.
    async fn hand_out(
        &self,
        call: &Call,
        permit: &Permit,
        uses: Option<Uses>,
        ready: Vec<Result<Chosen, Failure>>,
        purpose: &str,
    ) -> Result<Vec<Result<Retrieved, Failure>>, Failure> {
        let is_mock = permit.mode() == TokenMode::Mock;
        let draft = |ready: &Chosen| {
            let draft = retrieval(call, ready.record(), ready.number, purpose);
            if is_mock { AuditDraft { action: Action::KeyRetrieveMock, ..draft } } else { draft }
        };
        let (receipts, mut values) = if uses.is_some() {
            let receipts = self.spend_each(call, permit, uses, &ready, draft).await;
            let counted = ready.iter().flatten().zip(&receipts).filter(|(_, receipt)| receipt.is_ok());
            let values = self.values(call, counted.map(|(ready, _)| ready), is_mock).await;
            (receipts, values)
        } else {
            let drafts = ready.iter().flatten().map(draft).collect();
            let recording = self.parts.audit.append_all(drafts, call.deadline);
            let (receipts, values) = tokio::join!(recording, self.values(call, ready.iter().flatten(), is_mock));
            (receipts?.into_iter().map(Ok).collect(), values)
        };
        let mut receipts = receipts.into_iter();
        let mut release = |ready: Chosen| {
            let receipt = receipts.next().ok_or(Reason::Internal)??;
            match values.next().ok_or(Reason::Internal)? {
                Ok(secret) => self.retrieved(&ready, Some(secret), is_mock, receipt),
                Err(failure) => Err(self.unopened(failure, draft(&ready), &receipt)),
            }
        };
        Ok(ready.into_iter().map(|ready| ready.and_then(&mut release)).collect())
    }

    /// The records of a limited token's releases, in order, each with its use: who has one left gets
    /// the first.
    async fn spend_each(
        &self,
        call: &Call,
        permit: &Permit,
        mut uses: Option<Uses>,
        ready: &[Result<Chosen, Failure>],
        draft: impl Fn(&Chosen) -> AuditDraft,
    ) -> Vec<Result<Receipt, Failure>> {
        let mut receipts = Vec::with_capacity(ready.len());
        for ready in ready.iter().flatten() {
            receipts.push(self.record(call, permit, &mut uses, draft(ready)).await);
        }
        receipts
    }

    /// The values of those, in order, some at a time.
    async fn values<'a>(
        &self,
        call: &Call,
        ready: impl Iterator<Item = &'a Chosen>,
        is_mock: bool,
    ) -> std::vec::IntoIter<Result<ProviderKey, Failure>> {
        let value = |ready: &'a Chosen| -> BoxFuture<'_, Result<ProviderKey, Failure>> {
            if is_mock {
                let made_up = self.made_up(ready.record(), ready.number);
                return Box::pin(std::future::ready(made_up));
            }
            Box::pin(self.open(call, ready))
        };
        let opening: Vec<_> = ready.map(value).collect();
        let values: Vec<_> = stream::iter(opening).buffered(UNWRAPS_MAX).collect().await;
        values.into_iter()
    }
}

/// The name, if it is of the caller's organization.
fn own_name(call: &Call, name: Result<VersionName, Failure>) -> Result<VersionName, Failure> {
    let name = name?;
    call.own(&name.key.org, Reason::KeyNotFound)?;
    Ok(name)
}

/// What is read of a name at first: as of RetrieveKey.
fn needs(name: &VersionName) -> impl Iterator<Item = ItemKey> {
    let (org, id) = (&name.key.org, &name.key.id);
    let own = match name.version {
        VersionSelector::Number(number) => Some(keys::version_key(org, id, number)),
        _ => None,
    };
    [keys::meta_key(org, id)].into_iter().chain(own)
}

fn is_numbered(name: &VersionName) -> bool {
    matches!(name.version, VersionSelector::Number(_))
}
