//! Which rows a rank computes, at which positions.

use std::ops::Range;

use super::config::{Document, Method};
use super::plan::PrefillPlan;
use crate::ranks::Ranks;

/// The rows of one rank: `[anchor | local]`, the anchor only where this rank computes it.
///
/// The anchor's rows attend to nothing but the anchor, so they are the same on every rank that has
/// one. A process that drives several ranks computes them once, on the first that needs them; the
/// others use its keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankRows {
    /// The rank.
    pub rank: usize,
    /// Anchor rows computed here, at positions `0..anchor`.
    pub anchor: usize,
    /// Whether the local rows attend to the anchor, whoever computes it.
    pub sees_anchor: bool,
    /// The document ranges of the local rows, in the order they are computed; their positions.
    pub local: Vec<Range<usize>>,
    /// The rows of the process's cache that the local rows attend to as their own: themselves, and
    /// under full attention all before them.
    pub cached: Range<usize>,
}

impl RankRows {
    /// Rows of the document.
    pub fn local_len(&self) -> usize {
        self.local.iter().map(Range::len).sum()
    }

    /// All rows computed.
    pub fn len(&self) -> usize {
        self.anchor + self.local_len()
    }

    /// Whether there are none; a checked plan gives every rank some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of all rows, as ranges.
    pub fn positions(&self) -> Vec<Range<usize>> {
        let anchor = (self.anchor > 0).then_some(0..self.anchor);
        anchor.into_iter().chain(self.local.clone()).collect()
    }
}

/// Where the anchor's keys and values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorSource {
    /// No rank of this process needs an anchor.
    None,
    /// The anchor rows of this process's `n`-th rank.
    Rows(usize),
    /// Star's anchor is the first block: this process's first rank, rank 0, computes it anyway.
    FirstBlock,
}

/// The rows that one process computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Of each rank that it drives, in order.
    pub ranks: Vec<RankRows>,
    /// Who computes the anchor.
    pub anchor: AnchorSource,
    /// Document rows that all processes together compute in this pass.
    pub tokens: usize,
}

impl Layout {
    /// The rows of `ranks` under a plan. `anchor_everywhere`: rank 0, too, needs the anchor's rows,
    /// though its own rows do not attend to them.
    pub fn new(plan: &PrefillPlan, ranks: impl Into<Ranks>, anchor_everywhere: bool) -> Self {
        let ranks: Ranks = ranks.into();
        let mut anchor = AnchorSource::None;
        let mut cached = 0..0;
        let rows = ranks
            .enumerate()
            .map(|(index, rank)| {
                let sees_anchor = plan.anchor > 0 && rank > 0;
                let needs = sees_anchor || (anchor_everywhere && plan.anchor > 0);
                let mut computed = 0;
                if plan.method == Method::Star && rank == 0 {
                    anchor = AnchorSource::FirstBlock;
                } else if needs && anchor == AnchorSource::None {
                    anchor = AnchorSource::Rows(index);
                    computed = plan.anchor;
                }
                cached = cached.end..cached.end + plan.owned_len(rank);
                RankRows {
                    rank,
                    anchor: computed,
                    sees_anchor,
                    local: plan.owned(rank),
                    cached: cached.clone(),
                }
            })
            .collect();
        Self {
            ranks: rows,
            anchor,
            tokens: plan.tokens,
        }
    }

    /// The same rows, but every rank that attends to the anchor computes its rows, as ranks with a device of their own
    /// do: for measuring one rank's time.
    pub fn with_own_anchors(mut self, plan: &PrefillPlan) -> Self {
        for rows in self.ranks.iter_mut().filter(|rows| rows.sees_anchor) {
            rows.anchor = plan.anchor;
        }
        self
    }

    /// Rows of the document that this process owns.
    pub fn local_len(&self) -> usize {
        self.ranks.iter().map(RankRows::local_len).sum()
    }
}

/// The anchor's tokens: the document's head with the anchor's query put in behind the prefix.
pub fn anchor_tokens(plan: &PrefillPlan, document: &Document) -> Vec<u32> {
    let query = &document.anchor_query[..plan.anchor_query.len()];
    let head = &document.tokens[..plan.anchor - query.len()];
    let (before, after) = head.split_at(plan.anchor_query.start);
    [before, query, after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apb::config::PrefillConfig;
    use crate::model::{Architecture, DecoderConfig};

    fn plan(method: Method, ranks: usize, document: &Document) -> PrefillPlan {
        let model = DecoderConfig::new(Architecture::Llama, 512, 96, 128, 2, 6, 2, 16);
        PrefillConfig::new(method, ranks)
            .with_anchor(7)
            .with_passing(2)
            .plan(document, &model)
            .unwrap()
    }

    fn document() -> Document {
        Document::new((0..40).collect::<Vec<_>>())
            .with_prefix(2)
            .with_anchor_query([100, 101, 102])
    }

    #[test]
    fn the_query_stands_behind_the_prefix() {
        let plan = plan(Method::Apb, 4, &document());
        assert_eq!(
            anchor_tokens(&plan, &document()),
            [0, 1, 100, 101, 102, 2, 3]
        );
        assert_eq!(plan.selectable(0), 4..10);
        assert_eq!(plan.selectable(1), 10..20);
    }

    #[test]
    fn a_process_computes_the_anchor_once() {
        let plan = plan(Method::Apb, 4, &document());
        let anchors = |ranks: Range<usize>, everywhere| {
            let layout = Layout::new(&plan, ranks, everywhere);
            let rows = layout.ranks.iter().map(|r| (r.anchor, r.sees_anchor));
            (layout.anchor, rows.collect::<Vec<_>>())
        };
        assert_eq!(
            anchors(0..4, false),
            (
                AnchorSource::Rows(1),
                vec![(0, false), (7, true), (0, true), (0, true)]
            )
        );
        assert_eq!(
            anchors(0..2, true),
            (AnchorSource::Rows(0), vec![(7, false), (0, true)])
        );
        assert_eq!(
            anchors(3..4, false),
            (AnchorSource::Rows(0), vec![(7, true)])
        );
        assert_eq!(anchors(0..1, false), (AnchorSource::None, vec![(0, false)]));
    }

    #[test]
    fn every_rank_can_compute_the_anchor() {
        let anchors = |plan: &PrefillPlan| {
            let layout = Layout::new(plan, 0..4, false).with_own_anchors(plan);
            let rows = layout.ranks.iter().map(|rows| rows.anchor);
            (layout.anchor, rows.collect::<Vec<_>>())
        };
        let apb = plan(Method::Apb, 4, &document());
        assert_eq!(anchors(&apb), (AnchorSource::Rows(1), vec![0, 7, 7, 7]));
        let star = plan(Method::Star, 4, &document());
        let first = AnchorSource::FirstBlock;
        assert_eq!(anchors(&star), (first, vec![0, 10, 10, 10]));
    }

    #[test]
    fn the_first_block_is_stars_anchor() {
        let plan = plan(Method::Star, 4, &document());
        assert_eq!(plan.anchor, 10);
        let all = Layout::new(&plan, 0..4, false);
        assert_eq!(all.anchor, AnchorSource::FirstBlock);
        assert!(all.ranks.iter().all(|rows| rows.anchor == 0));
        let second = Layout::new(&plan, 2..4, false);
        assert_eq!(second.anchor, AnchorSource::Rows(0));
        assert_eq!(second.ranks[0].positions(), [0..10, 20..30]);
        assert_eq!(second.ranks[1].positions(), std::slice::from_ref(&(30..40)));
        assert_eq!(
            anchor_tokens(&plan, &document()),
            (0..10).collect::<Vec<_>>()
        );
    }

    #[test]
    fn zigzag_ranks_own_two_chunks() {
        let plan = plan(Method::Ring, 4, &document());
        let layout = Layout::new(&plan, 0..4, false);
        assert_eq!(layout.ranks[1].local, [5..10, 30..35]);
        assert_eq!(layout.local_len(), 40);
    }
}
