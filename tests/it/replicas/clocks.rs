//! Servers on one table whose clocks differ.

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::clock::{Clock as _, ShiftedClock},
    grpc::pb::{self, revoke_tokens_request::Which},
};

use super::callers;
use crate::{
    dynamodb::local,
    harness::{ADMIN, Caller, Home, ORG, Place, Vault, reason},
};

/// One that is behind, one that is right, and one that is ahead.
async fn serve() -> [Vault; 3] {
    let home = Home::at(Place::table(&local::table().await.1));
    home.init().await.unwrap();
    let mut vaults = Vec::new();
    for ahead in [0, 2, 4] {
        let mut home = home.clone();
        home.clock = Arc::new(ShiftedClock::default());
        home.clock.advance(Duration::from_secs(ahead));
        vaults.push(home.serve("").await);
    }
    vaults.try_into().ok().unwrap()
}

async fn used(caller: &Caller) -> String {
    let request = pb::IntrospectTokenRequest::default();
    caller.tokens().introspect_token(request).await.map_or_else(|status| reason(&status), |_| "good".into())
}

/// Each with the same token at every server.
async fn everywhere(vaults: &[Vault], caller: &Caller) -> Vec<String> {
    let mut seen = Vec::new();
    for vault in vaults {
        seen.push(used(&Caller::new(vault.channel(&vault.certificate(ADMIN)), caller.token.clone())).await);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_issued_until_now_is_revoked_whatever_the_clocks_say() {
    let vaults = serve().await;
    let [_, right, ahead] = &vaults;
    let early = ahead.exchange(ADMIN, ORG).await;
    let revoker = callers(std::slice::from_ref(right), ORG).await.remove(0);
    for caller in [&early, &revoker] {
        assert_eq!(everywhere(&vaults, caller).await, ["good"; 3]);
    }
    let now = right.clock.now();
    let now = prost_types::Timestamp {
        seconds: now.seconds(),
        nanos: i32::try_from(now.micros() % 1_000_000).unwrap() * 1_000,
    };
    let request = pb::RevokeTokensRequest { which: Some(Which::IssuedBefore(now)), ..Default::default() };
    assert_eq!(revoker.tokens().revoke_tokens(request).await.unwrap().into_inner().revoked, 2);
    for caller in [&early, &revoker] {
        assert_eq!(everywhere(&vaults, caller).await, ["TOKEN_REVOKED"; 3]);
    }
    // What is issued from now on is good, by the clock of one that is behind, too.
    for vault in &vaults {
        let fresh = vault.exchange(ADMIN, ORG).await;
        assert_eq!(everywhere(&vaults, &fresh).await, ["good"; 3]);
    }
    for vault in vaults {
        vault.stop().await;
    }
}
