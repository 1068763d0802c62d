use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kerno_bpf::engine::Observer;
use kerno_doctor::report::Diagnosis;
use kerno_model::Window;

use crate::block::{LoopDevice, MIB};
use crate::cgroups::Cgroup;
use crate::sched_account::Span;
use crate::support::{self, Child, compare, init_switches, monotonic_ns, nap_until_switched, pin, set_comm};

fn observer() -> Observer {
    support::observer(&["sched_delay"])
}

/// Samples as `doctor` does.
fn watch(observer: &mut Observer, window: Duration) {
    let end = Instant::now() + window;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        observer.sample().unwrap();
    }
}

fn judge(signals: &Window) -> Vec<Diagnosis> {
    crate::support::diagnose(signals)
}

/// Findings of a rule about a process of ours.
fn about<'a>(findings: &'a [Diagnosis], rule: &str, pids: &[u32]) -> Vec<&'a Diagnosis> {
    let ours = |finding: &&Diagnosis| finding.id == rule && finding.culprit.pid.is_some_and(|pid| pids.contains(&pid));
    findings.iter().filter(ours).collect()
}

fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn realtime(priority: i32) {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are initialised; 0 is the calling thread.
    assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) }, 0, "needs CAP_SYS_NICE");
}

fn spin(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// CPU time of this process.
fn cpu_time_ns() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec.cast_unsigned() * 1_000_000_000 + used.tv_nsec.cast_unsigned()
}

fn context_switches() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    text.lines().find_map(|line| line.strip_prefix("ctxt ")).unwrap().trim().parse().unwrap()
}

#[test]
fn switches_are_those_that_the_kernel_counts() {
    let (outer, init) = (context_switches(), init_switches());
    let mut observer = observer();
    let inner = context_switches();
    let mut child = Child::new(|_| (0..503).for_each(|_| std::thread::sleep(Duration::from_micros(100))));
    child.run();
    let inner = context_switches() - inner;
    let signals = observer.finish().unwrap();
    let outer = context_switches() - outer;
    // Where no switch away from the threads of process 1 is traced, these are missing.
    let hidden = init_switches() - init;
    let sched = signals.sched_delay.unwrap();
    let switches: u64 = sched.cpus.iter().map(|cpu| cpu.switches).sum();
    assert!(switches <= outer && switches + hidden >= inner, "{switches}, of {inner} to {outer}, {hidden} hidden");
    let waits: u64 = sched.cpus.iter().map(|cpu| cpu.delay_ns.count()).sum();
    let by_reason = sched.wakeup_ns.count() + sched.preempted_ns.count();
    compare("sched_delay", "waits in the histograms of CPUs and of reasons", waits, by_reason, "each other");
    assert!(waits <= switches);
    assert_eq!(sched.cpus.len(), cpus());
}

#[test]
fn every_wake_up_of_a_child_is_a_wait() {
    const NAPS: u64 = 503;
    let mut child = Child::new(|link| {
        Span::of(|| nap_until_switched(NAPS)).tell(link);
    });
    let mut observer = observer();
    let hidden = init_switches();
    child.run();
    let sched = observer.finish().unwrap().sched_delay.unwrap();
    let hidden = init_switches() - hidden;
    let span = Span::hear(&mut child);
    assert!(span.switches() >= NAPS);
    let waits = sched.wakeup_ns.count() + sched.preempted_ns.count();
    assert!(waits + hidden >= span.switches(), "{waits} waits, the child alone was switched {} times", span.switches());
    // A new window begins at zero.
    let later = observer.finish().unwrap().sched_delay.unwrap();
    assert!(later.wakeup_ns.count() < sched.wakeup_ns.count());
}

#[test]
fn a_cpu_is_busy_for_as_long_as_a_spinner_ran_on_it() {
    let cpu = cpus() - 1;
    let mut child = Child::new(|link| {
        pin(cpu);
        let before = cpu_time_ns();
        spin(Duration::from_millis(700));
        link.tell(cpu_time_ns() - before);
        link.wait();
    });
    let mut observer = observer();
    child.go();
    watch(&mut observer, Duration::from_millis(700));
    let ran = child.heard() as f64 / 1e9;
    let signals = observer.finish().unwrap();
    child.go();
    assert_eq!(child.wait(), 0);
    let sched = signals.sched_delay.as_ref().unwrap();
    let stat = sched.cpus.iter().find(|stat| stat.cpu as usize == cpu).unwrap();
    // Interrupts that came meanwhile count for themselves, and the kernel counts in hundredths of a second.
    let busy = (stat.busy + stat.interrupts + stat.steal) * signals.span.seconds;
    assert!(busy + 0.05 >= ran * 0.9, "{busy} s of {ran} s: {stat:?}");
    for stat in &sched.cpus {
        let sum = stat.busy + stat.interrupts + stat.io_wait + stat.steal;
        assert!((0.0..=1.000_001).contains(&sum) && stat.nice <= stat.busy, "{stat:?}");
    }
    assert!(sched.runnable.points().len() >= 5 && sched.runnable.max().unwrap() >= 1.0);
    let group = sched.groups.iter().find(|group| group.pids.contains(&child.pid)).expect("most of the CPU time");
    assert!(group.run_ns as f64 / 1e9 >= ran, "{group:?} of {ran} s");
}

/// Both in real time, so that no ordinary task can come between.
#[test]
fn a_process_that_waits_long_is_named_with_who_held_the_cpu() {
    const TURNS: usize = 13;
    let cpu = cpus() - 1;
    let mut hog = Child::new(|link| {
        set_comm("kerno-holder");
        pin(cpu);
        realtime(40);
        for _ in 0..TURNS {
            spin(Duration::from_millis(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        link.tell(0);
        link.wait();
    });
    let mut victim = Child::new(|link| {
        set_comm("kerno-victim");
        pin(cpu);
        realtime(20);
        let end = monotonic_ns() + TURNS as u64 * 30_000_000;
        while monotonic_ns() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        link.tell(0);
        link.wait();
    });
    let mut observer = observer();
    let before = monotonic_ns();
    victim.go();
    hog.go();
    assert_eq!((victim.heard(), hog.heard()), (0, 0));
    let signals = observer.finish().unwrap();
    victim.go();
    hog.go();
    let sched = signals.sched_delay.as_ref().unwrap();
    let waiter = sched.waiters.iter().find(|waiter| waiter.pid == victim.pid).expect("the waiter is named");
    assert_eq!(waiter.comm, "kerno-victim");
    assert!(waiter.slow >= 5 && waiter.max_ns >= 10_000_000 && waiter.slow_ns == 5_000_000, "{waiter:?}");
    assert!(waiter.slow_total_ns >= waiter.max_ns && waiter.slow_total_ns >= waiter.slow * waiter.slow_ns);
    assert!(waiter.first_ns > before);
    let held = waiter.held_by.iter().find(|held| held.pid == hog.pid).expect("its holder is named");
    assert!(held.comm == "kerno-holder" && held.waits >= 5 && held.waits <= waiter.slow, "{waiter:?}");
    assert!(sched.wakeup_ns.count_above(4_000_000) >= waiter.slow);
    assert!(signals.process(hog.pid).is_some() && signals.process(victim.pid).is_some());
}

#[test]
fn a_herd_of_hogs_is_found_as_one() {
    let mut hogs: Vec<_> = (0..8 * cpus())
        .map(|_| {
            Child::new(|_| {
                set_comm("kerno-herd");
                // Until it is killed.
                spin(Duration::from_secs(60));
            })
        })
        .collect();
    let pids: Vec<_> = hogs.iter().map(|hog| hog.pid).collect();
    let mut observer = observer();
    hogs.iter_mut().for_each(Child::go);
    std::thread::sleep(Duration::from_millis(100));
    // A window in which nothing else is under way.
    observer.finish().unwrap();
    watch(&mut observer, Duration::from_millis(1200));
    let signals = observer.finish().unwrap();
    let sched = signals.sched_delay.as_ref().unwrap();
    let group = sched.groups.iter().find(|group| group.comm == "kerno-herd").expect("the herd is named");
    assert!(group.processes as usize >= hogs.len() / 2 && group.wait_ns > group.run_ns, "{group:?}");
    assert!(group.pids.iter().all(|pid| pids.contains(pid)));
    let findings = judge(&signals);
    let [finding] = &about(&findings, "scheduler_contention", &pids)[..] else { panic!("{findings:#?}\n{sched:?}") };
    assert!(finding.title.starts_with("kerno-herd ("), "{}", finding.title);
}

/// The figures of a cgroup's `cpu.stat`: periods, those throttled, time throttled in nanoseconds.
fn cpu_stat(path: &Path) -> [u64; 3] {
    let text = std::fs::read_to_string(path.join("cpu.stat")).unwrap();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse::<u64>().unwrap())
    };
    let time = number("throttled_time").or_else(|| number("throttled_usec").map(|us| us * 1000));
    [number("nr_periods").unwrap(), number("nr_throttled").unwrap(), time.unwrap()]
}

#[test]
fn a_throttled_cgroups_figures_are_those_of_cpu_stat() {
    // A twentieth of a CPU: less than it gets beside any other load.
    let group = Cgroup::with_cpu_quota(1_000, 20_000, "quota");
    let free = Cgroup::with_cpu_quota(1_000_000, 20_000, "roomy");
    let spinner = || {
        Child::new(|link| {
            while cpu_time_ns() < 30_000_000 {
                std::hint::spin_loop();
            }
            link.tell(0);
            link.wait();
        })
    };
    let (mut capped, mut roomy) = (spinner(), spinner());
    group.add(capped.pid);
    free.add(roomy.pid);
    // They may still have been on their way to sleep when they came into their cgroups.
    let mut before = cpu_stat(&group.path);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = cpu_stat(&group.path);
        if now == before {
            break;
        }
        before = now;
    }
    let mut observer = observer();
    capped.go();
    roomy.go();
    capped.heard();
    roomy.heard();
    // Until the last period is over.
    std::thread::sleep(Duration::from_millis(100));
    let after = cpu_stat(&group.path);
    let signals = observer.finish().unwrap();
    assert_eq!(after, cpu_stat(&group.path), "nothing runs in it any more");
    let delta = [0, 1, 2].map(|i| after[i] - before[i]);
    let sched = signals.sched_delay.as_ref().unwrap();
    let named = |group: &Cgroup| {
        let name = group.path.file_name().unwrap().to_str().unwrap();
        sched.throttled.iter().find(|found| found.path.ends_with(name))
    };
    let found = named(&group).expect("the cgroup is named");
    compare("sched_delay", "periods throttled", found.throttled_periods, delta[1], "cpu.stat");
    assert_eq!([found.periods, found.throttled_periods, found.throttled_ns], delta);
    assert!(found.throttled_periods >= 10, "{found:?}");
    assert_eq!((found.quota_us, found.period_us, &found.pids[..]), (1_000, 20_000, &[capped.pid][..]));
    assert!(Path::new(&found.file).starts_with(&group.path) && Path::new(&found.file).exists());
    assert!(found.used_ns > 0);
    assert!(named(&free).is_none(), "never held back");
    let findings = judge(&signals);
    let [finding] = &about(&findings, "cpu_throttling", &[capped.pid])[..] else { panic!("{findings:#?}") };
    assert!(finding.fixes.iter().any(|fix| fix.command == format!("cat {}", found.file)));
    capped.go();
    roomy.go();
}

#[test]
fn the_parent_of_a_vfork_is_blocked_and_no_finding() {
    let mut parent = Child::new(|_| {
        let flags = libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: as fork, with its own memory; the new process only sleeps and ends, at the latest with its parent.
        unsafe {
            if libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::usleep(4_000_000);
                libc::_exit(0);
            }
        }
    });
    let mut observer = observer();
    parent.go();
    watch(&mut observer, Duration::from_millis(2_800));
    let signals = observer.finish().unwrap();
    let sched = signals.sched_delay.as_ref().unwrap();
    let blocked = sched.blocked.iter().find(|task| task.pid == parent.pid).expect("it is asleep uninterruptibly");
    assert!(blocked.seconds >= 2.0 && blocked.at_end && !blocked.kernel_thread, "{blocked:?}");
    assert_eq!(blocked.tid, parent.pid);
    assert!(sched.uninterruptible.max().unwrap() >= 1.0);
    let findings = judge(&signals);
    let named = findings.iter().flat_map(|finding| finding.victims.iter().chain([&finding.culprit]));
    assert!(named.filter(|who| who.pid == Some(parent.pid)).count() == 0, "{findings:#?}");
}

/// linux/fs.h
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// A file system of our own that can be frozen; thawed and unmounted when dropped.
struct Freezable {
    mount: tempfile::TempDir,
    root: Option<File>,
    _device: LoopDevice,
}

impl Freezable {
    fn new(mount: tempfile::TempDir) -> Self {
        let device = LoopDevice::new(16 * MIB);
        let made = Command::new("mkfs.ext4").arg("-q").arg(&device.path).status().expect("needs mkfs.ext4");
        assert!(made.success());
        let text = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let (source, target) = (text(&device.path), text(mount.path()));
        // SAFETY: strings that end with NUL.
        let mounted = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), c"ext4".as_ptr(), 0, std::ptr::null()) };
        assert_eq!(mounted, 0, "mount: {}", std::io::Error::last_os_error());
        let root = Some(File::open(mount.path()).unwrap());
        Self { mount, root, _device: device }
    }

    fn freeze(&self) {
        self.ioctl(FIFREEZE).expect("it can be frozen");
    }

    fn thaw(&self) -> std::io::Result<()> {
        self.ioctl(FITHAW)
    }

    fn ioctl(&self, request: libc::c_ulong) -> std::io::Result<()> {
        // SAFETY: these take a number that is not looked at.
        let result = unsafe { libc::ioctl(self.root.as_ref().unwrap().as_raw_fd(), request as _, 0) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

impl Drop for Freezable {
    fn drop(&mut self) {
        let _ = self.thaw();
        self.root = None;
        let target = std::ffi::CString::new(self.mount.path().to_str().unwrap()).unwrap();
        // SAFETY: a string that ends with NUL.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_writer_to_a_frozen_file_system_is_found_with_what_it_waits_for() {
    let mount = tempfile::tempdir().unwrap();
    let file: PathBuf = mount.path().join("file");
    // Made first, so dropped last: it cannot end before the file system is thawed.
    let mut writer = Child::new(move |_| {
        set_comm("kerno-writer");
        std::fs::write(file, b"x").unwrap();
    });
    let frozen = Freezable::new(mount);
    let mut observer = observer();
    frozen.freeze();
    writer.go();
    watch(&mut observer, Duration::from_millis(3_000));
    let signals = observer.finish().unwrap();
    let sched = signals.sched_delay.as_ref().unwrap();
    let blocked = sched.blocked.iter().find(|task| task.pid == writer.pid).expect("it is asleep uninterruptibly");
    assert!(blocked.seconds >= 2.0 && blocked.at_end && blocked.comm == "kerno-writer", "{blocked:?}");
    assert!(blocked.wait_channel.is_some() || !blocked.stack.is_empty(), "{blocked:?}");
    let findings = judge(&signals);
    let [finding] = &about(&findings, "blocked_tasks", &[writer.pid])[..] else { panic!("{findings:#?}") };
    assert!(finding.title.contains("waiting for a frozen file system"), "{}", finding.title);
    // The sleep goes on into the next window, and ends there.
    watch(&mut observer, Duration::from_millis(300));
    frozen.thaw().unwrap();
    assert_eq!(writer.wait(), 0);
    let later = observer.finish().unwrap().sched_delay.unwrap();
    let blocked = later.blocked.iter().find(|task| task.pid == writer.pid).expect("it was asleep");
    assert!(blocked.seconds >= 3.0 && !blocked.at_end, "{blocked:?}");
}
