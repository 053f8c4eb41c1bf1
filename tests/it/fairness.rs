//! Two organizations on one server: whatever one of them keeps busy, the other is served.

use futures_util::future::join_all;
use ibyok::{grpc::pb, pki::Issued};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt as _;

use crate::{
    harness::{ADMIN, Caller, Vault, reason, within},
    hostile::raw::{END_HEADERS, HEADERS, Raw, call, frame},
    tamper::stock::{create, openai, retrieve},
};

const RETRIEVE: &str = "/ibyok.v1.KeyVault/RetrieveKey";
const EXCHANGE: &str = "/ibyok.v1.Tokens/ExchangeToken";
const QUIET_ADMIN: &str = "spiffe://ibyok.test/quiet-admin";

/// A vault with two organizations that have a key each, and their administrators.
pub async fn noisy_and_quiet(settings: &str) -> (Vault, Caller, Caller) {
    let vault = Vault::start_with(settings).await;
    let (noisy, operator) = (vault.admin().await, vault.operator().await);
    let (org_id, admin_identity) = ("quiet".to_owned(), QUIET_ADMIN.to_owned());
    let request = pb::CreateOrgRequest { org_id, admin_identity, ..Default::default() };
    operator.admin().create_org(request).await.unwrap();
    let quiet = vault.exchange(QUIET_ADMIN, "quiet").await;
    for caller in [&noisy, &quiet] {
        create(caller, "openai", &openai("one")).await;
    }
    (vault, noisy, quiet)
}

/// OVERLOADED, and when to come again.
fn is_overloaded(status: &Status) -> bool {
    let wait = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    status.code() == Code::Unavailable && reason(status) == "OVERLOADED" && wait.is_some_and(|wait| !wait.is_zero())
}

/// Keeps as many calls open as the server takes, of `count`: their messages never come. Those that
/// it refuses are answered at once.
async fn stall(vault: &Vault, path: &str, token: Option<&str>, count: u32, refused: usize) -> Raw {
    let mut raw = Raw::open(vault, &[]).await;
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    for n in 0..count {
        raw.write(&frame(HEADERS, END_HEADERS, 2 * n + 1, &call(path, &headers))).await;
    }
    for _ in 0..refused {
        raw.next(HEADERS).await.unwrap();
    }
    raw
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_holds_its_share_of_the_calls_keeps_no_other_out() {
    let (vault, noisy, quiet) = noisy_and_quiet("[limits]\ncalls = 16\n").await;
    let token = noisy.token.as_deref();
    // Of 16 places one certificate gets 8, and so does one organization, whatever its certificates.
    let _stalled = [
        stall(&vault, RETRIEVE, token, 24, 16).await,
        stall(&vault, RETRIEVE, token, 8, 8).await,
        stall(&vault, RETRIEVE, token, 8, 8).await,
    ];
    let refused = retrieve(&noisy, "openai").await.unwrap_err();
    assert!(is_overloaded(&refused), "{refused:?}");
    for _ in 0..20 {
        let calls = join_all((0..4).map(|_| retrieve(&quiet, "openai"))).await;
        assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    }
    is_open_to_all(&vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_tokens_keeps_no_token_holder_out() {
    let (vault, noisy, quiet) = noisy_and_quiet("[limits]\ncalls = 16\n").await;
    let _stalled = [
        stall(&vault, EXCHANGE, None, 24, 16).await,
        stall(&vault, EXCHANGE, None, 8, 8).await,
        stall(&vault, EXCHANGE, None, 8, 8).await,
    ];
    for caller in [&noisy, &quiet, &noisy, &quiet] {
        retrieve(caller, "openai").await.unwrap();
    }
    is_open_to_all(&vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_holds_its_share_of_the_streams_keeps_no_other_out() {
    let (vault, noisy, quiet) = noisy_and_quiet("[limits]\nstreams = 16\n").await;
    let mut open = Vec::new();
    for n in 0..4 {
        // Another connection, with another certificate of the same identity.
        let channel = vault.channel(&vault.certificate(ADMIN));
        let caller = Caller::new(channel, noisy.token.clone());
        for _ in 0..4 {
            let follow = pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
            match caller.audit().stream_audit_events(follow).await {
                Ok(stream) => open.push(stream.into_inner()),
                Err(status) => assert!(is_overloaded(&status) && n >= 2, "{n}: {status:?}"),
            }
        }
    }
    assert_eq!(open.len(), 8);
    let follow = || pb::StreamAuditEventsRequest { follow: true, ..Default::default() };
    let mut of_quiet = Vec::new();
    for _ in 0..4 {
        of_quiet.push(quiet.audit().stream_audit_events(follow()).await.unwrap());
    }
    retrieve(&noisy, "openai").await.unwrap();
    // Whoever gives places back may have others.
    drop(open);
    within("a place for another stream", async {
        while let Err(status) = noisy.audit().stream_audit_events(follow()).await {
            assert!(is_overloaded(&status));
        }
    })
    .await;
    drop(of_quiet);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_gets_its_share_of_the_connections() {
    let vault = Vault::start_with("[limits]\nconnections = 16\n").await;
    let greedy = vault.certificate("greedy.ibyok.test");
    let mut open = Vec::new();
    for _ in 0..12 {
        let channel = vault.channel(&greedy);
        if HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.is_ok() {
            open.push(channel);
        }
    }
    // The harness's own connection may be open still.
    assert!((7..=8).contains(&open.len()), "{}", open.len());
    for n in 0..3 {
        let other = vault.certificate(&format!("svc-{n}.ibyok.test"));
        check(&vault, &other).await.unwrap();
    }
    drop(open);
    within("a place for another connection", async { while check(&vault, &greedy).await.is_err() {} }).await;
    vault.stop().await;
}

/// Reflection's streams end with their connection, and at a drain, whatever their clients do.
#[tokio::test(flavor = "multi_thread")]
async fn idle_reflection_does_not_hold_up_a_drain() {
    let vault = Vault::start_with("[limits]\ndrain = \"1h\"\n").await;
    let mut streams = Vec::new();
    for n in 0..4 {
        let channel = vault.channel(&vault.certificate(&format!("svc-{n}.ibyok.test")));
        let asks = tokio_stream::pending();
        let answers = ServerReflectionClient::new(channel).server_reflection_info(asks).await.unwrap();
        streams.push(answers.into_inner());
    }
    vault.stop().await;
    for mut stream in streams {
        let status = stream.message().await.unwrap_err();
        assert_eq!(reason(&status), "DRAINING", "{status:?}");
    }
}

/// Health and reflection answer, and a watch opens.
async fn is_open_to_all(vault: &Vault) {
    let prober = vault.certificate("prober.ibyok.test");
    check(vault, &prober).await.unwrap();
    let watching: Streaming<HealthCheckResponse> =
        HealthClient::new(vault.channel(&prober)).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    drop(watching);
    let mut reflection = ServerReflectionClient::new(vault.channel(&prober));
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

async fn check(vault: &Vault, certificate: &Issued) -> Result<(), Status> {
    HealthClient::new(vault.channel(certificate)).check(HealthCheckRequest::default()).await.map(drop)
}
