//! The table itself: made once, and looked at by every server that starts. Knows what a vault needs of
//! it, and tells what is off in words for the one who runs it.

use std::{fmt, time::Duration};

use aws_sdk_dynamodb::{
    error::ProvideErrorMetadata,
    types::{
        AttributeDefinition, BillingMode, ContinuousBackupsStatus, KeySchemaElement, KeyType,
        PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, ScalarAttributeType, SseSpecification, SseType,
        TableDescription, TableStatus, TimeToLiveDescription, TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use tokio::time::sleep;

use super::{
    DynamoStore,
    item::{EXPIRES, PARTITION, SORT},
    tries::{Answer, Miss, NoCredentials, Trouble},
};
use crate::{domain::clock::Deadline, store::StoreError};

/// How often a table that is being made is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a question is tried where nobody can be reached: nobody will soon.
const UNREACHED: Duration = Duration::from_secs(3);

/// Why nothing can be said of the table, in one line.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is none.
    #[error("there is no {0}")]
    Absent(String),
    /// There are no credentials, or AWS does not take them.
    #[error("{0}")]
    Credentials(String),
    /// AWS refuses what it is asked about the table.
    #[error("{0}")]
    Refused(String),
    /// AWS does not answer, or has troubles of its own.
    #[error("{0}")]
    Unavailable(String),
}

/// What is to be said of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The table, and where it is.
    pub table: String,
    /// What keeps a server from using it.
    pub problems: Vec<String>,
    /// What is not as `table create` makes it, or can't be told; a server works with it.
    pub warnings: Vec<String>,
}

impl DynamoStore {
    /// Looks whether a server can use the table.
    ///
    /// # Errors
    /// When there is none, or AWS does not tell.
    pub async fn inspect(&self, deadline: Deadline) -> Result<Report, TableError> {
        let table = self.describe(deadline).await?.ok_or_else(|| TableError::Absent(self.place()))?;
        let mut report = Report { table: self.place(), ..Report::default() };
        self.judge(&table, &mut report);
        match self.time_to_live(deadline).await {
            Ok(found) => report.problems.extend(time_to_live_problem(found.as_ref())),
            Err(cause) => report.warnings.push(format!("whether expired items are deleted can't be told: {cause}")),
        }
        Ok(report)
    }

    /// The same, and everything else that `create` sees to.
    ///
    /// # Errors
    /// As [`DynamoStore::inspect`].
    pub async fn inspect_all(&self, deadline: Deadline) -> Result<Report, TableError> {
        let mut report = self.inspect(deadline).await?;
        match self.is_recoverable(deadline).await {
            Ok(true) => {}
            Ok(false) => report.warnings.push("point-in-time recovery is off".to_owned()),
            Err(cause) => {
                report.warnings.push(format!("whether it has point-in-time recovery can't be told: {cause}"));
            }
        }
        Ok(report)
    }

    /// Makes the table if there is none, waits until it can be used, and turns on what is off:
    /// expiry, point-in-time recovery, deletion protection. A table with another key is left as it is.
    /// What the endpoint does not know is left out; [`DynamoStore::inspect_all`] tells.
    ///
    /// # Errors
    /// When AWS refuses or does not answer.
    pub async fn create(&self, deadline: Deadline) -> Result<(), TableError> {
        let table = match self.describe(deadline).await? {
            Some(table) => table,
            None => self.make(deadline).await?,
        };
        let table = self.until_usable(table, deadline).await?;
        if !has_our_key(&table) {
            return Ok(());
        }
        if !self.expires(deadline).await {
            self.turn_on_expiry(deadline).await?;
        }
        if let Ok(false) = self.is_recoverable(deadline).await {
            self.turn_on_recovery(deadline).await?;
        }
        if table.deletion_protection_enabled() == Some(false) {
            self.turn_on_protection(deadline).await?;
        }
        Ok(())
    }

    /// What its description says of its use.
    fn judge(&self, table: &TableDescription, report: &mut Report) {
        let region = self.client.config().region().map(AsRef::as_ref);
        report.problems.extend(replication_problem(table, region));
        if table.billing_mode_summary().and_then(|it| it.billing_mode()) != Some(&BillingMode::PayPerRequest) {
            report.warnings.push("it is not on demand: beyond its provisioned capacity calls are refused".to_owned());
        }
        match table.deletion_protection_enabled() {
            Some(true) => {}
            Some(false) => report.warnings.push("deletion protection is off".to_owned()),
            None => report.warnings.push("whether it is protected from deletion can't be told".to_owned()),
        }
        if !has_our_key(table) {
            report.problems.push(format!("its key is not `{PARTITION}` and `{SORT}`, both text"));
        }
        match table.table_status() {
            Some(TableStatus::Active | TableStatus::Updating) | None => {}
            Some(status) => report.problems.push(format!("it can't be used now: {status}")),
        }
        let Some(wanted) = self.table.kms_key.as_deref() else { return };
        let found = table.sse_description().filter(|it| it.sse_type() == Some(&SseType::Kms));
        match found.and_then(|it| it.kms_master_key_arn()) {
            None => {
                report.problems.push("store.kms_key is set, and the table is not encrypted with a KMS key".to_owned())
            }
            Some(_) if wanted.contains("alias/") => {
                report.warnings.push("which key store.kms_key is an alias of can't be told".to_owned());
            }
            Some(arn) if arn == wanted || arn.ends_with(&format!(":key/{wanted}")) => {}
            Some(_) => report.problems.push("it is encrypted with another KMS key than store.kms_key".to_owned()),
        }
    }

    async fn describe(&self, deadline: Deadline) -> Result<Option<TableDescription>, TableError> {
        let call = self.client.describe_table().table_name(&self.table.name);
        match self.ask(deadline, || call.clone().send()).await {
            Ok(output) => Ok(output.table),
            Err(Unanswered::Refused(answer)) if answer.code() == "ResourceNotFoundException" => Ok(None),
            Err(unanswered) => Err(self.error(unanswered)),
        }
    }

    async fn make(&self, deadline: Deadline) -> Result<TableDescription, TableError> {
        let key = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        let text =
            |name| AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
        let sse =
            self.table.kms_key.as_ref().map(|key| {
                SseSpecification::builder().enabled(true).sse_type(SseType::Kms).kms_master_key_id(key).build()
            });
        let call = self
            .client
            .create_table()
            .table_name(&self.table.name)
            .set_key_schema(built([key(PARTITION, KeyType::Hash), key(SORT, KeyType::Range)])?)
            .set_attribute_definitions(built([text(PARTITION), text(SORT)])?)
            .billing_mode(BillingMode::PayPerRequest)
            .deletion_protection_enabled(true)
            .set_sse_specification(sse);
        match self.ask(deadline, || call.clone().send()).await {
            Ok(output) => output.table_description.ok_or_else(|| TableError::Absent(self.place())),
            // A try before made it, or somebody else at the same time.
            Err(Unanswered::Refused(answer)) if answer.code() == "ResourceInUseException" => {
                self.describe(deadline).await?.ok_or_else(|| TableError::Absent(self.place()))
            }
            Err(unanswered) => Err(self.error(unanswered)),
        }
    }

    async fn until_usable(&self, table: TableDescription, deadline: Deadline) -> Result<TableDescription, TableError> {
        let mut table = table;
        while table.table_status() == Some(&TableStatus::Creating) {
            if self.clock.left(deadline) < LOOK {
                return Err(TableError::Unavailable("the table is still being made".to_owned()));
            }
            sleep(LOOK).await;
            table = self.describe(deadline).await?.ok_or_else(|| TableError::Absent(self.place()))?;
        }
        Ok(table)
    }

    async fn time_to_live(&self, deadline: Deadline) -> Result<Option<TimeToLiveDescription>, Unanswered> {
        let call = self.client.describe_time_to_live().table_name(&self.table.name);
        let output = self.ask(deadline, || call.clone().send()).await?;
        Ok(output.time_to_live_description)
    }

    async fn is_recoverable(&self, deadline: Deadline) -> Result<bool, Unanswered> {
        let call = self.client.describe_continuous_backups().table_name(&self.table.name);
        let output = self.ask(deadline, || call.clone().send()).await?;
        let found = output.continuous_backups_description;
        let found = found.filter(|it| *it.continuous_backups_status() == ContinuousBackupsStatus::Enabled);
        let found = found.and_then(|it| it.point_in_time_recovery_description);
        Ok(found.and_then(|it| it.point_in_time_recovery_status) == Some(PointInTimeRecoveryStatus::Enabled))
    }

    async fn turn_on_expiry(&self, deadline: Deadline) -> Result<(), TableError> {
        let wanted = TimeToLiveSpecification::builder().enabled(true).attribute_name(EXPIRES).build();
        let wanted = wanted.map_err(|error| TableError::Unavailable(error.to_string()))?;
        let call = self.client.update_time_to_live().table_name(&self.table.name).time_to_live_specification(wanted);
        match self.ask(deadline, || call.clone().send()).await {
            Ok(_) => Ok(()),
            // What is on is refused: a try whose answer was lost did it, or somebody else at the same time.
            Err(Unanswered::Refused(_)) if self.expires(deadline).await => Ok(()),
            Err(unanswered) => Err(self.error(unanswered)),
        }
    }

    async fn expires(&self, deadline: Deadline) -> bool {
        let found = self.time_to_live(deadline).await;
        found.is_ok_and(|found| time_to_live_problem(found.as_ref()).is_none())
    }

    /// A new table is not ready for it at once.
    async fn turn_on_recovery(&self, deadline: Deadline) -> Result<(), TableError> {
        let wanted = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
        let wanted = wanted.map_err(|error| TableError::Unavailable(error.to_string()))?;
        let call = self.client.update_continuous_backups().table_name(&self.table.name);
        let call = call.point_in_time_recovery_specification(wanted);
        loop {
            match self.ask(deadline, || call.clone().send()).await {
                Ok(_) => return Ok(()),
                Err(Unanswered::Refused(answer))
                    if answer.code() == "ContinuousBackupsUnavailableException" && self.clock.left(deadline) > LOOK =>
                {
                    sleep(LOOK).await;
                }
                Err(unanswered) => return Err(self.error(unanswered)),
            }
        }
    }

    async fn turn_on_protection(&self, deadline: Deadline) -> Result<(), TableError> {
        let call = self.client.update_table().table_name(&self.table.name).deletion_protection_enabled(true);
        match self.ask(deadline, || call.clone().send()).await {
            Ok(_) => Ok(()),
            // As with expiry: a table that is being changed takes no second change.
            Err(Unanswered::Refused(_)) if self.is_protected(deadline).await => Ok(()),
            Err(unanswered) => Err(self.error(unanswered)),
        }
    }

    async fn is_protected(&self, deadline: Deadline) -> bool {
        let table = self.describe(deadline).await.ok().flatten();
        table.and_then(|it| it.deletion_protection_enabled) == Some(true)
    }

    /// Asks until there is an answer, or the deadline.
    async fn ask<O, E, F>(&self, deadline: Deadline, call: impl Fn() -> F) -> Result<O, Unanswered>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<
            Output = Result<O, aws_sdk_dynamodb::error::SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>>,
        >,
    {
        let mut tries = self.tries(deadline).patient();
        let unreached = self.clock.deadline(UNREACHED);
        loop {
            let (answer, trouble) = match tries.once(|_| call()).await {
                Ok(output) => return Ok(output),
                Err(Miss::Said(error, status)) => {
                    (Some(Answer::of_table(&error)), Trouble::from(Miss::Said(error, status)))
                }
                Err(Miss::Silent(trouble)) => (None, trouble),
            };
            let is_refusal = matches!(&trouble, Trouble::Refused(error) if !is_of_credentials(error));
            if let Some(answer) = answer.filter(|_| is_refusal) {
                return Err(Unanswered::Refused(answer));
            }
            if trouble.is_unreached() && self.clock.left(unreached).is_zero() {
                return Err(Unanswered::Store(trouble.into()));
            }
            tries.again(trouble).await.map_err(Unanswered::Store)?;
        }
    }

    fn error(&self, unanswered: Unanswered) -> TableError {
        let said = unanswered.to_string();
        match unanswered {
            Unanswered::Refused(_) => TableError::Refused(format!("{}: {said}", self.place())),
            Unanswered::Store(error) if is_of_credentials(&error) => TableError::Credentials(said),
            Unanswered::Store(_) => TableError::Unavailable(format!("{}: {said}", self.place())),
        }
    }
}

/// Why a question about the table has no answer.
enum Unanswered {
    Refused(Answer),
    Store(StoreError),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(answer) => answer.fmt(f),
            Self::Store(StoreError::Unavailable(cause)) => cause.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

fn is_of_credentials(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(cause) if cause.is::<NoCredentials>())
}

/// Conditions and transactions hold within a region; what another one writes arrives later, and wins if it
/// was written later.
fn replication_problem(table: &TableDescription, region: Option<&str>) -> Option<String> {
    let regions = table.replicas().iter().filter_map(|it| it.region_name());
    let others: Vec<_> = regions.filter(|name| Some(*name) != region).collect();
    let others = others.join(", ");
    let problem = format!("it is replicated to other regions ({others}), where writes are not ordered with this one's");
    (!table.replicas().is_empty()).then_some(problem)
}

fn built<T, E: std::error::Error>(parts: [Result<T, E>; 2]) -> Result<Option<Vec<T>>, TableError> {
    let parts: Result<Vec<_>, _> = parts.into_iter().collect();
    parts.map(Some).map_err(|error| TableError::Unavailable(error.to_string()))
}

fn has_our_key(table: &TableDescription) -> bool {
    let ours = [(PARTITION, KeyType::Hash), (SORT, KeyType::Range)];
    let is_text = |name: &str| {
        let mut of_name = table.attribute_definitions().iter().filter(|it| it.attribute_name() == name);
        of_name.next().is_some_and(|it| *it.attribute_type() == ScalarAttributeType::S)
    };
    let found = table.key_schema().iter().map(|it| (it.attribute_name(), it.key_type().clone()));
    found.eq(ours) && is_text(PARTITION) && is_text(SORT)
}

fn time_to_live_problem(found: Option<&TimeToLiveDescription>) -> Option<String> {
    let is_on = |status: Option<&TimeToLiveStatus>| {
        matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
    };
    let found = found.filter(|it| is_on(it.time_to_live_status())).and_then(|it| it.attribute_name());
    match found {
        Some(EXPIRES) => None,
        Some(_) => Some(format!("its time to live is another attribute than `{EXPIRES}`")),
        None => Some(format!("its time to live is not on: expired items of attribute `{EXPIRES}` would stay")),
    }
}
