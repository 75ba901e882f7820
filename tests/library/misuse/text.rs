//! Ids, texts, templates and settings that nobody meant.

use burn_apb::ModelText;
use burn_apb::checkpoint::ModelSource;
use burn_apb::text::chat_template::{
    ChatMessage, ChatTemplate, ChatTemplateFiles, ChatTemplates, RenderOptions,
};
use burn_apb::text::conversation::Turn;
use burn_apb::text::generation_config::GenerationConfig;
use burn_apb::text::prompt::{PromptOptions, PromptTemplate, TemplateChoice};
use burn_apb::text::sampler::{
    AllowTokens, BanTokens, MinP, RepetitionPenalty, Sampler, SamplerConfig, Temperature, TopK,
    TopP,
};
use burn_apb::text::stop::StopTexts;
use burn_apb::text::text_stream::TextStream;
use burn_apb::text::tokenizer::{TextPiece, Tokenizer, TokenizerFiles};
use rand::SeedableRng;

use super::{Calls, copy, fixture};

const IDS: [u32; 4] = [0, 511, 512, u32::MAX];
const TEXTS: [&str; 6] = [
    "",
    "\u{0}",
    "\u{feff}",
    "\u{202e}a\u{301}",
    "<|im_end|>",
    "\r\n\t ",
];

fn model_text() -> ModelText {
    let source = ModelSource::open(fixture("models/llama-gqa")).expect("the model");
    ModelText::load(&source).expect("its text side")
}

fn samplers() -> Calls {
    let mut calls = Calls::default();
    let odd = [f32::NAN, -1.0, f32::INFINITY, f32::NEG_INFINITY];
    for value in odd {
        calls.refused("text::sampler::Temperature::new", || {
            Temperature::new(value)
        });
        calls.refused("text::sampler::TopP::new", || TopP::new(value));
        calls.refused("text::sampler::MinP::new", || MinP::new(value));
        calls.refused("text::sampler::RepetitionPenalty::new", || {
            RepetitionPenalty::new(value)
        });
        let config = |change: &dyn Fn(&mut SamplerConfig)| {
            let mut config = SamplerConfig {
                temperature: 1.0,
                ..SamplerConfig::default()
            };
            change(&mut config);
            config
        };
        for config in [
            config(&|c| c.temperature = value),
            config(&|c| c.top_p = value),
            config(&|c| c.min_p = value),
            config(&|c| c.repetition_penalty = value),
        ] {
            calls.refused("text::sampler::Sampler::new", || {
                Sampler::new(config.clone())
            });
            calls.refused("text::sampler::Sampler::from_rng", || {
                Sampler::from_rng(config, rand::rngs::StdRng::seed_from_u64(0))
            });
        }
    }
    let name = "text::sampler::Sampler::sample";
    let hot = SamplerConfig {
        temperature: 1.0,
        top_k: usize::MAX,
        top_p: f32::MIN_POSITIVE,
        min_p: 1.0,
        repetition_penalty: 100.0,
        seed: u64::MAX,
    };
    for config in [SamplerConfig::default(), hot] {
        let mut sampler = Sampler::new(config).expect("a sampler");
        calls.call("text::sampler::Sampler::observe", || {
            sampler.observe(&[u32::MAX, 0, 0])
        });
        calls.refused(name, || sampler.sample(&mut []));
        calls.refused(name, || sampler.sample(&mut [f32::NAN, 1.0]));
        calls.refused(name, || sampler.sample(&mut [f32::NEG_INFINITY; 4]));
        calls.call(name, || sampler.sample(&mut [f32::INFINITY; 4]));
        calls.call(name, || sampler.sample(&mut [f32::MAX, f32::MIN]));
    }
    let greedy = || Sampler::new(SamplerConfig::default()).expect("a sampler");
    calls.refused("text::sampler::AllowTokens::new", || {
        let nothing = AllowTokens::new([]);
        greedy().with_processor(nothing).sample(&mut [1.0, 2.0])
    });
    calls.refused("text::sampler::AllowTokens::new", || {
        let beyond = AllowTokens::new([u32::MAX]);
        greedy().with_processor(beyond).sample(&mut [1.0, 2.0])
    });
    calls.refused("text::sampler::AllowTokens::from_fn", || {
        let beyond = AllowTokens::from_fn(|_: &[u32]| vec![7]);
        greedy().with_processor(beyond).sample(&mut [1.0, 2.0])
    });
    calls.refused("text::sampler::BanTokens::new", || {
        let all = BanTokens::new([0, 1, u32::MAX]);
        greedy().with_processor(all).sample(&mut [1.0, 2.0])
    });
    calls.call("text::sampler::TopK::new", || {
        let mut sampler = greedy().with_processor(TopK::new(0));
        let _ = sampler.sample(&mut [1.0, 2.0]);
    });
    calls.refused("text::sampler::Sampler::with_processor", || {
        // One that takes the logits away, and one that spoils them.
        let spoil = |_: &[u32], logits: &mut [f32]| logits.fill(f32::NAN);
        greedy().with_processor(spoil).sample(&mut [1.0, 2.0])
    });
    calls.call("text::sampler::Sampler::with_processors", || {
        greedy().with_processors([])
    });
    calls
}

fn texts() -> Calls {
    let mut calls = Calls::default();
    let model = model_text();
    let tokenizer = &model.tokenizer;

    let name = "text::tokenizer::Tokenizer::from_file";
    for path in ["", "/", "/nowhere/tokenizer.json", "\u{0}"] {
        calls.refused(name, || Tokenizer::from_file(path));
    }
    for bytes in [&b""[..], b"{}", b"[]", b"\xff", b"{\"model\": 5}"] {
        calls.refused("text::tokenizer::Tokenizer::from_bytes", || {
            Tokenizer::from_bytes(bytes)
        });
        calls.refused("text::generation_config::GenerationConfig::parse", || {
            GenerationConfig::parse(&bytes[..bytes.len().min(1)], 0)
        });
        let files = TokenizerFiles {
            tokenizer_json: Some(bytes),
            ..TokenizerFiles::default()
        };
        calls.refused("TokenizerFiles::load", || files.load());
    }
    calls.refused("TokenizerFiles::load", || TokenizerFiles::default().load());
    calls.tried.remove("TokenizerFiles::load");
    for id in IDS {
        calls.call("text::tokenizer::Tokenizer::token", || tokenizer.token(id));
        calls.call("text::tokenizer::Tokenizer::is_added", || {
            tokenizer.is_added(id)
        });
        calls.call("text::tokenizer::Tokenizer::is_control", || {
            tokenizer.is_control(id)
        });
        calls.call("text::tokenizer::Tokenizer::is_special", || {
            tokenizer.is_special(id)
        });
        calls.call("text::text_stream::TextStream::push", || {
            let mut stream = TextStream::new(tokenizer, true);
            let _ = stream.push(id);
            let _ = stream.finish();
        });
        calls.call("text::tokenizer::Tokenizer::with_control_tokens", || {
            model_text().tokenizer.with_control_tokens([id])
        });
    }
    calls.refused("text::text_stream::TextStream::push", || {
        TextStream::new(tokenizer, false).push(u32::MAX)
    });
    calls.call("text::text_stream::TextStream::new", || {
        TextStream::new(tokenizer, false).finish()
    });
    calls.refused("text::tokenizer::Tokenizer::check_ids", || {
        tokenizer.check_ids(&[u32::MAX])
    });
    calls.refused("text::tokenizer::Tokenizer::check_places", || {
        tokenizer.check_places(&["not there".into()])
    });
    for skip in [false, true] {
        calls.refused("text::tokenizer::Tokenizer::decode", || {
            tokenizer.decode(&[u32::MAX], skip)
        });
    }
    for text in TEXTS {
        calls.call("text::tokenizer::Tokenizer::encode", || {
            tokenizer.encode(text, true)
        });
        calls.call("text::tokenizer::Tokenizer::encode_with_spans", || {
            tokenizer.encode_with_spans(text, false)
        });
        calls.call("text::tokenizer::Tokenizer::encode_pieces", || {
            let pieces = [TextPiece::Template(text), TextPiece::Literal(text)];
            tokenizer.encode_pieces(&pieces, true)
        });
        calls.call("text::tokenizer::Tokenizer::control_tokens_in", || {
            tokenizer.control_tokens_in(text)
        });
        calls.call("text::tokenizer::Tokenizer::token_id", || {
            tokenizer.token_id(text)
        });
        calls.call("text::tokenizer::SpecialTokens::get", || {
            model.special_tokens.get(text).map(str::to_owned)
        });
        calls.call("text::stop::StopTexts::push", || {
            let mut stops = StopTexts::new(&[String::new(), text.into()]);
            let found = stops.push(text).0;
            (found, stops.finish())
        });
    }
    calls.call("text::stop::StopTexts::new", || {
        StopTexts::new(&[]).push("text").0
    });
    let loaded = ModelSource::open(fixture("models/llama-gqa")).expect("the model");
    let loaded = loaded.tokenizer().expect("its tokenizer");
    for rows in [0, 1, usize::MAX] {
        calls.call("text::tokenizer::LoadedTokenizer::beyond", || {
            loaded.beyond(rows)
        });
    }
    calls.call(
        "text::generation_config::GenerationConfig::unusable_but",
        || model.generation.unusable_but(&["no such key", ""]).0.len(),
    );
    calls.call(
        "text::generation_config::GenerationConfig::or_tokens_of",
        || GenerationConfig::default().or_tokens_of(GenerationConfig::default()),
    );

    let name = "text::chat_template::ChatTemplate::parse";
    for source in [
        "{{",
        "{% for %}",
        "{% endif %}",
        "{{ 1 / 0 }",
        "{% include 'x' %}",
    ] {
        calls.refused(name, || {
            ChatTemplate::parse(source)?.render(&[], &RenderOptions::default())
        });
    }
    let name = "text::chat_template::ChatTemplate::render";
    for source in [
        "{{ messages[9].content }}{{ raise_exception('no') }}",
        "{% for i in range(99999999999) %}{{ i }}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ 'x' * 99999999999 }}",
        "{{ undefined.field.field }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ] {
        calls.refused(name, || {
            ChatTemplate::parse(source)?.render(&[], &RenderOptions::default())
        });
    }
    for json in ["", "{", "5", "{\"chat_template\": 5}"] {
        calls.refused(
            "text::chat_template::ChatTemplate::from_tokenizer_config",
            || ChatTemplate::from_tokenizer_config(json)?.ok_or(none()),
        );
        calls.refused("text::chat_template::ChatTemplate::from_texts", || {
            ChatTemplate::from_texts(None, Some(json))?.ok_or(none())
        });
        calls.call("text::chat_template::ChatTemplates::read", || {
            let files = ChatTemplateFiles {
                jinja: Some("{{"),
                tokenizer_config: Some(json),
                chat_template_json: Some(json),
                ..ChatTemplateFiles::default()
            };
            let templates = ChatTemplates::read(&files)?;
            templates.select(Some("default"), false)
        });
    }
    let templates = ChatTemplates::default();
    for name in ["", "default", "../x"] {
        calls.refused("text::chat_template::ChatTemplates::select", || {
            templates.select(Some(name), true)
        });
        calls.call("text::chat_template::ChatTemplates::source", || {
            templates.source(name).map(str::to_owned)
        });
        calls.refused("text::prompt::TemplateChoice::of", || {
            TemplateChoice::Named(name.into()).of(&templates, false)
        });
    }
    calls.refused("text::chat_template::ChatTemplates::parse", || {
        templates.parse("{{")
    });
    calls.call(
        "text::chat_template::ChatTemplates::with_special_tokens",
        || templates.clone().with_special_tokens(&model.special_tokens),
    );
    calls.call(
        "text::chat_template::ChatTemplate::with_special_token",
        || {
            let template = ChatTemplate::parse("{{ messages }}{{ x }}")?;
            let template = template.with_special_token("messages", "");
            template.render(&[], &RenderOptions::default())
        },
    );
    for name in [
        "text::chat_template::ChatMessage::new",
        "text::chat_template::ChatMessage::with",
    ] {
        calls.call(name, || {
            let message = ChatMessage::new("", 5)
                .with("role", vec![1])
                .with("", false);
            (message.role().len(), message.text())
        });
    }
    calls.call("text::chat_template::ChatMessage::get", || {
        ChatMessage::new("", "").get("").is_some()
    });

    for source in [
        "{{ messages[0].role }}",
        "",
        "{{ messages[-1].content | upper }}",
    ] {
        calls.refused("text::prompt::PromptTemplate::from_chat", || {
            let template = ChatTemplate::parse(source).expect("a template");
            PromptTemplate::from_chat(&template, Some(""), &RenderOptions::default())
        });
    }
    let template = PromptTemplate::default()
        .with_answer_prefix("\u{0}")
        .with_allow_control_tokens(true);
    calls.tried.extend([
        "text::prompt::PromptTemplate::with_answer_prefix",
        "text::prompt::PromptTemplate::with_allow_control_tokens",
    ]);
    for text in TEXTS {
        let parts = calls.call("text::prompt::PromptTemplate::parts", || {
            template.parts(text, text)
        });
        for vocabulary in [0, 1, usize::MAX] {
            if let Some(Ok(parts)) = &parts {
                calls.call("text::prompt::PromptParts::split", || {
                    parts.split(tokenizer, vocabulary)
                });
            }
            calls.call("text::prompt::PromptTemplate::split_query", || {
                template.split_query(tokenizer, text, vocabulary)
            });
        }
        let options = PromptOptions {
            system: Some(text.into()),
            template: TemplateChoice::Source(text.into()),
            answer_prefix: text.into(),
            allow_control_tokens: true,
            ..PromptOptions::default()
        };
        calls.call("ModelText::prompt_template", || {
            model.prompt_template(&options).is_ok()
        });
        calls.call("ModelText::split", || model.split(text, text, &options));
        calls.call("ModelText::split_turns", || {
            let turn = |question: &str| Turn {
                question: question.into(),
                answer: text.into(),
            };
            model.split_turns(&[turn(text), turn("")], text, &options)
        });
        calls.call("ModelText::split_query", || {
            model.split_query(text, &options)
        });
        calls.call("ModelText::stop_tokens_of", || {
            model.stop_tokens_of(&options)
        });
    }
    calls.refused("text::prompt::PromptParts::split", || {
        template.parts("a text", "a question")?.split(tokenizer, 1)
    });
    calls.refused("ModelText::load", || {
        let folder = copy("models/llama-gqa");
        std::fs::write(folder.path().join("tokenizer.json"), "{").expect("written");
        ModelText::load(&ModelSource::open(folder.path()).expect("the folder"))
    });
    calls
}

#[test]
fn text() {
    Calls::of(&[samplers, texts]).finish(&["text", "ModelText"], &[]);
}

fn none() -> burn_apb::text::chat_template::ChatTemplateError {
    ChatTemplate::parse("{{").expect_err("no template")
}
