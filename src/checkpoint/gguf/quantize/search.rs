//! Scales of a group of elements by search: those whose codes have the least squared error.

/// Elements that are added up side by side.
const LANES: usize = 8;

/// Adding and subtracting it rounds an f32 of less than 2^22 to a whole number, to even where it is between two.
const ROUND: f32 = 12_582_912.0;

/// The nearest whole number.
#[inline(always)]
pub(super) fn nearest(value: f32) -> f32 {
    (value + ROUND) - ROUND
}

/// As `clamp`, which checks its limits at every call.
#[inline(always)]
fn within(value: f32, lowest: f32, highest: f32) -> f32 {
    let value = if value < lowest { lowest } else { value };
    if value > highest { highest } else { value }
}

/// `1 / value`, and 0 where that is no number to multiply with.
pub(super) fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    match inverse.is_finite() {
        true => inverse,
        false => 0.0,
    }
}

/// The element with the largest magnitude, the first of several.
pub(super) fn extreme(x: &[f32]) -> f32 {
    let larger = |found: f32, &x: &f32| if x.abs() > found.abs() { x } else { found };
    x.iter().fold(0.0, larger)
}

/// Sums over a group, each element with its weight.
struct Sums {
    codes: f32,
    codes_squared: f32,
    products: f32,
}

impl Sums {
    /// Of the codes that `inverse * (x - low)` gives between `lowest` and `highest`.
    #[inline(always)]
    fn of(x: &[f32], weights: &[f32], low: f32, inverse: f32, [lowest, highest]: [f32; 2]) -> Self {
        let (mut codes, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
        let mut products = [0.0f32; LANES];
        let rows = x.as_chunks::<LANES>().0.iter();
        for (x, weights) in rows.zip(weights.as_chunks::<LANES>().0) {
            let code: [f32; LANES] =
                x.map(|x| within(nearest(inverse * (x - low)), lowest, highest));
            let weighted: [f32; LANES] = core::array::from_fn(|i| weights[i] * code[i]);
            codes = core::array::from_fn(|i| codes[i] + weighted[i]);
            squares = core::array::from_fn(|i| squares[i] + weighted[i] * code[i]);
            products = core::array::from_fn(|i| products[i] + weighted[i] * x[i]);
        }
        Self {
            codes: codes.iter().sum(),
            codes_squared: squares.iter().sum(),
            products: products.iter().sum(),
        }
    }
}

/// The scale and the minimum, at least 0, with which `scale * code - minimum` is closest to `x` for codes from 0 to
/// `highest`. The length of `x` is a multiple of eight.
///
/// Codes follow from the range of `x` divided by a little more or less than `highest` steps; for those of each try,
/// scale and minimum are the solution of the weighted least squares. Errors of large elements weigh more.
pub(super) fn scale_and_minimum(x: &[f32], highest: f32) -> (f32, f32) {
    /// Tries, and how far they are apart in steps of the range; the one in the middle is the range itself.
    const TRIES: i8 = 10;
    const APART: f32 = 0.1;
    let low = x.iter().fold(0.0f32, |low, &x| low.min(x));
    let high = x.iter().fold(f32::MIN, |high, &x| high.max(x));
    let range = high - low;
    if inverse(range) == 0.0 {
        return (0.0, -low);
    }
    let mean = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let mut weights = [0.0f32; 32];
    let weights = &mut weights[..x.len()];
    for (weight, x) in weights.iter_mut().zip(x) {
        *weight = mean + x.abs();
    }
    let all: f32 = weights.iter().sum();
    let of_x: f32 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
    let mut best = (f32::INFINITY, range / highest, -low);
    for step in -TRIES..=TRIES {
        let inverse = (highest + APART * f32::from(step)) / range;
        let sums = Sums::of(x, weights, low, inverse, [0.0, highest]);
        let determinant = all * sums.codes_squared - sums.codes * sums.codes;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (all * sums.products - of_x * sums.codes) / determinant;
        let mut offset = (sums.codes_squared * of_x - sums.codes * sums.products) / determinant;
        if offset > 0.0 {
            (scale, offset) = (sums.products / sums.codes_squared, 0.0);
        }
        // The squared error without the part that is the same for all tries.
        let error = scale * scale * sums.codes_squared
            + 2.0 * scale * (offset * sums.codes - sums.products)
            + offset * (offset * all - 2.0 * of_x);
        if error < best.0 && scale.is_finite() && offset.is_finite() && scale >= 0.0 {
            best = (error, scale, -offset);
        }
    }
    (best.1, best.2)
}

/// The scale, of either sign, with which `scale * code` is closest to `x` for codes from `-half` to `half - 1`. The
/// length of `x` is a multiple of eight.
///
/// The element with the largest magnitude becomes about `-half`; for the codes of each try the scale is the solution of
/// the least squares, elements weighted by their squares.
pub(super) fn scale(x: &[f32], half: f32) -> f32 {
    /// As in [`scale_and_minimum`].
    const TRIES: i8 = 9;
    const APART: f32 = 0.1;
    let extreme = extreme(x);
    // Also where squares of the elements would vanish.
    if extreme.abs() < 1e-15 {
        return 0.0;
    }
    let mut weights = [0.0f32; 32];
    let weights = &mut weights[..x.len()];
    for (weight, x) in weights.iter_mut().zip(x) {
        *weight = (x / extreme) * (x / extreme);
    }
    let mut best = (0.0, extreme / -half);
    for step in -TRIES..=TRIES {
        let inverse = (half + APART * f32::from(step)) / -extreme;
        let sums = Sums::of(x, weights, 0.0, inverse, [-half, half - 1.0]);
        let explained = sums.products * (sums.products / sums.codes_squared);
        if explained > best.0 {
            best = (explained, sums.products / sums.codes_squared);
        }
    }
    best.1
}
