//! Which variables of a `.env` file are provider keys: those with a name that a provider's SDKs read,
//! and those whose value has a provider's shape. The vault is asked about the shape, so that what is
//! some other secret by its name, and a value that can't be a key, stay on this machine.

use ibyok_client::{
    ProviderKey,
    pb::{
        self,
        detect_provider_request::Subject,
        detect_provider_response::{Candidate, Confidence},
    },
};

use super::{record::Record, report::Report};
use crate::{failure::Failure, providers, session::Session};

/// No provider's keys are shorter.
const KEY_BYTES_MIN: usize = 16;

/// Ends of the names of keys.
const KEY_ENDS: [&str; 3] = ["_KEY", "APIKEY", "_TOKEN"];
/// Beginnings and ends of the names of secrets that are no language model's, though they may end so.
const OTHER_STARTS: [&str; 25] = [
    "AWS_",
    "AZURE_STORAGE_",
    "DATABASE_",
    "DB_",
    "PG",
    "POSTGRES",
    "MYSQL_",
    "MONGO",
    "REDIS_",
    "SMTP_",
    "MAIL",
    "GITHUB_",
    "GITLAB_",
    "BITBUCKET_",
    "NPM_",
    "SLACK_",
    "STRIPE_",
    "TWILIO_",
    "SENDGRID_",
    "SENTRY_",
    "JWT_",
    "SESSION_",
    "CSRF_",
    "DJANGO_",
    "SSH_",
];
const OTHER_ENDS: [&str; 10] = [
    "PASSWORD",
    "SECRET",
    "ACCESS_KEY",
    "SECRET_KEY",
    "PRIVATE_KEY",
    "PUBLIC_KEY",
    "SIGNING_KEY",
    "ENCRYPTION_KEY",
    "MASTER_KEY",
    "REFRESH_TOKEN",
];

/// What a variable holds.
enum Found {
    /// A key of this provider.
    KeyOf(String),
    /// No key.
    Other,
    /// Perhaps one, under the name of something else: nobody was asked.
    PassedOver,
}

/// Leaves the keys, each with its provider, and how many values nobody was asked about; what is left
/// out is told to the report by its name. `is_all`: the vault is asked about all that can be keys.
pub(super) async fn keys_only(
    records: Vec<Record>,
    is_all: bool,
    session: &Session,
    report: &mut Report,
) -> Result<(Vec<Record>, usize), Failure> {
    let providers = providers::all(session).await?;
    let (mut keys, mut passed_over) = (Vec::new(), 0);
    for mut record in records {
        match found(&record, &providers, is_all, session).await? {
            Found::KeyOf(provider) => {
                if record.provider.is_empty() {
                    record.provider = provider;
                }
                keys.push(record);
                continue;
            }
            Found::PassedOver => passed_over += 1,
            Found::Other => {}
        }
        report.not_a_key(&record);
    }
    Ok((keys, passed_over))
}

async fn found(record: &Record, providers: &[pb::Provider], is_all: bool, session: &Session) -> Result<Found, Failure> {
    let Some(secret) = record.secret.as_ref().filter(|secret| can_be_a_key(secret)) else { return Ok(Found::Other) };
    if let Some(provider) = by_name(&record.variable, providers) {
        return Ok(Found::KeyOf(provider));
    }
    if !is_all && !is_name_of_a_key(&record.variable) {
        return Ok(Found::PassedOver);
    }
    let subject = Subject::Secret(pb::SecretValue { text: secret.expose_secret().to_owned() });
    let request = pb::DetectProviderRequest { subject: Some(subject) };
    let candidates = session.client.key_vault().detect_provider(request).await?.into_inner().candidates;
    Ok(certain(candidates).map_or(Found::Other, Found::KeyOf))
}

fn is_name_of_a_key(variable: &str) -> bool {
    let name = variable.to_ascii_uppercase().replace(['-', '.'], "_");
    let is_other =
        OTHER_STARTS.iter().any(|start| name.starts_with(start)) || OTHER_ENDS.iter().any(|end| name.ends_with(end));
    !is_other && KEY_ENDS.iter().any(|end| name.ends_with(end))
}

/// The provider whose SDKs read that variable, if it holds a key there and not an address.
fn by_name(variable: &str, providers: &[pb::Provider]) -> Option<String> {
    let takes_a_key =
        |provider: &&pb::Provider| provider.auth_scheme.as_ref().is_some_and(|scheme| !scheme.header.is_empty());
    let found = providers.iter().filter(takes_a_key).find(|provider| provider.env_var == variable);
    found.map(|provider| provider.id.clone())
}

/// Only what is one provider's for sure: what several could own may be anything.
fn certain(candidates: Vec<Candidate>) -> Option<String> {
    let best = candidates.into_iter().next()?;
    matches!(best.confidence(), Confidence::Certain | Confidence::High).then_some(best.provider)
}

fn can_be_a_key(secret: &ProviderKey) -> bool {
    let text = secret.expose_secret();
    text.len() >= KEY_BYTES_MIN && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_a_key_is_not_even_asked_about() {
        let is = |text: &str| can_be_a_key(&ProviderKey::new(text.to_owned()));
        assert!(is("sk-0123456789abcdef"));
        for other in
            ["", "true", "8080", "postgres://user:pass@host/db", "a sentence of some words", "línea-0123456789"]
        {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn other_secrets_are_known_by_their_names() {
        for name in ["OPENAI_KEY", "MY_APIKEY", "TEAM_LLM_API_KEY", "HF_HUB_TOKEN", "acme.api-key"] {
            assert!(is_name_of_a_key(name), "{name}");
        }
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "DATABASE_URL",
            "DB_PASSWORD",
            "SECRET_KEY",
            "JWT_SIGNING_KEY",
            "CLIENT_SECRET",
            "APP_PRIVATE_KEY",
            "GITHUB_TOKEN",
            "POSTGRES_PASSWORD",
            "SPARE",
            "KEYRING",
            "RAILS_MASTER_KEY",
        ] {
            assert!(!is_name_of_a_key(name), "{name}");
        }
    }

    #[test]
    fn a_name_counts_where_the_provider_wants_a_key_there() {
        let row = |id: &str, env_var: &str, header: &str| pb::Provider {
            id: id.into(),
            env_var: env_var.into(),
            auth_scheme: Some(pb::AuthScheme { header: header.into(), ..Default::default() }),
            ..Default::default()
        };
        let providers = [row("openai", "OPENAI_API_KEY", "authorization"), row("ollama", "OLLAMA_HOST", "")];
        assert_eq!(by_name("OPENAI_API_KEY", &providers).as_deref(), Some("openai"));
        assert_eq!(by_name("OLLAMA_HOST", &providers), None);
        assert_eq!(by_name("OTHER", &providers), None);
    }

    #[test]
    fn only_a_sure_shape_counts() {
        let candidate = |confidence: Confidence| Candidate {
            provider: "openai".into(),
            confidence: confidence.into(),
            ..Default::default()
        };
        assert_eq!(certain(vec![candidate(Confidence::High)]).as_deref(), Some("openai"));
        assert_eq!(certain(vec![candidate(Confidence::Low), candidate(Confidence::Low)]), None);
        assert_eq!(certain(vec![]), None);
    }
}
