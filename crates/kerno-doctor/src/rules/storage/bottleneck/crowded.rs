//! A noisy neighbour: a device on which one load moves most of the bytes, while the few that others need on it wait. It need not be busy all
//! the time, nor do many requests have to wait: whoever syncs waits for what is written between.

use kerno_model::amount::{bytes, millis, share};
use kerno_model::{DiskDevice, DiskSummary, Fact, Finding, RequestKind, Safety, Severity, Subject, Unit, Window};

use super::load::{Load, Sufferer, is_of_files, loads_beside, own_bytes, pace, sufferers, victims};
use super::{DiskBottleneck, impact, severity_of, waits, with_waits};
use crate::Words;
use crate::rules::storage::{device_of, entity, process_of};

/// Calls that wait for storage take long.
pub(super) const BUSY: &str = "noisy_neighbour";
/// Calls that write to memory wait until less of it is dirty.
pub(super) const DIRTY: &str = "dirty_pages";

/// So much of all bytes are those of one load,
const MOST: f64 = 0.6;
/// and so many times those of the one that waits.
const TIMES: f64 = 3.0;
/// A device that is busy for less of the time because of one load holds nobody up.
const BUSY_WITH_IT: f64 = 0.25;
/// Waiting for less of the window is felt by nobody.
const FELT: f64 = 0.2;
/// The same for writes to memory, which should take no time at all.
const FELT_WRITES: f64 = 0.1;
/// Waiting for so much of the window, shorter waits are felt, too.
const OFTEN: f64 = 0.4;
/// At so many of the looks a thread slept because too much was dirty.
const HELD_BACK: f64 = 0.1;
/// The shortest wait that counts at all, in milliseconds.
const NOTICED_MS: f64 = 10.0;
/// Slow calls that a victim has at least.
const MIN_CALLS: u64 = 3;
/// What reads may take, of what syncs may.
const READS: f64 = 0.6;

/// Who writes so much to a device that others have to wait before they may make any more of their memory dirty.
pub(super) fn dirty(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    rule: &DiskBottleneck,
) -> Option<Finding> {
    let writers = || disk.writers.iter().filter(|writer| writer.dev == device.dev);
    let looks = writers().map(|writer| writer.looks).max()?;
    if f64::from(writers().map(|writer| writer.held_back).sum::<u32>()) < HELD_BACK * f64::from(looks) {
        return None;
    }
    // Between two looks it may have been held back as the others were, if that happened at no other device that it writes to.
    let elsewhere = |dev: &str| disk.writers.iter().any(|other| other.dev == dev && other.held_back > 0);
    let only_here = |pid: u32| {
        let mut others = disk.writers.iter().filter(|writer| writer.pid == pid && writer.dev != device.dev);
        !others.any(|writer| elsewhere(&writer.dev))
    };
    let held_back = |pid: u32| writers().any(|writer| writer.pid == pid && (writer.held_back > 0 || only_here(pid)));
    let waiting: Vec<_> = sufferers(window, disk, &device.dev, f64::INFINITY, NOTICED_MS)
        .into_iter()
        .filter(|who| held_back(who.pid) && !who.waits.is_sync() && feels_it(window, who.pid, rule.sync_ms, FELT_WRITES))
        .collect();
    let (load, suffering) = neighbour(window, disk, device, &waiting)?;
    Some(finding(window, device, rule, DIRTY, &load, &suffering))
}

/// Who moves so much on a device that what others need there takes long.
pub(super) fn busy(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    rule: &DiskBottleneck,
) -> Option<Finding> {
    let slower = if super::has_moving_parts(device) { 4.0 } else { 1.0 };
    let waiting: Vec<_> = sufferers(window, disk, &device.dev, NOTICED_MS, NOTICED_MS)
        .into_iter()
        .filter(|who| uses(disk, device, who) && feels_it(window, who.pid, rule.sync_ms * slower, FELT))
        .collect();
    let (load, suffering) = neighbour(window, disk, device, &waiting)?;
    let limited = |pid: &u32| disk.throttled.iter().any(|cgroup| cgroup.dev == device.dev && cgroup.pids.contains(pid));
    let at_work = device.utilisation * load.bytes_share >= BUSY_WITH_IT;
    // What a cgroup's limit holds back never gets to the device, and yet a journal may wait for it.
    (at_work || load.pids.iter().any(limited)).then(|| finding(window, device, rule, BUSY, &load, &suffering))
}

/// Whether a process spends a good part of the window in slow calls for storage, each of which takes long: below that it is a wait as any
/// other.
#[allow(clippy::cast_precision_loss, reason = "counts and times")]
fn feels_it(window: &Window, pid: u32, sync_ms: f64, share: f64) -> bool {
    let calls = window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
    let slow = calls.filter(|call| call.pid == pid && call.slow > 0 && is_of_files(&call.name));
    let Some(worst) = slow.max_by_key(|call| call.slow_total_ns) else { return false };
    let total_ms = worst.slow_total_ns as f64 / 1e6;
    // Reads and look-ups are quicker on any disk in good order.
    let writes = worst.name.contains("sync") || worst.name.contains("write");
    let limit = if writes { sync_ms } else { sync_ms * READS };
    let (of_window, mean_ms) = (total_ms / (window.seconds() * 1e3), total_ms / worst.slow as f64);
    // One that waits nearly half of the time feels shorter waits as well.
    let limit = if of_window >= OFTEN { limit / 2.0 } else { limit };
    worst.slow >= MIN_CALLS && of_window >= share && mean_ms >= limit
}

/// It is known to wait for this device: it has made requests there.
fn uses(disk: &DiskSummary, device: &DiskDevice, who: &Sufferer) -> bool {
    disk.submitters.iter().any(|submitter| submitter.pid == who.pid && submitter.dev == device.dev)
}

/// The load beside those that wait, and those of them that ask little themselves.
fn neighbour(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    waiting: &[Sufferer],
) -> Option<(Load, Vec<Sufferer>)> {
    let first = waiting.iter().find_map(|who| {
        let load = loads_beside(window, disk, &device.dev, who.pid).into_iter().next()?;
        (load.bytes_share >= MOST && is_less(window, disk, device, who, &load)).then_some(load)
    })?;
    let suffering = waiting.iter().filter(|who| !first.pids.contains(&who.pid));
    let suffering: Vec<_> = suffering.filter(|who| is_less(window, disk, device, who, &first)).cloned().collect();
    Some((first, suffering))
}

/// Whether it asks far less of the device than each process of the load does.
fn is_less(window: &Window, disk: &DiskSummary, device: &DiskDevice, who: &Sufferer, load: &Load) -> bool {
    let own = own_bytes(window, disk, &device.dev, who.pid);
    load.bytes_each >= own * TIMES
}

fn finding(
    window: &Window,
    device: &DiskDevice,
    rule: &DiskBottleneck,
    variant: &'static str,
    load: &Load,
    suffering: &[Sufferer],
) -> Finding {
    let (_, moved) = pace(device, window.seconds());
    let subject = Subject::process(window, load.pid, &load.comm).on_device(window, &device.dev);
    let who = subject.process.as_ref().map_or_else(String::new, ToString::to_string);
    let severity = if suffering.is_empty() { Severity::Warning } else { severity_of(suffering.iter()) };
    let mut finding = DiskBottleneck::finding(severity)
        .variant(variant)
        .about(subject)
        .fact(Fact::Operation(if load.reads { RequestKind::Read } else { RequestKind::Write }))
        .measured_of("bytes_share", who, load.bytes_share, Unit::Ratio, Some(MOST))
        .measured("moved_by_load", load.bytes / window.seconds(), Unit::BytesPerSecond, None)
        .measured("data_moved", moved, Unit::BytesPerSecond, None)
        .measured("busy", device.utilisation, Unit::Ratio, None);
    finding = with_waits(finding, window, suffering.iter(), Some(rule.sync_ms));
    let kind = if load.reads { RequestKind::Read } else { RequestKind::Write };
    if let Some(stat) = device.op(kind) {
        let of = crate::rules::storage::requests(Some(kind));
        finding = finding.measured_of("total_time", of, super::load::typical_ms(stat), Unit::Milliseconds, None);
    }
    if load.pids.len() > 1 {
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let count = load.pids.len() as f64;
        finding = finding.detail("processes", (count, Unit::Count));
        if let Some(parent) = load.parent {
            let parent = Subject::process(window, parent, "");
            if let Some(named) = parent.process.filter(|named| !named.comm.is_empty()) {
                finding = finding.detail("started_by", named);
            }
        }
    }
    finding.victims = victims(window, suffering.iter());
    finding.excess = suffering.first().map_or(1.0, |who| (who.mean_ms / rule.sync_ms).max(1.0));
    finding.confidence = if load.bytes_share >= 0.8 { 0.85 } else { 0.7 };
    with_fixes(finding, device, load)
}

fn with_fixes(finding: Finding, device: &DiskDevice, load: &Load) -> Finding {
    let dirty = finding.variant == DIRTY;
    let pid = if load.pids.len() > 1 { load.parent.unwrap_or(load.pid) } else { load.pid };
    let mut finding = finding
        .fix(
            entity(device),
            Safety::ReadOnly,
            format!("iostat -x {} 1 5", device.label()),
            "shows the device's queue and latency",
        )
        .look_at_process(format!("cat /proc/{}/io", load.pid), "shows how much it has read and written so far");
    if dirty {
        let first = device.dev.as_str();
        finding = finding
            .look(
                "grep -E 'Dirty|Writeback:' /proc/meminfo; sysctl vm.dirty_ratio vm.dirty_bytes vm.dirty_background_ratio",
                "shows how much is dirty, and from where on writers wait",
            )
            .fix(
                entity(device),
                Safety::ReadOnly,
                format!("grep . /sys/class/bdi/{first}/max_ratio /sys/class/bdi/{first}/max_bytes"),
                "shows how much of this device may be dirty",
            );
    }
    finding
        .change_process(
            format!("ionice -c3 -p {pid}"),
            "lets others go first, where the I/O scheduler honors it (bfq, mq-deadline); not what was written to memory",
        )
        .change_process(format!("kill -STOP {pid}"), "pauses it; kill -CONT resumes it")
}

pub(super) fn words(finding: &Finding) -> Words {
    let (who, device) = (process_of(finding), device_of(finding));
    let dirty = finding.variant == DIRTY;
    let part = finding.number("bytes_share").map(|part| format!("{} of the bytes", share(part)));
    let first = waits(finding).next();
    let told: Vec<_> = part.clone().into_iter().chain(first).collect();
    let mut title = if dirty {
        format!("{who} has {device} write back more than it can")
    } else {
        format!("{who} crowds others out on {device}")
    };
    if !told.is_empty() {
        title += &format!(": {}", told.join(", "));
    }
    let verb = if finding.operation() == Some(RequestKind::Read) { "reads" } else { "writes" };
    let mut cause = match (finding.number("moved_by_load"), part) {
        (Some(moved), Some(part)) => format!("{who} {verb} {} a second on {device}, {part}.", bytes(moved)),
        _ => format!("{who} {verb} most of what is moved on {device}."),
    };
    if let Some(number) = finding.number("processes") {
        let by = match finding.get("started_by") {
            Some(kerno_model::Value::Process(parent)) => format!(", started by {parent}"),
            _ => String::new(),
        };
        cause += &format!(" With it count {} processes of the same name{by}.", kerno_model::amount::number(number));
    }
    cause += if dirty {
        " Its writes go to memory first. So much there is to be written to this device that the kernel makes all who write to it wait \
         (balance_dirty_pages), also those who write little."
    } else if verb == "reads" {
        " Requests of others wait behind its own."
    } else {
        " A sync of another process waits until the device has written what came before it, and, within one file system, for the same \
         journal."
    };
    if let Some(taken) = finding.number("total_time") {
        let requests = if verb == "reads" { "Reads" } else { "Writes" };
        cause += &format!(" {requests} take {} each in the queue and at the device.", millis(taken));
    }
    Words { title, cause, impact: impact(finding), ..Words::default() }
}
