//! Opens that `io_uring` makes, by its system calls alone.

use std::ffi::CString;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use kerno_bpf::FileEvent;
use kerno_bpf::Filter;
use kerno_bpf::Host;
use kerno_bpf::{OpenVia, PathKind};
use kerno_model::KernelVersion;

use super::{OpenHow, assert_all_resolved, audit, audit_with, c, folder};
use crate::support::set_comm;

const OPENAT: u8 = 18;
const OPENAT2: u8 = 28;
const ASYNC: u8 = 1 << 4;
const ALLOC_SLOT: u32 = u32::MAX;
const SETUP_SQPOLL: u32 = 1 << 1;
const REGISTER_FILES: u32 = 2;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;

/// `struct io_uring_params`; the offsets as plain words.
#[repr(C)]
#[derive(Default)]
struct Params {
    head: [u32; 10],
    sq_off: [u32; 10],
    cq_off: [u32; 10],
}

/// `struct io_uring_sqe`, as the two operations use it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    dirfd: i32,
    how: u64,
    path: u64,
    mode_or_len: u32,
    open_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    slot: u32,
    rest: [u64; 2],
}

/// A ring with one operation at a time.
struct Uring {
    fd: i32,
    rings: *mut u8,
    sqes: *mut Sqe,
    params: Params,
}

impl Uring {
    fn new(flags: u32) -> Self {
        let mut params = Params::default();
        params.head[2] = flags;
        // SAFETY: params is writable; the mappings are as io_uring_setup(2) says, 4096 bytes being enough for 8 entries.
        unsafe {
            let fd = libc::syscall(libc::SYS_io_uring_setup, 8, &raw mut params);
            assert!(fd >= 0, "io_uring_setup: {}", std::io::Error::last_os_error());
            let fd = i32::try_from(fd).unwrap();
            let map = |offset| {
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                let at =
                    libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED | libc::MAP_POPULATE, fd, offset);
                assert_ne!(at, libc::MAP_FAILED);
                at
            };
            Self { fd, rings: map(0).cast(), sqes: map(0x1000_0000).cast(), params }
        }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: offsets given by the kernel lie inside the mapping, aligned.
        unsafe { &*self.rings.add(offset as usize).cast::<AtomicU32>() }
    }

    /// Submits one operation and waits for its result.
    fn run(&self, sqe: Sqe) -> i64 {
        let [_, sq_tail, sq_mask, _, _, _, sq_array, ..] = self.params.sq_off;
        let [cq_head, cq_tail, cq_mask, _, _, cqes, ..] = self.params.cq_off;
        let tail = self.word(sq_tail).load(Ordering::Acquire);
        let index = tail & self.word(sq_mask).load(Ordering::Relaxed);
        // SAFETY: index is below the number of entries.
        unsafe { self.sqes.add(index as usize).write_volatile(sqe) };
        self.word(sq_array + 4 * index).store(index, Ordering::Relaxed);
        self.word(sq_tail).store(tail + 1, Ordering::Release);
        let flags = ENTER_GETEVENTS | ENTER_SQ_WAKEUP;
        // SAFETY: no memory is handed over.
        let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, self.fd, 1, 1, flags, 0, 0) };
        assert!(entered >= 0, "io_uring_enter: {}", std::io::Error::last_os_error());
        let head = self.word(cq_head).load(Ordering::Acquire);
        while self.word(cq_tail).load(Ordering::Acquire) == head {
            std::thread::yield_now();
        }
        // struct io_uring_cqe: 16 bytes, the result in the third word.
        let index = head & self.word(cq_mask).load(Ordering::Relaxed);
        let result = self.word(cqes + 16 * index + 8).load(Ordering::Acquire);
        self.word(cq_head).store(head + 1, Ordering::Release);
        i64::from(result.cast_signed())
    }

    /// A table of files of its own, empty.
    fn register_slots(&self, count: usize) {
        let none = vec![-1i32; count];
        // SAFETY: none is read during the call.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd, REGISTER_FILES, none.as_ptr(), none.len()) };
        assert_eq!(result, 0, "io_uring_register: {}", std::io::Error::last_os_error());
    }
}

fn openat(path: &CString, flags: i32) -> Sqe {
    Sqe {
        opcode: OPENAT,
        dirfd: libc::AT_FDCWD,
        path: path.as_ptr() as u64,
        mode_or_len: 0o640,
        open_flags: flags.cast_unsigned(),
        ..Sqe::default()
    }
}

/// The events that io_uring made, not those of the test's own calls.
fn by_uring(events: Vec<FileEvent>) -> Vec<FileEvent> {
    events.into_iter().filter(|event| event.via != OpenVia::Syscall).collect()
}

/// Before Linux 6.0 the rings are not followed: nothing of what they opened is told.
fn untold(events: &[FileEvent]) -> bool {
    let untold = Host::detect().version < KernelVersion::new(6, 0);
    assert!(!untold || events.iter().all(|event| event.via == OpenVia::Syscall));
    untold
}

#[test]
fn opens_by_io_uring_are_the_submitters() {
    let (_guard, dir) = folder();
    std::fs::create_dir(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/file"), "").unwrap();
    std::os::unix::fs::symlink("sub/file", dir.join("link")).unwrap();
    let (events, seen) = audit(|log, _| {
        std::env::set_current_dir(&dir).unwrap();
        let ring = Uring::new(0);
        let (path, link) = (c(dir.join("sub/file")), c("link"));
        let how = OpenHow { flags: u64::from((libc::O_RDWR | libc::O_CREAT).cast_unsigned()), mode: 0o604, resolve: 0 };
        for i in 0..101 {
            let sqe = match i % 3 {
                0 => openat(&path, libc::O_RDONLY),
                // Always done by a worker thread.
                1 => Sqe { flags: ASYNC, ..openat(&link, libc::O_WRONLY | libc::O_CLOEXEC) },
                _ => Sqe { opcode: OPENAT2, how: &raw const how as u64, mode_or_len: 24, ..openat(&path, 0) },
            };
            super::close(log.note(ring.run(sqe)));
        }
    });
    if untold(&events) {
        return;
    }
    assert_eq!(events.len(), 101);
    assert_all_resolved(&events, &seen);
    for (i, event) in events.iter().enumerate() {
        let (name, flags, mode) = match i % 3 {
            0 => ("openat", libc::O_RDONLY, 0),
            1 => ("openat", libc::O_WRONLY | libc::O_CLOEXEC, 0),
            _ => ("openat2", libc::O_RDWR | libc::O_CREAT, 0o604),
        };
        assert_eq!((event.via, event.tid, event.uid, event.compat), (OpenVia::IoUring, event.pid, 0, false));
        // O_LARGEFILE is set for every caller on a 64-bit kernel.
        let asked = event.flags & !0o500_000;
        assert_eq!((event.syscall_name(), asked, event.mode), (Some(name), flags.cast_unsigned(), mode));
        assert_eq!(event.path(), dir.join("sub/file"));
        assert!(!event.comm().starts_with("iou-"), "{}", event.comm());
    }
}

#[test]
fn a_thread_that_polls_for_submissions_opens_for_its_owner() {
    let (_guard, dir) = folder();
    let path = c(dir.join("file"));
    std::fs::write(dir.join("file"), "").unwrap();
    let (events, seen) = audit(|log, _| {
        let ring = Uring::new(SETUP_SQPOLL);
        super::close(log.note(ring.run(openat(&path, 0))));
    });
    if untold(&events) {
        return;
    }
    assert_all_resolved(&by_uring(events), &seen);
}

#[test]
fn files_that_go_into_the_rings_own_table_are_named_too() {
    let (_guard, dir) = folder();
    let path = c(dir.join("file"));
    std::fs::write(dir.join("file"), "").unwrap();
    let (events, seen) = audit(|log, _| {
        let ring = Uring::new(0);
        ring.register_slots(5);
        assert_eq!(ring.run(Sqe { slot: 4, ..openat(&path, libc::O_RDWR) }), 0);
        // The operation's slot numbers start at 1, what it returns at 0; and a slot that is asked for returns 0.
        log.note_as(3, Path::new(""));
        for _ in 0..2 {
            log.note_as(ring.run(Sqe { slot: ALLOC_SLOT, ..openat(&path, libc::O_RDONLY) }), Path::new(""));
        }
    });
    if untold(&events) {
        return;
    }
    assert_eq!(events.len(), 3);
    // The tables took their present form in Linux 6.13.
    let found = Host::detect().version >= KernelVersion::new(6, 13);
    let expected = if found { (PathKind::Resolved, dir.join("file")) } else { (PathKind::Unknown, "".into()) };
    for (event, seen) in events.iter().zip(&seen) {
        assert_eq!((event.via, event.ret, event.fd()), (OpenVia::IoUringDirect, seen.ret, None));
        assert_eq!((event.path_kind, event.path()), (expected.0, &*expected.1));
    }
}

#[test]
fn failures_of_io_uring_are_reported_without_a_path() {
    let missing = c("/no/such");
    let work = |ring: &Uring| {
        assert_eq!(ring.run(openat(&missing, libc::O_RDWR)), -i64::from(libc::ENOENT));
        assert_eq!(ring.run(Sqe { flags: ASYNC, ..openat(&missing, 0) }), -i64::from(libc::ENOENT));
        assert_eq!(ring.run(Sqe { slot: 1, ..openat(&c("/etc/passwd"), 0) }), -i64::from(libc::ENXIO));
        let fd = ring.run(openat(&c("/etc/passwd"), 0));
        super::close(fd);
    };
    let filter = Filter { errors_only: true, ..Filter::default() };
    let (events, _) = audit_with(filter, |_, _| work(&Uring::new(0)));
    if untold(&events) {
        return;
    }
    let errnos: Vec<_> = events.iter().map(|event| event.errno().unwrap()).collect();
    assert_eq!(errnos, [libc::ENOENT, libc::ENOENT, libc::ENXIO]);
    assert!(events.iter().all(|event| event.path_kind == PathKind::Unknown && event.path() == Path::new("")));
    // An unknown path starts with nothing.
    let filter = Filter { path_prefix: Some("/etc".into()), ..Filter::default() };
    let (events, _) = audit_with(filter, |_, _| work(&Uring::new(0)));
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].path(), Path::new("/etc/passwd"));
    // The name that counts is the submitter's, not the worker's.
    for (name, expected) in [("uring-comm", 4), ("iou-wrk", 0)] {
        let filter = Filter { comms: vec![name.into()], ..Filter::default() };
        let (events, _) = audit_with(filter, |_, _| {
            set_comm("uring-comm");
            work(&Uring::new(0));
        });
        assert_eq!(events.len(), expected, "{name}");
    }
}

beside_all! {
    opens_by_io_uring_are_the_submitters
    files_that_go_into_the_rings_own_table_are_named_too
}
