//! Storing keys and withdrawing them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use ibyok_client::pb;
use prost_types::Timestamp;
use serde_json::json;

use super::view;
use crate::{
    args::{Yes, parse_pair},
    failure::Failure,
    output::Output,
    prompt::confirm,
    secret_input,
    session::{Session, short},
    time::{self, parse_duration},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ibyok keys add openai-prod --environment production --label team=search   # asks for the value
  ibyok keys add anthropic-prod --from-file key.txt --rotate-every 90d
  ibyok keys add llama --provider ollama --no-key --base-url http://localhost:11434")]
pub(crate) struct Add {
    /// Id of the new key
    name: String,
    /// Read the value from this file
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Store an entry without a value (Ollama)
    #[arg(long, conflicts_with = "from_file")]
    no_key: bool,
    /// Provider [default: by the value's shape]
    #[arg(long, value_name = "PROVIDER", default_value = "", hide_default_value = true)]
    provider: String,
    /// production, staging, development, or a name of your own; never changes
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    environment: String,
    /// What the key is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Label; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Model it is for; repeatable
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// Where the provider is called, if not at its usual address
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    base_url: String,
    /// Header that carries the key, if not the provider's usual one
    #[arg(long, value_name = "NAME")]
    header: Option<String>,
    /// What stands before the key in that header, e.g. "Bearer "
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, requires = "header")]
    header_prefix: String,
    /// What sort of key it is
    #[arg(long, value_enum, value_name = "KIND", default_value = "live")]
    kind: Kind,
    /// Rotation is due after this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    rotate_every: Option<Duration>,
    /// The key expires after this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Only check; store nothing
    #[arg(long)]
    validate_only: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Live,
    ProviderAdmin,
    Tripwire,
}

pub(super) async fn add(args: Add, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let secret = match args.no_key {
        true => None,
        false => Some(secret_input::provider_key(args.from_file.as_deref())?.into()),
    };
    let is_stored = !args.validate_only;
    let request = pb::CreateKeyRequest { secret, parent: session.names.parent(), ..create_request(args) };
    let created = session.client.key_vault().create_key(request).await?.into_inner();
    warn(&created.warnings, out);
    let key = created.key.ok_or_else(|| Failure::contract("the key"))?;
    let json = json!({
        "key": view::key_json(&key),
        "warnings": view::warnings_json(&created.warnings),
        "stored": is_stored,
    });
    out.show(&json, || {
        let done = if is_stored { "stored" } else { "would store" };
        vec![format!("{done} {} ({}, {})", key.name, key.provider, key.preview)]
    })
}

fn create_request(args: Add) -> pb::CreateKeyRequest {
    let kind = match args.kind {
        Kind::Live => pb::KeyKind::Live,
        Kind::ProviderAdmin => pb::KeyKind::ProviderAdmin,
        Kind::Tripwire => pb::KeyKind::Tripwire,
    };
    pb::CreateKeyRequest {
        key_id: args.name,
        provider: args.provider,
        base_url: args.base_url,
        description: args.description,
        labels: args.labels.into_iter().collect(),
        models: args.models,
        rotation: args
            .rotate_every
            .map(|period| pb::RotationPolicy { period: Some(time::wire(period)), ..Default::default() }),
        ttl: args.ttl.map(time::wire),
        validate_only: args.validate_only,
        environment: args.environment,
        kind: kind.into(),
        auth_scheme: args.header.map(|header| pb::AuthScheme {
            header,
            prefix: args.header_prefix,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Shows advice beside the answer.
pub(super) fn warn(warnings: &[pb::Warning], out: &mut Output) {
    warnings.iter().for_each(|warning| out.note(&format!("warning: {} ({})", warning.message, warning.code)))
}

#[derive(Debug, Args)]
pub(crate) struct Disable {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Why: kept in the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

pub(super) async fn disable(args: Disable, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request =
        pb::DisableKeyRequest { name: session.names.key(&args.name), reason: args.reason, ..Default::default() };
    let key = session.client.key_vault().disable_key(request).await?.into_inner().key;
    changed(key, "disabled", out)
}

pub(super) async fn enable(name: &str, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::EnableKeyRequest { name: session.names.key(name), ..Default::default() };
    let key = session.client.key_vault().enable_key(request).await?.into_inner().key;
    changed(key, "enabled", out)
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// How long it can be undeleted [default: the server's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    recovery_window: Option<Duration>,
    #[command(flatten)]
    yes: Yes,
}

pub(super) async fn delete(args: Delete, session: &Session, out: &mut Output) -> Result<(), Failure> {
    confirm(&format!("Delete {}? It is refused from the next call on, and purged later.", args.name), &args.yes, out)?;
    let request = pb::DeleteKeyRequest {
        name: session.names.key(&args.name),
        recovery_window: args.recovery_window.map(time::wire),
        ..Default::default()
    };
    let key = session.client.key_vault().delete_key(request).await?.into_inner().key;
    let key = key.ok_or_else(|| Failure::contract("the key"))?;
    out.show(&json!({ "key": view::key_json(&key) }), || {
        let id = short(&key.name);
        let until = time::both(&key.purge_time, &time::now());
        vec![format!("deleted {}; until {until}: `ibyok keys undelete {id}`", key.name)]
    })
}

pub(super) async fn undelete(name: &str, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::UndeleteKeyRequest { name: session.names.key(name), ..Default::default() };
    let key = session.client.key_vault().undelete_key(request).await?.into_inner().key;
    changed(key, "undeleted; it is disabled:", out)
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ibyok keys destroy openai-old --confirm openai-old
  ibyok keys destroy openai-prod --version 3 --confirm openai-prod")]
pub(crate) struct Destroy {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Only this version, by its number
    #[arg(long = "version", value_name = "N", id = "which")]
    which: Option<String>,
    /// The same name again: nothing brings the value back
    #[arg(long, value_name = "NAME")]
    confirm: String,
}

pub(super) async fn destroy(args: Destroy, session: &Session, out: &mut Output) -> Result<(), Failure> {
    if args.confirm != args.name {
        let version = args.which.as_ref().map(|number| format!(" --version {number}")).unwrap_or_default();
        return Err(Failure::usage(
            "nothing was destroyed: --confirm does not repeat the name",
            format!("`ibyok keys destroy {0}{version} --confirm {0}`", args.name),
        ));
    }
    let name = session.full_key_name(&args.name).await?;
    let (name, destroyed, irrecoverable) = match args.which {
        Some(number) => destroy_version(&format!("{name}/versions/{number}"), "", session).await?,
        None => {
            let request = pb::DestroyKeyRequest { confirm: name.clone(), name: name.clone(), ..Default::default() };
            let done = session.client.key_vault().destroy_key(request).await?.into_inner();
            (name, done.destroy_time, done.irrecoverable_time)
        }
    };
    let json = json!({
        "name": name,
        "destroy_time": time::json(&destroyed),
        "irrecoverable_time": time::json(&irrecoverable),
    });
    out.show(&json, || {
        let gone = time::both(&irrecoverable, &time::now());
        let backups = if gone.is_empty() { gone } else { format!("; gone from backups too by {gone}") };
        vec![format!("destroyed {name}{backups}")]
    })
}

/// The version, when it was destroyed, and when no backup brings it back. With an `etag` only while
/// the key's is still that one.
pub(super) async fn destroy_version(
    name: &str,
    etag: &str,
    session: &Session,
) -> Result<(String, Option<Timestamp>, Option<Timestamp>), Failure> {
    let (name, etag) = (name.to_owned(), etag.to_owned());
    let request = pb::DestroyKeyVersionRequest { confirm: name.clone(), name, etag, ..Default::default() };
    let done = session.client.key_vault().destroy_key_version(request).await?.into_inner();
    let version = done.version.ok_or_else(|| Failure::contract("the version"))?;
    Ok((version.name, version.destroy_time, done.irrecoverable_time))
}

fn changed(key: Option<pb::Key>, done: &str, out: &mut Output) -> Result<(), Failure> {
    let key = key.ok_or_else(|| Failure::contract("the key"))?;
    out.show(&json!({ "key": view::key_json(&key) }), || vec![format!("{done} {}", key.name)])
}
