//! Any history, folded in any pieces, with a crash at any write: the rows of a plain count, and the
//! rows that a rebuild from nothing makes.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::begin_again;
use crate::{
    domain::{
        audit::{Action as Done, AuditDraft, Outcome},
        clock::{Clock as _, SystemClock, SystemEntropy, Timestamp, random},
        ids::{KeyId, KeyName, OrgId, Uid},
    },
    repository::{
        audit::{
            AuditLog, AuditTasks,
            batch::Batch,
            testing::{Fault, TinyStore, draft, log_on, org, records, soon},
        },
        consumers, last_used,
        usage::{self, Bucket, cells::Counts},
    },
    store::{Attributes, Item, ItemKey, ItemStore as _, WriteId, Written},
};

const ORGS: [&str; 2] = ["acme", "globex"];

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// These records are written at once.
    Records(Vec<Told>),
    /// The log is folded.
    Tick,
    /// The same, but the write behind so many others goes wrong, and a new sequencer goes on.
    Crash(usize, Fault),
    /// A sequencer that knows nothing takes over.
    TakeOver,
}

/// One record.
#[derive(Clone, Debug)]
struct Told {
    org: usize,
    key: u8,
    is_second: bool,
    token: u8,
    client: u8,
    version: u32,
    hours_ago: u32,
    what: usize,
}

const WHATS: [(Done, Outcome); 7] = [
    (Done::KeyRetrieve, Outcome::Allowed),
    (Done::KeyRetrieve, Outcome::Allowed),
    (Done::KeyCheck, Outcome::Allowed),
    (Done::KeyRetrieve, Outcome::Denied),
    (Done::KeyRetrieveFailed, Outcome::Failed),
    (Done::KeyRetrieveMock, Outcome::Allowed),
    (Done::TokenIssue, Outcome::Allowed),
];

impl Told {
    fn uid(&self) -> String {
        format!("uid-{}-{}", self.key, self.is_second)
    }
    fn knows_key(&self) -> bool {
        WHATS[self.what] != (Done::KeyRetrieve, Outcome::Denied)
    }
    fn draft(&self, now: Timestamp) -> AuditDraft {
        let (action, outcome) = WHATS[self.what];
        let id = ORGS[self.org];
        let mut details = BTreeMap::new();
        if self.knows_key() {
            details = BTreeMap::from([
                ("version", self.version.to_string()),
                ("uid", self.uid()),
                ("provider", "openai".to_owned()),
            ]);
        }
        AuditDraft {
            action,
            outcome,
            time: now.minus(std::time::Duration::from_secs(u64::from(self.hours_ago) * 3_600)),
            token_id: self.token(),
            client_identity: self.client(),
            details,
            ..draft(id, &format!("orgs/{id}/keys/key{}", self.key))
        }
    }
    fn token(&self) -> String {
        format!("{:032x}", self.token)
    }
    fn client(&self) -> String {
        format!("client{}", self.client)
    }
}

fn told() -> impl Strategy<Value = Told> {
    (0..2_usize, 0..40_u8, any::<bool>(), 0..5_u8, 0..3_u8, 1..4_u32, 0..30_u32, 0..WHATS.len()).prop_map(
        |(org, key, is_second, token, client, version, hours_ago, what)| Told {
            org,
            key,
            is_second,
            token,
            client,
            version,
            hours_ago,
            what,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![Just(Fault::LostAfter), Just(Fault::LostBefore), Just(Fault::Late), Just(Fault::Refused)];
    prop_oneof![
        4 => prop::collection::vec(told(), 1..60).prop_map(Step::Records),
        2 => Just(Step::Tick),
        3 => (0..9_usize, fault).prop_map(|(after, fault)| Step::Crash(after, fault)),
        1 => Just(Step::TakeOver),
    ]
}

/// A vault's log, and what was written into it.
struct World {
    store: Arc<TinyStore>,
    log: AuditLog,
    tasks: AuditTasks,
    now: Timestamp,
    told: Vec<Told>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        let tasks = AuditTasks::new(&log);
        Self { store, log, tasks, now: SystemClock.now(), told: Vec::new() }
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Records(told) => {
                // All of them queue before the lane's task runs: one batch, in this order.
                told.iter().for_each(|told| self.log.note(told.draft(self.now)));
                self.told.extend(told);
                while self.written() < self.told.len() {
                    tokio::task::yield_now().await;
                }
            }
            // What an earlier crash left under way may land just now, and is met once.
            Step::Tick => {
                if self.tasks.tick().await.is_err() {
                    self.tasks.tick().await.unwrap();
                }
            }
            Step::Crash(after, fault) => {
                self.store.fail_after(after, fault);
                let _ = self.tasks.tick().await;
                self.store.heal();
            }
            Step::TakeOver => self.tasks = AuditTasks::new(&self.log),
        }
    }

    fn written(&self) -> usize {
        let count = |item: &Item| Batch::read(item.clone()).unwrap().records.len();
        self.store.tamper(|items| items.values().filter(|item| item.key.sort.starts_with("B#")).map(count).sum())
    }

    fn rows(&self) -> BTreeMap<ItemKey, (Option<Timestamp>, Attributes)> {
        self.store.tamper(|items| {
            let rows = items.values().filter(|item| is_projected(&item.key));
            rows.map(|item| (item.key.clone(), (item.expires, item.attributes.clone()))).collect()
        })
    }

    async fn write(&self, actions: Vec<crate::store::Action>) {
        let id = WriteId(random(&SystemEntropy).unwrap());
        assert_eq!(self.store.write(id, actions, soon()).await.unwrap(), Written::Committed);
    }

    /// Everything that was told, counted plainly, is what the rows say.
    async fn assert_counted(&self) {
        for bucket in [Bucket::Hour, Bucket::Day] {
            assert_eq!(self.counted(bucket).await, self.expected(bucket), "{bucket:?}");
        }
        for (n, id) in ORGS.iter().enumerate() {
            self.assert_consumers(n, &org(id)).await;
        }
    }

    async fn counted(&self, bucket: Bucket) -> BTreeMap<Counted, Counts> {
        let mut counted = BTreeMap::new();
        let now = SystemClock.now();
        for id in ORGS {
            let mut next = bucket.of(self.now.minus(std::time::Duration::from_secs(3 * 86_400)));
            while next <= bucket.of(now) {
                let found = usage::first_of_day(&records(&self.store), &org(id), bucket, next, now, soon()).await;
                let Some(found) = found.unwrap() else {
                    next = bucket.next_day(next);
                    continue;
                };
                for (cell, counts) in found.cells {
                    assert_eq!(cell.part, usage::cells::Part::Whole);
                    counted.insert((id, found.number, cell.key, cell.uid, cell.token, cell.client), counts);
                }
                next = found.number + 1;
            }
        }
        counted
    }

    fn expected(&self, bucket: Bucket) -> BTreeMap<Counted, Counts> {
        let mut expected = BTreeMap::<Counted, Counts>::new();
        for told in &self.told {
            let time = told.draft(self.now).time;
            let uid = if told.knows_key() { told.uid() } else { String::new() };
            let key = format!("key{}", told.key);
            let (mut plain, mut one) = (Counts::default(), None);
            match told.what {
                0 | 1 => one = Some(&mut plain.retrievals),
                2 => one = Some(&mut plain.checks),
                3 => one = Some(&mut plain.denials),
                4 => one = Some(&mut plain.failures),
                _ => {}
            }
            let Some(one) = one else { continue };
            *one = 1;
            let name = (ORGS[told.org], bucket.of(time), key, uid, told.token(), told.client());
            *expected.entry(name).or_default() += plain;
        }
        expected
    }

    async fn assert_consumers(&self, n: usize, org: &OrgId) {
        for key in 0..40 {
            for is_second in [false, true] {
                let is_of = |told: &&Told| told.org == n && told.key == key && told.is_second == is_second;
                let mut expected = BTreeMap::new();
                for told in self.told.iter().filter(is_of).filter(|told| told.what < 3) {
                    expected.insert((told.token(), told.client()), (told.version, told.draft(self.now).time));
                }
                let name = KeyName { org: org.clone(), id: KeyId::parse("key", &format!("key{key}")).unwrap() };
                let uid = Uid::stored(&format!("uid-{key}-{is_second}"));
                let found = consumers::of_key(&records(&self.store), &name, &uid, self.now, soon()).await.unwrap();
                let found: BTreeMap<_, _> = found
                    .each
                    .into_iter()
                    .map(|(holder, handed)| ((holder.token, holder.client), (handed.version, handed.time)))
                    .collect();
                assert_eq!(found, expected, "{name} {uid}");
                let used = last_used::keys(&records(&self.store), org, &[name.id], soon()).await.unwrap();
                let of_name = self.told.iter().filter(|told| told.org == n && told.key == key && told.what < 3);
                assert_eq!(used, [of_name.map(|told| told.draft(self.now).time).max()]);
            }
        }
    }
}

/// Organization, bucket, key, uid, token, client.
type Counted = (&'static str, i64, String, String, String, String);

fn is_projected(key: &ItemKey) -> bool {
    key.partition.ends_with("#LU") || key.partition.contains("#U#") || key.partition.contains("#C#")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_or_doubled_and_a_rebuild_is_equal(steps in prop::collection::vec(step(), 1..14)) {
        block_on(async {
            let mut world = World::new();
            for step in steps {
                world.run(step).await;
            }
            while world.tasks.tick().await.is_err() {}
            world.assert_counted().await;
            let rows = world.rows();

            // From nothing.
            world.store.tamper(|items| items.retain(|key, _| key.partition != "PROJ" && !is_projected(key)));
            AuditTasks::new(&world.log).tick().await.unwrap();
            assert_eq!(world.rows(), rows);

            // Folded again from the beginning, nothing changes.
            world.store.tamper(|items| items.retain(|key, _| key.partition != "PROJ"));
            AuditTasks::new(&world.log).tick().await.unwrap();
            assert_eq!(world.rows(), rows);
        });
    }
}

/// Enough for several writes of rows, each of which can be lost.
fn many(world: &World) -> Vec<Told> {
    (0..120)
        .map(|n| Told {
            org: usize::from(n % 2 == 1),
            key: n % 40,
            is_second: false,
            token: n,
            client: n % 3,
            version: 1 + u32::from(n % 2),
            hours_ago: u32::from(n % 30),
            what: (world.told.len() + usize::from(n)) % 5,
        })
        .collect()
}

#[tokio::test]
async fn every_write_of_a_fold_can_be_lost() {
    for fault in [Fault::LostAfter, Fault::LostBefore, Fault::Late, Fault::Refused] {
        let mut failing = 0;
        loop {
            let mut world = World::new();
            let first = many(&world);
            world.run(Step::Records(first)).await;
            world.run(Step::Tick).await;
            let more = many(&world);
            world.run(Step::Records(more)).await;
            world.store.fail_after(failing, fault);
            let ended = world.tasks.tick().await;
            world.store.heal();
            let and_more = many(&world);
            world.run(Step::Records(and_more)).await;
            while world.tasks.tick().await.is_err() {}
            world.assert_counted().await;
            if ended.is_ok() {
                break;
            }
            failing += 1;
        }
        // Order, index, and several of rows.
        assert!(failing >= 5, "{failing} writes");
    }
}

#[tokio::test]
async fn a_rebuild_mends_rows_and_keeps_those_that_the_log_no_longer_tells() {
    let mut world = World::new();
    let told = many(&world);
    world.run(Step::Records(told)).await;
    world.run(Step::Tick).await;
    let rows = world.rows();
    let kept = ItemKey::new("O#acme#U#20000", "D#0");
    world.store.tamper(|items| {
        for (damaged, item) in items.values_mut().filter(|item| is_projected(&item.key)).enumerate() {
            // What is no row any more, and what says something else.
            match damaged % 3 {
                0 => drop(item.attributes.remove("as_of")),
                1 => drop(item.attributes.insert("cells".to_owned(), crate::store::Value::Bytes(vec![9]))),
                _ => drop(item.attributes.insert("used".to_owned(), crate::store::Value::Int(9))),
            }
        }
        let attributes = Attributes::new();
        let item = Item { key: kept.clone(), revision: 3, expires: None, sealed: None, mac: None, attributes };
        items.insert(kept.clone(), item);
    });
    world.write(begin_again(&records(&world.store), soon()).await.unwrap()).await;
    AuditTasks::new(&world.log).tick().await.unwrap();
    let mut rebuilt = world.rows();
    assert!(rebuilt.remove(&kept).is_some());
    for (_, attributes) in rebuilt.values_mut() {
        assert!(attributes.remove("generation").is_some());
    }
    assert_eq!(rebuilt, rows);
    world.assert_counted().await;

    // What comes then goes on from there.
    let told = many(&world);
    world.run(Step::Records(told)).await;
    AuditTasks::new(&world.log).tick().await.unwrap();
    world.assert_counted().await;
}

#[tokio::test]
async fn a_lost_watermark_loses_no_row_of_a_later_generation() {
    let mut world = World::new();
    let told = many(&world);
    world.run(Step::Records(told)).await;
    world.run(Step::Tick).await;
    world.write(begin_again(&records(&world.store), soon()).await.unwrap()).await;
    AuditTasks::new(&world.log).tick().await.unwrap();
    let rows = world.rows();
    world.store.tamper(|items| items.retain(|key, _| key.partition != "PROJ"));
    AuditTasks::new(&world.log).tick().await.unwrap();
    assert_eq!(world.rows(), rows);

    // The next rebuild, of a log that has grown, makes every row anew, whatever rows say.
    let told = many(&world);
    world.run(Step::Records(told)).await;
    AuditTasks::new(&world.log).tick().await.unwrap();
    world.store.tamper(|items| {
        for item in items.values_mut().filter(|item| is_projected(&item.key)) {
            item.attributes.insert("as_of".to_owned(), crate::store::Value::Int(1 << 40));
        }
    });
    world.write(begin_again(&records(&world.store), soon()).await.unwrap()).await;
    AuditTasks::new(&world.log).tick().await.unwrap();
    world.assert_counted().await;
}

#[tokio::test]
async fn a_damaged_row_does_not_stop_the_fold() {
    let mut world = World::new();
    let told = many(&world);
    world.run(Step::Records(told)).await;
    world.run(Step::Tick).await;
    world.store.tamper(|items| {
        for item in items.values_mut().filter(|item| is_projected(&item.key)) {
            item.attributes = [("as_of".to_owned(), crate::store::Value::Text("never".to_owned()))].into();
        }
    });
    let told = many(&world);
    world.run(Step::Records(told)).await;
    world.tasks.tick().await.unwrap();
    assert!(!world.counted(Bucket::Day).await.is_empty());
}

#[tokio::test]
async fn what_has_expired_is_neither_written_nor_told() {
    let world = World::new();
    let ago = |days: u64| SystemClock.now().minus(std::time::Duration::from_secs(days * 86_400));
    let told = Told { org: 0, key: 1, is_second: false, token: 1, client: 1, version: 1, hours_ago: 0, what: 0 };
    // Both kept; the hour gone; both gone.
    for days in [1, 102, 402] {
        world.log.append(AuditDraft { time: ago(days), ..told.draft(world.now) }, soon()).await.unwrap();
    }
    AuditTasks::new(&world.log).tick().await.unwrap();
    let found = async |bucket: Bucket, days, now| {
        let number = bucket.of(ago(days));
        usage::first_of_day(&records(&world.store), &org("acme"), bucket, number, now, soon()).await.unwrap().is_some()
    };
    let now = SystemClock.now();
    assert!(found(Bucket::Hour, 1, now).await && found(Bucket::Day, 1, now).await);
    assert!(!found(Bucket::Hour, 102, now).await && found(Bucket::Day, 102, now).await);
    assert!(!found(Bucket::Hour, 402, now).await && !found(Bucket::Day, 402, now).await);
    assert_eq!(world.rows().keys().filter(|key| key.partition.contains("#U#")).count(), 3);
    // A token's last use goes with the day that it was on, a key's with the key.
    let of_token =
        |days| world.rows().iter().filter(|(key, _)| key.sort.starts_with("T#")).map(|(_, (at, _))| *at).eq(days);
    let day_end = Timestamp::from_seconds((ago(1).day() + 1) * 86_400);
    assert!(of_token([Some(day_end.plus(last_used::TOKENS_KEPT))]));
    assert_eq!(world.rows()[&ItemKey::new("O#acme#LU", "K#key1")].0, None);
    // Before the store has swept it, too.
    let later = now.plus(usage::HOURS_KEPT).plus(std::time::Duration::from_secs(86_400));
    assert!(!found(Bucket::Hour, 1, later).await && found(Bucket::Day, 1, later).await);
}
