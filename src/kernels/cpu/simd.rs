//! Vectors of f32 for the widest instructions the processor has, chosen at run time.

use super::tiles::{self, TileJob};
use crate::kernels::KernelError;
use crate::kernels::quantized::{Plain, Vectors};

/// The variable that chooses an instruction set, for comparisons and tests.
const VARIABLE: &str = "APB_CPU";

/// Elements of `x` that share a scale beside codes.
pub(super) const X_GROUP: usize = 32;
/// The largest code of `x`.
pub(super) const X_CODES: f32 = 127.0;
/// What the first of two codes of an element counts beside the second.
pub(super) const LOW: i16 = 255;
/// The largest of two codes of an element together.
pub(super) const FINE_CODES: f32 = X_CODES * LOW as f32 + X_CODES;

/// Operations on a vector of `LANES` f32. Kernels are generic over this and compiled once for
/// each implementation.
///
/// Written by hand: the generic vectors of `pulp` neither convert f16 and bf16, round, scale by `2^n` nor
/// transpose, so that the longest parts would remain beside them, one for each instruction set.
///
/// # Safety
///
/// Every function needs the instructions of its implementation; pointers need `LANES` elements,
/// aligned to one element.
pub(super) trait Simd: Copy + 'static {
    /// A vector.
    type V: Copy;
    /// One truth value a lane.
    type M: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// Rows of a block of a matrix product.
    const ROWS: usize;
    /// Vectors side by side in a panel, 2 or 3. `ROWS * PANEL` accumulators, `PANEL` vectors and one more fit
    /// in the registers with one to spare: an accumulator in memory halves the speed.
    const PANEL: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn load_f16(p: *const u16) -> Self::V;
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Rounds to f16.
    unsafe fn store_f16(p: *mut u16, v: Self::V);
    /// Rounds to bf16, to even where two are as near.
    unsafe fn store_bf16(p: *mut u16, v: Self::V);
    /// A vector of codes, which are `i8` with `SIGNED`, else `u8`.
    unsafe fn load_codes<const SIGNED: bool>(p: *const u8) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `2^n * x` for whole `n` in `-127..=128`; 0 and infinity at the ends.
    unsafe fn scale(x: Self::V, n: Self::V) -> Self::V;
    /// To the nearest whole number, for magnitudes below `2^22`.
    unsafe fn round(x: Self::V) -> Self::V;
    /// `x` limited to `-127..=128`; NaN stays.
    unsafe fn clamp_exponent(x: Self::V) -> Self::V;
    /// `from <= x < to`.
    unsafe fn within(x: Self::V, from: Self::V, to: Self::V) -> Self::M;
    /// `a` where `m`, else `b`.
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;

    /// Sums of products of codes.
    type Dots: Copy;

    unsafe fn no_dots() -> Self::Dots;
    /// Adds 64 codes times as many of `x`: with `SIGNED` they are `i8`, otherwise below 64; `x` has no -128. Every 32
    /// products are multiplied by one of two scales; with `HALVES` every 16 by one of four.
    unsafe fn add_dots<const SIGNED: bool, const HALVES: bool>(
        dots: Self::Dots,
        codes: *const u8,
        x: *const i8,
        scales: *const f32,
    ) -> Self::Dots;
    /// Writes 32 elements of `x`, at most [`FINE_CODES`] large, to 64 bytes as `add_fine_dots` takes them.
    #[inline(always)]
    unsafe fn store_fine(dst: *mut u8, x: &[i16; X_GROUP]) {
        // [`LOW`] times a code, and another, for products of bytes.
        let mut codes = [[0i8; X_GROUP]; 2];
        for (i, &x) in x.iter().enumerate() {
            let x = i32::from(x);
            let high = x.wrapping_add(x.signum() * i32::from(LOW / 2)) / i32::from(LOW);
            codes[0][i] = high as i8;
            codes[1][i] = x.wrapping_sub(high.wrapping_mul(LOW.into())) as i8;
        }
        dst.cast::<[[i8; X_GROUP]; 2]>().write(codes);
    }
    /// Adds 32 signed codes times what `store_fine` wrote, and times the scale.
    unsafe fn add_fine_dots(
        dots: Self::Dots,
        codes: *const u8,
        x: *const u8,
        scale: f32,
    ) -> Self::Dots;
    /// Takes off the products of eight elements of `a` and `b`.
    unsafe fn subtract_products(dots: Self::Dots, a: *const f32, b: *const f32) -> Self::Dots;
    unsafe fn sum_dots(dots: Self::Dots) -> f32;
    /// [`Vectors::half`].
    unsafe fn widen_half(bits: u16) -> f32;
    /// [`Vectors::halves`].
    unsafe fn widen_halves(p: *const u8, apart: usize) -> [f32; 8];
    /// [`Vectors::nibbles`].
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32];
    /// [`Vectors::look_up`].
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32];
    /// [`Vectors::spread`].
    unsafe fn spread(bits: u32) -> [u8; 32];

    /// Asks for a cache line that will be needed; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        Self::splat(0.0)
    }

    /// The largest lane; not specified where a lane is NaN.
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        let mut lanes = [0f32; 16];
        Self::store(lanes.as_mut_ptr(), v);
        lanes[..Self::LANES]
            .iter()
            .fold(f32::NEG_INFINITY, |a, b| a.max(*b))
    }

    /// `2^x`, to about 1e-7 of it; 0 below -127, NaN stays.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        let x = Self::clamp_exponent(x);
        let n = Self::round(x);
        let f = Self::sub(x, n);
        let mut p = Self::splat(EXP2[0]);
        for coefficient in &EXP2[1..] {
            p = Self::fma(p, f, Self::splat(*coefficient));
        }
        Self::scale(p, n)
    }

    /// As [`exp2`](Self::exp2), to about 1e-5 of it.
    #[inline(always)]
    unsafe fn coarse_exp2(x: Self::V) -> Self::V {
        let x = Self::clamp_exponent(x);
        let n = Self::round(x);
        let f = Self::sub(x, n);
        let mut p = Self::splat(COARSE_EXP2[0]);
        for coefficient in &COARSE_EXP2[1..] {
            p = Self::fma(p, f, Self::splat(*coefficient));
        }
        Self::scale(p, n)
    }

    /// Writes `LANES` elements of each of two rows, alternately.
    #[inline(always)]
    unsafe fn interleave(dst: *mut u16, a: *const u16, b: *const u16) {
        for i in 0..Self::LANES {
            dst.add(2 * i).write(*a.add(i));
            dst.add(2 * i + 1).write(*b.add(i));
        }
    }

    /// Writes the transpose of `LANES` rows of `LANES` elements.
    #[inline(always)]
    unsafe fn transpose<E: Elem>(
        src: *const E,
        src_stride: usize,
        dst: *mut f32,
        dst_stride: usize,
    ) {
        for row in 0..Self::LANES {
            let src = src.wrapping_add(row.wrapping_mul(src_stride));
            for column in 0..Self::LANES {
                // Pairs of shorter elements, which are moved as one, lie anywhere.
                let x = src.add(column).read_unaligned().widen();
                let dst = dst.wrapping_add(column.wrapping_mul(dst_stride)).add(row);
                dst.write_unaligned(x);
            }
        }
    }
}

/// Coefficients of `2^f` in falling order: `(2^f - 1) / f` interpolated on Chebyshev nodes over
/// -0.5..0.5. Errs by 1e-8 of the result, below f32's own rounding.
const EXP2: [f32; 7] = [
    1.545_316_3e-4,
    1.339_086_3e-3,
    9.618_083e-3,
    5.550_357e-2,
    2.402_265e-1,
    core::f32::consts::LN_2,
    1.0,
];

/// As [`EXP2`], with fewer: errs by 1e-5.
const COARSE_EXP2: [f32; 5] = [9.656_71e-3, 5.583_828e-2, 0.240_225_3, 0.693_136_7, 1.0];

/// An element type that tensors hold and kernels widen to f32.
pub(super) trait Elem: burn::tensor::Element + bytemuck::Pod + Send + Sync {
    /// # Safety
    ///
    /// As [`Simd`].
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;

    /// # Safety
    ///
    /// As [`Simd`].
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V);
}

impl Elem for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        S::load(p)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V) {
        S::store(p, v)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
}

impl Elem for half::f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        S::load_f16(p.cast())
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V) {
        S::store_f16(p.cast(), v)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Elem for half::bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        S::load_bf16(p.cast())
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V) {
        S::store_bf16(p.cast(), v)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// Calls a generic function with a tensor's element type.
macro_rules! by_dtype {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            burn::tensor::DType::F16 => $function::<half::f16>($($argument),*),
            burn::tensor::DType::BF16 => $function::<half::bf16>($($argument),*),
            _ => $function::<f32>($($argument),*),
        }
    };
}
pub(super) use by_dtype;

/// A piece of work compiled for every instruction set. `run` must be `#[inline(always)]`, and so
/// must all it calls, or the instructions of `S` do not reach it.
pub(super) trait Job {
    type Output;
    /// # Safety
    ///
    /// The processor must have the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
    /// Products of tiles in plain code, which stand in for a processor's.
    #[cfg(test)]
    PlainTiles,
}

impl Level {
    /// All instruction sets of this processor, best first.
    pub(super) fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        // Miri executes portable code.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c");
            if avx2
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
            {
                if std::is_x86_feature_detected!("avx512vnni") {
                    let bf16 = std::is_x86_feature_detected!("avx512bf16");
                    if bf16 && tiles::is_available() {
                        levels.push(Self(Set::Amx));
                    }
                    let fast = tiles::has_fast_pairs();
                    levels.extend((bf16 && fast).then_some(Self(Set::Avx512Bf16)));
                    levels.push(Self(Set::Avx512Vnni));
                    levels.extend((bf16 && !fast).then_some(Self(Set::Avx512Bf16)));
                }
                levels.push(Self(Set::Avx512));
            }
            if avx2 {
                levels.push(Self(Set::Avx2));
            }
        }
        levels.push(Self(Set::Portable));
        #[cfg(test)]
        levels.push(Self(Set::PlainTiles));
        levels
    }

    /// The instruction set that the kernels use: the best of this processor, or the one that [`VARIABLE`] names.
    pub(super) fn chosen() -> Result<Self, KernelError> {
        let word = std::env::var(VARIABLE).unwrap_or_default();
        let available = Self::available();
        if word.is_empty() {
            return Ok(available[0]);
        }
        let named = available.iter().find(|level| level.word() == word);
        named.copied().ok_or_else(|| KernelError::InstructionSet {
            found: word,
            available: available.iter().map(|level| level.word()).collect(),
        })
    }

    /// As [`chosen`](Self::chosen), read once; a word that names none of this processor's is reported and ignored.
    pub(super) fn best() -> Self {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            Self::chosen().unwrap_or_else(|error| {
                tracing::warn!("{error}");
                Self::available()[0]
            })
        })
    }

    /// What [`VARIABLE`] calls it.
    fn word(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            Set::Portable => "portable",
            #[cfg(test)]
            Set::PlainTiles => "plain tiles",
        }
    }

    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => "AMX",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "AVX-512 BF16",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "AVX2",
            Set::Portable => "portable",
            #[cfg(test)]
            Set::PlainTiles => "plain tiles",
        }
    }

    /// Lanes of a vector.
    pub(super) fn lanes(self) -> usize {
        self.run(Widths).0
    }

    /// Lanes of a panel.
    pub(super) fn panel_lanes(self) -> usize {
        self.run(Widths).1
    }

    /// Whether it has products of tiles in bf16.
    pub(super) fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx | Set::Avx512Bf16 => true,
            #[cfg(test)]
            Set::PlainTiles => true,
            _ => false,
        }
    }

    /// Runs `job`, which adds [dots](Simd::add_dots), with these instructions.
    #[inline]
    pub(super) fn run_dots<J: Job>(self, job: J) -> J::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `run`.
            Set::Amx | Set::Avx512Bf16 | Set::Avx512Vnni => unsafe { super::x86::avx512_vnni(job) },
            // Without VNNI AVX-512 has no dots of its own.
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a processor with AVX-512 is one with AVX2, which `available` asks for too.
            Set::Avx512 => unsafe { super::x86::avx2(job) },
            _ => self.run(job),
        }
    }

    /// Runs `job` with products of [tiles], on a level that [has them](Self::has_tiles).
    #[inline]
    pub(super) fn multiply_tiles<J: TileJob>(self, job: J) -> J::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => self.run_tiles(tiles::WithTiles::<J, tiles::AmxTiles>::new(job)),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => self.run_tiles(tiles::WithTiles::<J, tiles::Avx512Tiles>::new(job)),
            #[cfg(test)]
            Set::PlainTiles => self.run_tiles(tiles::WithTiles::<J, tiles::PlainTiles>::new(job)),
            _ => unreachable!("this level has no tiles"),
        }
    }

    /// Runs `job`, which fills [tiles], on a level that [has them](Self::has_tiles).
    #[inline]
    pub(super) fn run_tiles<J: Job>(self, job: J) -> J::Output {
        // SAFETY: as in `run`; plain code runs anywhere.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Set::Amx | Set::Avx512Bf16 => super::x86::avx512_bf16(job),
                #[cfg(test)]
                Set::PlainTiles => job.run::<Portable>(),
                _ => unreachable!("this level has no tiles"),
            }
        }
    }

    /// Runs `job` with these instructions.
    #[inline]
    pub(super) fn run<J: Job>(self, job: J) -> J::Output {
        // SAFETY: a level is only made where the processor has its instructions.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Set::Amx | Set::Avx512Bf16 | Set::Avx512Vnni | Set::Avx512 => {
                    super::x86::avx512(job)
                }
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => super::x86::avx2(job),
                Set::Portable => job.run::<Portable>(),
                #[cfg(test)]
                Set::PlainTiles => job.run::<Portable>(),
            }
        }
    }
}

/// Lanes of a vector and of a panel.
struct Widths;

impl Job for Widths {
    type Output = (usize, usize);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (usize, usize) {
        (S::LANES, S::PANEL * S::LANES)
    }
}

/// Plain arrays, which the compiler turns into whatever the target always has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

const WIDTH: usize = 4;
type Lanes = [f32; WIDTH];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Lanes {
    core::array::from_fn(f)
}

impl Simd for Portable {
    type V = Lanes;
    type M = [bool; WIDTH];
    const LANES: usize = WIDTH;
    const ROWS: usize = 4;
    const PANEL: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Lanes {
        [x; WIDTH]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Lanes {
        p.cast::<Lanes>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Lanes) {
        p.cast::<Lanes>().write_unaligned(v)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Lanes {
        let bits = p.cast::<[u16; WIDTH]>().read_unaligned();
        each(|i| half::f16::from_bits(bits[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Lanes {
        let bits = p.cast::<[u16; WIDTH]>().read_unaligned();
        each(|i| f32::from_bits((bits[i] as u32) << 16))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Lanes) {
        let bits = v.map(|x| half::f16::from_f32(x).to_bits());
        p.cast::<[u16; WIDTH]>().write_unaligned(bits)
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Lanes) {
        let bits = v.map(|x| half::bf16::from_f32(x).to_bits());
        p.cast::<[u16; WIDTH]>().write_unaligned(bits)
    }
    #[inline(always)]
    unsafe fn load_codes<const SIGNED: bool>(p: *const u8) -> Lanes {
        let codes = p.cast::<[u8; WIDTH]>().read();
        codes.map(|code| match SIGNED {
            true => f32::from(code as i8),
            false => f32::from(code),
        })
    }
    #[inline(always)]
    unsafe fn add(a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Two roundings: a fused one is a library call where the target lacks the instruction.
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Lanes, b: Lanes) -> Lanes {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn scale(x: Lanes, n: Lanes) -> Lanes {
        each(|i| x[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn round(x: Lanes) -> Lanes {
        // Adding 1.5 * 2^23 leaves no bits below one.
        const SHIFT: f32 = 12_582_912.0;
        each(|i| (x[i] + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn clamp_exponent(x: Lanes) -> Lanes {
        // `clamp` keeps NaN, as the limits of the other sets do.
        each(|i| x[i].clamp(-127.0, 128.0))
    }
    #[inline(always)]
    unsafe fn within(x: Lanes, from: Lanes, to: Lanes) -> [bool; WIDTH] {
        core::array::from_fn(|i| from[i] <= x[i] && x[i] < to[i])
    }
    #[inline(always)]
    unsafe fn select(m: [bool; WIDTH], a: Lanes, b: Lanes) -> Lanes {
        each(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sum(v: Lanes) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }

    type Dots = [f32; 8];

    #[inline(always)]
    unsafe fn no_dots() -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn add_dots<const SIGNED: bool, const HALVES: bool>(
        mut dots: [f32; 8],
        codes: *const u8,
        x: *const i8,
        scales: *const f32,
    ) -> [f32; 8] {
        for i in 0..4 {
            let scale = scales.add(if HALVES { i } else { i / 2 }).read();
            let (codes, x) = (codes.add(16 * i), x.add(16 * i));
            let half = &mut dots[i % 2 * 4..][..4];
            add_plain::<SIGNED>(half, codes, x, scale);
        }
        dots
    }
    #[inline(always)]
    unsafe fn add_fine_dots(
        mut dots: [f32; 8],
        codes: *const u8,
        x: *const u8,
        scale: f32,
    ) -> [f32; 8] {
        let of_high = scale * f32::from(LOW);
        add_plain::<true>(&mut dots, codes, x.cast(), of_high);
        add_plain::<true>(&mut dots, codes, x.add(X_GROUP).cast(), scale);
        dots
    }
    #[inline(always)]
    unsafe fn subtract_products(dots: [f32; 8], a: *const f32, b: *const f32) -> [f32; 8] {
        core::array::from_fn(|i| dots[i] - *a.add(i) * *b.add(i))
    }
    #[inline(always)]
    unsafe fn sum_dots(dots: [f32; 8]) -> f32 {
        dots.iter().sum()
    }
    #[inline(always)]
    unsafe fn widen_half(bits: u16) -> f32 {
        Plain::half(bits)
    }
    #[inline(always)]
    unsafe fn widen_halves(p: *const u8, apart: usize) -> [f32; 8] {
        Plain::halves(p, apart)
    }
    #[inline(always)]
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32] {
        Plain::nibbles(packed)
    }
    #[inline(always)]
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32] {
        Plain::look_up(values, codes)
    }
    #[inline(always)]
    unsafe fn spread(bits: u32) -> [u8; 32] {
        Plain::spread(bits)
    }
}

/// Adds to each of `dots` the sum of four codes times as many of `x`, times the scale.
#[inline(always)]
unsafe fn add_plain<const SIGNED: bool>(
    dots: &mut [f32],
    codes: *const u8,
    x: *const i8,
    scale: f32,
) {
    for (i, dot) in dots.iter_mut().enumerate() {
        let codes = codes.add(4 * i).cast::<[u8; 4]>().read();
        let x = x.add(4 * i).cast::<[i8; 4]>().read();
        let mut sum = 0i32;
        for (code, x) in codes.into_iter().zip(x) {
            let code = match SIGNED {
                true => i32::from(code as i8),
                false => i32::from(code),
            };
            sum = sum.wrapping_add(code.wrapping_mul(x.into()));
        }
        *dot += scale * sum as f32;
    }
}
