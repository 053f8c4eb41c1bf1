//! `ibyok.v1.Admin`.

use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{
        org::{create_org, org, status, update_org},
        page_size,
    },
    gate::{Gate, MappedStream},
    pb::{self, admin_server::Admin},
    status::status_for,
};
use crate::{
    domain::error::{Failure, Reason},
    service::{call::Call, orgs::OrgService, status::StatusService},
};

/// The service.
#[derive(Clone, Debug)]
pub struct AdminService {
    gate: Gate,
    orgs: OrgService,
    status: StatusService,
}

impl AdminService {
    /// Answers through `gate` by `orgs` and `status`.
    #[must_use]
    pub fn new(gate: Gate, orgs: OrgService, status: StatusService) -> Self {
        Self { gate, orgs, status }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    type ExportBackupStream = MappedStream<pb::ExportBackupResponse>;

    async fn get_server_status(
        &self,
        request: Request<pb::GetServerStatusRequest>,
    ) -> Answer<pb::GetServerStatusResponse> {
        let service = self.status.clone();
        let run = move |call: Call, _| async move { Ok(status(service.status(&call).await?)) };
        self.gate.unary(request, run).await
    }

    async fn create_org(&self, request: Request<pb::CreateOrgRequest>) -> Answer<pb::CreateOrgResponse> {
        let orgs = self.orgs.clone();
        let run = move |call: Call, message| async move {
            let made = orgs.create(&call, &create_org(message)?).await?;
            Ok(pb::CreateOrgResponse { org: Some(org(made)) })
        };
        self.gate.unary(request, run).await
    }

    async fn update_org(&self, request: Request<pb::UpdateOrgRequest>) -> Answer<pb::UpdateOrgResponse> {
        let orgs = self.orgs.clone();
        let run = move |call: Call, message| async move {
            let changed = orgs.update(&call, &update_org(message)?).await?;
            Ok(pb::UpdateOrgResponse { org: Some(org(changed)) })
        };
        self.gate.unary(request, run).await
    }

    async fn list_orgs(&self, request: Request<pb::ListOrgsRequest>) -> Answer<pb::ListOrgsResponse> {
        let orgs = self.orgs.clone();
        let run = move |call: Call, message: pb::ListOrgsRequest| async move {
            let page = orgs.list(&call, page_size(message.page_size)?, &message.page_token).await?;
            let orgs = page.orgs.into_iter().map(org).collect();
            Ok(pb::ListOrgsResponse { orgs, next_page_token: page.next_page_token })
        };
        self.gate.unary(request, run).await
    }

    async fn shred_org(&self, request: Request<pb::ShredOrgRequest>) -> Answer<pb::ShredOrgResponse> {
        self.gate.unary(request, |_, _| async { Err(Reason::NotImplemented.into()) }).await
    }

    async fn export_backup(&self, request: Request<pb::ExportBackupRequest>) -> Answer<Self::ExportBackupStream> {
        let run = |_, _| async { Err::<stream::Empty<_>, _>(Failure::new(Reason::NotImplemented)) };
        self.gate.stream(request, run).await
    }

    async fn restore_backup(
        &self,
        _: Request<Streaming<pb::RestoreBackupRequest>>,
    ) -> Answer<pb::RestoreBackupResponse> {
        Err(status_for(Reason::NotImplemented))
    }
}
