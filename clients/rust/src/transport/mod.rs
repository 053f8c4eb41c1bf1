//! What stands between the generated clients and the channel: token, deadline, request id, retries.
//! It works on encoded messages and knows of each method only what [`METHODS`] says, so that every
//! raw client gets all of it.

mod failure;
mod request_id;
mod token;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION, request};
use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt as _};

use self::failure::Failure;
pub(crate) use self::token::TokenSource;
use crate::{MethodConfig, ServiceConfig};

/// What the transport must know of a method; made from the protos by the build script.
pub(crate) struct Method {
    pub(crate) path: &'static str,
    /// Number of the request's field `request_id`.
    pub(crate) request_id_field: Option<u32>,
    pub(crate) streams_request: bool,
    pub(crate) streams_response: bool,
}

pub(crate) static METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Methods that take no token.
const WITHOUT_TOKEN: [&str; 2] = ["/ibyok.v1.Tokens/ExchangeToken", "/ibyok.v1.Tokens/GetJwks"];
const GRPC_TIMEOUT: &str = "grpc-timeout";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The channel that the raw clients of [`Client`](crate::Client) call through.
#[derive(Clone, Debug)]
pub struct Transport<S = Channel> {
    channel: S,
    rules: Arc<Rules>,
}

/// What holds for every call.
#[derive(Debug)]
pub(crate) struct Rules {
    /// For error messages.
    pub(crate) address: String,
    pub(crate) token: TokenSource,
    pub(crate) service_config: ServiceConfig,
    /// In place of the service config's timeouts.
    pub(crate) timeout: Option<Duration>,
}

impl<S> Transport<S> {
    pub(crate) fn new(channel: S, rules: Rules) -> Self {
        Self { channel, rules: Arc::new(rules) }
    }
}

impl<S> Service<Request<Body>> for Transport<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Each attempt waits for the channel itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (channel, rules) = (self.channel.clone(), Arc::clone(&self.rules));
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            match METHODS.iter().find(|method| method.path == parts.uri.path()) {
                Some(method) if !method.streams_request => {
                    let entry = rules.service_config.method(method.path);
                    let deadline = rules.deadline(method, entry, &parts.headers);
                    let message = collect(body).await?;
                    let message = request_id::filled(method.request_id_field, message)?;
                    let before = None;
                    Call { channel, rules: &rules, method, entry, parts, message, deadline, before }.run().await
                }
                _ => {
                    let token = rules.token_for(parts.uri.path())?;
                    send(channel, Request::from_parts(with_token(parts, token), body), &rules.address).await
                }
            }
        })
    }
}

impl Rules {
    /// A unary call has a deadline: the caller's own, else the configured one. A stream has only the
    /// caller's, which the channel applies to its opening.
    fn deadline(&self, method: &Method, entry: Option<&MethodConfig>, headers: &HeaderMap) -> Option<Instant> {
        if method.streams_response {
            return None;
        }
        let configured = || self.timeout.or_else(|| entry.and_then(|entry| entry.timeout));
        let timeout = headers.get(GRPC_TIMEOUT).and_then(parse_timeout).or_else(configured);
        timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    fn token_for(&self, path: &str) -> Result<Option<HeaderValue>, Status> {
        if WITHOUT_TOKEN.contains(&path) { Ok(None) } else { self.token.current() }
    }
}

/// A call whose request is one message, so that it can be sent again.
struct Call<'r, S> {
    channel: S,
    rules: &'r Rules,
    method: &'static Method,
    entry: Option<&'r MethodConfig>,
    parts: request::Parts,
    message: Bytes,
    deadline: Option<Instant>,
    /// What the last attempt said that failed.
    before: Option<String>,
}

impl<S> Call<'_, S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
    S::Error: Into<BoxError>,
{
    async fn run(mut self) -> Result<Response<Body>, Status> {
        let Some(deadline) = self.deadline else { return self.attempts().await };
        let ended = timeout_at(deadline, self.attempts()).await;
        ended.unwrap_or_else(|_| Err(failure::deadline(self.before.as_deref())))
    }

    async fn attempts(&mut self) -> Result<Response<Body>, Status> {
        let mut number = 1;
        let mut may_read_token_again = true;
        loop {
            let token = self.rules.token_for(self.method.path)?;
            let (answer, failure) = self.attempt(token.clone()).await;
            let Some(failure) = failure else { return answer };
            if failure.code == Code::DeadlineExceeded && answer.is_err() {
                return Err(failure::deadline(self.before.as_deref()));
            }
            if failure.code == Code::Unauthenticated
                && may_read_token_again
                && token.is_some_and(|used| self.rules.token.has_other_than(&used))
            {
                may_read_token_again = false;
                continue;
            }
            let policy = self.entry.and_then(|entry| entry.retry.as_ref());
            let wait = policy.and_then(|policy| policy.wait(number, failure.code, failure.retry_after, chance()));
            let Some(wait) = wait.filter(|wait| self.allows(*wait)) else { return answer };
            self.before = Some(failure.said);
            sleep(wait).await;
            number += 1;
        }
    }

    /// Whether there is time left after `wait`: better the failure that is known than a deadline.
    fn allows(&self, wait: Duration) -> bool {
        self.deadline.is_none_or(|deadline| Instant::now() + wait < deadline)
    }

    /// Sends the call once. The answer of a unary call is read to its end, so that the deadline
    /// covers it and a status in its trailers is seen; a stream is the caller's once it opens.
    async fn attempt(&mut self, token: Option<HeaderValue>) -> (Result<Response<Body>, Status>, Option<Failure>) {
        let mut parts = with_token(self.parts.clone(), token);
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            parts.headers.insert(GRPC_TIMEOUT, format_timeout(left));
        }
        let body = Body::new(Full::new(self.message.clone()));
        let sent = send(self.channel.clone(), Request::from_parts(parts, body), &self.rules.address).await;
        let response = match sent {
            Ok(response) => response,
            Err(status) => return failed(status),
        };
        let failure = Failure::of_response(response.status(), response.headers());
        if failure.is_some() || self.method.streams_response {
            return (Ok(response), failure);
        }
        let (head, body) = response.into_parts();
        match body.collect().await {
            Ok(collected) => {
                let failure = collected.trailers().and_then(Failure::of_trailers);
                (Ok(Response::from_parts(head, Body::new(collected))), failure)
            }
            Err(status) => failed(failure::connection(&self.rules.address, &status)),
        }
    }
}

fn failed(status: Status) -> (Result<Response<Body>, Status>, Option<Failure>) {
    let failure = Failure::of_status(&status);
    (Err(status), Some(failure))
}

async fn send<S>(channel: S, request: Request<Body>, address: &str) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
{
    channel.oneshot(request).await.map_err(|error| {
        let error: BoxError = error.into();
        failure::connection(address, error.as_ref())
    })
}

async fn collect(body: Body) -> Result<Bytes, Status> {
    Ok(body.collect().await?.to_bytes())
}

fn with_token(mut parts: request::Parts, token: Option<HeaderValue>) -> request::Parts {
    if let Some(token) = token {
        parts.headers.insert(AUTHORIZATION, token);
    }
    parts
}

/// In 0..1; spreads retries, so that its quality does not matter.
fn chance() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// Form of gRPC over HTTP/2: at most eight digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn format_timeout(timeout: Duration) -> HeaderValue {
    let (number, unit) = match timeout.as_millis() {
        millis @ 0..=99_999_999 => (millis.max(1), "m"),
        millis => ((millis / 1000).min(99_999_999), "S"),
    };
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("1m"))
}

#[cfg(test)]
mod tests;
