//! filesystem_read_only: file systems that the kernel has made read-only, or shut down, because something on them went wrong.

use kerno_model::amount::{number, span};
use kerno_model::{
    Device, Effect, Entity, Fact, Filesystem, Finding, ForcedState, Safety, Severity, Subject, Unit, Window, errno,
};

use super::device_of;
use crate::shell::word;
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// File systems that the kernel has made read-only.
    FilesystemReadOnly = "filesystem_read_only", "disk_io", "a file system was made read-only by the kernel after an error",
        "Finds each file system that was mounted to be written to and that the kernel has made read-only since, or has shut down: with ext4 \
         by errors=remount-ro or an aborted journal (since Linux 6.15 the option emergency_ro in /proc/mounts), with btrfs, f2fs and FAT \
         after errors of the device. Nothing makes it writable again by itself. Whoever mounts or remounts a file system read-only has it \
         so at the mount as well, which is normal life, as is one that is read-only by nature. Warnings become critical where somebody is \
         refused, or where it happened within the last hour.",
        judge, words;
    causes: [StorageFails];
    suffers: [
        suffers(Effect::StorageFails, |t, a, b| t.failing_device(a, b), "writes of its journal failed on the device"),
        suffers(Effect::NoSpace, |t, a, b| t.stands_on_full(a, b), "the file that its device is made of could not take its writes"),
    ];
    thresholds: {
        recent: 3600.0 Seconds, 0.0 ..= 1e9, "an error that is no older than this makes it critical";
    }
    evidence: {
        refused: "calls of {} that were refused";
        errors: "errors that the file system has counted";
        last_error_ago: "time since the latest of them";
    }
}

/// Who is named.
const MAX_VICTIMS: usize = 8;

/// A process that was refused.
struct Refused<'a> {
    pid: u32,
    comm: &'a str,
    call: &'a str,
    count: u64,
}

fn judge(window: &Window, rule: &FilesystemReadOnly) -> Vec<Finding> {
    let Some(disk) = &window.disk_io else { return Vec::new() };
    let forced: Vec<_> = disk.filesystems.iter().filter(|fs| fs.forced != ForcedState::None).collect();
    let alone = forced.len() == 1;
    forced.into_iter().map(|fs| finding(window, fs, alone, rule)).collect()
}

/// Those who were refused there. Calls do not say where: an open says it by its path, others are taken to be about the only one.
fn refused<'a>(window: &'a Window, fs: &Filesystem, alone: bool) -> Vec<Refused<'a>> {
    let error = if fs.forced == ForcedState::Shutdown { errno::EIO } else { errno::EROFS };
    let offenders = window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
    let failed_open = |pid: u32| {
        let mut files = window.file_audit.iter().flat_map(|files| &files.processes);
        files.find(|process| process.pid == pid && process.last_errno == error).map(|process| &process.last_failed_path)
    };
    let mut list: Vec<_> = offenders
        .filter(|call| match failed_open(call.pid).filter(|path| path.starts_with('/')) {
            Some(path) => kerno_model::paths::is_below(path, &fs.mount),
            None => alone,
        })
        .filter_map(|call| {
            let count = call.errors.iter().find(|counted| counted.errno == error)?.count;
            Some(Refused { pid: call.pid, comm: &call.comm, call: &call.name, count })
        })
        .collect();
    list.sort_by_key(|who| (std::cmp::Reverse(who.count), who.pid));
    let mut known = Vec::new();
    list.retain(|who| {
        !known.contains(&who.pid) && {
            known.push(who.pid);
            true
        }
    });
    list
}

#[allow(clippy::cast_precision_loss, reason = "counts and times")]
fn finding(window: &Window, fs: &Filesystem, alone: bool, rule: &FilesystemReadOnly) -> Finding {
    let refused = refused(window, fs, alone);
    let now = window.span.started_unix + window.covered_seconds();
    let ago = (fs.last_error_unix > 0).then(|| (now - fs.last_error_unix as f64).max(0.0));
    let critical = !refused.is_empty() || ago.is_some_and(|ago| ago <= rule.recent);
    let name = fs.source.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&fs.dev);
    let mut subject = Subject::default();
    subject.device = Some(Device { dev: fs.dev.clone(), name: name.to_owned() });
    subject.mount = Some(fs.mount.clone());
    let mut finding = FilesystemReadOnly::finding(if critical { Severity::Critical } else { Severity::Warning })
        .variant(if fs.forced == ForcedState::Shutdown { "shutdown" } else { "read_only" })
        .about(subject)
        .detail("kind", fs.kind.as_str())
        .detail("state", fs.forced.name());
    if !refused.is_empty() {
        let error = if fs.forced == ForcedState::Shutdown { errno::EIO } else { errno::EROFS };
        finding = finding.fact(Fact::Errno(error));
    }
    for who in refused.iter().take(3) {
        let call = Fact::Call(who.call.to_owned());
        if !finding.has(&call) {
            finding = finding.fact(call);
        }
        let named = Subject::process(window, who.pid, who.comm).process.map_or_else(String::new, |p| p.to_string());
        finding = finding.measured_of("refused", named, who.count as f64, Unit::Count, None);
    }
    if fs.errors > 0 {
        finding = finding.measured("errors", fs.errors as f64, Unit::Count, None);
    }
    if let Some(ago) = ago {
        finding = finding.measured("last_error_ago", ago, Unit::Seconds, Some(rule.recent));
    }
    if !fs.last_error.is_empty() {
        finding = finding.detail("last_error", fs.last_error.as_str());
    }
    if let Some(below) = fs.backing.first() {
        finding = finding.detail("made_of", below.as_str());
    }
    let processes = refused.iter().take(MAX_VICTIMS);
    finding.victims = processes.map(|who| Subject::process(window, who.pid, who.comm)).collect();
    finding.since =
        ago.filter(|ago| *ago < window.covered_seconds()).map(|ago| window.moment(window.covered_seconds() - ago));
    finding.excess = if critical { 2.0 } else { 1.0 };
    finding.confidence = 0.95;
    with_fixes(finding, fs, name)
}

fn with_fixes(finding: Finding, fs: &Filesystem, name: &str) -> Finding {
    let mount = word(&fs.mount);
    let place = || Entity::Mount(fs.mount.clone());
    // The state shows in different places, and findmnt -O ro finds neither.
    let show = match fs.forced {
        ForcedState::EmergencyReadOnly => "grep -w emergency_ro /proc/mounts".to_owned(),
        ForcedState::Shutdown => "grep -w shutdown /proc/mounts".to_owned(),
        _ => format!("findmnt -o TARGET,SOURCE,VFS-OPTIONS,FS-OPTIONS {mount}"),
    };
    let mut finding = finding.fix(place(), Safety::ReadOnly, show, "shows it: the mount itself still says rw").fix(
        place(),
        Safety::ReadOnly,
        format!("dmesg -T | grep -w {name}"),
        "shows the error that came first, if the kernel's log still has it",
    );
    if let Some(file) = fs.backing.first().filter(|file| file.starts_with('/')) {
        finding = finding.fix(
            Entity::File(file.clone()),
            Safety::ReadOnly,
            format!("df -h {}", word(file)),
            "shows whether the file system that holds the device's file is full",
        );
    }
    if fs.kind.starts_with("ext") {
        finding = finding.fix(
            place(),
            Safety::ReadOnly,
            format!("grep -H . /sys/fs/ext4/{name}/errors_count /sys/fs/ext4/{name}/*_error_*"),
            "shows how many errors it counted, and where the first and the latest were",
        );
    }
    let check = match fs.kind.as_str() {
        "xfs" => format!("umount {mount} && xfs_repair -n {}", word(&fs.source)),
        "btrfs" => format!("umount {mount} && btrfs check --readonly {}", word(&fs.source)),
        _ => format!("umount {mount} && fsck -f {}", word(&fs.source)),
    };
    finding.fix(
        place(),
        Safety::Changing,
        check,
        "checks it once the cause is gone; then mount it again: remounting alone is refused, or lasts until the next error",
    )
}

fn words(finding: &Finding) -> Words {
    let mount = finding.subject.mount.as_deref().unwrap_or("a file system");
    let device = device_of(finding);
    let shut = finding.variant == "shutdown";
    let what = if shut { "was shut down" } else { "was made read-only" };
    let errors = finding.number("errors").map(|errors| match errors {
        1.0 => "1 error".to_owned(),
        errors => format!("{} errors", number(errors)),
    });
    let ago = finding.number("last_error_ago").map(|ago| format!("{} ago", span(ago)));
    let kind = finding.text("kind").map_or_else(String::new, |kind| format!("{kind} "));
    let mut cause = format!(
        "The kernel met an error on the {kind}file system of {device} and {} it, to save what is there. The mount options still say rw.",
        if shut { "shut down" } else { "stopped all writes to" }
    );
    if let Some(error) = finding.text("last_error") {
        cause += &format!(" The latest error was {error}.");
    }
    if let Some(below) = finding.text("made_of") {
        cause += &format!(" {device} is made of {below}: look there first.");
    }
    let impact = if shut {
        "Reads and writes fail with EIO."
    } else {
        "Writes and new files fail with EROFS; reads go on. It stays so until it is checked and mounted again."
    };
    Words {
        title: title(&format!("{mount} on {device} {what}"), [errors, ago]),
        cause,
        impact: impact.to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use kerno_model::{
        DiskSummary, ErrnoCount, FileProcess, FileSummary, Filesystem, Finding, ForcedState, Safety, Severity,
        SyscallOffender, SyscallSummary, Window, errno,
    };

    use crate::rules::storage::testing::*;

    fn filesystem(forced: ForcedState) -> Filesystem {
        Filesystem {
            mount: "/data".into(),
            source: "/dev/loop7".into(),
            kind: "ext4".into(),
            dev: "7:7".into(),
            read_only: true,
            forced,
            total_bytes: 1 << 30,
            available_bytes: steady(6e8),
            ..Filesystem::default()
        }
    }

    fn with(filesystems: Vec<Filesystem>) -> Window {
        observed(DiskSummary { filesystems, ..DiskSummary::default() }, vec![], vec![process(70, "dd", 0)])
    }

    fn refuse(window: &mut Window, pid: u32, path: &str) {
        let errors = vec![ErrnoCount::new(errno::EROFS, 12)];
        let call =
            SyscallOffender { pid, comm: "dd".into(), name: "openat".into(), errors, ..SyscallOffender::default() };
        window.syscall_latency.get_or_insert_with(SyscallSummary::default).offenders.push(call);
        let open =
            FileProcess { pid, last_errno: errno::EROFS, last_failed_path: path.into(), ..FileProcess::default() };
        window.file_audit.get_or_insert_with(FileSummary::default).processes.push(open);
    }

    #[test]
    fn what_the_kernel_made_read_only_is_found_with_who_is_refused() {
        let mut fs = filesystem(ForcedState::EmergencyReadOnly);
        (fs.errors, fs.last_error) = (2, "EIO".into());
        fs.backing = vec!["/below/image".into()];
        let mut window = with(vec![fs]);
        refuse(&mut window, 70, "/data/x");
        refuse(&mut window, 71, "/elsewhere/x");
        let finding = the_only(&window);
        words_last(&finding);
        assert_eq!(title(&finding), "/data on loop7 was made read-only: 2 errors");
        assert_eq!((finding.severity, pids(&finding.victims)), (Severity::Critical, vec![Some(70)]));
        assert!(has_fix(&finding, Safety::ReadOnly, "grep -w emergency_ro /proc/mounts"));
        assert!(has_fix(&finding, Safety::ReadOnly, "df -h /below/image"));
        assert!(has_fix(&finding, Safety::Changing, "fsck -f /dev/loop7"));
    }

    #[test]
    fn an_old_one_that_nobody_misses_is_a_warning() {
        let finding = the_only(&with(vec![filesystem(ForcedState::ReadOnly)]));
        words_last(&finding);
        assert_eq!(
            (title(&finding).as_str(), finding.severity),
            ("/data on loop7 was made read-only", Severity::Warning)
        );
        assert!(has_fix(&finding, Safety::ReadOnly, "findmnt -o TARGET,SOURCE,VFS-OPTIONS,FS-OPTIONS /data"));
        let mut recent = filesystem(ForcedState::ReadOnly);
        let mut window = with(vec![]);
        window.span.started_unix = 1e9;
        recent.last_error_unix = 999_999_900;
        window.disk_io.as_mut().unwrap().filesystems = vec![recent];
        assert_eq!(the_only(&window).severity, Severity::Critical);
    }

    #[test]
    fn what_was_mounted_read_only_is_none() {
        assert!(judge(&with(vec![filesystem(ForcedState::None)])).is_empty());
    }

    #[test]
    fn a_full_file_system_below_explains_it() {
        let mut fs = filesystem(ForcedState::EmergencyReadOnly);
        fs.backing = vec!["/below/image".into()];
        let full = Filesystem {
            mount: "/below".into(),
            source: "tmpfs".into(),
            kind: "tmpfs".into(),
            dev: "0:40".into(),
            total_bytes: 80 << 20,
            available_bytes: steady(0.0),
            ..Filesystem::default()
        };
        let mut window = with(vec![fs.clone(), full.clone()]);
        refuse(&mut window, 70, "/data/x");
        let roots: Vec<Finding> = judge(&window);
        assert_eq!(roots.len(), 1, "{roots:#?}");
        assert_eq!(roots[0].rule, "disk_full");
        assert_eq!(roots[0].consequences[0].rule, "filesystem_read_only");
        assert_eq!(pids(&roots[0].victims), [Some(70)]);
        fs.backing = vec!["/other/image".into()];
        assert_eq!(judge(&with(vec![fs, full])).len(), 2, "it stands on another one");
    }
}
