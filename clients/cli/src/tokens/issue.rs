//! Where tokens come from. The token goes to --out, or alone to standard output; all that is said of
//! it goes elsewhere.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use ibyok_client::{AccessToken, pb};
use serde_json::json;

use super::view;
use crate::{
    args::parse_pair,
    failure::Failure,
    output::Output,
    session::Session,
    time::{self, parse_duration},
    token_file::TokenFile,
};

/// Where the token goes.
#[derive(Debug, Args)]
struct Destination {
    /// Write the token to this file, readable by you alone, rather than to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the new token may do: one grant.
#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// Resource name or pattern it is good for, e.g. orgs/acme/keys/openai-*; repeatable [default: all of the organization]
    #[arg(long = "resource", value_name = "PATTERN", requires = "scopes")]
    resources: Vec<String>,
    /// Only resources with this label; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair, requires = "scopes")]
    labels: Vec<(String, String)>,
    /// Only keys of this environment; repeatable
    #[arg(long = "environment", value_name = "NAME", requires = "scopes")]
    environments: Vec<String>,
    /// Only from this network; repeatable
    #[arg(long = "cidr", value_name = "CIDR", requires = "scopes")]
    cidrs: Vec<String>,
}

impl GrantArgs {
    /// None without scopes: the server's default.
    pub(crate) fn grants(self, scopes: Vec<String>) -> Vec<pb::Grant> {
        if scopes.is_empty() {
            return Vec::new();
        }
        vec![pb::Grant {
            scopes,
            resources: self.resources,
            labels: self.labels.into_iter().collect(),
            environments: self.environments,
            client_cidrs: self.cidrs,
        }]
    }
}

/// Without the flag nothing is asked for: in a mock organization LIVE would be refused.
pub(crate) fn mode(is_mock: bool) -> pb::TokenMode {
    if is_mock { pb::TokenMode::Mock } else { pb::TokenMode::Unspecified }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("bound").args(["certificate_sha256", "client_identity"]), after_help = "\
Example:
  ibyok tokens issue --subject billing --scope keys:read --resource 'orgs/acme/keys/openai-*' \\
    --client-identity spiffe://acme/billing --ttl 24h --out billing-token")]
pub(crate) struct Issue {
    /// For whom: a service's name
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// Scope, e.g. keys:read; repeatable, or separated by commas
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
    scopes: Vec<String>,
    #[command(flatten)]
    grant: GrantArgs,
    /// How long it lives [default: the server's, 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// How long it can be renewed for
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_ttl: Option<Duration>,
    /// How many retrievals it is good for [default: no limit]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    uses_max: i64,
    /// A mock token: every retrieval answers a made-up key
    #[arg(long)]
    mock: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Bind it to this client certificate [default: to your own identity]
    #[arg(long, value_name = "HEX", default_value = "", hide_default_value = true)]
    certificate_sha256: String,
    /// Bind it to this SPIFFE id or DNS name of a client certificate
    #[arg(long, value_name = "IDENTITY", default_value = "", hide_default_value = true)]
    client_identity: String,
    #[command(flatten)]
    to: Destination,
}

pub(super) async fn issue(args: Issue, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let to = Delivery::prepare(args.to, out)?;
    let request = pb::IssueTokenRequest {
        parent: session.names.parent(),
        subject: args.subject,
        grants: args.grant.grants(args.scopes),
        ttl: args.ttl.map(time::wire),
        max_ttl: args.max_ttl.map(time::wire),
        certificate_sha256: args.certificate_sha256,
        description: args.description,
        mode: mode(args.mock).into(),
        uses_max: args.uses_max,
        client_identity: args.client_identity,
        ..Default::default()
    };
    let answer = session.client.tokens().issue_token(request).await?.into_inner();
    to.deliver(answer.access_token, answer.token, out)
}

#[derive(Debug, Args)]
pub(crate) struct Exchange {
    /// Scope, e.g. keys:read; repeatable, or separated by commas [default: all that the binding grants]
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    #[command(flatten)]
    grant: GrantArgs,
    /// Which binding, where several match
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    binding: String,
    /// How long it lives [default: the server's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    to: Destination,
}

pub(super) async fn exchange(args: Exchange, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let parent = session.names.parent();
    if parent.is_empty() {
        return Err(Failure::usage("there is no organization to enter", "name it: --org ORG"));
    }
    let to = Delivery::prepare(args.to, out)?;
    let request = pb::ExchangeTokenRequest {
        subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
        grants: args.grant.grants(args.scopes),
        ttl: args.ttl.map(time::wire),
        parent,
        binding: args.binding,
        ..Default::default()
    };
    let answer = session.client.tokens().exchange_token(request).await?.into_inner();
    to.deliver(answer.access_token, answer.token, out)
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// How long it lives from now [default: as long as the token that you show lived from its issue]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    to: Destination,
}

pub(super) async fn renew(args: Renew, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let to = Delivery::prepare(args.to, out)?;
    let request = pb::RenewTokenRequest { ttl: args.ttl.map(time::wire), ..Default::default() };
    let answer = session.client.tokens().renew_token(request).await?.into_inner();
    to.deliver(answer.access_token, answer.token, out)
}

/// Where the token goes, made sure of before it is asked for.
enum Delivery {
    File(TokenFile, PathBuf),
    StandardOutput,
}

impl Delivery {
    fn prepare(to: Destination, out: &Output) -> Result<Self, Failure> {
        match to.out {
            Some(path) => Ok(Self::File(TokenFile::create(&path)?, path)),
            None if out.is_document() => {
                Err(Failure::usage("a document never holds a token", "add --out FILE, or leave out `-o`"))
            }
            None => Ok(Self::StandardOutput),
        }
    }

    fn deliver(self, jwt: Option<pb::SecretValue>, token: Option<pb::Token>, out: &mut Output) -> Result<(), Failure> {
        let jwt = AccessToken::from(jwt.ok_or_else(|| Failure::contract("the token"))?);
        let token = token.ok_or_else(|| Failure::contract("what the token says"))?;
        let now = time::now();
        let said =
            format!("token {} for {}, expires {}", token.name, token.subject, time::both(&token.expire_time, &now));
        match self {
            Self::File(file, path) => {
                file.keep(jwt.expose_secret())?;
                out.show(&json!({ "token": view::token_json(&token) }), || {
                    vec![said, format!("written to {}", path.display())]
                })
            }
            Self::StandardOutput => {
                out.secret(jwt.expose_secret())?;
                out.note(&said);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, testing::output};

    const CANARY: &str = "eyJ-canary";

    fn delivered(format: Format, out_file: Option<PathBuf>) -> Result<(String, String), Failure> {
        let (mut out, stdout, stderr) = output(format, false);
        let token = pb::Token { name: "orgs/dev/tokens/1".into(), subject: "svc".into(), ..Default::default() };
        let jwt = pb::SecretValue { text: CANARY.into() };
        Delivery::prepare(Destination { out: out_file }, &out)?.deliver(Some(jwt), Some(token), &mut out)?;
        Ok((stdout.text(), stderr.text()))
    }

    #[test]
    fn without_a_file_standard_output_is_the_token_alone() {
        let (stdout, stderr) = delivered(Format::Table, None).unwrap();
        assert_eq!(stdout, CANARY);
        assert!(stderr.starts_with("token orgs/dev/tokens/1 for svc"));
        assert!(!stderr.contains(CANARY));
    }

    #[test]
    fn with_a_file_no_output_holds_the_token() {
        let directory = tempfile::tempdir().unwrap();
        for format in [Format::Table, Format::Json] {
            let path = directory.path().join("token");
            let (stdout, stderr) = delivered(format, Some(path.clone())).unwrap();
            assert_eq!(std::fs::read_to_string(path).unwrap(), format!("{CANARY}\n"));
            assert!(stdout.contains("orgs/dev/tokens/1") && !stdout.contains(CANARY) && stderr.is_empty());
        }
    }

    #[test]
    fn json_never_holds_a_token() {
        assert_eq!(delivered(Format::Json, None).unwrap_err().exit, crate::failure::Exit::Usage);
    }
}
