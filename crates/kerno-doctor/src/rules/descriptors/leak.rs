use kerno_model::amount::{number, quantity, span};
use kerno_model::{Effect, Eta, Fact, FdProcess, Finding, Limit, Scope, Series, Severity, Subject, Unit, Window};

use super::{count_targets, holder, raise_limit};
use crate::growth::{Growth, LONG_SECONDS, SHORT_SECONDS, horizon, is_current, steady_growth};
use crate::title::title;
use crate::{Words, rule, suffers};

/// Growth by a smaller share of what is open is no leak.
const MATTERS: f64 = 0.02;

/// In a long window, growth that does not lead to the limit soon must have this share of what is open: a server has more connections at
/// noon than in the morning.
const MATTERS_LONG: f64 = 0.5;

/// A program has started up after so long, and needs less of its limit for it.
const START_SECONDS: f64 = 10.0;
const START_SHARE: f64 = 0.5;

/// From this share of the limit on, calls may fail already.
const AT_LIMIT: f64 = 0.95;
/// Of the new ones, this share being copies makes it a leak of copies.
const MOSTLY: f64 = 0.5;
/// How many kinds are told of.
const MAX_KINDS: usize = 3;

rule! {
    /// A process that opens and does not close.
    FdLeak = "fd_leak", "fd_track", "the open file descriptors of a process keep growing",
        "Counts the open file descriptors of each process exactly, from the kernel's own bitmap. A leak is a number that grows along \
         a line to the end of the window. Connections that rise and settle, a build, a burst, or a few more of very many are no leak. \
         What grows is found by a look at the file descriptors when the growth begins and another at the end.",
        judge, words;
    causes: [DescriptorsFill, NoDescriptors];
    suffers: [
        suffers(Effect::StandsStill, |ties, a, b| ties.same_process(a, b), "what is stuck keeps its descriptors, and more comes"),
        suffers(Effect::HoldsUp, |ties, a, b| ties.held_up(a, b), "what waits keeps its descriptors, and more comes"),
    ];
    trend: open;
    thresholds: {
        min_growth: 20.0 Count, 1.0 ..= 1e9, "net new file descriptors in the window";
        min_per_second: 1.0 PerSecond, 0.001 ..= 1e9, "new file descriptors per second; proportionally fewer in windows longer than 30 seconds";
        min_fit: 0.9 Ratio, 0.0 ..= 1.0, "how well a straight line must fit (R squared)";
        critical_seconds: 600.0 Seconds, 0.0 ..= 1e9, "critical when the process reaches its own limit sooner than this";
    }
    evidence: {
        growth_per_second: "growth of open file descriptors";
        growth: "file descriptors opened and not closed since the growth began";
        fit: "fit of a straight line to the growth (R squared)";
        open: "open file descriptors at the end of the window";
        soft_limit: "soft limit of the process (RLIMIT_NOFILE)";
        new_of_kind: "{} among the new ones looked at";
    }
}

fn judge(window: &Window, rule: &FdLeak) -> Vec<Finding> {
    let processes = window.fd_track.iter().flat_map(|part| &part.processes);
    let long = window.covered_seconds() >= LONG_SECONDS;
    processes
        .filter(|process| is_current(window, &process.open))
        .filter_map(|process| {
            let growth = steady_growth(&process.open, rule.min_fit)?;
            // The longer it was seen to go on, the slower a leak may be.
            let per_second = rule.min_per_second * (SHORT_SECONDS / window.covered_seconds()).min(1.0);
            // Of a server with very many connections some more are no leak, unless they lead to the limit soon.
            #[allow(clippy::cast_precision_loss, reason = "a limit")]
            let left = growth.seconds_until(process.soft_limit as f64);
            let matters = growth.net >= if long { MATTERS_LONG } else { MATTERS } * growth.last
                || left <= horizon(window, rule.critical_seconds);
            let enough = growth.net >= rule.min_growth && growth.per_second >= per_second && matters;
            let enough = enough && !starts_up(window, process);
            enough.then(|| leak(window, rule, process, &growth))
        })
        .collect()
}

/// What grows.
fn open(window: &Window, finding: &Finding) -> Option<Series> {
    let processes = &window.fd_track.as_ref()?.processes;
    processes.iter().find(|process| Some(process.pid) == finding.pid()).map(|process| process.open.clone())
}

/// It began in this window, and what it has opened so far may be all that it needs.
fn starts_up(window: &Window, process: &FdProcess) -> bool {
    let began = window.process(process.pid).map_or(0, |process| process.started_ns);
    let seen =
        process.open.points().last().zip(process.open.points().first()).map_or(0.0, |(last, first)| last.0 - first.0);
    began > window.span.started_ns && seen < START_SECONDS && process.share() < START_SHARE
}

#[allow(clippy::cast_precision_loss, reason = "numbers of file descriptors")]
fn leak(window: &Window, rule: &FdLeak, process: &FdProcess, growth: &Growth) -> Finding {
    let limit = process.soft_limit as f64;
    let left = growth.seconds_until(limit);
    let severity = if left <= rule.critical_seconds { Severity::Critical } else { Severity::Warning };
    let mut finding = FdLeak::finding(severity)
        .about(Subject::process(window, process.pid, &process.comm))
        .fact(Fact::Scope(Scope::Process))
        .measured("growth_per_second", growth.per_second, Unit::PerSecond, Some(rule.min_per_second))
        .measured("growth", growth.net, Unit::Count, Some(rule.min_growth))
        .measured("fit", growth.fit, Unit::Ratio, Some(rule.min_fit))
        .measured("open", growth.last, Unit::Count, None)
        .measured("soft_limit", limit, Unit::Count, None);
    if growth.last >= AT_LIMIT * limit {
        finding = finding.fact(Fact::AtLimit(Limit::Descriptors));
    }
    for kind in process.kinds.iter().filter(|kind| kind.growth > 0).take(MAX_KINDS) {
        finding = finding.measured_of("new_of_kind", plural(kind.kind.name()), kind.growth as f64, Unit::Count, None);
    }
    let leaked = process.kinds.first().filter(|kind| kind.growth > 0);
    if let Some(kind) = leaked {
        finding = finding.detail("kind", kind.kind.name()).detail("duplicated", kind.duplicated >= MOSTLY);
        if let Some(example) = kind.examples.first() {
            finding = finding.detail("example", example.as_str());
        }
    }
    finding.since = growth.since.map(|since| window.moment(since));
    finding.eta = Some(Eta::new(window.moment(window.covered_seconds() + left), left, growth.fit));
    finding.excess = growth.net / rule.min_growth;
    // A longer look and a straighter line say more.
    let all_of_one_kind = leaked.is_some_and(|kind| kind.growth as f64 >= 0.3 * growth.net);
    finding.confidence = (0.6 + 0.25 * growth.fit + if all_of_one_kind { 0.1 } else { 0.0 }).min(0.95);
    advise(finding, process, leaked.map(|kind| kind.kind.name()))
}

fn advise(finding: Finding, process: &FdProcess, kind: Option<&str>) -> Finding {
    let pid = process.pid;
    let finding = finding.look_at_process(count_targets(pid), "shows what most of its file descriptors refer to");
    let finding = if kind == Some("socket") {
        finding
            .look_at_process(
                format!("lsof -nP -a -p {pid} -i"),
                "shows whom its sockets are connected to, and their states",
            )
            .look_at_process(
                format!("ss -tnp state close-wait | grep pid={pid},"),
                "shows connections that the other end has closed and this process has not",
            )
    } else {
        finding.look_at_process(format!("lsof -nP -p {pid}"), "shows each file descriptor with its file")
    };
    raise_limit(finding, process, "buys time; the leak itself is a bug in the program")
}

fn plural(kind: &str) -> String {
    match kind {
        "timerfd" | "signalfd" | "eventfd" | "memfd" | "pidfd" => format!("{kind}s"),
        "device" | "file" | "pipe" | "socket" | "namespace" => format!("{kind}s"),
        other => format!("{other} descriptors"),
    }
}

fn words(finding: &Finding) -> Words {
    let who = holder(finding);
    let kind = finding.text("kind");
    let example = finding.text("example");
    let duplicated = finding.flag("duplicated");
    let plural = kind.map_or_else(|| "file descriptors".to_owned(), plural);
    let what = match (kind, example) {
        (Some("file"), Some(example)) if duplicated => format!("duplicates of {example}"),
        (Some(kind), Some(example)) if duplicated && example.contains(":[") && !example.starts_with("anon_inode") => {
            format!("duplicates of one {kind} ({example})")
        }
        _ if duplicated => format!("duplicated {plural}"),
        _ => plural.clone(),
    };
    let pace = finding.number("growth_per_second").map(|pace| quantity(pace, Unit::PerSecond));
    let left = finding.eta.as_ref().map(|eta| eta.seconds);
    let limit = finding.number("soft_limit").map(number);
    let of_limit = limit.as_ref().map_or_else(String::new, |limit| format!(" of {limit}"));
    let reached = left.map(|left| {
        if left > 0.0 {
            format!("limit{of_limit} reached in {}", span(left))
        } else {
            format!("limit{of_limit} reached")
        }
    });
    let cause = match (kind, example) {
        _ if duplicated => {
            "It duplicates a file descriptor again and again (dup, fcntl, a received message) and closes none of the \
             copies."
                .to_owned()
        }
        (Some("file"), Some(example)) => format!("It opens files, such as {example}, and does not close them."),
        (Some(_), Some(example)) => format!("It creates {plural} (the latest is {example}) and does not close them."),
        _ => format!("It opens {plural} and does not close them."),
    };
    let at_limit = match &limit {
        Some(limit) => format!("Once {limit} file descriptors are open"),
        None => "At its limit of file descriptors".to_owned(),
    };
    let outlook = match (left, &limit) {
        (None, _) => String::new(),
        (Some(_), Some(limit)) => format!("{who} reaches its limit of {limit} file descriptors"),
        (Some(_), None) => format!("{who} reaches its limit of file descriptors"),
    };
    Words {
        title: title(&format!("{who} leaks {what}"), [pace, reached]),
        cause,
        impact: format!("{at_limit}, each further open, socket, accept or pipe of this process fails with EMFILE."),
        outlook,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::descriptors::sample::{observed, process};
    use crate::rules::testing::words_hold;
    use kerno_model::{FdKind, Safety};

    fn kind(kind: &str, growth: i64, duplicated: f64, example: &str) -> FdKind {
        FdKind { kind: kind.into(), count: 100, growth, duplicated, examples: vec![example.into()] }
    }

    fn leaks(process: FdProcess) -> Vec<Finding> {
        judge(&observed(vec![process]), &FdLeak::with(&Thresholds::default()))
    }

    fn title(finding: &Finding) -> String {
        crate::words(finding).title
    }

    #[test]
    fn a_leak_names_the_process_the_kind_and_when_it_ends() {
        let mut leaking = process(|t| 100.0 + 12.0 * t);
        leaking.kinds = vec![kind("socket", 50, 0.0, "socket:[99]"), kind("file", 0, 0.0, "/x")];
        let [finding] = &leaks(leaking)[..] else { panic!("one finding") };
        assert!(
            title(finding).starts_with("postgres (4711) leaks sockets: 12/s, limit of 1,024 reached in 1 min 1"),
            "{}",
            title(finding)
        );
        assert_eq!(crate::words(finding).outlook, "postgres (4711) reaches its limit of 1,024 file descriptors");
        assert!(!finding.is_at(Limit::Descriptors));
        assert_eq!((finding.severity, finding.pid()), (Severity::Critical, Some(4711)));
        let eta = finding.eta.as_ref().unwrap();
        assert!((eta.seconds - 72.0).abs() < 3.0 && eta.fit > 0.99);
        assert!(finding.excess > 2.5 && finding.confidence > 0.9);
        let commands: Vec<_> = finding.fixes.iter().map(|fix| (&*fix.command, fix.effect)).collect();
        assert!(commands.contains(&("lsof -nP -a -p 4711 -i", Safety::ReadOnly)));
        assert!(
            finding.fixes.iter().all(|fix| matches!(&fix.acts_on, kerno_model::Entity::Process(id) if id.pid == 4711))
        );
        assert!(commands.contains(&("prlimit --pid 4711 --nofile=4096:4096", Safety::Changing)));
    }

    #[test]
    fn what_is_duplicated_is_said() {
        let of = |kinds: FdKind| {
            let mut leaking = process(|t| 100.0 + 12.0 * t);
            leaking.kinds = vec![kinds];
            title(&leaks(leaking)[0])
        };
        assert!(of(kind("file", 50, 0.97, "/etc/passwd")).contains("leaks duplicates of /etc/passwd: "));
        assert!(of(kind("socket", 50, 0.97, "socket:[7]")).contains("leaks duplicates of one socket (socket:[7]): "));
        assert!(of(kind("eventfd", 50, 0.97, "anon_inode:[eventfd]")).contains("leaks duplicated eventfds: "));
        assert!(of(kind("file", 50, 0.0, "/etc/passwd")).contains("leaks files: "));
        assert!(of(kind("file", -2, 0.0, "/etc/passwd")).contains("leaks file descriptors: "));
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
    fn slow_leaks_show_in_long_windows_and_small_changes_of_many_do_not() {
        let slow = |t: f64| 100.0 + 0.2 * t * 120.0;
        let mut long = observed(vec![process(slow)]);
        let open = &mut long.fd_track.as_mut().unwrap().processes[0].open;
        *open = open.points().iter().map(|(t, value)| (t * 120.0, *value)).collect();
        long.span.seconds = 580.0;
        let rule = FdLeak::with(&Thresholds::default());
        assert_eq!(judge(&long, &rule).len(), 1, "one in five seconds, for ten minutes");
        long.span.seconds = 30.0;
        assert!(judge(&long, &rule).is_empty());
        let busy = |limit| FdProcess { soft_limit: limit, ..process(|t| 50_000.0 + 20.0 * t) };
        assert!(leaks(busy(1 << 20)).is_empty());
        assert_eq!(leaks(busy(52_000)).len(), 1, "little is left");
    }

    #[test]
    fn time_that_was_not_watched_counts_for_when_the_limit_is_reached() {
        let mut window = observed(vec![process(|t| 100.0 + 12.0 * t)]);
        let open = &mut window.fd_track.as_mut().unwrap().processes[0].open;
        let end = open.points().last().unwrap().0;
        (window.span.seconds, window.span.unwatched_seconds) = (0.4 * end, 0.6 * end);
        let finding = judge(&window, &FdLeak::with(&Thresholds::default())).remove(0);
        let eta = finding.eta.unwrap();
        assert_eq!(eta.at, window.moment(end + eta.seconds));
        assert!((eta.seconds - (1024.0 - 100.0) / 12.0 + end).abs() < 2.0, "{eta:?}");
    }

    #[test]
    fn a_program_that_starts_opens_what_it_needs() {
        let started = |started_ns, limit| {
            let mut window = observed(vec![FdProcess { soft_limit: limit, ..process(|t| 10.0 + 50.0 * t) }]);
            window.span.started_ns = 1_000;
            let known = kerno_model::Process { pid: 4711, started_ns, ..Default::default() };
            window.processes.insert(4711, known);
            judge(&window, &FdLeak::with(&Thresholds::default())).len()
        };
        assert_eq!((started(2_000, 1024), started(500, 1024)), (0, 1));
        assert_eq!(started(2_000, 400), 1, "it will not get far");
    }

    #[test]
    fn at_the_limit_it_says_so() {
        let mut leaking = process(|t| 100.0 + 12.0 * t);
        leaking.soft_limit = 150;
        let finding = leaks(leaking).remove(0);
        assert!(finding.is_at(Limit::Descriptors) && finding.eta.as_ref().unwrap().seconds == 0.0);
        assert!(title(&finding).ends_with(", limit of 150 reached"), "{}", title(&finding));
        assert_eq!(finding.fingerprint(), leaks(process(|t| 100.0 + 12.0 * t))[0].fingerprint(), "the same leak");
    }

    #[test]
    fn words_are_of_the_finding_alone() {
        let kinds = [
            kind("file", 50, 0.97, "/etc/passwd"),
            kind("socket", 50, 0.97, "socket:[7]"),
            kind("socket", 50, 0.0, "socket:[7]"),
            kind("file", 50, 0.0, "/etc/passwd"),
            kind("epoll", 50, 0.97, "anon_inode:[eventpoll]"),
            kind("file", -2, 0.0, "/etc/passwd"),
        ];
        for (kind, limit) in kinds.into_iter().zip([1024, 150].into_iter().cycle()) {
            let found = leaks(FdProcess { kinds: vec![kind], soft_limit: limit, ..process(|t| 100.0 + 12.0 * t) });
            assert_eq!(found.len(), 1);
            found.iter().for_each(words_hold);
        }
    }
}
