//! `ibyok-server table create|check`: the table of DynamoDB, made or looked at before a server needs
//! it, so that the server's own role need not be allowed to change it.

use std::{io::Write, time::Duration};

use super::{PATIENCE, ServerError, Sources, adapters};
use crate::{
    config::{AwsConfig, Config, StoreConfig},
    store::dynamodb::DynamoStore,
};

/// How long AWS may take to make a table.
const MAKING: Duration = Duration::from_secs(300);

/// Makes the table, or turns on what it lacks; then tells what [`check`] tells.
///
/// # Errors
/// When AWS refuses, or does not answer in time.
pub async fn create(config: &Config, sources: &Sources, out: &mut impl Write) -> Result<bool, ServerError> {
    let table = Table::of(config, sources).await?;
    let made = table.store.create(sources.clock.deadline(MAKING)).await;
    made.map_err(|error| adapters::table_error(error, table.aws))?;
    table.tell(sources, out).await
}

/// Writes a line to `out` for each thing that is off, or can't be told. Whether a server can use the
/// table.
///
/// # Errors
/// When there is no table, or AWS does not answer.
pub async fn check(config: &Config, sources: &Sources, out: &mut impl Write) -> Result<bool, ServerError> {
    Table::of(config, sources).await?.tell(sources, out).await
}

/// The table, and where the settings say that it is.
struct Table<'a> {
    store: DynamoStore,
    aws: &'a AwsConfig,
}

impl<'a> Table<'a> {
    async fn of(config: &'a Config, sources: &Sources) -> Result<Self, ServerError> {
        match &config.store {
            StoreConfig::DynamoDb { table, kms_key, aws } => {
                Ok(Self { store: adapters::dynamodb((table, kms_key.as_ref()), aws, sources).await?, aws })
            }
            StoreConfig::Sqlite { .. } => {
                Err(ServerError::setting("store.kind", "there is a table only with \"dynamodb\""))
            }
        }
    }

    async fn tell(&self, sources: &Sources, out: &mut impl Write) -> Result<bool, ServerError> {
        let report = self.store.inspect_all(sources.clock.deadline(PATIENCE)).await;
        let report = report.map_err(|error| adapters::table_error(error, self.aws))?;
        let line = |kind: &str, text: &String| format!("{kind}: {}: {text}", report.table);
        let mut lines: Vec<_> = report.problems.iter().map(|problem| line("problem", problem)).collect();
        lines.extend(report.warnings.iter().map(|warning| line("warning", warning)));
        if lines.is_empty() {
            lines.push("OK".to_owned());
        }
        writeln!(out, "{}", lines.join("\n")).map_err(ServerError::io("standard output"))?;
        Ok(report.problems.is_empty())
    }
}
