//! The order in which a run processes its samples.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::sample::Sample;

/// What the learner passes to one step: a sample. Gradients accumulate over `batch` of them.
#[derive(Debug, Clone)]
pub struct TrainItem {
    /// Position in the run, from 0; for validation the position among the held-out samples.
    pub index: usize,
    /// The sample.
    pub sample: Arc<Sample>,
}

/// The samples of a run, pass after pass over all of them, each pass in a random order.
#[derive(Debug)]
pub struct SampleOrder {
    samples: Vec<Arc<Sample>>,
    /// Seed of the order of each pass; without one the samples keep their order.
    seed: Option<u64>,
    /// Samples of the whole run, repeated ones included.
    total: usize,
}

impl SampleOrder {
    /// `total` samples, drawn from `samples`.
    pub fn new(samples: Vec<Arc<Sample>>, seed: u64, total: usize) -> Self {
        Self {
            samples,
            seed: Some(seed),
            total,
        }
    }

    /// The first samples of the run, at most `count`, each once.
    pub fn first(&self, count: usize) -> Vec<Arc<Sample>> {
        let order = self.pass(0).into_iter().take(count.min(self.total));
        order.map(|index| self.samples[index].clone()).collect()
    }

    /// The order of one pass.
    fn pass(&self, pass: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        if let Some(seed) = self.seed {
            let mixed = Xoshiro256PlusPlus::seed_from_u64(seed).random::<u64>() ^ pass as u64;
            order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(mixed));
        }
        order
    }
}

/// A loader whose every iteration is the next round: an epoch of Burn's learner is a round, which may
/// be shorter or longer than a pass over the samples.
#[derive(Debug)]
pub struct RoundLoader {
    order: Arc<SampleOrder>,
    /// Samples of a round.
    round: usize,
    /// The part of each round that this loader returns; other devices have the rest.
    part: Range<usize>,
    /// The round of the next iteration.
    next: AtomicUsize,
    /// 1, or 0 to repeat the same round.
    stride: usize,
}

impl RoundLoader {
    /// Rounds of `round` samples, of which `done` are over.
    pub fn new(order: SampleOrder, round: usize, done: usize) -> Self {
        Self {
            order: Arc::new(order),
            round,
            part: 0..round,
            next: AtomicUsize::new(done),
            stride: 1,
        }
    }

    /// The same samples in the same order, every time.
    pub fn held_out(samples: Vec<Arc<Sample>>) -> Self {
        let total = samples.len();
        let order = SampleOrder {
            samples,
            seed: None,
            total,
        };
        Self {
            stride: 0,
            ..Self::new(order, total, 0)
        }
    }
}

impl DataLoader<TrainItem> for RoundLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TrainItem> + 'a> {
        let round = self.next.fetch_add(self.stride, Ordering::Relaxed);
        let at = |offset: usize| (round * self.round + offset).min(self.order.total);
        Box::new(RoundIterator {
            order: &self.order,
            first: at(self.part.start),
            next: at(self.part.start),
            end: at(self.part.end),
            pass: None,
        })
    }

    fn num_items(&self) -> usize {
        self.part.len()
    }

    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<TrainItem>> {
        self.slice(0, self.part.len())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<TrainItem>> {
        let within = |offset: usize| (self.part.start + offset).min(self.part.end);
        Arc::new(Self {
            order: self.order.clone(),
            round: self.round,
            part: within(start)..within(end),
            next: AtomicUsize::new(self.next.load(Ordering::Relaxed)),
            stride: self.stride,
        })
    }
}

struct RoundIterator<'a> {
    order: &'a SampleOrder,
    first: usize,
    next: usize,
    end: usize,
    /// The current pass and its order.
    pass: Option<(usize, Vec<usize>)>,
}

impl Iterator for RoundIterator<'_> {
    type Item = Result<TrainItem, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let count = self.order.samples.len();
        if self.next >= self.end || count == 0 {
            return None;
        }
        let (pass, position) = (self.next / count, self.next % count);
        if self.pass.as_ref().is_none_or(|(at, _)| *at != pass) {
            self.pass = Some((pass, self.order.pass(pass)));
        }
        let (_, order) = self.pass.as_ref()?;
        let item = TrainItem {
            index: self.next,
            sample: self.order.samples[order[position]].clone(),
        };
        self.next += 1;
        Some(Ok(item))
    }
}

impl DataLoaderIterator<TrainItem> for RoundIterator<'_> {
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

    fn ids(loader: &dyn DataLoader<TrainItem>) -> Vec<u32> {
        loader
            .iter()
            .map(|item| item.expect("an item").sample.ids[0])
            .collect()
    }

    #[test]
    fn rounds_follow_one_another_and_passes_see_every_sample_once() {
        let loader = RoundLoader::new(SampleOrder::new(samples(5), 7, 13), 4, 0);
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

        let resumed = RoundLoader::new(SampleOrder::new(samples(5), 7, 13), 4, 2);
        assert_eq!(ids(&resumed), rounds[2]);
        let moved = resumed.to_device(&Device::flex());
        assert_eq!(ids(moved.as_ref()), rounds[3]);
    }

    #[test]
    fn devices_share_a_round() {
        let whole = RoundLoader::new(SampleOrder::new(samples(6), 1, 12), 6, 0);
        let parts = [whole.slice(0, 3), whole.slice(3, 6)];
        let shared = [ids(parts[0].as_ref()), ids(parts[1].as_ref())].concat();
        assert_eq!(shared, ids(&whole));
        let held_out = RoundLoader::held_out(samples(3));
        assert_eq!(ids(&held_out), [0, 1, 2]);
        assert_eq!(ids(held_out.slice(1, 3).as_ref()), [1, 2]);
        assert_eq!(ids(&held_out), ids(&held_out));
    }
}
