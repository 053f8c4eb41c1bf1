//! The database of many replicas: one DynamoDB table, which nobody owns alone. Knows items as the
//! port does, and only ciphertext.
//!
//! - `item`: items as DynamoDB's, readable in its console.
//! - `read`: BatchGetItem and Query; `write`: PutItem and TransactWriteItems, and what makes a write
//!   happen once.
//! - `tries`: one call's tries within its deadline, and what a failed one means.
//! - `table`: the table itself, made or looked at.

mod item;
mod read;
mod table;
mod tries;
mod write;

use std::{fmt, sync::Arc};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    config::{Builder, timeout::TimeoutConfig},
};

pub use self::table::{Report, TableError};
use self::tries::Tries;
use super::{Action, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written, limits};
use crate::{
    aws::CONNECT_TIMEOUT,
    domain::{
        PortFuture,
        clock::{Clock, Deadline, Entropy},
    },
};

/// Which table, and how it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// Its name.
    pub name: String,
    /// The KMS key that DynamoDB encrypts it with, as id, ARN or alias; None: a key of DynamoDB's own.
    pub kms_key: Option<String>,
}

/// The store in one DynamoDB table.
#[derive(Clone)]
pub struct DynamoStore {
    client: Client,
    table: TableSettings,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl DynamoStore {
    /// On that table of the region, with the credentials, that `sdk` says. Calls nobody:
    /// [`DynamoStore::inspect`] tells whether the table fits.
    #[must_use]
    pub fn new(sdk: &SdkConfig, table: TableSettings, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        // How long one try may take, `tries` says; a connection that was not made in time never
        // carried a request.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .disable_read_timeout()
            .disable_operation_attempt_timeout()
            .disable_operation_timeout()
            .build();
        let client = Client::from_conf(Builder::from(sdk).timeout_config(timeouts).build());
        Self { client, table, clock, entropy }
    }

    fn tries(&self, deadline: Deadline) -> Tries<'_> {
        Tries::new(&*self.clock, &*self.entropy, deadline)
    }

    /// The table and where it is, for people.
    fn place(&self) -> String {
        let region = self.client.config().region().map_or("no region", AsRef::as_ref);
        format!("table {} in {region}", self.table.name)
    }
}

impl ItemStore for DynamoStore {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        deadline: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        Box::pin(async move {
            limits::check_get(keys)?;
            Ok(self.batch_get(keys, deadline).await?.into_iter().map(|item| item.map(SharedItem::from)).collect())
        })
    }

    fn query(&self, query: Query, deadline: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            limits::check_query(&query)?;
            self.page(&query, deadline).await
        })
    }

    fn write(
        &self,
        id: WriteId,
        actions: Vec<Action>,
        deadline: Deadline,
    ) -> PortFuture<'_, Result<Written, StoreError>> {
        Box::pin(async move {
            limits::check_write(&actions)?;
            self.write_all(id, &actions, deadline).await
        })
    }

    /// Other replicas use the same table.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Reads one item, whether it is there or not: no right is needed for it that the vault does not
    /// need anyway.
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        Box::pin(async move {
            self.batch_get_raw(&[ItemKey::new("SYS", "INIT")], deadline).await?;
            Ok(format!("DynamoDB {} answers", self.place()))
        })
    }
}

impl fmt::Debug for DynamoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoStore").field("table", &self.table.name).finish_non_exhaustive()
    }
}
