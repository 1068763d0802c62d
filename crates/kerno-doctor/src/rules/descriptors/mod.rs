//! File descriptors that leak or run out.

pub(super) mod exhaustion;
pub(super) mod leak;

use kerno_model::{Entity, FdProcess, Finding, Safety};

use crate::shell::{is_service, word};

/// The process that has the file descriptors, in words.
fn holder(finding: &Finding) -> String {
    finding.subject.process.as_ref().map_or_else(|| "a process".to_owned(), ToString::to_string)
}

/// The command that counts what a process's file descriptors refer to, the most frequent first.
fn count_targets(pid: u32) -> String {
    format!("ls -l /proc/{pid}/fd | sed 's/.* -> //; s/\\[[0-9]*\\]//' | sort | uniq -c | sort -rn | head")
}

/// The command that raises a process's limit, as far as it may without privileges.
fn raise_limit(finding: Finding, process: &FdProcess, why: &str) -> Finding {
    /// The least that fs.nr_open is anywhere: nobody may have a higher limit than that, not even root.
    const NR_OPEN: u64 = 1 << 20;
    let soft = process.soft_limit.saturating_mul(4).max(1024).min(process.hard_limit.max(NR_OPEN));
    let hard = soft.max(process.hard_limit);
    if soft <= process.soft_limit {
        return finding
            .look("sysctl fs.nr_open", "shows the highest limit that any process may have; this one has no less");
    }
    let finding = finding.change_process(format!("prlimit --pid {} --nofile={soft}:{hard}", process.pid), why);
    // What is no service has no such setting.
    match finding.subject.unit.clone().filter(|unit| is_service(unit)) {
        Some(unit) => {
            let command = format!("systemctl edit {}   # [Service] LimitNOFILE={soft}", word(&unit));
            finding.fix(
                Entity::Unit(unit),
                Safety::Changing,
                command,
                "raises the limit for good, from the next start on",
            )
        }
        None => finding,
    }
}

#[cfg(test)]
mod sample {
    use kerno_model::{FdProcess, FdSummary, Series, Window, fill};

    /// A process with so many open file descriptors at each second of five.
    pub(super) fn process(open: impl Fn(f64) -> f64) -> FdProcess {
        let open: Series = (0..25).map(|i| f64::from(i) * 0.2).map(|t| (t, open(t).floor())).collect();
        FdProcess { pid: 4711, comm: "postgres".into(), open, soft_limit: 1024, hard_limit: 4096, kinds: Vec::new() }
    }

    pub(super) fn observed(processes: Vec<FdProcess>) -> Window {
        let part = FdSummary { processes, files_max: 100_000, ..FdSummary::default() };
        fill!(Window { fd_track: Some(part) })
    }
}
