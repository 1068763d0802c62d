use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use kerno::{FilterKind, Options, signals};
use rustix::thread::CapabilitySet;

use crate::support::{Unprivileged, kerno, own_pid, run, text};

/// Runs what must fail with status 2 and one message; the message.
fn refused(command: &mut Command) -> String {
    let output = run(command);
    let stderr = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{command:?}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

#[test]
fn what_is_impossible_is_refused_with_what_is_possible() {
    let aliases: Vec<_> = signals::ALL.iter().map(|signal| signal.alias).collect();
    let unknown = refused(&mut kerno(&["trace", "nonsense"]));
    for alias in aliases {
        assert!(unknown.contains(alias), "{unknown}");
    }
    let many_pids = vec!["1"; 65].join(",");
    let long_name = "x".repeat(16);
    let cases: &[(&[&str], &str)] = &[
        (&["trace"], "SIGNAL"),
        (&["trace", ""], "value is required"),
        (&["trace", "syscall,"], "value is required"),
        (&["trace", "syscall", "--pid", "0"], "not in 1.."),
        (&["trace", "syscall", "--pid", "x"], "invalid digit"),
        (&["trace", "syscall", "--pid", "99999999999999999999"], "too large"),
        (&["trace", "syscall", "--pid", &many_pids], "at most 64"),
        (&["trace", "syscall", "--comm", ""], "1 to 15 bytes"),
        (&["trace", "syscall", "--comm", &long_name], "1 to 15 bytes"),
        (&["trace", "syscall", "--uid", "root"], "invalid digit"),
        (&["trace", "syscall", "--cgroup", "no/such/cgroup"], "no such cgroup"),
        (&["trace", "syscall", "--cgroup", ""], "value is required"),
        (&["trace", "syscall", "--cgroup", "\x1b[31m"], "\\x1b[31m"),
        (&["trace", "syscall", "--min-latency", "10"], "such as 500us"),
        (&["trace", "syscall", "--min-latency=-10ms"], "such as 500us"),
        (&["trace", "syscall", "--syscall", "nonsense"], "no such system call"),
        (&["trace", "all", "--syscall", "nonsense"], "no such system call"),
        (&["trace", "all", "--port", "0"], "not in 1.."),
        (&["trace", "all", "--port", "65536"], "not in 1.."),
        (&["trace", "all", "--device", "sda"], "MAJOR:MINOR"),
        (&["trace", "all", "--device", "/dev/null"], "not a block device"),
        (&["trace", "all", "--device", "/no/such"], "No such file"),
        (&["trace", "syscall", "--ring-size", "5000"], "power of two"),
        (&["trace", "syscall", "--ring-size", "99999999999G"], "power of two"),
        (&["trace", "syscall", "--duration", "0s"], "longer than zero"),
        (&["trace", "syscall", "--duration", "forever"], "such as 500us"),
        (&["trace", "syscall", "--count", "0"], "not in 1.."),
        (&["trace", "syscall", "--output", "xml"], "json"),
        (&["completions", "cmd.exe"], "bash"),
        (&["nonsense"], "unrecognized subcommand"),
        (&[], "Usage"),
    ];
    for (args, why) in cases {
        let stderr = refused(&mut kerno(args));
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
    let not_text = OsStr::from_bytes(b"\xff\xfe");
    for args in [&["trace", "syscall", "--comm"][..], &["trace"], &["trace", "syscall", "--cgroup"]] {
        refused(kerno(args).arg(not_text));
    }
}

#[test]
fn filters_that_do_not_fit_are_refused_or_told() {
    let has = |signal: &signals::SignalInfo, kind| (signal.loader)(Options::default()).filters().contains(&kind);
    for kind in FilterKind::ALL {
        let flag = format!("--{kind}");
        let args = match kind {
            FilterKind::MinLatency => vec![&flag, "1ms"],
            FilterKind::ErrorsOnly => vec![&flag[..]],
            FilterKind::Syscalls => vec![&flag, "getppid"],
            FilterKind::Cgroups | FilterKind::PathPrefix => vec![&flag, "/"],
            FilterKind::Devices => vec![&flag, "7:0"],
            _ => vec![&flag, "1"],
        };
        let (fitting, others): (Vec<&signals::SignalInfo>, Vec<_>) =
            signals::ALL.iter().partition(|signal| has(signal, kind));
        for signal in &others {
            let stderr = refused(kerno(&["trace", signal.alias]).args(&args));
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            let why =
                stderr.strip_prefix(&format!("kerno: {flag} does not fit {}; it fits ", signal.alias)).expect(&stderr);
            let possible: Vec<_> = fitting.iter().map(|signal| signal.alias).collect();
            let expected = if possible.is_empty() { "no signal".to_owned() } else { possible.join(", ") };
            assert_eq!(why.trim_end(), expected);
        }
        if fitting.is_empty() {
            continue;
        }
        let both =
            [&fitting[..1], &others[..]].concat().iter().map(|signal| signal.alias).collect::<Vec<_>>().join(",");
        let output = run(kerno(&["trace", &both, "--duration", "10ms"]).args(&args));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert_eq!(
            stderr.contains(&format!("note: {flag} filters {} only", fitting[0].alias)),
            !others.is_empty(),
            "{stderr}"
        );
    }
}

#[test]
fn names_aliases_and_event_types_all_work() {
    for signal in signals::ALL {
        for name in [signal.name, signal.alias, signal.event_type.name()] {
            let output = run(&mut kerno(&["trace", name, "--duration", "1ms", "--pid", &own_pid()]));
            let stderr = text(&output.stderr);
            assert!(output.status.success() || stderr.contains("--pid does not fit"), "{name}: {stderr}");
        }
    }
}

#[test]
fn lack_of_privileges_names_them_and_what_to_type() {
    let user = Unprivileged::new();
    for signals in ["syscall", "all"] {
        let stderr = refused(&mut user.with(CapabilitySet::empty(), &["trace", signals]));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in ["CAP_BPF and CAP_PERFMON", "sudo setcap cap_bpf,cap_perfmon+ep /", "/kerno trace"] {
            assert!(stderr.contains(part), "{stderr}");
        }
    }
    let stderr = refused(&mut user.with(CapabilitySet::BPF, &["trace", "syscall"]));
    assert!(stderr.contains("CAP_PERFMON") && !stderr.contains("CAP_BPF"), "{stderr}");
    // A mistake in the arguments is told first: sudo would not help.
    let stderr = refused(&mut user.with(CapabilitySet::empty(), &["trace", "syscall", "--syscall", "nonsense"]));
    assert!(stderr.contains("no such system call"), "{stderr}");
    for args in [&["--help"][..], &["--version"], &["trace", "--help"], &["completions", "fish"]] {
        let output = run(&mut user.with(CapabilitySet::empty(), args));
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn root_of_another_user_namespace_hears_that_it_is_none_here() {
    use std::os::unix::process::CommandExt;
    let in_user_namespace = |args: &[&str]| {
        let mut command = kerno(args);
        // SAFETY: one system call, in the child before exec.
        unsafe {
            command.pre_exec(|| Ok(rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER)?));
        }
        command
    };
    let stderr = refused(&mut in_user_namespace(&["trace", "syscall"]));
    for part in ["CAP_BPF and CAP_PERFMON in the initial user namespace", "run it on the host"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let output = run(&mut in_user_namespace(&["check"]));
    assert!(text(&output.stdout).contains("user namespace"), "{}", text(&output.stdout));
}

#[test]
fn a_full_disk_is_an_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&["check"][..], &["completions", "zsh"]] {
        let mut child = kerno(args).stdout(full()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        assert_eq!(crate::support::wait(&mut child).code(), Some(2));
        let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(stderr.contains("cannot write to standard output: No space left"), "{stderr}");
    }
    let mut child = kerno(&["trace", "syscall"]).stdout(full()).stderr(std::process::Stdio::null()).spawn().unwrap();
    assert_eq!(crate::support::wait(&mut child).code(), Some(2));
}

#[test]
fn completions_know_the_signals_and_parse() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&mut kerno(&["completions", shell]));
        let script = text(&output.stdout).to_owned();
        assert!(output.status.success() && script.contains("min-latency"), "{shell}");
        for signal in signals::ALL {
            // The others' generators do not know values of positional arguments.
            let known = matches!(shell, "bash" | "zsh" | "fish");
            assert!(!known || script.contains(signal.alias), "{shell}: {}", signal.alias);
        }
        if shell == "bash" {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("kerno.bash");
            std::fs::write(&file, script).unwrap();
            let output = run(Command::new("bash").arg("-n").arg(&file));
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}
