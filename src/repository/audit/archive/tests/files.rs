//! Files that were changed, cut, moved, exchanged or taken away are named.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::repository::audit::{
    archive::format::{Beginning, check, follow},
    batch::{Header, LaneKind},
    tree::sha256,
};

/// Three files, and their names.
async fn archived() -> (World, Vec<Entry>) {
    let world = World::filled().await;
    let log = world.boot().await;
    assert_eq!(world.archive(&log).await.unwrap(), 3);
    let (entries, _) = world.directory().entries().unwrap();
    (world, entries)
}

fn problems(world: &World, first: u64, roots: Option<&[Root]>) -> Vec<String> {
    verify(&world.directory(), first, roots).unwrap().problems
}

#[tokio::test]
async fn every_byte_counts() {
    let (world, entries) = archived().await;
    let path = world.dir.path().join(entries[0].name());
    let content = fs::read(&path).unwrap();
    let is_fine = |content: &[u8]| check(content, &mut Chains::new(), Beginning::Strict).is_ok();
    assert!(is_fine(&content));
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(!is_fine(&changed), "byte {at}");
        assert!(!is_fine(&content[..at]), "cut to {at}");
    }
    assert!(!is_fine(&[&content[..], &[0]].concat()));
    // And as a file: one byte of each part of the format.
    let middle = content.len() / 2;
    for at in
        [0, 15, 16, 23, 24, 55, 56, 57, 64, 65, 68, 69, 70, 71, 73, 74, middle, content.len() - 49, content.len() - 1]
    {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        let found = problems(&world, 1, None);
        assert!(found.iter().any(|line| line.starts_with(&entries[0].name())), "byte {at}: {found:?}");
    }
    fs::write(&path, &content[..middle]).unwrap();
    assert!(problems(&world, 1, None)[0].contains("the file ends too early"));
    fs::write(&path, [&content[..], &[0]].concat()).unwrap();
    assert!(problems(&world, 1, None)[0].contains("something follows its end"));
    fs::write(&path, &content).unwrap();
    assert!(problems(&world, 1, None).is_empty());
}

#[tokio::test]
async fn a_changed_record_is_found_even_with_a_new_digest() {
    let (world, entries) = archived().await;
    let path = world.dir.path().join(entries[1].name());
    let content = fs::read(&path).unwrap();
    let at = content.windows(8).position(|text| text == b"/keys/k0").unwrap();
    let mut changed = content.clone();
    changed[at + 7] = b'9';
    let end = changed.len() - 32;
    let digest = sha256(&[&changed[..end]]);
    changed[end..].copy_from_slice(&digest);
    fs::write(&path, changed).unwrap();
    let found = problems(&world, 1, None);
    assert!(found[0].contains("the batch's records are not those that were hashed"), "{found:?}");
}

#[tokio::test]
async fn a_file_that_is_taken_away_is_missed() {
    let (world, entries) = archived().await;
    let roots = all_roots(&records(&world.store), soon()).await.unwrap();
    let aside = world.dir.path().join("aside");
    for (at, entry) in entries.iter().enumerate() {
        let path = world.dir.path().join(entry.name());
        fs::rename(&path, &aside).unwrap();
        let found = problems(&world, 1, Some(&roots));
        let missing = format!("{}: the vault says that it is there, and it is missing", entry.name());
        assert!(found.contains(&missing), "{found:?}");
        let alone = problems(&world, 1, None);
        match at {
            0 => assert_eq!(
                alone,
                [format!("{}: the positions 1 to {} before it are missing", entries[1].name(), entry.last)]
            ),
            1 => assert_eq!(
                alone,
                [format!(
                    "{}: the positions {} to {} before it are missing",
                    entries[2].name(),
                    entry.first,
                    entry.last
                )]
            ),
            // What is cut off the end, only the vault knows.
            _ => assert_eq!(alone, Vec::<String>::new()),
        }
        fs::rename(&aside, &path).unwrap();
    }
    // Older files that were removed on purpose.
    fs::remove_file(world.dir.path().join(entries[0].name())).unwrap();
    assert_eq!(problems(&world, entries[1].first, Some(&roots)), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_under_another_name_or_a_stranger_is_named() {
    let (world, entries) = archived().await;
    let path = |entry: &Entry| world.dir.path().join(entry.name());
    let moved = Entry { first: entries[2].first, last: entries[2].last + 1 };
    fs::rename(path(&entries[2]), path(&moved)).unwrap();
    assert!(problems(&world, 1, None)[0].contains("it does not hold the positions that its name says"));
    fs::rename(path(&moved), path(&entries[2])).unwrap();

    let overlap = Entry { first: entries[1].first, last: entries[1].first };
    fs::copy(path(&entries[1]), path(&overlap)).unwrap();
    assert!(!problems(&world, 1, None).is_empty());
    fs::remove_file(path(&overlap)).unwrap();

    for stranger in ["audit-1-2.ibyok", "audit-1-2", "1-2.ibyok"] {
        let path = world.dir.path().join(stranger);
        fs::write(&path, "").unwrap();
        assert_eq!(problems(&world, 1, None), [format!("{stranger}: its name is not that of an archive file")]);
        fs::remove_file(path).unwrap();
    }
    assert!(problems(&world, 1, None).is_empty());
}

#[tokio::test]
async fn a_file_of_another_vault_does_not_fit() {
    let (world, entries) = archived().await;
    let (other, others) = archived().await;
    assert_eq!(entries, others);
    let roots = all_roots(&records(&world.store), soon()).await.unwrap();
    for entry in &entries {
        let path = world.dir.path().join(entry.name());
        let content = fs::read(&path).unwrap();
        fs::copy(other.dir.path().join(entry.name()), &path).unwrap();
        let found = problems(&world, 1, None);
        assert!(!found.is_empty(), "{entry:?}");
        let told = problems(&world, 1, Some(&roots));
        let not_ours = format!("{}: it is not the file that the vault wrote", entry.name());
        assert!(told.contains(&not_ours) || told.iter().any(|line| line.starts_with(&entry.name())), "{told:?}");
        fs::write(&path, content).unwrap();
    }
}

#[test]
fn names_say_their_positions_one_way() {
    let entry = Entry { first: 1, last: 4_096 };
    assert_eq!(entry.name(), "audit-00000000000000000001-00000000000000004096.ibyok");
    assert_eq!(Entry::parse(&entry.name()), Some(entry));
    for name in [
        "",
        "audit-1-2.ibyok",
        "audit-00000000000000000002-00000000000000000001.ibyok",
        "audit-00000000000000000001-00000000000000000002.ibyok.part",
        "audit-+0000000000000000001-00000000000000000002.ibyok",
    ] {
        assert_eq!(Entry::parse(name), None, "{name}");
    }
}

#[test]
fn a_file_leaves_256_mebibytes_free_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::new(folder.path().to_owned());
    let refused = directory.check_room(1 << 60).unwrap_err().to_string();
    assert!(refused.ends_with(&format!("{} MiB are needed", (1_u64 << 40) + 256)), "{refused}");
}

#[test]
fn where_no_file_can_be_put_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let looked = |path: &str| Directory::new(folder.path().join(path)).look();
    fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(looked(""), Ok(()));
    assert_eq!(looked("none"), Err("the directory does not exist".to_owned()));
    assert_eq!(looked("file"), Err("it is not a directory".to_owned()));
    let problem = looked("file/inside").unwrap_err();
    assert!(problem.starts_with("the directory can't be read: "), "{problem}");
    // Whom no mode holds back, root, can write there in truth.
    fs::create_dir(folder.path().join("closed")).unwrap();
    for mode in [0o700, 0o500, 0o300, 0o600] {
        let path = folder.path().join("closed");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let can_be_used = fs::read_dir(&path).is_ok() && fs::write(path.join("file"), "").is_ok();
        assert_eq!(looked("closed").is_ok(), can_be_used, "{mode:o}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let _ = fs::remove_file(path.join("file"));
    }
}

#[test]
fn what_stands_in_the_way_of_the_next_file_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::new(folder.path().to_owned());
    directory.give_up().unwrap();
    fs::create_dir(folder.path().join("unfinished.part")).unwrap();
    directory.give_up().unwrap_err();
}

#[test]
fn a_file_that_vanishes_before_its_end_is_none() {
    for is_there in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().to_owned()).with_free_min(0);
        let writer = directory.begin(1, [0; 32], 0).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let name = folder.path().join(Entry { first: 1, last: 0 }.name());
        if is_there {
            fs::write(&name, "whole").unwrap();
        }
        assert_eq!(directory.finish(writer).is_ok(), is_there);
        assert_eq!(fs::read(&name).ok(), is_there.then(|| b"whole".to_vec()));
    }
}

#[test]
fn a_chain_is_followed_batch_by_batch_from_its_first_to_its_seal() {
    let chain = || ChainId::new("0123456789abcdef", LaneKind::Shared, 1);
    let batch = |number, previous| Header::of(chain(), number, previous, &[]);
    let (first, stray) = (batch(1, [0; 32]), batch(2, [7; 32]));
    let second = batch(2, first.hash());
    let seal = Header::seal(chain(), 3, second.hash());
    let behind = batch(4, seal.hash());
    let followed = |headers: &[&Header], beginning| {
        let mut chains = Chains::new();
        headers.iter().try_for_each(|header| follow(&mut chains, header, beginning)).map(|()| chains)
    };
    let whole = followed(&[&first, &second, &seal], Beginning::Strict).unwrap();
    let end = &whole[&chain()];
    assert_eq!((end.last, end.hash, end.is_sealed), (3, seal.hash(), true));
    assert!(!followed(&[&first, &second], Beginning::Strict).unwrap()[&chain()].is_sealed);
    assert!(followed(&[&second, &seal], Beginning::Anywhere).is_ok());

    let why = |headers: &[&Header]| followed(headers, Beginning::Strict).unwrap_err();
    assert_eq!(why(&[&first, &second, &seal, &behind]), "the batch stands behind the chain's seal");
    assert_eq!(why(&[&first, &seal]), "the order leaves batches of the chain out");
    assert_eq!(why(&[&first, &first]), "the order leaves batches of the chain out");
    assert_eq!(why(&[&first, &stray]), "the batch does not follow the one before it");
    let begins = "the chain does not begin with its first batch";
    assert_eq!(why(&[&second]), begins);
    assert_eq!(why(&[&batch(1, [7; 32])]), begins);
}
