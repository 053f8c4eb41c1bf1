//! The items of calls about many keys.

use super::{
    key::{key, retrieved, warnings},
    org::kms_key,
    own_parent, own_version,
};
use crate::{
    domain::{
        error::{Failure, Reason},
        ids::{KeyName, RequestId, VersionName},
    },
    grpc::{gate::Refused, pb, status::item_status_of, target::harmless},
    service::{
        call::Call,
        vault::{Imported, Retrieved, Rewrap, Rewrapped},
    },
};

/// The name at place `at`; its refusal names that place.
pub(in crate::grpc) fn batch_name(call: &Call, at: usize, text: &str) -> Result<VersionName, Failure> {
    own_version(call, text).map_err(|mut failure| {
        for field in &mut failure.fields {
            field.field = format!("names[{at}]").into();
        }
        failure
    })
}

/// The answer for those names, and which of them were refused.
pub(in crate::grpc) fn batch_retrieved(
    outcomes: impl Iterator<Item = (Option<KeyName>, Result<Retrieved, Failure>)>,
) -> (pb::BatchRetrieveKeysResponse, Vec<Refused>) {
    use pb::batch_retrieve_keys_response::Result as Item;
    let mut refused = Vec::new();
    let results = outcomes.map(|(name, outcome)| match outcome {
        Ok(key) => {
            let name = name.map(|name| name.to_string()).unwrap_or_default();
            Item { name, status: Some(pb::ItemStatus::default()), key: Some(retrieved(key)) }
        }
        Err(failure) => {
            let name = name.as_ref().and_then(harmless).unwrap_or_default();
            let status = Some(item_status_of(&failure));
            refused.push(Refused { resource: name.clone(), failure });
            Item { name, status, key: None }
        }
    });
    (pb::BatchRetrieveKeysResponse { results: results.collect() }, refused)
}

/// What became of the item at place `index`.
pub(in crate::grpc) fn imported(index: i64, outcome: Result<Imported, Failure>) -> pb::ImportKeysResponse {
    let (stored, status, advice) = match outcome {
        Ok(Imported::Created(created)) => (Some(created.key), pb::ItemStatus::default(), created.warnings),
        Ok(Imported::Skipped(found)) => {
            let status = pb::ItemStatus {
                reason: Reason::KeyExists.as_str().to_owned(),
                message: "skipped: a key of this id is there, and was left as it is".to_owned(),
                ..pb::ItemStatus::default()
            };
            (Some(found), status, Vec::new())
        }
        Err(failure) => (None, item_status_of(&failure), Vec::new()),
    };
    pb::ImportKeysResponse { index, key: stored.map(key), status: Some(status), warnings: warnings(&advice) }
}

/// What is to be rewrapped.
pub(in crate::grpc) fn rewrap(call: &Call, request: pb::RewrapKeysRequest) -> Result<Rewrap, Failure> {
    if !request.request_id.is_empty() {
        RequestId::parse("request_id", &request.request_id)?;
    }
    Ok(Rewrap {
        org: own_parent(call, &request.parent)?,
        kms_key: kms_key("kms_key_id", request.kms_key_id)?,
        dry_run: request.dry_run,
        resume_token: request.resume_token,
    })
}

/// How far a rewrap has come.
pub(in crate::grpc) fn rewrapped(report: Rewrapped) -> pb::RewrapKeysResponse {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let failure = |(name, failure): (String, Failure)| {
        let mut status = item_status_of(&failure);
        status.metadata.insert("name".to_owned(), name);
        status
    };
    pb::RewrapKeysResponse {
        done: count(report.done),
        total: count(report.total),
        failed: count(report.failed),
        resume_token: report.resume_token,
        failures: report.failures.into_iter().map(failure).collect(),
        rewrapped: count(report.rewrapped),
    }
}
