//! What decides which keys and values a rank passes on: one score for each row and KV head.
//!
//! | compressor | score | needs |
//! |---|---|---|
//! | [`RetainingHeads`](super::heads::RetainingHeads) | a small trained network on the row's q, k and v before RoPE | a heads file (`apb train-heads` makes one) |
//! | [`QueryAware`] | the attention that the anchor's query pays to the row | a query in the anchor |
//! | [`Random`] | random | nothing |
//! | one of your own | what it computes | [`PrefillConfig::with_custom_compressor`](super::PrefillConfig::with_custom_compressor) |
//!
//! A compressor gives raw scores; [`Selection`](super::Selection) pools them and selects.

mod custom;
mod error;
mod load;
mod query_aware;
mod random;
mod retaining;
mod score;

pub use custom::CustomCompressor;
pub use error::CompressorError;
pub use load::{CompressorSource, load};
pub use query_aware::QueryAware;
pub use random::Random;
pub(crate) use score::checked_scores;
pub use score::{AnchorContext, Compressor, ScoreInput};
