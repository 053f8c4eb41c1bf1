//! Two servers on one table: one rewraps while keys are rotated through the other.

use ibyok::grpc::pb;

use super::{another_key, canary, counts, read, rewrap, rotate, serve_with, store};
use crate::{
    dynamodb::local,
    harness::{ADMIN, Caller, Home, Place},
};

const KEYS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn one_server_rewraps_while_another_rotates_and_nothing_is_lost() {
    let home = Home::at(Place::table(&local::table().await.1));
    home.init().await.unwrap();
    let vault = home.serve("").await;
    let admin = vault.admin().await;
    for number in 0..KEYS {
        store(&admin, &format!("k{number:02}"), &canary(number)).await;
    }
    let home = vault.stop().await;
    let [new, old] = another_key(&home);
    let one = serve_with(home, &[&new, &old]).await;
    let other = one.home().serve("").await;
    let admin = one.admin().await;
    let beside = Caller::new(other.channel(&other.certificate(ADMIN)), admin.token.clone());
    let rotating = async {
        for number in 0..KEYS {
            rotate(&beside, &format!("k{number:02}"), &canary(100 + number)).await;
        }
    };
    let (reports, ()) = tokio::join!(rewrap(&admin, pb::RewrapKeysRequest::default()), rotating);
    let (done, failed, _) = counts(&reports);
    assert_eq!((done, failed), (KEYS as i64, 0), "whoever was slower tried again: {reports:?}");
    assert_eq!(counts(&rewrap(&beside, pb::RewrapKeysRequest::default()).await).1, 0);
    let dry = pb::RewrapKeysRequest { dry_run: true, ..Default::default() };
    assert_eq!(counts(&rewrap(&admin, dry).await), (KEYS as i64, 0, 0), "what one did the other sees");
    rewrap(&one.operator().await, pb::RewrapKeysRequest::default()).await;
    other.stop().await;
    let vault = serve_with(one.stop().await, &[&new]).await;
    let admin = vault.admin().await;
    for number in 0..KEYS {
        assert_eq!(read(&admin, &format!("k{number:02}")).await, canary(100 + number));
        assert_eq!(read(&admin, &format!("k{number:02}/versions/previous")).await, canary(number));
    }
    vault.stop().await;
}
