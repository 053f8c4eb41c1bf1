//! Which resource a request is about, for the record of its refusal. Only what parses as a name is
//! kept, and no name that could be a provider key: what a caller writes there may be anything, a
//! secret too.

use std::any::Any;

use super::pb;
use crate::{
    domain::ids::{BindingName, KeyId, KeyName, OrgId, TokenName, VersionName},
    service::vault::NAMES_MAX,
};

/// What a message names, as it was written there. It is read only for a refusal: a call that is answered
/// does not pay for it.
pub(super) struct Target {
    text: String,
    read: fn(&str, &OrgId) -> Option<String>,
}

impl Target {
    /// The full name; None for what does not parse, or must not be kept.
    pub(super) fn name(&self, own: &OrgId) -> Option<String> {
        (self.read)(&self.text, own)
    }
}

macro_rules! field {
    ($message:expr, $($request:ident . $field:ident),* $(,)?) => {
        None$(.or_else(|| $message.downcast_ref::<pb::$request>().map(|request| request.$field.as_str())))*
    };
}

/// What `message` is about; None where it names nothing.
pub(super) fn of(message: &dyn Any) -> Option<Target> {
    let target = |read: fn(&str, &OrgId) -> Option<String>| move |text: &str| Target { text: text.to_owned(), read };
    let version = field!(
        message,
        RetrieveKeyRequest.name,
        VerifyKeyVersionRequest.name,
        PromoteKeyVersionRequest.name,
        DestroyKeyVersionRequest.name,
    );
    version
        .map(target(|text, own| harmless(&VersionName::parse("name", text, own).ok()?.key)))
        .or_else(|| key(message).map(target(|text, own| harmless(&KeyName::parse("name", text, own).ok()?))))
        .or_else(|| created(message))
        .or_else(|| token(message).map(target(|text, own| Some(TokenName::parse("name", text, own).ok()?.to_string()))))
        .or_else(|| {
            binding(message).map(target(|text, own| {
                let name = BindingName::parse("name", text, own).ok()?;
                is_harmless(name.id.as_str()).then(|| name.to_string())
            }))
        })
        .or_else(|| {
            let parent = field!(message, ExchangeTokenRequest.parent, IssueTokenRequest.parent);
            parent.map(target(|text, own| Some(OrgId::parse_parent("parent", text, own).ok()?.full_name())))
        })
        .or_else(|| {
            organization(message).map(target(|text, _| {
                let id = OrgId::parse("org", text).ok()?;
                is_harmless(id.as_str()).then(|| id.full_name())
            }))
        })
}

/// How many calls `message` is worth beyond the one that it is: a batch does the work of many. What
/// is too long to be answered does no more than the longest that is.
pub(super) fn more_calls(message: &dyn Any) -> u32 {
    let batch = message.downcast_ref::<pb::BatchRetrieveKeysRequest>();
    let more = batch.map_or(0, |batch| batch.names.len().clamp(1, NAMES_MAX) - 1);
    u32::try_from(more).unwrap_or(u32::MAX)
}

fn key(message: &dyn Any) -> Option<&str> {
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
    text.or_else(updated)
}

/// The key that is to be, by the name that it will have.
fn created(message: &dyn Any) -> Option<Target> {
    let request = message.downcast_ref::<pb::CreateKeyRequest>()?;
    let read = |text: &str, own: &OrgId| {
        let (parent, id) = text.rsplit_once('\n')?;
        let org = OrgId::parse_parent("parent", parent, own).ok()?;
        harmless(&KeyName { org, id: KeyId::parse("key_id", id).ok()? })
    };
    Some(Target { text: format!("{}\n{}", request.parent, request.key_id), read })
}

/// The name, unless its id could be a provider key that was written into the wrong field.
pub(super) fn harmless(name: &KeyName) -> Option<String> {
    is_harmless(name.id.as_str()).then(|| name.to_string())
}

/// Nearly every shape of the provider table has a run of this many letters and digits, names for people
/// hardly.
fn is_harmless(id: &str) -> bool {
    const RUN: usize = 20;
    !id.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| run.len() >= RUN)
}

fn token(message: &dyn Any) -> Option<&str> {
    let revoked = || match message.downcast_ref::<pb::RevokeTokensRequest>()?.which.as_ref()? {
        pb::revoke_tokens_request::Which::Name(name) => Some(name.as_str()),
        _ => None,
    };
    field!(message, GetTokenRequest.name).or_else(revoked)
}

fn binding(message: &dyn Any) -> Option<&str> {
    let created =
        || message.downcast_ref::<pb::CreateIdentityBindingRequest>()?.binding.as_ref().map(|it| it.name.as_str());
    field!(message, DeleteIdentityBindingRequest.name).or_else(created)
}

/// The id of an organization that is made or changed.
fn organization(message: &dyn Any) -> Option<&str> {
    let changed = || message.downcast_ref::<pb::UpdateOrgRequest>()?.org.as_ref()?.name.strip_prefix("orgs/");
    field!(message, CreateOrgRequest.org_id).or_else(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::methods::METHODS;

    /// The full name that `message` is about; empty where it names none, or none that may be kept.
    fn of(message: &dyn Any, own: &OrgId) -> String {
        super::of(message).and_then(|target| target.name(own)).unwrap_or_default()
    }

    /// Calls that are about no one resource: listings, whoever calls himself, many keys at once.
    const NAMELESS: &[&str] = &[
        "KeyVault/ListKeys",
        "KeyVault/BatchRetrieveKeys",
        "KeyVault/RewrapKeys",
        "KeyVault/DetectProvider",
        "KeyVault/ListProviders",
        "KeyVault/GetUsage",
        "Tokens/RenewToken",
        "Tokens/ListTokens",
        "Tokens/IntrospectToken",
        "Tokens/ListIdentityBindings",
        "Tokens/GetJwks",
        "Audit/ListAuditEvents",
        "Audit/GetAuditEvent",
        "Audit/StreamAuditEvents",
        "Audit/VerifyAuditLog",
        "Admin/GetServerStatus",
        "Admin/ListOrgs",
    ];

    macro_rules! named {
        ($($request:ident . $field:ident),* $(,)?) => {
            vec![$({
                let $field = "k".to_owned();
                (stringify!($request), Box::new(pb::$request { $field, ..Default::default() }) as Box<dyn Any>)
            }),*]
        };
    }

    #[test]
    #[expect(clippy::needless_update, reason = "some of these messages have one field")]
    fn a_refusal_of_each_call_names_what_it_was_about() {
        let (key, org) = ("orgs/acme/keys/k", "orgs/k");
        let mut about = named!(
            CreateKeyRequest.key_id,
            GetKeyRequest.name,
            RetrieveKeyRequest.name,
            AddKeyVersionRequest.name,
            VerifyKeyVersionRequest.name,
            PromoteKeyVersionRequest.name,
            RollBackKeyVersionRequest.name,
            DestroyKeyVersionRequest.name,
            ListKeyVersionsRequest.parent,
            DisableKeyRequest.name,
            EnableKeyRequest.name,
            DeleteKeyRequest.name,
            UndeleteKeyRequest.name,
            DestroyKeyRequest.name,
            ListKeyConsumersRequest.name,
        );
        let updated = pb::Key { name: "k".into(), ..Default::default() };
        about.push(("UpdateKeyRequest", Box::new(pb::UpdateKeyRequest { key: Some(updated), ..Default::default() })));
        // The stream's items are those of CreateKey.
        about.push(("ImportKeysRequest", Box::new(pb::CreateKeyRequest { key_id: "k".into(), ..Default::default() })));
        let mut about: Vec<_> = about.into_iter().map(|(request, message)| (request, message, key)).collect();
        let orgs = named!(IssueTokenRequest.parent, ExchangeTokenRequest.parent, CreateOrgRequest.org_id);
        about.extend(orgs.into_iter().map(|(request, message)| (request, message, org)));
        let updated = pb::Org { name: "orgs/k".into(), ..Default::default() };
        about.push((
            "UpdateOrgRequest",
            Box::new(pb::UpdateOrgRequest { org: Some(updated), ..Default::default() }),
            org,
        ));
        let binding = Some(pb::IdentityBinding { name: "k".into(), ..Default::default() });
        let create = pb::CreateIdentityBindingRequest { binding, ..Default::default() };
        about.push(("CreateIdentityBindingRequest", Box::new(create), "orgs/acme/bindings/k"));
        let delete = pb::DeleteIdentityBindingRequest { name: "k".into(), ..Default::default() };
        about.push(("DeleteIdentityBindingRequest", Box::new(delete), "orgs/acme/bindings/k"));
        let token = "orgs/acme/tokens/0123456789abcdef0123456789abcdef";
        let get = pb::GetTokenRequest { name: token.into() };
        about.push(("GetTokenRequest", Box::new(get), token));
        let which = Some(pb::revoke_tokens_request::Which::Name(token.into()));
        let revoke = pb::RevokeTokensRequest { which, ..Default::default() };
        about.push(("RevokeTokensRequest", Box::new(revoke), token));

        let own = OrgId::parse("org", "acme").unwrap();
        for (request, message, name) in &about {
            assert_eq!(of(&**message, &own), *name, "{request}");
        }
        for method in METHODS.iter().filter(|method| method.is_built) {
            let (_, call) = method.path.split_once("v1.").unwrap();
            let request = format!("{}Request", call.split('/').next_back().unwrap());
            let is_named = about.iter().any(|(about, ..)| *about == request);
            assert!(is_named != NAMELESS.contains(&call), "{call}: give it a row, or say that it names nothing");
        }
    }

    #[test]
    fn what_could_be_a_provider_key_is_no_name_of_a_binding_or_an_organization() {
        let own = OrgId::parse("org", "acme").unwrap();
        let key = "0123456789abcdef0123456789abcdef";
        let binding = Some(pb::IdentityBinding { name: key.into(), ..Default::default() });
        assert_eq!(of(&pb::CreateIdentityBindingRequest { binding, ..Default::default() }, &own), "");
        assert_eq!(of(&pb::CreateOrgRequest { org_id: key.into(), ..Default::default() }, &own), "");
    }

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
