//! Looking at tokens and withdrawing them.

use std::time::Duration;

use clap::{ArgGroup, Args};
use ibyok_client::pb::{self, revoke_tokens_request::Which};
use serde_json::json;

use super::view;
use crate::{
    failure::{Exit, Failure},
    output::Output,
    pages::pages,
    session::Session,
    time::{self, When, parse_duration, parse_when},
};

const PAGE_SIZE: i32 = 200;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ibyok tokens list --unused-for 30d   # what to revoke")]
pub(crate) struct List {
    /// Only tokens of this subject
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    subject: String,
    /// Expired and revoked ones too
    #[arg(long)]
    all: bool,
    /// Only tokens that were not used since: RFC 3339, or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    not_used_since: Option<When>,
    /// Only tokens that were not used for so long, or never
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, conflicts_with = "not_used_since")]
    unused_for: Option<Duration>,
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

pub(super) async fn list(args: List, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let now = time::now();
    let request = pb::ListTokensRequest {
        parent: session.names.parent(),
        page_size: PAGE_SIZE,
        subject: args.subject,
        show_inactive: args.all,
        not_used_since: args.unused_for.map(When::Ago).or(args.not_used_since).map(|when| when.before(&now)),
        ..Default::default()
    };
    let tokens = pages(args.limit, async |page_token| {
        let request = pb::ListTokensRequest { page_token, ..request.clone() };
        let page = session.client.tokens().list_tokens(request).await?.into_inner();
        Ok((page.tokens, page.next_page_token))
    });
    let tokens = tokens.await?;
    let values = tokens.iter().map(view::token_json).collect();
    out.list("tokens", values, view::table(&tokens, &now), "no tokens")
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Token id, or orgs/{org}/tokens/{id}
    name: String,
}

pub(super) async fn show(args: Show, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::GetTokenRequest { name: session.names.token(&args.name) };
    let token = session.client.tokens().get_token(request).await?.into_inner().token;
    let token = token.ok_or_else(|| Failure::contract("the token"))?;
    out.show(&json!({ "token": view::token_json(&token) }), || view::lines(&token, "", &time::now()))
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["name", "subject", "issued_before"]))]
pub(crate) struct Revoke {
    /// Token id, or orgs/{org}/tokens/{id}
    name: Option<String>,
    /// All tokens of this subject
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// All tokens of the organization issued before this: RFC 3339, or how long ago (less than
    /// 30 s: all that were issued until now)
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    issued_before: Option<When>,
    /// Why: kept in the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

pub(super) async fn revoke(args: Revoke, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let which = match (args.name, args.subject, args.issued_before) {
        (Some(name), _, _) => Which::Name(session.names.token(&name)),
        (None, Some(subject), _) => Which::Subject(subject),
        (None, None, Some(when)) => Which::IssuedBefore(when.before(&time::now())),
        (None, None, None) => return Err(Failure::usage("nothing to revoke is named", "see --help")),
    };
    let request = pb::RevokeTokensRequest {
        which: Some(which),
        reason: args.reason,
        parent: session.names.parent(),
        ..Default::default()
    };
    let revoked = session.client.tokens().revoke_tokens(request).await?.into_inner().revoked;
    let tokens = if revoked == 1 { "token" } else { "tokens" };
    out.show(&json!({ "revoked": revoked }), || vec![format!("revoked {revoked} {tokens}")])
}

pub(super) async fn whoami(session: &Session, out: &mut Output) -> Result<(), Failure> {
    let answer = session.client.tokens().introspect_token(pb::IntrospectTokenRequest::default()).await?.into_inner();
    let json = json!({
        "active": answer.active,
        "inactive_reason": answer.inactive_reason,
        "client_identity": answer.client_identity,
        "token": answer.token.as_ref().map(view::token_json),
    });
    out.show(&json, || {
        let token = answer.token.clone().unwrap_or_default();
        view::lines(&token, &answer.client_identity, &time::now())
    })?;
    if answer.active {
        return Ok(());
    }
    let happened = format!("the token is not active ({})", answer.inactive_reason);
    Err(Failure::new(Exit::NotAuthenticated, happened, "get a new one: `ibyok tokens exchange --org ORG --out FILE`"))
}
