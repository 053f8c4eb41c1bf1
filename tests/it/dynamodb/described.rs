//! What the store makes of descriptions of tables that DynamoDB Local can't have: other modes, keys, regions,
//! backups. A proxy answers them.

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::clock::{Clock as _, Deadline, SystemClock},
    server::{self, ServerError},
    store::dynamodb::{DynamoStore, TableError, TableSettings},
};
use serde_json::{Value as Json, json};

use super::{
    local,
    proxy::{Fate, Proxy},
};
use crate::harness::{Home, Place};

const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(600))
}

/// DynamoDB's description of a table as it should be, with these parts in place of its own.
fn described(parts: &Json) -> Fate {
    let mut table = json!({
        "TableName": "t",
        "TableStatus": "ACTIVE",
        "KeySchema": [
            { "AttributeName": "pk", "KeyType": "HASH" },
            { "AttributeName": "sk", "KeyType": "RANGE" },
        ],
        "AttributeDefinitions": [
            { "AttributeName": "pk", "AttributeType": "S" },
            { "AttributeName": "sk", "AttributeType": "S" },
        ],
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "DeletionProtectionEnabled": true,
    });
    table.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    Fate::Answer(200, json!({ "Table": table }))
}

fn backups(continuous: &str, point_in_time: &str) -> Fate {
    let recovery = json!({ "PointInTimeRecoveryStatus": point_in_time });
    let description = json!({ "ContinuousBackupsStatus": continuous, "PointInTimeRecoveryDescription": recovery });
    Fate::Answer(200, json!({ "ContinuousBackupsDescription": description }))
}

/// A real table, seen through a proxy.
struct Trial {
    table: String,
    proxy: Proxy,
}

impl Trial {
    async fn make() -> Self {
        let (_, table) = local::table().await;
        Self { table, proxy: Proxy::start().await }
    }

    async fn store(&self, kms_key: Option<&str>) -> DynamoStore {
        let table = TableSettings { name: self.table.clone(), kms_key: kms_key.map(str::to_owned) };
        local::store_of(table, self.proxy.endpoint(), Arc::new(SystemClock)).await
    }

    /// The bodies of what came of that operation; what came is forgotten.
    fn bodies(&self, operation: &str) -> Vec<Json> {
        self.proxy.came().into_iter().filter(|it| it.operation == operation).map(|it| it.body).collect()
    }
}

#[tokio::test]
async fn each_part_of_a_description_is_judged() {
    let trial = Trial::make().await;
    let not_on_demand = "it is not on demand: beyond its provisioned capacity calls are refused";
    let elsewhere =
        "it is replicated to other regions (eu-west-1, us-east-1), where writes are not ordered with this one's";
    let replicas = ["eu-west-1", "eu-central-1", "us-east-1"].map(|name| json!({ "RegionName": name }));
    for (parts, problems, warnings) in [
        (json!({}), vec![], vec![]),
        (json!({ "TableStatus": "UPDATING" }), vec![], vec![]),
        (json!({ "TableStatus": "DELETING" }), vec!["it can't be used now: DELETING"], vec![]),
        (
            json!({ "TableStatus": "INACCESSIBLE_ENCRYPTION_CREDENTIALS" }),
            vec!["it can't be used now: INACCESSIBLE_ENCRYPTION_CREDENTIALS"],
            vec![],
        ),
        (json!({ "BillingModeSummary": { "BillingMode": "PROVISIONED" } }), vec![], vec![not_on_demand]),
        // As AWS describes one that was never anything else.
        (json!({ "BillingModeSummary": null }), vec![], vec![not_on_demand]),
        (json!({ "DeletionProtectionEnabled": false }), vec![], vec!["deletion protection is off"]),
        (
            json!({ "DeletionProtectionEnabled": null }),
            vec![],
            vec!["whether it is protected from deletion can't be told"],
        ),
        (json!({ "Replicas": [] }), vec![], vec![]),
        (json!({ "Replicas": replicas }), vec![elsewhere], vec![]),
    ] {
        trial.proxy.next("DescribeTable", [described(&parts)]);
        let report = trial.store(None).await.inspect(soon()).await.unwrap();
        assert_eq!((report.problems, report.warnings), to_owned(problems, warnings), "{parts}");
        assert_eq!(report.table, format!("table {} in eu-central-1", trial.table));
        assert_eq!(trial.proxy.operations(), ["DescribeTable", "DescribeTimeToLive"]);
    }
}

fn to_owned(problems: Vec<&str>, warnings: Vec<&str>) -> (Vec<String>, Vec<String>) {
    let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
    (owned(problems), owned(warnings))
}

#[tokio::test]
async fn a_table_is_encrypted_with_the_key_of_the_settings() {
    let trial = Trial::make().await;
    let other = KEY.replace("1234abcd", "9999abcd");
    let sse = |kind: &str, key: &str| json!({ "SSEDescription": { "Status": "ENABLED", "SSEType": kind, "KMSMasterKeyArn": key } });
    let none = "store.kms_key is set, and the table is not encrypted with a KMS key";
    let another = "it is encrypted with another KMS key than store.kms_key";
    let alias = "which key store.kms_key is an alias of can't be told";
    let id = KEY.rsplit('/').next().unwrap();
    for (wanted, parts, problems, warnings) in [
        (None, sse("KMS", KEY), vec![], vec![]),
        (Some(KEY), json!({}), vec![none], vec![]),
        (Some(KEY), sse("AES256", KEY), vec![none], vec![]),
        (Some(KEY), sse("KMS", KEY), vec![], vec![]),
        (Some(id), sse("KMS", KEY), vec![], vec![]),
        (Some(KEY), sse("KMS", &other), vec![another], vec![]),
        (Some(id), sse("KMS", &other), vec![another], vec![]),
        (Some("alias/ibyok"), sse("KMS", &other), vec![], vec![alias]),
        (Some("alias/ibyok"), json!({}), vec![none], vec![]),
    ] {
        trial.proxy.next("DescribeTable", [described(&parts)]);
        let report = trial.store(wanted).await.inspect(soon()).await.unwrap();
        assert_eq!((report.problems, report.warnings), to_owned(problems, warnings), "{wanted:?} {parts}");
    }
}

#[tokio::test]
async fn point_in_time_recovery_is_told() {
    let trial = Trial::make().await;
    let off = "point-in-time recovery is off";
    let untold =
        "whether it has point-in-time recovery can't be told: AWS answers AccessDeniedException: the proxy says so";
    for (answer, warnings) in [
        (backups("ENABLED", "ENABLED"), vec![]),
        (backups("ENABLED", "DISABLED"), vec![off]),
        (backups("DISABLED", "ENABLED"), vec![off]),
        (Fate::Answer(200, json!({})), vec![off]),
        (Fate::error(400, "AccessDeniedException"), vec![untold]),
    ] {
        trial.proxy.next("DescribeTable", [described(&json!({}))]);
        trial.proxy.next("DescribeContinuousBackups", [answer.clone()]);
        let report = trial.store(None).await.inspect_all(soon()).await.unwrap();
        assert_eq!((report.problems, report.warnings), to_owned(vec![], warnings), "{answer:?}");
        assert_eq!(trial.proxy.operations(), ["DescribeTable", "DescribeTimeToLive", "DescribeContinuousBackups"]);
    }
}

#[tokio::test]
async fn what_a_server_may_not_ask_about_expiry_keeps_it_from_nothing() {
    let trial = Trial::make().await;
    trial.proxy.next("DescribeTable", [described(&json!({}))]);
    trial.proxy.next("DescribeTimeToLive", [Fate::error(400, "AccessDeniedException")]);
    let report = trial.store(None).await.inspect(soon()).await.unwrap();
    let untold =
        "whether expired items are deleted can't be told: AWS answers AccessDeniedException: the proxy says so";
    assert_eq!((report.problems, report.warnings), to_owned(vec![], vec![untold]));
}

/// In each region the vault would have a log, and revocations, of its own.
#[tokio::test]
async fn a_server_refuses_a_table_that_is_replicated() {
    let trial = Trial::make().await;
    trial.proxy.next("DescribeTable", [described(&json!({ "Replicas": [{ "RegionName": "eu-west-1" }] }))]);
    let home = Home::at(Place::Table { name: trial.table.clone(), endpoint: trial.proxy.endpoint() });
    let refused = server::Opened::new(&home.config(""), &home.sources()).await.unwrap_err();
    let begins = format!("table {} in eu-central-1: it is replicated to other regions (eu-west-1), ", trial.table);
    assert!(
        matches!(&refused, ServerError::Setting { setting: "store.table", problem } if problem.starts_with(&begins)),
        "{refused}"
    );
}

#[tokio::test]
async fn a_new_table_is_asked_for_as_it_shall_be() {
    let proxy = Proxy::start().await;
    let trial = Trial { table: local::name(), proxy };
    trial.store(None).await.create(soon()).await.unwrap();
    let plain = trial.bodies("CreateTable").remove(0);
    assert_eq!(plain["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(plain["DeletionProtectionEnabled"], true);
    assert_eq!(plain["SSESpecification"], Json::Null);

    // DynamoDB Local has no keys: the table is not made.
    let trial = Trial { table: local::name(), ..trial };
    trial.proxy.next("CreateTable", [Fate::error(400, "ValidationException")]);
    let refused = trial.store(Some(KEY)).await.create(soon()).await.unwrap_err();
    let line = format!("table {} in eu-central-1: AWS answers ValidationException: the proxy says so", trial.table);
    assert!(matches!(refused, TableError::Refused(_)) && refused.to_string() == line, "{refused}");
    let with_key = trial.bodies("CreateTable").remove(0);
    assert_eq!(with_key["SSESpecification"], json!({ "Enabled": true, "SSEType": "KMS", "KMSMasterKeyId": KEY }));
}

#[tokio::test]
async fn a_table_that_is_being_made_is_waited_for() {
    let trial = Trial::make().await;
    let creating = || described(&json!({ "TableStatus": "CREATING" }));
    trial.proxy.next("DescribeTable", [creating(), creating(), described(&json!({}))]);
    trial.store(None).await.create(soon()).await.unwrap();
    assert_eq!(trial.bodies("DescribeTable").len(), 3);

    trial.proxy.next("DescribeTable", vec![creating(); 10]);
    let late = trial.store(None).await.create(SystemClock.deadline(Duration::from_millis(700))).await.unwrap_err();
    assert!(matches!(late, TableError::Unavailable(_)), "{late}");
}

#[tokio::test]
async fn what_a_table_lacks_is_turned_on() {
    let trial = Trial::make().await;
    let unprotected = || described(&json!({ "DeletionProtectionEnabled": false }));
    trial.proxy.next("DescribeTable", [unprotected()]);
    trial.proxy.next("DescribeContinuousBackups", [backups("ENABLED", "DISABLED")]);
    // A new table is not ready for it at once.
    let unready = Fate::error(400, "ContinuousBackupsUnavailableException");
    trial.proxy.next("UpdateContinuousBackups", [unready, backups("ENABLED", "ENABLED")]);
    trial.proxy.next("UpdateTable", [Fate::Answer(200, json!({}))]);
    trial.store(None).await.create(soon()).await.unwrap();
    let came = trial.proxy.came();
    let of =
        |operation: &str| came.iter().filter(|it| it.operation == operation).map(|it| &it.body).collect::<Vec<_>>();
    let recovery = of("UpdateContinuousBackups");
    assert_eq!(recovery.len(), 2);
    assert_eq!(recovery[1]["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true);
    let protection = of("UpdateTable");
    assert_eq!(protection.len(), 1);
    assert_eq!(protection[0], &json!({ "TableName": trial.table, "DeletionProtectionEnabled": true }));
    assert!(of("UpdateTimeToLive").is_empty(), "it was on");

    // What is on stays as it is, and so does what the endpoint does not tell.
    for answer in [backups("ENABLED", "ENABLED"), Fate::error(400, "UnknownOperationException")] {
        trial.proxy.next("DescribeTable", [described(&json!({}))]);
        trial.proxy.next("DescribeContinuousBackups", [answer]);
        trial.store(None).await.create(soon()).await.unwrap();
        assert_eq!(trial.proxy.operations(), ["DescribeTable", "DescribeTimeToLive", "DescribeContinuousBackups"]);
    }
}

/// The answer is lost, and DynamoDB refuses to do a second time what is done.
#[tokio::test]
async fn what_a_lost_try_turned_on_is_on() {
    let trial = Trial::make().await;
    let name = local::name();
    let bare = Trial { table: name.clone(), proxy: trial.proxy.clone() };
    super::table::make_bare(&name).await;
    trial.proxy.next("UpdateTimeToLive", [Fate::LoseReply, Fate::error(400, "ValidationException")]);
    bare.store(None).await.create(soon()).await.unwrap();
    assert_eq!(bare.bodies("UpdateTimeToLive").len(), 2);
    assert!(bare.store(None).await.inspect(soon()).await.unwrap().problems.is_empty());

    let unprotected = || described(&json!({ "DeletionProtectionEnabled": false }));
    trial.proxy.next("DescribeTable", [unprotected(), described(&json!({}))]);
    trial.proxy.next("UpdateTable", [Fate::error(400, "ResourceInUseException")]);
    trial.store(None).await.create(soon()).await.unwrap();

    // What is refused and still off is an error, in AWS's words.
    trial.proxy.next("DescribeTable", [unprotected(), unprotected()]);
    trial.proxy.next("UpdateTable", [Fate::error(400, "LimitExceededException")]);
    let refused = trial.store(None).await.create(soon()).await.unwrap_err();
    assert!(refused.to_string().ends_with("AWS answers LimitExceededException: the proxy says so"), "{refused}");
}

/// Expiry by another attribute can't be changed at once: AWS says so.
#[tokio::test]
async fn expiry_by_another_attribute_is_refused_in_awss_words() {
    let name = local::name();
    super::table::make_bare(&name).await;
    super::table::expire_by(&name, "wid").await;
    let refused = local::store(&name, local::endpoint()).await.create(soon()).await.unwrap_err();
    let begins = format!("table {name} in eu-central-1: AWS answers ValidationException: ");
    assert!(refused.to_string().starts_with(&begins) && refused.to_string().len() > begins.len(), "{refused}");
}
