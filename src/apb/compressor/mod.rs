//! What decides which keys and values a rank passes on: one score for each row and KV head.
//!
//! | compressor | score | needs |
//! |---|---|---|
//! | [`RetainingHeads`] | a small trained network on the row's q, k and v before RoPE | a heads file (`apb train-heads` makes one) |
//! | [`QueryAware`] | the attention that the anchor's query pays to the row | a query in the anchor |
//! | [`Random`] | random | nothing |
//!
//! A compressor gives raw scores; [`Selection`](super::Selection) pools them and selects.
//!
//! | file | holds |
//! |---|---|
//! | `score` | [`Compressor`], what it reads, and [`load`]: the one that a plan means |
//! | `retaining` | [`RetainingHeads`]: scores learned beforehand (Locret, <https://arxiv.org/abs/2410.01805>) |
//! | `query_aware`, `random` | [`QueryAware`], [`Random`] |
//! | `heads_file` | a file of retaining heads, compared with a model before a weight is read |
//! | `head_shapes` | names and shapes that make a whole set of heads |
//! | `convert_heads`, `pytorch`, `pickle` | published PyTorch files to safetensors, read and never run (feature `pytorch`) |

#[cfg(feature = "pytorch")]
mod convert_heads;
mod head_shapes;
mod heads_file;
#[cfg(feature = "pytorch")]
mod pickle;
#[cfg(feature = "pytorch")]
mod pytorch;
mod query_aware;
mod random;
mod retaining;
mod score;

#[cfg(feature = "pytorch")]
pub use convert_heads::{ConvertHeadsError, ConvertedHeads, convert_heads};
#[cfg(feature = "train")]
pub(crate) use head_shapes::heads_tensor_names;
pub use head_shapes::{HeadsFault, HeadsShape};
pub use heads_file::{HEADS_FILE, HEADS_FORMAT, HEADS_MODEL, HeadsError, HeadsInfo};
#[cfg(feature = "pytorch")]
pub use pickle::PickleError;
pub use query_aware::QueryAware;
pub use random::Random;
pub use retaining::{RetainingHead, RetainingHeads, RetainingHeadsConfig};
pub use score::{AnchorContext, Compressor, ScoreInput, check_model, inspect, load};
