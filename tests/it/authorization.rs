//! A walk over the authorization table against a real server: each method refuses a caller without
//! a token, refuses a token that holds every scope but its own, and takes one that holds just its
//! own. A new method is walked the moment it has a row.

use ibyok::{
    authz::methods::{METHODS, Method, Requirement},
    domain::scope::Scope,
    grpc::pb,
};
use tonic::{Code, Status};

use crate::{
    harness::{Caller, ORG, Vault, reason},
    wire::{Target, call, request},
};

fn target() -> Target {
    Target {
        org: ORG.into(),
        key: "absent".into(),
        token: "0".repeat(32),
        binding: "absent".into(),
        event: "absent.1".into(),
    }
}

/// A token of the issuer's organization with just these scopes, on the issuer's own certificate.
async fn token(issuer: &Caller, scopes: impl IntoIterator<Item = Scope>) -> String {
    let scopes = scopes.into_iter().map(|scope| scope.as_str().to_owned()).collect();
    let request = pb::IssueTokenRequest {
        subject: "walker".into(),
        grants: vec![pb::Grant { scopes, ..Default::default() }],
        ..Default::default()
    };
    let answer = issuer.tokens().issue_token(request).await.unwrap().into_inner();
    answer.access_token.unwrap().text.clone()
}

async fn walk(caller: &Caller, method: &'static Method, token: Option<&str>) -> Result<(), Status> {
    call(&caller.channel, method.path, token, request(method.path, &target()), 1).await.map(|_| ())
}

fn scopes_of(method: &Method) -> &'static [Scope] {
    match method.requirement {
        Requirement::AnyScope(scopes) => scopes,
        Requirement::Certificate | Requirement::Token => &[],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_answers_without_the_token_that_its_row_asks_for() {
    // It asks more often with one certificate than the default lets it.
    let vault = Vault::start_with("[limits]\ncertificate_rate = 100000").await;
    let stranger = vault.stranger("spiffe://ibyok.test/stranger");
    for method in METHODS.iter().filter(|method| method.requirement != Requirement::Certificate) {
        for (token, expected) in [(None, "TOKEN_MISSING"), (Some("not.a.token"), "TOKEN_MALFORMED")] {
            let refusal = walk(&stranger, method, token).await.expect_err(method.path);
            assert_eq!(
                (refusal.code(), reason(&refusal).as_str()),
                (Code::Unauthenticated, expected),
                "{}",
                method.path
            );
        }
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_answers_a_token_with_every_scope_but_its_own() {
    let vault = Vault::start().await;
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    for method in METHODS.iter().filter(|method| !scopes_of(method).is_empty()) {
        let others = |of: fn(&Scope) -> bool| {
            Scope::ALL.iter().copied().filter(move |scope| of(scope) && !scopes_of(method).contains(scope))
        };
        let mut tries = vec![(&admin, token(&admin, others(|scope| !scope.is_system_only())).await)];
        if scopes_of(method).iter().any(|scope| scope.is_system_only()) {
            tries.push((&operator, token(&operator, others(|scope| scope.is_system_only())).await));
        }
        for (caller, token) in tries {
            let refusal = walk(caller, method, Some(&token)).await.expect_err(method.path);
            assert_eq!(
                (refusal.code(), reason(&refusal).as_str()),
                (Code::PermissionDenied, "SCOPE_MISSING"),
                "{}",
                method.path
            );
        }
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_lets_its_own_scope_through() {
    let vault = Vault::start().await;
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    for method in METHODS {
        for scope in scopes_of(method) {
            let caller = if scope.is_system_only() { &operator } else { &admin };
            let token = token(caller, [*scope]).await;
            let Err(refusal) = walk(caller, method, Some(&token)).await else { continue };
            let refused = matches!(refusal.code(), Code::Unauthenticated | Code::PermissionDenied)
                // What a token may not hand on is decided from its grants, after its scope.
                && reason(&refusal) != "GRANT_TOO_WIDE";
            assert!(!refused, "{} with {scope}: {refusal:?}", method.path);
            assert_eq!(reason(&refusal) == "NOT_IMPLEMENTED", !method.is_built, "{}: {refusal:?}", method.path);
        }
    }
    vault.stop().await;
}
