//! Lengths that fit a document, ranks and a model, or why there are none.
//!
//! All lengths of a prefill live in one [`PrefillPlan`], which only [`PrefillConfig::plan`] makes, so
//! that no two parts of the program can disagree about them.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::compressor::{Compressor, CompressorError};
use super::config::{
    CompressorConfig, Document, DocumentLengths, Method, PrefillConfig, RingLayout,
};
use crate::model::AttentionShape;

/// Part of a block that the anchor takes by default: `l_a = l_b / 4`, as in the paper's settings.
const BLOCKS_PER_ANCHOR: usize = 4;
/// Part of a block that each rank passes by default: `l_p = l_b / 8`.
const BLOCKS_PER_PASSING: usize = 8;
/// Longest default anchor and passing block, in tokens: the paper's at 512K.
const MAX_DEFAULT_LENGTH: usize = 8192;

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
        /// Its rows that stand in no rank's anchor.
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
        "the query-aware compressor needs a query in the anchor; give one (--anchor-query, in Rust \
         `hint` or `anchor_query`), or use retaining heads"
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
    /// Checks the settings against a document and a model and fills in the lengths not given.
    ///
    /// # Errors
    ///
    /// [`PlanError`], with the nearest setting that works.
    pub fn plan(
        &self,
        document: &Document,
        shape: impl Into<AttentionShape>,
    ) -> Result<PrefillPlan, PlanError> {
        self.plan_lengths(&document.lengths(), shape)
    }

    /// The same for a document of which only the lengths are known.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan).
    pub fn plan_lengths(
        &self,
        document: &DocumentLengths,
        shape: impl Into<AttentionShape>,
    ) -> Result<PrefillPlan, PlanError> {
        let tokens = document.tokens;
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
        plan.check_ranks(shape.into().heads)?;
        match self.method {
            Method::Full | Method::Ring | Method::Ulysses => {}
            Method::Star => plan.anchor = plan.block(),
            Method::Apb => {
                let query = document.anchor_query;
                let (anchor, passing) = default_lengths(plan.block(), document.prefix, query);
                plan.anchor = self
                    .anchor
                    .unwrap_or(anchor.min(tokens.saturating_add(query)));
                plan.anchor_query = document.prefix..document.prefix.saturating_add(query);
                plan.passing = self
                    .passing
                    .unwrap_or_else(|| passing.min(plan.fewest_selectable().map_or(0, |f| f.0)));
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
    let least = prefix.saturating_add(query).saturating_mul(2);
    (anchor.max(least), passing)
}

impl PrefillPlan {
    /// Tokens of a block, `l_b = ceil(n / H)`; the last rank's may be shorter.
    pub fn block(&self) -> usize {
        self.tokens.div_ceil(self.ranks.max(1))
    }

    /// The document's first token that is in no rank's anchor.
    pub fn first_selectable(&self) -> usize {
        // A query longer than the anchor is refused before this matters.
        self.anchor.saturating_sub(self.anchor_query.len())
    }

    /// The document rows that rank `rank` may pass on; only ranks before the last do. None where the plan has
    /// no such rank.
    pub fn selectable(&self, rank: usize) -> Range<usize> {
        let start = rank.saturating_mul(self.block()).min(self.tokens);
        let end = start.saturating_add(self.block()).min(self.tokens);
        match rank {
            0 => self.first_selectable().clamp(start, end)..end,
            _ => start..end,
        }
    }

    /// The document ranges that rank `rank` owns, in the order it holds them; none where the plan has no such
    /// rank.
    pub fn owned(&self, rank: usize) -> Vec<Range<usize>> {
        if rank >= self.ranks {
            return Vec::new();
        }
        if self.method == Method::Ring && self.ring_layout == RingLayout::Zigzag {
            let chunks = self.ranks.saturating_mul(2);
            // Sizes that differ by one at most: equal work is what this layout is for.
            let at = |chunk: usize| (chunk as u128 * self.tokens as u128 / chunks as u128) as usize;
            return [rank, chunks - 1 - rank]
                .map(|chunk| at(chunk)..at(chunk + 1))
                .to_vec();
        }
        let start = rank.saturating_mul(self.block()).min(self.tokens);
        let end = start.saturating_add(self.block()).min(self.tokens);
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

    /// Gives a plan that was read from JSON, as that of a saved session or of a request that was
    /// broadcast, the custom compressor that it names.
    ///
    /// # Errors
    ///
    /// [`CompressorError::OtherCompressor`] where the plan names another.
    pub fn set_custom_compressor(
        &mut self,
        compressor: Arc<dyn Compressor>,
    ) -> Result<(), CompressorError> {
        self.compressor.check_name(&*compressor)?;
        self.compressor = CompressorConfig::Custom(compressor.into());
        Ok(())
    }

    /// Checks a plan again that may have been changed, or read, since it was made.
    pub(super) fn check(&self, heads: usize) -> Result<(), PlanError> {
        if self.tokens == 0 {
            return Err(PlanError::EmptyDocument);
        }
        if self.ranks == 0 {
            return Err(PlanError::NoRanks);
        }
        self.check_ranks(heads)?;
        let expected = match self.method {
            Method::Apb => return self.check_lengths(),
            Method::Star => self.block(),
            Method::Full | Method::Ring | Method::Ulysses => 0,
        };
        match self.anchor == expected {
            true => Ok(()),
            false => Err(PlanError::AnchorTooLong {
                anchor: self.anchor,
                needed: self.anchor,
                tokens: self.tokens,
                nearest: expected,
            }),
        }
    }

    /// The rows that the rank with the fewest may pass on, and the first such rank; none of a single rank. From the
    /// second rank on all have a whole block but the last of those that pass, which tells whether one has less.
    fn fewest_selectable(&self) -> Option<(usize, usize)> {
        let passes = |rank: &usize| *rank < self.ranks.saturating_sub(1);
        let telling = [0, 1, self.ranks.saturating_sub(2)];
        let lengths = telling.into_iter().filter(passes);
        lengths
            .map(|rank| (self.selectable(rank).len(), rank))
            .min()
    }

    /// Every rank must own rows, and under Ulysses as many heads as any other.
    fn check_ranks(&self, heads: usize) -> Result<(), PlanError> {
        let zigzag = self.method == Method::Ring && self.ring_layout == RingLayout::Zigzag;
        let rows = |ranks: usize| match zigzag {
            true => ranks.saturating_mul(2) <= self.tokens,
            false => (ranks - 1).saturating_mul(self.tokens.div_ceil(ranks)) < self.tokens,
        };
        let split = |ranks: usize| self.method != Method::Ulysses || heads.is_multiple_of(ranks);
        let nearest = || match self.method {
            // No more ranks than heads can work, so a wild number costs no wild search.
            Method::Ulysses => {
                let most = self.tokens.min(heads);
                nearest(self.ranks, most, |n| n == 1 || (rows(n) && split(n)))
            }
            _ if zigzag => self.ranks.min(self.tokens / 2).max(1),
            _ => nearest_blocks(self.ranks, self.tokens),
        };
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
        let scored = self.passing > 0;
        if scored && self.compressor == CompressorConfig::QueryAware && query == 0 {
            return Err(PlanError::QueryAwareWithoutQuery);
        }
        let shortest = offset.saturating_add(query);
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
                nearest: self.tokens.saturating_add(query),
            });
        }
        // The rank with the fewest decides what can be passed.
        match self.fewest_selectable() {
            Some((selectable, rank)) if selectable < self.passing => {
                Err(PlanError::TooFewSelectable {
                    rank,
                    selectable,
                    passing: self.passing,
                })
            }
            _ => Ok(()),
        }
    }
}

/// The number of blocks nearest to `wanted` that leaves none of them empty; the smaller of two.
fn nearest_blocks(wanted: usize, tokens: usize) -> usize {
    // As many as blocks of some length: of this one's, and of the next shorter.
    let block = tokens.div_ceil(wanted.max(1)).max(1);
    let below = tokens.div_ceil(block).max(1);
    match block - 1 {
        0 => below,
        shorter => {
            let above = tokens.div_ceil(shorter);
            match above.abs_diff(wanted) < wanted.abs_diff(below) {
                true => above,
                false => below,
            }
        }
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
    use crate::model::{Architecture, DecoderConfig};

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

    /// The short ways give what looking at every number gives.
    #[test]
    fn no_number_of_ranks_is_searched_for_long() {
        for n in 1usize..80 {
            let works = |ranks: usize| ranks == 1 || (ranks - 1) * n.div_ceil(ranks) < n;
            for ranks in 1..100 {
                assert_eq!(nearest_blocks(ranks, n), nearest(ranks, n, works));
                let settings = PrefillConfig::new(Method::Apb, ranks)
                    .with_compressor(CompressorConfig::Random { seed: 0 });
                let Ok(found) = plan(&settings, &tokens(n)) else {
                    continue;
                };
                let lengths = (0..found.ranks - 1).map(|rank| found.selectable(rank).len());
                let fewest = lengths.zip(0..).min();
                assert_eq!(found.fewest_selectable(), fewest, "{found:?}");
            }
        }
        let many = 100_000_000;
        let lengths = DocumentLengths::new(many).with_anchor_query(2);
        let settings = |method, ranks| PrefillConfig::new(method, ranks);
        assert!(
            settings(Method::Apb, many)
                .plan_lengths(&lengths, &model())
                .is_ok()
        );
        let refused = settings(Method::Star, many - 1).plan_lengths(&lengths, &model());
        let expected = PlanError::EmptyLastRank {
            ranks: many - 1,
            tokens: many,
            nearest: many,
        };
        assert_eq!(refused, Err(expected));
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
        assert!(plan(&apb(6, 0), &tokens(40)).is_ok());
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

    /// As they stand in saved sessions of version 0.1.0.
    #[test]
    fn stored_plans_are_read() {
        let random = CompressorConfig::Random { seed: 7 };
        let retaining = CompressorConfig::Retaining {
            heads: "heads.safetensors".into(),
        };
        for (stored, compressor) in [
            (r#""query-aware""#, CompressorConfig::QueryAware),
            (r#"{"random":{"seed":7}}"#, random),
            (r#"{"retaining":{"heads":"heads.safetensors"}}"#, retaining),
        ] {
            let json = format!(
                r#"{{"method":"apb","asked":"apb","ranks":4,"tokens":40,"ring_layout":"zigzag",
                "anchor":6,"anchor_query":{{"start":0,"end":3}},"passing":2,"compressor":{stored}}}"#
            );
            let config = PrefillConfig::new(Method::Apb, 4)
                .with_anchor(6)
                .with_passing(2)
                .with_compressor(compressor);
            let document = tokens(40).with_anchor_query([1, 2, 3]);
            let expected = plan(&config, &document).unwrap();
            assert_eq!(
                serde_json::from_str::<PrefillPlan>(&json).unwrap(),
                expected
            );
        }
    }
}
