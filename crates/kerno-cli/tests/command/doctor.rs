//! `kerno doctor` as a person or a script uses it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use serde_json::Value;

use crate::support::{LIMIT, Unprivileged, kerno, run, signal, text, wait};

/// `kerno doctor` with an environment and a machine's configuration that set nothing.
fn doctor(args: &[&str]) -> Command {
    let mut command = kerno(&["doctor"]);
    command.args(args).env("KERNO_CONFIG", "/dev/null");
    command
}

/// Standard output of what must succeed in silence.
fn printed(command: &mut Command) -> String {
    let output = run(command);
    assert_eq!(output.status.code(), Some(0), "{command:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{command:?}");
    text(&output.stdout).to_owned()
}

/// The one line on standard error of what must fail.
fn refused(command: &mut Command) -> String {
    let output = run(command);
    let stderr = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
    assert!(output.stdout.is_empty() && !stderr.contains("panicked"), "{command:?}: {stderr}");
    stderr
}

fn json(output: &str) -> Value {
    serde_json::from_str(output).expect(output)
}

/// Waits until it watches: until it has loaded all that it loads.
fn watching(child: &mut Child, settle: Duration) {
    let loaded = || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", child.id()));
        let links = descriptors.into_iter().flatten().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("anon_inode:bpf")).count()
    };
    let deadline = Instant::now() + LIMIT;
    // Sampling opens and closes some: only more than ever is news.
    let (mut most, mut since) = (0, Instant::now());
    while most == 0 || since.elapsed() < settle {
        let now = loaded();
        if now > most {
            (most, since) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "it loads nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended");
}

#[test]
fn each_output_has_a_report() {
    let report = json(&printed(&mut doctor(&["--duration", "2s", "--output", "json"])));
    let uname = rustix::system::uname();
    assert_eq!(report["host"]["kernel"], uname.release().to_str().unwrap());
    let seconds = report["window"]["seconds"].as_f64().unwrap();
    assert!((2.0..20.0).contains(&seconds), "{seconds}");
    assert!(report["window"]["samples"].as_u64().unwrap() >= 3, "{report}");
    assert_eq!(report["observed"].as_array().unwrap().len(), kerno::signals::ALL.len(), "{}", report["missing"]);
    assert!(report["findings"].is_array());

    let plain = printed(&mut doctor(&["-d", "300ms"]));
    assert!(!plain.is_empty() && !plain.contains('\x1b'), "{plain}");
    for line in plain.lines() {
        // A command to copy is never broken.
        assert!(line.chars().count() <= 80 || line.trim_start().starts_with(['$', '!']), "{line:?}");
    }
    let markdown = printed(&mut doctor(&["-d", "300ms", "-o", "markdown"]));
    assert!(markdown.contains('#') && !markdown.contains('\x1b'), "{markdown}");
}

#[test]
fn only_the_chosen_signals_are_observed() {
    let chosen = |args: &[&str]| {
        let report = json(&printed(doctor(&["-d", "200ms", "-o", "json"]).args(args)));
        report["observed"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&["--signals", "fd,tcp_monitor"]), ["tcp_monitor", "fd_track"]);
    assert_eq!(chosen(&["-s", "all"]).len(), kerno::signals::ALL.len());
}

#[test]
fn a_saved_snapshot_gives_the_same_report() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot.json");
    let path = file.to_str().unwrap();
    // Every threshold at its lowest: as many findings as there can be.
    let mut low: Vec<String> = Vec::new();
    for rule in json(&printed(&mut doctor(&["--list-rules", "-o", "json"]))).as_array().unwrap() {
        for threshold in rule["thresholds"].as_array().unwrap() {
            let (id, name) = (rule["id"].as_str().unwrap(), threshold["name"].as_str().unwrap());
            low.extend(["--set".to_owned(), format!("{id}.{name}={}", threshold["min"])]);
        }
    }
    let live = printed(doctor(&["-d", "1s", "-o", "json", "--save", path]).args(&low));
    let again = printed(doctor(&["--from", path, "-o", "json"]).args(&low));
    assert_eq!(live, again);
    let text_again = printed(doctor(&["--from", path]).args(&low));
    assert!(!text_again.is_empty());

    let user = Unprivileged::new();
    let theirs = user.path("snapshot.json");
    std::fs::copy(path, &theirs).unwrap();
    let args = ["doctor", "--from", theirs.to_str().unwrap(), "-o", "json", "--config", "/dev/null"];
    assert_eq!(printed(user.with(CapabilitySet::empty(), &args).args(&low)), live);

    // Command lines go when they are not wanted.
    let snapshot = json(&std::fs::read_to_string(path).unwrap());
    assert!(snapshot["processes"].is_object() && snapshot["schema_version"].is_u64());
    printed(&mut doctor(&["-d", "200ms", "--save", path, "--redact"]));
    let snapshot = json(&std::fs::read_to_string(path).unwrap());
    assert!(snapshot["processes"].as_object().unwrap().values().all(|process| process["cmdline"] == ""));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let path = file.to_str().unwrap();
    for (content, why) in [
        ("", "is empty"),
        ("{\n  \"schema_version\": 2, \"span\": {},\n  \"host\": 7}", "file:3:"),
        ("{\"schema_version\": 77}", "schema version 77"),
        ("\u{1b}[31m", "file:1:1"),
    ] {
        std::fs::write(&file, content).unwrap();
        let stderr = refused(&mut doctor(&["--from", path]));
        assert!(stderr.contains(why) && stderr.lines().count() == 1 && !stderr.contains('\x1b'), "{stderr}");
    }
    assert!(refused(&mut doctor(&["--from", "/no/such"])).contains("cannot read /no/such"));
    let report = printed(&mut doctor(&["-d", "100ms", "-o", "json"]));
    std::fs::write(&file, report).unwrap();
    assert!(refused(&mut doctor(&["--from", path])).contains("is a report"));
}

#[test]
fn what_is_impossible_is_refused_with_what_is_possible() {
    let cases: &[(&[&str], &str)] = &[
        (&["--duration", "0s"], "longer than zero"),
        (&["--duration", "10"], "such as 500us"),
        (&["--output", "xml"], "markdown"),
        (&["--signals", "nonsense"], "possible values"),
        (&["--from", "x", "--duration", "1s"], "cannot be used with"),
        (&["--from", "x", "--signals", "tcp"], "cannot be used with"),
        (&["--from", "x", "--save", "y"], "cannot be used with"),
        (&["--from", "x", "--continuous"], "cannot be used with"),
        (&["--continuous", "--duration", "1s"], "cannot be used with"),
        (&["--interval", "1s"], "--continuous"),
        (&["--fail-on", "critical"], "--exit-code"),
        (&["--exit-code", "--fail-on", "fatal"], "critical"),
        (&["--set", "x"], "RULE.THRESHOLD=VALUE"),
        (&["--set", "x.y="], "RULE.THRESHOLD=VALUE"),
        (&["--set", ".y=1"], "RULE.THRESHOLD=VALUE"),
        (&["--set", "no_such_rule.y=1"], "no rule \"no_such_rule\""),
        (&["--config", "/no/such.toml"], "cannot read the configuration /no/such.toml"),
        (&["--save", "/no/such/directory/x"], "cannot save to /no/such/directory/x"),
        (&["--save", "/"], "is a directory"),
        (&["--list-rules", "--from", "x"], "cannot be used with"),
        (&["extra"], "unexpected argument"),
    ];
    for (args, why) in cases {
        let stderr = refused(&mut doctor(args));
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
}

#[test]
fn settings_come_from_file_environment_and_flags() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kerno.toml");
    let path = file.to_str().unwrap();
    let list = json(&printed(&mut doctor(&["--list-rules", "-o", "json"])));
    let rule = list.as_array().unwrap().iter().find(|rule| rule["thresholds"][0].is_object()).expect("a threshold");
    let (id, threshold) = (rule["id"].as_str().unwrap(), &rule["thresholds"][0]);
    let (name, min, max) = (threshold["name"].as_str().unwrap(), &threshold["min"], &threshold["max"]);
    std::fs::write(&file, format!("[doctor]\nduration = \"100ms\"\n[rules.{id}]\n{name} = {max}\n")).unwrap();
    let now = |command: &mut Command| {
        let list = json(&printed(command.args(["--list-rules", "-o", "json"])));
        let rule = list.as_array().unwrap().iter().find(|rule| rule["id"] == id).unwrap().clone();
        (rule["thresholds"][0]["value"].as_f64(), rule["thresholds"][0]["set_by"].clone())
    };
    let variable = format!("KERNO_{}__{}", id.to_uppercase(), name.to_uppercase());
    let (min_value, max_value) = (min.as_f64(), max.as_f64());
    let default = threshold["default"].as_f64();
    assert_eq!(now(&mut doctor(&[])), (default, Value::Null));
    assert_eq!(now(&mut doctor(&["--config", path])), (max_value, format!("{path}:4").into()));
    assert_eq!(now(doctor(&[]).env("KERNO_CONFIG", path)), (max_value, format!("{path}:4").into()));
    let mut both = doctor(&["--config", path]);
    both.env(&variable, min.to_string());
    assert_eq!(now(&mut both), (min_value, variable.clone().into()));
    let set = format!("{id}.{name}={}", threshold["default"]);
    let mut all = doctor(&["--config", path, "--set", &set]);
    all.env(&variable, min.to_string());
    assert_eq!(now(&mut all), (default, "--set".into()));

    // The window too.
    let start = Instant::now();
    let report = json(&printed(&mut doctor(&["--config", path, "-o", "json"])));
    let seconds = report["window"]["seconds"].as_f64().unwrap();
    assert!(seconds < start.elapsed().as_secs_f64() && seconds < 20.0, "not 30: {seconds}");

    std::fs::write(&file, format!("# mine\n[rules.{id}]\n\n{name}s = 1\n")).unwrap();
    let stderr = refused(&mut doctor(&["--config", path]));
    assert!(stderr.contains(&format!("{path}:4:1: rule {id} has no threshold")), "{stderr}");
    assert!(stderr.contains(&format!("did you mean \"{name}\"?")), "{stderr}");
    let stderr = refused(doctor(&[]).env(format!("{variable}X"), "1"));
    assert!(
        stderr.contains(&format!("unknown environment variable {variable}X; did you mean {variable}?")),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn an_interrupt_reports_what_was_seen() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let mut settle = Duration::from_secs(2);
        let (report, stderr) = loop {
            let mut command = doctor(&["--duration", "10m", "-o", "json"]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            watching(&mut child, settle);
            signal(&child, number);
            let report = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
            let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
            match wait(&mut child).code() {
                Some(0) => break (json(&report), stderr),
                // A busy machine: it was still loading.
                Some(2) if stderr == "kerno: stopped before anything was seen\n" && settle.as_secs() < 16 => {
                    settle *= 2
                }
                other => panic!("{other:?}: {stderr}"),
            }
        };
        let seconds = report["window"]["seconds"].as_f64().unwrap();
        assert!((0.0..100.0).contains(&seconds), "{seconds}");
        assert_eq!(stderr, "");
    }
}

#[test]
fn an_interrupt_while_it_loads_ends_it_soon() {
    // With a signal pending the verifier gives up, and a second attempt with its log takes minutes.
    for delay in [50, 300, 600, 900] {
        let mut child = doctor(&["--duration", "10m"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        signal(&child, libc::SIGINT);
        // By the signal itself when it was not yet prepared for it.
        let code = wait(&mut child).code();
        assert!(matches!(code, None | Some(0 | 2)), "{code:?}");
    }
}

#[test]
fn a_closed_pipe_ends_it_silently() {
    for args in [&["--duration", "10m"][..], &["--continuous", "--interval", "10m"], &["--list-rules"]] {
        let mut child = doctor(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(wait(&mut child).code(), Some(0));
        assert_eq!(std::io::read_to_string(child.stderr.take().unwrap()).unwrap(), "");
    }
    // What is saved is wanted all the same.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot.json");
    let args = ["--duration", "1s", "--save", file.to_str().unwrap()];
    let mut child = doctor(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(file.exists());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = doctor(&["-d", "100ms"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(2));
    let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert!(stderr.contains("cannot write to standard output: No space left"), "{stderr}");
}

#[test]
fn continuous_reports_follow_each_other() {
    let args = ["--continuous", "--interval", "700ms", "-o", "json"];
    let mut child = doctor(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reports: Vec<Value> = (0..3).map(|_| json(&lines.next().unwrap().unwrap())).collect();
    signal(&child, libc::SIGINT);
    // One may have been written meanwhile; nothing is cut short.
    lines.for_each(|line| drop(json(&line.unwrap())));
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(reports[0]["changes"].is_null(), "{}", reports[0]);
    for pair in reports.windows(2) {
        let begin = |report: &Value| report["window"]["started_ns"].as_u64().unwrap();
        let end = begin(&pair[0]) + (pair[0]["window"]["seconds"].as_f64().unwrap() * 1e9) as u64;
        assert!(begin(&pair[1]) + 1_000_000 > end, "windows overlap: {pair:?}");
        assert!(pair[1]["changes"].is_array(), "{}", pair[1]);
    }
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
}

/// A process that opens ever more descriptors, some hundred a second.
struct Leak(Child);

impl Leak {
    fn start() -> Self {
        let script = "ulimit -n $(ulimit -H -n); n=10; while :; do eval \"exec $n</dev/null\"; n=$((n+1)); \
                      [ $((n % 40)) = 0 ] && sleep 0.1; done";
        Self(Command::new("bash").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Leak {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_leak_gives_the_exit_status_that_was_asked_for() {
    let leak = Leak::start();
    let pid = leak.0.id();
    let watch = |more: &[&str]| {
        let output = run(doctor(&["-d", "4s", "-s", "fd", "-o", "json", "--set", "fd_leak.min_growth=100"]).args(more));
        let report = json(text(&output.stdout));
        let found = report["findings"].as_array().unwrap().iter().any(|finding| {
            finding["id"] == "fd_leak" && finding["culprit"]["pid"] == pid && finding["severity"] != "info"
        });
        assert!(found, "{report:#}");
        output.status.code()
    };
    assert_eq!(watch(&["--exit-code", "--fail-on", "warning"]), Some(1));
    assert_eq!(watch(&[]), Some(0), "only when asked for");
}

#[test]
fn lack_of_privileges_names_them_and_what_to_type() {
    let user = Unprivileged::new();
    let stderr = refused(&mut user.with(CapabilitySet::empty(), &["doctor"]));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in ["CAP_BPF and CAP_PERFMON", "sudo setcap cap_bpf,cap_perfmon+ep /", "/kerno doctor"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    // A mistake in the arguments is told first: sudo would not help.
    let stderr = refused(&mut user.with(CapabilitySet::empty(), &["doctor", "--set", "no_such_rule.x=1"]));
    assert!(stderr.contains("no_such_rule"), "{stderr}");
    for args in [&["doctor", "--help"][..], &["doctor", "--list-rules"]] {
        printed(&mut user.with(CapabilitySet::empty(), args));
    }
    let both = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let report = json(&printed(&mut user.with(both, &["doctor", "--duration", "300ms", "--output", "json"])));
    for (signal, part) in [("disk_io", "which files"), ("sched_delay", "where in the kernel")] {
        let told = |missing: &Value| missing["signal"] == signal && missing["what"].as_str().unwrap().starts_with(part);
        assert!(report["missing"].as_array().unwrap().iter().any(told), "{part}: {}", report["missing"]);
    }
}

/// Process ids there are others than those that the kernel side sees.
#[test]
fn a_container_is_told_what_it_hides() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_kerno")]).env("KERNO_CONFIG", "/dev/null");
    let report = json(&printed(command.args(["doctor", "--duration", "300ms", "--quiet", "--output", "json"])));
    let missing = report["missing"].as_array().unwrap();
    assert!(missing.iter().any(|missing| missing["reason"].as_str().unwrap().contains("pid namespace")), "{missing:?}");
}

#[test]
fn the_page_of_rules_is_what_the_rules_say() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    let made = printed(&mut doctor(&["--list-rules", "--output", "markdown"]));
    assert!(
        written == made,
        "docs/rules.md is stale; type: KERNO_CONFIG=/dev/null cargo run -- doctor --list-rules --output markdown > docs/rules.md"
    );
}
