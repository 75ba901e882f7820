//! Which rows of a document are worth passing on: one score per row and key/value head.
//!
//! | file | holds |
//! |---|---|
//! | `retaining` | [`RetainingHeads`]: scores learned beforehand (Locret, <https://arxiv.org/abs/2410.01805>) |
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
mod retaining;

#[cfg(feature = "pytorch")]
pub use convert_heads::{ConvertHeadsError, ConvertedHeads, convert_heads};
pub use head_shapes::{HeadsFault, HeadsShape};
pub use heads_file::{HEADS_FILE, HEADS_FORMAT, HeadsError, HeadsInfo};
#[cfg(feature = "pytorch")]
pub use pickle::PickleError;
pub use retaining::{RetainingHead, RetainingHeads, RetainingHeadsConfig};
