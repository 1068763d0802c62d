//! What it takes to say that kerno works: figures that the test knows without it. And what it takes to say that it refuses well.

use std::process::Command;

use kerno::engine::{Observer, ObserverOptions};
use kerno::signals;
use rustix::thread::CapabilitySet;
use serde_json::Value;

use crate::command::{Trace, Unprivileged, call, figure, kerno, own_calls, own_pid, run, text};
use crate::support::Child;

/// Prime, so that no multiple of anything else is taken for it.
const CALLS: usize = 1009;

/// Every signal and the doctor can run; a trace by the command tells exactly the calls that were made; so does a window's summary;
/// the doctor reports.
pub fn works() {
    let facts = check(&mut kerno(&["check", "-o", "json"]), 0);
    for signal in facts["signals"].as_array().unwrap() {
        assert_eq!(signal["available"], true, "{signal}");
    }
    assert_eq!(facts["doctor"]["available"], true, "{}", facts["doctor"]);
    traces_exactly(kerno);
    sums_up_exactly();
    reports(kerno);
}

/// What `kerno check` finds, after a look at the text it has for people.
pub fn check(json: &mut Command, status: i32) -> Value {
    let output = run(json);
    assert_eq!(output.status.code(), Some(status), "{}{}", text(&output.stdout), text(&output.stderr));
    let facts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(facts["signals"].as_array().unwrap().len(), signals::ALL.len());
    facts
}

/// `kerno trace` of this process's calls tells each.
pub fn traces_exactly(kerno: impl Fn(&[&str]) -> Command) {
    let pid = own_pid();
    let trace = Trace::start(&mut kerno(&own_calls(&pid, "getpgid,getppid", &["-o", "json"])));
    (0..CALLS).for_each(|_| {
        call(libc::SYS_getppid, 0);
    });
    let (lines, status, stderr) = trace.end(libc::SIGINT);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!((lines.len(), figure(&stderr, "lost")), (CALLS, 0), "{stderr}");
    for line in lines {
        let event: Value = serde_json::from_str(&line).expect(&line);
        assert_eq!(
            (event["pid"].as_u64(), event["syscall"].as_str()),
            (Some(std::process::id().into()), Some("getppid"))
        );
    }
}

/// A call that nobody else in the machine makes, and that touches nothing.
pub fn rare() {
    // SAFETY: no policy is changed: both pointers may be null.
    unsafe { libc::syscall(libc::SYS_get_mempolicy, 0, 0, 0, 0, 0) };
}

/// An observer's window has each call of a child once.
pub fn sums_up_exactly() {
    let mut child = Child::new(|_| (0..CALLS).for_each(|_| rare()));
    let mut observer = observer(&["syscall_latency"]);
    child.run();
    assert_eq!(calls_summed_up(&mut observer), CALLS as u64);
}

pub fn observer(signals: &[&str]) -> Observer {
    let signals = signals.iter().map(|name| (*name).to_owned()).collect();
    Observer::start(ObserverOptions { signals, ..ObserverOptions::default() })
        .unwrap_or_else(|e| panic!("{}", e.reason()))
}

/// How many [`rare`] calls the window had that ends now.
pub fn calls_summed_up(observer: &mut Observer) -> u64 {
    let signals = observer.finish().unwrap();
    let summary = signals.syscall_latency.expect("the signal was asked for");
    summary.by_name("get_mempolicy").map(|stat| stat.calls).sum()
}

/// `kerno doctor` ends in time with a report.
pub fn reports(kerno: impl Fn(&[&str]) -> Command) -> Value {
    let args = ["doctor", "--duration", "2s", "--signals", "syscall,sched", "-o", "json", "--config", "/dev/null"];
    let output = run(&mut kerno(&args));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["observed"], serde_json::json!(["syscall_latency", "sched_delay"]), "{}", report["missing"]);
    let seconds = report["window"]["seconds"].as_f64().unwrap();
    assert!((2.0..30.0).contains(&seconds), "{seconds}");
    report
}

/// `check`, `doctor` and `trace` all end with status 2, without a panic, and say in one line each of these words; the reason.
pub fn refuses(kerno: impl Fn(&[&str]) -> Command, words: &[&str]) {
    let facts = check(&mut kerno(&["check", "-o", "json"]), 2);
    let reason_of = |fact: &Value| {
        assert_eq!(fact["available"], false, "{fact}");
        fact["reason"].as_str().expect("a reason").to_owned()
    };
    let mut said: Vec<String> = facts["signals"].as_array().unwrap().iter().map(reason_of).collect();
    said.push(reason_of(&facts["doctor"]));
    // What to do may be said once for all.
    let remedy = facts["remedy"].as_str().unwrap_or_default();
    said.iter_mut().for_each(|reason| reason.push_str(&format!(" {remedy}")));
    let output = run(&mut kerno(&["check"]));
    assert_eq!(output.status.code(), Some(2));
    said.push(text(&output.stdout).to_owned());
    for args in [
        &["doctor", "--duration", "2s", "--config", "/dev/null", "--quiet"][..],
        &["trace", "syscall", "--duration", "1s"],
        &["trace", "all", "--duration", "1s"],
    ] {
        let output = run(&mut kerno(args));
        let stderr = text(&output.stderr).to_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        said.push(stderr);
    }
    for text in said {
        for word in words {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// Nobody with the capabilities that loading needs on this kernel.
pub fn just_enough() -> CapabilitySet {
    let enough = CapabilitySet::BPF | CapabilitySet::PERFMON;
    if before_5_11() { enough | CapabilitySet::SYS_RESOURCE } else { enough }
}

/// Maps count against the locked-memory limit.
pub fn before_5_11() -> bool {
    kerno::Host::detect().version < kerno::model::KernelVersion::new(5, 11)
}

/// With just these capabilities and no other privilege every signal and the doctor can run.
pub fn works_with(user: &Unprivileged, capabilities: CapabilitySet) {
    let facts = check(&mut user.with(capabilities, &["check", "-o", "json"]), 0);
    for signal in facts["signals"].as_array().unwrap() {
        assert_eq!(signal["available"], true, "{signal}");
    }
    assert_eq!(facts["doctor"]["available"], true, "{}", facts["doctor"]);
    traces_exactly(|args| user.with(capabilities, args));
    reports(|args| user.with(capabilities, args));
}
