//! A tensor on its way into a GGUF file, a few rows at a time.

use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::FloatDType;
use bytes::Bytes;
use rayon::prelude::*;

use super::QuantizeError;
use crate::checkpoint::elements;
use crate::checkpoint::gguf::{GgmlType, Written};
use crate::checkpoint::mapped::MappedFile;
use crate::checkpoint::reader::Checkpoint;
use crate::checkpoint::tensor::StoredType;

/// Elements that are quantised before they are written: the memory that is needed beside the mapped files is a few
/// times as many bytes.
const CHUNK: usize = 1 << 22;

/// A tensor to be written.
pub(super) struct Rows {
    /// The file that it comes from.
    pub path: PathBuf,
    /// Its name in GGUF.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    /// The stored elements; those of codes in several tensors are read when they are written.
    pub data: Bytes,
    /// Where codes that lie in several tensors are read, and under which name.
    pub codes: Option<(Checkpoint, String)>,
    /// Where they are mapped.
    pub mapped: Option<(MappedFile, Range<usize>)>,
    /// How they are stored.
    pub from: StoredType,
    /// How they are written.
    pub kind: GgmlType,
    /// What writes them; they are copied where nothing does.
    pub written: Option<Written>,
    /// Rows of a head, where their halves are interleaved.
    pub head_dim: Option<usize>,
}

/// What is wrong with a row.
enum Fault {
    NotFinite { column: usize, found: f32 },
    TooLarge,
}

/// The Hugging Face row that becomes row `row` of the file, where heads have `head_dim` rows: llama.cpp rotates
/// neighbouring rows of a head together, Hugging Face a row of the first half with one of the second.
fn source_row(row: usize, head_dim: usize) -> usize {
    let within = row % head_dim;
    row - within + within % 2 * (head_dim / 2) + within / 2
}

impl Rows {
    /// Number of elements.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and their length. The elements of a vector are rows where they are reordered.
    fn rows(&self) -> (usize, usize) {
        let innermost = self.shape.last().copied().unwrap_or(1);
        let cols = match self.shape.len() {
            1 if self.head_dim.is_some() => 1,
            _ => innermost,
        };
        (self.elements() / cols.max(1), cols)
    }

    /// Bytes that are written.
    pub(super) fn bytes(&self) -> u64 {
        match self.written {
            None => self.data.len() as u64,
            Some(written) => {
                let (rows, cols) = self.rows();
                (written.row_bytes(cols) as u64).saturating_mul(rows as u64)
            }
        }
    }

    /// Hands all of it to `sink`, in order.
    pub(super) fn write(
        &self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), QuantizeError>,
    ) -> Result<(), QuantizeError> {
        match self.written {
            None => self.copy(sink)?,
            Some(written) => match &self.codes {
                None => self.convert(written, &self.data, &self.from, sink)?,
                Some((checkpoint, name)) => {
                    let floats = checkpoint.read(name, FloatDType::F32)?;
                    let from = StoredType::Float(FloatDType::F32);
                    self.convert(written, floats.as_bytes(), &from, sink)?;
                }
            },
        }
        if let Some((file, range)) = &self.mapped {
            file.release(range.clone());
        }
        Ok(())
    }

    fn copy(
        &self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), QuantizeError>,
    ) -> Result<(), QuantizeError> {
        if let StoredType::Quantized(format) = self.from
            && let Some(block) = format.first_not_finite(&self.data)
        {
            let (_, cols) = self.rows();
            let element = block * format.block_len();
            return Err(self.fault(
                element / cols.max(1),
                Fault::NotFinite {
                    column: element % cols.max(1),
                    found: f32::NAN,
                },
            ));
        }
        self.data.chunks(CHUNK).try_for_each(sink)
    }

    fn convert(
        &self,
        written: Written,
        data: &[u8],
        stored_as: &StoredType,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), QuantizeError>,
    ) -> Result<(), QuantizeError> {
        let (rows, cols) = self.rows();
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let (stored, made) = (data.len() / rows, written.row_bytes(cols));
        let step = (CHUNK / cols).clamp(1, rows);
        let mut out = vec![0u8; step * made];
        for first in (0..rows).step_by(step) {
            let out = &mut out[..(rows - first).min(step) * made];
            let row = |scratch: &mut Vec<f32>, (row, out): (usize, &mut [u8])| {
                let from = match self.head_dim {
                    Some(head_dim) => source_row(first + row, head_dim),
                    None => first + row,
                };
                scratch.resize(cols, 0.0);
                widen(
                    &data[from * stored..(from + 1) * stored],
                    stored_as,
                    scratch,
                );
                let fault = match scratch.iter().position(|x| !x.is_finite()) {
                    Some(column) => Fault::NotFinite {
                        column,
                        found: scratch[column],
                    },
                    None if written.write(scratch, out) => return None,
                    None => Fault::TooLarge,
                };
                Some((from, fault))
            };
            let fault = out
                .par_chunks_mut(made)
                .enumerate()
                .map_init(Vec::new, row)
                .find_map_first(|fault| fault);
            if let Some((row, fault)) = fault {
                return Err(self.fault(row, fault));
            }
            sink(out)?;
        }
        Ok(())
    }

    fn fault(&self, row: usize, fault: Fault) -> QuantizeError {
        let (path, name) = (self.path.clone(), self.name.clone());
        match fault {
            Fault::NotFinite { column, found } => QuantizeError::NotFinite {
                path,
                name,
                row,
                column,
                found,
            },
            Fault::TooLarge => QuantizeError::TooLarge {
                path,
                name,
                row,
                format: self.kind.name(),
            },
        }
    }
}

/// A stored row as floats.
fn widen(row: &[u8], stored: &StoredType, out: &mut [f32]) {
    match stored {
        StoredType::Float(dtype) => elements::widen(row, *dtype, out),
        StoredType::Quantized(format) => format.dequantize(row, out),
        // Nothing of another type is planned.
        StoredType::Other(_) => out.fill(f32::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy: `w.reshape(h, 2, d // 2, cols).swapaxes(1, 2)`, as llama.cpp's converter, for two heads of four.
    #[test]
    fn halves_are_interleaved() {
        let rows: Vec<usize> = (0..8).map(|row| source_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<usize> = (0..6).map(|row| source_row(row, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5]);
    }
}
