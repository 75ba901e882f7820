//! Tasks of no length, texts without words, files that are no data sets, and measures of nothing.

use std::io::Cursor;

use burn_apb::apb::{CancelToken, Session, SessionConfig};
use burn_apb::eval::statistics::{
    Estimate, Interval, average_over_tasks, mean, paired_difference, wilson_interval,
};
use burn_apb::eval::{Agreement, ReferenceAnswer, answer_logprob};
use burn_apb::tasks::infinitebench::{self, InfiniteBenchTask};
use burn_apb::tasks::infinitebench_generated::{
    self as generated, Generated, GeneratedConfig, GeneratedTask, PromptLength,
};
use burn_apb::tasks::longbench;
use burn_apb::tasks::niah::{self, Niah, NiahConfig};
use burn_apb::tasks::ruler::{self, QuestionSet, Ruler, RulerConfig, RulerTask, Sources};
use burn_apb::tasks::{CountError, Haystack, SynthesisConfig, Synthesizer};

use super::{Calls, small};

const WILD: [&str; 6] = ["", "\u{0}", "{", "[]", "null", "{\"data\": [{}]}"];

fn words(text: &str) -> Result<usize, CountError> {
    Ok(text.split_whitespace().count())
}

#[test]
fn tasks() {
    let mut calls = Calls::default();
    for text in ["", " \n\t"] {
        calls.refused("tasks::Haystack::new", || Haystack::new(text));
    }
    for json in WILD {
        calls.refused("tasks::ruler::QuestionSet::squad", || {
            QuestionSet::squad(json)
        });
        calls.refused("tasks::ruler::QuestionSet::hotpotqa", || {
            QuestionSet::hotpotqa(json)
        });
        for task in InfiniteBenchTask::ALL {
            calls.call("tasks::infinitebench::read", || {
                infinitebench::read(task, Cursor::new(json)).collect::<Vec<_>>()
            });
        }
        calls.call("tasks::longbench::read", || {
            longbench::read(Cursor::new(json)).collect::<Vec<_>>()
        });
    }
    let haystack = Haystack::new("One word. Another.").expect("words");
    let failing = |_: &str| Err::<usize, CountError>("no tokenizer".into());
    for tokens in [0, 3, usize::MAX] {
        for depth in [0.5, -1.0, f64::NAN] {
            let config = NiahConfig {
                tokens,
                depth,
                seed: u64::MAX,
            };
            calls.refused("tasks::niah::Niah::new", || {
                Niah::new(config.clone(), &haystack, &words)
            });
        }
        for task in RulerTask::ALL {
            let config = RulerConfig {
                task,
                tokens,
                seed: 0,
            };
            calls.refused("tasks::ruler::Ruler::new", || {
                Ruler::new(config.clone(), Sources::default(), &words)
            });
            calls.refused("tasks::ruler::Ruler::new", || {
                Ruler::new(config.clone(), Sources::default(), &failing)
            });
        }
        for task in GeneratedTask::ALL {
            let config = GeneratedConfig {
                task,
                length: PromptLength::Tokens(tokens),
                seed: 0,
            };
            calls.refused("tasks::infinitebench_generated::Generated::new", || {
                Generated::new(config.clone(), &words)
            });
        }
    }
    samples(&mut calls, &haystack);
    synthesis(&mut calls);
    for answer in ["", "\u{0}", "12345", "\u{1f600} (A)", &"9".repeat(5000)] {
        for references in [vec![], vec![String::new()], vec!["9".repeat(400)]] {
            calls.call("tasks::niah::score_needle", || {
                niah::score_needle(answer, &references)
            });
            calls.call("tasks::longbench::score", || {
                longbench::score(answer, &references)
            });
            for task in RulerTask::ALL {
                calls.call("tasks::ruler::score", || {
                    ruler::score(task, answer, &references)
                });
            }
            for task in GeneratedTask::ALL {
                calls.call("tasks::infinitebench_generated::score", || {
                    generated::score(task, answer, &references)
                });
            }
            for task in InfiniteBenchTask::ALL {
                calls.call("tasks::infinitebench::score", || {
                    infinitebench::score(task, answer, &references)
                });
            }
        }
        calls.call("tasks::longbench::chosen", || longbench::chosen(answer));
    }
    calls.finish(&["tasks"], &[]);
}

/// Samples to train on.
fn synthesis(calls: &mut Calls) {
    #[expect(clippy::reversed_empty_ranges, reason = "wrong arguments")]
    for tokens in [0..=0, 9..=2, 0..=usize::MAX, 300..=400] {
        for samples in [0, 1, usize::MAX] {
            let config = || SynthesisConfig::new(samples, tokens.clone()).with_seed(u64::MAX);
            calls.refused("tasks::Synthesizer::new", || {
                Synthesizer::new("a short text", config(), &words).map(|_| ())
            });
        }
    }
    calls.tried.extend([
        "tasks::SynthesisConfig::new",
        "tasks::SynthesisConfig::with_seed",
    ]);
    let long = "The river is long, and it is cold in the winter. ".repeat(500);
    let synthesizer = Synthesizer::new(&long, SynthesisConfig::new(1, 300..=400), &words);
    let Ok(synthesizer) = synthesizer else {
        panic!("no synthesizer");
    };
    calls.refused("tasks::Synthesizer::sample", || {
        synthesizer.sample(usize::MAX).map(|_| ())
    });
}

/// Samples of any index.
fn samples(calls: &mut Calls, haystack: &Haystack) {
    let niah = NiahConfig {
        tokens: 400,
        depth: 1.0,
        seed: 0,
    };
    let niah = Niah::new(niah, haystack, &words).expect("a task");
    let ruler = RulerConfig {
        task: RulerTask::Fwe,
        tokens: 2000,
        seed: 0,
    };
    let ruler = Ruler::new(ruler, Sources::default(), &words).expect("a task");
    let generated = GeneratedConfig {
        task: GeneratedTask::MathFind,
        length: PromptLength::Tokens(400),
        seed: 0,
    };
    let generated = Generated::new(generated, &words).expect("a task");
    for index in [0, usize::MAX] {
        calls.call("tasks::niah::Niah::sample", || niah.sample(index));
        calls.call("tasks::ruler::Ruler::sample", || ruler.sample(index));
        calls.call("tasks::infinitebench_generated::Generated::sample", || {
            generated.sample(index)
        });
    }
}

#[test]
fn eval() {
    let mut calls = Calls::default();
    for samples in [&[][..], &[f64::NAN], &[f64::INFINITY], &[f64::MAX; 3]] {
        calls.refused("eval::statistics::mean", || mean(samples));
        calls.refused("eval::statistics::average_over_tasks", || {
            average_over_tasks(&[samples])
        });
        calls.refused("eval::statistics::paired_difference", || {
            paired_difference(samples, &[0.0, 1.0])
        });
    }
    for (successes, trials) in [(1, 0), (usize::MAX, 3)] {
        calls.refused("eval::statistics::wilson_interval", || {
            wilson_interval(successes, trials)
        });
    }
    let wild = Interval {
        low: f64::NAN,
        high: f64::NAN,
    };
    calls.call("eval::statistics::Estimate::excludes_zero", || {
        let value = f64::NAN;
        let interval = wild;
        Estimate { value, interval }.excludes_zero()
    });

    let model = small();
    let new = || Session::new(model.decoder.clone(), SessionConfig::new(64));
    let cancel = CancelToken::new();
    let go_on = |_, _| std::ops::ControlFlow::Continue(());
    let mut session = new();
    session.prefill(&[1, 2, 3], go_on).expect("a prefill");
    let reference = ReferenceAnswer::new(&mut session, &[4], &[], 4, &cancel).expect("an answer");
    for question in [&[][..], &[512], &[1; 100]] {
        calls.refused("eval::ReferenceAnswer::new", || {
            ReferenceAnswer::new(&mut session, question, &[u32::MAX], 4, &cancel)
        });
        calls.refused("eval::Agreement::measure", || {
            Agreement::measure(&mut session, question, &reference, &cancel)
        });
        calls.refused("eval::answer_logprob", || {
            answer_logprob(&mut session, question, &[1], &cancel)
        });
        calls.refused("eval::answer_logprob", || {
            answer_logprob(&mut session, &[1], question, &cancel)
        });
    }
    calls.refused("eval::ReferenceAnswer::new", || {
        ReferenceAnswer::new(&mut new(), &[1], &[], 4, &cancel)
    });
    calls.refused("eval::ReferenceAnswer::new", || {
        ReferenceAnswer::new(&mut session, &[1], &[], 0, &cancel)
    });
    calls.call("eval::ReferenceAnswer::answer", || reference.answer().len());
    calls.call("eval::ReferenceAnswer::tokens", || reference.tokens().len());
    calls.call("eval::ReferenceAnswer::logprob", || reference.logprob());
    cancel.cancel();
    calls.refused("eval::ReferenceAnswer::new", || {
        ReferenceAnswer::new(&mut session, &[1], &[], 4, &cancel)
    });
    calls.refused("eval::Agreement::measure", || {
        Agreement::measure(&mut session, &[1], &reference, &cancel)
    });
    calls.finish(&["eval"], &[]);
}
