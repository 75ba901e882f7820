//! The tasks and how they are scored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tasks::error::TaskError;
use crate::tasks::names;

/// A task of RULER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RulerTask {
    /// One number in a repeated text.
    #[serde(rename = "niah_single_1")]
    NiahSingle1,
    /// One number in a text.
    #[serde(rename = "niah_single_2")]
    NiahSingle2,
    /// One UUID in a text.
    #[serde(rename = "niah_single_3")]
    NiahSingle3,
    /// Four keys in a text, of which one is asked for.
    #[serde(rename = "niah_multikey_1")]
    NiahMultikey1,
    /// A document of nothing but keys and numbers.
    #[serde(rename = "niah_multikey_2")]
    NiahMultikey2,
    /// A document of nothing but UUIDs as keys and values.
    #[serde(rename = "niah_multikey_3")]
    NiahMultikey3,
    /// Four values of one key.
    NiahMultivalue,
    /// Four keys, all asked for.
    NiahMultiquery,
    /// The variables that have a value, over four assignments (variable tracking).
    Vt,
    /// The ten most common words of a list (common words extraction).
    Cwe,
    /// The three most frequent coded words (frequent words extraction).
    Fwe,
    /// Questions of SQuAD among paragraphs.
    #[serde(rename = "qa_1")]
    Qa1,
    /// Questions of HotpotQA among paragraphs.
    #[serde(rename = "qa_2")]
    Qa2,
}

/// What of the references an answer must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scoring {
    /// All of them: the score is the part found (`string_match_all`).
    All,
    /// Any of them: the score is 1 or 0 (`string_match_part`).
    Any,
}

/// What a task is made from, beside its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A text in which to hide needles.
    Text,
    /// The file of SQuAD.
    Squad,
    /// The file of HotpotQA.
    HotpotQa,
}

impl RulerTask {
    /// All tasks, in the published order.
    pub const ALL: [Self; 13] = [
        Self::NiahSingle1,
        Self::NiahSingle2,
        Self::NiahSingle3,
        Self::NiahMultikey1,
        Self::NiahMultikey2,
        Self::NiahMultikey3,
        Self::NiahMultivalue,
        Self::NiahMultiquery,
        Self::Vt,
        Self::Cwe,
        Self::Fwe,
        Self::Qa1,
        Self::Qa2,
    ];

    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NiahSingle1 => "niah_single_1",
            Self::NiahSingle2 => "niah_single_2",
            Self::NiahSingle3 => "niah_single_3",
            Self::NiahMultikey1 => "niah_multikey_1",
            Self::NiahMultikey2 => "niah_multikey_2",
            Self::NiahMultikey3 => "niah_multikey_3",
            Self::NiahMultivalue => "niah_multivalue",
            Self::NiahMultiquery => "niah_multiquery",
            Self::Vt => "vt",
            Self::Cwe => "cwe",
            Self::Fwe => "fwe",
            Self::Qa1 => "qa_1",
            Self::Qa2 => "qa_2",
        }
    }

    /// The most tokens of an answer.
    pub fn tokens_to_generate(self) -> usize {
        match self {
            Self::Vt => 30,
            Self::Cwe => 120,
            Self::Fwe => 50,
            Self::Qa1 | Self::Qa2 => 32,
            _ => 128,
        }
    }

    /// What of the references an answer must contain.
    pub fn scoring(self) -> Scoring {
        match self {
            Self::Qa1 | Self::Qa2 => Scoring::Any,
            _ => Scoring::All,
        }
    }

    /// What the task is made from.
    pub fn needs(self) -> Needs {
        match self {
            Self::NiahSingle2
            | Self::NiahSingle3
            | Self::NiahMultikey1
            | Self::NiahMultivalue
            | Self::NiahMultiquery => Needs::Text,
            Self::Qa1 => Needs::Squad,
            Self::Qa2 => Needs::HotpotQa,
            _ => Needs::Nothing,
        }
    }
}

impl fmt::Display for RulerTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RulerTask {
    type Err = TaskError;

    fn from_str(name: &str) -> Result<Self, TaskError> {
        let known = Self::ALL.into_iter().find(|task| task.name() == name);
        known.ok_or_else(|| names::unknown(name, Self::ALL.map(Self::name).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for task in RulerTask::ALL {
            assert_eq!(task.name().parse::<RulerTask>().unwrap(), task);
            let json = serde_json::to_string(&task).unwrap();
            assert_eq!(json, format!("\"{task}\""));
            assert_eq!(serde_json::from_str::<RulerTask>(&json).unwrap(), task);
        }
    }

    #[test]
    fn a_wrong_name_gets_the_nearest() {
        for (name, expected) in [
            ("niah_singel_1", "niah_single_1"),
            ("NIAH-multiquery", "niah_multiquery"),
            ("VT", "vt"),
            ("qa1", "qa_1"),
        ] {
            let error = name.parse::<RulerTask>().unwrap_err();
            let TaskError::UnknownTask { nearest, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*nearest, expected);
            assert!(error.to_string().contains("qa_2"), "{error}");
        }
    }
}
