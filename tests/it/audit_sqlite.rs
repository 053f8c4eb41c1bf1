//! The audit log on the embedded store: many writers, a server that dies, a start that seals.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ibyok::{
    domain::{
        audit::{Action, AuditDraft, Receipt},
        clock::{Clock as _, Deadline, SystemClock, SystemEntropy},
        ids::OrgId,
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    repository::{
        audit::{
            AuditLog, AuditSettings, AuditTasks, Commit,
            batch::ChainId,
            reader,
            tree::leaf_hash,
            verify::{Step, Verifier},
        },
        records::Records,
    },
    store::{self, Condition, ItemKey, NewItem, sqlite::SqliteStore},
};

fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}

fn acme() -> OrgId {
    OrgId::parse("org", "acme").unwrap()
}

fn draft(key: String) -> AuditDraft {
    AuditDraft {
        resource: format!("orgs/acme/keys/{key}"),
        subject: "svc".into(),
        token_id: "0".repeat(32),
        client_identity: "svc.example".into(),
        client_address: "127.0.0.1".into(),
        ..AuditDraft::of_server(acme(), SystemClock.now(), Action::KeyRetrieve)
    }
}

fn records(path: &Path) -> Records {
    let store = SqliteStore::open_or_make(path, Arc::new(SystemClock)).unwrap();
    let ring = MacRing::new(("k1".into(), MacKey::new(&SecretKey::new([7; 32]))), []);
    Records::new(Arc::new(store), Arc::new(ring))
}

fn open(records: &Records) -> AuditLog {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    AuditLog::open(records.clone(), clock, entropy, AuditSettings::default()).unwrap()
}

/// 1,000 retrievals and 64 mutations of 64 callers.
async fn write_much(log: &AuditLog) -> Vec<Receipt> {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        let log = log.clone();
        tasks.spawn(async move {
            let mut receipts = Vec::new();
            for n in 0..1_000 / 64 + usize::from(task < 1_000 % 64) {
                receipts.push(log.append(draft(format!("k{task}-{n}")), soon()).await.unwrap());
            }
            let item = NewItem::new(ItemKey::new("T", format!("{task}")), BTreeMap::new());
            let actions = vec![store::Action::Put(item, Condition::Any)];
            let Commit::Done(receipt) = log.commit(actions, draft(format!("m{task}")), soon()).await.unwrap() else {
                panic!("no condition can fail")
            };
            receipts.push(receipt);
            receipts
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn assert_whole(records: &Records, receipts: &[Receipt]) {
    let distinct: BTreeSet<String> = receipts.iter().map(Receipt::event_id).collect();
    assert_eq!(distinct.len(), receipts.len());
    for receipt in receipts {
        let chain = ChainId::parse(&receipt.chain).unwrap();
        let event = reader::event(records, &acme(), &chain, receipt.sequence, soon()).await.unwrap().unwrap();
        assert_eq!(leaf_hash(&event.bytes), receipt.leaf_hash);
    }
    let mut verifier = Verifier::new(records.clone(), Arc::new(SystemClock));
    let verdict = loop {
        match verifier.step().await.unwrap() {
            Step::Going => {}
            verdict => break verdict,
        }
    };
    assert_eq!((verdict, verifier.checked), (Step::Intact, receipts.len() as u64));
}

#[test]
fn what_was_acknowledged_outlives_a_server_that_dies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vault.db");
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

    let dying = runtime();
    let (log, mut receipts) = dying.block_on(async {
        let log = open(&records(&path));
        let receipts = write_much(&log).await;
        AuditTasks::new(&log).tick().await.unwrap();
        (log, receipts)
    });
    // Its tasks end where they are: nothing is flushed, nothing sealed.
    drop(dying);
    drop(log);

    runtime().block_on(async {
        let records = records(&path);
        let log = open(&records);
        let mut tasks = AuditTasks::new(&log);
        assert_whole(&records, &receipts).await;
        let sealed = async || {
            let (heads, _) = reader::heads(&records, None, soon()).await.unwrap();
            heads.iter().map(|head| head.sealed.is_some()).collect::<BTreeSet<bool>>()
        };
        assert_eq!(sealed().await, BTreeSet::from([false]));
        tasks.tick().await.unwrap();
        assert_eq!(sealed().await, BTreeSet::from([true]));

        receipts.extend(write_much(&log).await);
        log.close().await;
        tasks.tick().await.unwrap();
        let snapshot = log.snapshot(soon()).await.unwrap();
        assert_eq!(snapshot.unindexed, []);
        assert_whole(&records, &receipts).await;
    });
}
