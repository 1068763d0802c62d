use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, shared_fields, wire_enum};
use kerno_model::text::Latency;

wire_enum! {
    /// What made a task wait for a CPU.
    pub enum WaitReason {
        /// Something it slept for happened.
        Wakeup = 1, "wakeup";
        /// It ran, could have run on, and was put back into the queue: for another task, at the end of its time slice, or because
        /// it yielded.
        Preempted = 2, "preempted";
        /// It was just created and had not run before.
        New = 3, "new";
    }
}

/// A task that got a CPU after waiting for one. Mirror of `struct sched_event`, 80 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Serialize)]
#[repr(C)]
pub struct SchedEvent {
    /// When it got the CPU: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// From being able to run to running, in nanoseconds.
    pub runq_delay_ns: u64,
    /// The task's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// Process (thread group) of the task that waited.
    pub pid: u32,
    /// The thread that waited.
    pub tid: u32,
    /// The CPU it got.
    pub cpu: u32,
    /// Process of the task that held that CPU just before; 0 is the idle task.
    pub prev_pid: u32,
    /// The thread that held that CPU just before; 0 is the idle task.
    pub prev_tid: u32,
    /// What made it wait.
    pub reason: WaitReason,
    #[serde(skip)]
    pub(crate) pad0: [u8; 3],
    /// Name of the thread that waited.
    pub comm: Comm,
    /// Name of the thread that held that CPU just before; `swapper/N` is CPU N's idle task.
    pub prev_comm: Comm,
}

impl SchedEvent {
    /// From being able to run to running.
    pub const fn runq_delay(&self) -> Duration {
        Duration::from_nanos(self.runq_delay_ns)
    }

    /// Name of the thread that waited, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// Name of the thread that held that CPU just before, lossy.
    pub fn prev_comm(&self) -> Cow<'_, str> {
        self.prev_comm.to_str_lossy()
    }

    /// True when nothing held the CPU: the wait was the time it took to get going.
    pub const fn was_idle(&self) -> bool {
        self.prev_tid == 0
    }
}

impl Event for SchedEvent {
    const TYPE: EventType = EventType::SchedDelay;
    const ENUM_FIELDS: &'static [EnumField] =
        &[EnumField { name: "reason", offset: std::mem::offset_of!(SchedEvent, reason), valid: WaitReason::valid }];

    shared_fields!();
}

impl fmt::Display for SchedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} {:>7}  cpu {:<3} after ", self.reason, Latency(self.runq_delay()), self.cpu)?;
        if self.was_idle() {
            f.write_str("idle")?;
        } else {
            write!(f, "{} {}", self.prev_comm, self.prev_tid)?;
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

    /// A record with the reason given and everything else 0.
    fn words(reason: u8) -> [u64; 10] {
        let mut words = [0u64; 10];
        words.as_mut_bytes()[44] = reason;
        words
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/sched_delay.bpf.o");
        let fields = fields!(SchedEvent: timestamp_ns runq_delay_ns cgroup_id pid tid cpu prev_pid prev_tid reason pad0 comm
            prev_comm);
        assert_matches(object, "sched_event", size_of::<SchedEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let event_type = EventType::SchedDelay;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        for (reason, name) in [(1, "wakeup"), (2, "preempted"), (3, "new")] {
            let words = words(reason);
            assert_eq!(SchedEvent::decode(words.as_bytes()).unwrap().reason.name(), name);
            assert_eq!(decode(words.as_bytes()), Ok(()));
        }
        for value in [0, 4, 255] {
            let error = DecodeError::Value { event_type, field: "reason", value };
            assert_eq!(decode(words(value).as_bytes()), Err(error));
        }
        let words = [0u64; 11];
        for found in [0, 79, 88] {
            let error = DecodeError::Length { event_type, expected: 80, found };
            assert_eq!(decode(&words.as_bytes()[..found]), Err(error));
        }
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let words = words(2);
        let event = SchedEvent::decode(words.as_bytes()).unwrap();
        assert_eq!(
            serde_json::to_value(crate::TypedEvent::SchedDelay(event)).unwrap(),
            serde_json::json!({"type": "sched_delay", "timestamp_ns": 0, "runq_delay_ns": 0, "cgroup_id": 0, "pid": 0, "tid": 0,
                "cpu": 0, "prev_pid": 0, "prev_tid": 0, "reason": "preempted", "comm": "", "prev_comm": ""})
        );
    }

    #[test]
    fn reads_as_one_line() {
        let mut words = words(1);
        words[1] = 1_270_000;
        let mut event = *SchedEvent::decode(words.as_bytes()).unwrap();
        assert_eq!(event.to_string(), "wakeup     1.27ms  cpu 0   after idle");
        (event.pid, event.tid, event.cpu, event.prev_tid) = (7, 8, 12, 9);
        event.prev_comm.0[..4].copy_from_slice(b"a\x1bb\0");
        assert_eq!(event.to_string(), "wakeup     1.27ms  cpu 12  after a\\x1bb 9  tid 8");
    }
}
