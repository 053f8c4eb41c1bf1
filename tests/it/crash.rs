//! Durability, shown on the real server as a process of its own: it is killed in the middle of its
//! writes, again and again, and what it had acknowledged is there each time.

mod first_start;
mod model;
mod process;
mod writer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ibyok::{
    domain::clock::{Clock as _, SystemClock},
    grpc::pb,
    store::{ItemStore as _, Order, Query, SortRange, sqlite::SqliteStore},
};
use tokio::task::JoinSet;

use self::{model::key_name, process::Site, writer::Writer};
use crate::{
    dice::Dice,
    harness::{Caller, ORG},
};

const CYCLES: usize = 50;
const WRITERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_that_it_acknowledged() {
    let mut dice = Dice::new();
    let site = Arc::new(Site::make().await);
    let mut process = site.serve().await;
    let callers = Callers::enter(&site).await;
    let mut writers: Vec<_> = (0..WRITERS).map(|n| Writer::new(&format!("w{n}"), dice.split())).collect();
    for cycle in 0..CYCLES {
        let working = set_to_work(writers, &callers);
        // The moment of the crash is what is left to chance.
        tokio::time::sleep(Duration::from_millis(u64::try_from(100 + dice.below(250)).unwrap())).await;
        process.kill();
        writers = working.join_all().await;
        process = site.serve().await;
        for writer in &mut writers {
            writer.check(&callers.admin).await;
        }
        if cycle % 10 == 9 {
            verify(&callers.operator).await;
        }
    }
    let acknowledged: usize = writers.iter().map(|writer| writer.acknowledged).sum();
    let lost: usize = writers.iter().map(|writer| writer.lost).sum();
    let kept: usize = writers.iter().map(|writer| writer.kept).sum();
    println!(
        "{acknowledged} calls were acknowledged in {CYCLES} lives; of those under way {kept} happened, {lost} did not"
    );
    assert!(acknowledged > CYCLES * WRITERS, "too little happened to show anything");
    for writer in &mut writers {
        writer.check_all(&callers.admin).await;
        writer.check_subjects(&callers.admin).await;
    }
    check_records(&writers, &callers.admin).await;
    verify(&callers.operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_end_finishes_seals_and_loses_nothing() {
    let mut dice = Dice::new();
    let site = Arc::new(Site::make().await);
    let mut process = site.serve().await;
    let callers = Callers::enter(&site).await;
    let mut writers: Vec<_> = (0..WRITERS).map(|n| Writer::new(&format!("w{n}"), dice.split())).collect();
    let mut refused = 0;
    for _ in 0..3 {
        let working = set_to_work(writers, &callers);
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Refusals are recorded without being waited for: these may be queued still at the end.
        for _ in 0..20 {
            let name = "no-such-key".to_owned();
            callers.admin.keys().get_key(pb::GetKeyRequest { name }).await.unwrap_err();
            refused += 1;
        }
        let status = process.terminate().await;
        assert!(status.success(), "{status}");
        assert!(every_chain_is_sealed(&site).await);
        writers = working.join_all().await;
        process = site.serve().await;
        for writer in &mut writers {
            writer.check(&callers.admin).await;
        }
    }
    let denied = events(&callers.admin, pb::AuditOutcome::Denied).await;
    let denied = denied.iter().filter(|event| event.resource == key_name("no-such-key"));
    assert_eq!(denied.count(), refused, "a refusal's record was lost");
    check_records(&writers, &callers.admin).await;
    verify(&callers.operator).await;
    drop(process);
}

/// Those who call; their tokens outlive the processes.
struct Callers {
    admin: Caller,
    operator: Caller,
}

impl Callers {
    async fn enter(site: &Site) -> Self {
        Self { admin: enter(site, ORG).await, operator: enter(site, "system").await }
    }
}

async fn enter(site: &Site, org: &str) -> Caller {
    let stranger = site.caller(None);
    let request = pb::ExchangeTokenRequest {
        subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
        parent: format!("orgs/{org}"),
        ..Default::default()
    };
    let answer = stranger.tokens().exchange_token(request).await.unwrap().into_inner();
    stranger.with_token(answer.access_token.unwrap().text.clone())
}

fn set_to_work(writers: Vec<Writer>, callers: &Callers) -> JoinSet<Writer> {
    let mut working = JoinSet::new();
    for mut writer in writers {
        let caller = callers.admin.clone();
        working.spawn(async move {
            writer.work(&caller).await;
            writer
        });
    }
    working
}

/// Every batch and every hash of the log holds.
async fn verify(operator: &Caller) {
    let mut progress =
        operator.audit().verify_audit_log(pb::VerifyAuditLogRequest::default()).await.unwrap().into_inner();
    let mut last = None;
    while let Some(message) = progress.message().await.unwrap() {
        last = Some(message);
    }
    let verdict = last.unwrap();
    assert!(verdict.complete && verdict.intact, "{verdict:?}");
    assert!(verdict.checked > 0);
}

/// Each mutation has its one record, however often it was asked for and whatever happened.
async fn check_records(writers: &[Writer], admin: &Caller) {
    let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in events(admin, pb::AuditOutcome::Allowed).await {
        let key = event.resource.split("/versions/").next().unwrap().to_owned();
        *found.entry((key, event.action)).or_default() += 1;
    }
    for (key, facts) in writers.iter().flat_map(|writer| &writer.model.keys) {
        for (action, count) in &facts.records {
            let recorded = found.get(&(key_name(key), (*action).to_owned())).copied().unwrap_or_default();
            assert_eq!(recorded, *count, "{action} of {key}");
        }
    }
}

async fn events(admin: &Caller, outcome: pb::AuditOutcome) -> Vec<pb::AuditEvent> {
    let filter = Some(pb::AuditFilter { outcomes: vec![outcome.into()], ..Default::default() });
    let mut request = pb::ListAuditEventsRequest { page_size: 500, filter, ..Default::default() };
    let mut events = Vec::new();
    loop {
        let page = admin.audit().list_audit_events(request.clone()).await.unwrap().into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return events;
        }
        request.page_token = page.next_page_token;
    }
}

/// Whether the store, which nobody serves now, says of each chain where it ends.
async fn every_chain_is_sealed(site: &Site) -> bool {
    let clock = Arc::new(SystemClock);
    let store = SqliteStore::open(&site.home.path().join("vault.db"), Arc::<SystemClock>::clone(&clock)).unwrap();
    let query = Query {
        partition: "A#HEADS".to_owned(),
        range: SortRange::All,
        order: Order::Ascending,
        limit: 1_000,
        after: None,
    };
    let page = store.query(query, clock.deadline(Duration::from_secs(10))).await.unwrap();
    store.close().await.unwrap();
    let chains: Vec<_> = page.items.iter().filter(|item| item.attributes.contains_key("opened")).collect();
    assert!(!chains.is_empty());
    chains.iter().all(|item| item.attributes.contains_key("sealed"))
}
