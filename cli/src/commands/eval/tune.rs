//! `apb eval tune`: the shortest anchor and passing lengths that keep a method near full attention.

use std::io::{self, Write};

use burn_apb::apb::{Method, Request};
use burn_apb::eval::statistics::{Estimate, mean};
use burn_apb::plan::{Hardware, Planner};
use serde_json::{Value, json};

use super::agreement::{Comparison, column, estimate_json, open_log, small};
use super::flags::{Flags, Setting};
use super::questions::{Asked, Length, Question};
use super::subject::Subject;
use crate::charts::{ChartError, FrontPoint, Reference, Scale, ScatterFront, scatter_front};
use crate::error::CliError;
use crate::limits::{at_least_one, distinct};
use crate::output::Output;
use crate::predict;
use crate::variant;

/// Parts of a block that anchors and passing blocks are tried with.
const ANCHOR_PARTS: [usize; 4] = [16, 8, 4, 2];
const PASSING_PARTS: [usize; 4] = [32, 16, 8, 4];

/// Find the shortest anchor and passing lengths that stay near full attention
///
/// Every pair of lengths is compared with full attention on your document and questions, as `apb eval agreement` does,
/// and its time is predicted, as `apb plan` does. Printed is the front: settings that no other beats in both.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    asked: Asked,
    /// Anchor lengths to try, in rows [default: 1/16, 1/8, 1/4 and 1/2 of a block, where the questions fit them]
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        conflicts_with = "anchor"
    )]
    anchors: Vec<usize>,
    /// Passing lengths to try, in rows [default: 1/32, 1/16, 1/8 and 1/4 of a block]
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        conflicts_with = "passing"
    )]
    passings: Vec<usize>,
    /// Divergence to stay within, in nats a token: the upper end of its interval counts
    #[arg(
        long,
        value_name = "NATS",
        default_value_t = 0.02,
        allow_negative_numbers = true
    )]
    within: f64,
    /// What each rank runs on, for the times: a100, a800, h100, h200, or measured: this machine's CPU
    #[arg(long, value_name = "NAME", default_value = "measured")]
    hardware: String,
}

/// Lengths, what they cost and what they do.
struct Point {
    name: String,
    /// Of APB; none of the methods that stand beside.
    lengths: Option<(usize, usize)>,
    seconds: f64,
    kl: Estimate,
    front: bool,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    args.check()?;
    let known = match args.hardware.as_str() {
        "measured" => None,
        name => {
            let known = Hardware::known(name);
            Some(known.map_err(|error| CliError::usage(format!("--hardware: {error}")))?)
        }
    };
    let flags = &args.flags;
    flags.check()?;
    variant::check_used(&flags.strategy, Some(&flags.anchor), &[Method::Apb.into()])?;
    let material = args.asked.read()?;
    let subject = Subject::open(flags, output)?;
    let lengths = material.lengths(&subject)?;
    let [length] = &lengths[..] else {
        return Err(CliError::failed("there is not one length"));
    };
    let mut settings = args.candidates(&subject, length, &material.questions)?;
    let star = settings.len();
    settings.push(flags.settings_of([Method::Star.into()])?.remove(0));
    let comparison = Comparison {
        flags,
        subject: &subject,
        questions: &material.questions,
        max_tokens: args.asked.max_tokens,
        settings: &settings,
        answers: false,
    };
    comparison.check(length)?;
    let mut log = open_log("tune", flags, &subject, &material, args.asked.max_tokens)?;
    let decoder = comparison.run(&lengths, &mut log, output)?;

    let config = &subject.text.config;
    let hardware = match known {
        Some(hardware) => hardware,
        None => {
            let decoder = match decoder {
                Some(decoder) => decoder,
                None => subject.load(flags, output)?,
            };
            let session = flags.compute.session(flags.strategy.chunk);
            predict::here(predict::rates(decoder, config, session, output)?)
        }
    };
    let planner = Planner::new(config.clone(), hardware);
    let seconds = |request: &Request| planner.predict_plan(&request.plan).seconds();
    let mut points = Vec::new();
    for (place, setting) in settings.iter().enumerate() {
        let rows = comparison.rows(length, setting, &log);
        let kl = mean(&column(&rows, "kl").unwrap_or_default()).map_err(CliError::failed)?;
        let request = args.request(&subject, length, &material.questions[0], setting)?;
        points.push(Point {
            name: setting.name.clone(),
            lengths: (place != star).then_some((request.plan.anchor, request.plan.passing)),
            seconds: seconds(&request),
            kl,
            front: false,
        });
    }
    mark_front(&mut points);
    let full = flags.settings_of([Method::Full.into()])?.remove(0);
    let full = seconds(&args.request(&subject, length, &material.questions[0], &full)?);
    let report = Report {
        within: args.within,
        chosen: choose(&points, args.within),
        points,
        full,
        hardware: planner.hardware.name.clone(),
    };
    if let Some(path) = &flags.chart {
        let svg = report.chart().map_err(CliError::failed)?;
        output.write_file(path, svg.as_bytes())?;
    }
    let mut json = report.json();
    json["model"] = crate::json::path(&flags.model.model);
    json["questions"] = material.questions.len().into();
    json["out"] = json!(flags.out.as_deref().map(crate::json::path));
    output.result(&json, |w| report.print(w))
}

impl Args {
    fn check(&self) -> Result<(), CliError> {
        if !(self.within.is_finite() && self.within >= 0.0) {
            return Err(CliError::usage(format!(
                "--within is {}; a divergence in nats is a number from 0 on",
                self.within
            )));
        }
        if self.asked.tokens.len() > 1 {
            return Err(CliError::usage(
                "--tokens names several lengths; settings are for one, so tune each by itself",
            ));
        }
        if let Some(method) = self
            .flags
            .strategy
            .method
            .filter(|method| *method != Method::Apb)
        {
            return Err(CliError::usage(format!(
                "--method {method} has no lengths to tune; leave it out, or name apb"
            )));
        }
        for anchor in distinct("--anchors", &self.anchors)? {
            at_least_one("--anchors", *anchor)?;
        }
        distinct("--passings", &self.passings)?;
        Ok(())
    }

    fn request(
        &self,
        subject: &Subject,
        length: &Length<'_>,
        question: &Question,
        setting: &Setting,
    ) -> Result<Request, CliError> {
        let options = self
            .flags
            .options(&setting.strategy, self.asked.max_tokens)?;
        subject.request(length.document, &question.question, &options)
    }

    /// Pairs of lengths.
    fn candidates(
        &self,
        subject: &Subject,
        length: &Length<'_>,
        questions: &[Question],
    ) -> Result<Vec<Setting>, CliError> {
        let usual = self.flags.settings_of([Method::Apb.into()])?.remove(0);
        let mut requests = questions
            .iter()
            .map(|question| self.request(subject, length, question, &usual));
        let first = match requests.next() {
            Some(request) => request?,
            None => return Err(CliError::usage("there is no question")),
        };
        let of = |request: &Request| request.document.prefix + request.document.anchor_query.len();
        let mut query = of(&first);
        for request in requests {
            query = query.max(of(&request?));
        }
        let block = first.plan.block();
        // Prefix and query, and as much of the document, as in the usual lengths.
        let least = query * 2;
        let parts = |given: &[usize], one: Option<usize>, parts: [usize; 4], least: usize| {
            let mut all: Vec<usize> = match (given.is_empty(), one) {
                (false, _) => given.to_vec(),
                (true, Some(one)) => vec![one],
                (true, None) => parts.map(|part| (block / part).max(least).max(1)).to_vec(),
            };
            all.sort_unstable();
            all.dedup();
            all
        };
        let strategy = &self.flags.strategy;
        let anchors = parts(&self.anchors, strategy.anchor, ANCHOR_PARTS, least);
        let passings = parts(&self.passings, strategy.passing, PASSING_PARTS, 0);
        let mut settings = Vec::new();
        for &anchor in &anchors {
            for &passing in &passings {
                let mut strategy = usual.strategy.clone();
                strategy.anchor = Some(anchor);
                strategy.passing = Some(passing);
                let name = format!("anchor {anchor}, passing {passing}");
                settings.push(Setting::new(name, strategy)?);
            }
        }
        Ok(settings)
    }
}

/// Marks the points that no other beats, or equals in one and beats in the other.
fn mark_front(points: &mut [Point]) {
    let values: Vec<(f64, f64)> = (points.iter())
        .map(|point| (point.seconds, point.kl.value))
        .collect();
    for (point, &(seconds, kl)) in points.iter_mut().zip(&values) {
        let beaten = |other: &&(f64, f64)| {
            other.0 <= seconds && other.1 <= kl && (other.0 < seconds || other.1 < kl)
        };
        point.front = !values.iter().any(|other| beaten(&other));
    }
}

/// The cheapest lengths whose divergence stays within; of equal costs the nearer.
fn choose(points: &[Point], within: f64) -> Option<usize> {
    let fits =
        |(_, point): &(usize, &Point)| point.lengths.is_some() && point.kl.interval.high <= within;
    let order = |(_, a): &(usize, &Point), (_, b): &(usize, &Point)| {
        a.seconds
            .total_cmp(&b.seconds)
            .then(a.kl.value.total_cmp(&b.kl.value))
    };
    let best = points.iter().enumerate().filter(fits).min_by(order);
    best.map(|(place, _)| place)
}

struct Report {
    within: f64,
    points: Vec<Point>,
    chosen: Option<usize>,
    /// Seconds of full attention on one rank.
    full: f64,
    hardware: String,
}

impl Report {
    fn json(&self) -> Value {
        let point = |point: &Point| {
            json!({
                "setting": point.name, "anchor": point.lengths.map(|lengths| lengths.0),
                "passing": point.lengths.map(|lengths| lengths.1), "prefill_seconds": point.seconds,
                "kl": estimate_json(Some(&point.kl)), "front": point.front,
            })
        };
        json!({
            "eval": "tune", "within": self.within, "hardware": self.hardware, "full_seconds": self.full,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
            "chosen": self.chosen.map(|place| point(&self.points[place])),
        })
    }

    fn print(&self, w: &mut dyn Write) -> io::Result<()> {
        let width = self
            .points
            .iter()
            .map(|point| point.name.len())
            .max()
            .unwrap_or(0);
        writeln!(
            w,
            "{:<width$} {:>10} {:>24}  front",
            "setting", "prefill s", "KL, nats"
        )?;
        let mut points: Vec<&Point> = self.points.iter().collect();
        points.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        for point in points {
            writeln!(
                w,
                "{:<width$} {:>10.3} {:>24}  {}",
                point.name,
                point.seconds,
                small(&point.kl),
                if point.front { "*" } else { "" }
            )?;
        }
        writeln!(
            w,
            "{:<width$} {:>10.3} {:>24}",
            "full, 1 rank", self.full, "0"
        )?;
        writeln!(
            w,
            "\nprefill: predicted, the slowest rank on {}",
            self.hardware
        )?;
        match self.chosen.map(|place| &self.points[place]) {
            Some(Point {
                lengths: Some((anchor, passing)),
                ..
            }) => writeln!(
                w,
                "use --anchor {anchor} --passing {passing}: the fastest within {}",
                self.within
            ),
            _ => {
                let nearest = self.points.iter().filter(|point| point.lengths.is_some());
                let nearest = nearest.min_by(|a, b| a.kl.value.total_cmp(&b.kl.value));
                let nearest = nearest.map_or_else(String::new, |point| {
                    format!("; the nearest is {} with {}", point.name, small(&point.kl))
                });
                writeln!(
                    w,
                    "no setting stays within {} with its interval{nearest}: use longer --anchors and --passings, fewer \
                     --ranks, or more questions for a narrower interval",
                    self.within
                )
            }
        }
    }

    fn chart(&self) -> Result<String, ChartError> {
        scatter_front(&ScatterFront {
            title: "Cost against divergence from full attention".into(),
            x_label: format!(
                "seconds of the slowest rank, predicted for {}",
                self.hardware
            ),
            y_label: "KL divergence, nats a token".into(),
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            points: (self.points.iter())
                .map(|point| FrontPoint {
                    label: match point.lengths {
                        Some((anchor, passing)) => format!("{anchor} + {passing}"),
                        None => point.name.clone(),
                    },
                    seconds: point.seconds,
                    divergence: point.kl.value,
                })
                .collect(),
            threshold: Some(Reference {
                name: format!("within {}", self.within),
                value: self.within,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_apb::eval::statistics::Interval;

    fn point(seconds: f64, kl: f64, lengths: Option<(usize, usize)>) -> Point {
        Point {
            name: format!("{seconds} {kl}"),
            lengths,
            seconds,
            kl: Estimate {
                value: kl,
                interval: Interval {
                    low: kl * 0.8,
                    high: kl * 1.2,
                },
            },
            front: false,
        }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let mut points = vec![
            point(1.0, 0.5, Some((8, 8))),
            point(2.0, 0.2, Some((16, 8))),
            point(2.0, 0.3, Some((8, 16))),
            point(3.0, 0.2, Some((16, 16))),
            point(4.0, 0.1, Some((32, 16))),
            point(0.5, 0.9, None),
        ];
        mark_front(&mut points);
        let front: Vec<bool> = points.iter().map(|point| point.front).collect();
        assert_eq!(front, [true, true, false, false, true, true]);
        // 0.2 has an interval up to 0.24.
        assert_eq!(choose(&points, 0.25), Some(1));
        assert_eq!(choose(&points, 0.22), Some(4));
        assert_eq!(choose(&points, 0.05), None);
        // Methods without lengths are not chosen.
        assert_eq!(choose(&points, 5.0), Some(0));
    }
}
