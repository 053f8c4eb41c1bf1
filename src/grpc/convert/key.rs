//! Keys, versions and providers.

use std::time::Duration;

use super::{duration, own_parent, page_size, parse_duration, parse_timestamp, timestamp};
use crate::{
    domain::{
        audit::Receipt,
        clock::Timestamp,
        error::{Failure, InvalidInput},
        ids::{Environment, KeyId, ProviderId},
        key::{AuthScheme, KeyKind, KeyState, RotationPolicy, Stage, Version},
        provider::{Candidate, Confidence, Provider, Warning},
        secret::ProviderKey,
    },
    grpc::pb,
    service::{
        call::Call,
        vault::{CreateKey, KeyFilter, KeyUpdate, KeyView, ListKeys, Retrieved, VersionView},
    },
};

/// The secret in a message, which is left without it; None where there is none.
pub(in crate::grpc) fn secret(
    field: &'static str,
    value: Option<pb::SecretValue>,
) -> Result<Option<ProviderKey>, InvalidInput> {
    value.map(|mut value| ProviderKey::parse(field, std::mem::take(&mut value.text))).transpose()
}

pub(in crate::grpc) fn create_key(call: &Call, mut request: pb::CreateKeyRequest) -> Result<CreateKey, Failure> {
    let org = own_parent(call, &request.parent)?;
    let named = |text: &str| !text.is_empty();
    Ok(CreateKey {
        org,
        id: KeyId::parse("key_id", &request.key_id)?,
        secret: secret("secret", request.secret.take())?,
        provider: Some(request.provider.as_str())
            .filter(|text| named(text))
            .map(|text| ProviderId::parse("provider", text))
            .transpose()?,
        base_url: request.base_url,
        auth_scheme: request.auth_scheme.map(parse_scheme),
        description: request.description,
        labels: request.labels,
        models: request.models,
        rotation: request.rotation.map(|policy| parse_rotation(&policy)).transpose()?.unwrap_or_default(),
        ttl: request.ttl.map(|ttl| parse_duration("ttl", ttl)).transpose()?,
        environment: Some(request.environment.as_str())
            .filter(|text| named(text))
            .map(|text| Environment::parse("environment", text))
            .transpose()?,
        kind: parse_kind(request.kind)?,
        validate_only: request.validate_only,
        request_id: request.request_id,
    })
}

pub(in crate::grpc) fn list_keys(call: &Call, request: pb::ListKeysRequest) -> Result<ListKeys, Failure> {
    let org = own_parent(call, &request.parent)?;
    let filter = request.filter.unwrap_or_default();
    let providers = filter.providers.iter().map(|text| ProviderId::parse("filter.providers", text));
    let states = filter.states.iter().map(|state| parse_state(*state));
    let prefix = format!("orgs/{org}/keys/");
    let filter = KeyFilter {
        providers: providers.collect::<Result<_, _>>()?,
        states: states.collect::<Result<_, _>>()?,
        labels: filter.labels,
        name_prefix: filter.name_prefix.strip_prefix(&prefix).unwrap_or(&filter.name_prefix).to_owned(),
        not_used_since: opt_timestamp("filter.not_used_since", filter.not_used_since)?,
        rotation_due_before: opt_timestamp("filter.rotation_due_before", filter.rotation_due_before)?,
    };
    Ok(ListKeys {
        org,
        page_size: page_size(request.page_size)?,
        page_token: request.page_token,
        filter,
        show_deleted: request.show_deleted,
    })
}

/// What an update mask names, and nothing else.
pub(in crate::grpc) fn key_update(
    key: pb::Key,
    mask: Option<prost_types::FieldMask>,
) -> Result<KeyUpdate, InvalidInput> {
    const PATHS: &str = "one or more of description, labels, models, rotation; the rest never changes";
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    let names = |path: &str| paths.iter().any(|named| named == path);
    let known = ["description", "labels", "models", "rotation"];
    if paths.is_empty() || !paths.iter().all(|path| known.contains(&path.as_str())) {
        return Err(InvalidInput::new("update_mask", PATHS));
    }
    let within_key = |refused: InvalidInput| InvalidInput::new(format!("key.{}", refused.field), refused.problem);
    let rotation = names("rotation").then(|| key.rotation.as_ref().map(parse_rotation).transpose().map_err(within_key));
    Ok(KeyUpdate {
        description: names("description").then_some(key.description),
        labels: names("labels").then_some(key.labels),
        models: names("models").then_some(key.models),
        rotation: rotation.transpose()?.map(Option::unwrap_or_default),
    })
}

pub(in crate::grpc) fn parse_scheme(scheme: pb::AuthScheme) -> AuthScheme {
    AuthScheme { header: scheme.header, prefix: scheme.prefix, extra_headers: scheme.extra_headers }
}

pub(in crate::grpc) fn opt_duration(
    field: &'static str,
    span: Option<prost_types::Duration>,
) -> Result<Option<Duration>, InvalidInput> {
    span.map(|span| parse_duration(field, span)).transpose()
}

pub(super) fn opt_timestamp(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, InvalidInput> {
    time.map(|time| parse_timestamp(field, time)).transpose()
}

fn parse_rotation(policy: &pb::RotationPolicy) -> Result<RotationPolicy, InvalidInput> {
    Ok(RotationPolicy {
        period: opt_duration("rotation.period", policy.period)?,
        next: opt_timestamp("rotation.next_rotation_time", policy.next_rotation_time)?,
        grace: opt_duration("rotation.grace", policy.grace)?,
    })
}

fn parse_kind(kind: i32) -> Result<Option<KeyKind>, InvalidInput> {
    match pb::KeyKind::try_from(kind) {
        Ok(pb::KeyKind::Unspecified) => Ok(None),
        Ok(pb::KeyKind::Live) => Ok(Some(KeyKind::Live)),
        Ok(pb::KeyKind::ProviderAdmin) => Ok(Some(KeyKind::ProviderAdmin)),
        Ok(pb::KeyKind::Tripwire) => Ok(Some(KeyKind::Tripwire)),
        Err(_) => Err(InvalidInput::new("kind", "a kind of the contract")),
    }
}

fn parse_state(state: i32) -> Result<KeyState, InvalidInput> {
    match pb::KeyState::try_from(state) {
        Ok(pb::KeyState::Active) => Ok(KeyState::Active),
        Ok(pb::KeyState::Disabled) => Ok(KeyState::Disabled),
        Ok(pb::KeyState::Deleted) => Ok(KeyState::Deleted),
        _ => Err(InvalidInput::new("filter.states", "ACTIVE, DISABLED or DELETED")),
    }
}

pub(in crate::grpc) fn key(view: KeyView) -> pb::Key {
    let (record, now) = (view.record, view.as_of);
    let current = record.current();
    let version = |version: &Version| {
        let stage = version.stage_at(now);
        key_version(VersionView { name: record.name.clone(), version: Version { stage, ..version.clone() } })
    };
    pb::Key {
        name: record.full_name(),
        uid: record.uid.to_string(),
        provider: record.provider.to_string(),
        state: state(record.state).into(),
        environment: record.environment.as_ref().map(Environment::to_string).unwrap_or_default(),
        kind: kind(record.kind).into(),
        preview: current.map(|version| version.preview.clone()).unwrap_or_default(),
        fingerprint: current.map(|version| version.fingerprint.clone()).unwrap_or_default(),
        etag: if record.revision == 0 { String::new() } else { record.etag() },
        versions: record.versions.iter().rev().map(version).collect(),
        base_url: record.base_url,
        auth_scheme: Some(auth_scheme(record.auth_scheme)),
        description: record.description,
        labels: record.labels,
        models: record.models,
        rotation: rotation(record.rotation),
        create_time: Some(timestamp(record.created)),
        update_time: Some(timestamp(record.updated)),
        last_used_time: view.last_used.map(timestamp),
        expire_time: record.expires.map(timestamp),
        delete_time: record.deleted.map(timestamp),
        purge_time: record.purges.map(timestamp),
        cooldown: None,
    }
}

pub(in crate::grpc) fn key_version(view: VersionView) -> pb::KeyVersion {
    let VersionView { name, version } = view;
    pb::KeyVersion {
        name: format!("{name}/versions/{}", version.number),
        stage: stage(version.stage).into(),
        preview: version.preview,
        create_time: Some(timestamp(version.created)),
        verify_time: version.verified.map(timestamp),
        promote_time: version.promoted.map(timestamp),
        retire_time: version.retires.map(timestamp),
        destroy_time: version.destroyed.map(timestamp),
        kms_key_id: version.kms_key,
        suspend_time: None,
        base_url: version.base_url,
        auth_scheme: Some(auth_scheme(version.auth_scheme)),
    }
}

pub(in crate::grpc) fn retrieved(retrieved: Retrieved) -> pb::RetrieveKeyResponse {
    let not_modified = retrieved.secret.is_none();
    let text = |secret: ProviderKey| pb::SecretValue { text: secret.expose_secret().to_owned() };
    pb::RetrieveKeyResponse {
        secret: retrieved.secret.map(text),
        key_version: retrieved.version,
        provider: retrieved.provider,
        base_url: retrieved.base_url,
        auth_scheme: Some(auth_scheme(retrieved.auth_scheme)),
        cache_ttl: Some(duration(retrieved.cache_ttl)),
        not_modified,
        receipt: Some(receipt(retrieved.receipt)),
        mock: retrieved.is_mock,
    }
}

pub(in crate::grpc) fn warnings(warnings: &[Warning]) -> Vec<pb::Warning> {
    let warning =
        |warning: &Warning| pb::Warning { code: warning.code().to_owned(), message: warning.message().to_owned() };
    warnings.iter().map(warning).collect()
}

pub(in crate::grpc) fn candidate(found: Candidate) -> pb::detect_provider_response::Candidate {
    use pb::detect_provider_response::Confidence as Wire;
    let confidence = match found.confidence {
        Confidence::Low => Wire::Low,
        Confidence::High => Wire::High,
        Confidence::Certain => Wire::Certain,
    };
    pb::detect_provider_response::Candidate {
        provider: found.provider.to_string(),
        confidence: confidence.into(),
        matched_rule: found.rule,
    }
}

pub(in crate::grpc) fn provider(provider: Provider) -> pb::Provider {
    pb::Provider {
        id: provider.id.to_string(),
        display_name: provider.display_name,
        base_url: provider.base_url,
        auth_scheme: Some(auth_scheme(provider.auth_scheme)),
        model_patterns: provider.models,
        env_var: provider.env_var,
    }
}

fn receipt(receipt: Receipt) -> pb::AuditReceipt {
    pb::AuditReceipt {
        chain: receipt.chain,
        sequence: i64::try_from(receipt.sequence).unwrap_or(i64::MAX),
        leaf_hash: receipt.leaf_hash.to_vec(),
    }
}

fn auth_scheme(scheme: AuthScheme) -> pb::AuthScheme {
    pb::AuthScheme { header: scheme.header, prefix: scheme.prefix, extra_headers: scheme.extra_headers }
}

fn rotation(policy: RotationPolicy) -> Option<pb::RotationPolicy> {
    let is_set = policy != RotationPolicy::default();
    is_set.then(|| pb::RotationPolicy {
        period: policy.period.map(duration),
        next_rotation_time: policy.next.map(timestamp),
        grace: policy.grace.map(duration),
    })
}

fn state(state: KeyState) -> pb::KeyState {
    match state {
        KeyState::Active => pb::KeyState::Active,
        KeyState::Disabled => pb::KeyState::Disabled,
        KeyState::Deleted => pb::KeyState::Deleted,
    }
}

fn kind(kind: KeyKind) -> pb::KeyKind {
    match kind {
        KeyKind::Live => pb::KeyKind::Live,
        KeyKind::ProviderAdmin => pb::KeyKind::ProviderAdmin,
        KeyKind::Tripwire => pb::KeyKind::Tripwire,
    }
}

fn stage(stage: Stage) -> pb::VersionStage {
    match stage {
        Stage::Pending => pb::VersionStage::Pending,
        Stage::Verified => pb::VersionStage::Verified,
        Stage::Current => pb::VersionStage::Current,
        Stage::Previous => pb::VersionStage::Previous,
        Stage::Retired => pb::VersionStage::Retired,
        Stage::Destroyed => pb::VersionStage::Destroyed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
        Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() })
    }

    #[test]
    fn an_update_takes_what_its_mask_names_and_refuses_the_rest() {
        let key = || pb::Key { description: "d".to_owned(), models: vec!["m".to_owned()], ..pb::Key::default() };
        let update = key_update(key(), mask(&["description", "rotation"])).unwrap();
        assert_eq!(update.description.as_deref(), Some("d"));
        assert_eq!(update.models, None);
        assert_eq!(update.rotation, Some(RotationPolicy::default()));
        for bad in [None, mask(&[]), mask(&["*"]), mask(&["base_url"]), mask(&["description", "environment"])] {
            assert_eq!(key_update(key(), bad).unwrap_err().field, "update_mask");
        }
    }

    #[test]
    fn a_secret_leaves_its_message_empty_and_a_bad_one_is_named_by_field() {
        let value = |text: &str| Some(pb::SecretValue { text: text.to_owned() });
        assert_eq!(secret("secret", value("sk-1")).unwrap().unwrap().expose_secret(), "sk-1");
        assert!(secret("secret", None).unwrap().is_none());
        assert_eq!(secret("secret", value("")).unwrap_err().field, "secret");
    }
}
