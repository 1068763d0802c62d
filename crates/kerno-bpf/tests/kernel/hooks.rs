//! How many programs an event meets: one a hook, whatever the number of signals.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::process::Command;
use std::time::Duration;

use kerno_bpf::engine::{Observer, ObserverOptions};
use kerno_bpf::{Batch, CancelToken, Filter, Loader, LoaderSet, Options, signals};

use crate::support::{Child, observer, options, pid};

fn loaders<'a>(names: impl IntoIterator<Item = &'a str>, options: &Options) -> Vec<Box<dyn Loader>> {
    names.into_iter().map(|name| (signals::by_name(name).unwrap().loader)(options.clone())).collect()
}

fn all() -> Vec<&'static str> {
    signals::ALL.iter().map(|signal| signal.name).collect()
}

/// How many programs this process has on each tracepoint, as the kernel describes the links that it holds.
fn attached() -> BTreeMap<String, usize> {
    let mut programs = BTreeMap::new();
    for link in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let Ok(text) = fs::read_to_string(link.unwrap().path()) else { continue };
        if !text.contains("\nlink_type:") {
            continue;
        }
        let field = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        assert!(field("prog_id:").is_some(), "{text}");
        // Called raw_tp_name before Linux 5.9. What has neither is on a function, and only one signal has that.
        let hook = field("tp_name:").or_else(|| field("raw_tp_name:"));
        *programs.entry(hook.unwrap_or_else(|| "a function".to_owned())).or_insert(0) += 1;
    }
    programs
}

/// Set where a test is run in a process of its own.
const ALONE: &str = "KERNO_TEST_ALONE";

/// Runs a test of this module in a process that has no links but those that it makes. Started anew rather than forked: another test
/// may be in the middle of reading the kernel's types.
fn in_a_process(test: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", &format!("hooks::{test}")]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn assert_one_a_hook(what: &str, hooks: &[&str]) {
    let attached = attached();
    for hook in hooks {
        assert!(attached.contains_key(*hook), "{what}: nothing on {hook}: {attached:?}");
    }
    assert!(attached.values().all(|programs| *programs == 1), "{what}: {attached:?}");
}

#[test]
fn events_of_all_signals_meet_one_program_a_hook() {
    in_a_process("events_of_all_signals_meet_one_program_a_hook", || {
        let mut set = LoaderSet::new(loaders(all(), &Options::default()));
        set.load_all().unwrap();
        assert_one_a_hook(
            "all",
            &["sys_enter", "sys_exit", "sched_process_exec", "sched_process_exit", "sched_switch", "tcp_probe"],
        );
        set.close();
        assert_eq!(attached(), BTreeMap::new());
        // Whatever the order, and also where not all that share are there.
        for names in [["file", "fd"], ["tcp", "syscall"], ["fd", "syscall"], ["file", "tcp"]] {
            let mut set = LoaderSet::new(loaders(names, &Options::default()));
            assert_eq!(set.load_available(), []);
            assert_one_a_hook(&format!("{names:?}"), if names == ["file", "tcp"] { &[] } else { &["sys_exit"] });
        }
    });
}

#[test]
fn each_signal_alone_has_one_program_a_hook() {
    in_a_process("each_signal_alone_has_one_program_a_hook", || {
        for name in all() {
            let mut set = LoaderSet::new(loaders([name], &Options::default()));
            set.load_all().unwrap();
            assert!(!attached().is_empty());
            assert_one_a_hook(name, &[]);
        }
    });
}

/// A second loader of a signal has filters of its own, and programs of its own.
#[test]
fn two_loaders_of_a_signal_have_a_program_each() {
    in_a_process("two_loaders_of_a_signal_have_a_program_each", || {
        let mut set = LoaderSet::new(loaders(["syscall", "file", "syscall", "file"], &Options::default()));
        set.load_all().unwrap();
        assert_eq!(attached().get("sys_exit"), Some(&2), "{:?}", attached());
    });
}

#[test]
fn summaries_of_all_signals_meet_one_program_a_hook() {
    in_a_process("summaries_of_all_signals_meet_one_program_a_hook", || {
        let observer = Observer::start(ObserverOptions::default()).unwrap();
        assert_one_a_hook(
            "all",
            &["sys_enter", "sys_exit", "sched_process_exec", "sched_process_exit", "sched_switch"],
        );
        drop(observer);
        assert_eq!(attached(), BTreeMap::new());
        for name in all() {
            let _observer = crate::support::observer(&[name]);
            assert_one_a_hook(name, &[]);
            assert_eq!(attached().is_empty(), name == "fd_track", "{name}");
        }
    });
}

/// What a signal is told to leave out the others still tell, and what one has no room for the others have.
#[test]
fn signals_that_share_programs_have_filters_rings_and_counters_of_their_own() {
    const CALLS: u64 = 4001;
    let mut child = Child::new(|_| {
        for _ in 0..CALLS {
            // SAFETY: no arguments.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        for _ in 0..101 {
            drop(fs::File::open("/dev/null").unwrap());
        }
    });
    let small = Options { ring_bytes: 64 << 10, ..options(pid(child.pid)) };
    let failures = Options { filter: Filter { errors_only: true, ..pid(child.pid) }, ..Options::default() };
    let names = ["syscall", "fd", "file"];
    let mut set = LoaderSet::new(
        [small, options(pid(child.pid)), failures]
            .iter()
            .zip(names)
            .flat_map(|(options, name)| loaders([name], options))
            .collect(),
    );
    set.load_all().unwrap();
    assert!(set.handles().iter().all(|handle| handle.hooks().contains(&"tp_btf/sys_exit".to_owned())));
    child.run();
    let [calls, fds, opens] = [0, 1, 2].map(|place| set.handles()[place].counters());
    // A record of a call takes 72 bytes of the ring.
    assert!(calls.emitted >= CALLS + 202 && calls.lost >= calls.emitted - (64 << 10) / 72, "{calls:?}");
    assert!(fds.emitted >= 202 && fds.lost == 0, "{fds:?}");
    // The loader of a child's libraries may look for some in vain, but there is none: it was forked.
    assert_eq!((opens.emitted, opens.lost), (0, 0));
    let mut events = set.events(&CancelToken::new().unwrap()).unwrap();
    set.stop();
    let mut read = 0;
    while events
        .next_batch(Duration::from_secs(1), |_| {
            read += 1;
            ControlFlow::Continue(())
        })
        .unwrap()
        != Batch::Ended
    {}
    let sum = set.counters();
    assert_eq!((read, set.seen()), (sum.emitted - sum.lost, sum.emitted - sum.lost));
}

/// Programs that others need stay, and tell nothing any more of the signal that was stopped.
#[test]
fn a_signal_that_is_stopped_is_silent_and_the_others_go_on() {
    const CALLS: u64 = 1009;
    let calls = || {
        for _ in 0..CALLS {
            // SAFETY: no arguments.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        drop(fs::File::open("/dev/null").unwrap());
    };
    let mut child = Child::new(|link| {
        for _ in 0..3 {
            calls();
            link.tell(1);
            link.wait();
        }
    });
    let filter = Filter { syscalls: Vec::new(), ..pid(child.pid) };
    let mut set = LoaderSet::new(loaders(["syscall", "file"], &options(filter)));
    set.load_all().unwrap();
    let handles = set.handles();
    let emitted = || (handles[0].counters().emitted, handles[1].counters().emitted);
    child.go();
    child.heard();
    let first = emitted();
    assert!(first.0 >= CALLS && first.1 == 1, "{first:?}");
    handles[0].stop();
    let program_ids = handles[1].program_ids();
    assert!(!program_ids.is_empty() && handles[0].program_ids().is_empty());
    child.go();
    child.heard();
    // What was stopped says no more, and can be read to its end.
    let second = emitted();
    assert_eq!((second.0, second.1), (first.0 + handles[0].counters().emitted - second.0, 2));
    let mut events = set.loaders()[0].events(&CancelToken::new().unwrap()).unwrap();
    let mut read = 0;
    while events
        .next_batch(Duration::from_secs(1), |_| {
            read += 1;
            ControlFlow::Continue(())
        })
        .unwrap()
        != Batch::Ended
    {}
    assert_eq!(read, second.0);
    handles[0].close();
    child.go();
    child.heard();
    assert_eq!(emitted().1, 3);
    assert_eq!(handles[1].program_ids(), program_ids);
}

/// Both summaries are told of the same opens, in one program.
#[test]
fn summaries_that_share_a_program_agree_on_opens() {
    let mut child = Child::new(|_| {
        for _ in 0..211 {
            drop(fs::File::open("/dev/null").unwrap());
            fs::File::open("/nowhere/at/all").unwrap_err();
        }
    });
    let mut observer = observer(&["syscall_latency", "file_audit"]);
    child.run();
    let signals = observer.finish().unwrap();
    let process =
        signals.file_audit.as_ref().unwrap().processes.iter().find(|process| process.pid == child.pid).unwrap();
    assert_eq!((process.opens, process.failed), (422, 211));
    let calls = signals.syscall_latency.as_ref().unwrap();
    let openat = calls.syscalls.iter().find(|call| call.name == "openat" && !call.compat).unwrap();
    assert!(openat.calls >= 422 && openat.errors.iter().any(|error| error.errno == libc::ENOENT && error.count >= 211));
}
