//! A comparison of a module's parameters with a checkpoint's tensors, before any data is read.
//!
//! burn-store reports the same differences in its `ApplyResult`, but only after it has read and
//! applied the tensors.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};

use super::mismatch::{HEAD, Mismatch, Missing, Unexpected, WrongShape, WrongType};
use super::reader::Checkpoint;
use super::tensor::{StoredType, TensorInfo};
use crate::kernels::BlockFormat;
use crate::model::{ORDER, QUANTIZED};

/// The path of the embedding in a decoder.
pub(super) const EMBEDDING: &str = "embed_tokens.weight";

/// A checkpoint that fits a module.
pub(super) struct Compared {
    /// Which tensor fills which parameter.
    pub(super) plan: Vec<Filled>,
    /// Tensors that fill none.
    pub(super) unused: Vec<String>,
    /// Those of them that are biases beside a weight that is used, with values other than 0.
    pub(super) biases: Vec<String>,
}

/// A parameter and its tensor.
pub(super) struct Filled {
    /// The path in the module; of a quantised layer, that of a float weight in its place.
    pub(super) path: String,
    /// The name in the checkpoint.
    pub(super) name: String,
    /// Whether the parameter is blocks, and not floats.
    pub(super) blocks: bool,
}

/// Matches every float parameter, and the blocks of every quantised layer of `module` with a tensor, `rename` giving a tensor's path in
/// the module. Parameters are not initialised by this. With `strict`, a tensor that no parameter
/// takes is a mismatch.
pub(super) fn compare<M: Module>(
    module: &M,
    checkpoint: &Checkpoint,
    rename: &dyn Fn(&str) -> String,
    strict: bool,
) -> Result<Compared, Box<Mismatch>> {
    let mut visitor = Parameters::default();
    module.visit(&mut visitor);
    let parameters = visitor.found;

    let mut mismatch = Mismatch {
        path: checkpoint.path().into(),
        initialized: visitor.initialized,
        ..Mismatch::default()
    };
    let mut claimed: HashMap<String, String> = HashMap::new();
    let mut plan = Vec::new();
    let mut left = Vec::new();
    for info in checkpoint.tensors() {
        let path = rename(&info.name);
        if parameters.contains_key(&path) && !claimed.contains_key(&path) {
            claimed.insert(path, info.name.clone());
        } else {
            left.push((path, info));
        }
    }
    // A module without a head ties it to the embedding: either of the two tensors serves for both.
    let tied = parameters.contains_key(EMBEDDING) && !parameters.contains_key(HEAD);
    if tied
        && !claimed.contains_key(EMBEDDING)
        && let Some(at) = left.iter().position(|(path, _)| path == HEAD)
    {
        let (_, info) = left.remove(at);
        claimed.insert(EMBEDDING.into(), info.name.clone());
    }
    for (path, expected) in &parameters {
        let shape = &expected.shape;
        let info = claimed.get(path).and_then(|name| checkpoint.info(name));
        let Some(info) = info else {
            mismatch.missing.push(Missing {
                parameter: path.clone(),
                shape: shape.clone(),
                nearest: None,
            });
            continue;
        };
        mismatch.compare(checkpoint, info, expected);
        plan.push(Filled {
            path: path.clone(),
            name: info.name.clone(),
            blocks: expected.format.is_some(),
        });
    }
    left.retain(|(path, info)| {
        let serves = tied && path == HEAD;
        if serves && let Some(expected) = parameters.get(EMBEDDING) {
            mismatch.compare(checkpoint, info, expected);
        }
        !serves
    });
    let others = checkpoint.others();
    let fits = mismatch.missing.is_empty()
        && (left.is_empty() && others.is_empty() || !strict)
        && mismatch.shapes.is_empty()
        && mismatch.types.is_empty()
        && mismatch.initialized.is_empty();
    if !fits {
        mismatch.unexpected = left
            .iter()
            .map(|(_, info)| *info)
            .chain(others)
            .map(|info| Unexpected {
                tensor: info.name.clone(),
                shape: info.shape.clone(),
                nearest: None,
            })
            .collect();
        mismatch.suggest(rename);
        return Err(Box::new(mismatch));
    }
    let beside_a_weight = |path: &str| {
        path.strip_suffix("bias").is_some_and(|stem| {
            ["weight", "gamma"]
                .iter()
                .any(|weight| claimed.contains_key(&format!("{stem}{weight}")))
        })
    };
    let biases = left
        .iter()
        .filter(|(path, info)| beside_a_weight(path) && !checkpoint.is_zero(&info.name))
        .map(|(_, info)| info.name.clone())
        .collect();
    Ok(Compared {
        plan,
        unused: left
            .into_iter()
            .map(|(_, info)| info)
            .chain(others)
            .map(|info| info.name.clone())
            .collect(),
        biases,
    })
}

impl Mismatch {
    /// Records the differences between a tensor and its parameter.
    fn compare(&mut self, checkpoint: &Checkpoint, info: &TensorInfo, expected: &Expected) {
        if *expected.shape != *info.shape {
            self.shapes.push(WrongShape {
                tensor: info.name.clone(),
                expected: expected.shape.clone(),
                found: info.shape.clone(),
            });
        }
        let has_order = checkpoint.order(&info.name).is_some();
        let wrong = match (&info.stored, expected.format) {
            (StoredType::Other(_), _) => true,
            (stored, Some(format)) => {
                *stored != StoredType::Quantized(format) || has_order != expected.order
            }
            (_, None) => false,
        };
        let order = |has: bool| match has {
            true => ", columns in the order of their groups",
            false => "",
        };
        if wrong {
            self.types.push(WrongType {
                tensor: info.name.clone(),
                expected: match expected.format {
                    Some(format) => format!("blocks of {format}{}", order(expected.order)),
                    None => "F64, F32, F16 or BF16".into(),
                },
                found: format!("{}{}", info.stored, order(has_order)),
            });
        }
    }
}

/// What a parameter takes.
struct Expected {
    shape: Vec<usize>,
    /// The format of its blocks; none for floats.
    format: Option<BlockFormat>,
    /// Whether there is an order of columns beside them.
    order: bool,
}

/// A parameter of a quantised layer, with the path of a float weight in its place.
pub(super) enum CodesPart {
    /// Its blocks.
    Blocks(BlockFormat, String),
    /// The order of their columns.
    Order(String),
}

/// What the parameter at `path` in a container is of a quantised layer.
pub(super) fn part_at(path: &[String], container: &str) -> Option<CodesPart> {
    let (name, layer) = path.split_last()?;
    let weight = layer.iter().map(String::as_str).chain(["weight"]);
    let weight = || weight.collect::<Vec<_>>().join(".");
    let format = BlockFormat::ALL.iter().find(|format| format.name() == name);
    match (container == QUANTIZED, format) {
        (false, _) => None,
        (true, Some(&format)) => Some(CodesPart::Blocks(format, weight())),
        (true, None) => (name == ORDER).then(|| CodesPart::Order(weight())),
    }
}

/// Collects paths and stored shapes of float parameters and blocks.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    /// What the last parameter entered is in.
    container: String,
    found: BTreeMap<String, Expected>,
    initialized: Vec<String>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_string());
        container.clone_into(&mut self.container);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        match part_at(&self.path, &self.container) {
            Some(CodesPart::Blocks(format, path)) => {
                let mut shape = param.lazy_shape().to_vec();
                if let Some(width) = shape.last_mut() {
                    *width = format.row_elements(*width).unwrap_or(0);
                }
                let expected = Expected {
                    shape,
                    format: Some(format),
                    order: false,
                };
                self.found.insert(path, expected);
            }
            // Visited after the blocks.
            Some(CodesPart::Order(path)) => {
                if let Some(expected) = self.found.get_mut(&path) {
                    expected.order = true;
                }
            }
            None => {}
        }
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        // A parameter with a load mapper (a column-major `Linear`) has its stored shape while it is
        // lazy and its value's shape afterwards; burn-store would then expect the wrong one.
        let shape = if param.is_initialized() {
            let (value, stored) = (param.lazy_shape(), param.transform_for_save().lazy_shape());
            if value != stored {
                self.initialized.push(path.clone());
            }
            stored
        } else {
            param.lazy_shape()
        };
        let expected = Expected {
            shape: shape.to_vec(),
            format: None,
            order: false,
        };
        self.found.insert(path, expected);
    }
}
