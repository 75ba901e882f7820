//! The highest rows of each head, in two kernels: pool, then choose.
//!
//! Scores become whole numbers of the same order, so that the lowest score that is kept can be found bit
//! by bit, exactly, whatever the scores are. Sixteen passes count how many rows reach each of three
//! candidates for the next two bits; a seventeenth writes the rows above it and, of those that equal it,
//! the first ones. One cube serves a head.

use cubecl::prelude::*;

/// Pools the scores of selectable rows and turns them into numbers of the same order: 0 below every
/// score, a score that is not a number included.
///
/// # Shapes
///
/// - `scores`: `[batch * kv_heads, rows]`; `before`: `[batch * kv_heads, context]`, at least one element
/// - `ordered`: `[batch * kv_heads, selectable]`
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn pool_scores(
    scores: &[f32],
    before: &[f32],
    ordered: &mut [u32],
    total: usize,
    rows: usize,
    context: usize,
    start: usize,
    selectable: usize,
    reach: usize,
) {
    let at = ABSOLUTE_POS;
    if at < total {
        let head = at / selectable;
        // Counted from the first row before.
        let centre = context + start + at % selectable;
        let first = centre - min(reach, centre);
        let end = min(centre + reach + 1, context + rows);
        let mut top = 0u32;
        for row in first..end {
            if row < context {
                top = max(top, order(before[head * context + row]));
            } else {
                top = max(top, order(scores[head * rows + row - context]));
            }
        }
        // No score is as good as the lowest, -inf.
        ordered[at] = max(top, LOWEST);
    }
}

/// The [`order`] of -inf.
const LOWEST: u32 = 0x007F_FFFF;

/// A number that is greater where the score is greater: positive floats are ordered as their bits are,
/// negative ones the other way round.
#[cube]
fn order(score: f32) -> u32 {
    let bits = u32::reinterpret(score);
    let magnitude = bits & 0x7FFF_FFFFu32;
    let negative = bits != magnitude;
    let mut ordered = select(negative, !bits, bits | 0x8000_0000u32);
    // The two zeros are one score.
    if magnitude == 0u32 {
        ordered = 0x8000_0000u32;
    }
    // Not a number: bits above those of infinity. (Comparing floats need not detect it.)
    if magnitude > 0x7F80_0000u32 {
        ordered = 0u32;
    }
    ordered
}

/// Candidates that a pass tries: all values of two bits but 0.
const CANDIDATES: usize = 3;

/// Writes the indices of the `count` highest of each head's numbers, ascending; ties to the lower index.
///
/// # Shapes
///
/// - `ordered`: `[batch * kv_heads, selectable]`, with `count <= selectable`
/// - `out`: `[batch * kv_heads, count]`: indices plus `start`
///
/// Cubes: `batch * kv_heads` of `units` units.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn select_rows(
    ordered: &[u32],
    out: &mut [i32],
    selectable: usize,
    count: usize,
    start: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let head = CUBE_POS * selectable;
    let wanted = count as u32;

    let mut counts = Shared::<[u32]>::new_slice(comptime!(units * CANDIDATES));
    let mut lowest = 0u32;
    for pass in 0..16u32 {
        let shift = 30u32 - 2u32 * pass;
        let mut reached = Array::<u32>::new(CANDIDATES);
        #[unroll]
        for candidate in 0..CANDIDATES {
            reached[candidate] = 0u32;
        }
        let mut row = unit;
        while row < selectable {
            let value = ordered[head + row];
            #[unroll]
            for candidate in 0..CANDIDATES {
                let bits = comptime!(candidate as u32 + 1) << shift;
                reached[candidate] += select(value >= (lowest | bits), 1u32, 0u32);
            }
            row += units;
        }
        #[unroll]
        for candidate in 0..CANDIDATES {
            counts[candidate * units + unit] = reached[candidate];
        }
        sync_cube();
        let mut width = comptime!(units / 2).runtime();
        while width > 0 {
            if unit < width {
                #[unroll]
                for candidate in 0..CANDIDATES {
                    let other = counts[candidate * units + unit + width];
                    counts[candidate * units + unit] += other;
                }
            }
            sync_cube();
            width /= 2;
        }
        let mut bits = 0u32;
        #[unroll]
        for candidate in 0..CANDIDATES {
            if counts[candidate * units] >= wanted {
                bits = comptime!(candidate as u32 + 1) << shift;
            }
        }
        lowest |= bits;
        sync_cube();
    }

    // Each unit looks through a run of rows, once to count and once to write.
    let run = selectable.div_ceil(units);
    let first = min(unit * run, selectable);
    let end = min(first + run, selectable);
    let (mut above, mut equal) = (0u32.runtime(), 0u32.runtime());
    for row in first..end {
        let value = ordered[head + row];
        above += select(value > lowest, 1u32, 0u32);
        equal += select(value == lowest, 1u32, 0u32);
    }
    counts[unit] = above;
    counts[units + unit] = equal;
    sync_cube();
    let mut step = 1usize.runtime();
    while step < units {
        let (mut more_above, mut more_equal) = (0u32.runtime(), 0u32.runtime());
        if unit >= step {
            more_above = counts[unit - step];
            more_equal = counts[units + unit - step];
        }
        sync_cube();
        counts[unit] += more_above;
        counts[units + unit] += more_equal;
        sync_cube();
        step *= 2;
    }
    // Sums over all units before this one, and over all.
    let mut above_before = counts[unit] - above;
    let mut equal_before = counts[units + unit] - equal;
    let equal_kept = wanted - counts[comptime!(units - 1)];
    for row in first..end {
        let value = ordered[head + row];
        let place = above_before + min(equal_before, equal_kept);
        if value > lowest {
            out[CUBE_POS * count + place as usize] = (row + start) as i32;
            above_before += 1u32;
        } else if value == lowest {
            if equal_before < equal_kept {
                out[CUBE_POS * count + place as usize] = (row + start) as i32;
            }
            equal_before += 1u32;
        }
    }
}
