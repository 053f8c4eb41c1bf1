//! Looking at keys, and the one command that prints a value.

use clap::{Args, ValueEnum};
use ibyok_client::{RetrievedKey, pb};
use serde_json::json;

use super::view;
use crate::{args::parse_pair, failure::Failure, output::Output, session::Session, time};

const PAGE_SIZE: i32 = 200;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only keys of this provider; repeatable
    #[arg(long = "provider", value_name = "PROVIDER")]
    providers: Vec<String>,
    /// Only keys in this state; repeatable
    #[arg(long = "state", value_name = "STATE", value_enum)]
    states: Vec<State>,
    /// Only keys with this label; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Only keys whose id begins so
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Deleted ones too, while they can be undeleted
    #[arg(long)]
    show_deleted: bool,
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Active,
    Disabled,
    Deleted,
}

pub(super) async fn list(args: List, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let states = args.states.iter().map(|state| match state {
        State::Active => pb::KeyState::Active.into(),
        State::Disabled => pb::KeyState::Disabled.into(),
        State::Deleted => pb::KeyState::Deleted.into(),
    });
    let mut request = pb::ListKeysRequest {
        parent: session.names.parent(),
        page_size: PAGE_SIZE,
        show_deleted: args.show_deleted || args.states.iter().any(|state| matches!(state, State::Deleted)),
        filter: Some(pb::KeyFilter {
            providers: args.providers,
            states: states.collect(),
            labels: args.labels.into_iter().collect(),
            name_prefix: args.prefix,
            ..Default::default()
        }),
        ..Default::default()
    };
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut keys = Vec::new();
    loop {
        let page = session.client.key_vault().list_keys(request.clone()).await?.into_inner();
        keys.extend(page.keys);
        if page.next_page_token.is_empty() || keys.len() >= limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    keys.truncate(limit);
    let values = keys.iter().map(view::key_json).collect();
    out.list("keys", values, view::table(&keys, &time::now()), "no keys: `ibyok keys add NAME` stores one")
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
}

pub(super) async fn show(args: Show, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::GetKeyRequest { name: session.names.key(&args.name) };
    let key = session.client.key_vault().get_key(request).await?.into_inner().key;
    let key = key.ok_or_else(|| Failure::contract("the key"))?;
    out.show(&json!({ "key": view::key_json(&key) }), || view::lines(&key, &time::now()))
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Number of a version, or current, previous, pending
    #[arg(long = "version", value_name = "VERSION", id = "which")]
    which: Option<String>,
    /// What for: kept in the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    purpose: String,
    /// Print the value though standard output is a terminal
    #[arg(long)]
    reveal: bool,
}

pub(super) async fn get(args: Get, session: &Session, out: &mut Output) -> Result<(), Failure> {
    // Before the call: what is not shown is not retrieved, and leaves no record.
    if out.is_terminal() && !args.reveal {
        return Err(Failure::usage(
            "the value was not retrieved: standard output is a terminal",
            format!("pipe it to where it is used, or add --reveal: `ibyok keys get {} --reveal`", args.name),
        ));
    }
    let name = match &args.which {
        Some(version) => session.names.version(&args.name, version),
        None => session.names.key(&args.name),
    };
    let key = session.client.retrieve(&name, &args.purpose).await?;
    if key.mock {
        out.note("note: the token is a mock token, the value is made up")?;
    }
    if out.is_json() { show_json(&key, out) } else { out.secret(key.secret.expose_secret()) }
}

fn show_json(key: &RetrievedKey, out: &mut Output) -> Result<(), Failure> {
    out.json(&json!({
        "secret": key.secret.expose_secret(),
        "key_version": key.key_version,
        "provider": key.provider,
        "base_url": key.base_url,
        "auth_scheme": {
            "header": key.auth_scheme.header,
            "prefix": key.auth_scheme.prefix,
            "extra_headers": key.auth_scheme.extra_headers,
        },
        "cache_ttl_seconds": key.cache_ttl.map(|ttl| ttl.as_secs()),
        "mock": key.mock,
        "receipt": key.receipt.as_ref().map(|receipt| json!({
            "chain": receipt.chain,
            "sequence": receipt.sequence,
            "event_id": format!("{}.{}", receipt.chain, receipt.sequence),
        })),
    }))
}
