//! The whole server: what it refuses to start with, and that a stop and a start lose nothing.

use ibyok::{
    domain::clock::SystemClock,
    grpc::pb,
    server::{self, ServerError, archive::VerifyArchive},
    store::sqlite::SqliteStore,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    harness::{ADMIN, Home, Vault, reason, within},
    tamper::stock::Raw,
};

#[tokio::test]
async fn where_no_vault_is_nothing_is_made_and_the_setting_is_named() {
    let home = Home::sqlite();
    let files = || {
        let mut names: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = server::run(home.config(""), socket, std::future::pending(), home.sources()).await;
    let rebuilt = server::rebuild::rebuild(&home.config(""), &home.sources()).await;
    let wanted = VerifyArchive { dir: home.path().to_owned(), first: 1, config: Some(home.config("")) };
    let verified = server::archive::verify(wanted, &home.sources(), &mut Vec::new()).await.map(|_| ());
    for refused in [served, rebuilt, verified].map(Result::unwrap_err) {
        assert!(matches!(refused, ServerError::NoVault(_)), "{refused}");
        let said = refused.to_string();
        assert!(said.starts_with("store.path: ") && said.contains("ibyok-server init --org"), "{said}");
    }
    assert_eq!(files(), before);
}

#[tokio::test]
async fn a_store_that_holds_no_vault_yet_is_refused_with_the_command_that_makes_one() {
    let home = Home::sqlite();
    let clock = std::sync::Arc::new(SystemClock);
    drop(SqliteStore::open_or_make(&home.path().join("vault.db"), clock).unwrap());
    let refused = server::rebuild::rebuild(&home.config(""), &home.sources()).await.unwrap_err();
    assert!(matches!(refused, ServerError::NotInitialised));
    assert!(refused.to_string().contains("ibyok-server init --org"));
    home.init().await.unwrap();
}

#[tokio::test]
async fn init_happens_once() {
    let home = Home::make();
    home.init().await.unwrap();
    let before = Raw::of(&home).await.rows().await;
    assert!(matches!(home.init().await.unwrap_err(), ServerError::Initialised));
    assert_eq!(before, Raw::of(&home).await.rows().await, "the vault is left as it is");
}

#[tokio::test]
async fn a_vault_is_served_stopped_and_served_again() {
    let vault = Vault::start().await;
    let serving = async |vault: &Vault| {
        let mut health = HealthClient::new(vault.channel(&vault.certificate(ADMIN)));
        health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status
    };
    assert_eq!(serving(&vault).await, 1);
    let vault = vault.stop().await.serve("").await;
    assert_eq!(serving(&vault).await, 1);
    vault.stop().await;
}

#[tokio::test]
async fn a_file_that_is_served_is_not_opened_twice() {
    let home = Home::sqlite();
    home.init().await.unwrap();
    let vault = home.serve("").await;
    let second = vault.home();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let run = server::run(second.config(""), socket, std::future::pending(), second.sources());
    assert!(matches!(run.await.unwrap_err(), ServerError::Setting { setting: "store.path", .. }));
    vault.stop().await;
}

#[tokio::test]
async fn a_key_is_stored_retrieved_and_found_in_the_log_across_a_restart() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let created = admin.keys().create_key(create("prod")).await.unwrap().into_inner().key.unwrap();
    assert_eq!(created.name, "orgs/acme/keys/prod");
    let vault = vault.stop().await.serve("").await;
    // The token outlives the restart; the connection does not.
    let admin = vault.stranger(ADMIN).with_token(admin.token.unwrap());
    let answer = admin.keys().retrieve_key(retrieve("prod")).await.unwrap().into_inner();
    assert_eq!(answer.secret.as_ref().unwrap().text, SECRET);
    let receipt = answer.receipt.unwrap();
    let id = format!("{}.{}", receipt.chain, receipt.sequence);
    let which = Some(pb::get_audit_event_request::Which::Id(id));
    let event = admin.audit().get_audit_event(pb::GetAuditEventRequest { which, ..Default::default() }).await;
    let event = event.unwrap().into_inner().event.unwrap();
    assert_eq!((event.action.as_str(), event.leaf_hash), ("key.retrieve", receipt.leaf_hash));
    vault.stop().await;
}

#[tokio::test]
async fn refusals_are_in_the_log_of_whom_they_concern() {
    let vault = Vault::start().await;
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    assert_eq!(
        reason(&vault.stranger("a.test").keys().retrieve_key(retrieve("k")).await.unwrap_err()),
        "TOKEN_MISSING"
    );
    let stolen = vault.stranger("thief.test").with_token(admin.token.clone().unwrap());
    let refused = stolen.keys().retrieve_key(retrieve("k")).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_CERTIFICATE_MISMATCH");
    assert_eq!(reason(&admin.keys().retrieve_key(retrieve("absent")).await.unwrap_err()), "KEY_NOT_FOUND");

    for (caller, wanted, resource) in [
        (&operator, "TOKEN_MISSING", ""),
        (&admin, "TOKEN_CERTIFICATE_MISMATCH", ""),
        (&admin, "KEY_NOT_FOUND", "orgs/acme/keys/absent"),
    ] {
        // Refusals are recorded without keeping the caller waiting.
        within(wanted, async {
            loop {
                let page = caller.audit().list_audit_events(pb::ListAuditEventsRequest::default()).await.unwrap();
                let events = page.into_inner().events;
                if let Some(event) = events.iter().find(|event| event.reason == wanted) {
                    assert_eq!((event.action.as_str(), event.resource.as_str()), ("key.retrieve", resource));
                    assert_eq!(event.outcome(), pb::AuditOutcome::Denied);
                    break;
                }
            }
        })
        .await;
    }
    vault.stop().await;
}

#[tokio::test]
async fn messages_that_are_too_large_or_no_messages_are_refused_with_details() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let large = pb::RetrieveKeyRequest { purpose: "x".repeat(4 << 20), ..retrieve("k") };
    let refused = admin.keys().retrieve_key(large).await.unwrap_err();
    assert_eq!(reason(&refused), "MESSAGE_TOO_LARGE");

    let mut grpc = tonic::client::Grpc::new(admin.channel.clone());
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(Garbage { text: vec![0xff; 3] });
    let bearer = format!("Bearer {}", admin.token.as_ref().unwrap()).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let codec = tonic_prost::ProstCodec::<Garbage, ()>::default();
    let path = "/ibyok.v1.KeyVault/RetrieveKey".parse().unwrap();
    let refused = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::InvalidArgument, "INVALID_FIELD"));

    assert_eq!(reason(&admin.keys().retrieve_key(retrieve("absent")).await.unwrap_err()), "KEY_NOT_FOUND");
    vault.stop().await;
}

/// Where RetrieveKeyRequest has its name: bytes that are no text.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(bytes = "vec", tag = "1")]
    text: Vec<u8>,
}

#[tokio::test]
async fn a_drain_ends_streams_with_their_reason_and_seals_the_log() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let follow = pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
    let mut stream = admin.audit().stream_audit_events(follow).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let stopping = tokio::spawn(vault.stop());
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a drained stream says why it ends"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "DRAINING");
    let vault = stopping.await.unwrap().serve("").await;
    let operator = vault.operator().await;
    let mut verify =
        operator.audit().verify_audit_log(pb::VerifyAuditLogRequest::default()).await.unwrap().into_inner();
    let mut last = None;
    while let Some(answer) = verify.message().await.unwrap() {
        last = Some(answer);
    }
    let verdict = last.unwrap();
    assert!(verdict.complete && verdict.intact, "{verdict:?}");
    vault.stop().await;
}

#[tokio::test]
async fn the_status_says_that_everything_works() {
    let vault = Vault::start().await;
    let operator = vault.operator().await;
    let status = operator.admin().get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = status.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["store", "kms", "audit", "certificate"]);
    // The test's own certificate is good for a day.
    let failing: Vec<_> = status.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
    assert_eq!(failing, ["certificate"]);
    vault.stop().await;
}

const SECRET: &str = "sk-edge-canary-0123456789abcdef0123456789";

fn create(id: &str) -> pb::CreateKeyRequest {
    let secret = Some(pb::SecretValue { text: SECRET.to_owned() });
    pb::CreateKeyRequest { key_id: id.to_owned(), provider: "openai".to_owned(), secret, ..Default::default() }
}

fn retrieve(id: &str) -> pb::RetrieveKeyRequest {
    pb::RetrieveKeyRequest { name: id.to_owned(), ..Default::default() }
}
