use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::OpenFlags;
use crate::event::{
    Comm, EnumField, Event, EventType, MAX_FILENAME_LEN, is_restart, shared_fields, syscall_names, wire_enum,
};
use kerno_model::text::{self, Escaped};

wire_enum! {
    /// What the path of a [`FileEvent`] is.
    pub enum PathKind {
        /// There is none to tell: a handle was opened, or the caller's memory could not be read. The path is empty.
        Unknown = 0, "unknown";
        /// The path of the file that the kernel opened, symbolic links followed, from the root of the process.
        Resolved = 1, "resolved";
        /// What the caller asked for, with the folder it meant before it where that was implied. Links and `..` are as they were written.
        Requested = 2, "requested";
        /// Part of a path, whose beginning could not be told: it does not start at the root.
        Relative = 3, "relative";
    }
}

wire_enum! {
    /// How a file was opened.
    pub enum OpenVia {
        /// By a system call.
        Syscall = 1, "syscall";
        /// By `io_uring`, into the process's descriptor table.
        IoUring = 2, "io_uring";
        /// By `io_uring`, into the ring's own table of files: [`FileEvent::ret`] is the slot there and no descriptor.
        IoUringDirect = 3, "io_uring_direct";
    }
}

/// A file was opened, or failed to be. Mirror of `struct file_event`, 320 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileEvent {
    /// When the call returned: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The caller's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// Process (thread group) of the caller.
    pub pid: u32,
    /// Thread of the caller; for `io_uring`, the thread that submitted.
    pub tid: u32,
    /// Real user id of the caller.
    pub uid: u32,
    /// The flags it asked for (open(2)). On 64-bit hosts `io_uring` adds `O_LARGEFILE`.
    pub flags: u32,
    /// The file descriptor, or a negative errno.
    pub ret: i32,
    /// Permission bits for a file to be created, before the umask; 0 when the flags ask for none to be created.
    pub mode: u32,
    /// Number of the call, in the table that `compat` tells; for `io_uring`, of the call that its operation stands for.
    pub syscall_nr: u32,
    /// Made through the 32-bit table (i386 on `x86_64`).
    pub compat: bool,
    /// By a call or by `io_uring`.
    pub via: OpenVia,
    /// What `filename` is.
    pub path_kind: PathKind,
    /// Part of the path is missing: what lies beyond 255 bytes, or, in a [`PathKind::Relative`] one, what lies before.
    pub truncated: bool,
    /// Name of the calling thread.
    pub comm: Comm,
    /// The path, NUL-terminated; any other bytes. Of a longer path the first 255 bytes.
    pub filename: [u8; MAX_FILENAME_LEN],
}

impl FileEvent {
    /// Name of the calling thread, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// The path as text; bytes that are not UTF-8 become U+FFFD. May hold control characters: see [`text::Escaped`].
    pub fn filename(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(text::until_nul(&self.filename))
    }

    /// The path, its bytes untouched. What it means is told by `path_kind`, whether all of it is there by `truncated`.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(text::until_nul(&self.filename)))
    }

    /// The flags it asked for.
    pub const fn open_flags(&self) -> OpenFlags {
        OpenFlags(self.flags)
    }

    /// The descriptor when a descriptor came of it.
    pub fn fd(&self) -> Option<i32> {
        (self.ret >= 0 && self.via != OpenVia::IoUringDirect).then_some(self.ret)
    }

    /// True when a signal cut the call short, as when the open of a FIFO waits for its other end. The kernel then makes the call
    /// again or lets it fail with `EINTR`, which it decides only after the hook.
    pub const fn interrupted(&self) -> bool {
        is_restart(self.ret as i64)
    }

    /// The positive error number when it failed, `None` also when it was [`interrupted`](Self::interrupted).
    pub fn errno(&self) -> Option<i32> {
        (self.ret < 0 && !self.interrupted()).then(|| self.ret.saturating_neg())
    }

    /// Name of the call; `None` when the table has none for its number.
    pub fn syscall_name(&self) -> Option<&'static str> {
        syscall_names::name(self.syscall_nr, self.compat)
    }
}

/// The fields by their names, with the call's name (`syscall`) beside its number and the flags' names (`flag_names`) beside them.
impl Serialize for FileEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("FileEvent", 17)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("tid", &self.tid)?;
        fields.serialize_field("uid", &self.uid)?;
        fields.serialize_field("flags", &self.flags)?;
        fields.serialize_field("flag_names", &format_args!("{}", self.open_flags()))?;
        fields.serialize_field("ret", &self.ret)?;
        fields.serialize_field("mode", &self.mode)?;
        fields.serialize_field("syscall_nr", &self.syscall_nr)?;
        fields.serialize_field("syscall", &self.syscall_name())?;
        fields.serialize_field("compat", &self.compat)?;
        fields.serialize_field("via", &self.via)?;
        fields.serialize_field("path_kind", &self.path_kind)?;
        fields.serialize_field("truncated", &self.truncated)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.serialize_field("filename", &self.filename())?;
        fields.end()
    }
}

impl Event for FileEvent {
    const TYPE: EventType = EventType::FileAudit;
    const ENUM_FIELDS: &'static [EnumField] = &[
        EnumField::bool("compat", std::mem::offset_of!(FileEvent, compat)),
        EnumField { name: "via", offset: std::mem::offset_of!(FileEvent, via), valid: OpenVia::valid },
        EnumField { name: "path_kind", offset: std::mem::offset_of!(FileEvent, path_kind), valid: PathKind::valid },
        EnumField::bool("truncated", std::mem::offset_of!(FileEvent, truncated)),
    ];

    shared_fields!();

    fn failed(&self) -> bool {
        self.errno().is_some()
    }
}

impl fmt::Display for FileEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.errno() {
            Some(errno) => syscalls::Errno::new(errno).name().map_or_else(|| format!("errno {errno}"), str::to_owned),
            None if self.interrupted() => "interrupted".to_owned(),
            None if self.fd().is_none() => format!("slot {}", self.ret),
            None => format!("fd {}", self.ret),
        };
        write!(f, "{:<20}  {result:<7}  ", self.open_flags())?;
        let path = Escaped(text::until_nul(&self.filename));
        match (self.path_kind, self.truncated) {
            (PathKind::Unknown, _) => f.write_str("(path unknown)")?,
            (PathKind::Relative, true) => write!(f, "...{path}")?,
            (PathKind::Relative, false) => write!(f, "{path}  (relative)")?,
            (_, true) => write!(f, "{path}...")?,
            (_, false) => path.fmt(f)?,
        }
        // A failed open has nothing better than the request; a successful one says so when it has not.
        if self.path_kind == PathKind::Requested && self.ret >= 0 {
            f.write_str("  (as requested)")?;
        }
        if self.via != OpenVia::Syscall {
            f.write_str("  io_uring")?;
        }
        if self.compat {
            f.write_str("  32-bit")?;
        }
        if self.tid != self.pid {
            write!(f, "  tid {}", self.tid)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};
    use crate::{DecodeError, RawEvent};

    const WORDS: usize = size_of::<FileEvent>() / 8;

    fn valid() -> FileEvent {
        let mut words = [0u64; WORDS];
        words.as_mut_bytes()[std::mem::offset_of!(FileEvent, via)] = 1;
        *FileEvent::decode(words.as_bytes()).unwrap()
    }

    fn with_path(path: &[u8]) -> FileEvent {
        let mut event = FileEvent { path_kind: PathKind::Resolved, ..valid() };
        event.filename[..path.len()].copy_from_slice(path);
        event
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/file_audit.bpf.o");
        let fields = fields!(FileEvent: timestamp_ns cgroup_id pid tid uid flags ret mode syscall_nr compat via path_kind
            truncated comm filename);
        assert_matches(object, "file_event", size_of::<FileEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let mut words = [0u64; WORDS];
        let bytes = words.as_mut_bytes();
        bytes.copy_from_slice(valid().as_bytes());
        let event_type = EventType::FileAudit;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        assert_eq!(decode(bytes), Ok(()));
        assert_eq!(decode(&bytes[..319]), Err(DecodeError::Length { event_type, expected: 320, found: 319 }));
        assert_eq!(decode(&[]), Err(DecodeError::Length { event_type, expected: 320, found: 0 }));
        for (field, offset, value) in
            [("compat", 44, 2), ("via", 45, 0), ("via", 45, 4), ("path_kind", 46, 4), ("truncated", 47, 255)]
        {
            let before = std::mem::replace(&mut bytes[offset], value);
            assert_eq!(decode(bytes), Err(DecodeError::Value { event_type, field, value }));
            bytes[offset] = before;
        }
        let wrong = RawEvent { event_type: EventType::DiskIo, data: bytes }.decode_as::<FileEvent>().map(|_| ());
        assert_eq!(wrong, Err(DecodeError::Type { expected: event_type, found: EventType::DiskIo }));
    }

    #[test]
    fn paths_keep_their_bytes_and_are_shown_escaped() {
        let event = with_path(b"/tmp/\xff\x1b[2J");
        assert_eq!(event.path().as_os_str().as_bytes(), b"/tmp/\xff\x1b[2J");
        assert_eq!(event.filename(), "/tmp/\u{fffd}\u{1b}[2J");
        assert_eq!(event.to_string(), "O_RDONLY              fd 0     /tmp/\\xff\\x1b[2J");
        // No NUL at all: not written by our kernel side, still no panic.
        let full = FileEvent { filename: [b'x'; MAX_FILENAME_LEN], ..event };
        assert_eq!(full.path().as_os_str().len(), MAX_FILENAME_LEN);
    }

    #[test]
    fn the_line_says_what_came_of_it() {
        let opened = FileEvent { flags: libc::O_CLOEXEC.cast_unsigned(), ret: 3, ..with_path(b"/etc/passwd") };
        assert_eq!(opened.to_string(), "O_RDONLY|O_CLOEXEC    fd 3     /etc/passwd");
        assert!(!opened.failed());
        assert_eq!((opened.fd(), opened.errno()), (Some(3), None));
        let failed = FileEvent { ret: -2, path_kind: PathKind::Requested, ..with_path(b"/no/such") };
        assert_eq!(failed.to_string(), "O_RDONLY              ENOENT   /no/such");
        assert!(failed.failed());
        assert_eq!((failed.fd(), failed.errno()), (None, Some(2)));
        assert_eq!(FileEvent { ret: -512, ..failed }.to_string(), "O_RDONLY              interrupted  /no/such");
        assert_eq!(FileEvent { ret: i32::MIN, ..failed }.errno(), Some(i32::MAX));
        let shown = |event: FileEvent| event.to_string().split_off(31);
        assert_eq!(shown(FileEvent { truncated: true, ..opened }), "/etc/passwd...");
        assert_eq!(shown(FileEvent { path_kind: PathKind::Requested, ..opened }), "/etc/passwd  (as requested)");
        assert_eq!(shown(FileEvent { path_kind: PathKind::Relative, ..with_path(b"a") }), "a  (relative)");
        assert_eq!(shown(FileEvent { path_kind: PathKind::Relative, truncated: true, ..with_path(b"a") }), "...a");
        assert_eq!(shown(valid()), "(path unknown)");
        let direct = FileEvent { via: OpenVia::IoUringDirect, ret: 4, compat: true, tid: 9, ..with_path(b"/a") };
        assert_eq!(direct.to_string(), "O_RDONLY              slot 4   /a  io_uring  32-bit  tid 9");
        assert_eq!(direct.fd(), None);
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let event =
            FileEvent { syscall_nr: syscall_names::numbers("openat").0.unwrap(), flags: 2, ..with_path(b"/a\xff") };
        let json = serde_json::to_value(crate::TypedEvent::FileAudit(&event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "file_audit", "timestamp_ns": 0, "cgroup_id": 0, "pid": 0, "tid": 0, "uid": 0, "flags": 2,
                "flag_names": "O_RDWR", "ret": 0, "mode": 0, "syscall_nr": event.syscall_nr, "syscall": "openat",
                "compat": false, "via": "syscall", "path_kind": "resolved", "truncated": false, "comm": "",
                "filename": "/a\u{fffd}"})
        );
    }
}
