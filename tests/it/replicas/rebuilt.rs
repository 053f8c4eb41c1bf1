//! `ibyok-server rebuild` where servers share a store: it does its work, or says that it did not.

use std::{sync::Arc, time::Duration};

use ibyok::{
    domain::clock::{Clock as _, SystemClock},
    server::{ServerError, rebuild::rebuild},
    store::{Item, ItemKey},
};

use super::killed::Shelf;
use crate::{
    dynamodb::local,
    harness::{Home, Place, within},
    process::{Runner, Site},
};

/// The mark of a projection.
async fn mark(home: &Home) -> Option<Item> {
    let (port, deadline) = (home.items().await.port(), SystemClock.deadline(Duration::from_secs(10)));
    let found = port.get(&[ItemKey::new("PROJ", "usage")], deadline).await.unwrap();
    found.into_iter().flatten().next().map(|item| Item::clone(&item))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_waits_for_who_was_killed_and_refuses_while_a_server_runs() {
    let home = Home::at(Place::table(&local::table().await.1));
    home.init().await.unwrap();
    let site = Arc::new(Site::of(home.clone(), Runner::default()));
    let process = site.serve().await;
    let rebuilding = || async { within("the rebuild", rebuild(&home.config(""), &home.sources())).await };

    let [killed] = Shelf(home.items().await.port()).beating().await.into_iter().collect::<Vec<_>>().try_into().unwrap();
    within("a first mark", async { while mark(&home).await.is_none() {} }).await;
    let refused = rebuilding().await.unwrap_err();
    assert!(matches!(refused, ServerError::Running), "{refused}");
    let generation = |item: Option<Item>| item.unwrap().attributes.get("generation").cloned();
    let before = generation(mark(&home).await);

    // It has no time to say that it ends.
    process.kill();
    rebuilding().await.unwrap();
    assert_ne!(generation(mark(&home).await), before, "all is made anew");
    // It has withdrawn: the next need not wait for it, and finds nothing to wait for.
    assert!(Shelf(home.items().await.port()).beating().await.is_subset(&[killed].into()));
    rebuilding().await.unwrap();
}
