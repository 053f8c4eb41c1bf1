//! `grpc.health.v1`: SERVING while audit records can be written and the server is not draining.
//! All services share one status, for they share what they stand on.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::{MESSAGE_MAX, entry::Connection};

/// The health service for services of these full names, and for the server as a whole (the empty
/// name); the composition root tells it whether calls are served now.
#[must_use]
pub fn service(names: &'static [&'static str], serving: watch::Receiver<bool>) -> HealthServer<impl Health> {
    HealthServer::new(Reports { names, serving }).max_decoding_message_size(MESSAGE_MAX)
}

#[derive(Debug)]
struct Reports {
    names: &'static [&'static str],
    serving: watch::Receiver<bool>,
}

impl Reports {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.names.contains(&service)
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
fn status(is_serving: bool) -> ServingStatus {
    if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Health for Reports {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("no such service"));
        }
        Ok(Response::new(answer(status(*self.serving.borrow()))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = self.knows(&request.get_ref().service);
        let ending = request.extensions().get::<Connection>().map(|connection| connection.ending.clone());
        let changes = WatchStream::new(self.serving.clone()).map(move |is_serving| {
            Ok(answer(if is_known { status(is_serving) } else { ServingStatus::ServiceUnknown }))
        });
        let end = async move {
            match ending {
                Some(ending) => ending.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        Ok(Response::new(Box::pin(changes.take_until(Box::pin(end)))))
    }
}
