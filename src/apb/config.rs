//! Which prefill strategy, over how many ranks.

use std::fmt;
use std::str::FromStr;

/// A prefill strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Causal attention on one rank.
    Full,
    /// Zigzag ring attention.
    Ring,
    /// DeepSpeed-Ulysses.
    Ulysses,
    /// Star Attention.
    Star,
    /// Anchor, passing and local blocks.
    Apb,
}

/// Why a method cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// No method has this name.
    #[error("unknown method `{name}`; the methods are full, ring, ulysses, star and apb")]
    Unknown {
        /// The name given.
        name: String,
    },
    /// This version does not split a prompt over ranks.
    #[error(
        "method `{method}` over {ranks} ranks is not in this version; use --method full, or 1 rank, \
         where every method is full attention"
    )]
    NotAvailable {
        /// The method asked for.
        method: Method,
        /// The ranks asked for.
        ranks: usize,
    },
    /// There is no rank to compute on.
    #[error("0 ranks were asked for; the least is 1")]
    NoRanks,
}

impl Method {
    /// All methods, in the order they are listed to a user.
    pub const ALL: [Self; 5] = [Self::Full, Self::Ring, Self::Ulysses, Self::Star, Self::Apb];

    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ring => "ring",
            Self::Ulysses => "ulysses",
            Self::Star => "star",
            Self::Apb => "apb",
        }
    }

    /// The method that is really computed on `ranks` ranks: with one rank every strategy is full
    /// attention, and full attention uses one rank.
    ///
    /// # Errors
    ///
    /// [`MethodError`] when the combination cannot be computed.
    pub fn on_ranks(self, ranks: usize) -> Result<Self, MethodError> {
        match (self, ranks) {
            (_, 0) => Err(MethodError::NoRanks),
            (Self::Full, _) | (_, 1) => Ok(Self::Full),
            (method, ranks) => Err(MethodError::NotAvailable { method, ranks }),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(name: &str) -> Result<Self, MethodError> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| MethodError::Unknown { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_one_rank_is_full() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            assert_eq!(method.on_ranks(1), Ok(Method::Full));
            assert_eq!(method.on_ranks(0), Err(MethodError::NoRanks));
        }
        assert_eq!(Method::Full.on_ranks(4), Ok(Method::Full));
        let refused = Method::Apb.on_ranks(4).unwrap_err();
        assert!(refused.to_string().contains("--method full"), "{refused}");
        assert!("flash".parse::<Method>().is_err());
    }
}
