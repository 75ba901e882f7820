//! Questions of data sets, among paragraphs of which only some are about the question.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use rand::seq::SliceRandom;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error};

use super::task::RulerTask;
use crate::quoted::cut;
use crate::size::size;
use crate::tasks::draft::{Composed, Draft};
use crate::tasks::error::TaskError;
use crate::tasks::random::{Purpose, Seeds};

const INSTRUCTION: &str = "Answer the question based on the given documents. Only give me the answer and do not \
    output any other words.\n\nThe following are given documents.\n\n";

/// What precedes the question.
const REMINDER: &str = "Answer the question based on the given documents. Only give me the answer and do not \
    output any other words.\n\nQuestion: ";

const ANSWER_PREFIX: &str = " Answer:";

/// Characters of a parser's error that are kept.
const SHOWN: usize = 200;

/// The longest file that is read, in bytes. The development sets have 4 and 45 MiB.
const MAX_FILE_LEN: usize = 128 << 20;

/// The questions of a data set and all its paragraphs.
#[derive(Debug, Clone)]
pub struct QuestionSet {
    paragraphs: Vec<String>,
    questions: Vec<Question>,
}

#[derive(Debug, Clone)]
struct Question {
    text: String,
    answers: Vec<String>,
    /// Paragraphs that must be in the document.
    needed: Vec<usize>,
    /// All paragraphs of the article, which its questions share.
    article: Arc<[usize]>,
}

impl Question {
    /// The paragraphs of the article beside those needed.
    fn related(&self) -> Vec<usize> {
        let others = self.article.iter().copied();
        others
            .filter(|place| !self.needed.contains(place))
            .collect()
    }
}

#[derive(Deserialize)]
struct Squad {
    data: Vec<SquadArticle>,
}

#[derive(Deserialize)]
struct SquadArticle {
    paragraphs: Vec<SquadParagraph>,
}

#[derive(Deserialize)]
struct SquadParagraph {
    context: String,
    qas: Vec<SquadQuestion>,
}

#[derive(Deserialize)]
struct SquadQuestion {
    question: String,
    #[serde(default)]
    is_impossible: bool,
    #[serde(default)]
    answers: Vec<SquadAnswer>,
}

#[derive(Deserialize)]
struct SquadAnswer {
    text: String,
}

#[derive(Deserialize)]
struct HotpotQuestion {
    question: String,
    answer: String,
    /// Titles and their sentences.
    context: Vec<(String, Vec<String>)>,
}

/// Paragraphs in their order, and the place of each.
struct Paragraphs {
    list: Vec<String>,
    places: HashMap<String, usize>,
}

impl Paragraphs {
    fn new(paragraphs: impl Iterator<Item = String>) -> Self {
        let list: Vec<String> = paragraphs.collect::<BTreeSet<_>>().into_iter().collect();
        let places = list.iter().cloned().zip(0..).collect();
        Self { list, places }
    }

    fn places<'p>(&self, paragraphs: impl Iterator<Item = &'p String>) -> Vec<usize> {
        paragraphs
            .filter_map(|paragraph| self.places.get(paragraph).copied())
            .collect()
    }
}

impl QuestionSet {
    /// Reads the JSON file of SQuAD, version 1.1 or 2.0. Questions that have no answer are left out.
    ///
    /// # Errors
    ///
    /// [`TaskError::QuestionFile`] and [`TaskError::NoQuestions`].
    pub fn squad(json: &str) -> Result<Self, TaskError> {
        const NAME: &str = "SQuAD";
        let squad: Squad = read(json, NAME)?;
        let all = squad.data.iter().flat_map(|article| &article.paragraphs);
        let paragraphs = Paragraphs::new(all.map(|paragraph| paragraph.context.clone()));
        let mut questions = Vec::new();
        for article in &squad.data {
            let contexts = article
                .paragraphs
                .iter()
                .map(|paragraph| &paragraph.context);
            let mut places = paragraphs.places(contexts);
            distinct(&mut places);
            let places: Arc<[usize]> = places.into();
            for paragraph in &article.paragraphs {
                let needed = paragraphs.places([&paragraph.context].into_iter());
                let asked = paragraph.qas.iter().filter(|asked| !asked.is_impossible);
                questions.extend(asked.map(|asked| {
                    Question {
                        text: asked.question.clone(),
                        answers: asked
                            .answers
                            .iter()
                            .map(|answer| answer.text.clone())
                            .collect(),
                        needed: needed.clone(),
                        article: Arc::clone(&places),
                    }
                }));
            }
        }
        Self::new(paragraphs, questions, NAME)
    }

    /// Reads the JSON file of HotpotQA, in the distractor setting.
    ///
    /// # Errors
    ///
    /// [`TaskError::QuestionFile`] and [`TaskError::NoQuestions`].
    pub fn hotpotqa(json: &str) -> Result<Self, TaskError> {
        const NAME: &str = "HotpotQA";
        let asked: Vec<HotpotQuestion> = read(json, NAME)?;
        let contexts: Vec<Vec<String>> = asked
            .iter()
            .map(|asked| {
                let titled = asked.context.iter();
                titled
                    .map(|(title, sentences)| format!("{title}\n{}", sentences.concat()))
                    .collect()
            })
            .collect();
        let paragraphs = Paragraphs::new(contexts.iter().flatten().cloned());
        let questions = asked.into_iter().zip(&contexts);
        let questions = questions.map(|(asked, context)| Question {
            text: asked.question,
            answers: vec![asked.answer],
            needed: paragraphs.places(context.iter()),
            article: Arc::default(),
        });
        let questions = questions.collect();
        Self::new(paragraphs, questions, NAME)
    }

    fn new(
        paragraphs: Paragraphs,
        mut questions: Vec<Question>,
        dataset: &'static str,
    ) -> Result<Self, TaskError> {
        questions.retain(|question| question.answers.iter().any(|answer| !answer.is_empty()));
        for question in &mut questions {
            question.answers.retain(|answer| !answer.is_empty());
            distinct(&mut question.needed);
        }
        if questions.is_empty() {
            return Err(TaskError::NoQuestions { dataset });
        }
        Ok(Self {
            paragraphs: paragraphs.list,
            questions,
        })
    }

    /// The number of questions, which is that of the samples.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// Paragraphs in the order in which they come into the document: those needed, those of the same
    /// article, all others.
    fn order(&self, question: &Question, seeds: Seeds, index: usize) -> Vec<usize> {
        let mut random = seeds.stream(index, Purpose::Distractors);
        let mut related = question.related();
        related.shuffle(&mut random);
        let first: HashSet<usize> = question.needed.iter().chain(&related).copied().collect();
        let others = 0..self.paragraphs.len();
        let mut others: Vec<usize> = others.filter(|place| !first.contains(place)).collect();
        others.shuffle(&mut random);
        [question.needed.clone(), related, others].concat()
    }
}

fn read<T: DeserializeOwned>(json: &str, dataset: &'static str) -> Result<T, TaskError> {
    let found = json.len();
    let read = match found > MAX_FILE_LEN {
        true => Err(serde_json::Error::custom(format!(
            "expected at most {}, found {found} bytes",
            size(MAX_FILE_LEN as u64)
        ))),
        false => serde_json::from_str(json),
    };
    read.map_err(|error| TaskError::QuestionFile {
        dataset,
        // It may repeat a text of any length.
        source: serde_json::Error::custom(cut(&error, SHOWN)),
    })
}

/// Keeps the first of equal places.
fn distinct(places: &mut Vec<usize>) {
    let mut seen = HashSet::new();
    places.retain(|place| seen.insert(*place));
}

/// The sample of the question `index`.
pub(super) fn draft(
    task: RulerTask,
    set: &QuestionSet,
    seeds: Seeds,
    index: usize,
) -> Result<Draft<'_>, TaskError> {
    let question = set.questions.get(index).ok_or(TaskError::NoSuchSample {
        task: task.name(),
        index,
        samples: set.questions.len(),
    })?;
    let order = set.order(question, seeds, index);
    let fewest = question.needed.len().max(1);
    let compose = move |count: usize| {
        // A document that is longer than the whole set repeats it.
        let mut places: Vec<usize> = order.iter().copied().cycle().take(count).collect();
        places.shuffle(&mut seeds.stream(index, Purpose::Order));
        let numbered = (1..).zip(places).filter_map(|(number, place)| {
            let paragraph = set.paragraphs.get(place)?;
            Some(format!("Document {number}:\n{paragraph}"))
        });
        Composed::new(INSTRUCTION, &numbered.collect::<Vec<_>>().join("\n\n"))
    };
    Ok(Draft {
        separator: "\n\n",
        question: format!("{REMINDER}{}", question.text),
        answer_prefix: ANSWER_PREFIX.into(),
        references: question.answers.clone(),
        units: fewest..=usize::MAX,
        compose: Box::new(compose),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squad_keeps_questions_with_answers() {
        let json = r#"{"version": "v2.0", "data": [
            {"title": "T", "paragraphs": [
                {"context": "B.", "qas": [
                    {"id": "1", "question": "b?", "is_impossible": false,
                     "answers": [{"text": "B", "answer_start": 0}, {"text": "b.", "answer_start": 0}]},
                    {"id": "2", "question": "none?", "is_impossible": true, "answers": []}]},
                {"context": "A.", "qas": [
                    {"id": "3", "question": "a?", "answers": [{"text": "A", "answer_start": 0}]}]}]},
            {"title": "U", "paragraphs": [{"context": "C.", "qas": []}]}]}"#;
        let set = QuestionSet::squad(json).unwrap();
        assert_eq!(set.paragraphs, ["A.", "B.", "C."]);
        assert_eq!(set.len(), 2);
        assert_eq!(set.questions[0].answers, ["B", "b."]);
        assert_eq!(set.questions[0].needed, [1]);
        assert_eq!(set.questions[0].related(), [0]);
        assert_eq!(set.questions[1].needed, [0]);
        assert_eq!(set.questions[1].related(), [1]);
    }

    #[test]
    fn hotpotqa_joins_titles_and_sentences() {
        let json = r#"[{"_id": "1", "question": "q?", "answer": "yes", "type": "bridge",
            "supporting_facts": [["T", 0]],
            "context": [["T", ["One.", " Two."]], ["S", ["Three."]]]}]"#;
        let set = QuestionSet::hotpotqa(json).unwrap();
        assert_eq!(set.paragraphs, ["S\nThree.", "T\nOne. Two."]);
        assert_eq!(set.questions[0].needed, [1, 0]);
    }

    #[test]
    fn other_files_are_refused() {
        let error = QuestionSet::squad("[]").unwrap_err();
        assert!(matches!(error, TaskError::QuestionFile { .. }), "{error}");
        let error = QuestionSet::hotpotqa("[]").unwrap_err();
        assert!(matches!(error, TaskError::NoQuestions { .. }), "{error}");
        let error = QuestionSet::squad(&" ".repeat(MAX_FILE_LEN + 1)).unwrap_err();
        assert!(error.to_string().contains("at most 128 MiB"), "{error}");
        let error = QuestionSet::squad("").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("expected the JSON file of SQuAD: ")
        );
    }
}
