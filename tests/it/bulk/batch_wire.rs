//! BatchRetrieveKeys as the wire sees it: names, statuses, records, the client.

use std::fs;

use ibyok::grpc::pb::{self, batch_retrieve_keys_response::Result as Item};
use ibyok_client::{AccessToken, Client, Config};
use tonic::{Code, Status};

use super::{events, new_key, secret, value};
use crate::harness::{ADMIN, Caller, ORG, Vault, reason, within};

/// The client that ships, as the administrator.
pub(super) async fn client(vault: &Vault, admin: &Caller) -> Client {
    let (dir, certificate) = (vault.dir.path(), vault.certificate(ADMIN));
    fs::write(dir.join("client.pem"), &certificate.certificate).unwrap();
    fs::write(dir.join("client.key"), certificate.key.as_bytes()).unwrap();
    let config = Config::builder()
        .address(vault.address.to_string())
        .server_name("localhost")
        .ca_certificate(dir.join("ca.pem"))
        .client_certificate(dir.join("client.pem"))
        .client_key(dir.join("client.key"))
        .token(AccessToken::new(admin.token.clone().unwrap()));
    Client::connect(config.build().unwrap()).await.unwrap()
}

async fn batch(caller: &Caller, names: &[&str]) -> Result<Vec<Item>, Status> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let request = pb::BatchRetrieveKeysRequest { names, purpose: "batch".into() };
    Ok(caller.keys().batch_retrieve_keys(request).await?.into_inner().results)
}

fn told(item: &Item) -> (&str, i32, &str) {
    let status = item.status.as_ref().unwrap();
    (&item.name, status.code, &status.reason)
}

#[tokio::test]
async fn each_name_has_its_result_and_each_result_its_record() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    for n in 0..2 {
        admin.keys().create_key(new_key(&format!("k-{n}"), n)).await.unwrap();
    }
    let disable = pb::DisableKeyRequest { name: "k-1".into(), ..Default::default() };
    admin.keys().disable_key(disable).await.unwrap();
    let secret_as_name = "sk-0123456789abcdef0123456789abcdef";
    let names = ["k-0", "orgs/acme/keys/k-1", "absent", "orgs/rival/keys/k-0", "NO NAME", secret_as_name, "k-0"];
    let results = batch(&admin, &names).await.unwrap();
    let absent = Code::NotFound as i32;
    let expected = [
        ("orgs/acme/keys/k-0", 0, ""),
        ("orgs/acme/keys/k-1", Code::FailedPrecondition as i32, "KEY_DISABLED"),
        ("orgs/acme/keys/absent", absent, "KEY_NOT_FOUND"),
        ("", absent, "KEY_NOT_FOUND"),
        ("", Code::InvalidArgument as i32, "INVALID_FIELD"),
        ("", absent, "KEY_NOT_FOUND"),
        ("orgs/acme/keys/k-0", 0, ""),
    ];
    assert_eq!(results.iter().map(told).collect::<Vec<_>>(), expected);
    let violations = &results[4].status.as_ref().unwrap().field_violations;
    assert_eq!(violations.iter().map(|at| at.field.as_str()).collect::<Vec<_>>(), ["names[4]"]);
    let shown = format!("{results:?}");
    assert!(!shown.contains("rival") && !shown.contains("NO NAME") && !shown.contains("abcdef"), "{shown}");
    for item in [&results[0], &results[6]] {
        assert_eq!(item.key.as_ref().unwrap().secret.as_ref().unwrap().text, value(0));
    }
    assert_ne!(results[0].key.as_ref().unwrap().receipt, results[6].key.as_ref().unwrap().receipt);
    assert!(results[1..6].iter().all(|item| item.key.is_none()));

    let mut expected: Vec<_> = [
        (1, "", "orgs/acme/keys/k-0"),
        (1, "", "orgs/acme/keys/k-0"),
        (2, "KEY_DISABLED", "orgs/acme/keys/k-1"),
        (2, "KEY_NOT_FOUND", ""),
        (2, "KEY_NOT_FOUND", ""),
        (2, "KEY_NOT_FOUND", "orgs/acme/keys/absent"),
    ]
    .map(|(outcome, reason, resource)| (outcome, reason.to_owned(), resource.to_owned()))
    .into();
    expected.sort();
    // A refusal's record is not waited for.
    let mut recorded = Vec::new();
    within("a record of each refusal", async {
        while recorded.len() < expected.len() {
            recorded = events(&admin, "key.retrieve").await;
        }
    })
    .await;
    recorded.sort();
    assert_eq!(recorded, expected);
    vault.stop().await;
}

#[tokio::test]
async fn the_call_is_refused_whole_without_its_scope_and_for_bad_counts() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    admin.keys().create_key(new_key("k", 1)).await.unwrap();
    for scopes in [["keys:list"], ["keys:read-admin"]] {
        let grant = pb::Grant { scopes: scopes.map(str::to_owned).to_vec(), ..Default::default() };
        let request = pb::IssueTokenRequest { subject: "w".into(), grants: vec![grant], ..Default::default() };
        let caller = vault.issue(&admin, "spiffe://ibyok.test/w", request).await;
        let refusal = batch(&caller, &["k"]).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
    }
    let resources = vec![format!("orgs/{ORG}/keys/k")];
    let grant = pb::Grant { scopes: vec!["keys:read".into()], resources, ..Default::default() };
    let request = pb::IssueTokenRequest { subject: "one".into(), grants: vec![grant], ..Default::default() };
    let one = vault.issue(&admin, "spiffe://ibyok.test/one", request).await;
    let results = batch(&one, &["other", "k"]).await.unwrap();
    let expected =
        [("orgs/acme/keys/other", Code::PermissionDenied as i32, "RESOURCE_NOT_GRANTED"), ("orgs/acme/keys/k", 0, "")];
    assert_eq!(results.iter().map(told).collect::<Vec<_>>(), expected);
    for names in [vec![], vec!["k"; 41]] {
        let refusal = batch(&admin, &names).await.unwrap_err();
        assert_eq!(crate::bad_input::refusal(&refusal).2, ["names"]);
    }
    vault.stop().await;
}

/// The longest answer that there may be: 40 values of 16 KiB.
#[tokio::test]
async fn the_longest_answer_arrives_and_the_client_reads_it() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let long = |n: usize| format!("sk-proj-{n:08}{}", "aB3d".repeat(4_092));
    let names: Vec<_> = (0..40).map(|n| format!("k-{n}")).collect();
    for (n, id) in names.iter().enumerate() {
        let key = pb::CreateKeyRequest { provider: "openai".into(), secret: secret(long(n)), ..new_key(id, n) };
        assert_eq!(key.secret.as_ref().unwrap().text.len(), 16_384);
        admin.keys().create_key(key).await.unwrap();
    }
    let client = client(&vault, &admin).await;
    let results = client.batch_retrieve(names, "all of them").await.unwrap();
    assert_eq!(results.len(), 40);
    for (n, result) in results.into_iter().enumerate() {
        let key = result.unwrap();
        assert!(!format!("{key:?}").contains("aB3d"));
        assert_eq!(key.secret.expose_secret(), long(n));
        assert!(key.receipt.is_some());
    }
    let results = client.batch_retrieve(["absent", "k-1"], "").await.unwrap();
    let refused = results[0].as_ref().unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Some(Code::NotFound), Some("KEY_NOT_FOUND")));
    assert!(results[1].is_ok());
    vault.stop().await;
}
