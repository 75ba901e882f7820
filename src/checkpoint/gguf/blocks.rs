//! GGUF blocks to elements, a few rows at a time, llama.cpp's row order undone on the way.

use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Bytes, FloatDType, bf16, f16};
use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::iq4;
use super::kind::{GgmlType, Stored};
use crate::checkpoint::elements::{self, Target};
use crate::checkpoint::error::panic_message;
use crate::checkpoint::mapped::MappedFile;

/// Elements dequantised by one task: the f32 scratch of a task is four times as many bytes.
const CHUNK: usize = 1 << 16;

/// A tensor in a GGUF file, seen as rows.
#[derive(Debug, Clone)]
pub(crate) struct BlockTensor {
    pub(super) file: MappedFile,
    pub(super) range: Range<usize>,
    pub(super) kind: GgmlType,
    /// Number of rows: the product of all axes but the innermost; of a vector, its elements where
    /// they are reordered and otherwise 1.
    pub(super) rows: usize,
    /// Elements of a row, a whole number of blocks.
    pub(super) cols: usize,
    /// Heads whose rows are interleaved (see [`source_row`]).
    pub(super) interleaved: Option<usize>,
}

/// The row of the file that holds row `row` of a Hugging Face projection.
///
/// llama.cpp rotates neighbouring rows of a head, Hugging Face row `i` with row `i + head_dim / 2`,
/// so its converter interleaves the two halves of every head of the llama architecture's q and k
/// projections; the other architectures keep the halves.
fn source_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (within % half) + within / half
}

impl BlockTensor {
    /// Where the blocks lie.
    pub(crate) fn place(&self) -> (&MappedFile, &Range<usize>) {
        (&self.file, &self.range)
    }

    /// The elements as `to`, or why not. Plain elements in order share the mapped file.
    pub(crate) fn read(&self, to: FloatDType) -> Result<Bytes, String> {
        let source = self
            .file
            .slice(self.range.clone())
            .ok_or("its bytes are not inside the file")?;
        if let (Some(from), None) = (self.kind.plain(), self.interleaved) {
            return elements::convert(source, from, to)
                .ok_or_else(|| format!("{from:?} cannot become {to:?}"));
        }
        // candle asserts its expectations; all of them were checked with the header, but a panic
        // must not pass through the module that is being loaded.
        catch_unwind(AssertUnwindSafe(|| match to {
            FloatDType::F32 => self.rows_as::<f32>(&source).map(Bytes::from_elems),
            FloatDType::F16 => self.rows_as::<f16>(&source).map(Bytes::from_elems),
            FloatDType::BF16 => self.rows_as::<bf16>(&source).map(Bytes::from_elems),
            other => Err(format!("{} cannot become {other:?}", self.kind)),
        }))
        .unwrap_or_else(|panic| Err(panic_message(&*panic)))
    }

    fn rows_as<T: Target>(&self, source: &[u8]) -> Result<Vec<T>, String> {
        let (rows, cols) = (self.rows, self.cols);
        if rows == 0 || cols == 0 || !source.len().is_multiple_of(rows) {
            return Err(format!("{} bytes are not {rows} rows", source.len()));
        }
        let row_bytes = source.len() / rows;
        let head_dim = match self.interleaved {
            Some(heads)
                if heads > 0 && rows.is_multiple_of(heads) && (rows / heads).is_multiple_of(2) =>
            {
                Some(rows / heads)
            }
            Some(heads) => {
                return Err(format!(
                    "{rows} rows are not {heads} heads of an even dimension"
                ));
            }
            None => None,
        };
        let step = (CHUNK / cols).max(1);
        let mut out = vec![T::zeroed(); rows * cols];
        out.par_chunks_mut(step * cols)
            .enumerate()
            .try_for_each(|(task, out)| {
                let (first, count) = (task * step, out.len() / cols);
                let blocks = match head_dim {
                    None => Cow::Borrowed(&source[first * row_bytes..(first + count) * row_bytes]),
                    Some(head_dim) => {
                        let from = (first..first + count).map(|row| source_row(row, head_dim));
                        Cow::Owned(gather(source, from, row_bytes))
                    }
                };
                dequantize(self.kind, &blocks, out)
            })?;
        Ok(out)
    }
}

/// The given rows one behind the other.
fn gather(source: &[u8], rows: impl Iterator<Item = usize>, row_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.size_hint().0 * row_bytes);
    for row in rows {
        out.extend_from_slice(&source[row * row_bytes..(row + 1) * row_bytes]);
    }
    out
}

/// Dequantises whole blocks.
fn dequantize<T: Target>(kind: GgmlType, blocks: &[u8], out: &mut [T]) -> Result<(), String> {
    let by_table = |read: fn(&[u8], &mut [f32]), out: &mut [T]| {
        let mut values = vec![0.0; out.len()];
        read(blocks, &mut values);
        T::narrow(&values, out);
        Ok(())
    };
    match kind.stored() {
        Stored::Candle(kind) => by_candle(kind, blocks, out),
        Stored::Iq4Nl => by_table(iq4::nl, out),
        Stored::Iq4Xs => by_table(iq4::xs, out),
    }
}

fn by_candle<T: Target>(kind: GgmlDType, blocks: &[u8], out: &mut [T]) -> Result<(), String> {
    match kind.from_data(Cow::Borrowed(blocks)).dequantize(out.len()) {
        Ok(CpuStorage::F32(values)) => {
            T::narrow(&values, out);
            Ok(())
        }
        Ok(_) => Err("candle dequantised to something else than f32".to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy: `w.reshape(h, d // 2, 2, cols).swapaxes(1, 2)`, written out for two heads of four.
    #[test]
    fn interleaved_rows_return_to_halves() {
        let rows: Vec<usize> = (0..8).map(|row| source_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<usize> = (0..6).map(|row| source_row(row, 6)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5]);
    }
}
