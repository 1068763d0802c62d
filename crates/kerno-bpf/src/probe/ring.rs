//! The reader's side of a BPF ring buffer (Linux 5.8, kernel/bpf/ringbuf.c).
//!
//! The kernel maps one page with the consumer's position, which we write; then, read-only, one page with the producer's
//! position and the data twice in a row, so that a record that wraps is still contiguous. A record is an 8-byte header
//! (length and two flag bits, page offset) and the data, rounded up to 8 bytes.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};

const HEADER_BYTES: usize = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// Records read before their room is given back: once per record would bounce the consumer's cache line between CPUs.
const RELEASE_EVERY: usize = 64;

#[derive(Debug)]
pub(crate) struct Ring {
    consumer: MmapRaw,
    producer: MmapRaw,
    page: usize,
    bytes: usize,
    position: usize,
}

impl Ring {
    /// Maps the ring of `bytes` bytes behind `map`.
    pub(crate) fn map(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let fd = map.as_raw_fd();
        let consumer = MmapOptions::new().len(page).map_raw(fd)?;
        let producer = MmapOptions::new().offset(page as u64).len(page + 2 * bytes).map_raw_read_only(fd)?;
        let mut ring = Self { consumer, producer, page, bytes, position: 0 };
        ring.position = ring.consumer_position().load(Ordering::Acquire);
        Ok(ring)
    }

    fn consumer_position(&self) -> &AtomicUsize {
        // SAFETY: the mapping is a page long, page-aligned, writable, lives as long as self, and the kernel accesses this
        // word only with atomic loads.
        unsafe { &*self.consumer.as_ptr().cast::<AtomicUsize>() }
    }

    fn producer_position(&self) -> &AtomicUsize {
        // SAFETY: as above; read-only, and nothing here writes through the reference.
        unsafe { &*self.producer.as_ptr().cast::<AtomicUsize>() }
    }

    fn header(&self, position: usize) -> &AtomicU32 {
        let offset = self.page + (position & (self.bytes - 1));
        // SAFETY: positions are multiples of 8 below `bytes` after masking, so the word is aligned and inside the mapping.
        unsafe { &*self.producer.as_ptr().add(offset).cast::<AtomicU32>() }
    }

    /// Hands up to `limit` records to `f`, oldest first, and gives their room back. Stops early at a record that is still
    /// being written, or when `f` breaks (that record counts as read). A record during which `f` panics is handed out again.
    pub(crate) fn drain(&mut self, limit: usize, mut f: impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut seen = 0;
        let mut flow = ControlFlow::Continue(());
        let mut released = self.position;
        // Acquire pairs with the kernel's release of the position: headers below it are written.
        let mut end = self.producer_position().load(Ordering::Acquire);
        while seen < limit && flow.is_continue() {
            if self.position == end {
                end = self.producer_position().load(Ordering::Acquire);
                if self.position == end {
                    break;
                }
            }
            // Acquire pairs with the xchg that commits the record: its data is written.
            let header = self.header(self.position).load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            let len = (header & !(BUSY | DISCARDED)) as usize;
            if header & DISCARDED == 0 {
                let offset = self.page + (self.position & (self.bytes - 1)) + HEADER_BYTES;
                // SAFETY: the kernel never commits a record longer than the ring, and the data is mapped twice, so
                // offset + len is inside the mapping; the kernel does not write to the record until its room is released.
                let data = unsafe { std::slice::from_raw_parts(self.producer.as_ptr().add(offset), len) };
                flow = f(data);
                seen += 1;
            }
            self.position += (HEADER_BYTES + len).next_multiple_of(8);
            if seen % RELEASE_EVERY == 0 || self.position - released > self.bytes / 8 {
                // Release: our reads of the records come before the kernel may overwrite them.
                self.consumer_position().store(self.position, Ordering::Release);
                released = self.position;
            }
        }
        self.consumer_position().store(self.position, Ordering::Release);
        flow
    }
}
