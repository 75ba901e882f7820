//! The PTX of the warpgroup products: CubeCL has no `wgmma`, so whole groups of instructions are one
//! piece of inline assembly.
//!
//! `%N` names a register: outputs first, then inputs in the order of the operands. Vectors take a power
//! of two of registers, so that counts are rounded up.

use cubecl::prelude::*;

use super::table::WgmmaTile;

fn registers(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|i| format!("%{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

impl WgmmaTile {
    /// Registers a unit for the scores.
    pub fn score_registers(&self) -> usize {
        (self.keys / 2).next_power_of_two()
    }

    /// Registers a unit for the output.
    pub fn output_registers(&self) -> usize {
        self.head_dim / 2
    }

    /// Registers a unit for the weights, two in each.
    pub fn weight_registers(&self) -> usize {
        (self.keys / 4).next_power_of_two()
    }

    /// Registers a unit for scores and output in one vector.
    pub fn both_registers(&self) -> usize {
        (self.keys / 2 + self.output_registers()).next_power_of_two()
    }

    /// Scores: outputs from `%0`; descriptors of queries and keys from `%descriptors`. Operand columns
    /// beyond 64 elements lie in the next swizzled column of the tile.
    fn score_products(&self, descriptors: usize) -> String {
        let (keys, dtype) = (self.keys, self.dtype.ptx());
        let sums = registers(0, self.keys / 2);
        let mut code = String::new();
        for step in 0..self.head_dim / 16 {
            let (column, within) = (step / 4, step % 4 * 2);
            let q = column * self.rows() * 8 + within;
            let k = column * keys * 8 + within;
            code += &format!(
                "add.s64 a, %{descriptors}, {q};\nadd.s64 b, %{}, {k};\n\
                 wgmma.mma_async.sync.aligned.m64n{keys}k16.f32.{dtype}.{dtype} {sums}, a, b, {}, 1, 1, 0, 0;\n",
                descriptors + 1,
                u8::from(step > 0),
            );
        }
        code + "wgmma.commit_group.sync.aligned;\n"
    }

    /// Output: accumulators from `%sums`, weights from `%weights`, descriptor of the values in `%values`.
    fn output_products(&self, sums: usize, weights: usize, values: usize) -> String {
        let (head_dim, dtype) = (self.head_dim, self.dtype.ptx());
        let sums = registers(sums, self.output_registers());
        let mut code = String::new();
        for step in 0..self.keys / 16 {
            let left = registers(weights + 4 * step, 4);
            code += &format!(
                "add.s64 b, %{values}, {};\n\
                 wgmma.mma_async.sync.aligned.m64n{head_dim}k16.f32.{dtype}.{dtype} {sums}, {left}, b, 1, 1, 1, 1;\n",
                step * 128,
            );
        }
        code + "wgmma.commit_group.sync.aligned;\n"
    }

    /// `scores`, and the wait for them.
    fn scores_code(&self) -> String {
        format!(
            "{{ .reg .b64 a, b;\nwgmma.fence.sync.aligned;\n{}wgmma.wait_group.sync.aligned 0; }}",
            self.score_products(self.score_registers()),
        )
    }

    /// Copies of `count` registers. The old accumulators are inputs, which assembly may not change;
    /// ptxas gives both one register.
    fn moves(to: usize, from: usize, count: usize) -> String {
        (0..count)
            .map(|i| format!("mov.f32 %{}, %{};\n", to + i, from + i))
            .collect()
    }

    /// `accumulate`, and the wait for it.
    fn accumulate_code(&self) -> String {
        let count = self.output_registers();
        let weights = 2 * count;
        format!(
            "{{ .reg .b64 b;\n{}wgmma.fence.sync.aligned;\n{}wgmma.wait_group.sync.aligned 0; }}",
            Self::moves(0, count, count),
            self.output_products(0, weights, weights + self.weight_registers()),
        )
    }

    /// Both products issued; the wait for the scores alone.
    fn issue_code(&self) -> String {
        let (scores, count) = (self.keys / 2, self.output_registers());
        let descriptors = self.both_registers();
        let old = descriptors + 2;
        let weights = old + count;
        format!(
            "{{ .reg .b64 a, b;\n{}wgmma.fence.sync.aligned;\n{}{}wgmma.wait_group.sync.aligned 1; }}",
            Self::moves(scores, old, count),
            self.score_products(descriptors),
            self.output_products(scores, weights, weights + self.weight_registers()),
        )
    }

    /// The wait for the output of `issue`, whose registers are named so that they live until here.
    fn finish_code(&self) -> String {
        let (scores, count) = (self.keys / 2, self.output_registers());
        format!(
            "wgmma.wait_group.sync.aligned 0;\n{}",
            Self::moves(0, count + scores, count)
        )
    }
}

/// Matrix descriptor of a tile at a shared address: 128-byte swizzle, 1,024 bytes from 8 rows to the
/// next 8, `leading` bytes from a column of 64 elements to the next.
#[cube]
pub fn descriptor(address: u32, #[comptime] leading: usize) -> u64 {
    let fixed = comptime!((1u64 << 62) | (64u64 << 32) | ((leading as u64 / 16) << 16));
    u64::cast_from((address & 0x3FFFFu32) >> 4u32) | fixed.runtime()
}

/// Two weights of one register, the first in the low half. Not `pure`, so that it stays behind the wait
/// for the products that read the register before: ptxas would serialise them otherwise.
#[cube]
pub fn pair(low: f32, high: f32, #[comptime] tile: WgmmaTile) -> u32 {
    let word: u32;
    let dtype = comptime!(tile.dtype.ptx().to_string());
    gpu_asm!(
        "cvt.rn.{dtype}x2.f32 {word}, {high}, {low};",
        word = out(_) word,
        high = in(_) high * 1.0f32,
        low = in(_) low * 1.0f32,
        options(nomem),
    );
    word
}

// A comment names every operand once, as the macro demands; the code itself names registers by number.
// A variable would be passed by its address: products with one are plain values, and folded away.

/// `Q K^T` of a warpgroup's 64 rows and a tile of keys.
#[cube]
pub fn scores<S: Size>(queries: u64, keys: u64, #[comptime] tile: WgmmaTile) -> Vector<f32, S> {
    let code = comptime!(tile.scores_code());
    let scores: Vector<f32, S>;
    gpu_asm!(
        "// {scores} {queries} {keys}\n",
        "{code}",
        scores = out(_) scores,
        queries = in(_) queries,
        keys = in(_) keys,
    );
    scores
}

/// `old + P V`.
#[cube]
pub fn accumulate<M: Size, P: Size>(
    old: Vector<f32, M>,
    weights: Vector<u32, P>,
    values: u64,
    #[comptime] tile: WgmmaTile,
) -> Vector<f32, M> {
    let code = comptime!(tile.accumulate_code());
    let mixed: Vector<f32, M>;
    gpu_asm!(
        "// {mixed} {old} {weights} {values}\n",
        "{code}",
        mixed = out(_) mixed,
        old = in(_) old * Vector::new(1.0f32),
        weights = in(_) weights * Vector::new(1u32),
        values = in(_) values,
    );
    mixed
}

/// Starts the scores of the next tile and `old + P V` of this one, and waits for the scores alone:
/// the first registers of the result. The others are under way until `finish`.
#[cube]
pub fn issue<B: Size, M: Size, P: Size>(
    queries: u64,
    keys: u64,
    old: Vector<f32, M>,
    weights: Vector<u32, P>,
    values: u64,
    #[comptime] tile: WgmmaTile,
) -> Vector<f32, B> {
    let code = comptime!(tile.issue_code());
    let both: Vector<f32, B>;
    gpu_asm!(
        "// {both} {queries} {keys} {old} {weights} {values}\n",
        "{code}",
        both = out(_) both,
        queries = in(_) queries,
        keys = in(_) keys,
        old = in(_) old * Vector::new(1.0f32),
        weights = in(_) weights,
        values = in(_) values,
    );
    both
}

/// Waits for the output that `issue` started; `weights` are named so that they stay untouched.
#[cube]
pub fn finish<B: Size, M: Size, P: Size>(
    both: Vector<f32, B>,
    weights: Vector<u32, P>,
    #[comptime] tile: WgmmaTile,
) -> Vector<f32, M> {
    let code = comptime!(tile.finish_code());
    let mixed: Vector<f32, M>;
    gpu_asm!(
        "// {mixed} {both} {weights}\n",
        "{code}",
        mixed = out(_) mixed,
        both = in(_) both * Vector::new(1.0f32),
        weights = in(_) weights,
    );
    mixed
}
