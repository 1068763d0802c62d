//! What Prometheus makes of `/metrics`, in each form that it asks for, and of the rules that are shipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::component::{Running, component, get};
use crate::daemon::{Daemon, Leak, directory, free_port, until};
use crate::support::{alone, run, text};

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus").join(file).canonicalize().unwrap()
}

/// The forms by the job that asks for them.
const FORMS: [(&str, &str); 3] =
    [("protobuf", "PrometheusProto"), ("openmetrics", "OpenMetricsText1.0.0"), ("text", "PrometheusText0.0.4")];

pub fn prometheus(program: &Path, daemon: &Daemon, data: &Path) -> (Running, u16) {
    let mut config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n",
        shipped("kerno.rules.yml").display()
    );
    for (job, protocol) in FORMS {
        config += &format!(
            "  - {{job_name: {job}, scrape_protocols: [{protocol}], static_configs: [{{targets: [\"{}\"]}}]}}\n",
            daemon.http
        );
    }
    let file = data.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let port = free_port();
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", file.display())).arg(format!("--storage.tsdb.path={}", data.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.arg("--enable-feature=native-histograms,exemplar-storage");
    let server = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("Prometheus does not start", || get(port, "/-/ready"));
    (server, port)
}

pub fn asked(port: u16, path: &str) -> Value {
    get(port, path).map_or(Value::Null, |body| serde_json::from_str::<Value>(&body).unwrap()["data"].take())
}

/// The values of a query, by job.
fn query(port: u16, query: &str) -> Vec<(String, f64)> {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let data = asked(port, &format!("/api/v1/query?query={escaped}"));
    let series = data["result"].as_array().cloned().unwrap_or_default();
    let value = |one: &Value| one["value"][1].as_str().unwrap().parse().unwrap();
    series.iter().map(|one| (one["metric"]["job"].as_str().unwrap_or_default().to_owned(), value(one))).collect()
}

/// The alerts about this incident that fire.
fn firing(port: u16, incident: &str) -> Vec<Value> {
    let alerts = asked(port, "/api/v1/alerts")["alerts"].as_array().cloned().unwrap_or_default();
    let is_it = |alert: &Value| {
        let labels = &alert["labels"];
        alert["state"] == "firing" && labels["alertname"] == "KernoIncident" && labels["incident"] == incident
    };
    alerts.into_iter().filter(is_it).collect()
}

fn is_scraped_and_alerts(program: &str) {
    let _alone = alone();
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    let data = tempfile::tempdir().unwrap();
    let (_server, port) = prometheus(&component(program), &daemon, data.path());
    for (form, _) in FORMS {
        until("a form is not scraped", || query(port, "up").contains(&(form.to_owned(), 1.0)).then_some(()));
    }
    let leak = Leak::start();
    let pid = u64::from(leak.pid());
    let is_it = |known: &Value| known["rule"] == "fd_leak" && known["finding"]["culprit"]["pid"] == pid;
    let known = until("no incident", || daemon.incidents().into_iter().find(is_it));
    let incident = known["id"].as_str().unwrap();
    let alerts = until("no alert fires", || Some(firing(port, incident)).filter(|alerts| alerts.len() == FORMS.len()));
    assert!(alerts.iter().all(|alert| alert["labels"]["rule"] == "fd_leak" && alert["labels"]["subject"] == "bash"));
    assert!(alerts[0]["annotations"]["description"].as_str().unwrap().contains(incident), "{alerts:?}");

    // What arrived is what was told: a counter that cannot go back, between two looks at it.
    let told = || {
        let (_, metrics) = daemon.get("/metrics", "");
        let line = metrics.lines().find_map(|line| line.strip_prefix("kerno_windows_total ")).unwrap().to_owned();
        line.parse::<f64>().unwrap()
    };
    let before = told();
    let arrived = until("the counter does not arrive", || {
        let counters = query(port, "kerno_windows_total");
        (counters.len() == FORMS.len() && counters.iter().all(|(_, count)| *count >= before)).then_some(counters)
    });
    let after = told();
    assert!(arrived.iter().all(|(_, count)| (before..=after).contains(count)), "{before} {arrived:?} {after}");
    // Classic histograms in all forms, native ones where there is a place for them.
    let classic = query(port, "sum by (job) (kerno_cpu_wait_duration_seconds_count)");
    let native = query(port, "sum by (job) (histogram_count(kerno_cpu_wait_duration_seconds))");
    let jobs = |values: &[(String, f64)]| {
        let mut jobs: Vec<_> = values.iter().filter(|(_, value)| *value > 0.0).map(|(job, _)| job.clone()).collect();
        jobs.sort_unstable();
        jobs
    };
    assert_eq!(jobs(&native), ["protobuf"]);
    assert!(
        jobs(&classic).ends_with(&["openmetrics".to_owned(), "text".to_owned()][..]) || jobs(&classic).len() == 3,
        "{classic:?}"
    );
    drop(leak);
    until("the alert does not end", || firing(port, incident).is_empty().then_some(()));
    daemon.stop();
}

#[test]
fn prometheus_2_scrapes_all_forms_and_alerts() {
    is_scraped_and_alerts("prometheus/usr/bin/prometheus");
}

#[test]
fn prometheus_3_scrapes_all_forms_and_alerts() {
    is_scraped_and_alerts("prometheus-sid/usr/bin/prometheus");
}

#[test]
fn promtool_has_no_complaints() {
    let _alone = alone();
    let promtool = component("promtool/usr/bin/promtool");
    let good = |args: &[&str], file: &Path| {
        let output = run(Command::new(&promtool).args(args).arg(file));
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    };
    good(&["check", "rules"], &shipped("kerno.rules.yml"));
    good(&["test", "rules"], &shipped("kerno.rules.test.yml"));
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    until("it is not ready", || (daemon.get("/readyz", "").0 == 200).then_some(()));
    let (_, metrics) = daemon.get("/metrics", "");
    let file = directory.path().join("metrics");
    std::fs::write(&file, metrics).unwrap();
    let output = run(Command::new(&promtool).args(["check", "metrics"]).stdin(std::fs::File::open(&file).unwrap()));
    assert!(output.status.success(), "{}", text(&output.stderr));
    daemon.stop();
}
