//! Tokens and Admin as clients see them: over mutual TLS, on a database file.

use ibyok::grpc::pb::{
    CreateOrgRequest, ExchangeTokenRequest, GetTokenRequest, Grant, IntrospectTokenRequest, IssueTokenRequest,
    ListOrgsRequest, ListTokensRequest, RenewTokenRequest, RevokeTokensRequest, SecretValue,
    exchange_token_request::Subject, revoke_tokens_request::Which,
};
use tonic::Code;

use crate::harness::{Vault, reason};

fn read() -> Grant {
    Grant { scopes: vec!["keys:read".into()], ..Grant::default() }
}
fn issue(subject: &str) -> IssueTokenRequest {
    IssueTokenRequest { subject: subject.into(), grants: vec![read()], ..IssueTokenRequest::default() }
}

#[tokio::test]
async fn a_token_lives_from_issue_to_revocation() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let issued = admin.tokens().issue_token(issue("svc")).await.unwrap().into_inner();
    let token = issued.token.unwrap();
    assert!(token.name.starts_with("orgs/acme/tokens/") && token.expire_time.is_some());
    assert_eq!(token.grants[0].resources, ["orgs/acme/**"]);
    let holder = admin.with_token(issued.access_token.unwrap().text.clone());

    let own = holder.tokens().introspect_token(IntrospectTokenRequest::default()).await.unwrap().into_inner();
    assert_eq!((own.active, own.token.unwrap().name), (true, token.name.clone()));
    let renewed = holder.tokens().renew_token(RenewTokenRequest::default()).await.unwrap().into_inner();
    assert_eq!(renewed.token.unwrap().name, token.name);
    let refused = holder.tokens().issue_token(issue("x")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
    let listed = admin.tokens().list_tokens(ListTokensRequest { subject: "svc".into(), ..Default::default() }).await;
    assert_eq!(listed.unwrap().into_inner().tokens.len(), 1);

    let which = Some(Which::Name(token.name.clone()));
    let revoked = admin.tokens().revoke_tokens(RevokeTokensRequest { which, ..Default::default() }).await;
    assert_eq!(revoked.unwrap().into_inner().revoked, 1);
    let refused = holder.tokens().introspect_token(IntrospectTokenRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "TOKEN_REVOKED"));
    let found = admin.tokens().get_token(GetTokenRequest { name: token.name }).await.unwrap().into_inner();
    assert!(found.token.unwrap().revoke_time.is_some());
    vault.stop().await;
}

#[tokio::test]
async fn a_new_organizations_administrator_exchanges_and_everybody_else_is_refused_alike() {
    let vault = Vault::start().await;
    let operator = vault.operator().await;
    let request = CreateOrgRequest {
        org_id: "beta".into(),
        admin_identity: "spiffe://ibyok.test/beta".into(),
        request_id: "r".into(),
        ..CreateOrgRequest::default()
    };
    let made = operator.admin().create_org(request.clone()).await.unwrap().into_inner();
    assert_eq!(operator.admin().create_org(request.clone()).await.unwrap().into_inner(), made);
    let other = CreateOrgRequest { admin_identity: "spiffe://ibyok.test/other".into(), ..request };
    assert_eq!(reason(&operator.admin().create_org(other).await.unwrap_err()), "REQUEST_ID_REUSED");
    let orgs = operator.admin().list_orgs(ListOrgsRequest::default()).await.unwrap().into_inner().orgs;
    assert_eq!(orgs.iter().map(|org| org.name.as_str()).collect::<Vec<_>>(), ["orgs/acme", "orgs/beta", "orgs/system"]);

    let beta = vault.exchange("spiffe://ibyok.test/beta", "beta").await;
    let issued = beta.tokens().issue_token(issue("svc")).await.unwrap().into_inner();
    let stranger = vault.stranger("spiffe://ibyok.test/stranger");
    let enter = |org: &str| ExchangeTokenRequest {
        subject: Some(Subject::ClientCertificate(true)),
        parent: format!("orgs/{org}"),
        ..ExchangeTokenRequest::default()
    };
    let mut refusals = Vec::new();
    for org in ["acme", "beta", "nowhere"] {
        let refused = stranger.tokens().exchange_token(enter(org)).await.unwrap_err();
        refusals.push((refused.code(), refused.message().to_owned(), refused.details().to_vec()));
    }
    assert!(refusals.iter().all(|refused| *refused == refusals[0]) && refusals[0].0 == Code::Unauthenticated);

    // Another organization's token is to an administrator no token at all.
    let admin = vault.admin().await;
    let mut seen = Vec::new();
    for name in [issued.token.unwrap().name, format!("orgs/acme/tokens/{}", "0".repeat(32))] {
        let refused = admin.tokens().get_token(GetTokenRequest { name }).await.unwrap_err();
        seen.push((refused.code(), refused.message().to_owned(), refused.details().to_vec()));
    }
    assert!(seen[0] == seen[1] && seen[0].0 == Code::NotFound);
    let access_token = Some(SecretValue { text: issued.access_token.unwrap().text.clone() });
    let foreign = admin.tokens().introspect_token(IntrospectTokenRequest { access_token }).await.unwrap().into_inner();
    assert_eq!((foreign.active, foreign.inactive_reason.as_str(), foreign.token), (false, "TOKEN_MALFORMED", None));
    vault.stop().await;
}
