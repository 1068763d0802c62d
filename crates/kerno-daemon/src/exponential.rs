//! The buckets of a histogram as those of exponential ones, which Prometheus calls native.

use std::collections::BTreeMap;

/// There are `2^SCALE` buckets for each power of two.
pub(crate) const SCALE: i32 = 3;

/// Buckets for each power of two.
pub(crate) const PER_OCTAVE: f64 = 8.0;

/// How many values are 0, and how many each other bucket has: number `i` has what is above `2^((i - 1) / 8)` and at most `2^(i / 8)`. Each of the
/// given ones (lowest value, highest value, count) goes into the one that its middle is in.
pub(crate) fn indices(buckets: &[(f64, f64, u64)]) -> (u64, BTreeMap<i32, u64>) {
    let mut zero = 0;
    let mut counts = BTreeMap::<i32, u64>::new();
    for (low, high, count) in buckets {
        let middle = f64::midpoint(*low, *high);
        if middle <= 0.0 {
            zero += count;
            continue;
        }
        #[allow(clippy::cast_possible_truncation, reason = "some hundred at most")]
        let index = (middle.log2() * PER_OCTAVE).ceil() as i32;
        *counts.entry(index).or_default() += count;
    }
    (zero, counts)
}
