//! Finds what cannot be seen with these privileges, in these namespaces, on this kernel. Reports say so, lest silence be taken for
//! health.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use std::sync::OnceLock;

use rustix::thread::CapabilitySet;

use super::cgroups::Hierarchy;
use super::mounts::host_mounts;
use crate::probe::{in_initial_pid_namespace, unescape_mount};
use kerno_model::{Missing, fill};

/// A signal, a part of what it observes, where that is read, a test whether it can be read, and what is needed for it.
type Part = (&'static str, &'static str, &'static str, fn() -> io::Result<()>, &'static str);

/// Each test tries what the sampler will do: on process 1, which belongs to another user and always exists, or on this process where its
/// own files are as hidden as those of others.
const PARTS: &[Part] = &[
    (
        "disk_io",
        "which files processes of other users write",
        "/proc/PID/fd",
        || fs::read_dir("/proc/1/fd").map(drop).and_then(|()| may_trace()),
        "needs root, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
    ),
    (
        "sched_delay",
        "where in the kernel blocked tasks wait",
        "/proc/PID/stack",
        || fs::read("/proc/self/stack").map(drop),
        "needs root, and a kernel with CONFIG_STACKTRACE",
    ),
    ("disk_io", "pressure on I/O", "/proc/pressure/io", || readable("/proc/pressure/io"), PSI),
    ("oom_track", "pressure on memory", "/proc/pressure/memory", || readable("/proc/pressure/memory"), PSI),
];

/// The names in `/proc/PID/fd` can be read without, what they link to cannot.
fn may_trace() -> io::Result<()> {
    let effective = rustix::thread::capabilities(None)?.effective;
    if effective.contains(CapabilitySet::SYS_PTRACE) { Ok(()) } else { Err(rustix::io::Errno::ACCESS.into()) }
}

const PSI: &str = "needs a kernel with CONFIG_PSI, and psi=1 on its command line";

/// What an observer of these signals cannot see. Signals report themselves what they find out only while they watch.
pub(super) fn unseen(signals: &[&str]) -> Vec<Missing> {
    let missing = |signal: &str, what: &str, reason: String| {
        fill!(Missing { signal: signal.to_owned(), what: what.to_owned(), reason })
    };
    let mut all = Vec::new();
    let hidden = processes_hidden();
    if let Some(reason) = hidden {
        all.push(missing("all", "command lines, cgroups, open files and stacks of processes", reason.to_owned()));
    }
    for (signal, what, file, look, needs) in PARTS {
        // If /proc is hidden or the wrong one, that was said above.
        if (hidden.is_some() && file.starts_with("/proc/PID")) || !signals.contains(signal) {
            continue;
        }
        if let Err(error) = look() {
            all.push(missing(signal, what, format!("{file}: {error}; {needs}")));
        }
    }
    // The root of the whole hierarchy has no such file.
    if Hierarchy::v2().is_some_and(|hierarchy| hierarchy.mount.join("cgroup.type").exists()) {
        let reason = "the mounted hierarchy starts below the root of the machine: this is a container with its own cgroup namespace";
        all.push(missing("all", "cgroups outside this one", reason.to_owned()));
    }
    if signals.contains(&"disk_io")
        && let Some(host) = host_mounts()
        && let Some(first) = only_there(&host, &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    {
        let reason = format!("this is not the mount namespace of process 1, which has {first}");
        all.push(missing("disk_io", "file systems that are mounted only on the host", reason));
    }
    all
}

/// A place where the host has mounted a file system of a block device, of which nothing is mounted here.
fn only_there(host: &str, here: &str) -> Option<String> {
    let device = |line: &str| line.split(' ').nth(2).filter(|device| !device.starts_with("0:")).map(str::to_owned);
    let here: HashSet<_> = here.lines().filter_map(device).collect();
    let line = host.lines().find(|line| device(line).is_some_and(|device| !here.contains(&device)))?;
    line.split(' ').nth(4).map(unescape_mount)
}

/// Why `/proc/PID` is missing, or is not the process that the kernel side means.
fn processes_hidden() -> Option<&'static str> {
    if !Path::new("/proc/self").exists() {
        return Some("/proc is not mounted");
    }
    if !proc_has_host_pids() {
        return Some("/proc shows another pid namespace; run kerno in that of the host");
    }
    (!Path::new("/proc/1").exists()).then_some("/proc hides processes of other users (hidepid); run kerno as root")
}

/// Whether a process has the same id in /proc as for the kernel side. If not, /proc shows other processes.
pub(crate) fn proc_has_host_pids() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    // In the /proc of the host, seen from an inner namespace, this process has another id than here.
    let own = || fs::read_link("/proc/self").ok()?.to_str()?.parse::<u32>().ok();
    *KNOWN.get_or_init(|| in_initial_pid_namespace() || own().is_some_and(|number| number != std::process::id()))
}

/// Tries to read a file: without PSI it may exist and fail to read.
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
    fn a_file_system_that_only_the_host_has_is_named() {
        let host = "20 1 8:2 / / rw - ext4 /dev/sda2 rw\n21 20 8:3 / /srv/a\\040b rw - xfs /dev/sdb rw\n22 20 0:5 / /proc rw - proc proc rw";
        assert_eq!(only_there(host, "9 1 8:2 /x /etc/hosts rw - ext4 /dev/sda2 rw"), Some("/srv/a b".to_owned()));
        assert_eq!(only_there(host, host), None);
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
