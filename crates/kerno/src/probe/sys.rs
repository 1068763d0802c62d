//! bpf(2) calls that aya has no interface for.

use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

/// How often the kernel skipped the program because it was already running on that CPU; 0 where the kernel does not tell (before
/// Linux 5.12).
pub(super) fn missed_runs(program: BorrowedFd<'_>) -> u64 {
    // SAFETY: both are plain C structs for which all zeroes is a valid value.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    #[allow(clippy::cast_possible_truncation, reason = "a few hundred bytes")]
    {
        attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    }
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: attr is as BPF_OBJ_GET_INFO_BY_FD wants it, and info is writable for info_len bytes during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long,
            std::ptr::from_mut(&mut attr),
            size_of::<bpf_attr>(),
        )
    };
    if result == 0 { info.recursion_misses } else { 0 }
}
