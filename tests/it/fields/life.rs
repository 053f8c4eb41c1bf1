//! Renewals, again and again, at the end of what may be had; and the end of a deleted key.

use std::time::Duration;

use ibyok::pki::Validity;
use pb::exchange_token_request::Subject;

use super::*;
use crate::{
    dice::Dice,
    harness::{client_certificate, within},
};

const WORKER: &str = "spiffe://ibyok.test/worker";

fn issue(ttl: i64, max_ttl: i64) -> pb::IssueTokenRequest {
    pb::IssueTokenRequest {
        subject: "worker".to_owned(),
        grants: vec![grant(&["keys:read"])],
        ttl: seconds(ttl),
        max_ttl: seconds(max_ttl),
        ..Default::default()
    }
}

async fn renew(caller: &Caller, ttl: Option<i64>) -> Result<(Caller, pb::Token), Status> {
    let request = pb::RenewTokenRequest { ttl: ttl.and_then(seconds), ..Default::default() };
    let answer = caller.tokens().renew_token(request).await?.into_inner();
    Ok((caller.with_token(answer.access_token.unwrap().text.clone()), answer.token.unwrap()))
}

fn expires(token: &pb::Token) -> i64 {
    token.expire_time.unwrap().seconds
}

fn whoami() -> pb::IntrospectTokenRequest {
    pb::IntrospectTokenRequest::default()
}

/// `exp` of a token's text.
fn exp(caller: &Caller) -> i64 {
    let payload = caller.token.as_ref().unwrap().split('.').nth(1).unwrap();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    claims["exp"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_renewal_passes_the_maximum_or_the_parents_end() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let mut dice = Dice::new();
    let mut parent = vault.issue(&admin, WORKER, issue(600, 4_000)).await;
    let token = parent.tokens().introspect_token(whoami()).await.unwrap().into_inner().token.unwrap();
    let (mut parents_end, maximum) = (expires(&token), token.max_expire_time.unwrap().seconds);
    let bare = Caller::new(parent.channel.clone(), None);
    let request = pb::ExchangeTokenRequest {
        subject: Some(Subject::Jwt(pb::SecretValue { text: parent.token.clone().unwrap() })),
        parent: format!("orgs/{ORG}"),
        ttl: seconds(60),
        ..Default::default()
    };
    let answer = bare.tokens().exchange_token(request).await.unwrap().into_inner();
    let childs_maximum = answer.token.as_ref().unwrap().max_expire_time.unwrap().seconds;
    assert_eq!(childs_maximum, parents_end);
    let mut child = Some(bare.with_token(answer.access_token.unwrap().text.clone()));
    let mut childs_end = expires(answer.token.as_ref().unwrap());

    let mut reached = 0;
    for round in 0..60 {
        vault.clock.advance(Duration::from_secs(u64::try_from(dice.below(50)).unwrap()));
        // Nobody says, a moment, or more than may be had.
        let ttl = [None, Some(1), Some(600), Some(86_400), Some(7_000_000)][dice.below(5)];
        if round % 2 == 0 || child.is_none() {
            let (renewed, token) = renew(&parent, ttl).await.unwrap();
            assert!((parents_end..=maximum).contains(&expires(&token)), "{ttl:?}: never back, never past");
            assert_eq!(token.max_expire_time.unwrap().seconds, maximum, "no renewal moves the maximum");
            assert!(exp(&renewed) <= maximum);
            (parent, parents_end) = (renewed, expires(&token));
            reached += usize::from(parents_end == maximum);
        } else if let Some(own) = child.take() {
            match renew(&own, ttl).await {
                Ok((renewed, token)) => {
                    assert!((childs_end..=childs_maximum).contains(&expires(&token)), "{ttl:?}");
                    assert!(expires(&token) <= parents_end && exp(&renewed) <= parents_end);
                    (child, childs_end) = (Some(renewed), expires(&token));
                }
                Err(status) => assert_eq!(reason(&status), "TOKEN_EXPIRED"),
            }
        }
    }
    assert!(child.is_none() || childs_end <= childs_maximum);
    // To the last second, and not one more, however often it is asked for.
    while reached == 0 {
        let (renewed, token) = renew(&parent, Some(7_000_000)).await.unwrap();
        (parent, reached) = (renewed, usize::from(expires(&token) == maximum));
    }
    retrieve(&parent, "openai").await.unwrap();
    vault.clock.advance(Duration::from_secs(4_000));
    let expired = (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned());
    assert_eq!(refused(retrieve(&parent, "openai").await), expired);
    assert_eq!(refused(renew(&parent, None).await.map(drop)), expired);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_renewal_outlives_the_certificate_that_shows_it() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let day = client_certificate(&vault.authority, WORKER, Validity::days(1));
    let issued = vault.issue(&admin, WORKER, issue(3_600, 10 * 86_400)).await;
    let mut caller = Caller::new(vault.channel(&day), issued.token.clone());
    for _ in 0..25 {
        (caller, _) = match renew(&caller, None).await {
            Ok(renewed) => renewed,
            Err(status) => {
                assert_eq!(reason(&status), "CERTIFICATE_EXPIRED");
                break;
            }
        };
        vault.clock.advance(Duration::from_secs(3_500));
    }
    let expired = (Code::Unauthenticated, "CERTIFICATE_EXPIRED".to_owned());
    assert_eq!(refused(retrieve(&caller, "openai").await), expired);
    assert_eq!(refused(renew(&caller, None).await.map(drop)), expired);
    // The same token with the identity's next certificate goes on.
    let next = client_certificate(&vault.authority, WORKER, Validity::days(9));
    let next = Caller::new(vault.channel(&next), caller.token.clone());
    retrieve(&next, "openai").await.unwrap();
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_leaves_its_record_in_a_log_that_verifies() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let keys = ["one", "two", "three"];
    for key in keys {
        create(&admin, key, &openai(key)).await;
        rotate(&admin, key, &openai("next"), true).await;
    }
    for key in ["one", "two"] {
        let delete = pb::DeleteKeyRequest { name: key.into(), recovery_window: seconds(3_600), ..Default::default() };
        admin.keys().delete_key(delete).await.unwrap();
    }
    let undelete = pb::UndeleteKeyRequest { name: "two".into(), ..Default::default() };
    admin.keys().undelete_key(undelete).await.unwrap();
    vault.clock.advance(Duration::from_secs(3_601));
    let admin = vault.admin().await;
    let purged = within("the purge of a key", async {
        loop {
            let purged = events(&admin, "key.purge").await;
            if !purged.is_empty() {
                break purged;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(purged.len(), 1);
    assert_eq!((purged[0].resource.as_str(), purged[0].outcome()), ("orgs/acme/keys/one", pb::AuditOutcome::Allowed));
    let request = pb::ListKeysRequest { show_deleted: true, ..Default::default() };
    let left: Vec<_> = admin.keys().list_keys(request).await.unwrap().into_inner().keys;
    let mut left: Vec<_> = left.iter().map(|key| key.name.rsplit('/').next().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, ["three", "two"]);
    let gone = (Code::NotFound, "KEY_NOT_FOUND".to_owned());
    assert_eq!(refused(retrieve(&admin, "one").await), gone);
    let undelete = pb::UndeleteKeyRequest { name: "one".into(), ..Default::default() };
    assert_eq!(refused(admin.keys().undelete_key(undelete).await), gone);
    crate::crash::verify(&vault.operator().await).await;
    vault.stop().await;
}
