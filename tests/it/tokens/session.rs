//! Sessions: one read, records that nobody else can write, counted tokens.

use ibyok::{
    domain::{error::Reason, scope::Scope},
    repository::{bindings, orgs, tokens},
    service::{session::Access, tokens::Issue},
    store::{Item, ItemKey, Value},
};

use super::harness::*;

#[tokio::test]
async fn a_session_is_one_read_whatever_the_call_needs() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let claims = admin.claims.as_ref().unwrap();
    // A need that the session reads anyway is read once, and answered in its place.
    let needs = [
        ItemKey::new("O#acme#K#absent", "META"),
        tokens::item_key(&claims.org, &claims.token_id),
        orgs::item_key(&claims.org),
    ];
    let before = vault.store.faults().reads();
    let session = vault
        .parts
        .sessions
        .open(&vault.call(&admin, "RetrieveKey", ""), Access::Collection(Scope::KeysRead), &needs)
        .await
        .unwrap();
    assert_eq!(vault.store.faults().reads() - before, 1);
    let found: Vec<_> = session.items.iter().map(|item| item.as_ref().map(|item| item.key.clone())).collect();
    assert_eq!(found, [None, Some(needs[1].clone()), Some(needs[2].clone())]);
}

fn flips(item: &Item) -> Vec<Item> {
    let mut out = vec![
        Item { mac: None, ..item.clone() },
        Item { mac: Some(vec![0; 40]), ..item.clone() },
        Item { revision: item.revision + 1, ..item.clone() },
        Item { expires: Some(ibyok::domain::clock::Timestamp::from_seconds(1)), ..item.clone() },
        Item { sealed: Some(vec![1]), ..item.clone() },
    ];
    for (name, value) in &item.attributes {
        let changed = match value {
            Value::Text(text) => Value::Text(format!("{text}x")),
            Value::Int(int) => Value::Int(int + 1),
            Value::Bool(flag) => Value::Bool(!flag),
            _ => Value::List(vec![]),
        };
        let mut without = item.clone();
        without.attributes.remove(name);
        let mut other = item.clone();
        other.attributes.insert(name.clone(), changed);
        out.extend([without, other]);
    }
    out
}

#[tokio::test]
async fn whoever_writes_the_database_does_not_make_himself_an_administrator() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let claims = admin.claims.as_ref().unwrap();
    let item = |key: &ItemKey| vault.store.dump().into_iter().find(|item| item.key == *key).unwrap();
    for key in [
        tokens::item_key(&claims.org, &claims.token_id),
        tokens::subject_key(&claims.org, &claims.subject),
        tokens::epoch_key(&claims.org, &claims.token_id),
    ] {
        let good = item(&key);
        for bad in flips(&good) {
            vault.store.tamper(bad.clone());
            assert_eq!(reason(vault.stands(&admin).await), Reason::RecordRejected, "{bad:?}");
        }
        vault.store.tamper(good);
        vault.stands(&admin).await.unwrap();
    }
    let key = bindings::item_key(&claims.org, &ibyok::domain::ids::BindingId::parse("id", "admin").unwrap());
    for bad in flips(&item(&key)) {
        vault.store.tamper(bad);
        assert_eq!(reason(vault.exchange_as(&admin, "acme").await), Reason::RecordRejected);
    }
}

#[tokio::test]
async fn a_record_moved_to_another_place_is_refused() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let weak = vault.token(&admin, "weak", grants(&["keys:list"])).await;
    let (system, acme) = (vault.enter(ADMIN, "system").await, org("acme"));
    let find = |key: &ItemKey| vault.store.dump().into_iter().find(|item| item.key == *key).unwrap();
    let target = tokens::item_key(&acme, &name(&weak).id);
    for from in [tokens::item_key(&acme, &name(&admin).id), tokens::item_key(&org("system"), &name(&system).id)] {
        vault.store.tamper(Item { key: target.clone(), ..find(&from) });
        assert_eq!(reason(vault.stands(&weak).await), Reason::RecordRejected);
    }
    let epoch = tokens::epoch_key(&acme, &name(&admin).id);
    vault.store.tamper(Item { key: epoch.clone(), ..find(&tokens::epoch_key(&org("system"), &name(&admin).id)) });
    assert_eq!(reason(vault.stands(&admin).await), Reason::RecordRejected);
}

#[tokio::test]
async fn a_missing_record_refuses() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let claims = admin.claims.as_ref().unwrap();
    let deadline = vault.call(&admin, "GetJwks", "").deadline;
    let missing = [
        (tokens::item_key(&claims.org, &claims.token_id), Reason::TokenRevoked),
        (tokens::subject_key(&claims.org, &claims.subject), Reason::TokenRevoked),
        (tokens::epoch_key(&claims.org, &claims.token_id), Reason::RecordRejected),
    ];
    for (n, (key, expected)) in missing.into_iter().enumerate() {
        let good = vault.store.dump().into_iter().find(|item| item.key == key).unwrap();
        let delete = ibyok::store::Action::Delete(key, ibyok::store::Condition::Present);
        let id = ibyok::store::WriteId([u8::try_from(n).unwrap(); 16]);
        vault.parts.records.store().write(id, vec![delete], deadline).await.unwrap();
        assert_eq!(reason(vault.stands(&admin).await), expected);
        vault.store.tamper(good);
    }
    vault.stands(&admin).await.unwrap();
}

#[tokio::test]
async fn a_counted_token_is_spent_release_by_release() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let counted = Issue { uses_max: Some(2), ..request("c", grants(&["keys:read", "tokens:issue"])) };
    let issued = vault.issue(&admin, &counted).await.unwrap();
    let counted = vault.present(&admin, &issued.access_token).unwrap();
    let read = || Access::Resource(Scope::KeysRead, "orgs/acme/keys/a".into());
    let release = || async {
        let session = vault.open(&counted, "RetrieveKey", read()).await?;
        let spent = tokens::spend(&vault.parts.records, &session.uses.unwrap())?;
        let call = vault.call(&counted, "RetrieveKey", "");
        let draft = call.draft(org("acme"), "orgs/acme/keys/a");
        vault.parts.audit.commit(vec![spent], draft, call.deadline).await
    };
    release().await.unwrap();
    release().await.unwrap();
    assert_eq!(reason(release().await), Reason::TokenUsedUp);
    let own = vault.tokens.introspect(&vault.call(&counted, "IntrospectToken", ""), None).await.unwrap();
    assert_eq!((own.objection, own.token.unwrap().uses), (Some(Reason::TokenUsedUp), 2));
    let renewed = vault.tokens.renew(&vault.call(&counted, "RenewToken", ""), None, "").await.unwrap();
    assert_eq!(renewed.token.uses, 2, "renewal keeps the count");
    // Each token handed on would be one more use.
    let child = request("x", grants(&["keys:read"]));
    assert_eq!(reason(vault.issue(&counted, &child).await), Reason::GrantTooWide);
    assert!(vault.open(&admin, "RetrieveKey", read()).await.unwrap().uses.is_none());
}

#[tokio::test]
async fn nothing_of_a_token_is_in_the_store_or_in_debug_texts() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let issued = vault.issue(&admin, &Issue { request_id: "r".into(), ..request("a", grants(&["keys:read"])) }).await;
    let issued = issued.unwrap();
    let signature = issued.access_token.expose_secret().rsplit('.').next().unwrap().to_owned();
    assert!(!format!("{issued:?}").contains(&signature));
    let raw = data_encoding::BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    for item in vault.store.dump() {
        let text = format!("{item:?}");
        assert!(!text.contains(&signature) && !text.contains(&format!("{raw:?}")), "{}", item.key.partition);
    }
}
