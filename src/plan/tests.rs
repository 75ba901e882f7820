use super::*;
use crate::apb::{CompressorConfig, DocumentLengths, Method, PrefillConfig, RingLayout};
use crate::model::{Architecture, DecoderConfig};

/// Llama-3.1-8B.
fn llama() -> DecoderConfig {
    DecoderConfig::new(Architecture::Llama, 128_256, 4096, 14_336, 32, 32, 8, 128)
}

fn planner(device: &str) -> Planner {
    Planner::new(llama(), Hardware::known(device).unwrap())
}

fn settings(method: Method, ranks: usize) -> PrefillConfig {
    PrefillConfig::new(method, ranks).with_compressor(CompressorConfig::Retaining {
        heads: "heads.safetensors".into(),
    })
}

const K: usize = 1024;

/// Table 5 of the paper (arXiv 2502.12085): seconds of a prefill of Llama-3.1-8B on eight A800, on one with
/// FlashAttention, at 32K to 512K tokens; none where it was out of memory.
const PAPER: [(&str, [Option<f64>; 5]); 5] = [
    ("flash", [Some(3.46), Some(9.51), Some(30.01), None, None]),
    (
        "ulysses",
        [Some(0.50), Some(1.30), Some(3.95), Some(13.49), Some(49.55)],
    ),
    (
        "ring",
        [Some(0.72), Some(2.00), Some(6.34), Some(21.80), Some(81.62)],
    ),
    (
        "star",
        [Some(0.67), Some(1.43), Some(3.50), Some(9.63), Some(30.43)],
    ),
    (
        "apb",
        [Some(0.49), Some(1.09), Some(2.79), Some(5.53), Some(13.39)],
    ),
];

#[test]
fn the_papers_table_comes_out() {
    let planner = planner("a800");
    for (name, row) in PAPER {
        for (tokens, paper) in [32, 64, 128, 256, 512].map(|n| n * K).into_iter().zip(row) {
            let settings = match name {
                "flash" => settings(Method::Full, 1),
                "ulysses" => settings(Method::Ulysses, 8),
                "ring" => settings(Method::Ring, 8).with_ring_layout(RingLayout::Contiguous),
                "star" => settings(Method::Star, 8),
                // The lengths of the paper's runs: 4K and 2K from 128K on.
                _ => settings(Method::Apb, 8)
                    .with_anchor((tokens / 32).min(4 * K))
                    .with_passing((tokens / 64).min(2 * K)),
            };
            let predicted = planner
                .predict(&settings, &DocumentLengths::new(tokens))
                .unwrap();
            assert_eq!(
                predicted.fits,
                Some(paper.is_some()),
                "{name} {tokens}: {:?}",
                predicted.memory
            );
            let Some(paper) = paper else { continue };
            let within = if name == "flash" { 0.15 } else { 0.10 };
            let off = predicted.seconds() / paper - 1.0;
            assert!(
                off.abs() <= within,
                "{name} at {tokens}: {:.2} s predicted, {paper} s published",
                predicted.seconds()
            );
        }
    }
}

/// The breakdown of a layer at 128K tokens under APB, in milliseconds.
#[test]
fn the_papers_breakdown_comes_out() {
    let settings = settings(Method::Apb, 8)
        .with_anchor(4 * K)
        .with_passing(2 * K);
    let predicted = planner("a800")
        .predict(&settings, &DocumentLengths::new(128 * K))
        .unwrap();
    assert_eq!(predicted.critical_rank, 7);
    let published = [
        ("projections", 4.01),
        ("selection", 1.72),
        ("exchange", 0.62),
        ("attention", 34.07),
        ("mlp", 2.67 + 30.76),
        ("other", 6.33),
    ];
    for ((name, seconds), (same, published)) in predicted.parts.named().into_iter().zip(published) {
        assert_eq!(name, same);
        let milliseconds = seconds / 32.0 * 1e3;
        let off = milliseconds / published - 1.0;
        assert!(
            off.abs() < 0.25,
            "{name}: {milliseconds:.2} ms, {published}"
        );
    }
}

/// Pairs of rows and keys are those that the methods' own layouts make visible, counted one by one.
#[test]
fn attention_is_counted_as_it_is_computed() {
    let config = DecoderConfig::new(Architecture::Llama, 64, 12, 16, 2, 6, 2, 4);
    for tokens in [24, 37, 96] {
        let document = DocumentLengths::new(tokens).with_anchor_query(2);
        for method in Method::ALL {
            for layout in [RingLayout::Zigzag, RingLayout::Contiguous] {
                let settings = PrefillConfig::new(method, 3)
                    .with_ring_layout(layout)
                    .with_compressor(CompressorConfig::Random { seed: 0 });
                let plan = settings.plan_lengths(&document, &config).unwrap();
                let ranks = 0..plan.ranks;
                let work = |rank| Work::of(&plan, &config, rank, 2.0, Program::ThisCrate);
                let all: f64 = ranks.clone().map(|rank| work(rank).attention).sum();
                let mut pairs = 0;
                for rank in ranks {
                    let causal = |rows: usize| rows * (rows + 1) / 2;
                    let seen = match (method, rank) {
                        (Method::Star | Method::Apb, 1..) => plan.anchor + plan.passing * rank,
                        _ => 0,
                    };
                    if rank > 0 {
                        pairs += causal(plan.anchor);
                    }
                    for range in plan.owned(rank) {
                        for row in range.clone() {
                            pairs += match method {
                                Method::Star | Method::Apb => seen + row - range.start + 1,
                                _ => row + 1,
                            };
                        }
                    }
                }
                assert_eq!(all, (4 * 24 * pairs) as f64, "{method} {layout:?} {tokens}");
            }
        }
    }
}

/// What a rank receives in the layers that are computed to their end; tests/library compares with what a group counts.
#[test]
fn an_exchange_is_counted_in_its_dtype() {
    let planner = planner("h100");
    let document = DocumentLengths::new(64 * K).with_anchor_query(32);
    let bytes = |method| {
        let predicted = planner.predict(&settings(method, 8), &document).unwrap();
        predicted.exchange_bytes
    };
    let kv_row = 2 * 8 * 128 * 2;
    assert_eq!(bytes(Method::Full), 0);
    assert_eq!(bytes(Method::Star), 0);
    assert_eq!(bytes(Method::Ring), (31 * 7 * 8 * K * kv_row) as u64);
    assert_eq!(bytes(Method::Apb), (31 * 7 * K * kv_row) as u64);
    // Four query heads, a KV head of all rows of the others; 28 heads of its own rows back.
    let ulysses = 7 * 8 * K * (4 + 2) * 128 * 2 + 8 * K * 28 * 128 * 2;
    assert_eq!(bytes(Method::Ulysses), 31 * ulysses as u64);
}

#[test]
fn more_ranks_or_shorter_documents_never_take_more_memory_each() {
    let planner = planner("h100");
    for method in Method::ALL {
        let bytes = |ranks, tokens| {
            let document = DocumentLengths::new(tokens).with_anchor_query(32);
            let predicted = planner.predict(&settings(method, ranks), &document);
            predicted.unwrap().memory.total()
        };
        for tokens in [32 * K, 64 * K, 128 * K] {
            assert!(bytes(8, tokens) <= bytes(4, tokens), "{method} {tokens}");
            assert!(bytes(8, tokens) < bytes(8, 2 * tokens), "{method} {tokens}");
        }
    }
}

/// The longest document fits, and one token more does not.
#[test]
fn the_longest_document_is_the_longest() {
    let planner = planner("h100");
    let document = DocumentLengths::new(1).with_anchor_query(32);
    for method in Method::ALL {
        let settings = settings(method, 8);
        let most = planner.max_tokens(&settings, &document).unwrap();
        let fits = |tokens| {
            let document = DocumentLengths { tokens, ..document };
            planner.predict(&settings, &document).unwrap().fits
        };
        assert_eq!(fits(most), Some(true), "{method} {most}");
        assert_eq!(fits(most + 1), Some(false), "{method} {most}");
        assert!(most > 128 * K, "{method} {most}");
    }
}

#[test]
fn short_documents_stay_on_one_device_and_long_ones_do_not() {
    let planner = planner("h100");
    let recommend = |tokens| {
        let document = DocumentLengths::new(tokens).with_anchor_query(32);
        planner.recommend(&settings(Method::Apb, 8), &document)
    };
    let short = recommend(64).unwrap();
    assert_eq!(short.prediction.plan.method, Method::Full);
    assert!(short.reason.contains("one device"), "{}", short.reason);
    let long = recommend(512 * K).unwrap();
    assert_eq!(long.prediction.plan.method, Method::Apb);
    assert_eq!(long.prediction.plan.ranks, 8);
    assert!(
        long.reason.contains("not fit one device"),
        "{}",
        long.reason
    );
    assert!(recommend(1 << 29).is_none());
}

#[test]
fn unknown_devices_are_refused_with_the_nearest_name() {
    let refused = Hardware::known("A-100").unwrap_err().to_string();
    assert!(refused.contains("did you mean a100"), "{refused}");
    for name in Hardware::KNOWN {
        assert_eq!(Hardware::known(name).unwrap().name, name);
    }
}
