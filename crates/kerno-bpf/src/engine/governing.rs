//! Does what the [`Governor`] decides: takes the programs of signals out of the kernel, and loads them again.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::cpu_clock;
use super::governor::{Action, Governor, Record};
use super::loading::{self, Running};
use super::meter::{Meter, Shares};
use crate::probe::{Host, kernel_memory_bytes};
use crate::signals;
use kerno_model::{Missing, Window, fill};

/// Each window has a first sample, from which on programs are metered: the one after that of its beginning.
const FIRST: u32 = 2;

#[derive(Debug)]
pub(super) struct Governing {
    governor: Governor,
    meter: Meter,
    /// What the programs took when that was last measured.
    shares: Shares,
    /// To be done when the window ends.
    pending: Option<Action>,
    thinned: u32,
    /// CPU time of loading in the window that runs, in seconds.
    loading_seconds: f64,
    /// Kernel memory of all maps.
    kernel_bytes: u64,
    /// Why signals that are out could not be loaded again.
    refused: BTreeMap<&'static str, String>,
}

impl Governing {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            governor: Governor::new(budget),
            meter: Meter::default(),
            shares: Shares::new(),
            pending: None,
            thinned: 1,
            loading_seconds: 0.0,
            kernel_bytes: kernel_memory_bytes().unwrap_or(0),
            refused: BTreeMap::new(),
        }
    }

    pub(super) const fn set(&mut self, budget: Budget) {
        self.governor.set(budget);
    }

    pub(super) const fn wants_an_end(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) const fn thinned(&self) -> u32 {
        self.thinned
    }

    /// A sample is taken, the so many-th of its window.
    pub(super) fn meter(&mut self, now_ns: u64, sample: u32, running: &[Running]) {
        // Decided, and not done yet: the governor takes it for done. On a slow machine there is time for another span until the window ends.
        if self.pending.is_some() {
            return;
        }
        if let Some(shares) = self.meter.end(now_ns, running) {
            self.pending = self.governor.metered(now_ns, &shares);
            self.shares = shares;
        }
        if sample == FIRST || self.governor.is_alert(now_ns) {
            self.meter.begin(now_ns, running);
        }
    }

    /// A window is over: tells in it what watching cost, and does what is to be done before the next one begins.
    pub(super) fn window_ended(&mut self, now_ns: u64, running: &mut Vec<Running>, window: &mut Window) {
        // Loading again is no cost of every window.
        let watching_seconds = window.cost.cpu_seconds - std::mem::take(&mut self.loading_seconds);
        self.thinned = self.governor.spent(watching_seconds / window.span.seconds.max(1e-3));
        window.cost.kernel_bytes = self.kernel_bytes;
        window.cost.kernel_shares = self.shares.iter().map(|(signal, share)| ((*signal).to_owned(), *share)).collect();
        window.cost.detached = self.out().map(|(signal, _)| signal.to_owned()).collect();
        if let Some(action) = self.pending.take() {
            self.meter.forget();
            let begun = cpu_clock::seconds();
            self.act(now_ns, action, running);
            self.loading_seconds = cpu_clock::seconds() - begun;
            self.kernel_bytes = kernel_memory_bytes().unwrap_or(0);
        }
    }

    fn act(&mut self, now_ns: u64, action: Action, running: &mut Vec<Running>) {
        let (Action::Detach(name) | Action::Attach(name)) = action;
        let Some(info) = signals::by_name(name) else { return };
        let is_concerned = loading::concerned(info);
        let (concerned, others): (Vec<_>, Vec<_>) = running.drain(..).partition(|(other, _)| is_concerned(other));
        let mut wanted: Vec<_> = concerned.iter().map(|(info, _)| *info).filter(|other| other.name != name).collect();
        if let Action::Attach(_) = action {
            wanted.push(info);
        }
        // First out of the kernel, so that no hook has two programs and no memory is taken twice.
        drop(concerned);
        *running = others;
        if !wanted.is_empty() {
            // In the order of their numbers, as they are loaded together.
            wanted.sort_by_key(|info| info.event_type);
            let loaded = loading::signals(wanted, &Host::detect());
            for (info, _) in &loaded.running {
                self.refused.remove(info.name);
                self.governor.attached(now_ns, info.name);
            }
            for missing in loaded.refused {
                if let Some(info) = signals::by_name(&missing.signal) {
                    self.refused.insert(info.name, missing.reason);
                    self.governor.refused(now_ns, info.name);
                }
            }
            running.extend(loaded.running);
        }
        running.sort_by_key(|(info, _)| info.event_type);
    }

    /// The signals that are out, which one that goes at the end of this window is not yet.
    fn out(&self) -> impl Iterator<Item = (&'static str, &Record)> {
        self.governor.out().filter(|(signal, _)| self.pending != Some(Action::Detach(signal)))
    }

    /// What is not seen for its cost.
    pub(super) fn missing(&self, now_ns: u64) -> Vec<Missing> {
        let out = self.out().map(|(signal, record)| {
            let reason = match self.refused.get(signal) {
                Some(reason) => reason.clone(),
                None => self.reason(now_ns, record),
            };
            fill!(Missing { signal: signal.to_owned(), what: "all".to_owned(), reason })
        });
        let uncounted = self.meter.refused.as_ref().map(|reason| {
            fill!(Missing {
                signal: "all".to_owned(),
                what: "how much CPU time programs in the kernel take".to_owned(),
                reason: reason.clone()
            })
        });
        let thinned = (self.thinned > 1).then(|| {
            let limit = percent(self.governor.budget().cpu_share);
            let reason =
                format!("watching took more than {limit} of one CPU: samples are {} times fewer", self.thinned);
            fill!(Missing { signal: "all".to_owned(), what: "some samples".to_owned(), reason })
        });
        out.chain(uncounted).chain(thinned).collect()
    }

    fn reason(&self, now_ns: u64, record: &Record) -> String {
        format!(
            "taken out of the kernel for its cost: its programs took {} of all CPUs' time, and all programs together may take {}; \
             it is tried again in {} s if the machine is calm",
            percent(record.share),
            percent(self.governor.budget().kernel_share),
            record.left(now_ns).as_secs()
        )
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_is_not_forgotten_before_the_window_ends() {
        let mut governing = Governing::new(Budget::default());
        governing.pending = Some(Action::Detach("syscall_latency"));
        for sample in 1..10 {
            governing.meter(u64::from(sample) * 1_000_000_000, sample, &[]);
        }
        assert!(governing.wants_an_end());
    }
}
