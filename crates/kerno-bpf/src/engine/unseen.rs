//! What cannot be looked at with these privileges, in these namespaces, on this kernel: told, so that silence about it is not taken
//! for health.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use std::sync::OnceLock;

use super::cgroups::Hierarchy;
use crate::probe::in_initial_pid_namespace;
use kerno_model::Missing;

/// A signal, a part of what it tells, where that is read, whether it can be read, and what that takes.
type Part = (&'static str, &'static str, &'static str, fn() -> io::Result<()>, &'static str);

/// Each tries what the sampler will do: on process 1, which is somebody else's and is always there, or where our own is as hidden as
/// that of others, on that.
const PARTS: &[Part] = &[
    (
        "disk_io",
        "which files the processes of others write",
        "/proc/PID/fd",
        || fs::read_dir("/proc/1/fd").map(drop),
        "root sees it, or CAP_SYS_PTRACE with CAP_DAC_READ_SEARCH",
    ),
    (
        "sched_delay",
        "where in the kernel blocked tasks wait",
        "/proc/PID/stack",
        || fs::read("/proc/self/stack").map(drop),
        "root sees it, on kernels with CONFIG_STACKTRACE",
    ),
    ("disk_io", "pressure on I/O", "/proc/pressure/io", || readable("/proc/pressure/io"), PSI),
    ("oom_track", "pressure on memory", "/proc/pressure/memory", || readable("/proc/pressure/memory"), PSI),
];

const PSI: &str = "it takes CONFIG_PSI and psi=1";

/// What the observer of these signals will not see. Each signal tells itself what only shows while it looks.
pub(super) fn unseen(signals: &[&str]) -> Vec<Missing> {
    let missing =
        |signal: &str, what: &str, reason: String| Missing { signal: signal.to_owned(), what: what.to_owned(), reason };
    let mut all = Vec::new();
    let hidden = processes_hidden();
    if let Some(reason) = hidden {
        all.push(missing("all", "command lines, cgroups, open files and stacks of processes", reason.to_owned()));
    }
    for (signal, what, file, look, needs) in PARTS {
        // Of processes in the wrong or a hidden /proc all is said by now.
        if (hidden.is_some() && file.starts_with("/proc/PID")) || !signals.contains(signal) {
            continue;
        }
        if let Err(error) = look() {
            all.push(missing(signal, what, format!("{file}: {error}; {needs}")));
        }
    }
    // The root of all has no type.
    if Hierarchy::v2().is_some_and(|hierarchy| hierarchy.mount.join("cgroup.type").exists()) {
        let reason =
            "what is mounted begins below the machine's root: this is a container with a cgroup namespace of its own";
        all.push(missing("all", "cgroups outside this one", reason.to_owned()));
    }
    let mounts = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let elsewhere = mounts("1").zip(mounts("self")).is_some_and(|(first, own)| first != own);
    if signals.contains(&"disk_io") && elsewhere && proc_has_host_pids() {
        let reason = "this is not the mount namespace of process 1";
        all.push(missing("disk_io", "file systems that are mounted on the host alone", reason.to_owned()));
    }
    all
}

/// Why `/proc/PID` is not the process that the kernel side means, or not there.
fn processes_hidden() -> Option<&'static str> {
    if !Path::new("/proc/self").exists() {
        return Some("/proc is not mounted");
    }
    if !proc_has_host_pids() {
        return Some("/proc shows another pid namespace; run it in the host's");
    }
    (!Path::new("/proc/1").exists()).then_some("/proc hides the processes of others (hidepid); run it as root")
}

/// Whether a process has the same number in /proc as in the kernel side's eyes. Where it has not, /proc tells of others.
pub(crate) fn proc_has_host_pids() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    // A /proc of the host's, seen from an inner namespace, knows this process by another number than it has here.
    let own = || fs::read_link("/proc/self").ok()?.to_str()?.parse::<u32>().ok();
    *KNOWN.get_or_init(|| in_initial_pid_namespace() || own().is_some_and(|number| number != std::process::id()))
}

/// Whether it can be read: without PSI it may be there and refuse.
fn readable(path: &str) -> io::Result<()> {
    match fs::File::open(path).and_then(|mut file| file.read(&mut [0; 1])) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_missed() {
        assert!(unseen(&["tcp_monitor"]).iter().all(|missing| missing.signal == "all"));
        for missing in unseen(&["disk_io", "oom_track", "sched_delay"]) {
            assert!(!missing.what.is_empty() && !missing.reason.is_empty(), "{missing:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_reason() {
        assert!(readable("/proc/self/stat").is_ok());
        assert!(readable("/dev/null").is_err());
        assert_eq!(readable("/proc/no/such").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn own_processes_are_found_in_proc() {
        if in_initial_pid_namespace() {
            assert!(proc_has_host_pids());
            assert_eq!(processes_hidden(), None);
        }
    }
}
