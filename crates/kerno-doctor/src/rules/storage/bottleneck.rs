//! disk_io_bottleneck: storage that others wait for, and why: a process asks too much of a device, one process's flushes hold up all
//! others, the device itself is slow, or a cgroup has come to its own limit.

use super::load::{Sufferer, demand, mean_bytes, others, pace, quantile_ms, sufferers, typical_ms, under_way, victims};
use super::storm;
use crate::shell::word;
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::amount::{bytes, millis, share};
use kerno_model::{CgroupIo, DiskDevice, DiskOpStat, DiskSummary, IoLimitKind, RequestKind};

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

rule! {
    /// Storage that others wait for.
    DiskBottleneck = "disk_io_bottleneck", "disk_io", "Storage holds processes up",
        "Looks at what each request waited in the queue and took at the device, not at how busy the device is: a device that is \
         busy all the time may be far from its limits. Tells apart: a device that takes long for each request though little is \
         asked of it (the device is at fault); a device that is busy all the time with many requests waiting (the process that asks most \
         is at fault, buffered writes put down to the one who wrote); one process whose fsync calls hold up those of others; and a \
         cgroup at its own I/O limit, which never shows in a request's latency. A load that nobody suffers from, such as a backup \
         that reads as fast as the disk can, or a database that waits for its own short fsyncs, is no finding.",
        judge;
    slow_ms: 20.0 Milliseconds, 0.1 ..= 60000.0,
        "Reads or writes of a device without moving parts take longer than this: half of them, or on average.";
    slow_rotational_ms: 100.0 Milliseconds, 0.1 ..= 60000.0,
        "The same for a device with moving parts.";
    slow_flush_ms: 50.0 Milliseconds, 0.1 ..= 60000.0,
        "Flushes of a device without moving parts take longer than this; of others, four times this.";
    little_asked: 500.0 PerSecond, 1.0 ..= 1000000.0,
        "A slow device that serves fewer requests than this a second while busy is itself at fault; with moving parts, a tenth of this.";
    utilisation: 0.6 Ratio, 0.1 ..= 1.0,
        "A device that is busy for less of the window is not saturated.";
    in_flight: 8.0 Count, 1.0 ..= 100000.0,
        "A device with fewer requests waiting or under way, on average, is not saturated.";
    sync_ms: 50.0 Milliseconds, 1.0 ..= 60000.0,
        "A process whose fsync calls take longer than this on average suffers.";
    storm_syncs: 30.0 PerSecond, 1.0 ..= 1000000.0,
        "A process with more fsync calls than this a second can hold up others.";
    storm_sync_ms: 10.0 Milliseconds, 0.1 ..= 60000.0,
        "Another process's fsync calls take longer than this on average beside such a process; with moving parts, four times this.";
    limit_used: 0.9 Ratio, 0.5 ..= 2.0,
        "A cgroup that uses more of its own I/O limit than this is held back by it.";
}

fn judge(window: &Window, rule: &DiskBottleneck) -> Vec<Finding> {
    let Some(disk) = &window.disk_io else { return Vec::new() };
    let mut findings: Vec<_> = disk.throttled.iter().filter_map(|cgroup| limited(window, disk, cgroup, rule)).collect();
    let storm = storm::judge(window, disk, rule);
    let storm_device = storm.as_ref().and_then(|(_, dev)| dev.clone());
    findings.extend(storm.map(|(finding, _)| finding));
    for device in disk.devices.iter().filter(|device| storm_device.as_deref() != Some(device.dev.as_str())) {
        if stands_on_another(disk, device) {
            continue;
        }
        findings.extend(slow(window, disk, device, rule).or_else(|| saturated(window, disk, device, rule)));
    }
    findings
}

/// A device on top of others (dm, md) has their latency: the one below is told of.
fn stands_on_another(disk: &DiskSummary, device: &DiskDevice) -> bool {
    !device.backing.is_empty()
        && disk.devices.iter().any(|below| below.utilisation > 0.5 && device.backing.contains(&below.name))
}

/// From where on a kind of request takes too long on this device; longer requests may take longer.
fn limit_ms(device: &DiskDevice, stat: &DiskOpStat, rule: &DiskBottleneck) -> f64 {
    let moving = device.rotational && !device.name.starts_with("loop");
    match (stat.op, moving) {
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

/// How long these requests take the device: half of them longer; or on average, where one in ten at least takes too long, as with
/// devices that serve some at once and then none for a while.
fn taken_ms(stat: &DiskOpStat, limit_ms: f64) -> f64 {
    let median = quantile_ms(&stat.device_ns, 0.5);
    let often_long = quantile_ms(&stat.device_ns, 0.9) >= limit_ms;
    stat.device_ns.mean().map(|mean| mean / 1e6).filter(|_| often_long).map_or(median, |mean| mean.max(median))
}

/// The device takes long for each request although little is asked of it.
fn slow(window: &Window, disk: &DiskSummary, device: &DiskDevice, rule: &DiskBottleneck) -> Option<Finding> {
    let seconds = window.seconds();
    let (requests, moved) = pace(device, seconds);
    let moving = device.rotational && !device.name.starts_with("loop");
    let few = if moving { rule.little_asked / 10.0 } else { rule.little_asked };
    if requests >= few || moved >= MOVES_AT_LEAST {
        return None;
    }
    let taken = |stat: &DiskOpStat| taken_ms(stat, limit_ms(device, stat, rule));
    let excess = |stat: &DiskOpStat| taken(stat) / limit_ms(device, stat, rule);
    let worst = judged(device, seconds).max_by(|a, b| excess(a).total_cmp(&excess(b)))?;
    if excess(worst) < 1.0 {
        return None;
    }
    let limit = limit_ms(device, worst, rule);
    // A device's own queue hides how long it takes for one: of many at a time, each has a part of the device only.
    if is_full(device, seconds, rule) && 1e3 / requests < limit {
        return None;
    }
    let suffering = sufferers(window, disk, &device.dev, limit / 2.0, rule.sync_ms);
    // Nobody waits for what is written back in the background.
    let severity = match suffering.is_empty() && worst.op == RequestKind::Write {
        true => Severity::Info,
        false => severity_of(suffering.iter()),
    };
    let (taken, p99) = (taken(worst), quantile_ms(&worst.device_ns, 0.99));
    let label = device.label();
    let title = format!(
        "{label} is slow: {} take {} each, at only {requests:.0} requests a second",
        plural(worst.op),
        millis(taken)
    );
    let mut finding = DiskBottleneck::finding(severity, title)
        .measured(format!("{} took the device", plural(worst.op)), taken, Unit::Milliseconds, Some(limit))
        .measured(format!("{} took the device (p99)", plural(worst.op)), p99, Unit::Milliseconds, None)
        .measured("requests served while busy", requests, Unit::PerSecond, Some(few))
        .measured("moved while busy", moved, Unit::BytesPerSecond, Some(MOVES_AT_LEAST))
        .measured("busy", device.utilisation, Unit::Ratio, None);
    finding.cause = format!(
        "The device itself takes long for each request. It serves {requests:.0} requests and {} a second while it is busy, \
         which is little for its kind, so this is not the load.{}",
        bytes(moved),
        made_of(device)
    );
    finding.impact = impact(suffering.iter());
    finding.culprit = Culprit::device(label);
    finding.victims = victims(window, suffering.iter());
    finding.since = since(device, limit / 2.0, seconds);
    finding.excess = excess(worst);
    finding.confidence = if worst.count >= 50 { 0.9 } else { 0.75 };
    Some(look_at_device(finding, device))
}

/// The device is busy all the time and requests wait, or take long because there are so many.
fn saturated(window: &Window, disk: &DiskSummary, device: &DiskDevice, rule: &DiskBottleneck) -> Option<Finding> {
    let seconds = window.seconds();
    let depth = depth(device, seconds);
    if !is_full(device, seconds, rule) {
        return None;
    }
    let demands = demand(window, disk, &device.dev);
    let first = demands.first()?;
    let slow_ms = if device.rotational { rule.slow_rotational_ms } else { rule.slow_ms };
    let all = sufferers(window, disk, &device.dev, slow_ms, rule.sync_ms);
    let suffering: Vec<_> = others(&all, &first.comm).cloned().collect();
    // Writes may be slow in the background; what is read or flushed is waited for.
    let waited_for = judged(device, seconds).filter(|stat| stat.op != RequestKind::Write);
    let excess = |stat: &DiskOpStat| typical_ms(stat) / limit_ms(device, stat, rule);
    let worst_waited = waited_for.max_by(|a, b| excess(a).total_cmp(&excess(b))).filter(|stat| excess(stat) >= 1.0);
    if suffering.is_empty() && worst_waited.is_none() {
        return None;
    }
    let worst =
        worst_waited.or_else(|| judged(device, seconds).max_by(|a, b| typical_ms(a).total_cmp(&typical_ms(b))))?;
    let (requests, moved) = pace(device, seconds);
    let label = device.label();
    let title = format!(
        "{} ({}) saturates {label}: {} busy, {depth:.0} requests at a time, {} take {}",
        first.comm,
        first.pid,
        share(device.utilisation),
        plural(worst.op),
        millis(typical_ms(worst))
    );
    let mut finding = DiskBottleneck::finding(severity_of(suffering.iter()), title)
        .measured("busy", device.utilisation, Unit::Ratio, Some(rule.utilisation))
        .measured("requests waiting or under way (mean)", depth, Unit::Count, Some(rule.in_flight))
        .measured(
            format!("{} waited and took (p50)", plural(worst.op)),
            typical_ms(worst),
            Unit::Milliseconds,
            Some(limit_ms(device, worst, rule)),
        )
        .measured(
            format!("{} waited in the queue (p99)", plural(worst.op)),
            quantile_ms(&worst.queue_ns, 0.99),
            Unit::Milliseconds,
            None,
        )
        .measured("requests served", requests, Unit::PerSecond, None)
        .measured("moved", moved, Unit::BytesPerSecond, None)
        .measured(format!("bytes that are {}'s", first.comm), first.bytes_share, Unit::Ratio, None);
    finding.cause = format!(
        "{} causes {} of the requests and {} of the bytes. The device does what it can ({requests:.0} requests and {} a second), \
         so the rest waits.",
        first.comm,
        share(first.requests_share),
        share(first.bytes_share),
        bytes(moved)
    );
    finding.impact = impact(suffering.iter());
    finding.culprit = Culprit::process(window, first.pid, &first.comm).on_device(label);
    finding.victims = victims(window, suffering.iter());
    finding.since = device.in_flight.since_at_least(rule.in_flight).filter(|since| *since > seconds * 0.1);
    finding.excess = (depth / rule.in_flight).max(excess(worst));
    finding.confidence = if first.bytes_share.max(first.requests_share) >= 0.5 { 0.9 } else { 0.6 };
    Some(
        finding
            .look(format!("iotop -boPa -n 5 -p {}", first.pid), "shows what it reads and writes")
            .look(format!("iostat -x {label} 1 5"), "shows queue and latency of the device")
            .look(format!("cat /proc/{}/io", first.pid), "its bytes so far")
            .change(
                format!("ionice -c3 -p {}", first.pid),
                "lets others go first, where the I/O scheduler honors it (bfq, mq-deadline)",
            )
            .change(format!("kill -STOP {}", first.pid), "pauses it; kill -CONT goes on"),
    )
}

/// A cgroup at its own limit.
fn limited(window: &Window, disk: &DiskSummary, cgroup: &CgroupIo, rule: &DiskBottleneck) -> Option<Finding> {
    if cgroup.limit_used < rule.limit_used {
        return None;
    }
    let device = disk.device(&cgroup.dev);
    let label = device.map_or(cgroup.dev.as_str(), DiskDevice::label);
    let direction = if cgroup.tightest.is_read() { "reads" } else { "writes" };
    let limit = cgroup.limits.iter().find(|limit| limit.kind == cgroup.tightest);
    #[allow(clippy::cast_precision_loss, reason = "a limit, for people")]
    let limit_text = limit.map_or_else(String::new, |limit| {
        if limit.kind.is_bytes() {
            format!("{} a second", bytes(limit.per_second as f64))
        } else {
            format!("{} a second", limit.per_second)
        }
    });
    // Whoever has most I/O in it, if that can be told.
    let busiest = cgroup
        .pids
        .iter()
        .filter_map(|pid| window.process(*pid))
        .max_by_key(|p| p.used.read_bytes + p.used.write_bytes);
    let who = busiest.map_or_else(String::new, |process| format!(" ({} {})", process.comm, process.pid));
    let title = format!(
        "cgroup {}{who} is held back by its own I/O limit: {direction} of {label} at {limit_text}",
        cgroup.path
    );
    let mut finding = DiskBottleneck::finding(Severity::Warning, title).measured(
        format!("of {} used", cgroup.tightest.key()),
        cgroup.limit_used,
        Unit::Ratio,
        Some(rule.limit_used),
    );
    let kind = if cgroup.tightest.is_read() { RequestKind::Read } else { RequestKind::Write };
    if let Some(stat) = device.and_then(|device| device.op(kind)) {
        let what = format!("{direction} took the device (p99): it is not at fault");
        finding = finding.measured(what, quantile_ms(&stat.device_ns, 0.99), Unit::Milliseconds, None);
    }
    if let Some(stalled) = cgroup.some_stalled {
        finding = finding.measured("of the time some of its tasks waited for I/O", stalled, Unit::Ratio, None);
    }
    finding.cause = format!(
        "The cgroup may use no more than {} on {label}, and uses {} of its {}. Requests wait before they reach the device, so the \
         device shows nothing of it.",
        cgroup.limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        share(cgroup.limit_used),
        cgroup.tightest.key()
    );
    finding.impact = "Its processes wait for their own limit; others do not.".into();
    finding.culprit = match busiest {
        Some(process) => {
            Culprit { cgroup: Some(cgroup.path.clone()), ..Culprit::process(window, process.pid, &process.comm) }
        }
        None => Culprit::cgroup(&cgroup.path),
    }
    .on_device(label);
    finding.victims = cgroup.pids.iter().take(8).map(|pid| Culprit::process(window, *pid, "")).collect();
    finding.excess = cgroup.limit_used / rule.limit_used;
    let (file, raise) = limit_file(cgroup);
    Some(
        finding
            .look(format!("cat {}", word(&file)), "shows the limit")
            .change(raise, "takes the limit away; a number instead of it raises it"),
    )
}

/// The file with the limit, and how to lift it.
fn limit_file(cgroup: &CgroupIo) -> (String, String) {
    let path = cgroup.path.trim_end_matches('/');
    if cgroup.v2 {
        let file = format!("/sys/fs/cgroup{path}/io.max");
        let raise = format!("echo '{} {}=max' > {}", cgroup.dev, cgroup.tightest.key(), word(&file));
        return (file, raise);
    }
    let kind = match cgroup.tightest {
        IoLimitKind::ReadBytes => "read_bps",
        IoLimitKind::WriteBytes => "write_bps",
        IoLimitKind::ReadRequests => "read_iops",
        _ => "write_iops",
    };
    let file = format!("/sys/fs/cgroup/blkio{path}/blkio.throttle.{kind}_device");
    let raise = format!("echo '{} 0' > {}", cgroup.dev, word(&file));
    (file, raise)
}

pub(super) fn look_at_device(finding: Finding, device: &DiskDevice) -> Finding {
    let label = device.label();
    let finding = finding
        .look(format!("iostat -x {label} 1 5"), "shows queue and latency of the device")
        .look(format!("dmesg | grep {label}"), "shows resets, timeouts and errors of the device");
    if let Some(file) = device.backing.first().filter(|_| label.starts_with("loop")) {
        return finding
            .look(format!("losetup -l /dev/{label}"), "shows the file that it is made of")
            .look(format!("df -h {}", word(file)), "shows the file system that this file is on");
    }
    if !device.backing.is_empty() {
        return finding.look(format!("lsblk -s /dev/{label}"), "shows the devices that it is made of");
    }
    finding.look(format!("smartctl -a /dev/{label}"), "shows the health that the device itself reports")
}

fn made_of(device: &DiskDevice) -> String {
    if device.backing.is_empty() { String::new() } else { format!(" It is made of {}.", device.backing.join(", ")) }
}

pub(super) fn severity_of<'a>(mut suffering: impl Iterator<Item = &'a Sufferer>) -> Severity {
    if suffering.any(|sufferer| sufferer.max_ms >= STANDSTILL_MS) { Severity::Critical } else { Severity::Warning }
}

pub(super) fn impact<'a>(suffering: impl Iterator<Item = &'a Sufferer>) -> String {
    let told: Vec<_> = suffering
        .take(3)
        .map(|s| format!("{} of {} ({}) take {} on average", s.what, s.comm, s.pid, millis(s.mean_ms)))
        .collect();
    if told.is_empty() { "Whoever needs data from it waits.".into() } else { format!("{}.", told.join("; ")) }
}

fn plural(op: RequestKind) -> String {
    match op {
        RequestKind::Flush => "flushes".into(),
        op => format!("{op}s"),
    }
}

fn since(device: &DiskDevice, await_ms: f64, seconds: f64) -> Option<f64> {
    device.await_ms.since_at_least(await_ms).filter(|since| *since > seconds * 0.1)
}
