//! Operations that go over a tensor once: normalisation, the gate, the rotation.

use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::simd::{Elem, Job, Level, Simd, by_dtype};
use super::view::{Output, Shared, View, contiguous, row_major, to_f32};

/// Elements below which waking other threads costs more than it gains.
const PARALLEL_ELEMENTS: usize = 1 << 15;
/// Elements that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// Runs `work` on ranges that cover `0..count`, each of about `CHUNK / weight` items.
pub(super) fn in_chunks(count: usize, weight: usize, work: impl Fn(usize, usize) + Sync) {
    let chunk = (CHUNK / weight.max(1)).max(1);
    let chunks = count.div_ceil(chunk);
    let run = |index: usize| work(index * chunk, count.min((index + 1) * chunk));
    if chunks <= 1 || count.saturating_mul(weight) < PARALLEL_ELEMENTS {
        (0..chunks).for_each(run);
    } else {
        (0..chunks).into_par_iter().for_each(run);
    }
}

/// [`rms_norm`](crate::kernels::rms_norm()) on Flex.
pub(super) fn rms_norm(x: FlexTensor, gamma: &FlexTensor, eps: f64, level: Level) -> FlexTensor {
    by_dtype!(x.dtype(), rms_norm_as(x, gamma, eps, level))
}

fn rms_norm_as<E: Elem>(x: FlexTensor, gamma: &FlexTensor, eps: f64, level: Level) -> FlexTensor {
    let x = contiguous(x);
    norm::<E>(&x, None, gamma, eps, level)
}

/// [`add_rms_norm`](crate::kernels::add_rms_norm()) on Flex: the sum, and its norm.
pub(super) fn add_rms_norm(
    x: FlexTensor,
    residual: FlexTensor,
    gamma: &FlexTensor,
    eps: f64,
    level: Level,
) -> [FlexTensor; 2] {
    by_dtype!(x.dtype(), add_rms_norm_as(x, residual, gamma, eps, level))
}

fn add_rms_norm_as<E: Elem>(
    x: FlexTensor,
    residual: FlexTensor,
    gamma: &FlexTensor,
    eps: f64,
    level: Level,
) -> [FlexTensor; 2] {
    let (x, residual) = (contiguous(x), contiguous(residual));
    let shape = x.layout().shape().clone();
    let mut sum = Output::<E>::new(shape.num_elements());
    let normed = norm::<E>(&x, Some((&residual, sum.ptr())), gamma, eps, level);
    // SAFETY: every row was written.
    [unsafe { sum.finish(Layout::contiguous(shape)) }, normed]
}

/// The norm of contiguous rows, or of their sums with others, which are written too.
fn norm<E: Elem>(
    x: &FlexTensor,
    added: Option<(&FlexTensor, Shared<E>)>,
    gamma: &FlexTensor,
    eps: f64,
    level: Level,
) -> FlexTensor {
    let gamma = to_f32(gamma);
    let width = gamma.len();
    let shape = x.layout().shape().clone();
    let len = shape.num_elements();
    let elements = |tensor: &FlexTensor| {
        let start = tensor.layout().start_offset();
        Shared(
            tensor.storage::<E>()[start..start + len]
                .as_ptr()
                .cast_mut(),
        )
    };
    let src = elements(x);
    let added = added.map(|(residual, sum)| (elements(residual), sum));
    let mut out = Output::<E>::new(len);
    let to = out.ptr();
    in_chunks(len / width.max(1), width, |from, end| {
        level.run(RmsNorm {
            x: src.at(from * width),
            added: added.map(|(residual, sum)| {
                let at = from * width;
                (residual.at(at).cast_const(), sum.at(at))
            }),
            rows: end - from,
            gamma: &gamma,
            eps: eps as f32,
            out: to.at(from * width),
        });
    });
    // SAFETY: every row was written.
    unsafe { out.finish(Layout::contiguous(shape)) }
}

struct RmsNorm<'a, E> {
    x: *const E,
    /// What is added to `x`, and where the sum goes.
    added: Option<(*const E, *mut E)>,
    rows: usize,
    gamma: &'a [f32],
    eps: f32,
    out: *mut E,
}

impl<E: Elem> Job for RmsNorm<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.gamma.len();
        let whole = width - width % S::LANES;
        for row in 0..self.rows {
            let mut x = self.x.add(row * width);
            let out = self.out.add(row * width);
            if let Some((residual, sum)) = self.added {
                let (residual, sum) = (residual.add(row * width), sum.add(row * width));
                for i in (0..whole).step_by(S::LANES) {
                    let v = S::add(E::load::<S>(x.add(i)), E::load::<S>(residual.add(i)));
                    E::store::<S>(sum.add(i), v);
                }
                for i in whole..width {
                    let v = (*x.add(i)).widen() + (*residual.add(i)).widen();
                    sum.add(i).write(E::narrow(v));
                }
                x = sum;
            }
            let mut squares = [S::zero(); 2];
            let mut i = 0;
            while i < whole {
                let v = E::load::<S>(x.add(i));
                let which = (i / S::LANES) % 2;
                squares[which] = S::fma(v, v, squares[which]);
                i += S::LANES;
            }
            let mut sum = S::sum(S::add(squares[0], squares[1]));
            for i in whole..width {
                sum += (*x.add(i)).widen() * (*x.add(i)).widen();
            }
            let factor = (sum / width as f32 + self.eps).sqrt().recip();
            let mut i = 0;
            while i < whole {
                let v = S::mul(E::load::<S>(x.add(i)), S::splat(factor));
                let gamma = S::load(self.gamma.as_ptr().add(i));
                E::store::<S>(out.add(i), S::mul(v, gamma));
                i += S::LANES;
            }
            for i in whole..width {
                let v = (*x.add(i)).widen() * factor * self.gamma[i];
                out.add(i).write(E::narrow(v));
            }
        }
    }
}

/// [`silu_mul`](crate::kernels::silu_mul()) on Flex, in the memory of `gate` where nothing else uses it.
pub(super) fn silu_mul(gate: FlexTensor, up: FlexTensor, level: Level) -> FlexTensor {
    by_dtype!(gate.dtype(), gated(gate, up, level))
}

/// The sum of tensors of one shape and dtype, in the memory of `x` where nothing else uses it.
pub(super) fn add(x: FlexTensor, y: FlexTensor, level: Level) -> FlexTensor {
    by_dtype!(x.dtype(), added(x, y, level))
}

fn gated<E: Elem>(gate: FlexTensor, up: FlexTensor, level: Level) -> FlexTensor {
    in_pairs::<E, false>(gate, up, level)
}

fn added<E: Elem>(x: FlexTensor, y: FlexTensor, level: Level) -> FlexTensor {
    in_pairs::<E, true>(x, y, level)
}

fn in_pairs<E: Elem, const SUM: bool>(x: FlexTensor, y: FlexTensor, level: Level) -> FlexTensor {
    let (mut x, y) = (contiguous(x), contiguous(y));
    let shape = x.layout().shape().clone();
    let len = shape.num_elements();
    let start = y.layout().start_offset();
    let y = &y.storage::<E>()[start..start + len];
    let start = x.layout().start_offset();
    let run = |x: Shared<E>, out: Shared<E>| {
        in_chunks(len, 1, |from, end| {
            level.run(Pairs::<E, SUM> {
                x: x.at(from),
                y: &y[from..end],
                out: out.at(from),
            });
        });
    };
    if let Some(storage) = x.try_storage_mut::<E>() {
        let x = Shared(storage[start..start + len].as_mut_ptr());
        run(x, x);
    } else {
        let src = &x.storage::<E>()[start..start + len];
        let mut out = Output::<E>::new(len);
        let to = out.ptr();
        run(Shared(src.as_ptr().cast_mut()), to);
        // SAFETY: every element was written.
        return unsafe { out.finish(Layout::contiguous(shape)) };
    }
    x
}

/// [`merge`](crate::kernels::merge()) of two parts on Flex: the first's values in f32, and in its memory where nothing
/// else uses it.
pub(super) fn merge(
    [out, lse]: [FlexTensor; 2],
    [other, other_lse]: [FlexTensor; 2],
    level: Level,
) -> [FlexTensor; 2] {
    let [lse, other_lse] = [lse, other_lse].map(contiguous);
    let shape = lse.layout().shape().clone();
    let rows = shape.num_elements();
    let start = lse.layout().start_offset();
    let lses = &lse.storage::<f32>()[start..start + rows];
    let start = other_lse.layout().start_offset();
    let others = &other_lse.storage::<f32>()[start..start + rows];
    let merged: Vec<(f32, f32, f32)> = (lses.iter().zip(others))
        .map(|(&a, &b)| shares(a, b))
        .collect();
    let mut lse = Output::<f32>::new(rows);
    let to = lse.ptr();
    for (row, (_, _, lse)) in merged.iter().enumerate() {
        // SAFETY: there are as many elements as rows.
        unsafe { to.at(row).write(*lse) };
    }
    // SAFETY: every element was written.
    let lse = unsafe { lse.finish(Layout::contiguous(shape)) };
    [
        by_dtype!(other.dtype(), weighted(out, other, &merged, level)),
        lse,
    ]
}

/// The weights of two parts in their sum, and the logarithm of the sum's normaliser. Neither counts where neither has
/// keys.
fn shares(a: f32, b: f32) -> (f32, f32, f32) {
    let shift = a.max(b).max(f32::MIN);
    let [a, b] = [a, b].map(|lse| (lse - shift).exp());
    let total = a + b;
    let divisor = total.max(f32::MIN_POSITIVE);
    (a / divisor, b / divisor, shift + total.ln())
}

/// Sums of rows by weights.
fn weighted<E: Elem>(
    out: FlexTensor,
    other: FlexTensor,
    weights: &[(f32, f32, f32)],
    level: Level,
) -> FlexTensor {
    let (mut out, other) = (contiguous(out), contiguous(other));
    let shape = out.layout().shape().clone();
    let len = shape.num_elements();
    let width = len / weights.len().max(1);
    let start = other.layout().start_offset();
    let other = &other.storage::<E>()[start..start + len];
    let start = out.layout().start_offset();
    let run = |x: Shared<f32>, to: Shared<f32>| {
        in_chunks(weights.len(), width, |from, end| {
            level.run(Weighted::<E> {
                x: x.at(from * width),
                y: &other[from * width..end * width],
                weights: &weights[from..end],
                width,
                out: to.at(from * width),
            });
        });
    };
    if let Some(storage) = out.try_storage_mut::<f32>() {
        let x = Shared(storage[start..start + len].as_mut_ptr());
        run(x, x);
        return out;
    }
    let x = &out.storage::<f32>()[start..start + len];
    let mut sums = Output::<f32>::new(len);
    let to = sums.ptr();
    run(Shared(x.as_ptr().cast_mut()), to);
    // SAFETY: every element was written.
    unsafe { sums.finish(Layout::contiguous(shape)) }
}

/// `x * weight + y * weight`, row by row. `out` may be `x`.
struct Weighted<'a, E> {
    x: *const f32,
    y: &'a [E],
    weights: &'a [(f32, f32, f32)],
    width: usize,
    out: *mut f32,
}

impl<E: Elem> Job for Weighted<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.width;
        let whole = width - width % S::LANES;
        for (row, (a, b, _)) in self.weights.iter().enumerate() {
            let x = self.x.add(row * width);
            let y = self.y.as_ptr().add(row * width);
            let out = self.out.add(row * width);
            let (by_a, by_b) = (S::splat(*a), S::splat(*b));
            let mut i = 0;
            while i < whole {
                let sum = S::mul(S::load(x.add(i)), by_a);
                let sum = S::fma(E::load::<S>(y.add(i)), by_b, sum);
                S::store(out.add(i), sum);
                i += S::LANES;
            }
            for i in whole..width {
                let sum = *x.add(i) * a + (*y.add(i)).widen() * b;
                out.add(i).write(sum);
            }
        }
    }
}

/// `x + y` for a `SUM`, else `silu(x) * y`. `out` may be `x`.
struct Pairs<'a, E, const SUM: bool> {
    x: *const E,
    y: &'a [E],
    out: *mut E,
}

impl<E: Elem, const SUM: bool> Pairs<'_, E, SUM> {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V, y: S::V) -> S::V {
        match SUM {
            true => S::add(x, y),
            false => S::mul(silu::<S>(x), y),
        }
    }
}

impl<E: Elem, const SUM: bool> Job for Pairs<'_, E, SUM> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.y.len();
        let mut i = 0;
        while len - i >= S::LANES {
            let x = E::load::<S>(self.x.add(i));
            let y = E::load::<S>(self.y.as_ptr().add(i));
            E::store::<S>(self.out.add(i), Self::of::<S>(x, y));
            i += S::LANES;
        }
        // The rest through vectors of its own, so that all elements are computed alike.
        let mut rest = [[0f32; 16]; 2];
        for (lane, i) in (i..len).enumerate() {
            rest[0][lane] = (*self.x.add(i)).widen();
            rest[1][lane] = self.y[i].widen();
        }
        let of = Self::of::<S>(S::load(rest[0].as_ptr()), S::load(rest[1].as_ptr()));
        S::store(rest[0].as_mut_ptr(), of);
        for (lane, i) in (i..len).enumerate() {
            self.out.add(i).write(E::narrow(rest[0][lane]));
        }
    }
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
pub(super) unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    let power = S::exp2(S::mul(x, S::splat(-core::f32::consts::LOG2_E)));
    S::div(x, S::add(power, S::splat(1.0)))
}

/// [`rotate`](crate::kernels::rotate()) on Flex.
pub(super) fn rotate(
    x: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
    heads: usize,
    level: Level,
) -> FlexTensor {
    by_dtype!(x.dtype(), rotate_as(x, cos, sin, heads, level))
}

fn rotate_as<E: Elem>(
    x: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
    heads: usize,
    level: Level,
) -> FlexTensor {
    // Any order of rows will do, but a row's elements lie side by side.
    let x = match x.layout().strides()[2] {
        1 => x,
        _ => x.to_contiguous(),
    };
    let (cos, sin) = (contiguous(cos), contiguous(sin));
    let (cos, sin) = (View::<f32, 2>::new(&cos), View::<f32, 2>::new(&sin));
    let x = View::<E, 3>::new(&x);
    let [batch, seq, width] = x.shape;
    let half = width / heads / 2;
    let mut out = Output::<E>::new(batch * seq * width);
    let to = out.ptr();
    for b in 0..batch {
        in_chunks(seq, width, |from, end| {
            for row in from..end {
                level.run(Rotate {
                    x: x.at([b, row, 0]),
                    cos: cos.at([row, 0]),
                    sin: sin.at([row, 0]),
                    half,
                    heads,
                    out: to.at(((b * heads) * seq + row) * 2 * half),
                    head_stride: seq * 2 * half,
                });
            }
        });
    }
    // SAFETY: every row of every head was written.
    unsafe { out.finish(row_major([batch, heads, seq, 2 * half])) }
}

/// One row of all heads.
struct Rotate<E> {
    x: *const E,
    cos: *const f32,
    sin: *const f32,
    half: usize,
    heads: usize,
    out: *mut E,
    head_stride: usize,
}

impl<E: Elem> Job for Rotate<E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let half = self.half;
        for head in 0..self.heads {
            let x = self.x.add(head * 2 * half);
            let out = self.out.add(head * self.head_stride);
            let mut i = 0;
            while half - i >= S::LANES {
                let (first, second) = (E::load::<S>(x.add(i)), E::load::<S>(x.add(half + i)));
                let (cos, sin) = (S::load(self.cos.add(i)), S::load(self.sin.add(i)));
                let low = S::sub(S::mul(first, cos), S::mul(second, sin));
                let high = S::add(S::mul(second, cos), S::mul(first, sin));
                E::store::<S>(out.add(i), low);
                E::store::<S>(out.add(half + i), high);
                i += S::LANES;
            }
            for i in i..half {
                let (first, second) = ((*x.add(i)).widen(), (*x.add(half + i)).widen());
                let (cos, sin) = (*self.cos.add(i), *self.sin.add(i));
                out.add(i).write(E::narrow(first * cos - second * sin));
                out.add(half + i)
                    .write(E::narrow(second * cos + first * sin));
            }
        }
    }
}
