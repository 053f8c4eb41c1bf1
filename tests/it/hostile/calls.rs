//! Calls that are HTTP/2 and no gRPC, or gRPC and no message: each is answered as the contract
//! says, and the connection goes on.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;

use super::{
    raw::{END_HEADERS, HEADERS, Raw, frame},
    serves, start,
};
use crate::{
    bad_input::refusal,
    harness::{Caller, Vault},
};
use ibyok::grpc::pb;

const LIST: &str = "/ibyok.v1.KeyVault/ListProviders";
const RETRIEVE: &str = "/ibyok.v1.KeyVault/RetrieveKey";

fn request(path: &str, caller: &Caller) -> http::request::Builder {
    http::Request::post(format!("https://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", caller.token.as_ref().unwrap()))
}

/// A gRPC frame with that flag, which says of itself that it is so long.
fn message(flag: u8, length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), bytes].concat()
}

/// What is answered: the HTTP status, and the gRPC status where there is one.
async fn send(caller: &Caller, request: http::request::Builder, body: Vec<u8>) -> (u16, Option<Status>) {
    let request = request.body(Body::new(Full::new(Bytes::from(body)))).unwrap();
    let answer = caller.channel.clone().oneshot(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let status = Status::from_header_map(&head.headers);
    // An answer may stop reading the request before its end.
    let trailers = body.collect().await.ok().and_then(|body| body.trailers().cloned());
    let status = status.or_else(|| trailers.as_ref().and_then(Status::from_header_map));
    (head.status.as_u16(), status)
}

async fn refused(caller: &Caller, request: http::request::Builder, body: Vec<u8>) -> (Code, String, Vec<String>) {
    refusal(&send(caller, request, body).await.1.unwrap())
}

fn refusal_of(code: Code, reason: &str, fields: &[&str]) -> (Code, String, Vec<String>) {
    (code, reason.to_owned(), fields.iter().map(|field| (*field).to_owned()).collect())
}

#[tokio::test]
async fn messages_of_four_mebibytes_are_refused() {
    let (vault, admin) = start("").await;
    let too_large = refusal_of(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", &[]);
    let text = "x".repeat(4 << 20);
    let purpose = pb::RetrieveKeyRequest { name: "good".into(), purpose: text.clone(), ..Default::default() };
    let subject = pb::IssueTokenRequest { subject: text.clone(), ..Default::default() };
    let filter = pb::AuditFilter { subject: text, ..Default::default() };
    let events = pb::ListAuditEventsRequest { filter: Some(filter), ..Default::default() };
    for (path, bytes) in [
        (RETRIEVE, purpose.encode_to_vec()),
        ("/ibyok.v1.Tokens/IssueToken", subject.encode_to_vec()),
        ("/ibyok.v1.Audit/ListAuditEvents", events.encode_to_vec()),
        (LIST, vec![0; 4 << 20]),
    ] {
        let body = message(0, u32::try_from(bytes.len()).unwrap(), &bytes);
        assert_eq!(refused(&admin, request(path, &admin), body).await, too_large, "{path}");
        serves(&vault, &admin).await;
    }
    // One that only says that it is long.
    assert_eq!(refused(&admin, request(RETRIEVE, &admin), message(0, u32::MAX, b"short")).await, too_large);
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn what_is_no_message_is_refused_as_such() {
    let (vault, admin) = start("").await;
    let no_message = refusal_of(Code::InvalidArgument, "INVALID_FIELD", &["request"]);
    let name = pb::RetrieveKeyRequest { name: "good".into(), ..Default::default() }.encode_to_vec();
    let length = u32::try_from(name.len()).unwrap();
    for (what, body) in [
        ("nothing", vec![]),
        ("a part of a frame's head", vec![0, 0, 0]),
        ("a frame without its message", message(0, 100, &[])),
        ("a part of a message", message(0, length, &name[..3])),
        ("a compressed message where none was announced", message(1, length, &name)),
        ("a frame with another flag", message(7, length, &name)),
        ("no protobuf", message(0, 4, &[0xff; 4])),
        ("text that is no UTF-8", message(0, 4, &[0x0a, 2, 0xff, 0xfe])),
    ] {
        assert_eq!(refused(&admin, request(RETRIEVE, &admin), body).await, no_message, "{what}");
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn compressed_messages_are_refused() {
    let (vault, admin) = start("").await;
    let expected = refusal_of(Code::InvalidArgument, "INVALID_FIELD", &["grpc-encoding"]);
    // zlib, of a request of 1 MiB of zeros: what it would become must not matter.
    let deflated = [0x78, 0x9c, 0xed, 0xc1, 0x01, 0x01, 0x00, 0x00, 0x00, 0x80, 0x90, 0xfe, 0xaf, 0xee, 0x08, 0x0a];
    for encoding in ["deflate", "gzip", "zstd", "snappy", "no-such-thing"] {
        let request = request(RETRIEVE, &admin).header("grpc-encoding", encoding);
        assert_eq!(refused(&admin, request, message(1, 16, &deflated)).await, expected, "{encoding}");
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn unknown_methods_are_refused() {
    let (vault, admin) = start("").await;
    let expected = refusal_of(Code::PermissionDenied, "METHOD_UNKNOWN", &[]);
    let long = format!("/ibyok.v1.KeyVault/{}", "x".repeat(4_000));
    for path in [
        "/",
        "/ibyok.v1.KeyVault/",
        "/ibyok.v1.KeyVault/NoSuchMethod",
        "/ibyok.v1.KeyVault/retrievekey",
        "/ibyok.v1.KeyVault/RetrieveKey/",
        "//ibyok.v1.KeyVault/RetrieveKey",
        "/ibyok.v2.KeyVault/RetrieveKey",
        "/grpc.health.v1.Healthy/Check",
        "/%69byok.v1.KeyVault/RetrieveKey",
        long.as_str(),
    ] {
        assert_eq!(refused(&admin, request(path, &admin), message(0, 0, &[])).await, expected, "{path}");
    }
    for path in ["/grpc.health.v1.Health/NoSuchMethod", "/grpc.reflection.v1.ServerReflection/NoSuchMethod"] {
        let (_, status) = send(&admin, request(path, &admin), message(0, 0, &[])).await;
        assert_eq!(status.unwrap().code(), Code::Unimplemented, "{path}");
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn what_is_no_grpc_is_no_supported_media_type() {
    let (vault, admin) = start("").await;
    let good = || message(0, 0, &[]);
    for content_type in ["application/json", "text/html", "application/grp", "", "application/x-www-form-urlencoded"] {
        let request = http::Request::post(format!("https://localhost{LIST}")).header("content-type", content_type);
        assert_eq!(send(&admin, request, good()).await.0, 415, "{content_type}");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
        let request = request(LIST, &admin).method(method);
        assert_eq!(send(&admin, request, good()).await.0, 415, "{method}");
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused() {
    let (vault, admin) = start("").await;
    for (count, bytes) in [(1, 9_000), (1, 200_000), (200, 100), (5_000, 1)] {
        let mut request = request(LIST, &admin);
        for n in 0..count {
            request = request.header(format!("x-{n}"), "x".repeat(bytes));
        }
        let request = request.body(Body::new(Full::new(Bytes::from(message(0, 0, &[]))))).unwrap();
        // 431, or the end of the connection.
        if let Ok(answer) = admin.channel.clone().oneshot(request).await {
            assert_eq!(answer.status(), 431, "{count} of {bytes}");
        }
        serves(&vault, &admin).await;
    }
    vault.stop().await;
}

#[tokio::test]
async fn odd_headers_are_no_harm() {
    let (vault, admin) = start("").await;
    let long = "9".repeat(2_000);
    for (name, value) in [
        ("grpc-timeout", "99999999999999S"),
        ("grpc-timeout", "-1S"),
        ("grpc-timeout", "1"),
        ("grpc-timeout", long.as_str()),
        ("traceparent", "00-garbage"),
        ("traceparent", long.as_str()),
        ("user-agent", long.as_str()),
        ("grpc-accept-encoding", "deflate,gzip,zstd,br,\u{1}".trim_end_matches('\u{1}')),
        ("x-forwarded-for", "127.0.0.1"),
        ("bad-bin", "!!! no base64 !!!"),
    ] {
        let (http, status) = send(&admin, request(LIST, &admin).header(name, value), message(0, 0, &[])).await;
        assert_eq!((http, status.map(|status| status.code())), (200, Some(Code::Ok)), "{name}: {value}");
    }
    let both = request(LIST, &admin).header("authorization", "Bearer another");
    let (_, status) = send(&admin, both, message(0, 0, &[])).await;
    let code = status.unwrap().code();
    assert!(matches!(code, Code::Ok | Code::Unauthenticated), "{code:?}");
    serves(&vault, &admin).await;
    vault.stop().await;
}

/// Calls whose body never comes must not keep their places.
#[tokio::test]
async fn requests_that_never_send_their_body_are_ended() {
    let (vault, admin) = start("[limits]\ncalls = 32\n").await;
    let bearer = format!("Bearer {}", admin.token.as_ref().unwrap());
    let headers = super::raw::call(RETRIEVE, &[("authorization", &bearer), ("grpc-timeout", "300m")]);
    let mut raw = Raw::open(&vault, &[]).await;
    for n in 0..32 {
        raw.write(&frame(HEADERS, END_HEADERS, 2 * n + 1, &headers)).await;
    }
    for _ in 0..32 {
        raw.next(HEADERS).await.expect("an answer to each");
    }
    serves(&vault, &admin).await;
    drop(raw);
    stalled_without_a_deadline(&vault, &bearer).await;
    serves(&vault, &admin).await;
    vault.stop().await;
}

/// Half a message and then nothing, from a caller who names no deadline: the server has its own.
async fn stalled_without_a_deadline(vault: &Vault, bearer: &str) {
    let mut raw = Raw::open(vault, &[]).await;
    let headers = super::raw::call(RETRIEVE, &[("authorization", bearer)]);
    raw.write(&frame(HEADERS, END_HEADERS, 1, &headers)).await;
    raw.write(&frame(super::raw::DATA, 0, 1, &message(0, 100, b"half"))).await;
    raw.next(HEADERS).await.expect("an answer");
}
