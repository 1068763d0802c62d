//! Loop devices of our own, what the kernel counts about them, and direct I/O on them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use kerno_bpf::Host;
use kerno_model::KernelVersion;

/// linux/loop.h and linux/fs.h
const LOOP_SET_FD: libc::c_ulong = 0x4c00;
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;
const LOOP_SET_DIRECT_IO: libc::c_ulong = 0x4c08;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const BLKDISCARD: libc::c_ulong = 0x1277;

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

fn ioctl(file: &File, request: libc::c_ulong, arg: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests used here take a number, or a pointer that the caller vouches for.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, arg) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A file in memory, to be sealed where wanted.
pub(crate) fn memory_file(bytes: usize) -> File {
    // SAFETY: a NUL-terminated name; the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"kerno-test".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    };
    file.set_len(bytes as u64).unwrap();
    file
}

/// A file of `bytes` in a file system that has room for `room` only. The file system is mounted nowhere and goes with its files.
pub(crate) fn file_without_room(bytes: usize, room: usize) -> File {
    let size = std::ffi::CString::new(room.to_string()).unwrap();
    // SAFETY: NUL-terminated strings; the descriptors are new and ours.
    unsafe {
        let owned = |fd: libc::c_long| {
            assert!(fd >= 0, "a tmpfs without a mount point: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
        };
        let context = owned(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1));
        let fd = context.as_raw_fd();
        let (set_string, create) = (1, 6);
        let result = libc::syscall(libc::SYS_fsconfig, fd, set_string, c"size".as_ptr(), size.as_ptr(), 0);
        assert_eq!(result, 0, "fsconfig: {}", io::Error::last_os_error());
        assert_eq!(libc::syscall(libc::SYS_fsconfig, fd, create, 0, 0, 0), 0);
        let mount = owned(libc::syscall(libc::SYS_fsmount, fd, 1, 0));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC;
        let file = File::from(owned(libc::openat(mount.as_raw_fd(), c"file".as_ptr(), flags, 0o600).into()));
        file.set_len(bytes as u64).unwrap();
        file
    }
}

/// A loop device over a file, taken down when dropped.
pub(crate) struct LoopDevice {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) path: PathBuf,
    backing: File,
    device: File,
}

impl LoopDevice {
    /// Over a file in memory.
    pub(crate) fn new(bytes: usize) -> Self {
        Self::over(memory_file(bytes))
    }

    pub(crate) fn over(backing: File) -> Self {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").expect("loop devices");
        // Another process may take the free one first.
        for _ in 0..100 {
            let number = ioctl(&control, LOOP_CTL_GET_FREE, 0).expect("a free loop device");
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            match ioctl(&device, LOOP_SET_FD, backing.as_raw_fd() as libc::c_ulong) {
                Ok(_) => {
                    let metadata = device.metadata().unwrap();
                    assert!(metadata.file_type().is_block_device());
                    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
                    return Self { major, minor, path, backing, device };
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => panic!("LOOP_SET_FD on {}: {error}", path.display()),
            }
        }
        panic!("every free loop device is taken at once by somebody else");
    }

    pub(crate) fn dev(&self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// The file below, to be cut or sealed.
    pub(crate) fn backing(&self) -> &File {
        &self.backing
    }

    /// Goes around the page cache of a file below: one in memory, or where the kernel cannot (before Linux 6.6), on disk.
    pub(crate) fn direct(bytes: usize) -> Self {
        let device = Self::over(file_without_room(bytes, 2 * bytes));
        if ioctl(&device.device, LOOP_SET_DIRECT_IO, 1).is_ok() {
            return device;
        }
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(bytes as u64).unwrap();
        let device = Self::over(file);
        ioctl(&device.device, LOOP_SET_DIRECT_IO, 1).expect("direct I/O on the file below");
        device
    }

    fn sysfs(&self, name: &str) -> PathBuf {
        format!("/sys/dev/block/{}:{}/{name}", self.major, self.minor).into()
    }

    /// Whether it has it now: before Linux 5.14 a loop device has none, and says nothing.
    #[must_use]
    pub(crate) fn set_scheduler(&self, name: &str) -> bool {
        let path = self.sysfs("queue/scheduler");
        std::fs::write(&path, name).unwrap_or_else(|error| panic!("{name} > {}: {error}", path.display()));
        let text = std::fs::read_to_string(&path).unwrap();
        let set = text.contains(&format!("[{name}]")) || (name == "none" && text.trim() == "none");
        assert!(set || Host::detect().version < KernelVersion::new(5, 14), "{name}: {text}");
        set
    }

    pub(crate) fn attribute(&self, name: &str) -> u64 {
        std::fs::read_to_string(self.sysfs(name)).unwrap().trim().parse().unwrap()
    }

    fn stat_fields(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.sysfs("stat")).unwrap();
        text.split_whitespace().map(|field| field.parse().unwrap()).collect()
    }

    /// What the kernel counted so far.
    pub(crate) fn stat(&self) -> Stat {
        let fields = self.stat_fields();
        let group = |at: usize| Group { ios: fields[at], sectors: fields[at + 2] };
        Stat { reads: group(0), writes: group(4), discards: group(11), flushes: fields[15] }
    }

    /// Milliseconds that reads took so far, all added up, by the kernel's own clock: from allocation to completion.
    pub(crate) fn read_ms(&self) -> u64 {
        self.stat_fields()[3]
    }

    pub(crate) fn open(&self, flags: i32) -> File {
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path).unwrap()
    }

    /// For direct I/O: every read and write is one request or several, at once.
    pub(crate) fn open_direct(&self) -> File {
        self.open(libc::O_DIRECT)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = ioctl(&self.device, LOOP_CLR_FD, 0);
    }
}

/// Requests and sectors of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) ios: u64,
    pub(crate) sectors: u64,
}

/// The part of `/sys/block/*/stat` that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) reads: Group,
    pub(crate) writes: Group,
    pub(crate) discards: Group,
    pub(crate) flushes: u64,
}

impl std::ops::Sub for Stat {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        let group = |now: Group, then: Group| Group { ios: now.ios - then.ios, sectors: now.sectors - then.sectors };
        Self {
            reads: group(self.reads, earlier.reads),
            writes: group(self.writes, earlier.writes),
            discards: group(self.discards, earlier.discards),
            flushes: self.flushes - earlier.flushes,
        }
    }
}

/// Memory that direct I/O accepts.
pub(crate) struct Buffer {
    at: *mut u8,
    layout: Layout,
}

impl Buffer {
    pub(crate) fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: the size is not zero.
        let at = unsafe { alloc_zeroed(layout) };
        assert!(!at.is_null());
        Self { at, layout }
    }

    pub(crate) fn address(&self) -> u64 {
        self.at as u64
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: allocated with this size, zeroed, and freed only by drop.
        unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.layout.size()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.at, self.layout) }
    }
}

/// `BLKDISCARD` of a range of bytes.
pub(crate) fn discard(device: &File, offset: u64, bytes: u64) {
    let range = [offset, bytes];
    ioctl(device, BLKDISCARD, range.as_ptr() as libc::c_ulong).expect("BLKDISCARD");
}

/// Submits direct reads of `bytes` at each of the offsets one upon the other, then waits for them all.
pub(crate) fn read_at_once(device: &File, buffer: &Buffer, bytes: usize, offsets: &[u64]) {
    /// struct iocb of linux/aio_abi.h, little-endian.
    #[repr(C)]
    #[derive(Default)]
    struct Iocb {
        data: u64,
        key: u32,
        rw_flags: i32,
        opcode: u16,
        priority: i16,
        fd: u32,
        buffer: u64,
        bytes: u64,
        offset: i64,
        reserved: u64,
        flags: u32,
        resfd: u32,
    }
    assert!(buffer.len() >= bytes);
    let iocbs: Vec<Iocb> = offsets
        .iter()
        .map(|offset| Iocb {
            fd: device.as_raw_fd().cast_unsigned(),
            buffer: buffer.address(),
            bytes: bytes as u64,
            offset: i64::try_from(*offset).unwrap(),
            ..Iocb::default()
        })
        .collect();
    let pointers: Vec<*const Iocb> = iocbs.iter().map(std::ptr::from_ref).collect();
    let mut results = vec![[0i64; 4]; offsets.len()];
    // SAFETY: the pointers are to live iocbs whose buffer outlives the wait for all of them; results has room for each.
    unsafe {
        let mut context: libc::c_ulong = 0;
        assert_eq!(libc::syscall(libc::SYS_io_setup, offsets.len(), &raw mut context), 0);
        // One a call: several would be plugged, that is, held back in the task for the next ones.
        for pointer in &pointers {
            let count = libc::syscall(libc::SYS_io_submit, context, 1, std::ptr::from_ref(pointer));
            assert_eq!(count, 1, "io_submit: {}", io::Error::last_os_error());
        }
        let count =
            libc::syscall(libc::SYS_io_getevents, context, results.len(), results.len(), results.as_mut_ptr(), 0);
        assert_eq!(usize::try_from(count), Ok(results.len()));
        libc::syscall(libc::SYS_io_destroy, context);
    }
    for [_, _, result, _] in results {
        assert_eq!(usize::try_from(result), Ok(bytes));
    }
}
