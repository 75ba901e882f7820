//! Which method, over how many ranks.

use serde::Serialize;

use super::predict::{Planner, Prediction};
use crate::apb::{DocumentLengths, Method, PlanError, PrefillConfig, RingLayout};

/// How much longer an exact method, or one with fewer ranks, may take and still be recommended.
const AS_FAST: f64 = 1.25;

/// What to use for a document, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// What it takes.
    pub prediction: Prediction,
    /// Why this and not another, as a sentence.
    pub reason: String,
}

/// Whether a method computes what full attention does.
fn is_exact(method: Method) -> bool {
    !matches!(method, Method::Star | Method::Apb)
}

impl Planner {
    /// Every method over `settings.ranks` ranks, in the order of [`Method::ALL`], the ring in both layouts: the
    /// settings and what they take.
    pub fn compare(
        &self,
        settings: &PrefillConfig,
        document: &DocumentLengths,
    ) -> Vec<(PrefillConfig, Result<Prediction, PlanError>)> {
        let of = |method: Method, layout: RingLayout| PrefillConfig {
            method,
            ring_layout: layout,
            ranks: match method {
                Method::Full => 1,
                _ => settings.ranks,
            },
            ..settings.clone()
        };
        let mut all: Vec<PrefillConfig> = Vec::new();
        for method in Method::ALL {
            all.push(of(method, RingLayout::Zigzag));
            if method == Method::Ring {
                all.push(of(method, RingLayout::Contiguous));
            }
        }
        all.into_iter()
            .map(|settings| {
                let predicted = self.predict(&settings, document);
                (settings, predicted)
            })
            .collect()
    }

    /// What to use for a document on up to `settings.ranks` devices: of all that fits and is about as fast as the
    /// fastest, the fewest ranks and then the most exact method. None where nothing fits.
    pub fn recommend(
        &self,
        settings: &PrefillConfig,
        document: &DocumentLengths,
    ) -> Option<Recommendation> {
        let mut candidates = Vec::new();
        let mut ranks = settings.ranks.max(1);
        while ranks > 0 {
            let settings = PrefillConfig {
                ranks,
                ..settings.clone()
            };
            for (_, predicted) in self.compare(&settings, document) {
                candidates.extend(predicted.ok().filter(|p| p.fits != Some(false)));
            }
            ranks /= 2;
        }
        let fastest = candidates
            .iter()
            .map(Prediction::seconds)
            .fold(f64::INFINITY, f64::min);
        let order = |p: &Prediction| {
            let star = p.plan.method == Method::Star;
            (p.plan.ranks, !is_exact(p.plan.method), star)
        };
        let prediction = candidates
            .iter()
            .filter(|p| p.seconds() <= fastest * AS_FAST)
            .min_by(|a, b| {
                let same_ranks = order(a).cmp(&order(b));
                same_ranks.then(a.seconds().total_cmp(&b.seconds()))
            })?
            .clone();
        let reason = reason(&prediction, &candidates, self.one_device(document));
        Some(Recommendation { prediction, reason })
    }

    /// Full attention on one device.
    fn one_device(&self, document: &DocumentLengths) -> Option<Prediction> {
        let full = PrefillConfig::new(Method::Full, 1);
        self.predict(&full, document).ok()
    }
}

/// What a recommendation gains over the nearest alternatives.
fn reason(chosen: &Prediction, candidates: &[Prediction], one: Option<Prediction>) -> String {
    let mut parts = Vec::new();
    let ratio = |other: f64| other / chosen.seconds();
    if chosen.plan.ranks == 1 {
        let best = candidates.iter().filter(|p| p.plan.ranks > 1);
        let best = best.map(Prediction::seconds).fold(f64::INFINITY, f64::min);
        parts.push("one device is exact".to_owned());
        if best.is_finite() {
            parts.push(format!(
                "more are at most {:.1} times as fast",
                (chosen.seconds() / best).max(1.0)
            ));
        }
    }
    if let Some(one) = one.filter(|_| chosen.plan.ranks > 1) {
        parts.push(match one.fits {
            Some(false) => "the document and what follows it do not fit one device".to_owned(),
            _ => format!("{:.1} times as fast as one device", ratio(one.seconds())),
        });
    }
    if !is_exact(chosen.plan.method) {
        let exact = candidates
            .iter()
            .filter(|p| is_exact(p.plan.method) && p.plan.ranks > 1)
            .min_by(|a, b| a.seconds().total_cmp(&b.seconds()));
        if let Some(exact) = exact {
            parts.push(format!(
                "{:.1} times as fast as {}, the fastest exact method over ranks",
                ratio(exact.seconds()),
                exact.plan.method
            ));
        }
        parts.push("not exact: check it on documents of yours".to_owned());
    }
    parts.join("; ")
}
