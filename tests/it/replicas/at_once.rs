//! What is asked of several servers at the same time, or of one right after another.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use ibyok::grpc::pb;
use tonic::Status;

use super::{SERVERS, admins, serve, stop};
use crate::{
    dice::Dice,
    harness::{Caller, reason},
};

const ROUNDS: usize = 8;

/// What a holder of a token asks of each server.
async fn used(caller: &Caller) -> Result<(), Status> {
    caller.keys().list_keys(pb::ListKeysRequest { page_size: 1, ..Default::default() }).await.map(|_| ())
}

/// The store's failures that a network brings: the call may be made again.
fn is_weather(status: &Status) -> bool {
    matches!(reason(status).as_str(), "STORE_UNAVAILABLE" | "AUDIT_UNAVAILABLE" | "WRITE_CONFLICT")
}

/// What `call` answers once the weather lets it.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(mut call: impl FnMut() -> F) -> Result<T, Status> {
    loop {
        match call().await {
            Err(status) if is_weather(&status) => {}
            ended => return ended,
        }
    }
}

/// While everybody uses a token everywhere, it is revoked by one server: no call that begins after the
/// answer, on any server, succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_server_revoked_is_dead_on_all() {
    let mut dice = Dice::new();
    let vaults = serve(&mut dice).await;
    let admins = admins(&vaults).await;
    for round in 0..ROUNDS {
        let grants = vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }];
        let issuer = &admins[round % SERVERS];
        let request = pb::IssueTokenRequest { subject: format!("s{round}"), grants, ..Default::default() };
        let issued =
            patiently(|| async { issuer.tokens().issue_token(request.clone()).await }).await.unwrap().into_inner();
        let token = issued.access_token.unwrap().text.clone();
        let (name, subject) = (issued.token.unwrap().name, format!("s{round}"));
        let holders: Vec<_> = admins.iter().map(|admin| admin.with_token(token.clone())).collect();
        for holder in &holders {
            patiently(|| used(holder)).await.unwrap();
        }
        let is_revoked = Arc::new(AtomicBool::new(false));
        let using = holders.iter().map(|holder| {
            let (holder, is_revoked) = (holder.clone(), Arc::clone(&is_revoked));
            tokio::spawn(async move {
                let (mut good, mut refused) = (0, 0);
                while refused < 3 {
                    let began_after = is_revoked.load(Ordering::SeqCst);
                    match used(&holder).await {
                        Ok(()) => {
                            assert!(!began_after, "a revoked token was good");
                            good += 1;
                        }
                        Err(status) if is_weather(&status) => {}
                        Err(status) => {
                            assert_eq!(reason(&status), "TOKEN_REVOKED");
                            refused += 1;
                        }
                    }
                }
                good
            })
        });
        let using: Vec<_> = using.collect();
        // By name, or all of the subject's.
        let which = match round % 2 {
            0 => pb::revoke_tokens_request::Which::Name(name),
            _ => pb::revoke_tokens_request::Which::Subject(subject),
        };
        let request = pb::RevokeTokensRequest { which: Some(which), ..Default::default() };
        let revoker = &admins[dice.below(SERVERS)];
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        patiently(|| async { revoker.tokens().revoke_tokens(request.clone()).await }).await.unwrap();
        is_revoked.store(true, Ordering::SeqCst);
        let good = join_all(using).await;
        assert!(good.into_iter().map(Result::unwrap).sum::<usize>() > 0, "nobody used it meanwhile");
    }
    drop(admins);
    stop(vaults).await;
}

/// One mutation with one request_id, sent to all servers at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_all_servers_are_asked_for_happens_once() {
    let mut dice = Dice::new();
    let vaults = serve(&mut dice).await;
    let admins = admins(&vaults).await;
    let secret = |n: usize| Some(pb::SecretValue { text: format!("sk-proj-replicas-{n:040}") });
    for round in 0..ROUNDS {
        let id = format!("k{round}");
        let request = pb::CreateKeyRequest {
            key_id: id.clone(),
            provider: "openai".into(),
            secret: secret(round),
            request_id: format!("create-{round}"),
            ..Default::default()
        };
        let created = admins.iter().map(|admin| {
            let request = request.clone();
            patiently(move || {
                let request = request.clone();
                async move { admin.keys().create_key(request).await.map(|answer| answer.into_inner().key.unwrap().uid) }
            })
        });
        let mut uids: Vec<_> = join_all(created).await.into_iter().map(Result::unwrap).collect();
        uids.dedup();
        assert_eq!(uids.len(), 1, "one key, whoever answers");
        let request = pb::AddKeyVersionRequest {
            name: id.clone(),
            secret: secret(1_000 + round),
            request_id: format!("add-{round}"),
            ..Default::default()
        };
        let added = admins.iter().map(|admin| {
            let request = request.clone();
            patiently(move || {
                let request = request.clone();
                async move {
                    let answer = admin.keys().add_key_version(request).await?;
                    Ok(answer.into_inner().version.unwrap().name.clone())
                }
            })
        });
        for name in join_all(added).await {
            assert_eq!(name.unwrap(), format!("orgs/acme/keys/{id}/versions/2"));
        }
        let other = pb::AddKeyVersionRequest {
            name: id,
            secret: secret(9),
            request_id: format!("add-{round}"),
            ..Default::default()
        };
        let refused = patiently(|| async { admins[1].keys().add_key_version(other.clone()).await }).await.unwrap_err();
        assert_eq!(reason(&refused), "REQUEST_ID_REUSED", "on another server, too");
    }
    let filter = pb::AuditFilter {
        actions: vec!["key.create".into(), "key.version.add".into()],
        outcomes: vec![pb::AuditOutcome::Allowed.into()],
        ..Default::default()
    };
    let request = pb::ListAuditEventsRequest { filter: Some(filter), page_size: 500, ..Default::default() };
    let listed = patiently(|| async { admins[2].audit().list_audit_events(request.clone()).await }).await.unwrap();
    assert_eq!(listed.into_inner().events.len(), 2 * ROUNDS, "a record of each");
    drop(admins);
    stop(vaults).await;
}
