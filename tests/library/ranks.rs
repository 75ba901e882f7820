//! Ranks that are measured as if each had a device of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{DType, Device};
use burn_apb::apb::{
    CompressorConfig, Document, DocumentLengths, Method, Observer, Part, PrefillConfig, Request,
    RingLayout, Session,
};
use burn_apb::model::{Architecture, CausalLm, DecoderConfig};
use burn_apb::plan::{Program, Work};
use burn_apb::ranks::RankGroup;

const RANKS: usize = 4;

fn config() -> DecoderConfig {
    DecoderConfig::new(Architecture::Llama, 64, 32, 48, 2, 4, 2, 8)
}

fn model() -> Arc<dyn CausalLm> {
    Arc::new(config().init(&Device::flex()))
}

/// Which ranks had times of which parts.
#[derive(Default)]
struct Seen(BTreeMap<(Part, Option<usize>), u32>);

impl Observer for Seen {
    fn wants_times(&self) -> bool {
        true
    }

    fn part(&mut self, part: Part, rank: Option<usize>, _: Duration) {
        *self.0.entry((part, rank)).or_default() += 1;
    }
}

fn prefill(
    model: &Arc<dyn CausalLm>,
    settings: &PrefillConfig,
    group: RankGroup,
    own_anchors: bool,
) -> (Session, Seen) {
    let document = Document::new((0..96).map(|i| i * 7 % 64).collect::<Vec<u32>>())
        .with_anchor_query(vec![3, 5]);
    let plan = settings.plan(&document, model.shape()).unwrap();
    let mut request = Request::from_tokens(document, plan, vec![1, 2], 1, None);
    request.session.own_anchors = own_anchors;
    let mut seen = Seen::default();
    let (session, _) = request.prefill(model.clone(), group, &mut seen).unwrap();
    (session, seen)
}

fn settings() -> Vec<PrefillConfig> {
    let of = |method| PrefillConfig::new(method, RANKS);
    vec![
        of(Method::Star),
        of(Method::Apb),
        of(Method::Apb).with_compressor(CompressorConfig::Random { seed: 1 }),
        of(Method::Ring),
        of(Method::Ring).with_ring_layout(RingLayout::Contiguous),
        of(Method::Ulysses),
    ]
}

/// Whoever computes the anchor's rows, what follows the document is the same; and every rank has times.
#[test]
fn own_anchors_change_no_result() {
    let model = model();
    for settings in settings() {
        let rows = |own| {
            let group = RankGroup::local(RANKS);
            let (mut session, seen) = prefill(&model, &settings, group, own);
            for rank in 0..RANKS {
                for part in [Part::Projections, Part::Attention, Part::Mlp] {
                    let times = seen.0.get(&(part, Some(rank)));
                    assert!(times.is_some(), "{settings:?} {part:?} of {rank}");
                }
            }
            let hidden = session.extend(&[9, 8, 7]).unwrap().cast(DType::F32);
            hidden.into_data().try_to_vec::<f32>().unwrap()
        };
        for (own, shared) in rows(true).into_iter().zip(rows(false)) {
            assert!((own - shared).abs() < 1e-5, "{settings:?}: {own} {shared}");
        }
    }
}

/// A rank by itself computes its own rows, and receives as many bytes as are predicted.
#[test]
fn a_rank_by_itself_receives_what_is_predicted() {
    let (model, config) = (model(), config());
    let document = DocumentLengths::new(96).with_anchor_query(2);
    for settings in settings() {
        let plan = settings.plan_lengths(&document, &config).unwrap();
        for rank in 0..RANKS {
            let group = RankGroup::alone(rank, RANKS).unwrap();
            let (session, seen) = prefill(&model, &settings, group, true);
            assert!(
                seen.0
                    .keys()
                    .all(|(_, seen)| seen.is_none_or(|seen| seen == rank))
            );
            let received = session.group().received_bytes() as f64;
            let work = Work::of(&plan, &config, rank, 4.0, Program::ThisCrate);
            // The last layer ends with its keys and values.
            let layers = (config.num_hidden_layers - 1) as f64;
            assert_eq!(
                received,
                work.exchange_bytes * layers,
                "{settings:?} {rank}"
            );
        }
    }
}
