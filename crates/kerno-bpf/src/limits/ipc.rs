//! System V and POSIX IPC, of the IPC namespace of a process.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::fs::MetadataExt as _;

use kerno_model::{LimitScope, LimitUse, Resource};

use crate::waits::namespaces::{self, Kind};

use super::{View, number};

const SYSTEM_V: [Resource; 5] = [
    Resource::SharedSegments,
    Resource::SharedMemory,
    Resource::SemaphoreSets,
    Resource::Semaphores,
    Resource::MessageQueues,
];
const POSIX: [Resource; 2] = [Resource::PosixQueues, Resource::MessageBytes];

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    let (system_v, posix) = (wants(&SYSTEM_V), wants(&POSIX));
    if !system_v && !posix {
        return;
    }
    let Ok((tables, queues)) = namespaces::within(view.pid, Kind::Ipc, || {
        Ok((system_v.then(Tables::read), posix.then(|| Queues::read().ok()).flatten()))
    }) else {
        return;
    };
    let namespace = namespaces::inode(view.pid, Kind::Ipc);
    let initial = namespace == namespaces::initial(Kind::Ipc);
    let place = if initial { String::new() } else { namespace.map(|inode| inode.to_string()).unwrap_or_default() };
    let mut all = Vec::new();
    if let Some(tables) = tables {
        tables.tell(view, &mut all);
    }
    if let Some(queues) = queues {
        queues.tell(view, &mut all);
    }
    found.extend(all.into_iter().filter(|entry| wants(&[entry.resource])).map(|entry| match entry.scope {
        LimitScope::IpcNamespace => entry.at(place.clone()),
        _ => entry,
    }));
}

/// Tables of System V IPC and their limits, as the calling thread's namespace has them.
#[derive(Debug)]
struct Tables {
    segments: Vec<Vec<String>>,
    sets: Vec<Vec<String>>,
    queues: Vec<Vec<String>>,
    /// SEMMSL, SEMMNS, SEMOPM, SEMMNI.
    semaphores_max: Vec<u64>,
    segments_max: Option<u64>,
    pages_max: Option<u64>,
    queues_max: Option<u64>,
}

impl Tables {
    fn read() -> Self {
        let rows = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sysvipc/{name}")).unwrap_or_default();
            text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let semaphores_max = std::fs::read_to_string("/proc/sys/kernel/sem").unwrap_or_default();
        Self {
            segments: rows("shm"),
            sets: rows("sem"),
            queues: rows("msg"),
            semaphores_max: semaphores_max.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
            segments_max: number("/proc/sys/kernel/shmmni"),
            pages_max: number("/proc/sys/kernel/shmall"),
            queues_max: number("/proc/sys/kernel/msgmni"),
        }
    }

    fn tell(&self, view: &View, found: &mut Vec<LimitUse>) {
        let page = rustix::param::page_size() as u64;
        let column = |row: &[String], place: usize| row.get(place)?.parse::<u64>().ok();
        let sum = |rows: &[Vec<String>], place: usize| {
            rows.iter().filter_map(|row| column(row, place)).fold(0u64, u64::saturating_add)
        };
        let of = |resource, used, limit| LimitUse::new(resource, LimitScope::IpcNamespace, used, limit);
        // Who made a segment is told as an id of the pid namespace of whoever reads.
        let creators = |amount: &dyn Fn(&[String]) -> u64| -> Vec<(u32, u64)> {
            let of = |row: &Vec<String>| Some((u32::try_from(column(row, 4)?).ok()?, amount(row)));
            self.segments.iter().filter_map(of).filter(|(pid, _)| view.processes().get(*pid).is_some()).collect()
        };
        if let Some(limit) = self.segments_max {
            let mut entry = of(Resource::SharedSegments, self.segments.len() as u64, limit);
            entry.holders = view.processes().holders(&creators(&|_| 1), entry.used);
            found.push(entry);
        }
        // By default it is as good as none.
        if let Some(limit) = self.pages_max.and_then(|pages| pages.checked_mul(page)) {
            let pages = |row: &[String]| column(row, 3).unwrap_or(0).next_multiple_of(page);
            let used = self.segments.iter().map(|row| pages(row)).fold(0u64, u64::saturating_add);
            let mut entry = of(Resource::SharedMemory, used, limit).bytes();
            entry.holders = view.processes().holders(&creators(&pages), used);
            found.push(entry);
        }
        if let [_, semaphores, _, sets] = self.semaphores_max[..] {
            found.push(of(Resource::SemaphoreSets, self.sets.len() as u64, sets));
            found.push(of(Resource::Semaphores, sum(&self.sets, 3), semaphores));
        }
        if let Some(limit) = self.queues_max {
            found.push(of(Resource::MessageQueues, self.queues.len() as u64, limit));
        }
    }
}

/// The most POSIX message queues that are looked into.
const MAX_QUEUES: usize = 4096;

/// POSIX message queues of the calling thread's namespace.
#[derive(Debug)]
struct Queues {
    limit: Option<u64>,
    count: u64,
    /// Bytes that each counts, by user.
    bytes: Vec<(u32, u64)>,
    device: u64,
}

impl Queues {
    /// They are files of a file system that each IPC namespace has one of, mounted or not: it is mounted where nobody sees it.
    fn read() -> io::Result<Self> {
        let mount = mount_of_queues()?;
        let directory = format!("/proc/thread-self/fd/{}", mount.as_raw_fd());
        let device = std::fs::metadata(&directory)?.st_dev();
        let mut queues = Self { limit: number("/proc/sys/fs/mqueue/queues_max"), count: 0, bytes: Vec::new(), device };
        for entry in std::fs::read_dir(&directory)?.flatten() {
            queues.count += 1;
            if queues.bytes.len() < MAX_QUEUES
                && let (Ok(metadata), Ok(file)) = (entry.metadata(), File::open(entry.path()))
            {
                queues.bytes.extend(size(&file).map(|bytes| (metadata.st_uid(), bytes)));
            }
        }
        Ok(queues)
    }

    fn tell(&self, view: &View, found: &mut Vec<LimitUse>) {
        if let Some(limit) = self.limit {
            let mut entry = LimitUse::new(Resource::PosixQueues, LimitScope::IpcNamespace, self.count, limit);
            let amounts: Vec<_> = if self.count == 0 { Vec::new() } else { self.open(view) };
            entry.holders = view.processes().holders(&amounts, self.count);
            found.push(entry);
        }
        let Some((uid, _)) = view.uids() else { return };
        if let Some(limit) = super::status::limit(view, "Max msgqueue size") {
            let used = self.bytes.iter().filter(|(user, _)| *user == uid).map(|(_, bytes)| bytes).sum();
            found
                .push(LimitUse::new(Resource::MessageBytes, LimitScope::User, used, limit).bytes().at(uid.to_string()));
        }
    }

    /// How many of them each process has open.
    fn open(&self, view: &View) -> Vec<(u32, u64)> {
        let of = |pid: u32| {
            let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let queues = entries.filter(|entry| {
                // Their names have one part, as those of files of the root, which never hangs.
                let named = std::fs::read_link(entry.path()).is_ok_and(|link| {
                    link.to_str().is_some_and(|link| link.starts_with('/') && !link[1..].contains('/'))
                });
                named && std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.st_dev() == self.device)
            });
            queues.count() as u64
        };
        view.processes()
            .all
            .iter()
            .map(|process| (process.pid, of(process.pid)))
            .filter(|(_, open)| *open > 0)
            .collect()
    }
}

/// What a queue counts for `RLIMIT_MSGQUEUE` (`mqueue_get_inode` of ipc/mqueue.c): the messages, and for each what the kernel keeps.
fn size(queue: &File) -> Option<u64> {
    /// `struct msg_msg` and `struct posix_msg_tree_node`.
    const EACH: u64 = 48 + 48;
    const PRIORITIES: u64 = 32768;
    // SAFETY: all zeroes is one.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor that is open, and room for what it says.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mq_getsetattr,
            queue.as_raw_fd(),
            std::ptr::null::<libc::mq_attr>(),
            &raw mut attributes,
        )
    };
    if done != 0 {
        return None;
    }
    let (messages, bytes) = (u64::try_from(attributes.mq_maxmsg).ok()?, u64::try_from(attributes.mq_msgsize).ok()?);
    messages.checked_mul(bytes)?.checked_add(messages.min(PRIORITIES).checked_mul(EACH)?)
}

/// A mount of the message queues of the calling thread's namespace that has no place (Linux 5.2).
fn mount_of_queues() -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_ulong = 6;
    let made = |fd: libc::c_long| -> io::Result<OwnedFd> {
        match i32::try_from(fd) {
            // SAFETY: nobody else knows the descriptor that was just made.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let name: &CStr = c"mqueue";
    // SAFETY: a name that ends with a zero. 1 is FSOPEN_CLOEXEC.
    let context = made(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1) })?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    if unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers only. 1 is FSMOUNT_CLOEXEC.
    made(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_counted_with_their_creator() {
        // SAFETY: numbers only.
        let made: Vec<i32> = (0..5).map(|_| unsafe { libc::shmget(libc::IPC_PRIVATE, 12_345, 0o600) }).collect();
        let own = std::process::id();
        let mut found = Vec::new();
        read(&View::new(own, false, true), &|_| true, &mut found);
        for id in made {
            // SAFETY: numbers only.
            unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
        let of = |resource| found.iter().find(|entry| entry.resource == resource).unwrap();
        assert!(
            of(Resource::SharedSegments).holders.iter().any(|holder| holder.pid == own && holder.amount >= 5),
            "{found:?}"
        );
        // By default it has no limit that a machine could reach, and is not listed.
        let memory = found.iter().find(|entry| entry.resource == Resource::SharedMemory);
        assert!(memory.is_none_or(|memory| memory.used >= 5 * 16384), "{memory:?}");
        assert!(of(Resource::Semaphores).limit > 0 && of(Resource::MessageQueues).limit > 0);
    }

    #[test]
    fn message_queues_are_found_where_they_are_not_mounted() {
        // SAFETY: a name that ends with a zero; no attributes.
        let queue = unsafe {
            libc::mq_open(
                c"/kerno-test".as_ptr(),
                libc::O_CREAT | libc::O_RDWR,
                0o600,
                std::ptr::null::<libc::mq_attr>(),
            )
        };
        assert!(queue >= 0);
        let mut found = Vec::new();
        let own = std::process::id();
        read(&View::new(own, false, true), &|_| true, &mut found);
        // SAFETY: as above.
        unsafe {
            libc::mq_close(queue);
            libc::mq_unlink(c"/kerno-test".as_ptr());
        }
        let queues = found.iter().find(|entry| entry.resource == Resource::PosixQueues).unwrap();
        assert!(queues.used >= 1 && queues.holders.iter().any(|holder| holder.pid == own), "{queues:?}");
        let bytes = found.iter().find(|entry| entry.resource == Resource::MessageBytes).unwrap();
        assert!(bytes.used > 0, "{bytes:?}");
    }
}
