//! The format of a heads file: names and shapes of the tensors, metadata, first bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::quoted::{Quoted, brief};

/// The name of a heads file where a folder is given.
pub const HEADS_FILE: &str = "heads.safetensors";

/// The `format` that this crate writes into the metadata of a heads file.
pub const HEADS_FORMAT: &str = "apb-retaining-heads-1";

/// The metadata key under which a heads file names the one model it is for, by
/// [`ModelSource::fingerprint`](crate::checkpoint::ModelSource::fingerprint).
pub const HEADS_MODEL: &str = "model_fingerprint";

/// The metadata key under which a heads file keeps the [`LabelScale`](super::LabelScale) that its heads were trained
/// with, as JSON. Heads without one were trained on the attention logits as they are.
pub const HEADS_LABEL_SCALE: &str = "label_scale";

/// What comes before the version in [`HEADS_FORMAT`]. Other formats, such as the `pt` of Python's
/// safetensors, are accepted.
pub(super) const FORMAT_FAMILY: &str = "apb-retaining-heads-";

/// The name of PyTorch's weights in a folder.
#[cfg(feature = "pytorch")]
pub(super) const PYTORCH_FILE: &str = "pytorch_model.bin";

/// Missing tensors that a message names.
const SHOWN: usize = 4;

/// One of the two matrices of a layer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matrix {
    /// `[width, projections]`.
    Fc1,
    /// `[kv_heads, width]`.
    Fc2,
}

/// Where a tensor belongs.
pub(super) type Place = (usize, Matrix);

/// The tensors of a set of heads: name and shape by place.
pub(super) type Found = BTreeMap<Place, (String, Vec<usize>)>;

/// The name of a matrix in a file, as the published heads have it.
pub(super) fn tensor_name((layer, matrix): Place) -> String {
    let matrix = match matrix {
        Matrix::Fc1 => "fc1",
        Matrix::Fc2 => "fc2",
    };
    format!("model.layers.{layer}.self_attn.{matrix}.weight")
}

/// The names of a layer's two matrices in a file.
#[cfg(feature = "train")]
pub(crate) fn heads_tensor_names(layer: usize) -> [String; 2] {
    [Matrix::Fc1, Matrix::Fc2].map(|matrix| tensor_name((layer, matrix)))
}

/// Where a tensor of this name belongs; `None` for a tensor that is not one of a head.
pub(super) fn place(name: &str) -> Option<Place> {
    let (place, parameter) = within_prefix(name)?;
    (parameter == "weight" && tensor_name(place) == name).then_some(place)
}

/// The place and the parameter's name (`weight`, and what else a file may have) behind any prefix
/// that wrappers leave in front of `layers.`, such as `module.` or `base_model.model.model.`.
pub(super) fn within_prefix(name: &str) -> Option<(Place, &str)> {
    let at = name.rfind("layers.")?;
    if at > 0 && !name[..at].ends_with('.') {
        return None;
    }
    let (layer, rest) = name[at..].strip_prefix("layers.")?.split_once('.')?;
    let (matrix, parameter) = rest.strip_prefix("self_attn.")?.split_once('.')?;
    let matrix = match matrix {
        "fc1" => Matrix::Fc1,
        "fc2" => Matrix::Fc2,
        _ => return None,
    };
    let digits = !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit());
    let layer = digits.then(|| layer.parse().ok()).flatten()?;
    Some(((layer, matrix), parameter))
}

/// What all layers of a set of heads have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadsShape {
    /// Number of layers.
    pub layers: usize,
    /// Width R of the hidden layer.
    pub width: usize,
    /// Columns of `fc1`: queries, keys and values side by side,
    /// `(heads + 2 * kv_heads) * head_dim` of the model.
    pub projections: usize,
    /// Rows of `fc2`: one score per key/value head.
    pub kv_heads: usize,
}

impl fmt::Display for HeadsShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} layers, {} key/value heads and projections of {} columns",
            self.layers, self.kv_heads, self.projections
        )
    }
}

/// Why some tensors are not a set of retaining heads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadsFault {
    /// There are no heads at all.
    #[error(
        "expected tensors such as model.layers.0.self_attn.fc1.weight and .fc2.weight, found none"
    )]
    None,
    /// Some matrices are not there.
    #[error("expected fc1 and fc2 of every layer, found no {}", names.join(", "))]
    Missing {
        /// The names of the first few.
        names: Vec<String>,
    },
    /// A parameter that retaining heads do not have.
    #[error(
        "found `{}`, but retaining heads have weights only; these heads are of another kind",
        Quoted(name)
    )]
    Parameter {
        /// The tensor.
        name: String,
    },
    /// Two tensors for one matrix.
    #[error(
        "`{}` and `{}` are both {name}; keep one of the two",
        Quoted(first),
        Quoted(second)
    )]
    Twice {
        /// One tensor.
        first: String,
        /// The other.
        second: String,
        /// The name of the matrix in a heads file.
        name: String,
    },
    /// A tensor of the wrong shape.
    #[error(
        "tensor `{}`: expected {expected}, found {}",
        Quoted(name),
        brief(found)
    )]
    Shape {
        /// The tensor.
        name: String,
        /// What would fit.
        expected: String,
        /// Its shape.
        found: Vec<usize>,
    },
}

/// What `found` has in common, if it is the whole of a set of heads.
pub(super) fn common_shape(found: &Found) -> Result<HeadsShape, HeadsFault> {
    let Some((&(last, _), _)) = found.last_key_value() else {
        return Err(HeadsFault::None);
    };
    // The highest layer is only a claim of the file; `take` ends the search early.
    let missing: Vec<String> = (0..=last)
        .flat_map(|layer| [(layer, Matrix::Fc1), (layer, Matrix::Fc2)])
        .filter(|place| !found.contains_key(place))
        .map(tensor_name)
        .take(SHOWN)
        .collect();
    if !missing.is_empty() {
        return Err(HeadsFault::Missing { names: missing });
    }

    let (name, shape) = &found[&(0, Matrix::Fc1)];
    let &[width, projections] = shape.as_slice() else {
        return Err(wrong(name, "[width, projections]", shape));
    };
    let (name, shape) = &found[&(0, Matrix::Fc2)];
    let kv_heads = match shape.as_slice() {
        &[kv_heads, columns] if columns == width => kv_heads,
        _ => return Err(wrong(name, &format!("[key/value heads, {width}]"), shape)),
    };
    if let Some((name, shape)) = found.values().find(|(_, shape)| shape.contains(&0)) {
        return Err(wrong(name, "a matrix with elements", shape));
    }
    for ((_, matrix), (name, shape)) in found {
        let expected = match matrix {
            Matrix::Fc1 => [width, projections],
            Matrix::Fc2 => [kv_heads, width],
        };
        if *shape != expected {
            return Err(wrong(name, &format!("{expected:?} as in layer 0"), shape));
        }
    }
    Ok(HeadsShape {
        layers: last + 1,
        width,
        projections,
        kv_heads,
    })
}

/// What a file is by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A zip archive, as PyTorch writes since 1.6.
    Zip,
    /// A pickle of protocol 2 to 5, as PyTorch wrote before.
    Pickle,
    /// Anything else, and what cannot be read.
    Other,
}

/// Looks at the first bytes of a file.
pub(super) fn beginning(path: &Path) -> Beginning {
    let mut start = Vec::new();
    // Only of a regular file: a pipe would wait for a writer.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        // An error is reported when the file is opened to be used.
        let _ = file.take(9).read_to_end(&mut start);
    }
    match start.as_slice() {
        // The length of a safetensors header can be any bytes; the header begins behind it.
        [_, _, _, _, _, _, _, _, b'{'] => Beginning::Other,
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Beginning::Zip,
        [0x80, 2..=5, ..] => Beginning::Pickle,
        _ => Beginning::Other,
    }
}

/// Whether a file has a PyTorch extension.
pub(super) fn is_pytorch_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| {
        ["bin", "pt", "pth"]
            .iter()
            .any(|known| e.eq_ignore_ascii_case(known))
    })
}

fn wrong(name: &str, expected: &str, found: &[usize]) -> HeadsFault {
    HeadsFault::Shape {
        name: name.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(shapes: &[(Place, [usize; 2])]) -> Found {
        shapes
            .iter()
            .map(|&(place, shape)| (place, (tensor_name(place), shape.to_vec())))
            .collect()
    }

    const WHOLE: [(Place, [usize; 2]); 4] = [
        ((0, Matrix::Fc1), [6, 32]),
        ((0, Matrix::Fc2), [2, 6]),
        ((1, Matrix::Fc1), [6, 32]),
        ((1, Matrix::Fc2), [2, 6]),
    ];

    #[test]
    fn names_have_places() {
        let name = "model.layers.12.self_attn.fc2.weight";
        assert_eq!(place(name), Some((12, Matrix::Fc2)));
        for prefix in ["module.", "base_model.model."] {
            let name = format!("{prefix}{name}");
            assert_eq!(place(&name), None);
            let found = within_prefix(&name);
            assert_eq!(found, Some(((12, Matrix::Fc2), "weight")));
        }
        for other in [
            "model.layers.12.self_attn.q_proj.weight",
            "model.layers.x.self_attn.fc1.weight",
            "model.layers.+1.self_attn.fc1.weight",
            "model.players.1.self_attn.fc1.weight",
            "model.layers.99999999999999999999.self_attn.fc1.weight",
            "model.layers.1.mlp.fc1.weight",
            "layers.",
        ] {
            assert_eq!(within_prefix(other), None, "{other}");
        }
        assert_eq!(place("model.layers.01.self_attn.fc1.weight"), None);
        assert_eq!(place("model.layers.1.self_attn.fc1.bias"), None);
    }

    #[test]
    fn a_whole_set_has_one_shape() {
        let shape = common_shape(&heads(&WHOLE)).unwrap();
        let expected = HeadsShape {
            layers: 2,
            width: 6,
            projections: 32,
            kv_heads: 2,
        };
        assert_eq!(shape, expected);
    }

    #[test]
    fn a_set_that_is_not_whole_is_refused() {
        assert_eq!(common_shape(&Found::new()), Err(HeadsFault::None));
        let missing = |found: &Found| match common_shape(found) {
            Err(HeadsFault::Missing { names }) => names,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            missing(&heads(&WHOLE[..3])),
            [tensor_name((1, Matrix::Fc2))]
        );
        // A claim of as many layers as there are numbers is not counted out.
        let far = [((usize::MAX, Matrix::Fc1), [6, 32])];
        assert_eq!(missing(&heads(&far)).len(), SHOWN);
        for (at, shape) in [
            (0, [5, 32]),
            (1, [2, 5]),
            (1, [0, 6]),
            (2, [6, 31]),
            (2, [5, 32]),
            (3, [3, 6]),
        ] {
            let mut shapes = WHOLE;
            shapes[at].1 = shape;
            let found = common_shape(&heads(&shapes));
            assert!(
                matches!(found, Err(HeadsFault::Shape { .. })),
                "{shapes:?}: {found:?}"
            );
        }
        let mut flat = heads(&WHOLE);
        flat.get_mut(&(0, Matrix::Fc1)).unwrap().1 = vec![192];
        assert!(matches!(common_shape(&flat), Err(HeadsFault::Shape { .. })));
    }
}
