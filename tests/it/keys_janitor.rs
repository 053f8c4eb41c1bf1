//! The janitor: deleted keys go when their time has come, with a record, and not before.

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::{PortFuture, clock::Deadline, error::Reason, ids::Environment},
    repository::{
        audit::{AuditLog, AuditRecord, AuditSettings},
        keys::due,
        lease::Role,
        records::Records,
    },
    service::{Parts, janitor::Janitor, vault::CreateKey},
    store::{
        Action, Item, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written, fake::MemoryStore,
    },
};

use crate::fixture::keys::{GROQ, Setting, add, create, name, new_key, reason, retrieve, setting, sorts};

const DAY: Duration = Duration::from_secs(86_400);

async fn deleted(days: u32) -> Setting {
    let setting = setting().await;
    let Setting { vault, org, admin, .. } = &setting;
    let environment = Some(Environment::parse("environment", "production").unwrap());
    create(vault, admin, CreateKey { environment, ..new_key(org, "k", GROQ) }).await.unwrap();
    add(vault, admin, "k", "gsk_second").await.unwrap();
    let call = admin.call("DeleteKey");
    vault.delete_key(&call, &name(org, "k"), Some(DAY * days), false, "", "").await.unwrap();
    setting
}

async fn round(setting: &Setting) -> u64 {
    let janitor = Janitor::new(setting.fixture.parts.clone());
    janitor.run_once(setting.fixture.parts.clock.now(), None).await.unwrap()
}

#[tokio::test]
async fn a_key_is_purged_at_its_time_with_a_record_and_not_before() {
    let setting = deleted(30).await;
    let Setting { fixture, vault, org, admin } = &setting;
    assert_eq!(round(&setting).await, 0);
    fixture.clock.advance(DAY * 30 - Duration::from_secs(5));
    assert_eq!(round(&setting).await, 0);
    assert_eq!(reason(retrieve(vault, admin, "k").await), Reason::KeyDeleted);
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!(
        reason(retrieve(vault, admin, "k").await),
        Reason::KeyNotFound,
        "as good as absent before the janitor comes"
    );
    assert_eq!(round(&setting).await, 1);
    assert_eq!(sorts(&fixture.partition("O#acme#K#k")), ["LAST"]);
    assert!(fixture.partition("O#acme#FP").is_empty());
    assert!(fixture.partition("O#acme#KEYS").is_empty());
    assert!(!fixture.memory().dump().iter().any(|item| item.key.partition.starts_with("DUE#")));
    let purged = fixture.recorded("key.purge");
    assert_eq!((purged.len(), purged[0].resource.as_str()), (1, "orgs/acme/keys/k"));
    // What an auditor's grant may be limited to is in it, as in every other record of a key.
    let details = |record: &AuditRecord| record.details.keys().cloned().collect::<Vec<_>>();
    assert_eq!(details(&purged[0]), ["environment", "provider", "uid"]);
    assert_eq!(round(&setting).await, 0);
    create(vault, admin, new_key(org, "k", GROQ)).await.unwrap();
}

#[tokio::test]
async fn a_janitor_that_was_away_for_weeks_finds_what_it_missed() {
    let setting = deleted(1).await;
    round(&setting).await;
    setting.fixture.clock.advance(DAY * 40);
    assert_eq!(round(&setting).await, 1);
}

#[tokio::test]
async fn an_undeleted_key_is_left_alone_whatever_the_queue_says() {
    let setting = deleted(1).await;
    let Setting { fixture, vault, org, admin } = &setting;
    let rows = || fixture.memory().dump().into_iter().filter(|item| item.key.partition.starts_with("DUE#"));
    let row = rows().next().unwrap();
    vault.undelete_key(&admin.call("UndeleteKey"), &name(org, "k"), "").await.unwrap();
    assert_eq!(rows().count(), 0);
    fixture.memory().tamper(row);
    fixture.clock.advance(DAY * 2);
    assert_eq!(round(&setting).await, 0);
    assert_eq!(rows().count(), 0, "a row that says nothing any more is swept");
    assert_eq!(reason(retrieve(vault, admin, "k").await), Reason::KeyDisabled);
}

#[tokio::test]
async fn a_janitor_that_was_overtaken_purges_nothing() {
    let setting = deleted(1).await;
    let parts = &setting.fixture.parts;
    let take = async || parts.audit.replicas().take(Role::Janitor, setting.fixture.deadline()).await.unwrap().unwrap();
    let old = take().await;
    let new = take().await;
    setting.fixture.clock.advance(DAY * 2);
    let (janitor, now) = (Janitor::new(parts.clone()), parts.clock.now());
    assert_eq!(reason(janitor.run_once(now, Some(&old.check())).await), Reason::WriteConflict);
    assert!(setting.fixture.recorded("key.purge").is_empty());
    assert_eq!(janitor.run_once(now, Some(&new.check())).await.unwrap(), 1);
}

#[tokio::test]
async fn a_row_whose_content_is_damaged_is_done_all_the_same() {
    let setting = deleted(1).await;
    let memory = setting.fixture.memory();
    let row = memory.dump().into_iter().find(|item| item.key.partition.starts_with("DUE#")).unwrap();
    memory.damage(&row.key);
    setting.fixture.clock.advance(DAY * 5);
    assert_eq!(round(&setting).await, 1);
    assert!(!memory.dump().iter().any(|item| item.key == row.key));
}

#[tokio::test]
async fn a_key_that_does_not_verify_holds_up_no_mark_and_goes_once_it_does() {
    let setting = deleted(1).await;
    let (memory, records) = (setting.fixture.memory(), &setting.fixture.parts.records);
    let good = memory.dump().into_iter().find(|item| item.key.sort == "META" && item.key.partition == "O#acme#K#k");
    let good = good.unwrap();
    memory.tamper(Item { revision: good.revision + 1, ..good.clone() });
    setting.fixture.clock.advance(DAY * 5);
    let today = setting.fixture.parts.clock.now().day();
    assert_eq!(round(&setting).await, 0);
    let mark = due::mark(records, setting.fixture.deadline()).await.unwrap().unwrap();
    assert_eq!(mark.day, today - 1, "everything before is done, as far as it can be");
    assert_eq!(round(&setting).await, 0, "nothing is due until it is tried again");

    memory.tamper(good);
    setting.fixture.clock.advance(Duration::from_secs(3_601));
    assert_eq!(round(&setting).await, 1);
    assert_eq!(setting.fixture.recorded("key.purge").len(), 1);
    round(&setting).await;
    assert!(!memory.dump().iter().any(|item| item.key.partition.starts_with("DUE#")), "its row is swept");
}

/// A store in which somebody else always writes one partition first.
#[derive(Debug)]
struct Contended {
    store: MemoryStore,
    partition: &'static str,
}

impl ItemStore for Contended {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        by: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        self.store.get(keys, by)
    }
    fn query(&self, query: Query, by: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        self.store.query(query, by)
    }
    fn write(&self, id: WriteId, actions: Vec<Action>, by: Deadline) -> PortFuture<'_, Result<Written, StoreError>> {
        match actions.iter().position(|action| action.key().partition == self.partition) {
            Some(index) => Box::pin(async move { Ok(Written::Conflict { index, current: None }) }),
            None => self.store.write(id, actions, by),
        }
    }
    fn is_exclusive(&self) -> bool {
        self.store.is_exclusive()
    }
    fn status(&self, by: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        self.store.status(by)
    }
}

#[tokio::test]
async fn a_key_that_others_keep_writing_holds_up_no_other() {
    let setting = deleted(1).await;
    let Setting { fixture, vault, org, admin } = &setting;
    // Due later than the first, and in the end the only one that goes.
    fixture.clock.advance(Duration::from_secs(1));
    create(vault, admin, new_key(org, "other", GROQ)).await.unwrap();
    let call = admin.call("DeleteKey");
    vault.delete_key(&call, &name(org, "other"), Some(DAY), false, "", "").await.unwrap();
    fixture.clock.advance(DAY * 3);

    let Parts { keyring, clock, entropy, .. } = fixture.parts.clone();
    let store = Contended { store: fixture.memory().clone(), partition: "O#acme#K#k" };
    let records = Records::new(Arc::new(store), keyring.records());
    let audit = AuditLog::open(records.clone(), clock.clone(), entropy.clone(), AuditSettings::default()).unwrap();
    let lease = audit.replicas().take(Role::Janitor, fixture.deadline()).await.unwrap().unwrap();
    let janitor = Janitor::new(Parts { records: records.clone(), audit, ..fixture.parts.clone() });
    assert_eq!(janitor.run_once(clock.now(), Some(&lease.check())).await.unwrap(), 1);
    let purged = fixture.recorded("key.purge");
    assert_eq!((purged.len(), purged[0].resource.as_str()), (1, "orgs/acme/keys/other"));
    // What was left is not passed by.
    assert_eq!(round(&setting).await, 1);
}
