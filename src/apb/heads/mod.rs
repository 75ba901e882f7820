//! Retaining heads: the module, and the files that hold them.
//!
//! | file | holds |
//! |---|---|
//! | `retaining` | [`RetainingHead`], [`RetainingHeads`]: the module |
//! | `heads_file` | a file of heads, compared with a model before a weight is read |
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
#[cfg(feature = "train")]
pub(crate) use head_shapes::heads_tensor_names;
pub use head_shapes::{HeadsFault, HeadsShape};
pub use heads_file::{HEADS_FILE, HEADS_FORMAT, HEADS_MODEL, HeadsError, HeadsInfo};
#[cfg(feature = "pytorch")]
pub use pickle::PickleError;
pub use retaining::{RetainingHead, RetainingHeads, RetainingHeadsConfig};
