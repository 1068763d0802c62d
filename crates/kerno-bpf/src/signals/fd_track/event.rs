use std::borrow::Cow;
use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, shared_fields, syscall_names, wire_enum};

wire_enum! {
    /// What happened to the descriptor.
    pub enum FdOp {
        /// The process got it.
        Open = 1, "open";
        /// The process gave it up.
        Close = 2, "close";
    }
}

wire_enum! {
    /// What did it.
    pub enum FdSource {
        /// A system call of the process: [`FdEvent::call`] says which.
        Syscall = 1, "syscall";
        /// A new program took over: close-on-exec (and, with some `binfmt_misc` handlers, the program's file for its interpreter).
        Exec = 2, "exec";
        /// The process ended.
        Exit = 3, "exit";
        /// An `io_uring` request of the process.
        IoUring = 4, "io_uring";
    }
}

/// A file descriptor that a process got or gave up. Mirror of `struct fd_event`, 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FdEvent {
    /// When: `CLOCK_MONOTONIC`, in nanoseconds. A call's exit; for `close_range` its entry.
    pub timestamp_ns: u64,
    /// The process's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// The process (thread group).
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The descriptor's number, for closes too.
    pub fd: i32,
    /// Number of the call, in the table that `compat` tells; -1 when `source` is not a call.
    pub syscall_nr: i32,
    /// Got or gave up.
    pub op: FdOp,
    /// What did it.
    pub source: FdSource,
    /// The call was made through the 32-bit table (i386 on `x86_64`).
    pub compat: bool,
    pub(crate) pad0: [u8; 5],
    /// Name of the thread; for closes at exec, the name it had before.
    pub comm: Comm,
}

impl FdEvent {
    /// Got or gave up.
    pub const fn op(&self) -> FdOp {
        self.op
    }

    /// Name of the thread, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// What did it: the system call's name, or `exec`, `exit` or `io_uring`. `None` when the table of calls has no name for the number.
    pub fn call(&self) -> Option<&'static str> {
        match self.source {
            FdSource::Syscall => {
                u32::try_from(self.syscall_nr).ok().and_then(|nr| syscall_names::name(nr, self.compat))
            }
            other => Some(other.name()),
        }
    }
}

/// The fields by their names, with `call` beside them (null when the number has no name).
impl Serialize for FdEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("FdEvent", 11)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("tid", &self.tid)?;
        fields.serialize_field("fd", &self.fd)?;
        fields.serialize_field("syscall_nr", &self.syscall_nr)?;
        fields.serialize_field("op", &self.op)?;
        fields.serialize_field("source", &self.source)?;
        fields.serialize_field("call", &self.call())?;
        fields.serialize_field("compat", &self.compat)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.end()
    }
}

impl Event for FdEvent {
    const TYPE: EventType = EventType::FdTrack;
    const ENUM_FIELDS: &'static [EnumField] = &[
        EnumField { name: "op", offset: std::mem::offset_of!(FdEvent, op), valid: FdOp::valid },
        EnumField { name: "source", offset: std::mem::offset_of!(FdEvent, source), valid: FdSource::valid },
        EnumField::bool("compat", std::mem::offset_of!(FdEvent, compat)),
    ];

    shared_fields!();
}

impl fmt::Display for FdEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5}  fd {:<5}  ", self.op, self.fd)?;
        match self.call() {
            Some(call) => f.write_str(call)?,
            None => write!(f, "syscall {}", self.syscall_nr)?,
        }
        if self.compat {
            f.write_str(" (32-bit)")?;
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

    /// A valid record: op open, source syscall.
    fn record() -> [u64; 7] {
        let mut words = [0u64; 7];
        words[4] = u64::from_ne_bytes([1, 1, 0, 0, 0, 0, 0, 0]);
        words
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/fd_track.bpf.o");
        let fields = fields!(FdEvent: timestamp_ns cgroup_id pid tid fd syscall_nr op source compat pad0 comm);
        assert_matches(object, "fd_event", size_of::<FdEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let event_type = EventType::FdTrack;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        let mut words = record();
        assert_eq!(decode(words.as_bytes()), Ok(()));
        let length = |found| Err(DecodeError::Length { event_type, expected: 56, found });
        assert_eq!(decode(&words.as_bytes()[..55]), length(55));
        assert_eq!(decode(&[]), length(0));
        for (offset, field, bad) in
            [(32, "op", 0), (32, "op", 3), (33, "source", 0), (33, "source", 5), (34, "compat", 2)]
        {
            words = record();
            words.as_mut_bytes()[offset] = bad;
            assert_eq!(decode(words.as_bytes()), Err(DecodeError::Value { event_type, field, value: bad }));
        }
    }

    #[test]
    fn tells_what_did_it() {
        let mut words = record();
        let openat = syscall_names::numbers("openat").0.unwrap();
        words[3] = 7 | u64::from(openat) << 32;
        let event = *FdEvent::decode(words.as_bytes()).unwrap();
        assert_eq!((event.call(), event.fd, event.op()), (Some("openat"), 7, FdOp::Open));
        assert_eq!(event.to_string(), "open   fd 7      openat");
        let exit = FdEvent { source: FdSource::Exit, op: FdOp::Close, syscall_nr: -1, tid: 9, ..event };
        assert_eq!(exit.to_string(), "close  fd 7      exit  tid 9");
        let unknown = FdEvent { syscall_nr: 511, ..event };
        assert_eq!((unknown.call(), unknown.to_string().as_str()), (None, "open   fd 7      syscall 511"));
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let mut words = record();
        words[3] = u64::from(u32::MAX) << 32;
        words.as_mut_bytes()[33] = 2;
        let event = FdEvent::decode(words.as_bytes()).unwrap();
        let json = serde_json::to_value(crate::TypedEvent::FdTrack(event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "fd_track", "timestamp_ns": 0, "cgroup_id": 0, "pid": 0, "tid": 0, "fd": 0, "syscall_nr": -1,
                "op": "open", "source": "exec", "call": "exec", "compat": false, "comm": ""})
        );
    }
}
