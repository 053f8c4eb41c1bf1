//! `ibyok bindings`: who may exchange an identity for a token, and what that may do at most.

use std::time::Duration;

use clap::{Args, Subcommand};
use ibyok_client::pb::{self, identity_binding::Identity};
use serde_json::{Value, json};

use crate::{
    args::Yes,
    failure::Failure,
    output::{Output, Table},
    pages::pages,
    prompt::confirm,
    session::{Session, short},
    time::{self, parse_duration},
    tokens::{
        issue::{self, GrantArgs},
        view::grant_json,
    },
};

const PAGE_SIZE: i32 = 200;

#[derive(Debug, Subcommand)]
pub(crate) enum BindingsCommand {
    /// Let a certificate identity exchange itself for tokens
    Create(Create),
    /// List bindings
    List(List),
    /// Take a binding away; tokens that it led to live on
    Delete(Delete),
}

pub(crate) async fn run(command: BindingsCommand, session: &Session, out: &mut Output) -> Result<(), Failure> {
    match command {
        BindingsCommand::Create(create) => self::create(create, session, out).await,
        BindingsCommand::List(list) => self::list(list, session, out).await,
        BindingsCommand::Delete(delete) => self::delete(delete, session, out).await,
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ibyok bindings create billing --certificate spiffe://acme/billing --scope keys:read \\
    --resource 'orgs/acme/keys/openai-*' --ttl-max 1h
Then, with that certificate: ibyok tokens exchange --org acme --out token")]
pub(crate) struct Create {
    /// Id of the new binding
    id: String,
    /// SPIFFE id or DNS name of the client certificate; a trailing * matches the rest of one path segment
    #[arg(long, value_name = "IDENTITY")]
    certificate: String,
    /// Scope, e.g. keys:read; repeatable, or separated by commas
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
    scopes: Vec<String>,
    #[command(flatten)]
    grant: GrantArgs,
    /// The longest life of a token by this binding [default: the server's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl_max: Option<Duration>,
    /// It leads to mock tokens only
    #[arg(long)]
    mock: bool,
}

async fn create(args: Create, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::CreateIdentityBindingRequest {
        parent: session.names.parent(),
        binding: Some(pb::IdentityBinding {
            name: args.id,
            identity: Some(Identity::Certificate(args.certificate)),
            grants: args.grant.grants(args.scopes),
            mode: issue::mode(args.mock).into(),
            ttl_max: args.ttl_max.map(time::wire),
        }),
        ..Default::default()
    };
    let binding = session.client.tokens().create_identity_binding(request).await?.into_inner().binding;
    let binding = binding.ok_or_else(|| Failure::contract("the binding"))?;
    out.show(&json!({ "binding": binding_json(&binding) }), || {
        vec![format!("made {} for {}", binding.name, certificate(&binding))]
    })
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

async fn list(args: List, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request =
        pb::ListIdentityBindingsRequest { parent: session.names.parent(), page_size: PAGE_SIZE, ..Default::default() };
    let bindings = pages(args.limit, async |page_token| {
        let request = pb::ListIdentityBindingsRequest { page_token, ..request.clone() };
        let page = session.client.tokens().list_identity_bindings(request).await?.into_inner();
        Ok((page.bindings, page.next_page_token))
    });
    let bindings = bindings.await?;
    let values = bindings.iter().map(binding_json).collect();
    out.list("bindings", values, table(&bindings), "no bindings: `ibyok bindings create` makes one")
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Binding id, or orgs/{org}/bindings/{id}
    name: String,
    #[command(flatten)]
    yes: Yes,
}

async fn delete(args: Delete, session: &Session, out: &mut Output) -> Result<(), Failure> {
    confirm(&format!("Delete {}? No exchange by it succeeds from then on.", args.name), &args.yes, out)?;
    let name = session.names.binding(&args.name);
    let request = pb::DeleteIdentityBindingRequest { name: name.clone(), ..Default::default() };
    session.client.tokens().delete_identity_binding(request).await?;
    out.show(&json!({ "deleted": name }), || {
        vec![format!("deleted {name}; tokens that it led to live on: `ibyok tokens revoke --subject NAME`")]
    })
}

fn certificate(binding: &pb::IdentityBinding) -> &str {
    match &binding.identity {
        Some(Identity::Certificate(identity)) => identity,
        Some(Identity::Oidc(oidc)) => &oidc.issuer,
        None => "",
    }
}

fn binding_json(binding: &pb::IdentityBinding) -> Value {
    json!({
        "name": binding.name,
        "certificate": certificate(binding),
        "grants": binding.grants.iter().map(grant_json).collect::<Vec<_>>(),
        "mode": if binding.mode() == pb::TokenMode::Mock { "mock" } else { "live" },
        "ttl_max_seconds": time::json_seconds(&binding.ttl_max),
    })
}

fn table(bindings: &[pb::IdentityBinding]) -> Table {
    let mut table = Table::new(["ID", "CERTIFICATE", "MODE", "LONGEST", "SCOPES", "ON"]);
    for binding in bindings {
        let all = |of: fn(&pb::Grant) -> &[String]| {
            let mut words: Vec<_> = binding.grants.iter().flat_map(of).map(String::as_str).collect();
            words.sort_unstable();
            words.dedup();
            words.join(" ")
        };
        let mode = if binding.mode() == pb::TokenMode::Mock { "mock" } else { "live" };
        table.row(vec![
            short(&binding.name).to_owned(),
            certificate(binding).to_owned(),
            mode.to_owned(),
            time::span(&binding.ttl_max),
            all(|grant| &grant.scopes),
            all(|grant| &grant.resources),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_see_who_may_do_what() {
        let binding = pb::IdentityBinding {
            name: "orgs/dev/bindings/ops".into(),
            identity: Some(Identity::Certificate("spiffe://dev/ops".into())),
            grants: vec![pb::Grant {
                scopes: vec!["keys:read".into(), "keys:list".into()],
                resources: vec!["orgs/dev/**".into()],
                ..Default::default()
            }],
            mode: pb::TokenMode::Live.into(),
            ttl_max: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        };
        let lines = table(std::slice::from_ref(&binding)).lines();
        assert_eq!(lines[1], "ops  spiffe://dev/ops  live  60 min   keys:list keys:read  orgs/dev/**");
        let json = binding_json(&binding);
        assert_eq!((&json["certificate"], &json["ttl_max_seconds"]), (&"spiffe://dev/ops".into(), &3_600.into()));
        assert_eq!(json["grants"][0]["resources"][0], "orgs/dev/**");
    }
}
