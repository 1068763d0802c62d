//! CPU time: who takes it, who waits for it, and quotas that limit it.

pub(super) mod contention;
pub(super) mod steal;
pub(super) mod throttling;

use kerno_model::amount::number;

#[allow(clippy::cast_precision_loss, reason = "times of a window")]
const fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// `1 CPU`, `0.5 CPUs`.
fn cpus(count: f64) -> String {
    let count = number(count);
    if count == "1" { "1 CPU".to_owned() } else { format!("{count} CPUs") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!([0.5, 1.0, 2.0].map(cpus), ["0.5 CPUs", "1 CPU", "2 CPUs"]);
    }
}
