//! The vault's own keys under another KMS key. What is sealed is not opened.

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
    envelope::{SealContext, SealedValue},
    repository::{
        fields::Fields as _,
        records::{Expected, Verified},
    },
    store::{Action, NewItem},
};

impl Keyring {
    /// The puts that bring the keys of `org` under `to_key`: its fingerprint key, and, of the
    /// organization `system`, those of the whole vault. What is under it already has none.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, STORE_UNAVAILABLE, KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED,
    /// SEALED_VALUE_REJECTED, RECORD_REJECTED.
    pub async fn rewrapped(&self, org: &OrgId, to_key: &KmsKeyId, deadline: Deadline) -> Result<Vec<Action>, Failure> {
        let row = self.records.get_verified(org_key_item(org), deadline).await?.ok_or(Reason::OrgNotFound)?;
        let (org_uid, kid) = (Uid::stored(row.text("org_uid")?), Uid::stored(row.text("kid")?));
        let context = org_key_context(org, &org_uid, &kid);
        let mut puts: Vec<_> = self.rewrapped_row(&row, &context, to_key, deadline).await?.into_iter().collect();
        if org.is_system() {
            for item in rows::read(self.records.store(), deadline).await? {
                let row = self.records.verify(item)?;
                // The marker of the vault seals nothing, nor does a key that was withdrawn.
                let Some(place) = Place::of(&row.item().key.sort).filter(|_| row.item().sealed.is_some()) else {
                    continue;
                };
                puts.extend(self.rewrapped_row(&row, &place.context(), to_key, deadline).await?);
            }
        }
        Ok(puts)
    }

    async fn rewrapped_row(
        &self,
        row: &Verified,
        context: &SealContext<'_>,
        to_key: &KmsKeyId,
        deadline: Deadline,
    ) -> Result<Option<Action>, Failure> {
        let sealed = SealedValue::from_bytes(row.sealed()?)?;
        if sealed.wrapped.kms_key_id == *to_key {
            return Ok(None);
        }
        let sealed = self.sealer.rewrap(sealed, context, to_key, deadline).await?.to_bytes();
        let item = row.item();
        let new = NewItem {
            key: item.key.clone(),
            expires: item.expires,
            sealed: Some(sealed),
            mac: None,
            attributes: item.attributes.clone(),
        };
        Ok(Some(self.records.put(new, Expected::Revision(row.revision()))))
    }
}
