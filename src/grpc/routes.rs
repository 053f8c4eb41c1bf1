//! Which service answers which path. As tonic's own router, without what that one does for wildcards and
//! path parameters: names of services are fixed.

use std::{convert::Infallible, fmt, sync::Arc};

use http::{Request, Response};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service},
    server::NamedService,
};

/// The services, by name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Routes(Arc<Vec<Route>>);

#[derive(Clone)]
struct Route {
    name: &'static str,
    service: Arc<dyn Answer>,
}

/// The answer of a service, which may still be made.
pub(super) type Answered = BoxFuture<Response<Body>, Infallible>;

trait Answer: Send + Sync {
    fn answer(&self, request: Request<Body>) -> Answered;
}

impl<S> Answer for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answered> + Clone + Send + Sync,
{
    fn answer(&self, request: Request<Body>) -> Answered {
        // The services that tonic generates are always ready.
        self.clone().call(request)
    }
}

impl Routes {
    /// With `service` beside those that are there.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answered>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        Arc::make_mut(&mut self.0).push(Route { name: S::NAME, service: Arc::new(service) });
        self
    }

    /// The answer to `request`; UNIMPLEMENTED where no service has that name.
    pub(super) fn answer(&self, request: Request<Body>) -> Answered {
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')).map(|(name, _)| name);
        match self.0.iter().find(|route| Some(route.name) == name) {
            Some(route) => route.service.answer(request),
            None => Box::pin(std::future::ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|route| route.name)).finish()
    }
}
