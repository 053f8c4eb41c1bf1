//! Several servers on one table: what one acknowledged all know, and what one began another finishes.
//! Each server reaches DynamoDB Local through a proxy of its own, in which requests and replies are
//! lost and late.

mod at_once;
mod clocks;
mod killed;
mod killed_register;
mod rebuilt;
mod register;
mod replayed;

use std::sync::Arc;

use tonic::Status;

use crate::{
    dice::Dice,
    dynamodb::{
        local,
        proxy::{Proxy, Weather},
    },
    harness::{ADMIN, Caller, Home, ORG, Place, Vault, reason, within},
};

/// What befalls every server's requests.
const WEATHER: Weather = Weather { lost_requests: 5, lost_replies: 10, slow: 100 };
const SERVERS: usize = 3;

/// A vault on a table of its own that nobody serves yet, and a proxy for each of its servers.
async fn site(dice: &mut Dice) -> (Home, Vec<Proxy>) {
    let home = Home::at(Place::table(&local::table().await.1));
    home.init().await.unwrap();
    let mut proxies = Vec::new();
    for _ in 0..SERVERS {
        let proxy = Proxy::start().await;
        proxy.weather(WEATHER, dice.split());
        proxies.push(proxy);
    }
    (home, proxies)
}

/// The table of `home`, reached through `proxy`.
fn through(home: &Home, proxy: &Proxy) -> Place {
    let Place::Table { name, .. } = home.place() else { panic!("a vault in a file") };
    Place::Table { name: name.clone(), endpoint: proxy.endpoint() }
}

/// The servers of a vault, in this process.
async fn serve(dice: &mut Dice) -> Arc<Vec<Vault>> {
    let (home, proxies) = site(dice).await;
    let mut vaults = Vec::new();
    for proxy in &proxies {
        vaults.push(home.clone().moved(through(&home, proxy)).serve("").await);
    }
    Arc::new(vaults)
}

/// The administrator, with one token and a connection to each server.
async fn admins(vaults: &[Vault]) -> Vec<Caller> {
    callers(vaults, ORG).await
}

/// The same, of another organization.
async fn callers(vaults: &[Vault], org: &str) -> Vec<Caller> {
    let token = vaults[0].exchange(ADMIN, org).await.token;
    let channel = |vault: &Vault| vault.channel(&vault.certificate(ADMIN));
    vaults.iter().map(|vault| Caller::new(channel(vault), token.clone())).collect()
}

/// Whether the call may be made again, as docs/ERRORS.md says of what a store or its network brings.
fn may_retry(status: &Status) -> bool {
    const RETRY: [&str; 6] = [
        "STORE_UNAVAILABLE",
        "AUDIT_UNAVAILABLE",
        "KMS_UNAVAILABLE",
        "OVERLOADED",
        "WRITE_CONFLICT",
        "DEADLINE_EXCEEDED",
    ];
    RETRY.contains(&reason(status).as_str())
}

/// What `call` answers, made again as long as it may be.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(what: &str, call: impl FnMut() -> F) -> Result<T, Status> {
    retrying(what, may_retry, call).await
}

/// The same, where `may_retry` says after which refusals.
async fn retrying<T, F: Future<Output = Result<T, Status>>>(
    what: &str,
    may_retry: fn(&Status) -> bool,
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    within(what, async {
        loop {
            match call().await {
                Err(status) if may_retry(&status) => {}
                ended => return ended,
            }
        }
    })
    .await
}

async fn stop(vaults: Arc<Vec<Vault>>) {
    for vault in Arc::try_unwrap(vaults).ok().unwrap() {
        vault.stop().await;
    }
}
