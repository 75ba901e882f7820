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
use std::path::PathBuf;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_apb::LanguageModel;
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
        let rows = self.backbone.embed_ids(ids);
        let hidden = self.backbone.forward_embedded(rows)?;
        Ok(hidden.mean_dim(1).squeeze_dim(1))
    }

    /// One score a text: `[1, 1]`.
    fn score(&self, ids: &[u32]) -> Result<Tensor<2>, Box<dyn Error>> {
        Ok(self.head.forward(self.embed(ids)?))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: embed MODEL_DIR TEXT TEXT ...")?);
    let texts: Vec<String> = args.collect();
    if texts.is_empty() {
        return Err("give at least one text after the model's folder".into());
    }

    let device = Device::flex();
    let model = LanguageModel::load(folder, &device)?;
    let text = model.text.clone();
    let scorer = Scorer {
        head: LinearConfig::new(text.config.hidden_size, 1).init(&device),
        backbone: model.into_decoder(),
    };

    let mut embeddings = Vec::new();
    for sentence in &texts {
        let ids = text.tokenizer.encode(sentence, true)?;
        let embedding = scorer.embed(&ids)?;
        let norm = embedding.clone().square().sum_dim(1).sqrt();
        embeddings.push(embedding / norm);
        let score = scorer.score(&ids)?.into_scalar::<f32>();
        println!("score {score:+.3}  {sentence}");
    }
    for (i, a) in embeddings.iter().enumerate() {
        let row = embeddings.iter().map(|b| {
            let similarity = (a.clone() * b.clone()).sum().into_scalar::<f32>();
            format!("{similarity:6.3}")
        });
        println!("{:>3} {}", i + 1, row.collect::<Vec<_>>().join(" "));
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
    println!("score {again:+.3}  {} (restored from a record)", texts[0]);
    Ok(())
}
