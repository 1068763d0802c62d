use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kerno::{Batch, CancelToken, Filter, Loader, Options, SyscallEvent, SyscallLatencyLoader};

use super::table::{Ratio, Row, Spread};
use super::{cpus, getppids};

const RING_BYTES: u32 = 64 << 20;
const RECORD_BYTES: usize = 64 + 8;

pub(super) const ABOUT: &str =
    "Records that wait in the ring, read and decoded on one core, and as many bytes copied by memcpy.";

pub(super) fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let count = RING_BYTES as usize / RECORD_BYTES;
    cpus::pin(cpus::measured())?;
    let mut rates = Vec::new();
    let mut copies = Vec::new();
    for _ in 0..rounds + 1 {
        let filter = Filter { pids: vec![std::process::id()], syscalls: vec!["getppid".into()], ..Filter::default() };
        let options = Options { filter, exclude_self: false, ring_bytes: RING_BYTES, wakeup_bytes: Some(u32::MAX) };
        let mut loader = SyscallLatencyLoader::new(options);
        let handle = loader.load()?;
        let mut events = loader.events(&CancelToken::new()?)?;
        // The ring is filled before the clock starts: the kernel's side is not what is measured.
        getppids(count);
        handle.stop();
        let waiting = count - usize::try_from(handle.counters().lost)?;
        let (mut seen, mut sum) = (0usize, 0u64);
        let start = Instant::now();
        // Not to the stream's end: that waits for a grace period of the kernel's, which is no reading.
        while seen < waiting {
            let batch = events.next_batch(Duration::ZERO, |raw| {
                if let Ok(event) = raw.decode_as::<SyscallEvent>() {
                    sum = sum.wrapping_add(event.latency_ns ^ u64::from(event.tid));
                    seen += 1;
                }
                ControlFlow::Continue(())
            })?;
            ensure!(matches!(batch, Batch::Events(_)), "the stream ended after {seen} of {waiting} events");
        }
        let elapsed = start.elapsed();
        black_box(sum);
        rates.push(seen as f64 / elapsed.as_secs_f64() / 1e6);
        // The same bytes copied from memory to memory, for scale.
        let (from, mut to) = (vec![1u8; seen * RECORD_BYTES], vec![2u8; seen * RECORD_BYTES]);
        let start = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        copies.push(seen as f64 / start.elapsed().as_secs_f64() / 1e6);
    }
    // The first round faults the pages in.
    let (rates, copies) = (rates.split_off(1), copies.split_off(1));
    const RING: &str = "ring to typed SyscallEvent";
    Ok(vec![
        Row::new("72-byte records", RING, "million/s", Spread::of(&rates)?),
        Row::new("72-byte records", "memcpy of as many bytes", "million/s", Spread::of(&copies)?)
            .ratio(Ratio::of(&copies, RING, &rates)?),
    ])
}
