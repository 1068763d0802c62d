//! The kills that the kernel side keeps: taken out at each sample, so that its small map has room.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes as _};

use super::{OomEvent, OomScope};
use crate::probe::{KernelHash, LoadError, MappedBlocks, SummaryPrograms};
use kerno_model::{KillScope, MemoryHolder, OomKill};

/// `MAX_LEVELS`, `MAX_NAME` in oom_track_summary.bpf.c
const LEVELS: usize = 6;
const NAME: usize = 96;

/// Mirror of `struct kill_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct KillKey {
    timestamp_ns: u64,
    pid: u32,
    pad0: u32,
}

/// Mirror of `struct kill`; the event's bytes are checked when it is taken.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WireKill {
    event: [u8; size_of::<OomEvent>()],
    memory_cgroup_id: u64,
    names: [[u8; NAME]; LEVELS],
}

/// Mirror of `struct kill_totals`.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
struct KillTotals {
    kills: u64,
    _pad0: [u64; 7],
}

/// A kill with where it happened.
#[derive(Clone, Debug)]
pub(super) struct Kill {
    pub(super) event: OomEvent,
    /// Id of the victim's cgroup in the hierarchy that limits memory; 0 when unknown.
    pub(super) cgroup_id: u64,
    /// Its path, put together from the names of the innermost cgroups.
    pub(super) path: Option<String>,
}

/// What the kernel side fills.
#[derive(Debug)]
pub(super) struct Kills {
    map: KernelHash<KillKey, WireKill>,
    totals: MappedBlocks<KillTotals>,
    seen: u64,
}

impl Kills {
    pub(super) fn of(programs: &mut SummaryPrograms) -> Result<Self, LoadError> {
        Ok(Self { map: programs.hash("kills")?, totals: programs.mapped("totals")?, seen: 0 })
    }

    /// How many kills there were since the last call, and those that there was room for, oldest first.
    pub(super) fn take(&mut self) -> (u64, Vec<Kill>) {
        let total = self.totals.iter().map(|cpu| cpu.read().kills).sum::<u64>();
        let count = total.saturating_sub(self.seen);
        self.seen = total;
        if count == 0 {
            return (0, Vec::new());
        }
        let found = self.map.read().unwrap_or_default();
        self.map.remove(found.keys().copied());
        let mut kills: Vec<_> = found.values().filter_map(Kill::of).collect();
        kills.sort_by_key(|kill| (kill.event.timestamp_ns, kill.event.pid));
        (count, kills)
    }
}

impl Kill {
    fn of(wire: &WireKill) -> Option<Self> {
        let event = OomEvent::try_read_from_bytes(&wire.event).ok()?;
        let names: Vec<_> = wire.names.iter().map(|name| text(name)).take_while(|name| !name.is_empty()).collect();
        let path = names.iter().rev().map(|name| format!("/{name}")).collect::<String>();
        let path = match names.len() {
            // The root itself, or unknown.
            0 => (wire.memory_cgroup_id != 0).then(|| "/".to_owned()),
            // Deeper than was read.
            LEVELS => Some(format!("/...{path}")),
            _ => Some(path),
        };
        Some(Self { event, cgroup_id: wire.memory_cgroup_id, path })
    }

    pub(super) fn describe(&self, cgroup: Option<String>, largest: Vec<MemoryHolder>) -> OomKill {
        let event = &self.event;
        let bytes = |pages: u64| pages.saturating_mul(rustix::param::page_size() as u64);
        OomKill {
            timestamp_ns: event.timestamp_ns,
            pid: event.pid,
            comm: event.comm().into_owned(),
            uid: event.uid,
            cgroup,
            scope: match event.scope {
                OomScope::Unknown => KillScope::Unknown,
                OomScope::Global => KillScope::Global,
                OomScope::Cgroup => KillScope::Cgroup,
            },
            triggered_pid: event.triggered_pid,
            triggered_comm: event.triggered_comm().into_owned(),
            rss_bytes: event.rss_bytes(),
            anon_bytes: bytes(event.anon_pages),
            shmem_bytes: bytes(event.shmem_pages),
            oom_score: event.oom_score,
            oom_score_adj: event.oom_score_adj,
            largest,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn layouts_are_the_kernel_sides() {
        let object = aya::include_bytes_aligned!("../../../objects/oom_track_summary.bpf.o");
        assert_matches(object, "kill", size_of::<WireKill>(), fields!(WireKill: event memory_cgroup_id names));
        assert_eq!(size_of::<KillTotals>(), 64);
        assert_eq!(size_of::<KillKey>(), 16);
    }

    #[test]
    fn paths_are_put_together() {
        let path = |names: &[&str]| {
            let mut wire = WireKill { event: [0; 128], memory_cgroup_id: 7, names: [[0; NAME]; LEVELS] };
            // A scope that decodes.
            wire.event[std::mem::offset_of!(OomEvent, scope)] = 3;
            for (slot, name) in wire.names.iter_mut().zip(names) {
                slot[..name.len()].copy_from_slice(name.as_bytes());
            }
            Kill::of(&wire).unwrap().path.unwrap()
        };
        assert_eq!(path(&["inner", "outer"]), "/outer/inner");
        assert_eq!(path(&[]), "/");
        assert_eq!(path(&["f", "e", "d", "c", "b", "a"]), "/.../a/b/c/d/e/f");
    }
}
