//! Retaining heads: the module, and the files that hold them.
//!
//! | file | holds |
//! |---|---|
//! | `retaining` | [`RetainingHead`], [`RetainingHeads`]: the module |
//! | `heads_file` | [`HeadsFile`]: a file of heads, compared with a model before a weight is read |
//! | `format` | names, shapes and metadata of a heads file |
//! | `label_scale` | [`LabelScale`]: the scale of the labels that heads were trained with |
//! | `convert_heads`, `pytorch`, `pickle` | published PyTorch files to safetensors, without executing pickle (feature `pytorch`) |
//! | `error` | why heads cannot be used or converted |

#[cfg(feature = "pytorch")]
mod convert_heads;
mod error;
mod format;
mod heads_file;
mod label_scale;
#[cfg(feature = "pytorch")]
mod pickle;
#[cfg(feature = "pytorch")]
mod pytorch;
mod retaining;

#[cfg(feature = "pytorch")]
pub use convert_heads::{ConvertedHeads, convert_heads};
#[cfg(feature = "pytorch")]
pub use error::ConvertHeadsError;
pub use error::HeadsError;
#[cfg(feature = "train")]
pub(crate) use format::heads_tensor_names;
pub use format::{
    HEADS_FILE, HEADS_FORMAT, HEADS_LABEL_SCALE, HEADS_MODEL, HeadsFault, HeadsShape,
};
pub use heads_file::{HeadsFile, HeadsInfo};
pub use label_scale::{LabelScale, LabelScaleFault};
#[cfg(feature = "pytorch")]
pub use pickle::PickleError;
pub use retaining::{RetainingHead, RetainingHeadConfig, RetainingHeads, RetainingHeadsConfig};
