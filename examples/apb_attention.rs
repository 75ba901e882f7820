//! APB in a decoder that is not this crate's: a small pre-norm decoder on Burn's own layers, whose
//! attention is [`ApbAttention`]. It is prefilled by full, Star and APB attention over four ranks,
//! asked, compared with this crate's decoder on the same weights, and trained for one step.
//!
//! ```sh
//! cargo run --release --example apb_attention
//! ```

use std::error::Error;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_apb::apb::{ApbAttention, ApbAttentionConfig, Document, Method, PrefillConfig, Request};
use burn_apb::kernels::KernelError;
use burn_apb::model::{
    Architecture, AttentionShape, CausalLm, Decoder, DecoderConfig, Projection, Projections, Rope,
    RopeConfig, RopeTables,
};
use burn_apb::ranks::RankGroup;

// ---- A decoder that is not this crate's.

/// Layers, query heads, key/value heads, head width; vocabulary and widths.
const SHAPE: AttentionShape = AttentionShape {
    layers: 3,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
};
const VOCAB: usize = 128;
const HIDDEN: usize = 48;
const INTERMEDIATE: usize = 96;

type Computed<T> = Result<T, KernelError>;
/// Logits and tokens.
type Answered = (Vec<f32>, Vec<u32>);

#[derive(Module, Debug)]
struct Block {
    norm1: RmsNorm,
    attention: ApbAttention,
    norm2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct TinyLm {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
}

impl TinyLm {
    fn new(device: &Device) -> Self {
        let linear = |i, o| LinearConfig::new(i, o).with_bias(false).init(device);
        let norm = || RmsNormConfig::new(HIDDEN).init(device);
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = SHAPE;
        let attention = ApbAttentionConfig::new(HIDDEN, heads, kv_heads, head_dim);
        let block = |_| Block {
            norm1: norm(),
            attention: attention.init(device),
            norm2: norm(),
            gate: linear(HIDDEN, INTERMEDIATE),
            up: linear(HIDDEN, INTERMEDIATE),
            down: linear(INTERMEDIATE, HIDDEN),
        };
        Self {
            embedding: EmbeddingConfig::new(VOCAB, HIDDEN).init(device),
            blocks: (0..SHAPE.layers).map(block).collect(),
            norm: norm(),
            head: linear(HIDDEN, VOCAB),
        }
    }

    /// Logits `[batch, seq, vocab]` of tokens `[batch, seq]`, with a gradient.
    fn forward(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, KernelError> {
        let mut hidden = self.embedding.forward(tokens);
        let rope = self.rope(hidden.dims()[1]);
        let rope = rope.tables(0..hidden.dims()[1], &hidden.device());
        for block in &self.blocks {
            let normed = block.norm1.forward(hidden.clone());
            hidden = block.finish(hidden, block.attention.forward(normed, &rope)?);
        }
        Ok(self.head.forward(self.norm.forward(hidden)))
    }
}

impl Block {
    /// Norm and projections.
    fn project(&self, hidden: Tensor<3>, rope: &RopeTables) -> Computed<Projections> {
        let normed = self.norm1.forward(hidden);
        self.attention.project(normed, rope)
    }

    /// Residual connections and MLP.
    fn finish(&self, hidden: Tensor<3>, attention: Tensor<3>) -> Tensor<3> {
        let hidden = hidden + attention;
        let normed = self.norm2.forward(hidden.clone());
        let gated = silu(self.gate.forward(normed.clone())) * self.up.forward(normed);
        hidden + self.down.forward(gated)
    }
}

// ---- Beside the decoder: its functions, split where attention is computed.

impl CausalLm for TinyLm {
    fn shape(&self) -> AttentionShape {
        SHAPE
    }
    fn vocab_size(&self) -> usize {
        VOCAB
    }
    fn device(&self) -> Device {
        self.head.weight.device()
    }
    fn rope(&self, context: usize) -> Rope {
        RopeConfig::new().init(SHAPE.head_dim, context)
    }
    fn embed(&self, tokens: Tensor<2, Int>) -> Computed<Tensor<3>> {
        Ok(self.embedding.forward(tokens))
    }
    fn project(&self, layer: usize, x: Tensor<3>, rope: &RopeTables) -> Computed<Projections> {
        self.blocks[layer].project(x, rope)
    }
    fn finish(&self, layer: usize, x: Tensor<3>, attended: Tensor<3>) -> Computed<Tensor<3>> {
        let block = &self.blocks[layer];
        Ok(block.finish(x, block.attention.output(attended)?))
    }
    fn logits(&self, hidden: Tensor<3>) -> Computed<Tensor<3>> {
        Ok(self.head.forward(self.norm.forward(hidden)))
    }
}

// ---- What concerns APB: prefill by any method over four ranks, and decoding.

fn prefill_and_decode(
    model: &Arc<dyn CausalLm>,
    method: Method,
) -> Result<Answered, Box<dyn Error>> {
    let document = Document::new(ids(200, 7)).with_anchor_query(ids(4, 3));
    let plan = PrefillConfig::new(method, 4).plan(&document, model.shape())?;
    let request = Request::from_tokens(document, plan, ids(4, 3), 16, 64);
    let group = RankGroup::local(request.plan.ranks);
    let (mut session, _) = request.prefill(model.clone(), group, &mut ())?;
    let logits = model.logits(session.extend(&request.query)?)?;
    let answer = session.follow(&request.query, 16)?.tokens;
    Ok((logits.into_data().try_to_vec()?, answer))
}

// ---- The comparison and one step of training.

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    device.seed(1);
    let theirs = TinyLm::new(&device);
    let ours: Arc<dyn CausalLm> = Arc::new(same_weights(&theirs, &device));
    let theirs: Arc<dyn CausalLm> = Arc::new(theirs);
    let (full, _) = prefill_and_decode(&theirs, Method::Full)?;
    for method in [Method::Full, Method::Star, Method::Apb] {
        let (logits, answer) = prefill_and_decode(&theirs, method)?;
        let (expected, expected_answer) = prefill_and_decode(&ours, method)?;
        let worst = largest_difference(&logits, &expected);
        let approximate = largest_difference(&logits, &full);
        println!(
            "{method:<5} logits differ by {worst:.1e} between the decoders, by {approximate:.1e} from full; \
             answer {answer:?}"
        );
        if method != Method::Full && approximate < 1e-4 {
            return Err(format!("{method}: no different from full attention").into());
        }
        if worst > 1e-5 || answer != expected_answer {
            return Err(format!("{method}: the two decoders differ").into());
        }
    }

    let device = device.autodiff();
    let mut model = TinyLm::new(&device);
    let tokens = |from| {
        let ids: Vec<i32> = ids(32, 5).into_iter().map(u32::cast_signed).collect();
        let rows = ids[from..from + 31].to_vec();
        Tensor::<2, Int>::from_data(TensorData::new(rows, [1, 31]), (&device, DType::I32))
    };
    let loss = |model: &TinyLm| -> Result<Tensor<1>, KernelError> {
        let logits = model.forward(tokens(0))?.reshape([31, VOCAB]);
        let targets = tokens(1).reshape([31]);
        Ok(CrossEntropyLossConfig::new()
            .init(&device)
            .forward(logits, targets))
    };
    let before = loss(&model)?;
    let gradients = GradientsParams::from_grads(before.backward(), &model);
    model = AdamWConfig::new().init().step(1e-2, model, gradients);
    let (before, after) = (
        before.into_scalar::<f32>(),
        loss(&model)?.into_scalar::<f32>(),
    );
    println!("one step of training: loss {before:.4} -> {after:.4}");
    match after < before {
        true => Ok(()),
        false => Err("the loss did not fall".into()),
    }
}

/// This crate's decoder with the weights of another.
fn same_weights(model: &TinyLm, device: &Device) -> Decoder {
    let AttentionShape {
        layers,
        heads,
        kv_heads,
        head_dim,
    } = SHAPE;
    let mut decoder = DecoderConfig::new(
        Architecture::Llama,
        VOCAB,
        HIDDEN,
        INTERMEDIATE,
        layers,
        heads,
        kv_heads,
        head_dim,
    )
    .init(device);
    // The value of a parameter is the same in both; how it is stored differs.
    let copy = |to: &mut Projection, from: &Linear| {
        let weight = Param::from_tensor(from.weight.val());
        *to = Linear { weight, bias: None }.into();
    };
    decoder.embed_tokens = model.embedding.clone().into();
    decoder.norm = model.norm.clone();
    decoder.lm_head = Some(model.head.clone().into());
    for (to, from) in decoder.layers.iter_mut().zip(&model.blocks) {
        to.input_layernorm = from.norm1.clone();
        to.post_attention_layernorm = from.norm2.clone();
        copy(&mut to.self_attn.q_proj, &from.attention.q_proj);
        copy(&mut to.self_attn.k_proj, &from.attention.k_proj);
        copy(&mut to.self_attn.v_proj, &from.attention.v_proj);
        copy(&mut to.self_attn.o_proj, &from.attention.o_proj);
        copy(&mut to.mlp.gate_proj, &from.gate);
        copy(&mut to.mlp.up_proj, &from.up);
        copy(&mut to.mlp.down_proj, &from.down);
    }
    decoder
}

fn ids(count: u32, seed: u32) -> Vec<u32> {
    let id = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % VOCAB as u32;
    (0..count).map(id).collect()
}

/// Relative to the root mean square of the expected values.
fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    let squares: f32 = expected.iter().map(|x| x * x).sum();
    let rms = (squares / expected.len() as f32).sqrt();
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / rms
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_decoder_gets_the_same_results_and_trains() {
        super::main().expect("equal, and trained");
    }
}
