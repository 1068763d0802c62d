//! Mount points, other roots, and what lies outside of them. Each child has a mount namespace of its own, which goes with it.

use std::path::Path;

use super::{assert_all_resolved, audit, c, close, fd, folder, open, openat};

/// Mounts made from here on are this process's alone.
pub(crate) fn private_namespace() {
    // SAFETY: affects this process only.
    unsafe { assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "{}", std::io::Error::last_os_error()) };
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE);
}

pub(super) fn mount(source: impl AsRef<Path>, target: &Path, kind: &str, flags: u64) {
    let (source, target, kind) = (c(source), c(target), c(kind));
    // SAFETY: C strings that live through the call, in a mount namespace of our own.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
}

fn chroot(path: &Path) {
    // SAFETY: affects this process only.
    unsafe { assert_eq!(libc::chroot(c(path).as_ptr()), 0, "{}", std::io::Error::last_os_error()) };
}

fn make(path: &Path) {
    std::fs::create_dir(path).unwrap();
}

/// A file made without being opened, so that only the opens under test are seen.
fn touch(path: impl AsRef<Path>) {
    // SAFETY: a C string that lives through the call.
    unsafe { assert_eq!(libc::mknod(c(path).as_ptr(), libc::S_IFREG | 0o644, 0), 0) };
}

#[test]
fn paths_lead_through_mounts_and_mounts_on_mounts() {
    let (_guard, dir) = folder();
    let (events, seen) = audit(|log, _| {
        private_namespace();
        let (tmpfs, bound) = (dir.join("tmpfs"), dir.join("bound"));
        make(&tmpfs);
        make(&bound);
        mount("none", &tmpfs, "tmpfs", 0);
        make(&tmpfs.join("a"));
        make(&tmpfs.join("a/b"));
        touch(tmpfs.join("a/b/file"));
        // A folder inside the tmpfs is shown at a second place, and has a third file system inside.
        mount(tmpfs.join("a"), &bound, "", libc::MS_BIND);
        make(&bound.join("inner"));
        mount("none", &bound.join("inner"), "tmpfs", 0);
        touch(bound.join("inner/file"));
        // The top one of two mounts at one place, and what was opened before it was covered.
        let covered = fd(log.note(open(bound.join("inner"), libc::O_DIRECTORY)));
        mount("none", &bound.join("inner"), "tmpfs", 0);
        touch(bound.join("inner/top"));
        // A file mounted over a file.
        touch(dir.join("over"));
        mount(tmpfs.join("a/b/file"), &dir.join("over"), "", libc::MS_BIND);

        log.note(open(tmpfs.join("a/b/file"), 0));
        log.note(open(bound.join("b/file"), 0));
        log.note(open(&tmpfs, libc::O_DIRECTORY));
        log.note(open(&bound, libc::O_DIRECTORY));
        log.note(open(bound.join("inner/top"), 0));
        log.note(openat(covered, "file", 0));
        log.note(open(dir.join("over"), 0));
        log.note(open("/", libc::O_DIRECTORY));
        log.note(open("/proc/self/status", 0));
        // An unmounted tree that is still in use: the path starts where the mount did.
        let detached = fd(log.note(open(&tmpfs, libc::O_DIRECTORY)));
        // SAFETY: detaches the mount of our own namespace.
        unsafe { assert_eq!(libc::umount2(c(&tmpfs).as_ptr(), libc::MNT_DETACH), 0) };
        log.note(openat(detached, "a/b/file", 0));
    });
    assert_all_resolved(&events, &seen);
    assert_eq!(events.len(), 12);
    assert_eq!(events[2].path(), dir.join("bound/b/file"));
    assert_eq!(events[7].path(), dir.join("over"));
    assert_eq!(events[8].path(), Path::new("/"));
    assert_eq!(events[11].path(), Path::new("/a/b/file"));
}

#[test]
fn paths_start_at_the_root_of_the_process() {
    let (_guard, dir) = folder();
    let (events, seen) = audit(|log, _| {
        private_namespace();
        let root = dir.join("root");
        make(&root);
        make(&root.join("proc"));
        make(&root.join("etc"));
        touch(root.join("etc/inside"));
        touch(dir.join("outside"));
        mount("none", &root.join("proc"), "proc", 0);
        std::env::set_current_dir(&dir).unwrap();
        chroot(&root);
        log.note(open("/etc/inside", 0));
        log.note(open("/", libc::O_DIRECTORY));
        // The working directory is outside, as a process that wants out of a chroot arranges it.
        log.note(open("outside", 0));
        assert_eq!(log.note(open("/no/such", 0)), -i64::from(libc::ENOENT));
        assert_eq!(log.note(open("no such", 0)), -i64::from(libc::ENOENT));
        std::env::set_current_dir("/etc").unwrap();
        assert_eq!(log.note(open("no such", 0)), -i64::from(libc::ENOENT));
        close(log.note(open("inside", 0)));
    });
    assert_all_resolved(&events[..3], &seen[..3]);
    assert_eq!(events[0].path(), Path::new("/etc/inside"));
    assert_eq!(events[1].path(), Path::new("/"));
    assert_eq!(events[2].path(), dir.join("outside"));
    assert_eq!(events[3].path(), Path::new("/no/such"));
    assert_eq!(events[4].path(), dir.join("no such"));
    assert_eq!(events[5].path(), Path::new("/etc/no such"));
    assert_all_resolved(&events[6..], &seen[6..]);
    assert_eq!(events.len(), 7);
}
