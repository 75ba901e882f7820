//! A checkpoint's tensors into a module's parameters.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::{Module, ModuleMapper, Param};
use burn::store::{Applier, ApplyError};
use burn::tensor::{Bool, DType, Int, Tensor};

use super::elements;
use super::error::{WeightsError, panic_message};
use super::index::INDEX_FILE;
use super::plan::{self, CodesPart, Compared, Filled};
use super::progress::Progress;
use super::reader::Checkpoint;
use super::report::{LoadOptions, LoadReport, LoadWarning};
use super::tensor::{StoredType, read_error};
use crate::kernels::BlockFormat;

/// The path in this crate's modules of a tensor with a Hugging Face name: the leading `model.` is
/// dropped, and the weight of a norm is called `gamma`, as in [`burn::nn::RmsNorm`].
///
/// ```
/// use burn_apb::checkpoint::module_path;
///
/// assert_eq!(module_path("model.layers.0.input_layernorm.weight"), "layers.0.input_layernorm.gamma");
/// assert_eq!(module_path("lm_head.weight"), "lm_head.weight");
/// ```
pub fn module_path(name: &str) -> String {
    let name = name.strip_prefix("model.").unwrap_or(name);
    match name.strip_suffix("norm.weight") {
        Some(stem) => format!("{stem}norm.gamma"),
        None => name.to_string(),
    }
}

/// Loads a checkpoint into a module that has just been initialised, in the requested type.
///
/// The module's float parameters are first compared with the checkpoint's tensors, `rename` giving
/// a tensor's path in the module ([`module_path()`] for this crate's own); parameters stay
/// uninitialised meanwhile and nothing is read. Then one tensor after another is read and moved to
/// the module's device by burn-store, so that there is never a second copy of more than one tensor,
/// and on a CPU none at all where the stored type is the requested one. Integer and boolean
/// parameters are left as they are, but for the blocks of a [`QuantizedLinear`](crate::model::QuantizedLinear), which
/// stay the mapped file itself where its rows are in order.
///
/// Tensors that the module has no parameter for are not read and named in the report's warning;
/// with [`LoadOptions::strict`] they are an error, and so is a shard that disagrees with its index.
/// Of a module without an output head, `lm_head.weight` belongs to the embedding: it fills it where
/// the checkpoint holds no other tensor for it (see [`resolve_tying`](super::resolve_tying)).
///
/// # Errors
///
/// [`WeightsError::Mismatch`] with everything that is missing, or of another shape or type, all at
/// once; [`WeightsError::AskedType`] for a type other than f32, f16 and bf16;
/// [`WeightsError::Read`] when a tensor's data cannot be produced.
pub fn load<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    options: impl Into<LoadOptions>,
    rename: impl Fn(&str) -> String,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(M, LoadReport), WeightsError> {
    let LoadOptions { dtype, strict, .. } = options.into();
    let width = elements::width(dtype).ok_or(WeightsError::AskedType { found: dtype })? as u64;
    if strict && !checkpoint.shard_notes().is_empty() {
        return Err(WeightsError::ShardDisagrees {
            index: checkpoint.path().join(INDEX_FILE),
            faults: checkpoint.shard_notes().clauses(),
        });
    }
    let Compared {
        plan,
        unused,
        biases,
    } = plan::compare(&module, checkpoint, &rename, strict).map_err(WeightsError::Mismatch)?;
    let mut report = report(checkpoint, unused, biases);
    report.formats = formats(checkpoint, &plan);

    let (mut tensors, mut total) = (Vec::with_capacity(plan.len()), 0u64);
    let mut blocks = HashMap::new();
    for Filled {
        path,
        name,
        blocks: quantized,
    } in plan
    {
        if quantized {
            total = total.saturating_add(checkpoint.blocks_len(&name));
            blocks.insert(path, name);
            continue;
        }
        let mut tensor = checkpoint.tensor(&name, dtype)?;
        total = total.saturating_add(tensor.byte_len() as u64);
        tensor.name = path;
        tensors.push(tensor);
    }
    let applier = Applier::new(tensors, None, None, false);
    let mut loading = Loading {
        applier,
        checkpoint,
        blocks,
        failed: None,
        path: Vec::new(),
        container: String::new(),
        width,
        done: 0,
        total,
        progress,
    };
    // A panic of a device (out of memory) ends the load, not the program; the module is gone then
    // either way.
    let module = catch_unwind(AssertUnwindSafe(|| module.map(&mut loading))).map_err(|panic| {
        let path = loading.path.join(".");
        failed(checkpoint, &path, &rename, panic_message(&*panic))
    })?;

    if let Some(error) = loading.failed {
        return Err(error);
    }
    let result = loading.applier.into_result();
    match result.errors.into_iter().next() {
        None => Ok((module, report)),
        Some(error) => {
            let (ApplyError::ShapeMismatch { path, .. }
            | ApplyError::DTypeMismatch { path, .. }
            | ApplyError::AdapterError { path, .. }
            | ApplyError::LoadError { path, .. }) = &error;
            Err(failed(checkpoint, path, &rename, error.to_string()))
        }
    }
}

/// The report about tensors that no parameter takes.
pub(super) fn report(
    checkpoint: &Checkpoint,
    unused: Vec<String>,
    biases: Vec<String>,
) -> LoadReport {
    let path = || checkpoint.path().to_path_buf();
    let shards = checkpoint.shard_notes().clone();
    let mut warnings = Vec::new();
    // Biases that would change the answer have a warning of their own.
    let apart: HashSet<&String> = biases.iter().collect();
    let plain: Vec<String> = unused
        .iter()
        .filter(|name| !apart.contains(name))
        .cloned()
        .collect();
    if !plain.is_empty() || !shards.is_empty() {
        warnings.push(LoadWarning::Tensors {
            path: path(),
            unused: plain,
            shards,
        });
    }
    if !biases.is_empty() {
        warnings.push(LoadWarning::Biases {
            path: path(),
            names: biases,
        });
    }
    LoadReport {
        warnings,
        unused,
        formats: Vec::new(),
    }
}

/// The formats of parameters that are blocks.
fn formats(checkpoint: &Checkpoint, plan: &[Filled]) -> Vec<(BlockFormat, usize)> {
    let mut formats: Vec<(BlockFormat, usize)> = Vec::new();
    for filled in plan.iter().filter(|filled| filled.blocks) {
        let info = checkpoint.info(&filled.name);
        if let Some(&StoredType::Quantized(format)) = info.map(|info| &info.stored) {
            match formats.iter_mut().find(|(same, _)| *same == format) {
                Some((_, count)) => *count += 1,
                None => formats.push((format, 1)),
            }
        }
    }
    formats
}

/// The error for a tensor that was accepted and could not be read after all.
fn failed(
    checkpoint: &Checkpoint,
    path: &str,
    rename: &dyn Fn(&str) -> String,
    message: String,
) -> WeightsError {
    match checkpoint.tensors().find(|info| rename(&info.name) == path) {
        Some(info) => read_error(info, message),
        None => WeightsError::Read {
            path: checkpoint.path().into(),
            name: path.into(),
            message,
        },
    }
}

/// burn-store's applier, with a report after each parameter.
struct Loading<'a> {
    applier: Applier,
    checkpoint: &'a Checkpoint,
    /// The tensors of quantised layers, by the paths of float weights in their places.
    blocks: HashMap<String, String>,
    /// The first of those that could not be read.
    failed: Option<WeightsError>,
    path: Vec<String>,
    /// What the last parameter entered is in.
    container: String,
    width: u64,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl ModuleMapper for Loading<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_string());
        container.clone_into(&mut self.container);
        self.applier.enter_module(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.path.pop();
        self.applier.exit_module(name, container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let elements = param.lazy_shape().num_elements() as u64;
        let param = self.applier.map_float(param);
        self.done = self
            .done
            .saturating_add(elements.saturating_mul(self.width));
        (self.progress)(Progress::new(&self.path.join("."), self.done, self.total));
        param
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let Some(part) = plan::part_at(&self.path, &self.container) else {
            return param;
        };
        let (CodesPart::Blocks(_, path) | CodesPart::Order(path)) = &part;
        let Some(name) = self.blocks.get(path) else {
            return param;
        };
        let shape = param.lazy_shape().to_vec();
        let (read, dtype) = match (&self.failed, &part) {
            (Some(_), _) => return param,
            (None, CodesPart::Blocks(..)) => (self.checkpoint.blocks(name, &shape), DType::U8),
            (None, CodesPart::Order(_)) => (self.checkpoint.order_data(name, &shape), DType::I32),
        };
        match read {
            Ok(data) => {
                let bytes = match dtype {
                    DType::U8 => data.as_bytes().len() as u64,
                    _ => 0,
                };
                let device = param.lazy_device();
                let param = Param::initialized(param.id, Tensor::from_data(data, (&device, dtype)));
                self.done = self.done.saturating_add(bytes);
                (self.progress)(Progress::new(&self.path.join("."), self.done, self.total));
                param
            }
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        param
    }
}
