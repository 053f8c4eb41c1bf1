//! Getting the keys that a command wants: all of them, or the failure of each that does not come.

use ibyok_client::{ProviderKey, RetrievedKey, pb};

use super::environment::Wanted;
use crate::{failure::Failure, output::Output, session::Session};

/// A key as it goes into an environment.
pub(super) struct Fetched {
    pub(super) provider: String,
    pub(super) base_url: String,
    /// None: the entry keeps no value, as that of an Ollama.
    pub(super) secret: Option<ProviderKey>,
    pub(super) is_mock: bool,
}

/// One for each of `wanted`, in order, in one call.
pub(super) async fn fetch(
    wanted: &[Wanted],
    purpose: &str,
    session: &Session,
    out: &mut Output,
) -> Result<Vec<Fetched>, Failure> {
    let names: Vec<_> = wanted.iter().map(|wanted| session.names.key(&wanted.key)).collect();
    let request = pb::BatchRetrieveKeysRequest { names: names.clone(), purpose: purpose.to_owned() };
    let results = session.client.key_vault().batch_retrieve_keys(request).await?.into_inner().results;
    if results.len() != wanted.len() {
        return Err(Failure::contract("a result for each key"));
    }
    let mut fetched = Vec::new();
    let mut failures = Vec::new();
    for ((wanted, name), result) in wanted.iter().zip(names).zip(results) {
        match one(name, result, session).await {
            Ok(key) => fetched.push(key),
            Err(failure) => failures.push(failure.about(&wanted.key)),
        }
    }
    let Some(last) = failures.pop() else { return Ok(fetched) };
    failures.iter().for_each(|failure| out.failure(failure));
    Err(last)
}

async fn one(
    name: String,
    result: pb::batch_retrieve_keys_response::Result,
    session: &Session,
) -> Result<Fetched, Failure> {
    let status = result.status.unwrap_or_default();
    if status.code != 0 {
        let keeps_no_value = status.reason == "KEY_HAS_NO_SECRET";
        return if keeps_no_value { entry(name, session).await } else { Err(status.into()) };
    }
    let key = RetrievedKey::from_response(result.key.ok_or_else(|| Failure::contract("the key"))?)?;
    Ok(Fetched { provider: key.provider, base_url: key.base_url, secret: Some(key.secret), is_mock: key.mock })
}

/// An entry that is an address only.
async fn entry(name: String, session: &Session) -> Result<Fetched, Failure> {
    let key = session.client.key_vault().get_key(pb::GetKeyRequest { name }).await?.into_inner().key;
    let key = key.ok_or_else(|| Failure::contract("the key"))?;
    Ok(Fetched { provider: key.provider, base_url: key.base_url, secret: None, is_mock: false })
}
