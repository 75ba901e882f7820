//! A needle-in-a-haystack evaluation: inserts a number in long texts, at several depths and with several
//! keys, and counts the right answers of each prefill method.
//!
//! ```sh
//! cargo run --release --example needle -- MODEL_DIR --tokens 1000,2000,3000 --ranks 4 --out needle.jsonl
//! ```
//!
//! The question is that of RULER's single-needle task (arXiv 2404.06654), the text Newton's *Opticks*
//! unless `--text` gives another; the numbers are the same in every run. With `--out` an interrupted run
//! is resumed.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::Device;
use burn_apb::LanguageModel;
use burn_apb::apb::{
    AnswerOptions, CompressorConfig, Method, Observer, PrefillConfig, Request, answer_request,
};
use burn_apb::text::sampler::SamplerConfig;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const OPTICKS: &str = include_str!("../../examples/data/opticks.txt");
/// Where the treatise begins, after the credits of the edition.
const TITLE: &str = "OPTICKS:";
/// The keys of the numbers, in the order of `--keys`.
const KEYS: [&str; 10] = [
    "harbor", "lantern", "meadow", "violin", "granite", "orchard", "compass", "feather", "saddle",
    "thunder",
];
/// Most tokens of an answer.
const ANSWER_TOKENS: usize = 32;
/// The difference below which two depths are equal.
const SAME_DEPTH: f64 = 1e-9;
/// Standard deviations on either side that hold 95 % of a normal distribution.
const Z95: f64 = 1.959_964;

/// Insert a number in a long text and ask for it, for each length, depth, key and method
#[derive(Parser)]
struct Args {
    /// Folder or GGUF file of the model
    #[arg(value_name = "MODEL_DIR")]
    model: PathBuf,
    /// Lengths of the document, in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1000,2000,3000"
    )]
    tokens: Vec<usize>,
    /// Ranks to split the document over
    #[arg(long, value_name = "H", default_value_t = 4)]
    ranks: usize,
    /// Depths at which the number is inserted, spread evenly
    #[arg(long, value_name = "N", default_value_t = 10)]
    depths: usize,
    /// Names and numbers asked for at each depth
    #[arg(long, value_name = "N", default_value_t = 5)]
    keys: usize,
    /// apb: rows of the anchor, its query included [default: a quarter of a block]
    #[arg(long, value_name = "N")]
    anchor: Option<usize>,
    /// apb: rows that each rank passes on for each KV head [default: an eighth of a block]
    #[arg(long, value_name = "N")]
    passing: Option<usize>,
    /// Retaining heads of apb-retaining, which is left out without them
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// Methods to compare
    #[arg(
        long,
        value_enum,
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "full,star,apb-retaining,apb-query-aware,apb-random"
    )]
    methods: Vec<Strategy>,
    /// Text to insert the numbers in [default: Newton's Opticks]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Results, one JSON line each; those of the same settings are reused. Model, heads and text are the
    /// same when they have the same path
    #[arg(long, value_name = "FILE.jsonl")]
    out: Option<PathBuf>,
    /// Print the table's numbers as one JSON object
    #[arg(long)]
    json: bool,
}

/// A prefill method, with the compressor that selects the passing rows.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Strategy {
    Full,
    Star,
    ApbRetaining,
    ApbQueryAware,
    ApbRandom,
}

impl Strategy {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// None for retaining heads without `--heads`.
    fn prefill(self, args: &Args) -> Option<PrefillConfig> {
        let compressor = match self {
            Self::Full => return Some(PrefillConfig::default()),
            Self::Star => return Some(PrefillConfig::new(Method::Star, args.ranks)),
            Self::ApbRetaining => CompressorConfig::Retaining {
                heads: args.heads.clone()?,
            },
            Self::ApbQueryAware => CompressorConfig::QueryAware,
            Self::ApbRandom => CompressorConfig::Random { seed: 0 },
        };
        Some(PrefillConfig {
            anchor: args.anchor,
            passing: args.passing,
            ..PrefillConfig::new(Method::Apb, args.ranks).with_compressor(compressor)
        })
    }
}

/// The settings that a result depends on beside its case: only those that the method uses, so that the
/// results of full attention stay valid with another anchor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Settings {
    model: PathBuf,
    /// None for Newton's *Opticks*.
    source: Option<PathBuf>,
    method: Strategy,
    ranks: usize,
    /// None for the library's default, as for `passing`.
    anchor: Option<usize>,
    passing: Option<usize>,
    heads: Option<PathBuf>,
}

impl Settings {
    fn new(args: &Args, method: Strategy, prefill: &PrefillConfig) -> Self {
        let heads = match &prefill.compressor {
            CompressorConfig::Retaining { heads } => Some(heads.clone()),
            _ => None,
        };
        Self {
            model: args.model.clone(),
            source: args.text.clone(),
            method,
            ranks: prefill.ranks,
            anchor: prefill.anchor,
            passing: prefill.passing,
            heads,
        }
    }
}

/// One question, for each method.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Case {
    tokens: usize,
    depth: f64,
    key: String,
    number: String,
}

impl Case {
    fn new(tokens: usize, depth: f64, key: usize) -> Self {
        Self {
            tokens,
            depth,
            key: KEYS[key].to_owned(),
            number: number(key, depth).to_string(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        (self.tokens, &self.key, &self.number) == (other.tokens, &other.key, &other.number)
            && (self.depth - other.depth).abs() < SAME_DEPTH
    }

    fn question(&self) -> String {
        let key = &self.key;
        format!("What is the special magic number for {key} mentioned in the text?")
    }

    fn needle(&self) -> String {
        let Self { key, number, .. } = self;
        format!("One of the special magic numbers for {key} is: {number}.")
    }

    /// About as many tokens as asked for, with the needle among them.
    fn document(&self, model: &LanguageModel, text: &Text) -> Result<String, Box<dyn Error>> {
        let needle = self.needle();
        let room = model.text.tokenizer.encode(&needle, false)?.len();
        let text = text.beginning(self.tokens.saturating_sub(room))?;
        Ok(insert(text, &needle, self.depth))
    }
}

/// The cases of one length, each key at one depth before the next depth.
fn cases(args: &Args, tokens: usize) -> impl Iterator<Item = Case> {
    let (depths, keys) = (args.depths, args.keys);
    (0..depths).flat_map(move |i| {
        let depth = (i as f64 + 0.5) / depths as f64;
        (0..keys).map(move |key| Case::new(tokens, depth, key))
    })
}

/// One answer: a line of `--out`.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    settings: Settings,
    #[serde(flatten)]
    case: Case,
    answered: bool,
    text: String,
    prefill_seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    args.tokens.sort_unstable();
    args.tokens.dedup();
    if args.depths == 0 || !(1..=KEYS.len()).contains(&args.keys) {
        return Err(format!("1 or more depths and 1 to {} keys can be had", KEYS.len()).into());
    }
    let mut strategies = Vec::new();
    for (i, &method) in args.methods.iter().enumerate() {
        if args.methods[..i].contains(&method) {
            continue;
        }
        match method.prefill(&args) {
            Some(prefill) => strategies.push((Settings::new(&args, method, &prefill), prefill)),
            None => eprintln!("{} is left out: it needs --heads", method.name()),
        }
    }
    if strategies.is_empty() {
        return Err("no method is left".into());
    }

    let mut results = Results::open(args.out.as_deref())?;
    let mut pending = Vec::new();
    for case in args.tokens.iter().flat_map(|&tokens| cases(&args, tokens)) {
        for (settings, prefill) in &strategies {
            if results.find(settings, &case).is_none() {
                pending.push((case.clone(), settings, prefill));
            }
        }
    }
    if !pending.is_empty() {
        evaluate(&args, &pending, &mut results)?;
    }
    let settings: Vec<_> = strategies.iter().map(|(settings, _)| settings).collect();
    let table = Table::new(&args, &settings, &results);
    match args.json {
        true => println!("{}", table.json()),
        false => print!("{}", table.markdown()),
    }
    Ok(())
}

/// Runs the pending cases, in this order.
fn evaluate(
    args: &Args,
    pending: &[(Case, &Settings, &PrefillConfig)],
    results: &mut Results,
) -> Result<(), Box<dyn Error>> {
    let model = LanguageModel::load(&args.model, &Device::flex())?;
    let text = Text::new(&model, args.text.as_deref())?;
    let request = |case: &Case, prefill: &PrefillConfig| {
        let options = AnswerOptions {
            max_tokens: ANSWER_TOKENS,
            sampler: Some(SamplerConfig::default()),
            prefill: prefill.clone(),
            ..AnswerOptions::default()
        };
        let document = case.document(&model, &text)?;
        let request = Request::new(&model.text, &document, &case.question(), &options)?;
        Ok::<_, Box<dyn Error>>((request, options))
    };
    // An impossible length is refused now, not after hours of others.
    let mut checked = Vec::new();
    for (case, settings, prefill) in pending {
        let kind = (case.tokens, settings.method);
        if !checked.contains(&kind) {
            request(case, prefill)?;
            checked.push(kind);
        }
    }

    let bar = ProgressBar::new(pending.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{msg} [{bar:32}] {pos}/{len}, {eta} left",
    )?);
    bar.enable_steady_tick(Duration::from_millis(200));
    for (case, settings, prefill) in pending {
        bar.set_message(format!(
            "{} tokens, {}",
            case.tokens,
            settings.method.name()
        ));
        let (request, options) = request(case, prefill)?;
        let mut observer = AnswerObserver::new(&case.number);
        let answer = answer_request(&model, &request, &options, &mut observer)?;
        results.push(Line {
            settings: (*settings).clone(),
            case: case.clone(),
            answered: answer.text.contains(&case.number),
            text: answer.text,
            prefill_seconds: answer.prefill_seconds,
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Stops an answer when it contains the number, or a line with another one.
struct AnswerObserver<'a> {
    number: &'a str,
    text: String,
}

impl<'a> AnswerObserver<'a> {
    fn new(number: &'a str) -> Self {
        let text = String::new();
        Self { number, text }
    }
}

impl Observer for AnswerObserver<'_> {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        self.text.push_str(text);
        // A line without a digit only introduces the answer.
        let ended = self.text.rsplit_once('\n');
        let another = ended.is_some_and(|(lines, _)| lines.contains(|c: char| c.is_ascii_digit()));
        match another || self.text.contains(self.number) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// The text that the numbers are inserted in, and the ends of its tokens.
struct Text {
    text: String,
    ends: Vec<usize>,
}

impl Text {
    fn new(model: &LanguageModel, file: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let text = match file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?,
            None => OPTICKS[OPTICKS.find(TITLE).unwrap_or(0)..].to_owned(),
        };
        let encoded = model.text.tokenizer.encode_with_spans(&text, false)?;
        let ends = encoded.spans.iter().map(|span| span.1).collect();
        Ok(Self { text, ends })
    }

    fn beginning(&self, tokens: usize) -> Result<&str, Box<dyn Error>> {
        if tokens > self.ends.len() {
            let all = self.ends.len();
            return Err(format!("the text has {all} tokens, and {tokens} are asked for").into());
        }
        let end = tokens.checked_sub(1).map_or(0, |last| self.ends[last]);
        Ok(&self.text[..self.text.floor_char_boundary(end)])
    }
}

/// Inserts the needle after the last sentence that ends before `depth`.
fn insert(text: &str, needle: &str, depth: f64) -> String {
    let end = text.floor_char_boundary((text.len() as f64 * depth) as usize);
    let mut before = text[..end].char_indices().rev().peekable();
    let mut place = 0;
    while let Some((at, space)) = before.next() {
        let sentence = before
            .peek()
            .is_some_and(|(_, c)| ['.', '!', '?'].contains(c));
        if space.is_whitespace() && sentence {
            place = at + space.len_utf8();
            break;
        }
    }
    let (before, after) = text.split_at(place);
    format!("{before}{needle} {after}")
}

/// Seven digits, a function of key and depth.
fn number(key: usize, depth: f64) -> u32 {
    // Mixes the bits, unlike `from_seed`, whose first values are similar for seeds with many zeros.
    let seed = depth.to_bits().wrapping_add(key as u64);
    Xoshiro256PlusPlus::seed_from_u64(seed).random_range(1_000_000..10_000_000)
}

/// The answers so far, and the file they are written to.
struct Results {
    lines: Vec<Line>,
    file: Option<File>,
}

impl Results {
    /// Reads the results of an earlier run, without the partial line that a kill may leave at the end.
    fn open(path: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let mut lines = Vec::new();
        let Some(path) = path else {
            return Ok(Self { lines, file: None });
        };
        let cannot = |error| format!("cannot use {}: {error}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(cannot)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(cannot)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        for (i, line) in bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
            let line = serde_json::from_slice(line).map_err(|error| {
                let path = path.display();
                format!(
                    "line {} of {path} is no result of this evaluation: {error}",
                    i + 1
                )
            })?;
            lines.push(line);
        }
        file.set_len(whole as u64).map_err(cannot)?;
        file.seek(SeekFrom::End(0)).map_err(cannot)?;
        Ok(Self {
            lines,
            file: Some(file),
        })
    }

    fn find(&self, settings: &Settings, case: &Case) -> Option<&Line> {
        let same = |line: &&Line| line.settings == *settings && line.case.is(case);
        self.lines.iter().find(same)
    }

    fn push(&mut self, line: Line) -> Result<(), Box<dyn Error>> {
        if let Some(file) = &mut self.file {
            let text = serde_json::to_string(&line)? + "\n";
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
        self.lines.push(line);
        Ok(())
    }
}

/// The number of right answers.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    answered: usize,
    asked: usize,
}

impl Count {
    fn rate(self) -> f64 {
        self.answered as f64 / self.asked as f64
    }

    /// Wilson's 95 % interval of the rate.
    fn interval(self) -> (f64, f64) {
        let (n, z2) = (self.asked as f64, Z95 * Z95);
        let p = self.rate();
        let centre = p + z2 / (2.0 * n);
        let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z2 / n;
        let bound = |x: f64| (x / scale).clamp(0.0, 1.0);
        (bound(centre - half), bound(centre + half))
    }

    fn cell(self) -> String {
        let Self { answered, asked } = self;
        let (low, high) = self.interval();
        let [rate, low, high] = [self.rate(), low, high].map(|x| 100.0 * x);
        format!("{answered}/{asked} ({rate:.0} %, {low:.0} to {high:.0})")
    }
}

/// A row a length, and a last one for all of them; a column a method.
struct Table {
    methods: Vec<String>,
    rows: Vec<(Option<usize>, Vec<Count>)>,
}

impl Table {
    fn new(args: &Args, settings: &[&Settings], results: &Results) -> Self {
        let mut rows = Vec::new();
        let mut all = vec![Count::default(); settings.len()];
        for &tokens in &args.tokens {
            let mut counts = vec![Count::default(); settings.len()];
            for (i, settings) in settings.iter().enumerate() {
                for case in cases(args, tokens) {
                    let Some(line) = results.find(settings, &case) else {
                        continue;
                    };
                    for count in [&mut counts[i], &mut all[i]] {
                        count.answered += usize::from(line.answered);
                        count.asked += 1;
                    }
                }
            }
            rows.push((Some(tokens), counts));
        }
        rows.push((None, all));
        let methods = settings.iter().map(|s| s.method.name()).collect();
        Self { methods, rows }
    }

    fn markdown(&self) -> String {
        let mut lines = vec![vec!["tokens".to_owned()]];
        lines[0].extend(self.methods.clone());
        for (tokens, counts) in &self.rows {
            let name = tokens.map_or("all".to_owned(), |tokens| tokens.to_string());
            lines.push(
                std::iter::once(name)
                    .chain(counts.iter().map(|c| c.cell()))
                    .collect(),
            );
        }
        let width = |column: usize| lines.iter().map(|l| l[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..=self.methods.len()).map(width).collect();
        let mut table = String::new();
        for (i, line) in lines.iter().enumerate() {
            for (cell, &width) in line.iter().zip(&widths) {
                table += &format!("| {cell:>width$} ");
            }
            table += "|\n";
            if i == 0 {
                for width in &widths {
                    table += &format!("|{}:", "-".repeat(width + 1));
                }
                table += "|\n";
            }
        }
        table
    }

    fn json(&self) -> Value {
        let mut rows = Vec::new();
        for (tokens, counts) in &self.rows {
            for (method, count) in self.methods.iter().zip(counts) {
                let (low, high) = count.interval();
                rows.push(json!({
                    "tokens": tokens,
                    "method": method,
                    "answered": count.answered,
                    "asked": count.asked,
                    "rate": count.rate(),
                    "low": low,
                    "high": high,
                }));
            }
        }
        json!({ "rows": rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        // Newcombe 1998 (Statistics in Medicine 17), table I, method 3.
        for (answered, asked, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let (l, h) = Count { answered, asked }.interval();
            assert!((l - low).abs() < 5e-5, "{answered}/{asked}: {l}");
            assert!((h - high).abs() < 5e-5, "{answered}/{asked}: {h}");
        }
        let count = Count {
            answered: 46,
            asked: 50,
        };
        assert_eq!(count.cell(), "46/50 (92 %, 81 to 97)");
    }

    #[test]
    fn the_needle_is_inserted_after_the_sentence_before_the_depth() {
        let text = "One. Two?\nThree is 3.5 é. Four";
        for (depth, hidden) in [
            (0.0, "X. One. Two?\nThree is 3.5 é. Four"),
            (0.2, "One. X. Two?\nThree is 3.5 é. Four"),
            (0.3, "One. X. Two?\nThree is 3.5 é. Four"),
            (0.75, "One. Two?\nX. Three is 3.5 é. Four"),
            (1.0, "One. Two?\nThree is 3.5 é. X. Four"),
        ] {
            assert_eq!(insert(text, "X.", depth), hidden, "{depth}");
        }
        assert_eq!(insert("", "X.", 0.5), "X. ");
    }

    #[test]
    fn keys_and_depths_have_different_numbers() {
        let depths = (0..10).map(|i| (i as f64 + 0.5) / 10.0);
        let all = depths.flat_map(|depth| (0..KEYS.len()).map(move |key| number(key, depth)));
        let numbers: std::collections::BTreeSet<_> = all.collect();
        assert_eq!(numbers.len(), 10 * KEYS.len());
    }

    #[test]
    fn an_answer_ends_with_its_number_or_another_on_a_line() {
        let stops = |pieces: &[&str]| {
            let mut observer = AnswerObserver::new("3254257");
            let stops = |piece: &&str| observer.text(piece).is_break();
            pieces.iter().map(stops).collect::<Vec<_>>()
        };
        assert_eq!(stops(&["It is:\n\n", "3254", "257"]), [false, false, true]);
        assert_eq!(stops(&["1234", "567", ".\n"]), [false, false, true]);
    }

    #[test]
    fn an_interrupted_run_is_resumed() -> Result<(), Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("out.jsonl");
        let args = Args::try_parse_from(["needle", "model", "--anchor", "64"])?;
        let settings = |method: Strategy| {
            let prefill = method.prefill(&args).unwrap_or_default();
            Settings::new(&args, method, &prefill)
        };
        let case = Case::new(1000, 1.0 / 6.0, 2);
        let mut results = Results::open(Some(&path))?;
        results.push(Line {
            settings: settings(Strategy::ApbQueryAware),
            case: case.clone(),
            answered: true,
            text: "two\nlines".to_owned(),
            prefill_seconds: 0.5,
        })?;
        let whole = std::fs::read(&path)?;
        std::fs::write(&path, [&whole[..], &whole[..20]].concat())?;

        let results = Results::open(Some(&path))?;
        assert_eq!(std::fs::read(&path)?, whole);
        let found = |method, case: &Case| results.find(&settings(method), case).is_some();
        assert!(found(Strategy::ApbQueryAware, &case));
        assert!(!found(Strategy::ApbRandom, &case));
        assert!(!found(Strategy::ApbQueryAware, &Case::new(1000, 0.5, 2)));
        assert!(!found(
            Strategy::ApbQueryAware,
            &Case::new(2000, 1.0 / 6.0, 2)
        ));
        Ok(())
    }
}
