//! `ibyok.v1.Audit`: the read side of the log. Checkpoints and proofs are not answered by this
//! version.

use futures_util::StreamExt as _;
use tonic::{Request, Response, Status};

use super::{
    convert::{
        audit::{event, event_name, event_query, streamed, verification},
        page_size,
    },
    gate::{Gate, MappedStream},
    pb::{self, audit_server::Audit},
};
use crate::{
    domain::error::{Failure, Reason},
    service::{audit::AuditReader, call::Call},
};

/// The service.
#[derive(Clone, Debug)]
pub struct AuditService {
    gate: Gate,
    reader: AuditReader,
}

impl AuditService {
    /// Answers through `gate` by `reader`.
    #[must_use]
    pub fn new(gate: Gate, reader: AuditReader) -> Self {
        Self { gate, reader }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// A call that this version does not answer.
macro_rules! not_built {
    ($self:ident, $request:ident) => {
        $self.gate.unary($request, |_, _| async { Err(Failure::new(Reason::NotImplemented)) }).await
    };
}

#[tonic::async_trait]
impl Audit for AuditService {
    type StreamAuditEventsStream = MappedStream<pb::StreamAuditEventsResponse>;
    type VerifyAuditLogStream = MappedStream<pb::VerifyAuditLogResponse>;

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Answer<pb::ListAuditEventsResponse> {
        let reader = self.reader.clone();
        let run = move |call: Call, message: pb::ListAuditEventsRequest| async move {
            let size = page_size(message.page_size)?;
            let query = event_query(message.parent, message.filter, message.page_token)?;
            let page = reader.list(&call, &query, size).await?;
            let events = page.events.into_iter().map(event).collect();
            Ok(pb::ListAuditEventsResponse { events, next_page_token: page.next_page_token })
        };
        self.gate.unary(request, run).await
    }

    async fn get_audit_event(&self, request: Request<pb::GetAuditEventRequest>) -> Answer<pb::GetAuditEventResponse> {
        let reader = self.reader.clone();
        let run = move |call: Call, message: pb::GetAuditEventRequest| async move {
            let name = event_name(message.which, message.chain)?;
            let found = reader.event(&call, &message.parent, &name).await?;
            Ok(pb::GetAuditEventResponse { event: Some(event(found)) })
        };
        self.gate.unary(request, run).await
    }

    async fn stream_audit_events(
        &self,
        request: Request<pb::StreamAuditEventsRequest>,
    ) -> Answer<Self::StreamAuditEventsStream> {
        let reader = self.reader.clone();
        let run = move |call: Call, message: pb::StreamAuditEventsRequest| async move {
            let query = event_query(message.parent, message.filter, message.resume_token)?;
            let answers = reader.stream(call, query, message.follow).await?;
            Ok(answers.map(|answer| answer.map(streamed)))
        };
        self.gate.stream(request, run).await
    }

    async fn verify_audit_log(
        &self,
        request: Request<pb::VerifyAuditLogRequest>,
    ) -> Answer<Self::VerifyAuditLogStream> {
        let reader = self.reader.clone();
        let run = move |call: Call, message: pb::VerifyAuditLogRequest| async move {
            let answers = reader.verify(call, &message.trusted_signed_note).await?;
            Ok(answers.map(|answer| answer.map(verification)))
        };
        self.gate.stream(request, run).await
    }

    async fn get_checkpoint(&self, request: Request<pb::GetCheckpointRequest>) -> Answer<pb::GetCheckpointResponse> {
        not_built!(self, request)
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<pb::GetInclusionProofRequest>,
    ) -> Answer<pb::GetInclusionProofResponse> {
        not_built!(self, request)
    }

    async fn get_consistency_proof(
        &self,
        request: Request<pb::GetConsistencyProofRequest>,
    ) -> Answer<pb::GetConsistencyProofResponse> {
        not_built!(self, request)
    }
}
