//! Nobody hands on more than he holds: by issue, by binding, by exchange of a certificate, by
//! exchange of a token.

use pb::exchange_token_request::Subject;

use super::*;

/// What the middleman holds.
fn held() -> pb::Grant {
    pb::Grant {
        scopes: ["keys:read", "keys:list", "tokens:issue", "bindings:write"].map(str::to_owned).to_vec(),
        resources: vec![format!("orgs/{ORG}/**")],
        labels: [("team".to_owned(), "a".to_owned())].into(),
        environments: vec!["staging".to_owned(), "development".to_owned()],
        client_cidrs: vec!["127.0.0.0/8".to_owned()],
    }
}

/// What he hands on by: tokens and bindings have neither labels nor an environment, so [`held`]
/// covers none of them.
fn means() -> pb::Grant {
    pb::Grant {
        scopes: ["tokens:issue", "bindings:write"].map(str::to_owned).to_vec(),
        labels: [].into(),
        environments: Vec::new(),
        ..held()
    }
}

/// Grants that are wider than [`held`] in one direction each.
fn wider() -> Vec<(&'static str, pb::Grant)> {
    let narrow = || pb::Grant { scopes: vec!["keys:read".to_owned()], ..held() };
    vec![
        (
            "a scope that is not held",
            pb::Grant { scopes: vec!["keys:read".to_owned(), "keys:write".to_owned()], ..narrow() },
        ),
        ("another label", pb::Grant { labels: [("team".to_owned(), "b".to_owned())].into(), ..narrow() }),
        ("no label", pb::Grant { labels: [].into(), ..narrow() }),
        (
            "one environment more",
            pb::Grant { environments: vec!["staging".to_owned(), "production".to_owned()], ..narrow() },
        ),
        ("any environment", pb::Grant { environments: Vec::new(), ..narrow() }),
        ("a wider network", pb::Grant { client_cidrs: vec!["126.0.0.0/7".to_owned()], ..narrow() }),
        ("any network", pb::Grant { client_cidrs: Vec::new(), ..narrow() }),
    ]
}

/// Grants that lie within [`held`].
fn narrower() -> Vec<pb::Grant> {
    let narrow = || pb::Grant { scopes: vec!["keys:read".to_owned()], ..held() };
    vec![
        held(),
        narrow(),
        pb::Grant { resources: vec![format!("orgs/{ORG}/keys/openai-*")], ..narrow() },
        pb::Grant {
            labels: [("team".to_owned(), "a".to_owned()), ("x".to_owned(), "y".to_owned())].into(),
            ..narrow()
        },
        pb::Grant { environments: vec!["staging".to_owned()], ..narrow() },
        pb::Grant { client_cidrs: vec!["127.0.0.0/16".to_owned()], ..narrow() },
    ]
}

/// Hands `grant` on in one of the ways.
async fn hand_on(
    vault: &Vault,
    middleman: &Caller,
    way: &str,
    number: usize,
    grants: Vec<pb::Grant>,
) -> Result<(), Status> {
    match way {
        "issue" => {
            let request = pb::IssueTokenRequest { subject: "sub".to_owned(), grants, ..Default::default() };
            middleman.tokens().issue_token(request).await.map(drop)
        }
        "bind" => {
            let binding = pb::IdentityBinding {
                name: format!("orgs/{ORG}/bindings/b{number}"),
                identity: Some(pb::identity_binding::Identity::Certificate("spiffe://ibyok.test/sub".to_owned())),
                grants,
                ttl_max: seconds(60),
                ..Default::default()
            };
            let request = pb::CreateIdentityBindingRequest { binding: Some(binding), ..Default::default() };
            middleman.tokens().create_identity_binding(request).await.map(drop)
        }
        "exchange a certificate" => {
            exchange(&vault.stranger(MIDDLEMAN), Subject::ClientCertificate(true), grants).await.map(drop)
        }
        "exchange a token" => {
            let jwt = pb::SecretValue { text: middleman.token.clone().unwrap() };
            let bare = Caller::new(middleman.channel.clone(), None);
            exchange(&bare, Subject::Jwt(jwt), grants).await.map(drop)
        }
        other => panic!("{other}"),
    }
}

async fn exchange(
    caller: &Caller,
    subject: Subject,
    grants: Vec<pb::Grant>,
) -> Result<pb::ExchangeTokenResponse, Status> {
    let request = pb::ExchangeTokenRequest {
        subject: Some(subject),
        parent: format!("orgs/{ORG}"),
        grants,
        ..Default::default()
    };
    caller.tokens().exchange_token(request).await.map(tonic::Response::into_inner)
}

const MIDDLEMAN: &str = "spiffe://ibyok.test/middleman";
const WAYS: [&str; 4] = ["issue", "bind", "exchange a certificate", "exchange a token"];

/// Binds the middleman's certificate, and exchanges it.
async fn middleman(vault: &Vault, mode: pb::TokenMode) -> Caller {
    let admin = vault.admin().await;
    let binding = pb::IdentityBinding {
        name: format!("orgs/{ORG}/bindings/middleman"),
        identity: Some(pb::identity_binding::Identity::Certificate(MIDDLEMAN.to_owned())),
        grants: vec![held(), means()],
        mode: mode.into(),
        ttl_max: seconds(1_800),
    };
    let request = pb::CreateIdentityBindingRequest { binding: Some(binding), ..Default::default() };
    admin.tokens().create_identity_binding(request).await.unwrap();
    vault.exchange(MIDDLEMAN, ORG).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wider_is_handed_on_in_any_way() {
    let vault = Vault::start_with("limits = { certificate_rate = 100000 }").await;
    let middleman = middleman(&vault, pb::TokenMode::Live).await;
    for way in WAYS {
        for (number, (direction, wide)) in wider().into_iter().enumerate() {
            for grants in [vec![wide.clone()], vec![held(), wide.clone()]] {
                let refusal = hand_on(&vault, &middleman, way, number, grants).await;
                let Err(refusal) = refusal else { panic!("{way}: {direction} went through") };
                assert_eq!(
                    (refusal.code(), reason(&refusal).as_str()),
                    (Code::PermissionDenied, "GRANT_TOO_WIDE"),
                    "{way}: {direction}"
                );
            }
        }
        for (number, narrow) in narrower().into_iter().enumerate() {
            let outcome = hand_on(&vault, &middleman, way, number, vec![narrow.clone()]).await;
            assert!(outcome.is_ok(), "{way}: {narrow:?}: {outcome:?}");
        }
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_and_organizations_are_not_widened() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let own = || format!("orgs/{ORG}/keys/openai-*");
    let grants = vec![pb::Grant {
        resources: vec![own(), format!("orgs/{ORG}/tokens/*")],
        ..grant(&["keys:read", "tokens:issue"])
    }];
    let request = pb::IssueTokenRequest { subject: "narrow".to_owned(), grants, ..Default::default() };
    let narrow = vault.issue(&admin, "spiffe://ibyok.test/narrow", request).await;
    let wider =
        [format!("orgs/{ORG}/keys/*"), format!("orgs/{ORG}/**"), format!("orgs/{ORG}/keys/open*"), String::new()];
    for resource in wider {
        let resources = if resource.is_empty() { Vec::new() } else { vec![resource.clone()] };
        let grants = vec![pb::Grant { resources, ..grant(&["keys:read"]) }];
        let request = pb::IssueTokenRequest { subject: "sub".to_owned(), grants, ..Default::default() };
        let outcome = narrow.tokens().issue_token(request).await;
        assert_eq!(refused(outcome), (Code::PermissionDenied, "GRANT_TOO_WIDE".to_owned()), "{resource}");
    }
    for resource in ["orgs/system/**", "orgs/other/**", "orgs/*/**", "**"] {
        let grants = vec![pb::Grant { resources: vec![resource.to_owned()], ..grant(&["keys:read"]) }];
        let request = pb::IssueTokenRequest { subject: "sub".to_owned(), grants, ..Default::default() };
        assert!(admin.tokens().issue_token(request).await.is_err(), "{resource}");
    }
    for scope in ["admin", "backup:export", "backup:restore"] {
        let request =
            pb::IssueTokenRequest { subject: "sub".to_owned(), grants: vec![grant(&[scope])], ..Default::default() };
        assert!(admin.tokens().issue_token(request).await.is_err(), "{scope} is of the organization system only");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mock_begets_mock_in_every_way() {
    let vault = Vault::start().await;
    let middleman = middleman(&vault, pb::TokenMode::Mock).await;
    let whoami = |caller: Caller| async move {
        let request = pb::IntrospectTokenRequest::default();
        caller.tokens().introspect_token(request).await.unwrap().into_inner().token.unwrap()
    };
    assert_eq!(whoami(middleman.clone()).await.mode(), pb::TokenMode::Mock);
    // A mock token changes nothing in a live organization: neither issue nor binding.
    for way in ["issue", "bind"] {
        let refusal = hand_on(&vault, &middleman, way, 0, vec![held()]).await;
        assert_eq!(refused(refusal), (Code::PermissionDenied, "MOCK_TOKEN_MUTATION".to_owned()), "{way}");
    }
    let answer = exchange(&vault.stranger(MIDDLEMAN), Subject::ClientCertificate(true), Vec::new()).await.unwrap();
    assert_eq!(answer.token.unwrap().mode(), pb::TokenMode::Mock);
    let jwt = pb::SecretValue { text: middleman.token.clone().unwrap() };
    let bare = Caller::new(middleman.channel.clone(), None);
    let answer = exchange(&bare, Subject::Jwt(jwt), Vec::new()).await.unwrap();
    assert_eq!(answer.token.unwrap().mode(), pb::TokenMode::Mock);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_what_it_came_from() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let middleman = middleman(&vault, pb::TokenMode::Live).await;
    let request = pb::IntrospectTokenRequest::default();
    let own = middleman.tokens().introspect_token(request).await.unwrap().into_inner().token.unwrap();
    let latest = own.max_expire_time.unwrap().seconds;
    let narrow = pb::Grant { scopes: vec!["keys:read".to_owned()], ..held() };

    let ends = |token: &pb::Token| (token.expire_time.unwrap().seconds, token.max_expire_time.unwrap().seconds);
    let issue = pb::IssueTokenRequest { subject: "sub".to_owned(), grants: vec![narrow.clone()], ..Default::default() };
    for (ttl, max_ttl) in [(86_400, 86_400), (60, 86_400)] {
        let issue = pb::IssueTokenRequest { ttl: seconds(ttl), max_ttl: seconds(max_ttl), ..issue.clone() };
        let outcome = middleman.tokens().issue_token(issue).await;
        assert_eq!(refused(outcome), (Code::PermissionDenied, "GRANT_TOO_WIDE".to_owned()), "{ttl} {max_ttl}");
    }
    let short = pb::IssueTokenRequest { ttl: seconds(600), max_ttl: seconds(900), ..issue };
    let issued = middleman.tokens().issue_token(short).await.unwrap().into_inner().token.unwrap();
    assert!(ends(&issued) <= (latest, latest));
    let jwt = pb::SecretValue { text: middleman.token.clone().unwrap() };
    let bare = Caller::new(middleman.channel.clone(), None);
    let child = exchange(&bare, Subject::Jwt(jwt.clone()), vec![narrow.clone()]).await.unwrap();
    let token = child.token.clone().unwrap();
    assert!(ends(&token) <= (latest, latest));
    assert_eq!(token.parent_token, own.name);

    // One level, and revoked with its parent.
    let child = bare.with_token(child.access_token.as_ref().unwrap().text.clone());
    let again = pb::SecretValue { text: child.token.clone().unwrap() };
    let deeper = exchange(&bare, Subject::Jwt(again), vec![narrow]).await;
    assert_eq!(refused(deeper), (Code::PermissionDenied, "GRANT_TOO_WIDE".to_owned()));
    let whoami = || pb::IntrospectTokenRequest::default();
    child.tokens().introspect_token(whoami()).await.unwrap();
    let which = Some(pb::revoke_tokens_request::Which::Name(own.name));
    admin.tokens().revoke_tokens(pb::RevokeTokensRequest { which, ..Default::default() }).await.unwrap();
    assert_eq!(
        refused(child.tokens().introspect_token(whoami()).await),
        (Code::Unauthenticated, "TOKEN_REVOKED".to_owned())
    );
    vault.stop().await;
}
