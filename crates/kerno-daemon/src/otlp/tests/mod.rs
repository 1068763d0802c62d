//! Sending, against a receiver that fails in all the ways that receivers do.

mod receiver;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerno_doctor::Thresholds;
use kerno_doctor::incidents::{self, Hysteresis, Incidents};
use kerno_doctor::redaction::Redaction;
use kerno_model::catalogue::{self, Mark};
use kerno_model::metric::{Amount, Kind, Sample};
use kerno_model::saved::read_window;
use kerno_model::{Course, Finding, IncidentRecord, Window};
use prost::Message as _;

use super::Otlp;
use super::message::{Any, Data, Detail, ErrorDetails, KeyValue, Metric, NO_VALUE, Number, RetryInfo, Span};
use super::settings::{OtlpHistograms, OtlpProtocol, OtlpSettings};
use super::status::OtlpStatus;
use crate::state::{Judged, Shared};
use receiver::{Came, Receiver, Reply};

const PROTOCOLS: [OtlpProtocol; 2] = [OtlpProtocol::Grpc, OtlpProtocol::Http];

fn recorded(name: &str) -> Window {
    let path = format!("{}/../../tests/corpus/{name}.json", env!("CARGO_MANIFEST_DIR"));
    read_window(&std::fs::read(path).unwrap()).unwrap()
}

/// A daemon without a kernel: it is given recorded windows.
struct Scene {
    shared: Arc<Shared>,
    incidents: Incidents,
    otlp: Otlp,
    hours: u32,
}

impl Scene {
    fn start(settings: OtlpSettings) -> Self {
        settings.check().unwrap();
        let shared = Arc::new(Shared::new(Duration::from_secs(1), Thresholds::default(), Vec::new()));
        let otlp = Otlp::start(settings, Redaction::default(), Arc::clone(&shared)).unwrap();
        let incidents = Incidents::new(Hysteresis { close_seconds: 0.0, ..Hysteresis::default() });
        Self { shared, incidents, otlp, hours: 0 }
    }

    /// Judges a window as the loop does; how many incidents changed.
    fn window(&mut self, window: &Window) -> usize {
        self.judged(window, kerno_doctor::judge(window, &Thresholds::default()))
    }

    fn judged(&mut self, window: &Window, findings: Vec<Finding>) -> usize {
        let (incidents, transitions) = incidents::step(std::mem::take(&mut self.incidents), window, &findings);
        self.incidents = incidents;
        let records: Vec<_> = self.incidents.all().cloned().map(IncidentRecord::new).collect();
        let window = Arc::new(window.clone());
        let told = records.clone();
        self.shared.judged(Judged {
            window,
            findings,
            records,
            transitions: &transitions,
            lost: 0,
            objectives: Vec::new(),
        });
        self.otlp.offer(&transitions, &told);
        transitions.len()
    }

    /// So many changes of incidents, with the machine in trouble and quiet in turn, hours apart.
    fn changes(&mut self, at_least: usize) -> usize {
        let (quiet, trouble) = (recorded("idle"), recorded("fd_leak_files"));
        let findings = kerno_doctor::judge(&trouble, &Thresholds::default());
        let mut changed = 0;
        while changed < at_least {
            for turn in 0..3 {
                let mut window = if turn == 0 { trouble.clone() } else { quiet.clone() };
                self.hours += 2;
                window.span.started_unix = 1.79e9 + f64::from(self.hours) * 3600.0;
                window.span.started_ns = u64::from(self.hours) * 3_600_000_000_000;
                changed += self.judged(&window, if turn == 0 { findings.clone() } else { Vec::new() });
            }
            assert!(self.hours < 2000, "{changed} changes");
        }
        changed
    }

    fn status(&self) -> OtlpStatus {
        self.shared.status().otlp.unwrap()
    }

    fn stop(self) -> (Duration, OtlpStatus) {
        let (began, shared) = (Instant::now(), self.shared);
        self.otlp.stop(began + super::FLUSH + Duration::from_millis(100));
        let status = shared.status().otlp.unwrap();
        (began.elapsed(), status)
    }
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn settings(receiver: &Receiver, protocol: OtlpProtocol) -> OtlpSettings {
    OtlpSettings {
        endpoint: Some(format!("http://{}", receiver.address)),
        protocol: Some(protocol),
        interval: Duration::from_secs(1),
        ..OtlpSettings::default()
    }
}

fn only_logs(receiver: &Receiver, protocol: OtlpProtocol) -> OtlpSettings {
    OtlpSettings { metrics_endpoint: Some("off".to_owned()), ..settings(receiver, protocol) }
}

fn only_metrics(receiver: &Receiver, protocol: OtlpProtocol) -> OtlpSettings {
    OtlpSettings { logs_endpoint: Some("off".to_owned()), ..settings(receiver, protocol) }
}

fn metrics(came: &Came) -> Vec<Metric> {
    let request = came.metrics();
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    scopes.flat_map(|scope| scope.metrics).collect()
}

/// The ids of incidents and the names of events, in the order that they came in, each as often as it came.
fn events(came: &[Came]) -> Vec<(String, String)> {
    let requests = came.iter().map(Came::logs);
    let scopes = requests.flat_map(|request| request.resource_logs).flat_map(|resource| resource.scope_logs);
    let event = |record: super::message::LogRecord| {
        let id = record.attributes.iter().find(|attribute| attribute.key == "kerno.incident.id").unwrap();
        (text(id), record.event_name)
    };
    scopes.flat_map(|scope| scope.records).map(event).collect()
}

fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// What a point says that is comparable: start, end, and the numbers.
#[derive(Debug, PartialEq)]
struct Point {
    start: u64,
    end: u64,
    numbers: Vec<f64>,
}

/// Each point by its name and labels.
type Points = BTreeMap<(String, Vec<String>), Point>;

#[allow(clippy::cast_precision_loss, reason = "as those who read metrics do")]
fn points(metrics: &[Metric]) -> Points {
    let labels = |attributes: &[KeyValue]| attributes.iter().map(text).collect::<Vec<_>>();
    let mut points = Points::new();
    let mut put = |name: &str, attributes: &[KeyValue], start, end, numbers| {
        let before = points.insert((name.to_owned(), labels(attributes)), Point { start, end, numbers });
        assert_eq!(before, None, "{name} {attributes:?}");
    };
    for metric in metrics {
        let name = &metric.name;
        match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => gauge.points.iter().for_each(|point| {
                put(name, &point.attributes, point.start_unix_ns, point.unix_ns, vec![number(point.value)]);
            }),
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.temporality == 2, "{name}");
                sum.points.iter().for_each(|point| {
                    put(name, &point.attributes, point.start_unix_ns, point.unix_ns, vec![number(point.value)]);
                });
            }
            Data::Histogram(histogram) => histogram.points.iter().for_each(|point| {
                assert_eq!(point.counts.iter().sum::<u64>(), point.count, "{name}");
                assert_eq!(point.counts.len(), point.bounds.len() + 1, "{name}");
                let mut numbers = vec![point.count as f64, point.sum.unwrap()];
                numbers.extend(&point.bounds);
                numbers.extend(point.counts.iter().map(|count| *count as f64));
                put(name, &point.attributes, point.start_unix_ns, point.unix_ns, numbers);
            }),
            Data::Exponential(histogram) => histogram.points.iter().for_each(|point| {
                let buckets = point.positive.clone().unwrap_or_default();
                assert_eq!(buckets.counts.iter().sum::<u64>() + point.zero_count, point.count, "{name}");
                put(
                    name,
                    &point.attributes,
                    point.start_unix_ns,
                    point.unix_ns,
                    vec![point.count as f64, point.sum.unwrap()],
                );
            }),
        }
    }
    points
}

#[allow(clippy::cast_precision_loss, reason = "as those who read metrics do")]
fn number(number: Option<Number>) -> f64 {
    match number {
        Some(Number::Double(value)) => value,
        Some(Number::Int(value)) => value as f64,
        None => f64::NAN,
    }
}

/// What `/metrics` has.
#[allow(clippy::cast_precision_loss, reason = "as those who read metrics do")]
fn expected(samples: &[Sample], end: u64) -> Points {
    let mut points = Points::new();
    for sample in samples {
        let (metric, labels) = (sample.metric, sample.labels.clone());
        let is_since = matches!(metric.kind, Kind::Counter | Kind::Histogram(_));
        let mut numbers = vec![sample.value()];
        if let Amount::Histogram(values) = &sample.amount {
            let (bounds, up_to): (Vec<_>, Vec<_>) = sample.classic().into_iter().unzip();
            let count = values.histogram.count();
            numbers = vec![count as f64, sample.value()];
            numbers.extend(bounds);
            let up_to: Vec<_> = [0].into_iter().chain(up_to).chain([count]).collect();
            numbers.extend(up_to.windows(2).map(|pair| (pair[1] - pair[0]) as f64));
            if let (Some(largest), Some((name, _))) = (sample.largest(), metric.largest_beside()) {
                points.insert((name, labels.clone()), Point { start: 0, end, numbers: vec![largest] });
            }
        }
        let start = if is_since { sample.created_unix_ns } else { 0 };
        points.insert((metric.name.to_owned(), labels), Point { start, end, numbers });
    }
    points
}

#[test]
fn numbers_are_those_of_metrics() {
    for protocol in PROTOCOLS {
        for gzip in [true, false] {
            let receiver = Receiver::start();
            let mut scene = Scene::start(OtlpSettings { gzip, ..settings(&receiver, protocol) });
            let window = recorded("fd_leak_files");
            assert!(scene.window(&window) > 0);
            let samples = scene.shared.snapshot(Mark::default()).unwrap();
            let came = until("nothing came", || receiver.metrics().first().cloned());
            assert_eq!(came.is_compressed, gzip);
            let metrics = metrics(&came);
            let (sent, expected) = (points(&metrics), expected(&samples.samples, window.span.end().unix_ns));
            assert!(sent.len() > 150, "{}", sent.len());
            for (name, point) in &expected {
                assert_eq!(sent.get(name), Some(point), "{name:?}");
            }
            assert_eq!(sent.len(), expected.len());
            for metric in &metrics {
                let described = catalogue::metrics().into_iter().find(|known| known.name == metric.name);
                let beside = metric
                    .name
                    .strip_suffix(".max")
                    .and_then(|name| catalogue::metrics().into_iter().find(|known| known.name == name));
                let known = described.or(beside).unwrap_or_else(|| panic!("{}", metric.name));
                let unit = if known.kind == Kind::Info { String::new() } else { known.measure.ucum() };
                assert_eq!(metric.unit, unit, "{}", metric.name);
                assert!(metric.description.ends_with(known.help), "{}", metric.name);
            }
            let logs = until("no incident came", || receiver.logs().first().cloned());
            let resource = logs.logs().resource_logs[0].resource.clone().unwrap();
            assert!(resource.attributes.iter().any(|attribute| attribute.key == "host.name"));
            assert_eq!(resource, came.metrics().resource_metrics[0].resource.clone().unwrap());
            let expected = match protocol {
                OtlpProtocol::Grpc => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
                OtlpProtocol::Http => "/v1/logs",
            };
            assert_eq!(logs.path, expected);
            let (_, status) = scene.stop();
            assert_eq!(
                status.failures + status.points_lost + status.records_lost + status.records_waiting,
                0,
                "{status:?}"
            );
            assert!(status.points_sent >= sent.len() as u64 && status.records_sent > 0, "{status:?}");
        }
    }
}

#[test]
fn exemplars_name_their_process() {
    let index = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/INDEX")).unwrap();
    let known = |sample: &Sample| sample.distribution()?.exemplar.clone().filter(|exemplar| exemplar.unix_ns.is_some());
    let mut windows = index.lines().filter(|name| !name.ends_with(".found")).map(recorded);
    let window =
        windows.find(|window| catalogue::samples(window).iter().any(|sample| known(sample).is_some())).unwrap();
    for histograms in [OtlpHistograms::Explicit, OtlpHistograms::Exponential] {
        let receiver = Receiver::start();
        let mut scene = Scene::start(OtlpSettings { histograms, ..only_metrics(&receiver, OtlpProtocol::Grpc) });
        scene.window(&window);
        let samples = scene.shared.snapshot(Mark::default()).unwrap().samples;
        let sent = metrics(&until("nothing came", || receiver.metrics().first().cloned()));
        let sent = sent.iter().flat_map(|metric| match &metric.data {
            Some(Data::Histogram(histogram)) => histogram.points.iter().flat_map(|p| p.exemplars.clone()).collect(),
            Some(Data::Exponential(histogram)) => histogram.points.iter().flat_map(|p| p.exemplars.clone()).collect(),
            _ => Vec::new(),
        });
        let sent: Vec<_> = sent.map(|exemplar| (exemplar.unix_ns, exemplar.value, exemplar.attributes)).collect();
        let expected = samples.iter().filter_map(|sample| {
            let exemplar = known(sample)?;
            let pid = KeyValue::new("process.pid", Any::Int(i64::from(exemplar.pid)));
            let comm = KeyValue::text("process.executable.name", exemplar.comm.as_str());
            #[allow(clippy::cast_precision_loss, reason = "as those who read metrics do")]
            let value = sample.metric.measure.base(exemplar.value as f64);
            Some((exemplar.unix_ns?, Some(value), vec![pid, comm]))
        });
        assert_eq!(sent, expected.collect::<Vec<_>>());
        assert!(!sent.is_empty());
    }
}

#[test]
fn exponential_histograms_have_the_same_counts_and_sums() {
    let receiver = Receiver::start();
    let histograms = OtlpHistograms::Exponential;
    let mut scene = Scene::start(OtlpSettings { histograms, ..only_metrics(&receiver, OtlpProtocol::Grpc) });
    scene.window(&recorded("fd_leak_files"));
    let samples = scene.shared.snapshot(Mark::default()).unwrap().samples;
    let metrics = metrics(&until("nothing came", || receiver.metrics().first().cloned()));
    let sent = points(&metrics);
    let mut compared = 0;
    for sample in samples.iter().filter(|sample| sample.distribution().is_some()) {
        let point = &sent[&(sample.metric.name.to_owned(), sample.labels.clone())];
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let count = sample.distribution().unwrap().histogram.count() as f64;
        assert_eq!(point.numbers, [count, sample.value()]);
        compared += 1;
    }
    assert!(compared > 3);
    let Some(Data::Exponential(histogram)) =
        &metrics.iter().find(|metric| metric.name == "kerno.syscall.duration").unwrap().data
    else {
        panic!()
    };
    for (point, sample) in
        histogram.points.iter().zip(samples.iter().filter(|s| s.metric.name == "kerno.syscall.duration"))
    {
        // Each bucket of ours has its middle in the one that has its values.
        let buckets = point.positive.clone().unwrap();
        for (low, high, count) in sample.buckets().into_iter().filter(|(_, high, _)| *high > 0.0) {
            let middle = f64::midpoint(low, high);
            let place = buckets.counts.iter().enumerate().find(|(place, _)| {
                let index = buckets.offset + i32::try_from(*place).unwrap();
                let bound = |index: i32| 2f64.powf(f64::from(index) / 8.0);
                bound(index) < middle && middle <= bound(index + 1)
            });
            assert!(*place.unwrap().1 >= count);
        }
    }
}

#[test]
fn series_go_on_begin_and_end() {
    let receiver = Receiver::start();
    let mut scene = Scene::start(only_metrics(&receiver, OtlpProtocol::Http));
    let mut window = recorded("fd_leak_files");
    scene.window(&window);
    let first = points(&metrics(&until("nothing came", || receiver.metrics().first().cloned())));
    // What is a largest value is not there any more, nor is a device.
    std::thread::sleep(Duration::from_millis(1100));
    window.span.started_unix += window.span.seconds;
    window.syscall_latency = None;
    scene.window(&window);
    let second = metrics(&until("no second came", || receiver.metrics().get(1).cloned()));
    let ended: Vec<_> = second
        .iter()
        .filter_map(|metric| match &metric.data {
            Some(Data::Gauge(gauge)) => Some((metric, &gauge.points)),
            _ => None,
        })
        .flat_map(|(metric, points)| points.iter().map(move |point| (metric.name.as_str(), point)))
        .filter(|(_, point)| point.flags == NO_VALUE)
        .collect();
    assert!(ended.iter().any(|(name, _)| *name == "kerno.syscall.duration.max"), "{ended:?}");
    assert!(ended.iter().all(|(_, point)| point.value.is_none()));
    let all = points(&second);
    let counter = ("kerno.windows".to_owned(), Vec::new());
    assert_eq!((&first[&counter].numbers[0], &all[&counter].numbers[0]), (&1.0, &2.0));
    assert_eq!(first[&counter].start, all[&counter].start, "it goes on");
    assert!(all[&counter].end > first[&counter].end);
    // The end of a series is told once.
    std::thread::sleep(Duration::from_millis(1100));
    window.span.started_unix += window.span.seconds;
    scene.window(&window);
    let third = metrics(&until("no third came", || receiver.metrics().get(2).cloned()));
    assert!(!third.iter().any(|metric| metric.name == "kerno.syscall.duration.max"));
    scene.stop();

    // Another run begins at another time, which is what a reset is told by.
    let mut scene = Scene::start(only_metrics(&receiver, OtlpProtocol::Http));
    window.span.started_unix += 100.0;
    scene.window(&window);
    let again = points(&metrics(&until("nothing came after the restart", || receiver.metrics().get(3).cloned())));
    assert_eq!(again[&counter].numbers, [1.0]);
    assert!(again[&counter].start > all[&counter].end);
}

#[test]
fn a_largest_value_is_told_until_somebody_has_read_it() {
    let receiver = Receiver::start();
    receiver.reply([Reply::Http(500, Vec::new(), "")]);
    let mut scene = Scene::start(only_metrics(&receiver, OtlpProtocol::Http));
    let mut window = recorded("fd_leak_files");
    scene.window(&window);
    until("the first was not refused", || (scene.status().failures == 1).then_some(()));
    assert!(scene.status().points_lost > 0 && scene.status().points_sent == 0);
    std::thread::sleep(Duration::from_millis(1100));
    window.span.started_unix += window.span.seconds;
    window.syscall_latency = None;
    scene.window(&window);
    let second = metrics(&until("no second came", || receiver.metrics().get(1).cloned()));
    assert!(second.iter().any(|metric| metric.name == "kerno.syscall.duration.max"), "nobody has it yet");
    until("it does not count", || (scene.status().points_sent > 0).then_some(()));
    assert_eq!(scene.status().metrics_failing, None);
}

#[test]
fn receivers_that_are_busy_are_asked_again_when_they_say() {
    let delay = RetryInfo { delay: Some(Span { seconds: 2, nanos: 0 }) }.encode_to_vec();
    let kind = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
    let details = ErrorDetails { message: String::new(), details: vec![Detail { kind, value: delay }] }.encode_to_vec();
    let asked = || vec![("retry-after", "2".to_owned())];
    let busy = [
        (OtlpProtocol::Http, Reply::Http(429, asked(), "slow down")),
        (OtlpProtocol::Http, Reply::Http(503, asked(), "")),
        (OtlpProtocol::Grpc, Reply::Grpc(14, "busy", details.clone())),
        (OtlpProtocol::Grpc, Reply::Grpc(8, "too much", details)),
    ];
    let wait = |(protocol, reply): (OtlpProtocol, Reply)| {
        let receiver = Receiver::start();
        receiver.reply([reply.clone()]);
        let mut scene = Scene::start(only_logs(&receiver, protocol));
        let changed = scene.window(&recorded("fd_leak_files"));
        let came = until("no second attempt", || Some(receiver.logs()).filter(|came| came.len() == 2));
        let waited = came[1].at - came[0].at;
        assert!(waited >= Duration::from_millis(1990) && waited < Duration::from_millis(3500), "{reply:?}: {waited:?}");
        assert_eq!(events(&came[..1]), events(&came[1..]), "the same again");
        until("it does not count", || (scene.status().records_sent == changed as u64).then_some(()));
        let (_, status) = scene.stop();
        assert_eq!((status.failures, status.records_lost, status.records_waiting), (1, 0, 0), "{status:?}");
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = busy.into_iter().map(|one| scope.spawn(|| wait(one))).collect();
        all.into_iter().for_each(|one| one.join().unwrap());
    });
}

#[test]
fn attempts_that_fail_are_repeated_and_become_rarer() {
    let unavailable = || Reply::Grpc(14, "down", Vec::new());
    let gateway = || Reply::Http(502, Vec::new(), "");
    for (protocol, replies) in
        [(OtlpProtocol::Grpc, vec![unavailable(), unavailable()]), (OtlpProtocol::Http, vec![gateway(), gateway()])]
    {
        let receiver = Receiver::start();
        receiver.reply(replies);
        let mut scene = Scene::start(only_logs(&receiver, protocol));
        scene.window(&recorded("fd_leak_files"));
        let came = until("no third attempt", || Some(receiver.logs()).filter(|came| came.len() == 3));
        let waits = [came[1].at - came[0].at, came[2].at - came[1].at];
        assert!((0.49..1.8).contains(&waits[0].as_secs_f64()), "{waits:?}");
        assert!((0.99..3.3).contains(&waits[1].as_secs_f64()), "{waits:?}");
        until("it still fails", || {
            (scene.status().logs_failing.is_none() && scene.status().records_sent > 0).then_some(())
        });
    }
}

#[test]
fn what_is_not_wanted_is_dropped_and_counted() {
    for (protocol, reply) in [
        (OtlpProtocol::Http, Reply::Http(400, Vec::new(), "bad data")),
        (OtlpProtocol::Http, Reply::Http(401, Vec::new(), "who are you")),
        (OtlpProtocol::Http, Reply::Http(404, Vec::new(), "")),
        (OtlpProtocol::Http, Reply::Http(302, vec![("location", "http://127.0.0.1:9/".to_owned())], "")),
        (OtlpProtocol::Grpc, Reply::Grpc(3, "bad data", Vec::new())),
        (OtlpProtocol::Grpc, Reply::Grpc(8, "too large", Vec::new())),
        (OtlpProtocol::Grpc, Reply::Grpc(16, "who are you", Vec::new())),
    ] {
        let receiver = Receiver::start();
        receiver.reply([reply.clone()]);
        let mut scene = Scene::start(only_logs(&receiver, protocol));
        let changed = scene.window(&recorded("fd_leak_files")) as u64;
        let status =
            until("it is not counted", || Some(scene.status()).filter(|status| status.records_lost == changed));
        assert!(status.logs_failing.is_some(), "{reply:?}");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(receiver.logs().len(), 1, "{reply:?}: it is not tried again");
        // In the metrics too, after the next window.
        scene.window(&recorded("idle"));
        let lost =
            scene.shared.metrics("test").into_iter().find(|sample| sample.metric.name == "kerno.otlp.records.lost");
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let changed = changed as f64;
        assert!((lost.unwrap().value() - changed).abs() < 0.5);
    }
}

#[test]
fn what_is_taken_in_part_is_counted_in_part() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.reply([Reply::Partly(1, "one is too old"), Reply::Partly(7, "points without a name")]);
        let mut scene = Scene::start(settings(&receiver, protocol));
        let changed = scene.window(&recorded("fd_leak_files")) as u64;
        let status = until("it does not count", || Some(scene.status()).filter(|status| status.points_lost > 0));
        assert_eq!((status.records_sent, status.records_lost), (changed - 1, 1), "{status:?}");
        assert_eq!(status.points_lost, 7, "{status:?}");
        let sent = points(&metrics(&receiver.metrics()[0])).len() as u64;
        assert_eq!(status.points_sent, sent - 7);
        assert_eq!(status.failures, 0, "{status:?}");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(receiver.came().len(), 2, "it is not tried again");
    }
}

#[test]
fn a_receiver_that_is_down_for_a_while_gets_everything_afterwards() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        let address = receiver.address;
        let mut scene = Scene::start(settings(&receiver, protocol));
        scene.window(&recorded("idle"));
        until("nothing came", || (!receiver.metrics().is_empty()).then_some(()));
        receiver.stop();
        let changed = scene.changes(12);
        until("it notices nothing", || scene.status().logs_failing);
        until("they do not wait", || (scene.status().records_waiting == changed as u64).then_some(()));
        let receiver = Receiver::on(address, None);
        until("not all came", || (events(&receiver.logs()).len() == changed).then_some(()));
        // What has come is told a moment later.
        let works = |status: &OtlpStatus| status.metrics_failing.is_none() && status.logs_failing.is_none();
        let status = until("it still fails", || Some(scene.status()).filter(works));
        assert_eq!(status.records_lost, 0, "{status:?}");
        let events = events(&receiver.logs());
        let opened = format!("kerno.incident.{}", Course::Opened.name());
        assert_eq!(events[0].1, opened, "in their order: {events:?}");
        until("no metrics came", || (!receiver.metrics().is_empty()).then_some(()));
    }
}

#[test]
fn what_waits_is_bounded_and_the_oldest_go_first() {
    let receiver = Receiver::start();
    let address = receiver.address;
    receiver.stop();
    let mut scene = Scene::start(OtlpSettings { queue: 5, ..only_logs(&receiver, OtlpProtocol::Http) });
    let changed = scene.changes(30) as u64;
    // Up to what is tried now and what waits.
    let status = until("nothing is lost", || Some(scene.status()).filter(|status| status.records_lost > 0));
    assert!(status.records_waiting >= 5, "{status:?}");
    let receiver = Receiver::on(address, None);
    let status = until("they do not come", || Some(scene.status()).filter(|status| status.records_waiting == 0));
    assert_eq!(status.records_sent + status.records_lost, changed, "{status:?}");
    assert_eq!(events(&receiver.logs()).len() as u64, status.records_sent);
}

#[test]
fn a_slow_receiver_delays_neither_the_loop_nor_the_stop() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.reply(std::iter::repeat_n(Reply::Late(Duration::from_secs(60)), 20));
        let mut slow = settings(&receiver, protocol);
        slow.outbound.timeout = Duration::from_secs(30);
        let mut scene = Scene::start(slow);
        let began = Instant::now();
        let changed = scene.changes(12);
        let judged = began.elapsed();
        until("nothing came", || (!receiver.came().is_empty()).then_some(()));
        assert!(judged < Duration::from_secs(5), "{judged:?} for {changed} changes");
        let (took, status) = scene.stop();
        assert!(took < Duration::from_millis(1300), "{took:?}");
        assert_eq!(status.records_sent, 0);
    }
}

#[test]
fn what_takes_too_long_is_tried_again() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.reply([Reply::Late(Duration::from_secs(60))]);
        let mut slow = only_logs(&receiver, protocol);
        slow.outbound.timeout = Duration::from_millis(300);
        let mut scene = Scene::start(slow);
        let changed = scene.window(&recorded("fd_leak_files")) as u64;
        let status = until("it does not come", || Some(scene.status()).filter(|status| status.records_sent == changed));
        assert_eq!((status.failures, status.records_lost), (1, 0), "{status:?}");
    }
}

#[test]
fn answers_that_make_no_sense_harm_nothing() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.reply([
            Reply::Nonsense,
            Reply::Http(200, Vec::new(), "hello"),
            Reply::Partly(i64::MAX, "all"),
            Reply::Partly(-5, ""),
        ]);
        let mut scene = Scene::start(only_logs(&receiver, protocol));
        let changed = scene.changes(8) as u64;
        let status = until("they do not come", || {
            Some(scene.status()).filter(|status| status.records_sent + status.records_lost == changed)
        });
        assert_eq!(status.records_waiting, 0, "{status:?}");
    }
}

#[test]
fn what_waits_is_sent_when_it_stops() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.reply([Reply::Http(503, vec![("retry-after", "600".to_owned())], ""), Reply::Taken]);
        let mut scene =
            Scene::start(OtlpSettings { interval: Duration::from_secs(3600), ..settings(&receiver, protocol) });
        let changed = scene.window(&recorded("fd_leak_files")) as u64;
        until("it was not refused", || (scene.status().failures == 1).then_some(()));
        until("no metrics came", || (scene.status().points_sent > 0).then_some(()));
        let mut later = recorded("fd_leak_files");
        later.span.started_unix += later.span.seconds;
        scene.window(&later);
        let (took, status) = scene.stop();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(status.records_sent >= changed && status.records_waiting == 0, "{status:?}");
        let last = points(&metrics(receiver.metrics().last().unwrap()));
        assert_eq!(last[&("kerno.windows".to_owned(), Vec::new())].numbers, [2.0], "the last window too");
    }
}

#[test]
fn headers_are_sent_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    for protocol in PROTOCOLS {
        std::fs::write(&token, "Bearer one\n").unwrap();
        let receiver = Receiver::start();
        let mut settings = only_logs(&receiver, protocol);
        settings.headers.push(("Authorization".to_owned(), crate::Secret::File(token.clone())));
        let mut scene = Scene::start(settings);
        scene.window(&recorded("fd_leak_files"));
        let first = until("nothing came", || receiver.logs().first().cloned());
        assert_eq!(first.headers["authorization"], "Bearer one");
        assert!(first.headers["user-agent"].to_str().unwrap().contains("kerno/"), "{:?}", first.headers);
        std::fs::write(&token, "Bearer two\n").unwrap();
        let before = receiver.logs().len();
        scene.changes(8);
        let second = until("nothing more came", || receiver.logs().get(before).cloned());
        assert_eq!(second.headers["authorization"], "Bearer two");
        // Without it, it waits until it is there again.
        std::fs::remove_file(&token).unwrap();
        until("the queue is not empty", || (scene.status().records_waiting == 0).then_some(()));
        scene.changes(8);
        let why = until("it sends without", || scene.status().logs_failing);
        assert!(why.contains("token"), "{why}");
        std::fs::write(&token, "Bearer three\n").unwrap();
        until("they do not come", || (scene.status().records_waiting == 0).then_some(()));
        assert_eq!(receiver.logs().last().unwrap().headers["authorization"], "Bearer three");
    }
}
