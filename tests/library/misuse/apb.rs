//! Documents, plans, sessions and folders that do not belong together.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use burn_apb::apb::compressor::{self, Compressor, CompressorSource, Random, ScoreInput};
use burn_apb::apb::heads::{
    HeadsFile, LabelScale, RetainingHeadConfig, RetainingHeads, RetainingHeadsConfig, convert_heads,
};
use burn_apb::apb::{
    AnchorHeads, Answer, AnswerError, AnswerOptions, ApbAttention, ApbAttentionConfig, AskOptions,
    CancelToken, CompressorConfig, Document, DocumentLengths, Layout, Method, PrefillConfig,
    PrefillPass, PrefillPlan, QueryPass, Request, RingLayout, SaveOptions, SavedSession, Selection,
    Session, SessionConfig, SessionError, TokenLogprobs, answer, answer_over, answer_request,
    answer_with, ask, default_prefill_chunk, discard_unfinished, passes,
};
use burn_apb::checkpoint::{LoadOptions, ModelSource};
use burn_apb::kernels::KernelError;
use burn_apb::model::{
    AttentionShape, CausalLm, DecoderConfig, HiddenRows, KvCache, KvDType, RopeConfig,
};
use burn_apb::ranks::RankGroup;
use burn_apb::text::prompt::{PromptOptions, TemplateChoice};
use burn_apb::text::sampler::{BanTokens, Sampler, SamplerConfig};
use burn_apb::{LanguageModel, ModelText, load_decoder};

use super::{Calls, copy, fixture, halves, small, zeros};

const TEXT: &str = "It was a bright cold day in April, and the clocks were striking thirteen.";
const WORDS: [&str; 4] = ["", "\u{0}", " ", "<|im_end|>"];
const SHAPE: AttentionShape = AttentionShape {
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 8,
};

/// Scores of other shapes than asked for.
#[derive(Debug)]
struct Crooked(usize);

impl Compressor for Crooked {
    fn name(&self) -> &str {
        "crooked"
    }

    fn score(&self, rows: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
        let [batch, heads, seq, _] = rows.projections.key.dims();
        Ok(match self.0 {
            0 => zeros([batch, heads, seq + 1]),
            1 => zeros([batch, heads + 1, seq]),
            2 => zeros([0, 0, 0]),
            3 => zeros([batch, heads, seq]) / 0.0,
            _ => halves([batch, heads, seq]),
        })
    }
}

fn greedy() -> Sampler {
    Sampler::new(SamplerConfig::default()).expect("a sampler")
}

fn document(tokens: usize) -> Document {
    let tokens: Vec<u32> = (0..tokens as u32).map(|token| token * 7 % 512).collect();
    Document::new(tokens).with_anchor_query([1, 2])
}

fn config() -> PrefillConfig {
    let random = CompressorConfig::Random { seed: 1 };
    PrefillConfig::new(Method::Apb, 3).with_compressor(random)
}

fn models_and_documents() -> Calls {
    let mut calls = Calls::default();
    let device = Device::flex();
    let source = ModelSource::open(fixture("models/llama-gqa")).expect("the model");
    let name = "LanguageModel::load";
    for path in ["", "/", "/nowhere", "\u{0}", "Cargo.toml"] {
        calls.refused(name, || LanguageModel::load(path, &device));
        calls.refused("LanguageModel::load_with", || {
            LanguageModel::load_with(path, FloatDType::F64, &device, &mut |_| ())
        });
    }
    calls.refused("LanguageModel::load_with", || {
        let folder = fixture("models/llama-gqa");
        LanguageModel::load_with(folder, FloatDType::F64, &device, &mut |_| ())
    });
    let text = || ModelText::load(&source).expect("its text side");
    calls.refused("LanguageModel::with_text", || {
        let options = LoadOptions::new(FloatDType::Flex32);
        LanguageModel::with_text(text(), &source, options, &device, &mut |_| ())
    });
    calls.refused("LanguageModel::with_text", || {
        let mut text = text();
        text.config.hidden_size += 1;
        LanguageModel::with_text(text, &source, FloatDType::F32, &device, &mut |_| ())
    });
    calls.refused("load_decoder", || {
        let mut config = text().config;
        config.num_hidden_layers = 9;
        load_decoder(&source, &config, FloatDType::F32, &device, &mut |_| ())
    });
    let model = small();
    for path in ["", "/", "/nowhere", "\u{0}"] {
        calls.refused("LanguageModel::open_session", || model.open_session(path));
    }
    let name = "LanguageModel::prefill";
    calls.refused(name, || model.prefill("").run());
    calls.refused("apb::PrefillBuilder::chunk", || {
        let mut one = model.prefill(TEXT).chunk(0).run()?;
        one.ask("Who?").max_tokens(1).run()?;
        Err::<(), _>(AnswerError::from(SessionError::NoDocument))
    });
    calls.refused("apb::PrefillBuilder::limit", || {
        model.prefill(TEXT).limit(0).run()?.ask("Who?").run()
    });
    calls.call("apb::PrefillBuilder::limit", || {
        let mut document = model.prefill(TEXT).limit(usize::MAX).run()?;
        document.ask("Who?").max_tokens(1).run()
    });
    calls.refused("apb::PrefillBuilder::method", || {
        model
            .prefill(TEXT)
            .method(PrefillConfig::new(Method::Apb, 0))
            .run()
    });
    calls.call("apb::PrefillBuilder::hint", || {
        model
            .prefill(TEXT)
            .method(config())
            .hint(TEXT.repeat(9))
            .run()
    });
    calls.refused("apb::PrefillBuilder::prompt", || {
        let named = PromptOptions {
            template: TemplateChoice::Named("none".into()),
            ..PromptOptions::default()
        };
        model.prefill(TEXT).prompt(named).run()
    });
    calls.refused("apb::PrefillBuilder::cancel", || {
        let token = CancelToken::new();
        token.cancel();
        model.prefill(TEXT).cancel(&token).run()
    });
    calls.call("apb::PrefillBuilder::progress", || {
        model.prefill(TEXT).progress(|_| ()).run()
    });

    let mut session = model.prefill(TEXT).run().expect("a document");
    for word in WORDS {
        calls.call("apb::DocumentSession::ask", || {
            session.ask(word).max_tokens(2).run()
        });
        calls.call("apb::Ask::answer_prefix", || {
            session.ask("Who?").answer_prefix(word).max_tokens(2).run()
        });
        calls.call("apb::Ask::stop_text", || {
            session.ask("Who?").stop_text(word).max_tokens(2).run()
        });
    }
    for tokens in [usize::MAX, usize::MAX / 2, 1 << 40] {
        calls.refused("apb::Ask::max_tokens", || {
            session.ask("Who?").max_tokens(tokens).run()
        });
        calls.refused("apb::Ask::max_tokens", || {
            session.ask("Who?").max_tokens(tokens).stream()
        });
    }
    calls.call("apb::Ask::max_tokens", || {
        session.ask("Who?").max_tokens(0).run()
    });
    for top in [0, 512, usize::MAX] {
        calls.call("apb::Ask::logprobs", || {
            session.ask("Who?").logprobs(top).max_tokens(2).run()
        });
    }
    calls.call("apb::Ask::stop_token", || {
        session.ask("Who?").stop_token(u32::MAX).max_tokens(2).run()
    });
    calls.refused("apb::Ask::sampling", || {
        let hot = SamplerConfig {
            temperature: f32::NAN,
            ..SamplerConfig::default()
        };
        session.ask("Who?").sampling(hot).run()
    });
    calls.refused("apb::Ask::sampler", || {
        let nothing = greedy().with_processor(BanTokens::new(0..512));
        session.ask("Who?").sampler(nothing).run()
    });
    calls.refused("apb::Ask::processor", || {
        let spoil = |_: &[u32], logits: &mut [f32]| logits.fill(f32::NAN);
        session.ask("Who?").processor(spoil).run()
    });
    calls.call("apb::Ask::cancel", || {
        let token = CancelToken::new();
        token.cancel();
        session.ask("Who?").cancel(&token).run()
    });
    calls.call("apb::DocumentSession::set_limit", || session.set_limit(0));
    calls.refused("apb::DocumentSession::ask", || session.ask("Who?").run());
    session.set_limit(usize::MAX);
    session.set_prompt(PromptOptions {
        template: TemplateChoice::Source("{{".into()),
        ..PromptOptions::default()
    });
    calls.refused("apb::DocumentSession::set_prompt", || {
        session.ask("Who?").run()
    });
    let folder = tempfile::tempdir().expect("a folder");
    for path in ["", "/proc/nowhere", "\u{0}", "/dev/null"] {
        calls.refused("apb::DocumentSession::save", || session.save(path));
        calls.refused("apb::DocumentSession::save_over", || {
            session.save_over(path)
        });
    }
    session.save(folder.path()).expect("saved");
    calls.refused("apb::DocumentSession::save", || session.save(folder.path()));
    calls.refused("LanguageModel::open_session", || {
        // One byte of the keys is another.
        let file = std::fs::read_dir(folder.path()).expect("a folder");
        let largest = file
            .map(|entry| entry.expect("an entry").path())
            .max_by_key(|path| path.metadata().expect("a size").len())
            .expect("a file");
        let mut bytes = std::fs::read(&largest).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&largest, bytes).expect("written");
        model.open_session(folder.path())
    });
    calls
}

fn plans() -> Calls {
    let mut calls = Calls::default();
    let name = "apb::PrefillConfig::plan";
    calls.refused(name, || config().plan(&document(0), SHAPE));
    calls.refused("apb::PrefillConfig::new", || {
        PrefillConfig::new(Method::Ring, 0).plan(&document(9), SHAPE)
    });
    for ranks in [10, usize::MAX] {
        for method in [Method::Ring, Method::Ulysses, Method::Star, Method::Apb] {
            calls.refused("apb::PrefillConfig::new", || {
                PrefillConfig::new(method, ranks).plan(&document(9), SHAPE)
            });
        }
    }
    for rows in [99, usize::MAX, usize::MAX / 2 + 1] {
        calls.refused("apb::PrefillConfig::with_anchor", || {
            config().with_anchor(rows).plan(&document(40), SHAPE)
        });
        calls.refused("apb::PrefillConfig::with_passing", || {
            config().with_passing(rows).plan(&document(40), SHAPE)
        });
    }
    calls.refused("apb::Document::with_prefix", || {
        config().plan(&document(40).with_prefix(usize::MAX), SHAPE)
    });
    calls.refused("apb::Document::with_anchor_query", || {
        let long = document(40).with_anchor_query(vec![1; 99]);
        config().with_anchor(8).plan(&long, SHAPE)
    });
    calls.refused("apb::Document::new", || {
        let none = Document::new(Vec::new());
        PrefillConfig::default().plan(&none, SHAPE)
    });
    calls.refused("apb::PrefillConfig::with_compressor", || {
        let aware = config().with_compressor(CompressorConfig::QueryAware);
        let unaware = Document::new(document(40).tokens);
        aware.plan(&unaware, SHAPE)
    });
    calls.call("apb::PrefillConfig::with_ring_layout", || {
        let config = PrefillConfig::new(Method::Ring, 3);
        config
            .with_ring_layout(RingLayout::Contiguous)
            .plan(&document(3), SHAPE)
    });
    let lengths = calls.call("apb::DocumentLengths::new", || {
        DocumentLengths::new(usize::MAX)
    });
    let lengths = lengths.expect("lengths");
    calls.call("apb::DocumentLengths::with_prefix", || {
        lengths.with_prefix(usize::MAX)
    });
    calls.call("apb::DocumentLengths::with_anchor_query", || {
        lengths.with_anchor_query(usize::MAX)
    });
    calls.call("apb::PrefillConfig::plan_lengths", || {
        let lengths = lengths
            .with_prefix(usize::MAX)
            .with_anchor_query(usize::MAX);
        config().plan_lengths(&lengths, SHAPE)
    });
    calls.call(name, || {
        let nothing = AttentionShape {
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
        };
        Method::ALL.map(|method| PrefillConfig::new(method, 2).plan(&document(40), nothing))
    });
    let plan = config().plan(&document(60), SHAPE).expect("a plan");
    for rank in [3, usize::MAX] {
        calls.call("apb::PrefillPlan::owned", || plan.owned(rank));
        calls.call("apb::PrefillPlan::owned_len", || plan.owned_len(rank));
        calls.call("apb::PrefillPlan::selectable", || plan.selectable(rank));
        calls.call("apb::Layout::new", || Layout::new(&plan, rank..rank, true));
        calls.call("apb::Layout::new", || {
            Layout::new(&plan, rank - 1..rank, false)
        });
        calls.call("apb::Layout::with_own_anchors", || {
            Layout::new(&plan, rank - 1..rank, false).with_own_anchors(&plan)
        });
    }
    let full = PrefillConfig::default().plan(&document(60), SHAPE);
    let full = full.expect("a plan");
    for chunk in [0, 1, usize::MAX] {
        let found = calls.call("apb::passes", || {
            passes(&plan, 9..9, Some(&Random::new(1)), chunk);
            passes(&full, 0..1, None, chunk)
        });
        let rows = |pass: &Layout| pass.local_len();
        assert_eq!(found.iter().flatten().map(rows).sum::<usize>(), 60);
    }
    calls.refused("apb::PrefillPlan::set_custom_compressor", || {
        plan.clone().set_custom_compressor(Arc::new(Crooked(0)))
    });
    for kind in 0..5 {
        let name = "apb::PrefillConfig::with_custom_compressor";
        let run = || {
            let own = config().with_custom_compressor(Arc::new(Crooked(kind)));
            small().prefill(TEXT).method(own).run().map(|_| ())
        };
        match kind {
            3 | 4 => drop(calls.call(name, run)),
            _ => calls.refused(name, run),
        }
    }
    calls.call("apb::compressor::Random::new", || Random::new(u64::MAX));
    let absent = || {
        let mut plan = plan.clone();
        plan.compressor = CompressorConfig::Retaining {
            heads: "/nowhere".into(),
        };
        plan
    };
    let device = Device::flex();
    calls.refused("apb::compressor::CompressorSource::open", || {
        CompressorSource::open(&absent(), SHAPE)
    });
    calls.refused("apb::compressor::load", || {
        compressor::load(&absent(), SHAPE, FloatDType::F32, &device)
    });

    // Heads.
    let heads = fixture("heads/good");
    let file = std::fs::read_dir(&heads).expect("the fixture").next();
    let file = file.expect("a file").expect("an entry").path();
    for path in ["", "/", "/nowhere", "\u{0}", "Cargo.toml"] {
        calls.refused("apb::heads::HeadsFile::open", || {
            HeadsFile::open(path, SHAPE)
        });
        calls.refused("apb::heads::RetainingHeads::load", || {
            RetainingHeads::load(path, SHAPE, FloatDType::F32, &device)
        });
        calls.refused("apb::heads::convert_heads", || {
            convert_heads(path, "/nowhere/heads.safetensors", None)
        });
    }
    calls.refused("apb::heads::convert_heads", || {
        convert_heads(&file, "/proc/nowhere/x", Some(""))
    });
    for text in ["", "{", r#"{"mean": [[1]], "std": [[0]]}"#] {
        calls.refused("apb::heads::LabelScale::from_json", || {
            LabelScale::from_json(text)
        });
    }
    for std in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        calls.refused("apb::heads::LabelScale::new", || {
            LabelScale::new(vec![vec![0.0]], vec![vec![std]])
        });
    }
    let odd = [
        SHAPE,
        AttentionShape { layers: 0, ..SHAPE },
        AttentionShape { heads: 3, ..SHAPE },
        AttentionShape {
            kv_heads: 0,
            ..SHAPE
        },
        AttentionShape {
            head_dim: 0,
            ..SHAPE
        },
    ];
    for shape in odd {
        for width in [0, 1] {
            let name = "apb::heads::RetainingHeadsConfig::init";
            let config = RetainingHeadsConfig::new().with_width(width);
            calls.call(name, || config.init(shape, &device));
            let name = "apb::heads::RetainingHeadConfig::init";
            let config = RetainingHeadConfig::new(shape.heads, shape.kv_heads, shape.head_dim);
            let head = calls.call(name, || config.with_width(width).init(&device));
            let Some(head) = head else { continue };
            calls.call("apb::heads::RetainingHead::forward", || {
                head.forward(zeros([1, 3, 64]))
            });
            calls.refused("apb::heads::RetainingHead::forward", || {
                head.forward(zeros([1, 3, 65]))
            });
            calls.refused("apb::heads::RetainingHead::score", || {
                head.score(zeros([1, 3, 32]), zeros([1, 4, 16]), zeros([1, 3, 16]))
            });
        }
    }
    calls.tried.extend([
        "apb::heads::RetainingHeadsConfig::with_width",
        "apb::heads::RetainingHeadConfig::with_width",
        "apb::heads::RetainingHeadConfig::new",
    ]);
    calls
}

fn sessions() -> Calls {
    let mut calls = Calls::default();
    let model = small();
    let decoder = model.decoder.clone();
    let new = |capacity| Session::new(decoder.clone(), SessionConfig::new(capacity));
    let go_on = |_, _| ControlFlow::Continue(());
    for capacity in [0, 1, usize::MAX, 1 << 58] {
        calls.refused("apb::SessionConfig::new", || {
            let mut session = new(capacity);
            session.prefill(&[1, 2, 3], go_on)?;
            session.extend(&vec![1; 5000])
        });
    }
    calls.refused("apb::Session::new", || new(usize::MAX).extend(&[1]));
    for ids in [&[][..], &[512], &[u32::MAX]] {
        calls.refused("apb::Session::prefill", || new(64).prefill(ids, go_on));
        let mut session = new(64);
        session.prefill(&[1, 2, 3], go_on).expect("a prefill");
        calls.refused("apb::Session::extend", || session.extend(ids));
        calls.refused("apb::Session::ask", || {
            session.ask(ids, &mut greedy(), &[u32::MAX], 2, |_| {
                ControlFlow::Continue(())
            })
        });
        calls.call("apb::Session::broadcast_tokens", || {
            session.broadcast_tokens(ids)
        });
        calls.refused("apb::Session::follow", || session.follow(ids, 2));
        let cancel = CancelToken::new();
        for (question, answer) in [(ids, &[1][..]), (&[1], ids)] {
            calls.refused("apb::Session::answer_logits", || {
                session.answer_logits(question, answer, &cancel, |_, _| {})
            });
        }
    }
    let mut session = new(64);
    session.prefill(&[1, 2, 3], go_on).expect("a prefill");
    for tokens in [0, usize::MAX] {
        let options = AskOptions {
            stop_tokens: &[u32::MAX],
            max_tokens: tokens,
            logprobs: Some(usize::MAX),
            cancel: None,
            keep: tokens == 0,
        };
        calls.call("apb::Session::ask_with", || {
            let stop = |_| ControlFlow::Break(());
            session.ask_with(&[1], &mut greedy(), options, stop)
        });
    }
    calls.call("apb::Session::set_limit", || session.set_limit(0));
    calls.call("apb::Session::set_limit", || session.extend(&[1]));
    let cpu = Device::flex();
    calls.call("apb::default_prefill_chunk", || default_prefill_chunk(&cpu));
    for chunk in [Some(0), Some(usize::MAX), None] {
        let mut config = SessionConfig::new(64);
        config.chunk = chunk;
        calls.call("apb::SessionConfig::chunk_on", || config.chunk_on(&cpu));
    }
    for (name, config) in [
        (
            "apb::SessionConfig::with_chunk",
            SessionConfig::new(64).with_chunk(0),
        ),
        (
            "apb::SessionConfig::with_context",
            SessionConfig::new(64).with_context(0),
        ),
        (
            "apb::SessionConfig::with_kv_dtype",
            SessionConfig::new(64).with_kv_dtype(KvDType::of(FloatDType::F64)),
        ),
        (
            "apb::SessionConfig::with_limit",
            SessionConfig::new(64).with_limit(0),
        ),
    ] {
        calls.call(name, || {
            Session::new(decoder.clone(), config).prefill(&[1, 2, 3], go_on)
        });
    }
    calls.refused("apb::Session::with_group", || {
        let mut session = new(64).with_group(RankGroup::local(2));
        let plan = config().plan(&document(60), model.decoder.shape())?;
        session
            .prefill_with(&document(60), &plan, Some(&Random::new(1)), &mut ())
            .map_err(Box::<dyn std::error::Error>::from)
    });

    // A plan of another document, of another model, or changed.
    let name = "apb::Session::prefill_with";
    let shape = model.decoder.shape();
    let plan = config().plan(&document(60), shape).expect("a plan");
    let random = Random::new(1);
    let run = |document: &Document, plan: &PrefillPlan| {
        let mut session = new(256).with_group(RankGroup::local(plan.ranks));
        session.prefill_with(document, plan, Some(&random), &mut ())
    };
    for tokens in [0, 1, 59, 61] {
        calls.refused(name, || run(&document(tokens), &plan));
    }
    calls.refused(name, || run(&Document::new(document(60).tokens), &plan));
    let edits: [&dyn Fn(&mut PrefillPlan); 10] = [
        &|plan| plan.anchor = usize::MAX,
        &|plan| plan.anchor = 59,
        &|plan| plan.anchor = 0,
        &|plan| plan.passing = usize::MAX,
        &|plan| plan.passing = 999,
        &|plan| plan.ranks = 60,
        &|plan| plan.tokens = usize::MAX,
        &|plan| plan.tokens = 0,
        &|plan| plan.anchor_query = 50..usize::MAX,
        &|plan| plan.anchor_query = Range { start: 9, end: 2 },
    ];
    for edit in edits {
        let mut plan = plan.clone();
        edit(&mut plan);
        calls.refused(name, || run(&document(60), &plan));
        calls.call("apb::Layout::new", || Layout::new(&plan, 0..2, true));
        calls.call("apb::PrefillPlan::owned", || plan.owned(1));
        calls.call("apb::PrefillPlan::selectable", || plan.selectable(1));
        calls.call("apb::PrefillPlan::owned_len", || plan.owned_len(2));
        calls.refused("apb::Request::from_tokens", || {
            let request = Request::from_tokens(document(60), plan.clone(), vec![1], 4, 0);
            request.prefill(decoder.clone(), RankGroup::local(3), &mut ())
        });
    }
    calls.refused(name, || {
        let mut session = new(256).with_group(RankGroup::local(3));
        session.prefill_with(&document(60), &plan, None, &mut ())
    });
    calls.refused("apb::Request::broadcast", || {
        Request::broadcast(None, &mut RankGroup::local(1))
    });
    let other = Device::flex();
    let narrow = DecoderConfig::new(burn_apb::model::Architecture::Llama, 8, 8, 8, 1, 1, 1, 8);
    calls.refused("apb::Request::prefill", || {
        let request = Request::from_tokens(document(60), plan.clone(), vec![1], 4, 16);
        request.prefill(Arc::new(narrow.init(&other)), RankGroup::local(3), &mut ())
    });

    // Saved sessions.
    let folder = tempfile::tempdir().expect("a folder");
    let mut saved = new(64);
    saved.prefill(&[1, 2, 3], go_on).expect("a prefill");
    for path in ["", "/proc/nowhere", "\u{0}"] {
        let options = SaveOptions::default().with_replace(true);
        calls.refused("apb::Session::save", || {
            saved.save(Path::new(path), "model", options)
        });
        calls.refused("apb::Session::prepare_save", || {
            saved.prepare_save(Path::new(path), "model", options)
        });
        calls.call("apb::discard_unfinished", || {
            discard_unfinished(Path::new(path), usize::MAX)
        });
        calls.refused("apb::SavedSession::open", || SavedSession::open(path));
    }
    calls.refused("apb::Session::save", || {
        new(64).save(folder.path(), "model", SaveOptions::default())
    });
    saved
        .save(folder.path(), "model", SaveOptions::default())
        .expect("saved");
    calls.refused("apb::SaveOptions::check", || {
        SaveOptions::default()
            .with_replace(false)
            .check(folder.path())
    });
    calls.tried.insert("apb::SaveOptions::with_replace");
    let opened = SavedSession::open(folder.path()).expect("opened");
    calls.refused("apb::SavedSession::check_model", || opened.check_model(""));
    calls.refused("apb::SavedSession::check_setting", || {
        opened.check_setting("", 1, 2)
    });
    calls.refused("apb::SavedSession::check_dtype", || {
        opened.check_dtype(FloatDType::F16)
    });
    for following in [usize::MAX, 1 << 58] {
        calls.refused("apb::SavedSession::restore", || {
            opened.restore(decoder.clone(), following)
        });
    }
    calls.refused("apb::SavedSession::restore", || {
        opened.restore(Arc::new(narrow.init(&other)), 4)
    });

    // Answers.
    let options = AnswerOptions {
        max_tokens: 2,
        ..AnswerOptions::default()
    };
    for word in WORDS {
        calls.call("apb::answer_with", || {
            answer_with(&model, TEXT, word, &options, &mut ()).map(|_| ())
        });
    }
    calls.refused("apb::answer", || answer(&model, "", ""));
    calls.refused("apb::answer_with", || {
        let options = AnswerOptions {
            max_tokens: usize::MAX,
            headroom: usize::MAX,
            ..AnswerOptions::default()
        };
        answer_with(&model, TEXT, "Who?", &options, &mut ())
    });
    let name = "apb::AnswerOptions::check_context";
    for tokens in [usize::MAX, usize::MAX / 2 + 1] {
        calls.refused(name, || {
            options.check_context(&model.text.config, tokens, tokens)
        });
    }
    let request = Request::new(&model.text, TEXT, "Who?", &options).expect("a request");
    calls.refused("apb::Request::new", || {
        Request::new(&model.text, "", "Who?", &options)
    });
    calls.refused("apb::answer_request", || {
        let mut request = request.clone();
        request.query = vec![u32::MAX];
        answer_request(&model, &request, &options, &mut ())
    });
    calls.refused("apb::answer_over", || {
        let mut request = request.clone();
        request.document.tokens.clear();
        let group = RankGroup::local(1);
        answer_over(group, &model, &request, &options, &mut ())
    });
    calls.refused("apb::answer_over", || {
        let three = AnswerOptions {
            prefill: config(),
            ..options.clone()
        };
        let request = Request::new(&model.text, TEXT, "Who?", &three)?;
        answer_over(RankGroup::local(2), &model, &request, &three, &mut ())
    });
    calls.refused("apb::ask", || {
        ask(&model.text, &mut new(64), &[1], &options, &mut ())
    });
    calls.call("apb::Answer::new", || {
        let mut session = new(64);
        session.prefill(&[1, 2, 3], go_on)?;
        let reply = ask(&model.text, &mut session, &[1], &options, &mut ())?;
        let answer = Answer::new(&request, reply, f64::NAN);
        Ok::<f64, AnswerError>(answer.prefill_tokens_per_second())
    });
    let heads = LanguageModel::load(fixture("models/llama-gqa"), &other).expect("the model");
    calls.call("apb::Request::check_heads", || {
        request.check_heads(&heads.text.config, &heads.source)
    });
    for (logits, token, top) in [
        (&[][..], 0, 0),
        (&[1.0, 2.0], 2, 1),
        (&[1.0, 2.0], u32::MAX, usize::MAX),
        (&[f32::NAN, f32::NAN], 0, 5),
    ] {
        calls.call("apb::TokenLogprobs::new", || {
            TokenLogprobs::new(logits, token, top)
        });
    }
    calls
}

fn modules() -> Calls {
    let mut calls = Calls::default();
    let device = Device::flex();
    for sizes in [
        [0, 0, 0, 0],
        [32, 4, 3, 8],
        [32, 4, 2, 7],
        [0, 4, 2, 8],
        [32, 0, 1, 8],
    ] {
        let [hidden, heads, kv_heads, head_dim] = sizes;
        let config = ApbAttentionConfig::new(hidden, heads, kv_heads, head_dim)
            .with_qk_norm(Some(f64::NAN))
            .with_qkv_bias(true)
            .with_output_bias(true)
            .with_retaining_width(Some(0));
        let module = calls.call("apb::ApbAttentionConfig::init", || config.init(&device));
        let Some(module) = module else { continue };
        let rope = RopeConfig::new().init(8, 16).tables(0..3, &device);
        calls.call("apb::ApbAttention::forward", || {
            module.forward(zeros([1, 3, 32]), &rope)
        });
    }
    calls.tried.extend([
        "apb::ApbAttentionConfig::new",
        "apb::ApbAttentionConfig::with_output_bias",
        "apb::ApbAttentionConfig::with_qk_norm",
        "apb::ApbAttentionConfig::with_qkv_bias",
        "apb::ApbAttentionConfig::with_retaining_width",
    ]);
    let config = ApbAttentionConfig::new(32, 4, 2, 8).with_retaining_width(Some(8));
    let module: ApbAttention = config.init(&device);
    let rope = RopeConfig::new().init(8, 64);
    let tables = rope.tables(0..3, &device);
    calls.refused("apb::ApbAttention::forward", || {
        module.forward(zeros([1, 4, 32]), &tables)
    });
    calls.refused("apb::ApbAttention::project", || {
        module.project(zeros([1, 3, 31]), &tables)
    });
    calls.refused("apb::ApbAttention::output", || {
        module.output(zeros([1, 3, 31]))
    });
    let rows = module.project(zeros([1, 3, 32]), &tables).expect("rows");
    calls.refused("apb::ApbAttention::score", || {
        let mut rows = rows.clone();
        rows.key_flat = zeros([1, 2, 16]);
        module.score(&rows)
    });
    let scores = || zeros([1, 2, 6]);
    #[expect(clippy::reversed_empty_ranges, reason = "a wrong argument")]
    for range in [0..7, 4..2, 0..usize::MAX] {
        calls.refused("apb::ApbAttention::select", || {
            ApbAttention::select(scores(), None, range.clone(), 2)
        });
        calls.refused("apb::Selection::highest", || {
            Selection::highest(scores(), Some(zeros([1, 3, 2])), range.clone(), 2)
        });
    }
    let selected = Selection::highest(scores(), None, 0..6, 2).expect("selected");
    calls.refused("apb::Selection::gather", || {
        selected.gather(zeros([1, 3, 6, 8]), zeros([1, 3, 6, 8]))
    });
    let anchor = || AnchorHeads {
        key: zeros([1, 2, 2, 8]),
        value: zeros([1, 2, 2, 8]),
    };
    let keys = || zeros([1, 2, 3, 8]);
    calls.refused("apb::ApbAttention::attend", || {
        ApbAttention::attend(zeros([1, 4, 9, 8]), &[], &anchor(), (keys(), keys()))
    });
    calls.refused("apb::ApbAttention::attend", || {
        let passing = [zeros([3, 2, 2, 8])];
        ApbAttention::attend(zeros([1, 4, 5, 8]), &passing, &anchor(), (keys(), keys()))
    });
    calls.refused("apb::ApbAttention::attend", || {
        let wide = (zeros([1, 2, 3, 9]), keys());
        ApbAttention::attend(zeros([1, 4, 5, 8]), &[], &anchor(), wide)
    });
    calls.refused("apb::ApbAttention::exchange", || {
        ApbAttention::exchange(&mut RankGroup::local(2), vec![keys()])
    });

    // Passes over layers that the cache, the plan or the group does not have.
    let plan = config_of(&module).expect("a plan");
    let layout = Layout::new(&plan, 0..3, false);
    let hidden = |rank: usize| {
        let rows = &layout.ranks[rank];
        let positions = rows.positions().into_iter().flatten();
        HiddenRows {
            hidden: zeros([1, rows.len(), 32]),
            rope: rope.tables(positions, &device),
        }
    };
    let all: Vec<_> = (0..3).map(hidden).collect();
    let shape = AttentionShape { layers: 1, ..SHAPE };
    let random = Random::new(1);
    let cache = |capacity| {
        let dtype = KvDType::F32;
        KvCache::new(shape, 1, capacity, dtype, &device).expect("a cache")
    };
    let mut prefill = |layer, ranks: &[HiddenRows], ranks_of_group, capacity| {
        let (mut group, mut cache) = (RankGroup::local(ranks_of_group), cache(capacity));
        let run = || {
            let pass = PrefillPass::new(&plan, &layout, Some(&random), &mut group, &mut cache);
            let mut pass = pass
                .ended_at(usize::MAX)
                .with_tile(0)
                .with_cancel(CancelToken::new());
            module.prefill(layer, ranks, &mut pass)
        };
        calls.refused("apb::ApbAttention::prefill", run);
    };
    prefill(usize::MAX, &all, 3, 64);
    prefill(0, &[], 3, 64);
    prefill(0, &all[..2], 3, 64);
    prefill(0, &all, 3, 2);
    prefill(0, &[all[0].clone(), all[0].clone(), all[0].clone()], 3, 64);
    prefill(0, &all, 7, 64);
    calls.tried.extend([
        "apb::PrefillPass::new",
        "apb::PrefillPass::ended_at",
        "apb::PrefillPass::with_tile",
        "apb::PrefillPass::with_cancel",
    ]);
    calls.refused("apb::PrefillPass::push_scored", || {
        let (mut group, mut cache) = (RankGroup::local(3), cache(64));
        let mut pass = PrefillPass::new(&plan, &layout, None, &mut group, &mut cache);
        pass.push_scored(0, 9, rows.clone(), Some(&random))
    });
    let mut step = |layer, local, seq: usize, shared: Option<&KvCache>| {
        let (mut group, mut cache) = (RankGroup::local(1), cache(8));
        let rows = HiddenRows {
            hidden: zeros([1, seq, 32]),
            rope: rope.tables(0..3, &device),
        };
        calls.refused("apb::ApbAttention::step", || {
            let pass = QueryPass::new(&mut group, &mut cache, local);
            let mut pass = pass.with_shared(shared).with_cancel(CancelToken::new());
            module.step(layer, rows, &mut pass)
        });
    };
    step(9, 0, 3, None);
    step(0, 5, 3, Some(&cache(2)));
    step(0, 0, 4, None);
    step(0, usize::MAX, 3, Some(&cache(2)));
    calls.tried.extend([
        "apb::QueryPass::new",
        "apb::QueryPass::with_shared",
        "apb::QueryPass::with_cancel",
    ]);
    calls
}

fn config_of(_: &ApbAttention) -> Option<PrefillPlan> {
    config().plan(&document(60), SHAPE).ok()
}

/// Heads of one model given to another.
fn heads_of_another() -> Calls {
    let mut calls = Calls::default();
    let source = ModelSource::open(fixture("models/llama-gqa")).expect("the model");
    let shape = AttentionShape::from(&ModelText::load(&source).expect("text").config);
    let device = Device::flex();
    let folder = copy("models/llama-gqa");
    let file = folder.path().join("heads.safetensors");
    std::fs::write(&file, b"not heads").expect("written");
    calls.refused("apb::heads::HeadsFile::open", || {
        HeadsFile::open(&file, shape)
    });
    calls.refused("apb::heads::HeadsFile::load", || {
        let file = crate::heads_for("another model", folder.path());
        let file = HeadsFile::open(file, shape)?;
        file.load(FloatDType::F64, &device)
    });
    let named = crate::heads_for("another model", folder.path());
    calls.refused("apb::heads::HeadsFile::check_model", || {
        HeadsFile::open(&named, shape)?.check_model(&source)
    });
    let plan = || {
        let mut plan = config().plan(&document(60), shape).expect("a plan");
        plan.compressor = CompressorConfig::Retaining {
            heads: named.clone(),
        };
        plan
    };
    calls.refused("apb::compressor::CompressorSource::check_model", || {
        CompressorSource::open(&plan(), shape)?.check_model(&source)
    });
    calls.refused("apb::compressor::CompressorSource::load", || {
        CompressorSource::open(&plan(), shape)?.load(FloatDType::F64, &device)
    });
    calls.refused("apb::Request::check_heads", || {
        let request = Request::from_tokens(document(60), plan(), vec![1], 4, 16);
        request.check_heads(shape, &source)
    });
    calls
}

#[test]
fn apb() {
    let parts: [fn() -> Calls; 5] = [
        models_and_documents,
        plans,
        sessions,
        modules,
        heads_of_another,
    ];
    Calls::of(&parts).finish(&["apb", "LanguageModel", "load_decoder"], &[]);
}
