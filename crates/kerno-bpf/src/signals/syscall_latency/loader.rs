use crate::EventType;
use crate::calls;
use crate::event::syscall_names;
use crate::probe::{FilterKind, Group, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `syscall_latency`: [`SyscallEvent`](crate::SyscallEvent)s.
pub type SyscallLatencyLoader = SignalLoader<SyscallLatency>;

/// The signal's marker.
#[derive(Debug)]
pub struct SyscallLatency;

impl Signal for SyscallLatency {
    const NAME: &'static str = "syscall_latency";
    const TYPE: EventType = EventType::SyscallLatency;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/syscall_latency.bpf.o");
    const GROUP: Option<&'static Group> = Some(&calls::EVENTS);
    const FILTERS: &'static [FilterKind] = &[
        FilterKind::Pids,
        FilterKind::Comms,
        FilterKind::Uids,
        FilterKind::Cgroups,
        FilterKind::MinLatency,
        FilterKind::ErrorsOnly,
        FilterKind::Syscalls,
    ];

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        pairing_hooks(host, plan);
        Ok(())
    }

    fn knobs(options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        pairing_knobs(plan);
        if options.filter.syscalls.is_empty() {
            return Ok(());
        }
        let (mut native, mut compat) =
            ([0u64; syscall_names::MAX_SYSCALLS / 64], [0u64; syscall_names::MAX_SYSCALLS / 64]);
        for name in &options.filter.syscalls {
            let (native_nr, compat_nr) = syscall_names::numbers_asked_for(name)?;
            insert(&mut native, native_nr);
            insert(&mut compat, compat_nr);
        }
        plan.set("cfg_syscalls_set", &1u8);
        plan.set("cfg_syscalls", &native);
        plan.set("cfg_compat_syscalls", &compat);
        Ok(())
    }
}

/// The hooks that events and summary share.
pub(super) fn pairing_hooks(host: &Host, plan: &mut Plan) {
    plan.set("cfg_skips_runs", &u8::from(host.version.preempts_programs()));
    // Exit before entry: a start that nothing would take up would be stale when its slot is next read.
    plan.attach("on_sched_process_exit", Hook::Tracepoint("sched_process_exit"));
    plan.attach("on_sched_process_exec", Hook::Tracepoint("sched_process_exec"));
    plan.attach("on_sys_exit", Hook::Tracepoint("sys_exit"));
    plan.attach("on_sys_enter", Hook::Tracepoint("sys_enter"));
}

/// The knobs of pairing.h and start.h.
pub(super) fn pairing_knobs(plan: &mut Plan) {
    plan.size_starts();
    if let (Some(native), _) = syscall_names::numbers("rt_sigreturn") {
        plan.set("cfg_sigreturn_nr", &native);
    }
    let compat = ["rt_sigreturn", "sigreturn"].map(|name| syscall_names::numbers(name).1.unwrap_or(u32::MAX));
    plan.set("cfg_compat_sigreturn_nrs", &compat);
    let exec = ["execve", "execveat"].map(syscall_names::numbers);
    plan.set("cfg_exec_nrs", &exec.map(|(native, _)| native.unwrap_or(u32::MAX)));
    plan.set("cfg_compat_exec_nrs", &exec.map(|(_, compat)| compat.unwrap_or(u32::MAX)));
}

fn insert(set: &mut [u64; syscall_names::MAX_SYSCALLS / 64], nr: Option<u32>) {
    if let Some(word) = nr.and_then(|nr| set.get_mut(nr as usize / 64)) {
        *word |= 1 << (nr.unwrap_or(0) % 64);
    }
}
