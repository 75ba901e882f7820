//! Which prefill strategy, over how many ranks, with which lengths: asked for, then checked.
//!
//! All lengths of a prefill live in one [`PrefillPlan`], which only [`PrefillConfig::plan`] makes, so
//! that no two parts of the program can disagree about them.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::DecoderConfig;

/// Part of a block that the anchor takes by default: `l_a = l_b / 4`, as in the paper's settings.
const BLOCKS_PER_ANCHOR: usize = 4;
/// Part of a block that each rank passes by default: `l_p = l_b / 8`.
const BLOCKS_PER_PASSING: usize = 8;
/// Longest default anchor and passing block, in tokens: the paper's at 512K.
const MAX_DEFAULT_LENGTH: usize = 8192;

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

    /// Whether the result is that of full attention, but for rounding.
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Full | Self::Ring | Self::Ulysses)
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
        /// Their safetensors file.
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
}

impl CompressorConfig {
    /// The name used on the command line and in results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retaining { .. } => "retaining",
            Self::QueryAware => "query-aware",
            Self::Random { .. } => "random",
        }
    }
}

/// A document in tokens, with what the anchor needs to know about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// What stands before the document, and the document: all that is prefilled.
    pub tokens: Vec<u32>,
    /// How many of the tokens stand before the document's own text; the anchor's query goes behind
    /// them. Written `s` in the method.
    pub prefix: usize,
    /// The query that every rank sees in its anchor; may be empty.
    pub anchor_query: Vec<u32>,
}

impl Document {
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

/// Lengths that fit a document, ranks and a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PrefillPlan {
    /// What is computed: [`Method::Full`] whenever there is one rank.
    pub method: Method,
    /// What was asked for.
    pub asked: Method,
    /// Ranks.
    pub ranks: usize,
    /// Tokens of the document.
    pub tokens: usize,
    /// How ring attention shares out the document.
    pub ring_layout: RingLayout,
    /// Rows of the anchor: `l_a` of APB, a block of Star, else 0.
    pub anchor: usize,
    /// Rows of the anchor that hold its query.
    pub anchor_query: Range<usize>,
    /// Rows that each rank but the last passes on for each KV head.
    pub passing: usize,
    /// What chooses them.
    pub compressor: CompressorConfig,
}

/// Lengths, ranks or a method that cannot be used, and the nearest that can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is nothing to prefill.
    #[error("the document has no tokens")]
    EmptyDocument,
    /// There is no rank to compute on.
    #[error("0 ranks were asked for; the least is 1")]
    NoRanks,
    /// The blocks before the last hold the whole document already.
    #[error(
        "{ranks} ranks leave nothing of {tokens} tokens for the last rank; the nearest number of \
         ranks that works is {nearest}"
    )]
    EmptyLastRank {
        /// Ranks asked for.
        ranks: usize,
        /// Tokens of the document.
        tokens: usize,
        /// The nearest number of ranks that leaves none empty.
        nearest: usize,
    },
    /// A rank has fewer rows to choose from than it must pass on.
    #[error(
        "rank {rank} has {selectable} rows to choose from, fewer than the {passing} to pass on; use \
         --passing {selectable} or less"
    )]
    TooFewSelectable {
        /// The rank.
        rank: usize,
        /// Its rows that stand in nobody's anchor.
        selectable: usize,
        /// Rows to pass on.
        passing: usize,
    },
    /// The query in the anchor leaves no room, or more than the anchor.
    #[error(
        "the anchor's query has {query} tokens, the anchor only {anchor}; use --anchor {nearest} or \
         more, or a shorter anchor query"
    )]
    AnchorQueryTooLong {
        /// Tokens of the anchor's query.
        query: usize,
        /// Rows of the anchor.
        anchor: usize,
        /// The shortest anchor that holds prefix and query.
        nearest: usize,
    },
    /// What stands before the document does not fit in front of the anchor's query.
    #[error(
        "the anchor's query would stand behind {offset} tokens, but an anchor of {anchor} with a \
         query of {query} has room for {most} before it; use --anchor {nearest} or more"
    )]
    OffsetOutsideAnchor {
        /// Tokens before the document's own text.
        offset: usize,
        /// Rows of the anchor.
        anchor: usize,
        /// Tokens of the anchor's query.
        query: usize,
        /// The most that there is room for.
        most: usize,
        /// The shortest anchor that holds prefix and query.
        nearest: usize,
    },
    /// The anchor needs more document tokens than there are.
    #[error(
        "an anchor of {anchor} rows takes {needed} of the document's {tokens} tokens; use --anchor \
         {nearest} or less"
    )]
    AnchorTooLong {
        /// Rows of the anchor.
        anchor: usize,
        /// Document tokens in it.
        needed: usize,
        /// Tokens of the document.
        tokens: usize,
        /// The longest anchor.
        nearest: usize,
    },
    /// The query-aware compressor has no query to be aware of.
    #[error(
        "the query-aware compressor needs a query in the anchor; give one with --anchor-query, or \
         use --compressor retaining"
    )]
    QueryAwareWithoutQuery,
    /// Ulysses splits heads, and they cannot be split so.
    #[error(
        "ulysses gives each rank the same number of heads, but {ranks} ranks do not divide \
         {heads} heads; the nearest number of ranks that does is {nearest}"
    )]
    UlyssesHeads {
        /// Ranks asked for.
        ranks: usize,
        /// Query heads of the model.
        heads: usize,
        /// The nearest divisor of the heads that leaves no rank empty.
        nearest: usize,
    },
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

    /// The same with another ring layout.
    pub fn with_ring_layout(mut self, layout: RingLayout) -> Self {
        self.ring_layout = layout;
        self
    }

    /// Checks the settings against a document and a model and fills in the lengths not given.
    ///
    /// # Errors
    ///
    /// [`PlanError`], with the nearest setting that works.
    pub fn plan(
        &self,
        document: &Document,
        model: &DecoderConfig,
    ) -> Result<PrefillPlan, PlanError> {
        let tokens = document.tokens.len();
        if tokens == 0 {
            return Err(PlanError::EmptyDocument);
        }
        if self.ranks == 0 {
            return Err(PlanError::NoRanks);
        }
        let mut plan = PrefillPlan {
            method: self.method,
            asked: self.method,
            ranks: self.ranks,
            tokens,
            ring_layout: self.ring_layout,
            anchor: 0,
            anchor_query: 0..0,
            passing: 0,
            compressor: self.compressor.clone(),
        };
        if self.method == Method::Full || self.ranks == 1 {
            plan.method = Method::Full;
            plan.ranks = 1;
            return Ok(plan);
        }
        plan.check_ranks(model.num_attention_heads)?;
        match self.method {
            Method::Full | Method::Ring | Method::Ulysses => {}
            Method::Star => plan.anchor = plan.block(),
            Method::Apb => {
                let query = document.anchor_query.len();
                let (anchor, passing) = default_lengths(plan.block(), document.prefix, query);
                plan.anchor = self.anchor.unwrap_or(anchor.min(tokens + query));
                plan.anchor_query = document.prefix..document.prefix + query;
                plan.passing = self
                    .passing
                    .unwrap_or_else(|| passing.min(plan.fewest_selectable()));
                plan.check_lengths()?;
            }
        }
        Ok(plan)
    }
}

/// Default `l_a` and `l_p` for blocks of `block` tokens: the paper's, and for short documents at
/// least so much that the anchor holds prefix and query and as much of the document.
fn default_lengths(block: usize, prefix: usize, query: usize) -> (usize, usize) {
    let anchor = (block / BLOCKS_PER_ANCHOR).min(MAX_DEFAULT_LENGTH);
    let passing = (block / BLOCKS_PER_PASSING).min(MAX_DEFAULT_LENGTH);
    (anchor.max(2 * (prefix + query)), passing)
}

impl PrefillPlan {
    /// Tokens of a block, `l_b = ceil(n / H)`; the last rank's may be shorter.
    pub fn block(&self) -> usize {
        self.tokens.div_ceil(self.ranks)
    }

    /// The document's first token that is in nobody's anchor.
    pub fn first_selectable(&self) -> usize {
        // A query longer than the anchor is refused before this matters.
        self.anchor.saturating_sub(self.anchor_query.len())
    }

    /// The document rows that rank `rank` may pass on; only ranks before the last do.
    pub fn selectable(&self, rank: usize) -> Range<usize> {
        let start = rank * self.block();
        let end = (start + self.block()).min(self.tokens);
        match rank {
            0 => self.first_selectable().clamp(start, end)..end,
            _ => start..end,
        }
    }

    /// The document ranges that rank `rank` owns, in the order it holds them.
    pub fn owned(&self, rank: usize) -> Vec<Range<usize>> {
        if self.method == Method::Ring && self.ring_layout == RingLayout::Zigzag {
            let chunks = 2 * self.ranks;
            // Sizes that differ by one at most: equal work is what this layout is for.
            let at = |chunk: usize| chunk * self.tokens / chunks;
            return [rank, chunks - 1 - rank]
                .map(|chunk| at(chunk)..at(chunk + 1))
                .to_vec();
        }
        let start = (rank * self.block()).min(self.tokens);
        let end = (start + self.block()).min(self.tokens);
        std::iter::once(start..end).collect()
    }

    /// Rows of the document that rank `rank` owns.
    pub fn owned_len(&self, rank: usize) -> usize {
        self.owned(rank).iter().map(ExactSizeIterator::len).sum()
    }

    /// Why the method that is computed is another than the one asked for.
    pub fn note(&self) -> Option<String> {
        (self.method != self.asked).then(|| format!("{} with 1 rank is full attention", self.asked))
    }

    fn fewest_selectable(&self) -> usize {
        (0..self.ranks - 1)
            .map(|rank| self.selectable(rank).len())
            .min()
            .unwrap_or(0)
    }

    /// Every rank must own rows, and under Ulysses as many heads as any other.
    fn check_ranks(&self, heads: usize) -> Result<(), PlanError> {
        let zigzag = self.method == Method::Ring && self.ring_layout == RingLayout::Zigzag;
        let rows = |ranks: usize| match zigzag {
            true => 2 * ranks <= self.tokens,
            false => (ranks - 1) * self.tokens.div_ceil(ranks) < self.tokens,
        };
        let split = |ranks: usize| self.method != Method::Ulysses || heads.is_multiple_of(ranks);
        // No more ranks than tokens can work, so a wild number costs no wild search.
        let nearest = || nearest(self.ranks, self.tokens, |n| n == 1 || (rows(n) && split(n)));
        if !split(self.ranks) {
            return Err(PlanError::UlyssesHeads {
                ranks: self.ranks,
                heads,
                nearest: nearest(),
            });
        }
        if self.ranks > self.tokens || !rows(self.ranks) {
            return Err(PlanError::EmptyLastRank {
                ranks: self.ranks,
                tokens: self.tokens,
                nearest: nearest(),
            });
        }
        Ok(())
    }

    fn check_lengths(&self) -> Result<(), PlanError> {
        let (anchor, query) = (self.anchor, self.anchor_query.len());
        let offset = self.anchor_query.start;
        if self.compressor == CompressorConfig::QueryAware && query == 0 {
            return Err(PlanError::QueryAwareWithoutQuery);
        }
        let shortest = offset + query;
        if query > anchor {
            return Err(PlanError::AnchorQueryTooLong {
                query,
                anchor,
                nearest: shortest,
            });
        }
        if shortest > anchor {
            return Err(PlanError::OffsetOutsideAnchor {
                offset,
                anchor,
                query,
                most: anchor - query,
                nearest: shortest,
            });
        }
        if anchor - query > self.tokens {
            return Err(PlanError::AnchorTooLong {
                anchor,
                needed: anchor - query,
                tokens: self.tokens,
                nearest: self.tokens + query,
            });
        }
        for rank in 0..self.ranks - 1 {
            let selectable = self.selectable(rank).len();
            if selectable < self.passing {
                // The rank with the fewest decides what can be passed.
                let fewest = self.fewest_selectable();
                let rank = (0..self.ranks - 1)
                    .find(|rank| self.selectable(*rank).len() == fewest)
                    .unwrap_or(rank);
                return Err(PlanError::TooFewSelectable {
                    rank,
                    selectable: fewest,
                    passing: self.passing,
                });
            }
        }
        Ok(())
    }
}

/// The number up to `most` nearest to `wanted` that `fits`; the smaller of two. 1 always fits.
fn nearest(wanted: usize, most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let below = (1..=wanted.min(most)).rev().find(|n| fits(*n)).unwrap_or(1);
    let reach = wanted - below;
    let last = most.min(wanted.saturating_add(reach.saturating_sub(1)));
    (wanted.saturating_add(1)..=last)
        .find(|n| fits(*n))
        .unwrap_or(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn model() -> DecoderConfig {
        DecoderConfig::new(Architecture::Llama, 512, 96, 128, 2, 6, 2, 16)
    }

    fn plan(config: &PrefillConfig, document: &Document) -> Result<PrefillPlan, PlanError> {
        config.plan(document, &model())
    }

    fn tokens(n: usize) -> Document {
        Document::new(vec![1; n])
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

    #[test]
    fn one_rank_is_full_attention_and_says_so() {
        for method in Method::ALL {
            let plan = plan(&PrefillConfig::new(method, 1), &tokens(5)).unwrap();
            assert_eq!((plan.method, plan.ranks), (Method::Full, 1));
            assert_eq!(plan.note().is_some(), method != Method::Full);
        }
        let full = plan(&PrefillConfig::new(Method::Full, 4), &tokens(5)).unwrap();
        assert_eq!((full.ranks, full.note()), (1, None));
        assert_eq!(
            plan(&PrefillConfig::new(Method::Star, 0), &tokens(5)),
            Err(PlanError::NoRanks)
        );
    }

    /// The paper's settings for 8 ranks.
    #[test]
    fn default_lengths_are_the_papers() {
        for (k, anchor, passing) in [
            (32, 1024, 512),
            (64, 2048, 1024),
            (128, 4096, 2048),
            (256, 8192, 4096),
            (512, 8192, 8192),
        ] {
            let document = tokens(k << 10).with_anchor_query([7; 20]);
            let plan = plan(&PrefillConfig::new(Method::Apb, 8), &document).unwrap();
            assert_eq!((plan.anchor, plan.passing), (anchor, passing), "{k}K");
        }
    }

    #[test]
    fn default_lengths_of_short_documents_can_be_used() {
        for n in 2..300 {
            for ranks in 2..9 {
                let document = tokens(n).with_prefix(n.min(3)).with_anchor_query([7; 6]);
                match plan(&PrefillConfig::new(Method::Apb, ranks), &document) {
                    Ok(plan) => assert!(plan.anchor >= 6 + n.min(3)),
                    Err(PlanError::EmptyLastRank { nearest, .. }) => {
                        let nearest = PrefillConfig::new(Method::Apb, nearest);
                        assert!(plan(&nearest, &document).is_ok());
                    }
                    Err(error) => panic!("{n} tokens, {ranks} ranks: {error}"),
                }
            }
        }
    }

    #[test]
    fn the_nearest_number_of_ranks_works() {
        let refused = |method, ranks, n| plan(&PrefillConfig::new(method, ranks), &tokens(n));
        assert_eq!(
            refused(Method::Star, 4, 9),
            Err(PlanError::EmptyLastRank {
                ranks: 4,
                tokens: 9,
                nearest: 3
            })
        );
        assert_eq!(
            refused(Method::Ring, 5, 9),
            Err(PlanError::EmptyLastRank {
                ranks: 5,
                tokens: 9,
                nearest: 4
            })
        );
        assert_eq!(
            refused(Method::Star, usize::MAX, 9),
            Err(PlanError::EmptyLastRank {
                ranks: usize::MAX,
                tokens: 9,
                nearest: 9
            })
        );
        assert_eq!(
            refused(Method::Ulysses, 4, 100),
            Err(PlanError::UlyssesHeads {
                ranks: 4,
                heads: 6,
                nearest: 3
            })
        );
        assert_eq!(
            refused(Method::Ulysses, 5, 100),
            Err(PlanError::UlyssesHeads {
                ranks: 5,
                heads: 6,
                nearest: 6
            })
        );
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused_with_one_that_does() {
        let apb = |anchor, passing| {
            PrefillConfig::new(Method::Apb, 4)
                .with_anchor(anchor)
                .with_passing(passing)
        };
        let document = tokens(40).with_anchor_query([1, 2, 3]);
        assert_eq!(
            plan(&apb(2, 2), &document),
            Err(PlanError::AnchorQueryTooLong {
                query: 3,
                anchor: 2,
                nearest: 3
            })
        );
        assert_eq!(
            plan(&apb(6, 2), &document.clone().with_prefix(4)),
            Err(PlanError::OffsetOutsideAnchor {
                offset: 4,
                anchor: 6,
                query: 3,
                most: 3,
                nearest: 7
            })
        );
        assert_eq!(
            plan(&apb(6, 8), &document),
            Err(PlanError::TooFewSelectable {
                rank: 0,
                selectable: 7,
                passing: 8
            })
        );
        assert_eq!(
            plan(&apb(3, 11), &document),
            Err(PlanError::TooFewSelectable {
                rank: 0,
                selectable: 10,
                passing: 11
            })
        );
        assert_eq!(
            plan(&apb(44, 0), &document),
            Err(PlanError::AnchorTooLong {
                anchor: 44,
                needed: 41,
                tokens: 40,
                nearest: 43
            })
        );
        assert_eq!(
            plan(&apb(6, 2), &tokens(40)),
            Err(PlanError::QueryAwareWithoutQuery)
        );
        let random = apb(6, 2).with_compressor(CompressorConfig::Random { seed: 1 });
        assert!(plan(&random, &tokens(40)).is_ok());
    }

    #[test]
    fn every_token_is_owned_once() {
        for method in [Method::Ring, Method::Star] {
            for layout in [RingLayout::Zigzag, RingLayout::Contiguous] {
                for n in 1..60 {
                    for ranks in 1..9 {
                        let config = PrefillConfig::new(method, ranks).with_ring_layout(layout);
                        let Ok(plan) = plan(&config, &tokens(n)) else {
                            continue;
                        };
                        let mut owned: Vec<usize> = (0..plan.ranks)
                            .flat_map(|rank| {
                                let rows: Vec<usize> =
                                    plan.owned(rank).into_iter().flatten().collect();
                                assert!(!rows.is_empty(), "{plan:?} rank {rank}");
                                rows
                            })
                            .collect();
                        owned.sort_unstable();
                        assert_eq!(owned, (0..n).collect::<Vec<_>>(), "{plan:?}");
                    }
                }
            }
        }
    }
}
