//! `ibyok.v1.KeyGroups`: in the contract, not answered by this version.

use tonic::{Request, Response, Status};

use super::{
    gate::Gate,
    pb::{self, key_groups_server::KeyGroups},
};
use crate::domain::error::{Failure, Reason};

/// The service.
#[derive(Clone, Debug)]
pub struct KeyGroupsService {
    gate: Gate,
}

impl KeyGroupsService {
    /// Answers through `gate`.
    #[must_use]
    pub fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

macro_rules! not_built {
    ($($method:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl KeyGroups for KeyGroupsService {
            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    self.gate.unary(request, |_, _| async { Err(Failure::new(Reason::NotImplemented)) }).await
                }
            )*
        }
    };
}

not_built! {
    acquire_key(AcquireKeyRequest) -> AcquireKeyResponse;
    report_key_outcome(ReportKeyOutcomeRequest) -> ReportKeyOutcomeResponse;
    create_key_group(CreateKeyGroupRequest) -> CreateKeyGroupResponse;
    get_key_group(GetKeyGroupRequest) -> GetKeyGroupResponse;
    list_key_groups(ListKeyGroupsRequest) -> ListKeyGroupsResponse;
    update_key_group(UpdateKeyGroupRequest) -> UpdateKeyGroupResponse;
    delete_key_group(DeleteKeyGroupRequest) -> DeleteKeyGroupResponse;
}
