//! ggml's blocks of 32 elements with a scale (`_0`), and with a scale and a minimum (`_1`).

use half::f16;

use super::{Blocks, Vectors};

/// Four bits an element: the low halves of 16 bytes, then the high halves. With `MINIMUM` the second f16 is added.
#[derive(Clone, Copy)]
pub(crate) struct Q4<const MINIMUM: bool>;

/// Five bits an element: four as in [`Q4`], the fifth of all elements in four bytes before them.
#[derive(Clone, Copy)]
pub(crate) struct Q5<const MINIMUM: bool>;

/// Eight bits an element.
#[derive(Clone, Copy)]
pub(crate) struct Q8;

/// The bytes in front of the codes: the scale, and the minimum where there is one.
const fn head(minimum: bool) -> usize {
    if minimum { 4 } else { 2 }
}

const fn halves(minimum: bool) -> &'static [usize] {
    if minimum { &[0, 2] } else { &[0] }
}

/// Rounds 32 elements to a block of [`Q8`] as ggml's reference does: the largest magnitude is 127, halves go away from
/// 0. The scale is not finite where an element is not.
#[inline(always)]
pub(crate) fn q8_0(x: &[f32; Q8::LEN], out: &mut [u8; Q8::BYTES]) {
    let mut largest = 0f32;
    // 0, and NaN where an element is infinite or NaN.
    let mut nothing = 0f32;
    for x in x {
        let magnitude = x.abs();
        nothing += magnitude * 0.0;
        largest = if magnitude > largest {
            magnitude
        } else {
            largest
        };
    }
    let scale = largest / 127.0;
    let inverse = match scale.recip() {
        inverse if inverse < f32::INFINITY => inverse,
        _ => 0.0,
    };
    out[..2].copy_from_slice(&f16::from_f32(scale + nothing).to_le_bytes());
    for (code, x) in out[2..].iter_mut().zip(x) {
        *code = (x * inverse).round() as i8 as u8;
    }
}

impl<const MINIMUM: bool> Blocks for Q4<MINIMUM> {
    const LEN: usize = 32;
    const BYTES: usize = head(MINIMUM) + 16;
    const MINIMUMS: bool = MINIMUM;
    const OFFSET: u8 = if MINIMUM { 0 } else { 8 };
    const HALVES: &'static [usize] = halves(MINIMUM);

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(head(MINIMUM)).cast::<[u8; 16]>().read();
            codes.cast::<[u8; 32]>().write(V::nibbles(packed));
        }
    }
}

impl<const MINIMUM: bool> Blocks for Q5<MINIMUM> {
    const LEN: usize = 32;
    const BYTES: usize = head(MINIMUM) + 4 + 16;
    const MINIMUMS: bool = MINIMUM;
    const OFFSET: u8 = if MINIMUM { 0 } else { 16 };
    const HALVES: &'static [usize] = halves(MINIMUM);

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let fifth = block.add(head(MINIMUM));
            let four = V::nibbles(fifth.add(4).cast::<[u8; 16]>().read());
            let fifth = fifth.cast::<[u8; 4]>().read();
            let bits = V::spread(u32::from_le_bytes(fifth));
            for i in 0..32 {
                codes.add(i).write(four[i] | bits[i] & 16);
            }
        }
    }
}

impl Blocks for Q8 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const SIGNED: bool = true;
    const FINE: bool = true;
    const HALVES: &'static [usize] = halves(false);

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(2).cast::<[u8; 32]>().read();
            codes.cast::<[u8; 32]>().write(packed);
        }
    }
}
