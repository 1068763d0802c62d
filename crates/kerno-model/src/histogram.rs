use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The number of bits below the highest that select a bucket; `HISTOGRAM_SUB_BITS` in histogram.h.
const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;

/// The number of buckets for all of u64.
pub const BUCKETS: usize = ((64 - SUB_BITS as usize) + 1) * SUB as usize;

/// Counts of values in log-linear buckets over all of u64: 16 for each power of two, so that values are exact below 16 and known within
/// 6.25 % above. The kernel side uses the same buckets (histogram.h).
///
/// Serialises as the non-empty buckets: `[[lowest value, count], ...]`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Up to the last non-empty bucket.
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty histogram.
    pub const fn new() -> Self {
        Self { counts: Vec::new() }
    }

    /// The bucket of a value, 0 to 975.
    pub const fn bucket(value: u64) -> usize {
        if value < SUB {
            return value as usize;
        }
        let shift = value.ilog2() - SUB_BITS;
        (shift as usize * SUB as usize) + (value >> shift) as usize
    }

    /// The lowest and the highest value of a bucket.
    pub const fn bounds(bucket: usize) -> (u64, u64) {
        if bucket < SUB as usize {
            return (bucket as u64, bucket as u64);
        }
        let shift = (bucket / SUB as usize - 1) as u32;
        let low = (bucket as u64 % SUB + SUB) << shift;
        (low, low + ((1u64 << shift) - 1))
    }

    /// Adds a value.
    pub fn record(&mut self, value: u64) {
        self.add_to_bucket(Self::bucket(value), 1);
    }

    /// Adds to the count of a bucket. Ignores buckets past the last one.
    pub fn add_to_bucket(&mut self, bucket: usize, count: u64) {
        if count == 0 || bucket >= BUCKETS {
            return;
        }
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// Adds what a histogram in the kernel gained between two reads. Its counts are 32 bits wide and wrap around.
    pub fn add_kernel_delta(&mut self, now: &[u32], before: &[u32]) {
        for (bucket, now) in now.iter().enumerate() {
            let before = before.get(bucket).copied().unwrap_or(0);
            self.add_to_bucket(bucket, u64::from(now.wrapping_sub(before)));
        }
    }

    /// Adds all values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add_to_bucket(bucket, *count);
        }
    }

    /// What was added since `earlier`, an earlier state of this one.
    #[must_use]
    pub fn delta(&self, earlier: &Self) -> Self {
        let mut delta = Self::new();
        for (bucket, count) in self.counts.iter().enumerate() {
            delta.add_to_bucket(bucket, count.saturating_sub(earlier.counts.get(bucket).copied().unwrap_or(0)));
        }
        delta
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// The value that a share of `quantile` (0 to 1) of all values does not exceed, at most 6.25 % too high; `None` without values.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0u64;
        self.counts.iter().enumerate().find_map(|(bucket, count)| {
            seen = seen.saturating_add(*count);
            (seen >= rank && *count > 0).then(|| Self::bounds(bucket).1)
        })
    }

    /// The highest value, at most 6.25 % too high; `None` without values.
    pub fn max(&self) -> Option<u64> {
        self.counts.iter().rposition(|count| *count > 0).map(|bucket| Self::bounds(bucket).1)
    }

    /// The sum of all values, within 3.2 %.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn sum(&self) -> f64 {
        let buckets = self.counts.iter().enumerate();
        buckets
            .map(|(bucket, count)| {
                let (low, high) = Self::bounds(bucket);
                *count as f64 * (low as f64 + high as f64) / 2.0
            })
            .sum()
    }

    /// The mean, within 3.2 %; `None` without values.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn mean(&self) -> Option<f64> {
        (!self.is_empty()).then(|| self.sum() / self.count() as f64)
    }

    /// The number of values in the buckets above that of `value`.
    pub fn count_above(&self, value: u64) -> u64 {
        self.counts.iter().skip(Self::bucket(value) + 1).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The non-empty buckets: lowest value, highest value, count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bucket, count)| {
            let (low, high) = Self::bounds(bucket);
            (low, high, *count)
        })
    }

    /// The usual percentiles; `None` without values.
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            count: self.count(),
            p50: self.quantile(0.5)?,
            p90: self.quantile(0.9)?,
            p99: self.quantile(0.99)?,
            p999: self.quantile(0.999)?,
            max: self.max()?,
        })
    }
}

/// Percentiles of a [`Histogram`], in its unit, each at most 6.25 % too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named by themselves")]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.buckets()).finish()
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets().map(|(low, _, count)| (low, count)))
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut histogram = Self::new();
        for (low, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            histogram.add_to_bucket(Self::bucket(low), count);
        }
        Ok(histogram)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Histogram {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Histogram".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = <Vec<(u64, u64)>>::json_schema(generator);
        schema.insert(
            "description".into(),
            "The non-empty buckets of a log-linear histogram: the lowest value and the count of each.".into(),
        );
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_u64_without_gap_and_within_the_error() {
        let mut next = 0u64;
        for bucket in 0..BUCKETS {
            let (low, high) = Histogram::bounds(bucket);
            assert_eq!(low, next, "bucket {bucket}");
            assert_eq!((Histogram::bucket(low), Histogram::bucket(high)), (bucket, bucket));
            assert!((high - low) as f64 <= low as f64 / 16.0, "bucket {bucket}");
            next = high.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last bucket ends at u64::MAX");
    }

    #[test]
    fn quantiles_bracket_the_truth() {
        let mut histogram = Histogram::new();
        for value in 1..=10_000u64 {
            histogram.record(value * 1000);
        }
        for (quantile, truth) in [(0.5, 5_000_000u64), (0.9, 9_000_000), (0.99, 9_900_000), (1.0, 10_000_000)] {
            let got = histogram.quantile(quantile).unwrap();
            assert!(got >= truth && got as f64 <= truth as f64 * 1.0625, "{quantile}: {got}");
        }
        assert!((histogram.mean().unwrap() / 5_000_500.0 - 1.0).abs() < 0.032);
        assert_eq!(Histogram::new().quantile(0.5), None);
    }

    #[test]
    fn differences_and_sums_undo_each_other() {
        let mut early = Histogram::new();
        [0, 15, 16, 1 << 40, u64::MAX].into_iter().for_each(|value| early.record(value));
        let mut late = early.clone();
        [3, 1 << 40].into_iter().for_each(|value| late.record(value));
        let delta = late.delta(&early);
        assert_eq!(delta.count(), 2);
        let mut again = early.clone();
        again.merge(&delta);
        assert_eq!(again, late);
        let json = serde_json::to_string(&late).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&json).unwrap(), late);
    }

    #[test]
    fn kernel_counts_may_wrap() {
        let mut histogram = Histogram::new();
        histogram.add_kernel_delta(&[5, 0], &[u32::MAX - 4, 0]);
        assert_eq!(histogram.count(), 10);
    }
}
