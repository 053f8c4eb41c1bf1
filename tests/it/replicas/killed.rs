//! Servers as processes of their own, killed one after the other while all are written to: what was
//! acknowledged is there for who asks another one, and what was under way happens once. What a killed
//! one held the others take over, however much they have to do themselves.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ibyok::{
    domain::clock::{Clock as _, SystemClock},
    grpc::pb,
    store::{Item, ItemStore, Order, Query, SortRange, Value},
};
use tokio::task::{JoinHandle, JoinSet};

use super::{SERVERS, WEATHER, site, through};
use crate::{
    crash::{Callers, check, check_records, every_chain_is_sealed, verify, writer::Writer},
    dice::Dice,
    dynamodb::proxy::Proxy,
    harness::within,
    process::{Process, Runner, Site},
};

const ROUNDS: usize = 6;
const WRITERS: usize = 6;
/// Answers that each writer wants in a round.
const STEPS: usize = 12;

struct Server {
    site: Arc<Site>,
    proxy: Proxy,
    process: Option<Process>,
    callers: Arc<Callers>,
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_the_others_know_what_it_acknowledged() {
    let mut dice = Dice::new();
    let mut servers = start(&mut dice).await;
    let mut writers: Vec<_> = (0..WRITERS).map(|n| Writer::new(&format!("w{n}"), dice.split())).collect();
    for round in 0..ROUNDS {
        let victim = dice.below(SERVERS);
        servers.iter().for_each(|server| server.proxy.weather(WEATHER, dice.split()));
        let mut working = JoinSet::new();
        for mut writer in writers {
            let callers = Arc::clone(&servers[dice.below(SERVERS)].callers);
            working.spawn(async move {
                for _ in 0..STEPS {
                    if !writer.step(&callers.admin).await {
                        break;
                    }
                }
                writer
            });
        }
        tokio::time::sleep(Duration::from_millis(u64::try_from(dice.below(400)).unwrap())).await;
        servers[victim].process.take().unwrap().kill();
        writers = within("the end of the round", working.join_all()).await;
        // What the dead one had sent may arrive still. Who looks what became of it wants answers.
        servers.iter().for_each(|server| server.proxy.calm());
        within("silence after the dead", servers[victim].proxy.is_quiet()).await;
        let other = &servers[(victim + 1 + dice.below(SERVERS - 1)) % SERVERS];
        writers = check(writers, &other.callers, round == ROUNDS - 1).await;
        let site = Arc::clone(&servers[victim].site);
        servers[victim].process = Some(site.serve().await);
    }
    let acknowledged: usize = writers.iter().map(|writer| writer.acknowledged).sum();
    let (lost, kept) = writers.iter().fold((0, 0), |(lost, kept), it| (lost + it.lost, kept + it.kept));
    println!("{acknowledged} calls were acknowledged; of those without an answer {kept} happened, {lost} did not");
    assert!(acknowledged > ROUNDS * WRITERS, "too little happened to show anything");
    for server in &mut servers {
        let status = server.process.take().unwrap().terminate().await;
        assert!(status.success(), "{status}\n{}", server.site.log());
    }
    // One of them again, for all to see.
    let last = &servers[0];
    let _process = last.site.serve().await;
    let writers = check(writers, &last.callers, true).await;
    for writer in &writers {
        writer.check_subjects(&last.callers.admin).await;
    }
    check_records(&writers, &last.callers.admin).await;
    verify(&last.callers.operator).await;
}

async fn start(dice: &mut Dice) -> Vec<Server> {
    let (home, proxies) = site(dice).await;
    let mut servers = Vec::new();
    for (number, proxy) in proxies.into_iter().enumerate() {
        let home = home.clone().moved(through(&home, &proxy));
        let name = format!("server-{number}");
        let site = Arc::new(Site::one_of(home, &name, Runner::default()));
        let process = Some(site.serve().await);
        let callers = Arc::new(Callers::enter(&site).await);
        servers.push(Server { site, proxy, process, callers });
    }
    servers
}

/// Of three servers one dies that orders nothing, and then the one that orders the log; then the third,
/// which orders it since, ends orderly beside one that has come again. Meanwhile all are written to
/// without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_held_others_take_over_while_they_are_written_to() {
    let (home, proxies) = site(&mut Dice::new()).await;
    let shelf = Shelf(home.items().await.port());
    let (mut servers, mut boots) = (Vec::new(), Vec::new());
    for (number, proxy) in proxies.into_iter().enumerate() {
        proxy.calm();
        let before = shelf.beating().await;
        let home = home.clone().moved(through(&home, &proxy));
        let site = Arc::new(Site::one_of(home, &format!("server-{number}"), Runner::default()));
        let process = Some(site.serve().await);
        boots.push(shelf.beating().await.difference(&before).next().unwrap().clone());
        let callers = Arc::new(Callers::enter(&site).await);
        servers.push(Server { site, proxy, process, callers });
        // The first is alone long enough to get all there is.
        within("the leases of the first", shelf.until_held(|holder| *holder == boots[0])).await;
    }
    let writing: Vec<_> = servers.iter().zip(0..).map(|(server, number)| Writing::begin(server, number)).collect();
    for victim in [1, 0] {
        within("chains of who is to die", shelf.until_chains(&boots[victim], |sealed| !sealed.is_empty())).await;
        servers[victim].process.take().unwrap().kill();
        within("the seals of the dead", shelf.until_chains(&boots[victim], |sealed| sealed.iter().all(|it| *it))).await;
    }
    within("the leases of the last", shelf.until_held(|holder| *holder == boots[2])).await;

    // It is told to end while another is written to: it leaves nothing that has to be waited for.
    let site = Arc::clone(&servers[1].site);
    servers[1].process = Some(site.serve().await);
    assert!(servers[2].process.take().unwrap().terminate().await.success());
    assert!(!shelf.beating().await.contains(&boots[2]), "it has withdrawn");
    within("the leases of the next", shelf.until_held(|holder| !boots.contains(holder))).await;
    for one in writing {
        one.end().await;
    }
    assert!(servers[1].process.take().unwrap().terminate().await.success());
    assert!(every_chain_is_sealed(&site.home).await);
}

/// Creates keys through one server until it is told to end, whatever that answers.
struct Writing(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Writing {
    const AT_ONCE: usize = 4;

    fn begin(server: &Server, number: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let one = |lane: usize| {
            let (callers, is_over) = (Arc::clone(&server.callers), Arc::clone(&is_over));
            tokio::spawn(async move {
                for n in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let id = format!("k{number}-{lane}-{n}");
                    let request = pb::CreateKeyRequest {
                        secret: Some(pb::SecretValue { text: format!("sk-proj-{id:0>40}") }),
                        request_id: id.clone(),
                        key_id: id,
                        provider: "openai".into(),
                        ..Default::default()
                    };
                    if callers.admin.keys().create_key(request).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            })
        };
        let writing = (0..Self::AT_ONCE).map(one).collect();
        Self(is_over, writing)
    }
    async fn end(self) {
        self.0.store(true, Ordering::SeqCst);
        for one in self.1 {
            within("the last answer", one).await.unwrap();
        }
    }
}

/// What the servers' table says of them.
pub(super) struct Shelf(pub(super) Arc<dyn ItemStore>);

impl Shelf {
    async fn rows(&self, partition: &str, range: SortRange) -> Vec<Item> {
        let (partition, deadline) = (partition.to_owned(), SystemClock.deadline(Duration::from_secs(10)));
        let query = Query { partition, range, order: Order::Ascending, limit: 1_000, after: None };
        self.0.query(query, deadline).await.unwrap().items
    }
    /// The boots of servers that have not ended orderly.
    pub(super) async fn beating(&self) -> BTreeSet<String> {
        let rows = self.rows("A#HEADS", SortRange::Prefix("REPLICA#".to_owned())).await;
        rows.iter().map(|row| row.key.sort.trim_start_matches("REPLICA#").to_owned()).collect()
    }
    /// Until the log is ordered and keys are purged by such a boot.
    async fn until_held(&self, is_it: impl Fn(&String) -> bool) {
        loop {
            let rows = self.rows("LEASE", SortRange::All).await;
            let holders = rows.iter().filter_map(|row| match row.attributes.get("holder") {
                Some(Value::Text(holder)) => Some(holder),
                _ => None,
            });
            if holders.filter(|holder| is_it(holder)).count() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    /// Until so many of the chains of `boot` are sealed.
    async fn until_chains(&self, boot: &str, are_they: impl Fn(&[bool]) -> bool) {
        loop {
            let rows = self.rows("A#HEADS", SortRange::Prefix(boot.to_owned())).await;
            let sealed: Vec<_> = rows.iter().map(|row| row.attributes.contains_key("sealed")).collect();
            if are_they(&sealed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
