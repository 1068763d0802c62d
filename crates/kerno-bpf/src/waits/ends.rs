//! Which processes have a pipe, a socket, a terminal or a file open: from one scan of all descriptors.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::FastMap;

use super::asleep::inode_of;

/// The most descriptors that a scan remembers: 32 MB.
const MAX_DESCRIPTORS: usize = 1 << 20;
/// What more have open than these, such as `/dev/null`, ties nobody together.
const MAX_SHARED: usize = 64;
/// A scan ends after this time; what it did not come to is counted.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) fd: u32,
}

/// How a descriptor was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    /// `O_NONBLOCK`
    pub(crate) nonblocking: bool,
}

/// All descriptors of pipes, sockets and files with a name, as they were at one moment.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pipes: FastMap<u64, Vec<Holder>>,
    sockets: FastMap<u64, Vec<Holder>>,
    /// By a hash of the last part of the name: the same file has other paths in other mount namespaces.
    named: FastMap<u64, Vec<Holder>>,
    descriptors: usize,
    /// Processes that were not looked at: hidden ones, and those that the scan did not come to.
    pub(crate) unseen: usize,
}

impl Ends {
    /// Looks at the descriptors of all processes. One that ends meanwhile is left out.
    pub(crate) fn scan() -> Self {
        let mut ends = Self::default();
        let begun = Instant::now();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            if ends.descriptors >= MAX_DESCRIPTORS || begun.elapsed() > PATIENCE {
                ends.unseen += 1;
            } else {
                ends.add(pid);
            }
        }
        ends
    }

    fn add(&mut self, pid: u32) {
        let directory = format!("/proc/{pid}/fd");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.unseen += usize::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                return;
            }
        };
        for entry in entries.flatten() {
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            let holder = Holder { pid, fd };
            let link = link.to_string_lossy();
            let place = match inode_of(&link) {
                Some(("pipe", inode)) => self.pipes.entry(inode).or_default(),
                Some(("socket", inode)) => self.sockets.entry(inode).or_default(),
                _ if link.starts_with('/') => self.named.entry(name_hash(&link)).or_default(),
                _ => continue,
            };
            place.push(holder);
            self.descriptors += 1;
            if self.descriptors >= MAX_DESCRIPTORS {
                break;
            }
        }
    }

    /// Who has a pipe open, at either end.
    pub(crate) fn of_pipe(&self, inode: u64) -> &[Holder] {
        self.pipes.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// Who has a socket open.
    pub(crate) fn of_socket(&self, inode: u64) -> &[Holder] {
        self.sockets.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// Who has this file open: a FIFO, a regular file, by the path that some descriptor leads to, and its inode.
    pub(crate) fn of_file(&self, path: &str, inode: u64) -> Vec<Holder> {
        self.of_name(path).iter().copied().filter(|holder| inode_behind(*holder) == Some(inode)).collect()
    }

    /// Who has a file of this name open.
    pub(crate) fn of_name(&self, path: &str) -> &[Holder] {
        self.named.get(&name_hash(path)).map_or(&[], Vec::as_slice)
    }

    /// Who has the tun or tap device of this name, and so gets what is sent to it.
    pub(crate) fn of_tun(&self, name: &str) -> Vec<Holder> {
        let is_it = |holder: &Holder| fdinfo(*holder).is_some_and(|info| field(&info, "iff:") == Some(name));
        self.of_name("/dev/net/tun").iter().copied().filter(is_it).collect()
    }

    /// Who has the master of the pseudoterminal `/dev/pts/N` open, and so shows what is written to it.
    pub(crate) fn of_terminal_master(&self, number: u32) -> Vec<Holder> {
        let masters = self.of_name("/dev/ptmx");
        let is_it = |holder: &Holder| {
            let info = fdinfo(*holder).unwrap_or_default();
            field(&info, "tty-index:").and_then(|index| index.parse().ok()) == Some(number)
        };
        masters.iter().copied().filter(is_it).collect()
    }

    /// Adds the processes that have a pipe or a FIFO open which one of these has open too.
    pub(crate) fn beside(&self, pids: &HashSet<u32>, beside: &mut HashSet<u32>) {
        for holders in self.pipes.values().chain(self.named.values()) {
            let fifos_too = holders.len() <= MAX_SHARED && holders.iter().any(|holder| pids.contains(&holder.pid));
            if fifos_too {
                beside.extend(holders.iter().map(|holder| holder.pid));
            }
        }
    }

    /// All sockets of a process.
    pub(crate) fn sockets_of(&self, pid: u32) -> impl Iterator<Item = (u64, u32)> + '_ {
        let of_it = move |holder: &&Holder| holder.pid == pid;
        self.sockets.iter().filter_map(move |(inode, all)| Some((*inode, all.iter().find(of_it)?.fd)))
    }
}

/// A hash of the last part of a path.
fn name_hash(path: &str) -> u64 {
    let name = Path::new(path).file_name().map_or(path, |name| name.to_str().unwrap_or(path));
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    hasher.write(name.trim_end_matches(" (deleted)").as_bytes());
    hasher.finish()
}

/// What the kernel says of a descriptor.
pub(super) fn fdinfo(holder: Holder) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/fdinfo/{}", holder.pid, holder.fd)).ok()
}

/// The value after a name at the begin of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// How a descriptor was opened; `None` when it is closed.
pub(crate) fn access(holder: Holder) -> Option<Access> {
    let flags = u32::from_str_radix(field(&fdinfo(holder)?, "flags:")?, 8).ok()?;
    let mode = flags & 0o3;
    Some(Access { reads: mode != 1, writes: mode == 1 || mode == 2, nonblocking: flags & 0o4000 != 0 })
}

/// The mount that a descriptor is at (Linux 3.15). Asks no file server.
pub(crate) fn mount_id(holder: Holder) -> Option<u32> {
    parse_mount_id(&fdinfo(holder)?)
}

fn parse_mount_id(info: &str) -> Option<u32> {
    field(info, "mnt_id:")?.parse().ok()
}

/// The inode of the file behind a descriptor, without asking a file server.
fn inode_behind(holder: Holder) -> Option<u64> {
    // Since Linux 5.14.
    if let Some(inode) = field(&fdinfo(holder)?, "ino:") {
        return inode.parse().ok();
    }
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let path = format!("/proc/{}/fd/{}", holder.pid, holder.fd);
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok().map(|status| status.stx_ino)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::waits::testing::{Child, alone, eventually};

    fn holder(pid: u32, file: &impl std::os::fd::AsRawFd) -> Holder {
        Holder { pid, fd: file.as_raw_fd().cast_unsigned() }
    }

    #[test]
    fn the_mount_of_a_descriptor_is_read_as_the_kernel_writes_it() {
        assert_eq!(parse_mount_id("pos:\t0\nflags:\t0100000\nmnt_id:\t29\nino:\t7\n"), Some(29));
    }

    #[test]
    fn both_ends_of_a_pipe_are_found_in_all_processes() {
        let _alone = alone();
        let (read, write) = std::io::pipe().unwrap();
        let (read_fd, write_fd) = (read.as_raw_fd(), write.as_raw_fd());
        // SAFETY: closes the child's copy only.
        let reader = Child::forked(|| _ = unsafe { libc::close(write_fd) });
        let inode = rustix::fs::fstat(&write).unwrap().st_ino;
        drop(read);
        let me = std::process::id();
        let mut found = eventually(|| {
            let found = Ends::scan().of_pipe(inode).to_vec();
            (found.len() == 2).then_some(found)
        });
        found.sort_unstable_by_key(|holder| holder.pid != me);
        let reads = Holder { pid: reader.pid(), fd: read_fd.cast_unsigned() };
        assert_eq!(found, [holder(me, &write), reads]);
        assert_eq!(access(found[0]), Some(Access { reads: false, writes: true, nonblocking: false }));
        assert_eq!(access(found[1]), Some(Access { reads: true, writes: false, nonblocking: false }));
        assert_eq!(access(Holder { pid: me, fd: 999_999 }), None);
    }

    #[test]
    fn fifos_and_files_are_found_by_name_and_inode() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let (fifo, file) = (folder.path().join("fifo"), folder.path().join("file"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let both = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let plain = std::fs::File::create(&file).unwrap();
        let other = folder.path().join("more");
        std::fs::create_dir(&other).unwrap();
        let _same_name = std::fs::File::create(other.join("file")).unwrap();
        let (ends, me) = (Ends::scan(), std::process::id());
        for (path, open) in [(&fifo, &both), (&file, &plain)] {
            let inode = rustix::fs::fstat(open).unwrap().st_ino;
            assert_eq!(ends.of_file(path.to_str().unwrap(), inode), [holder(me, open)]);
        }
        std::fs::remove_file(&file).unwrap();
        let inode = rustix::fs::fstat(&plain).unwrap().st_ino;
        let gone = Ends::scan().of_file(&format!("{} (deleted)", file.display()), inode);
        assert_eq!(gone, [holder(me, &plain)]);
    }

    #[test]
    fn the_master_of_a_terminal_is_found() {
        let _alone = alone();
        let master = std::fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
        let mut number = 0u32;
        // SAFETY: TIOCGPTN writes the number.
        assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }, 0);
        let ends = Ends::scan();
        assert_eq!(ends.of_terminal_master(number), [holder(std::process::id(), &master)]);
        assert_eq!(ends.of_terminal_master(99_999), []);
    }

    #[test]
    fn sockets_are_found_by_inode_and_by_process() {
        let _alone = alone();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = |socket| rustix::fs::fstat(socket).unwrap().st_ino;
        let (ends, me) = (Ends::scan(), std::process::id());
        assert_eq!(ends.of_socket(inode(&a)), [holder(me, &a)]);
        assert!(ends.sockets_of(me).any(|found| found == (inode(&b), b.as_raw_fd().cast_unsigned())));
        assert!(ends.of_socket(0).is_empty());
    }
}
