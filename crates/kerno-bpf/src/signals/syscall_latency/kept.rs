//! What the kernel side keeps: mirrors of the structs in syscall_latency_summary.bpf.c, where the fields are explained.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::Comm;
use crate::event::syscall_names::MAX_SYSCALLS;

/// Numbers of both tables, one after the other.
pub(super) const MAX_KEYS: usize = 2 * MAX_SYSCALLS;

pub(super) const KIND_WAITS: u8 = 1;
pub(super) const KIND_ON_FILE: u8 = 2;
pub(super) const KIND_SYNC: u8 = 4;
pub(super) const KIND_OPENS: u8 = 8;

/// `MAX_ERROR_SETS` and `ERROR_SET_WORDS`.
pub(super) const MAX_ERROR_SETS: usize = 128;
pub(super) const ERROR_SET_WORDS: usize = 3;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Calls {
    pub(super) calls: [u64; MAX_KEYS],
    pub(super) slot_of: [u8; MAX_KEYS],
    pub(super) slots_taken: u32,
    pub(super) entered_tid: u32,
    pub(super) entered_regs: u64,
    pub(super) entered_at_changes: u64,
    pub(super) pad: [u32; 10],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ErrorKey {
    pub(super) nr: u32,
    pub(super) error: u16,
    pub(super) compat: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OffenderKey {
    pub(super) pid: u32,
    pub(super) nr: u16,
    pub(super) compat: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OffenderError {
    pub(super) count: u64,
    pub(super) error: u32,
    pub(super) pad: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Exemplar {
    pub(super) timestamp_ns: u64,
    pub(super) latency_ns: u64,
    pub(super) ret: i64,
    pub(super) tid: u32,
    pub(super) pad: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Offender {
    pub(super) slow: u64,
    pub(super) slow_total_ns: u64,
    pub(super) max_ns: u64,
    pub(super) first_ns: u64,
    pub(super) next_exemplar: u64,
    pub(super) window_ns: u64,
    pub(super) errors: [OffenderError; 6],
    pub(super) exemplars: [Exemplar; 4],
    pub(super) comm: Comm,
    pub(super) parent_pid: u32,
    pub(super) pad: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SyncCalls {
    pub(super) calls: u64,
    pub(super) total_ns: u64,
    pub(super) max_ns: u64,
    pub(super) first_ns: u64,
    pub(super) window_ns: u64,
    pub(super) comm: Comm,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn layouts_are_the_kernel_sides() {
        let object = super::super::sampler::OBJECT.data;
        let calls = fields!(Calls: calls slot_of slots_taken entered_tid entered_regs entered_at_changes pad);
        assert_matches(object, "calls", size_of::<Calls>(), calls);
        assert_matches(object, "error_key", size_of::<ErrorKey>(), fields!(ErrorKey: nr error compat));
        assert_matches(object, "offender_key", size_of::<OffenderKey>(), fields!(OffenderKey: pid nr compat));
        assert_matches(object, "offender_error", size_of::<OffenderError>(), fields!(OffenderError: count error pad));
        let exemplar = fields!(Exemplar: timestamp_ns latency_ns ret tid pad);
        assert_matches(object, "exemplar", size_of::<Exemplar>(), exemplar);
        let offender = fields!(Offender: slow slow_total_ns max_ns first_ns next_exemplar window_ns errors exemplars comm parent_pid pad);
        assert_matches(object, "offender", size_of::<Offender>(), offender);
        let syncs = fields!(SyncCalls: calls total_ns max_ns first_ns window_ns comm);
        assert_matches(object, "sync_calls", size_of::<SyncCalls>(), syncs);
    }
}
