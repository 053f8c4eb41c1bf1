//! The steps of a rotation one by one: verify, promote, and back. All in a row: `walk`.

use std::time::Duration;

use clap::Args;
use ibyok_client::pb;
use serde_json::json;

use super::view;
use crate::{
    failure::Failure,
    output::Output,
    session::{Session, short},
    time::{self, parse_duration},
};

#[derive(Debug, Args)]
#[command(after_help = "\
The vault never calls a provider: whoever tried the value says so. Try it first, for instance with
  ibyok run --keys openai-prod/versions/pending -- ./smoke-test
  ibyok keys verify openai-prod --evidence 'GET /v1/models 200'")]
pub(crate) struct Verify {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Number of the staged version
    #[arg(default_value = "pending")]
    staged: String,
    /// How it was tried, e.g. "GET /v1/models 200": kept with the version and in the audit log
    #[arg(long, value_name = "TEXT")]
    evidence: String,
}

pub(super) async fn verify(args: Verify, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let version = verified(session.names.version(&args.name, &args.staged), args.evidence, session).await?;
    out.show(&json!({ "version": view::version_json(&version) }), || {
        let (name, number) = (&args.name, short(&version.name));
        vec![format!("version {number} of {name} is verified; `ibyok keys promote {name} {number}` makes it current")]
    })
}

pub(super) async fn verified(name: String, evidence: String, session: &Session) -> Result<pb::KeyVersion, Failure> {
    let request = pb::VerifyKeyVersionRequest { name, evidence, ..Default::default() };
    let version = session.client.key_vault().verify_key_version(request).await?.into_inner().version;
    version.ok_or_else(|| Failure::contract("the version"))
}

#[derive(Debug, Args)]
#[command(after_help = "\
The old value stays retrievable as `previous` for the grace period; until then `ibyok keys rollback` goes back.
Examples:
  ibyok keys promote openai-prod
  ibyok keys promote openai-prod 3 --verify-evidence 'GET /v1/models 200' --grace 1h")]
pub(crate) struct Promote {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Number of the staged version
    #[arg(default_value = "pending")]
    staged: String,
    /// How it was tried, where `rotate` did not say so already
    #[arg(long, value_name = "TEXT")]
    verify_evidence: Option<String>,
    /// Make it current though nobody tried it
    #[arg(long, conflicts_with = "verify_evidence")]
    allow_unverified: bool,
    /// How long the old value stays retrievable as `previous` [default: the key's policy]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace: Option<Duration>,
}

pub(super) async fn promote(args: Promote, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let name = session.names.version(&args.name, &args.staged);
    if let Some(evidence) = args.verify_evidence {
        verified(name.clone(), evidence, session).await?;
    }
    let key = promoted(name, args.grace, args.allow_unverified, session).await?;
    out.show(&json!({ "key": view::key_json(&key) }), || vec![said_of_promoted(&key)])
}

pub(super) async fn promoted(
    name: String,
    grace: Option<Duration>,
    allow_unverified: bool,
    session: &Session,
) -> Result<pb::Key, Failure> {
    let request =
        pb::PromoteKeyVersionRequest { name, grace: grace.map(time::wire), allow_unverified, ..Default::default() };
    let key = session.client.key_vault().promote_key_version(request).await?.into_inner().key;
    key.ok_or_else(|| Failure::contract("the key"))
}

/// `version 2 of orgs/dev/keys/a is current; the old value retires in 24 h`
pub(super) fn said_of_promoted(key: &pb::Key) -> String {
    let of = |stage| key.versions.iter().find(|version| version.stage() == stage);
    let number = of(pb::VersionStage::Current).map(|current| short(&current.name)).unwrap_or_default();
    let until = of(pb::VersionStage::Previous).map(|old| time::distance(&old.retire_time, &time::now()));
    let until = until.filter(|when| !when.is_empty()).map(|when| format!("; the old value retires {when}"));
    format!("version {number} of {} is current{}", key.name, until.unwrap_or_default())
}

#[derive(Debug, Args)]
pub(crate) struct RollBack {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
}

pub(super) async fn roll_back(args: RollBack, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::RollBackKeyVersionRequest { name: session.names.key(&args.name), ..Default::default() };
    let key = session.client.key_vault().roll_back_key_version(request).await?.into_inner().key;
    let key = key.ok_or_else(|| Failure::contract("the key"))?;
    out.show(&json!({ "key": view::key_json(&key) }), || {
        vec![format!("the previous version of {} is current again", key.name)]
    })
}
