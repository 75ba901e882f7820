//! A number of a list, by its size.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::tasks::draft::{Composed, Draft};
use crate::tasks::random::{Purpose, Seeds};

/// The numbers are from zero to this one.
const LARGEST: u32 = 99;

/// Where the largest is asked for, the end of the range is drawn from here on.
const LEAST_END: u32 = 79;

/// Where the smallest is asked for, the start of the range is drawn up to here.
const MOST_START: u32 = 19;

/// The fewest numbers of a list.
const FEWEST: usize = 50;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The largest that is smaller than so many others, equal ones taken as one.
    Largest(usize),
    /// The smallest that is larger than so many others.
    Smallest(usize),
    Median,
}

const QUESTIONS: [(&str, Asked); 7] = [
    ("largest", Asked::Largest(0)),
    ("second largest", Asked::Largest(1)),
    ("third largest", Asked::Largest(2)),
    ("smallest", Asked::Smallest(0)),
    ("second smallest", Asked::Smallest(1)),
    ("third smallest", Asked::Smallest(2)),
    ("median", Asked::Median),
];

impl Asked {
    /// The range of the numbers.
    fn range(self, random: &mut Xoshiro256PlusPlus) -> (u32, u32) {
        let largest = match self {
            Self::Largest(_) => true,
            Self::Smallest(_) => false,
            Self::Median => random.random(),
        };
        match largest {
            true => (0, random.random_range(LEAST_END..=LARGEST)),
            false => (random.random_range(0..=MOST_START), LARGEST),
        }
    }

    /// The answer: whole, but the median of an even number of numbers, which has one decimal.
    fn answer(self, numbers: &[u32]) -> String {
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable();
        if self == Self::Median {
            return median(&sorted);
        }
        sorted.dedup();
        let found = match self {
            Self::Largest(others) => sorted.iter().rev().nth(others),
            Self::Smallest(others) => sorted.get(others),
            Self::Median => None,
        };
        found.map(u32::to_string).unwrap_or_default()
    }
}

fn median(sorted: &[u32]) -> String {
    let middle = sorted.len() / 2;
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    match sorted.len() % 2 {
        1 => at(middle).to_string(),
        _ => {
            let sum = at(middle) + at(middle.saturating_sub(1));
            format!("{:.1}", f64::from(sum) / 2.0)
        }
    }
}

/// The sample `index`.
pub(super) fn draft(seeds: Seeds, index: usize) -> Draft<'static> {
    let (name, asked) = QUESTIONS[index % QUESTIONS.len()];
    let (least, most) = asked.range(&mut seeds.stream(index, Purpose::Words));
    let instruction = format!("What is the {name} number in the following list?\n\n");
    let compose = move |count| {
        let mut random = seeds.stream(index, Purpose::Distractors);
        let numbers: Vec<u32> = (0..count)
            .map(|_| random.random_range(least..=most))
            .collect();
        let listed: Vec<String> = numbers.iter().map(u32::to_string).collect();
        Composed {
            references: Some(vec![asked.answer(&numbers)]),
            ..Composed::new(&instruction, &format!("[{}]", listed.join(", ")))
        }
    };
    Draft {
        separator: "\n\n",
        question: "You should answer with only one number, no other words.".into(),
        answer_prefix: format!(" The {name} number of the list is: "),
        references: Vec::new(),
        units: FEWEST..=usize::MAX,
        compose: Box::new(compose),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_hand() {
        let numbers = [5, 9, 9, 1, 3, 1, 7];
        let answers = QUESTIONS.map(|(_, asked)| asked.answer(&numbers));
        assert_eq!(answers, ["9", "7", "5", "1", "3", "5", "5"]);
        assert_eq!(Asked::Median.answer(&[4, 1, 3, 2]), "2.5");
        assert_eq!(Asked::Median.answer(&[3, 3]), "3.0");
        assert_eq!(Asked::Largest(2).answer(&[1]), "");
    }
}
