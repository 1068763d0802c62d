//! Calls of bpf(2) for which aya has no interface.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type};

/// Blocks all signals of this thread while it lives. Signals that arrive meanwhile are delivered afterwards, or to other threads.
///
/// The verifier gives up (EAGAIN) when a signal is pending.
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

/// What a program is to the kernel, for [`load_program`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramToLoad<'a> {
    /// Of which the kernel keeps 15 bytes.
    pub(super) name: &'a str,
    pub(super) license: &'a CStr,
    pub(super) instructions: &'a [bpf_insn],
    /// How it is attached later, and to which of the kernel's types.
    pub(super) attach_type: bpf_attach_type,
    pub(super) attach_btf_id: u32,
    /// The object's types and, in bytes, each record of these: which functions and lines the instructions are of.
    pub(super) btf: BorrowedFd<'a>,
    pub(super) functions: Records<'a>,
    pub(super) lines: Records<'a>,
}

/// A table of records of the same size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) record_bytes: usize,
}

impl Records<'_> {
    /// Place, number and size of the records.
    fn parts(self) -> (u64, u32, u32) {
        let count = self.bytes.len().checked_div(self.record_bytes).unwrap_or(0);
        (self.bytes.as_ptr() as u64, length(count), length(self.record_bytes))
    }
}

/// Lengths of what lies within an object, of at most some hundred kilobytes.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Has a tracing program verified (Linux 5.5). The kernel writes down what the verifier does in `log`, unless that is empty.
pub(super) fn load_program(program: &ProgramToLoad<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: a plain C struct for which all zeroes is a valid value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_PROG_LOAD reads; plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    // The last byte stays zero.
    for (to, from) in load.prog_name.iter_mut().take(15).zip(program.name.bytes()) {
        *to = from.cast_signed();
    }
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    load.expected_attach_type = program.attach_type as u32;
    load.attach_btf_id = program.attach_btf_id;
    load.insns = program.instructions.as_ptr() as u64;
    load.insn_cnt = length(program.instructions.len());
    load.license = program.license.as_ptr() as u64;
    load.prog_btf_fd = program.btf.as_raw_fd().cast_unsigned();
    (load.func_info, load.func_info_cnt, load.func_info_rec_size) = program.functions.parts();
    (load.line_info, load.line_info_cnt, load.line_info_rec_size) = program.lines.parts();
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = length(log.len());
    }
    new_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Gives the kernel an object's types.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_BTF_LOAD reads; plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = length(btf.len());
    new_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Attaches a program to the tracepoint or function that it was loaded for, until the link is closed (Linux 5.5).
pub(super) fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    new_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// A file that hands out what an iterator writes, from the first object on (Linux 5.8).
pub(super) fn open_iterator(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    let link = new_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.iter_create.link_fd = link.as_raw_fd().cast_unsigned();
    new_fd(bpf_cmd::BPF_ITER_CREATE, &mut attr)
}

/// What the kernel knows of a program.
fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: both are plain C structs for which all zeroes is a valid value.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = length(size_of::<bpf_prog_info>());
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The kernel's id of a program.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(program_info(program)?.id)
}

/// How often the kernel skipped the program because it was already running on that CPU; 0 where the kernel does not tell (before
/// Linux 5.12).
pub(super) fn missed_runs(program: BorrowedFd<'_>) -> u64 {
    program_info(program).map_or(0, |info| info.recursion_misses)
}

/// What the kernel counts of a program while somebody [asks it to](enable_run_time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunTime {
    pub(crate) program: u32,
    /// Time in the program since it was loaded, in nanoseconds, as far as it was counted.
    pub(crate) ns: u64,
}

/// How long a program has run.
pub(super) fn run_time(program: BorrowedFd<'_>) -> io::Result<RunTime> {
    program_info(program).map(|info| RunTime { program: info.id, ns: info.run_time_ns })
}

/// Has the kernel count how long each program runs, until this is closed (`BPF_ENABLE_STATS`, Linux 5.8, with `CAP_SYS_ADMIN`). Each run
/// takes some tens of nanoseconds longer meanwhile.
pub(crate) fn enable_run_time() -> io::Result<OwnedFd> {
    // SAFETY: as above; zero is `BPF_STATS_RUN_TIME`.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    new_fd(bpf_cmd::BPF_ENABLE_STATS, &mut attr)
}

/// Fills the only element of an array, as those are in which the kernel keeps an object's variables.
pub(super) fn set_only_element(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    set(map, &0u32.to_ne_bytes(), value)
}

/// Sets an element, or adds it.
pub(super) fn set(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_MAP_UPDATE_ELEM reads; plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = key.as_ptr() as u64;
    element.__bindgen_anon_1.value = value.as_ptr() as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
}

/// Lets nobody change a map from user space any more: its values are constants to the verifier (Linux 5.2).
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    call(bpf_cmd::BPF_MAP_FREEZE, &mut attr)
}

/// Reads all elements of a hash map in one call, into tables for `room` keys and values. Returns how many there were (Linux 5.6).
pub(super) fn lookup_batch(map: BorrowedFd<'_>, keys: &mut [u8], values: &mut [u8], room: usize) -> io::Result<usize> {
    let mut position = 0u32;
    // SAFETY: a plain C struct for which all zeroes is a valid value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.out_batch = std::ptr::from_mut(&mut position) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(room).unwrap_or(u32::MAX);
    let result = call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
    // SAFETY: the kernel has written how many it copied, even if it returns ENOENT, which says that these were all.
    let found = unsafe { attr.batch.count } as usize;
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(found.min(room)),
    }
}

/// Removes the elements with these keys, all of which are there (Linux 5.6).
pub(super) fn delete_batch(map: BorrowedFd<'_>, keys: &mut [u8], count: usize) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    // SAFETY: a plain C struct for which all zeroes is a valid value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(count).unwrap_or(u32::MAX);
    call(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr)
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

/// For the commands that open something: a program, a link. The kernel closes it on exec.
fn new_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = returned(command, attr)?;
    // SAFETY: nobody else knows the descriptor that this command has just opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    returned(command, attr).map(drop)
}

fn returned(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: attr is a whole bpf_attr as the command wants it; the memory it points to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}
