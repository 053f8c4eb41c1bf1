//! Which resource a request is about, for the record of its refusal. Only what parses as a name is
//! kept, and no name that could be a provider key: what a caller writes there may be anything, a
//! secret too.

use std::any::Any;

use super::pb;
use crate::{
    domain::ids::{BindingName, KeyId, KeyName, OrgId, TokenName, VersionName},
    service::vault::NAMES_MAX,
};

/// The full name that `message` is about; empty where it names none, or none that parses.
pub(super) fn of(message: &dyn Any, own: &OrgId) -> String {
    key(message, own)
        .or_else(|| version(message, own))
        .or_else(|| created(message, own))
        .or_else(|| other(message, own))
        .unwrap_or_default()
}

macro_rules! field {
    ($message:expr, $($request:ident . $field:ident),* $(,)?) => {
        None$(.or_else(|| $message.downcast_ref::<pb::$request>().map(|request| request.$field.as_str())))*
    };
}

/// How many calls `message` is worth beyond the one that it is: a batch does the work of many. What
/// is too long to be answered does no more than the longest that is.
pub(super) fn more_calls(message: &dyn Any) -> u32 {
    let batch = message.downcast_ref::<pb::BatchRetrieveKeysRequest>();
    let more = batch.map_or(0, |batch| batch.names.len().clamp(1, NAMES_MAX) - 1);
    u32::try_from(more).unwrap_or(u32::MAX)
}

fn key(message: &dyn Any, own: &OrgId) -> Option<String> {
    let text = field!(
        message,
        GetKeyRequest.name,
        AddKeyVersionRequest.name,
        RollBackKeyVersionRequest.name,
        DisableKeyRequest.name,
        EnableKeyRequest.name,
        DeleteKeyRequest.name,
        UndeleteKeyRequest.name,
        DestroyKeyRequest.name,
        ListKeyVersionsRequest.parent,
        ListKeyConsumersRequest.name,
    );
    let updated = || message.downcast_ref::<pb::UpdateKeyRequest>()?.key.as_ref().map(|key| key.name.as_str());
    KeyName::parse("name", text.or_else(updated)?, own).ok().and_then(|name| harmless(&name))
}

fn version(message: &dyn Any, own: &OrgId) -> Option<String> {
    let text = field!(
        message,
        RetrieveKeyRequest.name,
        VerifyKeyVersionRequest.name,
        PromoteKeyVersionRequest.name,
        DestroyKeyVersionRequest.name,
    );
    VersionName::parse("name", text?, own).ok().and_then(|name| harmless(&name.key))
}

fn created(message: &dyn Any, own: &OrgId) -> Option<String> {
    let request = message.downcast_ref::<pb::CreateKeyRequest>()?;
    let org = OrgId::parse_parent("parent", &request.parent, own).ok()?;
    let id = KeyId::parse("key_id", &request.key_id).ok()?;
    harmless(&KeyName { org, id })
}

/// The name, unless its id could be a provider key that was written into the wrong field: nearly every
/// shape of the provider table has a run of this many letters and digits, names for people hardly.
pub(super) fn harmless(name: &KeyName) -> Option<String> {
    const RUN: usize = 20;
    let is_suspicious = name.id.as_str().split(|c: char| !c.is_ascii_alphanumeric()).any(|run| run.len() >= RUN);
    (!is_suspicious).then(|| name.to_string())
}

fn other(message: &dyn Any, own: &OrgId) -> Option<String> {
    let revoked = || match message.downcast_ref::<pb::RevokeTokensRequest>()?.which.as_ref()? {
        pb::revoke_tokens_request::Which::Name(name) => Some(name.as_str()),
        _ => None,
    };
    if let Some(text) = field!(message, GetTokenRequest.name).or_else(revoked) {
        return TokenName::parse("name", text, own).ok().map(|name| name.to_string());
    }
    if let Some(text) = field!(message, DeleteIdentityBindingRequest.name) {
        return BindingName::parse("name", text, own).ok().map(|name| name.to_string());
    }
    let text = field!(message, ExchangeTokenRequest.parent)?;
    OrgId::parse_parent("parent", text, own).ok().map(|org| org.full_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_full_and_what_is_no_name_is_dropped() {
        let own = OrgId::parse("org", "acme").unwrap();
        let retrieve = |name: &str| pb::RetrieveKeyRequest { name: name.into(), ..Default::default() };
        assert_eq!(of(&retrieve("openai/versions/2"), &own), "orgs/acme/keys/openai");
        assert_eq!(of(&retrieve("orgs/rival/keys/k"), &own), "orgs/rival/keys/k");
        assert_eq!(of(&retrieve("sk-Proj-SECRET"), &own), "");
        for key in ["0123456789abcdef0123456789abcdef", "sk-0123456789abcdef0123456789abcdef"] {
            assert_eq!(of(&retrieve(key), &own), "", "a key in the field of its name");
            let create = pb::CreateKeyRequest { key_id: key.into(), ..Default::default() };
            assert_eq!(of(&create, &own), "");
        }
        let create = pb::CreateKeyRequest { key_id: "k".into(), ..Default::default() };
        assert_eq!(of(&create, &own), "orgs/acme/keys/k");
        assert_eq!(of(&pb::ListProvidersRequest {}, &own), "");
    }

    #[test]
    fn a_batch_counts_for_as_many_calls_as_it_names_keys() {
        let batch = |count| pb::BatchRetrieveKeysRequest { names: vec!["k".into(); count], ..Default::default() };
        assert_eq!([0, 1, 40].map(|count| more_calls(&batch(count))), [0, 0, 39]);
        assert_eq!(more_calls(&batch(32_767)), 39, "what is refused for its length does no more work than the longest");
        assert_eq!(more_calls(&pb::RetrieveKeyRequest::default()), 0);
    }
}
