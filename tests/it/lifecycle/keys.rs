//! One key from its creation to its destruction.

use aws_lc_rs::digest::{SHA256, digest};

use super::*;

fn stage(key: &pb::Key, number: u32) -> Option<pb::VersionStage> {
    let name = format!("{}/versions/{number}", key.name);
    key.versions.iter().find(|version| version.name == name).map(pb::KeyVersion::stage)
}

async fn listed(caller: &Caller, show_deleted: bool) -> Vec<pb::Key> {
    let request = pb::ListKeysRequest { show_deleted, ..Default::default() };
    caller.keys().list_keys(request).await.unwrap().into_inner().keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_stored_seen_and_retrieved_with_a_receipt() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let (name, one) = (format!("orgs/{ORG}/keys/openai"), openai("one"));
    let created = create(&admin, "openai", &one).await;
    assert_eq!((created.name.as_str(), created.provider.as_str()), (name.as_str(), "openai"));
    assert_eq!((created.state(), stage(&created, 1)), (pb::KeyState::Active, Some(pb::VersionStage::Current)));

    let [seen] = &listed(&admin, false).await[..] else { panic!("one key") };
    let (first, last) = seen.preview.split_once("...").unwrap();
    assert!(one.starts_with(first) && one.ends_with(last) && (first.len() + last.len()) * 3 <= one.len());
    assert!(!format!("{seen:?}").contains(&one));

    let request =
        pb::RetrieveKeyRequest { name: "openai".to_owned(), purpose: "a test".to_owned(), ..Default::default() };
    let answer = admin.keys().retrieve_key(request).await.unwrap().into_inner();
    assert_eq!(answer.secret.as_ref().unwrap().text, one);
    assert_eq!((answer.key_version.clone(), answer.mock), (version("openai", 1), false));
    assert_eq!(answer.base_url, "https://api.openai.com/v1");
    assert_eq!(answer.auth_scheme.as_ref().unwrap().prefix, "Bearer ");

    // The receipt finds the event, whose record is what was hashed.
    let receipt = answer.receipt.as_ref().unwrap();
    let id = format!("{}.{}", receipt.chain, receipt.sequence);
    let which = pb::get_audit_event_request::Which::Id(id.clone());
    let request = pb::GetAuditEventRequest { which: Some(which), ..Default::default() };
    let event = admin.audit().get_audit_event(request).await.unwrap().into_inner().event.unwrap();
    assert_eq!((event.action.as_str(), event.outcome()), ("key.retrieve", pb::AuditOutcome::Allowed));
    assert_eq!((event.resource.as_str(), event.purpose.as_str()), (name.as_str(), "a test"));
    assert_eq!(event.details["version"], "1");
    assert_eq!(event.leaf_hash, receipt.leaf_hash);
    let leaf = digest(&SHA256, &[&[0], &event.record[..]].concat());
    assert_eq!(leaf.as_ref(), receipt.leaf_hash);
    assert_eq!(events(&admin, "key.retrieve").await[0].id, id, "the listing reads its own writes");

    // Who has it already is told so, and gets no value.
    let request = pb::RetrieveKeyRequest {
        name: "openai".to_owned(),
        if_version_not: answer.key_version.clone(),
        ..Default::default()
    };
    let same = admin.keys().retrieve_key(request).await.unwrap().into_inner();
    assert!(same.not_modified && same.secret.is_none());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_rotated_without_a_gap() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let [one, two, three] = ["one", "two", "three"].map(openai);
    create(&admin, "openai", &one).await;

    rotate(&admin, "openai", &two, false).await;
    assert_eq!(stage(&key(&admin, "openai").await, 2), Some(pb::VersionStage::Pending));
    assert_eq!(value(&admin, "openai").await, one, "a new value changes nothing by itself");
    assert_eq!(value(&admin, &version("openai", "pending")).await, two);
    let promote = |grace| pb::PromoteKeyVersionRequest { name: version("openai", 2), grace, ..Default::default() };
    let early = admin.keys().promote_key_version(promote(None)).await;
    assert_eq!(refused(early), (Code::FailedPrecondition, "VERSION_NOT_VERIFIED".to_owned()));
    let verify = pb::VerifyKeyVersionRequest {
        name: version("openai", 2),
        evidence: "GET /v1/models 200".to_owned(),
        ..Default::default()
    };
    admin.keys().verify_key_version(verify).await.unwrap();
    assert!(format!("{:?}", events(&admin, "key.version.verify").await[0]).contains("GET /v1/models 200"));

    let promoted = admin.keys().promote_key_version(promote(seconds(1_800))).await.unwrap().into_inner().key.unwrap();
    assert_eq!(stage(&promoted, 2), Some(pb::VersionStage::Current));
    assert_eq!(stage(&promoted, 1), Some(pb::VersionStage::Previous));
    assert_eq!(value(&admin, "openai").await, two);
    assert_eq!(value(&admin, &version("openai", "previous")).await, one);
    assert_eq!(value(&admin, &version("openai", 1)).await, one);

    vault.clock.advance(Duration::from_secs(1_801));
    let retired = refused(retrieve(&admin, &version("openai", 1)).await);
    assert_eq!(retired, (Code::FailedPrecondition, "VERSION_RETIRED".to_owned()));
    let none = refused(retrieve(&admin, &version("openai", "previous")).await);
    assert_eq!(none, (Code::NotFound, "VERSION_NOT_FOUND".to_owned()), "there is no PREVIOUS any more");
    let versions = pb::ListKeyVersionsRequest { parent: "openai".to_owned(), ..Default::default() };
    let versions = admin.keys().list_key_versions(versions).await.unwrap().into_inner().versions;
    assert_eq!(
        versions.iter().map(|version| version.stage()).collect::<Vec<_>>(),
        [pb::VersionStage::Current, pb::VersionStage::Retired]
    );
    let back = pb::RollBackKeyVersionRequest { name: "openai".to_owned(), ..Default::default() };
    let late = admin.keys().roll_back_key_version(back.clone()).await;
    assert_eq!(refused(late), (Code::FailedPrecondition, "VERSION_NOT_PREVIOUS".to_owned()));

    rotate(&admin, "openai", &three, true).await;
    assert_eq!(value(&admin, "openai").await, three);
    let back = admin.keys().roll_back_key_version(back).await.unwrap().into_inner().key.unwrap();
    assert_eq!(stage(&back, 2), Some(pb::VersionStage::Current));
    assert_eq!(stage(&back, 3), Some(pb::VersionStage::Pending), "it never was verified");
    assert_eq!(value(&admin, "openai").await, two);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_disabled_deleted_brought_back_and_destroyed() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let one = openai("one");
    create(&admin, "openai", &one).await;
    let name = || "openai".to_owned();

    let disable = pb::DisableKeyRequest { name: name(), reason: "leaked?".to_owned(), ..Default::default() };
    let disabled = admin.keys().disable_key(disable).await.unwrap().into_inner().key.unwrap();
    assert_eq!(disabled.state(), pb::KeyState::Disabled);
    assert_eq!(refused(retrieve(&admin, "openai").await), (Code::FailedPrecondition, "KEY_DISABLED".to_owned()));
    // Nobody waits for the record of a refusal.
    let denied = first_event(&admin, "key.retrieve").await;
    assert_eq!((denied.outcome(), denied.reason.as_str()), (pb::AuditOutcome::Denied, "KEY_DISABLED"));
    let enable = || pb::EnableKeyRequest { name: name(), ..Default::default() };
    admin.keys().enable_key(enable()).await.unwrap();
    assert_eq!(value(&admin, "openai").await, one);

    let delete = pb::DeleteKeyRequest { name: name(), recovery_window: seconds(7_200), ..Default::default() };
    let deleted = admin.keys().delete_key(delete).await.unwrap().into_inner().key.unwrap();
    assert_eq!(deleted.purge_time.unwrap().seconds - deleted.delete_time.unwrap().seconds, 7_200);
    assert_eq!(refused(retrieve(&admin, "openai").await), (Code::FailedPrecondition, "KEY_DELETED".to_owned()));
    assert_eq!((listed(&admin, false).await.len(), listed(&admin, true).await.len()), (0, 1));
    let undelete = pb::UndeleteKeyRequest { name: name(), ..Default::default() };
    let back = admin.keys().undelete_key(undelete).await.unwrap().into_inner().key.unwrap();
    assert_eq!(back.state(), pb::KeyState::Disabled, "somebody looks at it first");
    admin.keys().enable_key(enable()).await.unwrap();
    assert_eq!(value(&admin, "openai").await, one);

    let destroy =
        |confirm: &str| pb::DestroyKeyRequest { name: name(), confirm: confirm.to_owned(), ..Default::default() };
    let unsure = admin.keys().destroy_key(destroy("yes")).await;
    assert_eq!(refused(unsure), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert_eq!(value(&admin, "openai").await, one);
    let gone = admin.keys().destroy_key(destroy(&format!("orgs/{ORG}/keys/openai"))).await.unwrap().into_inner();
    assert!(gone.irrecoverable_time.unwrap().seconds > gone.destroy_time.unwrap().seconds);
    assert_eq!(refused(retrieve(&admin, "openai").await), (Code::NotFound, "KEY_NOT_FOUND".to_owned()));
    assert_eq!(events(&admin, "key.destroy").await.len(), 1);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_purged_with_a_record() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let first = create(&admin, "openai", &openai("one")).await;
    let delete =
        pb::DeleteKeyRequest { name: "openai".to_owned(), recovery_window: seconds(3_600), ..Default::default() };
    admin.keys().delete_key(delete).await.unwrap();
    vault.clock.advance(HOUR + Duration::from_secs(1));
    let admin = vault.admin().await;
    let get = pb::GetKeyRequest { name: "openai".to_owned() };
    let late = admin.keys().get_key(get).await;
    assert_eq!(refused(late), (Code::NotFound, "KEY_NOT_FOUND".to_owned()), "whether it is swept already or not");

    let purged = first_event(&admin, "key.purge").await;
    assert_eq!((purged.resource, purged.subject.as_str()), (first.name, ""), "nobody asked for it then");
    let again = create(&admin, "openai", &openai("two")).await;
    assert_ne!(again.uid, first.uid, "the name is free, and means another key");
    assert_eq!(value(&admin, "openai").await, openai("two"));

    let home = vault.stop().await;
    let raw = Raw::of(&home).await;
    let versions = raw.rows().await.into_iter().filter(|row| row.sort.starts_with("V#")).count();
    assert_eq!(versions, 1, "nothing is left of the first one");
}
