//! Rotation without downtime, end to end.

use std::time::Duration;

use ibyok::{
    domain::{
        error::{Failure, Reason},
        ids::VersionName,
        key::{KeyKind, KeyRecord, Stage},
        provider::Warning,
    },
    service::vault::{AddVersion, CreateKey, ListVersions, Promote},
};

use crate::fixture::keys::{GROQ, Setting, add, create, name, new_key, reason, retrieve, secret, setting, value};

fn version(setting: &Setting, text: &str) -> VersionName {
    VersionName::parse("name", text, &setting.org).unwrap()
}

async fn promote(setting: &Setting, text: &str, grace: Option<u64>) -> Result<KeyRecord, Failure> {
    let request = Promote {
        name: version(setting, text),
        grace: grace.map(Duration::from_secs),
        allow_unverified: true,
        etag: String::new(),
        request_id: String::new(),
    };
    let call = setting.admin.call("PromoteKeyVersion");
    Ok(setting.vault.promote_version(&call, &request).await?.record)
}

async fn stages(setting: &Setting) -> Vec<(u32, Stage)> {
    let request = ListVersions { name: name(&setting.org, "k"), page_size: 50, page_token: String::new() };
    let listed = setting.vault.list_versions(&setting.admin.call("ListKeyVersions"), &request).await.unwrap();
    listed.versions.iter().map(|view| (view.version.number, view.version.stage)).collect()
}

async fn two_versions() -> Setting {
    let setting = setting().await;
    create(&setting.vault, &setting.admin, new_key(&setting.org, "k", GROQ)).await.unwrap();
    add(&setting.vault, &setting.admin, "k", "gsk_second").await.unwrap();
    setting
}

#[tokio::test]
async fn old_and_new_live_side_by_side_until_the_grace_ends() {
    let setting = two_versions().await;
    let Setting { fixture, vault, admin, .. } = &setting;
    assert_eq!(value(&retrieve(vault, admin, "k").await.unwrap()), GROQ, "a staged value changes nothing");
    assert_eq!(value(&retrieve(vault, admin, "k/versions/pending").await.unwrap()), "gsk_second");
    let refused = Promote {
        name: version(&setting, "k/versions/2"),
        grace: None,
        allow_unverified: false,
        etag: String::new(),
        request_id: String::new(),
    };
    let call = admin.call("PromoteKeyVersion");
    assert_eq!(reason(vault.promote_version(&call, &refused).await), Reason::VersionNotVerified);
    let call = admin.call("VerifyKeyVersion");
    let verified = vault.verify_version(&call, &version(&setting, "k/versions/2"), "GET 200", "").await.unwrap();
    assert_eq!(verified.version.stage, Stage::Verified);
    assert_eq!(fixture.recorded("key.version.verify")[0].purpose, "GET 200");

    let after = promote(&setting, "k/versions/2", Some(3_600)).await.unwrap();
    assert_eq!(after.current().unwrap().number, 2);
    assert_eq!(value(&retrieve(vault, admin, "k").await.unwrap()), "gsk_second");
    let previous = retrieve(vault, admin, "k/versions/previous").await.unwrap();
    assert_eq!((value(&previous), previous.version.as_str()), (GROQ, "orgs/acme/keys/k/versions/1"));
    assert!(previous.cache_ttl <= Duration::from_secs(300));
    assert_eq!(stages(&setting).await, [(2, Stage::Current), (1, Stage::Previous)]);

    fixture.clock.advance(Duration::from_secs(3_500));
    let ending = retrieve(vault, admin, "k/versions/1").await.unwrap();
    assert!(ending.cache_ttl <= Duration::from_secs(100), "no longer than its grace");
    fixture.clock.advance(Duration::from_secs(100));
    assert_eq!(reason(retrieve(vault, admin, "k/versions/1").await), Reason::VersionRetired);
    assert_eq!(reason(retrieve(vault, admin, "k/versions/previous").await), Reason::VersionNotFound);
    assert_eq!(stages(&setting).await, [(2, Stage::Current), (1, Stage::Retired)]);
    let call = admin.call("RollBackKeyVersion");
    let late = vault.roll_back_version(&call, &name(&setting.org, "k"), "", "").await;
    assert_eq!(reason(late), Reason::VersionNotPrevious);
}

#[tokio::test]
async fn going_back_restores_the_old_value_and_the_new_can_be_promoted_again() {
    let setting = two_versions().await;
    let Setting { vault, admin, org, .. } = &setting;
    promote(&setting, "k/versions/pending", None).await.unwrap();
    let call = admin.call_with("RollBackKeyVersion", 1);
    let back = vault.roll_back_version(&call, &name(org, "k"), "", "r").await.unwrap().record;
    assert_eq!(back.current().unwrap().number, 1);
    assert_eq!(value(&retrieve(vault, admin, "k").await.unwrap()), GROQ);
    let replay = vault.roll_back_version(&call, &name(org, "k"), "", "r").await.unwrap().record;
    assert_eq!(replay.revision, back.revision, "a replay does not go back and forth");
    promote(&setting, "k/versions/2", None).await.unwrap();
    assert_eq!(value(&retrieve(vault, admin, "k").await.unwrap()), "gsk_second");
}

#[tokio::test]
async fn a_destroyed_versions_ciphertext_is_gone_at_once_from_both_places() {
    let setting = two_versions().await;
    let Setting { fixture, vault, admin, .. } = &setting;
    let call = admin.call_with("DestroyKeyVersion", 1);
    let sealed = |sort: &str| {
        let items = fixture.partition("O#acme#K#k");
        items.into_iter().find(|item| item.key.sort == sort).unwrap().sealed
    };
    assert!(sealed("META").is_some() && sealed("META") == sealed("V#00000001"));
    // What was decided by an older state of the key is not done.
    let etag = vault.key(&admin.call("GetKey"), &name(&setting.org, "k")).await.unwrap().record.etag();
    let verify = admin.call("VerifyKeyVersion");
    vault.verify_version(&verify, &version(&setting, "k/versions/2"), "tried", "").await.unwrap();
    let stale = vault.destroy_version(&call, &version(&setting, "k/versions/1"), &etag, "r").await;
    assert_eq!(reason(stale), Reason::EtagMismatch);
    assert!(sealed("META").is_some() && sealed("META") == sealed("V#00000001"));
    let etag = vault.key(&admin.call("GetKey"), &name(&setting.org, "k")).await.unwrap().record.etag();
    let done = vault.destroy_version(&call, &version(&setting, "k/versions/1"), &etag, "r").await.unwrap();
    assert_eq!(done.version.version.stage, Stage::Destroyed);
    assert!(sealed("META").is_none() && sealed("V#00000001").is_none());
    assert_eq!(fixture.partition("O#acme#FP").len(), 1);
    assert_eq!(reason(retrieve(vault, admin, "k").await), Reason::NoCurrentVersion);
    assert_eq!(reason(retrieve(vault, admin, "k/versions/1").await), Reason::VersionDestroyed);
    assert_eq!(reason(retrieve(vault, admin, "k/versions/3").await), Reason::VersionNotFound);
    let replay = vault.destroy_version(&call, &version(&setting, "k/versions/1"), "", "r").await.unwrap();
    assert_eq!(replay, done);
    let again =
        vault.destroy_version(&admin.call("DestroyKeyVersion"), &version(&setting, "k/versions/1"), "", "").await;
    assert_eq!(reason(again), Reason::VersionDestroyed);
    promote(&setting, "k/versions/2", None).await.unwrap();
    assert_eq!(value(&retrieve(vault, admin, "k").await.unwrap()), "gsk_second");
    assert_eq!(stages(&setting).await, [(2, Stage::Current), (1, Stage::Destroyed)]);
}

#[tokio::test]
async fn a_retired_version_can_be_destroyed_and_a_ninth_live_one_is_refused() {
    let setting = two_versions().await;
    let Setting { vault, admin, .. } = &setting;
    promote(&setting, "k/versions/2", Some(0)).await.unwrap();
    assert_eq!(reason(retrieve(vault, admin, "k/versions/1").await), Reason::VersionRetired);
    for _ in 0..7 {
        add(vault, admin, "k", "gsk_more").await.unwrap();
    }
    assert_eq!(reason(add(vault, admin, "k", "gsk_more").await), Reason::TooManyVersions);
    let call = admin.call("DestroyKeyVersion");
    vault.destroy_version(&call, &version(&setting, "k/versions/1"), "", "").await.unwrap();
    assert_eq!(reason(add(vault, admin, "k", "gsk_more").await), Reason::TooManyVersions);
    vault.destroy_version(&call, &version(&setting, "k/versions/5"), "", "").await.unwrap();
    assert_eq!(add(vault, admin, "k", "gsk_more").await.unwrap(), 10);
}

#[tokio::test]
async fn base_url_and_scheme_change_with_a_new_value_only_and_go_back_with_it() {
    let setting = two_versions().await;
    let Setting { vault, admin, org, .. } = &setting;
    let request = AddVersion {
        name: name(org, "k"),
        secret: secret(GROQ),
        base_url: "https://gateway.example/v1".into(),
        auth_scheme: None,
        etag: String::new(),
        request_id: String::new(),
    };
    let added = vault.add_version(&admin.call("AddKeyVersion"), request).await.unwrap();
    assert_eq!(added.warnings, [Warning::DuplicateSecret]);
    assert_eq!(retrieve(vault, admin, "k").await.unwrap().base_url, "https://api.groq.com/openai/v1");
    let after = promote(&setting, "k/versions/3", None).await.unwrap();
    assert_eq!(after.base_url, "https://gateway.example/v1");
    assert_eq!(retrieve(vault, admin, "k").await.unwrap().base_url, "https://gateway.example/v1");
    let old = retrieve(vault, admin, "k/versions/previous").await.unwrap();
    assert_eq!(old.base_url, "https://api.groq.com/openai/v1");
}

#[tokio::test]
async fn versions_are_listed_newest_first_by_pages_that_belong_to_their_key() {
    let setting = two_versions().await;
    let Setting { vault, admin, org, .. } = &setting;
    create(vault, admin, new_key(org, "other", &GROQ.replace("d9", "d8"))).await.unwrap();
    for _ in 0..3 {
        add(vault, admin, "k", "gsk_more").await.unwrap();
    }
    let (mut numbers, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListVersions { name: name(org, "k"), page_size: 2, page_token };
        let page = vault.list_versions(&admin.call("ListKeyVersions"), &request).await.unwrap();
        assert!(page.versions.len() <= 2);
        numbers.extend(page.versions.iter().map(|view| view.version.number));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        let astray = ListVersions { name: name(org, "other"), page_size: 2, page_token: page_token.clone() };
        let refused = vault.list_versions(&admin.call("ListKeyVersions"), &astray).await;
        assert_eq!(reason(refused), Reason::InvalidPageToken);
    }
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn promotions_that_race_leave_one_current_version() {
    let setting = two_versions().await;
    let Setting { vault, admin, .. } = &setting;
    add(vault, admin, "k", "gsk_third").await.unwrap();
    let (two, three) = tokio::join!(promote(&setting, "k/versions/2", None), promote(&setting, "k/versions/3", None));
    two.unwrap();
    three.unwrap();
    let stages = stages(&setting).await;
    let of = |wanted: Stage| stages.iter().filter(|(_, stage)| *stage == wanted).count();
    assert_eq!((of(Stage::Current), of(Stage::Previous), of(Stage::Retired)), (1, 1, 1));
    let current = retrieve(vault, admin, "k").await.unwrap();
    let expected = if current.version.ends_with('2') { "gsk_second" } else { "gsk_third" };
    assert_eq!(value(&current), expected, "the inline value is the current version's");
}

#[tokio::test]
async fn an_administration_key_becomes_no_version_of_another_kind_of_key() {
    let setting = two_versions().await;
    let Setting { fixture, vault, admin, org } = &setting;
    let shape = format!("sk-admin-{0}T3BlbkFJ{0}", "aB3d9".repeat(4));
    let decoy = CreateKey { kind: Some(KeyKind::Tripwire), ..new_key(org, "decoy", GROQ) };
    create(vault, admin, decoy).await.unwrap();
    create(vault, admin, new_key(org, "adm", &shape)).await.unwrap();
    let sealed = fixture.kms.calls().generate;
    for id in ["k", "decoy"] {
        let refused = add(vault, admin, id, &format!(" {shape}")).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidField, "{id}");
        assert_eq!(refused.fields[0].field, "secret", "{id}");
    }
    assert_eq!(fixture.kms.calls().generate, sealed);
    assert_eq!(add(vault, admin, "adm", &shape).await.unwrap(), 2);
}
