//! A template's source as Jinja2 cuts it into text and tags, written anew for minijinja's parser.
//!
//! It resolves what differs between the two: newlines, whitespace around tags, `{% raw %}`,
//! escapes in strings, integers beyond 128 bits, and `{% generation %}`, which transformers adds.
//! Line numbers stay.

use std::fmt::Write;

use super::ChatTemplateError;
use super::characters::is_space;
use super::limits::MAX_TAG_TOKENS;

/// The filter that an integer of more than 38 digits becomes: its digits as text go in.
pub(super) const BIG_INTEGER: &str = "apb_integer";

/// `source` in the form that minijinja's parser reads with its default syntax.
pub(super) fn normalize(source: &str) -> Result<String, ChatTemplateError> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut scanner = Scanner {
        source,
        at: 0,
        out: String::with_capacity(source.len() + 64),
        line_starting: true,
    };
    scanner.template()?;
    Ok(scanner.out)
}

struct Scanner<'s> {
    source: &'s str,
    at: usize,
    out: String,
    /// Whether what was read last ended with a newline.
    line_starting: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Raw,
    Block,
    Variable,
    Comment,
}

impl<'s> Scanner<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn template(&mut self) -> Result<(), ChatTemplateError> {
        loop {
            let rest = self.rest();
            let Some((start, tag, sign, length)) = find_tag(rest) else {
                self.data(rest);
                return Ok(());
            };
            let text = rest.get(..start).unwrap_or_default();
            self.stripped_data(text, sign, tag != Tag::Variable);
            self.advance(start + length);
            match tag {
                Tag::Raw => self.raw()?,
                Tag::Comment => self.comment()?,
                Tag::Block => self.tag("{%", "%}")?,
                Tag::Variable => self.tag("{{", "}}")?,
            }
        }
    }

    /// Moves on; the text that is passed may end a line.
    fn advance(&mut self, bytes: usize) {
        let passed = self.rest().get(..bytes).unwrap_or_default();
        if let Some(last) = passed.chars().last() {
            self.line_starting = last == '\n';
        }
        self.at += bytes;
    }

    /// Text in front of a tag, without the whitespace that the tag takes away.
    fn stripped_data(&mut self, text: &str, sign: Option<char>, lstrip: bool) {
        let kept = match sign {
            Some('-') => text.trim_end_matches(is_space),
            Some(_) => text,
            None if lstrip => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let own_line = line > 0 || self.line_starting;
                let indent = text.get(line..).unwrap_or_default();
                match own_line && !indent.is_empty() && indent.chars().all(is_space) {
                    true => text.get(..line).unwrap_or_default(),
                    false => text,
                }
            }
            None => text,
        };
        self.data(kept);
        self.newlines(text.get(kept.len()..).unwrap_or_default());
    }

    fn data(&mut self, text: &str) {
        if text.contains('{') {
            // What looks like a tag is none.
            let _ = write!(self.out, "{{% raw %}}{text}{{% endraw %}}");
        } else {
            self.out.push_str(text);
        }
    }

    /// Keeps the line count where lines are left out: newlines within a tag mean nothing.
    fn newlines(&mut self, skipped: &str) {
        let count = skipped.matches('\n').count();
        if count > 0 {
            let _ = write!(self.out, "{{#{}#}}", "\n".repeat(count));
        }
    }

    fn raw(&mut self) -> Result<(), ChatTemplateError> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest.get(from..).and_then(|text| text.find("{%")) {
            let start = from + found;
            let (sign, signed) = sign_of(rest.get(start + 2..).unwrap_or_default());
            let inner = rest.get(start + 2 + signed..).unwrap_or_default();
            if let Some(after) = word(inner, "endraw")
                && let Some(end) = block_end(inner.get(after..).unwrap_or_default())
            {
                self.stripped_data(rest.get(..start).unwrap_or_default(), sign, true);
                let length = start + 2 + signed + after + end;
                self.newlines(rest.get(start..length).unwrap_or_default());
                self.advance(length);
                return Ok(());
            }
            from = start + 2;
        }
        Err(self.error("a raw block does not end"))
    }

    fn comment(&mut self) -> Result<(), ChatTemplateError> {
        let rest = self.rest();
        let found = rest.find("#}");
        let Some(end) = found else {
            return Err(self.error("a comment does not end"));
        };
        let body = rest.get(..end).unwrap_or_default();
        let after = rest.get(end + 2..).unwrap_or_default();
        let length = end + 2 + after_tag(body.chars().last(), after);
        self.newlines(rest.get(..length).unwrap_or_default());
        self.advance(length);
        Ok(())
    }

    /// A tag whose opening was read: its tokens, up to its end outside of brackets.
    fn tag(&mut self, open: &str, close: &str) -> Result<(), ChatTemplateError> {
        self.out.push_str(open);
        self.out.push(' ');
        let mut brackets: Vec<char> = Vec::new();
        let mut tokens = 0;
        // Where a list without brackets may start, and whether there is a comma in it.
        let mut list = (close == "}}").then_some(self.out.len());
        let (mut comma, mut in_for) = (false, false);
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(self.error(&format!("the end is reached before {close:?}")));
            };
            if brackets.is_empty() {
                let signed = usize::from(matches!(first, '-') || (first == '+' && close == "%}"));
                if rest
                    .get(signed..)
                    .is_some_and(|text| text.starts_with(close))
                {
                    self.close_list(list.filter(|_| comma));
                    self.out.push(' ');
                    self.out.push_str(close);
                    let after = rest.get(signed + 2..).unwrap_or_default();
                    let sign = rest.chars().next().filter(|_| signed == 1);
                    let skipped = match (close, sign) {
                        ("}}", None) => 0,
                        _ => after_tag(sign, after),
                    };
                    self.newlines(after.get(..skipped).unwrap_or_default());
                    self.advance(signed + 2 + skipped);
                    return Ok(());
                }
            }
            tokens += 1;
            if tokens > MAX_TAG_TOKENS {
                return Err(self.error(&format!("more than {MAX_TAG_TOKENS} tokens in one tag")));
            }
            let length = match first {
                c if is_space(c) => {
                    tokens -= 1;
                    self.out.push(if c == '\n' { '\n' } else { ' ' });
                    c.len_utf8()
                }
                '\'' | '"' => self.string(rest)?,
                c if c.is_ascii_digit() => self.number(rest),
                c if c.is_alphanumeric() || c == '_' => {
                    let end = |c: char| !(c.is_alphanumeric() || c == '_');
                    let name = rest.get(..rest.find(end).unwrap_or(rest.len()));
                    let name = name.unwrap_or_default();
                    if close == "%}" && brackets.is_empty() {
                        in_for |= tokens == 1 && name == "for";
                        if in_for && matches!(name, "if" | "recursive") {
                            self.close_list(list.take().filter(|_| comma));
                        }
                    }
                    self.out.push_str(match name {
                        // Both open a scope; where the text came from matters to training only.
                        "generation" if tokens == 1 && close == "%}" => "with",
                        "endgeneration" if tokens == 1 && close == "%}" => "endwith",
                        "do" | "raw" | "endraw" if tokens == 1 && close == "%}" => {
                            return Err(self.error(&format!("unknown tag {name:?}")));
                        }
                        name => name,
                    });
                    if in_for && name == "in" && list.is_none() && brackets.is_empty() {
                        list = Some(self.out.len());
                        comma = false;
                    }
                    name.len()
                }
                c => {
                    match c {
                        '(' | '[' | '{' => brackets.push(c),
                        ')' | ']' | '}' => {
                            let expected = match c {
                                ')' => '(',
                                ']' => '[',
                                _ => '{',
                            };
                            if brackets.pop() != Some(expected) {
                                return Err(self.error(&format!("unexpected {c:?}")));
                            }
                        }
                        ',' => comma |= brackets.is_empty() && list.is_some(),
                        _ => {}
                    }
                    self.out.push(c);
                    if matches!(c, '{' | '}') {
                        self.out.push(' ');
                    }
                    c.len_utf8()
                }
            };
            self.advance(length);
        }
    }

    /// Puts brackets around a list that has none, for the parser.
    fn close_list(&mut self, start: Option<usize>) {
        if let Some(start) = start {
            self.out.insert_str(start, " (");
            self.out.push(')');
        }
    }

    /// A number; what does not fit 128 bits is left to [`BIG_INTEGER`].
    fn number(&mut self, rest: &str) -> usize {
        let after_dot = self
            .source
            .get(..self.at)
            .is_some_and(|text| text.ends_with('.'));
        let digits = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let end = rest.find(digits).unwrap_or(rest.len());
        let number = rest.get(..end).unwrap_or_default();
        let plain: String = number.chars().filter(|&c| c != '_').collect();
        let float = rest.get(end..).is_some_and(|text| {
            let fraction = text.strip_prefix('.');
            fraction.is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit()))
        });
        let decimal = plain.chars().all(|c| c.is_ascii_digit());
        if decimal && plain.len() > 38 && !float && !after_dot {
            let _ = write!(self.out, "(\"{plain}\"|{BIG_INTEGER})");
        } else {
            self.out.push_str(number);
        }
        end
    }

    /// A string with its quotes, with Python's escapes undone and minijinja's put in.
    fn string(&mut self, rest: &str) -> Result<usize, ChatTemplateError> {
        let mut chars = rest.char_indices();
        let quote = chars.next().map_or('"', |(_, c)| c);
        let mut escaped = false;
        for (at, c) in chars {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    let body = rest.get(1..at).unwrap_or_default();
                    let text = unescape(body).map_err(|message| self.error(&message))?;
                    self.out.push('"');
                    for c in text.chars() {
                        if matches!(c, '"' | '\\') {
                            self.out.push('\\');
                        }
                        self.out.push(c);
                    }
                    self.out.push('"');
                    return Ok(at + 1);
                }
                _ => {}
            }
        }
        Err(self.error("a string does not end"))
    }

    fn error(&self, message: &str) -> ChatTemplateError {
        let before = self.source.get(..self.at).unwrap_or_default();
        ChatTemplateError::Syntax {
            line: 1 + before.matches('\n').count(),
            message: message.to_owned(),
        }
    }
}

/// The first tag: where it starts, its kind, its sign, and the length of its opening.
fn find_tag(text: &str) -> Option<(usize, Tag, Option<char>, usize)> {
    let mut from = 0;
    loop {
        let start = from + text.get(from..)?.find('{')?;
        let rest = text.get(start + 1..)?;
        let tag = match rest.chars().next() {
            Some('%') => Tag::Block,
            Some('{') => Tag::Variable,
            Some('#') => Tag::Comment,
            _ => {
                from = start + 1;
                continue;
            }
        };
        let inner = rest.get(1..)?;
        let (sign, signed) = sign_of(inner);
        if tag == Tag::Block
            && let Some(inner) = inner.get(signed..)
            && let Some(after) = word(inner, "raw")
            && let Some(end) = raw_begin_end(inner.get(after..)?)
        {
            return Some((start, Tag::Raw, sign, 2 + signed + after + end));
        }
        return Some((start, tag, sign, 2 + signed));
    }
}

fn sign_of(text: &str) -> (Option<char>, usize) {
    match text.chars().next() {
        Some(sign @ ('-' | '+')) => (Some(sign), 1),
        _ => (None, 0),
    }
}

/// The length of a word with whitespace on both sides.
fn word(text: &str, word: &str) -> Option<usize> {
    let after = text.trim_start_matches(is_space).strip_prefix(word)?;
    Some(text.len() - after.trim_start_matches(is_space).len())
}

/// The length of what ends `{% raw`, which takes no newline with it.
fn raw_begin_end(text: &str) -> Option<usize> {
    match text.strip_prefix("-%}") {
        Some(after) => Some(3 + spaces(after)),
        None => text.starts_with("%}").then_some(2),
    }
}

/// The length of what ends a block, with the whitespace that goes with it.
fn block_end(text: &str) -> Option<usize> {
    let (sign, signed) = sign_of(text);
    let after = text.get(signed..)?.strip_prefix("%}")?;
    Some(signed + 2 + after_tag(sign, after))
}

/// The length of the whitespace that a tag with this sign takes away after itself.
fn after_tag(sign: Option<char>, after: &str) -> usize {
    match sign {
        Some('-') => spaces(after),
        Some('+') => 0,
        _ => usize::from(after.starts_with('\n')),
    }
}

fn spaces(text: &str) -> usize {
    text.len() - text.trim_start_matches(is_space).len()
}

/// Python's escapes in a string literal; an unknown one stays as it is.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escape) = chars.next() else {
            return Err("a string ends with a backslash".to_owned());
        };
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if digits > 0 {
            let code: String = chars.by_ref().take(digits).collect();
            let value = match code.len() == digits && code.chars().all(|c| c.is_ascii_hexdigit()) {
                true => u32::from_str_radix(&code, 16).ok().and_then(char::from_u32),
                false => None,
            };
            out.push(value.ok_or(format!("\\{escape}{code} is not a character"))?);
            continue;
        }
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escape),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'N' => return Err("characters by name (\\N) are not supported".to_owned()),
            '0'..='7' => {
                let mut value = escape.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.push(char::from_u32(value).unwrap_or_default());
            }
            c => out.extend(['\\', c]),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_goes_as_jinja2_takes_it() {
        // Text that Jinja2 3.1.6 leaves, with trim_blocks and lstrip_blocks.
        for (source, expected) in [
            ("a\r\nb\rc\n", "a\nb\nc"),
            ("  {% if x %}\n b", "{% if x %}{#\n#} b"),
            ("a  {%- if x -%} \n b", "a{% if x %}{#\n#}b"),
            ("\n  {%+ if x +%}\nb", "\n  {%  if x %}\nb"),
            (
                "a{% raw %}\n{{ x }}{% endraw %}\nb",
                "a{% raw %}\n{{ x }}{% endraw %}{#\n#}b",
            ),
            ("{% raw %}  {% endraw %}", "  "),
            ("{% raw -%} \n x {%- endraw %}", "x"),
        ] {
            let squeeze = |text: &str| text.replace("  ", " ").replace("  ", " ");
            let normalized = normalize(source).unwrap();
            assert_eq!(squeeze(&normalized), squeeze(expected), "{source:?}");
        }
    }

    #[test]
    fn escapes_are_those_of_python() {
        assert_eq!(unescape(r"\U0001f600\x41\101\q\'").unwrap(), "😀AA\\q'");
        assert!(unescape(r"\xz").is_err());
        assert!(unescape(r"\ud83d").is_err());
    }
}
