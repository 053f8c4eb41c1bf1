//! KeyVault.

use std::collections::BTreeMap;

use ibyok::grpc::pb;

use super::{
    Case, canary, case, holds, long, no_keys, no_parents, no_spans, no_times, refuse_all, refuse_all_items, secret,
    span, with_a_key,
};

const CREATE: &str = "/ibyok.v1.KeyVault/CreateKey";
const UPDATE: &str = "/ibyok.v1.KeyVault/UpdateKey";
const BATCH: &str = "/ibyok.v1.KeyVault/BatchRetrieveKeys";
const RETRIEVE: &str = "/ibyok.v1.KeyVault/RetrieveKey";
const LIST: &str = "/ibyok.v1.KeyVault/ListKeys";
const VERSIONS: &str = "/ibyok.v1.KeyVault/ListKeyVersions";
const ADD: &str = "/ibyok.v1.KeyVault/AddKeyVersion";
const VERIFY: &str = "/ibyok.v1.KeyVault/VerifyKeyVersion";
const PROMOTE: &str = "/ibyok.v1.KeyVault/PromoteKeyVersion";
const ROLL_BACK: &str = "/ibyok.v1.KeyVault/RollBackKeyVersion";
const DESTROY: &str = "/ibyok.v1.KeyVault/DestroyKey";
const DESTROY_VERSION: &str = "/ibyok.v1.KeyVault/DestroyKeyVersion";
const DELETE: &str = "/ibyok.v1.KeyVault/DeleteKey";

#[tokio::test]
async fn a_key_is_not_created_from_bad_input() {
    let (vault, admin) = with_a_key().await;
    let mut cases = Vec::new();
    let ids = ["", "-a", "a-", "A", "a/b", "a b", "orgs/acme/keys/a"].map(str::to_owned);
    for key_id in ids.into_iter().chain([canary(""), "a".repeat(64)]) {
        cases.push(create("key_id", |request| request.key_id = key_id));
    }
    for parent in no_parents() {
        cases.push(create("parent", |request| request.parent = parent));
    }
    for text in [String::new(), " \n".into(), long(16_385), canary("\nx"), canary("\0"), canary("\u{7f}")] {
        cases.push(create("secret", |request| request.secret = secret(text)));
    }
    cases.push(create("secret", |request| request.secret = None));
    for provider in [canary(""), "no-such-provider".to_owned(), "open ai".to_owned(), "x".repeat(64)] {
        cases.push(create("provider", |request| request.provider = provider));
    }
    let urls = ["http://api.openai.com", "ftp://localhost", "https://", "/v1", "https://a?b", "https://u@h"];
    for base_url in urls.map(str::to_owned).into_iter().chain([canary(" "), format!("https://{}", long(256))]) {
        cases.push(create("base_url", |request| request.base_url = base_url));
    }
    cases.push(create("description", |request| request.description = long(1_025)));
    cases.push(create("description", |request| request.description = canary("\0")));
    for labels in bad_labels() {
        cases.push(create("labels", |request| request.labels = labels));
    }
    for models in bad_models() {
        cases.push(create("models", |request| request.models = models));
    }
    for environment in [canary(""), "a b".to_owned(), "x".repeat(64)] {
        cases.push(create("environment", |request| request.environment = environment));
    }
    for kind in [4, -1, i32::MAX] {
        cases.push(create("kind", |request| request.kind = kind));
    }
    for scheme in bad_schemes() {
        cases.push(create("auth_scheme", |request| request.auth_scheme = Some(scheme)));
    }
    cases.extend(bad_create_spans());
    for request_id in bad_request_ids() {
        cases.push(create("request_id", |request| request.request_id = request_id));
    }
    refuse_all(&admin, cases.clone()).await;
    refuse_all_items(&admin, cases).await;
    vault.stop().await;
}

fn create(field: &'static str, spoil: impl FnOnce(&mut pb::CreateKeyRequest)) -> Case {
    let mut request = pb::CreateKeyRequest {
        key_id: "new".into(),
        provider: "openai".into(),
        secret: secret("sk-proj-0123456789-new"),
        ..Default::default()
    };
    spoil(&mut request);
    case(CREATE, request, field)
}

fn bad_create_spans() -> Vec<Case> {
    let mut cases = Vec::new();
    let policy = |period, grace| Some(pb::RotationPolicy { period, grace, ..Default::default() });
    for ttl in
        no_spans().into_iter().chain([span(0, 0), span(59, 999_999_999), span(400_000_000, 0), span(i64::MAX, 0)])
    {
        cases.push(create("ttl", |request| request.ttl = ttl));
    }
    for period in no_spans().into_iter().chain([span(3_599, 0), span(i64::MAX, 0)]) {
        cases.push(create("rotation.period", |request| request.rotation = policy(period, None)));
    }
    for grace in no_spans().into_iter().chain([span(30 * 86_400 + 1, 0), span(i64::MAX, 0)]) {
        cases.push(create("rotation.grace", |request| request.rotation = policy(None, grace)));
    }
    for next_rotation_time in no_times() {
        cases.push(create("rotation.next_rotation_time", |request| {
            request.rotation = Some(pb::RotationPolicy { next_rotation_time, ..Default::default() });
        }));
    }
    cases
}

fn bad_labels() -> Vec<BTreeMap<String, String>> {
    let one = |name: String, value: String| BTreeMap::from([(name, value)]);
    vec![
        (0..33).map(|n| (format!("label-{n}"), canary(""))).collect(),
        one(long(64), String::new()),
        one(String::new(), canary("")),
        one(canary(" "), String::new()),
        one("name".into(), long(256)),
    ]
}

fn bad_models() -> Vec<Vec<String>> {
    vec![
        (0..33).map(|n| canary(&n.to_string())).collect(),
        vec![long(101)],
        vec![String::new()],
        vec![canary(" ")],
        vec![canary(""), canary("")],
    ]
}

fn bad_schemes() -> Vec<pb::AuthScheme> {
    let scheme = |header: String, prefix: String| pb::AuthScheme { header, prefix, ..Default::default() };
    let extra = |name: String, value: String| pb::AuthScheme {
        extra_headers: [(name, value)].into(),
        ..scheme("x-api-key".into(), String::new())
    };
    vec![
        scheme(canary(": "), String::new()),
        scheme(long(65), String::new()),
        scheme("x-api-key".into(), long(33)),
        scheme("x-api-key".into(), canary("\r\n")),
        extra(String::new(), canary("")),
        extra(canary("\r"), "value".into()),
        extra("x-more".into(), canary("\n")),
        extra("x-more".into(), long(257)),
        pb::AuthScheme {
            extra_headers: (0..5).map(|n| (format!("x-{n}"), canary(""))).collect(),
            ..Default::default()
        },
    ]
}

pub(super) fn bad_request_ids() -> [String; 4] {
    [long(129), canary(" "), canary("\u{e9}"), canary("\n")]
}

#[tokio::test]
async fn no_call_takes_a_name_that_is_none() {
    let (vault, admin) = with_a_key().await;
    let mut cases = Vec::new();
    for name in no_keys() {
        let name = || name.clone();
        let key = Some(pb::Key { name: name(), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["description".into()] });
        cases.extend([
            case("/ibyok.v1.KeyVault/GetKey", pb::GetKeyRequest { name: name() }, "name"),
            case(UPDATE, pb::UpdateKeyRequest { key, update_mask, ..Default::default() }, "key.name"),
            case(RETRIEVE, pb::RetrieveKeyRequest { name: name(), ..Default::default() }, "name"),
            case(
                ADD,
                pb::AddKeyVersionRequest { name: name(), secret: secret("sk-123456"), ..Default::default() },
                "name",
            ),
            case(VERIFY, pb::VerifyKeyVersionRequest { name: name(), ..Default::default() }, "name"),
            case(PROMOTE, pb::PromoteKeyVersionRequest { name: name(), ..Default::default() }, "name"),
            case(ROLL_BACK, pb::RollBackKeyVersionRequest { name: name(), ..Default::default() }, "name"),
            case(DESTROY, pb::DestroyKeyRequest { name: name(), confirm: name(), ..Default::default() }, "name"),
            case(
                DESTROY_VERSION,
                pb::DestroyKeyVersionRequest { name: name(), confirm: name(), ..Default::default() },
                "name",
            ),
            case(VERSIONS, pb::ListKeyVersionsRequest { parent: name(), ..Default::default() }, "parent"),
            case("/ibyok.v1.KeyVault/DisableKey", pb::DisableKeyRequest { name: name(), ..Default::default() }, "name"),
            case("/ibyok.v1.KeyVault/EnableKey", pb::EnableKeyRequest { name: name(), ..Default::default() }, "name"),
            case(DELETE, pb::DeleteKeyRequest { name: name(), ..Default::default() }, "name"),
            case(
                "/ibyok.v1.KeyVault/UndeleteKey",
                pb::UndeleteKeyRequest { name: name(), ..Default::default() },
                "name",
            ),
        ]);
    }
    for version in ["0", "01", "-1", "4294967296", "1/2", "CURRENT", "", "1 ", "+1", "latest"] {
        let name = || format!("good/versions/{version}");
        cases.extend([
            case(RETRIEVE, pb::RetrieveKeyRequest { name: name(), ..Default::default() }, "name"),
            case(VERIFY, pb::VerifyKeyVersionRequest { name: name(), ..Default::default() }, "name"),
            case(PROMOTE, pb::PromoteKeyVersionRequest { name: name(), ..Default::default() }, "name"),
            case(
                DESTROY_VERSION,
                pb::DestroyKeyVersionRequest { name: name(), confirm: name(), ..Default::default() },
                "name",
            ),
        ]);
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

#[tokio::test]
async fn a_key_is_not_changed_by_bad_input() {
    let (vault, admin) = with_a_key().await;
    let mut cases = vec![case(UPDATE, pb::UpdateKeyRequest::default(), "key")];
    for paths in
        [vec![], vec![canary("")], vec!["name".into()], vec!["description".into(), canary("")], vec!["*".into()]]
    {
        cases.push(update("update_mask", &[], |request| request.update_mask = Some(prost_types::FieldMask { paths })));
    }
    cases.push(update("update_mask", &[], |request| request.update_mask = None));
    cases.push(update("key.description", &["description"], |request| key_of(request).description = long(1_025)));
    for labels in bad_labels() {
        cases.push(update("key.labels", &["labels"], |request| key_of(request).labels = labels));
    }
    for models in bad_models() {
        cases.push(update("key.models", &["models"], |request| key_of(request).models = models));
    }
    for period in no_spans().into_iter().chain([span(3_599, 0)]) {
        let rotation = Some(pb::RotationPolicy { period, ..Default::default() });
        cases.push(update("key.rotation.period", &["rotation"], |request| key_of(request).rotation = rotation));
    }
    for grace in no_spans().into_iter().chain([span(30 * 86_400 + 1, 0)]) {
        let rotation = Some(pb::RotationPolicy { grace, ..Default::default() });
        cases.push(update("key.rotation.grace", &["rotation"], |request| key_of(request).rotation = rotation));
    }
    for next_rotation_time in no_times() {
        let rotation = Some(pb::RotationPolicy { next_rotation_time, ..Default::default() });
        let field = "key.rotation.next_rotation_time";
        cases.push(update(field, &["rotation"], |request| key_of(request).rotation = rotation));
    }
    for request_id in bad_request_ids() {
        let name = || "good".to_owned();
        let id = || request_id.clone();
        cases.extend([
            update("request_id", &["description"], |request| request.request_id = id()),
            case(
                ADD,
                pb::AddKeyVersionRequest {
                    name: name(),
                    secret: secret("sk-1234"),
                    request_id: id(),
                    ..Default::default()
                },
                "request_id",
            ),
            case(
                VERIFY,
                pb::VerifyKeyVersionRequest { name: name(), request_id: id(), ..Default::default() },
                "request_id",
            ),
            case(
                PROMOTE,
                pb::PromoteKeyVersionRequest { name: name(), request_id: id(), ..Default::default() },
                "request_id",
            ),
            case(
                ROLL_BACK,
                pb::RollBackKeyVersionRequest { name: name(), request_id: id(), ..Default::default() },
                "request_id",
            ),
            case(
                "/ibyok.v1.KeyVault/DisableKey",
                pb::DisableKeyRequest { name: name(), request_id: id(), ..Default::default() },
                "request_id",
            ),
            case(
                "/ibyok.v1.KeyVault/EnableKey",
                pb::EnableKeyRequest { name: name(), request_id: id(), ..Default::default() },
                "request_id",
            ),
            case(DELETE, pb::DeleteKeyRequest { name: name(), request_id: id(), ..Default::default() }, "request_id"),
            case(
                "/ibyok.v1.KeyVault/UndeleteKey",
                pb::UndeleteKeyRequest { name: name(), request_id: id() },
                "request_id",
            ),
            case(
                DESTROY,
                pb::DestroyKeyRequest { name: name(), confirm: name(), request_id: id(), ..Default::default() },
                "request_id",
            ),
        ]);
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

fn update(field: &'static str, mask: &[&str], spoil: impl FnOnce(&mut pb::UpdateKeyRequest)) -> Case {
    let paths = mask.iter().map(|path| (*path).to_owned()).collect();
    let mut request = pb::UpdateKeyRequest {
        key: Some(pb::Key { name: "good".into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..Default::default()
    };
    spoil(&mut request);
    case(UPDATE, request, field)
}

fn key_of(request: &mut pb::UpdateKeyRequest) -> &mut pb::Key {
    request.key.as_mut().unwrap()
}

#[tokio::test]
async fn versions_and_retrievals_refuse_bad_input() {
    let (vault, admin) = with_a_key().await;
    let name = || "good".to_owned();
    let retrieve = || pb::RetrieveKeyRequest { name: name(), ..Default::default() };
    let add = || pb::AddKeyVersionRequest { name: name(), secret: secret("sk-proj-another"), ..Default::default() };
    let mut cases = vec![
        case(ADD, pb::AddKeyVersionRequest { secret: None, ..add() }, "secret"),
        case(ADD, pb::AddKeyVersionRequest { base_url: canary(""), ..add() }, "base_url"),
        case(RETRIEVE, pb::RetrieveKeyRequest { purpose: long(257), ..retrieve() }, "purpose"),
        case(RETRIEVE, pb::RetrieveKeyRequest { purpose: canary("\0"), ..retrieve() }, "purpose"),
        case(
            VERIFY,
            pb::VerifyKeyVersionRequest { name: name(), evidence: long(257), ..Default::default() },
            "evidence",
        ),
        case(
            "/ibyok.v1.KeyVault/DisableKey",
            pb::DisableKeyRequest { name: name(), reason: long(257), ..Default::default() },
            "reason",
        ),
        case("/ibyok.v1.KeyVault/DetectProvider", pb::DetectProviderRequest::default(), "subject"),
    ];
    for text in [String::new(), long(16_385), canary("\nx"), canary("\0")] {
        cases.push(case(ADD, pb::AddKeyVersionRequest { secret: secret(text.clone()), ..add() }, "secret"));
        let subject = Some(pb::detect_provider_request::Subject::Secret(secret(text).unwrap()));
        cases.push(case("/ibyok.v1.KeyVault/DetectProvider", pb::DetectProviderRequest { subject }, "secret"));
    }
    for scheme in bad_schemes() {
        cases.push(case(ADD, pb::AddKeyVersionRequest { auth_scheme: Some(scheme), ..add() }, "auth_scheme"));
    }
    for if_version_not in [canary(""), "0".into(), "orgs/acme/keys/other/versions/1".into(), "-1".into()] {
        cases.push(case(RETRIEVE, pb::RetrieveKeyRequest { if_version_not, ..retrieve() }, "if_version_not"));
    }
    for grace in no_spans().into_iter().chain([span(30 * 86_400 + 1, 0), span(i64::MAX, 0)]) {
        let request =
            pb::PromoteKeyVersionRequest { name: name(), allow_unverified: true, grace, ..Default::default() };
        cases.push(case(PROMOTE, request, "grace"));
    }
    for recovery_window in no_spans().into_iter().chain([span(3_599, 0), span(90 * 86_400 + 1, 0), span(i64::MAX, 0)]) {
        cases.push(case(
            DELETE,
            pb::DeleteKeyRequest { name: name(), recovery_window, ..Default::default() },
            "recovery_window",
        ));
    }
    for confirm in [String::new(), canary(""), "goo".into(), "orgs/acme/keys/other".into(), "GOOD".into()] {
        cases.push(case(
            DESTROY,
            pb::DestroyKeyRequest { name: name(), confirm: confirm.clone(), ..Default::default() },
            "confirm",
        ));
        let name = "good/versions/1".to_owned();
        cases.push(case(
            DESTROY_VERSION,
            pb::DestroyKeyVersionRequest { name, confirm, ..Default::default() },
            "confirm",
        ));
    }
    // What can't be undone names its version by number.
    for name in ["good", "good/versions/current", "good/versions/pending", "good/versions/previous"] {
        let request = pb::DestroyKeyVersionRequest { name: name.into(), confirm: name.into(), ..Default::default() };
        cases.push(case(DESTROY_VERSION, request, "name"));
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

#[tokio::test]
async fn a_batch_refuses_bad_input_whole_and_bad_names_alone() {
    let (vault, admin) = with_a_key().await;
    let batch = |names: Vec<String>| pb::BatchRetrieveKeysRequest { names, ..Default::default() };
    let good = || vec!["good".to_owned()];
    let cases = vec![
        case(BATCH, batch(Vec::new()), "names"),
        case(BATCH, batch(vec![canary(""); 41]), "names"),
        case(BATCH, pb::BatchRetrieveKeysRequest { purpose: long(257), ..batch(good()) }, "purpose"),
        case(BATCH, pb::BatchRetrieveKeysRequest { purpose: canary("\0"), ..batch(good()) }, "purpose"),
    ];
    refuse_all(&admin, cases).await;
    for name in no_keys() {
        let answer = admin.keys().batch_retrieve_keys(batch(vec!["good".into(), name.clone()])).await.unwrap();
        let results = answer.into_inner().results;
        let of = |n: usize| results[n].status.as_ref().unwrap();
        assert_eq!(of(0).code, 0, "{name}");
        let fields: Vec<_> = of(1).field_violations.iter().map(|found| found.field.as_str()).collect();
        assert_eq!((of(1).reason.as_str(), fields), ("INVALID_FIELD", vec!["names[1]"]), "{name}");
        assert!(results[1].name.is_empty() && !holds(format!("{results:?}").as_bytes()), "{results:?}");
    }
    vault.stop().await;
}

#[tokio::test]
async fn listings_refuse_bad_input() {
    let (vault, admin) = with_a_key().await;
    let filtered =
        |filter, field| case(LIST, pb::ListKeysRequest { filter: Some(filter), ..Default::default() }, field);
    let mut cases = Vec::new();
    for page_size in [-1, 1_001, i32::MIN, i32::MAX] {
        cases.push(case(LIST, pb::ListKeysRequest { page_size, ..Default::default() }, "page_size"));
        let request = pb::ListKeyVersionsRequest { parent: "good".into(), page_size, ..Default::default() };
        cases.push(case(VERSIONS, request, "page_size"));
    }
    for parent in no_parents() {
        cases.push(case(LIST, pb::ListKeysRequest { parent, ..Default::default() }, "parent"));
    }
    for state in [0, 4, -1] {
        cases.push(filtered(pb::KeyFilter { states: vec![1, state], ..Default::default() }, "filter.states"));
    }
    cases.push(filtered(pb::KeyFilter { providers: vec![canary("")], ..Default::default() }, "filter.providers"));
    for time in no_times() {
        cases.push(filtered(pb::KeyFilter { not_used_since: time, ..Default::default() }, "filter.not_used_since"));
        cases.push(filtered(
            pb::KeyFilter { rotation_due_before: time, ..Default::default() },
            "filter.rotation_due_before",
        ));
    }
    refuse_all(&admin, cases).await;
    vault.stop().await;
}
