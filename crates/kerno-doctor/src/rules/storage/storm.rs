//! One process whose fsync calls hold up those of others.

use super::bottleneck::{DiskBottleneck, impact, severity_of};
use super::load::{is_kernel_thread, others, sufferers, victims};
use crate::{Culprit, Finding, Unit};
use kerno_model::Window;
use kerno_model::amount::millis;
use kerno_model::{DiskDevice, DiskSummary};

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
pub(super) fn judge(window: &Window, disk: &DiskSummary, rule: &DiskBottleneck) -> Option<(Finding, Option<String>)> {
    let flusher = flusher(window, disk)?;
    if flusher.per_second < rule.storm_syncs || flusher.share < 0.6 {
        return None;
    }
    let on = disk.submitters.iter().filter(|s| s.pid == flusher.pid || s.comm == flusher.comm);
    let device = on.max_by_key(|s| (s.flushes, s.requests)).and_then(|s| disk.device(&s.dev))?;
    // An arm that moves takes that long for any fsync.
    let moving = device.rotational && !device.name.starts_with("loop");
    let sync_ms = if moving { rule.storm_sync_ms * 4.0 } else { rule.storm_sync_ms };
    let all = sufferers(window, disk, &device.dev, rule.slow_ms, sync_ms);
    // Calls for data to be on storage wait for the flushes of others; and for a share of the time that can be felt.
    let suffering: Vec<_> =
        others(&all, &flusher.comm).filter(|s| s.share >= 0.1 && s.what.contains("sync")).cloned().collect();
    let first = suffering.first()?;
    let label = device.label();
    let title = format!(
        "{} ({}) floods {label} with flushes: {:.0} fsyncs a second, those of {} ({}) take {}",
        flusher.comm,
        flusher.pid,
        flusher.per_second,
        first.comm,
        first.pid,
        millis(first.mean_ms)
    );
    let mut finding = DiskBottleneck::finding(severity_of(suffering.iter()), title)
        .measured(
            format!("fsync calls of {}", flusher.comm),
            flusher.per_second,
            Unit::PerSecond,
            Some(rule.storm_syncs),
        )
        .measured(format!("fsync calls of {} (mean)", first.comm), first.mean_ms, Unit::Milliseconds, Some(sync_ms))
        .measured(format!("fsync calls that are {}'s", flusher.comm), flusher.share, Unit::Ratio, Some(0.6))
        .measured("busy", device.utilisation, Unit::Ratio, None);
    finding.cause = format!(
        "{} makes {:.0} of 100 fsync calls. Each makes the file system write its journal and the device its cache, and others \
         that need the same wait until it is their turn.",
        flusher.comm,
        flusher.share * 100.0
    );
    finding.impact = impact(suffering.iter());
    finding.culprit = Culprit::process(window, flusher.pid, &flusher.comm).on_device(label);
    finding.victims = victims(window, suffering.iter());
    finding.since = since(window, flusher.pid);
    finding.excess = (first.mean_ms / sync_ms).max(flusher.per_second / rule.storm_syncs);
    finding.confidence = 0.85;
    let finding = with_fixes(finding, &flusher, device);
    Some((finding, Some(device.dev.clone())))
}

fn with_fixes(finding: Finding, flusher: &Flusher, device: &DiskDevice) -> Finding {
    let pid = flusher.pid;
    finding
        .look(
            format!("timeout 5 strace -f -c -e trace=fsync,fdatasync,msync,sync_file_range -p {pid}"),
            "counts its fsync calls",
        )
        .look(format!("ls -l /proc/{pid}/fd"), "shows the files that it writes")
        .look(format!("iostat -x {} 1 5", device.label()), "shows flushes (f/s) and their latency (f_await)")
        .change(
            format!("ionice -c3 -p {pid}"),
            "lets others go first, where the I/O scheduler honors it (bfq, mq-deadline)",
        )
        .change(format!("kill -STOP {pid}"), "pauses it; kill -CONT goes on")
}

/// When its first call of the window returned, unless that was at once.
#[allow(clippy::cast_precision_loss, reason = "a time in the window")]
fn since(window: &Window, pid: u32) -> Option<f64> {
    let sync = window.syscall_latency.as_ref()?.syncs.iter().find(|sync| sync.pid == pid && sync.first_ns > 0)?;
    let seconds = sync.first_ns.saturating_sub(window.span.started_ns) as f64 / 1e9;
    (seconds > window.seconds() * 0.1).then_some(seconds)
}
