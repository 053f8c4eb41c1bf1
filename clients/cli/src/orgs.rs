//! `ibyok orgs`: the isolation boundaries. Only tokens of the organization `system` may.

use clap::{ArgGroup, Args, Subcommand};
use ibyok_client::pb;
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure},
    output::{Output, Table, fields},
    session::{Session, short},
    time,
};

const PAGE_SIZE: i32 = 200;
const CREATE_HELP: &str = "\
Whoever holds a certificate of the admin identity then gets a token of every scope of the organization:
  ibyok tokens exchange --org acme --out token
Example:
  ibyok orgs create acme --admin-identity spiffe://acme/ops --display-name 'ACME Inc.'";

#[derive(Debug, Subcommand)]
pub(crate) enum OrgsCommand {
    /// Make an organization, and the binding by which its admin enters it
    Create(Create),
    /// List organizations, `system` among them
    List(List),
    /// Show one organization
    Show(Show),
    /// Change an organization's display name or KMS key
    Update(Update),
}

pub(crate) async fn run(command: OrgsCommand, session: &Session, out: &mut Output) -> Result<(), Failure> {
    match command {
        OrgsCommand::Create(create) => self::create(create, session, out).await,
        OrgsCommand::List(list) => self::list(list, session, out).await,
        OrgsCommand::Show(show) => self::show(&show, session, out).await,
        OrgsCommand::Update(update) => self::update(update, session, out).await,
    }
}

#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub(crate) struct Create {
    /// Id of the new organization
    id: String,
    /// SPIFFE id or DNS name of the client certificate that gets every scope of it
    #[arg(long, value_name = "IDENTITY")]
    admin_identity: String,
    /// Name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// KMS key of its own [default: the server's]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    kms_key: String,
    /// Its retrievals answer made-up values; never changes
    #[arg(long)]
    mock: bool,
}

async fn create(args: Create, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = pb::CreateOrgRequest {
        org_id: args.id,
        org: Some(pb::Org {
            display_name: args.display_name,
            kms_key_id: args.kms_key,
            mock: args.mock,
            ..Default::default()
        }),
        admin_identity: args.admin_identity.clone(),
        ..Default::default()
    };
    let org = session.client.admin().create_org(request).await?.into_inner().org;
    let org = org.ok_or_else(|| Failure::contract("the organization"))?;
    out.show(&json!({ "org": org_json(&org) }), || {
        let id = short(&org.name);
        vec![format!(
            "made {}; with a certificate of {}: `ibyok tokens exchange --org {id} --out FILE`",
            org.name, args.admin_identity
        )]
    })
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

async fn list(args: List, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut orgs = Vec::new();
    let limit = args.limit.unwrap_or(usize::MAX);
    each_page(session, |page| {
        orgs.extend(page);
        orgs.len() < limit
    })
    .await?;
    orgs.truncate(limit);
    let now = time::now();
    let mut table = Table::new(["ID", "DISPLAY NAME", "KMS KEY", "MOCK", "CREATED"]);
    for org in &orgs {
        table.row(vec![
            short(&org.name).to_owned(),
            org.display_name.clone(),
            org.kms_key_id.clone(),
            if org.mock { "yes".to_owned() } else { String::new() },
            time::distance(&org.create_time, &now),
        ]);
    }
    out.list("orgs", orgs.iter().map(org_json).collect(), table, "no organizations")
}

/// Pages, until `takes` wants no more.
async fn each_page(session: &Session, mut takes: impl FnMut(Vec<pb::Org>) -> bool) -> Result<(), Failure> {
    let mut request = pb::ListOrgsRequest { page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = session.client.admin().list_orgs(request.clone()).await?.into_inner();
        if !takes(page.orgs) || page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Organization id
    id: String,
}

/// The contract has no call for one organization: the listing has it.
async fn show(args: &Show, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut found = None;
    each_page(session, |page| {
        found = page.into_iter().find(|org| short(&org.name) == short(&args.id));
        found.is_none()
    })
    .await?;
    let org = found.ok_or_else(|| {
        Failure::new(Exit::NotFound, "there is no such organization", "`ibyok orgs list` shows those there are")
    })?;
    out.show(&json!({ "org": org_json(&org) }), || lines(&org))
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(["display_name", "kms_key"]), after_help = "\
Stored values stay under the KMS key that they were sealed with, new ones get the new one.
Example:
  ibyok orgs update acme --display-name 'ACME Inc.'")]
pub(crate) struct Update {
    /// Organization id
    id: String,
    /// Name for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// KMS key of its own; empty: the server's
    #[arg(long, value_name = "ID")]
    kms_key: Option<String>,
}

async fn update(args: Update, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let named = [("display_name", args.display_name.is_some()), ("kms_key_id", args.kms_key.is_some())];
    let paths = named.into_iter().filter(|(_, is_given)| *is_given).map(|(path, _)| path.to_owned());
    let request = pb::UpdateOrgRequest {
        update_mask: Some(prost_types::FieldMask { paths: paths.collect() }),
        org: Some(pb::Org {
            name: format!("orgs/{}", short(&args.id)),
            display_name: args.display_name.unwrap_or_default(),
            kms_key_id: args.kms_key.unwrap_or_default(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let org = session.client.admin().update_org(request).await?.into_inner().org;
    let org = org.ok_or_else(|| Failure::contract("the organization"))?;
    out.show(&json!({ "org": org_json(&org) }), || lines(&org))
}

fn org_json(org: &pb::Org) -> Value {
    json!({
        "name": org.name,
        "display_name": org.display_name,
        "kms_key_id": org.kms_key_id,
        "mock": org.mock,
        "create_time": time::json(&org.create_time),
    })
}

fn lines(org: &pb::Org) -> Vec<String> {
    fields(&[
        ("name", org.name.clone()),
        ("display name", org.display_name.clone()),
        ("kms key", org.kms_key_id.clone()),
        ("mock", if org.mock { "yes".to_owned() } else { String::new() }),
        ("created", time::both(&org.create_time, &time::now())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_are_stable() {
        let org = pb::Org { name: "orgs/acme".into(), display_name: "ACME".into(), ..Default::default() };
        assert_eq!(
            org_json(&org).to_string(),
            r#"{"create_time":null,"display_name":"ACME","kms_key_id":"","mock":false,"name":"orgs/acme"}"#
        );
        assert_eq!(lines(&org), ["name:         orgs/acme", "display name: ACME"]);
    }
}
