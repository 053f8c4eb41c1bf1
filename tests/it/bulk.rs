//! ImportKeys and BatchRetrieveKeys: many keys at once, each as if it were alone.

mod batch;
mod batch_wire;
mod cuts;
mod import;
mod size;

use ibyok::grpc::pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::harness::Caller;

/// A provider key of OpenAI's shape, another for each number.
fn value(n: usize) -> String {
    format!("sk-proj-{n:08}{}T3BlbkFJ{n:020}", "aB3d9_".repeat(2))
}

fn secret(text: impl Into<String>) -> Option<pb::SecretValue> {
    Some(pb::SecretValue { text: text.into() })
}

fn new_key(id: &str, n: usize) -> pb::CreateKeyRequest {
    pb::CreateKeyRequest { key_id: id.into(), secret: secret(value(n)), ..Default::default() }
}

fn item(key: pb::CreateKeyRequest) -> pb::ImportKeysRequest {
    pb::ImportKeysRequest { key: Some(key), skip_existing: false }
}

/// Keys `{prefix}-0`, `{prefix}-1` and so on, each with a request_id.
fn items(prefix: &str, count: usize) -> Vec<pb::ImportKeysRequest> {
    let key = |n| {
        let id = format!("{prefix}-{n}");
        pb::CreateKeyRequest { request_id: format!("import-{id}"), ..new_key(&id, n) }
    };
    (0..count).map(key).map(item).collect()
}

/// Sends all of them, and gives what was answered, and how it ended.
async fn import(caller: &Caller, items: Vec<pb::ImportKeysRequest>) -> (Vec<pb::ImportKeysResponse>, Option<Status>) {
    let mut answered = Vec::new();
    let mut answers = match caller.keys().import_keys(tokio_stream::iter(items)).await {
        Ok(answers) => answers.into_inner(),
        Err(refusal) => return (answered, Some(refusal)),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => answered.push(answer),
            Ok(None) => return (answered, None),
            Err(refusal) => return (answered, Some(refusal)),
        }
    }
}

/// The same, where every item is to be answered.
async fn import_all(caller: &Caller, items: Vec<pb::ImportKeysRequest>) -> Vec<pb::ImportKeysResponse> {
    let count = items.len();
    let (answered, refusal) = import(caller, items).await;
    assert!(refusal.is_none(), "{refusal:?}");
    let indexes: Vec<_> = answered.iter().map(|answer| usize::try_from(answer.index).unwrap()).collect();
    assert_eq!(indexes, (0..count).collect::<Vec<_>>());
    answered
}

/// An import whose items are sent one by one.
struct Open {
    send: mpsc::Sender<pb::ImportKeysRequest>,
    answers: Streaming<pb::ImportKeysResponse>,
}

impl Open {
    async fn new(caller: &Caller) -> Self {
        let (send, items) = mpsc::channel(1);
        let answers = caller.keys().import_keys(ReceiverStream::new(items)).await.unwrap().into_inner();
        Self { send, answers }
    }
    /// Sends one and waits for its answer.
    async fn ask(&mut self, item: pb::ImportKeysRequest) -> Result<Option<pb::ImportKeysResponse>, Status> {
        // Whether it is still taken, the answer says.
        let _ = self.send.send(item).await;
        self.answers.message().await
    }
}

fn status(answer: &pb::ImportKeysResponse) -> (i32, &str) {
    let status = answer.status.as_ref().unwrap();
    (status.code, status.reason.as_str())
}

/// The ids of all keys that are there.
async fn listed(caller: &Caller) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListKeysRequest { page_size: 1_000, page_token, show_deleted: true, ..Default::default() };
        let page = caller.keys().list_keys(request).await.unwrap().into_inner();
        ids.extend(page.keys.iter().map(|key| key.name.rsplit('/').next().unwrap().to_owned()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

/// The events of one action, newest first: outcome, reason, resource.
async fn events(caller: &Caller, action: &str) -> Vec<(i32, String, String)> {
    let filter = pb::AuditFilter { actions: vec![action.to_owned()], ..Default::default() };
    let request = pb::ListAuditEventsRequest { filter: Some(filter), page_size: 1_000, ..Default::default() };
    let events = caller.audit_events(request).await.into_iter();
    events.map(|event| (event.outcome, event.reason, event.resource)).collect()
}

async fn retrieved(caller: &Caller, name: &str) -> String {
    let request = pb::RetrieveKeyRequest { name: name.to_owned(), ..Default::default() };
    caller.keys().retrieve_key(request).await.unwrap().into_inner().secret.unwrap().text.clone()
}
