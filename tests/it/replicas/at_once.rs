//! What is asked of several servers at the same time, or of one right after another.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::join_all;
use ibyok::grpc::pb;
use tonic::{Response, Status};

use super::{SERVERS, admins, callers, may_retry, patiently, serve, stop};
use crate::{
    dice::Dice,
    harness::{Caller, reason, within},
};

const ROUNDS: usize = 8;

/// What a holder of a token asks of each server.
async fn used(caller: &Caller) -> Result<(), Status> {
    caller.keys().list_keys(pb::ListKeysRequest { page_size: 1, ..Default::default() }).await.map(|_| ())
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
        let issued = patiently("a token", || async { issuer.tokens().issue_token(request.clone()).await }).await;
        let issued = issued.unwrap().into_inner();
        let token = issued.access_token.unwrap().text.clone();
        let (name, subject) = (issued.token.unwrap().name, format!("s{round}"));
        let holders: Vec<_> = admins.iter().map(|admin| admin.with_token(token.clone())).collect();
        for holder in &holders {
            patiently("its use", || used(holder)).await.unwrap();
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
                        Err(status) if may_retry(&status) => {}
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
        patiently("its revocation", || async { revoker.tokens().revoke_tokens(request.clone()).await }).await.unwrap();
        is_revoked.store(true, Ordering::SeqCst);
        let good = within("the end of its use", join_all(using)).await;
        assert!(good.into_iter().map(Result::unwrap).sum::<usize>() > 0, "nobody used it meanwhile");
    }
    drop(admins);
    stop(vaults).await;
}

/// One call, made through every server at the same time: what all of them answer.
macro_rules! everywhere {
    ($callers:expr, $service:ident.$method:ident($request:expr)) => {{
        let (what, request) = (stringify!($method), $request);
        let calls = $callers.iter().map(|caller| {
            patiently(what, || {
                let (mut client, request) = (caller.$service(), request.clone());
                async move { client.$method(request).await.map(Response::into_inner) }
            })
        });
        the_same(what, join_all(calls).await)
    }};
}

fn the_same<T: PartialEq + Debug>(what: &str, answers: Vec<Result<T, Status>>) -> T {
    let unwrap = |answer: Result<T, Status>| answer.unwrap_or_else(|status| panic!("{what}: {status:?}"));
    let mut answers: Vec<_> = answers.into_iter().map(unwrap).collect();
    let last = answers.pop().unwrap();
    assert!(answers.iter().all(|answer| *answer == last), "{what}: {answers:?} {last:?}");
    last
}

/// Every mutation of a key, and those whose own effect would refuse them, each with one request_id and,
/// where it takes one, the etag of before.
#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_all_servers_are_asked_for_happens_once() {
    let mut dice = Dice::new();
    let vaults = serve(&mut dice).await;
    let (admins, operators) = (admins(&vaults).await, callers(&vaults, "system").await);
    for round in 0..ROUNDS {
        a_life(&admins, round).await;
        let binding = pb::IdentityBinding {
            name: format!("b{round}"),
            identity: Some(pb::identity_binding::Identity::Certificate(format!("b{round}.test"))),
            grants: vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }],
            ..Default::default()
        };
        let request_id = format!("bind-{round}");
        let request = pb::CreateIdentityBindingRequest { binding: Some(binding), request_id, ..Default::default() };
        let bound = everywhere!(admins, tokens.create_identity_binding(request)).binding.unwrap();
        let request = pb::DeleteIdentityBindingRequest { name: bound.name, request_id: format!("unbind-{round}") };
        everywhere!(admins, tokens.delete_identity_binding(request));
        let request = pb::CreateOrgRequest {
            org_id: format!("org-{round}"),
            admin_identity: "spiffe://ibyok.test/other".into(),
            request_id: format!("org-{round}"),
            ..Default::default()
        };
        everywhere!(operators, admin.create_org(request));
    }
    for (admin, actions) in [(&admins[2], &ACTIONS[..]), (&operators[2], &["org.create"])] {
        let filter = Some(pb::AuditFilter {
            actions: actions.iter().map(ToString::to_string).collect(),
            outcomes: vec![pb::AuditOutcome::Allowed.into()],
            ..Default::default()
        });
        let request = pb::ListAuditEventsRequest { filter, page_size: 500, ..Default::default() };
        let listed =
            patiently("the records", || async { admin.audit().list_audit_events(request.clone()).await }).await;
        let listed = listed.unwrap().into_inner();
        assert!(listed.next_page_token.is_empty());
        for action in actions {
            let count = listed.events.iter().filter(|event| event.action == *action).count();
            assert_eq!(count, ROUNDS, "a record of each {action}");
        }
    }
    drop((admins, operators));
    stop(vaults).await;
}

/// What happens once in [`a_life`], and to a binding.
const ACTIONS: [&str; 14] = [
    "key.create",
    "key.version.add",
    "key.version.verify",
    "key.version.promote",
    "key.version.rollback",
    "key.version.destroy",
    "key.update",
    "key.disable",
    "key.enable",
    "key.delete",
    "key.undelete",
    "key.destroy",
    "binding.create",
    "binding.delete",
];

/// A key's, in which everything happens once that can happen to one.
async fn a_life(admins: &[Caller], round: usize) {
    let name = format!("k{round}");
    let secret = |n: usize| Some(pb::SecretValue { text: format!("sk-proj-replicas-{n:040}") });
    let id = |what: &str| format!("{what}-{round}");
    let request = pb::CreateKeyRequest {
        key_id: name.clone(),
        provider: "openai".into(),
        secret: secret(round),
        request_id: id("create"),
        ..Default::default()
    };
    let etag = everywhere!(admins, keys.create_key(request)).key.unwrap().etag;
    let add = pb::AddKeyVersionRequest {
        name: name.clone(),
        secret: secret(100),
        etag,
        request_id: id("add"),
        ..Default::default()
    };
    let added = everywhere!(admins, keys.add_key_version(add.clone())).version.unwrap().name;
    let other = pb::AddKeyVersionRequest { secret: secret(9), ..add };
    let refused = patiently("another", || async { admins[1].keys().add_key_version(other.clone()).await }).await;
    assert_eq!(reason(&refused.unwrap_err()), "REQUEST_ID_REUSED");
    let request = pb::VerifyKeyVersionRequest { name: added.clone(), request_id: id("verify"), ..Default::default() };
    everywhere!(admins, keys.verify_key_version(request));

    let request = pb::GetKeyRequest { name: name.clone() };
    let etag = everywhere!(admins, keys.get_key(request)).key.unwrap().etag;
    let request =
        pb::PromoteKeyVersionRequest { name: added.clone(), etag, request_id: id("promote"), ..Default::default() };
    let etag = everywhere!(admins, keys.promote_key_version(request)).key.unwrap().etag;
    let request = pb::RollBackKeyVersionRequest { name: name.clone(), etag, request_id: id("back") };
    let etag = everywhere!(admins, keys.roll_back_key_version(request)).key.unwrap().etag;
    let request =
        pb::DestroyKeyVersionRequest { name: added.clone(), confirm: added, etag, request_id: id("destroy-version") };
    everywhere!(admins, keys.destroy_key_version(request));

    let request = pb::GetKeyRequest { name: name.clone() };
    let etag = everywhere!(admins, keys.get_key(request)).key.unwrap().etag;
    let key = pb::Key { name: name.clone(), description: "new".into(), etag, ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["description".into()] });
    let request = pb::UpdateKeyRequest { key: Some(key), update_mask, request_id: id("update") };
    let etag = everywhere!(admins, keys.update_key(request)).key.unwrap().etag;
    let request = pb::DisableKeyRequest { name: name.clone(), etag, request_id: id("disable"), ..Default::default() };
    let etag = everywhere!(admins, keys.disable_key(request)).key.unwrap().etag;
    let request = pb::EnableKeyRequest { name: name.clone(), etag, request_id: id("enable") };
    let etag = everywhere!(admins, keys.enable_key(request)).key.unwrap().etag;
    let request = pb::DeleteKeyRequest { name: name.clone(), etag, request_id: id("delete"), ..Default::default() };
    everywhere!(admins, keys.delete_key(request));
    let request = pb::UndeleteKeyRequest { name: name.clone(), request_id: id("undelete") };
    let etag = everywhere!(admins, keys.undelete_key(request)).key.unwrap().etag;
    let request = pb::DestroyKeyRequest { name: name.clone(), confirm: name, etag, request_id: id("destroy") };
    everywhere!(admins, keys.destroy_key(request));
}
