//! Which variable holds what. Decided before the command starts, and two things for one variable are
//! an error: which of them the command got would be a matter of luck.

use std::{collections::BTreeMap, process::Command};

use ibyok_client::{ProviderKey, pb};

use super::fetch::Fetched;
use crate::failure::Failure;

/// Where the SDKs of a provider look for an address, in the form that the vault's table has it.
const BASE_URL_VARIABLES: [(&str, &str); 8] = [
    ("openai", "OPENAI_BASE_URL"),
    ("anthropic", "ANTHROPIC_BASE_URL"),
    ("azure-openai", "AZURE_OPENAI_ENDPOINT"),
    ("google", "GOOGLE_GEMINI_BASE_URL"),
    ("cohere", "CO_API_URL"),
    ("together", "TOGETHER_BASE_URL"),
    ("databricks", "DATABRICKS_HOST"),
    ("langsmith", "LANGSMITH_ENDPOINT"),
];

/// A key, and its variable where that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) key: String,
    variable: Option<String>,
}

/// `KEY` or `VARIABLE=KEY`
pub(crate) fn parse_wanted(text: &str) -> Result<Wanted, String> {
    let (variable, key) = match text.split_once('=') {
        Some((variable, key)) => (Some(variable), key),
        None => (None, text),
    };
    if variable.is_some_and(|variable| !is_name(variable)) {
        return Err("a variable is letters, digits and _, as in OPENAI_API_KEY=openai-prod".to_owned());
    }
    if key.is_empty() {
        return Err("write KEY, or VARIABLE=KEY".to_owned());
    }
    Ok(Wanted { key: key.to_owned(), variable: variable.map(str::to_owned) })
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What can be told before anything is retrieved.
pub(super) fn check(wanted: &[Wanted], base_urls: &[(String, String)]) -> Result<(), Failure> {
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    let variables = wanted.iter().filter_map(|wanted| Some((wanted.variable.as_deref()?, wanted.key.as_str())));
    for (variable, key) in variables.chain(base_urls.iter().map(|(variable, key)| (variable.as_str(), key.as_str()))) {
        if !is_name(variable) {
            return Err(Failure::usage("a variable of --base-url is no name", "letters, digits and _"));
        }
        if let Some(other) = named.insert(variable, key) {
            return Err(taken(variable, other, key));
        }
    }
    match base_urls.iter().find(|(_, key)| !wanted.iter().any(|wanted| wanted.key == *key)) {
        Some((_, key)) => Err(Failure::usage(
            format!("the base URL of {key} is asked for, the key is not"),
            format!("add it: --keys {key}"),
        )),
        None => Ok(()),
    }
}

fn taken(variable: &str, one: &str, other: &str) -> Failure {
    Failure::usage(
        format!("{variable} can't hold two things: {one} and {other} both go there"),
        format!("choose another variable for one of them: --keys {one},NAME={other}"),
    )
}

/// What a variable holds. No Debug: it would show keys.
enum Value<'k> {
    Key(&'k ProviderKey),
    Address(&'k str),
}

/// The variables that are added for the command.
pub(super) struct Environment(BTreeMap<String, (String, String)>);

impl Environment {
    /// `fetched` has the answer for each of `wanted`, in order.
    pub(super) fn new(
        wanted: &[Wanted],
        fetched: &[Fetched],
        providers: &[pb::Provider],
        base_urls: &[(String, String)],
        with_base_urls: bool,
    ) -> Result<Self, Failure> {
        let mut environment = Self(BTreeMap::new());
        for (wanted, fetched) in wanted.iter().zip(fetched) {
            let usual = usual_variable(fetched, providers);
            let variable = wanted.variable.as_deref().or(usual).ok_or_else(|| no_variable(&wanted.key, fetched))?;
            let value = fetched.secret.as_ref().map_or(Value::Address(&fetched.base_url), Value::Key);
            let is_usual = Some(variable) == usual;
            environment.set(variable, &wanted.key, value)?;
            let address = BASE_URL_VARIABLES.iter().find(|(provider, _)| *provider == fetched.provider);
            if let Some((_, variable)) = address.filter(|_| with_base_urls && is_usual && !fetched.base_url.is_empty())
                && !base_urls.iter().any(|(named, _)| named == variable)
            {
                environment.set(variable, &wanted.key, Value::Address(&fetched.base_url))?;
            }
        }
        for (variable, key) in base_urls {
            let of_key = wanted.iter().zip(fetched).find(|(wanted, _)| wanted.key == *key);
            if let Some((_, fetched)) = of_key {
                environment.set(variable, key, Value::Address(&fetched.base_url))?;
            }
        }
        Ok(environment)
    }

    fn set(&mut self, variable: &str, key: &str, value: Value<'_>) -> Result<(), Failure> {
        let text = match value {
            Value::Key(secret) => secret.expose_secret(),
            Value::Address(url) => url,
        };
        match self.0.insert(variable.to_owned(), (key.to_owned(), text.to_owned())) {
            Some((other, _)) => Err(taken(variable, &other, key)),
            None => Ok(()),
        }
    }

    pub(super) fn give_to(self, command: &mut Command) {
        command.envs(self.0.iter().map(|(variable, (_, text))| (variable, text)));
    }
}

/// What the provider's SDKs read; a name that is none could do harm.
fn usual_variable<'p>(fetched: &Fetched, providers: &'p [pb::Provider]) -> Option<&'p str> {
    let provider = providers.iter().find(|provider| provider.id == fetched.provider)?;
    Some(provider.env_var.as_str()).filter(|name| is_name(name))
}

fn no_variable(key: &str, fetched: &Fetched) -> Failure {
    Failure::usage(
        format!("no variable is known for {key}: its provider is {}", fetched.provider),
        format!("choose one: --keys VARIABLE={key}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(texts: &[&str]) -> Vec<Wanted> {
        texts.iter().map(|text| parse_wanted(text).unwrap()).collect()
    }
    fn fetched(provider: &str, secret: Option<&str>, base_url: &str) -> Fetched {
        Fetched {
            provider: provider.into(),
            base_url: base_url.into(),
            secret: secret.map(|secret| ProviderKey::new(secret.into())),
            is_mock: false,
        }
    }
    fn providers() -> Vec<pb::Provider> {
        let row =
            |id: &str, env_var: &str| pb::Provider { id: id.into(), env_var: env_var.into(), ..Default::default() };
        vec![
            row("openai", "OPENAI_API_KEY"),
            row("anthropic", "ANTHROPIC_API_KEY"),
            row("ollama", "OLLAMA_HOST"),
            row("custom", ""),
            row("odd", "LD PRELOAD"),
        ]
    }
    fn variables(
        texts: &[&str],
        fetched: &[Fetched],
        base_urls: &[(&str, &str)],
    ) -> Result<Vec<(String, String)>, String> {
        let base_urls: Vec<_> = base_urls.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        check(&wanted(texts), &base_urls).map_err(|failure| failure.to_string())?;
        let environment = Environment::new(&wanted(texts), fetched, &providers(), &base_urls, true);
        let environment = environment.map_err(|failure| failure.to_string())?;
        Ok(environment.0.into_iter().map(|(variable, (_, text))| (variable, text)).collect())
    }
    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn keys_go_to_their_providers_variables_with_their_addresses() {
        let keys = [
            fetched("openai", Some("o"), "https://api.openai.com/v1"),
            fetched("anthropic", Some("a"), ""),
            fetched("ollama", None, "http://localhost:11434"),
        ];
        let expected = [
            ("ANTHROPIC_API_KEY", "a"),
            ("OLLAMA_HOST", "http://localhost:11434"),
            ("OPENAI_API_KEY", "o"),
            ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        ];
        assert_eq!(variables(&["o", "a", "l"], &keys, &[]).unwrap(), pairs(&expected));
    }

    #[test]
    fn a_variable_of_ones_own_takes_the_key_alone_unless_the_address_is_asked_for() {
        let keys = [fetched("custom", Some("c"), "https://gateway")];
        assert_eq!(variables(&["MINE=c"], &keys, &[]).unwrap(), pairs(&[("MINE", "c")]));
        assert_eq!(
            variables(&["MINE=c"], &keys, &[("URL", "c")]).unwrap(),
            pairs(&[("MINE", "c"), ("URL", "https://gateway")])
        );
    }

    #[test]
    fn two_things_for_one_variable_are_an_error_that_says_what_to_do() {
        let two = || [fetched("openai", Some("canary"), ""), fetched("openai", Some("canary"), "")];
        let text = variables(&["one", "two"], &two(), &[]).unwrap_err();
        assert!(text.contains("OPENAI_API_KEY") && text.contains("one and two"), "{text}");
        assert!(text.contains("--keys one,NAME=two") && !text.contains("canary"), "{text}");
        variables(&["one", "OTHER=two"], &two(), &[]).unwrap();
        variables(&["A=one", "A=two"], &two(), &[]).unwrap_err();
        variables(&["A=one", "B=two"], &two(), &[("A", "one")]).unwrap_err();
        assert!(variables(&["A=one"], &two(), &[("B", "three")]).unwrap_err().contains("--keys three"));
    }

    #[test]
    fn without_a_known_variable_one_must_be_named() {
        for provider in ["custom", "unheard-of", "odd"] {
            let text = variables(&["k"], &[fetched(provider, Some("canary"), "")], &[]).unwrap_err();
            assert!(text.contains("--keys VARIABLE=k") && !text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn what_is_wanted_has_a_key_and_perhaps_a_name() {
        assert_eq!(parse_wanted("A_1=orgs/dev/keys/a/versions/2").unwrap().key, "orgs/dev/keys/a/versions/2");
        for wrong in ["", "A=", "1A=k", "A-B=k", "=k"] {
            parse_wanted(wrong).unwrap_err();
        }
    }
}
