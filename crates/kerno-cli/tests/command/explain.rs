//! `kerno explain`, as a user calls it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Output, Stdio};

use rustix::thread::CapabilitySet;
use serde_json::Value;

use crate::daemon::{Daemon, directory, until};
use crate::support::{Unprivileged, kerno};

fn explained(args: &[&str], input: &[u8]) -> Output {
    let mut command = kerno(&[&["explain"], args].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Vec<Value> {
    serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

const HUNG: &str = "[ 363.250000] INFO: task dd:456 blocked for more than 120 seconds.";

#[test]
fn a_message_is_explained_in_each_format() {
    let output = explained(&[HUNG], b"");
    assert!(output.status.success());
    let plain = text(&output.stdout);
    for part in ["hung_task: ", "uninterruptible sleep", "Why: ", "look    cat /proc/456/stack", "blocked_tasks"] {
        assert!(plain.contains(part), "{part:?}: {plain}");
    }
    assert!(!plain.contains('\u{1b}') && plain.lines().all(|line| line.chars().count() <= 80), "{plain}");

    // As several words, too: a shell takes quotes away.
    let words: Vec<_> = HUNG.split(' ').chain(["--output", "json"]).collect();
    let found = json(&explained(&words, b""));
    assert_eq!((&found[0]["id"], &found[0]["names"]["pid"]), (&"hung_task".into(), &"456".into()));
    assert_eq!(found[0]["steps"][0]["command"], "cat /proc/456/stack");

    let markdown = explained(&[HUNG, "-o", "markdown"], b"");
    assert!(text(&markdown.stdout).contains("- look: `cat /proc/456/stack` "), "{}", text(&markdown.stdout));
}

#[test]
fn what_is_not_known_is_not_guessed_at() {
    for args in [&["nothing like it"][..], &["-"]] {
        let output = explained(args, b"one\ntwo\n");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        assert!(
            said.contains("in the table") && said.contains("explain --list") && said.lines().count() == 1,
            "{said}"
        );
    }
    let output = explained(&["nothing like it", "--output", "json"], b"");
    assert_eq!((output.status.code(), json(&output)), (Some(1), vec![]));
}

#[test]
fn a_whole_log_is_read_from_standard_input() {
    let mut log = b"[ 1.0] all is well\n[ 2.0] I/O error, dev sda, sector 1 op 0x0:(READ)\n\xff\xfe\n".to_vec();
    log.extend(vec![b'x'; 1 << 20]);
    log.extend(b"\n[ 3.0] I/O error, dev sdb, sector 2 op 0x0:(READ)\n");
    log.extend(HUNG.as_bytes());
    let found = json(&explained(&["-", "--output", "json"], &log));
    let seen: Vec<_> =
        found.iter().map(|found| (found["id"].as_str().unwrap(), found["times"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("io_error", 2), ("hung_task", 1)]);
    assert_eq!(found[0]["names"]["device"], "sda", "the first of its kind");
}

#[test]
fn control_sequences_do_not_reach_the_terminal() {
    let output = explained(&["I/O error, dev \u{1b}[31msda\u{202e}, sector 1 op"], b"");
    let plain = text(&output.stdout);
    assert!(
        output.status.success() && plain.contains("\\x1b[31m") && !plain.contains(['\u{1b}', '\u{202e}']),
        "{plain}"
    );
}

#[test]
fn the_table_is_listed() {
    let output = explained(&["--list"], b"");
    let lines = text(&output.stdout);
    assert!(output.status.success() && lines.lines().count() >= 60);
    assert!(lines.lines().any(|line| line.starts_with("nfs_not_responding ")), "{lines}");
    let listed = json(&explained(&["--list", "--output", "json"], b""));
    assert_eq!(listed.len(), lines.lines().count());
    let markdown = explained(&["--list", "--output", "markdown"], b"");
    assert!(text(&markdown.stdout).contains("| `hung_task` | "));
}

#[test]
fn something_has_to_be_asked() {
    for args in [&[][..], &["--last", "0"], &["--last", "--list"], &["x", "--list"], &["x", "--socket", "/run/x"]] {
        assert_eq!(explained(args, b"").status.code(), Some(2), "{args:?}");
    }
}

/// A child that uses memory that is not there: its process id.
fn crash() -> u32 {
    let mut command = Command::new("/bin/true");
    // SAFETY: only the child runs it, and what it does is to end there.
    unsafe {
        command.pre_exec(|| {
            std::ptr::without_provenance_mut::<u8>(8).write_volatile(1);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
    child.id()
}

#[test]
fn the_newest_messages_of_this_machine_are_found() {
    // What a program writes is not the kernel's word.
    let forged = format!("INFO: task forged:{} blocked for more than 120 seconds.", std::process::id());
    OpenOptions::new().write(true).open("/dev/kmsg").unwrap().write_all(format!("<3>{forged}\n").as_bytes()).unwrap();
    let pid = crash().to_string();
    let found = json(&explained(&["--last", "1000", "--output", "json"], b""));
    assert!(found.iter().all(|found| found["message"] != forged));
    let segfault = found.iter().find(|found| found["id"] == "segfault" && found["names"]["pid"] == *pid).unwrap();
    assert_eq!(segfault["names"]["address"], "8");
    let written: jiff::Timestamp = segfault["time"].as_str().unwrap().parse().unwrap();
    let age_seconds = jiff::Timestamp::now().as_second() - written.as_second();
    assert!((-5..=60).contains(&age_seconds), "{segfault:#}");
    let times: Vec<_> = found.iter().map(|found| found["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");

    let one = explained(&["--last"], b"");
    assert!(one.status.success() && text(&one.stdout).contains("Written about 2"), "{}", text(&one.stdout));
}

#[test]
fn who_may_not_read_the_log_is_told_so() {
    let restricted = std::fs::read_to_string("/proc/sys/kernel/dmesg_restrict").unwrap().trim() != "0";
    let output = Unprivileged::new().with(CapabilitySet::empty(), &["explain", "--last"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code() == Some(2), restricted, "{said}");
    assert!(!restricted || said.contains("CAP_SYSLOG") && said.lines().count() == 1, "{said}");
    let output = Unprivileged::new().with(CapabilitySet::SYSLOG, &["explain", "--last"]).output().unwrap();
    assert_ne!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

/// A cgroup with a memory limit.
struct Limited(std::path::PathBuf);

impl Limited {
    fn new(name: &str) -> Self {
        let parent =
            ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].into_iter().find(|path| std::path::Path::new(path).is_dir());
        let group = Self(std::path::Path::new(parent.unwrap()).join(name));
        std::fs::create_dir_all(&group.0).unwrap();
        for limit in ["memory.max", "memory.limit_in_bytes"] {
            let file = group.0.join(limit);
            if file.exists() {
                std::fs::write(file, "20000000").unwrap();
            }
        }
        group
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn the_incident_about_the_same_is_named() {
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    let group = Limited::new(&format!("kerno-explain-{}", std::process::id()));
    let procs = group.0.join("cgroup.procs");
    // tail keeps the last line, which has no end.
    let script = format!("echo $$ > {} && exec tail /dev/zero", procs.display());
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    let pid = child.id().to_string();
    until("the kill becomes no incident", || {
        daemon.incidents().into_iter().find(|incident| incident["rule"] == "oom_kill")
    });
    let socket = directory.path().join("socket");
    let found = json(&explained(&["--last", "50", "--output", "json", "--socket", socket.to_str().unwrap()], b""));
    let killed = found.iter().find(|found| found["id"] == "oom_killed_memcg" && found["names"]["pid"] == *pid).unwrap();
    let named = killed["incidents"].as_array().unwrap();
    assert!(named.iter().any(|incident| incident["title"].as_str().unwrap().contains("tail")), "{killed:#}");
    let lines = explained(&["--last", "50", "--socket", socket.to_str().unwrap()], b"");
    assert!(text(&lines.stdout).contains(" at that time: "), "{}", text(&lines.stdout));
    daemon.stop();
}
