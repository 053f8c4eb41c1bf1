use super::*;
use crate::{
    authz::methods,
    domain::{clock::SystemClock, scope::Scope, token::GRANTS_MAX},
    grpc::testing,
};

fn call() -> Call {
    use crate::domain::clock::Clock as _;
    Call {
        method: methods::find("/ibyok.v1.Tokens/IssueToken").unwrap(),
        claims: Some(testing::claims(&[Scope::TokensIssue]).into()),
        peer: testing::connection(testing::later()).peer,
        user_agent: String::new(),
        trace_id: String::new(),
        time: SystemClock.now(),
        deadline: SystemClock.deadline(std::time::Duration::from_secs(1)),
        content: [0; 32],
    }
}
fn read() -> pb::Grant {
    pb::Grant { scopes: vec!["keys:read".into()], ..pb::Grant::default() }
}
fn good() -> pb::IssueTokenRequest {
    pb::IssueTokenRequest { subject: "svc".into(), grants: vec![read()], ..pb::IssueTokenRequest::default() }
}
fn field<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> String {
    outcome.unwrap_err().fields[0].field.to_string()
}

#[test]
fn a_refused_request_for_a_token_names_its_field() {
    assert_eq!(issue(&call(), good()).unwrap().grants[0].resources[0].as_str(), "orgs/acme/**");
    let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let bad_scope = pb::Grant { scopes: vec!["keys:read".into(), "keys:fly".into()], ..read() };
    for (request, expected) in [
        (pb::IssueTokenRequest { subject: String::new(), ..good() }, "subject"),
        (pb::IssueTokenRequest { grants: vec![], ..good() }, "grants"),
        (pb::IssueTokenRequest { grants: vec![read(); GRANTS_MAX + 1], ..good() }, "grants"),
        (pb::IssueTokenRequest { grants: vec![read(), bad_scope], ..good() }, "grants[1].scopes[1]"),
        (pb::IssueTokenRequest { ttl: span(-1), ..good() }, "ttl"),
        (pb::IssueTokenRequest { max_ttl: span(-1), ..good() }, "max_ttl"),
        (pb::IssueTokenRequest { certificate_sha256: "ab".into(), ..good() }, "certificate_sha256"),
        (pb::IssueTokenRequest { client_identity: "a b".into(), ..good() }, "client_identity"),
        (
            pb::IssueTokenRequest { certificate_sha256: "a".repeat(64), client_identity: "a".into(), ..good() },
            "client_identity",
        ),
        (pb::IssueTokenRequest { description: "x".repeat(257), ..good() }, "description"),
        (pb::IssueTokenRequest { mode: 9, ..good() }, "mode"),
        (pb::IssueTokenRequest { uses_max: -1, ..good() }, "uses_max"),
    ] {
        assert_eq!(field(issue(&call(), request)), expected);
    }
}

#[test]
fn a_foreign_organization_is_absent_before_anything_else_is_looked_at() {
    let foreign = pb::IssueTokenRequest { parent: "orgs/other".into(), grants: vec![], ..good() };
    assert_eq!(issue(&call(), foreign).unwrap_err().reason, Reason::OrgNotFound);
    let binding = |name: &str| pb::CreateIdentityBindingRequest {
        binding: Some(pb::IdentityBinding { name: name.into(), ..pb::IdentityBinding::default() }),
        ..pb::CreateIdentityBindingRequest::default()
    };
    assert_eq!(create_binding(&call(), binding("orgs/other/bindings/a")).unwrap_err().reason, Reason::OrgNotFound);
    assert_eq!(field(create_binding(&call(), binding("a"))), "binding.certificate");
    let name = "orgs/other/tokens/00000000000000000000000000000000";
    let which = Some(pb::revoke_tokens_request::Which::Name(name.into()));
    let request = pb::RevokeTokensRequest { which, ..pb::RevokeTokensRequest::default() };
    assert_eq!(revoke(&call(), request).unwrap_err().reason, Reason::TokenNotFound);
    assert_eq!(field(revoke(&call(), pb::RevokeTokensRequest::default())), "name");
}

#[test]
fn a_certificates_hash_is_taken_as_tools_print_it() {
    let plain = "0a".repeat(32);
    let colons = vec!["0A"; 32].join(":");
    for text in [plain, colons] {
        let request = pb::IssueTokenRequest { certificate_sha256: text, ..good() };
        assert_eq!(issue(&call(), request).unwrap().confirmation, Some(Confirmation::Certificate([10; 32])));
    }
}

#[test]
fn an_exchange_names_its_organization_and_what_it_shows() {
    use pb::exchange_token_request::Subject as Shown;
    let good = || pb::ExchangeTokenRequest {
        subject: Some(Shown::ClientCertificate(true)),
        parent: "acme".into(),
        ..pb::ExchangeTokenRequest::default()
    };
    let request = exchange(good()).unwrap();
    assert!(request.grants.is_none() && request.binding.is_none());
    let jwt = Shown::Jwt(pb::SecretValue { text: "a.b.c".into() });
    let request = exchange(pb::ExchangeTokenRequest { subject: Some(jwt), ..good() }).unwrap();
    assert!(matches!(request.subject, tokens::Subject::Token(token) if token.expose_secret() == "a.b.c"));
    for (request, expected) in [
        (pb::ExchangeTokenRequest { parent: String::new(), ..good() }, "parent"),
        (pb::ExchangeTokenRequest { subject: None, ..good() }, "client_certificate"),
        (pb::ExchangeTokenRequest { subject: Some(Shown::ClientCertificate(false)), ..good() }, "client_certificate"),
        (pb::ExchangeTokenRequest { binding: "orgs/other/bindings/a".into(), ..good() }, "binding"),
        (
            pb::ExchangeTokenRequest {
                grants: vec![pb::Grant { resources: vec!["orgs/other/**".into()], ..read() }],
                ..good()
            },
            "grants[0].resources[0]",
        ),
    ] {
        assert_eq!(field(exchange(request)), expected);
    }
}
