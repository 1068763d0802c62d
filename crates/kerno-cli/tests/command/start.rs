//! `kerno start` and the commands that ask it, as a user runs them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, Leak, directory, incidents, until};
use crate::support::{alone, kerno, run, signal, text, wait};

#[test]
fn a_fault_is_an_incident_that_outlives_a_restart_and_closes() {
    let _alone = alone();
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    let leak = Leak::start();
    let pid = u64::from(leak.0.id());
    let is_it = |incident: &&Value| incident["rule"] == "fd_leak" && incident["finding"]["culprit"]["pid"] == pid;
    let opened = until("no incident", || daemon.incidents().iter().find(is_it).cloned());
    for field in ["id", "rule", "state", "opened", "closed", "finding"] {
        assert!(opened.get(field).is_some(), "{field}");
    }
    assert_eq!((&opened["state"], &opened["closed"]), (&"open".into(), &Value::Null));
    let id = opened["id"].as_str().unwrap();
    assert!(daemon.log().contains(id), "it is logged");
    let metrics = daemon.get("/metrics", "").1;
    assert!(metrics.contains(&format!("kerno_incident_info{{incident=\"{id}\",rule=\"fd_leak\"")), "{metrics}");
    let (_, shown) = daemon.get(&format!("/api/v1/incidents/{id}"), "");
    assert!(shown.contains("leaks"), "{shown}");
    let shown = run(&mut daemon.asked(&["incidents", "show", &id[..20]]));
    assert!(text(&shown.stdout).contains("It creates"), "{}", text(&shown.stdout));
    daemon.stop();

    // Nobody watches: the store alone says what was.
    let store = directory.path().join("store");
    let of_store = |args: &[&str]| {
        let mut command = kerno(args);
        command.arg("--store").arg(&store).env("KERNO_CONFIG", "/dev/null");
        command
    };
    let kept = incidents(&mut of_store(&["incidents", "--output", "json"]));
    assert!(kept.iter().any(|incident| incident["id"] == id && incident["state"] == "open"), "{kept:?}");
    let copy = directory.path().join("copy");
    assert!(Command::new("cp").arg("-r").args([&store, &copy]).status().unwrap().success());

    let daemon = Daemon::start(&directory, &[]);
    until("no window after the restart", || (daemon.json("/api/v1/status")["windows"].as_u64()? >= 3).then_some(()));
    let again = daemon.incidents();
    let found: Vec<_> = again.iter().filter(is_it).collect();
    assert!(found.len() == 1 && found[0]["id"] == id, "it keeps its id: {again:?}");
    drop(leak);
    let closed = until("it does not close", || {
        daemon.incidents().into_iter().find(|incident| incident["id"] == id && incident["state"] == "closed")
    });
    assert!(closed["closed"].as_str().unwrap() > opened["opened"].as_str().unwrap());
    daemon.stop();
    let kept = incidents(&mut of_store(&["incidents", "--closed", "--rule", "fd_leak", "--output", "json"]));
    assert!(kept.iter().any(|incident| incident["id"] == id), "{kept:?}");
    let copied = incidents(kerno(&["incidents", "--output", "json", "--store"]).arg(&copy));
    assert!(copied.iter().any(|incident| incident["id"] == id), "{copied:?}");
}

#[test]
fn the_past_is_reported_as_doctor_would_have() {
    let _alone = alone();
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    let leak = Leak::start();
    let pid = u64::from(leak.0.id());
    std::thread::sleep(Duration::from_secs(8));
    drop(leak);
    let at = jiff::Timestamp::now() - Duration::from_secs(3);
    std::thread::sleep(Duration::from_secs(2));
    let finds = |command: &mut Command| {
        let output = run(command);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let finding = report["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "fd_leak").cloned();
        finding.is_some_and(|finding| finding["culprit"]["pid"] == pid)
    };
    let at = at.to_string();
    assert!(finds(&mut daemon.asked(&["doctor", "--output", "json", "--at", &at, "--for", "6s"])));
    assert!(!finds(&mut daemon.asked(&[
        "doctor",
        "--output",
        "json",
        "--at",
        &at,
        "--for",
        "6s",
        "--set",
        "fd_leak.min_growth=5000"
    ])));
    let report = daemon.json(&format!("/api/v1/report?from={}&to={}", at, "now"));
    assert!(report["findings"].is_array());
    // What is exported is the same, from the one that runs and from its store.
    let lines = |command: &mut Command, table: &str| {
        let output = run(command.args(["--to", &at, "--table", table, "--config", "/dev/null"]));
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let of_daemon = ["windows", "samples"].map(|table| lines(&mut daemon.asked(&["export", "-"]), table));
    assert!(of_daemon[0].len() >= 3 && of_daemon[1].len() > 100 * of_daemon[0].len());
    daemon.stop();
    let store = directory.path().join("store");
    let of_store = ["windows", "samples"].map(|table| lines(kerno(&["export", "-", "--store"]).arg(&store), table));
    assert_eq!(of_daemon, of_store);
    let file = directory.path().join("samples.parquet");
    let to_file = |args: &[&str]| run(kerno(&["export"]).arg(&file).args(args).arg("--store").arg(&store));
    let written = to_file(&["--to", &at]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    let expected = format!("{} rows of {} windows, 20", of_store[1].len(), of_store[0].len());
    assert!(text(&written.stderr).contains(&expected), "{expected}: {}", text(&written.stderr));
    let table = std::fs::read(&file).unwrap();
    assert!(table.starts_with(b"PAR1") && table.ends_with(b"PAR1"));
    // What fails leaves what was there.
    let failed = to_file(&["--to", "2020-01-01"]);
    assert_eq!(failed.status.code(), Some(2));
    assert!(text(&failed.stderr).contains("kerno: nothing was observed then"), "{}", text(&failed.stderr));
    assert_eq!(std::fs::read(&file).unwrap(), table);
    assert_eq!(to_file(&["--from", "now", "--to", "1h ago"]).status.code(), Some(2));
    assert_eq!(to_file(&["--table", "windows"]).status.code(), Some(2), "windows have no columns");
    assert!(finds(kerno(&["doctor", "--output", "json", "--at", &at, "--for", "6s", "--store"]).arg(&store)));
    let nothing = run(kerno(&["doctor", "--at", "2020-01-01", "--store"]).arg(&store));
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("nothing was observed then; the store has 20"), "{}", text(&nothing.stderr));
}

#[test]
fn it_serves_in_spite_of_bad_clients() {
    let _alone = alone();
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    until("it is not ready", || (daemon.get("/readyz", "").0 == 200).then_some(()));
    // Idle ones, and some that send a byte now and then.
    let idle: Vec<_> = (0..500).map(|_| TcpStream::connect(daemon.http).unwrap()).collect();
    let mut slow: Vec<_> = (0..50).map(|_| TcpStream::connect(daemon.http).unwrap()).collect();
    for byte in b"GET /metr" {
        for stream in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        assert_eq!(daemon.get("/healthz", "").0, 200);
    }
    assert_eq!(daemon.get("/metrics", "").0, 200);
    drop((idle, slow));
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{1b}[31m",
        "GET /metrics HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(daemon.http).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
    }
    let mut long = TcpStream::connect(daemon.http).unwrap();
    let _ = long.write_all(format!("GET /{} HTTP/1.1\r\n", "a".repeat(100_000)).as_bytes());
    assert_eq!(daemon.get("/nope", "").0, 404);
    assert_eq!(daemon.get("/api/v1/incidents/none", "").0, 404);
    assert_eq!(daemon.get("/api/v1/incidents?state=half", "").0, 400);
    assert_eq!(daemon.get("/api/v1/incidents?colour=red", "").0, 400);
    assert_eq!(daemon.get("/api/v1/report?from=yesterdayish", "").0, 400);
    assert_eq!(daemon.get("/api/v1/windows?from=now&to=now", "").0, 400);
    assert_eq!(daemon.get("/metrics", "").0, 200);
    let mut foreign = TcpStream::connect(daemon.http).unwrap();
    foreign.write_all(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    foreign.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    daemon.stop();
}

#[test]
fn metrics_come_in_the_form_that_is_asked_for() {
    let _alone = alone();
    let daemon = Daemon::start(&directory(), &[]);
    until("it is not ready", || (daemon.get("/readyz", "").0 == 200).then_some(()));
    let plain = daemon.get("/metrics", "").1;
    assert!(plain.contains("# TYPE kerno_windows_total counter\n") && !plain.contains("# EOF"), "{plain}");
    assert!(!plain.contains("_created"), "{plain}");
    let open = daemon.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n").1;
    assert!(open.contains("# TYPE kerno_windows counter\n") && open.ends_with("# EOF\n"), "{open}");
    assert!(
        open.contains("kerno_windows_created ") && open.contains("# UNIT kerno_cpu_time_seconds seconds"),
        "{open}"
    );
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;q=0.5";
    let mut stream = TcpStream::connect(daemon.http).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = text(&answer[..body]).to_lowercase();
    assert!(
        head.contains("content-type: application/vnd.google.protobuf; proto=io.prometheus.client.metricfamily"),
        "{head}"
    );
    // Families with their length before them, the first by its name.
    let name = b"kerno_build_info";
    assert!(answer[body..].windows(name.len()).any(|bytes| bytes == name));
    let series = plain.lines().filter(|line| !line.starts_with('#')).count();
    println!("{series} series");
    assert!(series <= 2000, "{series}");
    daemon.stop();
}

#[test]
fn what_cannot_be_sent_is_told_before_it_starts() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let checked = |file: &str, variables: &[(&str, &str)]| {
        std::fs::write(path("config.toml"), file).unwrap();
        let mut command = kerno(&["start", "--check-config", "--config", &path("config.toml")]);
        let output = run(command.envs(variables.iter().copied()));
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let good = "[otlp]\nendpoint = \"http://127.0.0.1:4317\"\n";
    assert_eq!(checked(good, &[]).0, Some(0));
    assert_eq!(checked("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")]).0, Some(0));
    let secret = format!("{good}headers = [\"authorization=Bearer hunter2\"]\n");
    let ca = format!("{good}ca_file = \"{}\"\n", path("none.pem"));
    let cases = [
        (secret.as_str(), &[][..], "config.toml:3:11: otlp.headers: the value of \"authorization\" does not belong"),
        (&ca, &[], "otlp: cannot read"),
        (good, &[("KERNO_OTLP__ENDPOINT", "collector:4317")], "otlp.endpoint: \"collector:4317\" is no URL"),
        (good, &[("KERNO_OTLP__PROTOCOL", "carrier pigeon")], "KERNO_OTLP__PROTOCOL: otlp.protocol: expected"),
        (good, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")], "OTEL_EXPORTER_OTLP_TIMEOUT: expected a number"),
        ("[otlp]\nqueue = 5\n", &[], "otlp.endpoint is not set"),
    ];
    for (file, variables, why) in cases {
        let (status, told) = checked(file, variables);
        assert!(status == Some(2) && told.contains(why) && !told.contains("hunter2"), "{file}: {told}");
    }
}

#[test]
fn settings_are_read_again_and_mistakes_change_nothing() {
    let _alone = alone();
    let directory = directory();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "[start]\ninterval = \"2s\"\nhttp = \"127.0.0.1:0\"\n").unwrap();
    let checked = |arg: &str| run(kerno(&["start", "--check-config", arg, "--config"]).arg(&config));
    assert!(checked("--redact").status.success());
    let (store, socket) = (directory.path().join("store"), directory.path().join("socket"));
    let args = [
        "start",
        "--log",
        "text",
        "--signals",
        "fd",
        "--config",
        config.to_str().unwrap(),
        "--store",
        store.to_str().unwrap(),
    ];
    let mut child = kerno(&args).arg("--socket").arg(&socket).stderr(Stdio::piped()).spawn().unwrap();
    let interval = || {
        let status = run(kerno(&["incidents", "--socket"]).arg(&socket)).status;
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).ok().filter(|_| status.success())?;
        stream.write_all(b"GET /api/v1/status HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        status["interval_seconds"].as_f64()
    };
    until("it does not start", || interval().filter(|interval| *interval == 2.0));
    std::fs::write(&config, "[start]\ninterval = \"3s\"\nhttp = \"127.0.0.1:0\"\n").unwrap();
    signal(&child, libc::SIGHUP);
    until("it does not read its settings again", || interval().filter(|interval| *interval == 3.0));
    std::fs::write(&config, "[start]\nintervall = \"1s\"\n").unwrap();
    let mistaken = checked("--redact");
    assert_eq!(mistaken.status.code(), Some(2));
    assert!(text(&mistaken.stderr).contains("config.toml:2:1"), "{}", text(&mistaken.stderr));
    signal(&child, libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(interval(), Some(3.0));
    signal(&child, libc::SIGTERM);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(wait(&mut child).success(), "{log}");
    assert!(log.contains("the configuration is not taken") && log.contains("did you mean \"interval\""), "{log}");
}

#[test]
fn what_cannot_start_says_why() {
    let _alone = alone();
    let directory = directory();
    let daemon = Daemon::start(&directory, &["--signals", "fd"]);
    let refused = |args: &[&str], words: &str| {
        let output = run(kerno(args).args(["--config", "/dev/null"]));
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains(words), "{args:?}: {}", text(&output.stderr));
    };
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let free = path("free");
    refused(&["start", "--store", &path("store"), "--socket", &free, "--http", "off"], "in use");
    refused(&["start", "--store", "off", "--socket", &path("socket"), "--http", "off"], "another kerno runs");
    refused(
        &["start", "--store", "off", "--socket", "off", "--http", &daemon.http.to_string()],
        "cannot listen on 127.0.0.1",
    );
    refused(&["start", "--store", "off", "--socket", "off", "--http", "0.0.0.0:1"], "from other machines");
    refused(&["start", "--interval", "500ms"], "1s to 300s");
    let file = path("file");
    std::fs::write(&file, "x").unwrap();
    refused(&["start", "--store", &file, "--socket", "off", "--http", "off"], "file");
    refused(&["start", "--store", "off", "--socket", &file, "--http", "off"], "is no socket");
    let alone = run(kerno(&["incidents", "--socket"]).arg(Path::new(&free)));
    assert!(text(&alone.stderr).contains("cannot reach kerno at"), "{}", text(&alone.stderr));
    daemon.stop();
}
