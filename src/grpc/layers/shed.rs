//! Bounds on what runs at a time. What is beyond them is refused at once: it neither waits nor
//! costs more than its refusal.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::FrontLimits;
use crate::{
    authz::claims::Claims,
    domain::{error::Reason, principal::ClientCertificate},
    grpc::{
        share::{Holder, Pool, Taken},
        status::status_for,
    },
};

/// How long a stream of reflection lives: a program asks and goes, and one that asks again opens
/// another. Idle ones would keep their places for as long as their connection lives.
const REFLECTION_LIFE: Duration = Duration::from_secs(60);

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A unary call.
    Call,
    /// A stream.
    Stream,
    /// A stream of changes: each holds messages of up to 1 MiB.
    Import,
    /// A health check.
    Check,
    /// A health watch.
    Watch,
    /// Reflection.
    Reflection,
}

/// The places. Each use has its own: streams never crowd out calls, and what needs no token never
/// crowds out what does.
#[derive(Debug)]
pub(super) struct Shedder {
    calls: Pool,
    streams: Pool,
    imports: Pool,
    checks: Pool,
    watches: Pool,
    reflections: Pool,
}

impl Shedder {
    pub(super) fn new(limits: &FrontLimits) -> Self {
        let places = |count| Pool::new(count, limits.share);
        Self {
            calls: places(limits.calls),
            streams: places(limits.streams),
            imports: places(limits.streams.div_ceil(16)),
            checks: places(limits.calls),
            watches: places(limits.streams),
            reflections: places(limits.streams),
        }
    }
    /// A place for this use, if there is one for the holder of that certificate: who he speaks for
    /// is not known yet.
    pub(super) fn admit(&self, what: Use, certificate: &ClientCertificate) -> Option<Place> {
        let places = match what {
            Use::Call => &self.calls,
            Use::Stream => &self.streams,
            Use::Import => &self.imports,
            Use::Check => &self.checks,
            Use::Watch => &self.watches,
            Use::Reflection => &self.reflections,
        };
        places.take(Holder::Certificate(&certificate.sha256)).map(Place)
    }
}

/// A place among those that run; free again when dropped.
#[derive(Debug)]
pub(in crate::grpc) struct Place(Taken);

impl Place {
    /// Whether the organization that `claims` speak for may have it, too; those who ask for a token
    /// share as if they were one organization.
    pub(super) fn is_for(&mut self, claims: Option<&Claims>) -> bool {
        self.0.is_for(Holder::Org(claims.map(|claims| claims.org.as_str()).unwrap_or_default()))
    }

    /// Keeps the place until the body of `answer` has been sent or given up.
    pub(super) fn hold(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| Body::new(Held { body, end: None, _place: self.0 }))
    }

    /// [`Self::hold`] for a stream that nothing else ends: it ends when `over` is cancelled, or
    /// after a minute, and `over` is cancelled with it.
    pub(super) fn hold_for_a_while(self, answer: Response<Body>, over: CancellationToken) -> Response<Body> {
        let end = async move {
            let ended = tokio::time::timeout(REFLECTION_LIFE, over.cancelled()).await;
            over.cancel();
            if ended.is_ok() { status_for(Reason::Draining) } else { Status::ok("") }
        };
        answer.map(|body| Body::new(Held { body, end: Some(Box::pin(end)), _place: self.0 }))
    }
}

/// `asked`, whose messages end when `over` is cancelled: who waits for the next holds the stream,
/// and with it the connection, however long ago it was answered.
pub(super) fn heard_until(asked: Body, over: CancellationToken) -> Body {
    Body::new(Heard { body: asked, over: Box::pin(over.cancelled_owned()) })
}

struct Heard {
    body: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            self.body = Body::empty();
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// What ends a body before its own end, and with which status.
type End = Pin<Box<dyn Future<Output = Status> + Send>>;

struct Held {
    body: Body,
    end: Option<End>,
    _place: Taken,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(end) = &mut self.end
            && let Poll::Ready(status) = end.as_mut().poll(cx)
        {
            // Nothing of the old body comes after its trailers.
            (self.end, self.body) = (None, Body::empty());
            let mut trailers = HeaderMap::new();
            let written = status.add_header(&mut trailers).map(|()| Frame::trailers(trailers));
            return Poll::Ready(Some(written));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
