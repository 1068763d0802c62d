use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, shared_fields, wire_enum};
use kerno_model::text::{Errno, Latency};

/// Bits of the minor number in the kernel's device numbers.
const MINOR_BITS: u32 = 20;

pub(super) const fn encode_dev(major: u32, minor: u32) -> u32 {
    major << MINOR_BITS | minor
}

wire_enum! {
    /// What a request does.
    pub enum DiskOp {
        /// Reads.
        Read = 1, "read";
        /// Writes.
        Write = 2, "write";
        /// Makes the device write out its cache; has no sector and no bytes.
        Flush = 3, "flush";
        /// Tells the device that the blocks are no longer used.
        Discard = 4, "discard";
        /// Anything else: write-zeroes, secure erase, zone management, a command passed through. See [`DiskEvent::op_code`].
        Other = 5, "other";
    }
}

/// How a request is to be carried out, as its submitter asked for it. Serialises as a list of names.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct DiskFlags(pub u8);

impl DiskFlags {
    const NAMES: [(u8, &'static str); 5] = [(1, "sync"), (2, "meta"), (4, "fua"), (8, "preflush"), (16, "readahead")];

    /// A task waits for it. Buffered reads do not carry it, although somebody may.
    pub const fn is_sync(self) -> bool {
        self.0 & 1 != 0
    }

    /// Metadata of a file system.
    pub const fn is_meta(self) -> bool {
        self.0 & 2 != 0
    }

    /// Forced unit access: complete only when it is on stable storage.
    pub const fn is_fua(self) -> bool {
        self.0 & 4 != 0
    }

    /// The device's cache is to be flushed first.
    pub const fn is_preflush(self) -> bool {
        self.0 & 8 != 0
    }

    /// Read ahead of need: may fail without harm.
    pub const fn is_readahead(self) -> bool {
        self.0 & 16 != 0
    }

    /// Names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.0 & bit != 0).map(|(_, name)| name)
    }
}

impl fmt::Display for DiskFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for DiskFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskFlags({self})")
    }
}

impl Serialize for DiskFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// A request that a disk completed. Mirror of `struct disk_event`, 80 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiskEvent {
    /// When its last part was completed: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// From its (last) issue to the driver until completion, in nanoseconds; 0 when it failed before it got there.
    pub latency_ns: u64,
    /// From its insert into the I/O scheduler, or from its first issue when the device gave it back, until its last issue, in
    /// nanoseconds; 0 when it went straight to the device.
    pub queue_ns: u64,
    /// First sector on the whole disk, in units of 512 bytes; 0 for flushes and commands passed through.
    pub sector: u64,
    /// The submitter's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// Length in bytes.
    pub nr_bytes: u32,
    /// The whole disk's number, as inside the kernel: `major << 20 | minor`. See [`DiskEvent::dev`].
    pub dev: u32,
    /// Process (thread group) of the submitter.
    pub pid: u32,
    /// Thread of the submitter.
    pub tid: u32,
    /// Positive error number, 0 when it succeeded.
    pub error: u32,
    /// What it does.
    pub op: DiskOp,
    /// The kernel's own number of the operation (`enum req_op` in `linux/blk_types.h`).
    pub op_code: u8,
    /// How.
    pub flags: DiskFlags,
    pub(crate) pad0: u8,
    /// Name of the submitting thread.
    pub comm: Comm,
}

impl DiskEvent {
    /// Time at the device.
    pub const fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_ns)
    }

    /// Time waited for the device.
    pub const fn queue_time(&self) -> Duration {
        Duration::from_nanos(self.queue_ns)
    }

    /// The whole disk's major and minor number.
    pub const fn dev(&self) -> (u32, u32) {
        (self.dev >> MINOR_BITS, self.dev & ((1 << MINOR_BITS) - 1))
    }

    /// What it does.
    pub const fn op(&self) -> DiskOp {
        self.op
    }

    /// The error number when it failed.
    pub fn errno(&self) -> Option<i32> {
        i32::try_from(self.error).ok().filter(|errno| *errno != 0)
    }

    /// Name of the submitting thread, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }
}

/// The fields by their names, with the device's numbers (`major`, `minor`) beside `dev`.
impl Serialize for DiskEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (major, minor) = self.dev();
        let mut fields = serializer.serialize_struct("DiskEvent", 16)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("latency_ns", &self.latency_ns)?;
        fields.serialize_field("queue_ns", &self.queue_ns)?;
        fields.serialize_field("sector", &self.sector)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("nr_bytes", &self.nr_bytes)?;
        fields.serialize_field("dev", &self.dev)?;
        fields.serialize_field("major", &major)?;
        fields.serialize_field("minor", &minor)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("tid", &self.tid)?;
        fields.serialize_field("error", &self.error)?;
        fields.serialize_field("op", &self.op)?;
        fields.serialize_field("op_code", &self.op_code)?;
        fields.serialize_field("flags", &self.flags)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.end()
    }
}

impl Event for DiskEvent {
    const TYPE: EventType = EventType::DiskIo;
    const ENUM_FIELDS: &'static [EnumField] =
        &[EnumField { name: "op", offset: std::mem::offset_of!(DiskEvent, op), valid: DiskOp::valid }];

    shared_fields!();

    fn failed(&self) -> bool {
        self.error != 0
    }
}

/// Displays a length: `512`, `4K`, `1.2M`.
struct Bytes(u32);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = f64::from(self.0);
        f.pad(&match self.0 {
            0..1024 => self.0.to_string(),
            1024..0x10_0000 => format!("{}K", (bytes / 102.4).round() / 10.0),
            _ => format!("{}M", (bytes / 104_857.6).round() / 10.0),
        })
    }
}

impl fmt::Display for DiskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.dev();
        write!(
            f,
            "{:<7} {:>6} {:>7} sector {:<10} {:>7} queue {:>7}",
            self.op,
            Bytes(self.nr_bytes),
            format!("{major}:{minor}"),
            self.sector,
            Latency(self.latency()),
            Latency(self.queue_time()),
        )?;
        if self.op == DiskOp::Other {
            write!(f, "  op {}", self.op_code)?;
        }
        if self.flags != DiskFlags(0) {
            write!(f, "  {}", self.flags)?;
        }
        if let Some(errno) = self.errno() {
            write!(f, "  {}", Errno(errno))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};
    use crate::{DecodeError, RawEvent};

    /// A record whose op is valid.
    fn words() -> [u64; 10] {
        let mut words = [0u64; 10];
        words.as_mut_bytes()[60] = 1;
        words
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/disk_io.bpf.o");
        let fields = fields!(DiskEvent: timestamp_ns latency_ns queue_ns sector cgroup_id nr_bytes dev pid tid error op op_code
            flags pad0 comm);
        assert_matches(object, "disk_event", size_of::<DiskEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let mut words = words();
        let bytes = words.as_mut_bytes();
        let event_type = EventType::DiskIo;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        assert_eq!(decode(bytes), Ok(()));
        assert_eq!(decode(&bytes[..79]), Err(DecodeError::Length { event_type, expected: 80, found: 79 }));
        assert_eq!(decode(&[]), Err(DecodeError::Length { event_type, expected: 80, found: 0 }));
        for value in [0, 6, 255] {
            bytes[60] = value;
            assert_eq!(decode(bytes), Err(DecodeError::Value { event_type, field: "op", value }));
        }
        for value in 1..=5 {
            bytes[60] = value;
            assert_eq!(decode(bytes), Ok(()));
        }
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let mut words = words();
        words.as_mut_bytes()[62] = 5;
        words.as_mut_bytes()[44..48].copy_from_slice(&encode_dev(259, 3).to_ne_bytes());
        let event = DiskEvent::decode(words.as_bytes()).unwrap();
        let json = serde_json::to_value(crate::TypedEvent::DiskIo(event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "disk_io", "timestamp_ns": 0, "latency_ns": 0, "queue_ns": 0, "sector": 0, "cgroup_id": 0,
                "nr_bytes": 0, "dev": 271_581_187, "major": 259, "minor": 3, "pid": 0, "tid": 0, "error": 0, "op": "read",
                "op_code": 0, "flags": ["sync", "fua"], "comm": ""})
        );
    }

    #[test]
    fn shows_what_matters_in_one_line() {
        let mut event = *DiskEvent::decode(words().as_bytes()).unwrap();
        event.nr_bytes = 69_632;
        event.dev = encode_dev(8, 16);
        event.sector = 2048;
        event.latency_ns = 1_270_000;
        assert_eq!(event.to_string(), "read       68K    8:16 sector 2048        1.27ms queue     0ns");
        assert!(!event.failed());
        event.op = DiskOp::Other;
        event.op_code = 9;
        event.nr_bytes = 1_310_720;
        event.flags = DiskFlags(9);
        event.error = 5;
        let shown = event.to_string();
        assert!(shown.starts_with("other     1.3M"), "{shown}");
        assert!(shown.ends_with("  op 9  sync,preflush  EIO (Input/output error)"), "{shown}");
        assert_eq!(event.errno(), Some(5));
        assert!(event.failed());
    }
}
