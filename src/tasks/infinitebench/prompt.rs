//! Prompts, and what a right answer is.

use serde::Deserialize;

use super::InfiniteBenchTask;
use super::error::{Place, PublishedError, shown};
use super::fields::Value;
use super::records::Record;
use super::white::{is_white, trim};
use crate::tasks::sample::TaskSample;

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// The fields that are read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    context: Value,
    input: Value,
    answer: Value,
    options: Value,
}

/// A prompt around its context.
struct Wording {
    /// What precedes the context.
    instruction: String,
    /// What is between the context and the question.
    between: &'static str,
    question: String,
    /// What follows the question.
    after: String,
}

/// The sample of a record.
pub(super) fn sample(
    task: InfiniteBenchTask,
    record: Record,
) -> Result<TaskSample, PublishedError> {
    let place = record.place;
    let fields: Fields = record.fields()?;
    let context = fields.context.filled(place, "context")?;
    let answers = fields.answer.texts(place, "answer")?;
    let options = match task {
        InfiniteBenchTask::LongBookChoiceEng | InfiniteBenchTask::CodeDebug => {
            Some(four(place, fields.options.texts(place, "options")?)?)
        }
        _ => None,
    };
    let references = match &options {
        Some(options) => choice(place, answers, options)?,
        None => numbers(task, place, answers)?,
    };
    let listed = options.as_ref().map(listed).unwrap_or_default();
    let wording = wording(task, place, fields.input, &listed)?;
    let document_end = context.trim_end_matches(is_white);
    let question = wording.question.trim_end_matches(is_white);
    let start = question.trim_start_matches(is_white);
    let lead = question.len() - start.len();
    let separator = [
        context.get(document_end.len()..).unwrap_or_default(),
        wording.between,
        question.get(..lead).unwrap_or_default(),
    ];
    let answer_prefix = [
        wording.question.get(question.len()..).unwrap_or_default(),
        wording.after.as_str(),
    ];
    Ok(TaskSample {
        task: task.name().into(),
        index: place.sample,
        document: format!("{}{document_end}", wording.instruction),
        separator: separator.concat(),
        question: start.into(),
        answer_prefix: answer_prefix.concat(),
        references,
        tokens: 0,
        tokens_to_generate: task.tokens_to_generate(),
        depth: None,
    })
}

impl Wording {
    fn new(instruction: &str, between: &'static str, question: &str, after: &str) -> Self {
        Self {
            instruction: instruction.into(),
            between,
            question: question.into(),
            after: after.into(),
        }
    }
}

/// The wording of a task. `options` is the list of them.
fn wording(
    task: InfiniteBenchTask,
    place: Place,
    input: Value,
    options: &str,
) -> Result<Wording, PublishedError> {
    let filled = || input.filled(place, "input");
    Ok(match task {
        InfiniteBenchTask::PassKey => Wording::new(
            "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will \
             quiz you about the important information.\n\n",
            "\n\n",
            &filled()?,
            "\n\nThe pass key is",
        ),
        InfiniteBenchTask::NumberString => Wording::new(
            "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you about \
             the important information there.\n\n",
            "\n\n",
            &filled()?,
            "\n\nThe sequence of digits is",
        ),
        InfiniteBenchTask::KvRetrieval => {
            let input = filled()?;
            // The last line is the beginning of the answer.
            let (question, after) = split(&input, input.rfind('\n'));
            Wording::new(
                "Extract the value corresponding to the specified key in the JSON object below.\n\n",
                "\n\n",
                question,
                after,
            )
        }
        InfiniteBenchTask::LongDialogueQaEng => Wording::new(
            "Below is a dialogue script where one random occurrence of a character name is replaced with \
             \"$$MASK$$\", and you should try to guess who that character is.\n\n",
            "\n\n",
            "The name that has been replaced with $$MASK$$ is likely",
            "",
        ),
        InfiniteBenchTask::LongBookSumEng => {
            Wording::new("Summarize the book below.\n\n", "\n\n", "Summary:", "")
        }
        InfiniteBenchTask::LongBookChoiceEng => Wording::new(
            "Read the book and answer the question.\n\n",
            "\n\n",
            &format!("Question: {}\n{options}", filled()?),
            "\n\nThe letter of the correct answer is",
        ),
        InfiniteBenchTask::LongBookQaEng => Wording::new(
            "Read the book and answer the question. Be very concise in your answer.\n\n",
            "\n\n",
            &format!("Question: {}", filled()?),
            "\nAnswer:",
        ),
        InfiniteBenchTask::LongBookQaChn => Wording::new(
            "阅读以下书籍然后回答问题。\n\n",
            "\n\n",
            &format!("问题：{}", filled()?),
            "\n答案：",
        ),
        InfiniteBenchTask::MathFind => {
            let input = filled()?;
            let (start, number) = number_asked(&input).ok_or_else(|| {
                let expected =
                    "the number that is asked for, as in `The largest number of the list is:`";
                PublishedError::field(place, "input", expected, shown(&input))
            })?;
            let (question, after) = split(&input, Some(start));
            let instruction = format!("What is {number} in the following list?\n\n");
            Wording::new(&instruction, "\n\n", question, after)
        }
        InfiniteBenchTask::MathCalc => Wording::new(
            "Let us calculate the intermediate values of an expression.\n\nExpression: 1 + 3 + 4\nValues: [1, 4, \
             8]\n\nExpression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: ",
            "\n",
            "Values:",
            "",
        ),
        InfiniteBenchTask::CodeRun => {
            let input = filled()?;
            let (name, call) = function_call(&input).ok_or_else(|| {
                let expected = "a call such as `func_1(-2)`";
                PublishedError::field(place, "input", expected, shown(&input))
            })?;
            let instruction =
                format!("There is a function called {name} in the following Python code.\n\n");
            let question = format!("Please compute the exact value of {call}.");
            let after = format!(" The value of {call} is");
            Wording::new(&instruction, "\n\n", &question, &after)
        }
        InfiniteBenchTask::CodeDebug => Wording::new(
            "Following is a Python code where exactly one of the functions/methods has a deliberate error that \
             makes it crash.\n\n",
            "\n\n",
            &format!("Options:\n{options}"),
            "\n\nThe correct option is:",
        ),
    })
}

/// A line for each option.
fn listed(options: &[String; 4]) -> String {
    let lettered = LETTERS.iter().zip(options);
    let lines: Vec<String> = lettered
        .map(|(letter, option)| format!("{letter}. {option}"))
        .collect();
    lines.join("\n")
}

/// The parts before and from a byte, where both have more than white space; else the whole as the first.
fn split(text: &str, at: Option<usize>) -> (&str, &str) {
    let parts = at.and_then(|at| text.split_at_checked(at));
    let filled = |part: &str| !trim(part).is_empty();
    match parts {
        Some((before, after)) if filled(before) && filled(after) => {
            let end = before.trim_end_matches(is_white).len();
            text.split_at_checked(end).unwrap_or((text, ""))
        }
        _ => (text, ""),
    }
}

/// Where the input of `math_find` names the number that is asked for, and its name in lower case: `the
/// largest number` of `The largest number of the list is:`.
fn number_asked(input: &str) -> Option<(usize, String)> {
    const START: &str = "The ";
    input.match_indices(START).find_map(|(start, _)| {
        let line = input.get(start..)?.split('\n').next()?;
        let end = line.rfind(" of")?;
        let name = line.get(..end).filter(|name| name.len() > START.len())?;
        Some((start, name.to_lowercase()))
    })
}

/// The first call of a function such as `func_1(-2)`: its name, and the whole.
fn function_call(input: &str) -> Option<(&str, &str)> {
    const START: &str = "func_";
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    input.match_indices(START).find_map(|(start, _)| {
        let text = input.get(start..)?;
        let name = START.len() + digits(text.get(START.len()..)?);
        let argument = text.get(name..)?.strip_prefix('(')?;
        let unsigned = argument.strip_prefix('-').unwrap_or(argument);
        let number = digits(unsigned);
        if name == START.len() || number == 0 || !unsigned.get(number..)?.starts_with(')') {
            return None;
        }
        let end = name + 1 + (argument.len() - unsigned.len()) + number + 1;
        Some((text.get(..name)?, text.get(..end)?))
    })
}

/// The first four options: the published prompts have no others.
fn four(place: Place, options: Vec<String>) -> Result<[String; 4], PublishedError> {
    let count = options.len();
    let mut options = options.into_iter();
    match (
        options.next(),
        options.next(),
        options.next(),
        options.next(),
    ) {
        (Some(a), Some(b), Some(c), Some(d)) => Ok([a, b, c, d]),
        _ => Err(PublishedError::field(
            place,
            "options",
            "four options",
            count.to_string(),
        )),
    }
}

/// The text and the letter of the right option.
fn choice(
    place: Place,
    mut answers: Vec<String>,
    options: &[String; 4],
) -> Result<Vec<String>, PublishedError> {
    match answers.as_slice() {
        [answer] => {
            let found = options
                .iter()
                .zip(LETTERS)
                .find(|(option, _)| *option == answer);
            let Some((_, letter)) = found else {
                let expected = "one of the options";
                return Err(PublishedError::field(
                    place,
                    "answer",
                    expected,
                    shown(answer),
                ));
            };
            answers.push(letter.into());
            Ok(answers)
        }
        [_, letter] if LETTERS.contains(&letter.as_str()) => Ok(answers),
        [first, ..] => {
            let found = format!("{} answers that begin with {}", answers.len(), shown(first));
            let expected = "an option, or an option and its letter";
            Err(PublishedError::field(place, "answer", expected, found))
        }
        [] => Ok(answers),
    }
}

/// The answers, which are numbers where only numbers are compared.
fn numbers(
    task: InfiniteBenchTask,
    place: Place,
    answers: Vec<String>,
) -> Result<Vec<String>, PublishedError> {
    let is_whole = |answer: &str| answer.parse::<i64>().is_ok();
    let is_number = |answer: &str| {
        // Not `inf` and `nan`.
        answer.ends_with(|c: char| c.is_ascii_digit()) && answer.parse::<f64>().is_ok()
    };
    let compared = match task {
        InfiniteBenchTask::MathCalc => answers.len(),
        _ => 1,
    };
    let (expected, is_right): (_, &dyn Fn(&str) -> bool) = match task {
        InfiniteBenchTask::MathFind => ("a number", &is_number),
        InfiniteBenchTask::MathCalc | InfiniteBenchTask::CodeRun => ("a whole number", &is_whole),
        _ => return Ok(answers),
    };
    match answers
        .iter()
        .take(compared)
        .find(|answer| !is_right(answer))
    {
        Some(wrong) => Err(PublishedError::field(
            place,
            "answer",
            expected,
            shown(wrong),
        )),
        None => Ok(answers),
    }
}
