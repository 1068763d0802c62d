//! What a child opened and what came of it, against what the child itself saw: return values and /proc/self/fd links.

mod calls;
mod failures;
mod filters;
pub(crate) mod mounts;
mod paths;
mod uring;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kerno_bpf::{FileAuditLoader, FileEvent, Filter};
use tempfile::TempDir;

use crate::support::{Child, Link, observe, options};

/// What the child knows of one open: its return value, and the link that /proc shows for the descriptor.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    ret: i32,
    link: PathBuf,
}

/// Carries what the child saw to the parent, through a file that both have open.
struct Log(Mutex<File>);

impl Log {
    fn new() -> Self {
        Self(Mutex::new(tempfile::tempfile().unwrap()))
    }

    /// Notes an open, while its descriptor is still there.
    fn note(&self, ret: i64) -> i64 {
        let link = match ret {
            0.. => std::fs::read_link(format!("/proc/self/fd/{ret}")).unwrap_or_default(),
            _ => PathBuf::new(),
        };
        self.note_as(ret, &link);
        ret
    }

    fn note_as(&self, ret: i64, link: &Path) {
        let bytes = link.as_os_str().as_bytes();
        let mut record = Vec::new();
        record.extend(i32::try_from(ret).unwrap().to_ne_bytes());
        record.extend(u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        record.extend(bytes);
        self.0.lock().unwrap().write_all(&record).unwrap();
    }

    fn read(self) -> Vec<Seen> {
        let mut file = self.0.into_inner().unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let (mut rest, mut seen) = (bytes.as_slice(), Vec::new());
        while let Some((head, tail)) = rest.split_first_chunk::<8>() {
            let ret = i32::from_ne_bytes(head[..4].try_into().unwrap());
            let len = u32::from_ne_bytes(head[4..].try_into().unwrap()) as usize;
            seen.push(Seen { ret, link: PathBuf::from(std::ffi::OsString::from_vec(tail[..len].to_vec())) });
            rest = &tail[len..];
        }
        seen
    }
}

/// Runs the work in a child and returns what was reported of that child, and what it saw itself.
fn audit(work: impl FnOnce(&Log, &mut Link)) -> (Vec<FileEvent>, Vec<Seen>) {
    audit_with(Filter::default(), work)
}

fn audit_with(filter: Filter, work: impl FnOnce(&Log, &mut Link)) -> (Vec<FileEvent>, Vec<Seen>) {
    let log = Log::new();
    let mut child = Child::new(|link| work(&log, link));
    let filter = Filter { pids: vec![child.pid], ..filter };
    let events: Vec<FileEvent> = observe(FileAuditLoader::new(options(filter)), || child.run());
    for event in &events {
        assert_eq!(event.pid, child.pid);
    }
    (events, log.read())
}

/// As many events as opens, each with its return value, and for those that succeeded the very path that /proc showed.
fn assert_all_resolved(events: &[FileEvent], seen: &[Seen]) {
    let said: Vec<_> = events.iter().map(|event| (event.ret, event.path(), event.path_kind)).collect();
    let truth: Vec<_> = seen.iter().map(|seen| (seen.ret, &*seen.link, kerno_bpf::PathKind::Resolved)).collect();
    assert_eq!(said, truth);
    assert!(seen.iter().all(|seen| seen.ret >= 0), "an open failed");
    assert!(events.iter().all(|event| !event.truncated));
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("kerno-file-audit-").tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

/// As the system call itself returns: a negative errno for a failure.
fn raw(result: libc::c_long) -> i64 {
    if result < 0 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
}

fn open(path: impl AsRef<Path>, flags: i32) -> i64 {
    let path = c(path);
    // SAFETY: path is a C string for the duration of the call.
    raw(unsafe { libc::syscall(libc::SYS_open, path.as_ptr(), flags, 0o640) })
}

fn openat(dirfd: i32, path: impl AsRef<Path>, flags: i32) -> i64 {
    let path = c(path);
    // SAFETY: as above.
    raw(unsafe { libc::syscall(libc::SYS_openat, dirfd, path.as_ptr(), flags, 0o600) })
}

fn creat(path: impl AsRef<Path>, mode: u32) -> i64 {
    let path = c(path);
    // SAFETY: as above.
    raw(unsafe { libc::syscall(libc::SYS_creat, path.as_ptr(), mode) })
}

/// `struct open_how`
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(dirfd: i32, path: impl AsRef<Path>, flags: i32, mode: u64, resolve: u64) -> i64 {
    let path = c(path);
    let how = OpenHow { flags: u64::from(flags.cast_unsigned()), mode, resolve };
    // SAFETY: path and how live through the call.
    raw(unsafe { libc::syscall(libc::SYS_openat2, dirfd, path.as_ptr(), &raw const how, size_of::<OpenHow>()) })
}

fn close(fd: i64) {
    // SAFETY: the descriptor is one that the child opened itself.
    unsafe { libc::close(i32::try_from(fd).unwrap()) };
}

fn fd(ret: i64) -> i32 {
    assert!(ret >= 0, "open failed: {}", std::io::Error::from_raw_os_error(-i32::try_from(ret).unwrap()));
    i32::try_from(ret).unwrap()
}
