//! The problems of `apb bench attention`.

use std::fmt;
use std::str::FromStr;

use burn_apb::kernels::Regions;

/// Ranks whose last one the `apb` case is: it has the most keys.
const RANKS: usize = 8;

/// Heads and their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("`{text}` is no shape; write it as 32/8x128, heads / KV heads x head dimension")
        };
        let (heads, rest) = text.split_once('/').ok_or_else(bad)?;
        let (kv_heads, head_dim) = rest.split_once('x').ok_or_else(bad)?;
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if (1..=1024).contains(&number) => Ok(number),
            _ => Err(bad()),
        };
        let shape = Self {
            heads: number(heads)?,
            kv_heads: number(kv_heads)?,
            head_dim: number(head_dim)?,
        };
        match shape.heads.is_multiple_of(shape.kv_heads) {
            true => Ok(shape),
            false => Err(format!("`{text}`: the KV heads do not divide the heads")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = format!("{}/{}x{}", self.heads, self.kv_heads, self.head_dim);
        f.pad(&shape)
    }
}

/// Which keys a row attends to.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Causal, as many rows as keys
    Causal,
    /// The rows of the last of eight ranks, with the paper's proportions of anchor and passing
    Apb,
    /// One row
    Decode,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Rows, keys, and which rows attend to which keys.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    pub seq_q: usize,
    pub seq_kv: usize,
    pub regions: Regions,
    /// Pairs of a row and a visible key, per head.
    pub pairs: f64,
}

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Apb => "apb",
            Self::Decode => "decode",
        }
    }

    /// The problem of a document of `tokens` tokens.
    pub fn problem(self, tokens: usize) -> Problem {
        let triangle = |n: usize| n as f64 * (n as f64 + 1.0) / 2.0;
        let causal = Regions::causal();
        match self {
            Self::Causal => Problem {
                seq_q: tokens,
                seq_kv: tokens,
                regions: causal,
                pairs: triangle(tokens),
            },
            Self::Decode => Problem {
                seq_q: 1,
                seq_kv: tokens,
                regions: causal,
                pairs: tokens as f64,
            },
            Self::Apb => {
                let block = (tokens / RANKS).max(1);
                let anchor = block / 4;
                let passing = (RANKS - 1) * (block / 8);
                Problem {
                    seq_q: anchor + block,
                    seq_kv: passing + anchor + block,
                    regions: Regions {
                        passing,
                        anchor,
                        causal: true,
                    },
                    pairs: triangle(anchor)
                        + block as f64 * (anchor + passing) as f64
                        + triangle(block),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn shapes_are_read_or_refused() {
        let shape: Shape = "32/8x128".parse().unwrap();
        assert_eq!((shape.heads, shape.kv_heads, shape.head_dim), (32, 8, 128));
        for bad in ["32", "32/8", "32/5x128", "0/0x8", "8/2x9999999999", "a/bxc"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }

    /// The pairs counted are those that the regions make visible.
    #[test]
    fn counted_pairs_are_the_visible_ones() {
        for &case in Case::value_variants() {
            for tokens in [1, 7, 64, 300] {
                let problem = case.problem(tokens);
                let (seq_q, seq_kv) = (problem.seq_q, problem.seq_kv);
                problem.regions.validate(seq_q, seq_kv).unwrap();
                let visible = |row| problem.regions.visible_keys(row, seq_q, seq_kv).len();
                let counted: usize = (0..seq_q).map(visible).sum();
                assert_eq!(counted as f64, problem.pairs, "{case:?} {tokens}");
            }
        }
    }

    /// 128K tokens on eight ranks, as the paper cuts them.
    #[test]
    fn the_last_rank_of_a_long_document() {
        let problem = Case::Apb.problem(131_072);
        assert_eq!(
            (problem.regions.anchor, problem.regions.passing),
            (4096, 7 * 2048)
        );
        assert_eq!(problem.seq_q, 4096 + 16_384);
    }
}
