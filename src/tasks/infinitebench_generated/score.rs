//! Scores of answers.

use super::GeneratedTask;

/// Characters that separate words in an answer of `kv_retrieval`, beside white space.
const SEPARATORS: &[char] = &[':', '"', '\'', '.', ',', '?', '!', '{', '}'];

/// The score of an answer, 0 or 1, as published. Without references, it is 0.
///
/// For `passkey` and `number_string`, the first digits in the answer must be the reference. For
/// `kv_retrieval`, the reference must be a word of the answer. For `math_find`, the first number in the
/// answer must be the reference: as a whole number, or with any decimals where the reference has one.
pub fn score(task: GeneratedTask, answer: &str, references: &[String]) -> f64 {
    let Some(reference) = references.first() else {
        return 0.0;
    };
    let right = match task {
        GeneratedTask::PassKey | GeneratedTask::NumberString => {
            first_digits(answer) == Some(reference)
        }
        GeneratedTask::KvRetrieval => answer
            .split(|c: char| c.is_whitespace() || SEPARATORS.contains(&c))
            .any(|word| word == reference),
        GeneratedTask::MathFind => {
            first_number(answer).is_some_and(|number| match reference.contains('.') {
                true => equal::<f64>(number, reference),
                false => equal::<u64>(number, reference),
            })
        }
    };
    f64::from(u8::from(right))
}

fn equal<T: std::str::FromStr + PartialEq>(found: &str, expected: &str) -> bool {
    matches!((found.parse::<T>(), expected.parse::<T>()), (Ok(found), Ok(expected)) if found == expected)
}

/// The first run of digits.
fn first_digits(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit())
        .find(|digits| !digits.is_empty())
}

/// The first number, with its decimals.
fn first_number(text: &str) -> Option<&str> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let text = &text[start..];
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let decimals = match text[whole..].strip_prefix('.') {
        Some(after) => digits(after),
        None => 0,
    };
    match decimals {
        0 => text.get(..whole),
        decimals => text.get(..whole + 1 + decimals),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_hand() {
        let uuid = "0e8d3f1c-5d0c-4c6b-9c1f-1b2a3c4d5e6f";
        for (task, answer, reference, expected) in [
            (GeneratedTask::PassKey, " 01234.", "01234", 1.0),
            (GeneratedTask::PassKey, "The 2 keys: 01234", "01234", 0.0),
            (GeneratedTask::PassKey, "1234", "01234", 0.0),
            (GeneratedTask::PassKey, "", "01234", 0.0),
            (
                GeneratedTask::NumberString,
                "x1122334455",
                "1122334455",
                1.0,
            ),
            (
                GeneratedTask::NumberString,
                "11223344556",
                "1122334455",
                0.0,
            ),
            (
                GeneratedTask::KvRetrieval,
                &format!("\"{uuid}\"."),
                uuid,
                1.0,
            ),
            (GeneratedTask::KvRetrieval, &format!("{uuid}0"), uuid, 0.0),
            (GeneratedTask::MathFind, "It is 97, not 3", "97", 1.0),
            (GeneratedTask::MathFind, "97.5", "97", 0.0),
            (GeneratedTask::MathFind, "097", "97", 1.0),
            (GeneratedTask::MathFind, "49.50", "49.5", 1.0),
            (GeneratedTask::MathFind, "49", "49.0", 1.0),
            (GeneratedTask::MathFind, "49.", "49", 1.0),
            (GeneratedTask::MathFind, "none", "49", 0.0),
        ] {
            let found = score(task, answer, &[reference.to_string()]);
            assert_eq!(found, expected, "{task} {answer}");
        }
        assert_eq!(score(GeneratedTask::PassKey, "1", &[]), 0.0);
    }
}
