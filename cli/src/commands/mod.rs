//! One file a command.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod convert_heads;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod fetch;
pub mod generate;
pub mod launch;
pub mod plan;
pub mod prefill;
pub mod session;
pub mod trace;
pub mod train_heads;

use crate::error::CliError;

/// Tokens that can be asked for at most: the longest context that a model may have.
const MOST_TOKENS: usize = 1 << 30;

/// Refuses a length of a document that no model has.
pub fn check_tokens(tokens: usize) -> Result<(), CliError> {
    match tokens > MOST_TOKENS {
        true => Err(CliError::usage(format!(
            "--tokens is {tokens}; the most is {MOST_TOKENS}"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_a_limit() {
        assert!(check_tokens(MOST_TOKENS).is_ok());
        let error = check_tokens(MOST_TOKENS + 1).unwrap_err().to_string();
        assert_eq!(error, "--tokens is 1073741825; the most is 1073741824");
    }
}
