//! A log of several days in memory, with a directory to leave for, and what must hold of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    domain::{
        audit::{AuditDraft, Receipt},
        clock::{Clock, SystemClock, SystemEntropy, Timestamp},
        ids::OrgId,
    },
    repository::{
        audit::{
            AuditLog, AuditRecord, AuditSettings, AuditTasks, Commit,
            archive::{
                ArchiveState, Archived, Archiver, Directory, Trouble,
                offline::{all_roots, verify},
            },
            batch::{Batch, ChainId, Header, place},
            reader,
            testing::{Fault, TinyStore, draft, org, records, soon},
            tree::leaf_hash,
            verify::{Step, Verifier},
        },
        records::Expected,
    },
    store::{Action, Condition, Item, ItemKey, ItemStore as _, NewItem, WriteId, Written},
};

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Noon of some day, which passes only when it is told to.
#[derive(Debug, Default)]
pub(super) struct DayClock(AtomicI64);

impl DayClock {
    pub(super) fn advance(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
    pub(super) fn back(&self, span: Duration) {
        self.0.fetch_sub(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for DayClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.fetch_add(1, Ordering::SeqCst) + 20_000 * 86_400_000_000 + 43_200_000_000)
    }
    fn instant(&self) -> Instant {
        SystemClock.instant()
    }
}

pub(super) struct World {
    pub(super) store: Arc<TinyStore>,
    pub(super) clock: Arc<DayClock>,
    pub(super) dir: TempDir,
    receipts: Mutex<Vec<(OrgId, Receipt)>>,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { store: Arc::default(), clock: Arc::default(), dir, receipts: Mutex::default() }
    }

    /// Three days of two boots, one of which was closed and one of which died; and four days since.
    pub(super) async fn filled() -> Self {
        let world = Self::new();
        let first = world.boot().await;
        world.write(&first, "acme", 3).await;
        world.write(&first, "globex", 2).await;
        first.close().await;
        world.order(&first).await;
        world.clock.advance(DAY);
        let second = world.boot().await;
        world.write(&second, "globex", 2).await;
        world.order(&second).await;
        world.write(&second, "acme", 2).await;
        world.order(&second).await;
        world.clock.advance(DAY);
        world.write(&second, "acme", 2).await;
        world.order(&second).await;
        world.clock.advance(DAY * 4);
        world
    }

    /// A new start of the server: it seals what earlier ones left open.
    pub(super) async fn boot(&self) -> AuditLog {
        let log = self.boot_without_sealing();
        self.order(&log).await;
        log
    }
    pub(super) fn boot_without_sealing(&self) -> AuditLog {
        let (records, entropy) = (records(&self.store), Arc::new(SystemEntropy));
        AuditLog::open(records, self.clock.clone(), entropy, AuditSettings::default()).unwrap()
    }
    pub(super) async fn order(&self, log: &AuditLog) {
        // A fault that nobody met until now.
        while AuditTasks::new(log).tick().await.is_err() {}
    }

    pub(super) async fn append(&self, log: &AuditLog, id: &str, key: &str) -> Receipt {
        let receipt = log.append(self.draft(id, key), soon()).await.unwrap();
        self.receipts.lock().unwrap().push((org(id), receipt.clone()));
        receipt
    }
    /// So many retrievals, and a mutation.
    pub(super) async fn write(&self, log: &AuditLog, id: &str, count: usize) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for n in 0..count {
            receipts.push(self.append(log, id, &format!("k{n}")).await);
        }
        let item = NewItem::new(ItemKey::new("T", "mutated"), BTreeMap::new());
        let ended = log.commit(vec![Action::Put(item, Condition::Any)], self.draft(id, "m"), soon()).await;
        let Commit::Done(receipt) = ended.unwrap() else { panic!("no condition can fail") };
        self.receipts.lock().unwrap().push((org(id), receipt.clone()));
        receipts.push(receipt);
        receipts
    }
    pub(super) fn draft(&self, id: &str, key: &str) -> AuditDraft {
        AuditDraft { time: self.clock.now(), ..draft(id, &format!("orgs/{id}/keys/{key}")) }
    }
    pub(super) async fn put(&self, item: NewItem) {
        let action = records(&self.store).put(item, Expected::Absent);
        let written = self.store.write(WriteId([0; 16]), vec![action], soon()).await.unwrap();
        assert_eq!(written, Written::Committed);
    }
    pub(super) fn receipts(&self) -> Vec<(OrgId, Receipt)> {
        self.receipts.lock().unwrap().clone()
    }

    pub(super) fn directory(&self) -> Directory {
        Directory::new(self.dir.path().to_path_buf())
    }
    pub(super) fn archiver(&self, log: &AuditLog, retention: Duration) -> Archiver {
        Archiver::new(log, self.directory(), retention)
    }
    /// Moves what is older than a day; how many files.
    pub(super) async fn archive(&self, log: &AuditLog) -> Result<usize, Trouble> {
        self.archive_after(log, DAY).await
    }
    pub(super) async fn archive_after(&self, log: &AuditLog, retention: Duration) -> Result<usize, Trouble> {
        AuditTasks::new(log).tick().await?;
        self.archive_only(log, retention).await
    }
    pub(super) async fn archive_only(&self, log: &AuditLog, retention: Duration) -> Result<usize, Trouble> {
        let (archiver, mut files) = (self.archiver(log, retention), 0);
        loop {
            match archiver.step(None).await? {
                Archived::Nothing | Archived::Waits(_) => return Ok(files),
                Archived::Completed => {}
                Archived::File(_) => files += 1,
            }
        }
    }
    /// Stops in the deletion of the first file, when the first batch has gone and its row has not.
    pub(super) async fn interrupt_deletion(&self, log: &AuditLog) {
        let archiver = self.archiver(log, DAY);
        // Each call begins the row again: one write more goes through each time.
        for writes in 1.. {
            self.store.fail_after(writes, Fault::Refused);
            let ended = archiver.step(None).await;
            assert!(ended.is_err(), "no write was left to be refused");
            let state = ArchiveState::load(&records(&self.store), soon()).await.unwrap();
            let (first, row) = self.store.tamper(|items| {
                let has = |sort: &str, part: &str| {
                    items.keys().any(|key| key.sort.starts_with(sort) && key.partition.starts_with(part))
                };
                let first = self.receipts()[0].1.clone();
                (has("B#0000000000000001", &format!("A#{}#0", first.chain)), has(&format!("{:020}", 1), "A#LOG#"))
            });
            if state.deleted < state.floor && !first && row {
                return;
            }
        }
    }

    fn batches_in_store(&self) -> Vec<Batch> {
        let items: Vec<Item> =
            self.store.tamper(|items| items.values().filter(|item| item.key.sort.starts_with("B#")).cloned().collect());
        items.into_iter().map(|item| Batch::read(item).unwrap()).collect()
    }
    pub(super) fn records_in_store(&self, action: &str) -> Vec<AuditRecord> {
        let records = self.batches_in_store().into_iter().flat_map(|batch| batch.records);
        records.map(|bytes| AuditRecord::read(&bytes).unwrap()).filter(|record| record.action == action).collect()
    }

    /// Every batch of every file, by position, read anew from what the format's page says.
    pub(super) fn in_files(&self) -> Vec<(u64, Batch)> {
        let (entries, _) = self.directory().entries().unwrap();
        entries.iter().flat_map(|entry| parse(&std::fs::read(self.dir.path().join(entry.name())).unwrap())).collect()
    }
    pub(super) fn is_in_files(&self, receipt: &Receipt) -> bool {
        let (number, index) = place(receipt.sequence);
        self.in_files().iter().any(|(_, batch)| {
            batch.header.chain.as_str() == receipt.chain
                && batch.header.batch == number
                && leaf_hash(&batch.records[index]) == receipt.leaf_hash
        })
    }

    /// The verification of what is left: its first problem.
    pub(super) async fn verdict(&self) -> Result<u64, String> {
        let mut verifier = Verifier::new(records(&self.store), self.clock.clone());
        loop {
            match verifier.step().await.unwrap() {
                Step::Going => {}
                Step::Intact => {
                    assert_eq!(verifier.checked, verifier.total);
                    return Ok(verifier.checked + verifier.archived);
                }
                Step::Broken(at) => return Err(at.problem.to_owned()),
            }
        }
    }

    /// Everything that was acknowledged is in the files or in the log, once; both verify; nothing
    /// that has left is left behind.
    pub(super) async fn assert_whole(&self) {
        self.verdict().await.unwrap();
        let records = records(&self.store);
        let roots = all_roots(&records, soon()).await.unwrap();
        let report = verify(&self.directory(), 1, Some(&roots)).unwrap();
        assert_eq!((report.problems, report.notes), (vec![], vec![]));
        let state = ArchiveState::load(&records, soon()).await.unwrap();
        assert_eq!(state.deleted, state.floor);
        let files = self.in_files();
        assert!(files.iter().map(|(position, _)| *position).eq(1..state.floor));
        assert_eq!(files.iter().map(|(_, batch)| batch.records.len() as u64).sum::<u64>(), state.records);

        let mut leaves: BTreeMap<_, usize> = BTreeMap::new();
        for batch in files.into_iter().map(|(_, batch)| batch).chain(self.batches_in_store()) {
            for record in &batch.records {
                *leaves.entry(leaf_hash(record)).or_default() += 1;
            }
        }
        assert!(leaves.values().all(|count| *count == 1), "a record is doubled");
        for (of, receipt) in self.receipts() {
            assert!(leaves.contains_key(&receipt.leaf_hash), "a record is lost");
            let chain = ChainId::parse(&receipt.chain).unwrap();
            let event = reader::event(&records, &of, &chain, receipt.sequence, soon()).await.unwrap();
            assert_eq!(event.is_none(), self.is_in_files(&receipt));
        }
        self.assert_nothing_is_left_behind(state.floor);
    }

    fn assert_nothing_is_left_behind(&self, floor: u64) {
        let items = self.store.tamper(|items| items.clone());
        let is_index = |key: &ItemKey| key.partition.starts_with("O#") && key.partition.contains("#A#");
        let mut days = BTreeSet::new();
        for key in items.keys().filter(|key| is_index(key)) {
            assert!(key.sort.parse::<u64>().unwrap() >= floor, "{key:?}");
            let (listing, day) = key.partition.rsplit_once('#').unwrap();
            days.insert((listing.to_owned(), day.parse::<u64>().unwrap()));
        }
        let is_day = |key: &ItemKey| key.partition.starts_with("O#") && key.partition.ends_with("#A");
        let listed: BTreeSet<_> = items.keys().filter(|key| is_day(key)).cloned().collect();
        let listed: BTreeSet<_> = listed.into_iter().map(|key| (key.partition, key.sort.parse().unwrap())).collect();
        assert_eq!(listed, days);
        for key in items.keys().filter(|key| key.partition.starts_with("A#LOG#")) {
            assert!(key.sort.parse::<u64>().unwrap() >= floor, "{key:?}");
        }
        for (key, item) in items.iter().filter(|(key, _)| key.sort.starts_with("P#")) {
            let crate::store::Value::Int(position) = item.attributes["position"] else { unreachable!() };
            assert!(u64::try_from(position).unwrap() >= floor, "{key:?}");
        }
    }
}

/// The batches of a file, and their positions.
fn parse(bytes: &[u8]) -> Vec<(u64, Batch)> {
    struct Rest<'a>(&'a [u8]);
    impl Rest<'_> {
        fn take(&mut self, length: usize) -> Vec<u8> {
            let (taken, rest) = self.0.split_at(length);
            self.0 = rest;
            taken.to_vec()
        }
        fn number(&mut self, length: usize) -> u64 {
            self.take(length).into_iter().fold(0, |number, byte| number << 8 | u64::from(byte))
        }
    }
    let mut rest = Rest(bytes);
    assert_eq!(rest.take(16), b"ibyok archive 1\n");
    let mut position = rest.number(8);
    rest.take(32);
    let mut batches = Vec::new();
    while rest.number(1) == 1 {
        rest.take(8);
        for _ in 0..rest.number(4) {
            let length = rest.number(2);
            let header = Header::decode(&rest.take(length.try_into().unwrap())).unwrap();
            let mut records = Vec::new();
            for _ in 0..header.count {
                let length = rest.number(4);
                records.push(rest.take(length.try_into().unwrap()));
            }
            batches.push((position, Batch { header, records }));
            position += 1;
        }
    }
    assert_eq!(rest.number(8), position - 1);
    rest.number(8);
    assert_eq!(rest.take(32), crate::repository::audit::tree::sha256(&[&bytes[..bytes.len() - 32]]));
    assert!(rest.0.is_empty());
    batches
}
