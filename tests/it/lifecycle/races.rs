//! Callers at the same moment.

use std::sync::Arc;

use futures_util::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_token_is_good_for_exactly_its_uses() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    for (uses, callers) in [(7, 20), (1, 20), (19, 20)] {
        let request = pb::IssueTokenRequest {
            subject: format!("limited-{uses}"),
            grants: vec![grant(&["keys:read"])],
            uses_max: uses,
            ..Default::default()
        };
        let limited = vault.issue(&admin, "spiffe://ibyok.test/limited", request).await;
        let before = events(&admin, "key.retrieve").await;
        let barrier = Arc::new(tokio::sync::Barrier::new(callers));
        let calls = (0..callers).map(|_| {
            let (limited, barrier) = (limited.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                retrieve(&limited, "openai").await
            })
        });
        let outcomes: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let (released, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        let reasons: Vec<_> = refusals.into_iter().map(|refusal| refused(refusal).1).collect();
        assert_eq!(released.len(), usize::try_from(uses).unwrap(), "{reasons:?}");
        assert!(reasons.iter().all(|reason| reason == "TOKEN_USED_UP"), "{reasons:?}");

        let tokens =
            pb::ListTokensRequest { subject: format!("limited-{uses}"), show_inactive: true, ..Default::default() };
        let tokens = admin.tokens().list_tokens(tokens).await.unwrap().into_inner().tokens;
        assert_eq!((tokens[0].uses, tokens[0].uses_max), (uses, uses));
        let allowed = |events: &[pb::AuditEvent]| {
            events.iter().filter(|event| event.outcome() == pb::AuditOutcome::Allowed).count()
        };
        let after = events(&admin, "key.retrieve").await;
        assert_eq!(allowed(&after) - allowed(&before), released.len(), "each release has its record, and no more");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_with_one_etag_one_wins() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let mut etag = create(&admin, "openai", &openai("one")).await.etag;
    for round in 0..10 {
        let writers = (0..6).map(|writer| {
            let (admin, etag) = (admin.clone(), etag.clone());
            tokio::spawn(async move {
                let description = format!("round {round} writer {writer}");
                let key =
                    pb::Key { name: "openai".to_owned(), etag, description: description.clone(), ..Default::default() };
                let update_mask = Some(prost_types::FieldMask { paths: vec!["description".to_owned()] });
                let request = pb::UpdateKeyRequest { key: Some(key), update_mask, ..Default::default() };
                (description, admin.keys().update_key(request).await)
            })
        });
        let outcomes: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, outcome)| outcome.is_ok());
        assert_eq!(won.len(), 1);
        for (_, loser) in lost {
            assert_eq!(refused(loser), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
        }
        let stored = key(&admin, "openai").await;
        assert_eq!(stored.description, won[0].0);
        assert_ne!(stored.etag, etag);
        etag = stored.etag;
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_often_happens_once() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let request = pb::CreateKeyRequest {
        key_id: "openai".to_owned(),
        secret: secret(&openai("one")),
        request_id: "once".to_owned(),
        ..Default::default()
    };
    let calls = (0..12).map(|_| {
        let (admin, request) = (admin.clone(), request.clone());
        tokio::spawn(async move { admin.keys().create_key(request).await.unwrap().into_inner().key.unwrap() })
    });
    let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "every try answers what the first did");
    let created = events(&admin, "key.create").await;
    assert_eq!(created.iter().filter(|event| event.outcome() == pb::AuditOutcome::Allowed).count(), 1);
    let other = pb::CreateKeyRequest { description: "another".to_owned(), ..request };
    assert_eq!(refused(admin.keys().create_key(other).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    vault.stop().await;
}
