//! A request_id that was used for something else, and etags that are none.

use ibyok::grpc::pb;
use tonic::{Code, Status};

use super::{canary, holds_canary, reason, secret, with_a_key};

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, why: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
    assert!(!holds_canary(&status), "{status:?}");
}

#[tokio::test]
async fn a_request_id_is_not_used_for_something_else() {
    let (vault, admin) = with_a_key().await;
    let create = |key_id: &str, text: &str| pb::CreateKeyRequest {
        key_id: key_id.to_owned(),
        provider: "openai".into(),
        secret: secret(text),
        request_id: canary("-create"),
        ..Default::default()
    };
    admin.keys().create_key(create("first", "sk-proj-first-value")).await.unwrap();
    let reused = (Code::AlreadyExists, "REQUEST_ID_REUSED");
    refused(admin.keys().create_key(create("second", "sk-proj-first-value")).await, reused.0, reused.1);
    refused(admin.keys().create_key(create("first", "sk-proj-other-value")).await, reused.0, reused.1);
    // Of another method it is another request.
    let name = "first".to_owned();
    let disable = |reason: &str| pb::DisableKeyRequest {
        name: name.clone(),
        reason: reason.to_owned(),
        request_id: canary("-create"),
        ..Default::default()
    };
    admin.keys().disable_key(disable("one")).await.unwrap();
    refused(admin.keys().disable_key(disable("another")).await, reused.0, reused.1);

    let issue = |subject: &str| pb::IssueTokenRequest {
        subject: subject.to_owned(),
        grants: vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }],
        request_id: canary("-issue"),
        ..Default::default()
    };
    admin.tokens().issue_token(issue("one")).await.unwrap();
    refused(admin.tokens().issue_token(issue("another")).await, reused.0, reused.1);
    vault.stop().await;
}

#[tokio::test]
async fn an_etag_that_is_not_the_stored_one_is_refused() {
    let (vault, admin) = with_a_key().await;
    let name = || "good".to_owned();
    let found = admin.keys().get_key(pb::GetKeyRequest { name: name() }).await.unwrap().into_inner().key.unwrap();
    let (uid, revision) = found.etag.rsplit_once('.').unwrap();
    let stale = format!("{uid}.{}", revision.parse::<u64>().unwrap() - 1);
    let of_another = format!("{}.{revision}", "a".repeat(uid.len()));
    for etag in [canary(""), ".".into(), stale, of_another, format!("{} ", found.etag), "x".repeat(10_000)] {
        let etag = || etag.clone();
        let key = Some(pb::Key { name: name(), etag: etag(), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["description".into()] });
        let mut keys = admin.keys();
        let moved = |answer| refused(answer, Code::Aborted, "ETAG_MISMATCH");
        moved(keys.update_key(pb::UpdateKeyRequest { key, update_mask, ..Default::default() }).await.map(drop));
        let request =
            pb::AddKeyVersionRequest { name: name(), secret: secret("sk-proj-x"), etag: etag(), ..Default::default() };
        moved(keys.add_key_version(request).await.map(drop));
        let request =
            pb::PromoteKeyVersionRequest { name: name(), allow_unverified: true, etag: etag(), ..Default::default() };
        moved(keys.promote_key_version(request).await.map(drop));
        moved(
            keys.disable_key(pb::DisableKeyRequest { name: name(), etag: etag(), ..Default::default() })
                .await
                .map(drop),
        );
        moved(
            keys.enable_key(pb::EnableKeyRequest { name: name(), etag: etag(), ..Default::default() }).await.map(drop),
        );
        moved(
            keys.delete_key(pb::DeleteKeyRequest { name: name(), etag: etag(), ..Default::default() }).await.map(drop),
        );
        let request = pb::DestroyKeyRequest { name: name(), confirm: name(), etag: etag(), ..Default::default() };
        moved(keys.destroy_key(request).await.map(drop));
    }
    let after = admin.keys().get_key(pb::GetKeyRequest { name: name() }).await.unwrap().into_inner().key.unwrap();
    assert_eq!(after, found);
    vault.stop().await;
}
