//! ImportKeys: each item is stored as CreateKey stores a key, by a call of its own. Knows nothing of
//! streams and their order.

use super::{CreateKey, Created, KeyView, Vault};
use crate::{
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        ids::KeyName,
        key::KeyState,
        scope::Scope,
    },
    repository::keys,
    service::{
        call::Call,
        session::{Access, REOPEN_EVERY},
    },
};

/// What became of an item that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It is stored, or would be.
    Created(Created),
    /// A key of its id is there, and was left as it is.
    Skipped(KeyView),
}

impl Vault {
    /// Admits an import, before any item is there; until when the token is good as things stand.
    ///
    /// # Errors
    /// Those of sessions.
    pub async fn open_import(&self, call: &Call) -> Result<Timestamp, Failure> {
        let session = self.parts.sessions.open(call, Access::Collection(Scope::KeysWrite), &[]).await?;
        Ok(session.permit.ends())
    }

    /// Why an import that was admitted must end, once it must: an item is refused by its own
    /// session, but a stream without items has none.
    pub async fn import_ends(&self, call: Call, ends: Timestamp) -> Failure {
        self.parts.sessions.closed(call, Access::Collection(Scope::KeysWrite), ends, REOPEN_EVERY).await
    }

    /// Stores one key of an import. With `skip_existing` a key that is there is answered as it is, if
    /// this caller may change it and it is not deleted.
    ///
    /// # Errors
    /// Those of [`Self::create_key`].
    pub async fn import_key(&self, call: &Call, request: CreateKey, skip_existing: bool) -> Result<Imported, Failure> {
        let name = KeyName { org: request.org.clone(), id: request.id.clone() };
        match self.create_key(call, request).await {
            Ok(created) => Ok(Imported::Created(created)),
            Err(failure) if skip_existing && failure.reason == Reason::KeyExists => {
                self.existing(call, &name).await?.map(Imported::Skipped).ok_or(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The key that has the name, if it is there for this caller. It is read anew: it may have come
    /// after the first read, and who skips it needs no speed.
    async fn existing(&self, call: &Call, name: &KeyName) -> Result<Option<KeyView>, Failure> {
        let access = Access::Resource(Scope::KeysWrite, name.to_string());
        let session = self.parts.sessions.open(call, access, &[keys::meta_key(&name.org, &name.id)]).await?;
        let found = self.covered(&session.permit, name, super::first(session.items))?;
        let found = found.filter(|found| found.record.state != KeyState::Deleted);
        Ok(found.map(|found| self.view_used(call, found.record, None)))
    }
}
