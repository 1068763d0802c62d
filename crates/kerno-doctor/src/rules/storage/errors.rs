//! disk_errors: requests that devices failed.

use kerno_model::amount::{bytes, number};
use kerno_model::{
    DiskDevice, DiskFailure, DiskSummary, Effect, Entity, ErrnoCount, Exemplar, Fact, Finding, RequestKind, Safety,
    Severity, Subject, Unit, Window, errno,
};

use super::{device_of, look_at_device, requests};
use crate::shell::word;
use crate::{Words, rule, suffers};

rule! {
    /// Requests that devices failed.
    DiskErrors = "disk_errors", "disk_io", "a device fails requests",
        "Finds each read, write or flush that a device ends with an error: one is too many. Leaves out operations that a device does \
         not support (EOPNOTSUPP; EREMOTEIO for discards), requests that were asked not to wait (EAGAIN), commands that tools send to \
         probe a device, and drives without a medium.",
        judge, words;
    causes: [StorageFails];
    suffers: [
        suffers(Effect::StorageFails, |t, a, b| t.stacked_device(a, b), "its requests fail on the device below"),
        suffers(Effect::NoSpace, |t, a, b| t.stands_on_full(a, b), "the file that it is made of cannot grow"),
    ];
    thresholds: {
        requests: 1.0 Count, 1.0 ..= 1000000.0, "failed requests of one device in the window";
    }
    evidence: {
        requests_failed: "requests failed";
        failed_with: "requests failed, {}";
    }
}

/// Places where a device is mounted that are named.
const MAX_PLACES: usize = 3;

/// Errors that are normal life.
const fn is_harmless(op: RequestKind, errno: i32) -> bool {
    match errno {
        // A reader of cards without a card has no medium either.
        errno::EOPNOTSUPP | errno::EAGAIN | errno::ENOMEDIUM => true,
        errno::EREMOTEIO => matches!(op, RequestKind::Discard),
        _ => matches!(op, RequestKind::Other),
    }
}

/// What the error says of the device: how bad it is, and why, in words.
const fn meaning(errno: i32) -> (Severity, &'static str) {
    match errno {
        errno::EIO => (Severity::Critical, "I/O error"),
        errno::ENODATA => (Severity::Critical, "the medium cannot be read there"),
        errno::EILSEQ => (Severity::Critical, "checksum mismatch"),
        errno::ENOSPC => (Severity::Critical, "no space left below the device"),
        errno::ETIMEDOUT => (Severity::Critical, "the device did not answer in time"),
        errno::ENOLINK => (Severity::Critical, "no path to the device"),
        errno::EREMOTEIO => (Severity::Critical, "the device rejected the request"),
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
    /// Kinds of requests and their errors, the worst and most frequent first.
    errors: Vec<(RequestKind, &'a ErrnoCount)>,
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn failed(device: &DiskDevice) -> Option<Failed<'_>> {
    // Optical and floppy drives fail every request while they are empty.
    if device.name.starts_with("sr") || device.name.starts_with("fd") {
        return None;
    }
    let all = device.ops.iter().flat_map(|stat| stat.errors.iter().map(|error| (stat.op, error)));
    let mut errors: Vec<_> = all.filter(|(op, error)| !is_harmless(*op, error.errno)).collect();
    errors.sort_by_key(|(_, error)| (meaning(error.errno).0, error.count));
    errors.reverse();
    let count = errors.iter().map(|(_, error)| error.count as f64).sum();
    (!errors.is_empty()).then_some(Failed { count, errors })
}

fn finding(
    window: &Window,
    disk: &DiskSummary,
    device: &DiskDevice,
    failed: &Failed<'_>,
    rule: &DiskErrors,
) -> Finding {
    let severity = failed.errors.first().map_or(Severity::Warning, |(_, error)| meaning(error.errno).0);
    let mut finding = DiskErrors::finding(severity).about(Subject::device(window, &device.dev)).measured(
        "requests_failed",
        failed.count,
        Unit::Count,
        Some(rule.requests),
    );
    for (op, error) in &failed.errors {
        for fact in [Fact::Errno(error.errno), Fact::Operation(*op)] {
            if !finding.has(&fact) {
                finding = finding.fact(fact);
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let count = error.count as f64;
        finding = finding.measured_of("failed_with", format!("{op} with {}", error.name), count, Unit::Count, None);
    }
    if let Some(below) = device.backing.first() {
        finding = finding.detail("made_of", below.as_str());
    }
    finding = with_places(finding, device);
    let of_device = |failure: &&DiskFailure| failure.dev == device.dev && !is_harmless(failure.op, failure.errno);
    let failures: Vec<_> = disk.failures.iter().filter(of_device).collect();
    finding.exemplars = failures.iter().take(5).map(|failure| exemplar(window, failure)).collect();
    finding.since = failures.first().map(|failure| window.moment_ns(failure.timestamp_ns));
    let mut pids: Vec<(u32, &str)> = Vec::new();
    for failure in failures.iter().filter(|failure| failure.pid != 0) {
        if !pids.iter().any(|(pid, _)| *pid == failure.pid) {
            pids.push((failure.pid, failure.comm.as_str()));
        }
    }
    finding.victims = pids.iter().take(8).map(|(pid, comm)| Subject::process(window, *pid, comm)).collect();
    finding.excess = failed.count / rule.requests;
    finding.confidence = 0.98;
    let finding = look_at_device(finding, device);
    match device.mounts.first() {
        Some(mount) => finding.fix(
            Entity::Mount(mount.clone()),
            Safety::ReadOnly,
            format!("findmnt {}", word(mount)),
            "shows whether it was remounted read-only",
        ),
        None => finding,
    }
}

/// Says where the device is mounted. In a node with containers that may be at very many places.
fn with_places(finding: Finding, device: &DiskDevice) -> Finding {
    let mut places: Vec<_> = device.mounts.iter().map(String::as_str).collect();
    places.sort_by_key(|place| (place.len(), *place));
    let more = places.len().saturating_sub(MAX_PLACES);
    places.truncate(MAX_PLACES);
    if places.is_empty() {
        return finding;
    }
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    finding.detail("places", places.join(", ")).detail("more_places", (more as f64, Unit::Count))
}

#[allow(clippy::cast_precision_loss, reason = "a size and a count")]
fn exemplar(window: &Window, failure: &DiskFailure) -> Exemplar {
    let what = format!(
        "{} of {} at sector {} by {} ({}): {}, {} times",
        failure.op,
        bytes(failure.bytes as f64),
        failure.sector,
        failure.comm,
        failure.pid,
        failure.error,
        number(failure.count as f64)
    );
    Exemplar::new(window.moment_ns(failure.timestamp_ns), what)
}

fn words(finding: &Finding) -> Words {
    let label = device_of(finding);
    let mut title = format!("{label} fails requests");
    if let Some(count) = finding.number("requests_failed") {
        title += &format!(": {} failed", number(count));
    }
    let worst = finding.errnos().next();
    let mut cause = "The device ended requests with an error.".to_owned();
    if let Some(errno) = worst {
        let name = ErrnoCount::new(errno, 0).name;
        let (_, meaning) = meaning(errno);
        title += &format!(", {} with {name} ({meaning})", requests(finding.operation()));
        cause = format!("The device ended requests with {name}: {meaning}.");
    }
    if let Some(below) = finding.text("made_of") {
        cause += &format!(" It is made of {below}: look there first.");
    }
    let impact = match finding.text("places") {
        Some(places) => {
            let more = finding.number("more_places").filter(|more| *more >= 1.0);
            let more = more.map_or_else(String::new, |more| format!(" and {} more places", number(more)));
            format!("Data of {places}{more} cannot be read or is lost. The file system may turn read-only.")
        }
        None => "The programs that made these requests get the error, or data is lost.".to_owned(),
    };
    Words { title, cause, impact, ..Words::default() }
}

#[cfg(test)]
mod tests {
    use kerno_model::{
        DiskDevice, DiskFailure, DiskSummary, ErrnoCount, Fact, RequestKind, Safety, Severity, Subject, errno,
    };

    use crate::rules::storage::testing::*;

    #[test]
    fn failed_requests_are_found_and_harmless_ones_are_not() {
        let failing = |kind: RequestKind, errno| {
            let mut stat = op(kind, 100, 4096, 0, MS);
            stat.errors = vec![ErrnoCount::new(errno, 7)];
            let failure = DiskFailure {
                dev: "259:0".into(),
                op: kind,
                errno,
                error: stat.errors[0].name.clone(),
                pid: 70,
                comm: "cp".into(),
                timestamp_ns: 3_000_000_000,
                count: 7,
                ..DiskFailure::default()
            };
            DiskSummary {
                devices: vec![device(vec![stat], 0.1, 0.0)],
                failures: vec![failure],
                ..DiskSummary::default()
            }
        };
        let window = observed(failing(RequestKind::Read, errno::EIO), vec![], vec![]);
        let finding = the_only(&window);
        assert_eq!((finding.rule.as_str(), finding.severity), ("disk_errors", Severity::Critical));
        assert_eq!((finding.subject.device_name(), finding.since), (Some("nvme0n1"), Some(window.moment(3.0))));
        assert_eq!((finding.victims[0].pid(), finding.exemplars.len()), (Some(70), 1));
        assert!(has_fix(&finding, Safety::ReadOnly, "dmesg | grep nvme0n1"));
        for (name, errno) in [
            (RequestKind::Discard, errno::EOPNOTSUPP),
            (RequestKind::Discard, errno::EREMOTEIO),
            (RequestKind::Other, errno::EIO),
            (RequestKind::Read, errno::EAGAIN),
        ] {
            assert_eq!(judge(&observed(failing(name, errno), vec![], vec![])), [], "{name} {errno}");
        }
    }

    #[test]
    fn what_stands_on_a_failing_device_is_not_told_of_twice() {
        let mut stat = op(RequestKind::Write, 100, 4096, 0, MS);
        stat.errors = vec![ErrnoCount::new(errno::EIO, 1)];
        let below = device(vec![stat.clone()], 0.1, 0.0);
        let above =
            DiskDevice { dev: "253:0".into(), name: "dm-0".into(), backing: vec!["nvme0n1".into()], ..below.clone() };
        let disk = DiskSummary { devices: vec![above, below], ..DiskSummary::default() };
        assert_eq!(the_only(&observed(disk, vec![], vec![])).subject.device_name(), Some("nvme0n1"));
    }

    #[test]
    fn errors_name_a_few_places_and_each_process_once() {
        let mut failing = op(RequestKind::Read, 100, 4096, 0, MS);
        failing.errors = vec![ErrnoCount::new(errno::EIO, 4)];
        let mut disk = device(vec![failing], 0.1, 0.1);
        disk.mounts = (0..50).map(|i| format!("/var/lib/kubelet/{i}")).chain(["/".to_owned()]).collect();
        let failure = |pid| DiskFailure {
            dev: "259:0".into(),
            pid,
            op: RequestKind::Read,
            errno: errno::EIO,
            count: 1,
            ..DiskFailure::default()
        };
        let failures = vec![failure(7), failure(8), failure(7), failure(0)];
        let finding = the_only(&observed(
            DiskSummary { devices: vec![disk], failures, ..DiskSummary::default() },
            vec![],
            vec![],
        ));
        assert!(
            crate::words(&finding)
                .impact
                .starts_with("Data of /, /var/lib/kubelet/0, /var/lib/kubelet/1 and 48 more places"),
            "{}",
            crate::words(&finding).impact
        );
        assert_eq!(finding.victims.iter().filter_map(Subject::pid).collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn the_worst_error_comes_first_and_words_are_made_of_the_finding() {
        let mut read = op(RequestKind::Read, 100, 4096, 0, MS);
        read.errors = vec![ErrnoCount::new(errno::EBADE, 1900), ErrnoCount::new(errno::EIO, 7)];
        let mut flush = op(RequestKind::Flush, 10, 0, 0, MS);
        flush.errors = vec![ErrnoCount::new(errno::EIO, 4)];
        let disk = DiskDevice { backing: vec!["sdb".into()], ..device(vec![flush, read], 0.1, 0.1) };
        let disk = DiskSummary { devices: vec![disk], ..DiskSummary::default() };
        let finding = the_only(&observed(disk, vec![], vec![]));
        assert_eq!(finding.errnos().collect::<Vec<_>>(), [errno::EIO, errno::EBADE]);
        assert_eq!(finding.operation(), Some(RequestKind::Read));
        assert!(finding.has(&Fact::Operation(RequestKind::Flush)));
        let words = crate::words(&finding);
        assert_eq!(words.title, "nvme0n1 fails requests: 1,911 failed, reads with EIO (I/O error)");
        assert_eq!(words.cause, "The device ended requests with EIO: I/O error. It is made of sdb: look there first.");
        assert_eq!(words.impact, "Data of /data cannot be read or is lost. The file system may turn read-only.");
        words_last(&finding);
    }
}
