//! Quantised weights: blocks of codes with their scales, and what they stand for.
//!
//! A weight `[d_output, d_input]` is a tensor of bytes `[d_output, row_bytes]`: of every row its blocks, one behind
//! the other, as they lie in a GGUF file or as a safetensors checkpoint's codes are arranged when they are loaded. Each
//! format is a type that implements [`Blocks`], in a file of its kind.

pub(crate) mod grouped;
mod iq4;
mod k;
mod small;

use std::fmt;

pub(crate) use small::{Q8, q8_0};

use half::f16;

/// Elements that kernels unpack at a time: one block of the large formats, eight of the small ones.
pub(crate) const CHUNK: usize = 256;

/// Groups of a chunk at most: a scale for every 16 elements.
pub(crate) const GROUPS: usize = CHUNK / 16;

/// What unpacking needs beside plain code, of an instruction set.
pub(crate) trait Vectors: Copy {
    /// An f16 as f32.
    ///
    /// # Safety
    ///
    /// The processor must have the instructions.
    unsafe fn half(bits: u16) -> f32;

    /// Eight f16 as f32, so many bytes apart, the first at `p`.
    ///
    /// # Safety
    ///
    /// As [`half`](Self::half). Two bytes behind each f16 may be read as well.
    unsafe fn halves(p: *const u8, apart: usize) -> [f32; 8];

    /// The four lower bits of bytes, then the four upper ones.
    ///
    /// # Safety
    ///
    /// As [`half`](Self::half).
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32];

    /// The values of codes below 16.
    ///
    /// # Safety
    ///
    /// As [`half`](Self::half).
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32];

    /// Each bit, the lowest first, as a byte of all its bits.
    ///
    /// # Safety
    ///
    /// As [`half`](Self::half).
    unsafe fn spread(bits: u32) -> [u8; 32];
}

/// Plain code.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Vectors for Plain {
    #[inline(always)]
    unsafe fn half(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }

    #[inline(always)]
    unsafe fn halves(p: *const u8, apart: usize) -> [f32; 8] {
        // SAFETY: as the caller's.
        core::array::from_fn(|i| unsafe { half_at::<Self>(p.add(i * apart)) })
    }

    #[inline(always)]
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32] {
        core::array::from_fn(|i| match i < 16 {
            true => packed[i] & 15,
            false => packed[i - 16] >> 4,
        })
    }

    #[inline(always)]
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32] {
        codes.map(|code| values[usize::from(code & 15)] as u8)
    }

    #[inline(always)]
    unsafe fn spread(bits: u32) -> [u8; 32] {
        core::array::from_fn(|i| match bits >> i & 1 {
            0 => 0,
            _ => u8::MAX,
        })
    }
}

/// A block format: how `LEN` elements lie in `BYTES` bytes.
///
/// An element is `scale * (code - OFFSET) - minimum`, in f32 and rounded after each operation, with a scale (and,
/// where there are any, a minimum) for `GROUP` elements. Codes that are floats themselves have neither `OFFSET` nor
/// minimums.
pub(crate) trait Blocks: Copy + Send + Sync + 'static {
    /// Elements of a block: 32, 64, 128 or 256.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements that share a scale: 16 or 32.
    const GROUP: usize = 32;
    /// Whether groups have minimums.
    const MINIMUMS: bool = false;
    /// Whether codes are `i8`; otherwise they are below 64.
    const SIGNED: bool = false;
    /// Whether codes are so fine that eight bits of `x` beside them would be felt: it then has fifteen. Only for
    /// signed codes without minimums.
    const FINE: bool = false;
    /// Whether codes are floats of eight bits, so that products are of floats too.
    const FLOATS: bool = false;
    /// What is taken off each code.
    const OFFSET: u8 = 0;

    /// Where in a block its f16 are.
    const HALVES: &'static [usize];

    /// Whether the scales of a block are finite, and its codes where they are floats.
    fn is_finite(block: &[u8]) -> bool {
        let finite = |&at: &usize| f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
        Self::HALVES.iter().all(finite)
    }

    /// Writes the codes of a block, in the order of its elements.
    ///
    /// # Safety
    ///
    /// `block` has `BYTES` bytes, `codes` takes `LEN`; instructions of `V`.
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8);

    /// Writes the scales of a block's groups and, where the format has them, the minimums. Unless stated otherwise a
    /// block is one group: an f16 in front is its scale, and behind that another, negated, its minimum.
    ///
    /// # Safety
    ///
    /// `block` has `BYTES` bytes, `scales` and `minimums` take one value for every `GROUP` of its elements;
    /// instructions of `V`.
    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
        const { assert!(Self::LEN == Self::GROUP) };
        // SAFETY: as the caller's.
        unsafe {
            scales.write(half_at::<V>(block));
            if Self::MINIMUMS {
                minimums.write(-half_at::<V>(block.add(2)));
            }
        }
    }

    /// [`scales`](Self::scales) of all blocks of a chunk.
    ///
    /// # Safety
    ///
    /// As there, for [`CHUNK`] elements.
    #[inline(always)]
    unsafe fn scales_of_chunk<V: Vectors>(blocks: *const u8, scales: *mut f32, minimums: *mut f32) {
        // SAFETY: as the caller's; of blocks of one group a chunk has eight.
        unsafe {
            if Self::LEN == 32 && !Self::HALVES.is_empty() {
                scales
                    .cast::<[f32; 8]>()
                    .write(V::halves(blocks, Self::BYTES));
                if Self::MINIMUMS {
                    let values = V::halves(blocks.add(2), Self::BYTES).map(|half| -half);
                    minimums.cast::<[f32; 8]>().write(values);
                }
                return;
            }
            for i in 0..CHUNK / Self::LEN {
                let first = i * (Self::LEN / Self::GROUP);
                let block = blocks.add(i * Self::BYTES);
                Self::scales::<V>(block, scales.add(first), minimums.add(first));
            }
        }
    }
}

/// Up to a chunk of unpacked elements, in whole lines of the cache.
#[repr(C, align(64))]
pub(crate) struct Unpacked {
    pub codes: [u8; CHUNK],
    pub scales: [f32; GROUPS],
    pub minimums: [f32; GROUPS],
}

impl Unpacked {
    pub(crate) fn new() -> Self {
        Self {
            codes: [0; CHUNK],
            scales: [0.0; GROUPS],
            minimums: [0.0; GROUPS],
        }
    }

    /// Unpacks the blocks of `len` elements, at most a chunk. What is beyond them is left as it was.
    ///
    /// # Safety
    ///
    /// `blocks` has whole blocks of `len` elements; instructions of `V`.
    #[inline(always)]
    pub(crate) unsafe fn fill<F: Blocks, V: Vectors>(&mut self, blocks: *const u8, len: usize) {
        let (scales, minimums) = (self.scales.as_mut_ptr(), self.minimums.as_mut_ptr());
        let groups = F::LEN / F::GROUP;
        // SAFETY: `len` is at most a chunk, and the caller has its blocks.
        unsafe {
            if len == CHUNK {
                F::scales_of_chunk::<V>(blocks, scales, minimums);
            }
            for i in 0..len / F::LEN {
                let block = blocks.add(i * F::BYTES);
                F::codes::<V>(block, self.codes.as_mut_ptr().add(i * F::LEN));
                if len < CHUNK {
                    F::scales::<V>(block, scales.add(i * groups), minimums.add(i * groups));
                }
            }
        }
    }

    /// The first elements.
    #[inline(always)]
    pub(crate) fn dequantize<F: Blocks>(&self, out: &mut [f32]) {
        for (group, out) in out.chunks_mut(F::GROUP).enumerate() {
            let codes = &self.codes[group * F::GROUP..][..out.len()];
            for (out, &code) in out.iter_mut().zip(codes) {
                let value = if F::FLOATS {
                    grouped::e4m3(code)
                } else if F::SIGNED {
                    f32::from(code as i8)
                } else {
                    (i32::from(code) - i32::from(F::OFFSET)) as f32
                };
                let scaled = self.scales[group] * value;
                *out = match F::MINIMUMS {
                    true => scaled - self.minimums[group],
                    false => scaled,
                };
            }
        }
    }
}

/// Work on a format that is known when compiling.
pub(crate) trait ForBlocks {
    type Output;
    fn run<F: Blocks>(self) -> Self::Output;
}

macro_rules! formats {
    ($($variant:ident: $blocks:ty, $name:literal;)*) => {
        /// How the elements of a quantised weight lie in blocks. Most formats are ggml's; `INT4`, `INT8` and `FP8` are
        /// what the codes of safetensors checkpoints are arranged in, by the elements of a block.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum BlockFormat {
            $(#[doc = $name] $variant,)*
        }

        impl BlockFormat {
            /// All formats.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The format's name, such as ggml's `Q4_K`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Runs work with the type of the format.
            pub(crate) fn run<W: ForBlocks>(self, work: W) -> W::Output {
                match self {
                    $(Self::$variant => work.run::<$blocks>(),)*
                }
            }
        }
    };
}

formats! {
    Q4_0: small::Q4<false>, "Q4_0";
    Q4_1: small::Q4<true>, "Q4_1";
    Q5_0: small::Q5<false>, "Q5_0";
    Q5_1: small::Q5<true>, "Q5_1";
    Q8_0: small::Q8, "Q8_0";
    Q2K: k::Q2K, "Q2_K";
    Q3K: k::Q3K, "Q3_K";
    Q4K: k::Q4K, "Q4_K";
    Q5K: k::Q5K, "Q5_K";
    Q6K: k::Q6K, "Q6_K";
    Q8K: k::Q8K, "Q8_K";
    Iq4Nl: iq4::Nl, "IQ4_NL";
    Iq4Xs: iq4::Xs, "IQ4_XS";
    Int4x32: grouped::Int4<32>, "INT4_32";
    Int4x64: grouped::Int4<64>, "INT4_64";
    Int4x128: grouped::Int4<128>, "INT4_128";
    Int8x32: grouped::Int8<32>, "INT8_32";
    Int8x128: grouped::Int8<128>, "INT8_128";
    Int8Zero: grouped::Int8Zero<32>, "INT8_ZERO";
    Fp8x32: grouped::E4m3<32>, "FP8_32";
    Fp8x128: grouped::E4m3<128>, "FP8_128";
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl BlockFormat {
    /// Elements of a block.
    pub fn block_len(self) -> usize {
        self.run(Size).0
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.run(Size).1
    }

    /// Bytes of a row of `d_input` elements; none where that is no whole number of blocks.
    pub fn row_bytes(self, d_input: usize) -> Option<usize> {
        let (len, bytes) = self.run(Size);
        match d_input.is_multiple_of(len) {
            true => (d_input / len).checked_mul(bytes),
            false => None,
        }
    }

    /// Elements of a row of `row_bytes`; none where those are no whole number of blocks.
    pub fn row_elements(self, row_bytes: usize) -> Option<usize> {
        let (len, bytes) = self.run(Size);
        match row_bytes.is_multiple_of(bytes) {
            true => (row_bytes / bytes).checked_mul(len),
            false => None,
        }
    }

    /// The first of whole blocks with a scale, or a code of FP8, that is infinite or no number.
    pub fn first_not_finite(self, blocks: &[u8]) -> Option<usize> {
        self.run(NotFinite(blocks))
    }

    /// The elements of whole blocks, in f32, bit for bit as gguf-py and llama.cpp compute them; of codes with a zero
    /// point, `scale * (code - zero)`. Elements of `out` beyond the blocks are left as they are, and so are blocks beyond `out`.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        self.run(Dequantize { blocks, out });
    }
}

struct Size;

impl ForBlocks for Size {
    type Output = (usize, usize);

    fn run<F: Blocks>(self) -> (usize, usize) {
        (F::LEN, F::BYTES)
    }
}

struct NotFinite<'a>(&'a [u8]);

impl ForBlocks for NotFinite<'_> {
    type Output = Option<usize>;

    fn run<F: Blocks>(self) -> Option<usize> {
        let mut blocks = self.0.chunks_exact(F::BYTES);
        blocks.position(|block| !F::is_finite(block))
    }
}

struct Dequantize<'a> {
    blocks: &'a [u8],
    out: &'a mut [f32],
}

impl ForBlocks for Dequantize<'_> {
    type Output = ();

    fn run<F: Blocks>(self) {
        let mut unpacked = Unpacked::new();
        let blocks = self.blocks.chunks_exact(F::BYTES);
        for (block, out) in blocks.zip(self.out.chunks_exact_mut(F::LEN)) {
            // SAFETY: the block is whole.
            unsafe { unpacked.fill::<F, Plain>(block.as_ptr(), F::LEN) };
            unpacked.dequantize::<F>(out);
        }
    }
}

/// The f16 at `p`.
///
/// # Safety
///
/// `p` has two bytes; instructions of `V`.
#[inline(always)]
unsafe fn half_at<V: Vectors>(p: *const u8) -> f32 {
    // SAFETY: as the caller's.
    unsafe { V::half(u16::from_le_bytes(p.cast::<[u8; 2]>().read())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_blocks() {
        for &format in BlockFormat::ALL {
            let (len, bytes) = (format.block_len(), format.block_bytes());
            assert_eq!(format.row_bytes(3 * len), Some(3 * bytes), "{format}");
            assert_eq!(format.row_bytes(3 * len + 1), None, "{format}");
            assert_eq!(format.row_elements(3 * bytes), Some(3 * len), "{format}");
            assert_eq!(format.row_elements(3 * bytes - 1), None, "{format}");
        }
    }
}
