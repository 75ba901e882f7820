//! ggml's "k" blocks of 256 elements: scales (and minimums) of groups, themselves quantised, under a scale of the
//! block.

use super::{Blocks, CHUNK, Vectors, half_at};

/// Two bits an element; groups of 16 with four bits of scale and of minimum.
#[derive(Clone, Copy)]
pub(crate) struct Q2K;

/// Three bits an element; groups of 16 with six bits of scale.
#[derive(Clone, Copy)]
pub(crate) struct Q3K;

/// Four bits an element; groups of 32 with six bits of scale and of minimum.
#[derive(Clone, Copy)]
pub(crate) struct Q4K;

/// Five bits an element; otherwise as [`Q4K`].
#[derive(Clone, Copy)]
pub(crate) struct Q5K;

/// Six bits an element; groups of 16 with eight bits of scale.
#[derive(Clone, Copy)]
pub(crate) struct Q6K;

/// Eight bits an element and one scale, an f32. The sums behind the codes are not used.
#[derive(Clone, Copy)]
pub(crate) struct Q8K;

/// Writes what bytes hold of four elements each, two bits of one after the other.
///
/// # Safety
///
/// `packed` has 32 bytes, `codes` takes 128.
#[inline(always)]
unsafe fn four_parts(packed: *const u8, codes: *mut u8) {
    // Through words of two bytes, which have shifts: with bytes the compiler goes one by one.
    // SAFETY: as the caller's.
    unsafe {
        let packed = packed.cast::<[u16; 16]>().read_unaligned();
        for part in 0..4 {
            let codes = codes.add(32 * part).cast::<u16>();
            for (i, pair) in packed.into_iter().enumerate() {
                codes.add(i).write_unaligned(pair >> (2 * part) & 0x0303);
            }
        }
    }
}

impl Blocks for Q2K {
    const LEN: usize = CHUNK;
    const BYTES: usize = 16 + 64 + 4;
    const GROUP: usize = 16;
    const MINIMUMS: bool = true;
    const HALVES: &'static [usize] = &[80, 82];

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let (scale, minimum) = (half_at::<V>(block.add(80)), half_at::<V>(block.add(82)));
            let of_groups = block.cast::<[u8; 16]>().read();
            for (group, of_group) in of_groups.into_iter().enumerate() {
                scales.add(group).write(scale * f32::from(of_group & 15));
                minimums
                    .add(group)
                    .write(minimum * f32::from(of_group >> 4));
            }
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            for side in 0..2 {
                four_parts(block.add(16 + 32 * side), codes.add(128 * side));
            }
        }
    }
}

impl Blocks for Q3K {
    const LEN: usize = CHUNK;
    const BYTES: usize = 32 + 64 + 12 + 2;
    const GROUP: usize = 16;
    const OFFSET: u8 = 4;
    const HALVES: &'static [usize] = &[108];

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, _: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let scale = half_at::<V>(block.add(108));
            // Of four groups at a time, a byte each: four low bits, then two high ones.
            let [first, second, high] = block
                .add(96)
                .cast::<[[u8; 4]; 3]>()
                .read()
                .map(u32::from_le_bytes);
            let low = [first, second, first >> 4, second >> 4];
            for (i, low) in low.into_iter().enumerate() {
                let four = low & 0x0f0f_0f0f | (high >> (2 * i) & 0x0303_0303) << 4;
                for (j, of_group) in four.to_le_bytes().into_iter().enumerate() {
                    let of_group = i32::from(of_group) - 32;
                    scales.add(4 * i + j).write(scale * of_group as f32);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            // Through words of two bytes, as in `four_parts`.
            let third = block.cast::<[u16; 16]>().read_unaligned();
            for side in 0..2 {
                let packed = block
                    .add(32 + 32 * side)
                    .cast::<[u16; 16]>()
                    .read_unaligned();
                for part in 0..4 {
                    let codes = codes.add(128 * side + 32 * part).cast::<u16>();
                    for i in 0..16 {
                        let two = packed[i] >> (2 * part) & 0x0303;
                        let one = (third[i] >> (4 * side + part) & 0x0101) << 2;
                        codes.add(i).write_unaligned(two | one);
                    }
                }
            }
        }
    }
}

/// The scales and minimums of [`Q4K`] and [`Q5K`]: those of eight groups in twelve bytes, under two f16.
///
/// # Safety
///
/// `block` has 16 bytes, `scales` and `minimums` take eight values.
#[inline(always)]
unsafe fn six_bits<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
    // SAFETY: as the caller's.
    unsafe {
        let (scale, minimum) = (half_at::<V>(block), half_at::<V>(block.add(2)));
        let packed = block.add(4).cast::<[[u8; 4]; 3]>().read();
        let (mut of_scales, mut of_minimums) = ([0u8; 8], [0u8; 8]);
        for i in 0..4 {
            let [first, second, third] = [packed[0][i], packed[1][i], packed[2][i]];
            of_scales[i] = first & 63;
            of_minimums[i] = second & 63;
            of_scales[4 + i] = third & 15 | first >> 6 << 4;
            of_minimums[4 + i] = third >> 4 | second >> 6 << 4;
        }
        for (group, six) in of_scales.into_iter().enumerate() {
            scales.add(group).write(scale * f32::from(six));
        }
        for (group, six) in of_minimums.into_iter().enumerate() {
            minimums.add(group).write(minimum * f32::from(six));
        }
    }
}

impl Blocks for Q4K {
    const LEN: usize = CHUNK;
    const BYTES: usize = 4 + 12 + 128;
    const MINIMUMS: bool = true;
    const HALVES: &'static [usize] = &[0, 2];

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            six_bits::<V>(block, scales, minimums);
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            for quarter in 0..4 {
                let packed = block.add(16 + 32 * quarter).cast::<[u8; 32]>().read();
                let codes = codes.add(64 * quarter);
                for (i, byte) in packed.into_iter().enumerate() {
                    codes.add(i).write(byte & 15);
                    codes.add(32 + i).write(byte >> 4);
                }
            }
        }
    }
}

impl Blocks for Q5K {
    const LEN: usize = CHUNK;
    const BYTES: usize = 4 + 12 + 32 + 128;
    const MINIMUMS: bool = true;
    const HALVES: &'static [usize] = &[0, 2];

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            six_bits::<V>(block, scales, minimums);
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let fifth = block.add(16).cast::<[u8; 32]>().read();
            for quarter in 0..4 {
                let packed = block.add(48 + 32 * quarter).cast::<[u8; 32]>().read();
                let codes = codes.add(64 * quarter);
                for i in 0..32 {
                    let bits = fifth[i] >> (2 * quarter);
                    codes.add(i).write(packed[i] & 15 | (bits & 1) << 4);
                    codes.add(32 + i).write(packed[i] >> 4 | (bits & 2) << 3);
                }
            }
        }
    }
}

impl Blocks for Q6K {
    const LEN: usize = CHUNK;
    const BYTES: usize = 128 + 64 + 16 + 2;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;
    const HALVES: &'static [usize] = &[208];

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, _: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let scale = half_at::<V>(block.add(208));
            let of_groups = block.add(192).cast::<[i8; 16]>().read();
            for (group, of_group) in of_groups.into_iter().enumerate() {
                scales.add(group).write(scale * f32::from(of_group));
            }
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            for side in 0..2 {
                let low = block.add(64 * side).cast::<[[u8; 32]; 2]>().read();
                let high = block.add(128 + 32 * side).cast::<[u8; 32]>().read();
                for part in 0..4 {
                    let codes = codes.add(128 * side + 32 * part);
                    for i in 0..32 {
                        let four = low[part % 2][i] >> (4 * (part / 2)) & 15;
                        let two = high[i] >> (2 * part) & 3;
                        codes.add(i).write(four | two << 4);
                    }
                }
            }
        }
    }
}

impl Blocks for Q8K {
    const LEN: usize = CHUNK;
    const BYTES: usize = 4 + 256 + 32;
    const SIGNED: bool = true;
    const FINE: bool = true;
    const HALVES: &'static [usize] = &[];

    fn is_finite(block: &[u8]) -> bool {
        block
            .first_chunk()
            .is_some_and(|&scale| f32::from_le_bytes(scale).is_finite())
    }

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, _: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let scale = f32::from_le_bytes(block.cast::<[u8; 4]>().read());
            scales.cast::<[f32; 8]>().write([scale; 8]);
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(4).cast::<[u8; CHUNK]>();
            codes.cast::<[u8; CHUNK]>().write(packed.read());
        }
    }
}
