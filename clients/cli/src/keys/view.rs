//! Keys as JSON and as text. No value of a key passes here: these messages hold none.

use ibyok_client::pb;
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::{
    output::{Table, fields},
    session::short,
    time,
};

/// `ACTIVE` of `KEY_STATE_ACTIVE`, in lower case.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

fn state(key: &pb::Key) -> String {
    word(key.state().as_str_name(), "KEY_STATE_")
}

fn stage(version: &pb::KeyVersion) -> String {
    stage_word(version.stage())
}

pub(super) fn stage_word(stage: pb::VersionStage) -> String {
    word(stage.as_str_name(), "VERSION_STAGE_")
}

pub(super) fn key_json(key: &pb::Key) -> Value {
    json!({
        "name": key.name,
        "uid": key.uid,
        "provider": key.provider,
        "state": state(key),
        "environment": key.environment,
        "kind": word(key.kind().as_str_name(), "KEY_KIND_"),
        "preview": key.preview,
        "fingerprint": key.fingerprint,
        "base_url": key.base_url,
        "auth_scheme": key.auth_scheme.as_ref().map(scheme_json),
        "description": key.description,
        "labels": key.labels,
        "models": key.models,
        "versions": key.versions.iter().map(version_json).collect::<Vec<_>>(),
        "rotation": key.rotation.as_ref().map(|rotation| json!({
            "period_seconds": time::json_seconds(&rotation.period),
            "next_rotation_time": time::json(&rotation.next_rotation_time),
            "grace_seconds": time::json_seconds(&rotation.grace),
        })),
        "create_time": time::json(&key.create_time),
        "update_time": time::json(&key.update_time),
        "last_used_time": time::json(&key.last_used_time),
        "expire_time": time::json(&key.expire_time),
        "delete_time": time::json(&key.delete_time),
        "purge_time": time::json(&key.purge_time),
        "cooldown": key.cooldown.as_ref().map(|cooldown| json!({
            "until": time::json(&cooldown.until),
            "reason": word(cooldown.reason().as_str_name(), "KEY_OUTCOME_"),
            "consecutive": cooldown.consecutive,
        })),
        "etag": key.etag,
    })
}

pub(super) fn version_json(version: &pb::KeyVersion) -> Value {
    json!({
        "name": version.name,
        "stage": stage(version),
        "preview": version.preview,
        "create_time": time::json(&version.create_time),
        "verify_time": time::json(&version.verify_time),
        "promote_time": time::json(&version.promote_time),
        "retire_time": time::json(&version.retire_time),
        "destroy_time": time::json(&version.destroy_time),
        "suspend_time": time::json(&version.suspend_time),
        "kms_key_id": version.kms_key_id,
        "base_url": version.base_url,
        "auth_scheme": version.auth_scheme.as_ref().map(scheme_json),
    })
}

/// How a key is shown to its provider.
pub(crate) fn scheme_json(scheme: &pb::AuthScheme) -> Value {
    json!({ "header": scheme.header, "prefix": scheme.prefix, "extra_headers": scheme.extra_headers })
}

/// Advice that never refuses.
pub(super) fn warnings_json(warnings: &[pb::Warning]) -> Value {
    warnings.iter().map(|warning| json!({ "code": warning.code, "message": warning.message })).collect()
}

pub(super) fn table(keys: &[pb::Key], now: &Timestamp) -> Table {
    let mut table = Table::new(["PROVIDER", "NAME", "STATE", "ENVIRONMENT", "PREVIEW", "LAST USED", "DESCRIPTION"]);
    for key in keys {
        table.row(vec![
            key.provider.clone(),
            short(&key.name).to_owned(),
            state(key),
            key.environment.clone(),
            key.preview.clone(),
            time::distance(&key.last_used_time, now),
            key.description.clone(),
        ]);
    }
    table
}

/// One key for people: its fields, then its versions.
pub(super) fn lines(key: &pb::Key, now: &Timestamp) -> Vec<String> {
    let labels: Vec<_> = key.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let kind = word(key.kind().as_str_name(), "KEY_KIND_");
    let mut lines = fields(&[
        ("name", key.name.clone()),
        ("provider", key.provider.clone()),
        ("state", state(key)),
        ("environment", key.environment.clone()),
        ("kind", if kind == "live" { String::new() } else { kind }),
        ("preview", key.preview.clone()),
        ("description", key.description.clone()),
        ("labels", labels.join(", ")),
        ("models", key.models.join(", ")),
        ("base url", key.base_url.clone()),
        ("header", key.auth_scheme.as_ref().map(|scheme| scheme.header.clone()).unwrap_or_default()),
        ("created", time::both(&key.create_time, now)),
        ("updated", time::both(&key.update_time, now)),
        ("last used", time::both(&key.last_used_time, now)),
        ("expires", time::both(&key.expire_time, now)),
        ("rotation due", time::both(&key.rotation.as_ref().and_then(|rotation| rotation.next_rotation_time), now)),
        ("deleted", time::both(&key.delete_time, now)),
        ("purged", time::both(&key.purge_time, now)),
        ("etag", key.etag.clone()),
    ]);
    if !key.versions.is_empty() {
        lines.push(String::new());
        lines.extend(versions(&key.versions, now).lines());
    }
    lines
}

/// What is to be rotated, and when.
pub(super) fn due_table(keys: &[pb::Key], now: &Timestamp) -> Table {
    let mut table = Table::new(["PROVIDER", "NAME", "STATE", "ENVIRONMENT", "ROTATION DUE", "DESCRIPTION"]);
    for key in keys {
        table.row(vec![
            key.provider.clone(),
            short(&key.name).to_owned(),
            state(key),
            key.environment.clone(),
            time::distance(&key.rotation.as_ref().and_then(|rotation| rotation.next_rotation_time), now),
            key.description.clone(),
        ]);
    }
    table
}

pub(super) fn consumer_json(consumer: &pb::list_key_consumers_response::Consumer) -> Value {
    json!({
        "subject": consumer.subject,
        "token_id": consumer.token_id,
        "client_identity": consumer.client_identity,
        "key_version": consumer.key_version,
        "last_retrieved_time": time::json(&consumer.last_retrieved_time),
        "holds_current": consumer.holds_current,
    })
}

pub(super) fn consumers(consumers: &[pb::list_key_consumers_response::Consumer], now: &Timestamp) -> Table {
    let mut table = Table::new(["SUBJECT", "HOLDS VERSION", "CURRENT", "LAST RETRIEVED", "CERTIFICATE", "TOKEN"]);
    for consumer in consumers {
        table.row(vec![
            consumer.subject.clone(),
            short(&consumer.key_version).to_owned(),
            if consumer.holds_current { "yes" } else { "NO" }.to_owned(),
            time::distance(&consumer.last_retrieved_time, now),
            consumer.client_identity.clone(),
            short(&consumer.token_id).to_owned(),
        ]);
    }
    table
}

pub(super) fn versions(versions: &[pb::KeyVersion], now: &Timestamp) -> Table {
    let mut table = Table::new(["VERSION", "STAGE", "PREVIEW", "CREATED", "PROMOTED", "RETIRES"]);
    for version in versions {
        table.row(vec![
            short(&version.name).to_owned(),
            stage(version),
            version.preview.clone(),
            time::distance(&version.create_time, now),
            time::distance(&version.promote_time, now),
            time::distance(&version.retire_time, now),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> pb::Key {
        pb::Key {
            name: "orgs/dev/keys/openai-prod".into(),
            provider: "openai".into(),
            state: pb::KeyState::Active.into(),
            kind: pb::KeyKind::Live.into(),
            environment: "production".into(),
            preview: "sk-pr...xK2m".into(),
            last_used_time: Some(Timestamp { seconds: 940, nanos: 0 }),
            labels: [("team".to_owned(), "search".to_owned())].into(),
            versions: vec![pb::KeyVersion {
                name: "orgs/dev/keys/openai-prod/versions/1".into(),
                stage: pb::VersionStage::Current.into(),
                preview: "sk-pr...xK2m".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }
    const NOW: Timestamp = Timestamp { seconds: 1_000, nanos: 0 };

    #[test]
    fn json_names_are_stable() {
        let json = key_json(&key());
        assert_eq!(json["state"], "active");
        assert_eq!(json["kind"], "live");
        assert_eq!(json["last_used_time"], "1970-01-01T00:15:40Z");
        assert_eq!(json["create_time"], Value::Null);
        assert_eq!(json["rotation"], Value::Null);
        assert_eq!(json["labels"]["team"], "search");
        assert_eq!(json["versions"][0]["stage"], "current");
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "auth_scheme",
                "base_url",
                "cooldown",
                "create_time",
                "delete_time",
                "description",
                "environment",
                "etag",
                "expire_time",
                "fingerprint",
                "kind",
                "labels",
                "last_used_time",
                "models",
                "name",
                "preview",
                "provider",
                "purge_time",
                "rotation",
                "state",
                "uid",
                "update_time",
                "versions"
            ]
        );
    }

    #[test]
    fn people_see_short_names_and_distances() {
        assert_eq!(
            table(&[key()], &NOW).lines(),
            [
                "PROVIDER  NAME         STATE   ENVIRONMENT  PREVIEW       LAST USED  DESCRIPTION",
                "openai    openai-prod  active  production   sk-pr...xK2m  60 s ago",
            ]
        );
        let text = lines(&key(), &NOW).join("\n");
        assert!(text.contains("labels:      team=search\n"), "{text}");
        assert!(text.contains("last used:   1970-01-01T00:15:40Z (60 s ago)\n"), "{text}");
        assert!(text.ends_with("\n1        current  sk-pr...xK2m"), "{text}");
    }
}
