//! Looking at keys, and the one command that prints a value.

use std::time::Duration;

use clap::{Args, ValueEnum};
use ibyok_client::{RetrievedKey, pb};
use prost_types::Timestamp;
use serde_json::json;

use super::view;
use crate::{
    args::parse_pair,
    failure::Failure,
    output::Output,
    pages::pages,
    session::Session,
    time::{self, parse_duration},
};

const PAGE_SIZE: i32 = 200;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ibyok keys list --provider openai --label team=search
  ibyok keys list --unused-for 90d          # what to clean up
  ibyok keys list --rotation-due 14d        # due within two weeks; without a span: overdue")]
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
    /// Only keys that were not retrieved for so long, or never
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    unused_for: Option<Duration>,
    /// Only keys whose rotation is due, or will be within SPAN
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, num_args = 0..=1, default_missing_value = "0s")]
    rotation_due: Option<Duration>,
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

impl List {
    fn filter(self, now: &Timestamp) -> pb::KeyFilter {
        let states = self.states.iter().map(|state| match state {
            State::Active => pb::KeyState::Active.into(),
            State::Disabled => pb::KeyState::Disabled.into(),
            State::Deleted => pb::KeyState::Deleted.into(),
        });
        pb::KeyFilter {
            states: states.collect(),
            providers: self.providers,
            labels: self.labels.into_iter().collect(),
            name_prefix: self.prefix,
            not_used_since: self.unused_for.map(|span| time::before(now, span)),
            rotation_due_before: self.rotation_due.map(|span| time::after(now, span)),
        }
    }
}

pub(super) async fn list(args: List, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let (limit, now) = (args.limit, time::now());
    let is_by_due_date = args.rotation_due.is_some();
    let request = pb::ListKeysRequest {
        parent: session.names.parent(),
        page_size: PAGE_SIZE,
        show_deleted: args.show_deleted || args.states.iter().any(|state| matches!(state, State::Deleted)),
        filter: Some(args.filter(&now)),
        ..Default::default()
    };
    let keys = pages(limit, async |page_token| {
        let request = pb::ListKeysRequest { page_token, ..request.clone() };
        let page = session.client.key_vault().list_keys(request).await?.into_inner();
        Ok((page.keys, page.next_page_token))
    });
    let keys = keys.await?;
    let values = keys.iter().map(view::key_json).collect();
    let table = if is_by_due_date { view::due_table(&keys, &now) } else { view::table(&keys, &now) };
    out.list("keys", values, table, "no keys: `ibyok keys add NAME` stores one")
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
pub(crate) struct Versions {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

pub(super) async fn versions(args: Versions, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::ListKeyVersionsRequest {
        parent: session.names.key(&args.name),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let versions = pages(args.limit, async |page_token| {
        let request = pb::ListKeyVersionsRequest { page_token, ..request.clone() };
        let page = session.client.key_vault().list_key_versions(request).await?.into_inner();
        Ok((page.versions, page.next_page_token))
    });
    let versions = versions.await?;
    let values = versions.iter().map(view::version_json).collect();
    out.list("versions", values, view::versions(&versions, &time::now()), "no versions: the entry keeps no value")
}

#[derive(Debug, Args)]
#[command(after_help = "\
Use it before a version is retired: a consumer that does not hold the current version breaks then.
Example:
  ibyok keys consumers openai-prod")]
pub(crate) struct Consumers {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
}

pub(super) async fn consumers(args: Consumers, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let Known { consumers, as_of, is_truncated } = all_consumers(&args.name, session).await?;
    if out.is_document() {
        let values: Vec<_> = consumers.iter().map(view::consumer_json).collect();
        let as_of = time::json(&as_of);
        return out.document(&json!({ "consumers": values, "as_of_time": as_of, "truncated": is_truncated }));
    }
    if is_truncated {
        out.note("note: there were more consumers than are kept; some are missing here");
    }
    let table = view::consumers(&consumers, &time::now());
    out.list("consumers", Vec::new(), table, "no consumers: nobody retrieved it yet")
}

/// Who retrieved a key, and which version last.
pub(super) struct Known {
    pub(super) consumers: Vec<pb::list_key_consumers_response::Consumer>,
    /// What was handed out before then is in it; None: not known.
    pub(super) as_of: Option<Timestamp>,
    /// Some are missing.
    pub(super) is_truncated: bool,
}

pub(super) async fn all_consumers(key: &str, session: &Session) -> Result<Known, Failure> {
    let mut request =
        pb::ListKeyConsumersRequest { name: session.names.key(key), page_size: PAGE_SIZE, ..Default::default() };
    let first = session.client.key_vault().list_key_consumers(request.clone()).await?.into_inner();
    let mut known = Known { consumers: first.consumers, as_of: first.as_of_time, is_truncated: first.truncated };
    request.page_token = first.next_page_token;
    while !request.page_token.is_empty() {
        let page = session.client.key_vault().list_key_consumers(request.clone()).await?.into_inner();
        known.consumers.extend(page.consumers);
        known.is_truncated |= page.truncated;
        request.page_token = page.next_page_token;
    }
    Ok(known)
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ibyok keys get openai-prod --purpose 'local test' | some-program
  ibyok keys get openai-prod --version previous --reveal")]
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
        out.note("note: the token is a mock token, the value is made up");
    }
    if out.is_document() { show_json(&key, out) } else { out.secret(key.secret.expose_secret()) }
}

fn show_json(key: &RetrievedKey, out: &mut Output) -> Result<(), Failure> {
    out.document(&json!({
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
