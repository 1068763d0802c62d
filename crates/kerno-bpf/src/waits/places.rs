//! Which file system, and which cgroup, a thread that is stuck in the kernel waits at.

use super::asleep::{self, Call};
use super::ends::{Ends, fdinfo};

/// The most bytes of a path in a program's memory.
const MAX_PATH: usize = 4096;

/// A file system that a server answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedMount {
    /// Where it is mounted, as the process sees it.
    pub(crate) target: String,
    /// Its type: `fuse.sshfs`, `nfs4`.
    pub(crate) kind: String,
    /// The minor number of its device, by which FUSE knows its connections.
    pub(crate) minor: u32,
}

/// The file system that a thread waits at, of those of this kind (`fuse`, `nfs`, `cifs`): the one that the path or the descriptor of its
/// call leads to, or the only one there is.
pub(crate) fn served_mount(pid: u32, tid: u32, kind: &str) -> Option<ServedMount> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let mounts: Vec<_> = text.lines().filter_map(parse_mount).filter(|mount| mount.kind.starts_with(kind)).collect();
    if let [only] = &mounts[..] {
        return Some(only.clone());
    }
    let call = asleep::call(pid, tid).ok().flatten()?;
    let path = path_of(pid, &call)?;
    let below = |mount: &&ServedMount| {
        path.strip_prefix(&mount.target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts.iter().filter(below).max_by_key(|mount| mount.target.len()).cloned()
}

/// A line of `/proc/PID/mountinfo`.
fn parse_mount(line: &str) -> Option<ServedMount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let device = fields.nth(2)?;
    let target = fields.nth(1)?;
    Some(ServedMount {
        target: crate::probe::unescape_mount(target),
        kind: after.split(' ').next()?.to_owned(),
        minor: device.split_once(':')?.1.parse().ok()?,
    })
}

/// The path that a call is about, absolute.
fn path_of(pid: u32, call: &Call) -> Option<String> {
    let [first, second, ..] = call.args;
    let link = |fd: u64| Some(std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?.to_string_lossy().into_owned());
    let (at, path) = match call.name()? {
        "statfs" | "stat" | "lstat" | "open" | "access" | "chdir" | "readlink" | "unlink" | "mkdir" | "rmdir"
        | "truncate" | "creat" | "getxattr" | "lgetxattr" | "stat64" | "lstat64" | "statfs64" => (None, first),
        "openat" | "openat2" | "newfstatat" | "statx" | "faccessat" | "faccessat2" | "readlinkat" | "unlinkat"
        | "mkdirat" | "fstatat64" => (Some(first), second),
        _ => return link(first),
    };
    let path = text_at(pid, path)?;
    if path.starts_with('/') {
        return Some(path);
    }
    #[allow(clippy::cast_possible_truncation, reason = "a descriptor, or AT_FDCWD")]
    let descriptor = at.map_or(libc::AT_FDCWD, |at| at as i32);
    let directory = if descriptor == libc::AT_FDCWD {
        std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?.to_string_lossy().into_owned()
    } else {
        link(u64::from(descriptor.cast_unsigned()))?
    };
    Some(format!("{directory}/{path}"))
}

/// A string in the memory of a process, to its zero.
fn text_at(pid: u32, address: u64) -> Option<String> {
    let mut bytes = vec![0u8; MAX_PATH];
    let address = usize::try_from(address).ok()?;
    // To the end of its page, and then the next one, which may not be there.
    let first = MAX_PATH - address % MAX_PATH;
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: MAX_PATH };
    let part = |base: usize, length: usize| libc::iovec { iov_base: base as *mut libc::c_void, iov_len: length };
    let remote = [part(address, first), part(address.checked_add(first)?, MAX_PATH - first)];
    // SAFETY: the local part is as long as is said; the kernel checks the addresses in the other process.
    let read = unsafe { libc::process_vm_readv(pid.cast_signed(), &raw const local, 1, remote.as_ptr(), 2, 0) };
    let text = bytes.get(..usize::try_from(read).ok()?)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(text.get(..end)?).into_owned())
}

/// The process that serves a FUSE file system: it has that connection's `/dev/fuse` open. The kernel tells which connection since Linux
/// 6.14; before, only one that is alone with any is known.
pub(crate) fn fuse_server(ends: &Ends, minor: u32) -> Option<u32> {
    let holders = ends.of_name("/dev/fuse");
    let connection =
        |info: &str| info.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?.trim().parse::<u32>().ok();
    let known: Vec<_> =
        holders.iter().map(|holder| (holder.pid, fdinfo(*holder).as_deref().and_then(connection))).collect();
    if let Some((pid, _)) = known.iter().find(|(_, connection)| *connection == Some(minor)) {
        return Some(*pid);
    }
    match known.first() {
        Some((pid, None)) if known.iter().all(|(other, _)| other == pid) => Some(*pid),
        _ => None,
    }
}

/// The path of a process in the hierarchy of a v1 controller, or in that of v2.
pub(crate) fn cgroup_path(pid: u32, controller: &str, v2: bool) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = if v2 { controllers.is_empty() } else { controllers.split(',').any(|name| name == controller) };
        is_it.then(|| path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
    })
}

/// The cgroup of v1 that is out of memory, and in which the kernel does not kill: its tasks sleep until the limit is raised.
pub(crate) fn oom_cgroup(pid: u32) -> Option<String> {
    let hierarchy = crate::engine::Hierarchy::of_controller("memory").filter(|hierarchy| !hierarchy.v2)?;
    let own = cgroup_path(pid, "memory", hierarchy.v2)?;
    let is_off = |path: &&str| {
        let control = hierarchy.mount.join(path.trim_start_matches('/')).join("memory.oom_control");
        let text = std::fs::read_to_string(control).unwrap_or_default();
        ["oom_kill_disable 1", "under_oom 1"].iter().all(|wanted| text.lines().any(|line| line == *wanted))
    };
    super::state::ancestors(&own).filter(is_off).last().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = "36 35 0:45 / /mnt/my\\040dir rw,noatime master:1 - fuse.sshfs host:/ rw,user_id=0";
        let mount = parse_mount(line).unwrap();
        assert_eq!((&*mount.target, &*mount.kind, mount.minor), ("/mnt/my dir", "fuse.sshfs", 45));
        assert!(parse_mount("36 35 0:45 /").is_none() && parse_mount("").is_none());
    }

    #[test]
    fn strings_are_read_across_pages() {
        let long = format!("/{}\0", "a".repeat(3000));
        for start in [0, 1, 2000] {
            let buffer = format!("{}{long}", "x".repeat(start));
            let address = buffer.as_ptr() as u64 + start as u64;
            assert_eq!(text_at(std::process::id(), address).as_deref(), long.strip_suffix('\0'));
        }
        assert_eq!(text_at(std::process::id(), 8), None);
    }
}
