//! Rotel, a collector that prints what it gets.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use kerno_model::catalogue;
use kerno_model::metric::Kind;

use super::{Numbers, bound};
use crate::alert::free_port;
use crate::components::{Running, component};
use crate::start::until;

pub struct Rotel {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    written: Arc<Mutex<String>>,
    _running: Running,
    _directory: tempfile::TempDir,
}

/// A log record.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub unix_ns: u64,
    pub observed_unix_ns: u64,
    /// As a number and as text.
    pub severity: (String, String),
    pub event_name: String,
    pub body: String,
    pub attributes: BTreeMap<String, String>,
}

impl Rotel {
    pub fn start() -> Self {
        let [grpc, http] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(component("rotel/rotel-agent"));
        command.args(["start", "--exporter", "blackhole", "--debug-log", "metrics", "--debug-log", "logs"]);
        command.args(["--debug-log-verbosity", "detailed", "--otlp-grpc-endpoint", &grpc.to_string()]);
        command.args(["--otlp-http-endpoint", &http.to_string()]);
        command.arg("--pid-file").arg(directory.path().join("pid"));
        command.arg("--log-file").arg(directory.path().join("log"));
        let mut running = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let written = Arc::new(Mutex::new(String::new()));
        let (stdout, gathered) = (running.0.stdout.take().unwrap(), Arc::clone(&written));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                *gathered.lock().unwrap() += &format!("{line}\n");
            }
        });
        for address in [grpc, http] {
            until("Rotel does not start", || TcpStream::connect(address).ok());
        }
        Self { grpc, http, written, _running: running, _directory: directory }
    }

    /// Each export that came whole, by the names and labels that Prometheus has for them, and its resource.
    pub fn metrics(&self) -> Vec<(Numbers, BTreeMap<String, String>)> {
        let written = self.written.lock().unwrap().clone();
        let mut exports: Vec<_> = written.split("\nResourceMetrics #").skip(1).collect();
        // It may still be written.
        exports.pop();
        exports.into_iter().map(export).collect()
    }

    pub fn records(&self) -> Vec<Record> {
        let written = self.written.lock().unwrap().clone();
        let records = written.split("\nLogRecord #").skip(1);
        records.filter_map(|record| Some(read(record.split_once("\nFlags: ")?.0))).collect()
    }
}

/// `     -> name: Str(value)`
fn attribute(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("     -> ")?.split_once(": ")?;
    let value = value.split_once('(').map_or(value, |(_, value)| value.strip_suffix(')').unwrap_or(value));
    Some((name.to_owned(), value.to_owned()))
}

fn read(text: &str) -> Record {
    let mut record = Record::default();
    for line in text.lines() {
        if let Some((name, value)) = attribute(line) {
            record.attributes.insert(name, value);
            continue;
        }
        let Some((name, value)) = line.split_once(": ") else { continue };
        let value = value.to_owned();
        match name {
            "Timestamp" => record.unix_ns = value.parse().unwrap(),
            "ObservedTimestamp" => record.observed_unix_ns = value.parse().unwrap(),
            "SeverityText" => record.severity.1 = value,
            "SeverityNumber" => {
                let name = value.trim_start_matches("SEVERITY_NUMBER_");
                record.severity.0 = name.split('(').next().unwrap_or_default().to_owned();
            }
            "EventName" => record.event_name = value,
            "Body" => record.body = value,
            _ => {}
        }
    }
    record
}

fn export(text: &str) -> (Numbers, BTreeMap<String, String>) {
    let (head, metrics) = text.split_once("\nMetric #").unwrap();
    let mut numbers = Numbers::new();
    for metric in metrics.split("\nMetric #") {
        let name = metric.lines().find_map(|line| line.strip_prefix("     -> Name: ")).unwrap();
        let unit = metric.lines().find_map(|line| line.strip_prefix("     -> Unit: ")).unwrap_or_default();
        // What is the largest since the last reading differs from reader to reader.
        let known = catalogue::metrics().into_iter().find(|known| known.name == name);
        let Some(known) = known.filter(|known| known.kind != Kind::Largest) else { continue };
        assert!(known.kind == Kind::Info || unit == known.measure.ucum(), "{name}: {unit}");
        for point in metric.split("DataPoints #").skip(1) {
            let mut labels = BTreeMap::new();
            let attributes: BTreeMap<_, _> = point.lines().filter_map(attribute).collect();
            for label in known.labels {
                labels.insert(label.name.to_owned(), attributes[label.attribute].clone());
            }
            let value =
                |name: &str| -> Option<f64> { point.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()) };
            let prometheus = known.prometheus();
            if !matches!(known.kind, Kind::Histogram(_)) {
                // One that has ended has none.
                numbers.extend(value("Value: ").map(|value| ((prometheus, labels), value)));
                continue;
            }
            // One that has ended has none.
            let Some(sum) = value("Sum: ") else { continue };
            let bounds = point.lines().filter(|line| line.starts_with("ExplicitBounds #"));
            let bounds = bounds.map(|line| line.split_once(": ").unwrap().1.to_owned()).chain(["+Inf".to_owned()]);
            let counts = point.lines().filter(|line| line.starts_with("Buckets #"));
            let mut up_to = 0.0;
            for (bounded, count) in bounds.zip(counts) {
                up_to += count.split_once("Count: ").unwrap().1.parse::<f64>().unwrap();
                let mut labels = labels.clone();
                labels.insert("le".to_owned(), bound("le", &bounded));
                numbers.insert((format!("{prometheus}_bucket"), labels), up_to);
            }
            numbers.insert((format!("{prometheus}_sum"), labels.clone()), sum);
            numbers.insert((format!("{prometheus}_count"), labels), value("Count: ").unwrap());
        }
    }
    (numbers, head.lines().filter_map(attribute).collect())
}
