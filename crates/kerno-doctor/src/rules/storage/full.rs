//! disk_full: file systems without room, or soon without.

use super::load::is_kernel_thread;
use crate::shell::word;
use crate::{Culprit, Eta, Finding, Severity, Unit, rule};
use kerno_model::amount::{bytes, seconds as duration, share};
use kerno_model::errno;
use kerno_model::{DiskSummary, Filesystem};
use kerno_model::{Process, Series, Window};

/// File systems smaller than this are no place for data.
const MIN_BYTES: u64 = 1 << 20;

/// Calls that need room when they end with ENOSPC; others mean something else by it (inotify watches, ports).
const NEEDS_ROOM: [&str; 22] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "open",
    "openat",
    "openat2",
    "creat",
    "mkdir",
    "mkdirat",
    "fallocate",
    "ftruncate",
    "truncate",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "copy_file_range",
];

/// How far a trend is followed, in lengths of what was seen of it: from a few seconds nobody knows what is in an hour.
const FORESIGHT: f64 = 20.0;

/// None left sooner than this is critical.
const SOON_SECONDS: f64 = 60.0;

/// A file system of which less is used has to be full very soon to be told of.
const HALF: f64 = 0.5;

/// Samples that a trend needs.
const MIN_POINTS: usize = 5;

/// A file system that lost this share of its size in the window has somebody who takes it.
const LOSES: f64 = 0.01;

rule! {
    /// File systems without room.
    DiskFull = "disk_full", "disk_io", "A file system is full or soon will be",
        "A file system that can be written to and has little left, in bytes or inodes, as a share and, for large ones, in bytes; or \
         one whose room goes steadily and will be gone soon, judged by a straight line through what was seen, if it fits well and room \
         went between most samples since it began to, and not further ahead than the time that this was seen allows. Read-only ones are always \
         full and are left out; those for the boot are small by design and are told for information while nobody fills them. One of \
         which less than half is used counts only when it will be full within a minute.",
        judge;
    used: 0.95 Ratio, 0.5 ..= 1.0, "Share of bytes or inodes that is used: a warning.";
    used_critical: 0.99 Ratio, 0.5 ..= 1.0, "Share that is used: critical.";
    spare: 2e10 Bytes, 0.0 ..= 1e15, "With more bytes than this left a file system is not full, whatever the share.";
    eta: 600.0 Seconds, 1.0 ..= 86400.0, "It will be full sooner than this.";
    fit: 0.8 Ratio, 0.0 ..= 1.0, "How well a straight line must fit for a forecast (R squared).";
}

/// Bytes or inodes of one file system.
struct Room<'a> {
    what: &'static str,
    used: f64,
    left: &'a Series,
    /// There is little left, not only a small share.
    scarce: bool,
}

fn judge(window: &Window, rule: &DiskFull) -> Vec<Finding> {
    let Some(disk) = &window.disk_io else { return Vec::new() };
    let writable = disk.filesystems.iter().filter(|fs| !fs.read_only && fs.total_bytes >= MIN_BYTES);
    let found = writable.filter_map(|fs| Some((fs, judge_one(window, disk, fs, rule)?)));
    let mut findings: Vec<(&Filesystem, Finding)> = Vec::new();
    for (fs, finding) in found {
        // All file systems of a pool run full together.
        let pool = findings.iter_mut().find(|(other, _)| pool(fs).is_some() && pool(fs) == pool(other));
        match pool {
            Some(told) if rank(&finding) > rank(&told.1) => *told = (fs, finding),
            Some(_) => {}
            None => findings.push((fs, finding)),
        }
    }
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// One that somebody is known to fill says more than one that is only as full.
const fn rank(finding: &Finding) -> (bool, Severity) {
    (finding.culprit.pid.is_some(), finding.severity)
}

/// The pool that a file system shares its room in with others.
fn pool(fs: &Filesystem) -> Option<&str> {
    (fs.kind == "zfs").then(|| fs.source.split('/').next()).flatten()
}

/// Of bytes or inodes, whatever is scarcer.
fn fullness(fs: &Filesystem) -> f64 {
    fs.bytes_used().unwrap_or(0.0).max(fs.inodes_used().unwrap_or(0.0))
}

/// What starts the machine: made as small as it can be, and written when a kernel is installed only.
fn is_for_boot(fs: &Filesystem) -> bool {
    ["/boot", "/efi"]
        .iter()
        .any(|place| fs.mount.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn judge_one(window: &Window, disk: &DiskSummary, fs: &Filesystem, rule: &DiskFull) -> Option<Finding> {
    let room_bytes = fs.bytes_used().map(|used| Room {
        what: "space",
        used,
        left: &fs.available_bytes,
        scarce: fs.available_bytes.last().is_some_and(|left| left <= rule.spare),
    });
    let room_inodes = fs.inodes_used().map(|used| Room { what: "inodes", used, left: &fs.free_inodes, scarce: true });
    let mut findings: Vec<_> = [room_bytes, room_inodes]
        .into_iter()
        .flatten()
        .filter_map(|room| finding(window, disk, fs, &room, rule))
        .collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.into_iter().next()
}

/// In how many seconds nothing is left, when that can be told: by a line through what was seen since room began to go, if it went
/// on until the end.
fn eta(room: &Room<'_>, rule: &DiskFull) -> Option<Eta> {
    let fell = |pair: &[(f64, f64)]| matches!(pair, [a, b] if b.1 < a.1);
    let points = room.left.points();
    let first = points.windows(2).position(fell)?;
    let going = points.get(first..)?;
    let late = going.len().saturating_sub((going.len() / 4).max(2));
    if going.len() < MIN_POINTS || !going.get(late..)?.windows(2).any(fell) {
        return None;
    }
    let times = going.windows(2).filter(|pair| fell(pair)).count();
    let series: Series = going.iter().copied().collect();
    let seconds = series.seconds_until(0.0, rule.fit)?;
    let trend = series.trend()?;
    let seen = going.last()?.0 - going.first()?.0;
    (trend.per_second < 0.0 && times * 2 >= going.len() - 1 && seconds <= seen * FORESIGHT).then(|| Eta {
        seconds,
        what: format!("no {} left", room.what),
        fit: trend.fit,
    })
}

/// A process that was told that there is no room, by a call that needs some.
fn refused(window: &Window) -> Vec<(u32, &str, u64)> {
    let offenders = window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
    let mut list: Vec<_> = offenders
        .filter(|call| NEEDS_ROOM.contains(&call.name.as_str()))
        .filter_map(|call| {
            let error = call.errors.iter().find(|error| error.errno == errno::ENOSPC)?;
            Some((call.pid, call.comm.as_str(), error.count))
        })
        .collect();
    list.sort_by_key(|(pid, _, count)| (std::cmp::Reverse(*count), *pid));
    list.dedup_by_key(|(pid, ..)| *pid);
    list
}

fn finding(window: &Window, disk: &DiskSummary, fs: &Filesystem, room: &Room<'_>, rule: &DiskFull) -> Option<Finding> {
    // With half of it left, a copy or a build will mostly be done before it is gone.
    let eta = eta(room, rule)
        .filter(|eta| eta.seconds <= if room.used >= HALF { rule.eta } else { rule.eta.min(SOON_SECONDS) });
    let nearly_full = room.used >= rule.used && room.scarce;
    if !nearly_full && eta.is_none() {
        return None;
    }
    let fullest =
        !disk.filesystems.iter().any(|other| !other.read_only && other.dev != fs.dev && fullness(other) > fullness(fs));
    let refused = if nearly_full && fullest { refused(window) } else { Vec::new() };
    let left = room.left.last().unwrap_or(0.0);
    // Calls do not say where: only a file system that has really run out is meant, and of several the one with least left.
    let failing = !refused.is_empty() && room.used >= rule.used_critical.min(0.98);
    let full = nearly_full && room.used >= rule.used_critical;
    let soon = eta.as_ref().is_some_and(|eta| eta.seconds <= SOON_SECONDS && room.used >= HALF);
    let severity = match full || failing || soon {
        // Nobody writes there.
        _ if is_for_boot(fs) && eta.is_none() && refused.is_empty() => Severity::Info,
        true => Severity::Critical,
        false => Severity::Warning,
    };
    #[allow(clippy::cast_precision_loss, reason = "a size")]
    let size = if room.what == "space" { fs.total_bytes } else { fs.total_inodes } as f64;
    let loses = -room.left.change() >= LOSES * size;
    let who = suspect(window, disk, fs, room, &refused, eta.is_some() || failing || loses);
    let name = |who: &Suspect| format!("{} ({})", who.comm, who.pid);
    let how_full = match room.what {
        "space" => format!("{} is {} full", fs.mount, share(room.used)),
        _ => format!("{} has {} of its inodes used", fs.mount, share(room.used)),
    };
    let title = match (&who, &eta) {
        (Some(who), Some(eta)) if left > 0.0 => {
            format!(
                "{} fills {}: {} of {} used, none left in {}",
                name(who),
                fs.mount,
                share(room.used),
                room.what,
                duration(eta.seconds)
            )
        }
        (None, Some(eta)) if left > 0.0 => {
            format!(
                "{} fills up: {} of {} used, none left in {}",
                fs.mount,
                share(room.used),
                room.what,
                duration(eta.seconds)
            )
        }
        (Some(who), _) if room.what == "inodes" => format!("{how_full}; {} makes files", name(who)),
        (Some(who), _) => format!("{how_full}; {} writes most", name(who)),
        (None, _) => how_full,
    };
    let mut finding = DiskFull::finding(severity, title)
        .measured(format!("{} used", room.what), room.used, Unit::Ratio, Some(rule.used))
        .measured(
            format!("{} left", room.what),
            left,
            if room.what == "space" { Unit::Bytes } else { Unit::Count },
            None,
        );
    if let (Some(trend), Some(_)) = (room.left.trend(), &eta) {
        let unit = if room.what == "space" { Unit::BytesPerSecond } else { Unit::PerSecond };
        finding = finding.measured(format!("{} taken", room.what), -trend.per_second, unit, None);
    }
    for (_, comm, count) in refused.iter().take(3) {
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let count = *count as f64;
        finding = finding.measured(format!("calls of {comm} that failed with ENOSPC"), count, Unit::Count, None);
    }
    finding.cause = cause(fs, room, who.as_ref(), left);
    finding.impact = if failing {
        "Writes fail with ENOSPC: data is lost, services stop.".into()
    } else {
        "When nothing is left, writes fail with ENOSPC: data is lost, services stop.".into()
    };
    finding.culprit = match &who {
        Some(who) => Culprit::process(window, who.pid, &who.comm),
        None => Culprit::default(),
    };
    finding.culprit.mount = Some(fs.mount.clone());
    let victims = refused.iter().filter(|(pid, ..)| who.as_ref().is_none_or(|who| who.pid != *pid));
    finding.victims = victims.take(8).map(|(pid, comm, _)| Culprit::process(window, *pid, comm)).collect();
    finding.since = room.left.points().windows(2).find_map(|pair| match pair {
        [a, b] if b.1 < a.1 && a.0 > 0.5 => Some(a.0),
        _ => None,
    });
    finding.since = finding.since.filter(|since| eta.is_some() && *since > window.seconds() * 0.1);
    finding.excess =
        (room.used / rule.used).max(eta.as_ref().map_or(0.0, |eta| (rule.eta / eta.seconds.max(1.0)).min(100.0)));
    finding.confidence = if nearly_full { 0.95 } else { eta.as_ref().map_or(0.8, |eta| eta.fit.min(0.9)) };
    finding.eta = eta.filter(|_| left > 0.0);
    Some(with_fixes(finding, fs, room, who.as_ref()))
}

fn cause(fs: &Filesystem, room: &Room<'_>, who: Option<&Suspect>, left: f64) -> String {
    let left = match room.what {
        "space" => format!("{} of {}", bytes(left), {
            #[allow(clippy::cast_precision_loss, reason = "a size")]
            bytes(fs.total_bytes as f64)
        }),
        _ => format!("{left:.0} of {} inodes", fs.total_inodes),
    };
    let kind = if fs.kind.ends_with("tmpfs") { " It is kept in memory." } else { "" };
    match who {
        Some(who) => format!("{left} are left on {} ({}, {}).{kind} {}", fs.mount, fs.source, fs.kind, who.why),
        None => {
            format!("{left} are left on {} ({}, {}).{kind} Nobody writes much to it now.", fs.mount, fs.source, fs.kind)
        }
    }
}

fn with_fixes(finding: Finding, fs: &Filesystem, room: &Room<'_>, who: Option<&Suspect>) -> Finding {
    let mount = word(&fs.mount);
    let mut finding = if room.what == "space" {
        finding
            .look(format!("du -xh {mount} | sort -h | tail"), "finds what takes the space")
            .look(format!("lsof +L1 {mount}"), "finds deleted files that are still open and still take space")
    } else {
        finding
            .look(format!("df -i {mount}"), "shows the inodes")
            .look(format!("du -x --inodes {mount} | sort -n | tail"), "finds folders with many files")
    };
    finding = finding.look(format!("fuser -vm {mount}"), "shows who uses it");
    let Some(who) = who else { return finding };
    finding = finding.look(format!("ls -l /proc/{}/fd", who.pid), "shows the files that it writes");
    if !who.path.is_empty() {
        finding = finding.look(format!("ls -lh {}", word(&who.path)), "shows the file that grows");
    }
    finding.change(format!("kill -STOP {}", who.pid), "pauses it, so that the rest is not taken; kill -CONT goes on")
}

/// Who takes the room.
struct Suspect {
    pid: u32,
    comm: String,
    /// How that is known, as a sentence.
    why: String,
    path: String,
}

/// In the order of how sure it is: files that grew there; who is refused and writes; who wrote most, where there is a device.
fn suspect(
    window: &Window,
    disk: &DiskSummary,
    fs: &Filesystem,
    room: &Room<'_>,
    refused: &[(u32, &str, u64)],
    going_on: bool,
) -> Option<Suspect> {
    let grew = |least: u64| fs.writers.iter().find(|writer| writer.grown_bytes > least);
    // Files that are few and large take no inodes.
    if let (Some(writer), "space") = (grew(0), room.what) {
        #[allow(clippy::cast_precision_loss, reason = "a size")]
        let grown = bytes(writer.grown_bytes as f64);
        return Some(Suspect {
            pid: writer.pid,
            comm: writer.comm.clone(),
            why: format!("Files that {} has open there grew by {grown} while they were watched.", writer.comm),
            path: writer.path.clone(),
        });
    }
    if !going_on {
        return None;
    }
    if let Some((pid, comm, count)) = refused.first() {
        return Some(Suspect {
            pid: *pid,
            comm: (*comm).to_owned(),
            why: format!("{comm} wants more of it and was refused {count} times."),
            path: String::new(),
        });
    }
    if room.what == "inodes" {
        return makes_files(window, -room.left.change());
    }
    let in_memory = fs.kind.ends_with("tmpfs");
    let writer = |pid: u32| fs.writers.iter().find(|writer| writer.pid == pid);
    let users = window.processes.values().filter(|p| !is_kernel_thread(window, p.pid, &p.comm));
    // Pages of a tmpfs count as nobody's writes: what is left is who is open for writing there and at work.
    let candidates: Vec<_> = if in_memory {
        users.filter(|p| writer(p.pid).is_some()).map(|p| (p.used.run_ns, p)).collect()
    } else {
        users.map(|p| (p.used.write_bytes.max(submitted(disk, p.pid)), p)).collect()
    };
    // Bytes are counted for a process, wherever they go: of those that wrote at all, the one that wrote what is missing here.
    let lost = -room.left.change();
    let matches = |amount: u64| {
        #[allow(clippy::cast_precision_loss, reason = "a size")]
        let amount = amount as f64;
        if in_memory || lost <= 0.0 { amount } else { amount.min(lost) / amount.max(lost) }
    };
    let (amount, process) = candidates.into_iter().filter(|(amount, _)| *amount > 0).max_by(|(a, p), (b, q)| {
        let open = |p: &Process| writer(p.pid).is_some();
        open(p).cmp(&open(q)).then(matches(*a).total_cmp(&matches(*b))).then(q.pid.cmp(&p.pid))
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a size")]
    let why = if in_memory {
        format!("{} has files open for writing there.", process.comm)
    } else {
        format!("{} wrote {} in this time.", process.comm, bytes(amount as f64))
    };
    Some(Suspect { pid: process.pid, comm: process.comm.clone(), why, path: String::new() })
}

/// Opens do not say where: of those who opened as many files as went, the one whose number is nearest to it.
fn makes_files(window: &Window, gone: f64) -> Option<Suspect> {
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let opens = |opens: u64| opens as f64;
    let processes = window.file_audit.iter().flat_map(|files| &files.processes);
    let enough = processes.filter(|process| gone >= 1.0 && opens(process.opens) >= gone / 2.0);
    let process = enough.min_by(|a, b| opens(a.opens).total_cmp(&opens(b.opens)).then(a.pid.cmp(&b.pid)))?;
    Some(Suspect {
        pid: process.pid,
        comm: process.comm.clone(),
        why: format!("{} opened {} files in this time, and {gone:.0} inodes went.", process.comm, process.opens),
        path: String::new(),
    })
}

fn submitted(disk: &DiskSummary, pid: u32) -> u64 {
    disk.submitters.iter().filter(|submitter| submitter.pid == pid).map(|submitter| submitter.write_bytes).sum()
}
