//! Streams that are opened and not read, or opened to keep others out.

use ibyok::grpc::pb::{self, stream_audit_events_response::Item};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    raw::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, call, frame},
    serves, start,
};
use crate::harness::{ADMIN, Caller, Vault};

const STREAM: &str = "/ibyok.v1.Audit/StreamAuditEvents";
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

async fn retrieve(caller: &Caller, purpose: &str) -> String {
    let purpose = purpose.to_owned();
    let request = pb::RetrieveKeyRequest { name: "good".into(), purpose, ..Default::default() };
    let receipt = caller.keys().retrieve_key(request).await.unwrap().into_inner().receipt.unwrap();
    format!("{}.{}", receipt.chain, receipt.sequence)
}

/// Readers whose window is closed: nothing can be sent to them, ever.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_hinder_nobody() {
    let (vault, admin) = start("").await;
    let bearer = format!("Bearer {}", admin.token.as_ref().unwrap());
    let message = pb::StreamAuditEventsRequest { follow: true, ..Default::default() }.encode_to_vec();
    let body = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::open(&vault, &[(SETTINGS_INITIAL_WINDOW_SIZE, 0)]).await;
        for n in 0..32 {
            let id = 2 * n + 1;
            raw.write(&frame(HEADERS, END_HEADERS, id, &call(STREAM, &[("authorization", &bearer)]))).await;
            raw.write(&frame(DATA, END_STREAM, id, &body)).await;
        }
        raw.next(HEADERS).await.expect("a stream that opens");
        readers.push(raw);
    }
    for n in 0..200 {
        retrieve(&admin, &format!("{n} {}", "x".repeat(200))).await;
    }
    serves(&vault, &admin).await;
    drop(readers);
    serves(&vault, &admin).await;
    vault.stop().await;
}

/// A reader who pauses for longer than any buffer gets every event, once and in order, or is told
/// where to go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_misses_nothing() {
    let (vault, admin) = start("").await;
    let since = retrieve(&admin, "first").await;
    let request = pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
    let mut stream = admin.audit().stream_audit_events(request.clone()).await.unwrap().into_inner();
    let mut expected = vec![since];
    for n in 0..600 {
        expected.push(retrieve(&admin, &format!("{n} {}", "x".repeat(240))).await);
    }
    let (mut seen, mut resume_token) = (Vec::new(), String::new());
    while seen.len() < expected.len() {
        match stream.message().await {
            Ok(Some(answer)) => {
                resume_token = answer.resume_token;
                if let Some(Item::Event(event)) = answer.item
                    && event.action == "key.retrieve"
                {
                    seen.push(event.id);
                }
            }
            ended => {
                assert!(!matches!(ended, Err(ref status) if is_defect(status)), "{ended:?}");
                let request = pb::StreamAuditEventsRequest { resume_token: resume_token.clone(), ..request.clone() };
                stream = admin.audit().stream_audit_events(request).await.unwrap().into_inner();
            }
        }
    }
    assert_eq!(seen, expected);
    drop(stream);
    vault.stop().await;
}

fn is_defect(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss)
}

/// Idle streams of reflection have places of their own: calls, health checks and streams have others.
#[tokio::test]
async fn idle_reflection_keeps_nothing_else_out() {
    let (vault, admin) = start("[limits]\nstreams = 16\n").await;
    let mut raw = Raw::open(&vault, &[]).await;
    for n in 0..40 {
        let headers = call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[]);
        raw.write(&frame(HEADERS, END_HEADERS, 2 * n + 1, &headers)).await;
    }
    for _ in 0..40 {
        raw.next(HEADERS).await.unwrap();
    }
    serves(&vault, &admin).await;
    is_healthy(&vault).await;
    let request = pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
    admin.audit().stream_audit_events(request).await.unwrap();
    drop(raw);
    vault.stop().await;
}

/// Health checks whose message never comes keep their places for a while: calls have others.
#[tokio::test]
async fn stalled_health_checks_keep_no_call_out() {
    let (vault, admin) = start("[limits]\ncalls = 16\n").await;
    let mut raw = Raw::open(&vault, &[]).await;
    for n in 0..40 {
        raw.write(&frame(HEADERS, END_HEADERS, 2 * n + 1, &call("/grpc.health.v1.Health/Check", &[]))).await;
    }
    // Those beyond the limit are answered at once, so the others have taken their places.
    for _ in 0..24 {
        raw.next(HEADERS).await.unwrap();
    }
    serves(&vault, &admin).await;
    drop(raw);
    vault.stop().await;
}

async fn is_healthy(vault: &Vault) {
    let mut health = HealthClient::new(vault.channel(&vault.certificate(ADMIN)));
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
}
