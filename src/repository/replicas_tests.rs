use super::{testing::Hand, *};
use crate::{
    domain::{
        clock::{SystemClock, SystemEntropy},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    store::fake::MemoryStore,
};

struct Server {
    clock: Arc<Hand>,
    replicas: Replicas,
}

impl Server {
    async fn start(store: &MemoryStore, boot: &str) -> Self {
        let server = Self::on(store.replica(), boot);
        server.beat().await;
        server
    }
    fn on(store: MemoryStore, boot: &str) -> Self {
        let ring = MacRing::new(("k".to_owned(), MacKey::new(&SecretKey::new([7; 32]))), []);
        let (records, clock) = (Records::new(Arc::new(store), Arc::new(ring)), Hand::new());
        let replicas = Replicas::new(records, clock.clone(), Arc::new(SystemEntropy), boot.to_owned());
        Self { clock, replicas }
    }
    async fn beat(&self) {
        self.replicas.beat(soon()).await.unwrap();
    }
    /// So much time passes for it, in which it beats.
    async fn live(&self, span: Duration) {
        let end = self.clock.instant() + span;
        while self.clock.instant() < end {
            self.clock.advance(BEAT_EVERY);
            self.beat().await;
        }
    }
    async fn take(&self) -> Option<Lease> {
        self.replicas.take(Role::Janitor, soon()).await.unwrap()
    }
    /// Writes under `lease`, as it does its work.
    async fn works_under(&self, lease: &Lease) -> bool {
        let row = NewItem::new(ItemKey::new("work", &*self.replicas.boot), [].into());
        let actions = vec![lease.check(), Action::Put(row, Condition::Any)];
        self.replicas.records.commit(&SystemEntropy, actions, soon()).await.is_ok()
    }
}

fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}

fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(SystemClock))
}

fn beats(store: &MemoryStore) -> Vec<String> {
    store.dump().into_iter().map(|item| item.key.sort).filter(|sort| sort.starts_with(PREFIX)).collect()
}

#[tokio::test]
async fn a_lease_is_left_to_who_beats_and_taken_from_who_was_silent() {
    let store = store();
    let (one, two) = (Server::start(&store, "one").await, Server::start(&store, "two").await);
    let lease = one.take().await.unwrap();
    for _ in 0..20 {
        assert_eq!(two.take().await, None);
        two.live(BEAT_EVERY).await;
        one.beat().await;
    }
    assert_eq!(two.take().await, None);
    assert!(one.works_under(&lease).await);
    // It stalls. The other's own clock counts, from when it saw the last beat.
    two.live(3 * BEAT_EVERY).await;
    two.clock.advance(SILENCE - 3 * BEAT_EVERY);
    assert_eq!(two.take().await, None, "not longer than that");
    two.live(BEAT_EVERY).await;
    let taken = two.take().await.unwrap();
    assert!(two.works_under(&taken).await);
    assert!(!one.works_under(&lease).await, "it writes nothing more");
    one.beat().await;
    assert_eq!(one.take().await, None, "the other lives");
}

#[tokio::test]
async fn a_server_that_ends_leaves_its_leases_at_once() {
    let store = store();
    let (one, two) = (Server::start(&store, "one").await, Server::start(&store, "two").await);
    let lease = one.take().await.unwrap();
    one.replicas.withdraw(soon()).await.unwrap();
    assert_eq!(beats(&store), ["REPLICA#two"]);
    assert!(two.take().await.is_some());
    assert!(!one.works_under(&lease).await);
}

#[tokio::test]
async fn who_has_just_started_waits_before_it_takes_anybody_for_dead() {
    let store = store();
    Server::start(&store, "one").await.take().await.unwrap();
    let two = Server::start(&store, "two").await;
    assert_eq!(two.take().await, None);
    two.live(SILENCE + BEAT_EVERY).await;
    assert!(two.take().await.is_some());
    // One that forgot what it held takes it anew.
    assert!(two.take().await.is_some());
}

#[tokio::test]
async fn of_two_who_take_over_one_wins() {
    let store = store();
    Server::start(&store, "gone").await.take().await.unwrap();
    let others = [Server::start(&store, "one").await, Server::start(&store, "two").await];
    for other in &others {
        assert_eq!(other.take().await, None);
        other.live(SILENCE + BEAT_EVERY).await;
    }
    let (one, two) =
        tokio::join!(others[0].replicas.take(Role::Janitor, soon()), others[1].replicas.take(Role::Janitor, soon()));
    let mut working = 0;
    for (server, taken) in others.iter().zip([one, two]) {
        if let Ok(Some(lease)) = taken {
            working += usize::from(server.works_under(&lease).await);
        }
    }
    assert_eq!(working, 1);
}

#[tokio::test]
async fn the_rows_of_the_dead_go_once_nothing_of_theirs_is_left() {
    let store = store();
    let (one, two) = (Server::start(&store, "one").await, Server::start(&store, "two").await);
    let three = Server::start(&store, "three").await;
    three.replicas.look(soon()).await.unwrap();
    three.live(SILENCE + BEAT_EVERY).await;
    three.replicas.look(soon()).await.unwrap();
    assert!(!three.replicas.is_alive("one") && !three.replicas.is_alive("two"));
    // One comes back between the look and what follows from it.
    one.beat().await;
    three.replicas.forget_dead(&[], soon()).await.unwrap();
    assert_eq!(beats(&store), ["REPLICA#one", "REPLICA#three"]);
    three.replicas.look(soon()).await.unwrap();
    assert!(three.replicas.is_alive("one"));
    // The other comes back, too: its beat makes its row again.
    two.beat().await;
    three.replicas.look(soon()).await.unwrap();
    assert!(three.replicas.is_alive("two"));
    three.live(SILENCE + BEAT_EVERY).await;
    three.replicas.look(soon()).await.unwrap();
    three.replicas.forget_dead(&["one"], soon()).await.unwrap();
    assert_eq!(beats(&store), ["REPLICA#one", "REPLICA#three"], "what is needed stays, and one's own");
}

#[tokio::test]
async fn who_has_the_store_alone_asks_nobody() {
    let store = store();
    let old = Server::on(store.clone(), "old").take().await.unwrap();
    let new = Server::on(store.clone(), "new");
    assert!(new.take().await.is_some());
    assert!(!new.works_under(&old).await);
    new.beat().await;
    new.replicas.look(soon()).await.unwrap();
    assert!(!new.replicas.is_alive("old"));
    assert!(beats(&store).is_empty());
}

#[tokio::test]
async fn after_an_outage_nobody_is_dead_before_he_could_beat_again() {
    let store = store();
    let (one, two) = (Server::start(&store, "one").await, Server::start(&store, "two").await);
    let lease = one.take().await.unwrap();
    assert_eq!(two.take().await, None);
    // Nobody's beat gets through for a minute.
    two.clock.advance(Duration::from_secs(60));
    assert_eq!(two.take().await, None, "its own don't either");
    assert!(two.replicas.is_alive("one"));
    two.beat().await;
    two.clock.advance(BEAT_EVERY);
    assert_eq!(two.take().await, None, "the other's may come later");
    assert!(one.works_under(&lease).await);
    // It does not come back.
    two.live(SILENCE).await;
    assert!(two.take().await.is_some());
}
