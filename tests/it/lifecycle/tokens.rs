//! Tokens from issue to revocation.

use ibyok::domain::clock::{Clock as _, SystemClock};
use pb::revoke_tokens_request::Which;

use super::*;
use crate::tamper::stock::until_used;

fn issue(subject: &str) -> pb::IssueTokenRequest {
    pb::IssueTokenRequest {
        subject: subject.to_owned(),
        grants: vec![grant(&["keys:read", "audit:read"])],
        ..Default::default()
    }
}

async fn whoami(caller: &Caller) -> pb::Token {
    let request = pb::IntrospectTokenRequest::default();
    caller.tokens().introspect_token(request).await.unwrap().into_inner().token.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_and_is_renewed_until_its_last_day() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let request = pb::IssueTokenRequest { ttl: seconds(600), max_ttl: seconds(1_500), ..issue("worker") };
    let worker = vault.issue(&admin, "spiffe://ibyok.test/worker", request).await;
    let first = whoami(&worker).await;
    assert_eq!(first.expire_time.unwrap().seconds - first.create_time.unwrap().seconds, 600);
    retrieve(&worker, "openai").await.unwrap();

    vault.clock.advance(Duration::from_secs(590));
    let renewed = worker.tokens().renew_token(pb::RenewTokenRequest::default()).await.unwrap().into_inner();
    let again = worker.with_token(renewed.access_token.as_ref().unwrap().text.clone());
    let second = renewed.token.unwrap();
    assert_eq!((&second.name, &second.grants), (&first.name, &first.grants), "the same token");
    vault.clock.advance(Duration::from_secs(11));
    assert_eq!(refused(retrieve(&worker, "openai").await), (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned()));
    retrieve(&again, "openai").await.unwrap();

    vault.clock.advance(Duration::from_secs(580));
    let last = again.tokens().renew_token(pb::RenewTokenRequest::default()).await.unwrap().into_inner();
    let again = again.with_token(last.access_token.as_ref().unwrap().text.clone());
    let last = last.token.unwrap();
    assert_eq!(last.expire_time, first.max_expire_time, "no further than it may go");
    vault.clock.advance(Duration::from_secs(320));
    assert_eq!(refused(retrieve(&again, "openai").await), (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned()));
    let late = again.tokens().renew_token(pb::RenewTokenRequest::default()).await;
    assert_eq!(refused(late), (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned()));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_and_its_streams_end() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let identity = "spiffe://ibyok.test/worker";
    let bystander = vault.issue(&admin, "spiffe://ibyok.test/bystander", issue("bystander")).await;
    for way in ["name", "subject", "issued_before"] {
        let worker = vault.issue(&admin, identity, issue("worker")).await;
        let twin = vault.issue(&admin, identity, issue("worker")).await;
        let follow = pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
        let mut stream = worker.audit().stream_audit_events(follow).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        retrieve(&worker, "openai").await.unwrap();

        vault.clock.advance(Duration::from_secs(2));
        let revoker = vault.admin().await;
        let now = whoami(&revoker).await.create_time.unwrap();
        let which = match way {
            "name" => Which::Name(whoami(&worker).await.name),
            "subject" => Which::Subject("worker".to_owned()),
            _ => {
                // A later time would be one that the clocks of servers may not agree on.
                vault.clock.advance(Duration::from_secs(30));
                Which::IssuedBefore(now)
            }
        };
        let request = pb::RevokeTokensRequest { which: Some(which), reason: "a test".to_owned(), ..Default::default() };
        let revoked = revoker.tokens().revoke_tokens(request).await.unwrap().into_inner().revoked;
        let acknowledged = SystemClock.instant();
        assert_eq!(refused(retrieve(&worker, "openai").await), (Code::Unauthenticated, "TOKEN_REVOKED".to_owned()));
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a stream ends with the reason"),
                Err(status) => break status,
            }
        };
        let taken = SystemClock.instant() - acknowledged;
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        assert_eq!(refused::<()>(Err(end)), (Code::Unauthenticated, "TOKEN_REVOKED".to_owned()));
        let is_twin_good = retrieve(&twin, "openai").await.is_ok();
        let is_bystander_good = retrieve(&bystander, "openai").await.is_ok();
        let expected = match way {
            "name" => (true, true, revoked == 1),
            // The twin of the round before is a live one of that subject, too.
            "subject" => (false, true, revoked == 3),
            _ => (false, false, revoked >= 3),
        };
        assert_eq!((is_twin_good, is_bystander_good, true), expected, "{way}: {revoked}");
        retrieve(&revoker, "openai").await.unwrap();
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_shown() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let worker = vault.issue(&admin, "spiffe://ibyok.test/worker", issue("worker")).await;
    let tokens = || pb::ListTokensRequest { subject: "worker".to_owned(), ..Default::default() };
    let unused = admin.tokens().list_tokens(tokens()).await.unwrap().into_inner().tokens;
    assert_eq!(unused[0].last_used_time, None);
    assert_eq!(key(&admin, "openai").await.last_used_time, None);

    retrieve(&worker, "openai").await.unwrap();
    until_used(&admin, "openai").await;
    let used = admin.tokens().list_tokens(tokens()).await.unwrap().into_inner().tokens;
    let event = events(&admin, "key.retrieve").await.remove(0);
    assert_eq!(used[0].last_used_time, event.time);
    assert_eq!(key(&admin, "openai").await.last_used_time, event.time);
    let renewed = worker.tokens().renew_token(pb::RenewTokenRequest::default()).await.unwrap().into_inner();
    assert_eq!(renewed.token.unwrap().last_used_time, event.time, "renewal keeps it");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_bound_to_a_certificate_or_to_an_identity() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let identity = "spiffe://ibyok.test/worker";
    let (one, renewed) = (vault.certificate(identity), vault.certificate(identity));
    let pem: String = one.certificate.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    let der = data_encoding::BASE64.decode(pem.as_bytes()).unwrap();
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let sha256 = data_encoding::HEXLOWER.encode(sha256.as_ref());

    for (is_of_certificate, is_good_after_renewal) in [(true, false), (false, true)] {
        let mut request = issue("worker");
        if is_of_certificate {
            request.certificate_sha256.clone_from(&sha256);
        } else {
            request.client_identity = identity.to_owned();
        }
        let answer = admin.tokens().issue_token(request).await.unwrap().into_inner();
        let token = answer.token.unwrap();
        let shown = (token.certificate_sha256.as_str(), token.client_identity.as_str());
        assert_eq!(shown, if is_of_certificate { (sha256.as_str(), "") } else { ("", identity) });
        let text = answer.access_token.as_ref().unwrap().text.clone();
        let with = |certificate| Caller::new(vault.channel(certificate), Some(text.clone()));
        retrieve(&with(&one), "openai").await.unwrap();
        let outcome = retrieve(&with(&renewed), "openai").await;
        if is_good_after_renewal {
            outcome.unwrap();
        } else {
            let expected = (Code::Unauthenticated, "TOKEN_CERTIFICATE_MISMATCH".to_owned());
            assert_eq!(refused(outcome), expected);
        }
        let thief = vault.certificate("spiffe://ibyok.test/thief");
        let expected = (Code::Unauthenticated, "TOKEN_CERTIFICATE_MISMATCH".to_owned());
        assert_eq!(refused(retrieve(&with(&thief), "openai").await), expected);
    }
    vault.stop().await;
}
