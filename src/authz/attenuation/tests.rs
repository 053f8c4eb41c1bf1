use proptest::prelude::*;

use super::*;
use crate::{
    authz::{
        fixtures::{Case, acme, grant, pattern, seconds},
        permit::{Access, admit},
    },
    domain::{ids::Environment, key::Labels, scope::Scope},
};

fn environment(text: &str) -> Environment {
    Environment::parse("e", text).unwrap()
}

#[test]
fn each_part_of_a_grant_may_only_narrow() {
    let labels = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let held = Grant {
        labels: labels(&[("team", "ml")]),
        environments: vec![environment("staging"), environment("development")],
        client_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
        ..grant()
    };
    let narrower = Grant {
        scopes: vec![Scope::KeysRead],
        resources: vec![pattern("orgs/acme/keys/a*")],
        labels: labels(&[("team", "ml"), ("x", "y")]),
        environments: vec![environment("staging")],
        client_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
    };
    assert!(is_within(&held, &held) && is_within(&narrower, &held));
    for (name, wider) in [
        ("scope", Grant { scopes: vec![Scope::KeysRead, Scope::KeysWrite], ..narrower.clone() }),
        (
            "resource",
            Grant { resources: vec![pattern("orgs/acme/keys/a*"), pattern("orgs/acme/**")], ..narrower.clone() },
        ),
        ("no label", Grant { labels: labels(&[("x", "y")]), ..narrower.clone() }),
        ("another label", Grant { labels: labels(&[("team", "web")]), ..narrower.clone() }),
        ("any environment", Grant { environments: vec![], ..narrower.clone() }),
        ("another environment", Grant { environments: vec![environment("production")], ..narrower.clone() }),
        ("any network", Grant { client_cidrs: vec![], ..narrower.clone() }),
        ("a wider network", Grant { client_cidrs: vec!["0.0.0.0/0".parse().unwrap()], ..narrower.clone() }),
        ("another network", Grant { client_cidrs: vec!["::/0".parse().unwrap()], ..narrower.clone() }),
    ] {
        assert!(!is_within(&wider, &held), "{name}");
    }
}

#[test]
fn grants_never_combine() {
    let read = Grant { scopes: vec![Scope::KeysRead], ..grant() };
    let list = Grant { scopes: vec![Scope::KeysList], ..grant() };
    let case = Case::with(vec![read.clone(), list.clone()]);
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    let holding = Holding::of_permit(&permit);
    assert!(holding.permits("grants", &[read, list]).is_ok());
    let refused =
        holding.permits("grants", &[Grant { scopes: vec![Scope::KeysRead], ..grant() }, grant()]).unwrap_err();
    assert_eq!((refused.reason, refused.metadata), (Reason::GrantTooWide, vec![("field", "grants[1]".to_owned())]));
}

#[test]
fn mock_begets_mock_and_counted_tokens_beget_none() {
    let mut case = Case::with(vec![grant()]);
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    assert_eq!(Holding::of_permit(&permit).mode(None).unwrap(), TokenMode::Live);
    assert_eq!(Holding::of_permit(&permit).mode(Some(TokenMode::Mock)).unwrap(), TokenMode::Mock);

    let token = case.record();
    (token.mode, case.claims.mode) = (TokenMode::Mock, TokenMode::Mock);
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    assert_eq!(Holding::of_permit(&permit).mode(None).unwrap(), TokenMode::Mock);
    assert_eq!(Holding::of_permit(&permit).mode(Some(TokenMode::Live)).unwrap_err().reason, Reason::GrantTooWide);

    let token = case.record();
    (token.uses_max, case.claims.is_use_limited) = (Some(3), true);
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    assert_eq!(Holding::of_permit(&permit).permits("grants", &[]).unwrap_err().reason, Reason::GrantTooWide);
}

#[test]
fn nothing_handed_on_outlives_what_the_holder_may_have() {
    let case = Case::with(vec![grant()]);
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    assert_eq!(Holding::of_permit(&permit).expires(), seconds(90_000));
    assert_eq!(Holding::of_permit(&permit).life(), Duration::from_secs(89_000));
    let case = Case::child();
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    assert_eq!(Holding::of_permit(&permit).expires(), seconds(4600));
}

#[test]
fn a_token_that_was_made_before_is_given_only_where_it_could_be_made_now() {
    let mut case = Case::with(vec![grant()]);
    let made = case.record().clone();
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    let holding = Holding::of_permit(&permit);
    assert!(holding.gives(&made).is_ok(), "as long as the holder may have it");
    assert!(holding.gives(&TokenRecord { max_expires: seconds(89_999), ..made.clone() }).is_ok());
    let field = |token: &TokenRecord| holding.gives(token).unwrap_err().metadata[0].1.clone();
    assert_eq!(field(&TokenRecord { max_expires: seconds(90_001), ..made.clone() }), "max_ttl");
    let wider = Grant { scopes: vec![Scope::KeysWrite], ..grant() };
    assert_eq!(field(&TokenRecord { grants: vec![wider].into(), ..made.clone() }), "grants[0]");

    let token = case.record();
    (token.mode, case.claims.mode) = (TokenMode::Mock, TokenMode::Mock);
    let permit = admit(case.evidence(), &Access::Identity).unwrap();
    assert_eq!(Holding::of_permit(&permit).gives(&made).unwrap_err().metadata[0].1, "mode");
}

const SCOPES: [Scope; 3] = [Scope::KeysRead, Scope::KeysList, Scope::KeysWrite];
const PATTERNS: [&str; 6] = ["keys/a", "keys/a*", "keys/*", "keys/**", "**", "*/a"];
const NETWORKS: [&str; 4] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.168.0.0/16"];
const ENVIRONMENTS: [&str; 2] = ["staging", "production"];

fn some<T: Clone + std::fmt::Debug + 'static>(from: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    proptest::sample::subsequence(from.to_vec(), 0..=from.len())
}

prop_compose! {
    fn any_grant()(
        scopes in some(&SCOPES),
        resources in some(&PATTERNS),
        networks in some(&NETWORKS),
        environments in some(&ENVIRONMENTS),
        labels in some(&["x", "y"]),
    ) -> Grant {
        Grant {
            scopes,
            resources: resources.iter().map(|text| pattern(&format!("orgs/acme/{text}"))).collect(),
            labels: labels.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect(),
            environments: environments.iter().map(|text| environment(text)).collect(),
            client_cidrs: networks.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever a call asks: if the handed-on grants admit it, so do the holder's.
    #[test]
    fn what_was_handed_on_is_never_wider(
        held in proptest::collection::vec(any_grant(), 1..3),
        child in any_grant(),
        scope in proptest::sample::select(&SCOPES),
        name in proptest::sample::select(&["keys/a", "keys/ab", "keys/b", "tokens/a", "keys/a/versions/1"]),
        address in proptest::sample::select(&["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.168.1.1", "8.8.8.8"]),
        at in proptest::sample::select(&[None, Some("staging"), Some("production"), Some("development")]),
        labels in some(&["x", "y", "z"]),
    ) {
        let name = format!("orgs/acme/{name}");
        let labels: Labels = labels.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        let at = at.map(environment);
        let allows = |grants: &[Grant]| {
            let mut case = Case::with(grants.to_vec());
            case.peer.address = address.parse().unwrap();
            admit(case.evidence(), &Access::Resource(scope, name.clone()))
                .is_ok_and(|permit| permit.covers(&name, at.as_ref(), &labels))
        };
        let case = Case::with(held.clone());
        let permit = admit(case.evidence(), &Access::Identity).unwrap();
        let handed_on = std::slice::from_ref(&child);
        if Holding::of_permit(&permit).permits("grants", handed_on).is_ok() && allows(handed_on) {
            prop_assert!(allows(&held), "{held:?} {child:?} in {}", acme());
        }
    }

    #[test]
    fn every_grant_is_within_itself(grant in any_grant()) {
        prop_assert!(is_within(&grant, &grant));
    }
}
