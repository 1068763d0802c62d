//! What `kerno start` sends by the protocol of OpenTelemetry arrives with the numbers that `/metrics` has: at Rotel over gRPC and HTTP, and at
//! VictoriaMetrics. tests/components fetches both.

mod rotel;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use kerno_model::catalogue;
use kerno_model::metric::{Kind, Metric};
use serde_json::Value;

use crate::component::{Running, component, get};
use crate::daemon::{Daemon, Leak, config, directory, free_port, until};
use crate::support::{alone, call};
use rotel::{Record, Rotel};

/// Calls of the load, and how many more there may be of others.
const CALLS: u32 = 100_000;

/// Numbers by name and labels, as Prometheus has them.
pub type Numbers = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// What `/metrics` says.
fn numbers(metrics: &str) -> Numbers {
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = labels.strip_suffix('}').unwrap();
        let mut all = BTreeMap::new();
        while let Some((label, rest)) = labels.split_once("=\"") {
            let end = (0..rest.len()).find(|at| rest[*at..].starts_with('"') && !rest[..*at].ends_with('\\')).unwrap();
            let value = rest[..end].replace("\\\"", "\"").replace("\\\\", "\\");
            all.insert(label.trim_start_matches(',').to_owned(), bound(label.trim_start_matches(','), &value));
            labels = &rest[end + 1..];
        }
        ((name.to_owned(), all), value.parse::<f64>().unwrap())
    };
    metrics.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

/// Bounds are written in several ways.
pub fn bound(label: &str, value: &str) -> String {
    if label == "le" { format!("{:e}", value.parse::<f64>().unwrap()) } else { value.to_owned() }
}

/// The metric that a name of Prometheus is of, unless each reader has its own numbers of it: the largest since its last reading.
pub fn metric_of(name: &str) -> Option<&'static Metric> {
    let parts = ["_bucket", "_sum", "_count"];
    let found = catalogue::metrics().into_iter().find(|metric| {
        let known = metric.prometheus();
        name == known
            || (matches!(metric.kind, Kind::Histogram(_))
                && parts.iter().any(|part| name.strip_suffix(part) == Some(known.as_str())))
    });
    found.filter(|metric| metric.kind != Kind::Largest)
}

/// Those that are the same for all readers.
fn comparable(numbers: &Numbers) -> Numbers {
    let is_it = |name: &str| metric_of(name).is_some();
    numbers.iter().filter(|((name, _), _)| is_it(name)).map(|(series, value)| (series.clone(), *value)).collect()
}

fn windows(numbers: &Numbers) -> f64 {
    numbers.get(&("kerno_windows_total".to_owned(), BTreeMap::new())).copied().unwrap_or(0.0)
}

fn failed(numbers: &Numbers) -> f64 {
    let labels = BTreeMap::from([("errno".to_owned(), "EBADF".to_owned())]);
    numbers.get(&("kerno_syscall_errors_total".to_owned(), labels)).copied().unwrap_or(0.0)
}

/// Runs the load under daemons; what `/metrics` of each says after it.
fn under_load(daemons: &[&Daemon]) -> Vec<Numbers> {
    let all = |daemon: &Daemon| numbers(&daemon.get("/metrics", "").1);
    let before: Vec<_> = daemons
        .iter()
        .map(|daemon| until("no window", || Some(all(daemon)).filter(|now| windows(now) >= 1.0)))
        .collect();
    for _ in 0..CALLS {
        // EBADF, which hardly any others get.
        call(libc::SYS_dup, -1);
    }
    let after = |(daemon, before): (&&Daemon, Numbers)| {
        let added = |now: &Numbers| failed(now) - failed(&before);
        let after = until("the load is not seen", || Some(all(daemon)).filter(|now| added(now) >= f64::from(CALLS)));
        assert!(added(&after) < f64::from(CALLS) * 1.01, "{} of {CALLS}", added(&after));
        after
    };
    daemons.iter().zip(before).map(after).collect()
}

/// Both have the same series with the same numbers.
fn assert_same(expected: &Numbers, received: &Numbers, tolerance: f64) {
    let names = |numbers: &Numbers| numbers.keys().cloned().collect::<BTreeSet<_>>();
    let (ours, theirs) = (names(expected), names(received));
    let missing: Vec<_> = ours.difference(&theirs).collect();
    let surplus: Vec<_> = theirs.difference(&ours).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
    for (series, value) in expected {
        let got = received[series];
        assert!((got - value).abs() <= value.abs() * tolerance, "{series:?}: {got} instead of {value}");
    }
    println!("{} numbers are the same", expected.len());
    assert!(expected.len() > 200, "{}", expected.len());
}

/// A collector, and a daemon that sends to it.
fn to_rotel(protocol: &str) -> (Rotel, Daemon) {
    let rotel = Rotel::start();
    let endpoint = if protocol == "grpc" { rotel.grpc } else { rotel.http };
    let directory = directory();
    let config = config(
        &directory,
        &format!(
            "[otlp]\nendpoint = \"http://{endpoint}\"\nprotocol = \"{protocol}\"\ninterval = \"1s\"\n\
             resource_attributes = [\"deployment.environment.name=test\"]\n"
        ),
    );
    let daemon = Daemon::start(&directory, &["--config", &config]);
    (rotel, daemon)
}

#[test]
fn rotel_gets_what_metrics_says_and_incidents() {
    let _alone = alone();
    let both = ["grpc", "http/protobuf"].map(to_rotel);
    let expected = under_load(&both.each_ref().map(|(_, daemon)| daemon));
    for ((rotel, _), expected) in both.iter().zip(expected) {
        let (received, resource) = until("the window does not arrive", || {
            rotel.metrics().into_iter().find(|(numbers, _)| windows(numbers) == windows(&expected))
        });
        assert_same(&comparable(&expected), &received, 0.0);
        assert_eq!(resource["service.name"], "kerno");
        assert_eq!(resource["deployment.environment.name"], "test");
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(resource["host.name"], hostname.trim());
    }
    let leak = Leak::start();
    let pid = leak.pid().to_string();
    let opened = both.each_ref().map(|(rotel, daemon)| opened(rotel, daemon, &pid));
    drop(leak);
    for ((rotel, daemon), opened) in both.into_iter().zip(opened) {
        let is_end = |record: &Record| {
            record.attributes["kerno.incident.id"] == opened && record.event_name == "kerno.incident.closed"
        };
        let closed = until("its end does not arrive", || rotel.records().into_iter().find(is_end));
        assert_eq!(closed.severity.1, "info");
        let status = daemon.json("/api/v1/status");
        let otlp = &status["otlp"];
        assert!(otlp["records_sent"].as_u64() >= Some(2) && otlp["points_sent"].as_u64() > Some(200), "{otlp}");
        for nothing in ["points_lost", "records_lost", "failures"] {
            assert_eq!(otlp[nothing], 0, "{otlp}");
        }
        daemon.stop();
    }
}

/// Waits until the collector has the begin of this leak, as the daemon tells it too; the incident's id.
fn opened(rotel: &Rotel, daemon: &Daemon, pid: &str) -> String {
    let is_it = |record: &Record| {
        record.attributes.get("process.pid").is_some_and(|known| known == pid)
            && record.attributes["kerno.rule"] == "fd_leak"
    };
    let opened = until("no incident arrives", || rotel.records().into_iter().find(is_it));
    let id = opened.attributes["kerno.incident.id"].clone();
    let known = daemon.json("/api/v1/incidents");
    let known = known.as_array().unwrap().iter().find(|incident| incident["id"] == id.as_str());
    let known = known.unwrap_or_else(|| panic!("{opened:?}"));
    assert_eq!(known["rule"], "fd_leak");
    assert_eq!(opened.attributes["kerno.incident.change"], "opened");
    assert_eq!(opened.event_name, "kerno.incident.opened");
    assert_eq!(opened.attributes["process.executable.name"], "bash");
    assert!(opened.body.contains("leak") && opened.body.contains(pid), "{opened:?}");
    let severities = [("WARN", "warning"), ("ERROR2", "critical"), ("INFO", "info")];
    assert!(severities.contains(&(opened.severity.0.as_str(), opened.severity.1.as_str())), "{opened:?}");
    assert_eq!(opened.severity.1, opened.attributes["kerno.severity"]);
    let at = known["opened_unix_ns"].as_u64().unwrap();
    assert_eq!(opened.unix_ns, at, "{opened:?}");
    assert!(opened.observed_unix_ns >= at, "{opened:?}");
    id
}

/// VictoriaMetrics names series as Prometheus does, by the same rules, and adds the resource to the labels.
#[test]
fn victoria_metrics_gets_what_metrics_says() {
    let _alone = alone();
    let data = tempfile::tempdir().unwrap();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new(component("victoria-metrics/usr/bin/victoria-metrics"));
    command.arg(format!("-storageDataPath={}", data.path().display()));
    command.args(["-retentionPeriod=1", "-search.latencyOffset=0s", "-opentelemetry.usePrometheusNaming"]);
    command.arg(format!("-httpListenAddr={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running(command.spawn().unwrap());
    until("VictoriaMetrics does not start", || get(port, "/health"));
    for histograms in ["explicit", "exponential"] {
        let directory = directory();
        let config = config(
            &directory,
            &format!(
                "[otlp]\nendpoint = \"http://{address}/opentelemetry\"\nlogs_endpoint = \"off\"\ninterval = \"1s\"\n\
             histograms = \"{histograms}\"\nservice_name = \"{histograms}\"\n"
            ),
        );
        let daemon = Daemon::start(&directory, &["--config", &config]);
        let [expected] = under_load(&[&daemon]).try_into().unwrap_or_else(|_| panic!());
        let mut expected = comparable(&expected);
        if histograms == "exponential" {
            // It has buckets of its own for them, but the same counts and sums.
            expected.retain(|(name, _), _| !name.ends_with("_bucket"));
        }
        let received = until("the window does not arrive", || {
            let lines = get(port, "/api/v1/export?match[]={__name__=~\"kerno.*\"}")?;
            let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            at_window(&lines, histograms, windows(&expected))
        });
        let mut received = received;
        if histograms == "exponential" {
            received.retain(|(name, _), _| !name.ends_with("_bucket"));
        }
        // It keeps 15 digits.
        assert_same(&expected, &received, 1e-12);
        daemon.stop();
    }
}

/// What it has of the window with that number.
fn at_window(lines: &[Value], service: &str, number: f64) -> Option<Numbers> {
    let of_service = || lines.iter().filter(|line| line["metric"]["service_name"] == service);
    let values = |line: &Value| -> Vec<(u64, Option<f64>)> {
        let times = line["timestamps"].as_array().unwrap().iter().map(|time| time.as_u64().unwrap());
        times.zip(line["values"].as_array().unwrap().iter().map(Value::as_f64)).collect()
    };
    let counter = of_service().find(|line| line["metric"]["__name__"] == "kerno_windows_total")?;
    let (time, _) = values(counter).into_iter().find(|(_, value)| *value == Some(number))?;
    let mut numbers = Numbers::new();
    for line in of_service() {
        let name = line["metric"]["__name__"].as_str().unwrap();
        let Some(metric) = metric_of(name) else { continue };
        let Some(value) = values(line).into_iter().find_map(|(at, value)| value.filter(|_| at == time)) else {
            continue;
        };
        let mut labels = BTreeMap::new();
        for label in metric.labels {
            let attribute = label.attribute.replace('.', "_");
            labels.insert(label.name.to_owned(), line["metric"][&attribute].as_str().unwrap_or_default().to_owned());
        }
        if let Some(le) = line["metric"]["le"].as_str() {
            labels.insert("le".to_owned(), bound("le", le));
        }
        numbers.insert((name.to_owned(), labels), value);
    }
    Some(numbers)
}
