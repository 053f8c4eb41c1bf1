//! `ibyok.v1.KeyVault`.

use futures_util::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{
        self,
        bulk::{batch_name, batch_retrieved, rewrap, rewrapped},
        key::{
            candidate, create_key, key, key_update, key_version, list_keys, opt_duration, parse_scheme, provider,
            retrieved, secret, warnings,
        },
        own_name, own_version, page_size, timestamp,
    },
    gate::{Gate, MappedStream},
    import,
    pb::{self, key_vault_server::KeyVault},
};
use crate::{
    domain::{
        error::{Failure, Reason},
        ids::{KeyName, VersionName, VersionSelector},
    },
    service::{
        call::Call,
        usage::UsageService,
        vault::{AddVersion, BatchRetrieve, ListVersions, NAMES_MAX, Promote, Retrieve, Vault},
    },
};

/// The service.
#[derive(Clone, Debug)]
pub struct KeyVaultService {
    gate: Gate,
    vault: Vault,
    usage: UsageService,
}

impl KeyVaultService {
    /// Answers through `gate` by `vault` and `usage`.
    #[must_use]
    pub fn new(gate: Gate, vault: Vault, usage: UsageService) -> Self {
        Self { gate, vault, usage }
    }
}

/// A call that this version does not answer.
macro_rules! not_built {
    ($self:ident, $request:ident) => {
        $self.gate.unary($request, |_, _| async { Err(Failure::new(Reason::NotImplemented)) }).await
    };
}

#[tonic::async_trait]
impl KeyVault for KeyVaultService {
    type ImportKeysStream = MappedStream<pb::ImportKeysResponse>;
    type WatchKeysStream = MappedStream<pb::WatchKeysResponse>;
    type RewrapKeysStream = MappedStream<pb::RewrapKeysResponse>;

    async fn create_key(&self, request: Request<pb::CreateKeyRequest>) -> Answer<pb::CreateKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message| async move {
            let created = vault.create_key(&call, create_key(&call, message)?).await?;
            Ok(pb::CreateKeyResponse { key: Some(key(created.key)), warnings: warnings(&created.warnings) })
        };
        self.gate.unary(request, run).await
    }

    async fn get_key(&self, request: Request<pb::GetKeyRequest>) -> Answer<pb::GetKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::GetKeyRequest| async move {
            let found = vault.key(&call, &key_name(&call, &message.name)?).await?;
            Ok(pb::GetKeyResponse { key: Some(key(found)) })
        };
        self.gate.unary(request, run).await
    }

    async fn list_keys(&self, request: Request<pb::ListKeysRequest>) -> Answer<pb::ListKeysResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message| async move {
            let listed = vault.list_keys(&call, &list_keys(&call, message)?).await?;
            let keys = listed.keys.into_iter().map(key).collect();
            Ok(pb::ListKeysResponse { keys, next_page_token: listed.next_page_token })
        };
        self.gate.unary(request, run).await
    }

    async fn update_key(&self, request: Request<pb::UpdateKeyRequest>) -> Answer<pb::UpdateKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::UpdateKeyRequest| async move {
            let new = message.key.ok_or_else(|| Failure::invalid("key", "required"))?;
            let name = own_name(&call, "key.name", &new.name, Reason::KeyNotFound)?;
            let etag = new.etag.clone();
            let update = key_update(new, message.update_mask)?;
            let updated = vault.update_key(&call, &name, &update, &etag, &message.request_id).await?;
            Ok(pb::UpdateKeyResponse { key: Some(key(updated)) })
        };
        self.gate.unary(request, run).await
    }

    async fn retrieve_key(&self, request: Request<pb::RetrieveKeyRequest>) -> Answer<pb::RetrieveKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::RetrieveKeyRequest| async move {
            let name = own_version(&call, &message.name)?;
            let pb::RetrieveKeyRequest { purpose, if_version_not, mock, .. } = message;
            vault.retrieve_key(&call, &Retrieve { name, purpose, if_version_not, mock }).await.map(retrieved)
        };
        self.gate.unary(request, run).await
    }

    async fn add_key_version(&self, request: Request<pb::AddKeyVersionRequest>) -> Answer<pb::AddKeyVersionResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::AddKeyVersionRequest| async move {
            let name = key_name(&call, &message.name)?;
            let value = secret("secret", message.secret)?.ok_or_else(|| Failure::invalid("secret", "required"))?;
            let request = AddVersion {
                name,
                secret: value,
                base_url: message.base_url,
                auth_scheme: message.auth_scheme.map(parse_scheme),
                etag: message.etag,
                request_id: message.request_id,
            };
            let added = vault.add_version(&call, request).await?;
            let version = Some(key_version(added.version));
            Ok(pb::AddKeyVersionResponse { version, warnings: warnings(&added.warnings) })
        };
        self.gate.unary(request, run).await
    }

    async fn verify_key_version(
        &self,
        request: Request<pb::VerifyKeyVersionRequest>,
    ) -> Answer<pb::VerifyKeyVersionResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::VerifyKeyVersionRequest| async move {
            let name = staged(&call, &message.name)?;
            let verified = vault.verify_version(&call, &name, &message.evidence, &message.request_id).await?;
            Ok(pb::VerifyKeyVersionResponse { version: Some(key_version(verified)) })
        };
        self.gate.unary(request, run).await
    }

    async fn promote_key_version(
        &self,
        request: Request<pb::PromoteKeyVersionRequest>,
    ) -> Answer<pb::PromoteKeyVersionResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::PromoteKeyVersionRequest| async move {
            let name = staged(&call, &message.name)?;
            let grace = opt_duration("grace", message.grace)?;
            let pb::PromoteKeyVersionRequest { allow_unverified, etag, request_id, .. } = message;
            let request = Promote { name, grace, allow_unverified, etag, request_id };
            let promoted = vault.promote_version(&call, &request).await?;
            Ok(pb::PromoteKeyVersionResponse { key: Some(key(promoted)) })
        };
        self.gate.unary(request, run).await
    }

    async fn roll_back_key_version(
        &self,
        request: Request<pb::RollBackKeyVersionRequest>,
    ) -> Answer<pb::RollBackKeyVersionResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::RollBackKeyVersionRequest| async move {
            let name = key_name(&call, &message.name)?;
            let rolled = vault.roll_back_version(&call, &name, &message.etag, &message.request_id).await?;
            Ok(pb::RollBackKeyVersionResponse { key: Some(key(rolled)) })
        };
        self.gate.unary(request, run).await
    }

    async fn destroy_key_version(
        &self,
        request: Request<pb::DestroyKeyVersionRequest>,
    ) -> Answer<pb::DestroyKeyVersionResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::DestroyKeyVersionRequest| async move {
            let name = own_version(&call, &message.name)?;
            // The other selectors move: nobody destroys what he did not name.
            if !matches!(name.version, VersionSelector::Number(_)) {
                return Err(Failure::invalid("name", "orgs/{org}/keys/{key}/versions/{number}"));
            }
            confirmed(&message.confirm, &message.name, &name.to_string())?;
            let done = vault.destroy_version(&call, &name, &message.etag, &message.request_id).await?;
            let irrecoverable_time = Some(timestamp(done.destroyed.irrecoverable));
            Ok(pb::DestroyKeyVersionResponse { version: Some(key_version(done.version)), irrecoverable_time })
        };
        self.gate.unary(request, run).await
    }

    async fn list_key_versions(
        &self,
        request: Request<pb::ListKeyVersionsRequest>,
    ) -> Answer<pb::ListKeyVersionsResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::ListKeyVersionsRequest| async move {
            let name = own_name(&call, "parent", &message.parent, Reason::KeyNotFound)?;
            let page_size = page_size(message.page_size)?;
            let request = ListVersions { name, page_size, page_token: message.page_token };
            let listed = vault.list_versions(&call, &request).await?;
            let versions = listed.versions.into_iter().map(key_version).collect();
            Ok(pb::ListKeyVersionsResponse { versions, next_page_token: listed.next_page_token })
        };
        self.gate.unary(request, run).await
    }

    async fn disable_key(&self, request: Request<pb::DisableKeyRequest>) -> Answer<pb::DisableKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::DisableKeyRequest| async move {
            let name = key_name(&call, &message.name)?;
            let done = vault.disable_key(&call, &name, &message.reason, &message.etag, &message.request_id).await?;
            Ok(pb::DisableKeyResponse { key: Some(key(done)) })
        };
        self.gate.unary(request, run).await
    }

    async fn enable_key(&self, request: Request<pb::EnableKeyRequest>) -> Answer<pb::EnableKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::EnableKeyRequest| async move {
            let name = key_name(&call, &message.name)?;
            let done = vault.enable_key(&call, &name, &message.etag, &message.request_id).await?;
            Ok(pb::EnableKeyResponse { key: Some(key(done)) })
        };
        self.gate.unary(request, run).await
    }

    async fn delete_key(&self, request: Request<pb::DeleteKeyRequest>) -> Answer<pb::DeleteKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::DeleteKeyRequest| async move {
            let name = key_name(&call, &message.name)?;
            let window = opt_duration("recovery_window", message.recovery_window)?;
            let pb::DeleteKeyRequest { allow_missing, etag, request_id, .. } = message;
            let done = vault.delete_key(&call, &name, window, allow_missing, &etag, &request_id).await?;
            Ok(pb::DeleteKeyResponse { key: done.map(key) })
        };
        self.gate.unary(request, run).await
    }

    async fn undelete_key(&self, request: Request<pb::UndeleteKeyRequest>) -> Answer<pb::UndeleteKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::UndeleteKeyRequest| async move {
            let name = key_name(&call, &message.name)?;
            let done = vault.undelete_key(&call, &name, &message.request_id).await?;
            Ok(pb::UndeleteKeyResponse { key: Some(key(done)) })
        };
        self.gate.unary(request, run).await
    }

    async fn destroy_key(&self, request: Request<pb::DestroyKeyRequest>) -> Answer<pb::DestroyKeyResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::DestroyKeyRequest| async move {
            let name = key_name(&call, &message.name)?;
            confirmed(&message.confirm, &message.name, &name.to_string())?;
            let done = vault.destroy_key(&call, &name, &message.etag, &message.request_id).await?;
            Ok(pb::DestroyKeyResponse {
                destroy_time: Some(timestamp(done.time)),
                irrecoverable_time: Some(timestamp(done.irrecoverable)),
            })
        };
        self.gate.unary(request, run).await
    }

    async fn detect_provider(&self, request: Request<pb::DetectProviderRequest>) -> Answer<pb::DetectProviderResponse> {
        use pb::detect_provider_request::Subject;
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::DetectProviderRequest| async move {
            let found = match message.subject {
                Some(Subject::Secret(value)) => {
                    let value = secret("secret", Some(value))?.ok_or(Reason::Internal)?;
                    vault.detect_secret(&call, &value).await?
                }
                Some(Subject::Model(model)) => vault.detect_model(&call, &model).await?,
                None => return Err(Failure::invalid("subject", "a secret or a model")),
            };
            Ok(pb::DetectProviderResponse { candidates: found.into_iter().map(candidate).collect() })
        };
        self.gate.unary(request, run).await
    }

    async fn list_providers(&self, request: Request<pb::ListProvidersRequest>) -> Answer<pb::ListProvidersResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, _| async move {
            let providers = vault.list_providers(&call).await?;
            Ok(pb::ListProvidersResponse { providers: providers.into_iter().map(provider).collect() })
        };
        self.gate.unary(request, run).await
    }

    async fn import_keys(&self, request: Request<Streaming<pb::ImportKeysRequest>>) -> Answer<Self::ImportKeysStream> {
        import::answer(&self.gate, &self.vault, request).await
    }

    async fn batch_retrieve_keys(
        &self,
        request: Request<pb::BatchRetrieveKeysRequest>,
    ) -> Answer<pb::BatchRetrieveKeysResponse> {
        let vault = self.vault.clone();
        let run = move |call: Call, message: pb::BatchRetrieveKeysRequest| async move {
            let pb::BatchRetrieveKeysRequest { names, purpose } = message;
            // One too many is as many too many: no more are looked at to refuse the call.
            let names = names.iter().take(NAMES_MAX + 1).enumerate();
            let names: Vec<_> = names.map(|(n, name)| batch_name(&call, n, name)).collect();
            let keys: Vec<_> = names.iter().map(|name| name.as_ref().ok().map(|name| name.key.clone())).collect();
            let results = vault.batch_retrieve(&call, BatchRetrieve { names, purpose }).await?;
            Ok(batch_retrieved(keys.into_iter().zip(results)))
        };
        self.gate.batch(request, run).await
    }

    async fn watch_keys(&self, request: Request<pb::WatchKeysRequest>) -> Answer<Self::WatchKeysStream> {
        self.gate.stream(request, |_, _| async { none() }).await
    }

    async fn rewrap_keys(&self, request: Request<pb::RewrapKeysRequest>) -> Answer<Self::RewrapKeysStream> {
        let vault = self.vault.clone();
        let run = move |call: Call, message| async move {
            let request = rewrap(&call, message)?;
            Ok(vault.rewrap(call, request).await?.map(|report| report.map(rewrapped)))
        };
        self.gate.stream(request, run).await
    }

    async fn list_key_consumers(
        &self,
        request: Request<pb::ListKeyConsumersRequest>,
    ) -> Answer<pb::ListKeyConsumersResponse> {
        let usage = self.usage.clone();
        let run = move |call: Call, message| async move {
            usage
                .consumers(&call, &convert::usage::list_consumers(&call, message)?)
                .await
                .map(convert::usage::consumers)
        };
        self.gate.unary(request, run).await
    }

    async fn lookup_keys(&self, request: Request<pb::LookupKeysRequest>) -> Answer<pb::LookupKeysResponse> {
        not_built!(self, request)
    }

    async fn get_usage(&self, request: Request<pb::GetUsageRequest>) -> Answer<pb::GetUsageResponse> {
        let usage = self.usage.clone();
        let run = move |call: Call, message| async move {
            let request = convert::usage::get_usage(&call, message)?;
            let page = usage.usage(&call, &request).await?;
            Ok(convert::usage::usage(&request.group_by, page))
        };
        self.gate.unary(request, run).await
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn none<T>() -> Result<futures_util::stream::Empty<Result<T, Failure>>, Failure> {
    Err(Reason::NotImplemented.into())
}

fn key_name(call: &Call, text: &str) -> Result<KeyName, Failure> {
    own_name(call, "name", text, Reason::KeyNotFound)
}

/// A staged version: the bare name of a key means its pending one.
fn staged(call: &Call, text: &str) -> Result<VersionName, Failure> {
    let name = own_version(call, text)?;
    let is_bare = !text.contains("/versions/");
    Ok(if is_bare { VersionName { version: VersionSelector::Pending, ..name } } else { name })
}

/// Refuses what can't be undone unless the name is repeated, as it was given or in full.
fn confirmed(confirm: &str, given: &str, full: &str) -> Result<(), Failure> {
    if !confirm.is_empty() && (confirm == given || confirm == full) {
        return Ok(());
    }
    Err(Failure::invalid("confirm", "the name once more: this can't be undone"))
}
