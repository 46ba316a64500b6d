//! Medians, tails, and how sure one can be of a ratio.

/// What is said of a list of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// Half are below.
    pub median: f64,
    /// 99 of 100 are below: with fewer than 100 samples, the greatest.
    pub p99: f64,
}

impl Summary {
    /// Of `samples`, in any order; `None` of none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            min: *sorted.first()?,
            median: quantile(&sorted, 0.5)?,
            p99: *sorted.get((sorted.len() * 99).div_ceil(100).checked_sub(1)?)?,
        })
    }
}

/// The value below which `share` of the `sorted` samples are, between two of them by proportion.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = (sorted.len().checked_sub(1)?) as f64 * share;
    let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

/// A ratio of medians, and the interval that holds it in 95 of 100 repetitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The ratio.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// Resamplings of an interval.
const RESAMPLES: usize = 1000;

/// The ratio of the medians of `ours` and `theirs`, with a bootstrap interval. Both are by round, `None` for a round that
/// failed; whole rounds are drawn, since both sides of a round met the same machine.
pub fn ratio(ours: &[Option<f64>], theirs: &[Option<f64>], random: &mut Random) -> Option<Ratio> {
    let rounds = ours.len().min(theirs.len());
    let value = median(ours.iter().flatten())? / median(theirs.iter().flatten())?;
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let drawn: Vec<usize> = (0..rounds).map(|_| random.below(rounds)).collect();
        let of = |side: &[Option<f64>]| median(drawn.iter().filter_map(|&round| side.get(round)?.as_ref()));
        if let (Some(ours), Some(theirs)) = (of(ours), of(theirs)) {
            ratios.push(ours / theirs);
        }
    }
    ratios.sort_unstable_by(f64::total_cmp);
    Some(Ratio { value, low: quantile(&ratios, 0.025)?, high: quantile(&ratios, 0.975)? })
}

fn median<'a>(samples: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = samples.copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Random numbers that a seed repeats (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of a modulus is one in 2^64 / bound.
        self.next().checked_rem(bound as u64).unwrap_or(0) as usize
    }

    /// Puts `items` into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_an_odd_and_an_even_number() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((summary.count, summary.min, summary.median, summary.p99), (3, 1.0, 2.0, 3.0));
        assert_eq!(Summary::of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn p99_leaves_one_in_a_hundred_above() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Summary::of(&samples).unwrap().p99, 198.0);
    }

    #[test]
    fn a_ratio_ignores_failed_rounds_and_lies_in_its_interval() {
        let theirs: Vec<Option<f64>> = (0..50).map(|n| Some(100.0 + f64::from(n % 7))).collect();
        let mut ours: Vec<Option<f64>> = theirs.iter().map(|n| n.map(|n| n / 4.0)).collect();
        ours[3] = None;
        let ratio = ratio(&ours, &theirs, &mut Random::new(1)).unwrap();
        assert!((ratio.value - 0.25).abs() < 1e-9, "{ratio:?}");
        assert!(ratio.low <= 0.25 && 0.25 <= ratio.high && ratio.high - ratio.low < 0.02, "{ratio:?}");
    }

    #[test]
    fn no_ratio_without_samples() {
        assert_eq!(ratio(&[None, None], &[Some(1.0)], &mut Random::new(1)), None);
        assert_eq!(ratio(&[], &[], &mut Random::new(1)), None);
    }

    #[test]
    fn drift_that_both_sides_share_does_not_widen_the_interval() {
        let drifting: Vec<Option<f64>> = (0..100).map(|n| Some(f64::from(100 + n * 10))).collect();
        let half: Vec<Option<f64>> = drifting.iter().map(|n| n.map(|n| n / 2.0)).collect();
        let ratio = ratio(&half, &drifting, &mut Random::new(7)).unwrap();
        assert!((ratio.high - ratio.low).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn a_shuffle_keeps_all_items_and_repeats_by_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Random::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(5), shuffled(5));
        assert_ne!(shuffled(5), shuffled(6));
        let mut sorted = shuffled(5);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<u32>>());
    }
}
