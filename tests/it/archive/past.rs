//! A vault whose audit log goes back some days, written as its servers of then did.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use ibyok::{
    domain::{
        audit::{Action, AuditDraft, Receipt},
        clock::{Clock, SystemClock, SystemEntropy, Timestamp},
        ids::OrgId,
    },
    repository::audit::{
        AuditLog, AuditSettings, AuditTasks,
        archive::{
            Directory,
            offline::{Report, all_roots, verify},
        },
        batch::ChainId,
        reader,
        verify::{Step, Verifier},
    },
    server::Sources,
};

use crate::{
    harness::{Home, ORG, within},
    tamper::stock::{Opened, soon},
};

/// What the settings say in these tests.
pub const SETTINGS: &str = "audit = { retention = '1d', archive_dir = 'archive' }";
/// Days of the log that are old.
pub const DAYS: usize = 4;

/// A clock that lags.
#[derive(Debug)]
struct Lagging(AtomicI64);

impl Clock for Lagging {
    fn now(&self) -> Timestamp {
        let lag = self.0.load(Ordering::SeqCst);
        Timestamp::from_micros(SystemClock.now().micros() - lag)
    }
    fn instant(&self) -> Instant {
        SystemClock.instant()
    }
}

impl Lagging {
    fn by(&self, days: usize) {
        self.0.store(86_400_000_000 * i64::try_from(days).unwrap(), Ordering::SeqCst);
    }
}

/// What was acknowledged then: each with the name of the key that it is of.
pub type Receipts = Vec<(String, Receipt)>;

/// A vault with so many retrievals on each of [`DAYS`] days, the last of them six days ago, and as
/// many of today.
pub async fn home(each: usize) -> (Home, Receipts) {
    filled(Home::make(), each).await
}

/// The same in a home that holds no vault yet.
pub async fn filled(home: Home, each: usize) -> (Home, Receipts) {
    fs::create_dir(home.path().join("archive")).unwrap();
    let clock = Arc::new(Lagging(AtomicI64::new(0)));
    clock.by(DAYS + 5);
    home.init_by(&Sources { clock: clock.clone(), ..home.sources() }).await.unwrap();

    let opened = Opened::of(&home).await;
    let mut receipts = Vec::new();
    for day in (0..DAYS).map(|day| DAYS + 5 - day).chain([0]) {
        clock.by(day);
        let settings = AuditSettings::default();
        let log = AuditLog::open(opened.records.clone(), clock.clone(), Arc::new(SystemEntropy), settings).unwrap();
        let mut tasks = AuditTasks::new(&log);
        for n in 0..each {
            let key = format!("of-{day}-days-ago-{n:05}-");
            receipts.push((key.clone(), log.append(draft(&*clock, &key), soon()).await.unwrap()));
            if n % 10 == 0 {
                tasks.tick().await.unwrap();
            }
        }
        log.close().await;
        tasks.tick().await.unwrap();
    }
    opened.close().await;
    (home, receipts)
}

fn draft(clock: &dyn Clock, key: &str) -> AuditDraft {
    AuditDraft {
        resource: format!("orgs/{ORG}/keys/{key}"),
        subject: "svc".into(),
        token_id: "0".repeat(32),
        client_identity: "svc.example".into(),
        client_address: "127.0.0.1".into(),
        ..AuditDraft::of_server(OrgId::parse("org", ORG).unwrap(), clock.now(), Action::KeyRetrieve)
    }
}

/// Of a vault that nobody serves: log and archive verify, and each of `receipts` is in one of them.
/// How many are in the archive, and what was found there.
pub async fn check(home: &Home, receipts: &Receipts) -> (usize, Report) {
    let opened = Opened::of(home).await;
    let mut verifier = Verifier::new(opened.records.clone(), Arc::new(SystemClock));
    let verdict = loop {
        match verifier.step().await.unwrap() {
            Step::Going => {}
            verdict => break verdict,
        }
    };
    assert_eq!(verdict, Step::Intact);
    let roots = all_roots(&opened.records, soon()).await.unwrap();
    let directory = Directory::new(home.path().join("archive"));
    let report = verify(&directory, 1, Some(&roots)).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());

    let (entries, _) = directory.entries().unwrap();
    let taken_over = entries.iter().filter(|entry| entry.first < verifier.first);
    let content: Vec<u8> =
        taken_over.flat_map(|entry| fs::read(home.path().join("archive").join(entry.name())).unwrap()).collect();
    let mut names: BTreeMap<&[u8], usize> = BTreeMap::new();
    for at in memchr(&content, b"of-") {
        let name = &content[at..content.len().min(at + "of-9-days-ago-00000-".len())];
        *names.entry(name).or_default() += 1;
    }
    let org = OrgId::parse("org", ORG).unwrap();
    let mut archived = 0;
    for (key, receipt) in receipts {
        let in_files = names.get(key.as_bytes()).copied().unwrap_or_default();
        let chain = ChainId::parse(&receipt.chain).unwrap();
        let event = reader::event(&opened.records, &org, &chain, receipt.sequence, soon()).await.unwrap();
        // While a deletion is under way some are in both; readers see them in the archive alone.
        assert!(in_files == 1 || in_files == 0 && event.is_some(), "{key}: {in_files} times in the archive");
        archived += in_files;
    }
    opened.close().await;
    (archived, report)
}

fn memchr<'a>(content: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    content.windows(text.len()).enumerate().filter(move |(_, window)| *window == text).map(|(at, _)| at)
}

/// Waits until so many files are in the archive and the log below them is deleted.
pub async fn until_archived(home: &Home, files: usize) {
    within("files in the archive", async {
        loop {
            let (entries, _) = Directory::new(home.path().join("archive")).entries().unwrap();
            if entries.len() >= files {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
