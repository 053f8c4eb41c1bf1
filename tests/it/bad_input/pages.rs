//! Page and resume tokens: good for whom, for what and for the question that they were given out
//! for, and for nothing else.

use std::collections::{BTreeMap, BTreeSet};

use ibyok::{
    authz::methods,
    grpc::{DESCRIPTOR_SET, pb},
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};

use super::{CANARY, canary, holds_canary, refusal, secret};
use crate::{
    harness::{ADMIN, Caller, Vault, within},
    wire,
};

/// A listing: how its request looks with a page token, and where its answer keeps the next.
struct Listing {
    path: &'static str,
    ask: fn(&str) -> Vec<u8>,
    next: fn(&[u8]) -> String,
}

macro_rules! listing {
    ($path:literal, $request:ident, $answer:ident, { $($field:ident: $value:expr),* }) => {
        Listing {
            path: $path,
            #[allow(clippy::needless_update, reason = "some requests have no other field")]
            ask: |token| {
                let request = pb::$request { page_size: 1, page_token: token.to_owned(), $($field: $value,)* ..Default::default() };
                request.encode_to_vec()
            },
            next: |answer| pb::$answer::decode(answer).unwrap().next_page_token,
        }
    };
}

const KEYS: Listing = listing!("/ibyok.v1.KeyVault/ListKeys", ListKeysRequest, ListKeysResponse, {});
const VERSIONS: Listing = listing!("/ibyok.v1.KeyVault/ListKeyVersions", ListKeyVersionsRequest, ListKeyVersionsResponse, { parent: "key-1".into() });
const TOKENS: Listing = listing!("/ibyok.v1.Tokens/ListTokens", ListTokensRequest, ListTokensResponse, {});
const BINDINGS: Listing =
    listing!("/ibyok.v1.Tokens/ListIdentityBindings", ListIdentityBindingsRequest, ListIdentityBindingsResponse, {});
const EVENTS: Listing =
    listing!("/ibyok.v1.Audit/ListAuditEvents", ListAuditEventsRequest, ListAuditEventsResponse, {});
const ORGS: Listing = listing!("/ibyok.v1.Admin/ListOrgs", ListOrgsRequest, ListOrgsResponse, {});

const USAGE: Listing = listing!("/ibyok.v1.KeyVault/GetUsage", GetUsageRequest, GetUsageResponse, {
    group_by: vec![pb::UsageDimension::Key.into()]
});
const CONSUMERS: Listing = listing!("/ibyok.v1.KeyVault/ListKeyConsumers", ListKeyConsumersRequest, ListKeyConsumersResponse, { name: "key-1".into() });

const LISTINGS: [Listing; 8] = [KEYS, VERSIONS, TOKENS, BINDINGS, EVENTS, USAGE, CONSUMERS, ORGS];

/// No call that answers pages is forgotten here.
#[test]
fn every_call_with_pages_is_walked() {
    let set = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap();
    let messages = || set.file.iter().flat_map(|file| &file.message_type);
    let pages: BTreeSet<_> =
        messages().filter(|it| it.field.iter().any(|field| field.name() == "page_token")).map(|it| it.name()).collect();
    let mut with_pages = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let is_built = methods::find(&path).is_some_and(|method| method.is_built);
                let input = method.input_type().rsplit('.').next().unwrap();
                if is_built && pages.contains(input) {
                    with_pages.insert(path);
                }
            }
        }
    }
    let walked: BTreeSet<_> = LISTINGS.iter().map(|listing| listing.path.to_owned()).collect();
    assert_eq!(walked, with_pages);
}

/// The same listings, of something else.
const OTHERS: [Listing; 7] = [
    listing!("/ibyok.v1.KeyVault/GetUsage", GetUsageRequest, GetUsageResponse, {
        group_by: vec![pb::UsageDimension::Token.into()]
    }),
    listing!("/ibyok.v1.KeyVault/ListKeyConsumers", ListKeyConsumersRequest, ListKeyConsumersResponse, { name: "key-2".into() }),
    listing!("/ibyok.v1.KeyVault/ListKeys", ListKeysRequest, ListKeysResponse, { show_deleted: true }),
    listing!("/ibyok.v1.KeyVault/ListKeys", ListKeysRequest, ListKeysResponse, {
        filter: Some(pb::KeyFilter { labels: BTreeMap::from([("a".into(), "b".into())]), ..Default::default() })
    }),
    listing!("/ibyok.v1.KeyVault/ListKeyVersions", ListKeyVersionsRequest, ListKeyVersionsResponse, { parent: "key-2".into() }),
    listing!("/ibyok.v1.Tokens/ListTokens", ListTokensRequest, ListTokensResponse, { show_inactive: true }),
    listing!("/ibyok.v1.Audit/ListAuditEvents", ListAuditEventsRequest, ListAuditEventsResponse, {
        filter: Some(pb::AuditFilter { subject: "svc".into(), ..Default::default() })
    }),
];

impl Listing {
    async fn send(&self, caller: &Caller, token: &str) -> Result<String, Status> {
        let body = (self.ask)(token);
        let answers = wire::call(&caller.channel, self.path, caller.token.as_deref(), body, 1).await?;
        Ok((self.next)(&answers[0]))
    }

    async fn refuses(&self, caller: &Caller, token: &str, why: &str) {
        let Err(status) = self.send(caller, token).await else { panic!("{} took {why}", self.path) };
        let expected = (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned(), vec!["page_token".to_owned()]);
        assert_eq!(refusal(&status), expected, "{}: {why}", self.path);
        assert!(!holds_canary(&status));
    }
}

/// The token of a second page, as soon as there is one: usage follows retrievals.
async fn second_page(listing: &Listing, caller: &Caller) -> String {
    within("a second page of usage", async {
        loop {
            let token = listing.send(caller, "").await.unwrap();
            if !token.is_empty() {
                return token;
            }
            assert!([USAGE.path, CONSUMERS.path].contains(&listing.path), "{} has one page", listing.path);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Two keys with two versions and two consumers each, two tokens and two bindings.
async fn fill(vault: &Vault, admin: &Caller) -> Caller {
    for key in ["key-1", "key-2"] {
        let request = pb::CreateKeyRequest {
            key_id: key.into(),
            provider: "openai".into(),
            secret: secret(format!("sk-proj-{key}-0123456789")),
            ..Default::default()
        };
        admin.keys().create_key(request).await.unwrap();
        let secret = secret(format!("sk-proj-{key}-9876543210"));
        let request = pb::AddKeyVersionRequest { name: key.into(), secret, ..Default::default() };
        admin.keys().add_key_version(request).await.unwrap();
    }
    let scopes = ["keys:list", "keys:read", "tokens:list", "bindings:list", "audit:read", "usage:read"];
    let scopes = scopes.map(str::to_owned).to_vec();
    let grants = vec![pb::Grant { scopes, ..Default::default() }];
    let binding = pb::IdentityBinding {
        name: "other".into(),
        identity: Some(pb::identity_binding::Identity::Certificate("other.example.com".into())),
        grants: grants.clone(),
        ..Default::default()
    };
    let request = pb::CreateIdentityBindingRequest { binding: Some(binding), ..Default::default() };
    admin.tokens().create_identity_binding(request).await.unwrap();
    let request = pb::IssueTokenRequest { subject: "reader".into(), grants, ..Default::default() };
    let reader = vault.issue(admin, "reader.example.com", request).await;
    for (caller, key) in [(admin, "key-1"), (admin, "key-2"), (&reader, "key-1"), (&reader, "key-2")] {
        let request = pb::RetrieveKeyRequest { name: key.into(), ..Default::default() };
        caller.keys().retrieve_key(request).await.unwrap();
    }
    reader
}

#[tokio::test]
async fn a_page_token_is_good_only_for_whom_and_what_it_was_given_out_for() {
    let vault = Vault::start().await;
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    let reader = fill(&vault, &admin).await;
    let (org_id, admin_identity) = ("other".to_owned(), ADMIN.to_owned());
    let request = pb::CreateOrgRequest { org_id, admin_identity, ..Default::default() };
    operator.admin().create_org(request).await.unwrap();
    let foreigner = vault.exchange(ADMIN, "other").await;
    // With a key of the same name, whose versions can be listed there, too.
    let secret = secret("sk-proj-foreign-0123456789");
    let request =
        pb::CreateKeyRequest { key_id: "key-1".into(), provider: "openai".into(), secret, ..Default::default() };
    foreigner.keys().create_key(request).await.unwrap();
    let listings = [KEYS, VERSIONS, TOKENS, BINDINGS, EVENTS, USAGE, CONSUMERS];
    let mut given = Vec::new();
    for listing in &listings {
        let token = second_page(listing, &admin).await;
        listing.send(&admin, &token).await.unwrap();
        given.push(token);
    }
    for (listing, token) in listings.iter().zip(&given) {
        listing.refuses(&reader, token, "another subject's").await;
        for bad in
            [canary(""), canary("."), "%".repeat(100), "A".repeat(10_000), token.to_lowercase(), format!("{token}A")]
        {
            listing.refuses(&admin, &bad, "garbage").await;
        }
        listing.refuses(&admin, &token[..token.len() - 2], "a cut one").await;
        for (other, of_other) in listings.iter().zip(&given).filter(|(other, _)| other.path != listing.path) {
            listing.refuses(&admin, of_other, other.path).await;
        }
        for other in OTHERS.iter().filter(|other| other.path == listing.path) {
            other.refuses(&admin, token, "that of another question").await;
        }
        listing.refuses(&foreigner, token, "another organization's").await;
    }
    of_organizations(&vault, &operator, given).await;
    vault.stop().await;
}

/// The listing of organizations, which only operators have.
async fn of_organizations(vault: &Vault, operator: &Caller, given: Vec<String>) {
    let token = ORGS.send(operator, "").await.unwrap();
    assert!(!token.is_empty(), "there are several organizations");
    ORGS.send(operator, &token).await.unwrap();
    let grants = vec![pb::Grant { scopes: vec!["admin".into()], ..Default::default() }];
    let request = pb::IssueTokenRequest { subject: "second".into(), grants, ..Default::default() };
    let second = vault.issue(operator, "second.example.com", request).await;
    ORGS.send(&second, "").await.unwrap();
    ORGS.refuses(&second, &token, "another subject's").await;
    for bad in given.into_iter().chain([canary(""), format!("{token}A"), token[1..].to_owned()]) {
        ORGS.refuses(operator, &bad, "another's").await;
    }
}

#[tokio::test]
async fn a_resume_token_is_good_only_for_whom_and_what_it_was_given_out_for() {
    const STREAM: &str = "/ibyok.v1.Audit/StreamAuditEvents";
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let reader = fill(&vault, &admin).await;
    let ask = async |caller: &Caller, resume_token: &str, subject: &str| {
        let filter = Some(pb::AuditFilter { subject: subject.to_owned(), ..Default::default() });
        let request =
            pb::StreamAuditEventsRequest { resume_token: resume_token.to_owned(), filter, ..Default::default() };
        let answers = wire::call(&caller.channel, STREAM, caller.token.as_deref(), request.encode_to_vec(), 1).await?;
        Ok::<_, Status>(pb::StreamAuditEventsResponse::decode(answers[0].clone()).unwrap().resume_token)
    };
    let good = ask(&admin, "", "").await.unwrap();
    ask(&admin, &good, "").await.unwrap();
    let of_listing = EVENTS.send(&admin, "").await.unwrap();
    for (caller, token, subject) in [
        (&reader, good.as_str(), ""),
        (&admin, good.as_str(), "reader"),
        (&admin, of_listing.as_str(), ""),
        (&admin, CANARY, ""),
        (&admin, &good[1..], ""),
    ] {
        let status = ask(caller, token, subject).await.unwrap_err();
        let expected = (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned(), vec!["resume_token".to_owned()]);
        assert_eq!(refusal(&status), expected);
        assert!(!holds_canary(&status));
    }
    vault.stop().await;
}
