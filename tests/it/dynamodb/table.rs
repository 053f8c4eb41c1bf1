//! The table, made and looked at: by the store, by the server that starts, by the command line.

use std::{fs, process::Command, time::Duration};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use ibyok::{
    domain::clock::{Clock as _, Deadline, SystemClock},
    server::{self, ServerError},
    store::dynamodb::TableError,
};

use super::local;
use crate::harness::{Home, Place};

fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(600))
}

/// A table with that key, made past the store.
async fn make(name: &str, partition: (&str, ScalarAttributeType), sort: Option<&str>) {
    let client = local::client().await;
    let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let of =
        |name: &str, kind| AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap();
    let mut call = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key(partition.0, KeyType::Hash))
        .attribute_definitions(of(partition.0, partition.1));
    if let Some(sort) = sort {
        call = call.key_schema(key(sort, KeyType::Range)).attribute_definitions(of(sort, ScalarAttributeType::S));
    }
    call.send().await.unwrap();
}

/// One with the right key, and nothing else.
pub(super) async fn make_bare(name: &str) {
    make(name, ("pk", ScalarAttributeType::S), Some("sk")).await;
}

pub(super) async fn expire_by(name: &str, attribute: &str) {
    let on = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build().unwrap();
    local::client().await.update_time_to_live().table_name(name).time_to_live_specification(on).send().await.unwrap();
}

#[tokio::test]
async fn a_table_that_was_made_fits_and_is_made_once() {
    let (store, _) = local::table().await;
    let report = store.inspect(soon()).await.unwrap();
    assert_eq!((report.problems, report.warnings), (vec![], vec![]));
    store.create(soon()).await.unwrap();
    let all = store.inspect_all(soon()).await.unwrap();
    assert_eq!(all.problems, Vec::<String>::new());
    // What DynamoDB Local does not know is told, and hinders nobody.
    assert!(all.warnings.iter().any(|it| it.starts_with("whether it has point-in-time recovery")), "{all:?}");
    assert!(!all.warnings.iter().any(|it| it.contains("on demand") || it.contains("protection is off")), "{all:?}");
}

#[tokio::test]
async fn what_is_off_about_a_table_is_said() {
    let text = ScalarAttributeType::S;
    for (partition, sort) in [
        (("id", text.clone()), Some("sk")),
        (("pk", text.clone()), None),
        (("pk", ScalarAttributeType::N), Some("sk")),
        (("sk", text.clone()), Some("pk")),
    ] {
        let name = local::name();
        make(&name, partition, sort).await;
        let store = local::store(&name, local::endpoint()).await;
        store.create(soon()).await.unwrap();
        let problems = store.inspect(soon()).await.unwrap().problems;
        assert_eq!(problems[0], "its key is not `pk` and `sk`, both text");
        assert_eq!(problems.len(), 2, "it is left as it is: {problems:?}");
    }
    let name = local::name();
    make_bare(&name).await;
    let store = local::store(&name, local::endpoint()).await;
    let problems = store.inspect(soon()).await.unwrap().problems;
    assert_eq!(problems, ["its time to live is not on: expired items of attribute `exp` would stay"]);
    expire_by(&name, "wid").await;
    let problems = store.inspect(soon()).await.unwrap().problems;
    assert_eq!(problems, ["its time to live is another attribute than `exp`"]);
}

#[tokio::test]
async fn a_table_that_lacks_its_expiry_gets_it() {
    let name = local::name();
    make_bare(&name).await;
    let store = local::store(&name, local::endpoint()).await;
    assert_eq!(store.inspect(soon()).await.unwrap().problems.len(), 1);
    store.create(soon()).await.unwrap();
    assert!(store.inspect(soon()).await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_server_refuses_a_table_in_one_line() {
    let refused = async |name: &str| {
        let home = Home::at(Place::table(name));
        let served = server::Opened::new(&home.config(""), &home.sources()).await;
        let (served, made) = (served.unwrap_err().to_string(), home.init().await.unwrap_err().to_string());
        assert_eq!(served, made);
        assert_eq!(served.lines().count(), 1);
        served
    };
    let name = local::name();
    let text = refused(&name).await;
    assert!(text.starts_with(&format!("store.table: there is no table {name} in eu-central-1: ")), "{text}");
    assert!(text.contains("ibyok-server table create"), "{text}");
    make(&name, ("id", ScalarAttributeType::S), None).await;
    let text = refused(&name).await;
    let begins =
        format!("store.table: table {name} in eu-central-1: its key is not `pk` and `sk`, both text; its time to");
    assert!(text.starts_with(&begins), "{text}");
    assert!(text.contains("ibyok-server table check"), "{text}");

    let store = local::store(&local::name(), "http://127.0.0.1:1".to_owned()).await;
    let nobody = store.inspect(SystemClock.deadline(Duration::from_millis(300))).await.unwrap_err();
    assert!(matches!(nobody, TableError::Unavailable(_)) && nobody.to_string().lines().count() == 1, "{nobody}");
}

/// An empty table is no vault: it says what to do.
#[tokio::test]
async fn a_table_without_a_vault_asks_for_init() {
    let (_, name) = local::table().await;
    let home = Home::at(Place::table(&name));
    let refused = server::Opened::new(&home.config(""), &home.sources()).await.unwrap_err();
    assert!(matches!(refused, ServerError::NotInitialised), "{refused}");
}

#[tokio::test]
async fn the_command_makes_the_table_and_checks_it() {
    let home = Home::sqlite();
    let name = local::name();
    let config = home.path().join("server.toml");
    let tls = "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }";
    fs::write(&config, format!("{tls}\n{}\nkms = {{ key_file = \"master.keys\" }}\n", Place::table(&name).setting()))
        .unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ibyok-server"));
        command.args(words).arg("--config").arg(&config);
        command.env("AWS_ACCESS_KEY_ID", "ibyok").env("AWS_SECRET_ACCESS_KEY", "tests").output().unwrap()
    };
    let checked = run(&["table", "check"]);
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert!(said.starts_with(&format!("ibyok-server: store.table: there is no table {name} in ")), "{said}");
    for action in ["create", "check", "create"] {
        let done = run(&["table", action]);
        let (out, errors) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        assert!(done.status.success() && errors.is_empty(), "{out}{errors}");
        let begins = format!("warning: table {name} in eu-central-1: ");
        assert!(out.lines().count() > 0 && out.lines().all(|line| line.starts_with(&begins)), "{out}");
    }
    let checked = run(&["check"]);
    assert_eq!((checked.stdout, checked.stderr), (b"OK\n".to_vec(), Vec::new()));
    local::client().await.delete_table().table_name(&name).send().await.ok();
}
