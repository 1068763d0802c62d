use std::time::Duration;

use kerno_bpf::{Filter, Host, Loader, SyscallEvent, SyscallLatencyLoader};
use kerno_model::KernelVersion;

use crate::cgroups::{Cgroup, id_of, v2_mount};
use crate::support::{Child, Run, compare, monotonic_ns, observe, options, pid, set_comm};

const CALLS: usize = 1009;

fn getppid() {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// A filter for some calls of one process.
fn calls(of: u32, names: &[&str]) -> Filter {
    Filter { syscalls: names.iter().map(|name| (*name).to_owned()).collect(), ..pid(of) }
}

fn load(filter: Filter) -> SyscallLatencyLoader {
    SyscallLatencyLoader::new(options(filter))
}

#[test]
fn known_calls_with_known_results_are_all_seen_with_every_field_right() {
    let mut child = Child::new(|_| (0..CALLS).for_each(|_| getppid()));
    let before = monotonic_ns();
    let events: Vec<SyscallEvent> = observe(load(calls(child.pid, &["getppid"])), || child.run());
    let after = monotonic_ns();
    compare("syscall_latency", "getppid calls, events", events.len(), CALLS, "the caller");
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let cgroup_id = id_of(std::process::id());
    let mut last = before;
    for event in events {
        assert_eq!((event.pid, event.tid), (child.pid, child.pid));
        assert_eq!(event.syscall_name(), Some("getppid"));
        assert_eq!(event.ret, i64::from(std::process::id()));
        assert_eq!(event.errno(), None);
        assert!(!event.compat);
        assert_eq!(event.comm(), comm.trim_end());
        assert_eq!(event.cgroup_id, cgroup_id);
        assert!(event.timestamp_ns - event.latency_ns >= last && event.timestamp_ns <= after);
        last = event.timestamp_ns;
    }
}

/// Stores in start.h's slot of the thread that this call began.
fn put_start(handle: &kerno_bpf::Handle, tid: u32, nr: u32) {
    let ids = handle.program_ids();
    let programs = aya::programs::loaded_programs().flatten().filter(|program| ids.contains(&program.id()));
    let maps = programs.filter_map(|program| program.map_ids().unwrap()).flatten();
    let named = |id: &u32| aya::maps::MapInfo::from_id(*id).unwrap().name_as_str() == Some("starts");
    let data = aya::maps::MapData::from_id(maps.into_iter().find(named).expect("it has starts")).unwrap();
    let mut starts = aya::maps::Array::<_, [u64; 2]>::try_from(aya::maps::Map::Array(data)).unwrap();
    starts.set(tid % starts.len(), [monotonic_ns(), u64::from(tid) | u64::from(nr) << 32], 0).unwrap();
}

/// As when the kernel skipped the exit of one call and the entry of the next.
#[test]
fn a_start_that_an_earlier_call_left_is_no_other_calls() {
    let mut child = Child::new(|link| {
        link.tell(0);
        link.wait();
        getppid();
    });
    child.go();
    assert_eq!(child.heard(), 0);
    let mut loader = load(calls(child.pid, &["getppid"]));
    let mut host = Host::detect();
    host.version = host.version.max(KernelVersion::new(7, 0));
    loader.set_host(host);
    let run = Run::start(loader);
    // The next call to return is the read in which it waits, whose entry the filter refuses.
    put_start(&run.handle, child.pid, u32::try_from(libc::SYS_getppid).unwrap());
    child.run();
    let (events, counters) = run.finish_with_counters();
    let [event] = &events[..] else { panic!("{} events", events.len()) };
    assert_eq!(event.as_raw().decode_as::<SyscallEvent>().unwrap().ret, i64::from(std::process::id()));
    assert_eq!(counters.untracked, 1);
}

#[test]
fn sleeps_last_as_long_as_they_did() {
    let mut child = Child::new(|link| {
        for ms in [2, 3, 5, 7, 11] {
            let start = monotonic_ns();
            std::thread::sleep(Duration::from_millis(ms));
            let took = monotonic_ns() - start;
            link.tell(took);
        }
    });
    let events: Vec<SyscallEvent> = observe(load(calls(child.pid, &["clock_nanosleep"])), || child.run());
    assert_eq!(events.len(), 5);
    for (event, ms) in events.iter().zip([2, 3, 5, 7, 11]) {
        let took = Duration::from_nanos(child.heard());
        assert!(event.latency() >= Duration::from_millis(ms), "{event}");
        assert!(event.latency() <= took, "{event}");
    }
}

#[test]
fn errors_and_addresses_survive() {
    let mut child = Child::new(|link| {
        // SAFETY: a path constant; descriptors that are not open; a fresh anonymous mapping.
        unsafe {
            libc::open(c"/no/such/file".as_ptr(), libc::O_RDONLY);
            libc::close(-1);
            let (access, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            link.tell(libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) as u64);
        }
    });
    let events: Vec<SyscallEvent> = observe(load(calls(child.pid, &["openat", "close", "mmap"])), || child.run());
    let told: Vec<_> = events.iter().map(|event| (event.syscall_name().unwrap(), event.ret, event.errno())).collect();
    let address = child.heard().cast_signed();
    assert!(address > 1 << 32);
    assert!(told.contains(&("openat", -2, Some(libc::ENOENT))));
    assert!(told.contains(&("close", -9, Some(libc::EBADF))));
    assert!(told.contains(&("mmap", address, None)));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_through_the_32_bit_table_are_told_apart() {
    /// i386's number of getppid; `munmap`... of nothing else here.
    const I386_GETPPID: u32 = 64;
    let mut child = Child::new(|_| {
        for _ in 0..7 {
            let mut result = I386_GETPPID;
            // SAFETY: getppid takes no arguments and touches no memory; int 0x80 clobbers r8 to r11 on some kernels.
            unsafe {
                std::arch::asm!("int 0x80", inlateout("eax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            assert_ne!(result, 0);
            getppid();
        }
    });
    let events: Vec<SyscallEvent> = observe(load(calls(child.pid, &["getppid"])), || child.run());
    let compat: Vec<_> = events.iter().filter(|event| event.compat).collect();
    assert_eq!((events.len(), compat.len()), (14, 7));
    for event in compat {
        assert_eq!((event.syscall_nr, event.syscall_name()), (I386_GETPPID, Some("getppid")));
        assert_eq!(event.ret, i64::from(std::process::id()));
    }
    // The number alone would match: 64 is semget in the native table, and 110 (getppid there) is iopl in the other.
    assert!(events.iter().filter(|event| !event.compat).all(|event| event.syscall_nr == 110));
}

/// Forks a process with a chosen id (`clone3` with `set_tid`, Linux 5.5).
fn fork_with_pid(pid: i32) -> i32 {
    let mut args: libc::clone_args = unsafe_zeroed();
    args.exit_signal = libc::SIGCHLD as u64;
    args.set_tid = std::ptr::from_ref(&pid) as u64;
    args.set_tid_size = 1;
    // SAFETY: like fork(): no new stack, nothing shared.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    i32::try_from(result).unwrap()
}

fn unsafe_zeroed() -> libc::clone_args {
    // SAFETY: integers only.
    unsafe { std::mem::zeroed() }
}

#[test]
fn a_thread_that_ends_inside_a_call_leaves_no_wrong_pairing() {
    // exit_group never returns, and the id is used again at once: the new owner's first return, from the clone that made it, must
    // not be taken for the return of that call.
    let mut child = Child::new(|link| {
        set_comm("kerno-die");
        for _ in 0..13 {
            // SAFETY: both children make harmless calls, exit, and are reaped.
            unsafe {
                let first = libc::fork();
                if first == 0 {
                    libc::_exit(0);
                }
                libc::waitpid(first, std::ptr::null_mut(), 0);
                let second = fork_with_pid(first);
                if second == 0 {
                    getppid();
                    libc::_exit(0);
                }
                libc::waitpid(second, std::ptr::null_mut(), 0);
                link.tell(second.cast_unsigned().into());
            }
        }
    });
    let names = ["exit_group", "exit", "getppid", "clone", "clone3"].map(str::to_owned).to_vec();
    let filter = Filter { syscalls: names, comms: vec!["kerno-die".into()], ..Filter::default() };
    let events: Vec<SyscallEvent> = observe(load(filter), || child.run());
    for _ in 0..13 {
        let reused = u32::try_from(child.heard()).unwrap();
        let names: Vec<_> =
            events.iter().filter(|event| event.tid == reused).map(|event| event.syscall_name()).collect();
        assert_eq!(names, [Some("getppid")]);
    }
    let names: Vec<_> =
        events.iter().filter(|event| event.pid == child.pid).map(|event| event.syscall_name()).collect();
    assert_eq!(names, [Some("clone"), Some("clone3")].repeat(13));
}

#[test]
fn a_call_cut_short_by_a_signal_is_neither_result_nor_error() {
    let mut child = Child::new(|_| {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    });
    let run = Run::start(load(calls(child.pid, &["pause"])));
    child.go();
    let in_pause = || std::fs::read_to_string(format!("/proc/{}/wchan", child.pid)).unwrap() == "__do_sys_pause";
    let deadline = monotonic_ns() + 5_000_000_000;
    while !in_pause() && monotonic_ns() < deadline {
        std::thread::yield_now();
    }
    // SAFETY: our own child.
    unsafe { libc::kill(child.pid.cast_signed(), libc::SIGKILL) };
    assert_eq!(child.wait(), libc::SIGKILL);
    let events = run.finish();
    let event = events[0].as_raw().decode_as::<SyscallEvent>().unwrap();
    assert_eq!((events.len(), event.ret, event.errno(), event.interrupted()), (1, -514, None, true));
}

#[test]
fn exec_from_a_second_thread_is_one_call_of_the_process() {
    let mut child = Child::new(|_| {
        let first = format!("/proc/self/task/{}/syscall", std::process::id());
        let sleeping = format!("{} ", libc::SYS_clock_nanosleep);
        std::thread::spawn(move || {
            while !std::fs::read_to_string(&first).unwrap().starts_with(&sleeping) {
                std::thread::yield_now();
            }
            let args = [c"true".as_ptr(), std::ptr::null()];
            // SAFETY: constants that end with NUL and null.
            unsafe { libc::execv(c"/bin/true".as_ptr(), args.as_ptr()) };
        });
        std::thread::sleep(Duration::from_secs(10));
        panic!("exec did not replace this thread");
    });
    let start = monotonic_ns();
    let events: Vec<SyscallEvent> = observe(load(calls(child.pid, &["execve", "clock_nanosleep"])), || child.run());
    // The first thread is killed in its sleep; then the second becomes the first and returns from exec.
    let told: Vec<_> = events.iter().map(|event| (event.syscall_name().unwrap(), event.ret, event.tid)).collect();
    assert_eq!(told, [("clock_nanosleep", -516, child.pid), ("execve", 0, child.pid)]);
    assert!(events[1].latency_ns < monotonic_ns() - start);
    assert_eq!(events[1].comm(), "true");
}

/// A 32-bit program that exits at once: an ELF header, one segment, three instructions.
#[cfg(target_arch = "x86_64")]
fn i386_program() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 1 (exit); xor ebx, ebx; int 0x80
    let code = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    let size = HEADERS + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    file.extend([1, BASE + HEADERS, 52, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend([52, 32, 1, 0, 0, 0].iter().flat_map(|half: &u16| half.to_le_bytes()));
    file.extend([1, 0, BASE, BASE, size, size, 5, 0x1000].iter().flat_map(|word: &u32| word.to_le_bytes()));
    assert_eq!(file.len(), HEADERS as usize);
    file.extend(code);
    file
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_exec_into_the_other_table_is_still_an_exec() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("i386");
    std::fs::write(&program, i386_program()).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::ffi::CString::new(program.to_str().unwrap()).unwrap();
    for (name, nr) in [("execve", libc::SYS_execve), ("execveat", libc::SYS_execveat)] {
        let mut child = Child::new(|_| {
            let args = [path.as_ptr(), std::ptr::null()];
            // SAFETY: a path that ends with NUL and a list that ends with null; only success does not return.
            unsafe {
                if nr == libc::SYS_execve {
                    libc::syscall(nr, path.as_ptr(), args.as_ptr(), 0usize);
                } else {
                    libc::syscall(nr, libc::AT_FDCWD, path.as_ptr(), args.as_ptr(), 0usize, 0);
                }
            }
            panic!("the 32-bit program did not run");
        });
        let events: Vec<SyscallEvent> = observe(load(calls(child.pid, &["execve", "execveat"])), || child.run());
        let told: Vec<_> = events.iter().map(|event| (event.syscall_name(), event.ret, event.compat)).collect();
        // The kernel leaves through the 32-bit table, as execve whichever of the two it was.
        assert_eq!(told, [(Some("execve"), 0, true)], "{name}");
    }
}

#[test]
fn filters_let_through_just_what_they_say() {
    let work = |link: &mut crate::support::Link| {
        set_comm("kerno-filter");
        link.tell(0);
        link.wait();
        for _ in 0..11 {
            // SAFETY: a closed descriptor.
            unsafe { libc::close(-1) };
            getppid();
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let count = |change: &dyn Fn(&mut Filter)| {
        let mut child = Child::new(work);
        child.go();
        child.heard();
        let mut filter = calls(child.pid, &["getppid", "close", "clock_nanosleep"]);
        change(&mut filter);
        observe::<SyscallEvent>(load(filter), || child.run()).len()
    };
    assert_eq!(count(&|_| {}), 33);
    assert_eq!(count(&|f| f.errors_only = true), 11);
    assert_eq!(count(&|f| f.min_latency = Some(Duration::from_millis(2))), 11);
    assert_eq!(count(&|f| f.min_latency = Some(Duration::from_secs(3600))), 0);
    assert_eq!(count(&|f| f.syscalls = vec!["getppid".into()]), 11);
    assert_eq!(count(&|f| f.comms = vec!["kerno-filter".into()]), 33);
    assert_eq!(count(&|f| f.comms = vec!["kerno-filte".into()]), 0);
    assert_eq!(count(&|f| f.comms = vec!["other".into(), "kerno-filter".into()]), 33);
    assert_eq!(count(&|f| f.uids = vec![0]), 33);
    assert_eq!(count(&|f| f.uids = vec![1, 2, 3]), 0);
    assert_eq!(count(&|f| f.pids = vec![1]), 0);
    assert_eq!(count(&|f| f.pids.extend((1..=63).map(|n| n + 5_000_000))), 33);
}

#[test]
fn a_short_name_is_a_name() {
    let mut child = Child::new(|link| {
        set_comm("kn");
        link.tell(0);
        link.wait();
        (0..11).for_each(|_| getppid());
    });
    child.go();
    child.heard();
    let filter = Filter { comms: vec!["kn".into()], ..calls(child.pid, &["getppid"]) };
    assert_eq!(observe::<SyscallEvent>(load(filter), || child.run()).len(), 11);
}

#[test]
fn a_cgroup_filter_includes_groups_made_below_it_later() {
    let (parent, other) = (Cgroup::new(&v2_mount(), "syscall-parent"), Cgroup::new(&v2_mount(), "syscall-other"));
    for (group, expected) in [(&parent, 11), (&other, 0)] {
        let mut child = Child::new(|link| {
            link.wait();
            (0..11).for_each(|_| getppid());
        });
        child.go();
        let filter =
            Filter { cgroups: vec![parent.path.clone()], syscalls: vec!["getppid".into()], ..Filter::default() };
        let run = Run::start(load(filter));
        let middle = Cgroup::new(&group.path, "a");
        let below = Cgroup::new(&middle.path, "b");
        below.add(child.pid);
        child.run();
        let events = run.finish();
        assert_eq!(events.len(), expected, "{}", group.path.display());
        for raw in events {
            assert_eq!(raw.as_raw().decode_as::<SyscallEvent>().unwrap().cgroup_id, below.id());
        }
    }
}

#[test]
fn own_calls_are_left_out_unless_asked_for() {
    for (exclude_self, expected) in [(true, 0), (false, 11)] {
        let mut options = options(calls(std::process::id(), &["getppid"]));
        options.exclude_self = exclude_self;
        // Only here does this process call getppid.
        let events: Vec<SyscallEvent> = observe(SyscallLatencyLoader::new(options), || (0..11).for_each(|_| getppid()));
        assert_eq!(events.len(), expected);
    }
}

beside_all! {
    known_calls_with_known_results_are_all_seen_with_every_field_right
    a_start_that_an_earlier_call_left_is_no_other_calls
    errors_and_addresses_survive
    calls_through_the_32_bit_table_are_told_apart
    a_thread_that_ends_inside_a_call_leaves_no_wrong_pairing
    exec_from_a_second_thread_is_one_call_of_the_process
    filters_let_through_just_what_they_say
    a_cgroup_filter_includes_groups_made_below_it_later
    own_calls_are_left_out_unless_asked_for
}
