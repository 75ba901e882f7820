//! Linear layers for more rows: the weight is packed into transposed panels, by all threads, and
//! multiplied with rows of `x` where they lie.

use burn::tensor::DType;
use rayon::prelude::*;

use super::scratch::{LINE, Scratch};
use super::simd::{Elem, Job, Level, Simd};
use super::stored::Stored;
use super::tile::{Rows, WHOLE_BLOCKS, for_rows, product};
use super::tiles::{TILE, TILE_DEPTH, TILE_ROWS, transpose_pairs};
use super::view::Shared;

/// Floats of a weight packed at a time: 8 MiB.
const PACKED_FLOATS: usize = 2 << 20;
/// Floats of packed panels that a thread works with at a time, within its second level cache.
const CACHED_FLOATS: usize = 160 << 10;
/// Pieces for each thread, so that uneven ones even out.
const PIECES_PER_THREAD: usize = 4;
/// Rows of `x` that a piece has at least, so that panels are reused.
const PIECE_ROWS: usize = 2 * WHOLE_BLOCKS;

/// A weight `[d_output, d_input]` from which panels are packed.
pub(super) trait Panels: Copy + Send + Sync {
    /// `[d_input, d_output]`.
    fn shape(&self) -> [usize; 2];

    /// Writes the panel of `S::PANEL` vectors of columns from `column` on: `[d_input, columns]`, with 0 past the last
    /// column.
    ///
    /// # Safety
    ///
    /// Instructions of `S`; `dst` takes the panel.
    unsafe fn pack<S: Simd>(self, column: usize, dst: *mut f32);

    /// Writes the 16 columns from `column` on, rounded to bf16: of every 32 elements of `d_input` a tile of 16 rows
    /// that hold two elements of each column, with 0 past the last element and the last column.
    ///
    /// # Safety
    ///
    /// Instructions of `S`; `dst` takes the tiles.
    unsafe fn pack_tiles<S: Simd>(self, column: usize, dst: *mut u16);
}

/// `x weight + bias` for any number of rows.
pub(super) fn multiply<X: Elem, W: Panels>(
    x: &[X],
    rows: usize,
    weight: W,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let [d_input, d_output] = weight.shape();
    let width = level.panel_lanes();
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
        let piece = rows.div_ceil(pieces).next_multiple_of(WHOLE_BLOCKS);
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

/// One panel.
struct Pack<W> {
    weight: W,
    column: usize,
    dst: *mut f32,
}

impl<W: Panels> Job for Pack<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        self.weight.pack::<S>(self.column, self.dst);
    }
}

impl<W: Elem> Panels for Stored<W> {
    fn shape(&self) -> [usize; 2] {
        [self.d_input, self.d_output]
    }

    #[inline(always)]
    unsafe fn pack<S: Simd>(self, column: usize, dst: *mut f32) {
        let width = S::PANEL * S::LANES;
        let Stored {
            ptr,
            stride,
            d_input,
            d_output,
        } = self;
        for vector in 0..S::PANEL {
            let column = column + vector * S::LANES;
            let src = ptr.wrapping_add(column.wrapping_mul(stride));
            let dst = dst.add(vector * S::LANES);
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

    #[inline(always)]
    unsafe fn pack_tiles<S: Simd>(self, column: usize, dst: *mut u16) {
        let whole = self.d_input / TILE_DEPTH;
        // Pairs of elements move together.
        let paired = W::dtype() == DType::BF16 && self.stride.is_multiple_of(2);
        if !paired || column + TILE_ROWS > self.d_output {
            return pack_odd_tiles(self, column, 0, dst);
        }
        let src = self.ptr.wrapping_add(column.wrapping_mul(self.stride));
        transpose_pairs::<S>(src.cast(), self.stride, whole, dst);
        pack_odd_tiles(self, column, whole * TILE_DEPTH, dst);
    }
}

/// The columns that are no whole tile, one element after the other.
#[inline(always)]
unsafe fn pack_odd_tiles<W: Elem>(weight: Stored<W>, column: usize, from: usize, dst: *mut u16) {
    let Stored {
        ptr,
        stride,
        d_input,
        d_output,
    } = weight;
    for i in from..d_input.next_multiple_of(TILE_DEPTH) {
        for lane in 0..TILE_ROWS {
            let at = (column + lane).wrapping_mul(stride).wrapping_add(i);
            let x = match column + lane < d_output && i < d_input {
                true => half::bf16::from_f32((*ptr.wrapping_add(at)).widen()).to_bits(),
                false => 0,
            };
            let place = i / TILE_DEPTH * TILE + i % TILE_DEPTH / 2 * TILE_DEPTH + 2 * lane + i % 2;
            dst.wrapping_add(place).write(x);
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
    unsafe fn run<S: Simd>(self) {
        if S::PANEL == 2 {
            self.run_in::<S, 2>()
        } else {
            self.run_in::<S, 3>()
        }
    }
}

impl<X: Elem> Tile<'_, X> {
    /// With panels of `C` vectors.
    #[inline(always)]
    unsafe fn run_in<S: Simd, const C: usize>(mut self) {
        if X::dtype() == DType::F32 {
            let x = self.x.as_ptr().cast::<f32>();
            let mut rows = TileRows::<X, C> { tile: &self, x };
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
            let mut rows = TileRows::<X, C> {
                tile: &self,
                x: wide,
            };
            for_rows::<S>(count, &mut rows);
            self.out = self.out.wrapping_add(count * self.d_output);
            row += count;
        }
    }
}

struct TileRows<'a, X, const C: usize> {
    tile: &'a Tile<'a, X>,
    x: *const f32,
}

impl<X: Elem, S: Simd, const C: usize> Rows<S> for TileRows<'_, X, C> {
    #[inline(always)]
    unsafe fn block<const R: usize>(&mut self, row: usize) {
        let tile = self.tile;
        let width = C * S::LANES;
        let x = self.x.wrapping_add(row * tile.d_input);
        let out = tile.out.wrapping_add(row * tile.d_output);
        for panel in 0..tile.panels {
            let packed = tile.packed.wrapping_add(panel * tile.d_input * width);
            let mut acc = product::<S, R, C>(tile.d_input, x, tile.d_input as isize, 1, packed);
            let column = tile.column + panel * width;
            let columns = width.min(tile.d_output - column);
            if columns == width {
                if let Some(bias) = tile.bias {
                    for c in 0..C {
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
                    let mut row = [[0f32; LINE]; C];
                    for (c, sum) in sums.iter().enumerate() {
                        S::store(row.as_mut_ptr().cast::<f32>().add(c * S::LANES), *sum);
                    }
                    for (i, sum) in row.as_flattened().iter().enumerate().take(columns) {
                        let bias = tile.bias.map_or(0.0, |bias| bias[column + i]);
                        let at = r * tile.d_output + column + i;
                        out.wrapping_add(at).write(X::narrow(*sum + bias));
                    }
                }
            }
        }
    }
}
