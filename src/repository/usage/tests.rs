//! Cells: bounded, exact where it is promised, and the same however they are added.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::cells::{Cell, Cells, Counts, OTHER, Part, ROOM, Room};
use crate::store::ITEM_BYTES_MAX;

/// Room for a handful of each kind.
const TIGHT: Room = Room { known: [700, 300, 400], named: [250, 150, 160] };

fn cell(key: &str, uid: &str, token: &str) -> Cell {
    let provider = if uid.is_empty() { "" } else { "openai" };
    let client = "c".repeat(token.len() % 5 + 1);
    let [key, uid, token, provider] = [key, uid, token, provider].map(str::to_owned);
    Cell { key, uid, token, provider, client, ..Cell::default() }
}

fn once() -> Counts {
    Counts { retrievals: 1, ..Counts::default() }
}

fn any_cell() -> impl Strategy<Value = Cell> {
    (0..6_u8, any::<bool>(), 0..7_usize).prop_map(|(key, is_known, token)| {
        let uid = if is_known { format!("u{key}") } else { String::new() };
        cell(&format!("key{key}"), &uid, &"t".repeat(token))
    })
}

proptest! {
    #[test]
    fn how_much_is_added_at_once_does_not_matter(
        cells in prop::collection::vec(any_cell(), 1..120),
        pieces in prop::collection::vec(1..30_usize, 1..20),
    ) {
        let mut one_by_one = Cells::default();
        cells.iter().for_each(|cell| one_by_one.add(cell.clone(), once(), &TIGHT));
        let mut in_pieces = Cells::default();
        let mut left = cells.as_slice();
        for piece in pieces.into_iter().chain([cells.len()]) {
            let (now, later) = left.split_at(piece.min(left.len()));
            left = later;
            // Added up in the order in which each was first seen, as a tally does.
            let mut added = Vec::<(Cell, u64)>::new();
            for cell in now {
                match added.iter_mut().find(|(known, _)| known == cell) {
                    Some((_, count)) => *count += 1,
                    None => added.push((cell.clone(), 1)),
                }
            }
            for (cell, retrievals) in added {
                in_pieces.add(cell, Counts { retrievals, ..Counts::default() }, &TIGHT);
            }
            in_pieces = Cells::decode(&in_pieces.encode()).unwrap();
        }
        prop_assert_eq!(&in_pieces, &one_by_one);
        // Everything is in the whole cells and in one of the two kinds of sums, in either.
        for by in [Part::OfKey, Part::OfCaller] {
            let cells_of = in_pieces.clone().into_inner();
            let counted = cells_of.iter().filter(|(cell, _)| cell.part == Part::Whole || cell.part == by);
            prop_assert_eq!(counted.map(|(_, counts)| counts.retrievals).sum::<u64>(), cells.len() as u64);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Cells::decode(&bytes);
    }
}

#[test]
fn a_thousand_keys_and_tokens_are_exact_by_key_and_by_token() {
    // Of one shard: about 63 keys of 1,000.
    let mut cells = Cells::default();
    for key in 0..63 {
        for token in 0..1_000 {
            let cell = Cell {
                environment: "production".into(),
                client: "spiffe://example.org/ns/default/sa/inference-gateway".into(),
                ..cell(&format!("openai-team-{key:04}"), &format!("{key:026}"), &format!("{token:032}"))
            };
            cells.add(cell, once(), &ROOM);
        }
    }
    assert!(cells.encode().len() < 200_000, "{}", cells.encode().len());
    let (mut by_key, mut by_token) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for (cell, counts) in cells.into_inner() {
        if cell.part != Part::OfCaller {
            *by_key.entry(cell.key).or_default() += counts.retrievals;
        }
        if cell.part != Part::OfKey {
            *by_token.entry(cell.token).or_default() += counts.retrievals;
        }
    }
    assert!(by_key.len() == 63 && by_key.values().all(|count| *count == 1_000));
    assert!(by_token.len() == 1_000 && by_token.values().all(|count| *count == 63));
}

#[test]
fn the_fullest_row_fits_an_item() {
    for long in [true, false] {
        let mut cells = Cells::default();
        for n in 0..6_000_u32 {
            for is_known in [true, false] {
                let text = |len: usize| if long { format!("{n:0len$}") } else { format!("{n:x}") };
                let uid = if is_known { text(26) } else { String::new() };
                let cell = Cell {
                    provider: text(63),
                    environment: text(62),
                    client: text(255),
                    ..cell(&text(61), &uid, &text(32))
                };
                let most = 1 << 34;
                cells.add(cell, Counts { retrievals: most, denials: most, failures: most, checks: most }, &ROOM);
            }
        }
        let bytes = cells.encode();
        assert!(bytes.len() + 4_096 < ITEM_BYTES_MAX, "{}", bytes.len());
        assert!(cells.into_inner().keys().any(|cell| cell.key == OTHER && cell.token == OTHER));
    }
}
