//! Bounds on what runs at a time. What is beyond them is refused at once: it neither waits nor
//! costs more than its refusal.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};

/// What a place is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// A unary call.
    Call,
    /// A stream.
    Stream,
    /// A health check.
    Check,
    /// A health watch, or reflection.
    Open,
}

/// Counts the places that are taken. Each use has its own: streams never crowd out calls, and what
/// needs no token never crowds out what does.
#[derive(Debug)]
pub(super) struct Shedder {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Shedder {
    pub(super) fn new(calls: usize, streams: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { calls: places(calls), streams: places(streams), checks: places(calls), open: places(streams) }
    }
    /// A place for this use, if there is one.
    pub(super) fn admit(&self, what: Use) -> Option<Place> {
        let places = match what {
            Use::Call => &self.calls,
            Use::Stream => &self.streams,
            Use::Check => &self.checks,
            Use::Open => &self.open,
        };
        Arc::clone(places).try_acquire_owned().ok().map(Place)
    }
}

/// A place among those that run; free again when dropped.
#[derive(Debug)]
pub(in crate::grpc) struct Place(OwnedSemaphorePermit);

impl Place {
    /// Keeps the place until the body of `answer` has been sent or given up.
    pub(super) fn hold(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| Body::new(Held { body, _place: self.0 }))
    }
}

struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
