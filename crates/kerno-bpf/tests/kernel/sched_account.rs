//! What the kernel itself keeps about a thread's waits, and the events held against it.

use std::io::{Read as _, Write as _};

use kerno_bpf::SchedEvent;
use kerno_bpf::WaitReason;

use crate::support::{Child, Link, allowed_cpus, init_switches, monotonic_ns, pin, slowness, usage};

/// What the kernel's own accounting says of the calling thread, at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub tid: u32,
    pub at_ns: u64,
    /// Switches away because it blocked.
    voluntary: u64,
    /// Switches away although it could have run on.
    involuntary: u64,
    /// Second figure of `/proc/PID/task/TID/schedstat`.
    run_delay_ns: u64,
    /// Switches of all threads of process 1. There are virtual machines whose kernel traces no switch away from these, for no
    /// tracer; who gets the CPU from one of them is then not seen.
    init_switches: u64,
}

impl Account {
    /// Of the calling thread. Switches and time belong together: taken again until no switch came between.
    pub fn take() -> Self {
        let switches = || {
            let usage = usage(libc::RUSAGE_THREAD);
            (usage.ru_nvcsw.cast_unsigned(), usage.ru_nivcsw.cast_unsigned())
        };
        // SAFETY: no arguments.
        let tid = unsafe { libc::gettid() }.cast_unsigned();
        let init_switches = init_switches();
        loop {
            let before = switches();
            let at_ns = monotonic_ns();
            let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
            if switches() == before {
                let run_delay_ns = text.split(' ').nth(1).unwrap().parse().unwrap();
                return Self { tid, at_ns, voluntary: before.0, involuntary: before.1, run_delay_ns, init_switches };
            }
        }
    }

    pub fn tell(self, link: &mut Link) {
        let Self { tid, at_ns, voluntary, involuntary, run_delay_ns, init_switches } = self;
        for value in [tid.into(), at_ns, voluntary, involuntary, run_delay_ns, init_switches] {
            link.tell(value);
        }
    }

    pub fn hear(child: &mut Child) -> Self {
        let mut next = || child.heard();
        Self {
            tid: u32::try_from(next()).unwrap(),
            at_ns: next(),
            voluntary: next(),
            involuntary: next(),
            run_delay_ns: next(),
            init_switches: next(),
        }
    }
}

/// How long it takes here and now, on average, to wake a thread that sleeps on a pipe and be woken by it; on one CPU, or from one to
/// another, whichever takes longer. Nanoseconds.
pub fn round_trip_ns() -> u64 {
    const TRIPS: u64 = 53;
    let measure = |cpus: [usize; 2]| {
        let (mut there, mut back) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let echo = std::thread::spawn(move || {
            pin(cpus[1]);
            let mut byte = [0];
            while there.0.read(&mut byte).unwrap() == 1 {
                back.1.write_all(&byte).unwrap();
            }
        });
        let caller = std::thread::spawn(move || {
            pin(cpus[0]);
            let begun = monotonic_ns();
            for _ in 0..TRIPS {
                there.1.write_all(&[1]).unwrap();
                back.0.read_exact(&mut [0]).unwrap();
            }
            (monotonic_ns() - begun) / TRIPS
        });
        let took = caller.join().unwrap();
        echo.join().unwrap();
        took
    };
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    measure([first, first]).max(measure([first, last]))
}

/// A thread's accounts before and after its work.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: Account,
    pub to: Account,
}

impl Span {
    pub fn of(work: impl FnOnce()) -> Self {
        let from = Account::take();
        work();
        Self { from, to: Account::take() }
    }

    pub fn tell(self, link: &mut Link) {
        self.from.tell(link);
        self.to.tell(link);
    }

    pub fn hear(child: &mut Child) -> Self {
        Self { from: Account::hear(child), to: Account::hear(child) }
    }

    pub fn switches(&self) -> u64 {
        self.to.voluntary - self.from.voluntary + self.to.involuntary - self.from.involuntary
    }

    /// The thread's events of that time.
    pub fn events<'a>(&self, events: &'a [SchedEvent]) -> Vec<&'a SchedEvent> {
        let times = self.from.at_ns..=self.to.at_ns;
        events.iter().filter(|event| event.tid == self.from.tid && times.contains(&event.timestamp_ns)).collect()
    }

    /// Exactly one wait for each switch away from the thread, of the right kind, and together as long as the kernel's own sum;
    /// fewer only by what process 1 may have hidden.
    pub fn assert_accounts_for(&self, events: &[SchedEvent]) {
        let events = self.events(events);
        let count = |reason| events.iter().filter(|event| event.reason == reason).count() as u64;
        let hidden = self.to.init_switches + 1 - self.from.init_switches;
        let expected = [
            (WaitReason::Wakeup, self.to.voluntary - self.from.voluntary),
            (WaitReason::Preempted, self.to.involuntary - self.from.involuntary),
            (WaitReason::New, 0),
        ];
        for (reason, switches) in expected {
            let found = count(reason);
            assert!(found <= switches && switches - found <= hidden, "{found} of {switches} {reason}: {self:?}");
        }
        let sum: u64 = events.iter().map(|event| event.runq_delay_ns).sum();
        let kernel = self.to.run_delay_ns - self.from.run_delay_ns;
        // The kernel reads the run queue's clock a little before each hook, and not again for a switch that a wake-up asked for:
        // that switch happens, for its sum, when the wake-up did. Emulated, the way from the wake-up to the switch takes long.
        let missing = self.switches() - events.len() as u64;
        let each = if slowness() == 1 { 1_000 } else { round_trip_ns() };
        let slack = each * events.len() as u64 + kernel / 50 + 4_000_000 + missing * 20_000_000;
        assert!(sum.abs_diff(kernel) <= slack, "{} waits sum up to {sum} ns, schedstat says {kernel}", events.len());
    }
}
