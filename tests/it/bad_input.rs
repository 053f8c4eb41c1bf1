//! Bad input of every kind, over the wire: each is answered with its code, reason and field, and no
//! refusal says again what was sent. Each bad value holds a canary that is looked for.

mod audit;
mod garbage;
mod keys;
mod pages;
mod repeats;
mod tokens;

use ibyok::grpc::pb;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    harness::{Caller, Vault, reason},
    wire,
};

/// What no refusal may hold. It is no word of any name that is allowed.
const CANARY: &str = "cAnArY7f3a";

/// A request with one thing wrong in it.
#[derive(Clone)]
struct Case {
    path: &'static str,
    body: Vec<u8>,
    field: &'static str,
}

fn case(path: &'static str, message: impl Message, field: &'static str) -> Case {
    Case { path, body: message.encode_to_vec(), field }
}

/// Sends each as an item of an import of its own, and wants the same of its status.
async fn refuse_all_items(caller: &Caller, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for (n, Case { body, field, .. }) in cases.into_iter().enumerate() {
        // Field 1, the key.
        let mut item = vec![0x0a];
        prost::encode_length_delimiter(body.len(), &mut item).unwrap();
        item.extend(body);
        let answer = wire::call(&caller.channel, IMPORT, caller.token.as_deref(), item, 1).await;
        let problem = match answer.as_deref() {
            Ok([answer]) if holds(answer) => "says the value again".to_owned(),
            Ok([answer]) => {
                let status = pb::ImportKeysResponse::decode(answer.clone()).unwrap().status.unwrap();
                let fields: Vec<_> = status.field_violations.iter().map(|found| found.field.as_str()).collect();
                match (status.code, status.reason.as_str()) {
                    (3, "INVALID_FIELD") if fields == [field] => continue,
                    _ => format!("answered {status:?}"),
                }
            }
            other => format!("answered {other:?}"),
        };
        wrong.push(format!("item {n} for {field} {problem}"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const IMPORT: &str = "/ibyok.v1.KeyVault/ImportKeys";

/// Sends each, and wants INVALID_FIELD for its field and nothing of its content.
async fn refuse_all(caller: &Caller, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for (n, Case { path, body, field }) in cases.into_iter().enumerate() {
        let problem = match wire::call(&caller.channel, path, caller.token.as_deref(), body, 1).await {
            Ok(_) => "was accepted".to_owned(),
            Err(status) if holds_canary(&status) => format!("says the value again: {status:?}"),
            Err(status) => match refusal(&status) {
                (Code::InvalidArgument, reason, fields) if reason == "INVALID_FIELD" && fields == [field] => continue,
                other => format!("answered {other:?}"),
            },
        };
        wrong.push(format!("{path}, case {n} for {field}, {problem}"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

pub fn refusal(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let fields =
        details.bad_request().map(|bad| bad.field_violations.iter().map(|found| found.field.clone()).collect());
    (status.code(), reason(status), fields.unwrap_or_default())
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window.eq_ignore_ascii_case(CANARY.as_bytes()))
}

fn holds_canary(status: &Status) -> bool {
    holds(status.message().as_bytes())
        || holds(status.details())
        || status.metadata().iter().any(|entry| holds(format!("{entry:?}").as_bytes()))
}

fn canary(rest: &str) -> String {
    format!("{CANARY}{rest}")
}

/// Text of so many bytes, the canary among them.
fn long(bytes: usize) -> String {
    canary(&"x".repeat(bytes - CANARY.len()))
}

fn secret(text: impl Into<String>) -> Option<pb::SecretValue> {
    Some(pb::SecretValue { text: text.into() })
}

fn span(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

fn time(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

/// Spans that are none.
fn no_spans() -> [Option<prost_types::Duration>; 5] {
    [span(-1, 0), span(0, -1), span(1, 1_000_000_000), span(i64::MIN, 0), span(5, i32::MAX)]
}

/// Times that are none.
fn no_times() -> [Option<prost_types::Timestamp>; 5] {
    [time(0, -1), time(0, 1_000_000_000), time(i64::MAX, 0), time(i64::MIN, 0), time(253_402_300_800, 0)]
}

/// What is no name of a key, whoever asks.
fn no_keys() -> Vec<String> {
    let mut names = vec![String::new(), "-edge".into(), "edge-".into(), "ke/y".into(), "a".repeat(64)];
    names.extend(["", " ", "\0", "/", "\u{e9}", "\n", "%2f", "*"].map(canary));
    names.extend(
        ["orgs/acme/keys/", "orgs/acme/keys", "orgs//keys/a", "orgs/acme/tokens/a", "/orgs/acme/keys/a"]
            .map(str::to_owned),
    );
    names.push(format!("orgs/{CANARY}/keys/a"));
    names.push(format!("orgs/acme/keys/{CANARY}"));
    names
}

/// What is no parent.
fn no_parents() -> Vec<String> {
    vec!["orgs/".into(), "orgs/a/b".into(), format!("orgs/{CANARY}"), canary("/acme"), "acme ".into(), "../acme".into()]
}

/// A vault with one key, `good`, which has a PENDING version 2.
async fn with_a_key() -> (Vault, Caller) {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let request = pb::CreateKeyRequest {
        key_id: "good".into(),
        provider: "openai".into(),
        secret: secret("sk-proj-0123456789-good"),
        ..Default::default()
    };
    admin.keys().create_key(request).await.unwrap();
    let request =
        pb::AddKeyVersionRequest { name: "good".into(), secret: secret("sk-proj-9876543210"), ..Default::default() };
    admin.keys().add_key_version(request).await.unwrap();
    (vault, admin)
}
