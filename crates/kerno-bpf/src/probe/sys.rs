//! Calls of bpf(2) for which aya has no interface.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

/// Blocks all signals of this thread while it lives. Signals that arrive meanwhile are delivered afterwards, or to other threads.
///
/// The verifier gives up (EAGAIN) if a signal is pending. The load is then tried again with a log of every step, which takes minutes
/// for a program with loops.
pub(super) struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    pub(super) fn new() -> Self {
        // SAFETY: the sets are plain C data, filled by the calls; the mask is this thread's own.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask that was there before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// How often the kernel skipped the program because it was already running on that CPU; always 0 before Linux 5.12.
pub(super) fn missed_runs(program: BorrowedFd<'_>) -> u64 {
    // SAFETY: both are plain C structs for which all zeroes is a valid value.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    #[allow(clippy::cast_possible_truncation, reason = "a few hundred bytes")]
    {
        attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    }
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    if call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).is_ok() { info.recursion_misses } else { 0 }
}

/// Reads all elements of a hash map in one call, into tables for `room` keys and values. Returns how many there were (Linux 5.6).
pub(super) fn lookup_batch(map: BorrowedFd<'_>, keys: &mut [u8], values: &mut [u8], room: usize) -> io::Result<usize> {
    batch(bpf_cmd::BPF_MAP_LOOKUP_BATCH, map, keys, values, room)
}

/// As [`lookup_batch`], and removes them from the map (Linux 5.6).
pub(super) fn take_batch(map: BorrowedFd<'_>, keys: &mut [u8], values: &mut [u8], room: usize) -> io::Result<usize> {
    batch(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH, map, keys, values, room)
}

fn batch(command: bpf_cmd, map: BorrowedFd<'_>, keys: &mut [u8], values: &mut [u8], room: usize) -> io::Result<usize> {
    let mut position = 0u32;
    // SAFETY: a plain C struct for which all zeroes is a valid value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.out_batch = std::ptr::from_mut(&mut position) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(room).unwrap_or(u32::MAX);
    let result = call(command, &mut attr);
    // SAFETY: the kernel has written how many it copied, even if it returns ENOENT, which says that these were all.
    let found = unsafe { attr.batch.count } as usize;
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(found.min(room)),
    }
}

/// Removes an element if it is there.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_MAP_DELETE_ELEM reads; plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = key.as_ptr() as u64;
    let _ = call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr);
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: attr is a whole bpf_attr as the command wants it; the memory it points to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
