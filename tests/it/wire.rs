//! Every RPC of the contract as raw bytes: the walks over all methods (authorization, isolation,
//! bad input) call by path, so that a new method cannot be forgotten.

use bytes::{Buf, BufMut, Bytes};
use ibyok::grpc::pb;
use prost::Message;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Passes message bytes through as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}
impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}
impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls `path` with one message and reads at most `limit` answers: on the wire a unary call is a
/// stream of one.
pub async fn call(
    channel: &Channel,
    path: &'static str,
    token: Option<&str>,
    body: Vec<u8>,
    limit: usize,
) -> Result<Vec<Bytes>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let mut request = Request::new(Bytes::from(body));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut stream = grpc.server_streaming(request, PathAndQuery::from_static(path), RawCodec).await?.into_inner();
    let mut answers = Vec::new();
    while answers.len() < limit {
        match stream.message().await? {
            Some(message) => answers.push(message),
            None => break,
        }
    }
    Ok(answers)
}

/// What a walk's requests name.
#[derive(Clone, Debug)]
pub struct Target {
    /// The organization's id.
    pub org: String,
    /// The key's id.
    pub key: String,
    /// The token's id.
    pub token: String,
    /// The binding's id.
    pub binding: String,
    /// An audit event's id.
    pub event: String,
}

impl Target {
    fn parent(&self) -> String {
        format!("orgs/{}", self.org)
    }
    fn key_name(&self) -> String {
        format!("orgs/{}/keys/{}", self.org, self.key)
    }
    fn version_name(&self) -> String {
        format!("{}/versions/1", self.key_name())
    }
    fn token_name(&self) -> String {
        format!("orgs/{}/tokens/{}", self.org, self.token)
    }
    fn group_name(&self) -> String {
        format!("orgs/{}/groups/none", self.org)
    }
}

/// A well-formed request of the method at `path` about `target`, encoded.
///
/// Panics for a method that has none here: whoever adds a method adds its request.
pub fn request(path: &str, target: &Target) -> Vec<u8> {
    let (service, method) = path.strip_prefix("/ibyok.v1.").and_then(|rest| rest.split_once('/')).unwrap();
    match service {
        "KeyVault" => vault_request(method, target),
        "KeyGroups" => group_request(method, target),
        "Tokens" => token_request(method, target),
        "Audit" => audit_request(method, target),
        "Admin" => admin_request(method, target),
        _ => panic!("no requests for service {service}"),
    }
}

fn secret(text: &str) -> Option<pb::SecretValue> {
    Some(pb::SecretValue { text: text.to_owned() })
}

fn vault_request(method: &str, t: &Target) -> Vec<u8> {
    let (parent, name, version) = (t.parent(), t.key_name(), t.version_name());
    let create = || pb::CreateKeyRequest {
        parent: t.parent(),
        key_id: "walked".into(),
        provider: "openai".into(),
        secret: secret("walk-secret-value-0123456789"),
        ..Default::default()
    };
    match method {
        "CreateKey" => create().encode_to_vec(),
        "ImportKeys" => pb::ImportKeysRequest { key: Some(create()), skip_existing: false }.encode_to_vec(),
        "GetKey" => pb::GetKeyRequest { name }.encode_to_vec(),
        "ListKeys" => pb::ListKeysRequest { parent, ..Default::default() }.encode_to_vec(),
        "UpdateKey" => pb::UpdateKeyRequest {
            key: Some(pb::Key { name, description: "walked".into(), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["description".into()] }),
            ..Default::default()
        }
        .encode_to_vec(),
        "RetrieveKey" => pb::RetrieveKeyRequest { name, ..Default::default() }.encode_to_vec(),
        "BatchRetrieveKeys" => pb::BatchRetrieveKeysRequest { names: vec![name], ..Default::default() }.encode_to_vec(),
        "WatchKeys" => pb::WatchKeysRequest { parent, ..Default::default() }.encode_to_vec(),
        "AddKeyVersion" => {
            pb::AddKeyVersionRequest { name, secret: secret("walk-secret-value-9876543210"), ..Default::default() }
                .encode_to_vec()
        }
        "VerifyKeyVersion" => pb::VerifyKeyVersionRequest { name: version, ..Default::default() }.encode_to_vec(),
        "PromoteKeyVersion" => pb::PromoteKeyVersionRequest { name: version, ..Default::default() }.encode_to_vec(),
        "RollBackKeyVersion" => pb::RollBackKeyVersionRequest { name, ..Default::default() }.encode_to_vec(),
        "DestroyKeyVersion" => {
            pb::DestroyKeyVersionRequest { name: version.clone(), confirm: version, ..Default::default() }
                .encode_to_vec()
        }
        "ListKeyVersions" => pb::ListKeyVersionsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "DisableKey" => pb::DisableKeyRequest { name, ..Default::default() }.encode_to_vec(),
        "EnableKey" => pb::EnableKeyRequest { name, ..Default::default() }.encode_to_vec(),
        "DeleteKey" => pb::DeleteKeyRequest { name, ..Default::default() }.encode_to_vec(),
        "UndeleteKey" => pb::UndeleteKeyRequest { name, ..Default::default() }.encode_to_vec(),
        "DestroyKey" => {
            pb::DestroyKeyRequest { name: name.clone(), confirm: name, ..Default::default() }.encode_to_vec()
        }
        "RewrapKeys" => pb::RewrapKeysRequest { parent, ..Default::default() }.encode_to_vec(),
        "ListKeyConsumers" => pb::ListKeyConsumersRequest { name, ..Default::default() }.encode_to_vec(),
        "LookupKeys" => pb::LookupKeysRequest { parent, candidates: Vec::new() }.encode_to_vec(),
        "DetectProvider" => {
            pb::DetectProviderRequest { subject: Some(pb::detect_provider_request::Subject::Model("gpt-5".into())) }
                .encode_to_vec()
        }
        "ListProviders" => pb::ListProvidersRequest {}.encode_to_vec(),
        "GetUsage" => pb::GetUsageRequest { parent, ..Default::default() }.encode_to_vec(),
        _ => panic!("no request for {method}"),
    }
}

fn group_request(method: &str, t: &Target) -> Vec<u8> {
    let (parent, name) = (t.parent(), t.group_name());
    match method {
        "AcquireKey" => pb::AcquireKeyRequest { parent, ..Default::default() }.encode_to_vec(),
        "ReportKeyOutcome" => pb::ReportKeyOutcomeRequest::default().encode_to_vec(),
        "CreateKeyGroup" => {
            pb::CreateKeyGroupRequest { parent, group_id: "g".into(), ..Default::default() }.encode_to_vec()
        }
        "GetKeyGroup" => pb::GetKeyGroupRequest { name }.encode_to_vec(),
        "ListKeyGroups" => pb::ListKeyGroupsRequest { parent, ..Default::default() }.encode_to_vec(),
        "UpdateKeyGroup" => pb::UpdateKeyGroupRequest::default().encode_to_vec(),
        "DeleteKeyGroup" => pb::DeleteKeyGroupRequest { name, ..Default::default() }.encode_to_vec(),
        _ => panic!("no request for {method}"),
    }
}

fn token_request(method: &str, t: &Target) -> Vec<u8> {
    let parent = t.parent();
    let grants = vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }];
    match method {
        "IssueToken" => {
            pb::IssueTokenRequest { parent, subject: "walk".into(), grants, ..Default::default() }.encode_to_vec()
        }
        "ExchangeToken" => pb::ExchangeTokenRequest {
            parent,
            subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
            ..Default::default()
        }
        .encode_to_vec(),
        "RenewToken" => pb::RenewTokenRequest::default().encode_to_vec(),
        "RevokeTokens" => pb::RevokeTokensRequest {
            which: Some(pb::revoke_tokens_request::Which::Name(t.token_name())),
            ..Default::default()
        }
        .encode_to_vec(),
        "GetToken" => pb::GetTokenRequest { name: t.token_name() }.encode_to_vec(),
        "ListTokens" => pb::ListTokensRequest { parent, ..Default::default() }.encode_to_vec(),
        "IntrospectToken" => pb::IntrospectTokenRequest::default().encode_to_vec(),
        "CreateIdentityBinding" => pb::CreateIdentityBindingRequest {
            parent: t.parent(),
            binding: Some(pb::IdentityBinding {
                name: format!("{}/bindings/walked", t.parent()),
                identity: Some(pb::identity_binding::Identity::Certificate("walk.example".into())),
                grants,
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "ListIdentityBindings" => pb::ListIdentityBindingsRequest { parent, ..Default::default() }.encode_to_vec(),
        "DeleteIdentityBinding" => pb::DeleteIdentityBindingRequest {
            name: format!("{}/bindings/{}", t.parent(), t.binding),
            ..Default::default()
        }
        .encode_to_vec(),
        "GetJwks" => pb::GetJwksRequest {}.encode_to_vec(),
        _ => panic!("no request for {method}"),
    }
}

fn audit_request(method: &str, t: &Target) -> Vec<u8> {
    let parent = t.parent();
    match method {
        "ListAuditEvents" => pb::ListAuditEventsRequest { parent, ..Default::default() }.encode_to_vec(),
        "GetAuditEvent" => pb::GetAuditEventRequest {
            parent,
            which: Some(pb::get_audit_event_request::Which::Id(t.event.clone())),
            ..Default::default()
        }
        .encode_to_vec(),
        "StreamAuditEvents" => pb::StreamAuditEventsRequest { parent, ..Default::default() }.encode_to_vec(),
        "GetCheckpoint" => pb::GetCheckpointRequest {}.encode_to_vec(),
        "GetInclusionProof" => pb::GetInclusionProofRequest::default().encode_to_vec(),
        "GetConsistencyProof" => pb::GetConsistencyProofRequest::default().encode_to_vec(),
        "VerifyAuditLog" => pb::VerifyAuditLogRequest::default().encode_to_vec(),
        _ => panic!("no request for {method}"),
    }
}

fn admin_request(method: &str, t: &Target) -> Vec<u8> {
    let org = Some(pb::Org { name: t.parent(), display_name: "Walked".into(), ..Default::default() });
    match method {
        "GetServerStatus" => pb::GetServerStatusRequest {}.encode_to_vec(),
        "CreateOrg" => pb::CreateOrgRequest {
            org_id: "walked".into(),
            admin_identity: "spiffe://test/walked".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        "UpdateOrg" => pb::UpdateOrgRequest {
            org,
            update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
            ..Default::default()
        }
        .encode_to_vec(),
        "ListOrgs" => pb::ListOrgsRequest::default().encode_to_vec(),
        "ShredOrg" => {
            pb::ShredOrgRequest { name: t.parent(), confirm: t.parent(), ..Default::default() }.encode_to_vec()
        }
        "ExportBackup" => pb::ExportBackupRequest::default().encode_to_vec(),
        "RestoreBackup" => pb::RestoreBackupRequest::default().encode_to_vec(),
        _ => panic!("no request for {method}"),
    }
}
