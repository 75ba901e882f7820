//! The scalar arguments of every attention kernel.

use cubecl::prelude::*;

use super::visible::{Visible, VisibleLaunch};

/// Where batch, head and row of a `[batch, heads, seq, head_dim]` view lie, in chunks of as many elements
/// as a kernel reads at once. The last dimension is contiguous.
#[derive(CubeType, CubeLaunch, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// Chunks from one batch entry to the next.
    pub batch: u32,
    /// Chunks from one head to the next.
    pub head: u32,
    /// Chunks from one row to the next.
    pub row: u32,
}

impl Strides {
    /// From strides in elements, in chunks of `chunk` elements; `None` where a row does not start on a
    /// chunk or is not a multiple of it, the last dimension is not contiguous, or the view spans more
    /// than 32-bit chunk positions reach.
    pub fn new(shape: [usize; 4], strides: [usize; 4], chunk: usize) -> Option<Self> {
        if !shape[3].is_multiple_of(chunk) || (strides[3] != 1 && shape[3] > 1) {
            return None;
        }
        let mut last = 0usize;
        let mut chunks = [0u32; 3];
        for dim in 0..3 {
            // The stride of a dimension of one entry is never used.
            if shape[dim] > 1 {
                if !strides[dim].is_multiple_of(chunk) {
                    return None;
                }
                chunks[dim] = u32::try_from(strides[dim] / chunk).ok()?;
                last = last.checked_add((shape[dim] - 1).checked_mul(strides[dim] / chunk)?)?;
            }
        }
        u32::try_from(last.checked_add(shape[3] / chunk)?).ok()?;
        Some(Self {
            batch: chunks[0],
            head: chunks[1],
            row: chunks[2],
        })
    }

    /// As a kernel's argument.
    pub fn launch(self) -> StridesLaunch {
        StridesLaunch::new(self.batch, self.head, self.row)
    }
}

#[cube]
impl Strides {
    /// The first chunk of a row.
    pub fn chunk(&self, batch: u32, head: u32, row: u32) -> u32 {
        batch * self.batch + head * self.head + row * self.row
    }
}

/// Scalars of a launch.
///
/// The `group` query heads of a key/value head are laid out as rows, `row * group + head`, so that
/// they share every key and value tile. Positions stay monotone in that order.
#[derive(CubeType, CubeLaunch, Clone, Copy, Debug, PartialEq)]
pub struct Arguments {
    /// The queries' view.
    pub q: Strides,
    /// The keys' view.
    pub k: Strides,
    /// The values' view.
    pub v: Strides,
    /// The output's view; of one split when keys are split.
    pub out: Strides,
    /// Lengths and regions.
    pub visible: Visible,
    /// Query heads a key/value head.
    pub group: u32,
    /// Parts that the keys are split into.
    pub splits: u32,
    /// Chunks from one split's output to the next.
    pub split_stride: u32,
    /// `1 / sqrt(head_dim)`, times `log2(e)` for kernels whose weights are powers of two: the scale is
    /// folded into the exponential.
    pub scale: f32,
}

impl Arguments {
    /// As a kernel's argument.
    pub fn launch(self) -> ArgumentsLaunch {
        let visible: VisibleLaunch = self.visible.launch();
        ArgumentsLaunch::new(
            self.q.launch(),
            self.k.launch(),
            self.v.launch(),
            self.out.launch(),
            visible,
            self.group,
            self.splits,
            self.split_stride,
            self.scale,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_in_chunks() {
        let view = Strides::new([2, 3, 5, 64], [64 * 15, 64 * 5, 64, 1], 8);
        assert_eq!(
            view,
            Some(Strides {
                batch: 120,
                head: 40,
                row: 8
            })
        );
        let swapped = Strides::new([1, 3, 5, 64], [7, 64, 192, 1], 8).expect("rows of three heads");
        assert_eq!((swapped.batch, swapped.head, swapped.row), (0, 8, 24));
    }

    #[test]
    fn views_that_copies_cannot_follow() {
        assert!(Strides::new([1, 1, 5, 64], [0, 0, 65, 1], 8).is_none());
        assert!(Strides::new([1, 1, 5, 64], [0, 0, 1, 5], 8).is_none());
        assert!(Strides::new([1, 1, 5, 68], [0, 0, 72, 1], 8).is_none());
        assert!(Strides::new([1, 1, 5, 68], [0, 0, 68, 1], 4).is_some());
        assert!(Strides::new([2, 1, 5, 64], [1 << 36, 0, 64, 1], 8).is_none());
    }
}
