//! Properties of the prefill strategies on small random models: what is exact is full attention, every
//! arrangement of ranks gives the same, questions leave no trace, and what is saved comes back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use burn_apb::apb::compressor;
use burn_apb::apb::{
    CompressorConfig, Document, Method, Observer, PlanError, PrefillConfig, PrefillPlan,
    PreparedSave, RingLayout, SaveOptions, SavedError, SavedSession, Session, SessionConfig,
    SessionError,
};
use burn_apb::kernels::{AttentionOutput, Regions, attention, merge};
use burn_apb::model::{Architecture, CausalLm, Decoder, DecoderConfig};
use burn_apb::ranks::{RankError, RankGroup, RankOrder, threads};
use burn_apb::text::sampler::{Sampler, SamplerConfig};
use proptest::prelude::*;

const VOCAB: u32 = 64;
/// Largest difference between two exact ways to the same result, relative to its rms.
const EXACT: f64 = 1e-5;
/// Proptest cases of properties that run a model several times.
const CASES: u32 = 24;

/// Head counts with groups of 1, 2, 3 and 4 query heads.
const HEADS: [(usize, usize); 4] = [(2, 2), (4, 2), (6, 2), (4, 1)];

fn model(heads: usize, kv_heads: usize) -> (DecoderConfig, Arc<Decoder>) {
    let config = DecoderConfig::new(
        Architecture::Llama,
        VOCAB as usize,
        32,
        48,
        2,
        heads,
        kv_heads,
        8,
    );
    let device = Device::flex();
    device.seed(7);
    let decoder = Arc::new(config.init(&device));
    (config, decoder)
}

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| {
            (i.wrapping_mul(2_654_435_761)
                .wrapping_add(seed.wrapping_mul(97))
                >> 7)
                % VOCAB
        })
        .collect()
}

/// Layer, rank, and the positions selected for each KV head of each sequence.
type Selected = (usize, usize, Vec<Vec<Vec<usize>>>);

/// Rows of the document by rank, and what was selected.
#[derive(Default)]
struct Rows {
    hidden: Vec<(usize, Tensor<3>)>,
    selected: Vec<Selected>,
}

impl Observer for Rows {
    fn wants_rows(&self) -> bool {
        true
    }

    fn hidden(&mut self, rank: usize, rows: Tensor<3>) {
        self.hidden.push((rank, rows));
    }

    fn wants_selections(&self) -> bool {
        true
    }

    fn selected(&mut self, layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
        self.selected.push((layer, rank, positions.to_vec()));
    }
}

/// The last row's logits after a question, and the rows of the prefill.
fn run(
    (config, decoder): &(DecoderConfig, Arc<Decoder>),
    document: &Document,
    plan: &PrefillPlan,
    group: Option<RankGroup>,
    question: &[u32],
) -> Result<(Vec<f32>, Rows), SessionError> {
    let settings = SessionConfig::new(document.tokens.len() + question.len()).with_chunk(16);
    let mut session = Session::new(decoder.clone(), settings);
    if let Some(group) = group {
        session = session.with_group(group);
    }
    let compressor = compressor::load(plan, config, burn::tensor::FloatDType::F32, &Device::flex())
        .expect("no heads are needed");
    let mut rows = Rows::default();
    session.prefill_with(document, plan, compressor.as_deref(), &mut rows)?;
    let last = session.extend(question)?;
    Ok((values(decoder.logits(last).expect("logits")), rows))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

fn difference(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    let worst = got.iter().zip(want).map(|(g, w)| f64::from(g - w).abs());
    worst.fold(0.0, |a, b| {
        if b.is_nan() {
            f64::INFINITY
        } else {
            f64::max(a, b)
        }
    }) / rms
}

/// Hidden rows in the document's order.
fn in_order(plan: &PrefillPlan, rows: &Rows) -> Vec<f32> {
    let width = rows.hidden[0].1.dims()[2];
    if plan.method == Method::Full {
        return rows
            .hidden
            .iter()
            .flat_map(|(_, r)| values(r.clone()))
            .collect();
    }
    let mut ordered = vec![0.0; plan.tokens * width];
    for (rank, rows) in &rows.hidden {
        let rows = values(rows.clone());
        let mut rows = rows.chunks(width);
        for position in plan.owned(*rank).into_iter().flatten() {
            let row = rows.next().expect("a row for each position");
            ordered[position * width..(position + 1) * width].copy_from_slice(row);
        }
    }
    ordered
}

fn plan(config: &PrefillConfig, document: &Document, model: &DecoderConfig) -> PrefillPlan {
    config.plan(document, model).expect("a plan")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    /// Ring in both layouts and Ulysses give what full attention gives, for any number of ranks.
    #[test]
    fn exact_strategies_are_full_attention(
        n in 1usize..90, ranks in 1usize..9, heads in 0usize..4, seed in 0u32..100,
    ) {
        let model = model(HEADS[heads].0, HEADS[heads].1);
        let document = Document::new(tokens(n, seed));
        let question = tokens(3, seed + 1);
        let full = plan(&PrefillConfig::default(), &document, &model.0);
        let (want, want_rows) = run(&model, &document, &full, None, &question).unwrap();
        for (method, layout) in [
            (Method::Ring, RingLayout::Zigzag),
            (Method::Ring, RingLayout::Contiguous),
            (Method::Ulysses, RingLayout::Zigzag),
        ] {
            let config = PrefillConfig::new(method, ranks).with_ring_layout(layout);
            let plan = match config.plan(&document, &model.0) {
                Ok(plan) => plan,
                Err(PlanError::EmptyLastRank { nearest, .. }
                    | PlanError::UlyssesHeads { nearest, .. }) => {
                    let config = PrefillConfig::new(method, nearest).with_ring_layout(layout);
                    config.plan(&document, &model.0).expect("the nearest works")
                }
                Err(error) => panic!("{error}"),
            };
            let (got, rows) = run(&model, &document, &plan, None, &question).unwrap();
            let logits = difference(&got, &want);
            prop_assert!(logits < EXACT, "{plan:?}: {logits:e}");
            let hidden = difference(&in_order(&plan, &rows), &in_order(&full, &want_rows));
            prop_assert!(hidden < EXACT, "{plan:?}: {hidden:e}");
        }
    }

    /// One rank is full attention, whatever was asked for, to the last bit.
    #[test]
    fn one_rank_is_full_attention(n in 1usize..60, seed in 0u32..100) {
        let model = model(4, 2);
        let document = Document::new(tokens(n, seed)).with_anchor_query(tokens(4, seed));
        let question = tokens(3, seed + 1);
        let full = plan(&PrefillConfig::default(), &document, &model.0);
        let (want, _) = run(&model, &document, &full, None, &question).unwrap();
        for method in Method::ALL {
            let one = plan(&PrefillConfig::new(method, 1), &document, &model.0);
            let (got, _) = run(&model, &document, &one, None, &question).unwrap();
            prop_assert_eq!(&got, &want);
        }
    }

    /// Processes that share out the ranks in any way select the same rows and answer the same.
    #[test]
    fn processes_agree_with_one_process(
        block in 12usize..20, short in 0usize..4, anchor in 5usize..11, seed in 0u32..100,
        method in 0usize..7,
    ) {
        let ranks = 4;
        let n = ranks * block - short;
        let model = model(4, 2);
        let document = Document::new(tokens(n, seed))
            .with_prefix(2)
            .with_anchor_query(tokens(3, seed + 5));
        let base = |method| PrefillConfig::new(method, ranks);
        let config = match method {
            0 => base(Method::Ring),
            1 => base(Method::Ring).with_ring_layout(RingLayout::Contiguous),
            2 => base(Method::Ulysses),
            3 => base(Method::Star),
            4 => base(Method::Apb).with_anchor(anchor).with_passing(3),
            5 => base(Method::Apb).with_anchor(anchor).with_passing(0),
            _ => base(Method::Apb)
                .with_anchor(anchor)
                .with_passing(2)
                .with_compressor(CompressorConfig::Random { seed: 3 }),
        };
        let plan = plan(&config, &document, &model.0);
        let question = tokens(5, seed + 1);
        let (want, mut one) = run(&model, &document, &plan, None, &question).unwrap();
        one.selected.sort();
        for (processes, order) in [
            (2, RankOrder::InOrder),
            (4, RankOrder::InOrder),
            (2, RankOrder::Folded),
        ] {
            let results: Vec<_> = std::thread::scope(|scope| {
                let (model, document, plan, question) = (&model, &document, &plan, &question);
                let threads: Vec<_> = threads(processes, Duration::from_secs(60))
                    .into_iter()
                    .map(|transport| {
                        scope.spawn(move || {
                            let group = RankGroup::new(ranks, Box::new(transport)).unwrap();
                            let group = group.with_order(order);
                            run(model, document, plan, Some(group), question).unwrap()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let mut all = Rows::default();
            for (got, rows) in results {
                let logits = difference(&got, &want);
                prop_assert!(logits < EXACT, "{plan:?} {processes} {order:?}: {logits:e}");
                all.hidden.extend(rows.hidden);
                all.selected.extend(rows.selected);
            }
            let hidden = difference(&in_order(&plan, &all), &in_order(&plan, &one));
            prop_assert!(hidden < EXACT, "{plan:?} {processes} {order:?}: {hidden:e}");
            all.selected.sort();
            prop_assert_eq!(&all.selected, &one.selected);
        }
    }

    /// A session asked twice gives what two fresh ones give; saved and restored it gives the same
    /// tokens, and its files hold the document exactly once.
    #[test]
    fn sessions_are_left_as_they_were_and_come_back(
        n in 20usize..60, ranks in 1usize..5, seed in 0u32..100, method in 0usize..5,
    ) {
        let (config, decoder) = model(4, 2);
        let device = Device::flex();
        let document = Document::new(tokens(n, seed)).with_anchor_query(tokens(3, seed + 5));
        let method = Method::ALL[method];
        let asked = PrefillConfig::new(method, ranks);
        let plan = match asked.plan(&document, &config) {
            Ok(plan) => plan,
            Err(PlanError::UlyssesHeads { nearest, .. }) => {
                plan(&PrefillConfig::new(method, nearest), &document, &config)
            }
            Err(error) => panic!("{error}"),
        };
        let compressor =
            compressor::load(&plan, &config, burn::tensor::FloatDType::F32, &device).unwrap();
        let fresh = || {
            let mut session = Session::new(decoder.clone(), SessionConfig::new(n + 20));
            session
                .prefill_with(&document, &plan, compressor.as_deref(), &mut ())
                .unwrap();
            session
        };
        let (first, second) = (tokens(4, seed + 2), tokens(2, seed + 3));
        let mut twice = fresh();
        let answers = [ask(&mut twice, &first), ask(&mut twice, &second), ask(&mut twice, &first)];
        prop_assert_eq!(&answers[0], &answers[2]);
        prop_assert_eq!(&answers[0], &ask(&mut fresh(), &first));
        prop_assert_eq!(&answers[1], &ask(&mut fresh(), &second));

        let folder = tempfile::tempdir().unwrap();
        twice.save(folder.path(), "model", SaveOptions::default()).unwrap();
        let saved = SavedSession::open(folder.path()).unwrap();
        prop_assert_eq!(saved.plan(), &plan);
        prop_assert_eq!(saved.document(), &document.tokens[..]);
        let mut restored = saved.restore(decoder.clone(), 20).unwrap();
        prop_assert_eq!(&answers[0], &ask(&mut restored, &first));
        prop_assert_eq!(&answers[1], &ask(&mut restored, &second));

        // Layer 0's keys depend on nothing but token and position: together the ranks' files must
        // hold those of full attention, each once.
        let mut full = Session::new(decoder.clone(), SessionConfig::new(n));
        full.prefill(&document.tokens, |_, _| ControlFlow::Continue(())).unwrap();
        let whole = tempfile::tempdir().unwrap();
        full.save(whole.path(), "model", SaveOptions::default()).unwrap();
        let want = first_keys(whole.path(), 0, 1, &config, n);
        let mut seen = vec![0; n];
        for rank in 0..plan.ranks {
            let positions: Vec<usize> = plan.owned(rank).into_iter().flatten().collect();
            let got = first_keys(folder.path(), rank, plan.ranks, &config, positions.len());
            for (row, position) in positions.into_iter().enumerate() {
                seen[position] += 1;
                for (got, want) in got.iter().zip(&want) {
                    let error = difference(&got[row], &want[position]);
                    prop_assert!(error < EXACT, "{plan:?} {position}: {error:e}");
                }
            }
        }
        prop_assert_eq!(seen, vec![1; n]);
    }

    /// One softmax over keys cut into any parts, also for scores beyond what an exponential holds.
    #[test]
    fn parts_of_the_keys_merge_to_the_whole(
        cuts in prop::collection::vec(0usize..40, 0..4), scale in prop::sample::select(vec![1.0f32, 1e4]),
        seed in 0u32..100,
    ) {
        let device = Device::flex();
        let keys = 40;
        let random = |heads: usize, rows: usize, scale: f32, seed: u32| {
            let data: Vec<f32> = tokens(heads * rows * 8, seed)
                .into_iter()
                .map(|t| (t as f32 / VOCAB as f32 - 0.5) * 2.0 * scale)
                .collect();
            Tensor::<4>::from_data(TensorData::new(data, [1, heads, rows, 8]), &device)
        };
        // Scores of q . k / sqrt(8) reach about +-scale.
        let (q, k) = (random(4, 3, scale, seed), random(2, keys, 1.0, seed + 1));
        let v = random(2, keys, 1.0, seed + 2);
        let whole = attention(q.clone(), k.clone(), v.clone(), Regions::full()).unwrap();
        let mut cuts = cuts;
        cuts.extend([0, keys]);
        cuts.sort_unstable();
        let parts: Vec<AttentionOutput> = cuts
            .windows(2)
            .map(|cut| {
                let part = |t: &Tensor<4>| t.clone().slice([0..1, 0..2, cut[0]..cut[1], 0..8]);
                match cut[0] == cut[1] {
                    // A process without keys: no output, and a normaliser of nothing.
                    true => AttentionOutput {
                        out: q.zeros_like(),
                        lse: Tensor::<3>::zeros([1, 4, 3], &device) + f32::NEG_INFINITY,
                    },
                    false => attention(q.clone(), part(&k), part(&v), Regions::full()).unwrap(),
                }
            })
            .collect();
        let merged = merge(parts).unwrap();
        // A part's weight is e to its lse, which f32 holds to the scores' own rounding.
        let allowed = EXACT.max(f64::from(scale * f32::EPSILON));
        let out = difference(&values(merged.out), &values(whole.out));
        prop_assert!(out < allowed, "{out:e}");
        let lse = difference(&values(merged.lse), &values(whole.lse));
        prop_assert!(lse < EXACT, "{lse:e}");
    }
}

fn ask(session: &mut Session, question: &[u32]) -> Vec<u32> {
    let mut greedy = Sampler::new(SamplerConfig::default()).expect("greedy");
    session
        .ask(
            question,
            &mut greedy,
            &[],
            10,
            |_| ControlFlow::Continue(()),
        )
        .expect("an answer")
        .tokens
}

/// `[kv_heads][rows][head_dim]` of layer 0's keys in a rank's file.
fn first_keys(
    folder: &std::path::Path,
    rank: usize,
    world: usize,
    config: &DecoderConfig,
    rows: usize,
) -> Vec<Vec<Vec<f32>>> {
    let path = folder.join(format!("rank-{rank}-of-{world}.safetensors"));
    let bytes = std::fs::read(path).expect("the rank's file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = file.tensor("layers.0.key").expect("keys");
    assert_eq!(
        view.shape(),
        [1, config.num_key_value_heads, rows, config.head_dim]
    );
    let values: Vec<f32> = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let rows = values.chunks(rows * config.head_dim);
    rows.map(|head| head.chunks(config.head_dim).map(<[f32]>::to_vec).collect())
        .collect()
}

/// A session of a document of 40 tokens, prefilled by Star over some ranks of this process or a group's.
fn star(
    (config, decoder): &(DecoderConfig, Arc<Decoder>),
    seed: u32,
    ranks: usize,
    group: Option<RankGroup>,
) -> Session {
    let document = Document::new(tokens(40, seed)).with_anchor_query(tokens(3, 2));
    let plan = plan(&PrefillConfig::new(Method::Star, ranks), &document, config);
    let mut session = Session::new(decoder.clone(), SessionConfig::new(50));
    if let Some(group) = group {
        session = session.with_group(group);
    }
    session
        .prefill_with(&document, &plan, None, &mut ())
        .expect("prefilled");
    session
}

#[test]
fn other_models_and_damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let small = model(4, 2);
    let save = |folder: &tempfile::TempDir, seed| {
        let session = star(&small, seed, 2, None);
        let saved = session.save(folder.path(), "this model", SaveOptions::default());
        saved.expect("saved");
    };
    save(&folder, 1);
    let decoder = &small.1;
    let open = || SavedSession::open(folder.path());
    assert!(open().unwrap().check_model("this model").is_ok());
    let other = open().unwrap().check_model("another");
    assert!(
        matches!(other, Err(SavedError::OtherModel { .. })),
        "{other:?}"
    );
    let lengths = open().unwrap().check_setting("anchor", 5, 6);
    assert!(
        matches!(lengths, Err(SavedError::OtherPlan { .. })),
        "{lengths:?}"
    );

    // Another shape of model: the tensors do not fit.
    let (other, _) = model(2, 2);
    let narrow = DecoderConfig {
        head_dim: 4,
        ..other
    };
    let narrow = narrow.init(&Device::flex());
    let restored = open().unwrap().restore(Arc::new(narrow), 5);
    assert!(
        matches!(restored, Err(SavedError::Damaged { .. })),
        "{restored:?}"
    );

    // One bit of a value, then a missing end.
    let path = folder.path().join("rank-1-of-2.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let restored = open().unwrap().restore(decoder.clone(), 5);
    assert!(
        matches!(restored, Err(SavedError::Damaged { .. })),
        "{restored:?}"
    );
    std::fs::write(&path, &whole[..whole.len() - 100]).unwrap();
    assert!(matches!(open(), Err(SavedError::Read(_))));

    // A missing rank, a rank of another save, no session at all.
    std::fs::remove_file(&path).unwrap();
    let missing = open();
    assert!(
        matches!(&missing, Err(SavedError::Missing { path: named, ranks: 2 }) if *named == path),
        "{missing:?}"
    );
    let elsewhere = tempfile::tempdir().unwrap();
    save(&elsewhere, 9);
    std::fs::copy(elsewhere.path().join("rank-1-of-2.safetensors"), &path).unwrap();
    assert!(matches!(open(), Err(SavedError::Mixed { .. })));
    let empty = tempfile::tempdir().unwrap();
    let none = SavedSession::open(empty.path());
    assert!(matches!(none, Err(SavedError::NotASession { .. })));
}

/// The names in a folder, sorted.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_holds_one_session() {
    let model = model(4, 2);
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    std::fs::write(folder.join("notes.txt"), "kept").unwrap();
    let save = |seed, ranks, replace| {
        let options = SaveOptions::default().with_replace(replace);
        star(&model, seed, ranks, None).save(folder, "model", options)
    };
    // What there is to replace need not be there.
    save(1, 3, true).unwrap();
    let before = names(folder);
    assert_eq!(before.len(), 4, "{before:?}");
    for ranks in [2, 3] {
        let taken = save(7, ranks, false);
        assert!(
            matches!(&taken, Err(SavedError::Exists { path, .. }) if path == folder),
            "{taken:?}"
        );
        assert_eq!(names(folder), before);
        let saved = SavedSession::open(folder).unwrap();
        assert_eq!(saved.document(), tokens(40, 1));
    }

    let earlier = tempfile::tempdir().unwrap();
    for name in &before {
        std::fs::copy(folder.join(name), earlier.path().join(name)).unwrap();
    }
    save(7, 2, true).unwrap();
    let two = [
        "notes.txt",
        "rank-0-of-2.safetensors",
        "rank-1-of-2.safetensors",
    ];
    assert_eq!(names(folder), two);
    let saved = SavedSession::open(folder).unwrap();
    assert_eq!(saved.document(), tokens(40, 7));

    // Whatever part of the earlier session comes back, neither is answered about.
    for name in &before[1..] {
        std::fs::copy(earlier.path().join(name), folder.join(name)).unwrap();
        let mixed = SavedSession::open(folder);
        assert!(matches!(mixed, Err(SavedError::Mixed { .. })), "{mixed:?}");
    }
    save(9, 2, true).unwrap();
    assert_eq!(names(folder), two);
    let saved = SavedSession::open(folder).unwrap();
    assert_eq!(saved.document(), tokens(40, 9));
}

/// Until the process of rank 0 commits, the earlier session is whole.
#[test]
fn a_session_is_replaced_whole_by_several_processes() {
    let model = &model(4, 2);
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let prepare = |seed| -> [PreparedSave; 2] {
        let prepared: Vec<_> = std::thread::scope(|scope| {
            let drivers: Vec<_> = threads(2, Duration::from_secs(60))
                .into_iter()
                .map(|transport| {
                    scope.spawn(move || {
                        let group = RankGroup::new(2, Box::new(transport)).unwrap();
                        let options = SaveOptions::default().with_replace(true);
                        let session = star(model, seed, 2, Some(group));
                        session.prepare_save(folder, "model", options).unwrap()
                    })
                })
                .collect();
            drivers
                .into_iter()
                .map(|driver| driver.join().unwrap())
                .collect()
        });
        prepared.try_into().expect("two")
    };
    let holds = |seed, ranks| {
        let saved = SavedSession::open(folder).unwrap();
        assert_eq!(
            (saved.document(), saved.plan().ranks),
            (&tokens(40, seed)[..], ranks)
        );
    };
    star(model, 1, 3, None)
        .save(folder, "model", SaveOptions::default())
        .unwrap();
    let three = names(folder);
    // The second process fails, then the first after the second has committed.
    let [first, second] = prepare(2);
    holds(1, 3);
    drop(second);
    drop(first);
    assert_eq!(names(folder), three);
    let [first, second] = prepare(2);
    second.commit().unwrap();
    holds(1, 3);
    drop(first);
    assert_eq!(names(folder), three);
    holds(1, 3);

    let [first, second] = prepare(2);
    second.commit().unwrap();
    first.commit().unwrap();
    holds(2, 2);
    let two = ["rank-0-of-2.safetensors", "rank-1-of-2.safetensors"];
    assert_eq!(names(folder), two);
    // As many ranks as before: no file of one is taken for the other's.
    let [first, second] = prepare(3);
    second.commit().unwrap();
    holds(2, 2);
    first.commit().unwrap();
    holds(3, 2);
    assert_eq!(names(folder), two);
}

/// Each rank has a file of its own, whichever process drives it.
#[test]
fn a_session_of_folded_ranks_comes_back() {
    let model = &model(4, 2);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = SaveOptions::default();
    std::thread::scope(|scope| {
        let drivers: Vec<_> = threads(2, Duration::from_secs(60))
            .into_iter()
            .map(|transport| {
                scope.spawn(move || {
                    let group = RankGroup::new(4, Box::new(transport)).unwrap();
                    let group = group.with_order(RankOrder::Folded);
                    let session = star(model, 1, 4, Some(group));
                    session.prepare_save(folder, "model", options).unwrap()
                })
            })
            .collect();
        // The process of rank 0 comes last.
        let prepared = drivers.into_iter().rev();
        let prepared: Vec<_> = prepared.map(|driver| driver.join().unwrap()).collect();
        for prepared in prepared {
            prepared.commit().unwrap();
        }
    });
    let saved = SavedSession::open(folder).unwrap();
    let mut restored = saved.restore(model.1.clone(), 20).unwrap();
    let mut alone = star(model, 1, 4, None);
    let rows = |session: &mut Session| values(session.extend(&tokens(4, 2)).unwrap());
    let difference = difference(&rows(&mut restored), &rows(&mut alone));
    assert!(difference < EXACT, "{difference:e}");
}

/// A file that cannot be removed ends the replacement in the middle.
#[test]
fn a_failed_replacement_leaves_no_session_of_both() {
    let model = model(4, 2);
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    star(&model, 1, 2, None)
        .save(folder, "model", SaveOptions::default())
        .unwrap();
    let in_the_way = folder.join("rank-1-of-2.safetensors");
    std::fs::remove_file(&in_the_way).unwrap();
    std::fs::create_dir(&in_the_way).unwrap();
    let failed =
        star(&model, 7, 2, None).save(folder, "model", SaveOptions::default().with_replace(true));
    assert!(matches!(failed, Err(SavedError::Write(_))), "{failed:?}");
    let left = SavedSession::open(folder);
    assert!(matches!(left, Err(SavedError::Missing { .. })), "{left:?}");
    assert_eq!(names(folder), ["rank-1-of-2.safetensors"]);
}

#[test]
fn a_session_refuses_plans_that_are_not_its_own() {
    let (config, decoder) = model(4, 2);
    let document = Document::new(tokens(40, 1)).with_anchor_query(tokens(3, 2));
    let apb = plan(&PrefillConfig::new(Method::Apb, 2), &document, &config);
    let mut session = Session::new(decoder.clone(), SessionConfig::new(50));
    let none = session.prefill_with(&document, &apb, None, &mut ());
    assert!(matches!(none, Err(SessionError::NoCompressor)), "{none:?}");
    let longer = Document::new(tokens(41, 1));
    let other = session.prefill_with(&longer, &apb, None, &mut ());
    assert!(
        matches!(
            other,
            Err(SessionError::OtherPlan {
                planned: 40,
                found: 41,
                ..
            })
        ),
        "{other:?}"
    );
}

/// A rank that stops taking part ends the others with its name, in time.
#[test]
fn a_missing_rank_is_named() {
    let model = model(4, 2);
    let document = Document::new(tokens(40, 1)).with_anchor_query(tokens(3, 2));
    let config = PrefillConfig::new(Method::Apb, 2)
        .with_anchor(6)
        .with_passing(2);
    let plan = plan(&config, &document, &model.0);
    let mut transports = threads(2, Duration::from_millis(300));
    let silent = transports.pop().expect("two");
    let group = RankGroup::new(2, Box::new(transports.pop().expect("one"))).unwrap();
    let late = run(&model, &document, &plan, Some(group), &[1]);
    assert!(
        matches!(
            late,
            Err(SessionError::Rank(RankError::Timeout { ref peers, .. })) if peers[0].process == 1
        ),
        "{:?}",
        late.err()
    );
    drop(silent);

    let mut transports = threads(2, Duration::from_secs(60));
    drop(transports.pop());
    let group = RankGroup::new(2, Box::new(transports.pop().expect("one"))).unwrap();
    let gone = run(&model, &document, &plan, Some(group), &[1]);
    assert!(
        matches!(
            gone,
            Err(SessionError::Rank(RankError::Exited { ref peer, .. })) if peer.process == 1
        ),
        "{:?}",
        gone.err()
    );
}

/// A prefill that failed does not cost a session its ranks: each of two drivers still holds its half.
#[test]
fn a_failed_prefill_keeps_the_group() {
    let (config, decoder) = &model(4, 2);
    let document = &Document::new(tokens(40, 1));
    let star = &plan(&PrefillConfig::new(Method::Star, 2), document, config);
    let random = CompressorConfig::Random { seed: 1 };
    let apb = PrefillConfig::new(Method::Apb, 2).with_compressor(random);
    let apb = &plan(&apb, document, config);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let drivers: Vec<_> = threads(2, Duration::from_secs(60))
            .into_iter()
            .map(|transport| {
                scope.spawn(move || {
                    let group = RankGroup::new(2, Box::new(transport)).unwrap();
                    let settings = SessionConfig::new(60);
                    let mut session = Session::new(decoder.clone(), settings).with_group(group);
                    let none = session.prefill_with(document, apb, None, &mut ());
                    assert!(matches!(none, Err(SessionError::NoCompressor)), "{none:?}");
                    session.prefill_with(document, star, None, &mut ()).unwrap();
                    let folder = tempfile::tempdir().unwrap();
                    session
                        .save(folder.path(), "model", SaveOptions::default())
                        .unwrap();
                    let files = std::fs::read_dir(folder.path()).unwrap().count();
                    (files, ask(&mut session, &[1, 2]))
                })
            })
            .collect();
        let joined = drivers.into_iter().map(|driver| driver.join().unwrap());
        joined.collect()
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].0, 1, "one rank's file from each driver");
}
