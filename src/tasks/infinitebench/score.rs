//! Scores of answers.

use std::collections::HashMap;
use std::hash::Hash;

use super::InfiniteBenchTask;
use super::rouge::rouge_lsum;
use super::white::{is_white, trim, words};
use crate::tasks::infinitebench_generated::{self, GeneratedTask};

/// Characters that are taken as white space where words of an answer are compared.
const SEPARATORS: &[char] = &['\n', ':', '"', '\'', '.', ',', '?', '!', '{', '}'];

/// The same in an answer of `longbook_choice_eng`.
const CHOICE_SEPARATORS: &[char] = &['\n', '"', '\'', '.', ',', '?', '!', '{', '}'];

/// The same in an answer of `code_debug`.
const CODE_DEBUG_SEPARATORS: &[char] = &['\n', '`', '\'', '"', '-', '*'];

/// The same in an answer of `code_run`.
const CODE_RUN_SEPARATORS: &[char] = &['\n', '.', '`', '\'', '"', ':'];

/// Characters that are left out of Chinese answers, beside ASCII punctuation.
const CHINESE_PUNCTUATION: &str = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏";

/// The score of an answer, from 0 to 1, as published. Without references, it is 0. The score of a task is
/// the mean over its samples.
///
/// | task | score |
/// |---|---|
/// | `passkey`, `number_string` | whether the first digits are the reference |
/// | `kv_retrieval` | whether a word is the reference |
/// | `longdialogue_qa_eng` | whether a word in upper case is the first reference |
/// | `longbook_sum_eng` | F1 of ROUGE-Lsum, without stemming |
/// | `longbook_choice_eng` | whether the option is right: the first letter if it is A to D, else what follows `answer is` and the like, else the first word of such letters |
/// | `longbook_qa_eng` | F1 of words in lower case without punctuation and articles, for the best reference |
/// | `longbook_qa_chn` | F1 of characters without punctuation and white space, for the best reference |
/// | `math_find` | whether the first number is the reference: as a whole number, or with any decimals where the reference has one |
/// | `math_calc` | how many of the references the numbers begin with, as a part of all |
/// | `code_run` | whether the last word is the reference, as a number |
/// | `code_debug` | whether the answer begins with the letter and a dot or colon, or the letter or the name follows `is:` or `answer:` |
///
/// In `longbook_choice_eng` and `code_debug`, one character after `answer is` and the like is left out,
/// whatever it is. In `longdialogue_qa_eng`, a reference of two words is never right.
pub fn score(task: InfiniteBenchTask, answer: &str, references: &[String]) -> f64 {
    let Some(reference) = references.first() else {
        return 0.0;
    };
    let generated = |task| infinitebench_generated::score(task, answer, references);
    match task {
        InfiniteBenchTask::PassKey => generated(GeneratedTask::PassKey),
        InfiniteBenchTask::NumberString => generated(GeneratedTask::NumberString),
        InfiniteBenchTask::KvRetrieval => generated(GeneratedTask::KvRetrieval),
        InfiniteBenchTask::MathFind => generated(GeneratedTask::MathFind),
        InfiniteBenchTask::LongDialogueQaEng => {
            let answer = answer.replace(SEPARATORS, " ");
            right(words(&answer).any(|word| word.to_uppercase() == *reference))
        }
        InfiniteBenchTask::LongBookSumEng => rouge_lsum(answer, references),
        InfiniteBenchTask::LongBookChoiceEng => right(choice(answer, references)),
        InfiniteBenchTask::LongBookQaEng => best(answer, references, |answer, reference| {
            let (answer, reference) = (english(answer), english(reference));
            f1(words(&answer), words(&reference))
        }),
        InfiniteBenchTask::LongBookQaChn => best(answer, references, |answer, reference| {
            let (answer, reference) = (chinese(answer), chinese(reference));
            f1(answer.chars(), reference.chars())
        }),
        InfiniteBenchTask::MathCalc => beginning(answer, references),
        InfiniteBenchTask::CodeRun => {
            let answer = answer.replace(CODE_RUN_SEPARATORS, " ");
            let number = |text: &str| text.parse::<i64>().ok();
            let last = words(&answer).next_back().and_then(number);
            right(last.is_some() && last == number(reference))
        }
        InfiniteBenchTask::CodeDebug => right(code_debug(answer, references)),
    }
}

fn right(is_right: bool) -> f64 {
    f64::from(u8::from(is_right))
}

fn choice(answer: &str, references: &[String]) -> bool {
    let is_reference = |text: &str| references.iter().any(|reference| reference == text);
    let is_letters = |text: &str| !text.is_empty() && "ABCD".contains(text);
    let answer = trim(answer);
    let first = answer.get(..1).unwrap_or_default();
    if is_letters(first) {
        return is_reference(first);
    }
    if !answer.is_empty() && is_reference(answer) {
        return true;
    }
    let answer = spaced(answer, CHOICE_SEPARATORS);
    if let Some(said) = after_any(
        &answer,
        &["answer is:", "answer:", "answer is", "option is"],
    ) {
        return begins_with_any(said, references);
    }
    // Such as `A`, but also `AB`.
    words(&answer)
        .find(|word| is_letters(word))
        .is_some_and(is_reference)
}

fn code_debug(answer: &str, references: &[String]) -> bool {
    let answer = trim(answer);
    let after_letter = references
        .get(1)
        .and_then(|letter| answer.strip_prefix(letter.as_str()));
    if after_letter.is_some_and(|after| after.starts_with(['.', ':'])) {
        return true;
    }
    let answer = answer.replace("Option", " ").replace("option", " ");
    let answer = spaced(&answer, CODE_DEBUG_SEPARATORS);
    let said = after_any(&answer, &["answer is:", "is:", "answer:"]);
    said.is_some_and(|said| begins_with_any(said, references))
}

/// A text with spaces for some characters, and never two spaces in succession.
fn spaced(text: &str, separators: &[char]) -> String {
    let mut spaced = text.replace(separators, " ");
    let mut last = '\0';
    spaced.retain(|c| {
        let kept = c != ' ' || last != ' ';
        last = c;
        kept
    });
    spaced
}

/// What follows the first of some texts that there is, without its first character.
fn after_any<'t>(text: &'t str, starts: &[&str]) -> Option<&'t str> {
    let (_, after) = starts.iter().find_map(|start| text.split_once(start))?;
    let mut after = after.chars();
    after.next();
    Some(after.as_str())
}

fn begins_with_any(text: &str, references: &[String]) -> bool {
    let begins = |reference: &String| !reference.is_empty() && text.starts_with(reference);
    references.iter().any(begins)
}

fn best(answer: &str, references: &[String], score: impl Fn(&str, &str) -> f64) -> f64 {
    let scores = references.iter().map(|reference| score(answer, reference));
    scores.fold(0.0, f64::max)
}

/// The harmonic mean of the part of the answer that is in the reference, and of the reference in the answer.
fn f1<T: Eq + Hash>(answer: impl Iterator<Item = T>, reference: impl Iterator<Item = T>) -> f64 {
    let mut left: HashMap<T, usize> = HashMap::new();
    let (mut all, mut all_answered, mut found) = (0_usize, 0_usize, 0_usize);
    for token in reference {
        *left.entry(token).or_default() += 1;
        all += 1;
    }
    for token in answer {
        all_answered += 1;
        if let Some(left) = left.get_mut(&token).filter(|left| **left > 0) {
            *left -= 1;
            found += 1;
        }
    }
    if found == 0 {
        return 0.0;
    }
    let precision = found as f64 / all_answered as f64;
    let recall = found as f64 / all as f64;
    2.0 * precision * recall / (precision + recall)
}

/// In lower case, without ASCII punctuation, and with a space for each article.
fn english(text: &str) -> String {
    let mut text = text.to_lowercase();
    text.retain(|c| !c.is_ascii_punctuation());
    let pieces = text.split_inclusive(|c: char| !c.is_alphanumeric());
    let without_articles = pieces.map(|piece| {
        let word = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
        match word {
            "a" | "an" | "the" => [" ", piece.get(word.len()..).unwrap_or_default()],
            _ => [piece, ""],
        }
    });
    without_articles.flatten().collect()
}

/// In lower case, without punctuation and white space.
fn chinese(text: &str) -> String {
    let mut text = text.to_lowercase();
    text.retain(|c| !c.is_ascii_punctuation() && !CHINESE_PUNCTUATION.contains(c) && !is_white(c));
    text
}

/// The part of the references that the numbers of the answer begin with.
fn beginning(answer: &str, references: &[String]) -> f64 {
    let numbers = answer.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter(|digits| !digits.is_empty());
    let equal = |(number, reference): &(&str, &String)| {
        let number = number.parse::<i64>();
        number.is_ok() && number == reference.parse()
    };
    let right = numbers.zip(references).take_while(equal).count();
    right as f64 / references.len() as f64
}
