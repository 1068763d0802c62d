//! What the kernel itself reports: messages in its log that are grave.

use kerno_model::amount::number;
use kerno_model::{
    Device, Effect, Entity, Finding, KernelMessage, Moment, Safety, Severity, Subject, Unit, Window, fill,
};

use crate::kernel_log::{Advice, Explanation, explain};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Grave messages in the kernel's log.
    KernelReport = "kernel_report", "all", "the kernel reports a fault in its log",
        "Reads what the kernel writes to its log while Kerno watches (/dev/kmsg), and knows some 150 kinds of messages (see \
        docs/kernel-messages.md). Those that tell of a fault become findings: tasks and CPUs that are stuck, damaged kernel memory, failing \
        hardware, storage and file systems, tables that are full. Some are usual once and a fault only when they come again and again. Where \
        another rule has found the same, the message is evidence for that. What programs write to the log does not count.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::StorageFails, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::NoSpace, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::StorageSlow, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::MemoryRanOut, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::MemoryShort, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::NoDescriptors, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::LimitReached, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::CpusStolen, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::CpusTaken, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::NotAccepted, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::PacketsDropped, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::PathBroken, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::ConnectsFail, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::HoldsUp, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
        suffers(Effect::StandsStill, |ties, a, b| ties.told_by_the_kernel(a, b), SAYS_SO),
    ];
    thresholds: {
        repeated: 5.0 Count, 1.0 ..= 1e6, "messages of a kind that is usual once";
    }
    evidence: {
        messages: "messages of this kind";
    }
}

const SAYS_SO: &str = "the kernel's log says so, too";

/// What a message means for who uses the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// The kernel's own memory or state.
    Kernel,
    /// A CPU, a task or a worker.
    Stuck,
    /// A device, and what is on it.
    Data,
    /// A device or a CPU.
    Hardware,
    /// Memory.
    Memory,
    /// The network.
    Network,
    /// A server whose file system is mounted.
    Remote,
    /// A limit.
    Limit,
}

impl Harm {
    const fn impact(self) -> &'static str {
        match self {
            Self::Kernel => {
                "The kernel is not to be trusted from here on: tasks may hang, data may be damaged. Plan a restart."
            }
            Self::Stuck => "What needs that CPU, task or lock stands still.",
            Self::Data => "Data may be lost, or cannot be read or written.",
            Self::Hardware => "The machine becomes slow or stops when it gets worse.",
            Self::Memory => "What asks for memory fails or waits.",
            Self::Network => "Connections slow down or break.",
            Self::Remote => "Whoever uses files of that server waits for it.",
            Self::Limit => "What needs more of it fails.",
        }
    }
}

/// From how many messages on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    One,
    Several,
}

use Needs::{One, Several};
use Severity::{Critical, Warning};

/// The kinds that are findings. What is only part of another message, says that all is well, or comes with normal work is not among them, and
/// neither is what a rule of its own always tells better: OOM kills, programs that crash, links that go down.
const GRAVE: &[(&str, Severity, Needs, Harm)] = &[
    ("null_dereference", Critical, One, Harm::Kernel),
    ("page_fault_kernel", Critical, One, Harm::Kernel),
    ("general_protection_kernel", Critical, One, Harm::Kernel),
    ("kernel_bug", Critical, One, Harm::Kernel),
    ("list_corruption", Critical, One, Harm::Kernel),
    ("scheduling_while_atomic", Warning, One, Harm::Kernel),
    ("bad_page", Critical, One, Harm::Kernel),
    ("hung_task", Warning, One, Harm::Stuck),
    ("soft_lockup", Critical, One, Harm::Stuck),
    ("hard_lockup", Critical, One, Harm::Stuck),
    ("rcu_stall", Critical, One, Harm::Stuck),
    ("workqueue_lockup", Warning, One, Harm::Stuck),
    ("rt_throttling", Warning, One, Harm::Stuck),
    ("ext4_error", Critical, One, Harm::Data),
    ("ext4_read_only", Critical, One, Harm::Data),
    ("ext4_superblock", Warning, One, Harm::Data),
    ("ext4_write_error", Warning, One, Harm::Data),
    ("ext4_delayed_allocation", Warning, One, Harm::Data),
    ("ext4_data_lost", Critical, One, Harm::Data),
    ("jbd2_abort", Critical, One, Harm::Data),
    ("jbd2_data", Warning, One, Harm::Data),
    ("xfs_corruption", Critical, One, Harm::Data),
    ("xfs_shutdown", Critical, One, Harm::Data),
    ("xfs_io_error", Warning, One, Harm::Data),
    ("btrfs_checksum", Warning, One, Harm::Data),
    ("btrfs_read_only", Critical, One, Harm::Data),
    ("btrfs_error", Critical, One, Harm::Data),
    ("f2fs_checkpoint", Critical, One, Harm::Data),
    ("fat_error", Warning, One, Harm::Data),
    ("io_error", Warning, One, Harm::Data),
    ("medium_error", Critical, One, Harm::Data),
    ("target_error", Warning, One, Harm::Data),
    ("transport_error", Warning, One, Harm::Data),
    ("space_allocation_error", Critical, One, Harm::Data),
    ("buffer_io_error", Warning, One, Harm::Data),
    ("scsi_failed", Warning, Several, Harm::Data),
    ("scsi_offline", Critical, One, Harm::Data),
    ("ata_exception", Warning, One, Harm::Data),
    ("nvme_timeout", Warning, One, Harm::Data),
    ("nvme_down", Critical, One, Harm::Data),
    ("nvme_lost", Critical, One, Harm::Data),
    ("md_failure", Critical, One, Harm::Data),
    ("dm_thin_full", Critical, One, Harm::Data),
    ("dm_thin_low", Warning, One, Harm::Data),
    ("nbd_timeout", Warning, One, Harm::Data),
    ("swap_read_error", Critical, One, Harm::Data),
    ("swap_write_error", Warning, One, Harm::Data),
    ("mce_logged", Warning, One, Harm::Hardware),
    ("edac_corrected", Warning, Several, Harm::Hardware),
    ("edac_uncorrected", Critical, One, Harm::Hardware),
    ("memory_failure", Critical, One, Harm::Hardware),
    ("ghes", Warning, One, Harm::Hardware),
    ("thermal_throttle", Warning, Several, Harm::Hardware),
    ("irq_nobody_cared", Warning, One, Harm::Hardware),
    ("iommu_fault", Warning, Several, Harm::Hardware),
    ("pcie_aer", Warning, Several, Harm::Hardware),
    ("clocksource_unstable", Warning, One, Harm::Hardware),
    ("allocation_failure", Warning, Several, Harm::Memory),
    ("slub_allocation", Warning, Several, Harm::Memory),
    ("nfs_not_responding", Warning, One, Harm::Remote),
    ("smb_not_responding", Warning, One, Harm::Remote),
    ("conntrack_full", Warning, One, Harm::Network),
    ("neighbour_overflow", Warning, One, Harm::Network),
    ("tcp_memory", Warning, One, Harm::Network),
    ("tcp_orphans", Warning, One, Harm::Network),
    ("tx_timeout", Warning, One, Harm::Network),
    ("hardware_hang", Warning, One, Harm::Network),
    ("duplicate_address", Warning, One, Harm::Network),
    ("file_max", Warning, One, Harm::Limit),
    ("pids_limit", Warning, One, Harm::Limit),
    ("audit_backlog", Warning, Several, Harm::Stuck),
];

#[allow(clippy::cast_precision_loss, reason = "a count")]
fn judge(window: &Window, rule: &KernelReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    for message in &window.kernel_messages {
        let grave = GRAVE.iter().find(|(kind, ..)| *kind == message.kind);
        let Some((kind, severity, from, _)) = grave.filter(|_| !is_of_no_medium(message)) else { continue };
        let needed = if *from == One { 1.0 } else { rule.repeated };
        let count = message.count as f64;
        let Some(explanation) = explain(&message.text).filter(|_| count >= needed) else { continue };
        let mut finding = KernelReport::finding(*severity)
            .variant(kind)
            .about(subject(window, &explanation))
            .detail("text", message.text.clone())
            .measured("messages", count, Unit::Count, Some(needed));
        finding.since = since(window, message.first_ns);
        finding.excess = count / needed;
        finding.confidence = 0.95;
        findings.push(fixes(finding, &explanation));
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(MAX_FINDINGS);
    findings
}

/// The most findings of one window: one fault makes messages of several kinds.
const MAX_FINDINGS: usize = 8;

/// Drives without a medium fail what is asked of them, and nothing is wrong.
fn is_of_no_medium(message: &KernelMessage) -> bool {
    let kind = message.about.trim_end_matches(|c: char| c.is_ascii_digit());
    ["fd", "sr"].contains(&kind) && kind != message.about
}

fn since(window: &Window, at_ns: u64) -> Option<Moment> {
    (at_ns > window.span.started_ns).then(|| window.moment_ns(at_ns))
}

fn subject(window: &Window, explanation: &Explanation) -> Subject {
    let name = |key: &str| explanation.names.get(key).filter(|name| !name.is_empty());
    if let Some(device) = name("device").or_else(|| name("array")) {
        return fill!(Subject { device: Some(Device { dev: String::new(), name: device.clone() }) });
    }
    if let Some(interface) = name("interface") {
        return fill!(Subject { interface: Some(interface.clone()) });
    }
    let pid = name("pid").and_then(|pid| pid.parse::<u32>().ok());
    let process = pid.zip(name("process")).filter(|(pid, comm)| {
        // The id may be one of another namespace, or another process's by now.
        window.process(*pid).is_some_and(|process| process.comm == **comm)
    });
    process.map_or_else(Subject::default, |(pid, comm)| Subject::process(window, pid, comm))
}

fn fixes(finding: Finding, explanation: &Explanation) -> Finding {
    let target = match (&finding.subject.device, &finding.subject.interface) {
        (Some(device), _) => Entity::Device(device.clone()),
        (None, Some(interface)) => Entity::Interface(interface.clone()),
        (None, None) => Entity::Machine,
    };
    explanation.steps.iter().fold(finding, |finding, step| match step {
        Advice::Look { command, why } => finding.fix(target.clone(), Safety::ReadOnly, command.clone(), *why),
        Advice::Change { command, why } => finding.fix(target.clone(), Safety::Changing, command.clone(), *why),
        Advice::Do { .. } => finding,
    })
}

fn words(finding: &Finding) -> Words {
    let text = finding.text("text").unwrap_or_default();
    let kind = crate::kernel_log::entries().find(|entry| entry.id == finding.variant);
    let what = kind.map_or("a fault of a kind that this version does not know", |kind| kind.title);
    let about = finding.subject.label().map_or_else(String::new, |label| format!(" ({label})"));
    let count = finding.number("messages").filter(|count| *count > 1.0);
    let count = count.map(|count| format!("{} messages", number(count)));
    let cause = kind.map_or_else(
        || "See the kernel's log.".to_owned(),
        |kind| {
            let wrote = if text.is_empty() { String::new() } else { format!(" It wrote: \"{text}\".") };
            format!("{} {}{wrote}", kind.meaning, kind.why)
        },
    );
    let harm = GRAVE.iter().find(|(kind, ..)| *kind == finding.variant).map_or(Harm::Stuck, |(.., harm)| *harm);
    Words {
        title: title(&format!("the kernel reports: {what}{about}"), [count]),
        cause,
        impact: harm.impact().into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::Process;

    fn window(messages: &[(&str, u64)]) -> Window {
        let message = |(text, count): &(&str, u64)| {
            let found = explain(text).unwrap_or_else(|| panic!("{text}"));
            let about = found.names.get("device").or_else(|| found.names.get("interface")).cloned().unwrap_or_default();
            KernelMessage { kind: found.id.into(), about, count: *count, first_ns: 5, text: (*text).into() }
        };
        fill!(Window { kernel_messages: messages.iter().map(message).collect() })
    }

    fn judged(messages: &[(&str, u64)]) -> Vec<Finding> {
        let findings = (KernelReport::RULE.judge)(&window(messages), &Thresholds::default());
        findings.iter().for_each(words_hold);
        findings
    }

    #[test]
    fn a_grave_message_names_its_device() {
        let text = "critical medium error, dev sda, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2";
        let findings = judged(&[(text, 12)]);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        let words = crate::words(finding);
        assert_eq!(
            words.title,
            "the kernel reports: a block device cannot read or write a place on its medium (sda): 12 messages"
        );
        assert_eq!(finding.subject.device_name(), Some("sda"));
        assert!(words.cause.contains(text) && words.impact.contains("Data"), "{words:?}");
        assert!(finding.fixes.iter().any(|fix| fix.command.contains("sda")));
    }

    #[test]
    fn a_hung_task_is_named_if_it_is_known_and_is_the_same() {
        let text = "INFO: task dd:456 blocked for more than 120 seconds.";
        let mut window = window(&[(text, 1)]);
        let named = |window: &Window| (KernelReport::RULE.judge)(window, &Thresholds::default())[0].subject.pid();
        assert_eq!(named(&window), None);
        let process = |comm: &str| Process { pid: 456, comm: comm.into(), ..Process::default() };
        window.processes.insert(456, process("other"));
        assert_eq!(named(&window), None);
        window.processes.insert(456, process("dd"));
        assert_eq!(named(&window), Some(456));
    }

    #[test]
    fn what_is_usual_is_silent() {
        let fd = "I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2";
        assert!(judged(&[(fd, 9)]).is_empty(), "a drive without a medium");
        let sr = "I/O error, dev sr0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2";
        assert!(judged(&[(sr, 9)]).is_empty());
        let mounted = "EXT4-fs (sda1): recovery complete";
        assert!(explain(mounted).is_none_or(|found| !GRAVE.iter().any(|(kind, ..)| *kind == found.id)));
    }

    #[test]
    fn the_table_names_kinds_that_exist_once_each() {
        let known: BTreeSet<_> = crate::kernel_log::entries().map(|entry| entry.id).collect();
        let grave: BTreeSet<_> = GRAVE.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(grave.len(), GRAVE.len());
        assert!(grave.is_subset(&known), "{:?}", grave.difference(&known).collect::<Vec<_>>());
    }
}
