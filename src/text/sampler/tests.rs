//! Tests of choosing tokens.

use std::sync::{Arc, Mutex};

use super::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;

fn sampler(change: impl FnOnce(&mut SamplerConfig)) -> Sampler {
    let mut config = SamplerConfig {
        temperature: 1.0,
        ..SamplerConfig::default()
    };
    change(&mut config);
    Sampler::new(config).unwrap()
}

/// Which tokens come, in 2,000 draws.
fn support(sampler: &mut Sampler, logits: &[f32]) -> Vec<u32> {
    let mut drawn: Vec<u32> = (0..2000)
        .map(|_| sampler.sample(&mut logits.to_vec()).unwrap())
        .collect();
    drawn.sort_unstable();
    drawn.dedup();
    drawn
}

/// Logits of the probabilities 0.4, 0.3, 0.2 and 0.1.
fn four() -> [f32; 4] {
    [0.2f32, 0.4, 0.1, 0.3].map(f32::ln)
}

#[test]
fn greedy_takes_the_lower_of_equal_ids() {
    let mut greedy = Sampler::new(SamplerConfig::default()).unwrap();
    assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0, -5.0]), Ok(1));
    assert_eq!(greedy.sample(&mut [-0.0, 0.0]), Ok(0));
    assert_eq!(greedy.sample(&mut [f32::NEG_INFINITY, -3e38]), Ok(1));
}

#[test]
fn each_step_keeps_the_right_tokens() {
    let logits = four();
    assert_eq!(support(&mut sampler(|_| ()), &logits), [0, 1, 2, 3]);
    assert_eq!(support(&mut sampler(|c| c.top_k = 2), &logits), [1, 3]);
    assert_eq!(
        support(&mut sampler(|c| c.top_k = 99), &logits),
        [0, 1, 2, 3]
    );
    // 0.4 falls short of 0.5, so 0.3 is in; 0.4 + 0.3 falls short of 0.75, so 0.2 is.
    assert_eq!(support(&mut sampler(|c| c.top_p = 0.5), &logits), [1, 3]);
    assert_eq!(
        support(&mut sampler(|c| c.top_p = 0.75), &logits),
        [0, 1, 3]
    );
    assert_eq!(support(&mut sampler(|c| c.top_p = 1e-6), &logits), [1]);
    // At least 0.6 of 0.4 is 0.24.
    assert_eq!(support(&mut sampler(|c| c.min_p = 0.6), &logits), [1, 3]);
    assert_eq!(support(&mut sampler(|c| c.min_p = 1.0), &logits), [1]);
    // Of the two that top-k leaves, 0.4 is 4/7 of the probability: alone enough for 0.55.
    let both = |c: &mut SamplerConfig| (c.top_k, c.top_p) = (2, 0.55);
    assert_eq!(support(&mut sampler(both), &logits), [1]);
    // At half the temperature the shares are 16, 9, 4 and 1 of 30: 25/30 is less than 0.84.
    let cold = |c: &mut SamplerConfig| (c.temperature, c.top_p) = (0.5, 0.84);
    assert_eq!(support(&mut sampler(cold), &logits), [0, 1, 3]);
    // As likely as the second: all of them stay.
    let tied = [1.0, 2.0, 1.0, 1.0, 0.0];
    assert_eq!(support(&mut sampler(|c| c.top_k = 2), &tied), [0, 1, 2, 3]);
    let masked = [1.0, f32::NEG_INFINITY, 1.0];
    assert_eq!(support(&mut sampler(|_| ()), &masked), [0, 2]);
}

#[test]
fn draws_follow_the_probabilities() {
    let mut sampler = sampler(|c| c.seed = 7);
    let mut counts = [0u32; 4];
    let draws = 40_000;
    for _ in 0..draws {
        counts[sampler.sample(&mut four()).unwrap() as usize] += 1;
    }
    for (count, p) in counts.into_iter().zip([0.2, 0.4, 0.1, 0.3]) {
        let expected = p * f64::from(draws);
        let sigma = (f64::from(draws) * p * (1.0 - p)).sqrt();
        assert!(
            (f64::from(count) - expected).abs() < 4.0 * sigma,
            "{counts:?}"
        );
    }
}

#[test]
fn repetition_is_penalised_once_for_each_token() {
    let mut greedy = Sampler::new(SamplerConfig {
        repetition_penalty: 2.0,
        ..SamplerConfig::default()
    })
    .unwrap();
    greedy.observe(&[0, 2, 0, 0]);
    let mut logits = [3.0, 1.6, -1.0, -1.5];
    assert_eq!(greedy.sample(&mut logits), Ok(1));
    assert_eq!(logits, [1.5, 1.6, -2.0, -1.5]);
    // What was chosen is seen from then on.
    let mut logits = [3.0, 1.6, -1.0, -1.5];
    assert_eq!(greedy.sample(&mut logits), Ok(0));
    assert_eq!(logits, [1.5, 0.8, -2.0, -1.5]);
    greedy.observe(&[4]);
    let error = greedy.sample(&mut logits).unwrap_err();
    let expected = SamplerError::UnknownId {
        id: 4,
        vocab_size: 4,
    };
    assert_eq!(error, expected);
}

#[test]
fn broken_logits_are_refused() {
    for temperature in [0.0, 1.0] {
        let mut sampler = sampler(|c| c.temperature = temperature);
        for bad in [f32::NAN, f32::INFINITY] {
            let error = sampler.sample(&mut [0.0, bad]).unwrap_err();
            assert!(matches!(error, SamplerError::NotFinite { id: 1, .. }));
        }
        assert_eq!(sampler.sample(&mut []), Err(SamplerError::NoTokens));
        let none = &mut [f32::NEG_INFINITY; 3];
        assert_eq!(sampler.sample(none), Err(SamplerError::NoTokens));
        // The widest logits there are, at the smallest temperatures.
        let widest = &mut [f32::MIN, f32::MAX, 0.0];
        assert_eq!(sampler.sample(widest), Ok(1));
    }
    let mut cold = sampler(|c| c.temperature = f32::MIN_POSITIVE);
    assert_eq!(cold.sample(&mut [1.0, 1.5]), Ok(1));
}

#[test]
fn ranges_are_checked() {
    for (name, change) in [
        (
            "temperature",
            (|c| c.temperature = -1.0) as fn(&mut SamplerConfig),
        ),
        ("temperature", |c| c.temperature = f32::NAN),
        ("temperature", |c| c.temperature = f32::INFINITY),
        ("top_p", |c| c.top_p = 0.0),
        ("top_p", |c| c.top_p = f32::NAN),
        ("min_p", |c| c.min_p = 1.5),
        ("repetition_penalty", |c| c.repetition_penalty = 0.0),
    ] {
        let mut config = SamplerConfig::default();
        change(&mut config);
        let error = Sampler::new(config).unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

/// What transformers' warpers leave, spelled out: which tokens may be drawn.
fn reference(logits: &[f32], config: &SamplerConfig) -> Vec<u32> {
    let softmax = |scores: &[f64]| -> Vec<f64> {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    let mut scores: Vec<f64> = logits
        .iter()
        .map(|&l| f64::from(l) / f64::from(config.temperature))
        .collect();
    if config.top_k > 0 {
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let kth = sorted[config.top_k.min(sorted.len()) - 1];
        for score in scores.iter_mut().filter(|score| **score < kth) {
            *score = f64::NEG_INFINITY;
        }
    }
    // Sorted upwards, as long as the sum stays within 1 - top_p, but never the last one.
    let probabilities = softmax(&scores);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
    let mut sum = 0.0;
    for &id in &order[..order.len() - 1] {
        sum += probabilities[id];
        if sum <= 1.0 - f64::from(config.top_p) {
            scores[id] = f64::NEG_INFINITY;
        }
    }
    let probabilities = softmax(&scores);
    let largest = probabilities.iter().copied().fold(0.0, f64::max);
    let least = largest * f64::from(config.min_p);
    (0..)
        .zip(probabilities)
        .filter(|&(_, p)| p > 0.0 && p >= least)
        .map(|(id, _)| id)
        .collect()
}

fn configs() -> impl Strategy<Value = SamplerConfig> {
    (
        0.1f32..3.0,
        0usize..12,
        0.05f32..1.0,
        0.0f32..0.9,
        any::<u64>(),
    )
        .prop_map(|(temperature, top_k, top_p, min_p, seed)| SamplerConfig {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: 1.0,
            seed,
        })
}

proptest! {
    /// The tokens that may be drawn are those of the reference, and a draw is one of them.
    #[test]
    fn support_is_that_of_transformers(
        mut logits in prop::collection::vec(-8.0f32..8.0, 1..20),
        config in configs(),
    ) {
        let expected = reference(&logits, &config);
        let mut sampler = Sampler::new(config).unwrap();
        let best = argmax(&logits).unwrap();
        let mut kept: Vec<u32> = sampler
            .candidates(&logits, logits[best as usize])
            .iter()
            .map(|candidate| candidate.id)
            .collect();
        kept.sort_unstable();
        prop_assert_eq!(&kept, &expected);
        let drawn = sampler.sample(&mut logits).unwrap();
        prop_assert!(kept.contains(&drawn));
    }

    #[test]
    fn top_1_is_greedy(mut logits in prop::collection::vec(-8.0f32..8.0, 1..20), seed: u64) {
        let mut one = sampler(|c| (c.top_k, c.seed) = (1, seed));
        let drawn = one.sample(&mut logits.clone());
        let mut greedy = Sampler::new(SamplerConfig::default()).unwrap();
        prop_assert_eq!(drawn, greedy.sample(&mut logits));
    }

    #[test]
    fn equal_seeds_draw_equal_tokens(
        rows in prop::collection::vec(prop::collection::vec(-3.0f32..3.0, 8), 1..20),
        config in configs(),
    ) {
        let run = || -> Vec<u32> {
            let mut sampler = Sampler::new(config.clone()).unwrap();
            rows.iter().map(|row| sampler.sample(&mut row.clone()).unwrap()).collect()
        };
        prop_assert_eq!(run(), run());
    }
}

/// Holds across machines and versions: the draws of a seed are part of what a user repeats.
#[test]
fn the_draws_of_a_seed_are_fixed() {
    let mut sampler = sampler(|c| c.seed = 42);
    let drawn: Vec<u32> = (0..12)
        .map(|_| sampler.sample(&mut four()).unwrap())
        .collect();
    // As a separate xoshiro256++ in Python draws from 0.2, 0.4, 0.1 and 0.3.
    assert_eq!(drawn, [3, 1, 3, 3, 3, 1, 0, 2, 1, 3, 1, 3]);
}

/// Logits that are the likelier the higher the id.
const RISING: [f32; 4] = [0.0, 1.0, 2.0, 3.0];

#[test]
fn processors_run_before_the_warpers_in_their_order() {
    // Without the ban top-k would leave token 3 alone.
    let mut one = sampler(|c| c.top_k = 1).with_processor(BanTokens::new([3]));
    assert_eq!(support(&mut one, &RISING), [2]);
    let add = |_: &[u32], logits: &mut [f32]| logits[0] += 10.0;
    let double = |_: &[u32], logits: &mut [f32]| logits[0] *= 2.0;
    let mut logits = RISING;
    let mut greedy = Sampler::new(SamplerConfig::default())
        .unwrap()
        .with_processor(add)
        .with_processors([Box::new(double) as Box<dyn LogitsProcessor>]);
    assert_eq!(greedy.sample(&mut logits), Ok(0));
    assert_eq!(logits[0], 20.0);
}

#[test]
fn processors_receive_prompt_and_answer() {
    type Calls = Vec<(&'static str, Vec<u32>)>;
    #[derive(Clone, Default)]
    struct Record(Arc<Mutex<Calls>>);
    impl LogitsProcessor for Record {
        fn observe(&mut self, prompt: &[u32]) {
            self.0.lock().unwrap().push(("prompt", prompt.to_vec()));
        }
        fn process(&mut self, so_far: &[u32], _logits: &mut [f32]) {
            self.0.lock().unwrap().push(("answer", so_far.to_vec()));
        }
    }
    let record = Record::default();
    let mut greedy = Sampler::new(SamplerConfig::default())
        .unwrap()
        .with_processor(record.clone());
    greedy.observe(&[8, 9]);
    greedy.observe(&[7]);
    for _ in 0..2 {
        greedy.sample(&mut RISING.clone()).unwrap();
    }
    // A second answer: the first stands before it.
    greedy.observe(&[6]);
    greedy.sample(&mut RISING.clone()).unwrap();
    let calls = [
        ("prompt", vec![8, 9]),
        ("prompt", vec![7]),
        ("answer", vec![]),
        ("answer", vec![3]),
        ("prompt", vec![3, 3]),
        ("prompt", vec![6]),
        ("answer", vec![]),
    ];
    assert_eq!(*record.0.lock().unwrap(), calls);
}

#[test]
fn what_a_processor_breaks_is_refused() {
    for temperature in [0.0, 1.0] {
        for broken in [f32::NAN, f32::INFINITY] {
            let set = move |_: &[u32], logits: &mut [f32]| logits[2] = broken;
            // The second would hide what the first does.
            let mut sampler = sampler(|c| c.temperature = temperature)
                .with_processor(set)
                .with_processor(BanTokens::new([2]));
            let error = sampler.sample(&mut RISING.clone()).unwrap_err();
            assert!(matches!(error, SamplerError::NotFinite { id: 2, .. }));
        }
        let mut none =
            sampler(|c| c.temperature = temperature).with_processor(AllowTokens::new([9]));
        let error = none.sample(&mut RISING.clone());
        assert_eq!(error, Err(SamplerError::NoTokens));
    }
}

/// A repetition penalty of one's own is the sampler's, over prompt, answer and a second answer.
#[test]
fn the_repetition_penalty_is_a_processor() {
    let config = SamplerConfig {
        repetition_penalty: 1.7,
        ..SamplerConfig::default()
    };
    let mut with_config = Sampler::new(config).unwrap();
    let mut with_processor = Sampler::new(SamplerConfig::default())
        .unwrap()
        .with_processor(RepetitionPenalty::new(1.7).unwrap());
    for round in 0..12 {
        let mut logits = [2.0, 1.9, 1.8, 1.7, -0.1];
        let mut other = logits;
        if round % 5 == 0 {
            with_config.observe(&[round % 4]);
            with_processor.observe(&[round % 4]);
        }
        let drawn = with_config.sample(&mut logits);
        assert_eq!(drawn, with_processor.sample(&mut other));
        assert_eq!(logits, other);
    }
    let mut logits = [1.0];
    RepetitionPenalty::new(2.0)
        .unwrap()
        .process(&[0, 7], &mut logits);
    assert_eq!(logits, [0.5], "a token without a logit is skipped");
}

#[test]
fn a_generator_of_ones_own_draws() {
    let config = || SamplerConfig {
        temperature: 1.0,
        seed: 42,
        ..SamplerConfig::default()
    };
    let mut seeded = Sampler::new(config()).unwrap();
    let rng = Xoshiro256PlusPlus::seed_from_u64(42);
    let mut given = Sampler::from_rng(config(), rng).unwrap();
    let mut other = Sampler::from_rng(config(), SmallRng::seed_from_u64(1)).unwrap();
    let draw = |sampler: &mut Sampler| -> Vec<u32> {
        (0..64)
            .map(|_| sampler.sample(&mut four()).unwrap())
            .collect()
    };
    let drawn = draw(&mut seeded);
    assert_eq!(drawn, draw(&mut given));
    assert_ne!(drawn, draw(&mut other));
}
