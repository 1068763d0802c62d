use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use serde_json::Value;

use crate::support::{
    Busy, Trace, Unprivileged, alone, call, figure, kerno, own_calls, own_pid, run, signal, text, wait,
};

const CALLS: usize = 1009;
const FAILURES: usize = 101;

#[test]
fn json_has_exactly_the_known_calls() {
    let _alone = alone();
    let pid = own_pid();
    let args = own_calls(&pid, "getpgid,getppid,dup", &["--output", "json"]);
    let trace = Trace::start(&mut kerno(&args));
    let ppid = call(libc::SYS_getppid, 0);
    (1..CALLS).for_each(|_| assert_eq!(call(libc::SYS_getppid, 0), ppid));
    (0..FAILURES).for_each(|_| assert_eq!(call(libc::SYS_dup, -1), -1));
    let (lines, status, stderr) = trace.end(libc::SIGINT);

    assert_eq!(status.code(), Some(0), "{stderr}");
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let (calls, failures): (Vec<_>, Vec<_>) = events.iter().partition(|event| event["syscall"] == "getppid");
    assert_eq!((calls.len(), failures.len()), (CALLS, FAILURES));
    assert!(calls.iter().all(|event| event["ret"] == ppid));
    assert!(failures.iter().all(|event| event["syscall"] == "dup" && event["ret"] == -i64::from(libc::EBADF)));
    for event in &events {
        assert_eq!(event["type"], "syscall_latency");
        assert_eq!(event["pid"], std::process::id());
        assert!(event["timestamp_ns"].is_u64() && event["comm"].is_string());
    }
    assert!(figure(&stderr, "events") as usize > CALLS + FAILURES, "the getpgid calls too: {stderr}");
    assert_eq!(figure(&stderr, "lost"), 0);
    assert!(!stderr.contains(": syscall"), "one signal needs no list: {stderr}");
}

#[test]
fn text_has_columns_and_obeys_no_name() {
    let _alone = alone();
    let pid = own_pid();
    let trace = Trace::start(&mut kerno(&own_calls(&pid, "getpgid,getppid", &[])));
    let before = now_of_day();
    std::thread::spawn(|| {
        rustix::thread::set_name(c"a\x1b[31mb").unwrap();
        call(libc::SYS_getppid, 0);
    })
    .join()
    .unwrap();
    let after = now_of_day();
    let (lines, status, stderr) = trace.end(libc::SIGTERM);

    assert_eq!(status.code(), Some(0), "{stderr}");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let (time, rest) = line.split_at(15);
    let [hour, minute, second] = time.split(':').map(|part| part.parse::<f64>().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{line}")
    };
    assert_eq!(time.find('.'), Some(8), "microseconds: {line}");
    let time = hour * 3600.0 + minute * 60.0 + second;
    // A millisecond of grace between two clocks' readings; at midnight the day begins anew.
    assert!(before > after || (before - 0.001..=after + 0.001).contains(&time), "{before} {time} {after}");
    assert!(rest.starts_with(" syscall "), "{line}");
    assert_eq!(&line[24..31], format!("{pid:>7}"), "{line}");
    assert_eq!(&line[32..49], "a\\x1b[31mb       ", "{line}");
    assert!(line[49..].starts_with("getppid "), "{line}");
}

/// Seconds since midnight UTC.
pub fn now_of_day() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Duration::from_secs(now.as_secs() % 86400).as_secs_f64() + f64::from(now.subsec_nanos()) / 1e9
}

#[test]
fn count_is_exact() {
    let _alone = alone();
    let _busy = Busy::start();
    let pid = own_pid();
    for signals in ["syscall", "all"] {
        let args = ["trace", signals, "--pid", &pid, "--syscall", "getppid", "--count", "13", "-o", "json"];
        let output = run(&mut kerno(&args));
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert_eq!(stdout.lines().count(), 13, "{stderr}");
        assert!(stdout.ends_with('\n'));
        assert_eq!(figure(stderr, "events"), 13);
    }
}

#[test]
fn events_come_in_the_order_of_their_times() {
    let _alone = alone();
    let _busy = Busy::start();
    let output = run(&mut kerno(&["trace", "all", "--pid", &own_pid(), "--duration", "1s", "-o", "json"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut last = 0;
    for line in text(&output.stdout).lines() {
        let time = serde_json::from_str::<Value>(line).unwrap()["timestamp_ns"].as_u64().unwrap();
        // Two CPUs may stamp and commit in different orders, by less than this.
        assert!(time + 1_000_000 > last, "{time} after {last}");
        last = last.max(time);
    }
    assert!(last > 0);
}

#[test]
fn duration_ends_it() {
    let start = Instant::now();
    let output = run(&mut kerno(&["trace", "syscall", "--pid", "1", "--comm", "no such task", "--duration", "700ms"]));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(start.elapsed() >= Duration::from_millis(700));
    assert!(output.stdout.is_empty());
    let seconds =
        stderr.strip_prefix("kerno: 0 events seen, 0 lost, ").and_then(|rest| rest.strip_suffix(" seconds\n"));
    let seconds: f64 = seconds.expect(stderr).parse().unwrap();
    assert!((0.7..5.0).contains(&seconds), "{stderr}");
}

#[test]
fn seen_and_lost_are_all() {
    let _alone = alone();
    let pid = own_pid();
    let args = own_calls(&pid, "getpgid,getppid", &["--ring-size", "4KiB", "-o", "json"]);
    let trace = Trace::start(&mut kerno(&args));
    let calls = 100_003;
    (0..calls).for_each(|_| {
        call(libc::SYS_getppid, 0);
    });
    let (lines, status, stderr) = trace.end(libc::SIGINT);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let lost = figure(&stderr, "lost");
    assert!(lost > 0 && stderr.contains("--ring-size"), "a ring of 51 records is too small: {stderr}");
    // Of the getpgid calls, which came one by one to an empty ring, none was lost.
    assert_eq!(lines.len() as u64 + lost, calls, "{stderr}");
}

#[test]
fn a_closed_pipe_ends_it_silently() {
    let _alone = alone();
    let pid = own_pid();
    let busy = Busy::start();
    let args = own_calls(&pid, "getppid", &[]);
    let mut child = kerno(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("getppid"));
    assert_eq!(wait(&mut child).code(), Some(0));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
    drop(busy);

    // Also when there is nothing to write.
    let mut child = kerno(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).code(), Some(0));

    for args in [&["--help"][..], &["check"], &["completions", "bash"]] {
        let mut child = kerno(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let status = wait(&mut child).code();
        assert_eq!(status, Some(0), "{args:?}");
    }
}

#[test]
fn a_second_interrupt_ends_one_that_hangs_in_a_write() {
    let _alone = alone();
    let pid = own_pid();
    let busy = Busy::start();
    let mut child =
        kerno(&own_calls(&pid, "getppid", &[])).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Nobody reads: it writes until the pipe is full, and hangs.
    let deadline = Instant::now() + Duration::from_secs(30);
    while rustix::io::ioctl_fionread(child.stdout.as_ref().unwrap()).unwrap() < 60_000 {
        assert!(Instant::now() < deadline, "it writes nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
    drop(busy);
    signal(&child, libc::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits for the reader");
    signal(&child, libc::SIGINT);
    assert_eq!(wait(&mut child).code(), Some(128 + libc::SIGINT));
}

#[test]
fn two_capabilities_are_enough() {
    let _alone = alone();
    let _busy = Busy::start();
    let user = Unprivileged::new();
    let both = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let pid = own_pid();
    let output = run(&mut user.with(both, &own_calls(&pid, "getppid", &["--count", "5"])));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(text(&output.stdout).lines().count(), 5);
    assert!(stderr.starts_with("kerno: 5 events seen, 0 lost"), "{stderr}");

    // Every signal there is, not just the one.
    let output = run(&mut user.with(both, &["trace", "all", "--all-or-nothing", "--pid", &pid, "--duration", "300ms"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
