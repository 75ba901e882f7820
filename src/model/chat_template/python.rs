//! Python's spelling of values: chat templates are written for Jinja2, where `true` prints as
//! `True` and `tojson` is `json.dumps`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Values nested deeper than this are refused; chat messages and tool schemas stay far below.
pub(super) const MAX_DEPTH: usize = 32;

/// `str(value)`, at most `limit` bytes long.
pub(super) fn text(value: &Value, limit: usize) -> Result<String, Error> {
    let mut writer = Writer::new(limit);
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => writer.push(value.as_str().unwrap_or_default())?,
        _ => writer.repr(value, 0)?,
    }
    Ok(writer.out)
}

/// How [`json`] lays its output out: the arguments of Python's `json.dumps`.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    pub sort_keys: bool,
    pub indent: Option<usize>,
    pub separators: Option<(String, String)>,
}

/// `json.dumps(value)`, at most `limit` bytes long.
pub(super) fn json(value: &Value, style: &JsonStyle, limit: usize) -> Result<String, Error> {
    let mut writer = Writer::new(limit);
    writer.json(value, style, 0)?;
    Ok(writer.out)
}

/// Writes up to a fixed number of bytes, so that no value can be spelled out without end.
struct Writer {
    out: String,
    limit: usize,
}

impl Writer {
    fn new(limit: usize) -> Self {
        Self {
            out: String::new(),
            limit,
        }
    }

    fn push(&mut self, text: &str) -> Result<(), Error> {
        if text.len() > self.limit - self.out.len() {
            return Err(invalid(format!(
                "a value takes more than {} bytes to print",
                self.limit
            )));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::Undefined => self.push("Undefined"),
            ValueKind::None => self.push("None"),
            ValueKind::Bool => self.push(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.push(&number(value, "inf", "nan")),
            ValueKind::String => self.quoted(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let (open, close) = if value.is_tuple() {
                    ("(", ")")
                } else {
                    ("[", "]")
                };
                self.push(open)?;
                let mut items = 0;
                for item in value.try_iter()?.checked() {
                    if items > 0 {
                        self.push(", ")?;
                    }
                    self.repr(&item?, depth + 1)?;
                    items += 1;
                }
                if value.is_tuple() && items == 1 {
                    self.push(",")?;
                }
                self.push(close)
            }
            ValueKind::Map => {
                self.push("{")?;
                for (index, key) in value.try_iter()?.checked().enumerate() {
                    let key = key?;
                    if index > 0 {
                        self.push(", ")?;
                    }
                    self.repr(&key, depth + 1)?;
                    self.push(": ")?;
                    self.repr(&value.get_item(&key)?, depth + 1)?;
                }
                self.push("}")
            }
            _ => self.push(&value.to_string()),
        }
    }

    fn quoted(&mut self, text: &str) -> Result<(), Error> {
        let quote = if text.contains('\'') && !text.contains('"') {
            '"'
        } else {
            '\''
        };
        let mut out = String::with_capacity(text.len() + 2);
        out.push(quote);
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c == quote => out.extend(['\\', c]),
                c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.push(c),
            }
        }
        out.push(quote);
        self.push(&out)
    }

    fn json(&mut self, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.push(&number(value, "Infinity", "NaN")),
            ValueKind::String => self.json_string(value.as_str().unwrap_or_default(), style),
            ValueKind::Seq | ValueKind::Iterable => {
                self.push("[")?;
                let mut items = 0;
                for item in value.try_iter()?.checked() {
                    self.json_item(style, items, depth + 1)?;
                    self.json(&item?, style, depth + 1)?;
                    items += 1;
                }
                self.json_end(style, items, depth, "]")
            }
            ValueKind::Map => {
                let mut keys = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                            json(&key, &JsonStyle::default(), self.limit)?
                        }
                        kind => return Err(invalid(format!("a JSON key cannot be a {kind}"))),
                    };
                    keys.push((name, key));
                }
                if style.sort_keys {
                    keys.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.push("{")?;
                let items = keys.len();
                for (index, (name, key)) in keys.into_iter().enumerate() {
                    self.json_item(style, index, depth + 1)?;
                    self.json_string(&name, style)?;
                    self.push(style.separators.as_ref().map_or(": ", |s| &s.1))?;
                    self.json(&value.get_item(&key)?, style, depth + 1)?;
                }
                self.json_end(style, items, depth, "}")
            }
            kind => Err(invalid(format!("a value of type {kind} has no JSON form"))),
        }
    }

    fn json_item(&mut self, style: &JsonStyle, index: usize, depth: usize) -> Result<(), Error> {
        if index > 0 {
            // `json.dumps` drops the space after the comma where it breaks the line.
            let default = if style.indent.is_some() { "," } else { ", " };
            self.push(style.separators.as_ref().map_or(default, |s| &s.0))?;
        }
        self.json_line(style, depth)
    }

    fn json_end(
        &mut self,
        style: &JsonStyle,
        items: usize,
        depth: usize,
        close: &str,
    ) -> Result<(), Error> {
        if items > 0 {
            self.json_line(style, depth)?;
        }
        self.push(close)
    }

    fn json_line(&mut self, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        if let Some(indent) = style.indent {
            self.push("\n")?;
            for _ in 0..indent.saturating_mul(depth) {
                self.push(" ")?;
            }
        }
        Ok(())
    }

    fn json_string(&mut self, text: &str, style: &JsonStyle) -> Result<(), Error> {
        let mut out = String::with_capacity(text.len() + 2);
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
                c if style.ensure_ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        self.push(&out)
    }
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!(
            "a value is nested more than {MAX_DEPTH} deep"
        )));
    }
    Ok(())
}

fn number(value: &Value, infinite: &str, nan: &str) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => nan.to_owned(),
        Ok(x) if x.is_infinite() => {
            let sign = if x < 0.0 { "-" } else { "" };
            format!("{sign}{infinite}")
        }
        Ok(x) => float(x),
        Err(_) => value.to_string(),
    }
}

/// `repr` of a finite float: the shortest digits that read back, with an exponent below 1e-4 and
/// from 1e16.
fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// `datetime.strftime` in UTC for the directives that chat templates use.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    // Past the year 9999 Python's datetime ends too.
    let days = (seconds / 86_400).min(2_932_896) as i64;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil_from_days(days);
    let weekday = ((days + 4) % 7) as usize;
    let year_day = days - days_from_civil(year, 1, 1) + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // glibc's `%-d`: the number without its leading zero.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let piece = match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            Some('j') => format!("{year_day:03}"),
            Some('B') => MONTHS[month - 1].to_owned(),
            Some('b') => MONTHS[month - 1][..3].to_owned(),
            Some('A') => DAYS[weekday].to_owned(),
            Some('a') => DAYS[weekday][..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                return Err(invalid(format!(
                    "strftime_now does not know the directive %{}",
                    other.map(String::from).unwrap_or_default()
                )));
            }
        };
        let piece = piece.as_str();
        out.push_str(match bare {
            true => piece.trim_start_matches(['0', ' ']),
            false => piece,
        });
    }
    Ok(out)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Year, month (1..=12) and day of a day counted from 1970-01-01, by Howard Hinnant's
/// `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as usize, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_spells_them() {
        // `repr` of CPython 3.11.
        for (x, expected) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (0.1, "0.1"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
        ] {
            assert_eq!(float(x), expected);
        }
    }

    #[test]
    fn dates() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        // `date -u -d @1709210096`: Thu Feb 29 12:34:56 UTC 2024.
        let leap = at(1_709_210_096);
        let long = "%a %A %d %e %-d %b %B %Y %y %m %H:%M:%S %I%p %j %%";
        assert_eq!(
            strftime(leap, long).unwrap(),
            "Thu Thursday 29 29 29 Feb February 2024 24 02 12:34:56 12PM 060 %"
        );
        assert_eq!(
            strftime(at(0), "%F %T %-d %e %I").unwrap(),
            "1970-01-01 00:00:00 1  1 12"
        );
        assert!(strftime(leap, "%Q").unwrap_err().to_string().contains("%Q"));
        assert!(strftime(leap, "%").is_err());
        for days in 0..80_000 {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month as i64, day), days);
        }
    }
}
