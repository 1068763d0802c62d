//! A file system whose server answers next to nothing, by /dev/fuse (linux/fuse.h) without any library.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;

/// The inode number of the one file that can be opened.
const FILE: u64 = 2;
/// Its size.
pub const SIZE: u64 = 1 << 20;

/// Mounted as long as it lives. The server knows one file, `there`, which can be looked up and opened; a look at anything else, a read of
/// it, statfs and all others wait until the end.
pub struct DeadMount {
    directory: tempfile::TempDir,
    server: Option<JoinHandle<()>>,
}

impl DeadMount {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("needs FUSE");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let text = |text: &str| CString::new(text).unwrap();
        let (source, target, kind) = (text("kerno-dead"), text(directory.path().to_str().unwrap()), text("fuse"));
        let options = text(&options);
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        // SAFETY: all are strings that end with NUL and live as long as the call.
        let mounted =
            unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
        assert_eq!(mounted, 0, "cannot mount: {}", std::io::Error::last_os_error());
        let server = std::thread::spawn(move || serve(device));
        Self { directory, server: Some(server) }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for DeadMount {
    /// Whoever waits gets an error.
    fn drop(&mut self) {
        let target = CString::new(self.path().to_str().unwrap()).unwrap();
        // SAFETY: a string that ends with NUL. The first aborts the connection, the second unmounts also what is in use.
        unsafe {
            libc::umount2(target.as_ptr(), libc::MNT_FORCE);
            libc::umount2(target.as_ptr(), libc::MNT_DETACH);
        }
        let _ = self.server.take().map(JoinHandle::join);
    }
}

fn serve(mut device: File) {
    let mut request = vec![0; 1 << 17];
    // It ends when it is unmounted.
    while let Ok(length) = device.read(&mut request) {
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        // struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, padding.
        let (opcode, unique, node) = (word(4), long(8), long(16));
        let answer = match opcode {
            INIT => init_out(),
            LOOKUP if &request[40..length] == b"there\0" => {
                // struct fuse_entry_out: nodeid, generation, entry_valid, attr_valid, two times 4 bytes of ns, attr.
                [&FILE.to_ne_bytes()[..], &[0; 8], &3600u64.to_ne_bytes(), &3600u64.to_ne_bytes(), &[0; 8], &attr()]
                    .concat()
            }
            // struct fuse_attr_out: attr_valid, attr_valid_nsec, dummy, attr.
            GETATTR if node == FILE => [&3600u64.to_ne_bytes()[..], &[0; 8], &attr()].concat(),
            // struct fuse_open_out: fh, open_flags, padding.
            OPEN if node == FILE => vec![0; 16],
            _ => continue,
        };
        // struct fuse_out_header: len, error, unique.
        let length = u32::try_from(16 + answer.len()).unwrap();
        let header = [&length.to_ne_bytes()[..], &[0; 4], &unique.to_ne_bytes()].concat();
        if device.write_all(&[header, answer].concat()).is_err() {
            return;
        }
    }
}

/// struct fuse_init_out of protocol 7.23 and newer, 64 bytes.
fn init_out() -> Vec<u8> {
    let mut out = Vec::new();
    // FUSE_PARALLEL_DIROPS: one look-up that hangs does not hold up those of other names.
    for word in [7u32, 31, 1 << 16, 1 << 18] {
        out.extend(word.to_ne_bytes());
    }
    for half in [16u16, 12] {
        out.extend(half.to_ne_bytes());
    }
    for word in [1u32 << 16, 1] {
        out.extend(word.to_ne_bytes());
    }
    out.resize(64, 0);
    out
}

/// struct fuse_attr of the file, 88 bytes.
fn attr() -> Vec<u8> {
    let mut attr = Vec::new();
    for long in [FILE, SIZE, SIZE / 512, 0, 0, 0] {
        attr.extend(long.to_ne_bytes());
    }
    // Times' nanoseconds, mode, links, uid, gid, rdev, block size, flags.
    for word in [0, 0, 0, libc::S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0] {
        attr.extend(word.to_ne_bytes());
    }
    assert_eq!(attr.len(), 88);
    attr
}

/// Whether this process is alone with its mounts, so that nobody else comes across one that is dead. If not it runs this test again in a
/// process of its own, which must succeed.
pub fn alone_with_mounts(test: &str) -> bool {
    const ALONE: &str = "KERNO_TEST_ALONE_WITH_MOUNTS";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    let leave = || {
        // SAFETY: plain system calls, with a constant string.
        unsafe {
            let root = c"/".as_ptr();
            if libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(
                    std::ptr::null(),
                    root,
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: system calls only, nothing that a fork could have left locked.
    unsafe { command.pre_exec(leave) };
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
    false
}
