//! ROUGE-Lsum, the summary-level measure of [Lin (2004)](https://aclanthology.org/W04-1013) (section 3.2).

use std::collections::HashMap;

/// The F1 of a summary against the reference it is nearest to. A line is a sentence, a run of ASCII letters
/// and digits is a word in lower case, and words are not stemmed. In each sentence of the reference, those
/// words are found that are in a longest common subsequence with any sentence of the summary. A word is
/// found as often as both texts have it, at most.
///
/// Time grows with the product of the numbers of words, and so does memory, for the two longest sentences.
pub(super) fn rouge_lsum(summary: &str, references: &[String]) -> f64 {
    let scores = references
        .iter()
        .map(|reference| against(summary, reference));
    scores.fold(0.0, f64::max)
}

fn against(summary: &str, reference: &str) -> f64 {
    let (summary, reference) = (summary.to_lowercase(), reference.to_lowercase());
    let (summary, reference) = (sentences(&summary), sentences(&reference));
    let (mut left, mut left_reference) = (counts(&summary), counts(&reference));
    let mut found = 0_usize;
    for sentence in &reference {
        let mut common = vec![false; sentence.len()];
        for other in &summary {
            mark_common(sentence, other, &mut common);
        }
        for (word, _) in sentence.iter().zip(common).filter(|(_, common)| *common) {
            if take(&mut left, word) && take(&mut left_reference, word) {
                found += 1;
            }
        }
    }
    if found == 0 {
        return 0.0;
    }
    let words = |sentences: &[Vec<&str>]| sentences.iter().map(Vec::len).sum::<usize>() as f64;
    let precision = found as f64 / words(&summary);
    let recall = found as f64 / words(&reference);
    2.0 * precision * recall / (precision + recall)
}

fn sentences(text: &str) -> Vec<Vec<&str>> {
    text.split('\n').map(words).collect()
}

fn words(line: &str) -> Vec<&str> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).collect()
}

fn counts<'t>(sentences: &[Vec<&'t str>]) -> HashMap<&'t str, usize> {
    let mut counts = HashMap::new();
    for word in sentences.iter().flatten() {
        *counts.entry(*word).or_default() += 1;
    }
    counts
}

/// Takes one of a word, if there is any.
fn take(counts: &mut HashMap<&str, usize>, word: &str) -> bool {
    match counts.get_mut(word) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

/// Marks the words of a sentence that are in a longest common subsequence with another. Of several, it is
/// the one found from the end by leaving a word of the other sentence only where leaving one of this would
/// be shorter.
fn mark_common(sentence: &[&str], other: &[&str], common: &mut [bool]) {
    // For the ends of both, whether leaving a word of the other keeps more than leaving one of this.
    let mut leave_other = Vec::with_capacity(sentence.len() * other.len());
    // The length for the words read of this and each start of the other.
    let mut row = vec![0_u32; other.len() + 1];
    for word in sentence {
        let (mut diagonal, mut left) = (0, 0);
        for (at, word_of_other) in row.iter_mut().skip(1).zip(other) {
            let above = *at;
            leave_other.push(left > above);
            *at = match word == word_of_other {
                true => diagonal + 1,
                false => above.max(left),
            };
            (diagonal, left) = (above, *at);
        }
    }
    let (mut read, mut read_other) = (sentence.len(), other.len());
    while let (Some(at), Some(at_other)) = (read.checked_sub(1), read_other.checked_sub(1)) {
        if sentence[at] == other[at_other] {
            common[at] = true;
            (read, read_other) = (at, at_other);
        } else if leave_other[at * other.len() + at_other] {
            read_other = at_other;
        } else {
            read = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(summary: &str, reference: &str) -> f64 {
        rouge_lsum(summary, &[reference.into()])
    }

    #[test]
    fn scores_are_those_of_hand() {
        for (summary, reference, expected) in [
            ("The cat sat.", "the CAT, sat", 1.0),
            ("", "the cat", 0.0),
            ("the cat", "", 0.0),
            ("...", "the cat", 0.0),
            ("dog", "the cat", 0.0),
            // Three of four words and of five, in order.
            (
                "police kill the gunman",
                "police killed the the gunman",
                2.0 / 3.0,
            ),
            // `b` or `a`: one of them is in order.
            ("b a", "a b", 0.5),
            // The same as two sentences each: every one is found.
            ("b\na", "a\nb", 1.0),
            // The example of section 3.2: w1 w2 w3 w5 of five words, against two sentences of five.
            (
                "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5",
                "w1 w2 w3 w4 w5",
                8.0 / 15.0,
            ),
            // A word is not found more often than the summary has it.
            ("a", "a\na\na", 0.5),
            ("a a a", "a", 0.5),
        ] {
            let found = scored(summary, reference);
            assert!((found - expected).abs() < 1e-12, "{summary:?} {found}");
        }
    }

    #[test]
    fn the_nearest_reference_counts() {
        let references = ["x".into(), "the cat".into(), "the dog".into()];
        assert_eq!(rouge_lsum("the cat", &references), 1.0);
        assert_eq!(rouge_lsum("the cat", &[]), 0.0);
    }
}
