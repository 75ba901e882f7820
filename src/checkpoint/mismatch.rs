//! Everything in which a checkpoint and a module differ, said at once.

use std::fmt;
use std::path::PathBuf;

use super::error::plural;
use super::plan::HEAD;

/// Lines of each kind that a message shows; the rest is counted.
const SHOWN: usize = 32;

/// How the names of types begin that hold quantised weights.
const QUANTIZED: [&str; 5] = ["F8", "F6", "F4", "I8", "U8"];

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
        let shown = |count: usize| count.min(SHOWN);
        for m in &self.missing[..shown(self.missing.len())] {
            write!(
                f,
                "\n  missing     {} {:?}{}",
                m.parameter,
                m.shape,
                near(&m.nearest)
            )?;
        }
        more(f, self.missing.len(), "missing")?;
        for u in &self.unexpected[..shown(self.unexpected.len())] {
            write!(
                f,
                "\n  unexpected  {} {:?}{}",
                u.tensor,
                u.shape,
                near(&u.nearest)
            )?;
        }
        more(f, self.unexpected.len(), "unexpected")?;
        for s in &self.shapes[..shown(self.shapes.len())] {
            write!(
                f,
                "\n  shape       {}: expected {:?}, found {:?}",
                s.tensor, s.expected, s.found
            )?;
        }
        more(f, self.shapes.len(), "of another shape")?;
        for t in &self.types[..shown(self.types.len())] {
            write!(
                f,
                "\n  type        {}: expected F64, F32, F16 or BF16, found {}{}",
                t.tensor,
                t.found,
                if QUANTIZED.iter().any(|start| t.found.starts_with(start)) {
                    ", a quantised model's; use an unquantised copy or a GGUF file"
                } else {
                    ""
                }
            )?;
        }
        more(f, self.types.len(), "of another type")?;
        for name in &self.initialized[..shown(self.initialized.len())] {
            write!(
                f,
                "\n  initialised {name}: load into a module that has just been initialised"
            )?;
        }
        more(f, self.initialized.len(), "already initialised")?;
        if self.missing.iter().any(|m| m.parameter == HEAD) {
            write!(
                f,
                "\nThe output head is not stored, and config.json does not tie it to the embedding: if \
                 the model ties the two, set `tie_word_embeddings` to true there."
            )?;
        }
        f.write_str("\nCheck that config.json belongs to these weights, or fetch the model again.")
    }
}

/// How many lines of a kind a message leaves out.
fn more(f: &mut fmt::Formatter<'_>, count: usize, what: &str) -> fmt::Result {
    match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n  and {more} more {what}"),
    }
}
