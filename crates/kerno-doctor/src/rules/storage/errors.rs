//! disk_errors: requests that devices failed.

use super::bottleneck::look_at_device;
use crate::shell::word;
use crate::{Culprit, Exemplar, Finding, Severity, Unit, rule};
use kerno_model::errno;
use kerno_model::{DiskDevice, DiskFailure, DiskSummary, RequestKind};
use kerno_model::{ErrnoCount, Window};

rule! {
    /// Requests that devices failed.
    DiskErrors = "disk_errors", "disk_io", "A device fails requests",
        "Each read, write or flush that a device ends with an error is one too many. Left out: operations that a device does not \
         support and says so (EOPNOTSUPP; EREMOTEIO for discards), requests that were not to wait (EAGAIN), commands passed \
         through by tools that probe a device, and drives without a medium.",
        judge;
    requests: 1.0 Count, 1.0 ..= 1000000.0, "Failed requests of one device in the window.";
}

/// Errors that are normal life.
fn is_harmless(op: RequestKind, errno: i32) -> bool {
    match errno {
        // A reader of cards without a card has no medium either.
        errno::EOPNOTSUPP | errno::EAGAIN | errno::ENOMEDIUM => true,
        errno::EREMOTEIO => op == RequestKind::Discard,
        _ => op == RequestKind::Other,
    }
}

/// What the error says of the device.
fn meaning(errno: i32) -> (Severity, &'static str) {
    match errno {
        errno::EIO => (Severity::Critical, "the device could not do it"),
        errno::ENODATA => (Severity::Critical, "the medium cannot be read there"),
        errno::EILSEQ => (Severity::Critical, "the data did not match its checksum"),
        errno::ENOSPC => (Severity::Critical, "there is no room left below the device"),
        errno::ETIMEDOUT => (Severity::Critical, "the device did not answer in time"),
        errno::ENOLINK => (Severity::Critical, "the path to the device is broken"),
        errno::EREMOTEIO => (Severity::Critical, "the device refused it"),
        errno::ENODEV | errno::ENXIO => (Severity::Critical, "the device is gone"),
        errno::EBADE => (Severity::Warning, "another host has reserved the device"),
        _ => (Severity::Warning, "the request failed"),
    }
}

fn judge(window: &Window, rule: &DiskErrors) -> Vec<Finding> {
    let Some(disk) = &window.disk_io else { return Vec::new() };
    let failing: Vec<_> = disk.devices.iter().filter_map(|device| Some((device, failed(device)?))).collect();
    // What is made of a device that fails, fails with it.
    let explained = |device: &DiskDevice| failing.iter().any(|(below, _)| device.backing.contains(&below.name));
    let told = failing.iter().filter(|(device, failed)| !explained(device) && failed.count >= rule.requests);
    told.map(|(device, failed)| finding(window, disk, device, failed, rule)).collect()
}

struct Failed<'a> {
    count: f64,
    /// The kind and error that there is most of, the worst errors first.
    op: RequestKind,
    error: &'a ErrnoCount,
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn failed(device: &DiskDevice) -> Option<Failed<'_>> {
    // Optical and floppy drives fail every request while they are empty.
    if device.name.starts_with("sr") || device.name.starts_with("fd") {
        return None;
    }
    let all = device.ops.iter().flat_map(|stat| stat.errors.iter().map(|error| (stat.op, error)));
    let all: Vec<_> = all.filter(|(op, error)| !is_harmless(*op, error.errno)).collect();
    let (op, error) = *all.iter().max_by_key(|(_, error)| (meaning(error.errno).0, error.count))?;
    Some(Failed { count: all.iter().map(|(_, error)| error.count as f64).sum(), op, error })
}

fn finding(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    failed: &Failed<'_>,
    rule: &DiskErrors,
) -> Finding {
    let label = device.label();
    let (severity, meaning) = meaning(failed.error.errno);
    let title = format!(
        "{label} fails requests: {:.0} failed, {} with {} ({meaning})",
        failed.count, failed.op, failed.error.name
    );
    let mut finding = DiskErrors::finding(severity, title).measured(
        "requests failed",
        failed.count,
        Unit::Count,
        Some(rule.requests),
    );
    let of_device = |failure: &&DiskFailure| failure.dev == device.dev && !is_harmless(failure.op, failure.errno);
    let failures: Vec<_> = disk.failures.iter().filter(of_device).collect();
    for stat in &device.ops {
        for error in stat.errors.iter().filter(|error| !is_harmless(stat.op, error.errno)) {
            #[allow(clippy::cast_precision_loss, reason = "a count")]
            let count = error.count as f64;
            finding =
                finding.measured(format!("{} requests ended with {}", stat.op, error.name), count, Unit::Count, None);
        }
    }
    let seconds = |failure: &DiskFailure| {
        #[allow(clippy::cast_precision_loss, reason = "a time in the window")]
        let ns = failure.timestamp_ns.saturating_sub(window.span.started_ns) as f64;
        ns / 1e9
    };
    let exemplar = |failure: &&DiskFailure| Exemplar {
        seconds: seconds(failure),
        what: format!(
            "{} of {} bytes at sector {} for {} ({}): {}, {} times",
            failure.op, failure.bytes, failure.sector, failure.comm, failure.pid, failure.error, failure.count
        ),
    };
    finding.exemplars = failures.iter().take(5).map(exemplar).collect();
    finding.since = failures.first().map(|failure| seconds(failure));
    finding.cause = match device.backing.first() {
        Some(below) => {
            format!("The device ended requests with an error: {meaning}. It is made of {below}: look there.")
        }
        None => format!("The device ended requests with an error: {meaning}."),
    };
    // In a node with containers one device is mounted at very many places.
    let mut places: Vec<_> = device.mounts.iter().map(String::as_str).collect();
    places.sort_by_key(|place| (place.len(), *place));
    let more = match places.len() {
        0..=3 => String::new(),
        all => format!(" and {} more places", all - 3),
    };
    places.truncate(3);
    let mounts = format!("{}{more}", places.join(", "));
    finding.impact = if mounts.is_empty() {
        "Whoever asked gets the error, or data is lost.".into()
    } else {
        format!("Data of {mounts} cannot be read or is lost; the file system may turn read-only.")
    };
    finding.culprit = Culprit::device(label);
    let mut pids: Vec<(u32, &str)> = Vec::new();
    for failure in failures.iter().filter(|failure| failure.pid != 0) {
        if !pids.iter().any(|(pid, _)| *pid == failure.pid) {
            pids.push((failure.pid, failure.comm.as_str()));
        }
    }
    finding.victims = pids.iter().take(8).map(|(pid, comm)| Culprit::process(window, *pid, comm)).collect();
    finding.excess = failed.count / rule.requests;
    finding.confidence = 0.98;
    let finding = look_at_device(finding, device);
    match device.mounts.first() {
        Some(mount) => finding.look(format!("findmnt {}", word(mount)), "shows whether it was remounted read-only"),
        None => finding,
    }
}
