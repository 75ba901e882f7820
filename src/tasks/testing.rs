//! What tests of several tasks use.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{CountError, words};

/// A token for every four bytes of a word, roughly what tokenizers do.
pub(super) fn count(text: &str) -> Result<usize, CountError> {
    let words = text.split_whitespace();
    Ok(words.map(|word| word.len().div_ceil(4)).sum())
}

/// Prose of different sentences.
pub(super) fn prose(sentences: usize) -> String {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut text = String::new();
    for number in 0..sentences {
        let words = random.random_range(4..20);
        let words: Vec<String> = (0..words)
            .map(|_| words::key(&mut random).replace('-', " "))
            .collect();
        text.push_str(&format!("Sentence {}", words.join(" ")));
        text.push_str(if number % 9 == 8 { ".\n\n" } else { ". " });
    }
    text
}
