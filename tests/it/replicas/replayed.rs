//! One request through two servers at once, at the worst of moments: between what one of them reads, the
//! other commits. What is read at once is no snapshot, so this one sees the request's own effect and not
//! yet that it happened.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use ibyok::{
    authz::methods,
    domain::{
        PortFuture,
        clock::{Deadline, ShiftedClock},
        error::{Failure, Reason},
        ids::{BindingName, OrgId, VersionName},
        principal::{ClientIdentity, IdentityPattern},
        token::{Grant, TokenMode},
    },
    service::{
        bindings::{BindingService, CreateBinding},
        call::Call,
        orgs::OrgService,
        tokens::TokenSettings,
        vault::{AddVersion, KeyUpdate, Vault},
    },
    store::{Action, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written, fake::MemoryStore},
};

use crate::fixture::{
    Caller, Fixture,
    keys::{GROQ, add, name, new_key, secret, vault},
    scopes,
};

/// The mutations whose own effect makes the same request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    CreateOrg,
    DeleteBinding,
    Create,
    Update,
    Disable,
    Enable,
    Delete,
    Undelete,
    Add,
    Verify,
    Promote,
    RollBack,
    DestroyVersion,
    Destroy,
}
use Mutation::*;

const ALL: [Mutation; 14] = [
    CreateOrg,
    DeleteBinding,
    Create,
    Update,
    Disable,
    Enable,
    Delete,
    Undelete,
    Add,
    Verify,
    Promote,
    RollBack,
    DestroyVersion,
    Destroy,
];

impl Mutation {
    fn takes_an_etag(self) -> bool {
        matches!(self, Update | Disable | Enable | Delete | Add | Promote | RollBack | DestroyVersion | Destroy)
    }
    /// How it is refused once it happened, if no request_id says that it did.
    fn refusal(self) -> Option<Reason> {
        match self {
            CreateOrg => Some(Reason::OrgExists),
            DeleteBinding => Some(Reason::BindingNotFound),
            Create => Some(Reason::KeyExists),
            Update | Disable | Enable => None,
            Delete => Some(Reason::KeyDeleted),
            Undelete => Some(Reason::KeyNotDeleted),
            Add => Some(Reason::TooManyVersions),
            Verify => Some(Reason::VersionNotPending),
            Promote => Some(Reason::VersionWrongStage),
            RollBack => Some(Reason::VersionNotPrevious),
            DestroyVersion => Some(Reason::VersionDestroyed),
            Destroy => Some(Reason::KeyNotFound),
        }
    }
    /// Whether it goes on when somebody else changes the key meanwhile.
    fn is_judged_anew(self) -> bool {
        !matches!(self, CreateOrg | DeleteBinding | Create | Undelete)
    }
}

/// Lets the same request through at `which` reading, of which only what `is_early` is read before; true
/// where both answer the same, and no refusal.
async fn is_answered_alike(
    world: &World,
    request: &Request,
    which: fn(&[ItemKey]) -> bool,
    is_early: fn(&ItemKey) -> bool,
) -> bool {
    let meanwhile = Arc::new(Mutex::new(None));
    let (other, same, answer) = (world.clone(), request.clone(), Arc::clone(&meanwhile));
    world.store.tear(which, is_early, async move {
        let answered = other.ask(&same).await;
        *answer.lock().unwrap() = Some(answered);
    });
    let answered = world.ask(request).await;
    let meanwhile = meanwhile.lock().unwrap().take().expect("it was never read so").unwrap();
    if !matches!(&answered, Ok(answered) if *answered == meanwhile) {
        println!("{request:?}: {answered:?} and not {meanwhile}");
        return false;
    }
    true
}

#[tokio::test]
async fn who_sees_the_requests_own_effect_and_not_its_row_answers_as_who_was_first() {
    let mut wrong = Vec::new();
    for mutation in ALL {
        for with_etag in [false, true] {
            if with_etag && !mutation.takes_an_etag() {
                continue;
            }
            let world = World::new(mutation).await;
            let etag = if with_etag { world.etag().await } else { String::new() };
            let request = Request { mutation, etag, request_id: "r", content: 1 };
            let records = world.records();
            if !is_answered_alike(&world, &request, is_memory_and_more, is_memory).await {
                wrong.push((mutation, with_etag));
            }
            assert_eq!(world.records(), records + 1, "{mutation:?} {with_etag}: it happened once");
        }
    }
    assert_eq!(wrong, []);
}

/// The other server is faster with another change; and when this one judges the key anew, the request
/// itself has come through there, too.
#[tokio::test]
async fn who_judges_the_key_anew_answers_as_who_was_first() {
    let mut wrong = Vec::new();
    for mutation in ALL.into_iter().filter(|mutation| mutation.is_judged_anew()) {
        let world = World::new(mutation).await;
        let request = Request { mutation, etag: String::new(), request_id: "r", content: 1 };
        let other = world.clone();
        world.store.tear(is_memory_and_more, |_| true, async move { other.describe().await });
        if !is_answered_alike(&world, &request, is_the_key, |_| false).await {
            wrong.push(mutation);
        }
    }
    assert_eq!(wrong, []);
}

#[tokio::test]
async fn what_another_request_did_is_a_refusal_still() {
    for mutation in ALL {
        let Some(refusal) = mutation.refusal() else { continue };
        for request_id in ["", "another"] {
            let world = World::new(mutation).await;
            let done = Request { mutation, etag: String::new(), request_id: "r", content: 1 };
            world.ask(&done).await.unwrap();
            let request = Request { request_id, ..done.clone() };
            assert_eq!(world.ask(&request).await.unwrap_err().reason, refusal, "{mutation:?} {request_id:?}");
            let reused = Request { content: 2, ..done };
            assert_eq!(world.ask(&reused).await.unwrap_err().reason, Reason::RequestIdReused, "{mutation:?}");
        }
    }
}

/// The same, where the request is another one under the same request_id.
#[tokio::test]
async fn who_sees_the_effect_of_another_request_of_that_id_says_so() {
    for mutation in ALL.into_iter().filter(|mutation| mutation.refusal().is_some()) {
        let world = World::new(mutation).await;
        let request = Request { mutation, etag: String::new(), request_id: "r", content: 1 };
        let (other, done) = (world.clone(), request.clone());
        let meanwhile = async move { drop(other.ask(&done).await.unwrap()) };
        world.store.tear(is_memory_and_more, is_memory, meanwhile);
        let refused = world.ask(&Request { content: 2, ..request }).await.unwrap_err();
        assert_eq!(refused.reason, Reason::RequestIdReused, "{mutation:?}");
    }
}

/// A version's record is read after the key's, and may have gone with it.
#[tokio::test]
async fn who_changes_a_version_of_a_key_that_is_destroyed_meanwhile_finds_no_key() {
    for mutation in [Verify, Promote, RollBack, DestroyVersion] {
        let world = World::new(mutation).await;
        let destroy = Request { mutation: Destroy, etag: String::new(), request_id: "", content: 2 };
        let other = world.clone();
        world.store.tear(is_a_version, |_| false, async move { drop(other.ask(&destroy).await.unwrap()) });
        let request = Request { mutation, etag: String::new(), request_id: "r", content: 1 };
        assert_eq!(world.ask(&request).await.unwrap_err().reason, Reason::KeyNotFound, "{mutation:?}");
    }
}

#[derive(Clone, Debug)]
struct Request {
    mutation: Mutation,
    etag: String,
    request_id: &'static str,
    /// Stands for the message's content.
    content: u8,
}

/// Organization `acme` with what one mutation needs, on a store that can be torn.
#[derive(Clone)]
struct World {
    store: Torn,
    org: OrgId,
    vault: Vault,
    bindings: BindingService,
    orgs: OrgService,
    admin: Caller,
    system: Caller,
}

impl World {
    async fn new(mutation: Mutation) -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let store = Torn { items: MemoryStore::new(clock.clone()), tears: Arc::default() };
        let fixture = Fixture::on(Arc::new(store.clone()), clock).await;
        let (org, system) = (fixture.org("acme", false, None).await, fixture.org("system", false, None).await);
        let settings = TokenSettings {
            issuer: "ibyok".into(),
            audience: "vault".into(),
            ttl_default: Duration::from_secs(3_600),
            ttl_longest: Duration::from_secs(86_400),
        };
        let world = Self {
            vault: vault(&fixture),
            bindings: BindingService::new(fixture.parts.clone(), settings),
            orgs: OrgService::new(fixture.parts.clone(), Duration::from_secs(86_400)),
            admin: fixture.admin(&org).await,
            system: fixture.token(&system, vec![scopes(&["admin"])], TokenMode::Live, None).await,
            store,
            org,
        };
        world.prepare(mutation).await;
        world
    }

    /// Key `k` with a CURRENT and a PENDING version, or a binding, and what the mutation needs besides.
    async fn prepare(&self, mutation: Mutation) {
        let before = |mutation| Request { mutation, etag: String::new(), request_id: "", content: 0 };
        match mutation {
            CreateOrg | Create => return,
            DeleteBinding => {
                let request = CreateBinding {
                    name: self.binding(),
                    identity: IdentityPattern::parse("identity", "b.test").unwrap(),
                    grants: Grant::parse_all("grants", &[scopes(&["keys:list"])], &self.org).unwrap(),
                    mode: None,
                    ttl_max: None,
                    request_id: String::new(),
                };
                self.bindings.create(&self.call("Tokens/CreateIdentityBinding", 0), &request).await.unwrap();
                return;
            }
            _ => {}
        }
        let key = new_key(&self.org, "k", GROQ);
        self.vault.create_key(&self.call("KeyVault/CreateKey", 0), key).await.unwrap();
        add(&self.vault, &self.admin, "k", "gsk_second").await.unwrap();
        match mutation {
            Enable => drop(self.ask(&before(Disable)).await.unwrap()),
            Undelete => drop(self.ask(&before(Delete)).await.unwrap()),
            RollBack => drop(self.ask(&before(Promote)).await.unwrap()),
            // One is left to be taken.
            Add => {
                for n in 3..8 {
                    add(&self.vault, &self.admin, "k", &format!("gsk_{n}")).await.unwrap();
                }
            }
            _ => {}
        }
    }

    fn call(&self, method: &str, content: u8) -> Call {
        let method = methods::find(&format!("/ibyok.v1.{method}")).unwrap();
        Call { method, ..self.admin.call_with("GetKey", content) }
    }

    fn binding(&self) -> BindingName {
        BindingName::parse("name", "b", &self.org).unwrap()
    }

    async fn etag(&self) -> String {
        let seen = self.vault.key(&self.call("KeyVault/GetKey", 0), &name(&self.org, "k")).await.unwrap();
        seen.record.etag()
    }

    /// Somebody else changes the key.
    async fn describe(&self) {
        let update = KeyUpdate { models: Some(vec!["gpt-5".into()]), ..KeyUpdate::default() };
        let call = self.call("KeyVault/UpdateKey", 0);
        self.vault.update_key(&call, &name(&self.org, "k"), &update, "", "").await.unwrap();
    }

    /// What it answers, as text to be compared.
    async fn ask(&self, request: &Request) -> Result<String, Failure> {
        let Request { mutation, etag, request_id, content } = request;
        let call = |method: &str| self.call(method, *content);
        let (vault, key, request_id) = (&self.vault, name(&self.org, "k"), *request_id);
        let version = |number| VersionName::parse("name", &format!("k/versions/{number}"), &self.org).unwrap();
        let view = match mutation {
            CreateOrg => return self.create_org(request).await,
            DeleteBinding => {
                let call = call("Tokens/DeleteIdentityBinding");
                return self.bindings.delete(&call, &self.binding(), request_id).await.map(|()| String::new());
            }
            Create => {
                let request =
                    ibyok::service::vault::CreateKey { request_id: request_id.into(), ..new_key(&self.org, "k", GROQ) };
                vault.create_key(&call("KeyVault/CreateKey"), request).await?.key
            }
            Update => {
                let update = KeyUpdate { description: Some("new".into()), ..KeyUpdate::default() };
                vault.update_key(&call("KeyVault/UpdateKey"), &key, &update, etag, request_id).await?
            }
            Disable => vault.disable_key(&call("KeyVault/DisableKey"), &key, "", etag, request_id).await?,
            Enable => vault.enable_key(&call("KeyVault/EnableKey"), &key, etag, request_id).await?,
            Delete => {
                let call = call("KeyVault/DeleteKey");
                vault.delete_key(&call, &key, None, false, etag, request_id).await?.unwrap()
            }
            Undelete => vault.undelete_key(&call("KeyVault/UndeleteKey"), &key, request_id).await?,
            Add => {
                let request = AddVersion {
                    name: key,
                    secret: secret("gsk_last"),
                    base_url: String::new(),
                    auth_scheme: None,
                    etag: etag.clone(),
                    request_id: request_id.into(),
                };
                let added = vault.add_version(&call("KeyVault/AddKeyVersion"), request).await?;
                return Ok(format!("{added:?}"));
            }
            Verify => {
                let call = call("KeyVault/VerifyKeyVersion");
                return Ok(format!("{:?}", vault.verify_version(&call, &version(2), "tried", request_id).await?));
            }
            Promote => {
                let request = ibyok::service::vault::Promote {
                    name: version(2),
                    grace: None,
                    allow_unverified: true,
                    etag: etag.clone(),
                    request_id: request_id.into(),
                };
                vault.promote_version(&call("KeyVault/PromoteKeyVersion"), &request).await?
            }
            RollBack => vault.roll_back_version(&call("KeyVault/RollBackKeyVersion"), &key, etag, request_id).await?,
            DestroyVersion => {
                let call = call("KeyVault/DestroyKeyVersion");
                return Ok(format!("{:?}", vault.destroy_version(&call, &version(2), etag, request_id).await?));
            }
            Destroy => {
                let call = call("KeyVault/DestroyKey");
                return Ok(format!("{:?}", vault.destroy_key(&call, &key, etag, request_id).await?));
            }
        };
        Ok(format!("{:?}", view.record))
    }

    async fn create_org(&self, request: &Request) -> Result<String, Failure> {
        let method = methods::find("/ibyok.v1.Admin/CreateOrg").unwrap();
        let call = Call { method, ..self.system.call_with("GetKey", request.content) };
        let request = ibyok::service::orgs::CreateOrg {
            id: OrgId::parse("id", "new").unwrap(),
            display_name: "New".into(),
            kms_key: None,
            is_mock: false,
            admin_identity: ClientIdentity::parse("identity", "new.test").unwrap(),
            request_id: request.request_id.into(),
        };
        Ok(format!("{:?}", self.orgs.create(&call, &request).await?))
    }

    /// How many audit batches there are: each mutation is one.
    fn records(&self) -> usize {
        self.store.items.dump().iter().filter(|item| item.key.sort.starts_with("B#")).count()
    }
}

/// Items that are not read at once, but some of them before and some after what happens meanwhile.
#[derive(Clone)]
struct Torn {
    items: MemoryStore,
    tears: Arc<Mutex<VecDeque<Tear>>>,
}

struct Tear {
    /// Which reading.
    which: fn(&[ItemKey]) -> bool,
    /// What of it is read before.
    is_early: fn(&ItemKey) -> bool,
    meanwhile: Pin<Box<dyn Future<Output = ()> + Send>>,
}

fn is_memory(key: &ItemKey) -> bool {
    key.partition.contains("#IDEM#")
}
fn is_memory_and_more(keys: &[ItemKey]) -> bool {
    keys.len() > 1 && keys.iter().any(is_memory)
}
fn is_the_key(keys: &[ItemKey]) -> bool {
    keys.len() == 1 && keys[0].partition.ends_with("#K#k") && keys[0].sort == "META"
}
fn is_a_version(keys: &[ItemKey]) -> bool {
    keys.iter().any(|key| key.sort.starts_with("V#"))
}

impl Torn {
    /// The next reading like that is torn, after those that were asked for before.
    fn tear(
        &self,
        which: fn(&[ItemKey]) -> bool,
        is_early: fn(&ItemKey) -> bool,
        meanwhile: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tears.lock().unwrap().push_back(Tear { which, is_early, meanwhile: Box::pin(meanwhile) });
    }
    fn next(&self, keys: &[ItemKey]) -> Option<Tear> {
        self.tears.lock().unwrap().pop_front_if(|tear| (tear.which)(keys))
    }
}

impl fmt::Debug for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Torn").finish_non_exhaustive()
    }
}

impl ItemStore for Torn {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        deadline: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        Box::pin(async move {
            let Some(tear) = self.next(keys) else { return self.items.get(keys, deadline).await };
            let early = self.items.get(keys, deadline).await?;
            tear.meanwhile.await;
            let late = self.items.get(keys, deadline).await?;
            let both = early.into_iter().zip(late);
            Ok(keys
                .iter()
                .zip(both)
                .map(|(key, (early, late))| if (tear.is_early)(key) { early } else { late })
                .collect())
        })
    }
    fn query(&self, query: Query, deadline: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        self.items.query(query, deadline)
    }
    fn write(
        &self,
        id: WriteId,
        actions: Vec<Action>,
        deadline: Deadline,
    ) -> PortFuture<'_, Result<Written, StoreError>> {
        self.items.write(id, actions, deadline)
    }
    fn is_exclusive(&self) -> bool {
        self.items.is_exclusive()
    }
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        self.items.status(deadline)
    }
}
