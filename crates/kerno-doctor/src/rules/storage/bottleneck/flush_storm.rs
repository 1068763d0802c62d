//! One process whose fsync calls hold up those of others.

use kerno_model::amount::{number, share};
use kerno_model::{DiskDevice, DiskSummary, Fact, Finding, Moment, RequestKind, Safety, Subject, Unit, Window};

use super::load::{others, sufferers, victims};
use super::{DiskBottleneck, has_moving_parts, impact, severity_of, waits, with_waits};
use crate::Words;
use crate::rules::storage::{device_of, entity, is_kernel_thread, process_of};

pub(super) const VARIANT: &str = "flush_storm";

/// So much of all fsync calls are those of one program.
const MOST: f64 = 0.6;

/// Who flushes, how often a second.
struct Flusher {
    pid: u32,
    comm: String,
    per_second: f64,
    /// Of all fsync calls.
    share: f64,
}

/// The one who flushes most, by its calls; where those were not observed, by the flushes that reached devices.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn flusher(window: &Window, disk: &DiskSummary) -> Option<Flusher> {
    let calls = window.syscall_latency.as_ref().map(|calls| &calls.syncs).filter(|syncs| !syncs.is_empty());
    let counts: Vec<(u32, &str, u64)> = match calls {
        Some(syncs) => syncs.iter().map(|sync| (sync.pid, sync.comm.as_str(), sync.calls)).collect(),
        None => disk.submitters.iter().map(|s| (s.pid, s.comm.as_str(), s.flushes)).collect(),
    };
    let all: u64 = counts.iter().map(|(_, _, count)| count).sum();
    let own = counts.into_iter().filter(|(pid, comm, _)| !is_kernel_thread(window, *pid, comm));
    let (pid, comm, _) = own.clone().max_by_key(|(pid, _, count)| (*count, std::cmp::Reverse(*pid)))?;
    // Processes of one program are one load.
    let count: u64 = own.filter(|(_, other, _)| *other == comm).map(|(_, _, count)| count).sum();
    Some(Flusher {
        pid,
        comm: comm.to_owned(),
        per_second: count as f64 / window.seconds(),
        share: count as f64 / all.max(1) as f64,
    })
}

/// The finding, and the device that it is about.
pub(super) fn judge(window: &Window, disk: &DiskSummary, rule: &DiskBottleneck) -> Option<(Finding, String)> {
    let flusher = flusher(window, disk)?;
    if flusher.per_second < rule.storm_syncs || flusher.share < MOST {
        return None;
    }
    let on = disk.submitters.iter().filter(|s| s.pid == flusher.pid || s.comm == flusher.comm);
    let device = on.max_by_key(|s| (s.flushes, s.requests)).and_then(|s| disk.device(&s.dev))?;
    // An arm that moves takes that long for any fsync.
    let sync_ms = if has_moving_parts(device) { rule.storm_sync_ms * 4.0 } else { rule.storm_sync_ms };
    let all = sufferers(window, disk, &device.dev, rule.slow_ms, sync_ms);
    // Calls for data to be on storage wait for the flushes of others; and for a share of the time that can be felt.
    let suffering: Vec<_> =
        others(&all, &flusher.comm).filter(|s| s.share >= 0.1 && s.waits.is_sync()).cloned().collect();
    let first = suffering.first()?;
    let subject = Subject::process(window, flusher.pid, &flusher.comm).on_device(window, &device.dev);
    let who = subject.process.as_ref().map_or_else(String::new, ToString::to_string);
    let mut finding = DiskBottleneck::finding(severity_of(suffering.iter()))
        .variant(VARIANT)
        .about(subject)
        .fact(Fact::Operation(RequestKind::Flush))
        .measured_of("fsyncs", who.clone(), flusher.per_second, Unit::PerSecond, Some(rule.storm_syncs));
    finding = with_waits(finding, window, suffering.iter(), Some(sync_ms))
        .measured_of("fsyncs_share", who, flusher.share, Unit::Ratio, Some(MOST))
        .measured("busy", device.utilisation, Unit::Ratio, None);
    finding.victims = victims(window, suffering.iter());
    finding.since = since(window, flusher.pid);
    finding.excess = (first.mean_ms / sync_ms).max(flusher.per_second / rule.storm_syncs);
    finding.confidence = 0.85;
    Some((with_fixes(finding, flusher.pid, device), device.dev.clone()))
}

fn with_fixes(finding: Finding, pid: u32, device: &DiskDevice) -> Finding {
    finding
        .look_at_process(
            format!("timeout 5 strace -f -c -e trace=fsync,fdatasync,msync,sync_file_range -p {pid}"),
            "counts its fsync calls",
        )
        .look_at_process(format!("ls -l /proc/{pid}/fd"), "shows the files that it writes")
        .fix(
            entity(device),
            Safety::ReadOnly,
            format!("iostat -x {} 1 5", device.label()),
            "shows flushes (f/s) and their latency (f_await)",
        )
        .change_process(
            format!("ionice -c3 -p {pid}"),
            "lets others go first, where the I/O scheduler honors it (bfq, mq-deadline)",
        )
        .change_process(format!("kill -STOP {pid}"), "pauses it; kill -CONT resumes it")
}

/// When its first call of the window returned, unless that was at once.
#[allow(clippy::cast_precision_loss, reason = "a time in the window")]
fn since(window: &Window, pid: u32) -> Option<Moment> {
    let sync = window.syscall_latency.as_ref()?.syncs.iter().find(|sync| sync.pid == pid && sync.first_ns > 0)?;
    let seconds = sync.first_ns.saturating_sub(window.span.started_ns) as f64 / 1e9;
    (seconds > window.covered_seconds() * 0.1).then(|| window.moment_ns(sync.first_ns))
}

pub(super) fn words(finding: &Finding) -> Words {
    let who = process_of(finding);
    let rate = finding.number("fsyncs").map(|rate| format!("{} fsync calls a second", number(rate)));
    let told: Vec<_> = rate.into_iter().chain(waits(finding).next()).collect();
    let mut title = format!("{who} floods {} with flushes", device_of(finding));
    if !told.is_empty() {
        title += &format!(": {}", told.join(", "));
    }
    let part = finding.number("fsyncs_share").map_or_else(|| "most".to_owned(), share);
    let cause = format!(
        "{who} makes {part} of all fsync calls. Each one makes the file system write its journal and the device write out its \
         cache, and the fsync calls of others wait for that."
    );
    Words { title, cause, impact: impact(finding), ..Words::default() }
}
