//! White space as the published programs have it.

/// Whether Python takes a character as white space: Unicode's, and four control characters.
pub(in crate::tasks) fn is_white(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A text without the white space around it.
pub(in crate::tasks) fn trim(text: &str) -> &str {
    text.trim_matches(is_white)
}

/// The words of a text.
pub(in crate::tasks) fn words(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.split(is_white).filter(|word| !word.is_empty())
}
