//! A new value without downtime: stage, verify, promote; and back.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use ibyok_client::pb;
use serde_json::json;

use super::{view, write::warn};
use crate::{
    failure::Failure,
    output::Output,
    secret_input,
    session::{Session, short},
    time::{self, parse_duration},
};

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Read the new value from this file
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// How the new value was tried, e.g. "GET /v1/models 200": kept with the version
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["allow_unverified", "no_promote"])]
    verify_evidence: Option<String>,
    /// Make it current though nobody tried it
    #[arg(long, conflicts_with_all = ["verify_evidence", "no_promote"])]
    allow_unverified: bool,
    /// Stage it only; `keys promote` makes it current later
    #[arg(long)]
    no_promote: bool,
    /// How long the old value stays retrievable as `previous` [default: the key's policy]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "no_promote")]
    grace: Option<Duration>,
    /// New base URL of the provider, which belongs to the new value
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    base_url: String,
}

pub(super) async fn rotate(args: Rotate, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let secret = secret_input::provider_key(args.from_file.as_deref())?;
    let request = pb::AddKeyVersionRequest {
        name: session.names.key(&args.name),
        secret: Some(secret.into()),
        base_url: args.base_url,
        ..Default::default()
    };
    let staged = session.client.key_vault().add_key_version(request).await?.into_inner();
    warn(&staged.warnings, out)?;
    let mut version = staged.version.ok_or_else(|| Failure::contract("the version"))?;
    let number = short(&version.name).to_owned();
    let promotion =
        Promotion { evidence: args.verify_evidence, grace: args.grace, allow_unverified: args.allow_unverified };
    let promoted = if args.no_promote {
        promotion.verify(&version.name, session).await.map(|verified| {
            if let Some(verified) = verified {
                version = verified;
            }
            None
        })
    } else {
        promotion.run(&version.name, session).await.map(Some)
    };
    match promoted {
        Ok(Some(key)) => show_promoted(&key, &number, out),
        Ok(None) => out.show(&json!({ "version": view::version_json(&version) }), || {
            let name = &args.name;
            vec![format!("staged version {number} of {name}; `ibyok keys promote {name} {number}` makes it current")]
        }),
        Err(failure) => {
            let name = &args.name;
            out.note(&format!(
                "note: version {number} is staged; when this is settled: `ibyok keys promote {name} {number}`"
            ))?;
            Err(failure)
        }
    }
}

#[derive(Debug, Args)]
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
    let promotion =
        Promotion { evidence: args.verify_evidence, grace: args.grace, allow_unverified: args.allow_unverified };
    let key = promotion.run(&session.names.version(&args.name, &args.staged), session).await?;
    show_promoted(&key, &args.staged, out)
}

/// From a staged version to the current one.
struct Promotion {
    evidence: Option<String>,
    grace: Option<Duration>,
    allow_unverified: bool,
}

impl Promotion {
    async fn run(self, name: &str, session: &Session) -> Result<pb::Key, Failure> {
        self.verify(name, session).await?;
        let request = pb::PromoteKeyVersionRequest {
            name: name.to_owned(),
            grace: self.grace.map(time::wire),
            allow_unverified: self.allow_unverified,
            ..Default::default()
        };
        let key = session.client.key_vault().promote_key_version(request).await?.into_inner().key;
        key.ok_or_else(|| Failure::contract("the key"))
    }

    async fn verify(&self, name: &str, session: &Session) -> Result<Option<pb::KeyVersion>, Failure> {
        let Some(evidence) = self.evidence.clone() else { return Ok(None) };
        let request = pb::VerifyKeyVersionRequest { name: name.to_owned(), evidence, ..Default::default() };
        Ok(session.client.key_vault().verify_key_version(request).await?.into_inner().version)
    }
}

fn show_promoted(key: &pb::Key, version: &str, out: &mut Output) -> Result<(), Failure> {
    let now = time::now();
    let is_previous = |version: &&pb::KeyVersion| version.stage() == pb::VersionStage::Previous;
    let retires = key.versions.iter().find(is_previous).map(|previous| time::distance(&previous.retire_time, &now));
    out.show(&json!({ "key": view::key_json(key) }), || {
        let until = retires.filter(|when| !when.is_empty()).map(|when| format!("; the old value retires {when}"));
        vec![format!("version {version} of {} is current{}", key.name, until.unwrap_or_default())]
    })
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
