//! KeyVault as the wire sees it: names, confirmations, masks, the shape of answers and refusals.

use std::sync::Arc;

use ibyok::{
    grpc::{
        entry::{Connection, Entry},
        gate::Gate,
        key_vault::KeyVaultService,
        pb::{self, key_vault_server::KeyVault as _},
    },
    service::{call::Call, usage::UsageService},
};
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::fixture::keys::{GROQ, Setting, setting};

struct Wire {
    setting: Setting,
    service: KeyVaultService,
}

async fn wire() -> Wire {
    let setting = setting().await;
    let parts = &setting.fixture.parts;
    let gate = Gate::new(Arc::new(parts.audit.clone()), parts.clock.clone(), TaskTracker::new());
    let usage = UsageService::new(parts.clone());
    Wire { service: KeyVaultService::new(gate, setting.vault.clone(), usage), setting }
}

impl Wire {
    /// A request as the layers hand it on.
    fn request<M>(&self, method: &str, message: M) -> Request<M> {
        let Call { method, claims, peer, time, .. } = self.setting.admin.call(method);
        let mut entry = Entry::new(method, Connection::new(peer), &http::HeaderMap::new(), time);
        entry.claims = claims;
        let mut request = Request::new(message);
        request.extensions_mut().insert(Arc::new(entry));
        request
    }
    async fn create(&self, id: &str) -> pb::Key {
        let message = pb::CreateKeyRequest {
            key_id: id.into(),
            secret: Some(pb::SecretValue { text: GROQ.into() }),
            environment: "production".into(),
            ..Default::default()
        };
        let answer = self.service.create_key(self.request("CreateKey", message)).await.unwrap();
        answer.into_inner().key.unwrap()
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String, Vec<String>) {
    let status = outcome.unwrap_err();
    let details = status.get_error_details();
    let fields = details.bad_request().map(|bad| bad.field_violations.iter().map(|at| at.field.clone()).collect());
    (status.code(), details.error_info().unwrap().reason.clone(), fields.unwrap_or_default())
}

#[tokio::test]
async fn names_may_be_short_and_answers_are_full() {
    let wire = wire().await;
    let key = wire.create("k").await;
    assert_eq!((key.name.as_str(), key.environment.as_str()), ("orgs/acme/keys/k", "production"));
    assert_eq!(key.versions[0].name, "orgs/acme/keys/k/versions/1");
    assert_eq!(key.versions[0].stage(), pb::VersionStage::Current);
    assert_eq!(key.etag, format!("{}.1", key.uid));
    for name in ["k", "orgs/acme/keys/k", "k/versions/1", "k/versions/current"] {
        let message = pb::RetrieveKeyRequest { name: name.into(), ..Default::default() };
        let answer = wire.service.retrieve_key(wire.request("RetrieveKey", message)).await.unwrap().into_inner();
        assert_eq!(answer.secret.as_ref().unwrap().text, GROQ);
        assert_eq!(answer.key_version, "orgs/acme/keys/k/versions/1");
        assert_eq!(answer.receipt.as_ref().unwrap().leaf_hash.len(), 32);
        assert!(!format!("{answer:?}").contains(GROQ));
    }
}

#[tokio::test]
async fn a_foreign_name_answers_as_absent_before_anything_else() {
    let wire = wire().await;
    // Everything else about these is wrong, too.
    let message = pb::CreateKeyRequest { parent: "orgs/rival".into(), key_id: "NO".into(), ..Default::default() };
    let create = refused(wire.service.create_key(wire.request("CreateKey", message)).await);
    assert_eq!((create.0, create.1.as_str()), (Code::NotFound, "ORG_NOT_FOUND"));
    let message = pb::DestroyKeyRequest { name: "orgs/rival/keys/k".into(), ..Default::default() };
    let foreign = wire.service.destroy_key(wire.request("DestroyKey", message)).await.unwrap_err();
    let message = pb::GetKeyRequest { name: "orgs/rival/keys/k".into() };
    let other = wire.service.get_key(wire.request("GetKey", message)).await.unwrap_err();
    let message = pb::GetKeyRequest { name: "absent".into() };
    let absent = wire.service.get_key(wire.request("GetKey", message)).await.unwrap_err();
    for status in [&foreign, &other] {
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (absent.code(), absent.message(), absent.details())
        );
    }
}

#[tokio::test]
async fn what_cannot_be_undone_wants_its_name_twice() {
    let wire = wire().await;
    wire.create("k").await;
    for confirm in ["", "yes", "orgs/acme/keys/other"] {
        let message =
            pb::DestroyKeyRequest { name: "orgs/acme/keys/k".into(), confirm: confirm.into(), ..Default::default() };
        let (code, reason, fields) = refused(wire.service.destroy_key(wire.request("DestroyKey", message)).await);
        assert_eq!((code, reason.as_str(), fields), (Code::InvalidArgument, "INVALID_FIELD", vec!["confirm".into()]));
        let message =
            pb::DestroyKeyVersionRequest { name: "k/versions/1".into(), confirm: confirm.into(), ..Default::default() };
        let request = wire.request("DestroyKeyVersion", message);
        assert_eq!(refused(wire.service.destroy_key_version(request).await).2, ["confirm"]);
    }
    let message = pb::DestroyKeyVersionRequest { name: "k".into(), confirm: "k".into(), ..Default::default() };
    let request = wire.request("DestroyKeyVersion", message);
    assert_eq!(refused(wire.service.destroy_key_version(request).await).2, ["name"], "a version, not the key");
    let message = pb::DestroyKeyRequest { name: "k".into(), confirm: "orgs/acme/keys/k".into(), ..Default::default() };
    let done = wire.service.destroy_key(wire.request("DestroyKey", message)).await.unwrap().into_inner();
    assert!(done.irrecoverable_time.unwrap().seconds > done.destroy_time.unwrap().seconds);
}

#[tokio::test]
async fn an_update_names_what_it_changes_and_bad_input_names_its_field() {
    let wire = wire().await;
    let key = wire.create("k").await;
    let update = |paths: &[&str]| pb::UpdateKeyRequest {
        key: Some(pb::Key { description: "new".into(), base_url: "https://evil.example".into(), ..key.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.into()).collect() }),
        request_id: String::new(),
    };
    let refusal = refused(wire.service.update_key(wire.request("UpdateKey", update(&["base_url"]))).await);
    assert_eq!(refusal.2, ["update_mask"], "nobody sends a key elsewhere without its value");
    let updated = wire.service.update_key(wire.request("UpdateKey", update(&["description"]))).await.unwrap();
    let updated = updated.into_inner().key.unwrap();
    assert_eq!((updated.description.as_str(), &updated.base_url), ("new", &key.base_url));
    let stale = refused(wire.service.update_key(wire.request("UpdateKey", update(&["description"]))).await);
    assert_eq!((stale.0, stale.1.as_str()), (Code::Aborted, "ETAG_MISMATCH"));

    let create = |change: fn(&mut pb::CreateKeyRequest)| {
        let secret = Some(pb::SecretValue { text: GROQ.into() });
        let mut message = pb::CreateKeyRequest { key_id: "l".into(), secret, ..Default::default() };
        change(&mut message);
        wire.service.create_key(wire.request("CreateKey", message))
    };
    for (field, change) in [
        ("key_id", (|m| m.key_id = "UPPER".into()) as fn(&mut pb::CreateKeyRequest)),
        ("secret", |m| m.secret = Some(pb::SecretValue { text: "a".repeat(16_385) })),
        ("secret", |m| m.secret = Some(pb::SecretValue { text: String::new() })),
        ("labels", |m| m.labels = (0..33).map(|n| (n.to_string(), String::new())).collect()),
        ("labels", |m| m.labels = [("k".into(), "v".repeat(256))].into()),
        ("kind", |m| m.kind = 77),
        ("ttl", |m| m.ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
        ("base_url", |m| m.base_url = "http://evil.example".into()),
        ("environment", |m| m.environment = "Prod!".into()),
        ("description", |m| m.description = "d".repeat(1_025)),
        ("request_id", |m| m.request_id = "two words".into()),
    ] {
        let (code, _, fields) = refused(create(change).await);
        assert_eq!((code, fields), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let longest = |m: &mut pb::CreateKeyRequest| {
        m.secret = Some(pb::SecretValue { text: "a".repeat(16_384) });
        m.provider = "custom".into();
        m.base_url = "https://llm.example".into();
    };
    create(longest).await.unwrap();
}

#[tokio::test]
async fn a_bare_name_verifies_and_promotes_the_pending_version() {
    let wire = wire().await;
    wire.create("k").await;
    let secret = Some(pb::SecretValue { text: "gsk_second".into() });
    let message = pb::AddKeyVersionRequest { name: "k".into(), secret, ..Default::default() };
    wire.service.add_key_version(wire.request("AddKeyVersion", message)).await.unwrap();
    let message = pb::VerifyKeyVersionRequest { name: "k".into(), evidence: "200".into(), ..Default::default() };
    let verified = wire.service.verify_key_version(wire.request("VerifyKeyVersion", message)).await.unwrap();
    assert_eq!(verified.into_inner().version.unwrap().name, "orgs/acme/keys/k/versions/2");
    let message = pb::PromoteKeyVersionRequest { name: "k".into(), ..Default::default() };
    let promoted = wire.service.promote_key_version(wire.request("PromoteKeyVersion", message)).await.unwrap();
    let stages: Vec<_> = promoted.into_inner().key.unwrap().versions.iter().map(|v| v.stage()).collect();
    assert_eq!(stages, [pb::VersionStage::Current, pb::VersionStage::Previous]);
}

#[tokio::test]
async fn detection_advises_and_the_rest_is_not_built() {
    use pb::detect_provider_request::Subject;
    let wire = wire().await;
    let detect = |subject| {
        let message = pb::DetectProviderRequest { subject };
        wire.service.detect_provider(wire.request("DetectProvider", message))
    };
    let found = detect(Some(Subject::Secret(pb::SecretValue { text: GROQ.into() }))).await.unwrap().into_inner();
    assert_eq!((found.candidates.len(), found.candidates[0].provider.as_str()), (1, "groq"));
    let found = detect(Some(Subject::Model("claude-x".into()))).await.unwrap().into_inner();
    assert_eq!(found.candidates[0].provider, "anthropic");
    assert_eq!(refused(detect(None).await).2, ["subject"]);
    let message = pb::ListProvidersRequest {};
    let listed = wire.service.list_providers(wire.request("ListProviders", message)).await.unwrap().into_inner();
    assert!(listed.providers.iter().any(|row| row.id == "runway"));
    let request = wire.request("LookupKeys", pb::LookupKeysRequest::default());
    assert_eq!(refused(wire.service.lookup_keys(request).await).0, Code::Unimplemented);
}
