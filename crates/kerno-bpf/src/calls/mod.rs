//! The signals that have hooks on system calls, and on the ends of processes, in common: when several of them are loaded, they share one
//! program a hook (docs/decisions/one-program-a-hook.md).

pub(crate) mod summaries;

use crate::probe::{Group, Object};

/// Whose events can be had together. The numbers are those of calls.bpf.c.
pub(crate) static EVENTS: Group = Group {
    object: Object { name: "calls", data: aya::include_bytes_aligned!("../../objects/calls.bpf.o") },
    signals: &["syscall_latency", "fd_track", "file_audit", "tcp_monitor", "dns_query", "process_life"],
};
