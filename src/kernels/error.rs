//! What a kernel refuses, and why.

use burn::tensor::DType;
use thiserror::Error;

use crate::quoted::Quoted;

/// An input that a kernel cannot compute with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A tensor whose shape does not fit the others.
    #[error("{operation}: {argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that refused.
        operation: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// What would fit, in the operation's own words.
        expected: String,
        /// The shape that was passed.
        found: Vec<usize>,
    },
    /// A tensor whose element type does not fit.
    #[error("{operation}: {argument} holds {found:?}, expected {expected}; cast it first")]
    DType {
        /// The operation that refused.
        operation: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// What would fit.
        expected: &'static str,
        /// The type that was passed.
        found: DType,
    },
    /// An instruction set that this processor lacks.
    #[error("APB_CPU is `{}`; this processor has {}", Quoted(found), .available.join(", "))]
    InstructionSet {
        /// What the variable holds.
        found: String,
        /// What it may be.
        available: Vec<&'static str>,
    },
    /// A backend that this crate was built without.
    #[error(
        "{operation}: no kernels for {device} in this build; turn on burn-apb's feature for it (`wgpu` or \
         `cuda`), as the application does for burn, or use `Device::flex()`"
    )]
    Backend {
        /// The operation that refused.
        operation: &'static str,
        /// The device.
        device: String,
    },
    /// Tensors on different devices.
    #[error("{operation}: one tensor is on {first}, another on {other}; move them to one device")]
    Devices {
        /// The operation that refused.
        operation: &'static str,
        /// A device.
        first: String,
        /// Another.
        other: String,
    },
    /// Query heads that cannot be shared evenly among the key/value heads.
    #[error("attention: {heads} query heads are not a multiple of {kv_heads} key/value heads")]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key/value heads.
        kv_heads: usize,
    },
    /// Regions longer than the keys or rows they divide.
    #[error(
        "attention: {passing} passing and {anchor} anchor keys with {seq_q} query rows do not fit \
         {seq_kv} keys laid out [passing | anchor | local]; {reason}"
    )]
    Regions {
        /// Passing keys.
        passing: usize,
        /// Anchor keys.
        anchor: usize,
        /// Query rows.
        seq_q: usize,
        /// All keys.
        seq_kv: usize,
        /// Which rule is broken.
        reason: &'static str,
    },
}

impl KernelError {
    pub(crate) fn shape(
        operation: &'static str,
        argument: &'static str,
        expected: String,
        found: &[usize],
    ) -> Self {
        Self::Shape {
            operation,
            argument,
            expected,
            found: found.to_vec(),
        }
    }
}

/// Elements of a tensor at most: their bytes, whatever the dtype, can be counted.
const MOST_ELEMENTS: usize = isize::MAX as usize / 8;

/// Refuses shapes, those of inputs and of the output, with more elements than memory can be asked for. Views and tensors
/// without elements have such shapes without memory. A dimension of 0 counts as 1, so that no product of some of the
/// dimensions overflows either.
pub(super) fn check_sizes(
    operation: &'static str,
    shapes: &[(&'static str, &[usize])],
) -> Result<(), KernelError> {
    for &(argument, shape) in shapes {
        let mut sizes = shape.iter().map(|size| (*size).max(1));
        let elements = sizes.try_fold(1usize, usize::checked_mul);
        if elements.is_none_or(|elements| elements > MOST_ELEMENTS) {
            let expected = format!("at most {MOST_ELEMENTS} elements, where 0 counts as 1");
            return Err(KernelError::shape(operation, argument, expected, shape));
        }
    }
    Ok(())
}

/// Refuses a tensor of another dtype than those that `expected` names.
pub(super) fn check_dtype(
    operation: &'static str,
    argument: &'static str,
    found: DType,
    expected: &'static str,
    accepted: &[DType],
) -> Result<(), KernelError> {
    match accepted.contains(&found) {
        true => Ok(()),
        false => Err(KernelError::DType {
            operation,
            argument,
            expected,
            found,
        }),
    }
}

/// Refuses a tensor that does not hold f32, f16 or bf16.
pub(super) fn check_float(
    operation: &'static str,
    argument: &'static str,
    found: DType,
) -> Result<(), KernelError> {
    let accepted = [DType::F32, DType::F16, DType::BF16];
    check_dtype(operation, argument, found, "f32, f16 or bf16", &accepted)
}
