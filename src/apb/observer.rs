//! Progress, cancellation and intermediate results of a prefill and an answer.

use std::ops::ControlFlow;
use std::time::Duration;

use burn::tensor::Tensor;

use super::cancel::CancelToken;

/// A part of a layer's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// Norm, query, key and value projections, RoPE.
    Projections,
    /// Scores, selection and gathering of the passing block.
    Selection,
    /// Waiting for other ranks.
    Exchange,
    /// Writing the cache, and attention.
    Attention,
    /// Output projection, norm and MLP.
    Mlp,
}

impl Part {
    /// All parts, in the order of a layer.
    pub const ALL: [Self; 5] = [
        Self::Projections,
        Self::Selection,
        Self::Exchange,
        Self::Attention,
        Self::Mlp,
    ];

    /// The name used in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Projections => "projections",
            Self::Selection => "selection",
            Self::Exchange => "exchange",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }
}

/// Callbacks of a prefill and of an answer. All have defaults that do nothing; `()` observes nothing,
/// and a closure `FnMut(usize, usize) -> ControlFlow<()>` observes the progress.
pub trait Observer {
    /// `done` of `total` document tokens are prefilled; called after each layer, which counts as its
    /// share of the tokens that went through it. [`ControlFlow::Break`] cancels the prefill.
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        let _ = (done, total);
        ControlFlow::Continue(())
    }

    /// What cancels the work, from another thread or a signal handler; polled many times a layer.
    fn cancel_token(&self) -> CancelToken {
        CancelToken::new()
    }

    /// The answer continues with `text`, whole characters. [`ControlFlow::Break`] ends the answer.
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        let _ = text;
        ControlFlow::Continue(())
    }

    /// Whether [`attention`](Self::attention) and [`hidden`](Self::hidden) are called. The last layer
    /// is then computed to its end; a prefill alone needs no more of it than keys and values.
    fn wants_rows(&self) -> bool {
        false
    }

    /// Whether [`selected`](Self::selected) is called, which on a GPU waits for each layer.
    fn wants_selections(&self) -> bool {
        false
    }

    /// The document positions that a rank passes on in a layer, ascending, for each KV head of each
    /// sequence.
    fn selected(&mut self, layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
        let _ = (layer, rank, positions);
    }

    /// The joined heads `[batch, rows, heads * head_dim]` of a rank's local rows in the first layer.
    fn attention(&mut self, rank: usize, rows: Tensor<3>) {
        let _ = (rank, rows);
    }

    /// The final norm's output `[batch, rows, hidden]` of a rank's local rows.
    fn hidden(&mut self, rank: usize, rows: Tensor<3>) {
        let _ = (rank, rows);
    }

    /// Whether [`part`](Self::part) is called, which on a GPU waits for each part.
    fn wants_times(&self) -> bool {
        false
    }

    /// The time of a part of a layer; `rank` is none for what ranks compute together.
    fn part(&mut self, part: Part, rank: Option<usize>, time: Duration) {
        let _ = (part, rank, time);
    }
}

impl Observer for () {}

impl<F: FnMut(usize, usize) -> ControlFlow<()>> Observer for F {
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self(done, total)
    }
}
