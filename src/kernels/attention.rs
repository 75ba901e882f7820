//! The one attention operation.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::error::{check_dtype, check_float, check_sizes};
use super::extension::{AttentionPrimitives, Kernels, check_devices, is_cpu};
use super::{KernelError, Regions};

/// What attention gives: the mixed values, and the normaliser that lets parts be [merged](super::merge).
#[derive(Debug, Clone)]
pub struct AttentionOutput {
    /// `[batch, heads, seq_q, head_dim]`, dtype of the queries; 0 in rows without a visible key.
    ///
    /// Its memory runs `[batch, seq_q, heads, head_dim]` wherever a kernel wrote it, so that
    /// `out.swap_dims(1, 2).reshape([batch, seq_q, heads * head_dim])` copies nothing.
    pub out: Tensor<4>,
    /// `[batch, heads, seq_q]`, f32: natural logarithm of the sum of `exp(score)`; -inf in rows
    /// without a visible key.
    pub lse: Tensor<3>,
}

/// `softmax(q k^T / sqrt(head_dim)) v` over the keys that `regions` lets each row see.
///
/// Query head `h` uses key/value head `h / (heads / kv_heads)`; keys and values are never repeated,
/// and nothing of `seq_q x seq_kv` elements is held, not for the backward pass either. Views (a slice of a preallocated cache, swapped
/// dimensions) are read in place; on GPUs as long as `head_dim` is the fastest dimension and rows start on
/// 16 bytes. Sums are f32 whatever the dtype.
///
/// # Shapes
///
/// - `q`: `[batch, heads, seq_q, head_dim]`
/// - `k`, `v`: `[batch, kv_heads, seq_kv, head_dim]`, of one dtype: that of `q` (f32, f16 or bf16), or another, which
///   beside an f32 `q` on a CPU is read as it is, and otherwise cast to that of `q` first
///
/// # Errors
///
/// [`KernelError`] when shapes, dtypes, heads or regions do not fit.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    regions: Regions,
) -> Result<AttentionOutput, KernelError> {
    check_shapes(OPERATION, q.dims(), k.dims(), v.dims(), regions)?;
    // The output has the shape of q.
    check_sizes(
        OPERATION,
        &[
            ("q", &q.dims()[..]),
            ("k", &k.dims()[..]),
            ("v", &v.dims()[..]),
        ],
    )?;
    check_float(OPERATION, "q", q.dtype())?;
    check_float(OPERATION, "k", k.dtype())?;
    check_dtype(OPERATION, "v", v.dtype(), "the dtype of k", &[k.dtype()])?;
    check_devices(OPERATION, &[&q.device(), &k.device(), &v.device()])?;
    let dtype = q.dtype();
    let on_autodiff = q.is_autodiff() || k.is_autodiff() || v.is_autodiff();
    let as_they_are = dtype == DType::F32 && is_cpu(&q.device()) && !on_autodiff;
    let (k, v) = match as_they_are || k.dtype() == dtype {
        true => (k, v),
        false => (k.cast(dtype), v.cast(dtype)),
    };
    // Here, where fusion holds nothing back: the test reads its result.
    #[cfg(feature = "cuda")]
    {
        let [_, heads, seq_q, head_dim] = q.dims();
        let rows = seq_q.saturating_mul(heads / k.dims()[1]);
        super::tensor_core::self_test::before(&q.device(), dtype, head_dim, rows);
    }
    let AttentionPrimitives { out, lse } = Dispatch::attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        regions,
    );
    Ok(AttentionOutput {
        out: Tensor::from_dispatch(out),
        lse: Tensor::from_dispatch(lse),
    })
}

/// Refuses queries, keys and values, in elements, that do not go together.
pub(super) fn check_shapes(
    operation: &'static str,
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    regions: Regions,
) -> Result<(), KernelError> {
    let [batch, heads, seq_q, head_dim] = q;
    let [_, kv_heads, seq_kv, _] = k;
    let expected = [batch, kv_heads, seq_kv, head_dim];
    for (argument, found) in [("k", k), ("v", v)] {
        if found != expected {
            let expected =
                format!("[batch, kv_heads, seq_kv, head_dim] = {expected:?}, beside q {q:?}");
            return Err(KernelError::shape(operation, argument, expected, &found));
        }
    }
    if head_dim == 0 {
        let expected = "a head_dim above 0".into();
        return Err(KernelError::shape(operation, "q", expected, &q));
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(KernelError::Heads { heads, kv_heads });
    }
    regions.validate(seq_q, seq_kv)
}

/// Its name in errors.
const OPERATION: &str = "attention";
