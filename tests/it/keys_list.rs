//! ListKeys: by provider, filtered, paged, without opening anything.

use std::{collections::BTreeSet, time::Duration};

use ibyok::{
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        ids::ProviderId,
        key::{KeyState, RotationPolicy},
        token::{GrantText, TokenMode},
    },
    service::vault::{CreateKey, KeyFilter, ListKeys, Listed},
    store::{Action, Condition, Item, ItemKey, NewItem, Value},
};

use crate::{
    fixture::keys::{GROQ, Setting, create, name, new_key, reason, setting, vault},
    fixture::{Caller, Fixture, all_scopes},
};

fn asked(setting: &Setting, filter: KeyFilter) -> ListKeys {
    ListKeys { org: setting.org.clone(), page_size: 1_000, page_token: String::new(), filter, show_deleted: false }
}

async fn page(setting: &Setting, caller: &Caller, request: &ListKeys) -> Result<Listed, Failure> {
    setting.vault.list_keys(&caller.call("ListKeys"), request).await
}

async fn ids(setting: &Setting, caller: &Caller, mut request: ListKeys) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let listed = page(setting, caller, &request).await.unwrap();
        assert!(listed.keys.len() <= request.page_size);
        ids.extend(listed.keys.iter().map(|key| key.record.name.id.to_string()));
        request.page_token = listed.next_page_token;
        if request.page_token.is_empty() {
            return ids;
        }
    }
}

fn provider(id: &str) -> ProviderId {
    ProviderId::parse("provider", id).unwrap()
}

/// Keys a0.. of Anthropic, g0.. of Groq, m0.. of Mistral, five each; those with an even number
/// bear a label.
async fn fifteen() -> Setting {
    let setting = setting().await;
    for (letter, of) in [("m", "mistral"), ("a", "anthropic"), ("g", "groq")] {
        for n in 0..5 {
            let labels = if n % 2 == 0 { [("even".to_owned(), "yes".to_owned())].into() } else { [].into() };
            let request = CreateKey {
                provider: Some(provider(of)),
                labels,
                ..new_key(&setting.org, &format!("{letter}{n}"), &format!("{GROQ}{letter}{n}"))
            };
            create(&setting.vault, &setting.admin, request).await.unwrap();
        }
    }
    setting
}

#[tokio::test]
async fn every_page_size_lists_every_key_once_by_provider() {
    let setting = fifteen().await;
    let kms = setting.fixture.kms.calls();
    let all: Vec<_> = ["a", "g", "m"].iter().flat_map(|letter| (0..5).map(move |n| format!("{letter}{n}"))).collect();
    for page_size in [1, 2, 4, 5, 7, 15, 16] {
        let request = ListKeys { page_size, ..asked(&setting, KeyFilter::default()) };
        assert_eq!(ids(&setting, &setting.admin, request).await, all, "{page_size}");
        let filter = KeyFilter { providers: vec![provider("mistral"), provider("anthropic")], ..KeyFilter::default() };
        let request = ListKeys { page_size, ..asked(&setting, filter) };
        let expected: Vec<_> = all.iter().filter(|id| !id.starts_with('g')).cloned().collect();
        assert_eq!(ids(&setting, &setting.admin, request).await, expected, "{page_size}");
    }
    assert_eq!(setting.fixture.kms.calls(), kms, "listing never decrypts");
}

#[tokio::test]
async fn filters_narrow() {
    let setting = fifteen().await;
    let Setting { vault, admin, org, .. } = &setting;
    let labelled = KeyFilter { labels: [("even".into(), "yes".into())].into(), ..KeyFilter::default() };
    for page_size in [1, 2, 3, 100] {
        let request = ListKeys { page_size, ..asked(&setting, labelled.clone()) };
        assert_eq!(ids(&setting, admin, request).await, ["a0", "a2", "a4", "g0", "g2", "g4", "m0", "m2", "m4"]);
    }
    let prefixed = KeyFilter { name_prefix: "g".into(), ..KeyFilter::default() };
    assert_eq!(ids(&setting, admin, asked(&setting, prefixed)).await, ["g0", "g1", "g2", "g3", "g4"]);

    vault.disable_key(&admin.call("DisableKey"), &name(org, "a0"), "", "", "").await.unwrap();
    vault.delete_key(&admin.call("DeleteKey"), &name(org, "a1"), None, false, "", "").await.unwrap();
    let of =
        |states: Vec<KeyState>| KeyFilter { states, providers: vec![provider("anthropic")], ..KeyFilter::default() };
    assert_eq!(ids(&setting, admin, asked(&setting, of(vec![KeyState::Disabled]))).await, ["a0"]);
    assert_eq!(ids(&setting, admin, asked(&setting, of(vec![KeyState::Deleted]))).await, ["a1"]);
    assert_eq!(ids(&setting, admin, asked(&setting, of(vec![]))).await, ["a0", "a2", "a3", "a4"]);
    let shown = ListKeys { show_deleted: true, ..asked(&setting, of(vec![])) };
    assert_eq!(ids(&setting, admin, shown).await.len(), 5);

    let now = setting.fixture.parts.clock.now();
    let due = RotationPolicy { next: Some(now.plus(Duration::from_secs(60))), ..RotationPolicy::default() };
    let update = ibyok::service::vault::KeyUpdate { rotation: Some(due), ..Default::default() };
    vault.update_key(&admin.call("UpdateKey"), &name(org, "m3"), &update, "", "").await.unwrap();
    let before = |seconds| KeyFilter {
        rotation_due_before: Some(now.plus(Duration::from_secs(seconds))),
        ..KeyFilter::default()
    };
    assert_eq!(ids(&setting, admin, asked(&setting, before(61))).await, ["m3"]);
    assert!(ids(&setting, admin, asked(&setting, before(60))).await.is_empty());
    let unused = KeyFilter { not_used_since: Some(now), providers: vec![provider("groq")], ..KeyFilter::default() };
    assert_eq!(ids(&setting, admin, asked(&setting, unused)).await.len(), 5, "never used counts as not used");
}

#[tokio::test]
async fn only_what_a_grant_covers_is_listed() {
    let setting = fifteen().await;
    let grant = GrantText {
        resources: vec!["orgs/acme/keys/g*".into()],
        labels: [("even".into(), "yes".into())].into(),
        ..all_scopes()
    };
    let caller = setting.fixture.token(&setting.org, vec![grant], TokenMode::Live, None).await;
    let request = ListKeys { page_size: 1, ..asked(&setting, KeyFilter::default()) };
    assert_eq!(ids(&setting, &caller, request).await, ["g0", "g2", "g4"]);
    let rival = setting.fixture.org("rival", false, None).await;
    let stranger = setting.fixture.admin(&rival).await;
    let refused = page(&setting, &stranger, &asked(&setting, KeyFilter::default())).await;
    assert_eq!(reason(refused), Reason::OrgNotFound);
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_request_alone() {
    let setting = fifteen().await;
    let request = ListKeys { page_size: 2, ..asked(&setting, KeyFilter::default()) };
    let page_token = page(&setting, &setting.admin, &request).await.unwrap().next_page_token;
    let other = setting.fixture.admin(&setting.org).await;
    let next = ListKeys { page_token: page_token.clone(), ..request.clone() };
    assert!(page(&setting, &setting.admin, &next).await.is_ok());
    assert_eq!(reason(page(&setting, &other, &next).await), Reason::InvalidPageToken);
    let shown = ListKeys { show_deleted: true, ..next.clone() };
    assert_eq!(reason(page(&setting, &setting.admin, &shown).await), Reason::InvalidPageToken);
    let made_up = ListKeys { page_token: "AAAA".into(), ..request };
    assert_eq!(reason(page(&setting, &setting.admin, &made_up).await), Reason::InvalidPageToken);
}

#[tokio::test]
async fn one_broken_record_does_not_break_the_listing() {
    let setting = fifteen().await;
    let partition = setting.fixture.partition("O#acme#K#g2");
    let mut item = partition.into_iter().find(|item| item.key.sort == "META").unwrap();
    item.mac = None;
    setting.fixture.memory().tamper(item);
    let listed: BTreeSet<_> =
        ids(&setting, &setting.admin, asked(&setting, KeyFilter::default())).await.into_iter().collect();
    assert_eq!(listed.len(), 14);
    assert!(!listed.contains("g2"));
}

/// The row of the last use of a key, as it is written when the log is folded.
fn last_use(id: &str, used: Timestamp) -> Item {
    let int = |name: &str, int| (name.to_owned(), Value::Int(int));
    Item {
        key: ItemKey::new("O#acme#LU", format!("K#{id}")),
        revision: 1,
        expires: None,
        sealed: None,
        mac: None,
        attributes: [int("used", used.micros()), int("as_of", 1)].into(),
    }
}

#[tokio::test]
async fn a_last_use_is_that_of_this_key_and_goes_with_it() {
    let setting = setting().await;
    let Setting { fixture, vault, admin, org } = &setting;
    let key = name(org, "k");
    let before = fixture.parts.clock.now();
    create(vault, admin, new_key(org, "k", GROQ)).await.unwrap();
    let used = fixture.parts.clock.now();
    fixture.memory().tamper(last_use("k", used));
    assert_eq!(vault.key(&admin.call("GetKey"), &key).await.unwrap().last_used, Some(used));
    vault.destroy_key(&admin.call("DestroyKey"), &key, "", "").await.unwrap();
    assert!(fixture.partition("O#acme#LU").iter().all(|item| item.key.sort != "K#k"));

    fixture.clock.advance(Duration::from_secs(60));
    create(vault, admin, new_key(org, "k", GROQ)).await.unwrap();
    for used in [before, used] {
        // Folding the log again brings the row back.
        fixture.memory().tamper(last_use("k", used));
        assert_eq!(vault.key(&admin.call("GetKey"), &key).await.unwrap().last_used, None);
        let unused = KeyFilter { not_used_since: Some(used), ..KeyFilter::default() };
        let listed = page(&setting, admin, &asked(&setting, unused)).await.unwrap();
        assert_eq!(listed.keys.iter().map(|key| key.last_used).collect::<Vec<_>>(), [None]);
    }
}

#[tokio::test]
async fn a_last_use_that_can_not_be_read_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault.db");
    let fixture = Fixture::sqlite(&path).await;
    let org = fixture.org("acme", false, None).await;
    let setting = Setting { vault: vault(&fixture), admin: fixture.admin(&org).await, fixture, org };
    let Setting { fixture, vault, admin, org } = &setting;
    for id in ["k", "l"] {
        create(vault, admin, new_key(org, id, GROQ)).await.unwrap();
    }
    let used = fixture.parts.clock.now();
    let Item { key, attributes, .. } = last_use("l", used);
    fixture.write(vec![Action::Put(NewItem::new(key, attributes), Condition::Absent)]).await;
    let insert = "INSERT INTO items (partition, sort, revision, attributes) VALUES ('O#acme#LU', 'K#k', 1, x'ff')";
    rusqlite::Connection::open(&path).unwrap().execute(insert, []).unwrap();
    let listed = page(&setting, admin, &asked(&setting, KeyFilter::default())).await.unwrap();
    assert_eq!(listed.keys.iter().map(|key| key.last_used).collect::<Vec<_>>(), [None, Some(used)]);
}

#[tokio::test]
async fn a_small_page_is_not_read_row_by_row() {
    let setting = setting().await;
    let Setting { fixture, vault, admin, org } = &setting;
    for n in 0..60 {
        let id = format!("k{n:02}");
        create(vault, admin, new_key(org, &id, &format!("{GROQ}{n:02}"))).await.unwrap();
        if n < 58 {
            vault.delete_key(&admin.call("DeleteKey"), &name(org, &id), None, false, "", "").await.unwrap();
        }
    }
    let before = fixture.memory().faults().reads();
    let request = ListKeys { page_size: 1, ..asked(&setting, KeyFilter::default()) };
    let listed = page(&setting, admin, &request).await.unwrap();
    let reads = fixture.memory().faults().reads() - before;
    assert_eq!(listed.keys[0].record.name.id.as_str(), "k58");
    assert!(reads <= 12, "{reads} reads");
    assert_eq!(ids(&setting, admin, request).await, ["k58", "k59"]);
}
