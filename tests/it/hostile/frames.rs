//! Floods and nonsense of HTTP/2 frames on a good connection.

use super::{
    raw::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE,
        call, frame, literal,
    },
    serves, start,
};
use crate::{dice::Dice, harness::Vault};

const PATH: &str = "/ibyok.v1.KeyVault/ListProviders";
const MANY: u32 = 10_000;

/// The ids that a client gives to so many streams.
fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

#[tokio::test]
async fn ten_thousand_streams_on_one_connection_are_refused_or_end_it() {
    let (vault, admin) = start("").await;
    let headers = call(PATH, &[]);
    let mut raw = Raw::open(&vault, &[]).await;
    for id in ids(MANY) {
        if !raw.write(&frame(HEADERS, END_HEADERS, id, &headers)).await {
            break;
        }
    }
    // Beyond the limit a stream is refused, and refusing has its limit, too.
    assert!(raw.next(RST_STREAM).await.is_some());
    serves(&vault, &admin).await;
    raw.next(GOAWAY).await.unwrap();
    raw.ended().await;
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn rapid_resets_end_their_connection() {
    let (vault, admin) = start("").await;
    for flags in [END_HEADERS, END_HEADERS | END_STREAM] {
        let headers = call(PATH, &[]);
        let mut raw = Raw::open(&vault, &[]).await;
        for id in ids(MANY) {
            let pair = [frame(HEADERS, flags, id, &headers), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat();
            if !raw.write(&pair).await {
                break;
            }
        }
        serves(&vault, &admin).await;
        drop(raw);
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let (vault, admin) = start("").await;
    let part = literal("x-flood", &"x".repeat(8_000));
    let mut raw = Raw::open(&vault, &[]).await;
    raw.write(&frame(HEADERS, 0, 1, &call(PATH, &[]))).await;
    for _ in 0..MANY {
        if !raw.write(&frame(CONTINUATION, 0, 1, &part)).await {
            break;
        }
    }
    raw.ended().await;
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn floods_of_small_frames_hinder_nobody() {
    let (vault, admin) = start("").await;
    let open = frame(HEADERS, END_HEADERS, 1, &call(PATH, &[]));
    let floods = [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]),
        frame(DATA, 0, 1, &[]),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
        frame(2, 0, 1, &[0, 0, 0, 0, 1]),
        frame(0xee, 0xff, 1, &[1; 100]),
    ];
    for flood in floods {
        let mut raw = Raw::open(&vault, &[]).await;
        raw.write(&open).await;
        let hundred = flood.repeat(100);
        for _ in 0..MANY / 100 {
            if !raw.write(&hundred).await {
                break;
            }
        }
        serves(&vault, &admin).await;
    }
    vault.stop().await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_connection_alone() {
    let (vault, admin) = start("").await;
    let headers = call(PATH, &[]);
    let breaches = [
        frame(HEADERS, END_HEADERS, 0, &headers),
        frame(HEADERS, END_HEADERS, 2, &headers),
        frame(DATA, END_STREAM, 1, b"before any headers"),
        frame(CONTINUATION, END_HEADERS, 1, &headers),
        frame(HEADERS, END_HEADERS, 1, &[0xff; 100]),
        frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        frame(SETTINGS, 0, 0, &[1; 5]),
        frame(SETTINGS, 0, 1, &[]),
        frame(PING, 0, 0, &[1; 7]),
        frame(5, END_HEADERS, 1, &[0, 0, 0, 2]),
        frame(RST_STREAM, 0, 1, &[0; 4]),
        vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1],
    ];
    for breach in breaches {
        let mut raw = Raw::open(&vault, &[]).await;
        raw.write(&breach).await;
        raw.ended().await;
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn random_frames_hinder_nobody() {
    let (vault, admin) = start("").await;
    let mut dice = Dice::new();
    for _ in 0..60 {
        nonsense(&vault, &mut dice).await;
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

async fn nonsense(vault: &Vault, dice: &mut Dice) {
    let mut raw = Raw::open(vault, &[]).await;
    for _ in 0..50 {
        let (kind, flags) = (dice.bytes(1)[0] % 12, dice.bytes(1)[0]);
        let stream = u32::try_from(dice.below(9)).unwrap();
        let count = dice.below(64);
        let payload = if dice.below(3) == 0 { call(PATH, &[]) } else { dice.bytes(count) };
        if !raw.write(&frame(kind, flags, stream, &payload)).await {
            return;
        }
    }
}
