//! `kerno why`, as a user calls it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::kerno;

/// Ends with the test.
struct Started(Child);

impl Started {
    fn new(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        Self(command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
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
    let all: Vec<_> = ["why", "--duration", "1s", "--output", "json"].iter().chain(args).copied().collect();
    serde_json::from_str(&text(&all)).unwrap()
}

/// The only thread, the kind of most of its time, and that share.
fn most(report: &Value) -> (u64, String, f64) {
    let threads = report["threads"].as_array().unwrap();
    assert_eq!(threads.len(), 1, "{report:#}");
    let (thread, most) = (&threads[0], &threads[0]["spent"][0]);
    let sum: f64 = thread["spent"].as_array().unwrap().iter().map(|spent| spent["seconds"].as_f64().unwrap()).sum();
    let wall = thread["wall_seconds"].as_f64().unwrap();
    assert!((sum - wall).abs() <= 0.02 * wall, "{sum} of {wall} s: {report:#}");
    let share = most["seconds"].as_f64().unwrap() / wall;
    (thread["pid"].as_u64().unwrap(), most["kind"].as_str().unwrap().to_owned(), share)
}

#[test]
fn a_process_is_found_by_its_id_and_by_its_name() {
    let copy = tempfile::tempdir().unwrap();
    let program = copy.path().join("why-sleeper");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let sleeper = Started::new(program.to_str().unwrap(), &["60"]);
    for target in [&*sleeper.pid(), "why-sleeper"] {
        let (pid, kind, share) = most(&json(&[target]));
        assert_eq!((pid, &*kind), (u64::from(sleeper.0.id()), "timer"), "{target}");
        assert!(share > 0.97, "{share}");
    }
}

#[test]
fn a_target_that_ends_ends_the_watching() {
    let mut sleeper = Started::new("sleep", &["1.5"]);
    let begun = std::time::Instant::now();
    let pid = sleeper.pid();
    let reaper = std::thread::spawn(move || sleeper.0.wait().unwrap());
    let report: Value = serde_json::from_str(&text(&["why", "--duration", "50s", "--output", "json", &pid])).unwrap();
    reaper.join().unwrap();
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    assert_eq!(most(&report).1, "timer");
}

#[test]
fn whoever_listens_on_a_port_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let report = json(&["--port", &port]);
    assert!(
        report["threads"].as_array().unwrap().iter().all(|thread| thread["pid"] == std::process::id()),
        "{report:#}"
    );
}

/// Waits for a line of its input: so does the chain, and the reports in all forms.
#[test]
fn the_writer_of_a_full_pipe_waits_for_its_stopped_reader() {
    let writer = Started::new("sh", &["-c", "yes | sleep 60"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", writer.0.id())).unwrap();
    let named = |name: &str| {
        let is_it =
            |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
        children.split_whitespace().find(is_it).map(str::to_owned)
    };
    let (yes, sleep) = (named("yes").unwrap(), named("sleep").unwrap());
    let report = json(&[&yes]);
    assert_eq!(report["chain"][0]["kind"], "pipe", "{report:#}");
    assert_eq!(report["chain"][0]["pid"].to_string(), yes);
    assert_eq!(report["root"]["pid"].to_string(), sleep, "{report:#}");
    assert_eq!(report["root"]["kind"], "timer");
    let shown = text(&["why", "--duration", "1s", &yes]);
    assert!(shown.contains(&format!("yes ({yes}) waits 100 % for sleep ({sleep}) by pipe:[")), "{shown}");
    let markdown = text(&["why", "--duration", "1s", "--output", "markdown", &yes]);
    assert!(markdown.starts_with("## Why ") && markdown.contains("| thread |"), "{markdown}");
    let folded = text(&["why", "--duration", "1s", "--folded", &yes]);
    let line = folded.lines().next().unwrap();
    assert!(line.starts_with(&format!("yes-{yes};thread-{yes};pipe;write;")), "{folded}");
    assert!(line.rsplit(' ').next().unwrap().parse::<u64>().is_ok(), "{folded}");
    // Its children outlive the shell.
    for pid in [yes, sleep] {
        // SAFETY: a child of the shell that this test started.
        unsafe { libc::kill(pid.parse().unwrap(), libc::SIGKILL) };
    }
}

#[test]
fn what_cannot_be_found_is_an_error() {
    for (args, words) in [
        (&["why", "no-such-program"][..], "no process is called no-such-program"),
        (&["why", "999999999"], "there is no process 999999999"),
        (&["why", "--unit", "nothing.service"], "no process belongs to the unit nothing.service"),
        (&["why", "--port", "0"], "0 is not in 1..=65535"),
        (&["why"], "required"),
        (&["why", "x", "--port", "1"], "cannot be used with"),
        (&["why", "x", "--duration", "0s"], "longer than zero"),
    ] {
        let output = kerno(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    }
}
