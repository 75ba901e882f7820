//! A small Burn application that uses the decoder as an ordinary module: a sentence scorer whose
//! backbone is a pretrained decoder and whose head is a Burn `Linear`.
//!
//! ```sh
//! cargo run --release --example embed -- MODEL_DIR "first text" "second text" ...
//! ```
//!
//! It prints the cosine similarity of every pair of texts, by the mean of their last hidden states,
//! then saves and restores the whole module as a Burn record.

use std::error::Error;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, FloatDType, Tensor};
use burn_apb::LanguageModel;
use burn_apb::checkpoint::LoadOptions;
use burn_apb::model::{CausalLm, Decoder};

/// A decoder with a head of our own: both are modules, so records, visitors and optimisers see one.
#[derive(Module, Debug)]
struct Scorer {
    backbone: Decoder,
    head: Linear,
}

impl Scorer {
    /// The mean of the final hidden states of `ids`: `[1, hidden]`.
    fn embed(&self, ids: &[u32]) -> Result<Tensor<2>, Box<dyn Error>> {
        let rows = self.backbone.embed_ids(ids)?;
        let hidden = self.backbone.forward_embedded(rows)?;
        Ok(hidden.mean_dim(1).squeeze_dim(1))
    }

    /// One score a text: `[1, 1]`.
    fn score(&self, ids: &[u32]) -> Result<Tensor<2>, Box<dyn Error>> {
        Ok(self.head.forward(self.embed(ids)?))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, first, texts @ ..] = &arguments[..] else {
        return Err("usage: embed MODEL_DIR TEXT TEXT ...".into());
    };
    let texts = [std::slice::from_ref(first), texts].concat();
    for (number, row) in compare(folder, &texts)?.iter().enumerate() {
        let row = row.iter().map(|similarity| format!("{similarity:6.3}"));
        println!("{:>3} {}", number + 1, row.collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

/// The similarity of every text to every other. Prints the head's score of each, and of the first once more
/// from a record.
pub fn compare(folder: &str, texts: &[String]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let device = Device::flex();
    let options = LoadOptions::new(FloatDType::F32).with_dequantize(true);
    let model = LanguageModel::load_with(folder, options, &device, &mut |_| {})?;
    let text = model.text.clone();
    let scorer = Scorer {
        head: LinearConfig::new(text.config.hidden_size, 1).init(&device),
        backbone: model.into_decoder(),
    };

    let mut embeddings = Vec::new();
    let mut scores = Vec::new();
    for sentence in texts {
        let ids = text.tokenizer.encode(sentence, true)?;
        let embedding = scorer.embed(&ids)?;
        let norm = embedding.clone().square().sum_dim(1).sqrt();
        embeddings.push(embedding / norm);
        scores.push(scorer.score(&ids)?.into_scalar::<f32>());
        println!("score {:+.3}  {sentence}", scores[scores.len() - 1]);
    }

    let folder = tempfile::tempdir()?;
    let record = folder.path().join("scorer.bpk");
    scorer.clone().save_file(&record)?;
    // Into weights that have not been initialised yet.
    let fresh = Scorer {
        head: LinearConfig::new(text.config.hidden_size, 1).init(&device),
        backbone: text.config.init(&device),
    };
    let restored = fresh.load_file(&record);
    let ids = text.tokenizer.encode(&texts[0], true)?;
    let again = restored.score(&ids)?.into_scalar::<f32>();
    // Products are summed in another order where the weights lie in memory otherwise.
    if (again - scores[0]).abs() > 1e-4 {
        return Err(format!("the record gives {again}, expected {}", scores[0]).into());
    }
    println!("score {again:+.3}  {} (restored from a record)", texts[0]);

    let similarity = |a: &Tensor<2>, b: &Tensor<2>| (a.clone() * b.clone()).sum().into_scalar();
    let row = |a| embeddings.iter().map(|b| similarity(a, b)).collect();
    Ok(embeddings.iter().map(row).collect())
}
