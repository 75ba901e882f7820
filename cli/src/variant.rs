//! A method as it is named in a comparison: with the layout or the compressor that sets it apart.

use std::fmt;
use std::str::FromStr;

use burn_apb::apb::{Method, RingLayout};

use crate::args::{CompressorName, Strategy};

/// A method, and what replaces the strategy's own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    pub method: Method,
    ring_layout: Option<RingLayout>,
    compressor: Option<CompressorName>,
}

/// Names beside those of the methods.
const NAMED: [(&str, Variant); 5] = [
    ("ring-zigzag", ring(RingLayout::Zigzag)),
    ("ring-contiguous", ring(RingLayout::Contiguous)),
    ("apb-retaining", apb(CompressorName::Retaining)),
    ("apb-query-aware", apb(CompressorName::QueryAware)),
    ("apb-random", apb(CompressorName::Random)),
];

const fn ring(layout: RingLayout) -> Variant {
    Variant {
        method: Method::Ring,
        ring_layout: Some(layout),
        compressor: None,
    }
}

const fn apb(compressor: CompressorName) -> Variant {
    Variant {
        method: Method::Apb,
        ring_layout: None,
        compressor: Some(compressor),
    }
}

impl Variant {
    /// The strategy with this method.
    pub fn of(&self, strategy: &Strategy) -> Strategy {
        let mut strategy = strategy.clone();
        strategy.method = Some(self.method);
        strategy.ring_layout = self.ring_layout.unwrap_or(strategy.ring_layout);
        if let Some(compressor) = self.compressor {
            strategy.compressor = Some(compressor);
            if compressor != CompressorName::Retaining {
                strategy.heads = None;
            }
        }
        strategy
    }
}

impl From<Method> for Variant {
    fn from(method: Method) -> Self {
        Self {
            method,
            ring_layout: None,
            compressor: None,
        }
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some((_, variant)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(*variant);
        }
        name.parse().map(Method::into).map_err(|_| {
            let names = NAMED.map(|(name, _)| name).join(", ");
            format!(
                "unknown method `{name}`; known are {}, {names}",
                Method::ALL.map(Method::name).join(", ")
            )
        })
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMED.iter().find(|(_, variant)| variant == self);
        f.write_str(named.map_or(self.method.name(), |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let names = NAMED.map(|(name, _)| name).into_iter();
        for name in names.chain(Method::ALL.map(Method::name)) {
            assert_eq!(name.parse::<Variant>().unwrap().to_string(), name);
        }
        let refused = "ring-star".parse::<Variant>().unwrap_err();
        assert!(refused.contains("ring-contiguous"), "{refused}");
    }
}
