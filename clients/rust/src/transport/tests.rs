//! The transport above a fake channel that answers by script, under tokio's paused time.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::PathBuf,
    sync::Mutex,
};

use prost::Message as _;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;
use crate::{Error, config::TokenFrom, pb, reason};

/// What the fake answers to one attempt.
enum Answer {
    Status(Status),
    /// A framed message, and OK in the trailers.
    Message(Bytes),
    Trailers(Status),
    Lost(io::ErrorKind),
    /// Opens the answer and never ends it.
    Stall,
    Http(u16),
    /// Puts another token into the file, and refuses the one that came.
    Renew(PathBuf),
}

/// One attempt as the channel saw it.
struct Seen {
    at: Instant,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let fake = Self::default();
        fake.answers.lock().unwrap().extend(answers);
        fake
    }
    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Service<Request<Body>> for Fake {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let fake = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            fake.seen.lock().unwrap().push(Seen { at: Instant::now(), headers: parts.headers, body });
            let answer = fake.answers.lock().unwrap().pop_front().expect("one attempt too many");
            Ok(match answer {
                Answer::Status(status) => status.into_http(),
                Answer::Message(message) => with_trailers(message, &Status::new(Code::Ok, "")),
                Answer::Trailers(status) => with_trailers(Bytes::new(), &status),
                Answer::Stall => with_body(Never),
                Answer::Http(code) => Response::builder().status(code).body(Body::empty())?,
                Answer::Renew(path) => {
                    fs::write(path, "new-one")?;
                    Status::unauthenticated("").into_http()
                }
                Answer::Lost(kind) => return Err(io::Error::from(kind).into()),
            })
        })
    }
}

/// A body that never ends.
struct Never;

impl http_body::Body for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

fn with_body<B>(body: B) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

fn with_trailers(data: Bytes, status: &Status) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).unwrap();
    with_body(Full::new(data).with_trailers(std::future::ready(Some(Ok(trailers)))))
}

fn framed(message: &impl prost::Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
    frame.extend(encoded);
    frame.into()
}

fn key(name: &str) -> Answer {
    Answer::Message(framed(&pb::GetKeyResponse { key: Some(pb::Key { name: name.into(), ..Default::default() }) }))
}

fn unavailable(retry_after: Option<Duration>) -> Answer {
    let mut details = ErrorDetails::with_error_info("STORE_UNAVAILABLE", "ibyok", HashMap::new());
    if let Some(wait) = retry_after {
        details.set_retry_info(Some(wait));
    }
    Answer::Status(Status::with_error_details(Code::Unavailable, "the database does not answer", details))
}

fn refused(code: Code, reason: &str) -> Answer {
    let details = ErrorDetails::with_error_info(reason, "ibyok", HashMap::new());
    Answer::Status(Status::with_error_details(code, "refused", details))
}

fn transport(fake: &Fake, token: TokenSource) -> Transport<Fake> {
    let rules =
        Rules { address: "vault:7443".into(), token, service_config: ServiceConfig::shipped().unwrap(), timeout: None };
    Transport::new(fake.clone(), rules)
}

fn vault(fake: &Fake) -> pb::key_vault_client::KeyVaultClient<Transport<Fake>> {
    let token = TokenFrom::Memory(Arc::new(crate::AccessToken::new("eyJ-token".into())));
    pb::key_vault_client::KeyVaultClient::new(transport(fake, TokenSource::new(token)))
}

async fn get_key(fake: &Fake) -> Result<pb::Key, Error> {
    let request = pb::GetKeyRequest { name: "a".into() };
    Ok(vault(fake).get_key(request).await?.into_inner().key.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_token_and_deadline_and_its_answer_arrives_whole() {
    let fake = Fake::answering([key("orgs/dev/keys/a")]);
    assert_eq!(get_key(&fake).await.unwrap().name, "orgs/dev/keys/a");
    let seen = fake.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].headers["authorization"], "Bearer eyJ-token");
    assert_eq!(seen[0].headers[GRPC_TIMEOUT], "5000m");
    assert_eq!(seen[0].body, framed(&pb::GetKeyRequest { name: "a".into() }));
}

#[tokio::test(start_paused = true)]
async fn what_is_unavailable_is_tried_again_with_growing_pauses_and_a_shrinking_deadline() {
    for first in [
        unavailable(None),
        Answer::Lost(io::ErrorKind::ConnectionRefused),
        Answer::Trailers(Status::unavailable("late")),
        Answer::Http(503),
    ] {
        let fake = Fake::answering([first, unavailable(None), key("found")]);
        assert_eq!(get_key(&fake).await.unwrap().name, "found");
        let seen = fake.seen();
        let pauses: Vec<_> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
        assert!((80..=121).contains(&pauses[0]) && (160..=241).contains(&pauses[1]), "{pauses:?}");
        let left = parse_timeout(&seen[2].headers[GRPC_TIMEOUT]).unwrap();
        assert!(left < Duration::from_millis(4800), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_end_and_the_last_refusal_is_the_callers() {
    let fake = Fake::answering((0..4).map(|_| unavailable(None)));
    let error = get_key(&fake).await.unwrap_err();
    assert_eq!(error.reason(), Some("STORE_UNAVAILABLE"));
    assert_eq!(fake.seen().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_servers_retry_info_is_honoured_within_the_deadline() {
    let fake = Fake::answering([unavailable(Some(Duration::from_secs(2))), key("found")]);
    get_key(&fake).await.unwrap();
    let seen = fake.seen();
    assert_eq!((seen[1].at - seen[0].at).as_secs(), 2);

    let start = Instant::now();
    let fake = Fake::answering([unavailable(Some(Duration::from_secs(30)))]);
    let error = get_key(&fake).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    assert_eq!(start.elapsed(), Duration::ZERO, "a pause past the deadline is not begun");
}

#[tokio::test(start_paused = true)]
async fn other_refusals_are_not_tried_again() {
    for code in [Code::NotFound, Code::PermissionDenied, Code::FailedPrecondition, Code::Aborted, Code::Internal] {
        let fake = Fake::answering([refused(code, "SOME_REASON")]);
        assert_eq!(get_key(&fake).await.unwrap_err().code(), Some(code));
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_mutation_keeps_its_request_id() {
    let created = || framed(&pb::CreateKeyResponse::default());
    let fake = Fake::answering([unavailable(None), Answer::Message(created()), Answer::Message(created())]);
    for request_id in ["", "mine"] {
        let request = pb::CreateKeyRequest { request_id: request_id.into(), ..Default::default() };
        vault(&fake).create_key(request).await.unwrap();
    }
    let ids: Vec<_> =
        fake.seen().into_iter().map(|seen| pb::CreateKeyRequest::decode(&seen.body[5..]).unwrap().request_id).collect();
    assert_eq!(ids[0].len(), 36);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[2], "mine");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stalls_ends_at_the_deadline() {
    let start = Instant::now();
    let error = get_key(&Fake::answering([Answer::Stall])).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded));
    assert_eq!(error.reason(), Some(reason::DEADLINE_EXCEEDED));
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert!(!error.to_string().contains("before failed"), "{error}");

    // What the vault said before is not forgotten over it.
    let mut details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
    details.set_error_info("STORE_UNAVAILABLE", "ibyok", HashMap::new());
    let away = Status::with_error_details(Code::Unavailable, "the database does not answer", details);
    let error = get_key(&Fake::answering([Answer::Status(away), Answer::Stall])).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded));
    let said = error.to_string();
    assert!(said.contains("the try before failed: the database does not answer (STORE_UNAVAILABLE)"), "{said}");

    let start = Instant::now();
    let mut request = tonic::Request::new(pb::GetKeyRequest::default());
    request.set_timeout(Duration::from_millis(200));
    vault(&Fake::answering([Answer::Stall])).get_key(request).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_millis(200), "the caller's own deadline is shorter");
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_no_deadline_and_its_opening_is_tried_again() {
    let fake = Fake::answering([unavailable(None), Answer::Stall]);
    let mut stream = vault(&fake).watch_keys(pb::WatchKeysRequest::default()).await.unwrap().into_inner();
    let day = Duration::from_secs(86_400);
    assert!(tokio::time::timeout(day, stream.message()).await.is_err(), "still open after a day");
    assert!(fake.seen().iter().all(|seen| !seen.headers.contains_key(GRPC_TIMEOUT)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_read_again_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, "old").unwrap();
    let expired = || refused(Code::Unauthenticated, "TOKEN_EXPIRED");

    let fake = Fake::answering([expired()]);
    let mut vault =
        pb::key_vault_client::KeyVaultClient::new(transport(&fake, TokenSource::new(TokenFrom::File(path.clone()))));
    vault.get_key(pb::GetKeyRequest::default()).await.unwrap_err();
    assert_eq!(fake.seen().len(), 1, "the file holds nothing newer");

    // The file changes while the call is under way.
    let fake = Fake::answering([Answer::Renew(path.clone()), expired()]);
    let mut vault =
        pb::key_vault_client::KeyVaultClient::new(transport(&fake, TokenSource::new(TokenFrom::File(path))));
    let error = Error::from(vault.get_key(pb::GetKeyRequest::default()).await.unwrap_err());
    assert_eq!(error.reason(), Some("TOKEN_EXPIRED"), "the new token is refused too: no third attempt");
    let tokens: Vec<_> = fake.seen().iter().map(|seen| seen.headers["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer old", "Bearer new-one"]);
}

#[tokio::test]
async fn an_exchange_needs_no_token() {
    let fake = Fake::answering([Answer::Message(framed(&pb::ExchangeTokenResponse::default()))]);
    let missing = TokenSource::new(TokenFrom::File("/no/such/file".into()));
    let transport = transport(&fake, missing);
    let mut tokens = pb::tokens_client::TokensClient::new(transport.clone());
    tokens.exchange_token(pb::ExchangeTokenRequest::default()).await.unwrap();
    assert!(!fake.seen()[0].headers.contains_key("authorization"));

    let error = Error::from(tokens.renew_token(pb::RenewTokenRequest::default()).await.unwrap_err());
    assert_eq!(error.reason(), Some(reason::TOKEN_FILE_UNUSABLE));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_says_where_and_why_and_tls_is_told_apart() {
    let fake = Fake::answering((0..4).map(|_| Answer::Lost(io::ErrorKind::ConnectionRefused)));
    let error = get_key(&fake).await.unwrap_err();
    assert_eq!(error.reason(), Some(reason::SERVER_UNREACHABLE));
    assert!(error.to_string().starts_with("no connection to the vault at vault:7443: connection refused"), "{error}");

    let error = get_key(&Fake::answering([Answer::Lost(io::ErrorKind::InvalidData)])).await.unwrap_err();
    assert_eq!((error.reason(), error.code()), (Some(reason::TLS_REFUSED), Some(Code::Unauthenticated)));
}

#[test]
fn timeouts_are_written_and_read_as_grpc_does() {
    let text = |timeout: Duration| format_timeout(timeout).to_str().unwrap().to_owned();
    assert_eq!(text(Duration::from_secs(5)), "5000m");
    assert_eq!(text(Duration::ZERO), "1m");
    assert_eq!(text(Duration::from_secs(10_000_000)), "10000000S");
    for (value, timeout) in [
        ("2H", Some(Duration::from_secs(7200))),
        ("3M", Some(Duration::from_secs(180))),
        ("4S", Some(Duration::from_secs(4))),
        ("5m", Some(Duration::from_millis(5))),
        ("6u", Some(Duration::from_micros(6))),
        ("7n", Some(Duration::from_nanos(7))),
        ("8", None),
        ("", None),
        ("x", None),
    ] {
        assert_eq!(parse_timeout(&HeaderValue::from_static(value)), timeout, "{value}");
    }
}
