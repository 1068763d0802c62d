//! Namespaces: which one a process is in, and reading as a process in one sees it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::fs::MetadataExt as _;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Net,
    Ipc,
    Pid,
    User,
    Mount,
    Uts,
    Cgroup,
}

impl Kind {
    const fn file(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Pid => "pid",
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
        }
    }

    const fn flag(self) -> i32 {
        match self {
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Pid => libc::CLONE_NEWPID,
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
        }
    }
}

pub(crate) fn path(pid: u32, kind: Kind) -> String {
    format!("/proc/{pid}/ns/{}", kind.file())
}

/// The namespace that a process is in, by inode number; `None` of a zombie.
pub(crate) fn inode(pid: u32, kind: Kind) -> Option<u64> {
    Some(std::fs::metadata(path(pid, kind)).ok()?.st_ino())
}

/// The namespace that the machine has itself. Most have a fixed number (linux/proc_ns.h); of the others that of the first process, or, if that is hidden, our own.
pub(crate) fn initial(kind: Kind) -> Option<u64> {
    match kind {
        Kind::Ipc => Some(0xEFFF_FFFF),
        Kind::Uts => Some(0xEFFF_FFFE),
        Kind::User => Some(0xEFFF_FFFD),
        Kind::Pid => Some(0xEFFF_FFFC),
        Kind::Cgroup => Some(0xEFFF_FFFB),
        Kind::Net | Kind::Mount => inode(1, kind).or_else(|| inode(std::process::id(), kind)),
    }
}

/// Runs this in the network or IPC namespace of a process: in a thread of its own, unless it is our own. A thread that ends takes no other's place.
pub(crate) fn within<T: Send>(pid: u32, kind: Kind, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let link = match kind {
        Kind::Net => LinkNameSpaceType::Network,
        Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        _ => return Err(io::Error::other("a thread cannot be in another namespace of this kind")),
    };
    let file = File::open(path(pid, kind))?;
    if std::fs::metadata(format!("/proc/thread-self/ns/{}", kind.file()))?.st_ino() == file.metadata()?.st_ino() {
        return work();
    }
    std::thread::scope(|scope| {
        let work = move || {
            move_into_link_name_space(file.as_fd(), Some(link))?;
            work()
        };
        let thread = std::thread::Builder::new().name("kerno namespace".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("its thread failed"))?
    })
}

/// The most of a file that is read.
const MAX_FILE: usize = 4096;

/// Reads small files as a process in these namespaces of a process sees them. For user and pid namespaces, which a thread cannot enter: in a child
/// process. It makes system calls only, since other threads of this process may have held locks when it was forked.
pub(crate) fn read_within(pid: u32, kinds: &[Kind], files: &[&str]) -> io::Result<Vec<Option<String>>> {
    let namespaces: Vec<(File, i32)> =
        kinds.iter().map(|kind| Ok((File::open(path(pid, *kind))?, kind.flag()))).collect::<io::Result<_>>()?;
    let paths: Vec<CString> =
        files.iter().map(|file| CString::new(*file).map_err(io::Error::other)).collect::<io::Result<_>>()?;
    let entered: Vec<(i32, i32)> = namespaces.iter().map(|(file, flag)| (file.as_raw_fd(), *flag)).collect();
    let (reader, writer) = pipe()?;
    // SAFETY: the child makes only system calls, on what was made before, and ends.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: as above.
        unsafe { in_child(&entered, &paths, writer.as_raw_fd()) }
    }
    drop(writer);
    let mut text = Vec::new();
    let result = io::Read::read_to_end(&mut File::from(reader), &mut text);
    let mut status = 0;
    // SAFETY: a child of ours that nobody else waits for.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    result?;
    let mut parts = text.split(|byte| *byte == 0);
    Ok(paths
        .iter()
        .map(|_| parts.next().filter(|part| !part.is_empty()).map(|part| String::from_utf8_lossy(part).into_owned()))
        .collect())
}

/// Each file, and a zero behind it.
///
/// # Safety
/// In a child that has just been forked. It allocates nothing, takes no lock and does not return.
unsafe fn in_child(namespaces: &[(i32, i32)], paths: &[CString], to: i32) -> ! {
    // SAFETY: plain system calls on descriptors and paths that exist, and a buffer as long as is said.
    unsafe {
        for (fd, flag) in namespaces {
            if libc::setns(*fd, *flag) != 0 {
                libc::_exit(1);
            }
        }
        // A pid namespace is that of children.
        if namespaces.iter().any(|(_, flag)| *flag == libc::CLONE_NEWPID) {
            let child = libc::fork();
            if child != 0 {
                let mut status = 0;
                libc::waitpid(child, &raw mut status, 0);
                libc::_exit(0);
            }
        }
        let mut buffer = [0u8; MAX_FILE];
        for path in paths {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            if fd >= 0 {
                let length = libc::read(fd, buffer.as_mut_ptr().cast(), MAX_FILE);
                if length > 0 {
                    libc::write(to, buffer.as_ptr().cast(), length.unsigned_abs());
                }
                libc::close(fd);
            }
            libc::write(to, c"".as_ptr().cast(), 1);
        }
        libc::_exit(0)
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else knows the descriptors that were just made.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_namespaces_are_known() {
        // The first process is there, where it can be looked at.
        for kind in [Kind::Ipc, Kind::Uts, Kind::User, Kind::Pid, Kind::Cgroup, Kind::Net, Kind::Mount] {
            let known = initial(kind);
            assert!(known.is_some());
            if let Some(first) = inode(1, kind).filter(|_| crate::probe::in_initial_pid_namespace()) {
                let moved = matches!(kind, Kind::Cgroup | Kind::Uts | Kind::Ipc);
                assert!(moved || known == Some(first), "{kind:?}");
            }
        }
    }

    #[test]
    fn files_are_read_in_namespaces_of_their_own() {
        let own = std::process::id();
        let files = ["/proc/sys/user/max_user_namespaces", "/no/such/file", "/proc/sys/kernel/pid_max"];
        let here = |path: &str| std::fs::read_to_string(path).ok();
        let expected: Vec<_> = files.iter().map(|file| here(file)).collect();
        assert_eq!(read_within(own, &[Kind::Pid], &files).unwrap(), expected);
        assert!(inode(own, Kind::User).is_some() && inode(u32::MAX, Kind::User).is_none());
        assert_eq!(within(own, Kind::Net, || Ok(7)).unwrap(), 7);
        assert!(within(own, Kind::Pid, || Ok(7)).is_err());
        assert!(read_within(u32::MAX, &[Kind::Pid], &files).is_err());
    }
}
