//! `kerno limits`, as a user calls it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::kerno;

/// Ends with the test.
struct Started(Child);

impl Started {
    fn shell(script: &str) -> Self {
        Self(Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(args: &[&str]) -> String {
    let output = kerno(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    let all: Vec<_> = ["limits", "--output", "json"].iter().chain(args).copied().collect();
    serde_json::from_str(&text(&all)).unwrap()
}

fn line<'a>(report: &'a Value, resource: &str) -> &'a Value {
    let lines = report["limits"].as_array().unwrap();
    lines.iter().find(|line| line["resource"] == resource).unwrap_or_else(|| panic!("no {resource}: {report:#}"))
}

#[test]
fn limits_of_a_process_are_its_own() {
    let child = Started::shell("ulimit -n 77; exec 5</etc/passwd 6</etc/passwd; exec sleep 60");
    let begun = Instant::now();
    while std::fs::read_to_string(format!("/proc/{}/comm", child.pid())).unwrap() != "sleep\n" {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", child.pid())).unwrap().count() as u64;
    let report = json(&["--once", "--pid", &child.pid()]);
    let files = line(&report, "rlimit_nofile");
    assert_eq!(
        (files["limit"].as_u64(), files["used"].as_u64(), files["headroom"].as_u64()),
        (Some(77), Some(open), Some(77 - open))
    );
    assert_eq!((report["pid"].as_u64(), report["comm"].as_str()), (Some(u64::from(child.0.id())), Some("sleep")));
    assert!(
        files["growth_per_second"].is_null() && files["raise"].as_str().unwrap().contains(&child.pid()),
        "{files:#}"
    );
    let shares: Vec<f64> = report["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["used"].as_f64().unwrap() / line["limit"].as_f64().unwrap().max(1.0))
        .collect();
    assert!(shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
}

#[test]
fn those_of_the_machine_are_what_the_kernel_tells() {
    let report = json(&["--duration", "300ms"]);
    let number = |path: &str| std::fs::read_to_string(path).unwrap().trim().parse::<u64>().ok();
    assert_eq!(line(&report, "threads_max")["limit"].as_u64(), number("/proc/sys/kernel/threads-max"));
    assert_eq!(line(&report, "aio_max_nr")["limit"].as_u64(), number("/proc/sys/fs/aio-max-nr"));
    assert!(
        line(&report, "threads_max")["growth_per_second"].is_number() && report["seconds"].as_f64().unwrap() >= 0.3
    );
    assert!(report["pid"].is_null());
    assert!(text(&["limits", "--once"]).contains("kernel.threads-max"));
    assert!(text(&["limits", "--once", "--output", "markdown"]).contains("| kernel.threads-max |"));
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let output = kerno(&["limits", "--pid", "4194305"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no process 4194305"));
}
