use std::time::Duration;

use http::HeaderMap;
use tokio::sync::oneshot;
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    authz::methods,
    domain::{audit::Outcome, clock::SystemClock, scope::Scope},
    grpc::{
        pb,
        testing::{Notes, claims, connection, later},
    },
};

struct Bench {
    gate: Gate,
    notes: Arc<Notes>,
    tasks: TaskTracker,
}

fn bench() -> Bench {
    let (notes, tasks) = (Arc::new(Notes::default()), TaskTracker::new());
    let gate = Gate::new(Arc::<Notes>::clone(&notes), Arc::new(SystemClock), tasks.clone());
    Bench { gate, notes, tasks }
}

fn entry(path: &str, headers: &[(&'static str, &str)]) -> Entry {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let mut entry = Entry::new(methods::find(path).unwrap(), connection(later()), &headers, SystemClock.now());
    entry.claims = Some(claims(&[Scope::KeysRead]).into());
    entry
}

fn request<M>(entry: Entry, message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(Arc::new(entry));
    request
}

fn retrieve() -> pb::RetrieveKeyRequest {
    pb::RetrieveKeyRequest { name: "openai".into(), ..Default::default() }
}

const RETRIEVE: &str = "/ibyok.v1.KeyVault/RetrieveKey";
const CREATE: &str = "/ibyok.v1.KeyVault/CreateKey";

fn reason_of(status: &tonic::Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn a_handler_sees_the_caller_and_its_bounded_deadline() {
    let Bench { gate, notes, .. } = bench();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = [
        ("user-agent", &*"x".repeat(1_000)),
        ("traceparent", &*format!("00-{trace}-00f067aa0ba902b7-01")),
        ("grpc-timeout", "60S"),
    ];
    let answer = gate.unary(request(entry(RETRIEVE, &headers), retrieve()), move |call, message| async move {
        assert_eq!((call.user_agent.len(), call.trace_id.as_str()), (256, trace));
        assert_eq!(call.org()?.as_str(), "acme");
        let left = SystemClock.left(call.deadline);
        assert!(left <= Duration::from_millis(2_500) && left > Duration::from_millis(1_500));
        assert_eq!(call.content, [0; 32]);
        Ok(message.name)
    });
    assert_eq!(answer.await.unwrap().into_inner(), "openai");
    assert!(notes.take().is_empty());
}

#[tokio::test]
async fn a_shorter_deadline_of_the_caller_holds() {
    let Bench { gate, .. } = bench();
    let answer = gate.unary(request(entry(RETRIEVE, &[("grpc-timeout", "500m")]), retrieve()), |call, _| async move {
        Ok(SystemClock.left(call.deadline))
    });
    assert!(answer.await.unwrap().into_inner() <= Duration::from_millis(500));
}

#[tokio::test]
async fn mutations_have_a_content_hash_and_equal_messages_have_equal_ones() {
    let Bench { gate, .. } = bench();
    let content = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let message = pb::CreateKeyRequest { key_id: "k".into(), labels, ..Default::default() };
        let gate = gate.clone();
        async move {
            let answer = gate.unary(request(entry(CREATE, &[]), message), |call, _| async move { Ok(call.content) });
            answer.await.unwrap().into_inner()
        }
    };
    let one = content(&[("a", "1"), ("b", "2")]).await;
    assert_eq!(one, content(&[("b", "2"), ("a", "1")]).await);
    assert_ne!(one, content(&[("a", "2"), ("b", "1")]).await);
    assert_ne!(one, [0; 32]);
}

#[tokio::test]
async fn refusals_and_failures_are_recorded_and_bad_input_is_not() {
    for (reason, outcome) in [
        (Reason::KeyNotFound, Some(Outcome::Denied)),
        (Reason::ResourceNotGranted, Some(Outcome::Denied)),
        (Reason::TokenRevoked, Some(Outcome::Denied)),
        (Reason::KeyDisabled, Some(Outcome::Denied)),
        (Reason::StoreUnavailable, Some(Outcome::Failed)),
        (Reason::SealedValueRejected, Some(Outcome::Failed)),
        (Reason::InvalidField, None),
    ] {
        let Bench { gate, notes, .. } = bench();
        let refused = gate.unary(request(entry(RETRIEVE, &[]), retrieve()), move |_, _| async move {
            Err::<(), _>(Failure::new(reason))
        });
        assert_eq!(reason_of(&refused.await.unwrap_err()), reason.as_str());
        let noted = notes.take();
        let seen =
            noted.first().map(|draft| (draft.outcome, draft.reason, draft.org.as_str(), draft.resource.as_str()));
        let expected = outcome.map(|outcome| (outcome, Some(reason), "acme", "orgs/acme/keys/openai"));
        assert_eq!(seen, expected, "{reason:?}");
    }
}

#[tokio::test]
async fn whoever_asks_for_a_token_is_recorded_even_with_bad_input() {
    for reason in [Reason::InvalidField, Reason::NotImplemented] {
        let Bench { gate, notes, .. } = bench();
        let asked = request(entry("/ibyok.v1.Tokens/ExchangeToken", &[]), pb::ExchangeTokenRequest::default());
        let refused = gate.unary(asked, move |_, _| async move { Err::<(), _>(Failure::new(reason)) });
        assert_eq!(reason_of(&refused.await.unwrap_err()), reason.as_str());
        let noted = notes.take();
        assert_eq!((noted[0].outcome, noted[0].reason), (Outcome::Denied, Some(reason)));
    }
}

#[tokio::test]
async fn each_refusal_within_an_answer_is_recorded_as_one() {
    let Bench { gate, notes, .. } = bench();
    let refused = |resource: &str, failure: Failure| Refused { resource: resource.into(), failure };
    let answer = gate.batch(request(entry(RETRIEVE, &[]), retrieve()), move |_, _| async move {
        let refused = vec![
            refused("orgs/acme/keys/a", Reason::KeyDisabled.into()),
            refused("orgs/acme/keys/b", Failure::new(Reason::KmsUnavailable).recorded()),
            refused("", Failure::invalid("names[2]", "a name")),
            refused("orgs/acme/keys/d", Reason::KeyNotFound.into()),
        ];
        Ok((7, refused))
    });
    assert_eq!(answer.await.unwrap().into_inner(), 7);
    let noted: Vec<_> = notes.take().into_iter().map(|draft| (draft.resource, draft.reason)).collect();
    let expected = [("a", Reason::KeyDisabled), ("d", Reason::KeyNotFound)];
    assert_eq!(noted, expected.map(|(key, reason)| (format!("orgs/acme/keys/{key}"), Some(reason))));
}

#[tokio::test]
async fn what_has_its_record_gets_no_second_one() {
    let Bench { gate, notes, .. } = bench();
    let failed = gate.unary(request(entry(RETRIEVE, &[]), retrieve()), |_, _| async {
        Err::<(), _>(Failure::new(Reason::KmsUnavailable).recorded())
    });
    assert_eq!(reason_of(&failed.await.unwrap_err()), "KMS_UNAVAILABLE");
    assert!(notes.take().is_empty());
}

#[tokio::test]
async fn a_panic_is_internal_recorded_and_without_its_text() {
    let Bench { gate, notes, .. } = bench();
    let panicking = gate.unary(request(entry(RETRIEVE, &[]), retrieve()), |_, message| async move {
        if message.name == "openai" {
            panic!("sk-canary");
        }
        Ok(())
    });
    let status = panicking.await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (tonic::Code::Internal, "INTERNAL"));
    assert!(!format!("{status:?}").contains("canary"));
    assert_eq!(notes.take()[0].outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_handler_runs_to_its_end_when_its_caller_goes() {
    let Bench { gate, notes, tasks } = bench();
    let (started, is_started) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let request = request(entry(RETRIEVE, &[]), retrieve());
    let kept = Arc::downgrade(request.extensions().get::<Arc<Entry>>().unwrap());
    let answer = gate.unary(request, |_, _| async move {
        started.send(()).unwrap();
        may_go_on.await.unwrap();
        Err::<(), Failure>(Reason::KeyDisabled.into())
    });
    let mut answer = Box::pin(answer);
    tokio::select! {
        _ = &mut answer => panic!("it can't have ended"),
        started = is_started => started.unwrap(),
    }
    drop(answer);
    assert!(kept.upgrade().is_some(), "and with it the call's place");
    go_on.send(()).unwrap();
    tasks.close();
    tasks.wait().await;
    assert_eq!(notes.take()[0].reason, Some(Reason::KeyDisabled));
}

#[tokio::test]
async fn what_runs_apart_goes_on_while_nobody_polls_it() {
    let Bench { gate, .. } = bench();
    let (ended, has_ended) = oneshot::channel();
    let entry = Arc::new(entry(CREATE, &[]));
    let mut item = Box::pin(gate.apart(gate.settled(&entry, None, |_| async move {
        tokio::task::yield_now().await;
        ended.send(()).unwrap();
        Ok(())
    })));
    let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(item.as_mut().poll(cx).is_pending()));
    assert!(begun.await);
    has_ended.await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_its_failure_or_with_its_connection() {
    let Bench { gate, notes, .. } = bench();
    let stream = |entry, items: Vec<Result<u8, Failure>>| {
        let gate = gate.clone();
        async move {
            let items = futures_util::stream::iter(items).chain(futures_util::stream::pending());
            let message = pb::StreamAuditEventsRequest::default();
            gate.stream(request(entry, message), |_, _| async { Ok(items) }).await.unwrap().into_inner()
        }
    };
    let path = "/ibyok.v1.Audit/StreamAuditEvents";
    let mut failing = stream(entry(path, &[]), vec![Ok(1), Err(Reason::TokenRevoked.into())]).await;
    assert_eq!(failing.next().await.unwrap().unwrap(), 1);
    assert_eq!(reason_of(&failing.next().await.unwrap().unwrap_err()), "TOKEN_REVOKED");
    assert!(failing.next().await.is_none());
    assert_eq!(notes.take()[0].reason, Some(Reason::TokenRevoked));

    let entry = entry(path, &[]);
    let ending = entry.connection.ending.clone();
    let mut open = stream(entry, vec![Ok(1)]).await;
    assert_eq!(open.next().await.unwrap().unwrap(), 1);
    ending.cancel();
    assert_eq!(reason_of(&open.next().await.unwrap().unwrap_err()), "DRAINING");
    assert!(open.next().await.is_none() && notes.take().is_empty());
}

#[tokio::test]
async fn a_request_that_came_around_the_layers_is_refused() {
    let Bench { gate, .. } = bench();
    let around = gate.unary(tonic::Request::new(retrieve()), |_, _| async { Ok(()) });
    assert_eq!(around.await.unwrap_err().code(), tonic::Code::Internal);
}
