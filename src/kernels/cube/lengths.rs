//! From a problem's lengths to a launch: how many blocks, how many splits, which scalars.

use core::fmt;

use super::arguments::{Arguments, Strides};
use super::visible::Visible;
use crate::kernels::Regions;

/// Blocks a multiprocessor that split keys aim for: with two, one computes while the other waits.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;
/// Keys that a part has at least: fewer would cost more in partial outputs than they save.
const MIN_KEYS: usize = 256;

/// The packed rows (query rows times heads of a group) that a line of a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Up to this many.
    UpTo(usize),
    /// Any number.
    Any,
}

impl Rows {
    /// Whether a problem has as few.
    pub fn fit(&self, packed_rows: usize) -> bool {
        match self {
            Self::UpTo(most) => packed_rows <= *most,
            Self::Any => true,
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpTo(most) => write!(f, "up to {most}"),
            Self::Any => f.write_str("any"),
        }
    }
}

/// The lengths of q, `[batch, heads, seq_q, head_dim]`, and of k and v,
/// `[batch, kv_heads, seq_kv, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Batch entries.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Query rows.
    pub seq_q: usize,
    /// Keys.
    pub seq_kv: usize,
    /// Columns of queries, keys and values.
    pub head_dim: usize,
}

/// The views of a launch, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Views {
    /// Strides of the queries.
    pub q: [usize; 4],
    /// Strides of the keys.
    pub k: [usize; 4],
    /// Strides of the values.
    pub v: [usize; 4],
    /// Strides of the output, or of one part.
    pub out: [usize; 4],
}

impl Lengths {
    /// Query heads a key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Rows of a key/value head: query rows times heads of a group.
    pub fn packed_rows(&self) -> usize {
        self.seq_q.saturating_mul(self.group())
    }

    /// Parts to split the keys into, for blocks of `rows` packed rows and tiles of `keys` keys, so that
    /// `multiprocessors` have something to do; `None` where nothing is to be computed.
    pub fn splits(&self, rows: usize, keys: usize, multiprocessors: usize) -> Option<usize> {
        let wanted = multiprocessors * BLOCKS_PER_MULTIPROCESSOR;
        let others = self.packed_rows().div_ceil(rows) * self.kv_heads * self.batch;
        if others == 0 || self.seq_kv == 0 {
            return None;
        }
        let most = self.seq_kv.div_ceil(MIN_KEYS.next_multiple_of(keys));
        Some(wanted.div_ceil(others).clamp(1, most))
    }

    /// Cubes along x (row blocks times splits), y (key/value heads) and z (batch); `None` where
    /// positions outgrow 32 bits or the `grid`, or nothing is to be computed.
    pub fn cubes(
        &self,
        rows: usize,
        splits: usize,
        grid: (u32, u32, u32),
    ) -> Option<(u32, u32, u32)> {
        if [self.batch, self.kv_heads, self.seq_q, self.seq_kv].contains(&0) {
            return None;
        }
        let packed = self.seq_q.checked_mul(self.group())?;
        // The finest position that a kernel computes: pairs of one part's output.
        let pairs = [
            splits,
            self.batch,
            self.heads,
            self.seq_q,
            self.head_dim / 2,
        ]
        .into_iter()
        .try_fold(1usize, usize::checked_mul)?;
        u32::try_from(pairs.max(packed.checked_next_multiple_of(rows)?)).ok()?;
        let cubes = (
            u32::try_from(packed.div_ceil(rows) * splits).ok()?,
            u32::try_from(self.kv_heads).ok()?,
            u32::try_from(self.batch).ok()?,
        );
        (cubes.0 <= grid.0 && cubes.1 <= grid.1 && cubes.2 <= grid.2).then_some(cubes)
    }

    /// The scalars of a launch whose kernel reads `chunk` elements at once and multiplies scores by
    /// `scale` on their way into the exponential; `None` where a view cannot be read like that.
    /// `regions` have been validated.
    pub fn arguments(
        &self,
        splits: usize,
        regions: Regions,
        views: &Views,
        chunk: usize,
        scale: f32,
    ) -> Option<Arguments> {
        let queries = [self.batch, self.heads, self.seq_q, self.head_dim];
        let keys = [self.batch, self.kv_heads, self.seq_kv, self.head_dim];
        let part = self.batch * self.heads * self.seq_q * self.head_dim;
        Some(Arguments {
            q: Strides::new(queries, views.q, chunk)?,
            k: Strides::new(keys, views.k, chunk)?,
            v: Strides::new(keys, views.v, chunk)?,
            out: Strides::new(queries, views.out, chunk)?,
            visible: Visible::new(regions, self.seq_q, self.seq_kv)?,
            group: self.group() as u32,
            splits: splits as u32,
            split_stride: u32::try_from(part / chunk).ok()?,
            scale,
        })
    }
}
