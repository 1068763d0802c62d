//! One accept through io_uring, by raw system calls.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use memmap2::MmapOptions;

const OFFSET_SQES: u64 = 0x1000_0000; // IORING_OFF_SQES
const OP_ACCEPT: u8 = 13; // IORING_OP_ACCEPT
const ENTER_GETEVENTS: libc::c_long = 1;

/// Where things are in `struct io_uring_params`, as 32-bit words.
const SQ_TAIL: usize = 11;
const SQ_ARRAY: usize = 16;
const CQ_ENTRIES: usize = 1;
const CQ_CQES: usize = 25;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(super) fn accept(listener: &TcpListener) -> TcpStream {
    let mut params = [0u32; 30];
    // SAFETY: params is as large as struct io_uring_params and writable; the descriptor is nobody else's.
    let ring = unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 1 as libc::c_long, params.as_mut_ptr());
        assert!(fd >= 0, "io_uring_setup: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
    };
    let word = |at: usize| params[at] as usize;
    let ring_bytes = (word(CQ_CQES) + word(CQ_ENTRIES) * 16).max(word(SQ_ARRAY) + 4);
    // SAFETY: both are shared with the kernel, which reads and writes them only in the call below.
    let (mut queues, mut sqes) = unsafe {
        (
            MmapOptions::new().len(ring_bytes).map_mut(&ring).unwrap(),
            MmapOptions::new().offset(OFFSET_SQES).len(64).map_mut(&ring).unwrap(),
        )
    };
    sqes[0] = OP_ACCEPT;
    put(&mut sqes, 4, &listener.as_raw_fd().to_ne_bytes());
    put(&mut queues, word(SQ_ARRAY), &0u32.to_ne_bytes());
    put(&mut queues, word(SQ_TAIL), &1u32.to_ne_bytes());
    fence(Ordering::SeqCst);
    let one: libc::c_long = 1;
    // SAFETY: no signal mask is given.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), one, one, ENTER_GETEVENTS, std::ptr::null::<u8>(), 0)
    };
    assert_eq!(done, 1, "io_uring_enter: {}", std::io::Error::last_os_error());
    fence(Ordering::SeqCst);
    let result = word(CQ_CQES) + 8;
    let fd = i32::from_ne_bytes(queues[result..result + 4].try_into().unwrap());
    assert!(fd >= 0, "accept: {}", std::io::Error::from_raw_os_error(-fd));
    // SAFETY: the accepted descriptor is nobody else's.
    unsafe { TcpStream::from_raw_fd(fd) }
}
