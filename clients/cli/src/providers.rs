//! `ibyok providers`: the vault's table of providers, and what a key's shape says.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ibyok_client::pb::{self, detect_provider_request::Subject, detect_provider_response::Candidate};
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure},
    keys::view::word,
    output::{Output, Table},
    secret_input,
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ProvidersCommand {
    /// Tell which provider a key belongs to; the key comes from standard input, --from-file, or a prompt
    Detect(Detect),
    /// List providers: where they are, how they want a key, which variable their SDKs read
    List,
}

pub(crate) async fn run(command: ProvidersCommand, session: &Session, out: &mut Output) -> Result<(), Failure> {
    match command {
        ProvidersCommand::Detect(detect) => self::detect(detect, session, out).await,
        ProvidersCommand::List => list(session, out).await,
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
The key is judged by its shape and kept nowhere. Exits 5 when nothing matches.
Examples:
  ibyok providers detect < key.txt
  ibyok providers detect --model claude-sonnet-4")]
pub(crate) struct Detect {
    /// Read the key from this file
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Judge this model id instead of a key
    #[arg(long, value_name = "MODEL", conflicts_with = "from_file")]
    model: Option<String>,
}

async fn detect(args: Detect, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let subject = match args.model {
        Some(model) => Subject::Model(model),
        None => Subject::Secret(secret_input::provider_key(args.from_file.as_deref())?.into()),
    };
    let request = pb::DetectProviderRequest { subject: Some(subject) };
    let candidates = session.client.key_vault().detect_provider(request).await?.into_inner().candidates;
    let mut table = Table::new(["PROVIDER", "CONFIDENCE", "RULE"]);
    for candidate in &candidates {
        table.row(vec![candidate.provider.clone(), confidence(candidate), candidate.matched_rule.clone()]);
    }
    let values: Vec<_> = candidates.iter().map(candidate_json).collect();
    if candidates.is_empty() {
        if out.is_document() {
            out.list("candidates", values, table, "")?;
        }
        return Err(Failure::new(
            Exit::NotFound,
            "no provider is known for it",
            "name the provider when it is stored: --provider PROVIDER (`ibyok providers list`)",
        ));
    }
    out.list("candidates", values, table, "")
}

fn confidence(candidate: &Candidate) -> String {
    word(candidate.confidence().as_str_name(), "CONFIDENCE_")
}

fn candidate_json(candidate: &Candidate) -> Value {
    json!({
        "provider": candidate.provider,
        "confidence": confidence(candidate),
        "matched_rule": candidate.matched_rule,
    })
}

async fn list(session: &Session, out: &mut Output) -> Result<(), Failure> {
    let providers = all(session).await?;
    let mut table = Table::new(["ID", "NAME", "VARIABLE", "HEADER", "BASE URL"]);
    for provider in &providers {
        let header = provider.auth_scheme.as_ref().map(|scheme| scheme.header.clone()).unwrap_or_default();
        table.row(vec![
            provider.id.clone(),
            provider.display_name.clone(),
            provider.env_var.clone(),
            header,
            provider.base_url.clone(),
        ]);
    }
    out.list("providers", providers.iter().map(provider_json).collect(), table, "no providers")
}

/// The vault's provider table.
pub(crate) async fn all(session: &Session) -> Result<Vec<pb::Provider>, Failure> {
    Ok(session.client.key_vault().list_providers(pb::ListProvidersRequest {}).await?.into_inner().providers)
}

fn provider_json(provider: &pb::Provider) -> Value {
    json!({
        "id": provider.id,
        "display_name": provider.display_name,
        "base_url": provider.base_url,
        "auth_scheme": provider.auth_scheme.as_ref().map(crate::keys::view::scheme_json),
        "model_patterns": provider.model_patterns,
        "env_var": provider.env_var,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_are_stable() {
        let candidate = Candidate { provider: "openai".into(), confidence: 3, matched_rule: "openai-project".into() };
        assert_eq!(
            candidate_json(&candidate).to_string(),
            r#"{"confidence":"certain","matched_rule":"openai-project","provider":"openai"}"#
        );
        let provider = pb::Provider { id: "openai".into(), env_var: "OPENAI_API_KEY".into(), ..Default::default() };
        assert_eq!(provider_json(&provider)["env_var"], "OPENAI_API_KEY");
    }
}
