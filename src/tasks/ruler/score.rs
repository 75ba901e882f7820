//! Scores of answers.

use super::task::{RulerTask, Scoring};

/// The score of an answer, from 0 to 1: which of the references it contains, with no regard to case.
/// Control characters of the answer count as line ends. Without references, the score is 0.
///
/// The score of a task is the mean over its samples.
pub fn score(task: RulerTask, answer: &str, references: &[String]) -> f64 {
    if references.is_empty() {
        return 0.0;
    }
    let answer: String = answer
        .trim()
        .chars()
        .map(|c| {
            if c.is_ascii_control() && c != '\u{7f}' {
                '\n'
            } else {
                c
            }
        })
        .collect();
    let answer = answer.trim().to_lowercase();
    let found = references
        .iter()
        .filter(|reference| answer.contains(&reference.to_lowercase()))
        .count();
    match task.scoring() {
        Scoring::All => found as f64 / references.len() as f64,
        Scoring::Any => f64::from(u8::from(found > 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(task: RulerTask, answer: &str, references: &[&str]) -> f64 {
        let references: Vec<String> = references.iter().map(|&text| text.into()).collect();
        score(task, answer, &references)
    }

    #[test]
    fn all_references_count_alike() {
        let values = ["1234567", "7654321", "1111111", "2222222"];
        for (answer, expected) in [
            (" 1234567, 7654321, 1111111, and 2222222.", 1.0),
            ("1234567 and 2222222", 0.5),
            ("1234567 1234567 1234567", 0.25),
            ("123456", 0.0),
            ("", 0.0),
        ] {
            let found = scored(RulerTask::NiahMultivalue, answer, &values);
            assert_eq!(found, expected, "{answer}");
        }
        assert_eq!(
            scored(RulerTask::Vt, "abcde fghij", &["ABCDE", "XYZXY"]),
            0.5
        );
        assert_eq!(scored(RulerTask::Cwe, "1. Harbors", &["harbor"]), 1.0);
        assert_eq!(scored(RulerTask::Fwe, "any", &[]), 0.0);
    }

    #[test]
    fn one_reference_is_enough_for_questions() {
        let answers = ["Denver Broncos", "the Broncos"];
        assert_eq!(scored(RulerTask::Qa1, "It was THE BRONCOS!", &answers), 1.0);
        assert_eq!(scored(RulerTask::Qa2, "Denver\u{7}Broncos", &answers), 0.0);
        assert_eq!(scored(RulerTask::Qa2, "Carolina", &answers), 0.0);
    }
}
