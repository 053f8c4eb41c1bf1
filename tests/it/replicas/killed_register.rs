//! The register of [`super::register`], whose servers are processes of their own and are killed while it is
//! written and read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use tokio::sync::watch;
use tonic::Status;

use super::{
    SERVERS, WEATHER, may_retry,
    register::{Players, assert_histories},
    site, through,
};
use crate::{
    crash::{Callers, verify},
    dice::Dice,
    dynamodb::proxy::Proxy,
    harness::{reason, within},
    process::{Runner, Site},
};

const KEYS: usize = 2;
const KILLS: usize = 6;
/// How many promotions there are between two kills, at least.
const BETWEEN: usize = 3;

/// Whether a call may be made again where a server may die: also when nobody answered it.
fn may_retry_elsewhere(status: &Status) -> bool {
    let is_transport = reason(status).is_empty() && std::error::Error::source(status).is_some();
    is_transport || may_retry(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_linearizable_whoever_is_killed() {
    let mut dice = Dice::new();
    let (home, proxies) = site(&mut dice).await;
    let mut servers = Vec::new();
    for (number, proxy) in proxies.iter().enumerate() {
        let home = home.clone().moved(through(&home, proxy));
        let site = Arc::new(Site::one_of(home, &format!("server-{number}"), Runner::default()));
        servers.push((Arc::clone(&site), Some(site.serve().await)));
    }
    let callers = Callers::enter(&servers[0].0).await;
    let admins = servers.iter().map(|(site, _)| site.caller(callers.admin.token.clone())).collect();
    let players = Players::new(admins, may_retry_elsewhere);
    let (promoted, is_over) = (watch::Sender::new(0), AtomicBool::new(false));
    let ends = |_| {
        promoted.send_modify(|count| *count += 1);
        is_over.load(Ordering::SeqCst)
    };
    let histories =
        join_all((0..KEYS).map(|n| players.one_key(format!("k{n}"), ends, dice.split())).collect::<Vec<_>>());
    let killing = async {
        for _ in 0..KILLS {
            let wanted = *promoted.borrow() + BETWEEN;
            within("promotions", promoted.subscribe().wait_for(|count| *count >= wanted)).await.unwrap();
            let victim = dice.below(SERVERS);
            let (site, process) = &mut servers[victim];
            process.take().unwrap().kill();
            let wanted = *promoted.borrow() + BETWEEN;
            within("promotions without it", promoted.subscribe().wait_for(|count| *count >= wanted)).await.unwrap();
            // Who starts wants answers.
            proxies[victim].calm();
            *process = Some(site.serve().await);
            proxies[victim].weather(WEATHER, dice.split());
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let (histories, ()) = tokio::join!(histories, killing);
    proxies.iter().for_each(Proxy::calm);
    assert_histories(histories, &callers.admin).await;
    verify(&callers.operator).await;
}
