//! Several servers on one table: what one acknowledged all know, and what one began another finishes.
//! Each server reaches DynamoDB Local through a proxy of its own, in which requests and replies are
//! lost and late.

mod at_once;
mod killed;
mod register;

use std::sync::Arc;

use crate::{
    dice::Dice,
    dynamodb::{
        local,
        proxy::{Proxy, Weather},
        vault::through,
    },
    harness::{ADMIN, Caller, Home, Vault},
};

/// What befalls every server's requests.
const WEATHER: Weather = Weather { lost_requests: 5, lost_replies: 10, slow: 100 };
const SERVERS: usize = 3;

/// A vault on a table of its own that nobody serves yet, and a proxy for each of its servers.
async fn site(dice: &mut Dice) -> (Home, String, Vec<Proxy>) {
    let (_, table) = local::table().await;
    let home = Home::make().on(through(&table, &local::endpoint()));
    home.init().await.unwrap();
    let mut proxies = Vec::new();
    for _ in 0..SERVERS {
        let proxy = Proxy::start().await;
        proxy.weather(WEATHER, dice.split());
        proxies.push(proxy);
    }
    (home, table, proxies)
}

/// The servers of a vault, in this process.
async fn serve(dice: &mut Dice) -> Arc<Vec<Vault>> {
    let (home, table, proxies) = site(dice).await;
    let mut vaults = Vec::new();
    for proxy in &proxies {
        vaults.push(home.clone().on(through(&table, &proxy.endpoint())).serve("").await);
    }
    Arc::new(vaults)
}

/// The administrator, with one token and a connection to each server.
async fn admins(vaults: &[Vault]) -> Vec<Caller> {
    let token = vaults[0].admin().await.token;
    let channel = |vault: &Vault| vault.channel(&vault.certificate(ADMIN));
    vaults.iter().map(|vault| Caller::new(channel(vault), token.clone())).collect()
}

async fn stop(vaults: Arc<Vec<Vault>>) {
    for vault in Arc::try_unwrap(vaults).ok().unwrap() {
        vault.stop().await;
    }
}
