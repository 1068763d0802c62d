//! Summaries made by hand, for the tests of the rules of storage.

use kerno_model::{
    DiskDevice, DiskOpStat, DiskSubmitter, DiskSummary, Finding, Histogram, Process, RequestKind, Safety, Series, Span,
    Subject, SyncStat, SyscallSummary, TaskUse, Window, fill,
};

use crate::Thresholds;

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECONDS: f64 = 10.0;

pub(super) fn histogram(values: &[(u64, u64)]) -> Histogram {
    let mut histogram = Histogram::new();
    values.iter().for_each(|(value, count)| (0..*count).for_each(|_| histogram.record(*value)));
    histogram
}

/// `count` requests of `bytes`, each so long in the queue and at the device.
pub(super) fn op(op: RequestKind, count: u64, bytes: u64, queue_ns: u64, device_ns: u64) -> DiskOpStat {
    DiskOpStat {
        op,
        count,
        bytes: count * bytes,
        errors: Vec::new(),
        queue_ns: histogram(&[(queue_ns, count)]),
        device_ns: histogram(&[(device_ns, count)]),
    }
}

pub(super) fn steady(value: f64) -> Series {
    (0..=20).map(|i| (f64::from(i) * SECONDS / 20.0, value)).collect()
}

pub(super) fn device(ops: Vec<DiskOpStat>, utilisation: f64, in_flight: f64) -> DiskDevice {
    DiskDevice {
        dev: "259:0".into(),
        name: "nvme0n1".into(),
        ops,
        utilisation,
        in_flight: steady(in_flight),
        mounts: vec!["/data".into()],
        ..DiskDevice::default()
    }
}

pub(super) fn submitter(pid: u32, comm: &str, requests: u64, read_bytes: u64, mean_ns: u64) -> DiskSubmitter {
    let total_ns = requests * mean_ns;
    DiskSubmitter {
        pid,
        comm: comm.into(),
        dev: "259:0".into(),
        requests,
        read_bytes,
        total_ns,
        ..DiskSubmitter::default()
    }
}

pub(super) fn process(pid: u32, comm: &str, write_bytes: u64) -> (u32, Process) {
    let used = TaskUse { write_bytes, ..TaskUse::default() };
    (pid, Process { pid, comm: comm.into(), used, alive: true, ..Process::default() })
}

pub(super) fn sync(pid: u32, comm: &str, calls: u64, mean_ns: u64) -> SyncStat {
    SyncStat { pid, comm: comm.into(), calls, total_ns: calls * mean_ns, max_ns: mean_ns * 2, first_ns: 1 }
}

pub(super) fn observed(disk: DiskSummary, syncs: Vec<SyncStat>, processes: Vec<(u32, Process)>) -> Window {
    fill!(Window {
        span: fill!(Span { seconds: SECONDS }),
        disk_io: Some(disk),
        syscall_latency: Some(SyscallSummary { syncs, ..SyscallSummary::default() }),
        processes: processes.into_iter().collect(),
    })
}

pub(super) fn judge(window: &Window) -> Vec<Finding> {
    let of_storage = |finding: &Finding| crate::rule_by_id(finding.rule.as_str()).unwrap().signal == "disk_io";
    crate::judge(window, &Thresholds::default()).into_iter().filter(of_storage).collect()
}

pub(super) fn the_only(window: &Window) -> Finding {
    let mut findings = judge(window);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

pub(super) fn has_fix(finding: &Finding, effect: Safety, command: &str) -> bool {
    finding.fixes.iter().any(|fix| fix.effect == effect && fix.command.contains(command))
}

pub(super) fn title(finding: &Finding) -> String {
    crate::words(finding).title
}

pub(super) fn pids(subjects: &[Subject]) -> Vec<Option<u32>> {
    subjects.iter().map(Subject::pid).collect()
}

/// A finding that is saved and read has the same words; one without any of its details, as another version may have saved it, still
/// has a title.
pub(super) fn words_last(finding: &Finding) {
    let words = crate::words(finding);
    assert!(!words.title.is_empty() && !words.cause.is_empty() && !words.impact.is_empty(), "{words:?}");
    assert_eq!(words.outlook.is_empty(), finding.eta.is_none(), "{words:?}");
    let saved = serde_json::to_string(finding).unwrap();
    let read: Finding = serde_json::from_str(&saved).unwrap();
    assert_eq!((crate::words(&read), read.fingerprint()), (words, finding.fingerprint()));

    let without_evidence = fill!(Finding { evidence: Vec::new(), ..read.clone() });
    let without_facts = fill!(Finding { facts: Vec::new(), ..read.clone() });
    let without_subject = fill!(Finding { subject: Subject::default(), ..read.clone() });
    let bare = fill!(Finding { evidence: Vec::new(), facts: Vec::new(), subject: Subject::default(), ..read.clone() });
    let unknown = fill!(Finding { variant: "of_another_version".into(), ..bare.clone() });
    for stripped in [without_evidence, without_facts, without_subject, bare, unknown] {
        let words = crate::words(&stripped);
        assert!(!words.title.trim().is_empty(), "{stripped:?}");
        for text in [&words.title, &words.cause, &words.impact, &words.outlook] {
            assert!(!text.contains("  ") && !text.contains("()") && !text.ends_with(':'), "{text:?}");
        }
    }
}
