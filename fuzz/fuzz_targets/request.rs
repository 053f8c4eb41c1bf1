//! Calls of a whole vault, in any order and with anything in them: `src/script.rs` says how they are
//! written, `src/house.rs` what must hold of each answer.
#![no_main]

use std::{cell::RefCell, sync::LazyLock};

use ibyok_fuzz::{dice::Dice, house::House, mutate, script};
use libfuzzer_sys::{Corpus, fuzz_crossover, fuzz_mutator, fuzz_target};

thread_local! {
    static HOUSE: RefCell<House> = RefCell::new(House::build());
}

/// Set when the corpus of the repository is run: each line of it counts.
static IS_STRICT: LazyLock<bool> = LazyLock::new(|| std::env::var_os("IBYOK_FUZZ_STRICT").is_some());

fuzz_target!(|text: &str| -> Corpus {
    let steps = script::parse(text);
    if *IS_STRICT {
        assert_eq!(script::unread(text), [""; 0], "a line that is none");
    }
    if steps.is_empty() {
        return Corpus::Reject;
    }
    HOUSE.with_borrow_mut(|house| house.run(&steps));
    Corpus::Keep
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let text = String::from_utf8_lossy(&data[..size]).into_owned();
    let mut bytes = |mut bytes: Vec<u8>| {
        let (size, room) = (bytes.len(), bytes.len() + 64);
        bytes.resize(room, 0);
        let size = libfuzzer_sys::fuzzer_mutate(&mut bytes, size, room);
        bytes.truncate(size);
        bytes
    };
    let changed = mutate::mutate(&text, max_size, &Dice::new(seed.into()), &mut bytes);
    put(&changed, data)
});

fuzz_crossover!(|first: &[u8], second: &[u8], out: &mut [u8], seed: u32| {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let crossed = mutate::cross(&text(first), &text(second), out.len(), &Dice::new(seed.into()));
    put(&crossed, out)
});

fn put(text: &str, out: &mut [u8]) -> usize {
    let size = text.len().min(out.len());
    out[..size].copy_from_slice(&text.as_bytes()[..size]);
    size
}
