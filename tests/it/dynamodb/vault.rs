//! A whole vault on a table: what is acknowledged survives its servers.

use ibyok::grpc::pb;

use super::{local, proxy::Proxy};
use crate::{
    harness::{Caller, Home, Vault},
    tamper::stock::{create, grant, openai, retrieve},
};

/// The server's settings of that table.
pub(crate) fn settings(table: &str) -> String {
    through(table, &local::endpoint())
}

/// The same, where the table is reached through that endpoint.
pub(crate) fn through(table: &str, endpoint: &str) -> String {
    format!("store = {}", setting(table, endpoint))
}

/// The value of that setting.
pub(crate) fn setting(table: &str, endpoint: &str) -> String {
    let region = local::REGION;
    format!("{{ kind = \"dynamodb\", table = \"{table}\", region = \"{region}\", endpoint = \"{endpoint}\" }}")
}

async fn reader(vault: &Vault) -> Caller {
    let admin = vault.admin().await;
    let request =
        pb::IssueTokenRequest { subject: "svc".into(), grants: vec![grant(&["keys:read"])], ..Default::default() };
    vault.issue(&admin, "spiffe://ibyok.test/svc", request).await
}

async fn value(caller: &Caller) -> String {
    retrieve(caller, "openai").await.unwrap().secret.unwrap().text.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_created_and_retrieved_and_there_after_a_restart() {
    let (_, table) = local::table().await;
    let home = Home::make().on(settings(&table));
    home.init().await.unwrap();
    let again = home.init().await.unwrap_err().to_string();
    assert!(again.contains("holds a vault already"), "{again}");

    let vault = home.serve("").await;
    create(&vault.admin().await, "openai", &openai("dynamodb")).await;
    let before = reader(&vault).await;
    assert_eq!(value(&before).await, openai("dynamodb"));
    let status = vault.operator().await.admin().get_server_status(pb::GetServerStatusRequest::default()).await;
    let checks = status.unwrap().into_inner().checks;
    let store = checks.iter().find(|check| check.name == "store").unwrap();
    assert_eq!((store.ok, store.detail.as_str()), (true, &*format!("DynamoDB table {table} in eu-central-1 answers")));

    let vault = vault.stop().await.serve("").await;
    let after = vault.stranger("spiffe://ibyok.test/svc").with_token(before.token.unwrap());
    assert_eq!(value(&after).await, openai("dynamodb"), "key and token are there");
    assert_eq!(value(&reader(&vault).await).await, openai("dynamodb"));
    vault.stop().await;
}

/// Beside what the server does by itself, a retrieval is one read of its items and one record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retrieval_is_one_read_and_one_record() {
    let (_, table) = local::table().await;
    let proxy = Proxy::start().await;
    let home = Home::make().on(through(&table, &proxy.endpoint()));
    home.init().await.unwrap();
    let vault = home.serve("").await;
    create(&vault.admin().await, "openai", &openai("rounds")).await;
    let reader = reader(&vault).await;
    value(&reader).await;

    proxy.came();
    value(&reader).await;
    let came = proxy.came();
    let about = |text: &str| came.iter().filter(|it| it.body.to_string().contains(text)).collect::<Vec<_>>();
    let of_key = about("O#acme#K#openai");
    assert_eq!(of_key.iter().map(|it| it.operation.as_str()).collect::<Vec<_>>(), ["BatchGetItem"]);
    let read = of_key[0].body["RequestItems"][&table]["Keys"].as_array().unwrap();
    assert_eq!(read.len(), 4, "token, subject, epoch, key");
    let tokens = about("O#acme#T#").len();
    assert_eq!(tokens, 1, "nothing else is read of the session");
    let records: Vec<_> = came.iter().filter(|it| it.operation == "PutItem").collect();
    assert_eq!(records.len(), 1, "{records:?}");
    vault.stop().await;
}
