//! A whole vault on a table: what is acknowledged survives its servers.

use ibyok::grpc::pb;

use super::local;
use crate::{
    harness::{Caller, Home, Place, Vault},
    tamper::stock::{create, grant, openai, retrieve},
};

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
    let home = Home::at(Place::table(&table));
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
