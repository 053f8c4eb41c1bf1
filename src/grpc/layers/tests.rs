use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::Mutex,
    task::{Context, Poll},
};

use tonic::server::NamedService;
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    authz::{claims::Claims, verifier::Refused},
    domain::{
        PortFuture,
        audit::{AuditDraft, Outcome},
        clock::{SystemClock, Timestamp},
        principal::Peer,
        scope::Scope,
    },
    grpc::testing::{Notes, claims, connection, later},
};

/// A service behind the front that remembers what reached it.
#[derive(Clone, Default)]
struct Behind(Arc<Mutex<Vec<Request<()>>>>);

impl NamedService for Behind {
    const NAME: &'static str = "ibyok.v1.KeyVault";
}

impl tower::Service<Request<Body>> for Behind {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (path, kept) = (request.uri().path().to_owned(), request.map(|_| ()));
        self.0.lock().unwrap().push(kept);
        if path.ends_with("ListKeys") {
            return Box::pin(std::future::pending());
        }
        // As tonic itself answers a message that is too large.
        let status = if path.ends_with("CreateKey") { Status::out_of_range("too large") } else { Status::ok("") };
        Box::pin(std::future::ready(Ok(status.into_http())))
    }
}

/// Takes the token `good`, `expired` as a token that was good, and any other that it looks at for
/// the second time; the key of `new` alone is learned.
#[derive(Debug)]
struct Tokens(Vec<Scope>, Mutex<BTreeSet<String>>);

impl VerifyToken for Tokens {
    fn verify(&self, token: &str, _: &Peer, _: Timestamp) -> Result<Arc<Claims>, Refused> {
        match token {
            "good" => Ok(claims(&self.0).into()),
            "expired" => Err(Refused { failure: Reason::TokenExpired.into(), claims: Some(claims(&self.0).into()) }),
            "new" | "unknown" if !self.1.lock().unwrap().insert(token.to_owned()) => Ok(claims(&self.0).into()),
            _ => Err(Refused { failure: Reason::TokenMalformed.into(), claims: None }),
        }
    }
    fn learned<'a>(&'a self, token: &'a str) -> PortFuture<'a, bool> {
        Box::pin(std::future::ready(token == "new"))
    }
}

struct Bench {
    front: Front,
    behind: Behind,
    notes: Arc<Notes>,
}

fn bench(limits: FrontLimits) -> Bench {
    let (behind, notes) = (Behind::default(), Arc::new(Notes::default()));
    let routes = Routes::default().add_service(behind.clone());
    let tokens = Arc::new(Tokens(vec![Scope::KeysList, Scope::KeysWrite], Mutex::default()));
    let parts = FrontParts { tokens, recorder: Arc::<Notes>::clone(&notes), clock: Arc::new(SystemClock), limits };
    Bench { front: Front::new(routes, parts), behind, notes }
}

impl Bench {
    async fn call_on(&self, connection: Connection, path: &str, authorization: &[&str]) -> Result<(), Status> {
        let mut request = Request::post(path).header("content-type", "application/grpc");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let answer = self.front.clone().answer(request.body(Body::empty()).unwrap(), connection).await;
        match answer.extensions().get::<Status>() {
            Some(status) if status.code() != Code::Ok => Err(status.clone()),
            _ => Ok(()),
        }
    }
    async fn call(&self, path: &str, authorization: &[&str]) -> Result<(), Status> {
        self.call_on(connection(later()), path, authorization).await
    }
    fn noted(&self) -> Option<AuditDraft> {
        self.notes.take().pop()
    }
}

fn reason(outcome: Result<(), Status>) -> String {
    outcome.unwrap_err().get_error_details().error_info().unwrap().reason.clone()
}

const GET: &str = "/ibyok.v1.KeyVault/GetKey";

#[tokio::test]
async fn a_good_token_passes_and_is_not_handed_on() {
    let bench = bench(FrontLimits::default());
    bench.call(GET, &["bearer good"]).await.unwrap();
    let seen = bench.behind.0.lock().unwrap().pop().unwrap();
    assert!(seen.headers().get("authorization").is_none());
    let entry = seen.extensions().get::<Arc<Entry>>().unwrap();
    assert_eq!(entry.claims.as_ref().unwrap().org.as_str(), "acme");
    assert!(bench.noted().is_none());
}

#[tokio::test]
async fn a_token_is_looked_at_again_only_when_its_key_was_learned() {
    let bench = bench(FrontLimits::default());
    bench.call(GET, &["Bearer new"]).await.unwrap();
    assert_eq!(reason(bench.call(GET, &["Bearer unknown"]).await), "TOKEN_MALFORMED");
}

#[tokio::test]
async fn bad_tokens_are_refused_and_recorded_in_system_or_in_their_organization() {
    let bench = bench(FrontLimits::default());
    let long = format!("Bearer {}", "x".repeat(5_000));
    for (authorization, expected, org) in [
        (vec![], "TOKEN_MISSING", "system"),
        (vec!["Bearer nonsense"], "TOKEN_MALFORMED", "system"),
        (vec!["Basic good"], "TOKEN_MALFORMED", "system"),
        (vec!["good"], "TOKEN_MALFORMED", "system"),
        (vec!["Bearer good", "Bearer good"], "TOKEN_MALFORMED", "system"),
        (vec![long.as_str()], "TOKEN_MALFORMED", "system"),
        (vec!["Bearer expired"], "TOKEN_EXPIRED", "acme"),
    ] {
        assert_eq!(reason(bench.call(GET, &authorization).await), expected);
        let draft = bench.noted().unwrap();
        assert_eq!((draft.outcome, draft.org.as_str()), (Outcome::Denied, org), "{expected}");
        assert_eq!(draft.reason.unwrap().as_str(), expected);
    }
    assert!(bench.behind.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_methods_missing_scopes_and_unbuilt_methods_are_refused() {
    let bench = bench(FrontLimits::default());
    assert_eq!(reason(bench.call("/ibyok.v1.KeyVault/Nothing", &["Bearer good"]).await), "METHOD_UNKNOWN");
    assert_eq!(bench.noted().unwrap().action, Action::MethodUnknown);
    let refused = bench.call("/ibyok.v1.KeyVault/RetrieveKey", &["Bearer good"]).await.unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["scope"], "keys:read or keys:read-admin");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(bench.noted().unwrap().org.as_str(), "acme");
    let unbuilt = bench.call("/ibyok.v1.KeyVault/WatchKeys", &["Bearer good"]).await;
    assert_eq!(reason(unbuilt), "NOT_IMPLEMENTED");
    assert_eq!(reason(bench.call("/ibyok.v1.KeyVault/WatchKeys", &[]).await), "TOKEN_MISSING");
}

#[tokio::test]
async fn a_certificate_that_expired_or_was_revoked_since_is_refused_on_each_call() {
    let bench = bench(FrontLimits::default());
    let past = SystemClock.now().minus(Duration::from_secs(1));
    let expired = bench.call_on(connection(past), GET, &["Bearer good"]).await;
    assert_eq!(reason(expired), "CERTIFICATE_EXPIRED");
    let revoked = connection(later());
    revoked.is_revoked.store(true, std::sync::atomic::Ordering::Release);
    assert_eq!(reason(bench.call_on(revoked.clone(), GET, &["Bearer good"]).await), "CERTIFICATE_REVOKED");
    let health = bench.call_on(revoked, "/grpc.health.v1.Health/Check", &[]).await;
    assert_eq!(reason(health), "CERTIFICATE_REVOKED");
}

#[tokio::test]
async fn what_tonic_refuses_itself_has_details_too() {
    let bench = bench(FrontLimits::default());
    let refused = bench.call("/ibyok.v1.KeyVault/CreateKey", &["Bearer good"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(Err(refused)), "MESSAGE_TOO_LARGE");
}

#[tokio::test]
async fn beyond_the_limits_calls_are_shed_and_rates_hold() {
    let none = bench(FrontLimits { calls: 0, ..FrontLimits::default() });
    let refused = none.call(GET, &["Bearer good"]).await.unwrap_err();
    assert!(refused.get_error_details().retry_info().unwrap().retry_delay.is_some());
    assert_eq!(reason(Err(refused)), "OVERLOADED");

    let slow = bench(FrontLimits { token_rate: Rate::new(1), ..FrontLimits::default() });
    let mut refused = None;
    for _ in 0..1_000 {
        refused = refused.or(slow.call(GET, &["Bearer good"]).await.err());
    }
    assert_eq!(reason(Err(refused.unwrap())), "RATE_LIMITED");
    assert_eq!(slow.noted().unwrap().org.as_str(), "acme");
}

#[tokio::test]
async fn health_and_reflection_have_the_rate_of_their_certificate() {
    for path in ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        let slow = bench(FrontLimits { certificate_rate: Rate::new(1), ..FrontLimits::default() });
        let mut last = Ok(());
        for _ in 0..1_000 {
            last = slow.call(path, &[]).await;
        }
        assert_eq!(reason(last), "RATE_LIMITED", "{path}");
    }
}

#[tokio::test]
async fn refusals_without_a_verified_token_are_limited_and_then_not_recorded() {
    for (path, authorization) in
        [("/ibyok.v1.KeyVault/Nothing", "Bearer good"), (GET, "Basic good"), (GET, "Bearer nonsense")]
    {
        let slow = bench(FrontLimits { certificate_rate: Rate::new(1), ..FrontLimits::default() });
        let mut last = Ok(());
        for _ in 0..1_000 {
            last = slow.call(path, &[authorization]).await;
        }
        assert_eq!(reason(last), "RATE_LIMITED", "{path}, {authorization}");
        let noted = slow.notes.take();
        assert!(!noted.is_empty() && noted.len() < 1_000);
        assert!(noted.iter().all(|draft| draft.reason != Some(Reason::RateLimited)));
        slow.call(GET, &["Bearer good"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_place_is_kept_until_its_handler_ends() {
    let bench = bench(FrontLimits { calls: 1, ..FrontLimits::default() });
    // The service behind keeps what its handler would keep, though its answer is there.
    bench.call(GET, &["Bearer good"]).await.unwrap();
    assert_eq!(reason(bench.call(GET, &["Bearer good"]).await), "OVERLOADED");
    bench.behind.0.lock().unwrap().clear();
    bench.call(GET, &["Bearer good"]).await.unwrap();
}

#[tokio::test]
async fn whoever_gave_a_deadline_is_answered_by_then() {
    let bench = bench(FrontLimits::default());
    let request = Request::post("/ibyok.v1.KeyVault/ListKeys")
        .header("content-type", "application/grpc")
        .header("authorization", "Bearer good")
        .header("grpc-timeout", "10m");
    let answer = bench.front.clone().answer(request.body(Body::empty()).unwrap(), connection(later())).await;
    let status = answer.extensions().get::<Status>().unwrap().clone();
    assert_eq!(reason(Err(status)), "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn what_is_no_grpc_is_refused_as_http() {
    let bench = bench(FrontLimits::default());
    let request = Request::get(GET).body(Body::empty()).unwrap();
    let answer = bench.front.clone().answer(request, connection(later())).await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}
