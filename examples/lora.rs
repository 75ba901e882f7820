//! Fine-tunes a decoder on a text with LoRA: Burn's own tools on an ordinary module.
//!
//! ```sh
//! cargo run --release --example lora -- MODEL FILE
//! ```

use std::error::Error;

use burn::module::{Lora, Module};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::LanguageModel;
use burn_apb::checkpoint::LoadOptions;
use burn_apb::model::Decoder;

fn main() -> Result<(), Box<dyn Error>> {
    let [model, file] = [1, 2].map(|n| std::env::args().nth(n).unwrap_or_default());
    let losses = fine_tune(&model, &file, 10)?;
    for (step, loss) in losses.iter().enumerate() {
        println!("step {step}: loss {loss:.4}");
    }
    Ok(())
}

/// The loss before each step.
pub fn fine_tune(model: &str, file: &str, steps: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let device = Device::flex().autodiff();
    // Quantised weights have no gradients.
    let options = LoadOptions::new(FloatDType::F32).with_dequantize(true);
    let model = LanguageModel::load_with(model, options, &Device::flex(), &mut |_| {})?;
    let text = std::fs::read_to_string(file)?;
    let mut ids = model.text.tokenizer.encode(&text, true)?;
    ids.truncate(128);

    let mut decoder: Decoder = model.into_decoder().train().apply_lora(Lora::new(4, 8.0));
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = next_token_loss(&decoder, &ids, &device)?;
        let gradients = GradientsParams::from_grads(loss.backward(), &decoder);
        losses.push(loss.into_scalar::<f32>());
        decoder = optimizer.step(1e-3, decoder, gradients);
    }
    Ok(losses)
}

fn next_token_loss(
    decoder: &Decoder,
    ids: &[u32],
    device: &Device,
) -> Result<Tensor<1>, Box<dyn Error>> {
    let rows = ids.len().saturating_sub(1);
    let tokens = |ids: &[u32]| {
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        Tensor::<2, Int>::from_data(TensorData::new(ids, [1, rows]), (device, DType::I32))
    };
    let logits = decoder.forward(tokens(&ids[..rows]))?;
    let vocab = logits.dims()[2];
    let targets = tokens(&ids[1..]).reshape([rows]);
    let loss = CrossEntropyLossConfig::new().init(device);
    Ok(loss.forward(logits.reshape([rows, vocab]), targets))
}
