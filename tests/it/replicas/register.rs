//! The CURRENT version of a key is a register with one writer and many readers: its history, seen
//! through several servers, must be linearizable. With one writer whose numbers rise that is so exactly
//! when no read is older than what was acknowledged before it began, none is newer than what was begun
//! before it ended, and of two reads that do not overlap the later one is not older (Lamport, "On
//! Interprocess Communication", Distributed Computing 1, 1986). And every value that was released has
//! its record.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::join_all;
use ibyok::grpc::pb::{self, key_vault_client::KeyVaultClient};
use tonic::Status;

use super::{admins, may_retry, patiently, retrying, serve, stop};
use crate::{
    dice::Dice,
    harness::{Caller, Carried},
};

const KEYS: usize = 2;
const ROTATIONS: u32 = 10;

/// A logical time for the whole test: the order in which things were seen to happen.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Ticks {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What happened to one key: that it was to be so, or was seen to be, from then to then.
#[derive(Clone, Copy, Debug)]
struct Event {
    began: u64,
    ended: u64,
    number: u32,
}

#[derive(Default)]
pub struct History {
    writes: Vec<Event>,
    reads: Vec<Event>,
    receipts: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_linearizable_through_all_servers_and_each_release_has_its_record() {
    let mut dice = Dice::new();
    let vaults = serve(&mut dice).await;
    let callers = admins(&vaults).await;
    let players = Players::new(callers.clone(), may_retry);
    let histories = (0..KEYS).map(|n| players.one_key(format!("k{n}"), |number| number > ROTATIONS, dice.split()));
    assert_histories(join_all(histories).await, &callers[1]).await;
    drop((players, callers));
    stop(vaults).await;
}

/// Wants that each is a register's, and that the log has whatever was released.
pub async fn assert_histories(histories: Vec<History>, caller: &Caller) {
    let mut recorded = BTreeSet::new();
    let filter = pb::AuditFilter { actions: vec!["key.retrieve".into()], ..Default::default() };
    let mut request = pb::ListAuditEventsRequest { filter: Some(filter), page_size: 200, ..Default::default() };
    loop {
        let page = patiently("a page", || async { caller.audit().list_audit_events(request.clone()).await }).await;
        let page = page.unwrap().into_inner();
        recorded.extend(page.events.into_iter().map(|event| event.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    for history in histories {
        assert!(history.reads.len() > history.writes.len(), "too few reads to show anything");
        history.assert_linearizable();
        let missing: Vec<_> = history.receipts.difference(&recorded).collect();
        assert!(missing.is_empty(), "released without a record: {missing:?}");
    }
}

/// Those who rotate and read, at each server one.
#[derive(Clone)]
pub struct Players {
    callers: Vec<Caller>,
    /// After which refusals a call is made again.
    may_retry: fn(&Status) -> bool,
    ticks: Arc<Ticks>,
}

impl Players {
    pub fn new(callers: Vec<Caller>, may_retry: fn(&Status) -> bool) -> Self {
        Self { callers, may_retry, ticks: Arc::default() }
    }

    /// Rotates a key through one server after the other while every server is read, until `is_over`
    /// says so of its newest version.
    pub async fn one_key(&self, id: String, is_over: impl Fn(u32) -> bool, mut dice: Dice) -> History {
        let value = |number: u32| Some(pb::SecretValue { text: format!("sk-proj-{id}-{number:040}") });
        let create = pb::CreateKeyRequest {
            key_id: id.clone(),
            provider: "openai".into(),
            secret: value(1),
            request_id: format!("{id}-create"),
            ..Default::default()
        };
        self.anywhere("create", &mut dice, &create, async |mut keys, create| keys.create_key(create).await).await;
        let reading_ends = Arc::new(AtomicBool::new(false));
        let reader = |n| self.clone().read(n, id.clone(), Arc::clone(&reading_ends));
        let readers: Vec<_> = (0..self.callers.len()).map(|n| tokio::spawn(reader(n))).collect();
        let mut history = History::default();
        for number in (2..).take_while(|number| !is_over(number - 1)) {
            let add = pb::AddKeyVersionRequest {
                name: id.clone(),
                secret: value(number),
                request_id: format!("{id}-add-{number}"),
                ..Default::default()
            };
            self.anywhere("add", &mut dice, &add, async |mut keys, add| keys.add_key_version(add).await).await;
            let promote = pb::PromoteKeyVersionRequest {
                name: format!("{id}/versions/{number}"),
                allow_unverified: true,
                request_id: format!("{id}-promote-{number}"),
                ..Default::default()
            };
            let began = self.ticks.next();
            let promoted = async |mut keys: Keys, promote| keys.promote_key_version(promote).await;
            self.anywhere("promote", &mut dice, &promote, promoted).await;
            history.writes.push(Event { began, ended: self.ticks.next(), number });
        }
        reading_ends.store(true, Ordering::SeqCst);
        for reader in readers {
            let (reads, receipts) = reader.await.unwrap();
            history.reads.extend(reads);
            history.receipts.extend(receipts);
        }
        history
    }

    /// Asks any server; an answer that was lost is asked for again, from any: it happened once.
    async fn anywhere<R: Clone, T>(
        &self,
        what: &str,
        dice: &mut Dice,
        request: &R,
        call: impl AsyncFn(Keys, R) -> Result<T, Status>,
    ) {
        let asked = retrying(what, self.may_retry, || {
            call(self.callers[dice.below(self.callers.len())].keys(), request.clone())
        });
        asked.await.unwrap_or_else(|status| panic!("{what}: {status:?}"));
    }

    async fn read(self, at: usize, id: String, ends: Arc<AtomicBool>) -> (Vec<Event>, BTreeSet<String>) {
        let (mut reads, mut receipts) = (Vec::new(), BTreeSet::new());
        while !ends.load(Ordering::SeqCst) {
            let began = self.ticks.next();
            let request = pb::RetrieveKeyRequest { name: id.clone(), ..Default::default() };
            let answer = match self.callers[at].keys().retrieve_key(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => {
                    assert!((self.may_retry)(&status), "{status:?}");
                    // Nobody may be there for a while.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            let number = answer.key_version.rsplit('/').next().unwrap().parse().unwrap();
            assert_eq!(
                answer.secret.unwrap().text,
                format!("sk-proj-{id}-{number:040}"),
                "the value is of its version"
            );
            reads.push(Event { began, ended: self.ticks.next(), number });
            let receipt = answer.receipt.unwrap();
            receipts.insert(format!("{}.{}", receipt.chain, receipt.sequence));
        }
        (reads, receipts)
    }
}

type Keys = KeyVaultClient<Carried>;

impl History {
    fn assert_linearizable(&self) {
        for read in &self.reads {
            let acknowledged = self.writes.iter().filter(|write| write.ended < read.began).map(|write| write.number);
            let begun = self.writes.iter().filter(|write| write.began < read.ended).map(|write| write.number);
            let (least, most) = (acknowledged.max().unwrap_or(1), begun.max().unwrap_or(1));
            assert!((least..=most).contains(&read.number), "{read:?} is not of {least} to {most}");
        }
        let mut by_end = self.reads.clone();
        by_end.sort_by_key(|read| read.ended);
        let mut by_begin = self.reads.clone();
        by_begin.sort_by_key(|read| read.began);
        let (mut ended, mut newest) = (by_end.into_iter().peekable(), 1);
        for read in by_begin {
            while let Some(before) = ended.next_if(|before| before.ended < read.began) {
                newest = newest.max(before.number);
            }
            assert!(read.number >= newest, "{read:?} is older than {newest}, which was read before it began");
        }
    }
}

#[test]
fn histories_that_no_register_has_are_found() {
    let event = |began, ended, number| Event { began, ended, number };
    let writes = vec![event(10, 20, 2), event(30, 40, 3)];
    let is_good = |reads: Vec<Event>| {
        let history = History { writes: writes.clone(), reads, receipts: BTreeSet::new() };
        std::panic::catch_unwind(|| history.assert_linearizable()).is_ok()
    };
    assert!(is_good(vec![event(1, 2, 1), event(11, 12, 2), event(5, 15, 1), event(31, 32, 2), event(35, 36, 3)]));
    assert!(!is_good(vec![event(21, 22, 1)]), "older than what was acknowledged");
    assert!(!is_good(vec![event(1, 2, 2)]), "newer than what was begun");
    assert!(!is_good(vec![event(31, 32, 3), event(33, 34, 2)]), "new, then old");
    assert!(is_good(vec![event(31, 34, 3), event(33, 36, 2)]), "at the same time");
}
