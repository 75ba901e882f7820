//! What one process needs of a document that another has read.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::config::Document;
use super::error::SessionError;
use super::layout::anchor_tokens;
use super::plan::PrefillPlan;
use crate::ranks::{RankError, RankGroup};

/// The tokens that the ranks of one process compute: their own rows and the anchor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentShare {
    /// Where each piece begins in the document, and its tokens.
    pieces: Vec<(usize, Vec<u32>)>,
    /// Tokens of the anchor's rows.
    anchor: Vec<u32>,
}

impl DocumentShare {
    /// What `ranks` need of a document under its plan.
    pub fn new(document: &Document, plan: &PrefillPlan, ranks: Range<usize>) -> Self {
        let owned = ranks.flat_map(|rank| plan.owned(rank));
        let piece = |range: Range<usize>| (range.start, document.tokens[range].to_vec());
        Self {
            pieces: owned.map(piece).collect(),
            anchor: match plan.anchor {
                0 => Vec::new(),
                _ => anchor_tokens(plan, document),
            },
        }
    }

    /// The tokens of a range that lies within one piece; none of what this process does not hold.
    pub(crate) fn tokens(&self, range: &Range<usize>) -> &[u32] {
        let within = self.pieces.iter().find_map(|(start, tokens)| {
            let from = range.start.checked_sub(*start)?;
            tokens.get(from..from + range.len())
        });
        within.unwrap_or_default()
    }

    /// The tokens of the anchor's rows.
    pub(crate) fn anchor(&self) -> &[u32] {
        &self.anchor
    }

    /// All tokens held, with what they are.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, &[u32])> {
        let pieces = self
            .pieces
            .iter()
            .map(|(_, tokens)| ("document", &tokens[..]));
        let anchor = (!self.anchor.is_empty()).then_some(("anchor", &self.anchor[..]));
        pieces.chain(anchor)
    }

    /// Document tokens held.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|(_, tokens)| tokens.len()).sum()
    }
}

/// One process's part of a task: a document to prefill and a question to follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Assignment {
    /// How the document is prefilled.
    pub plan: PrefillPlan,
    /// This process's tokens of it.
    pub share: DocumentShare,
    /// The question's tokens.
    pub query: Vec<u32>,
    /// Tokens that the session needs room for.
    pub capacity: usize,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
}

impl Assignment {
    /// What `ranks` need of a task.
    pub fn new(
        document: &Document,
        plan: &PrefillPlan,
        query: &[u32],
        capacity: usize,
        max_tokens: usize,
        ranks: Range<usize>,
    ) -> Self {
        Self {
            plan: plan.clone(),
            share: DocumentShare::new(document, plan, ranks),
            query: query.to_vec(),
            capacity,
            max_tokens,
        }
    }

    /// Scatters a task: process 0 says with `part` what the ranks of a process need, the others give
    /// nothing; returns this process's part.
    ///
    /// # Errors
    ///
    /// [`SessionError::Rank`] when the exchange fails.
    pub fn scatter(
        group: &mut RankGroup,
        part: Option<&dyn Fn(Range<usize>) -> Self>,
    ) -> Result<Self, SessionError> {
        let parts = match part {
            Some(part) => (0..group.processes())
                // Plain numbers and names, which JSON always holds.
                .map(|p| serde_json::to_vec(&part(group.ranks_of(p))).unwrap_or_default())
                .collect(),
            None => Vec::new(),
        };
        let bytes = group.scatter(parts)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let reason = format!("process 0 sent no task that can be read: {error}");
            RankError::Connect { reason }.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apb::config::{Method, PrefillConfig};
    use crate::model::{Architecture, DecoderConfig};

    #[test]
    fn a_share_holds_its_ranks_rows_and_the_anchor_only() {
        let model = DecoderConfig::new(Architecture::Llama, 512, 96, 128, 2, 4, 2, 16);
        let document = Document::new((0..40).collect::<Vec<_>>()).with_anchor_query([100, 101]);
        let apb = PrefillConfig::new(Method::Apb, 4)
            .with_anchor(5)
            .with_passing(2);
        let plan = apb.plan(&document, &model).unwrap();
        let share = DocumentShare::new(&document, &plan, 2..3);
        assert_eq!(share.len(), 10);
        assert_eq!(share.tokens(&(20..30)), &document.tokens[20..30]);
        assert!(share.tokens(&(10..20)).is_empty(), "rank 1's");
        assert!(share.tokens(&(25..31)).is_empty(), "ends in rank 3's");
        assert_eq!(share.anchor(), [100, 101, 0, 1, 2]);
        let ring = PrefillConfig::new(Method::Ring, 4)
            .plan(&document, &model)
            .unwrap();
        let share = DocumentShare::new(&document, &ring, 1..2);
        assert_eq!(share.tokens(&(5..10)), [5, 6, 7, 8, 9]);
        assert_eq!(share.tokens(&(30..35)), [30, 31, 32, 33, 34]);
        assert!(share.anchor().is_empty());
    }
}
