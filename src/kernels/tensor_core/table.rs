//! Which kernel runs a problem: one table, read from the top.

use core::fmt;

use cubecl::prelude::CubeDim;

pub use crate::kernels::cube::lengths::Rows;

use super::barriers::BARRIER_BYTES;
use super::hidden::NOTES;
use super::tiles::{TileShape, tile_chunks};

/// Element type of queries, keys, values and output. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 16-bit IEEE.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Its name in PTX.
    pub const fn ptx(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The exponent's bits in the lower half of a word; all ones mean infinite or not a number.
    pub const fn exponent(self) -> u32 {
        match self {
            Self::F16 => 0x7C00,
            Self::Bf16 => 0x7F80,
        }
    }
}

/// How `attention_mma` is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmaTile {
    /// Element type.
    pub dtype: Dtype,
    /// Columns of queries, keys and values; a multiple of 16.
    pub head_dim: usize,
    /// Keys a tile.
    pub keys: usize,
    /// Planes (warps) a block.
    pub planes: usize,
    /// 16-row tiles a plane; they share every fragment of keys and values.
    pub row_tiles: usize,
    /// Tiles of keys, and of values, in shared memory.
    pub stages: usize,
    /// Whether a plane keeps its queries in registers.
    pub hold_queries: bool,
    /// Whether the output is a part of the keys', in f32, to be merged with others.
    pub parts: bool,
}

impl MmaTile {
    /// Packed rows a block.
    pub const fn rows(&self) -> usize {
        self.planes * self.row_tiles * 16
    }

    /// A tile of keys or values, and the threads that fill it.
    pub const fn key_shape(&self) -> TileShape {
        TileShape {
            rows: self.keys,
            chunks: self.head_dim / 8,
            threads: self.planes * 32,
        }
    }

    /// Elements of one store to the output: 16 bytes of it, or a lane's pair of a part.
    pub const fn output_width(&self) -> usize {
        if self.parts { 2 } else { 8 }
    }
}

/// How `attention_wgmma` is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WgmmaTile {
    /// Element type.
    pub dtype: Dtype,
    /// Columns of queries, keys and values; a multiple of 64.
    pub head_dim: usize,
    /// Keys a tile; a multiple of 16.
    pub keys: usize,
    /// Warpgroups a block that compute, 64 rows each; one more copies.
    pub groups: usize,
    /// Tiles of keys, and of values, in shared memory.
    pub stages: usize,
}

impl WgmmaTile {
    /// Packed rows a block.
    pub const fn rows(&self) -> usize {
        self.groups * 64
    }

    /// Registers a unit of the warpgroup that copies.
    pub const fn copying_registers(&self) -> usize {
        32
    }

    /// Registers a unit of those that compute: what is left of a multiprocessor's 512 for each warpgroup's unit.
    pub const fn computing_registers(&self) -> usize {
        (512 - self.copying_registers()) / self.groups / 8 * 8
    }

    /// A tile of keys or values, and the threads that compute.
    pub const fn key_shape(&self) -> TileShape {
        TileShape {
            rows: self.keys,
            chunks: self.head_dim / 8,
            threads: self.groups * 128,
        }
    }
}

/// A kernel and its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// `mma.sync`, compute capability 8.0 and later.
    Mma(MmaTile),
    /// `wgmma`, compute capability 9.0 alone.
    Wgmma(WgmmaTile),
}

impl Kernel {
    /// Packed rows a block.
    pub const fn rows(&self) -> usize {
        match self {
            Self::Mma(tile) => tile.rows(),
            Self::Wgmma(tile) => tile.rows(),
        }
    }

    /// Keys a tile.
    pub const fn keys(&self) -> usize {
        match self {
            Self::Mma(tile) => tile.keys,
            Self::Wgmma(tile) => tile.keys,
        }
    }

    /// Element type.
    pub const fn dtype(&self) -> Dtype {
        match self {
            Self::Mma(tile) => tile.dtype,
            Self::Wgmma(tile) => tile.dtype,
        }
    }

    /// Columns of queries, keys and values.
    pub const fn head_dim(&self) -> usize {
        match self {
            Self::Mma(tile) => tile.head_dim,
            Self::Wgmma(tile) => tile.head_dim,
        }
    }

    /// Whether the output is an f32 part, to be merged.
    pub const fn parts(&self) -> bool {
        matches!(self, Self::Mma(MmaTile { parts: true, .. }))
    }

    /// Units of a block.
    pub fn cube_dim(&self) -> CubeDim {
        match self {
            Self::Mma(tile) => CubeDim::new_2d(32, tile.planes as u32),
            Self::Wgmma(tile) => CubeDim::new_2d(32, tile.groups as u32 * 4 + 4),
        }
    }

    /// Bytes of shared memory a block: queries, every stage of keys and values, notes, barriers.
    pub fn shared_bytes(&self) -> usize {
        let (stages, barriers) = match self {
            Self::Mma(tile) => (tile.stages, 0),
            Self::Wgmma(tile) => (tile.stages, 4 * tile.stages),
        };
        let head_dim = self.head_dim();
        let tiles =
            tile_chunks(self.rows(), head_dim) + 2 * stages * tile_chunks(self.keys(), head_dim);
        16 * tiles + 4 * NOTES + BARRIER_BYTES as usize * barriers
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Mma(_) => "mma",
            Self::Wgmma(_) => "wgmma",
        };
        let (dtype, head_dim) = (self.dtype().ptx(), self.head_dim());
        write!(
            f,
            "{name}_{dtype}_d{head_dim}_r{}_k{}",
            self.rows(),
            self.keys()
        )?;
        f.write_str(if self.parts() { "_parts" } else { "" })
    }
}

/// A line of [`TABLE`], for both element types.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Compute capabilities, times ten, first and last.
    pub architectures: (u32, u32),
    /// Query rows.
    pub rows: Rows,
    /// The kernel, for bf16.
    pub kernel: Kernel,
}

/// No architecture is newer.
const NEWEST: u32 = 999;

const fn mma(head_dim: usize, keys: usize, planes: usize, row_tiles: usize) -> MmaTile {
    MmaTile {
        dtype: Dtype::Bf16,
        head_dim,
        keys,
        planes,
        row_tiles,
        stages: 2,
        hold_queries: false,
        parts: false,
    }
}

const fn any(kernel: MmaTile) -> Line {
    Line {
        architectures: (80, NEWEST),
        rows: Rows::Any,
        kernel: Kernel::Mma(kernel),
    }
}

/// Packed rows up to which keys are split: 8 blocks a key/value head. More blocks, of the 8 heads that
/// grouped models have, fill a device by themselves.
pub(super) const FEW_ROWS: usize = 512;

const fn few(kernel: MmaTile) -> Line {
    Line {
        architectures: (80, NEWEST),
        rows: Rows::UpTo(FEW_ROWS),
        kernel: Kernel::Mma(MmaTile {
            parts: true,
            ..kernel
        }),
    }
}

/// Three warpgroups of 64 rows: while one computes its exponentials, two multiply.
const fn hopper(head_dim: usize, keys: usize) -> Line {
    Line {
        architectures: (90, 90),
        rows: Rows::Any,
        kernel: Kernel::Wgmma(WgmmaTile {
            dtype: Dtype::Bf16,
            head_dim,
            keys,
            groups: 3,
            stages: 3,
        }),
    }
}

/// The kernels, in the order of choice: the first line that fits runs. Few rows (decoding, short
/// questions) have their keys split over blocks, and the parts merged.
pub const TABLE: &[Line] = &[
    few(mma(64, 64, 4, 1)),
    few(mma(128, 64, 4, 1)),
    hopper(64, 128),
    hopper(128, 80),
    any(MmaTile {
        hold_queries: true,
        ..mma(64, 64, 4, 2)
    }),
    any(mma(80, 64, 4, 2)),
    any(mma(96, 64, 4, 2)),
    any(mma(128, 64, 4, 2)),
    any(mma(256, 32, 8, 1)),
];

impl Line {
    /// This line's kernel for an element type.
    pub const fn kernel(&self, dtype: Dtype) -> Kernel {
        match self.kernel {
            Kernel::Mma(tile) => Kernel::Mma(MmaTile { dtype, ..tile }),
            Kernel::Wgmma(tile) => Kernel::Wgmma(WgmmaTile { dtype, ..tile }),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let architectures = match self.architectures {
            (first, NEWEST) => format!("sm_{first} and later"),
            (first, _) => format!("sm_{first}"),
        };
        write!(
            f,
            "{:>8}  {architectures:<15}  {:<9}  {:>6.1} KiB  {}",
            self.kernel.head_dim(),
            self.rows.to_string(),
            self.kernel.shared_bytes() as f64 / 1024.0,
            self.kernel,
        )
    }
}

/// [`TABLE`] as text, one line a kernel, for people.
pub fn describe() -> String {
    let mut text =
        String::from("head_dim  architecture     rows           shared  kernel (f16 likewise)\n");
    for line in TABLE {
        text += &format!("{line}\n");
    }
    text
}
