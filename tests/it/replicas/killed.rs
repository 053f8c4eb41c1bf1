//! Servers as processes of their own, killed one after the other while all are written to: what was
//! acknowledged is there for who asks another one, and what was under way happens once.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{SERVERS, WEATHER, site};
use crate::{
    crash::{Callers, check, check_records, verify, writer::Writer},
    dice::Dice,
    dynamodb::{proxy::Proxy, vault::setting},
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
        tokio::time::sleep(std::time::Duration::from_millis(u64::try_from(dice.below(400)).unwrap())).await;
        servers[victim].process.take().unwrap().kill();
        writers = within("the end of the round", working.join_all()).await;
        // What the dead one had sent may arrive still. Who looks what became of it wants answers.
        servers.iter().for_each(|server| server.proxy.calm());
        servers[victim].proxy.is_quiet().await;
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
    let (home, table, proxies) = site(dice).await;
    let mut servers = Vec::new();
    for (number, proxy) in proxies.into_iter().enumerate() {
        let runner = Runner { environment: AWS, ..Runner::default() };
        let name = format!("server-{number}");
        let site = Arc::new(Site::on(home.clone(), &setting(&table, &proxy.endpoint()), &name, runner));
        let process = Some(site.serve().await);
        let callers = Arc::new(Callers::enter(&site).await);
        servers.push(Server { site, proxy, process, callers });
    }
    servers
}

/// As `localstack::keys`: DynamoDB Local takes any, and keeps the tables of each apart.
const AWS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
