//! Descriptors that go with a program or a process, tables that several tasks share, and calls through the 32-bit table.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicBool, Ordering};

use kerno_bpf::{FdEvent, FdTrackLoader, Filter};
use kerno_bpf::{FdOp, FdSource};

use crate::fd_track::{TIMES, address, call, decode, open_fds};
use kerno_bpf::Host;
use kerno_model::KernelVersion;

use crate::support::{Child, Link, Run, options, pid, pin, places_of_busy, preempts_programs, unless_skipped};

/// Descriptors there would be after these events, each as often as it was opened more than closed. Not the set: events of threads
/// that run at once need not come in the order of what they did.
fn left<'a>(before: &BTreeSet<i32>, events: impl IntoIterator<Item = &'a FdEvent>) -> BTreeMap<i32, i64> {
    let mut left: BTreeMap<_, _> = before.iter().map(|fd| (*fd, 1)).collect();
    for event in events {
        *left.entry(event.fd).or_default() += if event.op == FdOp::Open { 1 } else { -1 };
    }
    left.retain(|_, count| *count != 0);
    left
}

fn once_each(fds: &BTreeSet<i32>) -> BTreeMap<i32, i64> {
    fds.iter().map(|fd| (*fd, 1)).collect()
}

fn closed_by(events: &[FdEvent], source: FdSource) -> Vec<i32> {
    events.iter().filter(|e| e.source == source && e.op == FdOp::Close).map(|e| e.fd).collect()
}

fn prepare(link: &mut Link) {
    link.close_inherited();
    assert_eq!(call(libc::SYS_prctl, &[libc::PR_SET_NAME.into(), address(c"kerno-fd-ends")]), 0);
    link.tell(0);
    link.wait();
}

/// A child that has told that it is ready, with what it has open.
fn ready(work: impl FnOnce(&mut Link)) -> (Child, BTreeSet<i32>) {
    let mut child = Child::new(|link| {
        prepare(link);
        work(link);
    });
    child.go();
    assert_eq!(child.heard(), 0);
    let before = open_fds(child.pid);
    (child, before)
}

fn kill(child: &mut Child) {
    // SAFETY: our own child, not waited for yet.
    assert_eq!(unsafe { libc::kill(child.pid.cast_signed(), libc::SIGKILL) }, 0);
    assert_eq!(child.wait(), libc::SIGKILL);
}

fn dup_from(low: c_long, command: c_int) -> c_int {
    let fd = call(libc::SYS_fcntl, &[0, command.into(), low]);
    assert!(fd >= 0);
    fd
}

/// Replaces the process by one that waits for ever in a read of its standard input.
fn exec_cat(input: c_int) {
    assert_eq!(call(libc::SYS_dup3, &[input.into(), 0, 0]), 0);
    let arguments = [c"/bin/cat".as_ptr(), std::ptr::null()];
    // SAFETY: both lists end with null.
    unsafe { libc::execve(arguments[0], arguments.as_ptr(), [std::ptr::null()].as_ptr()) };
    panic!("exec failed");
}

/// Waits until the process has this name and reads its standard input.
fn await_reader(child: &Child, name: &str) {
    let reading = format!("{} 0x0 ", libc::SYS_read);
    for _ in 0..2000 {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", child.pid)).unwrap();
        let at = std::fs::read_to_string(format!("/proc/{}/syscall", child.pid)).unwrap_or_default();
        if comm.trim_end() == name && at.starts_with(&reading) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let at = |file| std::fs::read_to_string(format!("/proc/{}/{file}", child.pid));
    panic!("no {name}: {:?} {:?}", at("comm"), at("syscall"));
}

fn close_on_exec(pid: u32) -> BTreeSet<i32> {
    let marked = |fd: &i32| {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        i32::from_str_radix(&flags, 8).unwrap() & libc::O_CLOEXEC != 0
    };
    open_fds(pid).into_iter().filter(marked).collect()
}

/// An end of a pipe that never says anything.
fn silent_pipe() -> c_int {
    let pair = Cell::new([0 as c_int; 2]);
    assert_eq!(call(libc::SYS_pipe2, &[address(&pair), 0]), 0);
    pair.get()[0]
}

#[test]
fn an_exec_closes_what_is_marked_and_a_failed_one_nothing() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(text.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let no_program = std::ffi::CString::new(text.path().to_str().unwrap()).unwrap();
    // Else "text file busy".
    let _path = text.into_temp_path();
    let (mut child, before) = ready(|link| {
        for i in 0..TIMES as c_long {
            dup_from(30 + 17 * i, libc::F_DUPFD_CLOEXEC);
            dup_from(400 + i, libc::F_DUPFD);
        }
        // A mark that outlived its descriptor, and one that was taken back.
        let stale = dup_from(700, libc::F_DUPFD_CLOEXEC);
        call(libc::SYS_close, &[stale.into()]);
        let unmarked = dup_from(800, libc::F_DUPFD_CLOEXEC);
        assert_eq!(call(libc::SYS_fcntl, &[unmarked.into(), libc::F_SETFD.into(), 0]), 0);
        let arguments = [c"x".as_ptr(), std::ptr::null()];
        for program in [c"/no/such/program", c"/", no_program.as_c_str()] {
            for _ in 0..TIMES {
                let none: [*const libc::c_char; 1] = [std::ptr::null()];
                let args = [address(program), address(&arguments), address(&none)];
                assert_eq!(call(libc::SYS_execve, &args), -1);
            }
        }
        let input = silent_pipe();
        link.tell(1);
        link.wait();
        exec_cat(input);
    });
    let run = Run::start(FdTrackLoader::new(options(pid(child.pid))));
    child.go();
    assert_eq!(child.heard(), 1);
    let marked = close_on_exec(child.pid);
    assert_eq!(marked.len(), TIMES + 2, "ours and the two of the link");
    child.go();
    await_reader(&child, "cat");
    let after = open_fds(child.pid);
    kill(&mut child);
    let events = decode(run);
    assert_eq!(closed_by(&events, FdSource::Exec), marked.iter().copied().collect::<Vec<_>>());
    for event in events.iter().filter(|e| e.source == FdSource::Exec) {
        assert_eq!((event.pid, event.tid, event.call()), (child.pid, child.pid, Some("exec")));
        assert_eq!(event.comm(), "kerno-fd-ends", "the program that had them");
    }
    assert_eq!(left(&before, events.iter().filter(|e| e.source != FdSource::Exit)), once_each(&after));
    assert_eq!(closed_by(&events, FdSource::Exit), after.into_iter().collect::<Vec<_>>());
}

/// Takes a format away that was registered for the whole machine.
fn forget_format(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Child::new(|_| {
        let target = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(call(libc::SYS_unshare, &[c_long::from(libc::CLONE_NEWNS)]), 0);
        let formats = c"binfmt_misc";
        assert_eq!(call(libc::SYS_mount, &[address(formats), address(&*target), address(formats), 0, 0]), 0);
        std::fs::write(folder.path().join(name), "-1").unwrap();
    });
    child.run();
}

#[test]
fn an_interpreter_is_given_its_program_open() {
    let folder = tempfile::tempdir().unwrap();
    let (mount, program) = (folder.path().join("formats"), folder.path().join("program"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::write(&program, "KERNOFDS").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = |path: &std::path::Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (target, path) = (text(&mount), text(&program));
    let (mut child, before) = ready(|_| {
        // A user namespace has formats of its own, so nothing is left behind; before Linux 6.7 they are everybody's.
        let own = Host::detect().version >= KernelVersion::new(6, 7);
        let spaces = libc::CLONE_NEWNS | if own { libc::CLONE_NEWUSER } else { 0 };
        assert_eq!(call(libc::SYS_unshare, &[c_long::from(spaces)]), 0);
        for (file, text) in [("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1")].iter().filter(|_| own) {
            std::fs::write(format!("/proc/self/{file}"), text).unwrap();
        }
        let formats = c"binfmt_misc";
        assert_eq!(call(libc::SYS_mount, &[address(formats), address(&*target), address(formats), 0, 0]), 0);
        std::fs::write(mount.join("register"), ":kerno:M::KERNOFDS::/bin/cat:O").unwrap();
        dup_from(60, libc::F_DUPFD_CLOEXEC);
        let null = call(libc::SYS_openat, &[0, address(c"/dev/null"), libc::O_RDWR.into()]);
        assert_eq!(call(libc::SYS_dup3, &[null.into(), 1, 0]), 1);
        assert_eq!(call(libc::SYS_dup3, &[silent_pipe().into(), 0, 0]), 0);
        let arguments = [c"x".as_ptr(), c"-".as_ptr(), std::ptr::null()];
        let none: [*const libc::c_char; 1] = [std::ptr::null()];
        call(libc::SYS_execve, &[address(&*path), address(&arguments), address(&none)]);
        panic!("exec failed");
    });
    let run = Run::start(FdTrackLoader::new(options(pid(child.pid))));
    child.go();
    await_reader(&child, "program");
    let after = open_fds(child.pid);
    if Host::detect().version < KernelVersion::new(6, 7) {
        forget_format("kerno");
    }
    let given: Vec<_> = after
        .iter()
        .copied()
        .filter(|fd| std::fs::read_link(format!("/proc/{}/fd/{fd}", child.pid)).unwrap() == program)
        .collect();
    kill(&mut child);
    let events = decode(run);
    let opened = events.iter().filter(|e| e.source == FdSource::Exec && e.op == FdOp::Open).map(|e| e.fd);
    assert_eq!(opened.collect::<Vec<_>>(), given);
    assert_eq!(given.len(), 1);
    assert_eq!(left(&before, events.iter().filter(|e| e.source != FdSource::Exit)), once_each(&after));
}

/// Opens and closes until told to stop, some for good.
fn churn(stop: &AtomicBool, low: c_long) {
    let mut round = 0;
    while round < 1000 || !stop.load(Ordering::Relaxed) {
        let marked = if round % 2 == 0 { libc::F_DUPFD } else { libc::F_DUPFD_CLOEXEC };
        let fd = call(libc::SYS_fcntl, &[0, marked.into(), low]);
        assert!(fd >= 0);
        if round % 97 != 0 || round > 4000 {
            assert_eq!(call(libc::SYS_close, &[fd.into()]), 0);
        }
        round += 1;
    }
}

/// Some children under one load.
fn ready_group(count: usize, work: fn(&mut Link)) -> (Vec<(Child, BTreeSet<i32>)>, Run<FdTrackLoader>) {
    let children: Vec<_> = (0..count).map(|_| ready(work)).collect();
    let pids = children.iter().map(|(child, _)| child.pid).collect();
    let filter = Filter { pids, ..Filter::default() };
    // Room for all that they do: nobody reads meanwhile.
    let options = kerno_bpf::Options { filter, ring_bytes: 1 << 27, ..kerno_bpf::Options::default() };
    let run = Run::start(FdTrackLoader::new(options));
    (children, run)
}

fn of(events: &[FdEvent], pid: u32) -> Vec<FdEvent> {
    events.iter().filter(|event| event.pid == pid).copied().collect()
}

#[test]
fn an_exec_in_a_busy_thread_group_is_exact() {
    unless_skipped(exec_in_a_busy_thread_group);
}

fn exec_in_a_busy_thread_group() {
    let (mut children, run) = ready_group(if preempts_programs() { 2 } else { 7 }, |_| {
        static STOP: AtomicBool = AtomicBool::new(false);
        for (i, cpu) in (0..).zip(places_of_busy(3)) {
            std::thread::spawn(move || {
                cpu.into_iter().for_each(pin);
                churn(&STOP, 50 + 100 * i);
            });
        }
        std::thread::spawn(|| {
            let input = silent_pipe();
            std::thread::sleep(std::time::Duration::from_millis(20));
            exec_cat(input);
        });
        std::thread::sleep(std::time::Duration::from_secs(60));
    });
    let mut after = Vec::new();
    for (child, _) in &mut children {
        child.go();
        await_reader(child, "cat");
        after.push(open_fds(child.pid));
        kill(child);
    }
    let events = decode(run);
    for ((child, before), after) in children.iter().zip(after) {
        let events = of(&events, child.pid);
        // At least those of the link.
        assert!(closed_by(&events, FdSource::Exec).len() >= 2);
        assert_eq!(left(before, events.iter().filter(|e| e.source != FdSource::Exit)), once_each(&after));
        assert_eq!(closed_by(&events, FdSource::Exit), after.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn threads_share_a_table() {
    unless_skipped(threads_and_their_table);
}

fn threads_and_their_table() {
    let (mut child, before) = ready(|link| {
        let stop = AtomicBool::new(true);
        std::thread::scope(|scope| {
            for (i, cpu) in (0..).zip(places_of_busy(5)) {
                let stop = &stop;
                scope.spawn(move || {
                    cpu.into_iter().for_each(pin);
                    churn(stop, 10 * i);
                });
            }
        });
        link.tell(1);
        link.wait();
    });
    let run = Run::start(FdTrackLoader::new(options(pid(child.pid))));
    child.go();
    assert_eq!(child.heard(), 1);
    let after = open_fds(child.pid);
    child.run();
    let events = decode(run);
    assert_eq!(left(&before, events.iter().filter(|e| e.source != FdSource::Exit)), once_each(&after));
    assert_eq!(closed_by(&events, FdSource::Exit), after.into_iter().collect::<Vec<_>>());
    let callers = events.iter().filter(|event| event.source == FdSource::Syscall).map(|event| event.tid);
    assert_eq!(callers.collect::<BTreeSet<_>>().len(), places_of_busy(5).len());
}

#[test]
fn a_killed_group_of_threads_closes_everything_once() {
    unless_skipped(killed_groups_of_threads);
}

fn killed_groups_of_threads() {
    let (mut children, run) = ready_group(if preempts_programs() { 5 } else { 23 }, |link| {
        static STOP: AtomicBool = AtomicBool::new(false);
        for (i, cpu) in (0..).zip(places_of_busy(5)) {
            std::thread::spawn(move || {
                cpu.into_iter().for_each(pin);
                churn(&STOP, 100 * i);
            });
        }
        link.tell(1);
        std::thread::sleep(std::time::Duration::from_secs(60));
    });
    for (child, _) in &mut children {
        child.go();
        assert_eq!(child.heard(), 1);
        std::thread::sleep(std::time::Duration::from_millis(3));
        kill(child);
    }
    let events = decode(run);
    for (child, before) in &children {
        let events = of(&events, child.pid);
        assert!(closed_by(&events, FdSource::Exit).len() >= before.len());
        assert_eq!(left(before, &events), BTreeMap::new());
    }
}

#[test]
fn a_table_that_processes_share_closes_with_the_last() {
    let (mut child, before) = ready(|link| {
        // The others' ids are not known beforehand: a name of their own.
        let name = std::ffi::CString::new(format!("fd-{}", std::process::id())).unwrap();
        assert_eq!(call(libc::SYS_prctl, &[libc::PR_SET_NAME.into(), address(&*name)]), 0);
        for _ in 0..TIMES {
            let flags = c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
            let other = call(libc::SYS_clone, &[flags, 0, 0, 0, 0]);
            if other == 0 {
                call(libc::SYS_dup, &[0]);
                // SAFETY: ends the copy at once.
                unsafe { libc::_exit(0) };
            }
            // SAFETY: waits for our own child.
            assert_eq!(unsafe { libc::waitpid(other, std::ptr::null_mut(), 0) }, other);
        }
        link.tell(1);
        link.wait();
    });
    let filter = Filter { comms: vec![format!("fd-{}", child.pid)], ..Filter::default() };
    let run = Run::start(FdTrackLoader::new(options(filter)));
    child.go();
    assert_eq!(child.heard(), 1);
    let after = open_fds(child.pid);
    child.run();
    let events = decode(run);
    let dups: Vec<_> = events.iter().filter(|e| e.call() == Some("dup") && e.pid != child.pid).collect();
    assert_eq!(after.len(), before.len() + TIMES);
    assert_eq!(dups.len(), TIMES);
    assert!(dups.iter().all(|dup| after.contains(&dup.fd)));
    let others: BTreeSet<_> = dups.iter().map(|dup| dup.pid).collect();
    assert!(!events.iter().any(|e| e.op == FdOp::Close && others.contains(&e.pid)));
    let closes: BTreeSet<_> =
        events.iter().filter(|e| e.pid == child.pid && e.source == FdSource::Exit).map(|e| e.fd).collect();
    assert_eq!(closes, after);
}

#[test]
fn a_thread_with_a_table_of_its_own_closes_that() {
    let (mut child, before) = ready(|_| {
        let own = std::thread::spawn(|| {
            assert_eq!(call(libc::SYS_unshare, &[libc::CLONE_FILES.into()]), 0);
            call(libc::SYS_dup, &[0])
        });
        assert!(own.join().unwrap() > 0);
    });
    let run = Run::start(FdTrackLoader::new(options(pid(child.pid))));
    child.run();
    let events = decode(run);
    let (main, own): (Vec<&FdEvent>, Vec<_>) = events.iter().partition(|event| event.tid == child.pid);
    // The copy is no event, its end is.
    assert_eq!(own.len(), 1 + before.len() + 1);
    let main_closes: Vec<_> = main.iter().filter(|e| e.source == FdSource::Exit).map(|e| e.fd).collect();
    assert_eq!(main_closes, before.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_table_of_many_words_closes_whole() {
    const MANY: usize = 5003;
    let (mut child, before) = ready(|link| {
        let limit = rustix::process::Rlimit { current: Some(8192), maximum: Some(8192) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        for _ in 0..MANY {
            assert!(call(libc::SYS_dup, &[0]) > 0);
        }
        link.tell(1);
        link.wait();
    });
    let run = Run::start(FdTrackLoader::new(options(pid(child.pid))));
    child.go();
    child.heard();
    let after = open_fds(child.pid);
    assert_eq!(after.len(), before.len() + MANY);
    child.run();
    let events = decode(run);
    assert_eq!(closed_by(&events, FdSource::Exit), after.into_iter().collect::<Vec<_>>());
}

/// A call through the 32-bit table; pointers must be below 4 GiB.
#[cfg(target_arch = "x86_64")]
fn call_32(nr: u32, args: [u32; 3]) -> i32 {
    let ret: u32;
    // SAFETY: rbx, which may not be named, is restored; the kernel clears or keeps r8 to r11.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(args[0]) => _,
            inout("eax") nr => ret,
            in("ecx") args[1], in("edx") args[2],
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    ret.cast_signed()
}

/// Words that 32-bit pointers reach.
#[cfg(target_arch = "x86_64")]
struct LowPage(*mut u32);

#[cfg(target_arch = "x86_64")]
impl LowPage {
    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a new mapping; it goes with the process.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page.cast())
    }

    /// The 32-bit address of a word.
    fn at(&self, word: usize) -> u32 {
        u32::try_from(self.0.wrapping_add(word).addr()).unwrap()
    }

    fn put(&self, word: usize, values: &[u32]) {
        for (i, value) in values.iter().enumerate() {
            // SAFETY: within the page, as the test lays it out.
            unsafe { self.0.add(word + i).write_volatile(*value) };
        }
    }

    fn word(&self, word: usize) -> c_int {
        // SAFETY: as above.
        unsafe { self.0.add(word).read_volatile() }.cast_signed()
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_through_the_32_bit_table() {
    let events = crate::fd_track::expect_exactly(|log| {
        let page = LowPage::new();
        for _ in 0..TIMES {
            let fd = log.opened("dup", call_32(41, [0, 0, 0]));
            log.opened("dup2", call_32(63, [0, 200, 0]));
            log.closed("dup2", 200);
            log.opened("dup2", call_32(63, [0, 200, 0]));
            log.closed("close", fd);
            assert_eq!(call_32(6, [fd.cast_unsigned(), 0, 0]), 0);
            assert_eq!(call_32(6, [999, 0, 0]), -libc::EBADF);
            assert_eq!(call_32(42, [page.at(0), 0, 0]), 0);
            for i in 0..2 {
                log.opened("pipe", page.word(i));
            }
            log.opened("fcntl64", call_32(221, [0, libc::F_DUPFD_CLOEXEC.cast_unsigned(), 300]));
            log.opened("eventfd2", call_32(328, [0, 0, 0]));
            // socketcall: socket, then socketpair whose result goes to word 16.
            let unix = libc::AF_UNIX.cast_unsigned();
            page.put(0, &[unix, libc::SOCK_SEQPACKET.cast_unsigned(), 0, 0]);
            log.opened("socketcall", call_32(102, [1, page.at(0), 0]));
            page.put(3, &[page.at(16)]);
            assert_eq!(call_32(102, [8, page.at(0), 0]), 0);
            let pair = [page.word(16), page.word(17)];
            log.opened_all("socketcall", pair);
            // A 32-bit message header: name, length, vectors, count, control, length, flags.
            for received in ["recvmsg", "socketcall"] {
                crate::fd_track::send(pair[0], &[0, 1, 2]);
                page.put(40, &[0, 0, page.at(48), 1, page.at(64), 256, 0]);
                page.put(48, &[page.at(50), 1]);
                if received == "recvmsg" {
                    assert_eq!(call_32(372, [pair[1].cast_unsigned(), page.at(40), 0]), 1);
                } else {
                    page.put(0, &[pair[1].cast_unsigned(), page.at(40), 0]);
                    assert_eq!(call_32(102, [17, page.at(0), 0]), 1);
                }
                for i in 0..3 {
                    log.opened(received, page.word(67 + i));
                }
            }
            assert_eq!(call_32(436, [200, 300, 0]), 0);
            log.closed("close_range", 200);
            log.closed("close_range", 300);
        }
    });
    assert!(events.iter().all(|event| event.compat == (event.source == FdSource::Syscall)));
}

again! { before_6_10, without "sched_prepare_exec":
    an_exec_closes_what_is_marked_and_a_failed_one_nothing
    an_interpreter_is_given_its_program_open
    an_exec_in_a_busy_thread_group_is_exact
    calls_through_the_32_bit_table
}

beside_all! {
    an_exec_closes_what_is_marked_and_a_failed_one_nothing
    an_exec_in_a_busy_thread_group_is_exact
    a_killed_group_of_threads_closes_everything_once
    a_table_of_many_words_closes_whole
    calls_through_the_32_bit_table
}
