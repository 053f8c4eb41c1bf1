//! DynamoDB goes away under a server that runs, and comes back.

use std::sync::Arc;

use ibyok::grpc::pb;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::{
    local,
    proxy::{Fate, Gate, Proxy},
};
use crate::{
    crash::{Callers, every_chain_is_sealed},
    harness::{Caller, Home, Place, reason, within},
    process::{Runner, Site},
    tamper::stock::{openai, retrieve},
};

const WRITERS: usize = 4;

/// How it is away.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// Nobody listens, as where its endpoint is gone.
    Refusing,
    /// Requests go out, and no answer comes, as where the route is lost; they arrive when it is back.
    Silent,
    /// It answers each call with an error of its own.
    Failing,
}

impl Absence {
    fn begin(self, proxy: &Proxy, gate: &Gate) {
        match self {
            Self::Refusing => proxy.shut(),
            Self::Silent => proxy.always(Some(Fate::HoldRequest(gate.clone()))),
            Self::Failing => proxy.always(Some(Fate::error(500, "InternalServerError"))),
        }
    }
    fn end(proxy: &Proxy, gate: &Gate) {
        proxy.always(None);
        proxy.open();
        gate.open();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_outlives_the_absence_of_dynamodb() {
    let (_, table) = local::table().await;
    let proxy = Proxy::start().await;
    let home = Home::at(Place::Table { name: table, endpoint: proxy.endpoint() });
    home.init().await.unwrap();
    let site = Arc::new(Site::of(home, Runner::default()));
    let mut process = site.serve().await;
    let callers = Callers::enter(&site).await;
    create(&callers.admin, "good").await.unwrap();
    let mut made = Made::default();
    for absence in [Absence::Refusing, Absence::Silent, Absence::Failing] {
        let (gate, (answers, mut answered)) = (Gate::new(), unbounded_channel());
        let mut working = JoinSet::new();
        for n in 0..WRITERS {
            let name = format!("{absence:?}-{n}").to_lowercase();
            working.spawn(work(callers.admin.clone(), name, answers.clone()));
        }
        for _ in 0..20 {
            answered.recv().await.unwrap();
        }
        absence.begin(&proxy, &gate);
        made.extend(within("the end of the writers", working.join_all()).await);
        within("health that turns", until_health_says(&callers.admin, ServingStatus::NotServing)).await;
        is_refused(&callers.admin, &format!("late-{absence:?}").to_lowercase()).await;
        assert!(process.is_running());

        Absence::end(&proxy, &gate);
        within("the end of the requests that were held", proxy.is_quiet()).await;
        within("health that turns back", until_health_says(&callers.admin, ServingStatus::Serving)).await;
        made.is_there(&callers).await;
    }
    assert!(process.is_running(), "it is the one that was started");
    let status = process.terminate().await;
    assert!(status.success(), "{status}");
    assert!(every_chain_is_sealed(&site.home).await);
    let log = site.whole_log();
    assert!(!log.contains("a defect"), "{log}");
}

/// What the vault acknowledged to those who worked, and what it did not.
#[derive(Default)]
struct Made {
    keys: Vec<String>,
    /// Where the records of retrievals are.
    records: Vec<String>,
    /// The keys that were under way when it was away.
    in_doubt: Vec<String>,
}

impl Made {
    fn extend(&mut self, others: Vec<Self>) {
        for other in others {
            self.keys.extend(other.keys);
            self.records.extend(other.records);
            self.in_doubt.extend(other.in_doubt);
        }
    }

    /// Wants that all of it is there, and each mutation once; and that the log holds.
    async fn is_there(&mut self, callers: &Callers) {
        let admin = &callers.admin;
        for key in std::mem::take(&mut self.in_doubt) {
            patiently(async || create(admin, &key).await).await;
            patiently(async || create(admin, &key).await).await;
            self.keys.push(key);
        }
        for key in &self.keys {
            let value = patiently(async || retrieve(admin, key).await).await.secret.unwrap();
            assert_eq!(value.text, openai(key));
        }
        for id in &self.records {
            let which = Some(pb::get_audit_event_request::Which::Id(id.clone()));
            let request = pb::GetAuditEventRequest { which, ..Default::default() };
            let event = patiently(async || admin.audit().get_audit_event(request.clone()).await).await.into_inner();
            assert_eq!(event.event.unwrap().action, "key.retrieve");
        }
        let created = patiently(async || creations(admin).await).await;
        for key in &self.keys {
            let count = created.iter().filter(|resource| resource.ends_with(&format!("/keys/{key}"))).count();
            assert_eq!(count, 1, "{key}");
        }
        let verdict = patiently(async || verdict(&callers.operator).await).await;
        assert!(verdict.complete && verdict.intact && verdict.checked > 0, "{verdict:?}");
    }
}

/// Creates keys and retrieves them until it is refused.
async fn work(admin: Caller, name: String, answered: UnboundedSender<()>) -> Made {
    let mut made = Made::default();
    for n in 0.. {
        let key = format!("{name}-{n}");
        let refused = match create(&admin, &key).await {
            Err(status) => {
                made.in_doubt.push(key);
                Some(status)
            }
            Ok(()) => {
                made.keys.push(key.clone());
                let retrieved = retrieve(&admin, &key).await;
                retrieved.map(|answer| made.records.push(record(answer.receipt.unwrap()))).err()
            }
        };
        if let Some(status) = refused {
            is_of_the_store(&status);
            break;
        }
        // Nobody may listen any more.
        let _ = answered.send(());
    }
    made
}

fn record(receipt: pb::AuditReceipt) -> String {
    format!("{}.{}", receipt.chain, receipt.sequence)
}

/// What `call` answers, asked again when it is refused, as its clients do: a busy machine is away, too.
async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> T {
    let answer = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(status) => is_of_the_store(&status),
            }
        }
    };
    within("an answer", answer).await
}

async fn create(admin: &Caller, key: &str) -> Result<(), Status> {
    let secret = Some(pb::SecretValue { text: openai(key) });
    let (key_id, request_id) = (key.to_owned(), format!("create-{key}"));
    let request = pb::CreateKeyRequest { key_id, request_id, provider: "openai".into(), secret, ..Default::default() };
    admin.keys().create_key(request).await.map(drop)
}

/// The resources of all records of a key's creation.
async fn creations(admin: &Caller) -> Result<Vec<String>, Status> {
    let filter = Some(pb::AuditFilter { outcomes: vec![pb::AuditOutcome::Allowed.into()], ..Default::default() });
    let mut request = pb::ListAuditEventsRequest { page_size: 500, filter, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = admin.audit().list_audit_events(request.clone()).await?.into_inner();
        found.extend(page.events.into_iter().filter(|it| it.action == "key.create").map(|it| it.resource));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

async fn verdict(operator: &Caller) -> Result<pb::VerifyAuditLogResponse, Status> {
    let mut progress = operator.audit().verify_audit_log(pb::VerifyAuditLogRequest::default()).await?.into_inner();
    let mut last = None;
    while let Some(message) = progress.message().await? {
        last = Some(message);
    }
    Ok(last.unwrap())
}

/// Every call answers why, before its caller would give up, and when to come again.
async fn is_refused(admin: &Caller, name: &str) {
    let get = pb::GetKeyRequest { name: "good".into() };
    let mut reading = admin.keys();
    let (retrieved, read, written) = tokio::join!(retrieve(admin, "good"), reading.get_key(get), create(admin, name));
    for refused in [retrieved.map(drop), read.map(drop), written] {
        let status = refused.unwrap_err();
        is_of_the_store(&status);
        assert_eq!(reason(&status), "STORE_UNAVAILABLE");
    }
}

fn is_of_the_store(status: &Status) {
    let reason = reason(status);
    assert!(["AUDIT_UNAVAILABLE", "STORE_UNAVAILABLE"].contains(&reason.as_str()), "{status:?}");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_error_details().retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

async fn until_health_says(caller: &Caller, expected: ServingStatus) {
    let mut health = HealthClient::new(caller.channel.clone());
    let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    while changes.message().await.unwrap().unwrap().status() != expected {}
}
