//! Which kernels of the table may be chosen: for comparisons and tests, a process can be held to some.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::plan::Problem;
use super::table::{Kernel, TABLE};

/// The environment variable that holds a [`Choice`]: `mma`, `wgmma` or `none`.
const VARIABLE: &str = "APB_TENSOR_CORE";

/// Whether kernels on `wgmma` gave a wrong result in this process.
static WGMMA_IS_WRONG: AtomicBool = AtomicBool::new(false);

/// Leaves kernels on `wgmma` out from now on, where the environment names none.
pub fn refuse_wgmma() {
    WGMMA_IS_WRONG.store(true, Ordering::Relaxed);
}

/// Kernels that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All: the first that fits runs.
    Best,
    /// Those on `mma.sync`.
    Mma,
    /// Those on `wgmma`.
    Wgmma,
    /// None.
    Nothing,
}

impl Choice {
    /// The environment's, read once; a word that is no choice is reported and ignored. All but `wgmma` where that was
    /// [wrong](refuse_wgmma).
    pub fn of_environment() -> Self {
        static CHOICE: OnceLock<Choice> = OnceLock::new();
        let named = *CHOICE.get_or_init(|| {
            let word = std::env::var(VARIABLE).unwrap_or_default();
            Self::named(&word).unwrap_or_else(|| {
                tracing::warn!("{VARIABLE} is `{word}`; it may be mma, wgmma or none");
                Self::Best
            })
        });
        match named == Self::Best && WGMMA_IS_WRONG.load(Ordering::Relaxed) {
            true => Self::Mma,
            false => named,
        }
    }

    /// The choice of a word.
    fn named(word: &str) -> Option<Self> {
        match word {
            "" => Some(Self::Best),
            "mma" => Some(Self::Mma),
            "wgmma" => Some(Self::Wgmma),
            "none" => Some(Self::Nothing),
            _ => None,
        }
    }

    fn allows(self, kernel: &Kernel) -> bool {
        match self {
            Self::Best => true,
            Self::Mma => matches!(kernel, Kernel::Mma(_)),
            Self::Wgmma => matches!(kernel, Kernel::Wgmma(_)),
            Self::Nothing => false,
        }
    }

    /// The first kernel of the table that fits and may be chosen.
    pub fn kernel(self, problem: &Problem) -> Option<Kernel> {
        if self == Self::Best {
            return problem.kernel();
        }
        let mut lines = TABLE.iter().filter(|line| self.allows(&line.kernel));
        let line = lines.find(|line| problem.fits(line))?;
        Some(line.kernel(problem.dtype))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cube::lengths::Lengths;
    use crate::kernels::tensor_core::table::Dtype;

    #[test]
    fn a_choice_restricts_the_table() {
        let named = |architecture, seq_q, word| {
            let problem = Problem {
                architecture,
                shared_bytes: 232_448,
                multiprocessors: 132,
                dtype: Dtype::Bf16,
                lengths: Lengths {
                    batch: 1,
                    heads: 32,
                    kv_heads: 8,
                    seq_q,
                    seq_kv: 16_384,
                    head_dim: 128,
                },
            };
            let choice = Choice::named(word).expect("a choice");
            choice.kernel(&problem).map(|kernel| kernel.to_string())
        };
        let wgmma = Some("wgmma_bf16_d128_r192_k80".to_string());
        assert_eq!(named(90, 4096, ""), wgmma);
        assert_eq!(
            named(90, 4096, "mma"),
            Some("mma_bf16_d128_r128_k64".into())
        );
        assert_eq!(named(90, 4096, "none"), None);
        // Few rows have no line of their own on warpgroups; the one for any serves when asked for.
        assert_eq!(named(90, 1, ""), Some("mma_bf16_d128_r64_k64_parts".into()));
        assert_eq!(named(90, 1, "wgmma"), wgmma);
        assert_eq!(named(80, 4096, "wgmma"), None);
        assert_eq!(Choice::named("hgmma"), None);
    }
}
