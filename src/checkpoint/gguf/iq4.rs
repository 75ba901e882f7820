//! IQ4_NL and IQ4_XS, which candle lacks: four bits an element that are looked up in a table.

/// The values of the sixteen codes, before scaling.
const VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Elements that share a scale: 16 bytes, the low halves first, then the high halves.
const GROUP: usize = 32;

/// Elements of an IQ4_NL block.
pub(super) const NL_LEN: usize = GROUP;

/// Bytes of an IQ4_NL block: the scale as f16, then the codes.
pub(super) const NL_BYTES: usize = 2 + GROUP / 2;

/// Elements of an IQ4_XS block.
pub(super) const XS_LEN: usize = 8 * GROUP;

/// Bytes of an IQ4_XS block: the scale as f16, the groups' scales (two high bits of each, then four
/// low bits), then the codes.
pub(super) const XS_BYTES: usize = 2 + 2 + 4 + XS_LEN / 2;

/// Dequantises whole IQ4_NL blocks.
pub(super) fn nl(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<NL_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<NL_LEN>().0) {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        group(scale, &block[2..], out);
    }
}

/// Dequantises whole IQ4_XS blocks.
pub(super) fn xs(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<XS_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<XS_LEN>().0) {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        let high = u16::from_le_bytes([block[2], block[3]]);
        let (low, codes) = (&block[4..8], block[8..].as_chunks::<{ GROUP / 2 }>().0);
        for (at, (codes, out)) in codes.iter().zip(out.as_chunks_mut::<GROUP>().0).enumerate() {
            let low = (low[at / 2] >> (4 * (at % 2))) & 0x0f;
            let high = ((high >> (2 * at)) & 0x03) as u8;
            let of_group = f32::from((low | (high << 4)) as i8 - 32);
            // In this order, which is what makes the bits those of llama.cpp and gguf-py.
            group(scale * of_group, codes, out);
        }
    }
}

/// Dequantises one group.
fn group(scale: f32, codes: &[u8], out: &mut [f32; GROUP]) {
    let (low, high) = out.split_at_mut(GROUP / 2);
    for ((code, low), high) in codes.iter().zip(low).zip(high) {
        *low = scale * VALUES[usize::from(code & 0x0f)];
        *high = scale * VALUES[usize::from(code >> 4)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_looked_up_and_scaled() {
        let mut block = half::f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend((0..16).map(|code| code | ((15 - code) << 4)));
        let mut out = [0.0; NL_LEN];
        nl(&block, &mut out);
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
        let mut out = [0.0; XS_LEN];
        xs(&block, &mut out);
        // Code 8 is 1, code 0 is -127.
        assert_eq!((out[0], out[16]), (34.0, -127.0 * 34.0));
        assert_eq!((out[32], out[7 * 32]), (-64.0, -2.0));
    }
}
