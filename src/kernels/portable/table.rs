//! How a problem is cut into tiles: one table, read from the top.

use core::fmt;

pub use crate::kernels::cube::lengths::Rows;

/// Elements that the kernel reads and writes at once: the widest vector that WGSL has.
pub const CHUNK: usize = 4;

/// How `attention_portable` is cut.
///
/// A block's units form a grid of `lines` times `columns`. Unit `(line, column)` owns the rows
/// `line + i * lines`; of a tile's scores the keys `4 column..4 column + 4`, and of the output every
/// `columns`-th chunk from `column`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Columns of queries, keys and values; a multiple of 8.
    pub head_dim: usize,
    /// Units side by side.
    pub columns: usize,
    /// Units one below the other.
    pub lines: usize,
    /// Rows of a unit; a multiple of 4.
    pub unit_rows: usize,
    /// Keys whose values are in shared memory at a time; a multiple of 4 that divides [`keys`](Self::keys).
    pub value_keys: usize,
    /// Whether the output is a part of the keys', in f32, to be merged with others.
    pub parts: bool,
}

impl Tile {
    /// Units a block.
    pub const fn units(&self) -> usize {
        self.columns * self.lines
    }

    /// Packed rows a block.
    pub const fn rows(&self) -> usize {
        self.lines * self.unit_rows
    }

    /// Keys a tile.
    pub const fn keys(&self) -> usize {
        self.columns * CHUNK
    }

    /// Chunks of a row.
    pub const fn chunks(&self) -> usize {
        self.head_dim / CHUNK
    }

    /// Chunks of every output row that a unit owns; the last ones may lie beyond the row.
    pub const fn unit_chunks(&self) -> usize {
        self.chunks().div_ceil(self.columns)
    }

    /// Chunks of queries and keys that are in shared memory at a time.
    pub const fn depth(&self) -> usize {
        if self.chunks().is_multiple_of(4) {
            4
        } else {
            2
        }
    }

    /// Chunks from one row to the next of staged queries and keys. Odd, so that eight rows of one
    /// column fall on all 32 banks.
    pub const fn pitch(&self) -> usize {
        self.depth() | 1
    }

    /// Chunks from one key to the next of staged values.
    pub const fn value_pitch(&self) -> usize {
        self.unit_chunks() * self.columns
    }

    /// Chunks of shared memory for queries and keys, and then for values.
    pub const fn stage_chunks(&self) -> usize {
        let scores = (self.keys() + self.rows()) * self.pitch();
        let values = self.value_keys * self.value_pitch();
        if scores > values { scores } else { values }
    }

    /// Chunks from one row to the next of the weights; odd, as above.
    pub const fn weight_pitch(&self) -> usize {
        self.columns | 1
    }

    /// Chunks of shared memory in which the units of a row exchange its maximum and its sum.
    pub const fn exchange_chunks(&self) -> usize {
        self.rows() / CHUNK * self.columns
    }

    /// Bytes of shared memory a block.
    pub const fn shared_bytes(&self) -> usize {
        let chunks =
            self.stage_chunks() + self.rows() * self.weight_pitch() + self.exchange_chunks();
        chunks * CHUNK * size_of::<f32>()
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "portable_d{}_r{}_k{}{}",
            self.head_dim,
            self.rows(),
            self.keys(),
            if self.parts { "_parts" } else { "" }
        )
    }
}

/// The head dimensions that a line of the table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadDims {
    /// This one.
    Exactly(usize),
    /// Every multiple of 8 up to this one.
    UpTo(usize),
}

impl HeadDims {
    fn fit(self, head_dim: usize) -> bool {
        match self {
            Self::Exactly(only) => head_dim == only,
            Self::UpTo(most) => head_dim <= most && head_dim.is_multiple_of(8),
        }
    }
}

/// A line of [`TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Head dimensions.
    pub head_dims: HeadDims,
    /// Packed rows.
    pub rows: Rows,
    /// The tile; its head dimension is the largest of the line.
    pub tile: Tile,
}

impl Line {
    /// This line's tile for a problem, or `None` where it is for others.
    pub fn tile(&self, head_dim: usize, packed_rows: usize) -> Option<Tile> {
        let fits = self.head_dims.fit(head_dim) && self.rows.fit(packed_rows);
        fits.then_some(Tile {
            head_dim,
            ..self.tile
        })
    }
}

const fn line(
    head_dims: HeadDims,
    rows: Rows,
    [columns, lines, unit_rows, value_keys]: [usize; 4],
) -> Line {
    let head_dim = match head_dims {
        HeadDims::Exactly(only) => only,
        HeadDims::UpTo(most) => most,
    };
    Line {
        head_dims,
        rows,
        tile: Tile {
            head_dim,
            columns,
            lines,
            unit_rows,
            value_keys,
            parts: matches!(rows, Rows::UpTo(_)),
        },
    }
}

/// A decoding step of up to 8 heads a group.
const DECODING: Rows = Rows::UpTo(8);
/// Up to 8 blocks a key/value head; more blocks, of the 8 heads that grouped models have, fill a device
/// by themselves.
const FEW: Rows = Rows::UpTo(512);

/// The tiles, in the order of choice: the first line that fits runs. Few rows (decoding, short
/// questions) have their keys split over blocks, and the parts merged.
pub const TABLE: &[Line] = &[
    line(HeadDims::UpTo(64), DECODING, [16, 2, 4, 32]),
    line(HeadDims::UpTo(128), DECODING, [32, 2, 4, 16]),
    line(HeadDims::UpTo(256), DECODING, [32, 2, 4, 8]),
    line(HeadDims::Exactly(80), FEW, [10, 12, 8, 20]),
    line(HeadDims::Exactly(96), FEW, [12, 8, 8, 16]),
    line(HeadDims::UpTo(128), FEW, [16, 8, 8, 16]),
    line(HeadDims::UpTo(256), FEW, [16, 8, 4, 8]),
    line(HeadDims::Exactly(80), Rows::Any, [10, 12, 8, 20]),
    line(HeadDims::Exactly(96), Rows::Any, [12, 8, 8, 16]),
    line(HeadDims::UpTo(128), Rows::Any, [16, 8, 8, 16]),
    line(HeadDims::UpTo(256), Rows::Any, [16, 8, 4, 8]),
];

impl fmt::Display for HeadDims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(only) => write!(f, "{only}"),
            Self::UpTo(most) => write!(f, "up to {most}"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tile = &self.tile;
        write!(
            f,
            "{:>9}  {:<9}  {:>5} = {:>2} x {:<2}  {:>2} x {:<2}  {:>6.1} KiB  {tile}",
            self.head_dims.to_string(),
            self.rows.to_string(),
            tile.units(),
            tile.lines,
            tile.columns,
            tile.unit_rows,
            CHUNK * (1 + tile.unit_chunks()),
            tile.shared_bytes() as f64 / 1024.0,
        )
    }
}

/// [`TABLE`] as text, one line a tile, for people.
pub fn describe() -> String {
    let mut text = String::from(
        " head_dim  rows       units            of each      shared  kernel (f32, f16, bf16)\n",
    );
    for line in TABLE {
        text += &format!("{line}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shared memory that WebGPU adapters commonly give, and the units that all give.
    const SHARED: usize = 32 << 10;
    const UNITS: usize = 256;

    #[test]
    fn every_tile_fits_a_common_adapter() {
        for line in TABLE {
            for head_dim in (8..=line.tile.head_dim).step_by(8) {
                let Some(tile) = line.tile(head_dim, 1) else {
                    continue;
                };
                assert!(tile.shared_bytes() <= SHARED, "{tile}");
                assert!(tile.units() <= UNITS, "{tile}");
                assert!(tile.unit_rows.is_multiple_of(4), "{tile}");
                assert!(tile.value_keys.is_multiple_of(4), "{tile}");
                assert!(tile.keys().is_multiple_of(tile.value_keys), "{tile}");
                assert!(tile.chunks().is_multiple_of(tile.depth()), "{tile}");
                assert!(tile.value_pitch() >= tile.chunks(), "{tile}");
            }
        }
    }

    #[test]
    fn the_description_names_every_tile() {
        assert_eq!(describe().lines().count(), TABLE.len() + 1);
    }
}
