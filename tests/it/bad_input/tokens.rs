//! Tokens and Admin.

use ibyok::grpc::pb::{
    self, exchange_token_request::Subject, identity_binding::Identity, revoke_tokens_request::Which,
};

use super::{Case, canary, case, keys::bad_request_ids, long, no_parents, no_spans, no_times, refuse_all, span, time};
use crate::harness::{ADMIN, ORG, Vault};

const ISSUE: &str = "/ibyok.v1.Tokens/IssueToken";
const EXCHANGE: &str = "/ibyok.v1.Tokens/ExchangeToken";
const RENEW: &str = "/ibyok.v1.Tokens/RenewToken";
const REVOKE: &str = "/ibyok.v1.Tokens/RevokeTokens";
const LIST: &str = "/ibyok.v1.Tokens/ListTokens";
const BIND: &str = "/ibyok.v1.Tokens/CreateIdentityBinding";
const BINDINGS: &str = "/ibyok.v1.Tokens/ListIdentityBindings";
const CREATE_ORG: &str = "/ibyok.v1.Admin/CreateOrg";
const UPDATE_ORG: &str = "/ibyok.v1.Admin/UpdateOrg";

/// Longer than any token lives.
const TOO_LONG: [Option<prost_types::Duration>; 2] = [
    Some(prost_types::Duration { seconds: 90 * 86_400 + 1, nanos: 0 }),
    Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
];

fn grant() -> pb::Grant {
    pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }
}

/// Grants with one thing wrong, and which, within the grant.
fn bad_grants() -> Vec<(pb::Grant, &'static str)> {
    let mut bad = vec![(pb::Grant::default(), ".scopes")];
    for scope in [canary(""), String::new(), "keys:*".into(), "KEYS:LIST".into(), "admin".into(), " keys:list".into()] {
        bad.push((pb::Grant { scopes: vec![scope], ..Default::default() }, ".scopes[0]"));
    }
    let scopes = vec!["keys:list".into(), canary(":list")];
    bad.push((pb::Grant { scopes, ..Default::default() }, ".scopes[1]"));
    let globs = [
        "",
        "*",
        "**",
        "orgs/*/keys/a",
        "orgs/other/keys/a",
        "orgs/acme",
        "orgs/acme/",
        "orgs/acme/**/a",
        "orgs/acme/keys/a**",
        "orgs/acme/keys//a",
        "orgs/acme/keys/[a]",
    ];
    for glob in globs.map(str::to_owned).into_iter().chain([canary("/*"), format!("orgs/acme/keys/{}", canary(""))]) {
        bad.push((pb::Grant { resources: vec![glob], ..grant() }, ".resources[0]"));
    }
    for network in [
        canary(""),
        String::new(),
        "10.0.0.0/33".into(),
        "10.0.0".into(),
        "::/129".into(),
        "10.0.0.0/-1".into(),
        "*".into(),
    ] {
        bad.push((pb::Grant { client_cidrs: vec![network], ..grant() }, ".client_cidrs[0]"));
    }
    for environment in [canary(""), String::new(), "a b".into(), "x".repeat(64)] {
        bad.push((pb::Grant { environments: vec![environment], ..grant() }, ".environments[0]"));
    }
    let labels: [(String, String); 3] =
        [(long(64), String::new()), (String::new(), canary("")), ("name".into(), long(256))];
    for label in labels {
        bad.push((pb::Grant { labels: [label].into(), ..grant() }, ".labels"));
    }
    bad.push((
        pb::Grant { labels: (0..33).map(|n| (canary(&n.to_string()), String::new())).collect(), ..grant() },
        ".labels",
    ));
    bad
}

fn field(prefix: &str, rest: &str) -> &'static str {
    format!("{prefix}{rest}").leak()
}

#[tokio::test]
async fn a_token_is_not_issued_from_bad_input() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let mut cases = vec![issue("grants", |request| request.grants.clear())];
    for (bad, rest) in bad_grants() {
        cases.push(issue(field("grants[1]", rest), |request| request.grants.push(bad)));
    }
    cases.push(issue("grants", |request| request.grants = vec![grant(); 1_000]));
    for subject in [String::new(), long(257), canary(" "), canary("\u{e9}"), canary("\n")] {
        cases.push(issue("subject", |request| request.subject = subject));
    }
    for parent in no_parents() {
        cases.push(issue("parent", |request| request.parent = parent));
    }
    for ttl in no_spans().into_iter().chain(TOO_LONG).chain([span(0, 0)]) {
        cases.push(issue("ttl", |request| request.ttl = ttl));
    }
    for max_ttl in no_spans().into_iter().chain(TOO_LONG).chain([span(59, 0)]) {
        cases.push(issue("max_ttl", |request| (request.ttl, request.max_ttl) = (span(60, 0), max_ttl)));
    }
    for sha256 in [canary(""), "AAAA".into(), "A".repeat(42), "!".repeat(43), "A".repeat(44)] {
        cases.push(issue("certificate_sha256", |request| request.certificate_sha256 = sha256));
    }
    for identity in [canary(" "), "spiffe://".into(), "spiffe://a/../b".into(), "svc.*".into(), long(257)] {
        cases.push(issue("client_identity", |request| request.client_identity = identity));
    }
    cases.push(issue("description", |request| request.description = long(257)));
    cases.push(issue("uses_max", |request| request.uses_max = -1));
    for mode in [3, -1, i32::MAX] {
        cases.push(issue("mode", |request| request.mode = mode));
    }
    for request_id in bad_request_ids() {
        cases.push(issue("request_id", |request| request.request_id = request_id.clone()));
        cases.push(case(RENEW, pb::RenewTokenRequest { request_id, ..Default::default() }, "request_id"));
    }
    for ttl in no_spans().into_iter().chain([span(0, 0), span(i64::MAX, 0)]) {
        cases.push(case(RENEW, pb::RenewTokenRequest { ttl, ..Default::default() }, "ttl"));
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

fn issue(field: &'static str, spoil: impl FnOnce(&mut pb::IssueTokenRequest)) -> Case {
    let mut request = pb::IssueTokenRequest { subject: "svc".into(), grants: vec![grant()], ..Default::default() };
    spoil(&mut request);
    case(ISSUE, request, field)
}

#[tokio::test]
async fn an_exchange_refuses_bad_input() {
    let vault = Vault::start_with("[limits]\ncertificate_rate = 100000").await;
    let stranger = vault.stranger(ADMIN);
    let mut cases = Vec::new();
    for subject in [None, Some(Subject::ClientCertificate(false))] {
        cases.push(exchange("client_certificate", |request| request.subject = subject));
    }
    for parent in no_parents().into_iter().chain([String::new()]) {
        cases.push(exchange("parent", |request| request.parent = parent));
    }
    for (bad, rest) in bad_grants() {
        cases.push(exchange(field("grants[0]", rest), |request| request.grants = vec![bad]));
    }
    for ttl in no_spans().into_iter().chain(TOO_LONG).chain([span(0, 0)]) {
        cases.push(exchange("ttl", |request| request.ttl = ttl));
    }
    for binding in [canary(""), "a/b".into(), "orgs/other/bindings/admin".into(), "-".into()] {
        cases.push(exchange("binding", |request| request.binding = binding));
    }
    for request_id in bad_request_ids() {
        cases.push(exchange("request_id", |request| request.request_id = request_id));
    }
    refuse_all(&stranger, cases).await;
    vault.stop().await;
}

fn exchange(field: &'static str, spoil: impl FnOnce(&mut pb::ExchangeTokenRequest)) -> Case {
    let mut request = pb::ExchangeTokenRequest {
        subject: Some(Subject::ClientCertificate(true)),
        parent: format!("orgs/{ORG}"),
        ..Default::default()
    };
    spoil(&mut request);
    case(EXCHANGE, request, field)
}

#[tokio::test]
async fn revocations_and_listings_refuse_bad_input() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let revoke =
        |which, field| case(REVOKE, pb::RevokeTokensRequest { which: Some(which), ..Default::default() }, field);
    let mut cases = vec![case(REVOKE, pb::RevokeTokensRequest::default(), "name")];
    let names = ["", "x", "orgs/acme/tokens/", "orgs/acme/keys/a"].map(str::to_owned);
    for name in names.into_iter().chain([canary(""), "F".repeat(32), "0".repeat(33)]) {
        cases.push(revoke(Which::Name(name.clone()), "name"));
        cases.push(case("/ibyok.v1.Tokens/GetToken", pb::GetTokenRequest { name: name.clone() }, "name"));
    }
    for subject in [String::new(), long(257), canary(" ")] {
        cases.push(revoke(Which::Subject(subject), "subject"));
    }
    for bad in no_times().into_iter().chain([time(253_402_300_799, 0)]) {
        cases.push(revoke(Which::IssuedBefore(bad.unwrap()), "issued_before"));
    }
    let which = || Some(Which::Subject("svc".into()));
    cases.push(case(
        REVOKE,
        pb::RevokeTokensRequest { which: which(), reason: long(257), ..Default::default() },
        "reason",
    ));
    for request_id in bad_request_ids() {
        let request = pb::RevokeTokensRequest { which: which(), request_id: request_id.clone(), ..Default::default() };
        cases.push(case(REVOKE, request, "request_id"));
        let request = pb::DeleteIdentityBindingRequest { name: "admin".into(), request_id };
        cases.push(case("/ibyok.v1.Tokens/DeleteIdentityBinding", request, "request_id"));
    }
    for page_size in [-1, 1_001, i32::MIN, i32::MAX] {
        cases.push(case(LIST, pb::ListTokensRequest { page_size, ..Default::default() }, "page_size"));
        cases.push(case(BINDINGS, pb::ListIdentityBindingsRequest { page_size, ..Default::default() }, "page_size"));
    }
    for parent in no_parents() {
        cases.push(case(LIST, pb::ListTokensRequest { parent: parent.clone(), ..Default::default() }, "parent"));
        cases.push(case(
            BINDINGS,
            pb::ListIdentityBindingsRequest { parent: parent.clone(), ..Default::default() },
            "parent",
        ));
        cases.push(case(REVOKE, pb::RevokeTokensRequest { which: which(), parent, ..Default::default() }, "parent"));
    }
    cases.push(case(LIST, pb::ListTokensRequest { subject: canary(" "), ..Default::default() }, "subject"));
    for not_used_since in no_times() {
        cases.push(case(LIST, pb::ListTokensRequest { not_used_since, ..Default::default() }, "not_used_since"));
    }
    for name in ["", "a/b", "-"].map(str::to_owned).into_iter().chain([canary("")]) {
        let request = pb::DeleteIdentityBindingRequest { name, ..Default::default() };
        cases.push(case("/ibyok.v1.Tokens/DeleteIdentityBinding", request, "name"));
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

#[tokio::test]
async fn a_binding_is_not_made_from_bad_input() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let mut cases = vec![
        case(BIND, pb::CreateIdentityBindingRequest::default(), "binding"),
        bind("binding.grants", |binding| binding.grants.clear()),
        bind("binding.certificate", |binding| binding.identity = None),
    ];
    for name in ["", "a/b", "-", "orgs/acme/keys/a"].map(str::to_owned).into_iter().chain([canary("")]) {
        cases.push(bind("binding.name", |binding| binding.name = name));
    }
    let identities =
        ["", "*", "spiffe://*", "spiffe://a*/b", "spiffe://a/*/b", "*.example.com", "spiffe://A/b", "spiffe:///b"];
    for identity in identities.map(str::to_owned).into_iter().chain([canary(""), format!("spiffe://a/{}", long(256))]) {
        cases.push(bind("binding.certificate", |binding| binding.identity = Some(Identity::Certificate(identity))));
    }
    for (bad, rest) in bad_grants() {
        cases.push(bind(field("binding.grants[0]", rest), |binding| binding.grants = vec![bad]));
    }
    for mode in [3, -1] {
        cases.push(bind("binding.mode", |binding| binding.mode = mode));
    }
    for ttl_max in no_spans().into_iter().chain(TOO_LONG).chain([span(0, 0)]) {
        cases.push(bind("binding.ttl_max", |binding| binding.ttl_max = ttl_max));
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

fn bind(field: &'static str, spoil: impl FnOnce(&mut pb::IdentityBinding)) -> Case {
    let mut binding = pb::IdentityBinding {
        name: "svc".into(),
        identity: Some(Identity::Certificate("svc.example.com".into())),
        grants: vec![grant()],
        ..Default::default()
    };
    spoil(&mut binding);
    case(BIND, pb::CreateIdentityBindingRequest { binding: Some(binding), ..Default::default() }, field)
}

#[tokio::test]
async fn an_organization_is_not_made_or_changed_by_bad_input() {
    let vault = Vault::start().await;
    let operator = vault.operator().await;
    let create = || pb::CreateOrgRequest {
        org_id: "new".into(),
        admin_identity: "svc.example.com".into(),
        ..Default::default()
    };
    let org = |name: &str| Some(pb::Org { name: name.to_owned(), ..Default::default() });
    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let mut cases = Vec::new();
    for org_id in
        ["", "-a", "a_b", "A", "a/b", "orgs/a"].map(str::to_owned).into_iter().chain([canary(""), "a".repeat(64)])
    {
        cases.push(case(CREATE_ORG, pb::CreateOrgRequest { org_id, ..create() }, "org_id"));
    }
    for admin_identity in ["", "*", "spiffe://a/*"].map(str::to_owned).into_iter().chain([canary(""), long(257)]) {
        cases.push(case(CREATE_ORG, pb::CreateOrgRequest { admin_identity, ..create() }, "admin_identity"));
    }
    for display_name in [long(257), canary("\0")] {
        let named = |name: &str| {
            Some(pb::Org { name: name.to_owned(), display_name: display_name.clone(), ..Default::default() })
        };
        cases.push(case(CREATE_ORG, pb::CreateOrgRequest { org: named(""), ..create() }, "org.display_name"));
        let request = pb::UpdateOrgRequest { org: named(ORG), update_mask: mask("display_name"), ..Default::default() };
        cases.push(case(UPDATE_ORG, request, "org.display_name"));
    }
    for kms_key_id in [canary(" "), long(2_049)] {
        let org = Some(pb::Org { kms_key_id, ..Default::default() });
        cases.push(case(CREATE_ORG, pb::CreateOrgRequest { org, ..create() }, "org.kms_key_id"));
    }
    for request_id in bad_request_ids() {
        cases.push(case(CREATE_ORG, pb::CreateOrgRequest { request_id: request_id.clone(), ..create() }, "request_id"));
        let update_mask = mask("display_name");
        let request = pb::UpdateOrgRequest { org: org(ORG), update_mask, request_id };
        cases.push(case(UPDATE_ORG, request, "request_id"));
    }
    cases.push(case(
        UPDATE_ORG,
        pb::UpdateOrgRequest { update_mask: mask("display_name"), ..Default::default() },
        "org",
    ));
    for name in ["", "orgs/", "a/b"].map(str::to_owned).into_iter().chain([canary("")]) {
        let request = pb::UpdateOrgRequest { org: org(&name), update_mask: mask("display_name"), ..Default::default() };
        cases.push(case(UPDATE_ORG, request, "org.name"));
    }
    for path in ["", "name", "mock", "*"].map(str::to_owned).into_iter().chain([canary("")]) {
        let request = pb::UpdateOrgRequest { org: org(ORG), update_mask: mask(&path), ..Default::default() };
        cases.push(case(UPDATE_ORG, request, "update_mask"));
    }
    cases.push(case(UPDATE_ORG, pb::UpdateOrgRequest { org: org(ORG), ..Default::default() }, "update_mask"));
    for page_size in [-1, 1_001] {
        cases.push(case(
            "/ibyok.v1.Admin/ListOrgs",
            pb::ListOrgsRequest { page_size, ..Default::default() },
            "page_size",
        ));
    }
    refuse_all(&operator, cases).await;
    vault.stop().await;
}
