//! A device that takes long for each request although little is asked of it.

use kerno_model::amount::{bytes, millis, number};
use kerno_model::{
    DiskDevice, DiskOpStat, DiskSummary, Fact, Finding, Moment, RequestKind, Severity, Subject, Unit, Window,
};

use super::load::{pace, quantile_ms, sufferers, victims};
use super::{
    DiskBottleneck, MOVES_AT_LEAST, has_moving_parts, impact, is_full, judged, limit_ms, severity_of, with_waits,
};
use crate::Words;
use crate::rules::storage::{device_of, look_at_device, requests};

pub(super) const VARIANT: &str = "slow_device";

pub(super) fn judge(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    rule: &DiskBottleneck,
) -> Option<Finding> {
    let seconds = window.seconds();
    let (served, moved) = pace(device, seconds);
    let few = if has_moving_parts(device) { rule.little_asked / 10.0 } else { rule.little_asked };
    if served >= few || moved >= MOVES_AT_LEAST {
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
    if is_full(device, seconds, rule) && 1e3 / served < limit {
        return None;
    }
    let suffering = sufferers(window, disk, &device.dev, limit / 2.0, rule.sync_ms);
    // Nobody waits for what is written back in the background.
    let severity = match suffering.is_empty() && worst.op == RequestKind::Write {
        true => Severity::Info,
        false => severity_of(suffering.iter()),
    };
    let kind = worst.op;
    let of = requests(Some(kind));
    let mut finding = DiskBottleneck::finding(severity)
        .variant(VARIANT)
        .about(Subject::device(window, &device.dev))
        .fact(Fact::Operation(kind))
        .measured_of("device_time", of, taken(worst), Unit::Milliseconds, Some(limit))
        .measured_of("device_time_p99", of, quantile_ms(&worst.device_ns, 0.99), Unit::Milliseconds, None)
        .measured("requests_served", served, Unit::PerSecond, Some(few))
        .measured("data_moved", moved, Unit::BytesPerSecond, Some(MOVES_AT_LEAST))
        .measured("busy", device.utilisation, Unit::Ratio, None);
    if !device.backing.is_empty() {
        finding = finding.detail("made_of", device.backing.join(", "));
    }
    finding = with_waits(finding, window, suffering.iter(), None);
    finding.victims = victims(window, suffering.iter());
    finding.since = since(window, device, limit / 2.0);
    finding.excess = excess(worst);
    finding.confidence = if worst.count >= 50 { 0.9 } else { 0.75 };
    Some(look_at_device(finding, device))
}

/// How long these requests take the device: half of them longer; or on average, where one in ten at least takes too long, as with
/// devices that serve some at once and then none for a while.
fn taken_ms(stat: &DiskOpStat, limit_ms: f64) -> f64 {
    let median = quantile_ms(&stat.device_ns, 0.5);
    let often_long = quantile_ms(&stat.device_ns, 0.9) >= limit_ms;
    stat.device_ns.mean().map(|mean| mean / 1e6).filter(|_| often_long).map_or(median, |mean| mean.max(median))
}

fn since(window: &Window, device: &DiskDevice, await_ms: f64) -> Option<Moment> {
    let since = device.await_ms.since_at_least(await_ms)?;
    (since > window.covered_seconds() * 0.1).then(|| window.moment(since))
}

pub(super) fn words(finding: &Finding) -> Words {
    let (served, moved) = (finding.number("requests_served"), finding.number("data_moved"));
    let mut title = format!("{} is slow", device_of(finding));
    if let Some(taken) = finding.number("device_time") {
        title += &format!(": {} take {} each", requests(finding.operation()), millis(taken));
        if let Some(served) = served {
            title += &format!(" at only {} requests a second", number(served));
        }
    }
    let mut cause = "The device itself takes long for each request.".to_owned();
    if let (Some(served), Some(moved)) = (served, moved) {
        cause += &format!(
            " While busy it serves {} requests and {} a second, which is little for its kind: the load is not the reason.",
            number(served),
            bytes(moved)
        );
    }
    if let Some(below) = finding.text("made_of") {
        cause += &format!(" It is made of {below}.");
    }
    Words { title, cause, impact: impact(finding), ..Words::default() }
}
