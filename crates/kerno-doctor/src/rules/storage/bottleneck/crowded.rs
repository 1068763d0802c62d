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

/// Nobody asks much, and yet the syncs of several take long.
pub(super) const SHARED: &str = "slow_syncs";

/// From so many on it is the device's doing.
const SEVERAL: usize = 2;
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
        .filter(|who| {
            held_back(who.pid) && !who.waits.is_sync() && feels_it(window, who.pid, rule.sync_ms, FELT_WRITES)
        })
        .collect();
    let (load, suffering) = neighbour(window, disk, device, &waiting)?;
    Some(finding(window, device, rule, DIRTY, &load, &suffering))
}

/// Who moves so much on a device that what others need there takes long.
pub(super) fn busy(window: &Window, disk: &DiskSummary, device: &DiskDevice, rule: &DiskBottleneck) -> Option<Finding> {
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

/// Several whose syncs take long on one device though none of them moves much, and nor does anybody else: the device is too slow for all of
/// them together.
#[allow(clippy::cast_precision_loss, reason = "a few")]
pub(super) fn shared(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    rule: &DiskBottleneck,
) -> Option<Finding> {
    let slower = if super::has_moving_parts(device) { 4.0 } else { 1.0 };
    let suffering: Vec<_> = sufferers(window, disk, &device.dev, f64::INFINITY, NOTICED_MS)
        .into_iter()
        .filter(|who| who.waits.is_sync() && uses(disk, device, who))
        .filter(|who| feels_it(window, who.pid, rule.sync_ms * slower, FELT))
        .collect();
    if suffering.len() < SEVERAL || device.utilisation < BUSY_WITH_IT {
        return None;
    }
    let stat = device.op(RequestKind::Write)?;
    let (served, moved) = pace(device, window.seconds());
    let mut finding = DiskBottleneck::finding(severity_of(suffering.iter()))
        .variant(SHARED)
        .about(Subject::device(window, &device.dev))
        .fact(Fact::Operation(RequestKind::Flush))
        .measured("waiting", suffering.len() as f64, Unit::Count, Some(SEVERAL as f64));
    finding = with_waits(finding, window, suffering.iter(), Some(rule.sync_ms * slower))
        .measured_of("total_time", "writes", super::load::typical_ms(stat), Unit::Milliseconds, None)
        .measured("requests_served", served, Unit::PerSecond, None)
        .measured("data_moved", moved, Unit::BytesPerSecond, None)
        .measured("busy", device.utilisation, Unit::Ratio, None);
    finding.victims = victims(window, suffering.iter());
    finding.excess = suffering.first().map_or(1.0, |who| (who.mean_ms / (rule.sync_ms * slower)).max(1.0));
    finding.confidence = 0.7;
    Some(crate::rules::storage::look_at_device(finding, device))
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

/// The words of a finding about a device whose syncs take long for several.
fn shared_words(finding: &Finding) -> Words {
    let device = device_of(finding);
    let mut title = format!("{device} is slow to sync");
    let number = finding.number("waiting").map(|waiting| format!("{waiting:.0} processes wait"));
    let told: Vec<_> = number.into_iter().chain(waits(finding).next()).collect();
    if !told.is_empty() {
        title += &format!(": {}", told.join(", "));
    }
    let mut cause = "Several processes sync small writes there, and none moves most of the bytes. A sync needs some requests, one after the \
                     other, and within one file system all wait for the same journal."
        .to_owned();
    if let Some(taken) = finding.number("total_time") {
        cause += &format!(" Each write takes {} in the queue and at the device.", millis(taken));
    }
    Words { title, cause, impact: impact(finding), ..Words::default() }
}

pub(super) fn words(finding: &Finding) -> Words {
    if finding.variant == SHARED {
        return shared_words(finding);
    }
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

#[cfg(test)]
mod tests {
    use kerno_model::{DiskSubmitter, DiskSummary, DiskWriter, RequestKind, Severity, SyscallOffender, Window};

    use crate::rules::storage::testing::*;

    /// A database (20) whose 80 syncs take 60 ms each, and the requests of others beside it. The device does not have much to do.
    fn beside(others: &[(u32, &str, u64)]) -> Window {
        let submitted = |pid, comm: &str, bytes| DiskSubmitter {
            write_bytes: bytes,
            ..submitter(pid, comm, bytes / 500_000 + 80, 0, 15 * MS)
        };
        let mut submitters: Vec<_> = others.iter().map(|(pid, comm, bytes)| submitted(*pid, comm, *bytes)).collect();
        submitters.push(submitted(20, "etcd", 300_000));
        let disk = DiskSummary {
            devices: vec![device(vec![op(RequestKind::Write, 700, 500_000, 0, 15 * MS)], 0.7, 2.0)],
            submitters,
            ..DiskSummary::default()
        };
        let mut processes = vec![process(20, "etcd", 300_000)];
        processes.extend(others.iter().map(|(pid, comm, bytes)| process(*pid, comm, *bytes)));
        let mut window = observed(disk, vec![sync(20, "etcd", 80, 60 * MS)], processes);
        window.syscall_latency.as_mut().unwrap().offenders = vec![slow(20, "etcd", "fdatasync", 80, 60)];
        window
    }

    fn slow(pid: u32, comm: &str, call: &str, times: u64, each_ms: u64) -> SyscallOffender {
        SyscallOffender {
            pid,
            comm: comm.into(),
            name: call.into(),
            slow: times,
            slow_ns: 10 * MS,
            slow_total_ns: times * each_ms * MS,
            max_ns: 2 * each_ms * MS,
            ..SyscallOffender::default()
        }
    }

    #[test]
    fn whoever_moves_most_of_the_bytes_is_named_with_who_waits() {
        let window = beside(&[(10, "dd", 300_000_000)]);
        let finding = the_only(&window);
        words_last(&finding);
        assert_eq!((finding.variant.as_ref(), finding.severity), (super::BUSY, Severity::Warning));
        assert_eq!((finding.pid(), finding.subject.device_name()), (Some(10), Some("nvme0n1")));
        assert_eq!(pids(&finding.victims), [Some(20)]);
        let told = "dd (10) crowds others out on nvme0n1: 99.9 % of the bytes, fsync calls of etcd (20) take 60 ms";
        assert_eq!(title(&finding), told);
        // What it suffers is no root cause of its own.
        let all = crate::judge(&window, &crate::Thresholds::default());
        assert_eq!(all.len(), 1, "{all:#?}");
        assert!(all[0].consequences.iter().any(|finding| finding.rule == "syscall_latency_high"));
    }

    #[test]
    fn commands_that_come_one_after_the_other_are_one_load() {
        let each: Vec<_> = (30..90).map(|pid| (pid, "cp", 4_000_000)).collect();
        let mut window = beside(&each);
        for (_, process) in window.processes.iter_mut().filter(|(pid, _)| **pid >= 30) {
            (process.parent_pid, process.alive, process.started_ns) = (9, false, 5_000_000_000);
        }
        let (pid, shell) = process(9, "sh", 0);
        window.processes.insert(pid, shell);
        let finding = the_only(&window);
        words_last(&finding);
        assert!(title(&finding).contains("crowds others out"), "{}", title(&finding));
        assert!(crate::words(&finding).cause.contains("60 processes of the same name, started by sh (9)"));
    }

    #[test]
    fn alike_ones_are_nobodys_neighbours() {
        // Many that sync a little, none of which moves more than the others.
        let each: Vec<_> = (30..39).map(|pid| (pid, "etcd", 300_000)).collect();
        let mut window = beside(&each);
        window.processes.values_mut().for_each(|process| process.parent_pid = 9);
        assert!(judge(&window).is_empty(), "{:#?}", judge(&window));
        // A server and its workers.
        let mut own = beside(&[(10, "etcd", 300_000_000)]);
        own.processes.get_mut(&10).unwrap().parent_pid = 20;
        assert!(judge(&own).is_empty(), "its own child");
    }

    #[test]
    fn who_writes_elsewhere_or_holds_nobody_up_is_left_alone() {
        let mut elsewhere = beside(&[(10, "dd", 300_000_000)]);
        elsewhere.disk_io.as_mut().unwrap().submitters[0].dev = "8:0".into();
        assert!(judge(&elsewhere).is_empty(), "on another device");
        let mut quick = beside(&[(10, "dd", 300_000_000)]);
        let calls = quick.syscall_latency.as_mut().unwrap();
        calls.offenders = vec![slow(20, "etcd", "fdatasync", 80, 20)];
        calls.syncs = vec![sync(20, "etcd", 80, 20 * MS)];
        assert!(judge(&quick).is_empty(), "short waits");
        let mut idle = beside(&[(10, "dd", 300_000_000)]);
        idle.disk_io.as_mut().unwrap().devices[0].utilisation = 0.1;
        assert!(judge(&idle).is_empty(), "the device is idle");
    }

    #[test]
    fn several_slow_syncs_without_a_neighbour_are_the_devices_doing() {
        let mut window = beside(&[(30, "redis", 300_000)]);
        let calls = window.syscall_latency.as_mut().unwrap();
        calls.offenders.push(slow(30, "redis", "fsync", 70, 65));
        calls.syncs.push(sync(30, "redis", 70, 65 * MS));
        let finding = the_only(&window);
        words_last(&finding);
        assert_eq!((finding.variant.as_ref(), finding.pid()), (super::SHARED, None));
        assert_eq!(pids(&finding.victims).len(), 2);
        let told = "nvme0n1 is slow to sync: 2 processes wait, fsync calls of etcd (20) take 60 ms";
        assert_eq!(title(&finding), told);
        let all = crate::judge(&window, &crate::Thresholds::default());
        assert_eq!(all.len(), 1, "both are consequences: {all:#?}");
    }

    /// The device's requests are those of a kernel thread; 10 and 20 write to memory.
    fn held_back(looks_of_both: (u32, u32), device_of_hog: &str) -> Window {
        let mut kernel = submitter(3, "kworker/u8:1", 400, 0, 30 * MS);
        kernel.write_bytes = 200_000_000;
        let writer = |pid, comm: &str, dev: &str, held_back| DiskWriter {
            pid,
            comm: comm.into(),
            dev: dev.into(),
            held_back,
            looks: 20,
        };
        let disk = DiskSummary {
            devices: vec![device(vec![op(RequestKind::Write, 400, 500_000, 0, 15 * MS)], 0.9, 3.0)],
            submitters: vec![kernel],
            writers: vec![
                writer(10, "tar", device_of_hog, looks_of_both.0),
                writer(20, "nginx", "259:0", looks_of_both.1),
            ],
            ..DiskSummary::default()
        };
        let mut worker = process(3, "kworker/u8:1", 0);
        worker.1.kernel_thread = true;
        let mut window =
            observed(disk, vec![], vec![process(10, "tar", 190_000_000), process(20, "nginx", 900_000), worker]);
        window.syscall_latency.as_mut().unwrap().offenders =
            vec![slow(10, "tar", "write", 70, 90), slow(20, "nginx", "write", 40, 80)];
        window
    }

    #[test]
    fn whoever_made_most_dirty_is_named_not_who_is_held_back_for_it() {
        let window = held_back((14, 5), "259:0");
        let finding = the_only(&window);
        words_last(&finding);
        assert_eq!((finding.variant.as_ref(), finding.pid()), (super::DIRTY, Some(10)));
        assert_eq!(pids(&finding.victims), [Some(20)]);
        let told = "tar (10) has nvme0n1 write back more than it can: 99.5 % of the bytes, write calls of nginx (20) take 80 ms";
        assert_eq!(title(&finding), told);
        let all = crate::judge(&window, &crate::Thresholds::default());
        assert_eq!(all.len(), 1, "one that waits for its own load is none: {all:#?}");
        // Between two looks, but on the same device.
        assert_eq!(the_only(&held_back((14, 0), "259:0")).pid(), Some(10));
    }

    #[test]
    fn without_anybody_held_back_writes_are_slow_for_another_reason() {
        assert!(judge(&held_back((0, 0), "259:0")).is_empty());
        assert!(judge(&held_back((14, 0), "8:0")).is_empty(), "on another device");
    }
}
