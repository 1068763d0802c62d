use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, MAX_FILENAME_LEN, shared_fields, wire_enum};
use kerno_model::WaitStatus;
use kerno_model::text::{self, Escaped, Latency};

/// `MAX_ARGS_LEN` of the kernel side.
const MAX_ARGS_LEN: usize = 256;
/// `ANCESTORS` of the kernel side.
const ANCESTORS: usize = 4;

wire_enum! {
    /// What a [`LifeEvent`] tells of a process.
    pub enum LifeOp {
        /// It began.
        Fork = 1, "fork";
        /// It executes a program from now on.
        Exec = 2, "exec";
        /// It ended.
        Exit = 3, "exit";
    }
}

/// A parent, or a parent of that. Mirror of `struct ancestor`, 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ancestor {
    /// Its process id.
    pub pid: u32,
    #[doc(hidden)]
    pub pad0: u32,
    /// Its name.
    pub comm: Comm,
}

impl Serialize for Ancestor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Ancestor", 2)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.end()
    }
}

/// A process began, executed a program or ended. Mirror of `struct life_event`, 680 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LifeEvent {
    /// When: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The process's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// When the process began: `CLOCK_MONOTONIC`, in nanoseconds.
    pub start_ns: u64,
    /// Of one that ended: since then.
    pub lived_ns: u64,
    /// The process; of a fork, the new one.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Of a fork, the process that called it. With `CLONE_PARENT` that is not the parent.
    pub starter_pid: u32,
    /// Of one that ended, what wait(2) gives: see [`ending`](Self::ending).
    pub status: u32,
    /// Of an exec, the bytes of all arguments with a NUL each, those too that did not fit.
    pub args_bytes: u32,
    /// What happened.
    pub op: LifeOp,
    /// Of one that ended, and of one that began: it has not executed anything since it was forked.
    pub no_exec: bool,
    /// Of one that ended: the OOM killer had chosen it.
    pub oom_killed: bool,
    #[doc(hidden)]
    pub pad0: u8,
    /// The name of the process; of a fork, that of its parent still.
    pub comm: Comm,
    /// Its parent and its parent's parents, the nearest first; those that there are not have process id 0.
    pub ancestors: [Ancestor; ANCESTORS],
    /// Of an exec, the file as it was asked for, NUL-terminated; any other bytes. Of a longer path the first 255 bytes.
    pub filename: [u8; MAX_FILENAME_LEN],
    /// Of an exec, the arguments, a NUL after each, as far as they fit.
    pub args: [u8; MAX_ARGS_LEN],
}

impl LifeEvent {
    /// Name of the process, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// Its parent's process id, 0 when it has none.
    pub const fn parent_pid(&self) -> u32 {
        let [parent, ..] = &self.ancestors;
        parent.pid
    }

    /// Those of its ancestors that there are, the parent first.
    pub fn ancestors(&self) -> impl Iterator<Item = &Ancestor> {
        self.ancestors.iter().take_while(|ancestor| ancestor.pid != 0)
    }

    /// How it ended; `None` of one that has not.
    pub fn ending(&self) -> Option<WaitStatus> {
        (self.op == LifeOp::Exit).then_some(WaitStatus(self.status))
    }

    /// Of an exec, the file as it was asked for, its bytes untouched: relative to the working directory unless it begins with `/`.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(text::until_nul(&self.filename)))
    }

    /// Of an exec, that file as text; bytes that are not UTF-8 become U+FFFD.
    pub fn filename(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(text::until_nul(&self.filename))
    }

    /// Of an exec, the arguments. The last one may be cut: see [`args_truncated`](Self::args_truncated).
    pub fn args(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.args.get(..(self.args_bytes as usize).min(MAX_ARGS_LEN)).unwrap_or_default();
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        bytes.split(|byte| *byte == 0).filter(|_| self.args_bytes > 0)
    }

    /// Whether there are more arguments than fit.
    pub const fn args_truncated(&self) -> bool {
        self.args_bytes as usize > MAX_ARGS_LEN
    }
}

/// The fields by their names; the arguments as a list of text, `parent_pid` beside the ancestors, and how it ended in words (`ending`).
impl Serialize for LifeEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let args: Vec<_> = self.args().map(String::from_utf8_lossy).collect();
        let ancestors: Vec<_> = self.ancestors().collect();
        let ending = self.ending();
        let mut fields = serializer.serialize_struct("LifeEvent", 20)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("op", &self.op)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("parent_pid", &self.parent_pid())?;
        fields.serialize_field("starter_pid", &self.starter_pid)?;
        fields.serialize_field("uid", &self.uid)?;
        fields.serialize_field("start_ns", &self.start_ns)?;
        fields.serialize_field("lived_ns", &self.lived_ns)?;
        fields.serialize_field("exit_code", &ending.and_then(WaitStatus::code))?;
        fields.serialize_field("signal", &ending.and_then(WaitStatus::signal))?;
        fields.serialize_field("core_dumped", &ending.is_some_and(WaitStatus::dumped))?;
        fields.serialize_field("oom_killed", &self.oom_killed)?;
        fields.serialize_field("ending", &ending.map(|ending| ending.to_string()))?;
        fields.serialize_field("no_exec", &self.no_exec)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.serialize_field("filename", &self.filename())?;
        fields.serialize_field("args", &args)?;
        fields.serialize_field("args_truncated", &self.args_truncated())?;
        fields.serialize_field("ancestors", &ancestors)?;
        fields.end()
    }
}

impl Event for LifeEvent {
    const TYPE: EventType = EventType::ProcessLife;
    const ENUM_FIELDS: &'static [EnumField] = &[
        EnumField { name: "op", offset: std::mem::offset_of!(LifeEvent, op), valid: LifeOp::valid },
        EnumField::bool("no_exec", std::mem::offset_of!(LifeEvent, no_exec)),
        EnumField::bool("oom_killed", std::mem::offset_of!(LifeEvent, oom_killed)),
    ];

    shared_fields!();

    fn failed(&self) -> bool {
        self.ending().is_some_and(|ending| !ending.is_success())
    }
}

impl fmt::Display for LifeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  ", self.op)?;
        match self.op {
            LifeOp::Fork => write!(f, "by {}", self.starter_pid)?,
            LifeOp::Exec => {
                write!(f, "{} ", Escaped(text::until_nul(&self.filename)))?;
                for arg in self.args() {
                    // An argument with spaces, or none, would be taken for several, or for nothing.
                    let quoted = arg.is_empty() || arg.iter().any(u8::is_ascii_whitespace);
                    if quoted { write!(f, " \"{}\"", Escaped(arg))? } else { write!(f, " {}", Escaped(arg))? }
                }
                if self.args_truncated() {
                    f.write_str("...")?;
                }
            }
            LifeOp::Exit => {
                let ending = WaitStatus(self.status);
                write!(f, "{ending} after {}", Latency(Duration::from_nanos(self.lived_ns)))?;
                if ending.dumped() {
                    f.write_str("  core dumped")?;
                }
                if self.oom_killed {
                    f.write_str("  by the OOM killer")?;
                }
                if self.no_exec {
                    f.write_str("  never executed a program")?;
                }
            }
        }
        for (number, ancestor) in self.ancestors().enumerate() {
            write!(f, "{}{} {}", if number == 0 { "  < " } else { " < " }, ancestor.pid, ancestor.comm)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};
    use crate::{DecodeError, RawEvent};

    fn valid() -> LifeEvent {
        let mut bytes = [0; size_of::<LifeEvent>()];
        bytes[std::mem::offset_of!(LifeEvent, op)] = 1;
        *RawEvent { event_type: EventType::ProcessLife, data: &bytes }.decode_as::<LifeEvent>().unwrap()
    }

    fn executed(args: &[u8]) -> LifeEvent {
        let mut event = LifeEvent { op: LifeOp::Exec, args_bytes: u32::try_from(args.len()).unwrap(), ..valid() };
        event.filename[..7].copy_from_slice(b"/bin/ls");
        let kept = args.len().min(MAX_ARGS_LEN);
        event.args[..kept].copy_from_slice(&args[..kept]);
        event
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = aya::include_bytes_aligned!("../../../objects/process_life.bpf.o");
        assert_matches(object, "ancestor", size_of::<Ancestor>(), fields!(Ancestor: pid pad0 comm));
        let fields = fields!(LifeEvent: timestamp_ns cgroup_id start_ns lived_ns pid uid starter_pid status args_bytes op no_exec oom_killed
            pad0 comm ancestors filename args);
        assert_matches(object, "life_event", 680, fields);
        assert_eq!(size_of::<LifeEvent>(), 680);
    }

    #[test]
    fn bad_bytes_are_refused() {
        let event_type = EventType::ProcessLife;
        for (field, byte) in [("op", 0), ("op", 4), ("no_exec", 2), ("oom_killed", 255)] {
            let offset = LifeEvent::ENUM_FIELDS.iter().find(|known| known.name == field).unwrap().offset;
            let mut bytes = valid().as_bytes().to_vec();
            bytes[offset] = byte;
            let error = RawEvent { event_type, data: &bytes }.decode().unwrap_err();
            assert!(matches!(error, DecodeError::Value { field: found, .. } if found == field), "{error:?}");
        }
    }

    #[test]
    fn arguments_are_told_as_they_were_given() {
        let args = |event: &LifeEvent| event.args().map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(args(&executed(b"")), Vec::<Vec<u8>>::new());
        assert_eq!(args(&executed(b"ls\0")), [b"ls".to_vec()]);
        assert_eq!(args(&executed(b"ls\0\0-l\0")), [b"ls".to_vec(), vec![], b"-l".to_vec()]);
        let long = executed(&[b'x'; 300]);
        assert!(long.args_truncated());
        assert_eq!(args(&long), [vec![b'x'; 256]]);
        assert_eq!(executed(b"ls\0a b\0\x1b\0").to_string(), "exec  /bin/ls  ls \"a b\" \\x1b");
    }

    #[test]
    fn the_line_says_how_it_ended_and_who_started_it() {
        let mut event = LifeEvent { op: LifeOp::Exit, status: 0x8b, lived_ns: 2_000_000, ..valid() };
        event.ancestors[0].pid = 12;
        event.ancestors[0].comm.0[..2].copy_from_slice(b"sh");
        event.ancestors[1].pid = 1;
        event.ancestors[1].comm.0[..4].copy_from_slice(b"init");
        assert_eq!(
            event.to_string(),
            format!("exit  SIGSEGV after {}  core dumped  < 12 sh < 1 init", Latency(Duration::from_millis(2)))
        );
        assert!(event.failed() && event.parent_pid() == 12);
        let event = LifeEvent { status: 0, ..event };
        assert!(!event.failed() && event.to_string().starts_with("exit  exit code 0 after "));
        let fork = LifeEvent { starter_pid: 12, ..valid() };
        assert_eq!((fork.to_string().as_str(), fork.ending(), fork.failed()), ("fork  by 12", None, false));
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let mut event = LifeEvent { status: 256, ..executed(b"ls\0") };
        event.ancestors[0].pid = 7;
        let json = serde_json::to_value(crate::TypedEvent::ProcessLife(&event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "process_life", "timestamp_ns": 0, "op": "exec", "cgroup_id": 0, "pid": 0, "parent_pid": 7,
                "starter_pid": 0, "uid": 0, "start_ns": 0, "lived_ns": 0, "exit_code": null, "signal": null, "core_dumped": false,
                "oom_killed": false, "ending": null, "no_exec": false, "comm": "", "filename": "/bin/ls", "args": ["ls"],
                "args_truncated": false, "ancestors": [{"pid": 7, "comm": ""}]})
        );
        let json = serde_json::to_value(LifeEvent { op: LifeOp::Exit, ..event }).unwrap();
        assert_eq!((&json["exit_code"], &json["ending"]), (&1.into(), &"exit code 1".into()));
    }
}
