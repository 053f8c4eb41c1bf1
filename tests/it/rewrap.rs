//! RewrapKeys: a vault moves to another KMS key and the old one can go; going on after a cut, beside
//! rotations, with keys that can't be changed, for callers who may not see all.

mod at_aws;
mod kms;
mod places;
mod replicas;

use std::{collections::BTreeMap, fs, time::Duration};

use futures_util::StreamExt as _;
use ibyok::{
    domain::{
        clock::{Clock as _, SystemEntropy},
        error::{Failure, Reason},
        secret::KmsKeyId,
        token::{GrantText, TokenMode},
    },
    grpc::pb,
    kms::{
        fake::{FakeKms, Fault},
        local::LocalKeyWrapper,
    },
    repository::audit::AuditRecord,
    service::vault::{Rewrap, Rewrapped, Vault as Keys},
    store::{Action, Condition, ItemKey, NewItem},
};

use crate::{
    fixture::{
        Caller as Holder,
        keys::{GROQ, Setting, add, create, new_key, reason, retrieve, setting, value},
        scopes,
    },
    harness::{Caller, Home, ORG, Vault},
};

/// Values of Groq's shape, one for each number.
fn canary(number: usize) -> String {
    format!("gsk_aB3daB3daB3daB3daB3daB3daB3daB3daB3daB3daB3da{number:03}")
}

async fn rewrap(caller: &Caller, request: pb::RewrapKeysRequest) -> Vec<pb::RewrapKeysResponse> {
    let mut reports = caller.keys().rewrap_keys(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(report) = reports.message().await.unwrap() {
        all.push(report);
    }
    all
}

/// Done, failed, re-encrypted.
fn counts(reports: &[pb::RewrapKeysResponse]) -> (i64, i64, i64) {
    let last = reports.last().unwrap();
    assert_eq!((last.done, last.resume_token.as_str()), (last.total, ""));
    (last.done, last.failed, last.rewrapped)
}

async fn store(admin: &Caller, id: &str, secret: &str) {
    let secret = Some(pb::SecretValue { text: secret.into() });
    let request = pb::CreateKeyRequest { key_id: id.into(), secret, ..Default::default() };
    admin.keys().create_key(request).await.unwrap();
}

async fn rotate(admin: &Caller, id: &str, secret: &str) {
    let secret = Some(pb::SecretValue { text: secret.into() });
    let request = pb::AddKeyVersionRequest { name: id.into(), secret, ..Default::default() };
    admin.keys().add_key_version(request).await.unwrap();
    let request = pb::PromoteKeyVersionRequest { name: id.into(), allow_unverified: true, ..Default::default() };
    admin.keys().promote_key_version(request).await.unwrap();
}

async fn read(admin: &Caller, name: &str) -> String {
    let request = pb::RetrieveKeyRequest { name: name.into(), ..Default::default() };
    admin.keys().retrieve_key(request).await.unwrap().into_inner().secret.unwrap().text.clone()
}

/// The vault after a restart with a new master key, and that and the old one.
async fn with_another_key(vault: Vault) -> (Vault, [String; 2]) {
    let home = vault.stop().await;
    let keys = another_key(&home);
    let vault = serve_with(home, &keys.each_ref().map(String::as_str)).await;
    (vault, keys)
}

/// A new master key, and that of the vault.
fn another_key(home: &Home) -> [String; 2] {
    let old = fs::read_to_string(home.path().join("master.keys")).unwrap();
    let fresh = home.path().join("fresh.keys");
    LocalKeyWrapper::create_file(&fresh, &SystemEntropy).unwrap();
    [fs::read_to_string(&fresh).unwrap(), old]
}

/// Serves the vault with these master keys, the primary first.
async fn serve_with(home: Home, keys: &[&str]) -> Vault {
    fs::write(home.path().join("master.keys"), keys.join("\n")).unwrap();
    home.serve("").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_moves_to_another_master_key_and_the_old_one_goes() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    for number in 0..20 {
        store(&admin, &format!("k{number}"), &canary(number)).await;
    }
    // Of one there are a previous, a retired and a staged version; another is deleted.
    for number in [100, 101] {
        rotate(&admin, "k0", &canary(number)).await;
    }
    let staged = Some(pb::SecretValue { text: canary(102) });
    let request = pb::AddKeyVersionRequest { name: "k0".into(), secret: staged, ..Default::default() };
    admin.keys().add_key_version(request).await.unwrap();
    let request = pb::DeleteKeyRequest { name: "k1".into(), ..Default::default() };
    admin.keys().delete_key(request).await.unwrap();

    let (vault, [new, _]) = with_another_key(vault).await;
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    // 20 keys with 23 versions, and the organization's own key.
    let dry = rewrap(&admin, pb::RewrapKeysRequest { dry_run: true, ..Default::default() }).await;
    assert_eq!(counts(&dry), (20, 0, 24));
    let done = rewrap(&admin, pb::RewrapKeysRequest::default()).await;
    assert_eq!(counts(&done), (20, 0, 24), "a dry run changed nothing");
    assert!(done.windows(2).all(|pair| pair[0].done <= pair[1].done) && done.len() > 2, "progress: {done:?}");
    assert_eq!(counts(&rewrap(&admin, pb::RewrapKeysRequest::default()).await), (20, 0, 0), "nothing twice");
    // Those of the system: its own, and the vault's record, signing and page keys.
    assert_eq!(counts(&rewrap(&operator, pb::RewrapKeysRequest::default()).await), (0, 0, 4));
    let filter = pb::AuditFilter { actions: vec!["key.rewrap".into()], ..Default::default() };
    let events = admin.audit_events(pb::ListAuditEventsRequest { filter: Some(filter), ..Default::default() }).await;
    let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        *recorded.entry(AuditRecord::read(&event.record).unwrap().resource).or_default() += 1;
    }
    assert_eq!(recorded.len(), 21);
    assert!(recorded.contains_key(&format!("orgs/{ORG}")) && recorded.values().all(|count| *count == 1));
    assert_eq!(recorded[&format!("orgs/{ORG}/keys/k1")], 1, "a deleted key can come back");

    // Without the old key everything still opens.
    let vault = serve_with(vault.stop().await, &[&new]).await;
    let admin = vault.admin().await;
    for number in 2..20 {
        assert_eq!(read(&admin, &format!("k{number}")).await, canary(number));
    }
    for (version, number) in [("current", 101), ("previous", 100), ("pending", 102)] {
        assert_eq!(read(&admin, &format!("k0/versions/{version}")).await, canary(number));
    }
    let request = pb::UndeleteKeyRequest { name: "k1".into(), ..Default::default() };
    admin.keys().undelete_key(request).await.unwrap();
    admin.keys().enable_key(pb::EnableKeyRequest { name: "k1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(read(&admin, "k1").await, canary(1));
    let request = pb::CreateKeyRequest {
        key_id: "again".into(),
        secret: Some(pb::SecretValue { text: canary(7) }),
        request_id: "once".into(),
        ..Default::default()
    };
    let warnings = admin.keys().create_key(request).await.unwrap().into_inner().warnings;
    assert_eq!(warnings.len(), 1, "fingerprints are the same: {warnings:?}");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrap_that_was_cut_goes_on_and_rotations_beside_it_lose_nothing() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    for number in 0..40 {
        store(&admin, &format!("k{number:02}"), &canary(number)).await;
    }
    let (vault, [new, old]) = with_another_key(vault).await;
    let admin = vault.admin().await;

    let mut reports = admin.keys().rewrap_keys(pb::RewrapKeysRequest::default()).await.unwrap().into_inner();
    let cut = loop {
        let report = reports.message().await.unwrap().unwrap();
        if !report.resume_token.is_empty() {
            break report;
        }
    };
    drop(reports);
    let request = pb::RewrapKeysRequest { resume_token: cut.resume_token.clone(), ..Default::default() };
    let rotating = async {
        for number in 0..40 {
            rotate(&admin, &format!("k{number:02}"), &canary(100 + number)).await;
        }
    };
    let (rest, ()) = tokio::join!(rewrap(&admin, request.clone()), rotating);
    assert_eq!((rest[0].done, rest[0].total), (cut.done, 40), "it went on from there");
    assert_eq!(counts(&rest).1, 0, "whoever was slower tried again: {rest:?}");
    // What was rotated after it was passed by is under the new key, which is primary.
    rewrap(&admin, pb::RewrapKeysRequest::default()).await;
    let other = pb::RewrapKeysRequest { dry_run: true, ..request };
    let refused = admin.keys().rewrap_keys(other).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "of a dry run it says nothing");

    let home = vault.stop().await;
    // The system's keys were not asked for: they need the old one.
    let vault = serve_with(home, &[&new, &old]).await;
    let operator = vault.operator().await;
    rewrap(&operator, pb::RewrapKeysRequest::default()).await;
    let vault = serve_with(vault.stop().await, &[&new]).await;
    let admin = vault.admin().await;
    for number in 0..40 {
        assert_eq!(read(&admin, &format!("k{number:02}")).await, canary(100 + number));
        assert_eq!(read(&admin, &format!("k{number:02}/versions/previous")).await, canary(number));
    }
    vault.stop().await;
}

async fn run(keys: &Keys, holder: &Holder, to: &str) -> Result<Vec<Rewrapped>, Failure> {
    let reports = keys.rewrap(holder.call("RewrapKeys"), request(holder, to)).await?;
    reports.collect::<Vec<_>>().await.into_iter().collect()
}

fn request(holder: &Holder, to: &str) -> Rewrap {
    let kms_key = Some(KmsKeyId(to.to_owned()));
    Rewrap { org: holder.claims.org.clone(), kms_key, dry_run: false, resume_token: String::new() }
}

/// Done, failed, re-encrypted.
type Counts = (u64, u64, u64);

/// How it ended, and the names and reasons of the failures.
fn ended(reports: &[Rewrapped]) -> (Counts, Vec<(&str, Reason)>) {
    let last = reports.last().unwrap();
    assert_eq!((last.done, last.resume_token.as_str()), (last.total, ""));
    let failures = reports.iter().flat_map(|report| &report.failures);
    let failures: Vec<_> = failures.map(|(name, failure)| (name.as_str(), failure.reason)).collect();
    ((last.done, last.failed, last.rewrapped), failures)
}

async fn with_keys(count: usize) -> Setting {
    let setting = setting().await;
    for number in 0..count {
        let request = new_key(&setting.org, &format!("k{number}"), &canary(number));
        create(&setting.vault, &setting.admin, request).await.unwrap();
    }
    setting
}

#[tokio::test]
async fn a_key_that_can_not_be_changed_is_named_and_the_others_go_on() {
    let Setting { fixture, vault, org, admin } = with_keys(3).await;
    // Somebody wrote to the database.
    let stolen = fixture.partition("O#acme#K#k0").into_iter().find(|item| item.key.sort == "V#00000001").unwrap();
    let forged = NewItem {
        key: ItemKey::new("O#acme#K#k1", "V#00000001"),
        expires: None,
        sealed: stolen.sealed,
        mac: stolen.mac,
        attributes: stolen.attributes,
    };
    fixture.write(vec![Action::Put(forged, Condition::Any)]).await;
    let reports = run(&vault, &admin, FakeKms::OTHER).await.unwrap();
    let last = reports.last().unwrap();
    assert_eq!((last.done, last.total, last.failed, last.rewrapped), (3, 3, 1, 3));
    let failures: Vec<_> = reports.iter().flat_map(|report| &report.failures).collect();
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].0.as_str(), failures[0].1.reason), ("orgs/acme/keys/k1", Reason::RecordRejected));
    // The old KMS key is off: what was rewrapped opens, and what was not says why.
    fixture.kms.disable(&KmsKeyId(FakeKms::PRIMARY.to_owned()));
    assert_eq!(value(&retrieve(&vault, &admin, "k0").await.unwrap()), canary(0));
    assert_eq!(reason(retrieve(&vault, &admin, "k1").await), Reason::KmsKeyDisabled);
    assert_eq!(reason(create(&vault, &admin, new_key(&org, "new", GROQ)).await), Reason::KmsKeyDisabled);
    fixture.parts.audit.close().await;
    let recorded = fixture.recorded("key.rewrap");
    let of_k1: Vec<_> = recorded.iter().filter(|record| record.resource == "orgs/acme/keys/k1").collect();
    assert_eq!(of_k1.len(), 1);
    assert_eq!((of_k1[0].outcome, of_k1[0].reason.as_str()), (3, "RECORD_REJECTED"));
}

#[tokio::test]
async fn a_key_under_a_disabled_kms_key_fails_alone_and_a_kms_that_is_away_ends_it() {
    let Setting { fixture, vault, admin, .. } = with_keys(2).await;
    let other = fixture.org("other", false, Some(FakeKms::OTHER)).await;
    let others = fixture.admin(&other).await;
    create(&vault, &others, new_key(&other, "k", &canary(9))).await.unwrap();
    fixture.kms.disable(&KmsKeyId(FakeKms::OTHER.to_owned()));
    assert_eq!(reason(run(&vault, &admin, FakeKms::OTHER).await), Reason::KmsKeyDisabled, "the one to go to");
    assert_eq!(reason(run(&vault, &admin, "fake:none").await), Reason::KmsKeyRefused);
    // The one to come from: its organization's own key, too.
    let reports = run(&vault, &others, FakeKms::PRIMARY).await.unwrap();
    let last = reports.last().unwrap();
    assert_eq!((last.done, last.failed, last.rewrapped), (1, 2, 0));
    let failed: Vec<_> = reports.iter().flat_map(|report| &report.failures).map(|(name, _)| name.as_str()).collect();
    assert_eq!(failed, ["orgs/other", "orgs/other/keys/k"]);

    fixture.kms.enable(&KmsKeyId(FakeKms::OTHER.to_owned()));
    let request = request(&admin, FakeKms::OTHER);
    let mut reports = Box::pin(vault.rewrap(admin.call("RewrapKeys"), request).await.unwrap());
    let first = reports.next().await.unwrap().unwrap();
    assert_eq!((first.done, first.total, first.rewrapped), (0, 2, 1));
    fixture.kms.fail(Some(Fault::Unavailable));
    assert_eq!(reports.next().await.unwrap().unwrap_err().reason, Reason::KmsUnavailable);
    assert!(reports.next().await.is_none());
    fixture.kms.fail(None);
    let before = fixture.kms.calls();
    let last = run(&vault, &admin, FakeKms::OTHER).await.unwrap().pop().unwrap();
    assert_eq!((last.done, last.failed, last.rewrapped), (2, 0, 2));
    let after = fixture.kms.calls();
    assert_eq!((after.rewrap, after.unwrap), (before.rewrap + 2, before.unwrap), "no value was opened");
}

#[tokio::test]
async fn a_dry_run_asks_the_kms_for_no_data_key_that_is_stored() {
    let Setting { fixture, vault, admin, .. } = with_keys(3).await;
    add(&vault, &admin, "k1", &canary(50)).await.unwrap();
    let before = fixture.kms.calls();
    let request = Rewrap { dry_run: true, ..request(&admin, FakeKms::OTHER) };
    let reports = vault.rewrap(admin.call("RewrapKeys"), request).await.unwrap();
    let reports: Vec<_> = reports.map(Result::unwrap).collect().await;
    assert_eq!(ended(&reports).0, (3, 0, 5));
    let after = fixture.kms.calls();
    assert_eq!((after.rewrap, after.unwrap), (0, before.unwrap));
    assert_eq!(after.generate, before.generate + 1, "the key to go to is tried");
}

#[tokio::test]
async fn a_record_says_when_its_key_was_rewrapped_and_not_when_the_stream_began() {
    const LATER: Duration = Duration::from_secs(5_400);
    let Setting { fixture, vault, org, admin } = with_keys(3).await;
    fixture.write(vec![Action::Delete(ItemKey::new("O#acme#K#k2", "V#00000001"), Condition::Any)]).await;
    let began = fixture.clock.now();
    let reports = vault.rewrap(admin.call("RewrapKeys"), request(&admin, FakeKms::OTHER)).await.unwrap();
    let mut reports = Box::pin(reports);
    reports.next().await.unwrap().unwrap();
    fixture.clock.advance(LATER);
    while let Some(report) = reports.next().await {
        report.unwrap();
    }
    fixture.parts.audit.close().await;
    let recorded = fixture.recorded("key.rewrap");
    assert_eq!(recorded.len(), 4);
    for record in recorded {
        let is_first = record.resource == org.full_name();
        assert_eq!(record.timestamp() < began.plus(LATER), is_first, "{record:?}");
    }
}

#[tokio::test]
async fn whoever_may_not_rewrap_all_rewraps_and_counts_his_own() {
    let Setting { fixture, vault, org, admin } = with_keys(3).await;
    add(&vault, &admin, "k1", &canary(50)).await.unwrap();
    let grant = GrantText { resources: vec!["orgs/acme/keys/k1".into()], ..scopes(&["keys:rewrap"]) };
    let holder = fixture.token(&org, vec![grant], TokenMode::Live, None).await;
    let last = run(&vault, &holder, FakeKms::OTHER).await.unwrap().pop().unwrap();
    assert_eq!((last.done, last.total, last.failed, last.rewrapped), (1, 1, 0, 2), "and not the organization's key");
    let reader = fixture.token(&org, vec![scopes(&["keys:read"])], TokenMode::Live, None).await;
    assert_eq!(reason(run(&vault, &reader, FakeKms::OTHER).await), Reason::ScopeMissing);
    let mock = fixture.token(&org, vec![scopes(&["keys:rewrap"])], TokenMode::Mock, None).await;
    assert_eq!(reason(run(&vault, &mock, FakeKms::OTHER).await), Reason::MockTokenMutation);
    let stranger = fixture.admin(&fixture.org("rival", false, None).await).await;
    let request = Rewrap { org, kms_key: None, dry_run: true, resume_token: String::new() };
    let refused = vault.rewrap(stranger.call("RewrapKeys"), request).await.err().unwrap();
    assert_eq!(refused.reason, Reason::OrgNotFound);
}
