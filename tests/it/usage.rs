//! GetUsage and ListKeyConsumers: what was retrieved is counted, as far as the caller may see it.

use std::{collections::BTreeMap, time::Duration};

use ibyok::{
    domain::{
        audit::{AuditDraft, Outcome},
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{Environment, OrgId, ProviderId},
        key::KeyState,
        token::{GrantText, TokenMode},
    },
    kms::fake::Fault,
    repository::audit::AuditTasks,
    service::{
        usage::{Consumer, Dimension, GetUsage, ListConsumers, UsageService},
        vault::{CreateKey, KeyFilter, ListKeys, Promote},
    },
};

use crate::{
    fixture::keys::{GROQ, Setting, add, create, name, reason, retrieve, setting},
    fixture::{Caller, all_scopes, scopes},
};

mod known;
mod wire;

fn new_key(org: &OrgId, id: &str, value: &str) -> CreateKey {
    let provider = Some(ProviderId::parse("provider", "groq").unwrap());
    CreateKey { provider, ..crate::fixture::keys::new_key(org, id, value) }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// The rows of every page: values, retrievals, denials, failures, checks.
type Rows = Vec<(Vec<String>, [u64; 4])>;

async fn usage(setting: &Setting, caller: &Caller, request: &GetUsage) -> Result<Rows, Failure> {
    let service = UsageService::new(setting.fixture.parts.clone());
    let mut request = GetUsage { page_size: request.page_size.max(1), ..request.clone() };
    let mut rows = Vec::new();
    loop {
        let page = service.usage(&caller.call("GetUsage"), &request).await?;
        assert!(page.rows.len() <= request.page_size);
        rows.extend(page.rows.into_iter().map(|row| {
            let counts = row.counts;
            (row.values, [counts.retrievals, counts.denials, counts.failures, counts.checks])
        }));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(rows);
        }
    }
}

fn by(group_by: &[Dimension]) -> GetUsage {
    let label_key = if group_by.contains(&Dimension::Label) { "team" } else { "" };
    GetUsage { group_by: group_by.to_vec(), label_key: label_key.to_owned(), page_size: 100, ..GetUsage::default() }
}

fn row<const N: usize>(values: [&str; N], counts: [u64; 4]) -> (Vec<String>, [u64; 4]) {
    (values.iter().map(|value| (*value).to_owned()).collect(), counts)
}

/// Folds everything that was written so far.
async fn fold(setting: &Setting) {
    AuditTasks::new(&setting.fixture.parts.audit).tick().await.unwrap();
}

async fn consumers(setting: &Setting, caller: &Caller, key: &str) -> Result<Vec<Consumer>, Failure> {
    let service = UsageService::new(setting.fixture.parts.clone());
    let mut request = ListConsumers { name: name(&setting.org, key), page_size: 1, page_token: String::new() };
    let mut found = Vec::new();
    loop {
        let page = service.consumers(&caller.call("ListKeyConsumers"), &request).await?;
        found.extend(page.consumers);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// What the gate records of a refusal.
async fn refuse(setting: &Setting, caller: &Caller, resource: &str) {
    let org = setting.org.clone();
    let draft = caller.call("RetrieveKey").draft(org, resource);
    let draft = AuditDraft { outcome: Outcome::Denied, reason: Some(Reason::KeyDisabled), ..draft };
    setting.fixture.parts.audit.append(draft, setting.fixture.deadline()).await.unwrap();
}

/// Keys `prod` of team red and `test` of team blue; the administrator retrieved the first twice and
/// the second once, and was refused an absent one; another retrieved the first once, and checked it.
async fn used() -> (Setting, Caller) {
    let setting = setting().await;
    for (id, environment, team) in [("prod", "production", "red"), ("test", "staging", "blue")] {
        let request = CreateKey {
            environment: Some(Environment::parse("environment", environment).unwrap()),
            labels: [("team".to_owned(), team.to_owned())].into(),
            ..new_key(&setting.org, id, &format!("{GROQ}{id}"))
        };
        create(&setting.vault, &setting.admin, request).await.unwrap();
    }
    let other = setting.fixture.token(&setting.org, vec![all_scopes()], TokenMode::Live, None).await;
    for (caller, key) in
        [(&setting.admin, "prod"), (&setting.admin, "prod"), (&setting.admin, "test"), (&other, "prod")]
    {
        retrieve(&setting.vault, caller, key).await.unwrap();
    }
    check(&setting, &other, "prod", "1").await;
    refuse(&setting, &setting.admin, "orgs/acme/keys/absent").await;
    fold(&setting).await;
    (setting, other)
}

async fn check(setting: &Setting, caller: &Caller, key: &str, version: &str) {
    let name = ibyok::domain::ids::VersionName::parse("name", key, &setting.org).unwrap();
    let request = ibyok::service::vault::Retrieve {
        name,
        purpose: String::new(),
        if_version_not: version.to_owned(),
        mock: false,
    };
    let answer = setting.vault.retrieve_key(&caller.call("RetrieveKey"), &request).await.unwrap();
    assert!(answer.secret.is_none());
}

#[tokio::test]
async fn usage_is_told_by_each_dimension_and_by_several() {
    let (setting, other) = used().await;
    let admin = &setting.admin;
    let told = async |group_by: &[Dimension]| usage(&setting, admin, &by(group_by)).await.unwrap();
    assert_eq!(told(&[]).await, [row([], [4, 1, 0, 1])]);
    assert_eq!(
        told(&[Dimension::Key]).await,
        [
            row(["orgs/acme/keys/absent"], [0, 1, 0, 0]),
            row(["orgs/acme/keys/prod"], [3, 0, 0, 1]),
            row(["orgs/acme/keys/test"], [1, 0, 0, 0]),
        ]
    );
    assert_eq!(told(&[Dimension::Provider]).await, [row([""], [0, 1, 0, 0]), row(["groq"], [4, 0, 0, 1])]);
    assert_eq!(
        told(&[Dimension::Environment]).await,
        [row([""], [0, 1, 0, 0]), row(["production"], [3, 0, 0, 1]), row(["staging"], [1, 0, 0, 0])]
    );
    assert_eq!(
        told(&[Dimension::Label]).await,
        [row([""], [0, 1, 0, 0]), row(["blue"], [1, 0, 0, 0]), row(["red"], [3, 0, 0, 1])]
    );
    assert_eq!(told(&[Dimension::Outcome]).await, [row(["allowed"], [4, 0, 0, 1]), row(["denied"], [0, 1, 0, 0])]);
    assert_eq!(told(&[Dimension::Client]).await, [row(["svc.test"], [4, 1, 0, 1])]);
    let token = |caller: &Caller| format!("orgs/acme/tokens/{}", caller.claims.token_id);
    let mut tokens = vec![row([&token(admin)], [3, 1, 0, 0]), row([&token(&other)], [1, 0, 0, 1])];
    tokens.sort();
    assert_eq!(told(&[Dimension::Token]).await, tokens);
    assert_eq!(
        told(&[Dimension::Outcome, Dimension::Label, Dimension::Key]).await,
        [
            row(["allowed", "blue", "orgs/acme/keys/test"], [1, 0, 0, 0]),
            row(["allowed", "red", "orgs/acme/keys/prod"], [3, 0, 0, 1]),
            row(["denied", "", "orgs/acme/keys/absent"], [0, 1, 0, 0]),
        ]
    );
}

#[tokio::test]
async fn made_up_values_are_not_counted() {
    let setting = setting().await;
    create(&setting.vault, &setting.admin, new_key(&setting.org, "k", GROQ)).await.unwrap();
    let mock = setting.fixture.token(&setting.org, vec![all_scopes()], TokenMode::Mock, None).await;
    assert!(retrieve(&setting.vault, &mock, "k").await.unwrap().is_mock);
    fold(&setting).await;
    assert_eq!(usage(&setting, &setting.admin, &by(&[])).await.unwrap(), []);
    assert_eq!(consumers(&setting, &setting.admin, "k").await.unwrap(), []);
}

#[tokio::test]
async fn what_failed_to_open_is_a_retrieval_and_a_failure() {
    let setting = setting().await;
    create(&setting.vault, &setting.admin, new_key(&setting.org, "k", GROQ)).await.unwrap();
    setting.fixture.kms.fail(Some(Fault::Unavailable));
    retrieve(&setting.vault, &setting.admin, "k").await.unwrap_err();
    setting.fixture.kms.fail(None);
    // The record of the failure is not awaited: what comes behind it is.
    retrieve(&setting.vault, &setting.admin, "k").await.unwrap();
    while setting.fixture.recorded("key.retrieve.failed").is_empty() {
        tokio::task::yield_now().await;
    }
    fold(&setting).await;
    let told = usage(&setting, &setting.admin, &by(&[Dimension::Outcome, Dimension::Provider])).await.unwrap();
    assert_eq!(told, [row(["allowed", "groq"], [2, 0, 0, 0]), row(["failed", "groq"], [0, 0, 1, 0])]);
}

/// What a token sees whose grant of usage:read is narrowed so.
async fn seen_with(setting: &Setting, grant: GrantText) -> Vec<String> {
    let grant = GrantText { scopes: vec!["usage:read".into(), "keys:list".into()], ..grant };
    let caller = setting.fixture.token(&setting.org, vec![grant], TokenMode::Live, None).await;
    let rows = usage(setting, &caller, &by(&[Dimension::Key])).await.unwrap();
    // By caller alone the same is counted, and no more.
    let by_token = usage(setting, &caller, &by(&[Dimension::Token])).await.unwrap();
    let sum = |rows: &Rows| rows.iter().map(|(_, counts)| counts.iter().sum::<u64>()).sum::<u64>();
    assert_eq!(sum(&by_token), sum(&rows));
    rows.into_iter().map(|(values, _)| values[0].strip_prefix("orgs/acme/keys/").unwrap_or("").to_owned()).collect()
}

#[tokio::test]
async fn grants_filter_usage_as_they_filter_lists() {
    let (setting, _) = used().await;
    refuse(&setting, &setting.admin, "orgs/acme/keys/prod").await;
    refuse(&setting, &setting.admin, "").await;
    fold(&setting).await;
    let labels = |team: &str| GrantText { labels: [("team".to_owned(), team.to_owned())].into(), ..<_>::default() };
    let environments = |environment: &str| GrantText { environments: vec![environment.into()], ..<_>::default() };
    let resources = |pattern: &str| GrantText { resources: vec![pattern.into()], ..<_>::default() };
    assert_eq!(seen_with(&setting, GrantText::default()).await, ["", "absent", "prod", "test"]);
    assert_eq!(seen_with(&setting, labels("red")).await, ["prod"]);
    assert_eq!(seen_with(&setting, environments("staging")).await, ["test"]);
    assert_eq!(seen_with(&setting, resources("orgs/acme/keys/t*")).await, ["test"]);
    assert_eq!(seen_with(&setting, resources("orgs/acme/keys/a*")).await, ["absent"]);
    assert_eq!(seen_with(&setting, resources("orgs/acme/tokens/*")).await, Vec::<String>::new());

    // A key that is gone has the environment that was recorded, and no labels.
    let Setting { vault, admin, org, .. } = &setting;
    vault.destroy_key(&admin.call("DestroyKey"), &name(org, "prod"), "", "").await.unwrap();
    assert_eq!(seen_with(&setting, environments("production")).await, ["prod"]);
    assert_eq!(seen_with(&setting, labels("red")).await, Vec::<String>::new());
    let told = usage(&setting, admin, &by(&[Dimension::Environment, Dimension::Label])).await.unwrap();
    assert!(told.contains(&row(["production", ""], [3, 0, 0, 1])), "{told:?}");

    // Who got its name since is another, and what the old one was used for is not his.
    let request = CreateKey {
        labels: [("team".to_owned(), "red".to_owned())].into(),
        ..new_key(org, "prod", &format!("{GROQ}new"))
    };
    create(vault, admin, request).await.unwrap();
    // The refusal told no uid: it goes with the name.
    let grant = GrantText { scopes: vec!["usage:read".into()], ..labels("red") };
    let red = setting.fixture.token(org, vec![grant], TokenMode::Live, None).await;
    assert_eq!(
        usage(&setting, &red, &by(&[Dimension::Key])).await.unwrap(),
        [row(["orgs/acme/keys/prod"], [0, 1, 0, 0])]
    );
    let without = setting.fixture.token(org, vec![scopes(&["keys:list"])], TokenMode::Live, None).await;
    assert_eq!(reason(usage(&setting, &without, &by(&[])).await), Reason::ScopeMissing);
}

#[tokio::test]
async fn hours_and_days_are_told_in_their_order_and_in_pages() {
    let setting = setting().await;
    let Setting { fixture, vault, org, admin } = &setting;
    for id in ["a", "b"] {
        create(vault, admin, new_key(org, id, &format!("{GROQ}{id}"))).await.unwrap();
    }
    let begin = fixture.parts.clock.now();
    for _ in 0..3 {
        for id in ["a", "b", "a"] {
            retrieve(vault, admin, id).await.unwrap();
        }
        fixture.clock.advance(25 * HOUR);
    }
    fold(&setting).await;
    for (bucket, span) in [(None, 24 * HOUR), (Some(24 * HOUR), 24 * HOUR), (Some(HOUR), HOUR)] {
        for page_size in [1, 2, 3, 100] {
            let request = GetUsage { bucket, start: Some(begin), page_size, ..by(&[Dimension::Key]) };
            let rows = usage(&setting, admin, &request).await.unwrap();
            let day = [row(["orgs/acme/keys/a"], [2, 0, 0, 0]), row(["orgs/acme/keys/b"], [1, 0, 0, 0])];
            assert_eq!(rows, [day.clone(), day.clone(), day].concat(), "{bucket:?} {page_size}");
        }
        let service = UsageService::new(fixture.parts.clone());
        let request = GetUsage { bucket, start: Some(begin), ..by(&[]) };
        let page = service.usage(&admin.call("GetUsage"), &request).await.unwrap();
        let seconds = i64::try_from(span.as_secs()).unwrap();
        let start = |n: u32| {
            let time = begin.plus(25 * HOUR * n).seconds();
            Timestamp::from_seconds(time.div_euclid(seconds) * seconds)
        };
        assert_eq!(page.rows.iter().map(|row| row.start).collect::<Vec<_>>(), [start(0), start(1), start(2)]);
        // What begins at the end is not asked for, what began before the start is told whole.
        let request = GetUsage { start: Some(start(1).plus(span / 2)), end: Some(start(2)), ..request };
        let page = service.usage(&admin.call("GetUsage"), &request).await.unwrap();
        assert_eq!(page.rows.iter().map(|row| row.start).collect::<Vec<_>>(), [start(1)]);
    }
    // By default the last 24 hours, or 30 days.
    assert_eq!(usage(&setting, admin, &GetUsage { bucket: Some(HOUR), ..by(&[]) }).await.unwrap(), []);
    assert_eq!(usage(&setting, admin, &by(&[])).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_question_that_has_no_answer_is_refused_by_field() {
    let (setting, other) = used().await;
    let at = Timestamp::from_seconds;
    let day = by(&[]);
    let label = by(&[Dimension::Label]);
    let cases = [
        (GetUsage { bucket: Some(60 * HOUR), ..day.clone() }, "bucket"),
        (GetUsage { bucket: Some(Duration::ZERO), ..day.clone() }, "bucket"),
        (GetUsage { start: Some(at(100)), end: Some(at(100)), ..day.clone() }, "end_time"),
        (GetUsage { start: Some(at(1 << 40)), ..day.clone() }, "end_time"),
        (GetUsage { start: Some(at(0)), end: Some(at(400 * 86_400 + 1)), ..day.clone() }, "start_time"),
        (GetUsage { group_by: vec![Dimension::Key, Dimension::Key], ..day.clone() }, "group_by"),
        (GetUsage { label_key: String::new(), ..label.clone() }, "label_key"),
        (GetUsage { label_key: "team".into(), ..day.clone() }, "label_key"),
    ];
    for (request, field) in cases {
        let refused = usage(&setting, &setting.admin, &request).await.unwrap_err();
        assert_eq!((refused.reason, refused.fields[0].field.as_ref()), (Reason::InvalidField, field), "{request:?}");
    }
    let most = GetUsage { start: Some(at(0)), end: Some(at(400 * 86_400)), page_size: 1_000, ..day.clone() };
    assert_eq!(usage(&setting, &setting.admin, &most).await.unwrap(), []);

    // A token is good for whom and what it was given out for.
    let service = UsageService::new(setting.fixture.parts.clone());
    let first = GetUsage { page_size: 1, ..by(&[Dimension::Key]) };
    let token = service.usage(&setting.admin.call("GetUsage"), &first).await.unwrap().next_page_token;
    let next = GetUsage { page_token: token, ..first };
    service.usage(&setting.admin.call("GetUsage"), &next).await.unwrap();
    let now = setting.fixture.parts.clock.now();
    for (caller, request) in [
        (&other, next.clone()),
        (&setting.admin, GetUsage { end: Some(now), ..next.clone() }),
        (&setting.admin, GetUsage { start: Some(now.minus(HOUR)), ..next.clone() }),
        (&setting.admin, GetUsage { bucket: Some(HOUR), ..next.clone() }),
        (&setting.admin, GetUsage { group_by: vec![Dimension::Token], ..next.clone() }),
        (&setting.admin, GetUsage { page_token: "x".into(), ..next.clone() }),
    ] {
        let refused = service.usage(&caller.call("GetUsage"), &request).await;
        assert_eq!(reason(refused), Reason::InvalidPageToken, "{request:?}");
    }
}

#[tokio::test]
async fn a_rotation_is_done_when_nobody_holds_the_old_version() {
    let (setting, other) = used().await;
    let Setting { vault, admin, org, .. } = &setting;
    let held = async || {
        fold(&setting).await;
        let consumers = consumers(&setting, admin, "prod").await.unwrap();
        let held = consumers.into_iter().map(|consumer| {
            assert_eq!(consumer.holder.client, "svc.test");
            let version = consumer.version.strip_prefix("orgs/acme/keys/prod/versions/").unwrap().to_owned();
            (consumer.holder.token, (version, consumer.holds_current))
        });
        held.collect::<BTreeMap<_, _>>()
    };
    let (mine, his) = (admin.claims.token_id.to_string(), other.claims.token_id.to_string());
    let expected = |my: (&str, bool), his_own: (&str, bool)| {
        BTreeMap::from([(mine.clone(), (my.0.to_owned(), my.1)), (his.clone(), (his_own.0.to_owned(), his_own.1))])
    };
    assert_eq!(held().await, expected(("1", true), ("1", true)));

    let number = add(vault, admin, "prod", &format!("{GROQ}next")).await.unwrap();
    assert_eq!(number, 2);
    let version = ibyok::domain::ids::VersionName::parse("name", "prod/versions/2", org).unwrap();
    let promote =
        Promote { name: version, grace: None, allow_unverified: true, etag: String::new(), request_id: String::new() };
    vault.promote_version(&admin.call("PromoteKeyVersion"), &promote).await.unwrap();
    assert_eq!(held().await, expected(("1", false), ("1", false)));
    retrieve(vault, &other, "prod").await.unwrap();
    assert_eq!(held().await, expected(("1", false), ("2", true)));
    // Who says that he has it and learns that it is the one, has it.
    check(&setting, admin, "prod", "2").await;
    assert_eq!(held().await, expected(("2", true), ("2", true)));
    // Who goes back holds the old one.
    retrieve(vault, &other, "prod/versions/previous").await.unwrap();
    assert_eq!(held().await, expected(("2", true), ("1", false)));
}

#[tokio::test]
async fn consumers_of_a_destroyed_key_are_not_those_of_its_namesake() {
    let (setting, other) = used().await;
    let Setting { vault, admin, org, fixture } = &setting;
    vault.destroy_key(&admin.call("DestroyKey"), &name(org, "prod"), "", "").await.unwrap();
    assert!(fixture.partition("O#acme#C#prod").is_empty());
    assert_eq!(reason(consumers(&setting, admin, "prod").await), Reason::KeyNotFound);
    create(vault, admin, new_key(org, "prod", &format!("{GROQ}new"))).await.unwrap();
    assert_eq!(consumers(&setting, admin, "prod").await.unwrap(), []);
    retrieve(vault, &other, "prod").await.unwrap();
    fold(&setting).await;
    let found = consumers(&setting, admin, "prod").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].holder.token, other.claims.token_id.as_str());
    // Folding everything again brings the old one's row back, under its uid.
    let begin = ibyok::repository::projection::begin_again(&fixture.parts.records, fixture.deadline()).await.unwrap();
    fixture.write(begin).await;
    fold(&setting).await;
    assert_eq!(fixture.partition("O#acme#C#prod").len(), 2);
    assert_eq!(consumers(&setting, admin, "prod").await.unwrap(), found);
}

#[tokio::test]
async fn consumers_are_those_of_a_key_that_the_caller_may_see() {
    let (setting, _) = used().await;
    let grant = |scope: &str| GrantText {
        scopes: vec![scope.into()],
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        ..GrantText::default()
    };
    let caller =
        setting.fixture.token(&setting.org, vec![grant("usage:read"), grant("keys:list")], TokenMode::Live, None).await;
    assert_eq!(consumers(&setting, &caller, "test").await.unwrap().len(), 1);
    for key in ["prod", "absent"] {
        let refused = consumers(&setting, &caller, key).await.unwrap_err();
        let get = setting.vault.key(&caller.call("GetKey"), &name(&setting.org, key)).await.unwrap_err();
        assert_eq!((refused.reason, refused.to_string()), (get.reason, get.to_string()), "{key}");
    }
    let foreign = setting.fixture.org("globex", false, None).await;
    let foreigner = setting.fixture.admin(&foreign).await;
    assert_eq!(reason(consumers(&setting, &foreigner, "prod").await), Reason::KeyNotFound);

    // A page is one key's.
    let service = UsageService::new(setting.fixture.parts.clone());
    let of = |key: &str| ListConsumers { name: name(&setting.org, key), page_size: 1, page_token: String::new() };
    let call = || setting.admin.call("ListKeyConsumers");
    let token = service.consumers(&call(), &of("prod")).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    let refused = service.consumers(&call(), &ListConsumers { page_token: token, ..of("test") }).await;
    assert_eq!(reason(refused), Reason::InvalidPageToken);
}

#[tokio::test]
async fn many_tokens_of_one_client_do_not_hide_a_quiet_one() {
    let (setting, quiet) = used().await;
    let Setting { fixture, admin, org, .. } = &setting;
    let record =
        fixture.recorded("key.retrieve").into_iter().find(|record| record.resource.ends_with("/prod")).unwrap();
    // A token for each request, of one subject.
    for n in 0..700 {
        let draft = AuditDraft {
            token_id: format!("{n:032}"),
            subject: "busy".into(),
            details: [("uid", record.details["uid"].clone()), ("version", "1".to_owned())].into(),
            ..admin.call("RetrieveKey").draft(org.clone(), "orgs/acme/keys/prod")
        };
        fixture.parts.audit.note(draft);
    }
    while fixture.recorded("key.retrieve").iter().filter(|record| record.subject == "busy").count() < 700 {
        tokio::task::yield_now().await;
    }
    fold(&setting).await;
    let found = consumers(&setting, admin, "prod").await.unwrap();
    assert_eq!(found.iter().filter(|consumer| consumer.holder.subject == "busy").count(), 32);
    assert!(found.iter().any(|consumer| consumer.holder.token == quiet.claims.token_id.as_str()));
    assert!(found.iter().any(|consumer| consumer.holder.token == format!("{:032}", 699)));
    let told = usage(&setting, admin, &by(&[Dimension::Key])).await.unwrap();
    assert!(told.contains(&row(["orgs/acme/keys/prod"], [703, 0, 0, 1])), "{told:?}");
}

#[tokio::test]
async fn what_is_not_used_is_found_once_the_log_is_folded() {
    let (setting, other) = used().await;
    let Setting { fixture, vault, admin, org } = &setting;
    let unused = async |since: Timestamp| {
        let filter = KeyFilter { not_used_since: Some(since), states: vec![KeyState::Active], ..KeyFilter::default() };
        let request =
            ListKeys { org: org.clone(), page_size: 10, page_token: String::new(), filter, show_deleted: false };
        let listed = vault.list_keys(&admin.call("ListKeys"), &request).await.unwrap();
        listed.keys.iter().map(|key| key.record.name.id.to_string()).collect::<Vec<_>>()
    };
    let before = fixture.parts.clock.now().minus(HOUR);
    assert_eq!(unused(before).await, Vec::<String>::new());
    fixture.clock.advance(100 * 24 * HOUR);
    let since = fixture.parts.clock.now().minus(90 * 24 * HOUR);
    assert_eq!(unused(since).await, ["prod", "test"]);
    retrieve(vault, &other, "test").await.unwrap();
    fold(&setting).await;
    assert_eq!(unused(since).await, ["prod"]);
}
