//! A cgroup at its own I/O limit.

use kerno_model::amount::{quantity, share};
use kerno_model::fill;
use kerno_model::{
    CgroupIo, DiskSummary, Entity, Fact, Finding, IoLimitKind, Limit, RequestKind, Safety, Scope, Severity, Subject,
    Unit, Value, Window,
};

use super::DiskBottleneck;
use super::load::quantile_ms;
use crate::Words;
use crate::rules::storage::{device_of, requests};
use crate::shell::word;

pub(super) const VARIANT: &str = "own_limit";

pub(super) fn judge(window: &Window, disk: &DiskSummary, cgroup: &CgroupIo, rule: &DiskBottleneck) -> Option<Finding> {
    if cgroup.limit_used < rule.limit_used {
        return None;
    }
    let kind = if cgroup.tightest.is_read() { RequestKind::Read } else { RequestKind::Write };
    let device = disk.device(&cgroup.dev);
    // Whoever has most I/O in it, if that can be told.
    let busiest = cgroup
        .pids
        .iter()
        .filter_map(|pid| window.process(*pid))
        .max_by_key(|p| p.used.read_bytes + p.used.write_bytes);
    let subject = match busiest {
        Some(process) => {
            fill!(Subject { cgroup: Some(cgroup.path.clone()), ..Subject::process(window, process.pid, &process.comm) })
        }
        None => Subject::cgroup(&cgroup.path),
    };
    let mut finding = DiskBottleneck::finding(Severity::Warning)
        .variant(VARIANT)
        .about(subject.on_device(window, &cgroup.dev))
        .fact(Fact::AtLimit(Limit::CgroupIo))
        .fact(Fact::Scope(Scope::Cgroup(cgroup.path.clone())))
        .fact(Fact::Operation(kind))
        .detail("limits", cgroup.limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .detail("tightest", cgroup.tightest.key())
        .measured_of("limit_used", cgroup.tightest.key(), cgroup.limit_used, Unit::Ratio, Some(rule.limit_used));
    if let Some(limit) = limit(cgroup) {
        finding = finding.detail("limit", limit);
    }
    if let Some(stat) = device.and_then(|device| device.op(kind)) {
        let p99 = quantile_ms(&stat.device_ns, 0.99);
        finding = finding.measured_of("device_time_p99", requests(Some(kind)), p99, Unit::Milliseconds, None);
    }
    if let Some(stalled) = cgroup.some_stalled {
        finding = finding.measured("stalled", stalled, Unit::Ratio, None);
    }
    finding.victims = cgroup.pids.iter().take(8).map(|pid| Subject::process(window, *pid, "")).collect();
    finding.excess = cgroup.limit_used / rule.limit_used;
    let (file, raise) = limit_file(cgroup);
    let target = || Entity::Cgroup(cgroup.path.clone());
    Some(finding.fix(target(), Safety::ReadOnly, format!("cat {}", word(&file)), "shows the limit").fix(
        target(),
        Safety::Changing,
        raise,
        "removes the limit; a number in its place raises it",
    ))
}

/// The tightest limit, where it can be read.
#[allow(clippy::cast_precision_loss, reason = "a limit")]
fn limit(cgroup: &CgroupIo) -> Option<(f64, Unit)> {
    let limit = cgroup.limits.iter().find(|limit| limit.kind == cgroup.tightest)?;
    let unit = if cgroup.tightest.is_bytes() { Unit::BytesPerSecond } else { Unit::PerSecond };
    Some((limit.per_second as f64, unit))
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

pub(super) fn words(finding: &Finding) -> Words {
    let device = device_of(finding);
    let cgroup = finding.subject.cgroup.as_ref().map_or_else(|| "a cgroup".to_owned(), |path| format!("cgroup {path}"));
    let who = finding.subject.process.as_ref().map_or_else(String::new, |process| match process.comm.as_str() {
        "" => format!(" ({process})"),
        comm => format!(" ({comm} {})", process.id.pid),
    });
    let requests = requests(finding.operation());
    let mut title = format!("{cgroup}{who} is held back by its own I/O limit: {requests} of {device}");
    if let Some(Value::Number { value, unit }) = finding.get("limit") {
        title += &format!(" at {}", quantity(*value, *unit));
    }
    let mut cause = match finding.text("limits") {
        Some(limits) => format!("The cgroup is limited to {limits} on {device}."),
        None => format!("The cgroup has an I/O limit on {device}."),
    };
    if let (Some(used), Some(tightest)) = (finding.number("limit_used"), finding.text("tightest")) {
        cause += &format!(" It uses {} of its {tightest} limit.", share(used));
    }
    cause += " Requests wait before they reach the device, so the device's own latency does not show it.";
    let impact = "Processes in the cgroup wait for its limit; others do not.".to_owned();
    Words { title, cause, impact, ..Words::default() }
}
