//! What every call passes before its handler, in this order: the shape of the request, a place among
//! the server's for its certificate, the certificate's standing, the authorization table, the token,
//! its rate, its scopes, whether the method is built, the place for its organization. Whatever
//! refuses here is recorded and detailed like a handler's own refusal.

mod authorize;
mod rate;
mod shed;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use tonic::{Code, Status, body::Body};

pub use authorize::VerifyToken;
pub use rate::Rate;
pub(super) use rate::{Rates, network_of};
pub(super) use shed::Place;

use self::{
    authorize::Authorizer,
    shed::{Shedder, Use, heard_until},
};
pub use super::share::Share;
use super::{
    entry::{CALL_MAX, Connection, Entry, Recorder, record},
    routes::Routes,
    status::{failure_of, status_for, status_of},
};
use crate::{
    authz::methods::{self, Kind, Method, Requirement},
    domain::{
        audit::Action,
        clock::Clock,
        error::{Failure, Reason},
    },
};

/// How much the front lets through.
#[derive(Clone, Debug)]
pub struct FrontLimits {
    /// Unary calls at a time; health checks have as many places of their own.
    pub calls: usize,
    /// Open streams; health watches and reflection have as many places of their own.
    pub streams: usize,
    /// What one organization, or one certificate, alone may hold of these places.
    pub share: Share,
    /// Calls with one token.
    pub token_rate: Rate,
    /// Calls of one organization.
    pub org_rate: Rate,
    /// Calls without a verified token from one certificate.
    pub certificate_rate: Rate,
    /// Calls without a verified token from one address.
    pub address_rate: Rate,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            calls: 1_024,
            streams: 1_024,
            share: Share::default(),
            token_rate: Rate::new(2_000),
            org_rate: Rate::new(10_000),
            certificate_rate: Rate::new(50),
            address_rate: Rate::new(1_000),
        }
    }
}

/// What the front works with.
#[derive(Debug)]
pub struct FrontParts {
    /// Verifies tokens.
    pub tokens: Arc<dyn VerifyToken>,
    /// Takes the records of refusals.
    pub recorder: Arc<dyn Recorder>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How much is let through.
    pub limits: FrontLimits,
}

/// The front of the services: every request of every connection goes through [`Self::answer`].
#[derive(Clone, Debug)]
pub struct Front {
    routes: Routes,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    authorizer: Authorizer,
    shedder: Shedder,
    recorder: Arc<dyn Recorder>,
    clock: Arc<dyn Clock>,
}

impl Front {
    /// Puts the layers before `routes`.
    #[must_use]
    pub fn new(routes: Routes, parts: FrontParts) -> Self {
        let FrontParts { tokens, recorder, clock, limits } = parts;
        let rates = Rates::new(&limits, Arc::clone(&clock));
        let inner = Inner {
            authorizer: Authorizer::new(tokens, Arc::clone(&clock), rates),
            shedder: Shedder::new(&limits),
            recorder,
            clock,
        };
        Self { routes, inner: Arc::new(inner) }
    }

    /// Answers `request`, which came on `connection`.
    pub async fn answer<B>(self, request: Request<B>, connection: Connection) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let request = request.map(Body::new);
        if !is_grpc(&request) {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return answer;
        }
        if is_open_service(request.uri().path()) {
            return self.answer_open(request, connection).await;
        }
        self.answer_call(request, connection).await
    }

    /// Health and reflection: a certificate is enough, and what they answer is their own.
    async fn answer_open(self, mut request: Request<Body>, connection: Connection) -> Response<Body> {
        if let Err(failure) = self.inner.authorizer.open(&connection) {
            return status_of(&failure).into_http();
        }
        // Streams that are open and idle must not make the server look dead.
        let what = match request.uri().path() {
            HEALTH_CHECK => Use::Check,
            path if path.starts_with(HEALTH) => Use::Watch,
            _ => Use::Reflection,
        };
        let Some(place) = self.inner.shedder.admit(what, &connection.peer.certificate) else {
            return status_of(&overloaded()).into_http();
        };
        request.headers_mut().remove(header::AUTHORIZATION);
        request.extensions_mut().insert(connection.clone());
        if what != Use::Reflection {
            return place.hold(self.route(request, CALL_MAX).await);
        }
        let over = connection.ending.child_token();
        let request = request.map(|asked| heard_until(asked, over.clone()));
        place.hold_for_a_while(self.route(request, CALL_MAX).await, over)
    }

    async fn answer_call(self, mut request: Request<Body>, connection: Connection) -> Response<Body> {
        let inner = Arc::clone(&self.inner);
        let method = methods::find(request.uri().path()).unwrap_or(&UNKNOWN);
        let mut entry = Entry::new(method, connection, request.headers(), inner.clock.now());
        let what = match method.kind {
            Kind::Read | Kind::Mutation => Use::Call,
            Kind::Stream => Use::Stream,
            Kind::Import => Use::Import,
        };
        let Some(mut place) = inner.shedder.admit(what, &entry.connection.peer.certificate) else {
            return status_of(&overloaded()).into_http();
        };
        if let Err(failure) = inner.authorizer.authorize(&mut entry, request.headers()).await {
            record(&*inner.recorder, &*inner.clock, &entry, String::new(), &failure);
            return status_of(&failure).into_http();
        }
        if !place.is_for(entry.claims.as_deref()) {
            return status_of(&overloaded()).into_http();
        }
        // The handler's task keeps it to its end, whether or not its caller still waits.
        entry.place = Some(Arc::new(place));
        // From here on nothing can read the token.
        request.headers_mut().remove(header::AUTHORIZATION);
        entry.pace = (method.kind == Kind::Import).then(|| Pace(Arc::clone(&inner)));
        let patience = entry.patience();
        request.extensions_mut().insert(Arc::new(entry));
        detailed(self.route(request, patience).await)
    }

    /// The handler's answer. The time counts from the headers on: a message that never comes must
    /// not keep a place.
    async fn route(self, request: Request<Body>, patience: Duration) -> Response<Body> {
        match tokio::time::timeout(patience, self.routes.answer(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(never)) => match never {},
            Err(_) => status_for(Reason::DeadlineExceeded).into_http(),
        }
    }
}

/// Admits what a call brings after its headers as calls of their own.
#[derive(Clone, Debug)]
pub(super) struct Pace(Arc<Inner>);

impl Pace {
    /// Takes one more call of `entry`.
    ///
    /// # Errors
    /// RATE_LIMITED with the time to wait; CERTIFICATE_REVOKED, CERTIFICATE_EXPIRED.
    pub(super) fn take(&self, entry: &Entry) -> Result<(), Failure> {
        self.0.authorizer.again(entry)
    }
}

/// The row of every path that has none: refused, and recorded.
static UNKNOWN: Method = Method {
    path: "",
    requirement: Requirement::Certificate,
    kind: Kind::Read,
    action: Action::MethodUnknown,
    is_built: false,
};

const HEALTH: &str = "/grpc.health.v1.Health/";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

fn overloaded() -> Failure {
    Failure::new(Reason::Overloaded).retry_after(Duration::from_millis(500))
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    request.method() == http::Method::POST && kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn is_open_service(path: &str) -> bool {
    let (service, _) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
    matches!(service, "grpc.health.v1.Health" | "grpc.reflection.v1.ServerReflection")
        || service == "grpc.reflection.v1alpha.ServerReflection"
}

/// Gives the refusals of tonic itself (a message that is too large, does not decode, or is
/// compressed) the details that every error has.
fn detailed(answer: Response<Body>) -> Response<Body> {
    let Some(status) = answer.extensions().get::<Status>().filter(|status| status.details().is_empty()) else {
        return answer;
    };
    if status.code() == Code::Ok {
        return answer;
    }
    status_of(&failure_of(status)).into_http()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
