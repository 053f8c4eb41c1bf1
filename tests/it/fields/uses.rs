//! `uses_max`, whatever comes between: callers who go away, and a server that dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::{
    crash::{Callers, verify},
    dice::Dice,
    process::Site,
};

const LIMITED: &str = "limited";

fn limited(uses_max: i64) -> pb::IssueTokenRequest {
    let grants = vec![grant(&["keys:read"])];
    pb::IssueTokenRequest { subject: LIMITED.to_owned(), grants, uses_max, ..Default::default() }
}

/// The uses that the listing shows.
async fn uses(admin: &Caller) -> i64 {
    let request = pb::ListTokensRequest { subject: LIMITED.to_owned(), show_inactive: true, ..Default::default() };
    let tokens = admin.tokens().list_tokens(request).await.unwrap().into_inner().tokens;
    assert_eq!(tokens.len(), 1);
    tokens[0].uses
}

/// Spends what is left; how much that was.
async fn spend(caller: &Caller) -> usize {
    let mut spent = 0;
    loop {
        match retrieve(caller, "openai").await {
            Ok(_) => spent += 1,
            // On a table those whose callers went away still contend for the count, and the time is over
            // before it is this one's turn, or before it is known what became of it.
            Err(status) if ["STORE_UNAVAILABLE", "AUDIT_UNAVAILABLE"].contains(&&*reason(&status)) => {}
            Err(status) => {
                assert_eq!(reason(&status), "TOKEN_USED_UP", "{status:?}");
                return spent;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_go_away_leave_no_use_uncounted_and_none_over() {
    const USES: usize = 60;
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    let caller = vault.issue(&admin, "spiffe://ibyok.test/limited", limited(60)).await;
    let mut dice = Dice::new();
    let received = Arc::new(AtomicUsize::new(0));
    let calls = (0..40).map(|_| {
        let (caller, received) = (caller.clone(), Arc::clone(&received));
        // Some before the server has read the request, some in the middle, some never.
        let patience = Duration::from_micros(u64::try_from(dice.below(40_000)).unwrap());
        tokio::spawn(async move {
            if let Ok(Ok(_)) = tokio::time::timeout(patience, retrieve(&caller, "openai")).await {
                received.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    futures_util::future::join_all(calls).await;
    let received = received.load(Ordering::SeqCst) + spend(&caller).await;
    // A call whose caller went away runs to its end: it has been counted when nothing is left.
    assert!(received <= USES, "{received} were handed out");
    assert!(received >= USES - 40, "each that went away cost one use at most: {received}");
    assert_eq!(allowed(&events(&admin, "key.retrieve").await), USES, "each use has its record, and no more");
    assert_eq!(uses(&admin).await, 60);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_never_gives_more_than_was_granted() {
    const USES: usize = 400;
    let site = Arc::new(Site::make().await);
    let mut process = site.serve().await;
    let callers = Callers::enter(&site).await;
    create(&callers.admin, "openai", &openai("one")).await;
    let issued = callers.admin.tokens().issue_token(limited(400)).await.unwrap().into_inner();
    let caller = callers.admin.with_token(issued.access_token.unwrap().text.clone());
    let mut dice = Dice::new();
    let received = Arc::new(AtomicUsize::new(0));
    for _ in 0..6 {
        let is_over = Arc::new(AtomicBool::new(false));
        let working: Vec<_> = (0..4)
            .map(|_| {
                let (caller, received, is_over) = (caller.clone(), Arc::clone(&received), Arc::clone(&is_over));
                tokio::spawn(async move {
                    while !is_over.load(Ordering::SeqCst) {
                        match retrieve(&caller, "openai").await {
                            Ok(_) => drop(received.fetch_add(1, Ordering::SeqCst)),
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(u64::try_from(30 + dice.below(60)).unwrap())).await;
        is_over.store(true, Ordering::SeqCst);
        process.kill();
        futures_util::future::join_all(working).await;
        process = site.serve().await;
        let recorded = allowed(&events(&callers.admin, "key.retrieve").await);
        assert!(received.load(Ordering::SeqCst) <= recorded, "a value was handed out without its record");
        assert_eq!(uses(&callers.admin).await, i64::try_from(recorded).unwrap(), "uses and records go together");
    }
    let received = received.load(Ordering::SeqCst) + spend(&caller).await;
    assert!(received <= USES, "{received} were handed out");
    assert_eq!(allowed(&events(&callers.admin, "key.retrieve").await), USES);
    verify(&callers.operator).await;
    drop(process);
}
