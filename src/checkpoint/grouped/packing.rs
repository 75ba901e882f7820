//! Codes and zero points as programs pack them into words.

use std::ops::Range;

/// Which code of eight a word of AWQ holds at each place, the lowest first.
const INTERLEAVED: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Between signed codes and those from 0 on.
const SIGN: u8 = 0x80;

/// How the codes of a weight `[rows, columns]` are packed. Words are little-endian and have their first code lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Words `[columns / n, rows]` of GPTQ.
    Columns {
        /// Bits of a code, 4 or 8.
        bits: u32,
    },
    /// Words `[columns, rows / 8]` of AWQ, interleaved.
    Interleaved,
    /// Words `[rows, columns / n]` of compressed-tensors.
    Rows {
        /// Bits of a code, 4 or 8.
        bits: u32,
    },
    /// Bytes `[rows, columns]`.
    Bytes,
}

/// How zero points are packed, by groups of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroPacking {
    /// Words `[groups, rows / n]` of GPTQ.
    Columns {
        /// Bits of a zero point, 4 or 8.
        bits: u32,
        /// Whether they are stored less one.
        less_one: bool,
    },
    /// Words `[groups, rows / 8]` of AWQ, interleaved.
    Interleaved,
    /// Words `[rows / n, groups]` of compressed-tensors.
    Rows {
        /// Bits of a zero point, 4 or 8.
        bits: u32,
    },
    /// Signed bytes, as scales lie.
    Bytes,
}

/// Codes of a word of `bits`.
pub(super) fn codes_of_word(bits: u32) -> usize {
    (u32::BITS / bits) as usize
}

/// The eight codes of a word, a byte each.
fn spread(word: u32) -> [u8; 8] {
    let mut bytes = u64::from(word);
    bytes = (bytes | bytes << 16) & 0x0000_ffff_0000_ffff;
    bytes = (bytes | bytes << 8) & 0x00ff_00ff_00ff_00ff;
    bytes = (bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    bytes.to_le_bytes()
}

/// Byte `j` of each number as byte `i` of number `j`.
fn transpose(mut rows: [u64; 8]) -> [u64; 8] {
    // Halves of ever smaller squares change places across the diagonal.
    for (distance, mask) in [
        (4, 0x0000_0000_ffff_ffff),
        (2, 0x0000_ffff_0000_ffff),
        (1, 0x00ff_00ff_00ff_00ff),
    ] {
        let shift = 8 * distance;
        for i in (0..8).filter(|i| i & distance == 0) {
            let (a, b) = (rows[i], rows[i + distance]);
            rows[i] = a & mask | (b & mask) << shift;
            rows[i + distance] = a >> shift & mask | b & !mask;
        }
    }
    rows
}

/// The four signed codes of a word of codes from 0 on.
fn signed(word: [u8; 4]) -> [u8; 4] {
    word.map(|code| code ^ SIGN)
}

impl Packing {
    /// Writes the codes of `range` of the rows, each `stride` behind the one before: 0 to 15 of four bits, signed of
    /// eight. `codes` are those of all `shape`, and of [`Interleaved`](Self::Interleaved) the range begins with a
    /// word.
    pub(super) fn read(
        self,
        codes: &[u8],
        [rows, columns]: [usize; 2],
        range: Range<usize>,
        stride: usize,
        out: &mut [u8],
    ) {
        let words = codes.as_chunks::<4>().0;
        match self {
            Self::Columns { bits: 4 } => {
                for (i, words) in words.chunks_exact(rows).enumerate() {
                    for (row, &word) in words[range.clone()].iter().enumerate() {
                        let codes = spread(u32::from_le_bytes(word));
                        out[row * stride + 8 * i..][..8].copy_from_slice(&codes);
                    }
                }
            }
            Self::Columns { .. } => {
                for (i, words) in words.chunks_exact(rows).enumerate() {
                    for (row, &word) in words[range.clone()].iter().enumerate() {
                        out[row * stride + 4 * i..][..4].copy_from_slice(&signed(word));
                    }
                }
            }
            Self::Interleaved => {
                let width = rows / 8;
                let range = range.start / 8..range.end / 8;
                // Eight columns at a time, so that a row gets eight codes at once.
                for (i, words) in words.chunks_exact(8 * width).enumerate() {
                    for (row, word) in range.clone().enumerate() {
                        let of_columns: [u64; 8] = core::array::from_fn(|column| {
                            let word = words[column * width + word];
                            u64::from_le_bytes(spread(u32::from_le_bytes(word)))
                        });
                        let of_places = transpose(of_columns);
                        for (codes, within) in of_places.into_iter().zip(INTERLEAVED) {
                            let at = (8 * row + within) * stride + 8 * i;
                            out[at..][..8].copy_from_slice(&codes.to_le_bytes());
                        }
                    }
                }
            }
            Self::Rows { bits } => {
                let n = codes_of_word(bits);
                let rows = words.chunks_exact(columns / n).skip(range.start);
                for (words, out) in rows.take(range.len()).zip(out.chunks_mut(stride)) {
                    for (&word, out) in words.iter().zip(out.chunks_exact_mut(n)) {
                        match bits {
                            4 => out.copy_from_slice(&spread(u32::from_le_bytes(word))),
                            _ => out.copy_from_slice(&signed(word)),
                        }
                    }
                }
            }
            Self::Bytes => {
                let rows = codes.chunks_exact(columns).skip(range.start);
                for (codes, out) in rows.take(range.len()).zip(out.chunks_mut(stride)) {
                    out[..columns].copy_from_slice(codes);
                }
            }
        }
    }
}

/// A code of `bits` at `place` of the word at `at`; none beyond the words.
fn code(words: &[u8], at: usize, place: usize, bits: u32) -> Option<u8> {
    let word = u32::from_le_bytes(*words.as_chunks::<4>().0.get(at)?);
    let mask = (1u32 << bits) - 1;
    Some((word >> (place as u32 * bits) & mask) as u8)
}

impl ZeroPacking {
    /// The zero point of a row's group as it stands beside codes of `bits`: 0 to 15 of four, signed of eight. None
    /// where there is none at that place, or it is beyond the codes; `group` counts in `groups` columns of scales,
    /// `row` in rows of them.
    pub(super) fn read(
        self,
        zeros: &[u8],
        [rows, groups]: [usize; 2],
        row: usize,
        group: usize,
        code_bits: u32,
    ) -> Option<u8> {
        match self {
            Self::Columns { bits, less_one } => {
                let n = codes_of_word(bits);
                let stored = code(zeros, group * (rows / n) + row / n, row % n, bits)?;
                let zero = stored.wrapping_add(u8::from(less_one));
                // As the programs that read it, which keep the bits of a code.
                Some(match bits {
                    4 => zero & 15,
                    _ => zero ^ SIGN,
                })
            }
            Self::Interleaved => {
                let place = INTERLEAVED.iter().position(|&within| within == row % 8)?;
                code(zeros, group * (rows / 8) + row / 8, place, 4)
            }
            Self::Rows { bits } => {
                let n = codes_of_word(bits);
                let stored = code(zeros, row / n * groups + group, row % n, bits)?;
                Some(match bits {
                    4 => stored,
                    _ => stored ^ SIGN,
                })
            }
            Self::Bytes => {
                let stored = *zeros.get(row * groups + group)?;
                match code_bits {
                    4 => {
                        let zero = i16::from(stored as i8) + 8;
                        u8::try_from(zero).ok().filter(|&zero| zero < 16)
                    }
                    _ => Some(stored),
                }
            }
        }
    }
}
