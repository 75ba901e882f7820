//! Linear layers on weights stored `[d_output, d_input]`, read in place.
//!
//! Few rows of `x`: the weight is streamed once, as dot products with its rows. More rows: the weight is
//! packed into transposed panels, by all threads, and multiplied with rows of `x` where they lie.

use burn::tensor::DType;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::scratch::{LINE, Scratch};
use super::simd::{Elem, Job, Level, Simd};
use super::tile::{PANEL, Rows, for_rows, product};
use super::view::{Output, Shared, View, contiguous, to_f32};

/// Rows of `x` up to which the weight is streamed rather than packed.
const STREAM_ROWS: usize = 8;
/// Elements of the weight below which waking other threads costs more than it gains.
const PARALLEL_ELEMENTS: usize = 1 << 16;
/// Elements of the weight that a thread streams at a time.
const STREAM_ELEMENTS: usize = 1 << 15;
/// How far ahead of its use a streamed weight is asked for.
const PREFETCH_BYTES: usize = 2048;
/// Floats of a weight packed at a time: 8 MiB.
const PACKED_FLOATS: usize = 2 << 20;
/// Floats of packed panels that a thread works with at a time, within its second level cache.
const CACHED_FLOATS: usize = 160 << 10;
/// Pieces for each thread, so that uneven ones even out.
const PIECES_PER_THREAD: usize = 4;
/// Rows of `x` that a piece has at least, so that panels are reused.
const PIECE_ROWS: usize = 32;

/// A weight's rows, as stored.
#[derive(Clone, Copy)]
struct Stored<E> {
    ptr: *const E,
    stride: usize,
    d_input: usize,
    d_output: usize,
}

// SAFETY: only read through, and the tensor it borrows is shared memory.
unsafe impl<E: Sync> Send for Stored<E> {}
unsafe impl<E: Sync> Sync for Stored<E> {}

/// Whether a weight `[d_input, d_output]` lies in rows of `d_input`, as the kernels here need it.
pub(super) fn is_stored_by_output(weight: &FlexTensor) -> bool {
    let layout = weight.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    (strides[0] == 1 || shape[0] == 1) && (strides[1] > 0 || shape[1] == 1)
}

/// [`linear`](crate::kernels::linear()) for weights that are [stored so](is_stored_by_output).
pub(super) fn linear(
    x: FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    level: Level,
) -> FlexTensor {
    match x.dtype() {
        DType::F16 => linear_from::<half::f16>(x, weight, bias, level),
        DType::BF16 => linear_from::<half::bf16>(x, weight, bias, level),
        _ => linear_from::<f32>(x, weight, bias, level),
    }
}

fn linear_from<X: Elem>(
    x: FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    level: Level,
) -> FlexTensor {
    match weight.dtype() {
        DType::F16 => linear_as::<X, half::f16>(x, weight, bias, level),
        DType::BF16 => linear_as::<X, half::bf16>(x, weight, bias, level),
        _ => linear_as::<X, f32>(x, weight, bias, level),
    }
}

fn linear_as<X: Elem, W: Elem>(
    x: FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    level: Level,
) -> FlexTensor {
    let x = contiguous(x);
    let mut shape = x.layout().shape().clone();
    let rank = shape.num_dims();
    let view = View::<W, 2>::new(weight);
    let [d_input, d_output] = view.shape;
    let weight = Stored {
        ptr: view.ptr,
        stride: view.strides[1].unsigned_abs(),
        d_input,
        d_output,
    };
    let rows: usize = shape.iter().take(rank - 1).product();
    shape[rank - 1] = d_output;
    let bias = bias.map(to_f32);

    let start = x.layout().start_offset();
    let storage: &[X] = x.storage();
    let elements = &storage[start..start + rows * d_input];
    let mut out = Output::<X>::new(rows * d_output);
    let to = out.ptr();
    if rows * d_output > 0 {
        if rows <= STREAM_ROWS {
            stream(elements, rows, weight, bias.as_deref(), to, level);
        } else {
            multiply(elements, rows, weight, bias.as_deref(), to, level);
        }
    }
    // SAFETY: every element was written.
    unsafe { out.finish(burn_flex::Layout::contiguous(shape)) }
}

// ----------------------------------------------------------------------------------- few rows

/// Rows of the weight against all rows of `x`.
struct Stream<W> {
    /// `[M, d_input]` in f32.
    x: Shared<f32>,
    rows: usize,
    weight: Stored<W>,
    /// `[rows, d_output]`.
    out: Shared<f32>,
    from: usize,
    to: usize,
}

fn stream<X: Elem, W: Elem>(
    x: &[X],
    rows: usize,
    weight: Stored<W>,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let (d_input, d_output) = (weight.d_input, weight.d_output);
    let padded = rows.next_power_of_two();
    let scratch = Scratch::new([padded * d_input, rows * d_output]);
    let [wide, sums] = scratch.areas;

    // SAFETY: the areas have the lengths asked for, and every chunk writes columns of its own.
    unsafe {
        for (i, x) in x.iter().enumerate() {
            wide.add(i).write(x.widen());
        }
        for i in x.len()..padded * d_input {
            wide.add(i).write(0.0);
        }
        let (wide, sums) = (Shared(wide), Shared(sums));
        let chunk = (STREAM_ELEMENTS / d_input.max(1))
            .next_multiple_of(4)
            .max(4);
        let run = |index: usize| {
            let from = index * chunk;
            level.run(Stream {
                x: wide,
                rows,
                weight,
                out: sums,
                from,
                to: d_output.min(from + chunk),
            })
        };
        let chunks = d_output.div_ceil(chunk);
        if chunks == 1 || d_input.saturating_mul(d_output) < PARALLEL_ELEMENTS {
            (0..chunks).for_each(run);
        } else {
            (0..chunks).into_par_iter().for_each(run);
        }
        for row in 0..rows {
            for column in 0..d_output {
                let i = row * d_output + column;
                let bias = bias.map_or(0.0, |bias| bias[column]);
                out.at(i).write(X::narrow(*sums.at(i) + bias));
            }
        }
    }
}

impl<W: Elem> Job for Stream<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        match self.rows {
            1 => self.all::<S, 1, 1, 4>(),
            2 => self.all::<S, 2, 1, 4>(),
            3 | 4 => self.all::<S, 4, 1, 2>(),
            // So many rows of `x` are worth sharing between two rows of the weight.
            _ => self.all::<S, 8, 2, 1>(),
        }
    }
}

impl<W: Elem> Stream<W> {
    /// Row after row of the weight: one stream through memory, which the processor reads ahead best.
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize, const N: usize, const U: usize>(&self) {
        let mut column = self.from;
        while self.to - column >= N {
            self.columns::<S, M, N, U>(column);
            column += N;
        }
        while column < self.to {
            self.columns::<S, M, 1, U>(column);
            column += 1;
        }
    }

    /// `N` rows of the weight, which are columns of the output, against `M` rows of `x`, `U` vectors
    /// at a time so that sums do not wait for each other.
    #[inline(always)]
    unsafe fn columns<S: Simd, const M: usize, const N: usize, const U: usize>(
        &self,
        column: usize,
    ) {
        let Stored {
            ptr,
            stride,
            d_input,
            d_output,
        } = self.weight;
        let weight = ptr.wrapping_add(column.wrapping_mul(stride));
        let x = self.x.0;
        let mut acc = [[[S::zero(); M]; N]; U];
        let mut i = 0;
        while d_input - i >= U * S::LANES {
            for n in 0..N {
                let w = weight.wrapping_add(n.wrapping_mul(stride).wrapping_add(i));
                S::prefetch(w.cast::<u8>().wrapping_add(PREFETCH_BYTES));
            }
            for (u, sums) in acc.iter_mut().enumerate() {
                let at = i.wrapping_add(u * S::LANES);
                self.add_vectors::<S, M, N>(weight, at, sums);
            }
            i += U * S::LANES;
        }
        while d_input - i >= S::LANES {
            self.add_vectors::<S, M, N>(weight, i, &mut acc[0]);
            i += S::LANES;
        }
        for n in 0..N {
            for m in 0..self.rows.min(M) {
                let mut vector = acc[0][n][m];
                for sums in &acc[1..] {
                    vector = S::add(vector, sums[n][m]);
                }
                let mut sum = S::sum(vector);
                for i in i..d_input {
                    let w = *weight.wrapping_add(n.wrapping_mul(stride).wrapping_add(i));
                    let x = *x.wrapping_add(m.wrapping_mul(d_input).wrapping_add(i));
                    sum += w.widen() * x;
                }
                self.out.at(m * d_output + column + n).write(sum);
            }
        }
    }

    /// One vector of each row.
    #[inline(always)]
    unsafe fn add_vectors<S: Simd, const M: usize, const N: usize>(
        &self,
        weight: *const W,
        i: usize,
        sums: &mut [[S::V; M]; N],
    ) {
        let (stride, d_input) = (self.weight.stride, self.weight.d_input);
        let mut ws = [S::zero(); N];
        for (n, w) in ws.iter_mut().enumerate() {
            *w = W::load::<S>(weight.wrapping_add(n.wrapping_mul(stride).wrapping_add(i)));
        }
        for m in 0..M {
            let x = S::load(self.x.at(m.wrapping_mul(d_input).wrapping_add(i)));
            for n in 0..N {
                sums[n][m] = S::fma(ws[n], x, sums[n][m]);
            }
        }
    }
}

// ---------------------------------------------------------------------------------- more rows

fn multiply<X: Elem, W: Elem>(
    x: &[X],
    rows: usize,
    weight: Stored<W>,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let Stored {
        d_input, d_output, ..
    } = weight;
    let width = PANEL * level.lanes();
    let panel_len = d_input * width;
    let panels = d_output.div_ceil(width);
    let at_once = (PACKED_FLOATS / panel_len.max(1)).clamp(1, panels);
    let threads = rayon::current_num_threads();
    let scratch = Scratch::new([at_once * panel_len]);
    let packed = Shared(scratch.areas[0]);

    let mut first = 0;
    while first < panels {
        let count = at_once.min(panels - first);
        (0..count).into_par_iter().for_each(|panel| {
            level.run(Pack {
                weight,
                column: (first + panel) * width,
                dst: packed.at(panel * panel_len),
            });
        });

        // Groups of panels that stay cached, times pieces of rows.
        let groups = count.div_ceil((CACHED_FLOATS / panel_len.max(1)).max(1));
        let group = count.div_ceil(groups);
        let groups = count.div_ceil(group);
        let pieces = (threads * PIECES_PER_THREAD)
            .div_ceil(groups)
            .min(rows.div_ceil(PIECE_ROWS));
        // Whole blocks of rows, but for the last.
        let piece = rows.div_ceil(pieces).next_multiple_of(8);
        let pieces = rows.div_ceil(piece);
        (0..groups * pieces)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let (group_index, piece_index) = (index / pieces, index % pieces);
                let start = piece_index * piece;
                let rows = start..rows.min(start + piece);
                let panel = group_index * group;
                let tile = Tile {
                    x: &x[rows.start * d_input..rows.end * d_input],
                    out: out.at(rows.start * d_output),
                    rows: rows.len(),
                    packed: packed.at(panel * panel_len),
                    panels: group.min(count - panel),
                    column: (first + panel) * width,
                    d_input,
                    d_output,
                    bias,
                };
                level.run(tile);
            });
        first += count;
    }
}

/// One panel: `PANEL` vectors of columns, transposed to `[d_input, columns]`.
struct Pack<W> {
    weight: Stored<W>,
    column: usize,
    dst: *mut f32,
}

impl<W: Elem> Job for Pack<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = PANEL * S::LANES;
        let Stored {
            ptr,
            stride,
            d_input,
            d_output,
        } = self.weight;
        for vector in 0..PANEL {
            let column = self.column + vector * S::LANES;
            let src = ptr.wrapping_add(column.wrapping_mul(stride));
            let dst = self.dst.add(vector * S::LANES);
            let mut i = 0;
            if column + S::LANES <= d_output {
                while d_input - i >= S::LANES {
                    S::transpose::<W>(src.wrapping_add(i), stride, dst.add(i * width), width);
                    i += S::LANES;
                }
            }
            // What is left: the last elements, or a vector that reaches past the last column.
            for lane in 0..S::LANES {
                let src = src.wrapping_add(lane.wrapping_mul(stride));
                for i in i..d_input {
                    let x = match column + lane < d_output {
                        true => (*src.wrapping_add(i)).widen(),
                        false => 0.0,
                    };
                    dst.add(i * width + lane).write(x);
                }
            }
        }
    }
}

/// Rows of `x` against packed panels.
struct Tile<'a, X> {
    x: &'a [X],
    out: *mut X,
    rows: usize,
    packed: *const f32,
    panels: usize,
    /// The first column of the first panel.
    column: usize,
    d_input: usize,
    d_output: usize,
    bias: Option<&'a [f32]>,
}

impl<X: Elem> Job for Tile<'_, X> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        if X::dtype() == DType::F32 {
            let x = self.x.as_ptr().cast::<f32>();
            let mut rows = TileRows { tile: &self, x };
            return for_rows::<S>(self.rows, &mut rows);
        }
        // Other types are widened some rows at a time.
        let (d_input, rows) = (self.d_input, self.rows);
        let scratch = Scratch::new([PIECE_ROWS * d_input]);
        let [wide] = scratch.areas;

        let mut row = 0;
        while row < rows {
            let count = PIECE_ROWS.min(rows - row);
            let len = count * d_input;
            let src = self.x.as_ptr().add(row * d_input);
            let mut i = 0;
            while len - i >= S::LANES {
                S::store(wide.add(i), X::load::<S>(src.add(i)));
                i += S::LANES;
            }
            for i in i..len {
                wide.add(i).write((*src.add(i)).widen());
            }
            let mut rows = TileRows {
                tile: &self,
                x: wide,
            };
            for_rows::<S>(count, &mut rows);
            self.out = self.out.wrapping_add(count * self.d_output);
            row += count;
        }
    }
}

struct TileRows<'a, X> {
    tile: &'a Tile<'a, X>,
    x: *const f32,
}

impl<X: Elem, S: Simd> Rows<S> for TileRows<'_, X> {
    #[inline(always)]
    unsafe fn block<const R: usize>(&mut self, row: usize) {
        let tile = self.tile;
        let width = PANEL * S::LANES;
        let x = self.x.wrapping_add(row * tile.d_input);
        let out = tile.out.wrapping_add(row * tile.d_output);
        for panel in 0..tile.panels {
            let packed = tile.packed.wrapping_add(panel * tile.d_input * width);
            let mut acc = product::<S, R, PANEL>(tile.d_input, x, tile.d_input as isize, 1, packed);
            let column = tile.column + panel * width;
            let columns = width.min(tile.d_output - column);
            if columns == width {
                if let Some(bias) = tile.bias {
                    for c in 0..PANEL {
                        let bias = S::load(bias.as_ptr().add(column + c * S::LANES));
                        for sums in &mut acc {
                            sums[c] = S::add(sums[c], bias);
                        }
                    }
                }
                for (r, sums) in acc.iter().enumerate() {
                    for (c, sum) in sums.iter().enumerate() {
                        let at = r * tile.d_output + column + c * S::LANES;
                        X::store::<S>(out.wrapping_add(at), *sum);
                    }
                }
            } else {
                for (r, sums) in acc.iter().enumerate() {
                    let mut row = [0f32; PANEL * LINE];
                    for (c, sum) in sums.iter().enumerate() {
                        S::store(row.as_mut_ptr().add(c * S::LANES), *sum);
                    }
                    for (i, sum) in row.iter().enumerate().take(columns) {
                        let bias = tile.bias.map_or(0.0, |bias| bias[column + i]);
                        let at = r * tile.d_output + column + i;
                        out.wrapping_add(at).write(X::narrow(*sum + bias));
                    }
                }
            }
        }
    }
}

/// `x weight + bias` by Burn's matrix product, for weights stored otherwise.
pub(super) fn linear_elsewhere(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
) -> FlexTensor {
    use crate::kernels::portable;
    use burn::backend::ops::FloatTensorOps;
    use burn::tensor::FloatDType;
    use burn_flex::Flex;

    let dtype = match x.dtype() {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    };
    let wide = |tensor| Flex::float_cast(tensor, FloatDType::F32);
    let out = portable::linear::<Flex>(wide(x), wide(weight), bias);
    Flex::float_cast(out, dtype)
}
