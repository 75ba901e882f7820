//! Random numbers of the tasks.
//!
//! A stream of random numbers depends on the name of a task, the seed, the index of the sample and a
//! purpose, and on nothing else. So a sample is the same whichever were made before, and is the same at
//! every length as far as its keys and values go.
//!
//! The streams cannot begin where those of training do. Training calls `seed_from_u64`, which fills
//! the four words of the generator with SplitMix64: mixed numbers that lie a certain increment apart.
//! Here the numbers lie another increment apart. Mixing is one to one, so no start is in both sets.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The distance of the numbers that are mixed, which is not that of `seed_from_u64`.
const INCREMENT: u64 = 0xd134_2543_de82_ef95;

/// What random numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Keys, values and words.
    Words,
    /// The lines and words around the answer.
    Distractors,
    /// Positions and order in the document.
    Order,
    /// The worked example before the task.
    Example,
}

/// The seeds of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seeds {
    state: u64,
}

impl Seeds {
    /// `domain` is the full name of the task, such as `eval/ruler/vt`.
    pub(super) fn new(domain: &str, seed: u64) -> Self {
        Self {
            state: mix(mix(fnv1a(domain)) ^ seed),
        }
    }

    /// The random numbers of a sample for one purpose.
    pub(super) fn stream(&self, index: usize, purpose: Purpose) -> Xoshiro256PlusPlus {
        let state = mix(mix(self.state ^ index as u64) ^ purpose as u64);
        let mut bytes = [0; 32];
        for (step, word) in (1..).zip(bytes.chunks_exact_mut(8)) {
            let mixed = mix(state.wrapping_add(INCREMENT.wrapping_mul(step)));
            word.copy_from_slice(&mixed.to_le_bytes());
        }
        Xoshiro256PlusPlus::from_seed(bytes)
    }
}

/// The 64-bit FNV-1a hash.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The mixing of SplitMix64, which is one to one.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use std::collections::HashSet;

    #[test]
    fn hashes_are_those_published() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn mixing_is_that_of_seed_from_u64_with_another_increment() {
        // The first output of SplitMix64 with the seed 0, and the increment it has.
        let increment = 0x9e37_79b9_7f4a_7c15_u64;
        assert_eq!(mix(increment), 0xe220_a839_7b1d_cdaf);
        assert_ne!(increment, INCREMENT);
        let words: Vec<u8> = (1..=4u64)
            .flat_map(|step| mix(increment.wrapping_mul(step)).to_le_bytes())
            .collect();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&words);
        let mut ours = Xoshiro256PlusPlus::from_seed(bytes);
        let mut theirs = Xoshiro256PlusPlus::seed_from_u64(0);
        assert_eq!(ours.next_u64(), theirs.next_u64());
    }

    #[test]
    fn streams_differ_in_every_part() {
        let mut seen = HashSet::new();
        for domain in ["eval/ruler/vt", "eval/ruler/cwe"] {
            for seed in 0..10 {
                let seeds = Seeds::new(domain, seed);
                for index in 0..10 {
                    for purpose in [Purpose::Words, Purpose::Distractors, Purpose::Order] {
                        let mut stream = seeds.stream(index, purpose);
                        assert!(seen.insert(stream.next_u64()));
                    }
                }
            }
        }
    }
}
