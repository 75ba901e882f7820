//! Weights of safetensors checkpoints in codes, whose scales and zero points are tensors of their own.
//!
//! | file | holds |
//! |---|---|
//! | `resolve` | which tensors are one weight, by method (GPTQ, AWQ, compressed-tensors, FP8), and whether they fit |
//! | `packing` | codes and zero points in words |
//! | `mod` | the weight as blocks, or as floats |

mod packing;
mod resolve;

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Bytes, FloatDType, bf16, f16};
use rayon::prelude::*;

use super::elements::{self, Target};
use super::mapped::MappedFile;
use crate::kernels::BlockFormat;
use crate::kernels::blocks::{self, e4m3, is_nan};
use packing::{Packing, ZeroPacking};

pub(super) use resolve::resolve;

/// Rows that are unpacked at a time: a cache line of words that hold a column of each.
const ROWS: usize = 64;
/// Between rows of codes, so that a column of all of them is not in one set of the cache.
const GAP: usize = 64;

/// A weight `[rows, columns]` in codes.
#[derive(Debug)]
pub(super) struct GroupedTensor {
    codes: Part,
    packing: Packing,
    scales: Part,
    scale_type: FloatDType,
    scale_layout: Layout,
    zeros: Option<(Part, ZeroPacking)>,
    rows: usize,
    columns: usize,
    /// Rows that share a scale.
    group_rows: usize,
    /// Columns that share a scale.
    group_columns: usize,
    /// Of the columns in the order of their groups, where in the weight they are; none where they are in order.
    order: Option<Arc<[u32]>>,
    codes_of: Codes,
    format: BlockFormat,
}

/// What codes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codes {
    /// Of four bits, with a zero point.
    Four,
    /// Of eight bits, signed.
    Eight {
        /// Whether the zero point is 0.
        symmetric: bool,
    },
    /// Floats of eight bits.
    Floats,
}

/// How scales lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `[groups, rows]`.
    GroupsFirst,
    /// `[rows of groups, groups]`.
    RowsFirst,
}

/// A tensor's bytes and name.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    file: MappedFile,
    range: Range<usize>,
}

impl Part {
    fn bytes(&self) -> Result<&[u8], String> {
        let bytes = self.file.bytes().get(self.range.clone());
        bytes.ok_or_else(|| format!("the bytes of `{}` are not inside the file", self.name))
    }
}

/// The bytes of what a row needs beside its codes.
struct Beside<'a> {
    scales: &'a [u8],
    zeros: &'a [u8],
}

/// A scale and the zero point beside it.
#[derive(Clone, Copy)]
struct Group {
    scale: f32,
    zero: u8,
}

impl GroupedTensor {
    /// Bytes of its blocks.
    pub(super) fn block_len(&self) -> u64 {
        let row = self.format.row_bytes(self.columns).unwrap_or(0);
        (self.rows as u64).saturating_mul(row as u64)
    }

    /// Of the columns of blocks, where in the weight they are; none where they are in order.
    pub(super) fn order(&self) -> Option<&Arc<[u32]>> {
        self.order.as_ref()
    }

    /// Where the codes lie.
    pub(super) fn place(&self) -> (&MappedFile, &Range<usize>) {
        (&self.codes.file, &self.codes.range)
    }

    /// The blocks `[rows, row_bytes]`, columns in the order of their groups, or why not: the place of a scale that is
    /// infinite or no number, of a code that is none, or of a zero point beyond the codes.
    pub(super) fn blocks(&self) -> Result<Bytes, String> {
        let (len, bytes) = (self.format.block_len(), self.format.block_bytes());
        let row_bytes = self.format.row_bytes(self.columns);
        let row_bytes = row_bytes.ok_or("its rows are no whole blocks")?;
        let beside = self.beside()?;
        let mut out = vec![0u8; self.rows * row_bytes];
        self.for_rows(&mut out, row_bytes, |row, codes, out| {
            self.check_codes(row, codes)?;
            let has_zero = !matches!(
                self.codes_of,
                Codes::Floats | Codes::Eight { symmetric: true }
            );
            let mut known: Option<(usize, Group)> = None;
            for (i, (codes, out)) in codes
                .chunks_exact(len)
                .zip(out.chunks_exact_mut(bytes))
                .enumerate()
            {
                let index = i * len / self.group_columns;
                let group = match known {
                    Some((same, group)) if same == index => group,
                    _ => self.group(&beside, row, index)?,
                };
                known = Some((index, group));
                let Group { scale, zero } = group;
                if has_zero && !blocks::fits_beside_zero(scale) {
                    return Err(format!(
                        "{} is {scale}, which has more digits than a scale of 16 bits; load with `--dequantize`",
                        self.scale_place(row, index)
                    ));
                }
                match self.codes_of {
                    Codes::Four => blocks::pack_int4(codes, scale, zero, out),
                    _ => blocks::pack_bytes(codes, scale, has_zero.then_some(zero), out),
                }
            }
            Ok(())
        })?;
        self.release();
        Ok(Bytes::from_elems(out))
    }

    /// The elements as `to`, in the weight's own order, or why not; as [`blocks`](Self::blocks).
    pub(super) fn read(&self, to: FloatDType) -> Result<Bytes, String> {
        let bytes = match to {
            FloatDType::F32 => self.rows_as::<f32>().map(Bytes::from_elems),
            FloatDType::F16 => self.rows_as::<f16>().map(Bytes::from_elems),
            FloatDType::BF16 => self.rows_as::<bf16>().map(Bytes::from_elems),
            other => Err(format!("{} cannot become {other:?}", self.format)),
        }?;
        self.release();
        Ok(bytes)
    }

    fn rows_as<T: Target>(&self) -> Result<Vec<T>, String> {
        let beside = self.beside()?;
        let mut out = vec![T::zeroed(); self.rows * self.columns];
        self.for_rows(&mut out, self.columns, |row, codes, out| {
            self.check_codes(row, codes)?;
            let mut wide = vec![0f32; codes.len()];
            for (index, codes) in codes.chunks(self.group_columns).enumerate() {
                let Group { scale, zero } = self.group(&beside, row, index)?;
                for (i, &code) in codes.iter().enumerate() {
                    let at = index * self.group_columns + i;
                    let at = self.order.as_ref().map_or(at, |order| order[at] as usize);
                    let value = match self.codes_of {
                        Codes::Four => f32::from(i16::from(code) - i16::from(zero)),
                        Codes::Eight { .. } => {
                            f32::from(i16::from(code as i8) - i16::from(zero as i8))
                        }
                        Codes::Floats => e4m3(code),
                    };
                    wide[at] = scale * value;
                }
            }
            T::narrow(&wide, out);
            Ok(())
        })?;
        Ok(out)
    }

    /// Unpacks rows in parallel: `each` gets a row, its codes in the order of groups, and `width` elements of `out`.
    fn for_rows<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        each: impl Fn(usize, &[u8], &mut [T]) -> Result<(), String> + Sync,
    ) -> Result<(), String> {
        let bytes = self.codes.bytes()?;
        let (shape, stride) = ([self.rows, self.columns], self.columns + GAP);
        let tiles = out.par_chunks_mut(ROWS * width).enumerate();
        tiles.try_for_each_init(
            || (Vec::new(), Vec::new()),
            |(tile, sorted), (index, out)| {
                let first = index * ROWS;
                let range = first..self.rows.min(first + ROWS);
                tile.resize(ROWS * stride, 0u8);
                self.packing.read(bytes, shape, range.clone(), stride, tile);
                let rows = tile.chunks(stride).zip(out.chunks_mut(width));
                for (row, (codes, out)) in range.zip(rows) {
                    let codes = &codes[..self.columns];
                    let Some(order) = &self.order else {
                        each(row, codes, out)?;
                        continue;
                    };
                    sorted.clear();
                    sorted.extend(order.iter().map(|&at| codes[at as usize]));
                    each(row, sorted, out)?;
                }
                Ok(())
            },
        )
    }

    fn beside(&self) -> Result<Beside<'_>, String> {
        let zeros = self.zeros.as_ref().map(|(part, _)| part.bytes());
        Ok(Beside {
            scales: self.scales.bytes()?,
            zeros: zeros.transpose()?.unwrap_or_default(),
        })
    }

    /// Refuses floats that are no number.
    fn check_codes(&self, row: usize, codes: &[u8]) -> Result<(), String> {
        let nan = match self.codes_of {
            Codes::Floats => codes.iter().position(|&code| is_nan(code)),
            _ => None,
        };
        match nan {
            None => Ok(()),
            Some(column) => Err(format!(
                "`{}` at [{row}, {column}] is no number; the file is damaged",
                self.codes.name
            )),
        }
    }

    /// Groups of a row.
    fn groups(&self) -> usize {
        self.columns.div_ceil(self.group_columns)
    }

    /// Rows of scales.
    fn rows_of_scales(&self) -> usize {
        self.rows.div_ceil(self.group_rows)
    }

    fn scale_place(&self, row: usize, group: usize) -> String {
        let row = row / self.group_rows;
        let place = match self.scale_layout {
            Layout::GroupsFirst => [group, row],
            Layout::RowsFirst => [row, group],
        };
        format!("`{}` at {place:?}", self.scales.name)
    }

    /// The scale and zero point of a group of a row.
    fn group(&self, beside: &Beside<'_>, row: usize, group: usize) -> Result<Group, String> {
        let (rows, groups) = (self.rows_of_scales(), self.groups());
        let row_of_scales = row / self.group_rows;
        let at = match self.scale_layout {
            Layout::GroupsFirst => group * rows + row_of_scales,
            Layout::RowsFirst => row_of_scales * groups + group,
        };
        let width = elements::stored_width(self.scale_type).unwrap_or(1);
        let mut scale = [f32::NAN];
        if let Some(bytes) = beside.scales.get(at * width..(at + 1) * width) {
            elements::widen(bytes, self.scale_type, &mut scale);
        }
        let [scale] = scale;
        if !blocks::is_scale(scale) {
            let place = self.scale_place(row, group);
            return Err(format!(
                "{place} is {scale}, expected a finite scale; the file is damaged"
            ));
        }
        let (middle, bits) = match self.codes_of {
            Codes::Four => (8, 4),
            Codes::Eight { .. } | Codes::Floats => (0, 8),
        };
        let Some((part, packing)) = &self.zeros else {
            return Ok(Group {
                scale,
                zero: middle,
            });
        };
        let zero = packing.read(beside.zeros, [rows, groups], row_of_scales, group, bits);
        let place = || {
            format!(
                "the zero point of row {row}, group {group} in `{}`",
                part.name
            )
        };
        let Some(zero) = zero else {
            return Err(format!(
                "{} is beyond the codes; the file is damaged",
                place()
            ));
        };
        if self.codes_of == (Codes::Eight { symmetric: true }) && zero != 0 {
            return Err(format!(
                "{} is {} from the middle, and config.json calls the codes symmetric",
                place(),
                zero as i8
            ));
        }
        Ok(Group { scale, zero })
    }

    /// Releases the memory of the file's pages.
    fn release(&self) {
        let zeros = self.zeros.iter().map(|(part, _)| part);
        for part in [&self.codes, &self.scales].into_iter().chain(zeros) {
            part.file.release(part.range.clone());
        }
    }
}

/// The blocks that codes of `columns` become, of which `group_columns` share a scale; none where no block divides
/// both.
fn format(codes: Codes, columns: usize, group_columns: usize) -> Option<BlockFormat> {
    let formats: &[BlockFormat] = match codes {
        Codes::Four => &[
            BlockFormat::Int4x128,
            BlockFormat::Int4x64,
            BlockFormat::Int4x32,
        ],
        Codes::Eight { symmetric: true } => &[BlockFormat::Int8x128, BlockFormat::Int8x32],
        Codes::Eight { symmetric: false } => &[BlockFormat::Int8Zero],
        Codes::Floats => &[BlockFormat::Fp8x128, BlockFormat::Fp8x32],
    };
    let fits = |format: &&BlockFormat| {
        let len = format.block_len();
        columns.is_multiple_of(len)
            && (group_columns >= columns || group_columns.is_multiple_of(len))
    };
    formats.iter().find(fits).copied()
}
