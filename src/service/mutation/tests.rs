use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::{
    authz::{claims::Claims, methods},
    domain::{
        clock::{SystemEntropy, Timestamp},
        ids::{Subject, TokenId, Uid},
        principal::{ClientCertificate, Peer},
        token::{Confirmation, TokenMode},
    },
    kms::fake::FakeKms,
    repository::audit::AuditSettings,
    service::{
        sealing::Sealer,
        testing::{self, TestClock, in_time, write},
    },
    store::{Condition, Value, Written, fake::MemoryStore},
};

struct Vault {
    store: MemoryStore,
    clock: Arc<TestClock>,
    records: Records,
    keyring: Arc<Keyring>,
    mutations: Mutations,
}

const CREATE: &str = "/ibyok.v1.KeyVault/CreateKey";
const ISSUE: &str = "/ibyok.v1.Tokens/IssueToken";

fn org(id: &str) -> OrgId {
    OrgId::parse("org", id).unwrap()
}

impl Vault {
    async fn new() -> Self {
        let (store, clock) = (testing::store(), TestClock::new());
        let entropy = Arc::new(SystemEntropy);
        let sealer = Sealer::new(Arc::new(FakeKms::new()), Arc::<SystemEntropy>::clone(&entropy));
        let made = Keyring::create(
            Arc::new(store.clone()),
            sealer,
            Arc::<SystemEntropy>::clone(&entropy),
            Arc::<TestClock>::clone(&clock),
            in_time(),
        );
        let (keyring, mut actions) = made.await.unwrap();
        for id in ["acme", "other"] {
            actions.push(keyring.new_org_keys(&org(id), &Uid::stored("uid"), None, in_time()).await.unwrap());
        }
        assert_eq!(write(&store, actions).await, Written::Committed);
        let records = Records::new(Arc::new(store.clone()), keyring.records());
        let system_clock = Arc::new(crate::domain::clock::SystemClock);
        let audit = AuditLog::open(records.clone(), system_clock, entropy, AuditSettings::default()).unwrap();
        let keyring = Arc::new(keyring);
        let test_clock = Arc::<TestClock>::clone(&clock);
        let mutations = Mutations::new(records.clone(), Arc::clone(&keyring), audit, test_clock);
        Self { store, clock, records, keyring, mutations }
    }
    async fn idempotency(&self, call: &Call, request_id: &str) -> Idempotency {
        self.mutations.idempotency(call, &org("acme"), request_id).await.unwrap().unwrap()
    }
    fn row(&self, idempotency: &Idempotency) -> Option<Item> {
        self.store.dump().into_iter().find(|item| item.key == idempotency.key)
    }
    fn prior(&self, idempotency: &Idempotency) -> Result<Option<Remembered>, Failure> {
        self.mutations.prior(Some(idempotency), self.row(idempotency))
    }
    /// Makes the key `name` once.
    async fn make(&self, call: &Call, idempotency: Option<&Idempotency>, name: &str) -> Result<Mutated, Failure> {
        let item = NewItem::new(ItemKey::new(format!("O#acme#K#{name}"), "META"), BTreeMap::new());
        let actions = vec![self.records.put(item, Expected::Absent)];
        let draft = call.draft(org("acme"), format!("orgs/acme/keys/{name}"));
        self.mutations.commit(call, idempotency, remembered(name), actions, draft).await
    }
    fn keys(&self) -> usize {
        self.store.dump().iter().filter(|item| item.key.partition.starts_with("O#acme#K#")).count()
    }
    fn audited(&self) -> usize {
        self.store.dump().iter().filter(|item| item.key.sort.starts_with("B#")).count()
    }
}

fn remembered(name: &str) -> Remembered {
    Remembered {
        resource: format!("orgs/acme/keys/{name}"),
        uid: Some(Uid::stored("uid")),
        revision: 1,
        numbers: [("expire_time".to_owned(), 7), ("count".to_owned(), -1)].into(),
        codes: vec!["SHORT".to_owned()],
    }
}

fn call(method: &str, subject: Option<&str>, content: u8) -> Call {
    let claims = subject.map(|subject| Claims {
        org: org("acme"),
        subject: Subject::parse("sub", subject).unwrap(),
        token_id: TokenId::random(&SystemEntropy).unwrap(),
        parent: None,
        mode: TokenMode::Live,
        scopes: vec![],
        grants_sha256: [0; 32],
        confirmation: Confirmation::Certificate([9; 32]),
        issued: Timestamp::default(),
        not_before: Timestamp::default(),
        expires: Timestamp::default(),
        is_use_limited: false,
        signing_key: String::new(),
    });
    let certificate = ClientCertificate { identities: vec![], sha256: [9; 32], not_after: Timestamp::default() };
    Call {
        method: methods::find(method).unwrap(),
        claims: claims.map(Arc::new),
        peer: Peer { certificate: Arc::new(certificate), address: IpAddr::V4(Ipv4Addr::LOCALHOST) },
        user_agent: String::new(),
        trace_id: String::new(),
        time: Timestamp::default(),
        deadline: in_time(),
        content: [content; 32],
    }
}

#[tokio::test]
async fn a_request_without_an_id_is_not_remembered() {
    let vault = Vault::new().await;
    let call = call(CREATE, Some("ci"), 1);
    assert!(vault.mutations.idempotency(&call, &org("acme"), "").await.unwrap().is_none());
    assert_eq!(vault.mutations.prior(None, None).unwrap(), None);
    assert!(matches!(vault.make(&call, None, "a").await.unwrap(), Mutated::Done(_)));
    assert!(matches!(vault.make(&call, None, "a").await.unwrap(), Mutated::Conflict { index: 0, current: Some(_) }));
    assert_eq!((vault.keys(), vault.audited()), (1, 1));
    assert!(!vault.store.dump().iter().any(|item| item.key.partition.contains("#IDEM#")));
}

#[tokio::test]
async fn what_is_no_request_id_names_its_field() {
    let vault = Vault::new().await;
    let call = call(CREATE, Some("ci"), 1);
    for bad in [" ", "a b", "\u{e9}", &"x".repeat(129)] {
        let refused = vault.mutations.idempotency(&call, &org("acme"), bad).await.unwrap_err();
        assert_eq!((refused.reason, &*refused.fields[0].field), (Reason::InvalidField, "request_id"));
    }
}

#[tokio::test]
async fn a_remembered_request_is_answered_and_another_content_refused() {
    let vault = Vault::new().await;
    let first = call(CREATE, Some("ci"), 1);
    let place = vault.idempotency(&first, "r-1").await;
    assert_eq!(vault.prior(&place).unwrap(), None);
    assert!(matches!(vault.make(&first, Some(&place), "a").await.unwrap(), Mutated::Done(_)));

    let again = vault.idempotency(&call(CREATE, Some("ci"), 1), "r-1").await;
    assert_eq!(again.key, place.key);
    assert_eq!(vault.prior(&again).unwrap(), Some(remembered("a")));
    let reused = vault.idempotency(&call(CREATE, Some("ci"), 2), "r-1").await;
    assert_eq!(reused.key, place.key);
    assert_eq!(vault.prior(&reused).unwrap_err().reason, Reason::RequestIdReused);
}

#[tokio::test]
async fn nobody_meets_anothers_request_id() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    let mut keys = vec![vault.idempotency(&one, "r-1").await.key];
    keys.push(vault.idempotency(&one, "r-2").await.key);
    keys.push(vault.idempotency(&call(ISSUE, Some("ci"), 1), "r-1").await.key);
    keys.push(vault.idempotency(&call(CREATE, Some("cd"), 1), "r-1").await.key);
    keys.push(vault.idempotency(&call(CREATE, None, 1), "r-1").await.key);
    let thumbprint = one.peer.certificate.thumbprint();
    keys.push(vault.idempotency(&call(CREATE, Some(&thumbprint), 1), "r-1").await.key);
    let elsewhere = vault.mutations.idempotency(&one, &org("other"), "r-1").await.unwrap().unwrap().key;
    keys.push(ItemKey { partition: elsewhere.partition.replace("O#other", "O#acme"), ..elsewhere });
    for (i, key) in keys.iter().enumerate() {
        assert!(!keys[..i].contains(key), "{i}");
        assert!(key.partition.starts_with("O#acme#IDEM#") && !key.partition.contains("r-1"), "{key:?}");
        assert_eq!((key.partition.len(), key.sort.as_str()), ("O#acme#IDEM#".len() + 64, "R"));
    }
}

#[tokio::test]
async fn of_two_calls_at_once_one_happens_and_the_other_is_its_replay() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    let place = vault.idempotency(&one, "r-1").await;
    // Both read before either wrote.
    assert_eq!(vault.prior(&place).unwrap(), None);
    let (first, second) = tokio::join!(vault.make(&one, Some(&place), "a"), vault.make(&one, Some(&place), "a"));
    let outcomes = [first.unwrap(), second.unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Mutated::Done(_))).count(), 1);
    let replay = outcomes.iter().find_map(|outcome| match outcome {
        Mutated::Replayed(prior) => Some(prior.clone()),
        _ => None,
    });
    assert_eq!(replay, Some(remembered("a")));
    assert_eq!((vault.keys(), vault.audited()), (1, 1));
}

#[tokio::test]
async fn a_conflict_at_the_row_of_the_request_alone_is_a_replay_or_a_reuse() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    let place = vault.idempotency(&one, "r-1").await;
    vault.make(&one, Some(&place), "a").await.unwrap();
    let outcome = vault.make(&one, Some(&place), "b").await.unwrap();
    assert!(matches!(outcome, Mutated::Replayed(prior) if prior == remembered("a")));
    let two = call(CREATE, Some("ci"), 2);
    let reused = vault.idempotency(&two, "r-1").await;
    let refused = vault.make(&two, Some(&reused), "c").await.unwrap_err();
    assert_eq!(refused.reason, Reason::RequestIdReused);
    assert_eq!((vault.keys(), vault.audited()), (1, 1));
}

#[tokio::test]
async fn what_the_request_itself_did_is_no_reason_to_refuse_it() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    let refused = async |call: &Call, idempotency: Option<&Idempotency>| {
        let reads = vault.store.faults().reads();
        let refused = vault.mutations.refused(call, idempotency, Reason::KeyExists.into()).await;
        (refused.map_err(|failure| failure.reason), vault.store.faults().reads() - reads)
    };
    assert_eq!(refused(&one, None).await, (Err(Reason::KeyExists), 0), "without an id nothing is read");
    let place = vault.idempotency(&one, "r-1").await;
    assert_eq!(refused(&one, Some(&place)).await, (Err(Reason::KeyExists), 1));
    vault.make(&one, Some(&place), "a").await.unwrap();
    assert_eq!(refused(&one, Some(&place)).await, (Ok(remembered("a")), 1));
    let reused = vault.idempotency(&call(CREATE, Some("ci"), 2), "r-1").await;
    assert_eq!(refused(&one, Some(&reused)).await.0, Err(Reason::RequestIdReused));
    vault.store.faults().fail_reads([crate::store::fake::Fault::Unavailable]);
    let unknown = refused(&one, Some(&place)).await.0;
    assert_eq!(unknown, Err(Reason::StoreUnavailable), "nobody can tell whether it is refused");
}

#[tokio::test]
async fn a_conflict_elsewhere_is_the_callers_and_remembers_nothing() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    vault.make(&one, None, "a").await.unwrap();
    let place = vault.idempotency(&one, "r-1").await;
    let outcome = vault.make(&one, Some(&place), "a").await.unwrap();
    assert!(matches!(outcome, Mutated::Conflict { index: 0, current: Some(_) }));
    assert_eq!(vault.prior(&place).unwrap(), None);
}

#[tokio::test]
async fn after_a_day_the_request_id_is_free_though_its_row_was_not_swept() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    let place = vault.idempotency(&one, "r-1").await;
    vault.make(&one, Some(&place), "a").await.unwrap();
    vault.clock.advance(MEMORY - Duration::from_secs(1));
    assert!(vault.prior(&place).unwrap().is_some());
    vault.clock.advance(Duration::from_secs(1));
    assert_eq!(vault.prior(&place).unwrap(), None);

    assert!(matches!(vault.make(&one, Some(&place), "b").await.unwrap(), Mutated::Done(_)));
    assert_eq!(vault.row(&place).unwrap().revision, 2);
    assert_eq!(vault.prior(&place).unwrap(), Some(remembered("b")));
}

#[tokio::test]
async fn a_planted_changed_or_moved_row_is_refused() {
    let vault = Vault::new().await;
    let one = call(CREATE, Some("ci"), 1);
    let place = vault.idempotency(&one, "r-1").await;
    vault.make(&one, Some(&place), "a").await.unwrap();
    let good = vault.row(&place).unwrap();
    let mut renamed = good.clone();
    renamed.attributes.insert("resource".to_owned(), Value::Text("orgs/acme/tokens/x".to_owned()));
    let later = good.expires.map(|expires| expires.plus(MEMORY));
    for bad in [renamed, Item { mac: None, ..good.clone() }, Item { expires: later, ..good.clone() }] {
        let refused = vault.mutations.prior(Some(&place), Some(bad.clone())).unwrap_err();
        assert_eq!(refused.reason, Reason::RecordRejected);
        vault.store.tamper(bad);
        let refused = vault.make(&one, Some(&place), "b").await.unwrap_err();
        assert_eq!(refused.reason, Reason::RecordRejected);
    }
    let other = vault.idempotency(&one, "r-2").await;
    let moved = Item { key: other.key.clone(), ..good };
    assert_eq!(vault.mutations.prior(Some(&other), Some(moved)).unwrap_err().reason, Reason::RecordRejected);
}

#[tokio::test]
async fn an_organization_that_is_not_there_is_said_so() {
    let vault = Vault::new().await;
    let call = call(CREATE, Some("ci"), 1);
    let refused = vault.mutations.idempotency(&call, &org("nobody"), "r-1").await.unwrap_err();
    assert_eq!(refused.reason, Reason::OrgNotFound);
    assert!(vault.keyring.org_keys(&org("acme"), in_time()).await.is_ok());
    let gone = Action::Delete(ItemKey::new("O#acme", "FPKEY"), Condition::Any);
    write(&vault.store, vec![gone]).await;
    assert!(vault.mutations.idempotency(&call, &org("acme"), "r-1").await.is_ok(), "it is in memory");
}
