use super::*;

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-9,
        "expected {expected}, found {found}"
    );
}

/// Standard normal samples, by Box and Muller.
fn normals(count: usize, random: &mut Xoshiro256PlusPlus) -> Vec<f64> {
    let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
            radius * (std::f64::consts::TAU * uniform()).cos()
        })
        .collect()
}

fn seeded(count: usize, seed: u64) -> Vec<f64> {
    normals(count, &mut Xoshiro256PlusPlus::seed_from_u64(seed))
}

#[test]
fn wilson_by_hand() {
    // p = 0.94, n = 50, z² = 3.8414588: centre 0.97841459 / 1.07682918, spread 0.07621586 /
    // 1.07682918.
    let interval = wilson_interval(47, 50).unwrap();
    close(interval.low, 0.837_829_083_111_618_3);
    close(interval.high, 0.979_385_029_651_026);
    // All of n succeed: n / (n + z²).
    let all = wilson_interval(10, 10).unwrap();
    close(all.low, 10.0 / (10.0 + Z * Z));
    assert_eq!(all.high, 1.0);
}

#[test]
fn wilson_is_symmetric_and_within_bounds() {
    for trials in 1..=60 {
        for successes in 0..=trials {
            let interval = wilson_interval(successes, trials).unwrap();
            let other = wilson_interval(trials - successes, trials).unwrap();
            let p = successes as f64 / trials as f64;
            assert!(0.0 <= interval.low && interval.low <= p);
            assert!(p <= interval.high && interval.high <= 1.0);
            close(interval.low, 1.0 - other.high);
        }
    }
}

#[test]
fn wilson_without_trials_and_with_too_many_successes() {
    let interval = wilson_interval(0, 0).unwrap();
    assert_eq!((interval.low, interval.high), (0.0, 1.0));
    let error = wilson_interval(3, 2).unwrap_err();
    assert_eq!(error.to_string(), "3 successes in 2 trials");
}

#[test]
fn mean_of_equal_samples_has_no_spread() {
    for samples in [vec![0.25; 1], vec![0.25; 64]] {
        let estimate = mean(&samples).unwrap();
        assert_eq!(estimate.value, 0.25);
        assert_eq!(
            (estimate.interval.low, estimate.interval.high),
            (0.25, 0.25)
        );
    }
}

#[test]
fn bootstrap_of_two_samples_by_hand() {
    // The mean of two draws from 0 and 1 is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4: both ends
    // hold over 2.5 %.
    let estimate = mean(&[0.0, 1.0]).unwrap();
    assert_eq!(estimate.value, 0.5);
    assert_eq!((estimate.interval.low, estimate.interval.high), (0.0, 1.0));
}

#[test]
fn bootstrap_of_a_proportion_is_the_binomial_distribution() {
    // 50 draws with p = 0.5: the 2.5 % quantile of Binomial(50, 0.5) is 18, the 97.5 % quantile 32.
    let samples: Vec<f64> = (0..50).map(|i| f64::from(i % 2)).collect();
    let interval = mean(&samples).unwrap().interval;
    assert_eq!((interval.low, interval.high), (18.0 / 50.0, 32.0 / 50.0));
}

#[test]
fn interval_of_normal_samples_is_near_the_normal_one() {
    let samples = seeded(400, 7);
    let estimate = mean(&samples).unwrap();
    let variance = samples
        .iter()
        .map(|x| (x - estimate.value).powi(2))
        .sum::<f64>()
        / 400.0;
    let half = Z * (variance / 400.0).sqrt();
    let tolerance = 0.05 * half;
    assert!((estimate.interval.low - (estimate.value - half)).abs() < tolerance);
    assert!((estimate.interval.high - (estimate.value + half)).abs() < tolerance);
}

#[test]
fn intervals_cover_the_true_mean() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
    let trials = 200;
    let covered = (0..trials)
        .filter(|_| {
            let interval = mean(&normals(50, &mut random)).unwrap().interval;
            interval.low <= 0.0 && 0.0 <= interval.high
        })
        .count();
    // 95 % less the known shortfall of the percentile interval at 50 samples, with four standard
    // errors.
    assert!((174..=199).contains(&covered), "{covered} of {trials}");
}

#[test]
fn same_samples_same_interval() {
    let samples = seeded(120, 3);
    assert_eq!(mean(&samples), mean(&samples));
}

#[test]
fn paired_difference_swaps_sign() {
    let first = seeded(80, 5);
    let second: Vec<f64> = first
        .iter()
        .zip(seeded(80, 6))
        .map(|(a, noise)| a - 0.5 + 0.2 * noise)
        .collect();
    let forth = paired_difference(&first, &second).unwrap();
    let back = paired_difference(&second, &first).unwrap();
    assert_eq!(forth.value, -back.value);
    assert_eq!(forth.interval.low, -back.interval.high);
    assert_eq!(forth.interval.high, -back.interval.low);
    assert!(forth.excludes_zero() && back.excludes_zero());
    assert!(forth.interval.low > 0.4 && forth.interval.high < 0.6);
}

#[test]
fn pairing_removes_what_the_samples_share() {
    let shared = seeded(100, 8);
    let better: Vec<f64> = shared.iter().map(|x| x + 0.01).collect();
    assert!(paired_difference(&better, &shared).unwrap().excludes_zero());
    let same = paired_difference(&shared, &shared).unwrap();
    assert_eq!((same.value, same.excludes_zero()), (0.0, false));
}

#[test]
fn tasks_have_the_same_weight() {
    let estimate = average_over_tasks(&[vec![1.0; 3], vec![0.0; 300]]).unwrap();
    assert_eq!(estimate.value, 0.5);
    // Nothing varies within a task, so the stratified interval has no width; that of pooled samples
    // would.
    assert_eq!((estimate.interval.low, estimate.interval.high), (0.5, 0.5));
}

#[test]
fn one_task_is_its_mean() {
    let samples = seeded(60, 9);
    assert_eq!(average_over_tasks(&[&samples]), mean(&samples));
}

#[test]
fn variances_of_tasks_add() {
    // Two tasks of the same spread: the average has 1/√2 of a task's standard error.
    let tasks = [seeded(300, 21), seeded(300, 22)];
    let width = |e: Estimate| e.interval.high - e.interval.low;
    let single = (width(mean(&tasks[0]).unwrap()) + width(mean(&tasks[1]).unwrap())) / 2.0;
    let both = width(average_over_tasks(&tasks).unwrap());
    assert!((both / single - 0.5f64.sqrt()).abs() < 0.03);
}

#[test]
fn refused_samples_are_named() {
    let refused = |result: Result<Estimate, StatisticsError>| result.unwrap_err().to_string();
    assert_eq!(refused(mean(&[])), "no samples to average");
    assert_eq!(
        refused(mean(&[0.0, f64::NAN])),
        "sample 1 is NaN, expected a finite number"
    );
    assert_eq!(
        refused(mean(&[1.0, 2.0, f64::NEG_INFINITY])),
        "sample 2 is -inf, expected a finite number"
    );
    assert!(refused(mean(&[1.0, f64::MAX])).starts_with("sample 1 is "));
    assert_eq!(
        refused(paired_difference(&[1.0], &[1.0, 2.0])),
        "expected as many samples of both methods, found 1 and 2"
    );
    assert_eq!(
        refused(paired_difference(&[0.0, 1.0], &[0.0, f64::INFINITY])),
        "sample 1 is -inf, expected a finite number"
    );
    assert_eq!(
        refused(average_over_tasks::<Vec<f64>>(&[])),
        "no tasks to average"
    );
    assert_eq!(
        refused(average_over_tasks(&[vec![0.0], vec![]])),
        "task 1: no samples to average"
    );
    assert_eq!(
        refused(average_over_tasks(&[vec![0.0], vec![1.0, f64::NAN]])),
        "task 1: sample 1 is NaN, expected a finite number"
    );
}

#[test]
fn large_samples_stay_finite() {
    let estimate = mean(&[f64::MAX / 4.0, -f64::MAX / 4.0, f64::MAX / 4.0]).unwrap();
    assert!(estimate.value.is_finite());
    assert!(estimate.interval.low.is_finite() && estimate.interval.high.is_finite());
}
