use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, shared_fields, wire_enum};

wire_enum! {
    /// Whose memory ran out.
    pub enum OomScope {
        /// The kernel has no hook that tells it.
        Unknown = 1, "unknown";
        /// The machine's (or that of the NUMA nodes that the task may use).
        Global = 2, "global";
        /// A cgroup reached its limit.
        Cgroup = 3, "cgroup";
    }
}

/// A process that the kernel chose to kill for want of memory. Mirror of `struct oom_event`, 128 bytes.
///
/// Pages are the kernel's base pages (`getconf PAGE_SIZE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Serialize)]
#[repr(C)]
pub struct OomEvent {
    /// When it was chosen: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The victim's cgroup in the v2 hierarchy. 0 when unknown: where memory is limited in a v1 hierarchy and the victim is at the root of
    /// the v2 one, which then says nothing.
    pub cgroup_id: u64,
    /// Size of the victim's address space (`total-vm` in the log), in pages.
    pub total_pages: u64,
    /// Memory that the victim had in use: the sum of anonymous, file and shared memory, in pages.
    pub rss_pages: u64,
    /// Of these, anonymous memory.
    pub anon_pages: u64,
    /// Of these, mapped files.
    pub file_pages: u64,
    /// Of these, shared memory and tmpfs.
    pub shmem_pages: u64,
    /// What the victim had in swap, in pages.
    pub swap_pages: u64,
    /// What the victim's page tables took, in bytes.
    pub pgtables_bytes: u64,
    /// Process id of the victim.
    pub pid: u32,
    /// Process id of the task that needed memory and got none.
    pub triggered_pid: u32,
    /// The victim's score as in `/proc/PID/oom_score`, 0 to 2000.
    pub oom_score: i32,
    /// Real user id of the victim.
    pub uid: u32,
    /// The victim's adjustment as in `/proc/PID/oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i16,
    /// Whose memory ran out.
    pub scope: OomScope,
    /// Whether the victim could be looked at. If not (some kills before Linux 6.9), only its pid is known and every other figure of it
    /// is 0.
    pub known: bool,
    #[serde(skip)]
    pub(crate) pad0: [u8; 4],
    /// Name of the victim.
    pub comm: Comm,
    /// Name of the task that needed memory.
    pub triggered_comm: Comm,
}

impl OomEvent {
    /// Name of the victim, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// Name of the task that needed memory, lossy.
    pub fn triggered_comm(&self) -> Cow<'_, str> {
        self.triggered_comm.to_str_lossy()
    }

    /// Size of the victim's address space, in bytes.
    pub fn total_bytes(&self) -> u64 {
        bytes(self.total_pages)
    }

    /// Memory that the victim had in use, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        bytes(self.rss_pages)
    }
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(rustix::param::page_size() as u64)
}

impl Event for OomEvent {
    const TYPE: EventType = EventType::OomKill;
    const ENUM_FIELDS: &'static [EnumField] = &[
        EnumField { name: "scope", offset: std::mem::offset_of!(OomEvent, scope), valid: OomScope::valid },
        EnumField::bool("known", std::mem::offset_of!(OomEvent, known)),
    ];

    shared_fields!();

    fn failed(&self) -> bool {
        true
    }
}

/// Displays pages as KiB, MiB or GiB.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let kib = bytes(self.0) as f64 / 1024.0;
        match kib {
            kib if kib < 1024.0 => write!(f, "{kib}K"),
            kib if kib < 1024.0 * 1024.0 => write!(f, "{:.1}M", kib / 1024.0),
            kib => write!(f, "{:.1}G", kib / (1024.0 * 1024.0)),
        }
    }
}

impl fmt::Display for OomEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "killed ({})", self.scope)?;
        if self.known {
            write!(
                f,
                "  rss {} (anon {} file {} shmem {}) vm {}  score {} adj {}",
                Size(self.rss_pages),
                Size(self.anon_pages),
                Size(self.file_pages),
                Size(self.shmem_pages),
                Size(self.total_pages),
                self.oom_score,
                self.oom_score_adj
            )?;
        }
        write!(f, "  for {} {}", self.triggered_comm, self.triggered_pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};
    use crate::{DecodeError, RawEvent};

    /// A record with the scope and `known` given and everything else 0.
    fn words(scope: u8, known: u8) -> [u64; 16] {
        let mut words = [0u64; 16];
        words.as_mut_bytes()[90..92].copy_from_slice(&[scope, known]);
        words
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/oom_track.bpf.o");
        let fields = fields!(OomEvent: timestamp_ns cgroup_id total_pages rss_pages anon_pages file_pages shmem_pages swap_pages
            pgtables_bytes pid triggered_pid oom_score uid oom_score_adj scope known pad0 comm triggered_comm);
        assert_matches(object, "oom_event", size_of::<OomEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let event_type = EventType::OomKill;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        for (scope, name) in [(1, "unknown"), (2, "global"), (3, "cgroup")] {
            let words = words(scope, 1);
            assert_eq!(OomEvent::decode(words.as_bytes()).unwrap().scope.name(), name);
            assert_eq!(decode(words.as_bytes()), Ok(()));
        }
        for value in [0, 4, 255] {
            let error = DecodeError::Value { event_type, field: "scope", value };
            assert_eq!(decode(words(value, 0).as_bytes()), Err(error));
        }
        let error = DecodeError::Value { event_type, field: "known", value: 2 };
        assert_eq!(decode(words(1, 2).as_bytes()), Err(error));
        let words = [0u64; 17];
        for found in [0, 127, 136] {
            let error = DecodeError::Length { event_type, expected: 128, found };
            assert_eq!(decode(&words.as_bytes()[..found]), Err(error));
        }
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let words = words(3, 1);
        let event = OomEvent::decode(words.as_bytes()).unwrap();
        assert_eq!(
            serde_json::to_value(crate::TypedEvent::OomKill(event)).unwrap(),
            serde_json::json!({"type": "oom_kill", "timestamp_ns": 0, "cgroup_id": 0, "total_pages": 0, "rss_pages": 0,
                "anon_pages": 0, "file_pages": 0, "shmem_pages": 0, "swap_pages": 0, "pgtables_bytes": 0, "pid": 0,
                "triggered_pid": 0, "oom_score": 0, "uid": 0, "oom_score_adj": 0, "scope": "cgroup", "known": true, "comm": "",
                "triggered_comm": ""})
        );
    }

    #[test]
    fn reads_as_one_line() {
        let words = words(2, 0);
        let mut event = *OomEvent::decode(words.as_bytes()).unwrap();
        event.triggered_pid = 9;
        event.triggered_comm.0[..3].copy_from_slice(b"\x1ba\0");
        assert_eq!(event.to_string(), "killed (global)  for \\x1ba 9");
        let page = rustix::param::page_size() as u64;
        (event.known, event.scope, event.oom_score) = (true, OomScope::Cgroup, 667);
        (event.anon_pages, event.total_pages, event.rss_pages) = ((3 << 20) / page, (5 << 30) / page, (3 << 20) / page);
        assert_eq!(
            event.to_string(),
            "killed (cgroup)  rss 3.0M (anon 3.0M file 0K shmem 0K) vm 5.0G  score 667 adj 0  for \\x1ba 9"
        );
    }
}
