//! CPU time: who takes it, who waits for it, and quotas that limit it.

pub(super) mod contention;
pub(super) mod steal;
pub(super) mod throttling;

use kerno_model::Window;
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

/// Who stands for several processes that use the CPU together, of which the busiest comes first: the oldest of those that used about
/// as much as that one. Which of them is the busiest changes from window to window, and with it the identity of a finding would.
fn representative(window: &Window, pids: &[u32]) -> Option<u32> {
    let used = |pid: &u32| window.process(*pid).map_or(0, |process| process.used.run_ns);
    let started = |pid: &u32| window.process(*pid).map_or(u64::MAX, |process| process.started_ns);
    let most = pids.first().map(used)?;
    pids.iter().copied().filter(|pid| used(pid) >= most / 2).min_by_key(|pid| (started(pid), *pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_model::{Process, TaskUse};

    #[test]
    fn the_oldest_of_the_busiest_stands_for_all() {
        let mut window = Window::default();
        for (pid, run_ns, started_ns) in [(10, 100, 1_000), (11, 950, 2_000), (12, 1_000, 3_000), (13, 1_000, 2_000)] {
            let used = TaskUse { run_ns, ..TaskUse::default() };
            window.processes.insert(pid, Process { pid, started_ns, used, ..Process::default() });
        }
        assert_eq!(representative(&window, &[12, 13, 11, 10]), Some(11));
        assert_eq!(representative(&window, &[13, 11, 12, 10]), Some(11), "whichever is the busiest");
        assert_eq!(representative(&window, &[12, 10]), Some(12), "the other one is idle");
        assert_eq!(representative(&window, &[7]), Some(7), "nothing is known of it");
        assert_eq!(representative(&window, &[]), None);
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0.5, 1.0, 2.0].map(cpus), ["0.5 CPUs", "1 CPU", "2 CPUs"]);
    }
}
