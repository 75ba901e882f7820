//! GGUF blocks to elements, a few rows at a time, llama.cpp's row order undone on the way.

use std::borrow::Cow;
use std::ops::Range;

use burn::tensor::{AllocationProperty, Bytes, FloatDType, bf16, f16};
use rayon::prelude::*;

use super::kind::GgmlType;
use crate::checkpoint::elements::{self, Target};
use crate::checkpoint::mapped::MappedFile;
use crate::kernels::BlockFormat;

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

    /// How the elements lie where they are quantised.
    pub(crate) fn format(&self) -> Option<BlockFormat> {
        self.kind.blocks()
    }

    fn source(&self) -> Result<bytes::Bytes, String> {
        let source = self.file.slice(self.range.clone());
        source.ok_or_else(|| "its bytes are not inside the file".into())
    }

    /// The blocks in the order of Hugging Face's rows, or why not: the mapped file itself, but for rows that lie
    /// interleaved there. Scales that are infinite or no number are refused.
    pub(crate) fn blocks(&self) -> Result<Bytes, String> {
        let source = self.source()?;
        let format = self.format().ok_or("its elements are no blocks")?;
        let row_bytes = self.row_bytes(&source)?;
        check_scales(format, &source, row_bytes)?;
        Ok(match self.head_dim()? {
            None => Bytes::from_shared(source, AllocationProperty::File),
            Some(head_dim) => {
                let from = (0..self.rows).map(|row| source_row(row, head_dim));
                Bytes::from_elems(gather(&source, from, row_bytes))
            }
        })
    }

    /// The elements as `to`, or why not. Plain elements in order share the mapped file.
    pub(crate) fn read(&self, to: FloatDType) -> Result<Bytes, String> {
        let source = self.source()?;
        if let (Some(from), None) = (self.kind.plain(), self.interleaved) {
            return elements::convert(source, from, to)
                .ok_or_else(|| format!("{from:?} cannot become {to:?}"));
        }
        match to {
            FloatDType::F32 => self.rows_as::<f32>(&source).map(Bytes::from_elems),
            FloatDType::F16 => self.rows_as::<f16>(&source).map(Bytes::from_elems),
            FloatDType::BF16 => self.rows_as::<bf16>(&source).map(Bytes::from_elems),
            other => Err(format!("{} cannot become {other:?}", self.kind)),
        }
    }

    fn row_bytes(&self, source: &[u8]) -> Result<usize, String> {
        let (rows, cols) = (self.rows, self.cols);
        if rows == 0 || cols == 0 || !source.len().is_multiple_of(rows) {
            return Err(format!("{} bytes are not {rows} rows", source.len()));
        }
        Ok(source.len() / rows)
    }

    /// Rows of a head where they are interleaved.
    fn head_dim(&self) -> Result<Option<usize>, String> {
        let rows = self.rows;
        match self.interleaved {
            Some(heads)
                if heads > 0 && rows.is_multiple_of(heads) && (rows / heads).is_multiple_of(2) =>
            {
                Ok(Some(rows / heads))
            }
            Some(heads) => Err(format!(
                "{rows} rows are not {heads} heads of an even dimension"
            )),
            None => Ok(None),
        }
    }

    fn rows_as<T: Target>(&self, source: &[u8]) -> Result<Vec<T>, String> {
        let (rows, cols) = (self.rows, self.cols);
        let row_bytes = self.row_bytes(source)?;
        if let Some(format) = self.format() {
            check_scales(format, source, row_bytes)?;
        }
        let head_dim = self.head_dim()?;
        let step = (CHUNK / cols).max(1);
        let mut out = vec![T::zeroed(); rows * cols];
        out.par_chunks_mut(step * cols).enumerate().for_each_init(
            Vec::new,
            |scratch, (task, out)| {
                let (first, count) = (task * step, out.len() / cols);
                let blocks = match head_dim {
                    None => Cow::Borrowed(&source[first * row_bytes..(first + count) * row_bytes]),
                    Some(head_dim) => {
                        let from = (first..first + count).map(|row| source_row(row, head_dim));
                        Cow::Owned(gather(source, from, row_bytes))
                    }
                };
                scratch.resize(out.len(), 0.0);
                match self.kind.plain() {
                    Some(from) => elements::widen(&blocks, from, scratch),
                    None => {
                        if let Some(format) = self.format() {
                            format.dequantize(&blocks, scratch);
                        }
                    }
                }
                T::narrow(scratch, out);
            },
        );
        Ok(out)
    }
}

/// Refuses rows with a scale that is infinite or no number.
fn check_scales(format: BlockFormat, source: &[u8], row_bytes: usize) -> Result<(), String> {
    let rows = source.par_chunks(row_bytes.max(1)).enumerate();
    let wrong = |(row, blocks): (usize, &[u8])| Some((row, format.first_not_finite(blocks)?));
    match rows.find_map_first(wrong) {
        None => Ok(()),
        Some((row, block)) => Err(format!(
            "block {block} of row {row} has a scale that is infinite or no number; the file is damaged"
        )),
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
