//! Randomness that a failing test can be run again with: its seed is printed, and `DICE_SEED`
//! sets it.

use ibyok::domain::clock::{SystemEntropy, random};

/// A source of numbers that are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `DICE_SEED`, or a new seed, which is printed.
    pub fn new() -> Self {
        let seed = match std::env::var("DICE_SEED") {
            Ok(text) => text.parse().expect("DICE_SEED is a number"),
            Err(_) => u64::from_le_bytes(random::<8>(&SystemEntropy).unwrap()),
        };
        println!("DICE_SEED={seed}");
        Self(seed)
    }

    /// Others, that depend on these and on nothing else.
    pub fn split(&mut self) -> Self {
        Self(self.number())
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(end).unwrap()).unwrap()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number().to_le_bytes()[0]).collect()
    }
}
