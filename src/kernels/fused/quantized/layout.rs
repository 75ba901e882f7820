//! Where a format's codes lie, for kernels that are compiled for it.

use crate::kernels::BlockFormat;

/// Elements of a piece.
pub const PIECE: usize = 32;
/// Words of a piece: each holds four codes of both runs.
pub const WORDS: usize = 4;

/// A format, and how its blocks lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The format.
    pub format: BlockFormat,
    /// Whether every block begins at a whole word, so that a word is one read.
    pub aligned: bool,
}

/// How codes are packed. A piece's codes begin 16 bytes behind those of the piece before it, where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Four bits: the low halves of 16 bytes are the first run, the high halves the second.
    Four,
    /// The same, with the fifth bits of all 32 elements in a word before them.
    FiveByWord,
    /// The same, with the fifth bits of eight groups in 32 bytes before them, a bit of each byte for a group.
    FiveByBits,
    /// Two bits: four parts of 32 elements in 32 bytes.
    Two,
    /// The same, with a third bit of eight parts in 32 bytes before them.
    Three,
    /// Four bits as in [`Four`](Self::Four), and two more of four parts of 32 elements in 32 bytes behind all of those.
    Six,
    /// A byte an element; a piece has 32 of them.
    Eight,
}

/// What a code stands for before it is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Values {
    /// Itself, less [`Layout::zero`].
    Whole,
    /// A value of ggml's table of sixteen.
    Table,
    /// A float of eight bits.
    Float,
}

/// How the scales of a block are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// An f16.
    Half,
    /// An f16, and another that is added.
    HalfAndMinimum,
    /// An f32.
    Float,
    /// An f32 whose lowest byte is a zero point, of the code's type.
    FloatAndZero,
    /// Groups of 16: four bits of scale and of minimum, under two f16 behind all else.
    FourBits,
    /// Groups of 16: six bits of scale, under an f16 behind all else.
    SixBits,
    /// Groups of 32: six bits of scale and of minimum, under two f16.
    SixBitPairs,
    /// Groups of 16: eight bits of scale, under an f16 behind all else.
    EightBits,
    /// Groups of 32: six bits of scale, two of them apart, under an f16.
    SplitBits,
}

impl Layout {
    /// Elements of a block.
    pub fn elements(self) -> usize {
        self.format.block_len()
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.format.block_bytes()
    }

    /// Pieces of a block.
    pub fn pieces(self) -> usize {
        self.elements() / PIECE
    }

    /// Bytes in front of the codes.
    pub fn start(self) -> usize {
        use BlockFormat::*;
        match self.format {
            Q4_0 | Q8_0 | Iq4Nl => 2,
            Q4_1 | Q8K | Int4x32 | Int4x64 | Int4x128 => 4,
            Int8x32 | Int8x128 | Int8Zero | Fp8x32 | Fp8x128 => 4,
            Q5_0 => 6,
            Q5_1 | Iq4Xs => 8,
            Q2K | Q4K => 16,
            Q3K => 32,
            Q5K => 48,
            Q6K => 0,
        }
    }

    /// How the codes are packed.
    pub fn packing(self) -> Packing {
        use BlockFormat::*;
        match self.format {
            Q4_0 | Q4_1 | Iq4Nl | Iq4Xs | Q4K | Int4x32 | Int4x64 | Int4x128 => Packing::Four,
            Q5_0 | Q5_1 => Packing::FiveByWord,
            Q5K => Packing::FiveByBits,
            Q2K => Packing::Two,
            Q3K => Packing::Three,
            Q6K => Packing::Six,
            Q8_0 | Q8K | Int8x32 | Int8x128 | Int8Zero | Fp8x32 | Fp8x128 => Packing::Eight,
        }
    }

    /// Elements from the first run of a piece to the second.
    pub fn gap(self) -> usize {
        use BlockFormat::*;
        match self.format {
            Q6K => 64,
            Q2K | Q3K | Q4K | Q5K | Int4x64 | Int4x128 => 32,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8K | Iq4Nl | Iq4Xs | Int4x32 => 16,
            Int8x32 | Int8x128 | Int8Zero | Fp8x32 | Fp8x128 => 16,
        }
    }

    /// What codes stand for.
    pub fn values(self) -> Values {
        use BlockFormat::*;
        match self.format {
            Iq4Nl | Iq4Xs => Values::Table,
            Fp8x32 | Fp8x128 => Values::Float,
            _ => Values::Whole,
        }
    }

    /// Whether codes are signed bytes; kernels turn their highest bit over, which adds 128.
    pub fn signed(self) -> bool {
        self.packing() == Packing::Eight && self.values() == Values::Whole
    }

    /// What is taken off a code.
    pub fn zero(self) -> f32 {
        use BlockFormat::*;
        match self.format {
            Q3K => 4.0,
            Q4_0 => 8.0,
            Q5_0 => 16.0,
            Q6K => 32.0,
            _ if self.signed() => 128.0,
            _ => 0.0,
        }
    }

    /// How scales are stored.
    pub fn scaling(self) -> Scaling {
        use BlockFormat::*;
        match self.format {
            Q4_0 | Q5_0 | Q8_0 | Iq4Nl => Scaling::Half,
            Q4_1 | Q5_1 => Scaling::HalfAndMinimum,
            Q8K | Int8x32 | Int8x128 | Fp8x32 | Fp8x128 => Scaling::Float,
            Int4x32 | Int4x64 | Int4x128 | Int8Zero => Scaling::FloatAndZero,
            Q2K => Scaling::FourBits,
            Q3K => Scaling::SixBits,
            Q4K | Q5K => Scaling::SixBitPairs,
            Q6K => Scaling::EightBits,
            Iq4Xs => Scaling::SplitBits,
        }
    }

    /// Whether elements have a minimum, which is taken off what is scaled.
    pub fn minimums(self) -> bool {
        use Scaling::*;
        match self.scaling() {
            HalfAndMinimum | FloatAndZero | FourBits | SixBitPairs => true,
            Half | Float | SixBits | EightBits | SplitBits => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_name_every_element_of_a_block_once() {
        for &format in BlockFormat::ALL {
            let layout = Layout {
                format,
                aligned: false,
            };
            let turns = layout.gap() / 16;
            assert!(layout.pieces().is_multiple_of(turns), "{format}");
            let mut elements = Vec::new();
            for piece in 0..layout.pieces() {
                // As kernels compute it.
                let first = piece / turns * 2 * layout.gap() + piece % turns * 16;
                elements.extend(first..first + 16);
                elements.extend(first + layout.gap()..first + layout.gap() + 16);
            }
            elements.sort_unstable();
            assert_eq!(elements, Vec::from_iter(0..layout.elements()), "{format}");
        }
    }
}
