//! What leaves is whole in its file before it is gone, once, whatever fails on the way.

mod faults;
mod files;
mod limits;
mod offline;
mod world;

use world::{DAY, World};

use super::*;
use crate::{
    domain::clock::{Clock, SystemEntropy},
    repository::{
        audit::{
            AuditDraft, AuditTasks,
            archive::offline::{all_roots, verify},
            batch::{Batch, ChainId, batch_item, batch_key, place},
            heads::Head,
            reader,
            testing::{org, records, soon},
            tree,
        },
        lease::Role,
    },
    store::{Item, Value},
};

#[tokio::test]
async fn what_is_old_leaves_and_the_rest_stays() {
    let world = World::filled().await;
    let log = world.boot().await;
    let newest = world.write(&log, "acme", 3).await;
    let files = world.archive(&log).await.unwrap();
    // A file for each day that is over.
    assert_eq!(files, 3);
    world.assert_whole().await;
    let state = ArchiveState::load(&records(&world.store), soon()).await.unwrap();
    assert!(state.floor > 1 && state.deleted == state.floor && state.records > 0);
    let roots = all_roots(&records(&world.store), soon()).await.unwrap();
    assert_eq!(state.until, roots.last().map(|root| root.summary.until));
    for receipt in &newest {
        assert!(!world.is_in_files(receipt));
    }
    // Nothing more grows old until time passes.
    assert_eq!(world.archive(&log).await.unwrap(), 0);
    world.clock.advance(DAY * 4);
    world.write(&log, "acme", 1).await;
    assert_eq!(world.archive(&log).await.unwrap(), 1);
    assert!(newest.iter().all(|receipt| world.is_in_files(receipt)));
    world.assert_whole().await;
}

#[tokio::test]
async fn what_is_not_old_enough_or_not_folded_yet_stays() {
    let world = World::filled().await;
    let log = world.boot().await;
    assert_eq!(world.archive_after(&log, DAY * 300).await.unwrap(), 0);
    for (partition, sort) in [("PROJ", "last-used"), ("PROJ", "usage"), ("PROJ", "consumers"), ("A#SEQ", "INDEX")] {
        let key = ItemKey::new(partition, sort);
        let item = world.store.tamper(|items| items.remove(&key).unwrap());
        assert_eq!(world.archive_only(&log, DAY).await.unwrap(), 0, "{sort}");
        world.store.tamper(|items| items.insert(key, item));
    }
    assert_eq!(world.archive(&log).await.unwrap(), 3);
    world.assert_whole().await;
}

#[tokio::test]
async fn a_projection_that_is_behind_holds_everything() {
    let world = World::filled().await;
    let log = world.boot().await;
    let late = Builder::new().count("next", 2).build();
    world.put(NewItem::new(ItemKey::new("PROJ", "another"), late)).await;
    assert_eq!(world.archive(&log).await.unwrap(), 0);
}

#[tokio::test]
async fn a_mark_that_is_no_watermark_holds_nothing() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.put(NewItem::new(ItemKey::new("PROJ", "janitor"), Builder::new().count("day", 2).build())).await;
    assert_eq!(world.archive(&log).await.unwrap(), 3);
}

#[tokio::test]
async fn a_record_whose_clock_was_ahead_holds_its_file() {
    let world = World::new();
    let log = world.boot().await;
    world.clock.advance(DAY * 10);
    let ahead_from = Clock::now(&*world.clock);
    let ahead = world.append(&log, "acme", "ahead").await;
    world.clock.back(DAY * 10);
    world.order(&log).await;
    world.clock.advance(DAY * 4);
    world.order(&log).await;
    let Archived::Waits(until) = world.archiver(&log, DAY).step(None).await.unwrap() else { panic!("it is newer") };
    let is_old = ahead_from.plus(DAY);
    assert!(is_old <= until && until.since(is_old) < std::time::Duration::from_secs(1));
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0, "what was begun is removed");
    world.clock.advance(DAY * 10);
    assert_eq!(world.archive(&log).await.unwrap(), 1);
    assert!(world.is_in_files(&ahead));
}

#[tokio::test]
async fn the_removal_is_recorded() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let roots = all_roots(&records(&world.store), soon()).await.unwrap();
    let mut told: Vec<_> = world.records_in_store("audit.archive");
    told.sort_by_key(|record| record.details["first_position"].parse::<u64>().unwrap());
    assert_eq!((told.len(), roots.len()), (3, 3));
    for (record, root) in told.iter().zip(&roots) {
        assert_eq!(record.org, "system");
        assert_eq!(record.resource, "orgs/system/audit");
        assert_eq!(record.purpose, "it is older than audit.retention");
        assert_eq!(record.details["first_position"], root.summary.first.to_string());
        assert_eq!(record.details["last_position"], root.summary.last.to_string());
        assert_eq!(record.details["records"], root.summary.records.to_string());
        assert_eq!(record.details["file_digest"], data_encoding::HEXLOWER.encode(&root.summary.digest));
    }
}

#[tokio::test]
async fn an_open_chain_of_which_a_part_has_left_goes_on_and_one_of_which_all_has_is_sealed_by_the_next_boot() {
    let world = World::new();
    let dying = world.boot().await;
    let first = world.append(&dying, "acme", "k1").await;
    let mut last = first.clone();
    for _ in 0..12 {
        world.order(&dying).await;
        world.clock.advance(DAY / 3);
        last = world.append(&dying, "acme", "k2").await;
    }
    world.order(&dying).await;
    let mover = world.boot_without_sealing();
    assert!(world.archive_only(&mover, DAY).await.unwrap() > 0);
    let chain = ChainId::parse(&first.chain).unwrap();
    assert!(world.is_in_files(&first) && !world.is_in_files(&last));
    // The same boot goes on with the chain.
    assert_eq!((last.chain.as_str(), place(last.sequence).0), (first.chain.as_str(), 13));
    let last = world.append(&dying, "acme", "k3").await;
    assert_eq!((last.chain.as_str(), place(last.sequence).0), (first.chain.as_str(), 14));
    world.assert_whole().await;
    world.order(&dying).await;
    world.clock.advance(DAY * 4);
    assert!(world.archive_only(&mover, DAY).await.unwrap() > 0);
    assert!(world.is_in_files(&last));
    world.assert_whole().await;
    // It dies; the next one seals a chain that has no batch any more.
    let next = world.boot().await;
    let seal = batch_key(&chain, 15);
    assert!(world.store.tamper(|items| items.contains_key(&seal)));
    world.assert_whole().await;
    world.clock.advance(DAY * 4);
    assert_eq!(world.archive(&next).await.unwrap(), 1);
    world.assert_whole().await;
    assert!(!world.store.tamper(|items| items.contains_key(&Head::key(&chain))));
}

#[tokio::test]
async fn who_lost_the_lease_moves_nothing() {
    let world = World::filled().await;
    let log = world.boot().await;
    let take = async || log.replicas().take(Role::Archivist, soon()).await.unwrap().unwrap();
    let lost = take().await;
    take().await;
    let before = world.store.tamper(|items| items.clone());
    let failure = world.archiver(&log, DAY).step(Some(&lost.check())).await.unwrap_err();
    assert!(
        matches!(failure, Trouble::Store(failure) if failure.reason == crate::domain::error::Reason::WriteConflict)
    );
    let moved = |key: &ItemKey| key.sort.starts_with("B#") || key.partition == ROOTS || key.sort == "ARCHIVE";
    world.store.tamper(|items| {
        let kept = |items: &std::collections::BTreeMap<ItemKey, Item>| {
            items.keys().filter(|key| moved(key)).cloned().collect::<Vec<_>>()
        };
        let (before, now) = (kept(&before), kept(items));
        assert!(before.iter().all(|key| now.contains(key)));
        assert!(!now.iter().any(|key| key.partition == ROOTS || key.sort == "ARCHIVE"));
    });
}

#[tokio::test]
async fn a_batch_that_does_not_verify_is_not_moved() {
    let world = World::filled().await;
    let log = world.boot().await;
    let (_, receipt) = world.receipts().first().cloned().unwrap();
    let chain = ChainId::parse(&receipt.chain).unwrap();
    let key = batch_key(&chain, place(receipt.sequence).0);
    world.store.tamper(|items| items.get_mut(&key).unwrap().mac = None);
    let trouble = world.archive(&log).await.unwrap_err();
    assert_eq!(trouble.to_string(), "a record of the log does not verify: it stays where it is");
    assert!(all_roots(&records(&world.store), soon()).await.unwrap().is_empty());
    assert!(world.store.tamper(|items| items.contains_key(&key)));
}

/// Whoever has the record key can make a sound batch; that it is another than was put in order shows.
#[tokio::test]
async fn a_batch_that_was_made_anew_is_not_moved() {
    let world = World::filled().await;
    let log = world.boot().await;
    let (_, receipt) = world.receipts().first().cloned().unwrap();
    let key = batch_key(&ChainId::parse(&receipt.chain).unwrap(), place(receipt.sequence).0);
    let mut batch = Batch::read(world.store.tamper(|items| items.remove(&key).unwrap())).unwrap();
    batch.records[0][20] ^= 1;
    batch.header.root = tree::root(batch.records.iter().map(|record| tree::leaf_hash(record)));
    world.put(batch_item(&batch.header, batch.records)).await;
    let trouble = world.archive_only(&log, DAY).await.unwrap_err();
    assert_eq!(trouble.to_string(), "a record of the log does not verify: it stays where it is");
    assert!(all_roots(&records(&world.store), soon()).await.unwrap().is_empty());
    assert!(world.store.tamper(|items| items.contains_key(&key)));
}

#[test]
fn a_store_that_is_down_is_no_record_that_does_not_verify() {
    let trouble = Trouble::from(Failure::from(crate::domain::error::Reason::StoreUnavailable)).to_string();
    assert!(!trouble.contains("verify"), "{trouble}");
}

#[tokio::test]
async fn a_directory_that_has_gone_stops_the_archive_and_not_the_log() {
    let world = World::filled().await;
    let log = world.boot().await;
    let aside = world.dir.path().with_extension("aside");
    std::fs::rename(world.dir.path(), &aside).unwrap();
    assert!(matches!(world.archive(&log).await.unwrap_err(), Trouble::Disk(_)));
    world.write(&log, "acme", 2).await;
    std::fs::rename(&aside, world.dir.path()).unwrap();
    assert_eq!(world.archive(&log).await.unwrap(), 3);
    world.assert_whole().await;
}

#[tokio::test]
async fn the_archive_leaves_room_for_the_database() {
    let world = World::filled().await;
    let log = world.boot().await;
    std::fs::write(world.dir.path().join("unfinished.part"), "what a crash left").unwrap();
    let full = Archiver::new(&log, world.directory().with_free_min(u64::MAX), DAY);
    let trouble = full.step(None).await.unwrap_err();
    assert!(trouble.to_string().ends_with("MiB are needed"), "{trouble}");
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0);
    assert_eq!(world.archive(&log).await.unwrap(), 3);
    world.assert_whole().await;
}

#[tokio::test]
async fn a_file_that_can_t_be_completed_is_removed() {
    let world = World::filled().await;
    let log = world.boot().await;
    // The last batch of the first day: the file has begun by then.
    let receipts = world.receipts();
    let (_, last) = receipts.iter().rfind(|(_, receipt)| receipt.chain == receipts[0].1.chain).unwrap();
    let key = batch_key(&ChainId::parse(&last.chain).unwrap(), place(last.sequence).0);
    world.store.tamper(|items| items.get_mut(&key).unwrap().mac = None);
    assert!(world.archive(&log).await.is_err());
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_last_root_that_does_not_verify_holds_up_no_start() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let dying = world.boot_without_sealing();
    let told = world.append(&dying, "acme", "k1").await;
    world.store.tamper(|items| {
        let (_, root) = items.iter_mut().rfind(|(key, _)| key.partition == ROOTS).unwrap();
        root.mac = None;
    });
    let next = world.boot_without_sealing();
    AuditTasks::new(&next).tick().await.unwrap();
    let chain = ChainId::parse(&told.chain).unwrap();
    let seal = batch_key(&chain, place(told.sequence).0 + 1);
    assert!(world.store.tamper(|items| items.contains_key(&seal)));
}

#[tokio::test]
async fn roots_that_are_changed_or_gone_are_reported_and_so_is_the_state() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let stock = world.store.tamper(|items| items.clone());
    let rows: Vec<ItemKey> =
        stock.keys().filter(|key| key.partition == ROOTS || key.sort == "ARCHIVE").cloned().collect();
    assert_eq!(rows.len(), 4);
    for key in rows {
        world.store.tamper(|items| items.remove(&key));
        let gone = world.verdict().await.unwrap_err();
        assert!(gone.contains("missing") || gone.contains("archive"), "{key:?}: {gone}");
        for name in stock[&key].attributes.keys() {
            world.store.tamper(|items| {
                let mut item = stock[&key].clone();
                item.attributes.remove(name);
                items.insert(key.clone(), item);
            });
            let changed = world.verdict().await.unwrap_err();
            assert!(changed.contains("does not verify"), "{key:?} {name}: {changed}");
        }
        world.store.tamper(|items| items.insert(key.clone(), stock[&key].clone()));
        world.verdict().await.unwrap();
    }
}

/// Not even the record key helps to say something else.
#[tokio::test]
async fn roots_that_do_not_lead_to_each_other_are_reported() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let stock = world.store.tamper(|items| items.clone());
    let roots: Vec<_> = stock.keys().filter(|key| key.partition == ROOTS).cloned().collect();
    let state = ItemKey::new("A#SEQ", "ARCHIVE");
    for (key, name, value) in [
        (&state, "records", Value::Int(1)),
        (&roots[0], "records", Value::Int(1)),
        (&roots[1], "previous", Value::Bytes(vec![9; 32])),
        (&roots[1], "last", Value::Int(1)),
    ] {
        let Item { mut attributes, .. } = world.store.tamper(|items| items.remove(key).unwrap());
        assert_ne!(attributes.insert(name.to_owned(), value.clone()), Some(value));
        world.put(NewItem::new(key.clone(), attributes)).await;
        assert_eq!(world.verdict().await.unwrap_err(), "a root of the archive is missing", "{key:?} {name}");
        world.store.tamper(|items| items.insert(key.clone(), stock[key].clone()));
    }
    world.verdict().await.unwrap();
}

#[tokio::test]
async fn a_batch_that_goes_without_a_root_is_reported() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let batches: Vec<ItemKey> =
        world.store.tamper(|items| items.keys().filter(|key| key.sort.starts_with("B#")).cloned().collect());
    // Not the very last of a chain that goes on: a cut tail is not provable.
    let last_of = |key: &ItemKey| batches.iter().filter(|other| other.partition == key.partition).max() == Some(key);
    let inner: Vec<_> = batches.iter().filter(|key| !last_of(key)).collect();
    assert!(!inner.is_empty());
    for key in inner {
        let item = world.store.tamper(|items| items.remove(key).unwrap());
        let problem = world.verdict().await.unwrap_err();
        assert!(problem.contains("missing"), "{problem}");
        world.store.tamper(|items| items.insert(key.clone(), item));
    }
    world.verdict().await.unwrap();
}

#[tokio::test]
async fn the_state_put_back_is_reported() {
    let world = World::filled().await;
    let log = world.boot().await;
    let key = ItemKey::new("A#SEQ", "ARCHIVE");
    world.archiver(&log, DAY).step(None).await.unwrap();
    let older = world.store.tamper(|items| items[&key].clone());
    world.archive(&log).await.unwrap();
    world.store.tamper(|items| items.insert(key.clone(), older));
    assert_eq!(world.verdict().await.unwrap_err(), "a root of the archive is missing");
    assert!(world.archive(&log).await.is_err());
}

#[tokio::test]
async fn a_deletion_that_finds_nothing_more_below_the_floor_stops_there() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.interrupt_deletion(&log).await;
    let floor = ArchiveState::load(&records(&world.store), soon()).await.unwrap().floor;
    let has_left = |key: &ItemKey| key.partition.starts_with("A#LOG#") && key.sort.parse::<u64>().unwrap() < floor;
    world.store.tamper(|items| items.retain(|key, _| !has_left(key)));
    assert_eq!(world.archiver(&log, DAY).step(None).await.unwrap(), Archived::Completed);
    let entries = crate::repository::audit::log::entries(&records(&world.store), floor, soon()).await.unwrap();
    assert_eq!(entries.first().map(|entry| entry.position), Some(floor));
}

#[tokio::test]
async fn a_new_projection_begins_at_the_floor() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let floor = ArchiveState::load(&records(&world.store), soon()).await.unwrap().floor;
    let entries = crate::repository::audit::log::entries(&records(&world.store), 1, soon()).await.unwrap();
    assert_eq!(entries.first().map(|entry| entry.position), Some(floor));
    // Even one that comes while the deletion is under way finds the first that is left.
    let world = World::filled().await;
    let log = world.boot().await;
    world.interrupt_deletion(&log).await;
    let state = ArchiveState::load(&records(&world.store), soon()).await.unwrap();
    assert!(state.deleted < state.floor);
    let entries = crate::repository::audit::log::entries(&records(&world.store), 1, soon()).await.unwrap();
    assert_eq!(entries.first().map(|entry| entry.position), Some(state.floor));
    world.verdict().await.unwrap();
    world.archive(&log).await.unwrap();
    world.assert_whole().await;
}

#[tokio::test]
async fn what_a_rebuilt_last_use_says_of_archived_times_stays() {
    use crate::{domain::ids::KeyId, repository::last_used};
    let world = World::filled().await;
    let log = world.boot().await;
    let keys = [KeyId::parse("key", "k0").unwrap()];
    let used = last_used::keys(&records(&world.store), &org("acme"), &keys, soon()).await.unwrap();
    assert!(used[0].is_some());
    world.archive(&log).await.unwrap();
    world.store.tamper(|items| items.remove(&ItemKey::new("PROJ", "last-used")).unwrap());
    world.order(&world.boot().await).await;
    assert_eq!(last_used::keys(&records(&world.store), &org("acme"), &keys, soon()).await.unwrap(), used);
}

#[tokio::test]
async fn a_rebuild_keeps_what_rows_say_of_archived_times() {
    use crate::repository::{projection::begin_again, usage};
    let world = World::filled().await;
    let old = world.clock.now().minus(DAY * 6);
    let log = world.boot().await;
    let counted = async || {
        let (now, number) = (world.clock.now(), usage::Bucket::Day.of(old));
        let stored = records(&world.store);
        let found = usage::first_of_day(&stored, &org("acme"), usage::Bucket::Day, number, now, soon()).await;
        let counts = found.unwrap().map(|found| found.cells.into_values().map(|counts| counts.retrievals).sum::<u64>());
        counts.unwrap_or_default()
    };
    let told = counted().await;
    assert!(told > 0);
    world.archive(&log).await.unwrap();
    // A record of that day that was written late: the log still has it.
    let late = AuditDraft { time: old, ..crate::repository::audit::testing::draft("acme", "orgs/acme/keys/k0") };
    log.append(late, soon()).await.unwrap();
    world.order(&log).await;
    assert_eq!(counted().await, told + 1);
    let remake = async || {
        let actions = begin_again(&records(&world.store), soon()).await.unwrap();
        let id = crate::store::WriteId(crate::domain::clock::random(&SystemEntropy).unwrap());
        crate::store::ItemStore::write(&*world.store, id, actions, soon()).await.unwrap();
        world.order(&log).await;
    };
    remake().await;
    assert_eq!(counted().await, told + 1);

    // Rows that a rebuild made are kept when a watermark is lost, and a later rebuild is a rebuild.
    world.store.tamper(|items| items.retain(|key, _| key.partition != "PROJ" || key.sort == "last-used"));
    world.order(&log).await;
    assert_eq!(counted().await, told + 1);
    remake().await;
    assert_eq!(counted().await, told + 1);
}

#[tokio::test]
async fn a_verification_that_is_overtaken_by_the_archive_begins_again() {
    use crate::repository::audit::verify::{Step, Verifier};
    let world = World::filled().await;
    let log = world.boot().await;
    for steps in 0..12 {
        let mut verifier = Verifier::new(records(&world.store), world.clock.clone());
        for _ in 0..steps {
            assert!(!matches!(verifier.step().await.unwrap(), Step::Broken(_)));
        }
        let _ = world.archiver(&log, DAY).step(None).await.unwrap();
        let verdict = loop {
            match verifier.step().await.unwrap() {
                Step::Going => {}
                verdict => break verdict,
            }
        };
        assert_eq!(verdict, Step::Intact, "after {steps} steps");
    }
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::filled().await;
    let log = world.boot().await;
    world.archive(&log).await.unwrap();
    let names: Vec<_> = std::fs::read_dir(world.dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(names.len(), 3, "nothing else is left there");
    for entry in names {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Entry::parse(entry.file_name().to_str().unwrap()).is_some());
    }
    assert_eq!(verify(&world.directory(), 1, None).unwrap().problems, Vec::<String>::new());
}

/// A server that was away for so long that its chain has been sealed, and the seal has left, writes
/// nothing behind it, where nobody would look for it.
#[tokio::test]
async fn a_lane_that_was_away_for_longer_than_the_retention_goes_on_in_a_new_chain() {
    let world = World::new();
    let stalled = world.boot().await;
    let before = world.append(&stalled, "acme", "k").await;
    // It is taken for dead.
    let other = world.boot().await;
    world.clock.advance(DAY * 4);
    world.write(&other, "acme", 1).await;
    assert_eq!(world.archive(&other).await.unwrap(), 1);
    assert!(world.is_in_files(&before));

    let after = world.append(&stalled, "acme", "k").await;
    assert_ne!(before.chain, after.chain);
    world.order(&other).await;
    let chain = ChainId::parse(&after.chain).unwrap();
    let event = reader::event(&records(&world.store), &org("acme"), &chain, after.sequence, soon()).await.unwrap();
    assert!(event.unwrap().position > 0, "it is in order");
    let left = ChainId::parse(&before.chain).unwrap();
    let (number, _) = place(before.sequence);
    let behind = world.store.tamper(|items| items.contains_key(&batch_key(&left, number + 1)));
    assert!(!behind, "nothing is left of the chain that has left");
    world.assert_whole().await;
}
