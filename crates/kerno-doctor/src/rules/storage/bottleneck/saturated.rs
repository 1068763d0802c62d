//! A device that is busy all the time, where requests wait or take long because there are so many.

use kerno_model::amount::{bytes, millis, number, share};
use kerno_model::{DiskDevice, DiskOpStat, DiskSummary, Fact, Finding, RequestKind, Safety, Subject, Unit, Window};

use super::load::{demand, others, pace, quantile_ms, sufferers, typical_ms, victims};
use super::{DiskBottleneck, depth, impact, is_full, judged, limit_ms, severity_of, with_waits};
use crate::Words;
use crate::rules::storage::{device_of, entity, process_of, requests};

pub(super) const VARIANT: &str = "saturated";

pub(super) fn judge(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    rule: &DiskBottleneck,
) -> Option<Finding> {
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
    let (served, moved) = pace(device, seconds);
    let kind = worst.op;
    let of = requests(Some(kind));
    let subject = Subject::process(window, first.pid, &first.comm).on_device(window, &device.dev);
    let who = subject.process.as_ref().map_or_else(String::new, ToString::to_string);
    let limit = limit_ms(device, worst, rule);
    let mut finding = DiskBottleneck::finding(severity_of(suffering.iter()))
        .variant(VARIANT)
        .about(subject)
        .fact(Fact::Operation(kind))
        .measured("busy", device.utilisation, Unit::Ratio, Some(rule.utilisation))
        .measured("queue_depth", depth, Unit::Count, Some(rule.in_flight))
        .measured_of("total_time", of, typical_ms(worst), Unit::Milliseconds, Some(limit))
        .measured_of("queue_time_p99", of, quantile_ms(&worst.queue_ns, 0.99), Unit::Milliseconds, None)
        .measured("requests_served", served, Unit::PerSecond, None)
        .measured("data_moved", moved, Unit::BytesPerSecond, None)
        .measured_of("bytes_share", who.clone(), first.bytes_share, Unit::Ratio, None)
        .measured_of("requests_share", who, first.requests_share, Unit::Ratio, None);
    finding = with_waits(finding, window, suffering.iter(), None);
    finding.victims = victims(window, suffering.iter());
    let since = device.in_flight.since_at_least(rule.in_flight).filter(|since| *since > window.covered_seconds() * 0.1);
    finding.since = since.map(|since| window.moment(since));
    finding.excess = (depth / rule.in_flight).max(excess(worst));
    finding.confidence = if first.bytes_share.max(first.requests_share) >= 0.5 { 0.9 } else { 0.6 };
    let (pid, label) = (first.pid, device.label());
    Some(
        finding
            .look_at_process(format!("iotop -boPa -n 5 -p {pid}"), "shows what it reads and writes")
            .fix(
                entity(device),
                Safety::ReadOnly,
                format!("iostat -x {label} 1 5"),
                "shows the device's queue and latency",
            )
            .look_at_process(format!("cat /proc/{pid}/io"), "shows how much it has read and written so far")
            .change_process(
                format!("ionice -c3 -p {pid}"),
                "lets others go first, where the I/O scheduler honors it (bfq, mq-deadline)",
            )
            .change_process(format!("kill -STOP {pid}"), "pauses it; kill -CONT resumes it"),
    )
}

pub(super) fn words(finding: &Finding) -> Words {
    let who = process_of(finding);
    let told = [
        finding.number("busy").map(|busy| format!("{} busy", share(busy))),
        finding.number("queue_depth").map(|depth| format!("queue depth {}", number(depth))),
        finding.number("total_time").map(|time| format!("{} take {}", requests(finding.operation()), millis(time))),
    ];
    let told: Vec<_> = told.into_iter().flatten().collect();
    let mut title = format!("{who} saturates {}", device_of(finding));
    if !told.is_empty() {
        title += &format!(": {}", told.join(", "));
    }
    let part = |name| finding.number(name).map(share);
    let mut cause = match (part("requests_share"), part("bytes_share")) {
        (Some(requests), Some(bytes)) => format!("{who} causes {requests} of the requests and {bytes} of the bytes."),
        _ => format!("{who} asks more of the device than any other process."),
    };
    cause += &match (finding.number("requests_served"), finding.number("data_moved")) {
        (Some(served), Some(moved)) => format!(
            " The device serves {} requests and {} a second and can do no more; all other requests wait.",
            number(served),
            bytes(moved)
        ),
        _ => " The device can do no more; all other requests wait.".to_owned(),
    };
    Words { title, cause, impact: impact(finding), ..Words::default() }
}
