//! `datetime.now().strftime(format)` as glibc prints it in the C locale.

use std::time::SystemTime;

use chrono::{DateTime, FixedOffset, Local, Offset, TimeZone, Timelike, Utc};

use super::fault::{Fault, Result};

/// Widest field of a directive such as `%10d`.
const MAX_WIDTH: usize = 1000;

/// Local time: `now`, or the system's clock, in the system's time zone or `offset` seconds east of
/// UTC.
pub(super) fn local_time(now: Option<SystemTime>, offset: Option<i32>) -> DateTime<FixedOffset> {
    let now = now.map_or_else(Utc::now, DateTime::<Utc>::from);
    let offset = match offset.and_then(FixedOffset::east_opt) {
        Some(offset) => offset,
        None => Local.offset_from_utc_datetime(&now.naive_utc()).fix(),
    };
    now.with_timezone(&offset)
}

/// The time by a format of `strftime`. Python's `datetime.now()` has no time zone: `%z` and `%Z`
/// are empty. An unknown directive stays as it is.
pub(super) fn strftime(now: DateTime<FixedOffset>, format: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flags_end = after.find(|c| !"_-0^#".contains(c)).unwrap_or(after.len());
        let (flags, after_flags) = after.split_at(flags_end);
        let width_end = after_flags
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after_flags.len());
        let (width, after_width) = after_flags.split_at(width_end);
        let width: usize = width.parse().unwrap_or(0);
        if width > MAX_WIDTH {
            return Err(Fault::limit("the width of a field"));
        }
        // The C locale has no other form of dates and digits.
        let (modified, allowed) = match after_width.split_at_checked(1) {
            Some(("E", rest)) => (rest, "cCnpPrRstTuxXyYzZ%"),
            Some(("O", rest)) => (rest, "deHImMSuUVwWy"),
            _ => (after_width, ""),
        };
        let mut chars = modified.chars();
        let directive = chars.next();
        let directive = directive
            .filter(|c| allowed.is_empty() || allowed.contains(*c))
            // This one is Python's own, without flags.
            .filter(|c| *c != 'f' || after.starts_with('f'));
        match directive.and_then(|c| Some((c, field(now, c)?))) {
            Some((directive, text)) => {
                out.push_str(&adjust(directive, &text, flags, width));
                rest = chars.as_str();
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What a directive prints without flags.
fn field(now: DateTime<FixedOffset>, directive: char) -> Option<String> {
    let specifier = match directive {
        'f' => return Some(format!("{:06}", now.nanosecond() / 1000 % 1_000_000)),
        'Z' | 'z' => return Some(String::new()),
        'c' => "%a %b %e %H:%M:%S %Y",
        'x' => "%m/%d/%y",
        'X' => "%H:%M:%S",
        'r' => "%I:%M:%S %p",
        // The others mean the same to chrono.
        known if "aAbBCdDeFgGhHIjklmMnpPRsStTuUVwWyY%".contains(known) => &format!("%{known}"),
        _ => return None,
    };
    Some(now.format(specifier).to_string())
}

/// glibc's flags: `-` without padding, `_` and `0` with spaces and zeros, `^` in capitals, `#`
/// with the case swapped.
fn adjust(directive: char, text: &str, flags: &str, width: usize) -> String {
    if directive == 'z' {
        return String::new();
    }
    let numeric = "CdegGHIjklmMsSuUVwWyY".contains(directive);
    let mut text = text.to_owned();
    let padded = numeric && !"ekl".contains(directive);
    let mut fill = if padded { '0' } else { ' ' };
    for flag in flags.chars() {
        match flag {
            '^' if directive != 'P' => text = text.to_uppercase(),
            '^' => {}
            '#' if "pZ".contains(directive) => text = text.to_lowercase(),
            '#' if "aAbBh".contains(directive) => text = text.to_uppercase(),
            '#' => {}
            flag => fill = flag,
        }
    }
    let written = text.chars().count();
    let digits = text.trim_start_matches(['0', ' ']);
    let digits = match digits {
        "" => text.get(text.len().saturating_sub(1)..).unwrap_or_default(),
        digits => digits,
    };
    let text = if numeric { digits } else { &text };
    let least = if numeric && fill != '-' { written } else { 0 };
    let missing = width.max(least).saturating_sub(text.chars().count());
    let fill = if fill == '0' { '0' } else { ' ' };
    std::iter::repeat_n(fill, missing).collect::<String>() + text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_as_cpython_prints_them() {
        // `datetime(2024, 2, 9, 15, 4, 5, 678).strftime(..)` of CPython 3.11 on Linux.
        let at = UNIX_EPOCH + Duration::from_micros(1_707_483_845_000_678);
        let now = local_time(Some(at), Some(2 * 3600));
        for (format, expected) in [
            ("%a %A %b %B %h", "Fri Friday Feb February Feb"),
            ("%d %-d %e %_d %03d %5d", "09 9  9  9 009 00009"),
            ("%H %-I %I %k %l %M %S %p %P", "15 3 03 15  3 04 05 PM pm"),
            (
                "%j %U %W %V %G %g %u %w %C %y %Y",
                "040 05 06 06 2024 24 5 5 20 24 2024",
            ),
            (
                "%c|%x|%X|%r",
                "Fri Feb  9 15:04:05 2024|02/09/24|15:04:05|03:04:05 PM",
            ),
            (
                "%F %T %D %R %f",
                "2024-02-09 15:04:05 02/09/24 15:04 000678",
            ),
            ("%s", "1707483845"),
            ("[%z%Z] %n%t %%", "[] \n\t %"),
            ("%^a %^B %#p %#Z", "FRI FEBRUARY pm "),
            ("%Q %", "%Q %"),
            ("%Ey %Od %10a", "24 09        Fri"),
        ] {
            assert_eq!(strftime(now, format).unwrap(), expected, "{format}");
        }
        assert!(strftime(now, "%100000d").is_err());
    }
}
