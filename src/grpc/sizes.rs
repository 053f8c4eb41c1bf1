//! One service whose methods take messages of different sizes: tonic has one limit for a service.

use std::task::{Context, Poll};

use http::Request;
use tonic::server::NamedService;
use tower::Service;

/// A service twice, with the limit of most methods and with that of one.
#[derive(Clone, Debug)]
pub struct BySize<S> {
    most: S,
    one: S,
    path: &'static str,
}

impl<S> BySize<S> {
    /// Answers the method at `path` by `one`, every other by `most`.
    #[must_use]
    pub fn new(most: S, one: S, path: &'static str) -> Self {
        Self { most, one, path }
    }
}

impl<S: NamedService> NamedService for BySize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for BySize<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match self.most.poll_ready(cx) {
            Poll::Ready(Ok(())) => self.one.poll_ready(cx),
            other => other,
        }
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let service = if request.uri().path() == self.path { &mut self.one } else { &mut self.most };
        service.call(request)
    }
}
