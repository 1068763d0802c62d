use crate::EventType;
use crate::probe::{FilterKind, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader, meminfo, possible_cpus};
use kerno_model::KernelVersion;

/// Loads `oom_track`: [`OomEvent`](crate::OomEvent)s.
pub type OomTrackLoader = SignalLoader<OomTrack>;

/// The signal's marker.
#[derive(Debug)]
pub struct OomTrack;

impl Signal for OomTrack {
    const NAME: &'static str = "oom_track";
    const TYPE: EventType = EventType::OomKill;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/oom_track.bpf.o");
    const FILTERS: &'static [FilterKind] =
        &[FilterKind::Pids, FilterKind::Comms, FilterKind::Uids, FilterKind::Cgroups];
    const RARE: bool = true;

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        // What only tells the scope, where the kernel has it: without memory cgroups there is none of the first.
        for (program, name) in [
            ("on_memcg_reclaim", "mm_vmscan_memcg_reclaim_begin"),
            ("on_direct_reclaim", "mm_vmscan_direct_reclaim_begin"),
        ] {
            if host.tracepoint_arity(name).is_some() {
                plan.attach(program, Hook::Tracepoint(name));
            }
        }
        // (pid) at first, (task, uid) since 6.9 (72ba14deb40a) and in later stable releases of older kernels, 5.10's among them.
        if host.tracepoint_arity("mark_victim") == Some(1) {
            plan.attach("on_signal_generate", Hook::Tracepoint("signal_generate"));
            plan.attach("on_mark_victim_pid", Hook::Tracepoint("mark_victim"));
        } else {
            plan.attach("on_mark_victim", Hook::Tracepoint("mark_victim"));
        }
        // The OOM killer's sums are exact since 7.0 (5898aa8f9a0b); before, they leave out what each CPU holds back, up to megabytes. The
        // functions that do it are inlined, and no type changed: only the version tells.
        if host.version >= KernelVersion::new(7, 0) {
            plan.set("cfg_exact_cpus", &possible_cpus());
        }
        Ok(())
    }

    fn knobs(_options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        let page_size = rustix::param::page_size() as u64;
        plan.set("cfg_page_size", &page_size);
        plan.set("cfg_total_pages", &(total_bytes(&meminfo::read()) / page_size));
        Ok(())
    }
}

/// Memory and swap, which the kernel's badness is relative to; 0 when the text does not tell.
fn total_bytes(meminfo: &str) -> u64 {
    let swap = meminfo::bytes_of(meminfo, "SwapTotal").unwrap_or(0);
    meminfo::bytes_of(meminfo, "MemTotal").map_or(0, |memory| memory.saturating_add(swap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_are_summed() {
        let text = "MemTotal:       24684100 kB\nMemFree:        1 kB\nSwapTotal:            1020 kB\n";
        assert_eq!(total_bytes(text), (24_684_100 + 1020) * 1024);
        assert_eq!(total_bytes("MemTotal: 8 kB\n"), 8192);
        assert_eq!(total_bytes("SwapTotal: 8 kB\n"), 0);
        assert_eq!(total_bytes("MemTotal: many\n"), 0);
    }
}
