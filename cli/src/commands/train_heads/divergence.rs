//! What trained heads do to the answers: APB's divergence from full attention on held-out samples.

use std::path::Path;
use std::sync::Arc;

use burn_apb::ModelText;
use burn_apb::apb::{CompressorConfig, Document, Method, PrefillConfig, Request};
use burn_apb::eval::statistics::{Estimate, mean};
use burn_apb::eval::{Agreement, ReferenceAnswer};
use burn_apb::model::{CausalLm, Decoder};
use burn_apb::ranks::RankGroup;
use burn_apb::training::Sample;

use crate::args::DEFAULT_RANKS;
use crate::commands::eval::{Quiet, check_interrupt};
use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;

/// Held-out samples that are answered at most.
const SAMPLES: usize = 8;
/// Tokens of an answer at most.
const ANSWER: usize = 32;

/// The mean Kullback-Leibler divergence of APB from full attention with each of the compressors `named`, over 4 ranks
/// with the default lengths. None of a compressor where no sample is long enough.
pub fn divergences(
    decoder: &Arc<Decoder>,
    text: &ModelText,
    heads: &Path,
    named: &[&str],
    samples: &[Arc<Sample>],
    output: &Output,
) -> Result<Vec<Option<Estimate>>, CliError> {
    let bar = output.progress("answering", "samples");
    let samples = &samples[..samples.len().min(SAMPLES)];
    let mut found = vec![Vec::new(); named.len()];
    for (done, sample) in samples.iter().enumerate() {
        answer(decoder, text, heads, named, sample, &mut found)?;
        bar.update(done as u64 + 1, samples.len() as u64);
    }
    bar.finish();
    Ok(found.iter().map(|kl| mean(kl).ok()).collect())
}

/// Adds the divergences of one sample.
fn answer(
    decoder: &Arc<Decoder>,
    text: &ModelText,
    heads: &Path,
    named: &[&str],
    sample: &Sample,
    found: &mut [Vec<f64>],
) -> Result<(), CliError> {
    let prefix = match sample.query.is_empty() {
        true => sample.scored.start,
        false => sample.query.start,
    };
    let ids = &sample.ids;
    let tokens = [&ids[..prefix], &ids[sample.scored.clone()]].concat();
    let mut document = Document::new(tokens).with_anchor_query(&ids[sample.query.clone()]);
    document.prefix = prefix;
    let question = &ids[sample.scored.end..sample.answer.start];
    let stops: Vec<u32> = text.stop_tokens.iter().map(|stop| stop.id).collect();
    let model: Arc<dyn CausalLm> = decoder.clone();
    let prefill = |settings: PrefillConfig| -> Result<_, CliError> {
        let plan = match settings.plan(&document, &text.config) {
            Ok(plan) => plan,
            // Shorter than ranks and lengths need.
            Err(error) => {
                tracing::debug!("a held-out sample is not answered: {error}");
                return Ok(None);
            }
        };
        let ranks = plan.ranks;
        let request = Request::from_tokens(document.clone(), plan, question.to_vec(), ANSWER, None);
        let session = request.prefill(model.clone(), RankGroup::local(ranks), &mut Quiet);
        check_interrupt()?;
        Ok(Some(session?.0))
    };
    let token = interrupt::token();
    let Some(mut full) = prefill(PrefillConfig::default())? else {
        return Ok(());
    };
    let reference = ReferenceAnswer::new(&mut full, question, &stops, ANSWER, token);
    check_interrupt()?;
    let reference = reference.map_err(CliError::failed)?;
    drop(full);
    for (name, found) in named.iter().zip(found) {
        let compressor = match *name {
            "retaining" => CompressorConfig::Retaining {
                heads: heads.to_owned(),
            },
            "random" => CompressorConfig::Random { seed: 0 },
            _ => CompressorConfig::QueryAware,
        };
        let settings = PrefillConfig::new(Method::Apb, DEFAULT_RANKS).with_compressor(compressor);
        if let Some(mut session) = prefill(settings)? {
            let agreement = Agreement::measure(&mut session, question, &reference, token);
            check_interrupt()?;
            found.push(agreement.map_err(CliError::failed)?.kl);
        }
    }
    Ok(())
}
