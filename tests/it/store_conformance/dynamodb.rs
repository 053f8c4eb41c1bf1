//! What the store in a table of DynamoDB promises besides, through a proxy that fails as a network does.

mod once;
mod reads;
mod refusals;
mod shape;
mod trouble;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use aws_sdk_dynamodb::types::AttributeValue;
use ibyok::{domain::clock::Timestamp, store::dynamodb::DynamoStore};

use super::*;
use crate::dynamodb::proxy::{Fate, Gate, Proxy};

/// Makes the item unreadable, past the store.
pub(crate) async fn damage(table: &str, key: &ItemKey) {
    let update = local::client().await.update_item().table_name(table);
    let update = update
        .key("pk", AttributeValue::S(key.partition.clone()))
        .key("sk", AttributeValue::S(key.sort.clone()))
        .update_expression("SET attrs = :x")
        .condition_expression("attribute_exists(pk)")
        .expression_attribute_values(":x", AttributeValue::S("damaged".into()));
    update.send().await.unwrap();
}

/// The machine's clock, on which every deadline can be made to pass.
#[derive(Debug, Default)]
struct HandClock(AtomicBool);

impl HandClock {
    fn pass_all(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
    fn set_back(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
    fn instant(&self) -> Instant {
        let late = if self.0.load(Ordering::SeqCst) { Duration::from_secs(86_400) } else { Duration::ZERO };
        SystemClock.instant() + late
    }
}

/// A table with two ways to it: through the proxy, and past it, as another replica has.
struct Ways {
    clock: Arc<HandClock>,
    store: Arc<DynamoStore>,
    proxy: Proxy,
    other: Fixture,
    table: String,
}

impl Ways {
    async fn open() -> Self {
        let (direct, table) = local::table().await;
        let proxy = Proxy::start().await;
        let clock = Arc::<HandClock>::default();
        let store = Arc::new(local::store_by(&table, proxy.endpoint(), Arc::<HandClock>::clone(&clock)).await);
        let other = Fixture { store: Arc::new(direct), backing: Backing::Table(table.clone()) };
        Self { clock, store, proxy, other, table }
    }

    async fn write(&self, actions: Vec<Action>) -> Result<Written, StoreError> {
        self.store.write(write_id(), actions, soon()).await
    }

    /// The same; its deadline passes after `event`.
    async fn write_until(&self, event: impl Future<Output = ()>, actions: Vec<Action>) -> Result<Written, StoreError> {
        self.until(event, self.write(actions)).await
    }

    /// What `call` answers, whose deadline passes after `event`.
    async fn until<T>(&self, event: impl Future<Output = ()>, call: impl Future<Output = T>) -> T {
        let passing = async {
            event.await;
            self.clock.pass_all();
            // Who answered before fails the test instead of keeping it.
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = call => answer,
            () = passing => unreachable!("it is pending"),
        };
        self.clock.set_back();
        answer
    }

    /// The number and the revision of the item, as the other one sees it.
    async fn seen(&self, key: &ItemKey) -> Option<(i64, u64)> {
        self.other.one(key).await.map(|item| (number(&item), item.revision))
    }
}

/// A deadline that passes soon, and perhaps before anything was sent.
fn brief() -> Deadline {
    SystemClock.deadline(Duration::from_millis(300))
}

fn at(sort: &str) -> ItemKey {
    key("p", sort)
}

/// The transaction's answer when those are the reasons, one for each action.
fn cancelled(reasons: &[&str]) -> Fate {
    let reasons: Vec<_> = reasons.iter().map(|code| serde_json::json!({ "Code": code })).collect();
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    Fate::Answer(400, serde_json::json!({ "__type": kind, "CancellationReasons": reasons }))
}
