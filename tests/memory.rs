//! Memory of a prefill grows with the tokens, never with their square.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, FloatDType};
use burn_apb::apb::{
    CompressorConfig, Document, Method, PrefillConfig, RingLayout, Session, SessionConfig,
    compressor,
};
use burn_apb::model::{Architecture, DecoderConfig};

/// Counts what is allocated, and the most at one time.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FEW: usize = 128;
const TIMES: usize = 64;
/// Buffers of the kernels' threads do not grow with the tokens; what does may round up a little.
const SLACK: f64 = 1.1;

/// Bytes that a prefill and a question add to what was allocated before, at most.
fn peak(config: &PrefillConfig, tokens: usize) -> usize {
    let model = DecoderConfig::new(Architecture::Llama, 64, 32, 48, 2, 4, 2, 8);
    let device = Device::flex();
    let decoder = std::sync::Arc::new(model.init(&device));
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % 64).collect();
    let document = Document::new(ids).with_anchor_query([1, 2, 3]);
    let plan = config.plan(&document, &model).expect("a plan");
    let compressor =
        compressor::load(&plan, &model, FloatDType::F32, &device).expect("no heads needed");
    let settings = SessionConfig::new(tokens + 8).with_chunk(64);
    let mut session = Session::new(decoder, settings);
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    session
        .prefill_with(&document, &plan, compressor.as_deref(), &mut ())
        .expect("prefilled");
    session.extend(&[1, 2, 3, 4]).expect("a question");
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn sixty_four_times_the_tokens_take_sixty_four_times_the_memory() {
    let ranks = |method| PrefillConfig::new(method, 4);
    let apb = ranks(Method::Apb).with_compressor(CompressorConfig::QueryAware);
    let ring = ranks(Method::Ring).with_ring_layout(RingLayout::Contiguous);
    for config in [
        PrefillConfig::default(),
        ranks(Method::Ring),
        ring,
        ranks(Method::Ulysses),
        ranks(Method::Star),
        apb,
    ] {
        // The first run brings in what stays: weights, threads, their buffers.
        peak(&config, FEW);
        let few = peak(&config, FEW);
        let many = peak(&config, FEW * TIMES);
        let growth = many as f64 / few as f64;
        println!(
            "{}: {few} to {many} bytes, {growth:.1} times",
            config.method
        );
        assert!(
            growth <= TIMES as f64 * SLACK,
            "{config:?}: {growth:.1} times"
        );
        // One f32 a pair of tokens of a single head would be this much.
        let square = (FEW * TIMES).pow(2) * 4;
        assert!(many < square / 4, "{config:?}: {many} bytes");
    }
}
