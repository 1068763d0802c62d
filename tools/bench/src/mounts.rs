//! The kernel's file systems that tracing tools need, mounted for this process and what it starts where the machine has not mounted
//! them. The mounts are in a mount namespace of our own: nobody else sees them, and they are gone when the last process here ends.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use anyhow::Context;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// Type and place.
const NEEDED: [(&CStr, &str); 3] = [
    // Where perf events of tracepoints have their numbers.
    (c"tracefs", "/sys/kernel/tracing"),
    // Older tools look in its folder `tracing`, where the kernel then mounts the other.
    (c"debugfs", "/sys/kernel/debug"),
    // Where a map gets a name that a second loader finds it by.
    (c"bpf", "/sys/fs/bpf"),
];

/// Of this thread, which in a test is not the only one.
const MOUNTS: &str = "/proc/thread-self/mounts";

/// Mounts what is not there. To be called while this process has one thread: the others would stay outside.
pub(super) fn complete() -> anyhow::Result<()> {
    let mounted = fs::read_to_string(MOUNTS).context(MOUNTS)?;
    let missing: Vec<_> = NEEDED.iter().filter(|(kind, place)| !has(&mounted, kind, place)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // SAFETY: closes and unshares no file descriptors, and other threads, of which there are none, would keep their mounts.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.context("no mount namespace")?;
    // What the machine mounts meanwhile still comes here; what is mounted here stays here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("the mounts cannot be kept apart")?;
    for (kind, place) in missing {
        if !Path::new(place).is_dir() {
            continue;
        }
        mount(*kind, *place, *kind, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    Ok(())
}

/// Whether a file system of that type is what one sees at this place.
fn has(mounts: &str, kind: &CStr, place: &str) -> bool {
    let mut at_place = mounts.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?)).filter(|(path, _)| *path == place)
    });
    // The last one, which covers those before it.
    at_place.next().is_some_and(|(_, found)| found.as_bytes() == kind.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{MOUNTS, NEEDED, complete, has};

    fn seen() -> [bool; NEEDED.len()] {
        let mounts = fs::read_to_string(MOUNTS).unwrap();
        NEEDED.map(|(kind, place)| has(&mounts, kind, place))
    }

    #[test]
    fn what_is_mounted_here_is_seen_here_only() {
        let before = seen();
        let inside = std::thread::spawn(|| {
            complete().unwrap();
            assert!(Path::new("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id").exists());
            assert!(Path::new("/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id").exists());
            seen()
        });
        assert_eq!(inside.join().unwrap(), [true; NEEDED.len()]);
        assert_eq!(seen(), before);
    }

    #[test]
    fn what_is_covered_is_not_there() {
        let mounts = "sysfs /sys sysfs rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n";
        assert!(has(mounts, c"tracefs", "/sys/kernel/tracing"));
        assert!(!has(mounts, c"debugfs", "/sys/kernel/debug") && !has(mounts, c"tracefs", "/sys/kernel"));
        let covered = format!("{mounts}tmpfs /sys/kernel/tracing tmpfs rw 0 0\n");
        assert!(!has(&covered, c"tracefs", "/sys/kernel/tracing"));
    }
}
