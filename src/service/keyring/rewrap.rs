//! The vault's own keys under another KMS key. What is sealed is not opened.

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use super::{
    Keyring, org_key_context, org_key_item,
    rows::{self, Place},
};
use crate::{
    domain::{
        clock::Deadline,
        error::{Failure, Reason},
        ids::{OrgId, Uid},
        secret::KmsKeyId,
    },
    envelope::SealedValue,
    repository::{
        fields::Fields as _,
        records::{Expected, Verified},
    },
    store::{Action, NewItem},
};

/// One of the vault's own keys that is under another KMS key.
pub(in crate::service) struct Stale {
    row: Verified,
    sealed: SealedValue,
    sealed_as: SealedAs,
}

/// What a row was sealed for.
enum SealedAs {
    /// The organization's fingerprint key.
    OfOrg { org_uid: Uid, kid: Uid },
    /// A key of the whole vault.
    OfSystem(Place),
}

/// How many are re-encrypted at a time.
const AT_ONCE: usize = 4;

impl Keyring {
    /// The keys of `org` that are under another KMS key than `kms_key`: its fingerprint key, and, of the
    /// organization `system`, those of the whole vault.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, STORE_UNAVAILABLE, SEALED_VALUE_REJECTED, RECORD_REJECTED.
    pub(in crate::service) async fn stale(
        &self,
        org: &OrgId,
        kms_key: &KmsKeyId,
        deadline: Deadline,
    ) -> Result<Vec<Stale>, Failure> {
        let row = self.records.get_verified(org_key_item(org), deadline).await?.ok_or(Reason::OrgNotFound)?;
        let (org_uid, kid) = (Uid::stored(row.text("org_uid")?), Uid::stored(row.text("kid")?));
        let mut keys = vec![(row, SealedAs::OfOrg { org_uid, kid })];
        if org.is_system() {
            for item in rows::read(self.records.store(), deadline).await? {
                let row = self.records.verify(item)?;
                // The marker of the vault seals nothing, nor does a key that was withdrawn.
                if let Some(place) = Place::of(&row.item().key.sort).filter(|_| row.item().sealed.is_some()) {
                    keys.push((row, SealedAs::OfSystem(place)));
                }
            }
        }
        let mut stale = Vec::new();
        for (row, sealed_as) in keys {
            let sealed = SealedValue::from_bytes(row.sealed()?)?;
            if sealed.wrapped.kms_key_id != *kms_key {
                stale.push(Stale { row, sealed, sealed_as });
            }
        }
        Ok(stale)
    }

    /// The puts that bring those keys of `org` under `kms_key`.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED, SEALED_VALUE_REJECTED.
    pub(in crate::service) async fn rewrapped(
        &self,
        org: &OrgId,
        stale: Vec<Stale>,
        kms_key: &KmsKeyId,
        deadline: Deadline,
    ) -> Result<Vec<Action>, Failure> {
        let puts: Vec<BoxFuture<'_, _>> =
            stale.into_iter().map(|key| self.rewrapped_key(org, key, kms_key, deadline).boxed()).collect();
        stream::iter(puts).buffered(AT_ONCE).try_collect().await
    }

    async fn rewrapped_key(
        &self,
        org: &OrgId,
        stale: Stale,
        kms_key: &KmsKeyId,
        deadline: Deadline,
    ) -> Result<Action, Failure> {
        let Stale { row, sealed, sealed_as } = stale;
        let context = match &sealed_as {
            SealedAs::OfOrg { org_uid, kid } => org_key_context(org, org_uid, kid),
            SealedAs::OfSystem(place) => place.context(),
        };
        let sealed = self.sealer.rewrap(sealed, &context, kms_key, deadline).await?.to_bytes();
        let item = row.item();
        let new = NewItem {
            key: item.key.clone(),
            expires: item.expires,
            sealed: Some(sealed),
            mac: None,
            attributes: item.attributes.clone(),
        };
        Ok(self.records.put(new, Expected::Revision(row.revision())))
    }
}
