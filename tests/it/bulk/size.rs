//! How large a message, and how long an import, may be; and what it costs the server.

use ibyok::grpc::pb;
use tokio_stream::Stream;
use tonic::{Code, Request};

use super::{import, import_all, item, items, listed, new_key, secret, status};
use crate::{
    canary::process::Server,
    harness::{ADMIN, Caller, Home, ORG, Vault, reason, within},
};

const MEBIBYTE: usize = 1 << 20;

fn described(id: &str, bytes: usize) -> pb::CreateKeyRequest {
    pb::CreateKeyRequest { description: "d".repeat(bytes), ..new_key(id, 1) }
}

#[tokio::test]
async fn an_import_takes_a_mebibyte_and_everything_else_64_kibibytes() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    // Too long for the field, not for the message.
    let answers = import_all(&admin, vec![item(described("k", MEBIBYTE - 1_000)), item(new_key("l", 2))]).await;
    assert_eq!(status(&answers[0]), (Code::InvalidArgument as i32, "INVALID_FIELD"));
    assert_eq!(status(&answers[1]), (0, ""));

    let (answered, refusal) =
        import(&admin, vec![item(new_key("m", 3)), item(described("k", MEBIBYTE)), item(new_key("n", 4))]).await;
    let refusal = refusal.unwrap();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(answered.iter().map(status).collect::<Vec<_>>(), [(0, "")], "what came before it is answered");
    assert_eq!(listed(&admin).await, ["l", "m"]);

    let refusal = admin.keys().create_key(described("k", 64 << 10)).await.unwrap_err();
    assert_eq!(reason(&refusal), "MESSAGE_TOO_LARGE");
    let names = vec!["k".repeat(63); 1_100];
    let request = pb::BatchRetrieveKeysRequest { names, ..Default::default() };
    assert_eq!(reason(&admin.keys().batch_retrieve_keys(request).await.unwrap_err()), "MESSAGE_TOO_LARGE");
    let request = pb::RetrieveKeyRequest { name: "l".into(), purpose: "p".repeat(64 << 10), ..Default::default() };
    assert_eq!(reason(&admin.keys().retrieve_key(request).await.unwrap_err()), "MESSAGE_TOO_LARGE");
    vault.stop().await;
}

/// Imports have places of their own: who takes them all keeps no call and no other stream out.
#[tokio::test]
async fn open_imports_are_bounded_and_hinder_nobody() {
    let vault = Vault::start_with("[limits]\nstreams = 16\ncalls = 2\n").await;
    let admin = vault.admin().await;
    let open = super::Open::new(&admin).await;
    let (_, refusal) = import(&admin, items("k", 1)).await;
    assert_eq!(reason(&refusal.unwrap()), "OVERLOADED");
    assert!(listed(&admin).await.is_empty());
    let request = pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
    drop(admin.audit().stream_audit_events(request).await.unwrap());
    drop(open);
    // The place is free once the server has seen that the stream is gone.
    within("a place for another import", async { while import(&admin, items("k", 1)).await.1.is_some() {} }).await;
    vault.stop().await;
}

/// An import of those without a deadline, as of who waits for its end; how many were stored.
async fn stored(caller: &Caller, items: impl Stream<Item = pb::ImportKeysRequest> + Send + 'static) -> usize {
    let mut request = Request::new(items);
    let bearer = format!("Bearer {}", caller.token.as_ref().unwrap());
    request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    let mut keys = pb::key_vault_client::KeyVaultClient::new(caller.channel.clone());
    let mut answers = keys.import_keys(request).await.unwrap().into_inner();
    let mut stored = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(status(&answer), (0, ""));
        stored += 1;
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_keys_go_into_one_import() {
    // On DynamoDB Local it would be the better part of a minute.
    let home = Home::sqlite();
    home.init().await.unwrap();
    let vault = home.serve("").await;
    let admin = vault.admin().await;
    assert_eq!(stored(&admin, tokio_stream::iter(items("k", 5_000))).await, 5_000);
    assert_eq!(listed(&admin).await.len(), 5_000);
    vault.stop().await;
}

/// Values of 12 KiB, one after the other: the server holds a few of them at a time.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_import_costs_no_memory() {
    const COUNT: usize = 2_000;
    const BYTES: usize = 12 << 10;
    let server = Server::start_plain().await;
    let admin = server.exchange(ADMIN, ORG).await;
    let key = |n: usize| pb::CreateKeyRequest {
        provider: "openai".into(),
        secret: secret(format!("sk-proj-{n:08}{}", "aB3d".repeat(BYTES / 4))),
        ..new_key(&format!("k-{n}"), n)
    };
    // Whatever grows once has grown then.
    assert_eq!(stored(&admin, tokio_stream::iter((0..200).map(move |n| item(key(n))))).await, 200);
    let before = server.peak_kib();
    assert_eq!(stored(&admin, tokio_stream::iter((200..COUNT).map(move |n| item(key(n))))).await, COUNT - 200);
    let (grown, taken) = (server.peak_kib() - before, ((COUNT - 200) * BYTES) >> 10);
    assert!(grown < taken / 8, "it grew by {grown} KiB for {taken} KiB");
    server.terminate().await;
}
