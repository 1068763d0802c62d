//! disk_io_bottleneck: storage that others wait for, and why: the device itself is slow, a process asks too much of it, one process's
//! flushes hold up all others, or a cgroup has come to its own limit.

mod crowded;
mod flush_storm;
mod load;
mod own_limit;
mod saturated;
mod slow_device;
#[cfg(test)]
mod tests;

use kerno_model::amount::millis;
use kerno_model::{
    DiskDevice, DiskOpStat, DiskSummary, Effect, Evidence, Fact, Finding, RequestKind, Severity, Subject, Unit, Window,
};

use self::load::{Sufferer, Waits, mean_bytes, under_way};
use crate::{Words, rule, suffers};

/// A call that took so long stands still, as far as people are concerned.
const STANDSTILL_MS: f64 = 5000.0;

/// The slowest that a healthy device moves data, in bytes a second: longer requests may take longer.
const MOVES_AT_LEAST: f64 = 30e6;

/// A kind of request is judged from this many on,
const MIN_REQUESTS: u64 = 10;
/// or from this many, where each takes so long that there are few: one or two may be a disk that has to spin up.
const FEW_REQUESTS: u64 = 3;
/// And from this many under way on average.
const MIN_UNDER_WAY: f64 = 0.2;

/// How many of those who wait are told of with how long they do.
const TOLD: usize = 3;

rule! {
    /// Storage that others wait for.
    DiskBottleneck = "disk_io_bottleneck", "disk_io", "storage keeps processes waiting",
        "Looks at how long each request waited in the queue and took at the device, not at how busy the device is: a device that is \
         busy all the time may be far from its limits. Tells seven causes apart. A slow device: each request takes long although few \
         are made. A saturated device: it is busy all the time and many requests wait; the process that asks for most is behind it \
         (buffered writes count for the process that wrote the data). A flush storm: the fsync calls of one process hold up those of \
         others. A noisy neighbour: one load moves most of the bytes, and the sync calls of a process that moves little wait for them, \
         also where the device is not busy all the time. Dirty pages: a process writes more than the device can write back, and the \
         kernel holds up others who write to it (balance_dirty_pages). A device that is slow to sync for several processes of which none \
         moves much. A cgroup at its own I/O limit: this never shows in the latency of requests. A load that slows nobody down is no \
         finding, such as a backup that reads as fast as the disk can, or a database that waits for its own short fsync calls.",
        judge, words;
    causes: [StorageSlow];
    suffers: [
        suffers(Effect::StorageFails, |t, a, b| t.same_device(a, b), "failed requests are tried again and take long"),
        suffers(Effect::StorageSlow, |t, a, b| t.stacked_device(a, b), "its requests wait for the device below"),
        suffers(Effect::MemoryShort, |t, a, b| t.thrashing(a, b), "pages that were dropped are read again and again"),
    ];
    thresholds: {
        slow_ms: 20.0 Milliseconds, 0.1 ..= 60000.0,
            "a device without moving parts is slow when reads or writes take longer than this: half of them, or on average";
        slow_rotational_ms: 100.0 Milliseconds, 0.1 ..= 60000.0, "the same for a device with moving parts";
        slow_flush_ms: 50.0 Milliseconds, 0.1 ..= 60000.0,
            "the same for flushes of a device without moving parts; four times this with moving parts";
        little_asked: 500.0 PerSecond, 1.0 ..= 1000000.0,
            "a slow device is itself the cause when it serves fewer requests than this while busy; a tenth of this with moving parts";
        utilisation: 0.6 Ratio, 0.1 ..= 1.0, "a device that is busy for less of the window is not saturated";
        in_flight: 8.0 Count, 1.0 ..= 100000.0,
            "a device with a lower queue depth on average (requests waiting or in flight) is not saturated";
        sync_ms: 50.0 Milliseconds, 1.0 ..= 60000.0, "a process suffers when its fsync calls take longer than this on average";
        storm_syncs: 30.0 PerSecond, 1.0 ..= 1000000.0, "a process that makes more fsync calls than this can hold up others";
        storm_sync_ms: 10.0 Milliseconds, 0.1 ..= 60000.0,
            "others are held up when their fsync calls take longer than this on average; four times this with moving parts";
        limit_used: 0.9 Ratio, 0.5 ..= 2.0, "a cgroup that uses more of its own I/O limit than this is held back by it";
    }
    evidence: {
        device_time: "time of {} at the device (typical)";
        device_time_p99: "time of {} at the device (p99)";
        total_time: "time of {} in the queue and at the device (median)";
        queue_time_p99: "time of {} in the queue (p99)";
        requests_served: "requests served while busy";
        data_moved: "data moved while busy";
        busy: "device busy";
        queue_depth: "queue depth (mean)";
        bytes_share: "share of all bytes, {}";
        requests_share: "share of all requests, {}";
        moved_by_load: "data moved by it";
        waiting: "processes whose sync calls take long";
        fsyncs: "fsync calls of {}";
        fsyncs_share: "share of all fsync calls, {}";
        limit_used: "share of the {} limit used";
        stalled: "time in which some of its tasks waited for I/O";
        requests_wait: "requests of {} (mean)";
        fsyncs_wait: "fsync calls of {} (mean)";
        calls_wait: "{} (mean)";
    }
}

fn judge(window: &Window, rule: &DiskBottleneck) -> Vec<Finding> {
    let Some(disk) = &window.disk_io else { return Vec::new() };
    let limited = disk.throttled.iter().filter_map(|cgroup| own_limit::judge(window, disk, cgroup, rule));
    let mut findings: Vec<_> = limited.collect();
    let storm = flush_storm::judge(window, disk, rule);
    let storm_device = storm.as_ref().map(|(_, dev)| dev.clone());
    findings.extend(storm.map(|(finding, _)| finding));
    for device in disk.devices.iter().filter(|device| storm_device.as_deref() != Some(device.dev.as_str())) {
        if stands_on_another(disk, device) {
            continue;
        }
        findings.extend(judge_device(window, disk, device, rule));
    }
    findings
}

/// What is wrong at one device: writers who are held back first, for that is known; then a slow device, unless it only has much to do; then
/// one with many requests at a time; then one with few of them that are large.
fn judge_device(window: &Window, disk: &DiskSummary, device: &DiskDevice, rule: &DiskBottleneck) -> Option<Finding> {
    let dirty = || crowded::dirty(window, disk, device, rule);
    let slow = slow_device::judge(window, disk, device, rule);
    if let Some(slow) = slow {
        // Of several requests at a time each has a part of the device only: how many it does in a second is what it can.
        let (served, _) = load::pace(device, window.seconds());
        let own_limit = slow.evidence.iter().find(|evidence| evidence.quantity == "device_time");
        let serves_fast = own_limit.and_then(|it| it.threshold).is_some_and(|limit| 1e3 / served.max(1e-9) < limit);
        return dirty()
            .or_else(|| serves_fast.then(|| crowded::busy(window, disk, device, rule)).flatten())
            .or(Some(slow));
    }
    dirty()
        .or_else(|| saturated::judge(window, disk, device, rule))
        .or_else(|| crowded::busy(window, disk, device, rule))
        .or_else(|| crowded::shared(window, disk, device, rule))
}

fn words(finding: &Finding) -> Words {
    match finding.variant.as_ref() {
        slow_device::VARIANT => slow_device::words(finding),
        crowded::BUSY | crowded::DIRTY | crowded::SHARED => crowded::words(finding),
        saturated::VARIANT => saturated::words(finding),
        flush_storm::VARIANT => flush_storm::words(finding),
        own_limit::VARIANT => own_limit::words(finding),
        _ => {
            let subject = finding.subject.label().unwrap_or_else(|| "a device".to_owned());
            let title = format!("{subject} keeps processes waiting for storage");
            Words { title, impact: impact(finding), ..Words::default() }
        }
    }
}

// What devices do.

/// A device on top of others (dm, md) has their latency: the one below is told of.
fn stands_on_another(disk: &DiskSummary, device: &DiskDevice) -> bool {
    !device.backing.is_empty()
        && disk.devices.iter().any(|below| below.utilisation > 0.5 && device.backing.contains(&below.name))
}

/// It has an arm that moves; loop devices take this from the disk below, whose cache they share.
fn has_moving_parts(device: &DiskDevice) -> bool {
    device.rotational && !device.name.starts_with("loop")
}

/// From where on a kind of request takes too long on this device; longer requests may take longer.
fn limit_ms(device: &DiskDevice, stat: &DiskOpStat, rule: &DiskBottleneck) -> f64 {
    match (stat.op, has_moving_parts(device)) {
        (RequestKind::Flush, false) => rule.slow_flush_ms,
        (RequestKind::Flush, true) => rule.slow_flush_ms * 4.0,
        (_, false) => rule.slow_ms + mean_bytes(stat) / MOVES_AT_LEAST * 1e3,
        (_, true) => rule.slow_rotational_ms + mean_bytes(stat) / MOVES_AT_LEAST * 1e3,
    }
}

/// Kinds that somebody waits for, enough of them to judge.
fn judged(device: &DiskDevice, seconds: f64) -> impl Iterator<Item = &DiskOpStat> {
    let kinds =
        device.ops.iter().filter(|stat| matches!(stat.op, RequestKind::Read | RequestKind::Write | RequestKind::Flush));
    kinds.filter(move |stat| {
        under_way(stat, seconds) >= MIN_UNDER_WAY
            && (stat.count >= MIN_REQUESTS || (stat.count >= FEW_REQUESTS && under_way(stat, seconds) >= 0.5))
    })
}

/// Requests waiting or under way, on average.
fn depth(device: &DiskDevice, seconds: f64) -> f64 {
    let under_way: f64 = device.ops.iter().map(|stat| under_way(stat, seconds)).sum();
    device.in_flight.mean().unwrap_or(0.0).max(under_way)
}

/// Busy all the time, with many at a time.
fn is_full(device: &DiskDevice, seconds: f64, rule: &DiskBottleneck) -> bool {
    device.utilisation >= rule.utilisation && depth(device, seconds) >= rule.in_flight
}

// Those who wait.

fn severity_of<'a>(mut suffering: impl Iterator<Item = &'a Sufferer>) -> Severity {
    if suffering.any(|sufferer| sufferer.max_ms >= STANDSTILL_MS) { Severity::Critical } else { Severity::Warning }
}

/// Adds how long the first of those who wait do; `threshold_ms` is what the first of all crossed, where that is why there is a finding.
fn with_waits<'a>(
    mut finding: Finding,
    window: &Window,
    suffering: impl Iterator<Item = &'a Sufferer>,
    mut threshold_ms: Option<f64>,
) -> Finding {
    for sufferer in suffering.take(TOLD) {
        let subject = Subject::process(window, sufferer.pid, &sufferer.comm);
        let who = subject.process.map_or_else(String::new, |process| process.to_string());
        let (quantity, of) = match &sufferer.waits {
            Waits::Requests => ("requests_wait", who),
            Waits::Fsyncs => ("fsyncs_wait", who),
            Waits::Call(call) => {
                finding = finding.fact(Fact::Call(call.clone()));
                ("calls_wait", format!("{call} calls of {who}"))
            }
        };
        finding = finding.measured_of(quantity, of, sufferer.mean_ms, Unit::Milliseconds, threshold_ms.take());
    }
    finding
}

/// Who waits how long, the one who waits most first: `fsync calls of etcd (50) take 40 ms`.
fn waits(finding: &Finding) -> impl Iterator<Item = String> + '_ {
    finding.evidence.iter().filter_map(|Evidence { quantity, of, value, .. }| {
        let who = of.as_deref()?;
        let time = millis(*value);
        match quantity.as_ref() {
            "requests_wait" => Some(format!("requests of {who} take {time}")),
            "fsyncs_wait" => Some(format!("fsync calls of {who} take {time}")),
            "calls_wait" => Some(format!("{who} take {time}")),
            _ => None,
        }
    })
}

fn impact(finding: &Finding) -> String {
    let told: Vec<_> = waits(finding).collect();
    if told.is_empty() {
        "Processes that need data from the device wait.".to_owned()
    } else {
        format!("On average, {}.", told.join(", "))
    }
}
