//! Which tensor of a quantised model is stored in which type: llama.cpp's mixtures.

use std::fmt;

use crate::checkpoint::gguf::{Written, layer};

/// What a model's matrices are quantised to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quantization {
    /// Eight bits and a scale for 32 elements: every matrix.
    Q8_0,
    /// Four bits with scales and minimums of groups, and six bits where it is felt most: llama.cpp's `Q4_K_M`. The
    /// output (or the embedding that serves for it), half of the values' projections and half of the MLP's second
    /// ones are Q6_K.
    Q4K,
}

impl Quantization {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Q8_0, Self::Q4K];

    /// Its name on the command line: `q8_0` or `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }

    /// `general.file_type`, by llama.cpp's numbers.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::Q8_0 => 7,
            Self::Q4K => 15,
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the mixture depends on beside a tensor's name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub to: Quantization,
    pub layers: usize,
    /// Whether the embedding is the output projection.
    pub tied: bool,
    /// Whether llama.cpp counts it among the models of 70B parameters, whose heads share the projection of values.
    pub large: bool,
}

impl Recipe {
    /// The type of a tensor by its name in the file and its shape, outermost axis first.
    pub(super) fn of(&self, name: &str, shape: &[usize]) -> Written {
        let matrix = name.ends_with(".weight") && !name.ends_with("_norm.weight");
        let cols = match shape {
            [_, .., cols] if matrix => *cols,
            _ => return Written::F32,
        };
        let wanted = match self.to {
            Quantization::Q8_0 => Written::Q8_0,
            Quantization::Q4K => self.mixed(name),
        };
        // As llama.cpp where rows are no whole blocks.
        let smaller = match wanted {
            Written::Q4K => Written::Q5_0,
            Written::Q5K => Written::Q5_1,
            _ => Written::Q8_0,
        };
        let mut choices = [wanted, smaller].into_iter();
        let fits = choices.find(|choice| choice.fits(cols));
        fits.unwrap_or(Written::F16)
    }

    fn mixed(&self, name: &str) -> Written {
        let more = || layer(name).is_some_and(|layer| self.more_bits(layer));
        match name {
            "output.weight" => Written::Q6K,
            "token_embd.weight" if self.tied => Written::Q6K,
            _ if name.ends_with(".attn_v.weight") && more() => Written::Q6K,
            _ if name.ends_with(".attn_v.weight") && self.large => Written::Q5K,
            _ if name.ends_with(".ffn_down.weight") && more() => Written::Q6K,
            _ => Written::Q4K,
        }
    }

    /// The first and the last eighth of the layers, and every third one between.
    fn more_bits(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q4_K: Recipe = Recipe {
        to: Quantization::Q4K,
        layers: 30,
        tied: true,
        large: false,
    };

    /// As in the Q4_K_M files of llama.cpp: of 30 layers these have ffn_down in six bits.
    #[test]
    fn some_layers_have_more_bits() {
        let more: Vec<usize> = (0..30).filter(|&layer| Q4_K.more_bits(layer)).collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
        let few = Recipe { layers: 2, ..Q4_K };
        assert!(!few.more_bits(0) && few.more_bits(1));
    }

    #[test]
    fn tensors_have_the_types_that_llama_cpp_gives_them() {
        let cases = [
            ("token_embd.weight", [512, 256], Written::Q6K),
            ("blk.0.attn_v.weight", [512, 256], Written::Q6K),
            ("blk.3.attn_v.weight", [512, 256], Written::Q4K),
            ("blk.5.ffn_down.weight", [512, 256], Written::Q6K),
            ("blk.3.ffn_down.weight", [512, 256], Written::Q4K),
            ("blk.0.attn_q.weight", [512, 256], Written::Q4K),
            // No multiple of 256, and none of 32.
            ("blk.0.attn_q.weight", [512, 576], Written::Q5_0),
            ("blk.0.attn_v.weight", [512, 576], Written::Q8_0),
            ("blk.0.attn_v.weight", [512, 40], Written::F16),
        ];
        for (name, shape, expected) in cases {
            assert_eq!(Q4_K.of(name, &shape), expected, "{name} {shape:?}");
        }
        let untied = Recipe {
            tied: false,
            ..Q4_K
        };
        assert_eq!(untied.of("token_embd.weight", &[512, 256]), Written::Q4K);
        assert_eq!(untied.of("output.weight", &[512, 256]), Written::Q6K);
        let large = Recipe {
            large: true,
            ..Q4_K
        };
        assert_eq!(large.of("blk.3.attn_v.weight", &[512, 256]), Written::Q5K);
        assert_eq!(large.of("blk.3.attn_v.weight", &[512, 288]), Written::Q5_1);
        let eight = Recipe {
            to: Quantization::Q8_0,
            ..Q4_K
        };
        assert_eq!(eight.of("token_embd.weight", &[512, 576]), Written::Q8_0);
        assert_eq!(eight.of("blk.0.attn_q.weight", &[512, 40]), Written::F16);
        for name in ["blk.0.attn_norm.weight", "blk.0.attn_q.bias"] {
            assert_eq!(eight.of(name, &[256]), Written::F32);
        }
    }
}
