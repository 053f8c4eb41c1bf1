//! How far ListKeyConsumers can be relied on, and that it says so.

use ibyok::{
    domain::error::Reason,
    service::usage::{ListConsumers, UsageService},
    store::{Action, Condition, ItemKey, NewItem, Value},
};

use super::{consumers, fold, used};
use crate::fixture::keys::{Setting, name, reason, retrieve};

#[tokio::test]
async fn consumers_say_up_to_when_they_are_known() {
    let (setting, _) = used().await;
    let Setting { vault, admin, org, fixture } = &setting;
    let service = UsageService::new(fixture.parts.clone());
    let request = ListConsumers { name: name(org, "prod"), page_size: 10, page_token: String::new() };
    let now = || fixture.parts.clock.now();
    let known = async || service.consumers(&admin.call("ListKeyConsumers"), &request).await.unwrap();
    fold(&setting).await;
    let before = now();
    let page = known().await;
    assert!(page.as_of.is_some_and(|as_of| as_of >= before) && !page.is_truncated, "nothing is left to be folded");

    retrieve(vault, admin, "prod").await.unwrap();
    let after = now();
    let page = known().await;
    assert!(page.as_of.is_none_or(|as_of| as_of < after), "one is not folded yet");
    fold(&setting).await;
    assert!(known().await.as_of.is_some_and(|as_of| as_of >= after));

    // What is folded while more comes is known up to when that was looked for.
    retrieve(vault, admin, "prod").await.unwrap();
    let between = now();
    fold(&setting).await;
    retrieve(vault, admin, "prod").await.unwrap();
    let last = now();
    assert!(known().await.as_of.is_some_and(|as_of| as_of >= between && as_of < last));
}

#[tokio::test]
async fn consumers_that_can_not_be_read_are_not_taken_for_none() {
    let (setting, _) = used().await;
    let Setting { vault, admin, org, fixture } = &setting;
    fold(&setting).await;
    let uid = vault.key(&admin.call("GetKey"), &name(org, "prod")).await.unwrap().record.uid;
    let key = ItemKey::new("O#acme#C#prod", uid.as_str());
    let attributes = [("consumers".to_owned(), Value::Bytes(vec![9]))].into();
    fixture.write(vec![Action::Put(NewItem::new(key, attributes), Condition::Any)]).await;
    assert_eq!(reason(consumers(&setting, admin, "prod").await), Reason::RecordRejected);
    // Folding writes it anew.
    retrieve(vault, admin, "prod").await.unwrap();
    fold(&setting).await;
    assert_eq!(consumers(&setting, admin, "prod").await.unwrap().len(), 1);
}
