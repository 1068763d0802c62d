/// How fast a count grows between two readings.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    count: u64,
    at_ns: u64,
}

impl Pace {
    /// The growth per second since the last reading; `None` at the first.
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn per_second(&mut self, count: u64, now_ns: u64) -> Option<f64> {
        let before = std::mem::replace(self, Self { count, at_ns: now_ns });
        let ns = now_ns.saturating_sub(before.at_ns);
        (before.at_ns > 0 && ns > 0).then(|| count.wrapping_sub(before.count) as f64 * 1e9 / ns as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_tells_nothing() {
        let mut pace = Pace::default();
        assert_eq!(pace.per_second(100, 1_000_000_000), None);
        assert_eq!(pace.per_second(150, 1_500_000_000), Some(100.0));
        assert_eq!(pace.per_second(150, 1_500_000_000), None, "no time has passed");
    }
}
