//! From scores to a passing block: pool, select, gather, pack.

use std::ops::Range;

use burn::tensor::{Int, Tensor};

use super::error::SessionError;
use super::host;
use crate::kernels::{KernelError, RowChoice, gather_rows, select_rows};

/// Window of the max pooling along the rows: a row is kept for the sake of its neighbours.
pub(crate) const POOL: usize = 5;

/// The rows that one rank passes on. They stay on the device until they are read.
#[derive(Debug, Clone)]
pub struct Selection {
    /// `[batch, kv_heads, l_p]`, i32: indices of local rows, ascending.
    pub rows: Tensor<3, Int>,
}

impl Selection {
    /// The `count` rows with the highest pooled scores among `selectable`, for each KV head; ties go
    /// to the lower index.
    ///
    /// `scores` are raw, `[batch, kv_heads, rows]`, f32; `before`, where given, are raw scores of the
    /// rows just before them, which are pooled with them but never chosen.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when shapes or dtypes do not fit.
    pub fn highest(
        scores: Tensor<3>,
        before: Option<Tensor<3>>,
        selectable: Range<usize>,
        count: usize,
    ) -> Result<Self, KernelError> {
        let choice = RowChoice {
            selectable,
            count,
            window: POOL,
        };
        let rows = select_rows(scores, before, choice)?;
        Ok(Self { rows })
    }

    /// Gathers the chosen rows of keys (after RoPE) and values, `[batch, kv_heads, rows, head_dim]`
    /// each, into one packed block `[2 * batch, kv_heads, l_p, head_dim]`: all keys, then all values.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when shapes or dtypes do not fit.
    pub fn gather(&self, keys: Tensor<4>, values: Tensor<4>) -> Result<Tensor<4>, KernelError> {
        gather_rows(keys, values, self.rows.clone())
    }

    /// The rows on the host: for each sequence of the batch and KV head.
    ///
    /// # Errors
    ///
    /// [`SessionError::Device`] when they cannot be read.
    pub fn indices(&self) -> Result<Vec<Vec<Vec<usize>>>, SessionError> {
        let [_, kv_heads, count] = self.rows.dims();
        let indices = host::indices(self.rows.clone())?;
        if count == 0 {
            return Ok(vec![vec![Vec::new(); kv_heads]; self.rows.dims()[0]]);
        }
        let heads: Vec<Vec<usize>> = indices.chunks(count).map(<[usize]>::to_vec).collect();
        Ok(heads.chunks(kv_heads).map(<[Vec<usize>]>::to_vec).collect())
    }
}

/// Keys and values `[batch, kv_heads, rows, head_dim]` as one tensor `[2 * batch, ..]`, so that they
/// travel in one exchange and each is still one piece of memory.
pub fn pack(keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    Tensor::cat(vec![keys, values], 0)
}

/// The keys and values that [`pack`] put together; views, not copies.
pub fn unpack(packed: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [both, kv_heads, rows, head_dim] = packed.dims();
    let half = both / 2;
    let part = |range: Range<usize>| {
        packed
            .clone()
            .slice([range, 0..kv_heads, 0..rows, 0..head_dim])
    };
    (part(0..half), part(half..both))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn gathers_each_heads_own_rows() {
        let device = Device::flex();
        let keys: Vec<f32> = (0..2 * 3 * 2).map(|i| i as f32).collect();
        let keys = Tensor::<4>::from_data(TensorData::new(keys, [1, 2, 3, 2]), &device);
        let scores = Tensor::<3>::from_floats([[[5.0, 0.0, 0.0], [0.0, 0.0, 5.0]]], &device);
        // The window covers all three rows: the first two of each head tie and win.
        let pooled = Selection::highest(scores, None, 0..3, 2).unwrap();
        assert_eq!(pooled.indices().unwrap(), [[[0, 1], [0, 1]]]);
        let selection = Selection {
            rows: Tensor::from_data(
                TensorData::new(vec![0, 2, 1, 2], [1, 2, 2]),
                (&device, burn::tensor::DType::I32),
            ),
        };
        assert_eq!(selection.indices().unwrap(), [[[0, 2], [1, 2]]]);
        let packed = selection.gather(keys.clone(), keys + 100.0).unwrap();
        let (k, v) = unpack(packed);
        let expected = [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0];
        assert_eq!(k.into_data().try_to_vec::<f32>().unwrap(), expected);
        assert_eq!(
            v.into_data().try_to_vec::<f32>().unwrap(),
            expected.map(|x| x + 100.0)
        );
    }
}
