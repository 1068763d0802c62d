//! The summary of system calls against counts of a workload's own.

use std::os::fd::AsRawFd;
use std::time::Duration;

use kerno_bpf::engine::Observer;
use kerno_model::ErrnoCount;
use kerno_model::SyscallSummary;

use crate::support::{self, Child, Link, allowed_cpus, compare, monotonic_ns, pin, pin_task, preempts_programs};

fn observer() -> Observer {
    support::observer(&["syscall_latency"])
}

/// What one window sees of a child's work. The child lives until the window has ended.
fn observe(work: impl FnOnce(&mut Link)) -> (u32, SyscallSummary) {
    let mut child = Child::new(|link| {
        work(link);
        link.tell(0);
        link.wait();
    });
    let mut observer = observer();
    child.go();
    child.heard();
    let signals = observer.finish().unwrap();
    child.go();
    assert_eq!(child.wait(), 0, "the child's work failed");
    (child.pid, signals.syscall_latency.unwrap())
}

/// Calls are counted machine-wide and tests run side by side, so each test makes one of its own, which nothing else makes often.
fn memory_policy() {
    // SAFETY: no policy is changed: both pointers may be null.
    unsafe { libc::syscall(libc::SYS_get_mempolicy, 0, 0, 0, 0, 0) };
}

fn priority_max() {
    // SAFETY: it has no effects.
    unsafe { libc::syscall(libc::SYS_sched_get_priority_max, 0) };
}

fn calls(summary: &SyscallSummary, name: &str) -> u64 {
    summary.by_name(name).filter(|stat| !stat.compat).map(|stat| stat.calls).sum()
}

#[test]
fn every_call_is_counted_once_and_has_its_duration() {
    let (_, summary) = observe(|_| (0..10_007).for_each(|_| memory_policy()));
    let stat = summary.by_name("get_mempolicy").find(|stat| !stat.compat).unwrap();
    assert!(stat.calls >= 10_007, "{}", stat.calls);
    assert!(stat.calls < 10_107, "{}: nobody else makes it", stat.calls);
    compare(
        "syscall_latency",
        "get_mempolicy calls, in the histogram",
        stat.latency.count(),
        stat.calls,
        "the counter",
    );
    assert!(!stat.waits);
    assert_eq!(summary.calls, summary.syscalls.iter().map(|stat| stat.calls).sum::<u64>());
    for stat in &summary.syscalls {
        assert!(stat.latency.count() <= stat.calls + 64, "{}: {} of {}", stat.name, stat.latency.count(), stat.calls);
    }
}

#[test]
fn windows_follow_each_other_without_gap_or_overlap() {
    let mut child = Child::new(|link| {
        for _ in 0..3 {
            (0..3000).for_each(|_| priority_max());
            link.tell(0);
        }
        link.wait();
    });
    let mut observer = observer();
    child.go();
    let mut seen = 0;
    for _ in 0..3 {
        seen += calls(&observer.finish().unwrap().syscall_latency.unwrap(), "sched_get_priority_max");
        child.heard();
    }
    seen += calls(&observer.finish().unwrap().syscall_latency.unwrap(), "sched_get_priority_max");
    assert!((9000..9100).contains(&seen), "{seen}");
    let after = calls(&observer.finish().unwrap().syscall_latency.unwrap(), "sched_get_priority_max");
    assert!(after < 100, "{after}");
    child.go();
    child.wait();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_through_the_32_bit_table_are_told_apart() {
    /// i386's number of get_mempolicy, which is mbind's neighbour there; 275 is splice in the native table.
    const I386_GET_MEMPOLICY: u32 = 275;
    let (_, summary) = observe(|_| {
        for _ in 0..211 {
            // SAFETY: null pointers and no flags: nothing is written; int 0x80 clobbers r8 to r11 on some kernels.
            unsafe {
                std::arch::asm!("push rbx", "xor ebx, ebx", "int 0x80", "pop rbx", inlateout("eax") I386_GET_MEMPOLICY => _,
                    in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
        }
    });
    let compat = summary.syscalls.iter().find(|stat| stat.compat && stat.nr == I386_GET_MEMPOLICY).unwrap();
    assert_eq!((compat.name.as_str(), compat.calls), ("get_mempolicy", 211));
    assert!(calls(&summary, "get_mempolicy") < 100, "those of the native table are others");
}

#[test]
fn errors_are_exact_by_call_and_process_and_normal_life_is_left_out() {
    let (pid, summary) = observe(|_| {
        // SAFETY: bad descriptors and paths; nothing is written.
        unsafe {
            let full = libc::open(c"/dev/full".as_ptr(), libc::O_WRONLY);
            for _ in 0..37 {
                assert_eq!(libc::write(full, c"x".as_ptr().cast(), 1), -1);
            }
            for _ in 0..53 {
                libc::syscall(libc::SYS_mlock2, 0, 4096, -1);
                libc::open(c"/no/such/file".as_ptr(), libc::O_RDONLY);
                libc::close(-1);
            }
            let mut fds = [0; 2];
            libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK);
            for _ in 0..29 {
                libc::read(fds[0], fds.as_mut_ptr().cast(), 1);
            }
        }
    });
    let of_child: Vec<_> = summary.offenders.iter().filter(|offender| offender.pid == pid).collect();
    let errors: Vec<_> = of_child.iter().map(|offender| (offender.name.as_str(), offender.errors.clone())).collect();
    assert!(errors.contains(&("write", vec![ErrnoCount::new(libc::ENOSPC, 37)])), "{errors:?}");
    assert!(errors.contains(&("mlock2", vec![ErrnoCount::new(libc::EINVAL, 53)])), "{errors:?}");
    assert!(
        errors.iter().all(|(name, errors)| !matches!(*name, "openat" | "close" | "read") || errors.is_empty()),
        "{errors:?}"
    );
    let write = of_child.iter().find(|offender| offender.name == "write").unwrap();
    assert!(!write.exemplars.is_empty() && write.exemplars.len() <= 4);
    assert!(write.exemplars.iter().all(|exemplar| exemplar.ret == -28 && exemplar.tid == pid));
    // What is normal life is counted all the same.
    let counted = |name: &str, errno: i32| -> u64 {
        let errors = summary.by_name(name).flat_map(|stat| &stat.errors);
        errors.filter(|error| error.errno == errno).map(|error| error.count).sum()
    };
    assert!(counted("openat", libc::ENOENT) >= 53 && counted("close", libc::EBADF) >= 53);
    assert!(counted("read", libc::EAGAIN) >= 29 && counted("write", libc::ENOSPC) >= 37);
}

#[test]
fn waiting_by_design_is_no_offence() {
    let (pid, summary) = observe(|_| {
        std::thread::sleep(Duration::from_millis(30));
        // SAFETY: descriptors of our own, closed at exit.
        unsafe {
            let mut fds = [0; 2];
            libc::pipe(fds.as_mut_ptr());
            let mut poll = libc::pollfd { fd: fds[0], events: libc::POLLIN, revents: 0 };
            libc::poll(&raw mut poll, 1, 30);
            // A child writes late: the read waits for it, and so does the wait.
            if libc::fork() == 0 {
                std::thread::sleep(Duration::from_millis(50));
                libc::write(fds[1], fds.as_ptr().cast(), 1);
                std::thread::sleep(Duration::from_millis(50));
                libc::_exit(0);
            }
            assert_eq!(libc::read(fds[0], fds.as_mut_ptr().cast(), 1), 1);
            libc::wait(std::ptr::null_mut());
            // Reads of an eventfd, which looks like a file to the kernel, and of a socket, which end by a timer.
            let timer = libc::timerfd_create(libc::CLOCK_MONOTONIC, 0);
            let in_30ms = libc::itimerspec {
                it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: libc::timespec { tv_sec: 0, tv_nsec: 30_000_000 },
            };
            libc::timerfd_settime(timer, 0, &raw const in_30ms, std::ptr::null_mut());
            let mut expired = 0u64;
            assert_eq!(libc::read(timer, (&raw mut expired).cast(), 8), 8);
        }
    });
    let names = ["clock_nanosleep", "nanosleep", "poll", "ppoll", "read", "wait4", "futex"];
    let slow: Vec<_> = summary.offenders.iter().filter(|offender| offender.pid == pid && offender.slow > 0).collect();
    assert!(slow.iter().all(|offender| !names.contains(&offender.name.as_str())), "{slow:?}");
    assert!(summary.by_name("poll").all(|stat| stat.waits) && summary.by_name("openat").all(|stat| !stat.waits));
}

#[test]
fn syncs_are_counted_with_the_time_they_took() {
    let started = monotonic_ns();
    let (pid, summary) = observe(|_| {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        let mut took = 0;
        for i in 0..7u8 {
            std::io::Write::write_all(&mut file, &[i; 4096]).unwrap();
            let before = monotonic_ns();
            // SAFETY: a descriptor of our own.
            let result =
                unsafe { if i % 2 == 0 { libc::fsync(file.as_raw_fd()) } else { libc::fdatasync(file.as_raw_fd()) } };
            assert_eq!(result, 0);
            took += monotonic_ns() - before;
        }
        assert!(took > 0);
    });
    let sync = summary.syncs.iter().find(|sync| sync.pid == pid);
    let sync = sync.unwrap_or_else(|| panic!("{pid}: {:?} {:?}", summary.syncs, summary.by_name("fsync").next()));
    compare("syscall_latency", "fsync calls, summary", sync.calls, 7, "the caller");
    assert!(sync.max_ns <= sync.total_ns && sync.total_ns <= monotonic_ns() - started);
    assert!(sync.first_ns > started && sync.first_ns < monotonic_ns());
}

/// A file of a file system in user space would be slow at will; a lease is too: the open waits until its holder gives way.
#[test]
fn a_slow_open_of_a_file_is_an_offence_with_its_duration() {
    const HELD: Duration = Duration::from_millis(120);
    let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
    // SAFETY: a descriptor of our own; the signal that tells of the break is ignored.
    unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        assert_eq!(libc::fcntl(file.as_file().as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK), 0);
    }
    let holder = file.as_file().as_raw_fd();
    let giver = std::thread::spawn(move || {
        // Gives way when somebody has waited for long enough: F_GETLEASE tells that a break is under way.
        // SAFETY: the descriptor lives until this thread is joined.
        while unsafe { libc::fcntl(holder, libc::F_GETLEASE) } == libc::F_WRLCK {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(HELD);
        // SAFETY: as above.
        unsafe { libc::fcntl(holder, libc::F_SETLEASE, libc::F_UNLCK) };
    });
    let (pid, summary) = observe(|_| {
        // SAFETY: a path that lives.
        assert!(unsafe { libc::open(path.as_ptr(), libc::O_RDWR) } >= 0);
    });
    giver.join().unwrap();
    let offender = summary.offenders.iter().find(|offender| offender.pid == pid && offender.name == "openat").unwrap();
    assert_eq!(offender.slow, 1);
    assert!(offender.max_ns >= 100_000_000 && offender.slow_total_ns >= offender.max_ns, "{offender:?}");
    let exemplar = offender.exemplars.iter().find(|exemplar| exemplar.latency_ns == offender.max_ns).unwrap();
    assert!(exemplar.ret >= 0 && exemplar.tid == pid);
}

/// The kernel gives the stack of a thread that has ended to a new one, whose registers then lie where the other's did; and the thread
/// that calls exec gets the id of the first one, and keeps its stack. Neither may be taken for who it was.
#[test]
fn a_thread_is_not_taken_for_another_that_had_its_stack() {
    const THREADS: usize = 150;
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    /// A call that nobody else makes: it ends when the signal comes.
    fn wait_for(signal: libc::c_int) {
        let set = 1u64 << (signal - 1);
        // SAFETY: a set of signals, no place for what comes, and no timeout.
        unsafe {
            libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, 0, 0, size_of::<u64>());
        }
    }
    let (_, summary) = observe(|_| {
        pin(last);
        // SAFETY: blocks a signal in this thread and those that it makes.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        for _ in 0..THREADS {
            let (tell, hear) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                pin(first);
                // SAFETY: no arguments.
                tell.send(unsafe { libc::gettid() }).unwrap();
                // Begins on the CPU on which the thread before made its last call, and ends on another.
                wait_for(libc::SIGUSR1);
            });
            let tid = hear.recv().unwrap();
            std::thread::sleep(Duration::from_millis(1));
            pin_task(tid, last);
            // SAFETY: a thread that waits for it.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
            thread.join().unwrap();
            // Its stack is free a moment after its end.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let stat = summary.by_name("rt_sigtimedwait").find(|stat| !stat.compat).unwrap();
    // Where programs are preempted, some runs are skipped.
    let fewest = if preempts_programs() { THREADS as u64 * 9 / 10 } else { THREADS as u64 };
    assert!((fewest..=THREADS as u64).contains(&stat.calls), "{} of {THREADS} calls", stat.calls);
    assert_eq!(stat.latency.count(), stat.calls);
    let longest = stat.latency.max().unwrap();
    assert!(longest < 1_000_000_000, "none lasts from an earlier thread's call on: {longest} ns");
}

beside_all! {
    every_call_is_counted_once_and_has_its_duration
    windows_follow_each_other_without_gap_or_overlap
    calls_through_the_32_bit_table_are_told_apart
    errors_are_exact_by_call_and_process_and_normal_life_is_left_out
    syncs_are_counted_with_the_time_they_took
    a_thread_is_not_taken_for_another_that_had_its_stack
    a_slow_open_of_a_file_is_an_offence_with_its_duration
}
