//! A module's parameters beside a checkpoint's tensors, compared before any data is read.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::checkpoint::{Checkpoint, StoredType};
use super::error::plural;

/// Names less similar than this (0 to 1, Jaro-Winkler) are not suggested.
const SIMILAR: f64 = 0.85;

/// Suggestions are looked for only this often, each among this many names: a file of a million
/// odd names must not make an error message take minutes.
const SUGGESTIONS: usize = 512;

/// Everything in which a checkpoint and a module differ.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The checkpoint.
    pub path: PathBuf,
    /// Parameters the checkpoint has no tensor for.
    pub missing: Vec<Missing>,
    /// Tensors the module has no parameter for.
    pub unexpected: Vec<Unexpected>,
    /// Tensors of another shape than their parameter.
    pub shapes: Vec<WrongShape>,
    /// Tensors of a type that cannot become a float parameter.
    pub types: Vec<WrongType>,
    /// Parameters that hold values whose layout differs from the stored one; load into a module
    /// that has just been initialised instead.
    pub initialized: Vec<String>,
}

/// A parameter without a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// The parameter's path in the module.
    pub parameter: String,
    /// Its shape as stored.
    pub shape: Vec<usize>,
    /// The most similar tensor that nothing else claims.
    pub nearest: Option<String>,
}

/// A tensor without a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Unexpected {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The most similar parameter.
    pub nearest: Option<String>,
}

/// A tensor of the wrong shape.
#[derive(Debug, Clone, PartialEq)]
pub struct WrongShape {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The shape the module wants.
    pub expected: Vec<usize>,
    /// The shape it has.
    pub found: Vec<usize>,
}

/// A tensor of the wrong type.
#[derive(Debug, Clone, PartialEq)]
pub struct WrongType {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The type it is stored in.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let near = |name: &Option<String>| {
            name.as_ref()
                .map(|n| format!(", nearest `{n}`"))
                .unwrap_or_default()
        };
        let counts = [
            (self.missing.len(), "missing"),
            (self.unexpected.len(), "unexpected"),
            (self.shapes.len(), "of another shape"),
            (self.types.len(), "of another type"),
            (self.initialized.len(), "already initialised"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", plural(*n, "tensor")))
            .collect();
        write!(
            f,
            "{}: does not fit the model: {}",
            self.path.display(),
            counts.join(", ")
        )?;
        for m in &self.missing {
            write!(
                f,
                "\n  missing     {} {:?}{}",
                m.parameter,
                m.shape,
                near(&m.nearest)
            )?;
        }
        for u in &self.unexpected {
            write!(
                f,
                "\n  unexpected  {} {:?}{}",
                u.tensor,
                u.shape,
                near(&u.nearest)
            )?;
        }
        for s in &self.shapes {
            write!(
                f,
                "\n  shape       {}: expected {:?}, found {:?}",
                s.tensor, s.expected, s.found
            )?;
        }
        for t in &self.types {
            write!(
                f,
                "\n  type        {}: expected F32, F16 or BF16, found {}",
                t.tensor, t.found
            )?;
        }
        for name in &self.initialized {
            write!(
                f,
                "\n  initialised {name}: load into a module that has just been initialised"
            )?;
        }
        f.write_str("\nCheck that config.json belongs to these weights, or fetch the model again.")
    }
}

/// Which tensor goes to which parameter: `(path in the module, name in the checkpoint)`.
pub(super) type Plan = Vec<(String, String)>;

/// Matches every float parameter of `module` with a tensor, `rename` giving a tensor's path in
/// the module. Parameters are not initialised by this.
pub(super) fn compare<M: Module>(
    module: &M,
    checkpoint: &Checkpoint,
    rename: &dyn Fn(&str) -> String,
) -> Result<Plan, Box<Mismatch>> {
    let mut visitor = Parameters::default();
    module.visit(&mut visitor);
    let parameters = visitor.found;

    let mut mismatch = Mismatch {
        path: checkpoint.path().into(),
        missing: Vec::new(),
        unexpected: Vec::new(),
        shapes: Vec::new(),
        types: Vec::new(),
        initialized: visitor.initialized,
    };
    let mut claimed: HashMap<String, String> = HashMap::new();
    let mut plan = Plan::new();
    for info in checkpoint.tensors() {
        let path = rename(&info.name);
        let Some(expected) = parameters
            .get(&path)
            .filter(|_| !claimed.contains_key(&path))
        else {
            match harmless(&info.name, &path, &parameters) {
                Harmless::Yes => {}
                Harmless::IfShaped(expected) if *expected == info.shape => {}
                Harmless::IfShaped(expected) => {
                    let (tensor, expected) = (info.name.clone(), expected.clone());
                    mismatch.shapes.push(WrongShape {
                        tensor,
                        expected,
                        found: info.shape.clone(),
                    });
                }
                Harmless::No => {
                    let (tensor, shape) = (info.name.clone(), info.shape.clone());
                    mismatch.unexpected.push(Unexpected {
                        tensor,
                        shape,
                        nearest: None,
                    });
                }
            }
            continue;
        };
        claimed.insert(path.clone(), info.name.clone());
        if *expected != info.shape {
            let (expected, found) = (expected.clone(), info.shape.clone());
            mismatch.shapes.push(WrongShape {
                tensor: info.name.clone(),
                expected,
                found,
            });
        }
        if let StoredType::Other(found) = &info.stored {
            mismatch.types.push(WrongType {
                tensor: info.name.clone(),
                found: found.clone(),
            });
        }
        plan.push((path, info.name.clone()));
    }
    for (path, shape) in &parameters {
        if !claimed.contains_key(path) {
            mismatch.missing.push(Missing {
                parameter: path.clone(),
                shape: shape.clone(),
                nearest: None,
            });
        }
    }
    suggest(&mut mismatch, rename);

    let fits = mismatch.missing.is_empty()
        && mismatch.unexpected.is_empty()
        && mismatch.shapes.is_empty()
        && mismatch.types.is_empty()
        && mismatch.initialized.is_empty();
    if fits {
        Ok(plan)
    } else {
        Err(Box::new(mismatch))
    }
}

enum Harmless<'a> {
    Yes,
    /// Only with this shape.
    IfShaped(&'a Vec<usize>),
    No,
}

/// Tensors that real checkpoints carry and a module rightly has no parameter for: rotary
/// frequencies, which follow from the config, and the output projection of a model that ties it
/// to its embedding.
fn harmless<'a>(
    name: &str,
    path: &str,
    parameters: &'a BTreeMap<String, Vec<usize>>,
) -> Harmless<'a> {
    if name.ends_with("rotary_emb.inv_freq") {
        return Harmless::Yes;
    }
    match parameters.get("embed_tokens.weight") {
        Some(shape) if path == "lm_head.weight" && !parameters.contains_key(path) => {
            Harmless::IfShaped(shape)
        }
        _ => Harmless::No,
    }
}

/// Fills in the nearest names: missing parameters among unexpected tensors and the reverse.
fn suggest(mismatch: &mut Mismatch, rename: &dyn Fn(&str) -> String) {
    let unexpected: Vec<(String, String)> = mismatch
        .unexpected
        .iter()
        .take(SUGGESTIONS)
        .map(|u| (rename(&u.tensor), u.tensor.clone()))
        .collect();
    let missing: Vec<String> = mismatch
        .missing
        .iter()
        .take(SUGGESTIONS)
        .map(|m| m.parameter.clone())
        .collect();
    for m in mismatch.missing.iter_mut().take(SUGGESTIONS) {
        let found = nearest(
            &m.parameter,
            unexpected.iter().map(|(path, _)| path.as_str()),
        );
        m.nearest = found.and_then(|path| {
            unexpected
                .iter()
                .find(|(p, _)| *p == path)
                .map(|(_, name)| name.clone())
        });
    }
    for (u, (path, _)) in mismatch.unexpected.iter_mut().zip(&unexpected) {
        u.nearest = nearest(path, missing.iter().map(String::as_str));
    }
}

/// The name most similar to `wanted`, if one is similar at all.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Longer names are noise or an attack; comparing costs the product of the lengths.
    const LONGEST: usize = 256;
    if wanted.len() > LONGEST {
        return None;
    }
    names
        .take(SUGGESTIONS)
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_string())
}

/// Collects paths and stored shapes of float parameters.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: BTreeMap<String, Vec<usize>>,
    initialized: Vec<String>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        // A parameter with a load mapper (a column-major `Linear`) says its stored shape while it
        // is lazy and its value's shape afterwards; burn-store would then want the wrong one.
        let shape = if param.is_initialized() {
            let (value, stored) = (param.lazy_shape(), param.transform_for_save().lazy_shape());
            if value != stored {
                self.initialized.push(path.clone());
            }
            stored
        } else {
            param.lazy_shape()
        };
        self.found.insert(path, shape.to_vec());
    }
}
