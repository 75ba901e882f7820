//! Barriers between the planes of a block that do different work: those in shared memory, which count arrivals and
//! finished copies (`mbarrier`), and the named ones of the hardware (`bar`). And how many registers such planes have.

use cubecl::prelude::*;

/// Bytes of a barrier in shared memory.
pub const BARRIER_BYTES: u32 = 8;

/// Makes the 8 bytes at a shared address a barrier whose phase ends with the `arrivals`-th arrival.
#[cube]
pub fn init_barrier(address: u32, arrivals: u32) {
    gpu_asm!(
        "mbarrier.init.shared::cta.b64 [{address}], {arrivals};",
        address = in(_) address * 1u32,
        arrivals = in(_) arrivals * 1u32,
    );
}

/// Waits for the end of a phase, of which `parity` is 0 for the first, 1 for the next, and so on in turns. Before the
/// first has ended, a wait for parity 1 returns at once.
#[cube]
pub fn wait_barrier(address: u32, parity: u32) {
    gpu_asm!(
        "{{ .reg .pred over;\nagain: mbarrier.try_wait.parity.shared::cta.b64 over, [{address}], {parity};\n@!over bra again; }}",
        address = in(_) address * 1u32,
        parity = in(_) parity * 1u32,
    );
}

/// Arrives at a barrier.
#[cube]
pub fn arrive_barrier(address: u32) {
    gpu_asm!(
        "{{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [{address}]; }}",
        address = in(_) address * 1u32,
    );
}

/// Waits at a named barrier, 1 to 15, for `threads` threads.
#[cube]
pub fn wait_named(name: u32, #[comptime] threads: usize) {
    let threads = comptime!(threads as u32).runtime();
    gpu_asm!(
        "bar.sync {name}, {threads};",
        name = in(_) name * 1u32,
        threads = in(_) threads * 1u32,
    );
}

/// Gives the warpgroup fewer registers a unit, or more, than it was launched with: a multiple of 8 between 24 and 256.
/// The first instruction of its branch.
#[cube]
pub fn set_registers(#[comptime] count: usize, #[comptime] more: bool) {
    let direction = comptime!(if more { "inc" } else { "dec" });
    let code = comptime!(format!("setmaxnreg.{direction}.sync.aligned.u32 {count};"));
    gpu_asm!("{code}");
}
