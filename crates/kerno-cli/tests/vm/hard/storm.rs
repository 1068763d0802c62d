//! Forks, connects and opens as fast as they go, with every signal's events and every signal's summary on.

use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use kerno::{Batch, CancelToken, Loader, LoaderSet, Options, signals};

use super::findings;
use crate::guest::watched;
use crate::support::{Child, preempts_programs};
use crate::truth::observer;

const LASTS: Duration = Duration::from_secs(60);

/// Does something again and again until the time is over, and tells how often.
fn storm(mut work: impl FnMut()) -> Child {
    Child::new(move |link| {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < LASTS {
            work();
            count += 1;
        }
        link.tell(count);
        link.wait();
    })
}

fn fork_and_exit() {
    // SAFETY: the child ends at once; the parent waits for it.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(0);
        }
        assert!(pid > 0 && libc::waitpid(pid, std::ptr::null_mut(), 0) == pid);
    }
}

#[test]
fn every_event_is_read_or_counted_as_lost() {
    watched(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut opens = storm(|| drop(std::fs::File::open("/etc/passwd").unwrap()));
        let mut storms = [
            storm(fork_and_exit),
            storm(|| {
                // Refused, and accepted by nobody.
                let _ = TcpStream::connect("127.0.0.1:1");
                let _ = TcpStream::connect_timeout(&address, Duration::from_millis(100));
                while listener.set_nonblocking(true).is_ok() && listener.accept().is_ok() {}
            }),
        ];
        let loaders: Vec<Box<dyn Loader>> = signals::ALL
            .iter()
            .map(|signal| (signal.loader)(Options { ring_bytes: 1 << 20, ..Options::default() }))
            .collect();
        let mut set = LoaderSet::new(loaders);
        let mut observer = observer(&[]);
        set.load_all().unwrap();
        let mut stream = set.events(&CancelToken::new().unwrap()).unwrap();
        let begun = Instant::now();
        opens.go();
        storms.iter_mut().for_each(Child::go);
        let (mut opened, opener) = (0u64, opens.pid);
        let mut read = |raw: kerno::RawEvent<'_>| {
            let event = raw.decode().expect("what is read can be decoded");
            opened += u64::from(event.pid() == opener && raw.event_type == kerno::EventType::FileAudit);
            ControlFlow::Continue(())
        };
        while begun.elapsed() < LASTS {
            stream.next_batch(Duration::from_millis(100), &mut read).unwrap();
        }
        let made = opens.heard();
        let did: Vec<u64> = storms.iter_mut().map(Child::heard).collect();
        set.stop();
        while stream.next_batch(Duration::from_secs(1), &mut read).unwrap() != Batch::Ended {}
        for handle in set.handles() {
            let counters = handle.counters();
            assert_eq!(counters.emitted, handle.seen() + counters.lost, "{:?}: {counters:?}", handle.event_type());
            println!("{:?}: {counters:?}", handle.event_type());
        }
        let file = set.handles().iter().find(|handle| handle.event_type() == kerno::EventType::FileAudit).unwrap();
        let counters = file.counters();
        // More tasks than CPUs: where they are preempted in programs, the kernel skips some runs, and tells how many.
        let skipped = |missed_runs: u64| if preempts_programs() { missed_runs } else { 0 };
        let lost = counters.lost + skipped(counters.missed_runs);
        assert!(opened <= made && opened + lost >= made, "{made} opened, {opened} seen, {lost} lost or skipped");
        assert!(made > 100 && did.iter().all(|count| *count > 10), "{made}, {did:?}");
        let signals = observer.finish().unwrap();
        let opens_summed_up: u64 =
            signals.syscall_latency.as_ref().unwrap().by_name("openat").map(|stat| stat.calls).sum();
        let skipped = skipped(signals.cost.loss.get("syscall_latency").map_or(0, |loss| loss.missed_runs));
        assert!(opens_summed_up + skipped >= made, "{opens_summed_up}, {skipped} skipped, of {made}");
        let _ = findings(&signals);
        set.close();
        opens.go();
        storms.iter_mut().for_each(Child::go);
        for child in storms.iter_mut().chain([&mut opens]) {
            assert_eq!(child.wait(), 0);
        }
    });
}
