//! Everything in which a checkpoint and a module differ, in one error.

use std::fmt;
use std::path::PathBuf;

use super::listing::plural;
use crate::quoted::{QuotePath, Quoted, brief};

/// The path of the output head in a decoder.
pub(super) const HEAD: &str = "lm_head.weight";

/// Lines of each kind that a message shows; the rest is counted.
const SHOWN: usize = 32;

/// Names less similar than this (0 to 1, Jaro-Winkler) are not suggested.
const SIMILAR: f64 = 0.85;

/// Suggestions are looked for only this often, each among this many names: a file of a million
/// odd names must not make an error message take minutes.
const SUGGESTIONS: usize = 512;

/// How the names of types begin that hold quantised weights.
const QUANTIZED: [&str; 5] = ["F8", "F6", "F4", "I8", "U8"];

/// How the names of tensors end that hold codes beside scales.
const CODES: [&str; 2] = [".qweight", ".weight_packed"];

/// Everything in which a checkpoint and a module differ.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// What the parameter takes.
    pub expected: String,
}

impl Mismatch {
    /// Fills in the nearest names: missing parameters among unexpected tensors and the reverse.
    pub(super) fn suggest(&mut self, rename: &dyn Fn(&str) -> String) {
        let unexpected: Vec<(String, String)> = self
            .unexpected
            .iter()
            .take(SUGGESTIONS)
            .map(|u| (rename(&u.tensor), u.tensor.clone()))
            .collect();
        let missing = self.missing.iter().take(SUGGESTIONS);
        let missing: Vec<String> = missing.map(|m| m.parameter.clone()).collect();
        let paths = || unexpected.iter().map(|(path, _)| path.as_str());
        for m in self.missing.iter_mut().take(SUGGESTIONS) {
            let found = nearest(&m.parameter, paths());
            let found = found.and_then(|path| unexpected.iter().find(|(p, _)| *p == path));
            m.nearest = found.map(|(_, name)| name.clone());
        }
        for (u, path) in self.unexpected.iter_mut().zip(paths()) {
            u.nearest = nearest(path, missing.iter().map(String::as_str));
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let near = |name: &Option<String>| match name {
            Some(name) => format!(", nearest `{}`", Quoted(name)),
            None => String::new(),
        };
        let named = |name: &str, shape: &[usize], nearest: &Option<String>| {
            format!("{} {}{}", Quoted(name), brief(&shape), near(nearest))
        };
        let missing = |m: &Missing| named(&m.parameter, &m.shape, &m.nearest);
        let unexpected = |u: &Unexpected| named(&u.tensor, &u.shape, &u.nearest);
        let shape = |s: &WrongShape| {
            format!(
                "{}: expected {}, found {}",
                Quoted(&s.tensor),
                brief(&s.expected),
                brief(&s.found)
            )
        };
        let dtype = |t: &WrongType| {
            let quantized = QUANTIZED.iter().any(|start| t.found.starts_with(start));
            let hint = ", a quantised model's; `quantization_config` of config.json has to say how";
            format!(
                "{}: expected {}, found {}{}",
                Quoted(&t.tensor),
                t.expected,
                Quoted(&t.found),
                if quantized { hint } else { "" }
            )
        };
        let initialized = |name: &String| {
            format!(
                "{}: load into a module that has just been initialised",
                Quoted(name)
            )
        };
        let kinds = [
            ("missing", "missing", lines(&self.missing, missing)),
            (
                "unexpected",
                "unexpected",
                lines(&self.unexpected, unexpected),
            ),
            ("shape", "of another shape", lines(&self.shapes, shape)),
            ("type", "of another type", lines(&self.types, dtype)),
            (
                "initialised",
                "already initialised",
                lines(&self.initialized, initialized),
            ),
        ];
        let found = || kinds.iter().filter(|(.., (_, count))| *count > 0);
        let counts: Vec<String> = found()
            .map(|(_, what, (_, count))| format!("{} {what}", plural(*count, "tensor")))
            .collect();
        let (path, counts) = (self.path.quoted(), counts.join(", "));
        write!(f, "{path}: does not fit the model: {counts}")?;
        for (label, what, (lines, count)) in found() {
            for line in lines {
                write!(f, "\n  {label:<11} {line}")?;
            }
            if *count > SHOWN {
                write!(f, "\n  and {} more {what}", count - SHOWN)?;
            }
        }
        if self.missing.iter().any(|m| m.parameter == HEAD) {
            write!(
                f,
                "\nThe output head is not stored, and config.json does not tie it to the embedding: if \
                 the model ties the two, set `tie_word_embeddings` to true there."
            )?;
        }
        let in_codes = |name: &str| CODES.iter().any(|end| name.ends_with(end));
        if self.unexpected.iter().any(|u| in_codes(&u.tensor)) {
            write!(
                f,
                "\nThe weights are quantised, and config.json does not say how: it needs a \
                 `quantization_config`, which older models have in quantize_config.json or \
                 quant_config.json."
            )?;
        }
        f.write_str("\nCheck that config.json belongs to these weights, or fetch the model again.")
    }
}

/// The lines that a message shows of one kind, and how many items of it there are.
fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> (Vec<String>, usize) {
    (items.iter().take(SHOWN).map(line).collect(), items.len())
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
