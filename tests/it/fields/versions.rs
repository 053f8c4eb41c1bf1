//! Versions under readers and writers at the same moment.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;

use super::*;

fn version(number: impl std::fmt::Display) -> String {
    format!("orgs/{ORG}/keys/openai/versions/{number}")
}

async fn promote(admin: &Caller, number: usize, etag: &str) -> Result<pb::Key, Status> {
    let request = pb::PromoteKeyVersionRequest {
        name: version(number),
        allow_unverified: true,
        grace: seconds(3_600),
        etag: etag.to_owned(),
        ..Default::default()
    };
    admin.keys().promote_key_version(request).await.map(|answer| answer.into_inner().key.unwrap())
}

async fn roll_back(admin: &Caller, etag: &str, request_id: &str) -> Result<pb::Key, Status> {
    let (etag, request_id) = (etag.to_owned(), request_id.to_owned());
    let request = pb::RollBackKeyVersionRequest { name: "openai".to_owned(), etag, request_id };
    admin.keys().roll_back_key_version(request).await.map(|answer| answer.into_inner().key.unwrap())
}

fn value(number: usize) -> String {
    openai(&format!("value-{number}-"))
}

/// The number of the version that an answer names; its value is that of no other.
fn named(answer: &pb::RetrieveKeyResponse) -> usize {
    let (key, number) = answer.key_version.rsplit_once("/versions/").unwrap();
    assert_eq!(key, format!("orgs/{ORG}/keys/openai"));
    let number = number.parse().unwrap();
    assert_eq!(answer.secret.as_ref().unwrap().text, value(number), "the version named is the value given");
    number
}

/// While versions are promoted, rolled back and promoted again, every answer is consistent, and no
/// reader of the current one is ever without.
#[tokio::test(flavor = "multi_thread")]
async fn readers_during_a_rotation_get_what_they_are_told_they_get() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &value(1)).await;
    rotate(&admin, "openai", &value(2), true).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = ["openai", "previous", "1", "2", "current", "openai"]
        .into_iter()
        .map(|what| {
            let (admin, is_over) = (admin.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let name = if what == "openai" { what.to_owned() } else { version(what) };
                let mut seen = std::collections::BTreeMap::<usize, usize>::new();
                while !is_over.load(Ordering::SeqCst) {
                    match retrieve(&admin, &name).await {
                        Ok(answer) => *seen.entry(named(&answer)).or_default() += 1,
                        // Between a rollback and the next promotion nothing is previous.
                        Err(status) => assert_eq!((what, reason(&status).as_str()), ("previous", "VERSION_NOT_FOUND")),
                    }
                }
                (what, seen)
            })
        })
        .collect();
    for _ in 0..40 {
        roll_back(&admin, "", "").await.unwrap();
        promote(&admin, 2, "").await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    for (what, seen) in join_all(readers).await.into_iter().map(Result::unwrap) {
        assert!(!seen.is_empty(), "{what} was never answered");
        let may_be: &[usize] = match what {
            "1" | "previous" => &[1],
            "2" => &[2],
            _ => &[1, 2],
        };
        assert!(seen.keys().all(|number| may_be.contains(number)), "{what}: {seen:?}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_rolled_back_once() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &value(1)).await;
    rotate(&admin, "openai", &value(2), true).await;
    let once = roll_back(&admin, "", "once").await.unwrap();
    let nothing = (Code::FailedPrecondition, "VERSION_NOT_PREVIOUS".to_owned());
    assert_eq!(refused(roll_back(&admin, "", "twice").await), nothing);
    assert_eq!(refused(roll_back(&admin, "", "").await), nothing);
    assert_eq!(refused(roll_back(&admin, &once.etag, "").await), nothing, "though nothing has changed since");
    assert_eq!(roll_back(&admin, "", "once").await.unwrap().etag, once.etag, "the same request happened already");
    assert_eq!(named(&retrieve(&admin, "openai").await.unwrap()), 1);
    // Both at once: one of them goes back, the other finds nothing to go back to.
    for round in 0..10 {
        promote(&admin, 2, "").await.unwrap();
        let calls = (0..4).map(|n| {
            let admin = admin.clone();
            tokio::spawn(async move { roll_back(&admin, "", &format!("race-{round}-{n}")).await })
        });
        let outcomes: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let (done, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(done.len(), 1, "{lost:?}");
        assert!(lost.into_iter().all(|outcome| refused(outcome) == nothing));
        assert_eq!(named(&retrieve(&admin, "openai").await.unwrap()), 1);
    }
    assert_eq!(allowed(&events(&admin, "key.version.rollback").await), 11);
    vault.stop().await;
}

/// Two writers of different kinds who read the same etag: exactly one wins.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_with_one_etag_one_wins_whatever_they_write() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &value(1)).await;
    rotate(&admin, "openai", &value(2), true).await;
    for round in 0..20 {
        let get = pb::GetKeyRequest { name: "openai".to_owned() };
        let before = admin.keys().get_key(get).await.unwrap().into_inner().key.unwrap();
        let is_rolled_back = round % 2 == 0;
        let (etag, one, other) = (before.etag.clone(), admin.clone(), admin.clone());
        let etag_of_other = etag.clone();
        let rotates = tokio::spawn(async move {
            if is_rolled_back { roll_back(&one, &etag, "").await } else { promote(&one, 2, &etag).await }
        });
        let describes = tokio::spawn(async move { describe(&other, &etag_of_other, &format!("round {round}")).await });
        let (rotated, described) = (rotates.await.unwrap(), describes.await.unwrap());
        assert!(rotated.is_ok() != described.is_ok(), "{rotated:?} {described:?}");
        let after = admin.keys().get_key(pb::GetKeyRequest { name: "openai".to_owned() }).await.unwrap();
        let after = after.into_inner().key.unwrap();
        let lost = (Code::Aborted, "ETAG_MISMATCH".to_owned());
        if rotated.is_ok() {
            assert_eq!(refused(described), lost);
            assert_eq!(after.description, before.description);
        } else {
            assert_eq!(refused(rotated), lost);
            assert_eq!(after.description, format!("round {round}"));
            // What lost the race is done now, so that the next round goes the other way.
            let again = if is_rolled_back { roll_back(&admin, "", "").await } else { promote(&admin, 2, "").await };
            again.unwrap();
        }
    }
    vault.stop().await;
}

/// Without an etag all happen, in some order, or say WRITE_CONFLICT and did not happen.
#[tokio::test(flavor = "multi_thread")]
async fn writers_without_an_etag_all_happen_or_say_that_they_did_not() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &value(1)).await;
    let mut happened = 0;
    for round in 0..10 {
        let writers = (0..2).map(|writer| {
            let admin = admin.clone();
            tokio::spawn(async move {
                let text = format!("round {round} writer {writer}");
                (text.clone(), describe(&admin, "", &text).await)
            })
        });
        let mut done = Vec::new();
        for (text, outcome) in join_all(writers).await.into_iter().map(Result::unwrap) {
            match outcome {
                Ok(_) => done.push(text),
                Err(status) => assert_eq!(reason(&status), "WRITE_CONFLICT", "{status:?}"),
            }
        }
        happened += done.len();
        let key = admin.keys().get_key(pb::GetKeyRequest { name: "openai".to_owned() }).await.unwrap();
        let stored = key.into_inner().key.unwrap().description;
        assert!(done.contains(&stored), "{stored} of {done:?}");
    }
    assert_eq!(allowed(&events(&admin, "key.update").await), happened);
    vault.stop().await;
}

async fn describe(admin: &Caller, etag: &str, description: &str) -> Result<pb::Key, Status> {
    let (name, etag, description) = ("openai".to_owned(), etag.to_owned(), description.to_owned());
    let key = Some(pb::Key { name, etag, description, ..Default::default() });
    let update_mask = Some(prost_types::FieldMask { paths: vec!["description".to_owned()] });
    let request = pb::UpdateKeyRequest { key, update_mask, ..Default::default() };
    admin.keys().update_key(request).await.map(|answer| answer.into_inner().key.unwrap())
}
