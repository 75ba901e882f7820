//! ggml's IQ4_NL and IQ4_XS: four bits an element that are looked up in a table.

use super::{Blocks, CHUNK, Vectors, half_at};

/// The values of the sixteen codes, before scaling.
const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Elements that share a scale: 16 bytes, the low halves first, then the high halves.
const GROUP: usize = 32;

/// A group with a scale.
#[derive(Clone, Copy)]
pub(crate) struct Nl;

/// Eight groups with six bits of scale (two high bits of each, then four low bits) under one of the block.
#[derive(Clone, Copy)]
pub(crate) struct Xs;

/// # Safety
///
/// `packed` has 16 bytes, `codes` takes 32.
#[inline(always)]
unsafe fn look_up<V: Vectors>(packed: *const u8, codes: *mut u8) {
    // SAFETY: as the caller's.
    unsafe {
        let packed = packed.cast::<[u8; GROUP / 2]>().read();
        let found = V::look_up(&VALUES, V::nibbles(packed));
        codes.cast::<[u8; GROUP]>().write(found);
    }
}

impl Blocks for Nl {
    const LEN: usize = GROUP;
    const BYTES: usize = 2 + GROUP / 2;
    const SIGNED: bool = true;
    const HALVES: &'static [usize] = &[0];

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            look_up::<V>(block.add(2), codes);
        }
    }
}

impl Blocks for Xs {
    const LEN: usize = CHUNK;
    const BYTES: usize = 2 + 2 + 4 + CHUNK / 2;
    const SIGNED: bool = true;
    const HALVES: &'static [usize] = &[0];

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, _: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let scale = half_at::<V>(block);
            let high = u16::from_le_bytes(block.add(2).cast::<[u8; 2]>().read());
            let low = block.add(4).cast::<[u8; 4]>().read();
            for group in 0..CHUNK / GROUP {
                let low = low[group / 2] >> (4 * (group % 2)) & 15;
                let high = (high >> (2 * group) & 3) as u8;
                let of_group = i32::from(low | high << 4) - 32;
                scales.add(group).write(scale * of_group as f32);
            }
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        for group in 0..CHUNK / GROUP {
            let at = 8 + group * (GROUP / 2);
            // SAFETY: as the caller's.
            unsafe { look_up::<V>(block.add(at), codes.add(group * GROUP)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernels::BlockFormat;

    #[test]
    fn codes_are_looked_up_and_scaled() {
        let mut block = half::f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend((0..16).map(|code| code | ((15 - code) << 4)));
        let mut out = [0.0; 32];
        BlockFormat::Iq4Nl.dequantize(&block, &mut out);
        assert_eq!(
            (out[0], out[15], out[16], out[31]),
            (-63.5, 56.5, 56.5, -63.5)
        );
    }

    #[test]
    fn groups_have_scales_of_six_bits() {
        let mut block = half::f16::from_f32(2.0).to_le_bytes().to_vec();
        // Group 0: 0b11_0001 - 32 = 17; group 7: 0b01_1111 - 32 = -1; the others: -32.
        block.extend((0b0100_0000_0000_0011u16).to_le_bytes());
        block.extend([0x01, 0, 0, 0xf0]);
        block.extend([0x08; 128]);
        let mut out = [0.0; 256];
        BlockFormat::Iq4Xs.dequantize(&block, &mut out);
        // Code 8 is 1, code 0 is -127.
        assert_eq!((out[0], out[16]), (34.0, -127.0 * 34.0));
        assert_eq!((out[32], out[7 * 32]), (-64.0, -2.0));
    }
}
