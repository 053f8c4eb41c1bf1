//! A server on a database that somebody changed: what it refuses, and what goes on being served.

use ibyok::grpc::pb;
use prost::Message as _;
use tonic::Code;

use super::{
    stock::{self, Opened, Raw, Row, create, grant, openai, retrieve, rotate},
    *,
};
use crate::harness::Caller;

fn place(org: &str, key: &str) -> String {
    format!("O#{org}#K#{key}")
}

async fn listed(caller: &Caller) -> Vec<String> {
    let page = caller.keys().list_keys(pb::ListKeysRequest::default()).await.unwrap().into_inner();
    assert!(page.next_page_token.is_empty());
    page.keys.into_iter().map(|key| key.name.rsplit('/').next().unwrap().to_owned()).collect()
}

/// What a caller sees of a refusal: code, reason, message, details.
fn seen(status: &tonic::Status) -> (String, String, String, Vec<u8>) {
    (status.code().to_string(), reason(status), status.message().to_owned(), status.details().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_is_refused_and_the_others_are_served() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    for id in ["whole", "state", "unreadable", "value", "moved", "unsigned", "unlisted"] {
        create(&admin, id, &openai(id)).await;
    }
    create(&admin, "version", &openai("v1")).await;
    rotate(&admin, "version", &openai("v2"), true).await;
    rotate(&admin, "version", &openai("v3"), true).await;
    let home = vault.stop().await;

    let raw = Raw::of(&home).await;
    let meta = async |key: &str| raw.row(&place(ORG, key), "META").await;
    raw.put(&meta("state").await.changed("ACTIVE", "Active")).await;
    raw.put(&meta("unreadable").await.broken()).await;
    let mut sealed = meta("value").await.sealed.unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    raw.put(&Row { sealed: Some(sealed), ..meta("value").await }).await;
    raw.put(&Row { partition: place(ORG, "moved"), ..meta("whole").await }).await;
    raw.put(&Row { mac: None, ..meta("unsigned").await }).await;
    raw.put(&raw.row(&format!("O#{ORG}#KEYS"), "openai#unlisted").await.broken()).await;
    let old = raw.row(&place(ORG, "version"), "V#00000001").await;
    let mut sealed = old.sealed.clone().unwrap();
    sealed[40] ^= 1;
    raw.put(&Row { sealed: Some(sealed), ..old }).await;
    raw.put(&raw.row(&place(ORG, "version"), "V#00000002").await.broken()).await;
    drop(raw);

    let vault = home.serve("").await;
    let admin = vault.admin().await;
    assert_eq!(retrieve(&admin, "whole").await.unwrap().secret.unwrap().text, openai("whole"));
    assert_eq!(retrieve(&admin, "version").await.unwrap().secret.unwrap().text, openai("v3"));
    retrieve(&admin, "unlisted").await.unwrap();
    let mut refusals = BTreeSet::new();
    for name in ["state", "unreadable", "value", "moved", "unsigned", "version/versions/1", "version/versions/2"] {
        let name = format!("orgs/{ORG}/keys/{name}");
        let refusal = retrieve(&admin, &name).await.unwrap_err();
        assert_eq!(refusal.code(), Code::DataLoss, "{name}: {refusal:?}");
        assert_eq!(reason(&refusal), "RECORD_REJECTED", "{name}");
        refusals.insert(seen(&refusal));
        let get = pb::GetKeyRequest { name: name.clone() };
        if !name.contains("version") {
            refusals.insert(seen(&admin.keys().get_key(get).await.unwrap_err()));
        }
    }
    assert_eq!(refusals.len(), 1, "one error, whatever was changed: {refusals:?}");
    assert_eq!(listed(&admin).await, ["version", "whole"], "a listing leaves out what does not verify, and goes on");
    let versions = pb::ListKeyVersionsRequest { parent: "version".to_owned(), ..Default::default() };
    let versions = admin.keys().list_key_versions(versions).await.unwrap().into_inner().versions;
    assert_eq!(versions.len(), 1, "{versions:?}");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_token_is_refused_and_the_others_are_served() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "key", &openai("key")).await;
    let mut callers = Vec::new();
    for name in ["whole", "changed", "unreadable", "wider", "absent", "subjectless"] {
        let request = pb::IssueTokenRequest {
            subject: name.to_owned(),
            grants: vec![grant(&["keys:read"])],
            ..Default::default()
        };
        callers.push(vault.issue(&admin, &format!("spiffe://ibyok.test/{name}"), request).await);
        retrieve(callers.last().unwrap(), "key").await.unwrap();
    }
    let [whole, changed_one, unreadable, wider, absent, subjectless] = &callers[..] else { unreachable!() };

    // While it is served: with its next write the vault notices, and reads again what is there.
    let raw = Raw::of(&vault.home()).await;
    let row = async |caller: &Caller| raw.row(&token_place(caller), "META").await;
    raw.put(&row(changed_one).await.changed("changed", "Changed")).await;
    raw.put(&row(unreadable).await.broken()).await;
    raw.put(&row(wider).await.changed("keys:read", "keys:list")).await;
    raw.delete(&token_place(absent), "META").await;
    let subject = ibyok::repository::tokens::subject_key(
        &OrgId::parse("org", ORG).unwrap(),
        &ibyok::domain::ids::Subject::parse("subject", "subjectless").unwrap(),
    );
    raw.delete(&subject.partition, &subject.sort).await;

    retrieve(whole, "key").await.unwrap();
    let mut refusals = BTreeSet::new();
    for caller in [changed_one, unreadable, wider] {
        let refusal = retrieve(caller, "key").await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::DataLoss, "RECORD_REJECTED"));
        refusals.insert(seen(&refusal));
    }
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    for caller in [absent, subjectless] {
        let refusal = retrieve(caller, "key").await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated, "a missing record refuses: {refusal:?}");
    }
    let tokens = admin.tokens().list_tokens(pb::ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert!(tokens.iter().any(|token| token.subject == "whole"));
    assert!(tokens.iter().all(|token| !["changed", "Changed", "unreadable", "wider"].contains(&&*token.subject)));

    // An epoch that is gone refuses every token that looks at it.
    for copy in 0..16 {
        raw.delete(&format!("O#{ORG}#E#{copy:x}"), "EPOCH").await;
    }
    // What this one reads is in the memory still, or no longer.
    let _ = retrieve(whole, "key").await;
    let refusal = retrieve(whole, "key").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::DataLoss, "RECORD_REJECTED"));
    vault.stop().await;
}

/// The partition of the caller's token, from the `jti` that his JWT says.
fn token_place(caller: &Caller) -> String {
    let payload = caller.token.as_ref().unwrap().split('.').nth(1).unwrap();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    let id = ibyok::domain::ids::TokenId::parse("id", claims["jti"].as_str().unwrap()).unwrap();
    let org = OrgId::parse("org", claims["org"].as_str().unwrap()).unwrap();
    ibyok::repository::tokens::item_key(&org, &id).partition
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_one_organization_are_none_of_another() {
    let vault = Vault::start().await;
    stock::fill(&vault).await;
    let home = vault.stop().await;
    let raw = Raw::of(&home).await;
    // The same id in both organizations: everything of the one put over the other.
    for sort in ["META", "V#00000001", "V#00000002", "V#00000003"] {
        let row = raw.row(&place(stock::OTHER, "openai"), sort).await;
        raw.put(&Row { partition: place(ORG, "openai"), ..row }).await;
    }
    // The binding of this organization's administrator, by which he would enter another one.
    let binding = raw.rows().await.into_iter().find(|row| row.partition == format!("O#{ORG}#BIND")).unwrap();
    raw.put(&Row { partition: format!("O#{}#BIND", stock::OTHER), sort: "planted".to_owned(), ..binding }).await;
    // An organization's record, of which only the name is in the listing then.
    let org = raw.row(&format!("O#{ORG}"), "ORG").await;
    raw.put(&Row { partition: format!("O#{}", stock::OTHER), ..org }).await;
    drop(raw);

    let vault = home.serve("").await;
    let admin = vault.admin().await;
    for name in ["openai", "openai/versions/1", "openai/versions/2", "openai/versions/3"] {
        let refusal = retrieve(&admin, &format!("orgs/{ORG}/keys/{name}")).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::DataLoss, "RECORD_REJECTED"), "{name}");
    }
    retrieve(&admin, "spare").await.unwrap();
    let stranger = vault.stranger(ADMIN);
    let exchange = pb::ExchangeTokenRequest {
        subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
        parent: format!("orgs/{}", stock::OTHER),
        ..Default::default()
    };
    let refusal = stranger.tokens().exchange_token(exchange).await.unwrap_err();
    assert_eq!(refusal.code(), Code::DataLoss, "{refusal:?}");
    let orgs = vault.operator().await.admin().list_orgs(pb::ListOrgsRequest::default()).await.unwrap().into_inner();
    let orgs: Vec<_> = orgs.orgs.into_iter().map(|org| org.name).collect();
    assert_eq!(orgs, [format!("orgs/{ORG}"), "orgs/system".to_owned()]);
    vault.stop().await;
}

/// What is put back as it once was, revision and all, is consistent with itself: it is served.
/// The log tells: it holds a record with a greater revision of the same resource, and whoever
/// removed that record, too, broke its chain.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_item_put_back_whole_is_found_by_the_log() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let created = create(&admin, "openai", &openai("a")).await;
    let home = vault.stop().await;
    let older = Raw::of(&home).await.row(&place(ORG, "openai"), "META").await;

    let vault = home.serve("").await;
    let admin = vault.admin().await;
    let disable = pb::DisableKeyRequest { name: "openai".to_owned(), ..Default::default() };
    admin.keys().disable_key(disable).await.unwrap();
    let home = vault.stop().await;
    Raw::of(&home).await.put(&older).await;

    let vault = home.serve("").await;
    let admin = vault.admin().await;
    let get = pb::GetKeyRequest { name: "openai".to_owned() };
    let key = admin.keys().get_key(get).await.unwrap().into_inner().key.unwrap();
    assert_eq!((key.etag.clone(), key.state()), (created.etag, pb::KeyState::Active), "a replay is not prevented");
    let stored: u64 = key.etag.rsplit('.').next().unwrap().parse().unwrap();

    let filter = pb::AuditFilter { resource_prefix: key.name.clone(), ..Default::default() };
    let request = pb::ListAuditEventsRequest { filter: Some(filter), ..Default::default() };
    let events = admin.audit().list_audit_events(request).await.unwrap().into_inner().events;
    let revisions = events.iter().map(|event| pb::AuditRecord::decode(&*event.record).unwrap().revision);
    let logged = u64::try_from(revisions.max().unwrap()).unwrap();
    assert!(logged > stored, "the log knows revision {logged}, the store says {stored}");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_audit_log_is_found() {
    let vault = Vault::start().await;
    stock::fill(&vault).await;
    let mut home = vault.stop().await;
    // The last batch of a chain, a batch's records, the order, a chain's end.
    for (kind, change) in [("B#", true), ("B#", false), ("P#", true), ("A#LOG", true), ("A#HEADS", true)] {
        let raw = Raw::of(&home).await;
        let is_one = |row: &&Row| row.sort.starts_with(kind) || row.partition.starts_with(kind);
        let rows = raw.rows().await;
        let row = rows.iter().filter(is_one).max_by_key(|row| row.attributes.size()).unwrap();
        if change {
            raw.put(&row.spoiled()).await;
        } else {
            raw.delete(&row.partition, &row.sort).await;
        }
        drop(raw);
        let vault = home.serve("").await;
        let verdict = verdict(&vault).await;
        assert!(verdict.complete && !verdict.intact && !verdict.problem.is_empty(), "{kind} {change}: {verdict:?}");
        home = vault.stop().await;
        Raw::of(&home).await.put(row).await;
        let vault = home.serve("").await;
        let verdict = self::verdict(&vault).await;
        assert!(verdict.complete && verdict.intact, "{kind}: {verdict:?}");
        home = vault.stop().await;
    }
}

async fn verdict(vault: &Vault) -> pb::VerifyAuditLogResponse {
    let operator = vault.operator().await;
    let request = pb::VerifyAuditLogRequest::default();
    let mut steps = operator.audit().verify_audit_log(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(step) = steps.message().await.unwrap() {
        last = Some(step);
    }
    last.unwrap()
}

/// Nobody starts on keys of the vault's own that were changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_of_the_vault_itself_refuses_the_start() {
    let vault = Vault::start().await;
    let mut home = vault.stop().await;
    for kind in ["INIT", "RECMAC#", "SIGN#", "PAGE#"] {
        let raw = Raw::of(&home).await;
        let row =
            raw.rows().await.into_iter().find(|row| row.partition == "SYS" && row.sort.starts_with(kind)).unwrap();
        let mut damaged = vec![row.broken(), Row { mac: None, ..row.clone() }, Row { revision: 9, ..row.clone() }];
        if let Some(sealed) = &row.sealed {
            let mut sealed = sealed.clone();
            *sealed.last_mut().unwrap() ^= 1;
            damaged.push(Row { sealed: Some(sealed), ..row.clone() });
            damaged.push(Row { sealed: None, ..row.clone() });
        }
        for damaged in damaged {
            raw.put(&damaged).await;
            let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let run = ibyok::server::run(home.config(""), socket, std::future::pending(), home.sources());
            let refused = run.await.unwrap_err();
            assert!(matches!(refused, ibyok::server::ServerError::Vault(_)), "{kind}: {refused}");
        }
        raw.put(&row).await;
    }
    home = home.serve("").await.stop().await;
    Opened::of(&home).await;
}
