//! The order in which a run looks at its samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::sample::Sample;
use super::trainer::Visit;

/// All visits of a run, pass after pass over the samples.
#[derive(Debug)]
pub struct Visits {
    samples: Vec<Arc<Sample>>,
    /// What the order of each pass follows from; none: the order they have.
    seed: Option<u64>,
    /// Visits of the whole run.
    total: usize,
}

impl Visits {
    /// `total` visits to `samples`.
    pub fn new(samples: Vec<Arc<Sample>>, seed: u64, total: usize) -> Self {
        Self {
            samples,
            seed: Some(seed),
            total,
        }
    }

    /// The order of one pass.
    fn order(&self, pass: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        if let Some(seed) = self.seed {
            let mixed = Xoshiro256PlusPlus::seed_from_u64(seed).random::<u64>() ^ pass as u64;
            order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(mixed));
        }
        order
    }
}

/// A loader of one round after another: each time Burn's learner asks for its items, it gets the next
/// round's.
#[derive(Debug)]
pub struct RoundLoader {
    visits: Arc<Visits>,
    /// Visits of a round.
    round: usize,
    /// Those of a round that this loader gives; other devices have the rest.
    part: std::ops::Range<usize>,
    /// The round that is asked for next.
    next: AtomicUsize,
    /// How many rounds the next one is from this one.
    stride: usize,
}

impl RoundLoader {
    /// Rounds of `round` visits, of which `done` are over.
    pub fn new(visits: Visits, round: usize, done: usize) -> Self {
        Self {
            visits: Arc::new(visits),
            round,
            part: 0..round,
            next: AtomicUsize::new(done),
            stride: 1,
        }
    }

    /// The same samples in the same order, every time.
    pub fn held_out(samples: Vec<Arc<Sample>>) -> Self {
        let total = samples.len();
        let visits = Visits {
            samples,
            seed: None,
            total,
        };
        Self {
            stride: 0,
            ..Self::new(visits, total, 0)
        }
    }

    fn part(&self, part: std::ops::Range<usize>) -> Arc<dyn DataLoader<Visit>> {
        Arc::new(Self {
            visits: self.visits.clone(),
            round: self.round,
            part,
            next: AtomicUsize::new(self.next.load(Ordering::Relaxed)),
            stride: self.stride,
        })
    }
}

impl DataLoader<Visit> for RoundLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Visit> + 'a> {
        let round = self.next.fetch_add(self.stride, Ordering::Relaxed);
        let start = round * self.round;
        let at = |offset: usize| (start + offset).min(self.visits.total);
        Box::new(Round {
            visits: &self.visits,
            first: at(self.part.start),
            next: at(self.part.start),
            end: at(self.part.end),
            pass: None,
        })
    }

    fn num_items(&self) -> usize {
        self.part.len()
    }

    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<Visit>> {
        self.part(self.part.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Visit>> {
        let within = |offset: usize| (self.part.start + offset).min(self.part.end);
        self.part(within(start)..within(end))
    }
}

struct Round<'a> {
    visits: &'a Visits,
    first: usize,
    next: usize,
    end: usize,
    /// The pass that is under way, and its order.
    pass: Option<(usize, Vec<usize>)>,
}

impl Iterator for Round<'_> {
    type Item = Result<Visit, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let count = self.visits.samples.len();
        if self.next >= self.end || count == 0 {
            return None;
        }
        let (pass, place) = (self.next / count, self.next % count);
        if self.pass.as_ref().is_none_or(|(at, _)| *at != pass) {
            self.pass = Some((pass, self.visits.order(pass)));
        }
        let order = self.pass.as_ref().map(|(_, order)| order)?;
        let visit = Visit {
            index: self.next,
            sample: self.visits.samples[order[place]].clone(),
        };
        self.next += 1;
        Some(Ok(visit))
    }
}

impl DataLoaderIterator<Visit> for Round<'_> {
    fn progress(&self) -> Progress {
        let unit = Some("samples".to_owned());
        Progress::new(self.next - self.first, self.end - self.first, unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(count: usize) -> Vec<Arc<Sample>> {
        (0..count)
            .map(|i| {
                Arc::new(Sample {
                    ids: vec![i as u32],
                    query: 0..0,
                    scored: 0..1,
                    answer: 1..1,
                })
            })
            .collect()
    }

    fn ids(loader: &dyn DataLoader<Visit>) -> Vec<u32> {
        loader
            .iter()
            .map(|visit| visit.expect("a visit").sample.ids[0])
            .collect()
    }

    #[test]
    fn rounds_follow_one_another_and_passes_see_every_sample_once() {
        let loader = RoundLoader::new(Visits::new(samples(5), 7, 13), 4, 0);
        let rounds: Vec<Vec<u32>> = (0..5).map(|_| ids(&loader)).collect();
        let lengths: Vec<usize> = rounds.iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 4, 4, 1, 0]);
        let all = rounds.concat();
        for pass in all.chunks_exact(5) {
            let mut pass = pass.to_vec();
            pass.sort_unstable();
            assert_eq!(pass, [0, 1, 2, 3, 4]);
        }
        assert_ne!(all[..5], all[5..10], "each pass has its order");

        let resumed = RoundLoader::new(Visits::new(samples(5), 7, 13), 4, 2);
        assert_eq!(ids(&resumed), rounds[2]);
        let moved = resumed.to_device(&Device::flex());
        assert_eq!(ids(moved.as_ref()), rounds[3]);
    }

    #[test]
    fn devices_share_a_round() {
        let whole = RoundLoader::new(Visits::new(samples(6), 1, 12), 6, 0);
        let parts = [whole.slice(0, 3), whole.slice(3, 6)];
        let shared = [ids(parts[0].as_ref()), ids(parts[1].as_ref())].concat();
        assert_eq!(shared, ids(&whole));
        let held_out = RoundLoader::held_out(samples(3));
        assert_eq!(ids(&held_out), [0, 1, 2]);
        assert_eq!(ids(held_out.slice(1, 3).as_ref()), [1, 2]);
        assert_eq!(ids(&held_out), ids(&held_out));
    }
}
