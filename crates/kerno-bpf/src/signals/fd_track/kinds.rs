//! What a process's descriptors are, as `/proc/PID/fd` shows them. Read only of processes whose number of descriptors grows.

use std::collections::HashMap;
use std::path::Path;

use kerno_model::{DescriptorKind, FdKind};

/// The most links that are read of one process: a link costs some microseconds.
const MAX_LINKS: usize = 4096;
/// The most names of descriptors that are listed.
const MAX_NAMES: usize = 1 << 17;
/// How many of the newest descriptors of a kind are compared with one another.
const MAX_COMPARED: usize = 48;
const MAX_EXAMPLES: usize = 3;

/// The descriptors of a process at one moment, from some number on.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// The lowest descriptor that was looked at: all below were there before.
    from: u32,
    kinds: HashMap<DescriptorKind, Vec<Open>>,
}

#[derive(Debug)]
struct Open {
    fd: u32,
    target: String,
}

impl Inventory {
    /// Looks at a process for the first time; of very many descriptors only at those with the highest numbers, which are mostly the
    /// newest.
    pub(super) fn first(pid: u32) -> Option<Self> {
        let fds = list(pid)?;
        let from = fds.len().checked_sub(MAX_LINKS / 2).and_then(|skip| fds.get(skip).copied()).unwrap_or(0);
        Some(Self::of(pid, &fds, from))
    }

    fn of(pid: u32, fds: &[u32], from: u32) -> Self {
        let mut kinds = HashMap::<_, Vec<_>>::new();
        for fd in fds.iter().copied().filter(|fd| *fd >= from).take(MAX_LINKS) {
            // One that was closed meanwhile is left out.
            let Ok(target) = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) else { continue };
            let kind = kind_of(&target);
            kinds.entry(kind).or_default().push(Open { fd, target: target.to_string_lossy().into_owned() });
        }
        Self { from, kinds }
    }

    /// Looks again; what there is now, and how much more of it, the kind that grew most first.
    pub(super) fn compare(&self, pid: u32) -> Vec<FdKind> {
        let Some(fds) = list(pid) else { return Vec::new() };
        let now = Self::of(pid, &fds, self.from);
        let mut kinds: Vec<_> = now.kinds.into_iter().map(|(kind, open)| self.describe(pid, kind, &open)).collect();
        kinds.sort_by(|a, b| b.growth.cmp(&a.growth).then(b.count.cmp(&a.count)).then_with(|| a.kind.cmp(&b.kind)));
        kinds
    }

    fn describe(&self, pid: u32, kind: DescriptorKind, open: &[Open]) -> FdKind {
        let before = self.kinds.get(&kind).map_or(&[][..], Vec::as_slice);
        let mut more = HashMap::<&str, i64>::new();
        open.iter().for_each(|open| *more.entry(&open.target).or_default() += 1);
        before.iter().filter_map(|open| more.get_mut(&*open.target).map(|count| *count -= 1)).for_each(drop);
        // What grew most; of those that are all there once, the newest.
        let mut targets: Vec<_> = open.iter().rev().map(|open| &*open.target).collect();
        let mut seen = std::collections::HashSet::new();
        targets.retain(|target| seen.insert(*target));
        targets.sort_by_key(|target| std::cmp::Reverse(more.get(target).copied().unwrap_or(0)));
        let examples = targets.into_iter().take(MAX_EXAMPLES).map(str::to_owned).collect();
        let count = |list: &[Open]| i64::try_from(list.len()).unwrap_or(i64::MAX);
        let newest: Vec<_> = open.iter().rev().take(MAX_COMPARED).map(|open| open.fd).collect();
        FdKind {
            count: open.len() as u64,
            growth: count(open) - count(before),
            duplicated: if count(open) > count(before) { duplicated(pid, &newest) } else { 0.0 },
            examples,
            kind,
        }
    }
}

/// The numbers of a process's descriptors, ascending. `None` when it is gone or may not be looked at.
fn list(pid: u32) -> Option<Vec<u32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut fds: Vec<_> =
        entries.flatten().take(MAX_NAMES).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    fds.sort_unstable();
    Some(fds)
}

/// What a link of `/proc/PID/fd` leads to (proc(5)).
fn kind_of(target: &Path) -> DescriptorKind {
    let text = target.to_string_lossy();
    if text.starts_with("/memfd:") {
        return DescriptorKind::Memfd;
    }
    if text.starts_with("/dev/") && !text.starts_with("/dev/shm/") {
        return DescriptorKind::Device;
    }
    if text.starts_with('/') {
        return DescriptorKind::File;
    }
    let (kind, rest) = text.split_once(':').unwrap_or((&text, ""));
    match kind {
        "socket" | "pipe" | "pidfd" => kind.into(),
        "anon_inode" => match rest.trim_matches(['[', ']']) {
            "eventpoll" => DescriptorKind::Epoll,
            // Names with an object's own number or command in them.
            name => name.split([':', ' ']).next().unwrap_or(name).into(),
        },
        _ => DescriptorKind::Namespace,
    }
}

/// The share of these descriptors that are one open file with another one of them.
#[allow(clippy::cast_precision_loss, reason = "a few dozen")]
fn duplicated(pid: u32, fds: &[u32]) -> f64 {
    let Some((first, rest)) = fds.split_first() else { return 0.0 };
    // One of each open file, in the order that kcmp gives.
    let mut distinct = vec![*first];
    for fd in rest {
        let mut unknown = false;
        let place = distinct.binary_search_by(|other| match same_file(pid, *other, *fd) {
            Some(order) => order,
            None => {
                unknown = true;
                std::cmp::Ordering::Equal
            }
        });
        match place {
            _ if unknown => return 0.0,
            Ok(_) => {}
            Err(place) => distinct.insert(place, *fd),
        }
    }
    (fds.len() - distinct.len()) as f64 / fds.len() as f64
}

/// Compares the open files behind two descriptors of a process by the kernel's own (hidden) order.
fn same_file(pid: u32, a: u32, b: u32) -> Option<std::cmp::Ordering> {
    const KCMP_FILE: libc::c_int = 0;
    let pid = pid.cast_signed();
    // SAFETY: kcmp takes numbers only and writes nothing.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, libc::c_ulong::from(a), libc::c_ulong::from(b)) };
    match order {
        0 => Some(std::cmp::Ordering::Equal),
        1 => Some(std::cmp::Ordering::Less),
        2 => Some(std::cmp::Ordering::Greater),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn links_have_a_kind() {
        for (target, kind) in [
            ("socket:[123]", "socket"),
            ("pipe:[4]", "pipe"),
            ("anon_inode:[eventfd]", "eventfd"),
            ("anon_inode:[eventpoll]", "epoll"),
            ("anon_inode:inotify", "inotify"),
            ("anon_inode:[io_uring]", "io_uring"),
            ("anon_inode:bpf-map", "bpf-map"),
            ("anon_inode:[pidfd]", "pidfd"),
            ("pidfd:[4026]", "pidfd"),
            ("/memfd:name (deleted)", "memfd"),
            ("/dev/null", "device"),
            ("/dev/shm/x", "file"),
            ("/var/log/syslog", "file"),
            ("net:[4026531840]", "namespace"),
        ] {
            assert_eq!(kind_of(Path::new(target)).name(), kind, "{target}");
        }
    }

    #[test]
    fn duplicates_are_told_from_files_opened_again() {
        let pid = std::process::id();
        let again: Vec<_> = (0..20).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let fds = |files: &[std::fs::File]| files.iter().map(|f| f.as_raw_fd().cast_unsigned()).collect::<Vec<_>>();
        assert_eq!(duplicated(pid, &fds(&again)), 0.0);
        let same: Vec<_> = (0..20).map(|_| again[0].try_clone().unwrap()).collect();
        assert_eq!(duplicated(pid, &fds(&same)), 0.95);
    }
}
