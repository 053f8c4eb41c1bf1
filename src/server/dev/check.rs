//! The self-check of `dev`, by the front door like anyone: exchange the certificate for tokens,
//! store a sample key, retrieve it over mutual TLS, find the record of that in the audit log.

use std::net::SocketAddr;

use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;
use zeroize::Zeroizing;

use super::{ORG, files::Directory};
use crate::{
    domain::ids::OrgId,
    grpc::pb::{
        AuditReceipt, CreateKeyRequest, ExchangeTokenRequest, GetAuditEventRequest, RetrieveKeyRequest, SecretValue,
        audit_client::AuditClient, exchange_token_request::Subject, get_audit_event_request::Which,
        key_vault_client::KeyVaultClient, tokens_client::TokensClient,
    },
    server::ServerError,
};

/// The sample key's id.
pub(super) const SAMPLE: &str = "sample";
/// What is stored under it: it opens nothing.
const SAMPLE_SECRET: &str = "sk-ibyok-sample-0123456789abcdef0123456789abcdef";
/// The life of the tokens; each start makes new ones.
const TOKEN_HOURS: i64 = 12;

/// What the check found, a line each.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) stored: String,
    pub(super) retrieved: String,
    pub(super) recorded: String,
}

/// Writes the tokens and looks whether the vault does what it is for.
pub(super) async fn check(directory: &Directory, address: SocketAddr) -> Result<Checked, ServerError> {
    let channel = connect(directory, address).await?;
    let token = exchange(&channel, ORG).await?;
    directory.write("token", &token)?;
    directory.write("admin-token", &exchange(&channel, OrgId::SYSTEM).await?)?;

    let bearer = Bearer::new(&token)?;
    let name = format!("orgs/{ORG}/keys/{SAMPLE}");
    let stored = store(&channel, &bearer, &name).await?;
    match retrieve(&channel, &bearer).await {
        Ok((version, receipt)) => {
            let recorded = recorded(&channel, &bearer, &name, &receipt).await?;
            Ok(Checked { stored, retrieved: format!("{version} over mutual TLS"), recorded })
        }
        // Whoever disabled or deleted the sample meant it; the vault works all the same.
        Err(status) if status.code() == Code::FailedPrecondition => Ok(Checked {
            stored,
            retrieved: format!("nothing: {}", status.message()),
            recorded: "the refusal; undelete or enable the sample key to see a retrieval".to_owned(),
        }),
        Err(status) => Err(failed("RetrieveKey", &status)),
    }
}

async fn connect(directory: &Directory, address: SocketAddr) -> Result<Channel, ServerError> {
    let key = Zeroizing::new(directory.read("client.key")?);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(directory.read("ca.pem")?))
        .identity(Identity::from_pem(directory.read("client.pem")?, key.as_str()))
        .domain_name("localhost");
    let transport = |error: tonic::transport::Error| ServerError::SelfCheck(error.to_string());
    let endpoint = Endpoint::from_shared(format!("https://{address}")).and_then(|endpoint| endpoint.tls_config(tls));
    endpoint.map_err(transport)?.connect().await.map_err(transport)
}

async fn exchange(channel: &Channel, org: &str) -> Result<Zeroizing<String>, ServerError> {
    let request = ExchangeTokenRequest {
        subject: Some(Subject::ClientCertificate(true)),
        parent: format!("orgs/{org}"),
        ttl: Some(prost_types::Duration { seconds: TOKEN_HOURS * 3_600, nanos: 0 }),
        ..ExchangeTokenRequest::default()
    };
    let answer = TokensClient::new(channel.clone()).exchange_token(request).await;
    let answer = answer.map_err(|status| failed("ExchangeToken", &status))?.into_inner();
    let token = answer.access_token.ok_or_else(|| ServerError::SelfCheck("ExchangeToken answered no token".into()))?;
    Ok(Zeroizing::new(token.text.clone()))
}

/// Stores the sample key if there is none; answers what to say of it.
async fn store(channel: &Channel, bearer: &Bearer, name: &str) -> Result<String, ServerError> {
    let request = CreateKeyRequest {
        key_id: SAMPLE.to_owned(),
        secret: Some(SecretValue { text: SAMPLE_SECRET.to_owned() }),
        provider: "openai".to_owned(),
        description: "Made by ibyok-server dev; it opens nothing.".to_owned(),
        ..CreateKeyRequest::default()
    };
    match KeyVaultClient::new(channel.clone()).create_key(bearer.on(request)).await {
        Ok(_) => Ok(name.to_owned()),
        Err(status) if status.code() == Code::AlreadyExists => Ok(format!("{name} (by an earlier start)")),
        Err(status) => Err(failed("CreateKey", &status)),
    }
}

async fn retrieve(channel: &Channel, bearer: &Bearer) -> Result<(String, AuditReceipt), Status> {
    let request = RetrieveKeyRequest {
        name: SAMPLE.to_owned(),
        purpose: "self-check of ibyok-server dev".to_owned(),
        ..RetrieveKeyRequest::default()
    };
    let mut answer = KeyVaultClient::new(channel.clone()).retrieve_key(bearer.on(request)).await?.into_inner();
    if answer.secret.as_ref().is_none_or(|secret| secret.text.is_empty()) {
        return Err(Status::internal("no secret was answered"));
    }
    let receipt = answer.receipt.take().ok_or_else(|| Status::internal("no receipt was answered"))?;
    Ok((std::mem::take(&mut answer.key_version), receipt))
}

async fn recorded(
    channel: &Channel,
    bearer: &Bearer,
    name: &str,
    receipt: &AuditReceipt,
) -> Result<String, ServerError> {
    let id = format!("{}.{}", receipt.chain, receipt.sequence);
    let request = GetAuditEventRequest { which: Some(Which::Id(id.clone())), ..GetAuditEventRequest::default() };
    let answer = AuditClient::new(channel.clone()).get_audit_event(bearer.on(request)).await;
    let event = answer.map_err(|status| failed("GetAuditEvent", &status))?.into_inner().event.unwrap_or_default();
    if event.action != "key.retrieve" || !event.resource.starts_with(name) || event.leaf_hash != receipt.leaf_hash {
        return Err(ServerError::SelfCheck("the record of the retrieval is not what its receipt says".into()));
    }
    Ok(format!("{} as event {id}", event.action))
}

/// The token, as each call carries it.
struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl Bearer {
    fn new(token: &str) -> Result<Self, ServerError> {
        let text = Zeroizing::new(format!("Bearer {token}"));
        let mut value: MetadataValue<_> =
            text.parse().map_err(|_| ServerError::SelfCheck("the token is no header value".into()))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
    fn on<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.0.clone());
        request
    }
}

fn failed(call: &str, status: &Status) -> ServerError {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default();
    ServerError::SelfCheck(format!("{call}: {} {reason}", status.message()))
}
