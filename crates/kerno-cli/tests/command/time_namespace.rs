//! The command in a time namespace, where the clocks that a process reads are others than the kernel's.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Busy, Trace, alone, call, kerno_ahead, own_calls, own_pid, run, text};
use crate::trace::now_of_day;

const AHEAD: u32 = 5000;

#[test]
fn a_trace_shows_the_time_of_day() {
    let _alone = alone();
    let pid = own_pid();
    let trace = Trace::start(&mut kerno_ahead(AHEAD, &own_calls(&pid, "getpgid,getppid", &[])));
    let before = now_of_day();
    call(libc::SYS_getppid, 0);
    let after = now_of_day();
    let (lines, status, stderr) = trace.end(libc::SIGINT);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let time =
        line.split(' ').next().unwrap().split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap());
    // A millisecond of grace between two clocks' readings; at midnight the day begins anew.
    assert!(before > after || (before - 0.001..=after + 0.001).contains(&time), "{before} {time} {after}");
}

#[test]
fn events_come_in_the_order_of_their_times() {
    let _alone = alone();
    let _busy = Busy::start();
    let output = run(&mut kerno_ahead(AHEAD, &["trace", "all", "--pid", &own_pid(), "--duration", "1s", "-o", "json"]));
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

fn unix() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

fn uptime() -> f64 {
    std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

#[test]
fn a_window_has_the_machines_times_and_knows_who_is_who() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("window.json");
    let before = (unix(), monotonic(), uptime());
    // So that this process is one of those that used most.
    let spinning = std::thread::spawn(|| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            std::hint::spin_loop();
        }
    });
    let args = ["doctor", "--config", "/dev/null", "-d", "1s", "--save", file.to_str().unwrap()];
    let output = run(&mut kerno_ahead(AHEAD, &args));
    let after = (unix(), monotonic(), uptime());
    spinning.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let window: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let (started_unix, started_ns) = (number(&window["span"]["started_unix"]), number(&window["span"]["started_ns"]));
    assert!((before.0..after.0).contains(&started_unix), "{before:?} {started_unix} {after:?}");
    assert!((before.1..after.1).contains(&(started_ns / 1e9)), "{before:?} {started_ns} {after:?}");
    let up = number(&window["host"]["uptime_seconds"]);
    assert!((before.2 - 0.01..after.2 + 0.01).contains(&up), "{before:?} {up} {after:?}");
    // /proc tells its start by the namespace's clock.
    let own = &window["processes"][own_pid()];
    let cmdline = std::env::args().next().unwrap();
    assert!(own["cmdline"].as_str().unwrap().starts_with(&cmdline), "{own}");
    let started = number(&own["started_ns"]) / 1e9;
    assert!(started < before.1 && started > before.1 - 3600.0, "{own}");
}
