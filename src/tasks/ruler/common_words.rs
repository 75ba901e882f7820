//! Common words extraction: a numbered list of words, of which ten are more frequent than the others.

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use crate::tasks::draft::{Composed, Draft};
use crate::tasks::random::{Purpose, Seeds};
use crate::tasks::words::WordList;

/// Words that are asked for.
const COMMON: usize = 10;

/// The length from which on the frequencies are those of long prompts.
const LONG_TOKENS: usize = 4096;

const INSTRUCTION: &str = "Below is a numbered list of words. In these words, some appear more often than \
    others. Memorize the ones that appear most often.\n";

const QUESTION: &str = "Question: What are the 10 most common words in the above list?";

const ANSWER_PREFIX: &str = " Answer: The top 10 words that appear most often in the list are:";

/// How often words appear.
#[derive(Clone, Copy)]
struct Frequencies {
    common: usize,
    uncommon: usize,
}

/// The list and the worked example before it.
struct Setup {
    example_words: usize,
    example: Frequencies,
    list: Frequencies,
}

impl Setup {
    fn of(tokens: usize) -> Self {
        let frequencies = |common, uncommon| Frequencies { common, uncommon };
        if tokens < LONG_TOKENS {
            Self {
                example_words: 20,
                example: frequencies(3, 1),
                list: frequencies(6, 1),
            }
        } else {
            Self {
                example_words: 40,
                example: frequencies(10, 3),
                list: frequencies(30, 3),
            }
        }
    }
}

/// The numbered list of words, in random order; the first ten are the common ones.
fn numbered(words: &[String], frequencies: Frequencies, random: &mut Xoshiro256PlusPlus) -> String {
    let (common, uncommon) = words.split_at(COMMON.min(words.len()));
    let repeat = |words: &[String], times| vec![words.to_vec(); times].concat();
    let mut list = repeat(common, frequencies.common);
    list.extend(repeat(uncommon, frequencies.uncommon));
    list.shuffle(random);
    enumerated(&list)
}

/// `1. one 2. two`.
fn enumerated(words: &[String]) -> String {
    let entries = (1..)
        .zip(words)
        .map(|(number, word)| format!("{number}. {word}"));
    entries.collect::<Vec<_>>().join(" ")
}

/// A worked example with its answer.
fn example(list: WordList, setup: &Setup, random: &mut Xoshiro256PlusPlus) -> String {
    let words = list.draw(setup.example_words, COMMON, random);
    let text = numbered(&words, setup.example, random);
    let answer = enumerated(words.get(..COMMON).unwrap_or(&words));
    format!("{INSTRUCTION}{text}\n{QUESTION}{ANSWER_PREFIX} {answer}\n")
}

/// The sample `index` of prompts of `tokens` tokens.
pub(super) fn draft(seeds: Seeds, index: usize, tokens: usize, list: WordList) -> Draft<'static> {
    let setup = Setup::of(tokens);
    let head = example(list, &setup, &mut seeds.stream(index, Purpose::Example)) + INSTRUCTION;
    let draw = move |count| list.draw(count, COMMON, &mut seeds.stream(index, Purpose::Words));
    // A short list may end before, because words that contain a common one are left out.
    let most = match list {
        WordList::Simple => draw(list.len()).len(),
        WordList::Compound => list.len(),
    };
    Draft {
        separator: "\n",
        question: QUESTION.into(),
        answer_prefix: ANSWER_PREFIX.into(),
        references: draw(COMMON),
        // More than the common words, or there is nothing to tell apart.
        units: 2 * COMMON..=most,
        compose: Box::new(move |count| {
            let mut random = seeds.stream(index, Purpose::Order);
            Composed::new(&head, &numbered(&draw(count), setup.list, &mut random))
        }),
    }
}
