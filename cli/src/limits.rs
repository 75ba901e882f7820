//! Values of flags that are refused: beyond a limit, named twice, or without a use.

use std::fmt::Display;

use crate::error::CliError;

/// Tokens that can be asked for at most: the longest context that a model may have.
const MOST_TOKENS: usize = 1 << 30;
/// Samples of a task and length at most, or of a document.
const MOST_SAMPLES: usize = 1 << 20;

/// Refuses a number of 0.
pub fn at_least_one(flag: &str, value: usize) -> Result<(), CliError> {
    match value {
        0 => Err(CliError::usage(format!("{flag} is 0; the least is 1"))),
        _ => Ok(()),
    }
}

/// Refuses a number above a limit.
pub fn at_most(flag: &str, value: usize, most: usize) -> Result<(), CliError> {
    match value > most {
        true => Err(CliError::usage(format!(
            "{flag} is {value}; the most is {most}"
        ))),
        false => Ok(()),
    }
}

/// Refuses a length of a document that no model has.
pub fn check_tokens(tokens: usize) -> Result<(), CliError> {
    at_most("--tokens", tokens, MOST_TOKENS)
}

/// Refuses a number of samples that nobody waits for.
pub fn check_samples(samples: usize) -> Result<(), CliError> {
    at_least_one("--samples", samples)?;
    at_most("--samples", samples, MOST_SAMPLES)
}

/// Refuses the first of the flags that was given: none of them has a use here, and `why` says what to do.
pub fn unused<const N: usize>(flags: [(&str, bool); N], why: &str) -> Result<(), CliError> {
    match flags.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(CliError::usage(format!("{flag} changes nothing {why}"))),
    }
}

/// The first value of a list that stands in it before.
pub fn twice<T: PartialEq>(list: &[T]) -> Option<&T> {
    let mut places = list.iter().enumerate();
    let found = places.find(|(place, value)| list[..*place].contains(value));
    found.map(|(_, value)| value)
}

/// Refuses a list that names a value twice.
pub fn distinct<'l, T: PartialEq + Display>(
    flag: &str,
    list: &'l [T],
) -> Result<&'l [T], CliError> {
    match twice(list) {
        None => Ok(list),
        Some(value) => Err(CliError::usage(format!("{flag} names {value} twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_limits() {
        assert!(check_tokens(MOST_TOKENS).is_ok());
        let error = check_tokens(MOST_TOKENS + 1).unwrap_err().to_string();
        assert_eq!(error, "--tokens is 1073741825; the most is 1073741824");
        assert!(check_samples(1).is_ok() && check_samples(MOST_SAMPLES).is_ok());
        for (samples, named) in [(0, "the least is 1"), (usize::MAX, "the most is 1048576")] {
            let error = check_samples(samples).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_first_unused_flag_is_named() {
        assert!(unused([("--a", false)], "here").is_ok());
        let error = unused([("--a", false), ("--b", true)], "here; leave it out").unwrap_err();
        assert_eq!(error.to_string(), "--b changes nothing here; leave it out");
    }

    #[test]
    fn a_list_names_a_value_once() {
        assert_eq!(distinct("--tokens", &[1, 2]).unwrap(), [1, 2]);
        let error = distinct("--methods", &["apb", "full", "apb"]).unwrap_err();
        assert_eq!(error.to_string(), "--methods names apb twice");
    }
}
