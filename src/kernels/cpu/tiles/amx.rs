//! Products of tiles of bf16 by AMX.
//!
//! Rust has no stable functions for these instructions, so they stand here in assembly.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::{PAIR, Product, TILE_ROWS};

/// Whether the processor has tiles with products of bf16, and the system lets this process use them.
pub(in crate::kernels::cpu) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && is_permitted())
}

fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    // Leaf 0 says which leaves there are.
    let leaves = __cpuid_count(0, 0).eax;
    leaves >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILES) == BF16 | TILES
}

/// Linux gives a process the registers of tiles, 8 KiB a thread, when it asks for them.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and no memory.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// How tiles are laid out: all eight have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tiles of this thread, set up; they are released when this is dropped.
pub(in crate::kernels::cpu) struct AmxTiles(());

impl Product for AmxTiles {
    /// # Safety
    ///
    /// [`is_available`].
    #[inline]
    unsafe fn new() -> Self {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly));
        Self(())
    }

    #[inline(always)]
    unsafe fn product<const R: usize, const ADD: bool>(
        &self,
        depth: usize,
        a: [*const u16; R],
        b: [*const u16; 2],
        out: *mut f32,
        stride: usize,
    ) {
        const { assert!(R == 1 || R == 2) };
        if depth == 0 {
            for row in 0..if ADD { 0 } else { R * TILE_ROWS } {
                core::ptr::write_bytes(out.wrapping_add(row * stride), 0, PAIR);
            }
            return;
        }
        let row = stride * size_of::<f32>();
        let below = out.wrapping_add(TILE_ROWS * stride);
        if ADD {
            asm!(
                "tileloadd tmm0, [{out} + {row}]",
                "tileloadd tmm1, [{out} + {row} + 64]",
                out = in(reg) out, row = in(reg) row,
                out("tmm0") _, out("tmm1") _,
                options(nostack, readonly),
            );
            if R == 2 {
                asm!(
                    "tileloadd tmm2, [{out} + {row}]",
                    "tileloadd tmm3, [{out} + {row} + 64]",
                    out = in(reg) below, row = in(reg) row,
                    out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly),
                );
            }
        } else {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem),
            );
        }
        // The registers of tiles keep what they hold between these blocks: the compiler uses none.
        if R == 2 {
            asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                // What comes two steps later: loads of tiles are not foreseen by the processor.
                "prefetcht0 [{b0} + 2048]", "prefetcht0 [{b0} + 2112]", "prefetcht0 [{b0} + 2176]", "prefetcht0 [{b0} + 2240]",
                "prefetcht0 [{b0} + 2304]", "prefetcht0 [{b0} + 2368]", "prefetcht0 [{b0} + 2432]", "prefetcht0 [{b0} + 2496]",
                "prefetcht0 [{b0} + 2560]", "prefetcht0 [{b0} + 2624]", "prefetcht0 [{b0} + 2688]", "prefetcht0 [{b0} + 2752]",
                "prefetcht0 [{b0} + 2816]", "prefetcht0 [{b0} + 2880]", "prefetcht0 [{b0} + 2944]", "prefetcht0 [{b0} + 3008]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "prefetcht0 [{b1} + 2048]", "prefetcht0 [{b1} + 2112]", "prefetcht0 [{b1} + 2176]", "prefetcht0 [{b1} + 2240]",
                "prefetcht0 [{b1} + 2304]", "prefetcht0 [{b1} + 2368]", "prefetcht0 [{b1} + 2432]", "prefetcht0 [{b1} + 2496]",
                "prefetcht0 [{b1} + 2560]", "prefetcht0 [{b1} + 2624]", "prefetcht0 [{b1} + 2688]", "prefetcht0 [{b1} + 2752]",
                "prefetcht0 [{b1} + 2816]", "prefetcht0 [{b1} + 2880]", "prefetcht0 [{b1} + 2944]", "prefetcht0 [{b1} + 3008]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024", "add {a1}, 1024", "add {b0}, 1024", "add {b1}, 1024",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{out} + {row}], tmm0",
                "tilestored [{out} + {row} + 64], tmm1",
                "tilestored [{below} + {row}], tmm2",
                "tilestored [{below} + {row} + 64], tmm3",
                depth = inout(reg) depth => _,
                a0 = inout(reg) a[0] => _, a1 = inout(reg) a[R - 1] => _,
                b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
                out = in(reg) out, below = in(reg) below, row = in(reg) row, line = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        } else {
            asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {a0}, 1024", "add {b0}, 1024", "add {b1}, 1024",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{out} + {row}], tmm0",
                "tilestored [{out} + {row} + 64], tmm1",
                depth = inout(reg) depth => _,
                a0 = inout(reg) a[0] => _,
                b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
                out = in(reg) out, row = in(reg) row, line = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for AmxTiles {
    fn drop(&mut self) {
        // SAFETY: whoever made this has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
