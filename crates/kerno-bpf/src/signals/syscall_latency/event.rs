use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, is_restart, shared_fields, syscall_names};
use kerno_model::text::{Errno, Latency};

/// A system call that returned. Mirror of `struct syscall_event`, 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyscallEvent {
    /// When it returned: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// From entry to exit, in nanoseconds.
    pub latency_ns: u64,
    /// The caller's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// What it returned: -4095 to -1 is an errno, anything else a result (an address, a count, a descriptor). The kernel's own
    /// restart codes (-512 to -516) show here when a signal cut the call short: see [`interrupted`](Self::interrupted).
    pub ret: i64,
    /// Process (thread group) of the caller.
    pub pid: u32,
    /// Thread of the caller.
    pub tid: u32,
    /// Number of the call, in the table that `compat` tells.
    pub syscall_nr: u32,
    /// Made through the 32-bit table (i386 on `x86_64`).
    pub compat: bool,
    pub(crate) pad0: [u8; 3],
    /// Name of the calling thread.
    pub comm: Comm,
}

impl SyscallEvent {
    /// From entry to exit.
    pub const fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_ns)
    }

    /// Name of the calling thread, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// Name of the call; `None` when the table has none for its number (a newer kernel's call).
    pub fn syscall_name(&self) -> Option<&'static str> {
        syscall_names::name(self.syscall_nr, self.compat)
    }

    /// True when a signal cut the call short. The kernel then restarts it or makes it fail with `EINTR`, which it decides only after
    /// the exit hook (`ERESTARTSYS` and its kin, linux/errno.h).
    pub const fn interrupted(&self) -> bool {
        is_restart(self.ret)
    }

    /// The positive error number when the call failed, `None` also when it was [`interrupted`](Self::interrupted). A return from a signal handler (`rt_sigreturn`) has none: its return value is
    /// whatever the interrupted code held.
    pub fn errno(&self) -> Option<i32> {
        if self.interrupted() {
            return None;
        }
        let errno = i32::try_from(self.ret.checked_neg()?).ok().filter(|errno| (1..=4095).contains(errno))?;
        (!matches!(self.syscall_name(), Some("rt_sigreturn" | "sigreturn"))).then_some(errno)
    }
}

/// The fields by their names, with the call's name (`syscall`, null when unknown) beside its number.
impl Serialize for SyscallEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("SyscallEvent", 10)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("latency_ns", &self.latency_ns)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("ret", &self.ret)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("tid", &self.tid)?;
        fields.serialize_field("syscall_nr", &self.syscall_nr)?;
        fields.serialize_field("syscall", &self.syscall_name())?;
        fields.serialize_field("compat", &self.compat)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.end()
    }
}

impl Event for SyscallEvent {
    const TYPE: EventType = EventType::SyscallLatency;
    const ENUM_FIELDS: &'static [EnumField] = &[EnumField::bool("compat", std::mem::offset_of!(SyscallEvent, compat))];

    shared_fields!();

    fn failed(&self) -> bool {
        self.errno().is_some()
    }
}

impl fmt::Display for SyscallEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = if self.compat { " (32-bit)" } else { "" };
        let name = match self.syscall_name() {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("syscall {}", self.syscall_nr)),
        };
        let rest = 20usize.saturating_sub(name.len());
        write!(f, "{name}{table:<rest$} {:>7}", Latency(self.latency()))?;
        match self.errno() {
            Some(errno) => write!(f, "  {}", Errno(errno))?,
            None if self.interrupted() => f.write_str("  interrupted")?,
            // Addresses read better in hexadecimal.
            None if self.ret.unsigned_abs() >= 1 << 32 => write!(f, "  = {:#x}", self.ret)?,
            None => write!(f, "  = {}", self.ret)?,
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

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/syscall_latency.bpf.o");
        let fields = fields!(SyscallEvent: timestamp_ns latency_ns cgroup_id ret pid tid syscall_nr compat pad0 comm);
        assert_matches(object, "syscall_event", size_of::<SyscallEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let mut words = [0u64; 8];
        let bytes = words.as_mut_bytes();
        let event_type = EventType::SyscallLatency;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        assert_eq!(decode(bytes), Ok(()));
        assert_eq!(decode(&bytes[..63]), Err(DecodeError::Length { event_type, expected: 64, found: 63 }));
        assert_eq!(decode(&[]), Err(DecodeError::Length { event_type, expected: 64, found: 0 }));
        bytes[44] = 2;
        assert_eq!(decode(bytes), Err(DecodeError::Value { event_type, field: "compat", value: 2 }));
        let wrong = RawEvent { event_type: EventType::DiskIo, data: bytes }.decode_as::<SyscallEvent>().map(|_| ());
        assert_eq!(wrong, Err(DecodeError::Type { expected: event_type, found: EventType::DiskIo }));
    }

    #[test]
    fn errnos_are_told_from_addresses() {
        let mut words = [0u64; 8];
        let event = |ret: i64, nr: u32, words: &mut [u64; 8]| {
            words[3] = ret.cast_unsigned();
            words[5] = u64::from(nr);
            SyscallEvent::decode(words.as_bytes()).unwrap().errno()
        };
        assert_eq!(event(-2, 0, &mut words), Some(2));
        assert_eq!(event(-4095, 0, &mut words), Some(4095));
        assert_eq!(event(-4096, 0, &mut words), None);
        assert_eq!(event(i64::MIN, 0, &mut words), None);
        assert_eq!(event(0x7fff_ffff_f000, 9, &mut words), None);
        let sigreturn = syscall_names::numbers("rt_sigreturn").0.unwrap();
        assert_eq!(event(-2, sigreturn, &mut words), None);
    }

    #[test]
    fn lines_have_columns() {
        let mut words = [0u64; 8];
        let shown = |words: &[u64; 8]| SyscallEvent::decode(words.as_bytes()).unwrap().to_string();
        assert_eq!(shown(&words), "read                     0ns  = 0");
        words[5] = 9999;
        assert_eq!(shown(&words), "syscall 9999             0ns  = 0");
        words[5] = 1 << 32 | 3;
        assert!(shown(&words).contains(" (32-bit)"));
        assert_eq!(shown(&words).find("0ns"), Some(25));
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let words = [0u64; 8];
        let event = SyscallEvent::decode(words.as_bytes()).unwrap();
        let json = serde_json::to_value(crate::TypedEvent::SyscallLatency(event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "syscall_latency", "timestamp_ns": 0, "latency_ns": 0, "cgroup_id": 0, "ret": 0, "pid": 0,
                "tid": 0, "syscall_nr": 0, "syscall": "read", "compat": false, "comm": ""})
        );
    }
}
