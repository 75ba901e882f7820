//! Python's classes of characters.

use unicode_properties::{GeneralCategory as Category, UnicodeGeneralCategory};

/// `str.isspace`: Unicode's whitespace and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Whether `str.splitlines` breaks a line at this character.
pub(super) fn is_line_break(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// `str.isprintable`: what `repr` does not escape.
pub(super) fn is_printable(c: char) -> bool {
    c == ' '
        || !matches!(
            c.general_category(),
            Category::Control
                | Category::Format
                | Category::Surrogate
                | Category::PrivateUse
                | Category::Unassigned
                | Category::LineSeparator
                | Category::ParagraphSeparator
                | Category::SpaceSeparator
        )
}

/// `str.isalpha`.
pub(super) fn is_alpha(c: char) -> bool {
    matches!(
        c.general_category(),
        Category::UppercaseLetter
            | Category::LowercaseLetter
            | Category::TitlecaseLetter
            | Category::ModifierLetter
            | Category::OtherLetter
    )
}

/// `str.isdecimal`.
pub(super) fn is_decimal(c: char) -> bool {
    c.general_category() == Category::DecimalNumber
}

/// `str.isdigit`: also superscripts, circled digits and the like.
pub(super) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(
            c,
            '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '\u{2070}'
                | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}'
                | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}' | '\u{24ea}'
                | '\u{24f5}'..='\u{24fd}' | '\u{24ff}' | '\u{2776}'..='\u{277e}'
                | '\u{2780}'..='\u{2788}' | '\u{278a}'..='\u{2792}' | '\u{10a40}'..='\u{10a43}'
                | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}'
        )
}

/// `str.isnumeric`: also fractions, Roman numerals and the numerals of Han characters.
pub(super) fn is_numeric(c: char) -> bool {
    is_digit(c)
        || matches!(
            c.general_category(),
            Category::LetterNumber | Category::OtherNumber
        )
        || "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零"
            .contains(c)
}

/// Whether the character is cased at all, and starts the cased part of a word for `str.title`.
pub(super) fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || c.general_category() == Category::TitlecaseLetter
}

/// The number of a decimal digit of any script; Unicode has them in runs of ten.
pub(super) fn decimal_value(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    if !is_decimal(c) {
        return None;
    }
    let mut value = 0;
    let mut code = c as u32;
    while value < 10 {
        let before = code.checked_sub(1).and_then(char::from_u32)?;
        if !is_decimal(before) {
            return Some(value);
        }
        code -= 1;
        value += 1;
    }
    // Mathematical digits: runs of ten without a gap, from U+1D7CE.
    Some((c as u32).checked_sub(0x1d7ce)? % 10)
}
