//! `grpc.health.v1`: SERVING while audit records can be written and the server is not draining; for
//! the services that release provider keys also while the KMS can be used. The server as a whole
//! stays SERVING without a KMS: its other services work, and who asks for a key gets a refusal that
//! says why, instead of no connection.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::{MESSAGE_MAX, entry::Connection};

/// What the composition root tells health.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Whether calls are served now.
    pub serving: watch::Receiver<bool>,
    /// Whether the KMS can be used now.
    pub kms: watch::Receiver<bool>,
}

/// The health service for the server as a whole (the empty name) and for services of these full
/// names, those that release provider keys apart.
#[must_use]
pub fn service(
    names: &'static [&'static str],
    releasing: &'static [&'static str],
    condition: Condition,
) -> HealthServer<impl Health> {
    HealthServer::new(Reports { names, releasing, condition }).max_decoding_message_size(MESSAGE_MAX)
}

#[derive(Debug)]
struct Reports {
    names: &'static [&'static str],
    releasing: &'static [&'static str],
    condition: Condition,
}

impl Reports {
    /// None: no such service.
    fn asked(&self, service: &str) -> Option<Asked> {
        let needs_kms = self.releasing.contains(&service);
        let is_known = needs_kms || service.is_empty() || self.names.contains(&service);
        is_known.then(|| Asked { condition: self.condition.clone(), needs_kms })
    }
}

struct Asked {
    condition: Condition,
    needs_kms: bool,
}

impl Asked {
    fn now(&self) -> ServingStatus {
        let Condition { serving, kms } = &self.condition;
        status(*serving.borrow() && (!self.needs_kms || *kms.borrow()))
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
        let asked = self.asked(&request.get_ref().service).ok_or_else(|| Status::not_found("no such service"))?;
        Ok(Response::new(answer(asked.now())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let asked = self.asked(&request.get_ref().service);
        let ending = request.extensions().get::<Connection>().map(|connection| connection.ending.clone());
        let Condition { serving, kms } = self.condition.clone();
        let turns = stream::select(WatchStream::new(serving), WatchStream::new(kms));
        let mut last = None;
        let changes = turns.filter_map(move |_| {
            let now = asked.as_ref().map_or(ServingStatus::ServiceUnknown, Asked::now);
            let is_new = last.replace(now) != Some(now);
            std::future::ready(is_new.then(|| Ok(answer(now))))
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
