//! Frequent words extraction: invented words whose frequencies fall with the square of their rank. The
//! most frequent one is shown as dots, and the next three are asked for.

use std::collections::HashSet;
use std::f64::consts::PI;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use crate::tasks::draft::{Composed, Draft, LONGEST};
use crate::tasks::random::{Purpose, Seeds};

/// Letters of a word.
const LETTERS: usize = 6;

/// Tokens of the prompt for each word of the vocabulary.
const TOKENS_PER_WORD: usize = 50;

/// The frequency of the word of rank k is proportional to 1 / k^2 (alpha 2.0). This is the sum of all.
const ZETA: f64 = PI * PI / 6.0;

/// Words that are asked for, after the dots.
const ASKED: usize = 3;

/// The fewest words of a vocabulary: the dots, those asked for and one other.
const FEWEST_WORDS: usize = ASKED + 2;

/// What stands for the most frequent word.
const DOTS: &str = "...";

const INSTRUCTION: &str = "Read the following coded text and track the frequency of each coded word. Find the \
    three most frequently appeared coded words. ";

const QUESTION: &str = "Question: Do not provide any explanation. Please ignore the dots '....'. What are the \
    three most frequently appeared words in the above coded text?";

const ANSWER_PREFIX: &str = " Answer: According to the coded text above, the three most frequently appeared \
    words are:";

/// How often the word of a rank, from one, appears among `total` words. Rounded down.
fn frequency(rank: usize, total: usize) -> usize {
    (total as f64 / (rank * rank) as f64 / ZETA) as usize
}

/// The fewest words of a text in which the last word asked for is more frequent than the next.
fn fewest() -> usize {
    let part = |rank: usize| 1.0 / (rank * rank) as f64 / ZETA;
    (1.0 / (part(ASKED + 1) - part(ASKED + 2))).ceil() as usize
}

/// Different words, which do not occur in the texts around them. The first is the dots.
fn vocabulary(size: usize, random: &mut Xoshiro256PlusPlus) -> Vec<String> {
    let mut words = vec![DOTS.to_string()];
    let mut seen = HashSet::new();
    let around = [INSTRUCTION, QUESTION, ANSWER_PREFIX].concat();
    // Ends, because few of the 300 million words are drawn.
    while words.len() < size {
        let mut letter = |_| char::from(random.random_range(b'a'..=b'z'));
        let word: String = (0..LETTERS).map(&mut letter).collect();
        if !around.contains(&word) && seen.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

/// The sample `index` of prompts of `tokens` tokens, the answer not among them.
pub(super) fn draft(seeds: Seeds, index: usize, tokens: usize) -> Draft<'static> {
    // Words of a higher rank do not appear even once among as many words as there may be.
    let appear = (2 * tokens.min(LONGEST)).isqrt();
    let size = (tokens / TOKENS_PER_WORD).min(appear).max(FEWEST_WORDS);
    let words = vocabulary(size, &mut seeds.stream(index, Purpose::Words));
    let references = words.iter().skip(1).take(ASKED).cloned().collect();
    let compose = move |total| {
        let ranked = (1..).zip(&words);
        let mut text: Vec<&str> = ranked
            .flat_map(|(rank, word)| std::iter::repeat_n(word.as_str(), frequency(rank, total)))
            .collect();
        text.shuffle(&mut seeds.stream(index, Purpose::Order));
        Composed::new(INSTRUCTION, &text.join(" "))
    };
    Draft {
        separator: "\n",
        question: QUESTION.into(),
        answer_prefix: ANSWER_PREFIX.into(),
        references,
        units: fewest()..=usize::MAX,
        compose: Box::new(compose),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_asked_for_are_the_most_frequent() {
        assert_eq!(fewest(), 74);
        for total in fewest()..5000 {
            let counts: Vec<usize> = (2..=5).map(|rank| frequency(rank, total)).collect();
            assert!(counts.windows(2).all(|pair| pair[0] > pair[1]), "{total}");
        }
        // 1000 / (zeta(2) k^2): 607.9, 152.0, 67.5, 38.0, 24.3.
        let counts: Vec<usize> = (1..=5).map(|rank| frequency(rank, 1000)).collect();
        assert_eq!(counts, [607, 151, 67, 37, 24]);
    }
}
