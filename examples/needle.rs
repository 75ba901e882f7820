//! Hides a number in a long text at several depths and asks for it, by several prefill strategies: how
//! much does each of them see?
//!
//! ```sh
//! cargo run --release --example needle -- MODEL_DIR [TOKENS] [RANKS] [ANCHOR] [PASSING]
//! ```
//!
//! The text is Newton's *Opticks*, the question that of RULER's single-needle task
//! (arXiv 2404.06654), the numbers are the same in every run.

use std::error::Error;

use burn::tensor::Device;
use burn_apb::apb::{
    AnswerOptions, CompressorConfig, Method, PrefillConfig, Request, answer_request,
};
use burn_apb::model::LanguageModel;
use burn_apb::model::sampler::SamplerConfig;

const TEXT: &str = include_str!("data/opticks.txt");
/// Where the treatise begins, behind the edition's credits.
const TITLE: &str = "OPTICKS:";
const KEY: &str = "harbor";
const NUMBERS: [&str; 5] = ["3254257", "2058756", "5279348", "2978347", "9312021"];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args
        .first()
        .ok_or("usage: needle MODEL_DIR [TOKENS] [RANKS] [ANCHOR] [PASSING]")?;
    let number = |index: usize, default: usize| {
        args.get(index)
            .map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (tokens, ranks) = (number(1, 2000)?, number(2, 4)?);
    let (anchor, passing) = (number(3, 160)?, number(4, 64)?);

    let model = LanguageModel::load(folder, &Device::flex())?;
    let needle = model.text.tokenizer.encode(&sentence(NUMBERS[0]), false)?;
    let text = first_tokens(&model, tokens.saturating_sub(needle.len()))?;
    let question = format!("What is the special magic number for {KEY} mentioned in the text?");
    let apb = PrefillConfig::new(Method::Apb, ranks)
        .with_anchor(anchor)
        .with_passing(passing);
    let strategies = [
        ("full", PrefillConfig::default()),
        ("apb, query-aware", apb.clone()),
        (
            "apb, random",
            apb.clone()
                .with_compressor(CompressorConfig::Random { seed: 0 }),
        ),
        ("apb, passing off", apb.with_passing(0)),
        ("star", PrefillConfig::new(Method::Star, ranks)),
    ];

    println!("{tokens} tokens, {ranks} ranks, anchor {anchor}, passing {passing}");
    println!(
        "{:<18} {:>8} {:>10}  at depths",
        "strategy", "answered", "prefill s"
    );
    for (name, prefill) in strategies {
        let options = AnswerOptions {
            max_tokens: 32,
            sampler: Some(SamplerConfig::default()),
            prefill,
            ..AnswerOptions::default()
        };
        let (mut found, mut seconds) = (Vec::new(), 0.0);
        for (i, number) in NUMBERS.iter().enumerate() {
            let depth = (i as f64 + 0.5) / NUMBERS.len() as f64;
            let document = hide(text, number, depth);
            let request = Request::new(&model.text, &document, &question, &options)?;
            let answer = answer_request(&model, &request, &options, &mut ())?;
            seconds += answer.prefill_seconds / NUMBERS.len() as f64;
            found.push(answer.text.contains(number));
        }
        let count = found.iter().filter(|found| **found).count();
        let depths: String = found
            .iter()
            .map(|f| if *f { " yes" } else { "  no" })
            .collect();
        println!(
            "{name:<18} {count:>6}/{} {seconds:>10.2} {depths}",
            NUMBERS.len()
        );
    }
    Ok(())
}

/// The beginning of the text that has about so many tokens.
fn first_tokens(model: &LanguageModel, tokens: usize) -> Result<&'static str, Box<dyn Error>> {
    let text = &TEXT[TEXT.find(TITLE).unwrap_or(0)..];
    let tokenizer = &model.text.tokenizer;
    let ids = tokenizer.encode(text, false)?;
    let beginning = tokenizer.decode(&ids[..tokens.min(ids.len())], false)?;
    let mut end = beginning.len().min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Ok(&text[..end])
}

/// The text with a sentence about the number behind the sentence nearest before `depth`.
fn hide(text: &str, number: &str, depth: f64) -> String {
    let mut place = (text.len() as f64 * depth) as usize;
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    let place = text[..place].rfind(". ").map_or(0, |end| end + 2);
    let (before, after) = text.split_at(place);
    format!("{before}{} {after}", sentence(number))
}

fn sentence(number: &str) -> String {
    format!("One of the special magic numbers for {KEY} is: {number}.")
}
