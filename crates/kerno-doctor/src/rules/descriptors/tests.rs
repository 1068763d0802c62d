use super::*;
use crate::{Effect, Thresholds};
use kerno_model::Series;
use kerno_model::errno;
use kerno_model::{FdSummary, FileProcess, FileSummary, SyscallOffender, SyscallSummary};

fn process(open: impl Fn(f64) -> f64) -> FdProcess {
    let open: Series = (0..25).map(|i| f64::from(i) * 0.2).map(|t| (t, open(t).floor())).collect();
    FdProcess { pid: 4711, comm: "postgres".into(), open, soft_limit: 1024, hard_limit: 4096, kinds: Vec::new() }
}

fn kind(kind: &str, growth: i64, duplicated: f64, example: &str) -> FdKind {
    FdKind { kind: kind.into(), count: 100, growth, duplicated, examples: vec![example.into()] }
}

fn observed(processes: Vec<FdProcess>) -> Window {
    let part = FdSummary { processes, files_max: 100_000, ..FdSummary::default() };
    Window { fd_track: Some(part), ..Window::default() }
}

fn leaks(process: FdProcess) -> Vec<Finding> {
    fd_leak(&observed(vec![process]), &FdLeak::with(&Thresholds::default()))
}

fn exhausted(window: &Window) -> Vec<Finding> {
    fd_exhaustion(window, &FdExhaustion::with(&Thresholds::default()))
}

fn failed(errno: i32, count: u64) -> Option<SyscallSummary> {
    let errors = vec![ErrnoCount::new(errno, count)];
    let offender = SyscallOffender { pid: 4711, comm: "postgres".into(), errors, ..SyscallOffender::default() };
    Some(SyscallSummary { offenders: vec![offender], ..SyscallSummary::default() })
}

#[test]
fn a_leak_names_the_process_the_kind_and_when_it_ends() {
    let mut leaking = process(|t| 100.0 + 12.0 * t);
    leaking.kinds = vec![kind("socket", 50, 0.0, "socket:[99]"), kind("file", 0, 0.0, "/x")];
    let [finding] = &leaks(leaking)[..] else { panic!("one finding") };
    assert!(
        finding.title.starts_with("postgres (4711) leaks sockets: 12 a second, limit of 1,024 in 1m 1"),
        "{}",
        finding.title
    );
    assert_eq!((finding.severity, finding.culprit.pid), (Severity::Critical, Some(4711)));
    let eta = finding.eta.as_ref().unwrap();
    assert!((eta.seconds - 72.0).abs() < 3.0 && eta.fit > 0.99);
    assert!(finding.excess > 2.5 && finding.confidence > 0.9);
    let commands: Vec<_> = finding.fixes.iter().map(|fix| (&*fix.command, fix.effect)).collect();
    assert!(commands.contains(&("lsof -nP -a -p 4711 -i", Effect::ReadOnly)));
    assert!(commands.contains(&("prlimit --pid 4711 --nofile=4096:4096", Effect::Changing)));
}

#[test]
fn what_is_duplicated_is_said() {
    let title = |kinds: FdKind| {
        let mut leaking = process(|t| 100.0 + 12.0 * t);
        leaking.kinds = vec![kinds];
        leaks(leaking).remove(0).title
    };
    assert!(title(kind("file", 50, 0.97, "/etc/passwd")).contains("leaks duplicates of /etc/passwd: "));
    assert!(title(kind("socket", 50, 0.97, "socket:[7]")).contains("leaks duplicates of one socket (socket:[7]): "));
    assert!(title(kind("eventfd", 50, 0.97, "anon_inode:[eventfd]")).contains("leaks duplicated eventfds: "));
    assert!(title(kind("file", 50, 0.0, "/etc/passwd")).contains("leaks files: "));
    assert!(title(kind("file", -2, 0.0, "/etc/passwd")).contains("leaks descriptors: "));
}

#[test]
fn a_slow_leak_is_a_warning() {
    let mut slow = process(|t| 100.0 + 8.0 * t);
    slow.soft_limit = 1 << 20;
    assert_eq!(leaks(slow)[0].severity, Severity::Warning);
}

#[test]
fn busy_servers_do_not_leak() {
    assert!(leaks(process(|t| 100.0 + 300.0 * t.min(1.0))).is_empty(), "connections that rise and settle");
    assert!(leaks(process(|t| 100.0 + 3.0 * t)).is_empty(), "too few");
    assert!(leaks(process(|t| 100.0 + 50.0 * (9.0 * t).sin())).is_empty(), "up and down");
    assert!(leaks(process(|_| 900.0)).is_empty());
}

#[test]
fn near_the_limit_is_a_warning_and_failing_is_critical() {
    let below = observed(vec![process(|_| 900.0)]);
    assert!(exhausted(&below).is_empty());
    let near = observed(vec![process(|_| 922.0)]);
    let [finding] = &exhausted(&near)[..] else { panic!("one finding") };
    assert_eq!(finding.title, "postgres (4711) is near its limit: 922 of 1,024 descriptors open");
    assert_eq!(finding.severity, Severity::Warning);
    let failing = Window { syscall_latency: failed(errno::EMFILE, 37), ..observed(vec![process(|_| 1024.0)]) };
    let [finding] = &exhausted(&failing)[..] else { panic!("one finding") };
    assert_eq!(
        finding.title,
        "postgres (4711) is out of descriptors: 37 calls failed, 1,024 of 1,024 descriptors open"
    );
    assert_eq!((finding.severity, finding.culprit.pid), (Severity::Critical, Some(4711)));
}

#[test]
fn a_limit_lowered_on_purpose_is_none() {
    let mut sandboxed = process(|_| 5.0);
    sandboxed.soft_limit = 0;
    assert!(exhausted(&observed(vec![sandboxed])).is_empty());
}

#[test]
fn failures_are_not_counted_twice_and_need_no_descriptors() {
    let opener = FileProcess {
        pid: 4711,
        comm: "postgres".into(),
        errors: vec![ErrnoCount::new(errno::EMFILE, 40)],
        ..FileProcess::default()
    };
    let file_audit = Some(FileSummary { processes: vec![opener], ..FileSummary::default() });
    let gone = Window { syscall_latency: failed(errno::EMFILE, 37), file_audit, ..observed(Vec::new()) };
    let [finding] = &exhausted(&gone)[..] else { panic!("one finding") };
    assert_eq!(finding.title, "postgres (4711) was out of descriptors: 40 calls failed with EMFILE");
    let other = Window { syscall_latency: failed(errno::EACCES, 37), ..observed(Vec::new()) };
    assert!(exhausted(&other).is_empty());
}

#[test]
fn the_machine_itself_can_run_out() {
    let mut full = observed(vec![process(|_| 800.0)]);
    full.fd_track.as_mut().unwrap().files = [(0.0, 95_000.0)].into_iter().collect();
    let [finding] = &exhausted(&full)[..] else { panic!("one finding") };
    assert_eq!(finding.title, "the machine has 95,000 of 100,000 files open (95 %); postgres (4711) has most, 800");
    let failing = Window { syscall_latency: failed(errno::ENFILE, 2), ..observed(Vec::new()) };
    let [finding] = &exhausted(&failing)[..] else { panic!("one finding") };
    assert_eq!(finding.victims[0].pid, Some(4711));
}

#[test]
fn limits_are_raised_no_further_than_the_kernel_lets() {
    let prlimit = |soft, hard| {
        let full = FdProcess { soft_limit: soft, hard_limit: hard, ..process(|_| 1e9) };
        let findings = exhausted(&observed(vec![full]));
        findings[0].fixes.iter().find(|fix| fix.command.starts_with("prlimit")).map(|fix| fix.command.clone())
    };
    assert_eq!(prlimit(1024, 4096).unwrap(), "prlimit --pid 4711 --nofile=4096:4096");
    assert_eq!(prlimit(524_288, 524_288).unwrap(), "prlimit --pid 4711 --nofile=1048576:1048576");
    assert_eq!(prlimit(1 << 20, 1 << 20), None);
}

#[test]
fn inotify_instances_are_no_descriptors() {
    let mut calls = failed(errno::EMFILE, 37);
    calls.as_mut().unwrap().offenders[0].name = "inotify_init1".into();
    assert!(exhausted(&Window { syscall_latency: calls, ..observed(Vec::new()) }).is_empty());
}

#[test]
fn slow_leaks_show_in_long_windows_and_small_changes_of_many_do_not() {
    let slow = |t: f64| 100.0 + 0.2 * t * 120.0;
    let mut long = observed(vec![process(slow)]);
    let open = &mut long.fd_track.as_mut().unwrap().processes[0].open;
    *open = open.points().iter().map(|(t, value)| (t * 120.0, *value)).collect();
    long.span.seconds = 580.0;
    let rule = FdLeak::with(&Thresholds::default());
    assert_eq!(fd_leak(&long, &rule).len(), 1, "one in five seconds, for ten minutes");
    long.span.seconds = 30.0;
    assert!(fd_leak(&long, &rule).is_empty());
    let busy = |limit| FdProcess { soft_limit: limit, ..process(|t| 50_000.0 + 20.0 * t) };
    assert!(leaks(busy(1 << 20)).is_empty());
    assert_eq!(leaks(busy(52_000)).len(), 1, "little is left");
}

#[test]
fn a_program_that_starts_opens_what_it_needs() {
    let started = |started_ns, limit| {
        let mut window = observed(vec![FdProcess { soft_limit: limit, ..process(|t| 10.0 + 50.0 * t) }]);
        window.span.started_ns = 1_000;
        let known = kerno_model::Process { pid: 4711, started_ns, ..Default::default() };
        window.processes.insert(4711, known);
        fd_leak(&window, &FdLeak::with(&Thresholds::default())).len()
    };
    assert_eq!((started(2_000, 1024), started(500, 1024)), (0, 1));
    assert_eq!(started(2_000, 400), 1, "it will not get far");
}
