use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kerno_bpf::WaitReason;
use kerno_bpf::{Filter, Options, SchedDelayLoader, SchedEvent};

use crate::cgroups::{Cgroup, v2_mount};
use crate::sched_account::{Account, Span, round_trip_ns};
use crate::support::{
    Child, Run, allowed_cpus, init_switches, monotonic_ns, nap_until_switched, observe, options, pid, pin, scaled,
    set_comm, skipped_runs, slowness, usage,
};

/// The last CPU this process may use.
fn one_cpu() -> usize {
    *allowed_cpus().last().unwrap()
}

/// Puts the calling thread above all ordinary ones.
fn realtime(priority: i32) {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are initialised; 0 is the calling thread.
    assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) }, 0, "needs CAP_SYS_NICE");
}

fn spin_until(end_ns: u64) {
    while monotonic_ns() < end_ns {
        std::hint::spin_loop();
    }
}

/// Two processes that wait for each other's byte, so many times each.
fn ping_pong(rounds: usize, prepare: fn()) -> [Child; 2] {
    let (mut to_a, mut to_b) = ([0; 2], [0; 2]);
    // SAFETY: each array has room for two descriptors.
    unsafe {
        assert_eq!(libc::pipe2(to_a.as_mut_ptr(), libc::O_CLOEXEC), 0);
        assert_eq!(libc::pipe2(to_b.as_mut_ptr(), libc::O_CLOEXEC), 0);
    }
    let player = |read: i32, write: i32, serves: bool| {
        Child::new(move |link| {
            prepare();
            let mut byte = [0u8];
            // SAFETY: a buffer of one byte, and descriptors that stay open.
            let send = || unsafe { assert_eq!(libc::write(write, [1u8].as_ptr().cast(), 1), 1) };
            // SAFETY: as above.
            let mut receive = || unsafe { assert_eq!(libc::read(read, byte.as_mut_ptr().cast(), 1), 1) };
            Span::of(|| {
                for _ in 0..rounds {
                    if serves {
                        send();
                        receive();
                    } else {
                        receive();
                        send();
                    }
                }
            })
            .tell(link);
        })
    };
    let players = [player(to_a[0], to_b[1], true), player(to_b[0], to_a[1], false)];
    for fd in to_a.into_iter().chain(to_b) {
        // SAFETY: our own descriptors, closed once.
        unsafe { libc::close(fd) };
    }
    players
}

fn play(players: &mut [Child; 2]) {
    players.iter_mut().for_each(Child::go);
    for player in players {
        assert_eq!(player.wait(), 0);
    }
}

#[test]
fn every_switch_on_a_shared_cpu_is_one_wait_of_the_right_kind_and_length() {
    const ROUNDS: usize = 5003;
    let mut players = ping_pong(ROUNDS, || pin(one_cpu()));
    let filter = Filter { pids: players.iter().map(|child| child.pid).collect(), ..Filter::default() };
    let (before, cpu) = (monotonic_ns(), one_cpu());
    let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(filter)), || play(&mut players));
    let after = monotonic_ns();
    let own_name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    for player in &mut players {
        let span = Span::hear(player);
        assert!(span.switches() + 2 >= ROUNDS as u64, "each round needs the CPU to change hands: {span:?}");
        span.assert_accounts_for(&events);
        for event in span.events(&events) {
            assert_eq!((event.pid, event.tid, event.cpu as usize), (player.pid, player.pid, cpu));
            assert!(event.timestamp_ns - event.runq_delay_ns >= before && event.timestamp_ns <= after);
            assert_eq!(event.comm(), own_name.trim_end());
            assert_ne!(event.prev_tid, event.tid);
        }
    }
}

#[test]
fn every_switch_on_several_cpus_is_one_wait_of_the_right_kind_and_length() {
    let mut players = ping_pong(scaled(5003), || {});
    let filter = Filter { pids: players.iter().map(|child| child.pid).collect(), ..Filter::default() };
    let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(filter)), || play(&mut players));
    let spans: Vec<_> = players.iter_mut().map(Span::hear).collect();
    spans.iter().for_each(|span| span.assert_accounts_for(&events));
    // Process 1 may hide some.
    let waits = spans.iter().map(|span| span.events(&events).len() as u64).sum::<u64>();
    let switches = spans.iter().map(Span::switches).sum::<u64>();
    println!("compared: sched_delay | waits, events | {waits} | {switches} | /proc/PID/status");
}

/// One thread goes to sleep at a pipe again and again; another, on another CPU, writes just then, a little later each time. Many
/// of its wake-ups come after the sleeper gave up running and before it left its CPU: these must not become waits, or the
/// time that it goes on running would count.
#[test]
fn wakeups_of_a_task_that_has_not_left_its_cpu_are_no_waits() {
    const ROUNDS: u64 = 3001;
    let mut child = Child::new(|link| {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors.
        unsafe { assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0) };
        let going = std::sync::Arc::new(AtomicU64::new(0));
        let seen = std::sync::Arc::clone(&going);
        let cpus = allowed_cpus();
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        let writer = std::thread::spawn(move || {
            pin(last);
            realtime(1);
            for round in 1..=ROUNDS {
                while seen.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
                spin_until(monotonic_ns() + round % 64 * 25);
                // SAFETY: one byte, and a descriptor that stays open.
                unsafe { assert_eq!(libc::write(fds[1], [1u8].as_ptr().cast(), 1), 1) };
            }
        });
        pin(first);
        realtime(1);
        let mut reads = Vec::new();
        let span = Span::of(|| {
            for round in 1..=ROUNDS {
                spin_until(monotonic_ns() + 20_000);
                going.store(round, Ordering::Release);
                spin_until(monotonic_ns() + 1_500);
                reads.push(monotonic_ns());
                let mut byte = [0u8];
                // SAFETY: as above.
                unsafe { assert_eq!(libc::read(fds[0], byte.as_mut_ptr().cast(), 1), 1) };
            }
        });
        writer.join().unwrap();
        span.tell(link);
        reads.into_iter().for_each(|read_ns| link.tell(read_ns));
    });
    let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(pid(child.pid))), || child.run());
    let span = Span::hear(&mut child);
    let reads: Vec<u64> = (0..ROUNDS).map(|_| child.heard()).collect();
    for event in span.events(&events).into_iter().filter(|event| event.reason == WaitReason::Wakeup) {
        let read_ns = reads.iter().rfind(|read_ns| **read_ns <= event.timestamp_ns).unwrap_or(&span.from.at_ns);
        assert!(event.timestamp_ns - event.runq_delay_ns >= *read_ns, "began before its own sleep: {event}");
    }
}

#[test]
fn busy_threads_and_a_sleeper_on_one_cpu_wait_as_long_as_schedstat_says() {
    const NAMES: [&str; 3] = ["kerno-busy-a", "kerno-busy-b", "kerno-sleeper"];
    let mut child = Child::new(|link| {
        pin(one_cpu());
        let end = monotonic_ns() + 400_000_000;
        let threads = NAMES.map(|name| {
            std::thread::spawn(move || {
                set_comm(name);
                Span::of(|| match name {
                    "kerno-sleeper" => {
                        while monotonic_ns() < end {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    }
                    _ => spin_until(end),
                })
            })
        });
        for thread in threads {
            thread.join().unwrap().tell(link);
        }
    });
    let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(pid(child.pid))), || child.run());
    let spans = [(); 3].map(|()| Span::hear(&mut child));
    let name_of = |tid| spans.iter().position(|span| span.from.tid == tid).map(|index| NAMES[index]);
    for (span, name) in spans.iter().zip(NAMES) {
        span.assert_accounts_for(&events);
        for event in span.events(&events) {
            assert_eq!((event.pid, &*event.comm()), (child.pid, name));
            if event.prev_pid == child.pid && event.prev_tid != child.pid {
                assert_eq!(Some(&*event.prev_comm()), name_of(event.prev_tid), "{event}");
            }
        }
    }
    // Every thread was created once, and waited for its first turn.
    for span in spans {
        let news = events.iter().filter(|event| event.tid == span.from.tid && event.reason == WaitReason::New).count();
        assert!(news <= 1);
    }
}

/// Real-time threads, so that no other task can come between.
#[test]
fn the_task_that_held_the_cpu_is_named() {
    const SLEEPS: u64 = 53;
    let mut child = Child::new(|link| {
        pin(one_cpu());
        realtime(3);
        let end = monotonic_ns() + 500_000_000;
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let busy_done = std::sync::Arc::clone(&done);
        let busy = std::thread::spawn(move || {
            set_comm("kerno-hog");
            realtime(1);
            let from = Account::take();
            while !busy_done.load(std::sync::atomic::Ordering::Relaxed) && monotonic_ns() < end {
                std::hint::spin_loop();
            }
            from.tid
        });
        // Until the hog has the CPU.
        std::thread::sleep(Duration::from_millis(5));
        let span = Span::of(|| {
            for _ in 0..SLEEPS {
                std::thread::sleep(Duration::from_micros(700));
            }
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        link.tell(busy.join().unwrap().into());
        span.tell(link);
    });
    let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(pid(child.pid))), || child.run());
    let hog = u32::try_from(child.heard()).unwrap();
    let span = Span::hear(&mut child);
    let waits = span.events(&events);
    // A sleep whose timer fires before the thread is asleep takes no switch.
    let switches = span.switches();
    assert!(switches <= SLEEPS && switches > SLEEPS / 2, "{switches}");
    span.assert_accounts_for(&events);
    // The kernel's own stop task is above every priority.
    let behind = |event: &SchedEvent, tid: u32, name: &str| {
        (event.prev_pid, event.prev_tid, &*event.prev_comm()) == (child.pid, tid, name)
            || event.prev_comm().starts_with("migration/")
    };
    for event in waits {
        assert!(behind(event, hog, "kerno-hog"), "{event}");
        assert_eq!(event.reason, WaitReason::Wakeup);
    }
    let own_name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let times = span.from.at_ns..=span.to.at_ns;
    let turns: Vec<_> = events.iter().filter(|event| event.tid == hog && times.contains(&event.timestamp_ns)).collect();
    assert!(turns.len() as u64 + 2 >= switches, "the hog lost the CPU {} times", turns.len());
    for event in turns {
        assert!(behind(event, child.pid, own_name.trim_end()), "{event}");
        assert_eq!(event.reason, WaitReason::Preempted);
    }
}

#[test]
fn new_tasks_wait_once_as_new_also_when_an_id_is_used_again() {
    const TURNS: u32 = 13;
    // The child makes one process after another with the same id; each ends asleep, by a signal.
    let mut child = Child::new(|link| {
        let mut wanted: libc::pid_t = 0;
        for _ in 0..TURNS {
            // SAFETY: clone_args of version 1 (linux/sched.h), all zero but what is set; the new process only pauses.
            let pid = unsafe {
                let mut args: libc::clone_args = std::mem::zeroed();
                args.exit_signal = libc::SIGCHLD as u64;
                if wanted != 0 {
                    args.set_tid = (&raw const wanted) as u64;
                    args.set_tid_size = 1;
                }
                libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
            };
            if pid == 0 {
                loop {
                    // SAFETY: no arguments.
                    unsafe { libc::pause() };
                }
            }
            assert!(pid > 0, "clone3: {}", std::io::Error::last_os_error());
            wanted = pid as libc::pid_t;
            std::thread::sleep(Duration::from_millis(3));
            // SAFETY: our own child.
            unsafe {
                libc::kill(wanted, libc::SIGKILL);
                assert_eq!(libc::waitpid(wanted, std::ptr::null_mut(), 0), wanted);
            }
        }
        // How often they slept, all lives together: more often than they pause when a lock is held as they begin or end.
        let slept = usage(libc::RUSAGE_CHILDREN).ru_nvcsw;
        link.tell(wanted as u64);
        link.tell(slept as u64);
    });
    let run = Run::start(SchedDelayLoader::new(Options::default()));
    let before = init_switches();
    child.run();
    let hidden = usize::try_from(init_switches() - before).unwrap();
    let made = u32::try_from(child.heard()).unwrap();
    let slept = child.heard();
    let events: Vec<SchedEvent> =
        run.finish().iter().map(|raw| *raw.as_raw().decode_as::<SchedEvent>().unwrap()).collect();
    let of_made: Vec<_> = events.iter().filter(|event| event.pid == made).collect();
    let news = of_made.iter().filter(|event| event.reason == WaitReason::New).count();
    assert!(news <= TURNS as usize && TURNS as usize - news <= hidden, "{news} of {TURNS} were seen to be new");
    // Each is born, and woken by the signal that ends it; a wait that began in an earlier life would be as long as that one's.
    let wakeups = of_made.iter().filter(|event| event.reason == WaitReason::Wakeup).count();
    assert!(wakeups as u64 <= slept, "{wakeups} wake-ups of tasks that slept {slept} times");
    for pair in of_made.windows(2) {
        assert!(pair[1].timestamp_ns - pair[1].runq_delay_ns >= pair[0].timestamp_ns, "waits overlap: {pair:?}");
    }
}

/// Sleeps a prime number of times.
fn naps() {
    nap_until_switched(101);
}

/// Of two children that do the same, only the one that the filter is for makes events, and all of its own.
fn assert_filters(filter: Filter, prepare: impl Fn() + Copy, place: impl FnOnce(&Child)) -> Vec<SchedEvent> {
    let mut inside = Child::new(|link| {
        prepare();
        link.tell(0);
        link.wait();
        Span::of(naps).tell(link);
    });
    let mut outside = Child::new(|_| naps());
    let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(filter)), || {
        place(&inside);
        inside.go();
        assert_eq!(inside.heard(), 0);
        inside.go();
        outside.run();
        assert_eq!(inside.wait(), 0);
    });
    let span = Span::hear(&mut inside);
    span.assert_accounts_for(&events);
    assert!(span.switches() >= 101);
    for event in &events {
        assert_eq!(event.pid, inside.pid, "{event}");
    }
    events
}

#[test]
fn filters_by_name() {
    let filter = Filter { comms: vec!["kerno-nap-in".into()], ..Filter::default() };
    let events = assert_filters(filter, || set_comm("kerno-nap-in"), |_| {});
    assert!(events.iter().all(|event| event.comm() == "kerno-nap-in"));
}

#[test]
fn filters_by_user() {
    const UID: u32 = 61_613;
    let filter = Filter { uids: vec![UID], ..Filter::default() };
    // SAFETY: the plain system call; the child has one thread.
    assert_filters(filter, || unsafe { assert_eq!(libc::syscall(libc::SYS_setuid, UID), 0) }, |_| {});
}

#[test]
fn filters_by_cgroup_with_those_made_later_below_it() {
    let outer = Cgroup::new(&v2_mount(), "sched");
    let filter = Filter { cgroups: vec![outer.path.clone()], ..Filter::default() };
    let mut inner = None;
    let events = assert_filters(
        filter,
        || {},
        |child| {
            let group = Cgroup::new(&outer.path, "inner");
            group.add(child.pid);
            inner = Some(group);
        },
    );
    let id = inner.unwrap().id();
    assert!(events.iter().filter(|event| event.reason == WaitReason::Wakeup).all(|event| event.cgroup_id == id));
}

#[test]
fn filters_by_delay() {
    const MIN: Duration = Duration::from_millis(2);
    // A thread with real-time priority has the CPU for 20 ms and leaves it for 20 ms, in turn: another that sleeps shortly has to wait
    // for it, and then does not, whatever the kernel's slices are.
    let mut child = Child::new(|_| {
        pin(one_cpu());
        let spinner = std::thread::spawn(|| {
            let param = libc::sched_param { sched_priority: 1 };
            // SAFETY: the parameters are those of the policy, for the calling thread.
            assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) }, 0);
            for _ in 0..5 {
                spin_until(monotonic_ns() + 20_000_000);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        while !spinner.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        spinner.join().unwrap();
    });
    let filter = Filter { min_latency: Some(MIN), ..pid(child.pid) };
    let mut all: Vec<SchedEvent> = Vec::new();
    let mut not_among_all = 0;
    let long: Vec<SchedEvent> = observe(SchedDelayLoader::new(options(filter)), || {
        all = observe(SchedDelayLoader::new(options(pid(child.pid))), || child.run());
        not_among_all = skipped_runs();
    });
    let not_among_long = skipped_runs();
    // The two measure the same waits a moment apart, which is longer where every instruction is emulated.
    let at_least = |limit: Duration| all.iter().filter(|event| event.runq_delay() >= limit).count();
    let slack = Duration::from_nanos(if slowness() == 1 { 100_000 } else { 100_000 + round_trip_ns() });
    assert!(long.iter().all(|event| event.runq_delay() >= MIN));
    let [not_among_all, not_among_long] = [not_among_all, not_among_long].map(|runs| usize::try_from(runs).unwrap());
    let known = at_least(MIN + slack).saturating_sub(not_among_long)..=at_least(MIN - slack) + not_among_all;
    assert!(
        known.contains(&long.len()),
        "{} of {}, not {known:?} ({not_among_long} and {not_among_all} skipped)",
        long.len(),
        all.len()
    );
    assert!(!long.is_empty() && long.len() < all.len());
}

#[test]
fn this_process_is_left_out_unless_asked_for() {
    for exclude_self in [true, false] {
        let options = Options { exclude_self, ..options(pid(std::process::id())) };
        let events: Vec<SchedEvent> = observe(SchedDelayLoader::new(options), naps);
        assert_eq!(events.is_empty(), exclude_self);
    }
}
