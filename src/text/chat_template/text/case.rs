//! Upper and lower case as Python's `str` has them.

use crate::text::chat_template::characters::is_cased;

/// `str.title` of one character.
pub(crate) fn title_char(c: char) -> String {
    // The letters that have a form of their own for the start of a word.
    let special = match c {
        '\u{1c4}'..='\u{1c6}' => Some('\u{1c5}'),
        '\u{1c7}'..='\u{1c9}' => Some('\u{1c8}'),
        '\u{1ca}'..='\u{1cc}' => Some('\u{1cb}'),
        '\u{1f1}'..='\u{1f3}' => Some('\u{1f2}'),
        '\u{10d0}'..='\u{10ff}' => Some(c),
        _ => None,
    };
    if let Some(special) = special {
        return special.to_string();
    }
    let mut upper = c.to_uppercase();
    let first: String = upper.next().into_iter().collect();
    first + &upper.flat_map(char::to_lowercase).collect::<String>()
}

/// `str.capitalize`.
pub(crate) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => title_char(first) + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// `str.title`.
pub(crate) fn title(text: &str) -> String {
    let lower = text.to_lowercase();
    let same_length = lower.chars().count() == text.chars().count();
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    let mut lowered = lower.chars();
    for c in text.chars() {
        // Taken from the whole text in lower case, for the sigma that ends a word.
        let small = lowered.next().filter(|_| same_length);
        match (inside, small) {
            (false, _) => out.push_str(&title_char(c)),
            (true, Some(small)) => out.push(small),
            (true, None) => out.extend(c.to_lowercase()),
        }
        inside = is_cased(c);
    }
    out
}

/// `str.casefold`.
pub(crate) fn casefold(text: &str) -> String {
    text.chars()
        .flat_map(|c| -> Vec<char> {
            match c {
                'ı' => vec![c],
                'İ' => c.to_lowercase().collect(),
                _ => c
                    .to_lowercase()
                    .flat_map(char::to_uppercase)
                    .flat_map(char::to_lowercase)
                    .collect(),
            }
        })
        .collect()
}

pub(crate) fn swap_case(text: &str) -> String {
    text.chars()
        .flat_map(|c| -> Vec<char> {
            match c {
                c if c.is_lowercase() => c.to_uppercase().collect(),
                c if c.is_uppercase() => c.to_lowercase().collect(),
                c => vec![c],
            }
        })
        .collect()
}

/// `str.islower`.
pub(crate) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| is_cased(c) && !c.is_lowercase())
}

/// `str.isupper`.
pub(crate) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| is_cased(c) && !c.is_uppercase())
}

pub(crate) fn is_title(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        let cased = is_cased(c);
        if cased && c.is_lowercase() != inside {
            return false;
        }
        any |= cased;
        inside = cased;
    }
    any
}
