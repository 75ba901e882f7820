//! Trains a classifier on a frozen decoder in bf16: a mapper casts the decoder, `no_grad` freezes it.
//!
//! ```sh
//! cargo run --release --example classifier -- MODEL "a text of class 0" "a text of class 1" ...
//! ```

use std::error::Error;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_apb::prelude::*;

/// Casts every parameter to bf16.
struct Half;

impl ModuleMapper for Half {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        parameter.map(|tensor| tensor.cast(DType::BF16))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, texts @ ..] = &arguments[..] else {
        return Err("usage: classifier MODEL TEXT TEXT ...".into());
    };
    for (step, loss) in train(model, texts, 20)?.iter().enumerate() {
        println!("step {step}: loss {loss:.4}");
    }
    Ok(())
}

/// The loss before each step, with one class a text.
pub fn train(model: &str, texts: &[String], steps: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let device = Device::flex().autodiff();
    let model = LanguageModel::load(model, &Device::flex())?;
    let text = model.text.clone();
    let decoder: Decoder = model.into_decoder().map(&mut Half).no_grad();
    let mut features = Vec::new();
    for sentence in texts {
        let rows = decoder.embed_ids(&text.tokenizer.encode(sentence, true)?)?;
        let hidden = decoder.forward_embedded(rows)?;
        features.push(hidden.mean_dim(1).squeeze_dim::<2>(1).cast(DType::F32));
    }
    let features = Tensor::from_inner(Tensor::cat(features, 0));
    let classes: Vec<i32> = (0..texts.len() as i32).collect();
    let classes = TensorData::new(classes, [texts.len()]);
    let classes = Tensor::<1, Int>::from_data(classes, (&device, DType::I32));

    let mut head: Linear = LinearConfig::new(text.config.hidden_size, texts.len()).init(&device);
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let logits = head.forward(features.clone());
        let loss = CrossEntropyLossConfig::new().init(&device);
        let loss = loss.forward(logits, classes.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &head);
        losses.push(loss.into_scalar::<f32>());
        head = optimizer.step(1e-2, head, gradients);
    }
    Ok(losses)
}
