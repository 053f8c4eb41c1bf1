//! A file says nothing that can't be: how far each number may go, and no further; nor is more deleted at once.

use super::*;
use crate::{
    domain::clock::Timestamp,
    repository::audit::{
        archive::format::{Beginning, FileWriter, Unsound, check},
        batch::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Header, LaneKind},
        log::SEGMENT_POSITIONS,
        record::{Encoded, RECORD_BYTES_MAX},
        tree::leaf_hash,
    },
};

type Draft = FileWriter<Vec<u8>>;

/// The first batch of a chain, with records of these lengths.
fn batch(chain: u32, lengths: &[usize]) -> Batch {
    let records: Vec<_> = lengths.iter().map(|length| vec![7; *length]).collect();
    let encoded: Vec<_> =
        records.iter().map(|bytes| Encoded { bytes: bytes.clone(), leaf: leaf_hash(bytes) }).collect();
    let chain = ChainId::new("0123456789abcdef", LaneKind::Shared, chain);
    Batch { header: Header::of(chain, 1, [0; 32], &encoded), records }
}

/// What is wrong with the file that begins with position `first` and goes on as `write` says.
fn problem(first: u64, write: impl FnOnce(&mut Draft)) -> Option<&'static str> {
    let mut writer = Draft::new(Vec::new(), first, [0; 32]).unwrap();
    write(&mut writer);
    let (bytes, _) = writer.finish().unwrap();
    match check(&bytes[..], &mut Chains::new(), Beginning::Strict) {
        Ok(_) => None,
        Err(Unsound::Fault(fault)) => Some(fault.problem),
        Err(Unsound::Io(error)) => panic!("{error}"),
    }
}

fn row(writer: &mut Draft, seconds: i64, batches: &[Batch]) {
    writer.row(Timestamp::from_seconds(seconds), batches.len().try_into().unwrap()).unwrap();
    batches.iter().for_each(|batch| writer.batch(batch).unwrap());
}

#[test]
fn positions_begin_with_one_and_have_room_to_rise() {
    let begins_with = |first| problem(first, |writer| row(writer, 1, &[batch(1, &[1])]));
    assert_eq!([1, u64::MAX / 2].map(begins_with), [None; 2]);
    assert_eq!([0, u64::MAX / 2 + 1].map(begins_with), [Some("its first position can't be"); 2]);
}

#[test]
fn times_of_rows_do_not_go_back() {
    let times = |one, two| {
        problem(1, |writer| {
            row(writer, one, &[batch(1, &[1])]);
            row(writer, two, &[batch(2, &[1])]);
        })
    };
    assert_eq!((times(5, 6), times(5, 5)), (None, None));
    assert_eq!(times(5, 4), Some("the row's time goes back"));
}

#[test]
fn a_row_has_one_batch_and_no_more_than_a_segment() {
    let says = |batches| problem(1, |writer| writer.row(Timestamp::default(), batches).unwrap());
    let most = u32::try_from(SEGMENT_POSITIONS).unwrap();
    let too_many = Some("the row's number of batches can't be");
    assert_eq!((says(0), says(most + 1)), (too_many, too_many));
    // Read on, where there is no batch.
    assert!(says(most).is_some_and(|problem| Some(problem) != too_many));
}

#[test]
fn a_batch_counts_as_many_records_as_may_be() {
    let says = |count: usize| {
        let mut empty = batch(1, &[]);
        empty.header.count = count.try_into().unwrap();
        problem(1, |writer| row(writer, 1, &[empty]))
    };
    let too_many = Some("the batch's number of records can't be");
    assert_eq!(says(BATCH_RECORDS_MAX + 1), too_many);
    assert!(says(BATCH_RECORDS_MAX).is_some_and(|problem| Some(problem) != too_many));
}

#[test]
fn records_are_as_long_as_may_be_alone_and_together() {
    let of = |lengths: &[usize]| problem(1, |writer| row(writer, 1, &[batch(1, lengths)]));
    let too_long = Some("the record's length can't be");
    assert_eq!((of(&[RECORD_BYTES_MAX]), of(&[RECORD_BYTES_MAX + 1])), (None, too_long));
    let mut together = vec![RECORD_BYTES_MAX; BATCH_BYTES_MAX / RECORD_BYTES_MAX + 1];
    assert_eq!(together.iter().sum::<usize>(), BATCH_BYTES_MAX + RECORD_BYTES_MAX);
    assert_eq!(of(&together), None);
    together.push(1);
    assert_eq!(of(&together), too_long);
}

#[tokio::test]
async fn large_batches_are_deleted_a_few_at_a_time() {
    let world = World::new();
    let log = world.boot().await;
    for _ in 0..6 {
        let drafts =
            (0..40).map(|n| AuditDraft { purpose: "p".repeat(2_000), ..world.draft("acme", &format!("k{n}")) });
        log.append_all(drafts.collect(), soon()).await.unwrap();
    }
    world.order(&log).await;
    world.clock.advance(DAY * 4);
    world.write(&log, "acme", 1).await;
    assert_eq!(world.archive(&log).await.unwrap(), 1);
    let most = world.store.deleted_most.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=BATCH_BYTES_MAX).contains(&most), "{most} bytes in one write");
}
