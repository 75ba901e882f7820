//! Which prefill strategy, over how many ranks, with which lengths, as a user asks for it; a
//! [`PrefillPlan`](super::PrefillPlan) is what comes of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::compressor::{Compressor, CompressorError, CustomCompressor};

/// A prefill strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Method {
    /// Causal attention on one rank.
    Full,
    /// Ring attention (arXiv 2310.01889): keys and values go round, partial results are merged.
    Ring,
    /// DeepSpeed-Ulysses (arXiv 2309.14509): each rank attends over everything for some heads.
    Ulysses,
    /// Star Attention (arXiv 2411.17116): the first block as an anchor, no exchange.
    Star,
    /// Anchor, passing and local blocks (arXiv 2502.12085).
    Apb,
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
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| UnknownName {
            what: "method",
            name: name.into(),
            known: "full, ring, ulysses, star and apb",
        })
    }
}

/// How ring attention shares out the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RingLayout {
    /// Rank `r` owns chunks `r` and `2H - 1 - r` of `2H`: equal work for all.
    #[default]
    Zigzag,
    /// Rank `r` owns block `r`: the last rank works longest. The paper compared with this one.
    Contiguous,
}

impl RingLayout {
    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zigzag => "zigzag",
            Self::Contiguous => "contiguous",
        }
    }
}

impl FromStr for RingLayout {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        [Self::Zigzag, Self::Contiguous]
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| UnknownName {
                what: "ring layout",
                name: name.into(),
                known: "zigzag and contiguous",
            })
    }
}

/// A name that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{name}`; known are {known}")]
pub struct UnknownName {
    /// Method, layout or compressor.
    pub what: &'static str,
    /// The name given.
    pub name: String,
    /// What could have been meant.
    pub known: &'static str,
}

/// What chooses the keys and values that a rank passes on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CompressorConfig {
    /// Trained retaining heads (Locret, arXiv 2410.01805).
    Retaining {
        /// Their safetensors file. Where it is serialised, what is not UTF-8 in it is replaced.
        #[serde(serialize_with = "lossy")]
        heads: PathBuf,
    },
    /// The attention that the anchor's query pays; needs no training and no file.
    #[default]
    QueryAware,
    /// Random scores: the floor that any compressor has to beat.
    Random {
        /// Seed of the scores.
        seed: u64,
    },
    /// One of your own.
    Custom(CustomCompressor),
}

/// Writes a path as text. Serde's own way fails for one that is not UTF-8.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl CompressorConfig {
    /// The name used on the command line and in results.
    pub fn name(&self) -> &str {
        match self {
            Self::Retaining { .. } => "retaining",
            Self::QueryAware => "query-aware",
            Self::Random { .. } => "random",
            Self::Custom(custom) => custom.name(),
        }
    }

    /// Refuses a compressor of another name: results would be recorded under a false one.
    pub(super) fn check_name(&self, compressor: &dyn Compressor) -> Result<(), CompressorError> {
        let (planned, found) = (self.name(), compressor.name());
        match planned == found {
            true => Ok(()),
            false => Err(CompressorError::OtherCompressor {
                planned: planned.into(),
                found: found.into(),
            }),
        }
    }
}

/// A document in tokens, with what the anchor needs to know about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Document {
    /// What stands before the document, and the document: all that is prefilled.
    pub tokens: Vec<u32>,
    /// How many of the tokens stand before the document's own text; the anchor's query goes behind
    /// them. Written `s` in the method.
    pub prefix: usize,
    /// The query that every rank sees in its anchor; may be empty.
    pub anchor_query: Vec<u32>,
}

/// Lengths of a [`Document`], in tokens: all that a plan asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DocumentLengths {
    /// All that is prefilled.
    pub tokens: usize,
    /// What stands before the document's own text.
    pub prefix: usize,
    /// The query in the anchor.
    pub anchor_query: usize,
}

impl DocumentLengths {
    /// Tokens without a prefix or an anchor query.
    pub fn new(tokens: usize) -> Self {
        Self {
            tokens,
            ..Self::default()
        }
    }

    /// The same with `prefix` tokens before the document's own text.
    pub fn with_prefix(mut self, prefix: usize) -> Self {
        self.prefix = prefix;
        self
    }

    /// The same with a query of `tokens` tokens for the anchor.
    pub fn with_anchor_query(mut self, tokens: usize) -> Self {
        self.anchor_query = tokens;
        self
    }
}

impl Document {
    /// Its lengths.
    pub fn lengths(&self) -> DocumentLengths {
        DocumentLengths {
            tokens: self.tokens.len(),
            prefix: self.prefix,
            anchor_query: self.anchor_query.len(),
        }
    }

    /// Tokens without a prefix or an anchor query.
    pub fn new(tokens: impl Into<Vec<u32>>) -> Self {
        Self {
            tokens: tokens.into(),
            ..Self::default()
        }
    }

    /// The same with `prefix` tokens before the document's own text.
    pub fn with_prefix(mut self, prefix: usize) -> Self {
        self.prefix = prefix;
        self
    }

    /// The same with a query for the anchor.
    pub fn with_anchor_query(mut self, query: impl Into<Vec<u32>>) -> Self {
        self.anchor_query = query.into();
        self
    }
}

/// How to prefill, as a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefillConfig {
    /// The strategy.
    pub method: Method,
    /// Ranks to split the document over, `H`.
    pub ranks: usize,
    /// Only for [`Method::Ring`].
    pub ring_layout: RingLayout,
    /// Rows of the anchor with its query, `l_a`; none: a quarter of a block. Only for
    /// [`Method::Apb`].
    pub anchor: Option<usize>,
    /// Rows that each rank passes on for each KV head, `l_p`; none: an eighth of a block. Only for
    /// [`Method::Apb`].
    pub passing: Option<usize>,
    /// What chooses them. Only for [`Method::Apb`].
    pub compressor: CompressorConfig,
}

impl Default for PrefillConfig {
    fn default() -> Self {
        Self::new(Method::Full, 1)
    }
}

impl PrefillConfig {
    /// The method over `ranks` ranks, with the default lengths.
    pub fn new(method: Method, ranks: usize) -> Self {
        Self {
            method,
            ranks,
            ring_layout: RingLayout::default(),
            anchor: None,
            passing: None,
            compressor: CompressorConfig::default(),
        }
    }

    /// The same with an anchor of `rows`, its query included.
    pub fn with_anchor(mut self, rows: usize) -> Self {
        self.anchor = Some(rows);
        self
    }

    /// The same with `rows` passed on by each rank for each KV head; 0 turns passing off.
    pub fn with_passing(mut self, rows: usize) -> Self {
        self.passing = Some(rows);
        self
    }

    /// The same with another compressor.
    pub fn with_compressor(mut self, compressor: CompressorConfig) -> Self {
        self.compressor = compressor;
        self
    }

    /// The same with a compressor of your own. Plans and saved sessions record its name.
    pub fn with_custom_compressor(self, compressor: Arc<dyn Compressor>) -> Self {
        self.with_compressor(CompressorConfig::Custom(compressor.into()))
    }

    /// The same with another ring layout.
    pub fn with_ring_layout(mut self, layout: RingLayout) -> Self {
        self.ring_layout = layout;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_any_path_are_written() {
        let written =
            |heads: PathBuf| serde_json::to_string(&CompressorConfig::Retaining { heads }).unwrap();
        let expected = r#"{"retaining":{"heads":"a/b"}}"#;
        assert_eq!(written("a/b".into()), expected);
        #[cfg(unix)]
        {
            use std::ffi::OsStr;
            use std::os::unix::ffi::OsStrExt;

            let path = Path::new(OsStr::from_bytes(b"a/\xff"));
            let expected = "{\"retaining\":{\"heads\":\"a/\u{fffd}\"}}";
            assert_eq!(written(path.into()), expected);
        }
    }

    #[test]
    fn names_round_trip() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        let refused = "flash".parse::<Method>().unwrap_err().to_string();
        assert!(refused.contains("ulysses"), "{refused}");
        assert_eq!("zigzag".parse(), Ok(RingLayout::Zigzag));
        assert!("zig".parse::<RingLayout>().is_err());
    }
}
