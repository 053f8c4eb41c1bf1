//! Durability, shown on the real server as a process of its own: it is killed in the middle of its
//! writes, again and again, and what it had acknowledged is there each time.

mod first_start;
pub mod model;
pub mod writer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ibyok::{
    domain::clock::{Clock as _, SystemClock},
    grpc::pb,
    store::{Order, Query, SortRange},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinSet,
};

use self::{model::key_name, writer::Writer};
use crate::{
    dice::Dice,
    harness::{Caller, Home, ORG, reason, within},
    process::Site,
};

/// How often the server is killed; `CRASH_CYCLES` sets it.
const CYCLES: usize = 200;
/// How often one vault is: its whole log is verified after each life, so one vault for all would
/// make the work grow with the square of the lives.
const LIVES: usize = 40;
/// After so many lives everything that there ever was is looked at; after the others, what happened
/// since.
const LOOK_AT_ALL: usize = 10;
const WRITERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_that_it_acknowledged() {
    let cycles = std::env::var("CRASH_CYCLES").map_or(CYCLES, |text| text.parse().expect("CRASH_CYCLES is a number"));
    let mut dice = Dice::new();
    let mut done = 0;
    while done < cycles {
        let lives = LIVES.min(cycles - done);
        live_and_die(lives, dice.split()).await;
        done += lives;
    }
}

/// One vault, whose server is killed so often.
async fn live_and_die(cycles: usize, mut dice: Dice) {
    let site = Arc::new(Site::make().await);
    let mut process = site.serve().await;
    let callers = Callers::enter(&site).await;
    let mut writers: Vec<_> = (0..WRITERS).map(|n| Writer::new(&format!("w{n}"), dice.split())).collect();
    for cycle in 0..cycles {
        let mut working = Working::begin(writers, &callers);
        // The moment of the crash is what is left to chance.
        working.until(10 + dice.below(40)).await;
        tokio::time::sleep(Duration::from_micros(u64::try_from(dice.below(20_000)).unwrap())).await;
        process.kill();
        writers = working.end().await;
        writers.iter_mut().for_each(Writer::assert_cut_off);
        process = site.serve().await;
        writers = check(writers, &callers, cycle % LOOK_AT_ALL == LOOK_AT_ALL - 1).await;
        verify(&callers.operator).await;
    }
    let acknowledged: usize = writers.iter().map(|writer| writer.acknowledged).sum();
    let lost: usize = writers.iter().map(|writer| writer.lost).sum();
    let kept: usize = writers.iter().map(|writer| writer.kept).sum();
    println!(
        "{acknowledged} calls were acknowledged in {cycles} lives; of those under way {kept} happened, {lost} did not"
    );
    assert!(acknowledged > cycles * WRITERS, "too little happened to show anything");
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
        let mut working = Working::begin(writers, &callers);
        working.until(40).await;
        // Refusals are recorded without being waited for: these may be queued still at the end.
        for _ in 0..20 {
            let name = "no-such-key".to_owned();
            callers.admin.keys().get_key(pb::GetKeyRequest { name }).await.unwrap_err();
            refused += 1;
        }
        let status = process.terminate().await;
        assert!(status.success(), "{status}");
        assert!(every_chain_is_sealed(&site.home).await);
        writers = working.end().await;
        process = site.serve().await;
        for writer in &mut writers {
            // The last calls may have been told so.
            if writer.ended_with.take_if(|status| reason(status) == "DRAINING").is_none() {
                writer.assert_cut_off();
            }
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
pub struct Callers {
    pub admin: Caller,
    pub operator: Caller,
}

impl Callers {
    pub async fn enter(site: &Site) -> Self {
        Self { admin: site.caller(None).exchange(ORG).await, operator: site.caller(None).exchange("system").await }
    }
}

/// Writers at work, until the vault is gone.
pub struct Working {
    writers: JoinSet<Writer>,
    answered: UnboundedReceiver<()>,
}

impl Working {
    pub fn begin(writers: Vec<Writer>, callers: &Callers) -> Self {
        let (answers, answered) = unbounded_channel();
        let mut working = JoinSet::new();
        for mut writer in writers {
            let (caller, answers) = (callers.admin.clone(), answers.clone());
            working.spawn(async move {
                writer.work(&caller, answers).await;
                writer
            });
        }
        Self { writers: working, answered }
    }

    /// Until they have had so many answers, or get no more.
    pub async fn until(&mut self, answers: usize) {
        for _ in 0..answers {
            if self.answered.recv().await.is_none() {
                return;
            }
        }
    }

    pub async fn end(self) -> Vec<Writer> {
        within("the end of the writers", self.writers.join_all()).await
    }
}

/// After a crash, all at once: of each, what it did since the last one, or everything.
pub async fn check(writers: Vec<Writer>, callers: &Callers, is_all: bool) -> Vec<Writer> {
    let mut checking = JoinSet::new();
    for mut writer in writers {
        let caller = callers.admin.clone();
        checking.spawn(async move {
            if is_all {
                writer.check_all(&caller).await;
            } else {
                writer.check(&caller).await;
            }
            writer
        });
    }
    let writers = checking.join_all().await;
    if is_all {
        check_records(&writers, &callers.admin).await;
    }
    writers
}

/// Every batch and every hash of the log holds.
pub async fn verify(operator: &Caller) {
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
pub async fn check_records(writers: &[Writer], admin: &Caller) {
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
    let request = pb::ListAuditEventsRequest { page_size: 500, filter, ..Default::default() };
    admin.audit_events(request).await
}

/// Whether the store, which nobody serves now, says of each chain where it ends.
pub async fn every_chain_is_sealed(home: &Home) -> bool {
    let store = home.items().await;
    let query = Query {
        partition: "A#HEADS".to_owned(),
        range: SortRange::All,
        order: Order::Ascending,
        limit: 1_000,
        after: None,
    };
    let page = store.port().query(query, SystemClock.deadline(Duration::from_secs(10))).await.unwrap();
    store.close().await;
    let chains: Vec<_> = page.items.iter().filter(|item| item.attributes.contains_key("opened")).collect();
    assert!(!chains.is_empty());
    chains.iter().all(|item| item.attributes.contains_key("sealed"))
}
