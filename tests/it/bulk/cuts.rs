//! Imports that do not end by themselves: cut by the caller, by the token's end, by the server's. In
//! each case what was begun is whole, and the import can be run again.

use std::time::Duration;

use ibyok::grpc::pb;
use tonic::Code;

use super::{Open, events, import, import_all, item, items, listed, new_key, status};
use crate::harness::{Caller, ORG, Vault, reason};

/// Every key that is there has one record, and each record its key.
async fn assert_whole(admin: &Caller) -> usize {
    let mut keys: Vec<_> = listed(admin).await.into_iter().map(|id| format!("orgs/{ORG}/keys/{id}")).collect();
    let stored = events(admin, "key.import").await.into_iter().filter(|(outcome, ..)| *outcome == 1);
    let mut recorded: Vec<_> = stored.map(|(.., resource)| resource).collect();
    keys.sort();
    recorded.sort();
    assert_eq!(keys, recorded);
    keys.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_cut_is_run_again_and_stores_nothing_twice() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let all = items("k", 80);
    let mut open = Open::new(&admin).await;
    let mut first = Vec::new();
    for item in all.iter().take(30).cloned() {
        open.send.send(item).await.unwrap();
    }
    for _ in 0..10 {
        first.push(open.answers.message().await.unwrap().unwrap());
    }
    // Its connection is gone, too.
    drop(open);

    let again = import_all(&admin, all.clone()).await;
    assert!(again.iter().all(|answer| status(answer) == (0, "")));
    for (before, now) in first.iter().zip(&again) {
        assert_eq!(before, now, "the same answer");
    }
    assert_eq!(assert_whole(&admin).await, 80);
    // Whatever skip_existing says: what this import stored is not skipped.
    let skipping: Vec<_> =
        all.iter().cloned().map(|item| pb::ImportKeysRequest { skip_existing: true, ..item }).collect();
    assert_eq!(import_all(&admin, skipping).await, again);
    let mut other = all;
    other[3].key.as_mut().unwrap().description = "another".into();
    let answers = import_all(&admin, other).await;
    assert_eq!(status(&answers[3]), (Code::AlreadyExists as i32, "REQUEST_ID_REUSED"));
    assert_eq!(assert_whole(&admin).await, 80);
    vault.stop().await;
}

async fn importer(vault: &Vault, admin: &Caller) -> (Caller, String) {
    let grant = pb::Grant { scopes: vec!["keys:write".into()], ..Default::default() };
    let identity = "spiffe://ibyok.test/importer".to_owned();
    let request = pb::IssueTokenRequest {
        subject: "importer".into(),
        grants: vec![grant],
        client_identity: identity.clone(),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..Default::default()
    };
    let issued = admin.tokens().issue_token(request).await.unwrap().into_inner();
    let token = issued.access_token.unwrap().text.clone();
    (Caller::new(vault.channel(&vault.certificate(&identity)), Some(token)), issued.token.unwrap().name)
}

async fn revoke(admin: &Caller, name: String) {
    let which = Some(pb::revoke_tokens_request::Which::Name(name));
    admin.tokens().revoke_tokens(pb::RevokeTokensRequest { which, ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_ends_its_import_at_the_next_item() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let (importer, name) = importer(&vault, &admin).await;
    let mut open = Open::new(&importer).await;
    let mut all = items("k", 9).into_iter();
    for item in all.by_ref().take(5) {
        assert_eq!(status(&open.ask(item).await.unwrap().unwrap()), (0, ""));
    }
    revoke(&admin, name).await;
    let refusal = open.ask(all.next().unwrap()).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::Unauthenticated, "TOKEN_REVOKED"));
    assert!(open.answers.message().await.unwrap().is_none());
    assert_eq!(assert_whole(&admin).await, 5, "nothing that came after the revocation is stored");
    // And is not opened again.
    let (answered, refusal) = import(&importer, all.collect()).await;
    assert_eq!((answered.len(), reason(&refusal.unwrap()).as_str()), (0, "TOKEN_REVOKED"));
    vault.stop().await;
}

#[tokio::test]
async fn a_revoked_token_ends_its_import_even_if_nothing_comes() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let (importer, name) = importer(&vault, &admin).await;
    let mut open = Open::new(&importer).await;
    revoke(&admin, name).await;
    let refusal = open.answers.message().await.unwrap_err();
    assert_eq!(reason(&refusal), "TOKEN_REVOKED");
    vault.stop().await;
}

#[tokio::test]
async fn a_token_that_expires_ends_its_import() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let (importer, _) = importer(&vault, &admin).await;
    let mut open = Open::new(&importer).await;
    open.ask(items("k", 1).remove(0)).await.unwrap().unwrap();
    vault.clock.advance(Duration::from_secs(601));
    let refusal = open.ask(item(new_key("late", 9))).await.unwrap_err();
    assert_eq!(reason(&refusal), "TOKEN_EXPIRED");
    assert_eq!(assert_whole(&vault.admin().await).await, 1);
    vault.stop().await;
}

/// A server that stops answers what it began; what it did not begin is stored when the import is run
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_leaves_nothing_half_done() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let mut open = Open::new(&admin).await;
    let all = items("k", 200);
    open.ask(all[0].clone()).await.unwrap().unwrap();
    let sender = open.send.clone();
    let rest = all[1..].to_vec();
    let sending = tokio::spawn(async move {
        for item in rest {
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..20 {
        open.answers.message().await.unwrap().unwrap();
    }
    let stopping = tokio::spawn(vault.stop());
    let mut answered = 21;
    let ended = loop {
        match open.answers.message().await {
            Ok(Some(answer)) => {
                assert_eq!((answer.index, status(&answer)), (answered, (0, "")));
                answered += 1;
            }
            Ok(None) => break None,
            Err(refusal) => break Some(refusal),
        }
    };
    // Unless it was through before.
    if answered < 200 {
        let ended = ended.unwrap();
        assert_eq!(reason(&ended), "DRAINING", "{ended:?}");
    }
    sending.abort();
    drop(open);
    let vault = stopping.await.unwrap().serve("").await;
    let admin = vault.admin().await;
    assert!(assert_whole(&admin).await >= usize::try_from(answered).unwrap());
    assert!(import_all(&admin, all).await.iter().all(|answer| status(answer) == (0, "")));
    assert_eq!(assert_whole(&admin).await, 200);
    vault.stop().await;
}

/// The caller's own deadline is that of the whole stream.
#[tokio::test]
async fn an_import_ends_at_its_callers_deadline() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receive));
    let bearer = format!("Bearer {}", admin.token.as_ref().unwrap());
    request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    request.set_timeout(Duration::from_millis(700));
    let mut keys = pb::key_vault_client::KeyVaultClient::new(admin.channel.clone());
    let mut answers = keys.import_keys(request).await.unwrap().into_inner();
    send.send(items("k", 1).remove(0)).await.unwrap();
    assert_eq!(status(&answers.message().await.unwrap().unwrap()), (0, ""));
    let refusal = answers.message().await.unwrap_err();
    assert_eq!(reason(&refusal), "DEADLINE_EXCEEDED");
    vault.stop().await;
}
