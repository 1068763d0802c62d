//! How processes begin and end.

pub(super) mod crash_loop;
pub(super) mod fork_storm;
pub(super) mod zombies;

#[allow(clippy::cast_precision_loss, reason = "counts, shown and compared with thresholds")]
fn float(count: u64) -> f64 {
    count as f64
}

/// `3 times`.
fn times(count: f64) -> String {
    if count == 1.0 { "once".to_owned() } else { format!("{} times", kerno_model::amount::number(count)) }
}
