//! Calls about many keys at once.

use tonic::{Code, IntoStreamingRequest, Streaming};

use crate::{CallError, Client, Error, RetrievedKey, pb};

impl Client {
    /// The values of at most 40 names, each as for [`Client::retrieve`], in one call. A result for
    /// each, in their order: one that is refused refuses no other. `purpose` is kept in the audit log.
    ///
    /// # Errors
    /// When the whole call is refused.
    pub async fn batch_retrieve<N: Into<String>>(
        &self,
        names: impl IntoIterator<Item = N>,
        purpose: &str,
    ) -> Result<Vec<Result<RetrievedKey, Error>>, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let count = names.len();
        let request = pb::BatchRetrieveKeysRequest { names, purpose: purpose.to_owned() };
        let results = self.key_vault().batch_retrieve_keys(request).await?.into_inner().results;
        if results.len() != count {
            return Err(Error::Contract("a result for each name"));
        }
        let retrieved = |result: pb::batch_retrieve_keys_response::Result| {
            fine(result.status)?;
            RetrievedKey::from_response(result.key.ok_or(Error::Contract("the key"))?)
        };
        Ok(results.into_iter().map(retrieved).collect())
    }

    /// Stores many keys, one for each message of `keys`, which is read as the vault takes them. Give
    /// each a `request_id`: then an import that was cut can be run again from its beginning, and
    /// stores nothing twice. Results are to be read meanwhile; while nobody does, nothing is sent.
    ///
    /// # Errors
    /// When the import is refused before its first key.
    pub async fn import_keys(
        &self,
        keys: impl IntoStreamingRequest<Message = pb::ImportKeysRequest>,
    ) -> Result<Import, Error> {
        Ok(Import { answers: self.key_vault().import_keys(keys).await?.into_inner() })
    }
}

/// An import that runs: [`Import::next`] gives its results.
#[derive(Debug)]
pub struct Import {
    answers: Streaming<pb::ImportKeysResponse>,
}

impl Import {
    /// What became of the next key; None after the last.
    ///
    /// # Errors
    /// When the import ended before its last key: run it again.
    pub async fn next(&mut self) -> Result<Option<ImportedKey>, Error> {
        self.answers.message().await?.map(ImportedKey::from_response).transpose()
    }
}

/// What became of one key of an import.
#[derive(Debug)]
pub struct ImportedKey {
    /// Which of the import's messages it is, from 0.
    pub index: u64,
    /// The key, without its value; or why it was refused.
    pub outcome: Result<Imported, Error>,
}

/// A key of an import that was not refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The key, without its value.
    pub key: pb::Key,
    /// Whether a key of its id was there, and was left as it is.
    pub is_skipped: bool,
    /// Advice.
    pub warnings: Vec<pb::Warning>,
}

impl ImportedKey {
    fn from_response(response: pb::ImportKeysResponse) -> Result<Self, Error> {
        let pb::ImportKeysResponse { index, key, status, warnings } = response;
        let index = u64::try_from(index).map_err(|_| Error::Contract("an index"))?;
        let outcome = fine(status).and_then(|reason| {
            let key = key.ok_or(Error::Contract("the key"))?;
            Ok(Imported { key, is_skipped: reason == "KEY_EXISTS", warnings })
        });
        Ok(Self { index, outcome })
    }
}

/// The reason of an item's status that is no error.
fn fine(status: Option<pb::ItemStatus>) -> Result<String, Error> {
    let status = status.ok_or(Error::Contract("a status"))?;
    if Code::from_i32(status.code) == Code::Ok { Ok(status.reason) } else { Err(CallError::from(status).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> pb::ItemStatus {
        pb::ItemStatus {
            code: Code::InvalidArgument.into(),
            reason: "INVALID_FIELD".into(),
            message: "a field is not valid".into(),
            field_violations: vec![pb::item_status::FieldViolation {
                field: "key_id".into(),
                description: "1 to 63 characters".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn stored_skipped_and_refused_are_told_apart() {
        let answer = |status, key| {
            let response = pb::ImportKeysResponse { index: 7, key, status, ..Default::default() };
            let item = ImportedKey::from_response(response).unwrap();
            assert_eq!(item.index, 7);
            item.outcome
        };
        let key = || Some(pb::Key { name: "orgs/a/keys/k".into(), ..Default::default() });
        assert!(!answer(Some(pb::ItemStatus::default()), key()).unwrap().is_skipped);
        let skipped = pb::ItemStatus { reason: "KEY_EXISTS".into(), ..Default::default() };
        assert!(answer(Some(skipped), key()).unwrap().is_skipped);
        let error = answer(Some(refused()), None).unwrap_err();
        assert_eq!((error.code(), error.reason()), (Some(Code::InvalidArgument), Some("INVALID_FIELD")));
        assert_eq!(error.field_violations()[0].field, "key_id");
        for (status, key) in [(None, key()), (Some(pb::ItemStatus::default()), None)] {
            assert!(matches!(answer(status, key), Err(Error::Contract(_))));
        }
    }
}
