//! Keys and versions as attributes.

use std::time::Duration;

use super::{StoredKey, StoredVersion};
use crate::{
    domain::{
        error::Failure,
        ids::{Environment, KeyName, ProviderId, Uid},
        key::{AuthScheme, KeyKind, KeyRecord, KeyState, RotationPolicy, Stage, Version},
    },
    repository::{
        fields::{Builder, Fields, rejected},
        records::Verified,
    },
    store::Attributes,
};

pub(super) fn key_attributes(record: &KeyRecord) -> Attributes {
    Builder::new()
        .text("uid", record.uid.as_str())
        .text("org_uid", record.org_uid.as_str())
        .text("provider", record.provider.as_str())
        .text("kind", record.kind.as_str())
        .opt_text("environment", record.environment.as_ref().map(Environment::as_str))
        .text("state", record.state.as_str())
        .text("base_url", &record.base_url)
        .map("auth_scheme", scheme_attributes(&record.auth_scheme))
        .text("description", &record.description)
        .map_of_text("labels", &record.labels)
        .texts("models", &record.models)
        .opt_int("rotation_period_seconds", record.rotation.period.map(seconds))
        .opt_time("rotation_next", record.rotation.next)
        .opt_int("rotation_grace_seconds", record.rotation.grace.map(seconds))
        .time("created", record.created)
        .time("updated", record.updated)
        .opt_time("expires", record.expires)
        .opt_time("deleted", record.deleted)
        .opt_time("purges", record.purges)
        .maps("versions", record.versions.iter().map(|version| version_builder(version).build()))
        .opt_int("first_version", (record.first_version > 1).then_some(record.first_version))
        .int("last_version", record.last_version)
        .build()
}

pub(super) fn key(name: KeyName, item: Verified) -> Result<StoredKey, Failure> {
    let record = KeyRecord {
        name,
        uid: Uid::stored(item.text("uid")?),
        org_uid: Uid::stored(item.text("org_uid")?),
        provider: ProviderId::parse("provider", item.text("provider")?).map_err(|_| rejected("provider"))?,
        kind: KeyKind::from_text(item.text("kind")?).ok_or_else(|| rejected("kind"))?,
        environment: item
            .opt_text("environment")?
            .map(|text| Environment::parse("environment", text).map_err(|_| rejected("environment")))
            .transpose()?,
        state: KeyState::from_text(item.text("state")?).ok_or_else(|| rejected("state"))?,
        base_url: item.text("base_url")?.to_owned(),
        auth_scheme: scheme(item.map("auth_scheme")?)?,
        description: item.text("description")?.to_owned(),
        labels: item.map_of_text("labels")?,
        models: item.texts("models")?,
        rotation: RotationPolicy {
            period: item.opt_number("rotation_period_seconds")?.map(Duration::from_secs),
            next: item.opt_time("rotation_next")?,
            grace: item.opt_number("rotation_grace_seconds")?.map(Duration::from_secs),
        },
        created: item.time("created")?,
        updated: item.time("updated")?,
        expires: item.opt_time("expires")?,
        deleted: item.opt_time("deleted")?,
        purges: item.opt_time("purges")?,
        versions: item.maps("versions")?.into_iter().map(listed_version).collect::<Result<_, _>>()?,
        first_version: item.opt_number("first_version")?.unwrap_or(1),
        last_version: item.number("last_version")?,
        revision: item.revision(),
    };
    Ok(StoredKey { record, sealed: item.into_item().sealed })
}

pub(super) fn stored_attributes(stored: &StoredVersion) -> Attributes {
    version_builder(&stored.version).text("key_uid", stored.key_uid.as_str()).text("evidence", &stored.evidence).build()
}

pub(super) fn version(item: Verified) -> Result<StoredVersion, Failure> {
    Ok(StoredVersion {
        key_uid: Uid::stored(item.text("key_uid")?),
        version: listed_version(item.attributes())?,
        evidence: item.text("evidence")?.to_owned(),
        revision: item.revision(),
        sealed: item.into_item().sealed,
    })
}

fn version_builder(version: &Version) -> Builder {
    Builder::new()
        .int("number", version.number)
        .text("stage", version.stage.as_str())
        .text("preview", &version.preview)
        .text("fingerprint", &version.fingerprint)
        .time("created", version.created)
        .opt_time("verified", version.verified)
        .opt_time("promoted", version.promoted)
        .opt_time("retires", version.retires)
        .opt_time("destroyed", version.destroyed)
        .text("kms_key", &version.kms_key)
        .text("base_url", &version.base_url)
        .map("auth_scheme", scheme_attributes(&version.auth_scheme))
}

fn listed_version(attributes: &Attributes) -> Result<Version, Failure> {
    Ok(Version {
        number: attributes.number("number")?,
        stage: Stage::from_text(attributes.text("stage")?).ok_or_else(|| rejected("stage"))?,
        preview: attributes.text("preview")?.to_owned(),
        fingerprint: attributes.text("fingerprint")?.to_owned(),
        created: attributes.time("created")?,
        verified: attributes.opt_time("verified")?,
        promoted: attributes.opt_time("promoted")?,
        retires: attributes.opt_time("retires")?,
        destroyed: attributes.opt_time("destroyed")?,
        kms_key: attributes.text("kms_key")?.to_owned(),
        base_url: attributes.text("base_url")?.to_owned(),
        auth_scheme: scheme(attributes.map("auth_scheme")?)?,
    })
}

fn scheme_attributes(scheme: &AuthScheme) -> Attributes {
    Builder::new()
        .text("header", &scheme.header)
        .text("prefix", &scheme.prefix)
        .map_of_text("extra_headers", &scheme.extra_headers)
        .build()
}

fn scheme(attributes: &Attributes) -> Result<AuthScheme, Failure> {
    Ok(AuthScheme {
        header: attributes.text("header")?.to_owned(),
        prefix: attributes.text("prefix")?.to_owned(),
        extra_headers: attributes.map_of_text("extra_headers")?,
    })
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}
