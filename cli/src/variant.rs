//! A method as it is named in a comparison: with the layout or the compressor that sets it apart.

use std::fmt;
use std::str::FromStr;

use burn_apb::apb::{Method, RingLayout};

use crate::args::{Anchor, CompressorName, Strategy};
use crate::error::CliError;
use crate::limits;

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
        strategy.ring_layout = self.ring_layout.or(strategy.ring_layout);
        if let Some(compressor) = self.compressor {
            strategy.compressor = Some(compressor);
            if compressor != CompressorName::Retaining {
                strategy.heads = None;
            }
        }
        strategy
    }
}

/// A flag that none of the methods has a use for.
pub struct Unused {
    pub flag: &'static str,
    /// The methods that have one.
    pub of: &'static str,
}

/// The first flag of a strategy, or of its anchor, that none of the methods has a use for.
pub fn unused(strategy: &Strategy, anchor: Option<&Anchor>, methods: &[Variant]) -> Option<Unused> {
    let any = |used: &dyn Fn(&Variant) -> bool| methods.iter().any(used);
    let apb = any(&|v| v.method == Method::Apb);
    let with_own_compressor = any(&|v| v.method == Method::Apb && v.compressor.is_none());
    let heads = any(&|v| {
        let chosen = [None, Some(CompressorName::Retaining)];
        v.method == Method::Apb && chosen.contains(&v.compressor)
    });
    let ring = any(&|v| v.method == Method::Ring && v.ring_layout.is_none());
    let several = any(&|v| v.method != Method::Full);
    let (hint, no_hint) = anchor.map_or((false, false), |anchor| {
        (anchor.anchor_query.is_some(), anchor.no_anchor_query)
    });
    let flags = [
        (
            "--ranks",
            strategy.ranks.is_some_and(|ranks| ranks != 1),
            several,
            "ring, ulysses, star and apb",
        ),
        (
            "--ring-layout",
            strategy.ring_layout.is_some(),
            ring,
            "ring",
        ),
        ("--anchor", strategy.anchor.is_some(), apb, "apb"),
        ("--passing", strategy.passing.is_some(), apb, "apb"),
        (
            "--compressor",
            strategy.compressor.is_some(),
            with_own_compressor,
            "apb",
        ),
        (
            "--heads",
            strategy.heads.is_some(),
            heads,
            "apb with retaining heads",
        ),
        ("--anchor-query", hint, apb, "apb"),
        ("--no-anchor-query", no_hint, apb, "apb"),
    ];
    let mut flags = flags.into_iter();
    let found = flags.find(|(_, given, used, _)| *given && !used);
    found.map(|(flag, _, _, of)| Unused { flag, of })
}

/// Refuses flags of a strategy, and of its anchor, that none of the methods has a use for.
pub fn check_used(
    strategy: &Strategy,
    anchor: Option<&Anchor>,
    methods: &[Variant],
) -> Result<(), CliError> {
    let Some(Unused { flag, of }) = unused(strategy, anchor, methods) else {
        return Ok(());
    };
    let names: Vec<String> = methods.iter().map(Variant::to_string).collect();
    Err(CliError::usage(format!(
        "{flag} changes nothing for {}; it is for --method {of}: leave {flag} out, or choose such a method",
        names.join(", ")
    )))
}

/// Refuses what chooses the rows to pass on where none are passed.
pub fn check_passing(strategy: &Strategy) -> Result<(), CliError> {
    let none = strategy.passing == Some(0);
    let flags = [
        ("--compressor", none && strategy.compressor.is_some()),
        ("--heads", none && strategy.heads.is_some()),
    ];
    limits::unused(
        flags,
        "with --passing 0, by which no row is passed on; leave it out, or pass some",
    )
}

/// Refuses a seed where it is for the random compressor alone and none of the methods has that.
pub fn check_seed(strategy: &Strategy, methods: &[Variant]) -> Result<(), CliError> {
    let random = |method: &Variant| {
        let of = method.of(strategy);
        let chosen = of.compressor == Some(CompressorName::Random);
        method.method == Method::Apb && chosen && of.passing != Some(0)
    };
    limits::unused(
        [(
            "--seed",
            strategy.seed.is_some() && !methods.iter().any(random),
        )],
        "where nothing is random; it is for --method apb --compressor random, or leave it out",
    )
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

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        strategy: Strategy,
    }

    fn strategy(flags: &str) -> Strategy {
        let words = ["apb"].into_iter().chain(flags.split_whitespace());
        <Flags as clap::Parser>::parse_from(words).strategy
    }

    #[test]
    fn a_seed_is_for_random_rows_that_are_passed_on() {
        let methods = |names: &str| -> Vec<Variant> {
            let names = names
                .split(',')
                .map(|name| name.parse::<Variant>().unwrap());
            names.collect()
        };
        for (flags, names, used) in [
            ("", "full", true),
            ("--seed 0", "full,apb", false),
            ("--seed 0", "full,apb-random", true),
            ("--seed 0 --compressor random", "apb", true),
            ("--seed 0 --compressor random", "ring", false),
            ("--seed 0 --passing 0", "apb-random", false),
        ] {
            let found = check_seed(&strategy(flags), &methods(names));
            assert_eq!(found.is_ok(), used, "{flags}, {names}: {found:?}");
        }
    }
}
