use std::sync::Arc;

use super::*;
use crate::{
    authz::fixtures::{Case, acme, grant, pattern, seconds, token_id},
    domain::{principal::ClientCertificate, token::Confirmation},
};

fn read(name: &str) -> Access {
    Access::Resource(Scope::KeysRead, name.to_owned())
}
fn reason(case: &Case, access: &Access) -> Option<Reason> {
    admit(case.evidence(), access).err().map(|failure| failure.reason)
}

#[test]
fn a_good_token_is_admitted() {
    let case = Case::with(vec![grant()]);
    let permit = admit(case.evidence(), &read("orgs/acme/keys/a")).unwrap();
    assert_eq!((permit.org(), permit.token_id(), permit.mode()), (&acme(), &token_id(1), TokenMode::Live));
    assert_eq!(permit.ends(), seconds(4600));
    assert!(admit(Case::child().evidence(), &read("orgs/acme/keys/a")).is_ok());
}

#[test]
fn narrowing_a_permit_decides_as_admission_does() {
    let elsewhere = Grant { client_cidrs: vec!["192.0.2.0/24".parse().unwrap()], ..grant() };
    let one = Grant { resources: vec![pattern("orgs/acme/keys/one")], ..grant() };
    for grants in [vec![grant()], vec![elsewhere.clone()], vec![one.clone()], vec![elsewhere, one], Vec::new()] {
        let case = Case::with(grants);
        let permit = admit(case.evidence(), &Access::Identity).unwrap();
        for access in [
            read("orgs/acme/keys/one"),
            read("orgs/acme/keys/two"),
            Access::Resource(Scope::KeysDestroy, "orgs/acme/keys/one".into()),
        ] {
            let narrowed = permit.narrowed(&case.peer, &access);
            let admitted = admit(case.evidence(), &access);
            let grants = |permit: Permit| permit.grants().cloned().collect::<Vec<_>>();
            let told = |failure: Failure| (failure.reason, failure.metadata);
            assert_eq!(narrowed.map(grants).map_err(told), admitted.map(grants).map_err(told), "{access:?}");
        }
    }
}

#[test]
fn what_has_neither_environment_nor_labels_is_covered_by_no_grant_that_demands_one() {
    let production = Environment::parse("e", "production").unwrap();
    let labelled = Grant { labels: [("team".to_owned(), "a".to_owned())].into(), ..grant() };
    let limited = Grant { environments: vec![production], ..grant() };
    let name = || "orgs/acme/keys/a".to_owned();
    for grants in [vec![labelled.clone()], vec![limited.clone()], vec![labelled, limited]] {
        let case = Case::with(grants);
        assert_eq!(reason(&case, &Access::Plain(Scope::KeysRead, name())), Some(Reason::ResourceNotGranted));
        assert_eq!(reason(&case, &read(&name())), None, "what it demands is asked once the key was read");
    }
    assert_eq!(reason(&Case::with(vec![grant()]), &Access::Plain(Scope::KeysRead, name())), None);
}

/// One change of a good token's records, claims or holder, and what it is refused for.
type Variant = (&'static str, fn(&mut Case), Reason);

fn token(case: &mut Case) -> &mut TokenRecord {
    case.record()
}
fn parent(case: &mut Case) -> &mut TokenRecord {
    case.parent.as_mut().unwrap()
}
fn certificate(case: &mut Case, change: fn(&mut ClientCertificate)) {
    change(Arc::make_mut(&mut case.peer.certificate));
}

#[test]
fn every_single_flaw_refuses() {
    use Reason::{CertificateExpired, TokenCertificateMismatch, TokenExpired, TokenMalformed, TokenRevoked};
    let variants: &[Variant] = &[
        ("no record", |case| case.token = None, TokenRevoked),
        ("no subject", |case| case.subject = None, TokenRevoked),
        ("revoked", |case| token(case).revoked = Some(seconds(1500)), TokenRevoked),
        ("subject's generation", |case| case.subject.as_mut().unwrap().generation += 1, TokenRevoked),
        ("an older subject's generation", |case| case.subject.as_mut().unwrap().generation -= 1, TokenRevoked),
        ("organization's generation", |case| case.epoch.generation += 1, TokenRevoked),
        ("issued before", |case| case.epoch.issued_before = Timestamp::from_micros(1_000_000_001), TokenRevoked),
        ("no parent", |case| case.parent = None, TokenRevoked),
        ("another parent", |case| parent(case).id = token_id(3), TokenRevoked),
        ("parent of another subject", |case| parent(case).subject = Subject::parse("s", "x").unwrap(), TokenRevoked),
        ("parent of another org", |case| parent(case).org = OrgId::system(), TokenRevoked),
        ("a second level", |case| parent(case).parent = Some(token_id(3)), TokenRevoked),
        ("parent revoked", |case| parent(case).revoked = Some(seconds(1500)), TokenRevoked),
        ("parent's generation", |case| parent(case).subject_generation -= 1, TokenRevoked),
        ("parent's organization generation", |case| parent(case).org_generation -= 1, TokenRevoked),
        ("parent issued before", |case| parent(case).created = seconds(400), TokenRevoked),
        ("parent expired", |case| parent(case).expires = seconds(2000), TokenExpired),
        ("record expired", |case| token(case).expires = seconds(2000), TokenExpired),
        ("claims expired", |case| case.claims.expires = seconds(2000), TokenExpired),
        ("not yet", |case| case.claims.not_before = seconds(2001), Reason::TokenNotYetValid),
        ("record of another id", |case| token(case).id = token_id(9), TokenMalformed),
        ("record of another org", |case| token(case).org = OrgId::system(), TokenMalformed),
        ("record of another subject", |case| token(case).subject = Subject::parse("s", "x").unwrap(), TokenMalformed),
        ("record of another mode", |case| token(case).mode = TokenMode::Mock, TokenMalformed),
        ("claims without parent", |case| case.claims.parent = None, TokenMalformed),
        ("record without parent", |case| token(case).parent = None, TokenMalformed),
        ("uncounted claims", |case| token(case).uses_max = Some(1), TokenMalformed),
        ("other grants", |case| token(case).grants = vec![grant(), grant()].into(), TokenMalformed),
        ("other key", |case| token(case).signing_keys = vec!["k2".into()], TokenMalformed),
        (
            "other binding in the record",
            |case| token(case).confirmation = Confirmation::Certificate([7; 32]),
            TokenMalformed,
        ),
        ("other certificate", |case| certificate(case, |own| own.identities.clear()), TokenCertificateMismatch),
        ("certificate expired", |case| certificate(case, |own| own.not_after = seconds(2000)), CertificateExpired),
    ];
    for (name, change, expected) in variants {
        let mut case = Case::child();
        change(&mut case);
        assert_eq!(reason(&case, &read("orgs/acme/keys/a")), Some(*expected), "{name}");
        assert_eq!(reason(&case, &Access::Identity), Some(*expected), "{name}, identity alone");
    }
}

#[test]
fn a_generation_raised_for_the_parent_alone_does_not_matter_to_a_plain_token() {
    let mut case = Case::with(vec![grant()]);
    case.epoch.issued_before = seconds(1000);
    assert_eq!(reason(&case, &Access::Identity), None, "created at that very time is not before it");
}

#[test]
fn one_grant_must_satisfy_scope_resource_and_network() {
    let office = Grant { client_cidrs: vec!["192.168.0.0/16".parse().unwrap()], ..grant() };
    let write = Grant { scopes: vec![Scope::KeysWrite], resources: vec![pattern("orgs/acme/keys/b")], ..grant() };
    let only_b = Grant { resources: vec![pattern("orgs/acme/keys/b")], ..office.clone() };
    for (grants, access, expected) in [
        (vec![write.clone()], read("orgs/acme/keys/b"), Some(Reason::ScopeMissing)),
        (
            vec![grant(), write.clone()],
            Access::Resource(Scope::KeysWrite, "orgs/acme/keys/a".into()),
            Some(Reason::ResourceNotGranted),
        ),
        (vec![office.clone()], read("orgs/acme/keys/a"), Some(Reason::NetworkNotGranted)),
        (vec![only_b.clone()], read("orgs/acme/keys/a"), Some(Reason::ResourceNotGranted)),
        (vec![only_b, write], read("orgs/acme/keys/b"), Some(Reason::NetworkNotGranted)),
        (vec![office.clone(), grant()], read("orgs/acme/keys/a"), None),
        (vec![office], Access::Collection(Scope::KeysRead), Some(Reason::NetworkNotGranted)),
        (vec![], Access::Collection(Scope::KeysRead), Some(Reason::ScopeMissing)),
        (
            vec![Grant { resources: vec![], ..grant() }],
            Access::Collection(Scope::KeysRead),
            Some(Reason::ResourceNotGranted),
        ),
        (vec![Grant { resources: vec![], ..grant() }], read("orgs/acme/keys/a"), Some(Reason::ResourceNotGranted)),
        (vec![], Access::Identity, None),
    ] {
        assert_eq!(reason(&Case::with(grants), &access), expected, "{access:?}");
    }
}

#[test]
fn a_missing_scope_is_named() {
    let failure = admit(Case::with(vec![grant()]).evidence(), &Access::Collection(Scope::AuditRead)).unwrap_err();
    assert_eq!(failure.metadata, [("scope", "audit:read".to_owned())]);
}

#[test]
fn networks_see_through_mapped_addresses() {
    let mut case = Case::with(vec![Grant { client_cidrs: vec!["10.0.0.0/8".parse().unwrap()], ..grant() }]);
    case.peer.address = "::ffff:10.9.9.9".parse().unwrap();
    assert_eq!(reason(&case, &read("orgs/acme/keys/a")), None);
    case.peer.address = "::ffff:11.9.9.9".parse().unwrap();
    assert_eq!(reason(&case, &read("orgs/acme/keys/a")), Some(Reason::NetworkNotGranted));
}

#[test]
fn labels_and_environments_are_asked_of_what_was_read() {
    let production = Environment::parse("e", "production").unwrap();
    let staging = Environment::parse("e", "staging").unwrap();
    let team: Labels = [("team".to_owned(), "ml".to_owned())].into();
    let limited = Grant { labels: team.clone(), environments: vec![production.clone()], ..grant() };
    let list = Grant { scopes: vec![Scope::KeysList], ..grant() };
    let case = Case::with(vec![limited, list]);
    let permit = admit(case.evidence(), &read("orgs/acme/keys/a")).unwrap();
    let more: Labels = [("team".to_owned(), "ml".to_owned()), ("x".to_owned(), "y".to_owned())].into();
    for (environment, labels, expected) in [
        (Some(&production), &team, true),
        (Some(&production), &more, true),
        (Some(&staging), &team, false),
        (None, &team, false),
        (Some(&production), &Labels::new(), false),
        (Some(&production), &[("team".to_owned(), "web".to_owned())].into(), false),
    ] {
        assert_eq!(permit.covers("orgs/acme/keys/a", environment, labels), expected, "{environment:?} {labels:?}");
    }
    assert!(!permit.covers("orgs/acme/tokens/a", Some(&production), &team));
    assert!(permit.covers_with(Scope::KeysRead, "orgs/acme/keys/a", Some(&production), &team));
    assert!(!permit.covers_with(Scope::KeysWrite, "orgs/acme/keys/a", Some(&production), &team));
}

#[test]
fn any_of_several_scopes_admits_and_each_is_told_apart_after() {
    const EITHER: &[Scope] = &[Scope::KeysRead, Scope::KeysReadAdmin];
    let access = Access::AnyOf(EITHER, "orgs/acme/keys/a".to_owned());
    let permit = admit(Case::with(vec![grant()]).evidence(), &access).unwrap();
    assert!(permit.covers_with(Scope::KeysRead, "orgs/acme/keys/a", None, &Labels::new()));
    assert!(!permit.covers_with(Scope::KeysReadAdmin, "orgs/acme/keys/a", None, &Labels::new()));
    let other = Case::with(vec![Grant { scopes: vec![Scope::KeysWrite], ..grant() }]);
    let failure = admit(other.evidence(), &access).unwrap_err();
    assert_eq!(failure.metadata, [("scope", "keys:read keys:read-admin".to_owned())]);
}

#[test]
fn the_end_of_a_life_is_the_earliest_of_record_parent_and_claims() {
    let mut case = Case::child();
    parent(&mut case).expires = seconds(3000);
    assert_eq!(admit(case.evidence(), &Access::Identity).unwrap().ends(), seconds(3000));
    case.claims.expires = seconds(2500);
    assert_eq!(admit(case.evidence(), &Access::Identity).unwrap().ends(), seconds(2500));
}

#[test]
fn labels_open_nothing_that_another_grant_guards() {
    let team = |name: &str| -> Labels { [("team".to_owned(), name.to_owned())].into() };
    let write = Grant { scopes: vec![Scope::KeysWrite], ..grant() };
    let read = |labels: Labels| Grant { labels, ..grant() };
    let office = |grant: Grant| Grant { client_cidrs: vec!["192.168.0.0/16".parse().unwrap()], ..grant };
    let elsewhere = Grant { resources: vec![pattern("orgs/acme/keys/b")], ..read(team("a")) };
    let both = Grant { scopes: vec![Scope::KeysRead, Scope::KeysList, Scope::KeysDestroy], ..read(team("a")) };
    for (what, grants, gains) in [
        ("a read of that label alone", vec![write.clone(), read(team("a"))], true),
        ("it could read before", vec![write.clone(), read(team("a")), read([].into())], false),
        ("one scope more", vec![write.clone(), both, read([].into())], true),
        ("from here it could not read before", vec![write.clone(), read(team("a")), office(read([].into()))], true),
        ("from there it could", vec![write.clone(), office(read(team("a"))), read([].into())], false),
        ("not even from here, but from there", vec![write.clone(), office(read(team("a")))], true),
        ("another label", vec![write.clone(), read(team("b"))], false),
        ("another key", vec![write.clone(), elsewhere], false),
    ] {
        let access = Access::Resource(Scope::KeysWrite, "orgs/acme/keys/a".to_owned());
        let permit = admit(Case::with(grants).evidence(), &access).unwrap();
        assert_eq!(permit.gains("orgs/acme/keys/a", None, &[].into(), &team("a")), gains, "{what}");
        assert!(!permit.gains("orgs/acme/keys/a", None, &team("a"), &team("a")), "{what}: nothing changes");
    }
}
