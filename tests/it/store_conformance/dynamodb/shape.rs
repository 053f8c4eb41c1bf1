//! What stands in the table, and how much of it fits.

use std::collections::{BTreeMap, HashMap};

use ibyok::{
    domain::clock::Timestamp,
    store::{ITEM_BYTES_MAX, ITEMS_MAX, NAME_BYTES_MAX, WRITE_BYTES_MAX, limits::item_bytes},
};

use super::*;

async fn raw(ways: &Ways, key: &ItemKey) -> HashMap<String, AttributeValue> {
    let get = local::client().await.get_item().table_name(&ways.table).consistent_read(true);
    let get = get.key("pk", AttributeValue::S(key.partition.clone()));
    get.key("sk", AttributeValue::S(key.sort.clone())).send().await.unwrap().item.unwrap()
}

/// However it is written, it stands there the same, and what it lacks is gone.
#[tokio::test]
async fn an_item_can_be_read_in_the_console() {
    let ways = Ways::open().await;
    let attributes = Attributes::from([
        ("name".into(), Value::Text("openai-prod".into())),
        ("rev".into(), Value::Int(-7)),
        ("tags".into(), Value::List(vec![Value::Bool(true), Value::Bytes(vec![])])),
    ]);
    let full = NewItem {
        expires: Some(Timestamp::from_seconds(4_102_444_800)),
        sealed: Some(vec![1, 2]),
        mac: Some(vec![3]),
        ..NewItem::new(at("s"), attributes)
    };
    for condition in [Condition::Absent, Condition::Revision(1), Condition::Present, Condition::Any] {
        let id = write_id();
        let put = Action::Put(full.clone(), condition);
        assert_eq!(ways.store.write(id, vec![put], soon()).await.unwrap(), Written::Committed);
        let found = raw(&ways, &at("s")).await;
        let mut names: Vec<_> = found.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["attrs", "exp", "mac", "pk", "rev", "sealed", "sk", "wid"]);
        assert_eq!(found["exp"], AttributeValue::N("4102444800".into()));
        assert_eq!(found["wid"].as_b().unwrap().as_ref(), id.0);
        let map = found["attrs"].as_m().unwrap();
        assert_eq!(map["name"], AttributeValue::S("openai-prod".into()));
        assert_eq!(map["rev"], AttributeValue::N("-7".into()));
    }
    assert_eq!(ways.other.one(&at("s")).await.unwrap().revision, 4);
    for condition in [Condition::Revision(4), Condition::Any] {
        let bare = NewItem::new(at("s"), Attributes::new());
        ways.other.commit(vec![Action::Put(full.clone(), Condition::Any)]).await;
        let condition = if condition == Condition::Any { condition } else { Condition::Revision(5) };
        assert_eq!(ways.write(vec![Action::Put(bare, condition)]).await.unwrap(), Written::Committed);
        let found = raw(&ways, &at("s")).await;
        assert!(["exp", "mac", "sealed"].iter().all(|name| !found.contains_key(*name)), "{found:?}");
        assert!(found["attrs"].as_m().unwrap().is_empty());
    }
}

/// As much as the port takes, of the kinds that cost DynamoDB most.
#[tokio::test]
async fn what_the_limits_let_through_fits() {
    let ways = Ways::open().await;
    let name = |n: usize| format!("{n:x}");
    let fill = |one: &dyn Fn(usize) -> (String, Value)| {
        let (mut attributes, mut bytes) = (Attributes::new(), 0);
        for n in 0.. {
            let (name, value) = one(n);
            let more = item_bytes(&key("", ""), None, None, &Attributes::from([(name.clone(), value.clone())]));
            if bytes + more + "ps".len() > ITEM_BYTES_MAX {
                return attributes;
            }
            bytes += more;
            attributes.insert(name, value);
        }
        attributes
    };
    let full = |attributes| NewItem::new(at("s"), attributes);
    let deep = |n| (0..15).fold(Value::Int(n), |inner, _| Value::List(vec![inner]));
    for item in [
        full(fill(&|n| (name(n), Value::Bool(true)))),
        full(fill(&|n| (name(n), Value::Int(i64::MIN + n as i64)))),
        full(fill(&|n| (name(n), Value::Text(String::new())))),
        full(fill(&|n| (name(n), Value::Map(BTreeMap::from([("a".into(), Value::Bool(false))]))))),
        full(fill(&|n| (name(n), deep(n as i64)))),
        full(fill(&|n| (format!("{n}{}", "n".repeat(NAME_BYTES_MAX - 1)), Value::Bool(true)))),
    ] {
        for condition in [Condition::Absent, Condition::Any] {
            let count = item.attributes.len();
            let written = ways.write(vec![Action::Put(item.clone(), condition)]).await;
            assert_eq!(written.unwrap(), Written::Committed, "{count} attributes");
        }
        assert_eq!(ways.other.one(&at("s")).await.unwrap().attributes, item.attributes);
        ways.other.commit(vec![delete(&at("s"), Condition::Any)]).await;
    }
}

#[tokio::test]
async fn the_largest_write_of_a_hundred_fits() {
    let ways = Ways::open().await;
    for condition in [Condition::Absent, Condition::Any] {
        let items = (0..ITEMS_MAX).map(|n| sized(at(&format!("{n:03}")), WRITE_BYTES_MAX / ITEMS_MAX));
        let puts = items.map(|item| Action::Put(item, condition)).collect();
        assert_eq!(ways.write(puts).await.unwrap(), Written::Committed);
    }
    assert_eq!(ways.other.all(every("p")).await.len(), ITEMS_MAX);
}
