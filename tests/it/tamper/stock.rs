//! A vault that holds some of everything, stopped; and its database, through the vault's own store and
//! behind the vault's back.

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::{
        clock::{Clock, Deadline, ShiftedClock, SystemClock, SystemEntropy},
        error::Failure,
    },
    grpc::pb,
    kms::local::LocalKeyWrapper,
    repository::{
        audit::{
            AuditLog, AuditSettings, AuditTasks,
            archive::{Archived, Archiver, Directory},
        },
        records::Records,
    },
    service::{keyring::Keyring, sealing::Sealer},
    store::{Item, ItemKey, Order, Query, SortRange},
};

pub use super::raw::{Raw, Row};
use crate::harness::{Caller, Home, Items, ORG, Vault, within};

/// The second organization of the stock.
pub const OTHER: &str = "other";
/// Who administers it.
pub const OTHER_ADMIN: &str = "spiffe://ibyok.test/other-admin";
/// A subject whose token has few uses.
pub const LIMITED: &str = "spiffe://ibyok.test/limited";

/// A made-up key of OpenAI's shape.
pub fn openai(mark: &str) -> String {
    format!("sk-proj-{mark:A<58}T3BlbkFJ{mark:b<58}")
}

/// Stores a key whose first version is CURRENT.
pub async fn create(caller: &Caller, id: &str, secret: &str) -> pb::Key {
    let request = pb::CreateKeyRequest {
        key_id: id.to_owned(),
        secret: Some(pb::SecretValue { text: secret.to_owned() }),
        provider: "openai".to_owned(),
        models: vec!["gpt-4o".to_owned()],
        request_id: format!("create-{id}-{}", &secret[8..20]),
        ..Default::default()
    };
    caller.keys().create_key(request).await.unwrap().into_inner().key.unwrap()
}

/// Adds a version; promotes it where asked to.
pub async fn rotate(caller: &Caller, id: &str, secret: &str, promote: bool) {
    let secret = Some(pb::SecretValue { text: secret.to_owned() });
    let add = pb::AddKeyVersionRequest { name: id.to_owned(), secret, ..Default::default() };
    caller.keys().add_key_version(add).await.unwrap();
    if promote {
        let promote = pb::PromoteKeyVersionRequest {
            name: id.to_owned(),
            allow_unverified: true,
            grace: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
            ..Default::default()
        };
        caller.keys().promote_key_version(promote).await.unwrap();
    }
}

pub async fn retrieve(caller: &Caller, name: &str) -> Result<pb::RetrieveKeyResponse, tonic::Status> {
    let request = pb::RetrieveKeyRequest { name: name.to_owned(), ..Default::default() };
    caller.keys().retrieve_key(request).await.map(tonic::Response::into_inner)
}

/// A grant of those scopes on the whole organization.
pub fn grant(scopes: &[&str]) -> pb::Grant {
    pb::Grant { scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(), ..Default::default() }
}

/// Fills a vault with some of everything.
pub async fn fill(vault: &Vault) {
    let (admin, operator) = (vault.admin().await, vault.operator().await);
    let org =
        pb::CreateOrgRequest { org_id: OTHER.to_owned(), admin_identity: OTHER_ADMIN.to_owned(), ..Default::default() };
    operator.admin().create_org(org).await.unwrap();
    let other = vault.exchange(OTHER_ADMIN, OTHER).await;

    for (caller, mark) in [(&admin, "one"), (&other, "two")] {
        create(caller, "openai", &openai(&format!("{mark}1"))).await;
        rotate(caller, "openai", &openai(&format!("{mark}2")), true).await;
        rotate(caller, "openai", &openai(&format!("{mark}3")), false).await;
        create(caller, "spare", &openai(&format!("{mark}4"))).await;
        retrieve(caller, "openai").await.unwrap();
    }
    let local = pb::CreateKeyRequest {
        key_id: "local".to_owned(),
        provider: "ollama".to_owned(),
        base_url: "http://localhost:11434".to_owned(),
        ..Default::default()
    };
    admin.keys().create_key(local).await.unwrap();
    create(&admin, "gone", &openai("gone")).await;
    let delete = pb::DeleteKeyRequest { name: "gone".to_owned(), ..Default::default() };
    admin.keys().delete_key(delete).await.unwrap();
    create(&admin, "holed", &openai("holed1")).await;
    rotate(&admin, "holed", &openai("holed2"), true).await;
    let hole = format!("orgs/{ORG}/keys/holed/versions/1");
    let destroy = pb::DestroyKeyVersionRequest { name: hole.clone(), confirm: hole, ..Default::default() };
    admin.keys().destroy_key_version(destroy).await.unwrap();
    create(&admin, "ended", &openai("ended")).await;
    let destroy = pb::DestroyKeyRequest { name: "ended".into(), confirm: "ended".into(), ..Default::default() };
    admin.keys().destroy_key(destroy).await.unwrap();

    let issue = pb::IssueTokenRequest {
        subject: "limited".to_owned(),
        grants: vec![grant(&["keys:read"])],
        uses_max: 9,
        ..Default::default()
    };
    let limited = vault.issue(&admin, LIMITED, issue).await;
    retrieve(&limited, "openai").await.unwrap();
    // A refusal is a record, too.
    retrieve(&limited, "absent").await.unwrap_err();
    until_used(&admin, "openai").await;
}

/// Waits until the projection of last uses has reached `key`: then the log is in order and indexed
/// up to its retrieval.
pub async fn until_used(caller: &Caller, key: &str) {
    within("the time of a key's last use", async {
        loop {
            let request = pb::GetKeyRequest { name: key.to_owned() };
            let key = caller.keys().get_key(request).await.unwrap().into_inner().key.unwrap();
            if key.last_used_time.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A stopped vault's database: through the store as the vault has it, and raw.
pub struct Opened {
    store: Items,
    pub records: Records,
    pub sealer: Sealer,
    pub raw: Raw,
}

impl Opened {
    pub async fn of(home: &Home) -> Self {
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let store = home.items().await;
        let wrapper = LocalKeyWrapper::from_file(&home.path().join("master.keys"), entropy.clone()).unwrap();
        let sealer = Sealer::new(Arc::new(wrapper), entropy.clone());
        let keyring = Keyring::load(store.port(), sealer.clone(), entropy, clock, soon()).await.unwrap().unwrap();
        let records = Records::new(store.port(), keyring.records());
        Self { store, records, sealer, raw: Raw::of(home).await }
    }

    /// Lets go of it.
    pub async fn close(self) {
        self.store.close().await;
    }

    /// The item as the vault reads it, its MAC not looked at.
    pub async fn item(&self, row: &Row) -> Item {
        self.read(&row.key()).await
    }

    /// What the vault says to a record that it needs.
    pub async fn verify(&self, key: &ItemKey) -> Result<(), Failure> {
        self.records.verify(self.read(key).await).map(drop)
    }

    /// By a query, which remembers nothing: these tests write behind the store's back.
    async fn read(&self, key: &ItemKey) -> Item {
        let query = Query {
            partition: key.partition.clone(),
            range: SortRange::Prefix(key.sort.clone()),
            order: Order::Ascending,
            limit: 1,
            after: None,
        };
        let item = self.records.query(query, soon()).await.unwrap().items.remove(0);
        assert_eq!(item.key, *key);
        item
    }
}

/// Lets what is in the audit log leave for an archive, and writes more behind it.
pub async fn archive(home: &Home, opened: &Opened) {
    let directory = home.path().join("archive");
    std::fs::create_dir(&directory).unwrap();
    let clock = Arc::new(ShiftedClock::default());
    clock.advance(Duration::from_secs(3 * 86_400));
    let settings = AuditSettings::default();
    let log = AuditLog::open(opened.records.clone(), clock, Arc::new(SystemEntropy), settings).unwrap();
    let mut tasks = AuditTasks::new(&log);
    tasks.tick().await.unwrap();
    let archiver = Archiver::new(&log, Directory::new(directory), Duration::from_secs(86_400));
    assert!(matches!(archiver.step(None).await.unwrap(), Archived::File(_)));
    while archiver.step(None).await.unwrap() != Archived::Nothing {}
    log.close().await;
    tasks.tick().await.unwrap();
}

pub fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}
