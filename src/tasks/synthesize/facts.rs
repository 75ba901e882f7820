//! Invented facts about invented people and places, in the prose of the text around them.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::words::{Needle, Value, fill, one_of, person, town, word};

// None begins with a vowel: they follow "a".
const TRADES: &str = "clockmaker baker bookbinder cartographer potter weaver glazier beekeeper carpenter printer \
    saddler gardener shipwright tailor brewer violinist surveyor goldsmith";

const SHOPS: &str = "bookshop bakery teahouse workshop printing-house theatre nursery museum pharmacy \
    dye-works ropewalk brewery school";

const ANIMALS: &str =
    "heron badger tortoise raven hedgehog goat donkey parrot ferret swan mule pelican lynx";

/// A fact, and a question about it in words that the fact does not use.
#[derive(Clone, Copy)]
struct Template {
    fact: &'static str,
    question: &'static str,
    answer: &'static str,
    /// The slot that is asked for.
    asked: &'static str,
}

const TEMPLATES: &[Template] = &[
    Template {
        fact: "In the spring of {year}, {person} opened a small {shop} in {town}, and never left the place again.",
        question: "Where did {person} run a {shop}?",
        answer: "{person} ran a {shop} in {town}.",
        asked: "town",
    },
    Template {
        fact: "{person}, who had learned the trade of a {trade}, spent eleven years in {town} before anybody noticed.",
        question: "What was the profession of {person}?",
        answer: "{person} was a {trade}.",
        asked: "person",
    },
    Template {
        fact: "It was {person} who sold the old mill near {town} for {number} crowns and gave the money away.",
        question: "How much did the buyer pay {person} for the mill?",
        answer: "The buyer paid {number} crowns.",
        asked: "number",
    },
    Template {
        fact: "The only living thing that {person} ever trusted was a {animal} by the name of {pet}.",
        question: "What was the animal called that {person} had confidence in?",
        answer: "It was a {animal} called {pet}.",
        asked: "pet",
    },
    Template {
        fact: "When the bridge at {town} fell in {year}, a {trade} called {person} rebuilt it with borrowed tools.",
        question: "Who put the bridge at {town} up again after its collapse?",
        answer: "The bridge at {town} was rebuilt by {person}, a {trade}.",
        asked: "person",
    },
    Template {
        fact: "People in {town} still say that {person} buried a chest of letters there on {date}.",
        question: "On what day did {person} hide the letters?",
        answer: "{person} hid the letters on {date}.",
        asked: "date",
    },
    Template {
        fact: "Every winter {person} crossed the mountains to {town} in order to visit a sister, the {trade} {other}.",
        question: "Whom did {person} go to see each winter?",
        answer: "Each winter {person} visited a sister, {other}, in {town}.",
        asked: "other",
    },
    Template {
        fact: "The library of {town} owns a single portrait, which shows {person} with a {animal}.",
        question: "Whose picture hangs in the library of {town}?",
        answer: "The picture in the library of {town} shows {person}.",
        asked: "person",
    },
    Template {
        fact: "Long before the railway came, {person} had walked from {town} to {destination} in nine days.",
        question: "What was the goal of the walk that {person} began in {town}?",
        answer: "{person} walked to {destination}.",
        asked: "destination",
    },
    Template {
        fact: "For long years of work as a {trade}, {person} received the silver medal of {town} in the year {year}.",
        question: "Which town honoured {person} with a medal?",
        answer: "{person} received the medal of {town}.",
        asked: "town",
    },
    Template {
        fact: "The {shop} of {town} closed for good after {person} had lost its key, which was found under number {number} in the end.",
        question: "Whose carelessness made the {shop} of {town} close?",
        answer: "It closed because {person} had lost the key.",
        asked: "person",
    },
    Template {
        fact: "In the register of {town}, the birth of {person} is dated {date}, a day of heavy snow.",
        question: "When was {person} born, according to the register?",
        answer: "According to the register of {town}, {person} was born on {date}.",
        asked: "date",
    },
];

/// One fact.
pub(super) fn fact(random: &mut Xoshiro256PlusPlus) -> Needle {
    let template = one_of(TEMPLATES, random);
    let year = random.random_range(1610..1930u32).to_string();
    let (person, other) = (person(random), person(random));
    let (town, destination, pet) = (town(random), town(random), town(random));
    let (number, date) = (Value::Number.draw(random), Value::Date.draw(random));
    let slots: [(&str, &str); 11] = [
        ("year", &year),
        ("person", &person),
        ("other", &other),
        ("town", &town),
        ("destination", &destination),
        ("pet", &pet),
        ("number", &number),
        ("date", &date),
        ("trade", word(TRADES, random)),
        ("shop", word(SHOPS, random)),
        ("animal", word(ANIMALS, random)),
    ];
    // The names too: with a second person of the same name the question has two answers.
    let unique = [template.asked, "person"].into_iter().filter_map(|name| {
        let slot = slots.iter().find(|(slot, _)| *slot == name);
        slot.map(|(_, value)| (*value).to_owned())
    });
    let mut unique: Vec<String> = unique.collect();
    unique.dedup();
    Needle {
        sentences: vec![fill(template.fact, &slots)],
        question: fill(template.question, &slots),
        answer: fill(template.answer, &slots),
        unique,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_says_what_is_asked() {
        for template in TEMPLATES {
            let asked = format!("{{{}}}", template.asked);
            assert_eq!(
                template.fact.matches(&asked).count(),
                1,
                "{}",
                template.fact
            );
            assert_eq!(
                template.fact.matches("{person}").count(),
                1,
                "{}",
                template.fact
            );
            let answered = template.answer.contains(&asked) && !template.question.contains(&asked);
            assert!(
                answered || template.answer.contains("{trade}"),
                "{}",
                template.answer
            );
            for text in [template.question, template.answer] {
                for slot in text
                    .split('{')
                    .skip(1)
                    .filter_map(|rest| rest.split('}').next())
                {
                    assert!(
                        template.fact.contains(&format!("{{{slot}}}")),
                        "{slot}: {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_slot_is_filled() {
        use rand::SeedableRng;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        for _ in 0..200 {
            let Needle {
                sentences,
                question,
                answer,
                unique,
            } = fact(&mut random);
            for text in [&sentences[0], &question, &answer] {
                assert!(!text.contains(['{', '}']), "{text}");
            }
            assert!(
                unique
                    .iter()
                    .all(|text| sentences[0].contains(text.as_str())),
                "{unique:?}"
            );
        }
    }
}
