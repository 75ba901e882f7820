//! Splitting a text into sentences.

/// Bytes after which a sentence ends between words, in text without full stops such as code.
const LONGEST: usize = 1000;

/// Words before a full stop that does not end the sentence.
const ABBREVIATIONS: &str = "Mr Mrs Ms Dr St Prof Rev Gen Col Capt Lt Sgt Hon Esq No Vol Fig Eq Sec \
                             Ch vs cf eg ie viz e.g i.e al";

/// The first byte of every sentence of `text`, ascending: each a visible character.
///
/// A sentence ends with a full stop, a question or an exclamation mark, with quotes or brackets after
/// it, where white space and no small letter follows; with such a mark of Chinese or Japanese at
/// once; and with a blank line.
pub(crate) fn starts(text: &str) -> Vec<usize> {
    let mut starts: Vec<usize> = Vec::new();
    // Before the character: a full stop, a wide one of East Asia, white space and the lines in it.
    let (mut stop, mut wide, mut space, mut lines) = (false, false, false, 0);
    let mut word = 0;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            space = true;
            lines += usize::from(c == '\n');
            continue;
        }
        let length = starts.last().map_or(usize::MAX, |start| at - start);
        let ends = (space && (lines > 1 || (stop && !c.is_lowercase())))
            || (wide && (space || !closes(c)))
            || length >= if space { LONGEST } else { 2 * LONGEST };
        if ends {
            starts.push(at);
        }
        if space || ends {
            word = at;
        }
        let behind = !space && closes(c);
        stop = match c {
            '.' => !is_abbreviation(&text[word..at]),
            '!' | '?' | '\u{2026}' => true,
            _ => stop && behind,
        };
        wide = matches!(c, '\u{3002}' | '\u{ff01}' | '\u{ff1f}') || (wide && behind);
        (space, lines) = (false, 0);
    }
    starts
}

/// Whether a character after a full stop belongs to the same sentence.
fn closes(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | ')'
            | ']'
            | '}'
            | '*'
            | '_'
            | '\u{201d}'
            | '\u{2019}'
            | '\u{bb}'
            | '\u{300d}'
            | '\u{300f}'
            | '\u{ff09}'
    )
}

fn is_abbreviation(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
    let mut letters = word.chars();
    let initial =
        matches!((letters.next(), letters.next()), (Some(c), None) if c.is_uppercase() && c != 'I');
    initial
        || ABBREVIATIONS
            .split_ascii_whitespace()
            .any(|known| known == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> Vec<&str> {
        let starts = starts(text);
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let ranges = starts.iter().zip(ends);
        ranges
            .map(|(&start, end)| text[start..end].trim_end())
            .collect()
    }

    #[test]
    fn sentences_end_at_full_stops_and_blank_lines() {
        let text = " Mr. A. Gray said: \u{201c}No!\u{201d} He (or she.) left at 3.15 p.m. and came.\n\
                    Why? \"So.\"\n\nHEADING\n\n  \u{c9}t\u{e9}... but small. Etc";
        let expected = [
            "Mr. A. Gray said: \u{201c}No!\u{201d}",
            "He (or she.) left at 3.15 p.m. and came.",
            "Why?",
            "\"So.\"",
            "HEADING",
            "\u{c9}t\u{e9}... but small.",
            "Etc",
        ];
        assert_eq!(sentences(text), expected);
        let chinese = "\u{4f60}\u{597d}\u{3002}\u{300c}\u{597d}\u{ff01}\u{300d}\u{518d}\u{89c1}";
        assert_eq!(sentences(chinese).len(), 3);
        assert_eq!(sentences(" \n "), [""; 0]);
        assert_eq!(sentences(""), [""; 0]);
    }

    #[test]
    fn text_without_full_stops_is_cut_between_words() {
        let text = "word ".repeat(1000);
        assert!(
            sentences(&text)
                .iter()
                .all(|part| part.len() <= LONGEST + 5 && part.ends_with("word"))
        );
        let text = "\u{e9}".repeat(5000);
        assert_eq!(sentences(&text).len(), 5);
    }
}
