//! Splitting a text into a document and a question.

use super::report::ProblemKind;

/// The most characters that a question may have where it is found by its place in a text.
pub(crate) const LONGEST_QUESTION: usize = 600;

/// The fewest characters of a document that is found by its place in a text.
pub(crate) const SHORTEST_DOCUMENT: usize = 200;

/// Bytes of a text in which "begins." ends its preamble.
const LONGEST_PREAMBLE: usize = 600;

/// The most words of the noun in "Now the .. ends", such as "first paper".
const NOUN_WORDS: usize = 3;

/// The most bytes of that noun.
const NOUN_BYTES: usize = 40;

/// The document and the question by the rule at [`SampleFile`](super::SampleFile).
pub(super) fn split_by_paragraphs(text: &str) -> Result<(&str, &str), ProblemKind> {
    let text = text.trim();
    if chars(text) < SHORTEST_DOCUMENT {
        return Err(ProblemKind::NoDocument);
    }
    let blank = blank_lines(text);
    let lines = (text.find('\n'), text.rfind('\n'));
    let last = |at: Option<usize>| at.map(|at| (text[..at].trim(), text[at..].trim()));
    let first = |at: Option<usize>| at.map(|at| (text[at..].trim(), text[..at].trim()));
    let candidates = [last(blank.1), first(blank.0), last(lines.1), first(lines.0)];
    let mut found = candidates.into_iter().flatten();
    match found.find(|(_, question)| chars(question) <= LONGEST_QUESTION) {
        Some((document, _)) if chars(document) < SHORTEST_DOCUMENT => Err(ProblemKind::NoDocument),
        Some(found) => Ok(found),
        None => Err(ProblemKind::NoQuestion),
    }
}

/// The starts of the first and the last blank line of a trimmed text.
fn blank_lines(text: &str) -> (Option<usize>, Option<usize>) {
    let (mut first, mut last, mut at) = (None, None, 0);
    for line in text.split_inclusive('\n') {
        if line.trim().is_empty() {
            first = first.or(Some(at));
            last = Some(at);
        }
        at += line.len();
    }
    (first, last)
}

/// The document and the question around the last "Now the paper ends.", without the text before "The
/// paper begins.". The document or the question may be empty.
pub(super) fn split_at_markers(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let ends = find_all(bytes, "now the ").filter_map(|at| {
        let noun = at + "now the ".len();
        let behind = &bytes[noun..];
        let behind = &behind[..behind.len().min(NOUN_BYTES + " ends".len())];
        let length = find_all(behind, " ends").next()?;
        let words = text[noun..noun + length].split_whitespace().count();
        let line = !text[noun..noun + length].contains('\n');
        let is_noun = line && (1..=NOUN_WORDS).contains(&words);
        is_noun.then_some((at, noun + length + " ends".len()))
    });
    let (document_end, question) = ends.last()?;
    let document = &text[..document_end];
    let question = text[question..].trim_start_matches(['.', ':']).trim();
    let begins = find_all(document.as_bytes(), " begins").next();
    let document = match begins {
        Some(at) if at <= LONGEST_PREAMBLE => {
            document[at + " begins".len()..].trim_start_matches(['.', ':'])
        }
        _ => document,
    };
    Some((document.trim(), question))
}

/// The positions of `wanted`, in lower-case ASCII, in `text` in any case.
fn find_all(text: &[u8], wanted: &'static str) -> impl Iterator<Item = usize> {
    let windows = text.windows(wanted.len()).enumerate();
    // An ASCII byte is never inside a character, so that every place is the start of one.
    windows
        .filter_map(move |(at, found)| found.eq_ignore_ascii_case(wanted.as_bytes()).then_some(at))
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_found_by_its_length() {
        let long = "A long paragraph. ".repeat(50);
        let long = long.trim();
        let split = |text: String| {
            let found = split_by_paragraphs(&text).map(|(d, q)| (d.to_owned(), q.to_owned()));
            found.unwrap()
        };
        let expected = |document: &str| (document.to_owned(), "Why?".to_owned());
        assert_eq!(split(format!("{long}\n\nWhy?")), expected(long));
        assert_eq!(split(format!("{long}\n \nWhy?\n")), expected(long));
        assert_eq!(
            split(format!("Title\n\n{long}\r\n\r\nWhy?")),
            expected(&format!("Title\n\n{long}"))
        );
        assert_eq!(split(format!("Why?\n\n{long}")), expected(long));
        assert_eq!(split(format!("{long}\nWhy?")), expected(long));
        assert_eq!(split(format!("Why?\n{long}")), expected(long));
        let both = format!("{long}\n\n{long}");
        assert_eq!(split(format!("{both}\nWhy?")), expected(&both));
        assert_eq!(split_by_paragraphs(long), Err(ProblemKind::NoQuestion));
        assert_eq!(split_by_paragraphs(&both), Err(ProblemKind::NoQuestion));
        assert_eq!(
            split_by_paragraphs("Hello.\n\nWho are you?"),
            Err(ProblemKind::NoDocument)
        );
        assert_eq!(split_by_paragraphs(""), Err(ProblemKind::NoDocument));
    }

    #[test]
    fn markers_need_their_form() {
        let found =
            split_at_markers("THE BOOK BEGINS: Now the é ends he said. NOW THE BOOK ENDS. Q");
        assert_eq!(found, Some(("Now the é ends he said.", "Q")));
        assert_eq!(
            split_at_markers("Now the day that nobody will forget ends. Q"),
            None
        );
        assert_eq!(split_at_markers("Now the\nlong day\n ends"), None);
        assert_eq!(split_at_markers("now the  ends"), None);
        let noun = "n".repeat(NOUN_BYTES);
        let text = format!("x now the {noun} ends");
        assert_eq!(split_at_markers(&text), Some(("x", "")));
        assert_eq!(split_at_markers(&format!("x now the {noun}n ends")), None);
        // The time does not grow with the square of the text, which would be hours here.
        assert_eq!(split_at_markers(&"now the ".repeat(1 << 20)), None);
        let long = format!("{}The end begins. x\nNow the text ends", "é ".repeat(400));
        assert!(split_at_markers(&long).unwrap().0.starts_with('é'));
    }
}
