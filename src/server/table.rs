//! `ibyok-server table create|check`: the table of DynamoDB, made or looked at before a server needs
//! it, so that the server's own role need not be allowed to change it.

use std::{io::Write, time::Duration};

use super::{PATIENCE, ServerError, Sources, adapters};
use crate::{
    config::{Config, StoreConfig},
    store::dynamodb::DynamoStore,
};

/// How long AWS may take to make a table.
const MAKING: Duration = Duration::from_secs(300);

/// Makes the table, or turns on what it lacks; then tells what [`check`] tells.
///
/// # Errors
/// When AWS refuses, or does not answer in time.
pub async fn create(config: &Config, sources: &Sources, out: &mut impl Write) -> Result<bool, ServerError> {
    let store = store(config, sources).await?;
    store.create(sources.clock.deadline(MAKING)).await.map_err(adapters::table_error)?;
    tell(&store, sources, out).await
}

/// Writes a line to `out` for each thing that is off, or can't be told. Whether a server can use the
/// table.
///
/// # Errors
/// When there is no table, or AWS does not answer.
pub async fn check(config: &Config, sources: &Sources, out: &mut impl Write) -> Result<bool, ServerError> {
    tell(&store(config, sources).await?, sources, out).await
}

async fn store(config: &Config, sources: &Sources) -> Result<DynamoStore, ServerError> {
    match &config.store {
        StoreConfig::DynamoDb { table, kms_key, aws } => {
            Ok(adapters::dynamodb((table, kms_key.as_ref()), aws, sources).await)
        }
        StoreConfig::Sqlite { .. } => {
            Err(ServerError::setting("store.kind", "there is a table only with \"dynamodb\""))
        }
    }
}

async fn tell(store: &DynamoStore, sources: &Sources, out: &mut impl Write) -> Result<bool, ServerError> {
    let report = store.inspect_all(sources.clock.deadline(PATIENCE)).await.map_err(adapters::table_error)?;
    let mut lines: Vec<_> = report.problems.iter().map(|problem| format!("problem: {problem}")).collect();
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    if lines.is_empty() {
        lines.push("OK".to_owned());
    }
    writeln!(out, "{}", lines.join("\n")).map_err(ServerError::io("standard output"))?;
    Ok(report.problems.is_empty())
}
