//! Prints this machine's slow or failing system calls for ten seconds, with what the kernel had to drop.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use kerno::{CancelToken, Filter, Loader, Options, SyscallEvent, SyscallLatencyLoader};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = Filter { min_latency: Some(Duration::from_millis(10)), ..Filter::default() };
    let mut loader = SyscallLatencyLoader::new(Options { filter, ..Options::default() });
    let handle = loader.load()?;
    let mut events = loader.events(&CancelToken::new()?)?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        events.next_batch(Duration::from_millis(500), |raw| {
            match raw.decode_as::<SyscallEvent>() {
                Ok(event) => println!(
                    "{:>7} {:<16} {:<16} {:?} -> {}",
                    event.pid,
                    event.comm(),
                    event.syscall_name().unwrap_or("?"),
                    event.latency(),
                    event.ret
                ),
                Err(error) => eprintln!("{error}"),
            }
            ControlFlow::Continue(())
        })?;
    }
    eprintln!("{} seen, {} lost", handle.seen(), handle.counters().lost);
    Ok(())
}
