//! How often one may call: who is refused is told how long to wait, that wait is the truth, and
//! nobody else notices.

use std::time::Duration;

use ibyok::grpc::pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    fairness::noisy_and_quiet,
    harness::{ADMIN, Caller, ORG, Vault, reason, within},
    tamper::stock::{grant, retrieve},
};

/// The wait that a refusal names.
fn wait(status: &Status) -> Duration {
    assert_eq!((status.code(), reason(status).as_str()), (Code::ResourceExhausted, "RATE_LIMITED"), "{status:?}");
    status.get_error_details().retry_info().and_then(|info| info.retry_delay).unwrap()
}

/// Calls until the rate is reached; how often it went well, and the refusal.
async fn until_refused(mut call: impl AsyncFnMut() -> Result<(), Status>) -> (usize, Status) {
    let mut passed = 0;
    loop {
        match call().await {
            Ok(()) => passed += 1,
            Err(status) => return (passed, status),
        }
    }
}

async fn list(caller: &Caller) -> Result<(), Status> {
    caller.keys().list_keys(pb::ListKeysRequest::default()).await.map(drop)
}

async fn lister(vault: &Vault, issuer: &Caller, n: usize) -> Caller {
    let (subject, grants) = (format!("lister-{n}"), vec![grant(&["keys:list"])]);
    let request = pb::IssueTokenRequest { subject, grants, ..Default::default() };
    vault.issue(issuer, "spiffe://ibyok.test/lister", request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_as_long_as_he_is_told_is_let_in() {
    let (vault, noisy, _) = noisy_and_quiet("[limits]\ntoken_rate = 5\n").await;
    let (limited, other) = (lister(&vault, &noisy, 1).await, lister(&vault, &noisy, 2).await);
    let (passed, _) = until_refused(async || list(&limited).await).await;
    assert!(passed >= 10, "a burst of two seconds: {passed}");
    for _ in 0..5 {
        let (_, refusal) = until_refused(async || list(&limited).await).await;
        let wait = wait(&refusal);
        assert!(wait <= Duration::from_millis(200), "the time of one call: {wait:?}");
        tokio::time::sleep(wait).await;
        list(&limited).await.unwrap();
    }
    list(&other).await.unwrap();
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_noisy_organization_is_slowed_down_and_a_quiet_one_is_not() {
    let (vault, noisy, quiet) = noisy_and_quiet("[limits]\norg_rate = 30\n").await;
    let mut tokens = Vec::new();
    for n in 0..4 {
        tokens.push(lister(&vault, &noisy, n).await);
    }
    let noise: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            tokio::spawn(async move {
                let (mut passed, mut refused) = (0_usize, 0_usize);
                // A refusal names a wait that these don't mind.
                while refused < 400 {
                    match list(&token).await {
                        Ok(()) => passed += 1,
                        Err(status) => refused += usize::from(wait(&status) > Duration::ZERO),
                    }
                }
                (passed, refused, token)
            })
        })
        .collect();
    let mut served = 0;
    while !noise.iter().all(tokio::task::JoinHandle::is_finished) && served < 50 {
        retrieve(&quiet, "openai").await.unwrap();
        served += 1;
    }
    assert!(served > 0);
    let mut refused = 0;
    let mut last = None;
    for caller in noise {
        let (passed, of_one, caller) = caller.await.unwrap();
        assert!(passed > 0);
        refused += of_one;
        last = Some(caller);
    }
    // The organization's rate is spent: a new token does not help.
    let newcomer = last.unwrap();
    until_refused(async || list(&newcomer).await).await;
    within("a record of each refusal", is_recorded(&noisy, refused + 1)).await;
    vault.stop().await;
}

/// Each refusal stands in the organization's log: by itself, or as one of a count.
async fn is_recorded(admin: &Caller, refused: usize) {
    loop {
        let events = match denied(admin).await {
            Ok(events) => events,
            // These calls are some of the organization, too, and so their refusals are some of those counted.
            Err(status) => {
                tokio::time::sleep(wait(&status)).await;
                continue;
            }
        };
        let single = events.iter().filter(|event| event.reason == "RATE_LIMITED").count();
        let counted = events.iter().filter(|event| event.action == "audit.denials.overflow");
        let counted: usize = counted.map(|event| event.details["count"].parse::<usize>().unwrap()).sum();
        assert!(single < 100, "a flood of refusals is not a flood of records: {single}");
        if single + counted >= refused {
            return;
        }
    }
}

/// The refusals in the organization's log, of every page.
async fn denied(admin: &Caller) -> Result<Vec<pb::AuditEvent>, Status> {
    let filter = pb::AuditFilter { outcomes: vec![pb::AuditOutcome::Denied.into()], ..Default::default() };
    let mut request = pb::ListAuditEventsRequest { page_size: 1_000, filter: Some(filter), ..Default::default() };
    let mut events = Vec::new();
    loop {
        let page = admin.audit().list_audit_events(request.clone()).await?.into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return Ok(events);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_is_limited_by_certificate_and_by_address() {
    let vault = Vault::start_with("[limits]\ncertificate_rate = 2\naddress_rate = 6\n").await;
    let exchange = async |caller: &Caller| {
        let request = pb::ExchangeTokenRequest {
            subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
            parent: format!("orgs/{ORG}"),
            ..Default::default()
        };
        caller.tokens().exchange_token(request).await.map(|answer| answer.into_inner())
    };
    let one = vault.stranger(ADMIN);
    let answer = exchange(&one).await.unwrap();
    let admin = one.with_token(answer.access_token.unwrap().text.clone());
    let (passed, refusal) = until_refused(async || exchange(&one).await.map(drop)).await;
    assert!(passed >= 3, "{passed}");
    tokio::time::sleep(wait(&refusal)).await;
    exchange(&one).await.unwrap();
    // New certificates do, until the address has had its share, too.
    let mut strangers = 0;
    let refusal = loop {
        let stranger = vault.stranger(ADMIN);
        strangers += 1;
        match exchange(&stranger).await {
            Ok(_) => assert!(strangers < 10_000, "new certificates are a way around the rate"),
            Err(status) => break status,
        }
    };
    assert!(strangers > 1);
    wait(&refusal);
    // Who has a token does not count among those who have none.
    list(&admin).await.unwrap();
    vault.stop().await;
}
