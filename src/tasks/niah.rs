//! One needle at a given depth of a text, in prompts of a given length: "needle in a haystack".
//!
//! Needle and wording are those of RULER's `niah_single_2`, with a key and a number of seven digits.
//! Unlike there, the depth is chosen, and the text of each sample begins at another sentence.
//!
//! A seed and an index give the same key and value at every length and depth, so that the results of a
//! grid of lengths and depths differ by length and depth alone.

use std::collections::HashSet;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::CountTokens;
use super::draft::{Composed, Draft, Fitted, Length, part};
use super::error::TaskError;
use super::haystack::Haystack;
use super::needle::{Fresh, Kind, Wording, insert, needle};
use super::random::{Purpose, Seeds};
use super::ruler::{RulerTask, score};
use super::sample::TaskSample;
use crate::text::sentences;

/// The name of the task.
const NAME: &str = "niah";

/// The fewest words of the text.
const FEWEST_WORDS: usize = 50;

/// Configuration of [`Niah`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NiahConfig {
    /// The length in tokens of the prompt and its answer together.
    pub tokens: usize,
    /// How much of the text lies before the needle, from 0 to 1. The needle stands between sentences,
    /// at the place that is nearest.
    pub depth: f64,
    /// Seed of the samples.
    pub seed: u64,
}

/// Makes samples with one needle: the same for the same text, configuration and index, whichever were
/// made before.
pub struct Niah<'a> {
    config: NiahConfig,
    text: &'a Haystack,
    count: &'a CountTokens<'a>,
    seeds: Seeds,
    /// The words of the first sample, at which the search for the others begins.
    words: usize,
}

impl<'a> Niah<'a> {
    /// Finds how many words a document has. `count` is called with a few documents here, and with a few
    /// for each sample.
    ///
    /// # Errors
    ///
    /// [`TaskError::Depth`], [`TaskError::TooShort`], [`TaskError::NotUnique`] and
    /// [`TaskError::Count`].
    pub fn new(
        config: NiahConfig,
        text: &'a Haystack,
        count: &'a CountTokens<'a>,
    ) -> Result<Self, TaskError> {
        if !(0.0..=1.0).contains(&config.depth) {
            return Err(TaskError::Depth {
                depth: config.depth,
            });
        }
        let seeds = Seeds::new("eval/niah", config.seed);
        let mut niah = Self {
            config,
            text,
            count,
            seeds,
            words: 0,
        };
        niah.words = niah.fit_first()?;
        Ok(niah)
    }

    /// The configuration.
    pub fn config(&self) -> &NiahConfig {
        &self.config
    }

    /// Makes a sample, `index` from zero. Its depth is the part of the text's tokens before the needle.
    ///
    /// # Errors
    ///
    /// Those of [`Self::new`].
    pub fn sample(&self, index: usize) -> Result<TaskSample, TaskError> {
        let length = self.length();
        let draft = self.draft(index)?;
        let fitted = draft.fit(&length, Some(self.words))?;
        let depth = depth(&fitted, &length)?;
        Ok(TaskSample {
            depth,
            ..draft.sample(index, &length, fitted)
        })
    }

    /// The words of the first sample.
    fn fit_first(&self) -> Result<usize, TaskError> {
        let fitted = self.draft(0)?.fit(&self.length(), None)?;
        Ok(fitted.units)
    }

    fn length(&self) -> Length<'a> {
        Length {
            task: NAME,
            tokens: self.config.tokens,
            tokens_to_generate: RulerTask::NiahSingle2.tokens_to_generate(),
            count: self.count,
        }
    }

    fn draft(&self, index: usize) -> Result<Draft<'_>, TaskError> {
        let mut random = self.seeds.stream(index, Purpose::Words);
        let mut fresh = Fresh {
            text: Some(self.text),
            seen: HashSet::new(),
        };
        let mut draw = |kind| fresh.draw(kind, &mut random);
        let (Some(key), Some(value)) = (draw(Kind::Words), draw(Kind::Numbers)) else {
            return Err(TaskError::NotUnique { task: NAME, index });
        };
        let starts = self.text.sentences();
        let mut random = self.seeds.stream(index, Purpose::Order);
        let start = random.random_range(0..starts.len().max(1));
        let start = starts.get(start).copied().unwrap_or_default();
        let wording = Wording::single(&key, Kind::Numbers);
        let needle = [needle(&key, &value, Kind::Numbers)];
        let compose = move |words| {
            let text = self.text.part(start, words);
            let (text, places) = insert(&text, &needle, &[place(&text, self.config.depth)], " ");
            let start = wording.instruction.len();
            let place = places.first();
            Composed {
                needle: place.map(|place| start + place.start..start + place.end),
                ..Composed::new(&wording.instruction, &text)
            }
        };
        Ok(Draft {
            separator: "\n",
            question: wording.question,
            answer_prefix: wording.answer_prefix,
            references: vec![value],
            units: FEWEST_WORDS..=usize::MAX,
            compose: Box::new(compose),
        })
    }
}

/// The score of an answer, 0 or 1: whether it contains the value.
pub fn score_needle(answer: &str, references: &[String]) -> f64 {
    score(RulerTask::NiahSingle2, answer, references)
}

/// The start of the sentence, or the end of the text, that is nearest to a depth.
fn place(text: &str, depth: f64) -> usize {
    let wanted = (text.len() as f64 * depth) as usize;
    let starts = sentences::starts(text);
    let after = starts.partition_point(|&start| start < wanted);
    let after_place = starts.get(after).copied().unwrap_or(text.len());
    match after.checked_sub(1).and_then(|before| starts.get(before)) {
        Some(&before) if wanted - before < after_place - wanted => before,
        _ => after_place,
    }
}

/// The part of the text's tokens before the needle.
fn depth(fitted: &Fitted, length: &Length<'_>) -> Result<Option<f64>, TaskError> {
    let Some((before, after)) = fitted.composed.around() else {
        return Ok(None);
    };
    let before = length.count(before.trim_end())?;
    Ok(Some(part(before, length.count(after.trim_start())?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::testing::{count, prose};

    fn niah(text: &Haystack, tokens: usize, depth: f64, seed: u64) -> Niah<'_> {
        let config = NiahConfig {
            tokens,
            depth,
            seed,
        };
        Niah::new(config, text, &count).unwrap()
    }

    #[test]
    fn the_needle_is_at_its_depth() {
        let text = Haystack::new(&prose(400)).unwrap();
        for tokens in [1000, 4000, 30_000] {
            for step in 0..=10 {
                let wanted = f64::from(step) / 10.0;
                for index in 0..3 {
                    let sample = niah(&text, tokens, wanted, 1).sample(index).unwrap();
                    let found = sample.depth.unwrap();
                    let near = 40.0 / tokens as f64 + 0.01;
                    assert!((found - wanted).abs() < near, "{tokens} {wanted} {found}");
                    assert!(step > 0 || found == 0.0);
                    assert!(step < 10 || found == 1.0);
                    assert!(sample.tokens <= tokens && sample.tokens * 100 >= tokens * 98);
                    let value = &sample.references[0];
                    assert_eq!(sample.document.matches(value.as_str()).count(), 1);
                    assert_eq!(
                        score_needle(&format!("It is {value}."), &sample.references),
                        1.0
                    );
                }
            }
        }
    }

    #[test]
    fn samples_depend_on_seed_and_index_alone() {
        let text = Haystack::new(&prose(400)).unwrap();
        let first = niah(&text, 2000, 0.5, 1);
        let backward: Vec<TaskSample> = (0..5).rev().map(|at| first.sample(at).unwrap()).collect();
        for (index, sample) in backward.iter().rev().enumerate() {
            assert_eq!(*sample, niah(&text, 2000, 0.5, 1).sample(index).unwrap());
            let deeper = niah(&text, 3000, 0.9, 1).sample(index).unwrap();
            assert_eq!(sample.references, deeper.references);
            let other = niah(&text, 2000, 0.5, 2).sample(index).unwrap();
            assert_ne!(sample.references, other.references);
        }
        assert_ne!(backward[0].references, backward[1].references);
    }

    #[test]
    fn wrong_depths_and_lengths_are_refused() {
        let text = Haystack::new(&prose(40)).unwrap();
        for depth in [-0.1, 1.1, f64::NAN] {
            let config = NiahConfig {
                tokens: 1000,
                depth,
                seed: 0,
            };
            let error = Niah::new(config, &text, &count).err().unwrap();
            assert!(matches!(error, TaskError::Depth { .. }), "{error}");
        }
        let config = NiahConfig {
            tokens: 100,
            depth: 0.0,
            seed: 0,
        };
        let error = Niah::new(config, &text, &count).err().unwrap();
        assert!(matches!(error, TaskError::TooShort { .. }), "{error}");
    }

    #[test]
    fn places_are_the_nearest_sentences() {
        let text = "Aaaa. Bbbb. Cccc.";
        for (depth, expected) in [
            (0.0, 0),
            (0.2, 6),
            (0.17, 0),
            (0.5, 6),
            (0.6, 12),
            (1.0, 17),
        ] {
            assert_eq!(place(text, depth), expected, "{depth}");
        }
        assert_eq!(place("", 0.5), 0);
    }
}
