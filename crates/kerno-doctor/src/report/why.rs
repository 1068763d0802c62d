//! The answer of `kerno why` in words: a tree with bars, Markdown, folded stacks.

use std::fmt::Write as _;

use kerno_model::amount::{share, span};
use kerno_model::text::Escaped;
use kerno_model::{Spent, ThreadTime, TimeKind, WaitedFor, WhyLink, WhyProcess, WhyReport};

/// Width of a bar.
const BAR: usize = 20;
/// The most threads that the text shows, and the most parts of each.
const MAX_THREADS: usize = 12;
const MAX_PARTS: usize = 8;
/// What takes less of a thread's time is summed up.
const SMALL: f64 = 0.005;

fn escaped(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

fn named(process: &WhyProcess) -> String {
    if process.comm.is_empty() {
        format!("process {}", process.pid)
    } else {
        format!("{} ({})", escaped(&process.comm), process.pid)
    }
}

/// `php-fpm (901, 902 and 14 more)`.
fn several(processes: &[WhyProcess]) -> String {
    match processes {
        [] => String::new(),
        [one] => named(one),
        [first, ..] if processes.iter().all(|process| process.comm == first.comm) => {
            let shown: Vec<_> = processes.iter().take(3).map(|process| process.pid.to_string()).collect();
            let more = processes.len() - shown.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{} ({}{more})", escaped(&first.comm), shown.join(", "))
        }
        [first, rest @ ..] => format!("{} or {} others", named(first), rest.len()),
    }
}

/// What is waited for, such as `mysqld (455) by 127.0.0.1:3306`.
fn object(kind: TimeKind, on: &WaitedFor, own: u32) -> String {
    let who = several(&on.processes);
    let by = |how: &str| {
        let object = escaped(&on.object);
        match (who.is_empty(), object.is_empty()) {
            (false, false) => format!("{who} {how} {object}"),
            (false, true) => who.clone(),
            (true, _) => object,
        }
    };
    let thread = on.tid.filter(|_| on.processes.iter().any(|process| process.pid == own));
    match kind {
        TimeKind::Disk => {
            let device = if on.device.is_empty() { "storage".to_owned() } else { escaped(&on.device) };
            let call = if on.call.is_empty() { "a page fault" } else { &on.call };
            match on.object.as_str() {
                "" => format!("{call} on {device}"),
                path => format!("{call} of {} on {device}", escaped(path)),
            }
        }
        TimeKind::Lock | TimeKind::Thread => {
            let what = match (on.detail.as_str(), on.object.as_str()) {
                ("", "") => "a lock".to_owned(),
                ("", object) => escaped(object),
                (detail, "") => detail.to_owned(),
                (detail, object) => format!("{detail} {}", escaped(object)),
            };
            match (thread, who.is_empty(), kind) {
                (Some(tid), _, TimeKind::Thread) if on.detail.is_empty() => format!("thread {tid} to wake it"),
                (Some(tid), _, TimeKind::Thread) => format!("thread {tid}, {}", on.detail),
                (Some(tid), ..) => format!("{what}, held by thread {tid}"),
                (None, false, _) => format!("{what}, held by {who}"),
                (None, true, _) => format!("{what}, held by whom is not known"),
            }
        }
        TimeKind::CpuWait if who.is_empty() => String::new(),
        TimeKind::CpuWait => match on.processes.as_slice() {
            [first, _, ..] => format!("mostly behind {}", named(first)),
            _ => format!("behind {who}"),
        },
        TimeKind::Pipe | TimeKind::UnixSocket | TimeKind::Tcp | TimeKind::Udp => by("by"),
        TimeKind::Fuse | TimeKind::NetworkFs | TimeKind::Fanotify | TimeKind::Userfault => {
            let mut text = by("for");
            if !on.detail.is_empty() {
                let _ = write!(text, " ({})", escaped(&on.detail));
            }
            text
        }
        TimeKind::Other | TimeKind::Memory => {
            let call = if on.call.is_empty() { "outside of system calls" } else { &on.call };
            if on.place.is_empty() { call.to_owned() } else { format!("{call}, in {}", escaped(&on.place)) }
        }
        TimeKind::Idle => on.call.clone(),
        TimeKind::Timer => on.call.clone(),
        _ => by("by"),
    }
}

/// In a table: `waits for TCP`.
const fn label(kind: TimeKind) -> &'static str {
    match kind {
        TimeKind::CpuUser => "on CPU, in the program",
        TimeKind::CpuSystem => "on CPU, in the kernel",
        TimeKind::CpuWait => "waits for a CPU",
        TimeKind::Throttled => "held back by its CPU quota",
        TimeKind::Disk => "waits for storage",
        TimeKind::Memory => "waits for memory",
        TimeKind::Lock => "waits for a lock",
        TimeKind::Thread => "waits for a thread",
        TimeKind::Pipe => "waits at a pipe",
        TimeKind::UnixSocket => "waits at a Unix socket",
        TimeKind::Tcp => "waits at a TCP connection",
        TimeKind::Udp => "waits for UDP",
        TimeKind::Event => "waits for an event, and owes an answer",
        TimeKind::Child => "waits for a child",
        TimeKind::Stopped => "stopped by a signal",
        TimeKind::Traced => "held by a tracer",
        TimeKind::Frozen => "frozen with its cgroup",
        TimeKind::Fuse => "waits for a FUSE server",
        TimeKind::NetworkFs => "waits for a file server",
        TimeKind::Fanotify => "waits for a fanotify listener",
        TimeKind::Userfault => "waits for a page server",
        TimeKind::Timer => "sleeps as it asked to",
        TimeKind::Idle => "idle",
        _ => "other",
    }
}

/// As a sentence goes on behind a process.
fn verb(link: &WhyLink) -> String {
    let much = share(link.share);
    let own = link.pid.unwrap_or(0);
    let what = object(link.kind, &link.on, own);
    let on = |words: &str| if what.is_empty() { words.to_owned() } else { format!("{words} {what}") };
    match link.kind {
        TimeKind::CpuUser => format!("is on a CPU {much} of its time, in the program"),
        TimeKind::CpuSystem => format!("is on a CPU {much} of its time, in the kernel"),
        TimeKind::CpuWait => on(&format!("waits {much} for a CPU")),
        TimeKind::Throttled => format!("is held back {much} by the CPU quota of {}", escaped(&link.on.object)),
        TimeKind::Disk if !link.on.detail.is_empty() => link.on.detail.clone(),
        TimeKind::Disk => on(&format!("waits {much} in")),
        TimeKind::Memory => on(&format!("waits {much} for memory:")),
        TimeKind::Timer => format!("sleeps {much} as it asked to ({})", link.on.call),
        TimeKind::Stopped => format!("is stopped by a signal, {much} of the time"),
        TimeKind::Traced => on(&format!("is held {much} by")),
        TimeKind::Frozen => on(&format!("is frozen {much} with its cgroup")),
        TimeKind::Idle => "has nothing to do".to_owned(),
        TimeKind::Event if what.is_empty() => format!("waits {much} for an event, while it owes an answer"),
        TimeKind::Other if !link.on.detail.is_empty() => link.on.detail.clone(),
        TimeKind::Other => on(&format!("waits {much} in")),
        _ => on(&format!("waits {much} for")),
    }
}

fn who(link: &WhyLink) -> String {
    match link.pid {
        Some(pid) => {
            let thread = link.tid.filter(|tid| *tid != pid).map(|tid| format!(", thread {tid}")).unwrap_or_default();
            let comm = if link.comm.is_empty() { "process".to_owned() } else { escaped(&link.comm) };
            format!("{comm} ({pid}{thread})")
        }
        None => escaped(&link.comm),
    }
}

/// What the chain comes to, in one sentence.
fn sentence(report: &WhyReport) -> String {
    if report.chain.is_empty() {
        return "It waits for work, and there was none.".to_owned();
    }
    let steps: Vec<_> = report.chain.iter().map(|link| format!("{} {}", who(link), verb(link))).collect();
    let mut text = steps.join("; ");
    if report.cycle {
        text += "; and so in a circle: none of them can go on";
    }
    text + "."
}

fn bar(part: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1")]
    let full = (part.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

/// For people: the chain, then each thread's time with bars.
pub fn why_text(report: &WhyReport) -> String {
    let mut text = format!("{} for {}\n\n", escaped(&report.target), span(report.seconds));
    if report.chain.is_empty() {
        text += "It waits for work, and there was none.\n";
    }
    for (depth, link) in report.chain.iter().enumerate() {
        let indent = if depth == 0 { String::new() } else { format!("{}└─ ", "   ".repeat(depth - 1)) };
        let _ = writeln!(text, "{indent}{} {}", who(link), verb(link));
    }
    if report.cycle {
        let _ = writeln!(
            text,
            "{}└─ and so in a circle: none of them can go on",
            "   ".repeat(report.chain.len().saturating_sub(1))
        );
    }
    text.push('\n');
    let shown = shown(report);
    for thread in &shown {
        accounts(&mut text, thread);
    }
    let count = report.threads.len() + report.others.len();
    if count > shown.len() {
        let _ = writeln!(text, "and {} more threads: --output json has them all", count - shown.len());
    }
    for missing in &report.missing {
        let _ = writeln!(text, "not seen: {}", missing.what);
    }
    text
}

/// The target's threads, and those of the chain.
fn shown(report: &WhyReport) -> Vec<&ThreadTime> {
    let in_chain = |thread: &&ThreadTime| report.chain.iter().any(|link| link.tid == Some(thread.tid));
    report.threads.iter().take(MAX_THREADS).chain(report.others.iter().filter(in_chain)).collect()
}

fn part(spent: &Spent, thread: &ThreadTime) -> f64 {
    if thread.wall_seconds > 0.0 { spent.seconds / thread.wall_seconds } else { 0.0 }
}

fn accounts(text: &mut String, thread: &ThreadTime) {
    let name = if thread.pid == thread.tid {
        format!("{}", thread.pid)
    } else {
        format!("{}, thread {}", thread.pid, thread.tid)
    };
    let _ = writeln!(text, "{} ({name}), {}", escaped(&thread.comm), span(thread.wall_seconds));
    let mut rest = 0.0;
    for (shown, spent) in thread.spent.iter().enumerate() {
        let of_all = part(spent, thread);
        if shown >= MAX_PARTS || (of_all < SMALL && shown > 0) {
            rest += of_all;
            continue;
        }
        let what = object(spent.kind, &spent.on, thread.pid);
        let what = if what.is_empty() { String::new() } else { format!(": {what}") };
        let _ = writeln!(text, "  {} {:>5.1} %  {}{what}", bar(of_all), of_all * 100.0, label(spent.kind));
    }
    if rest >= SMALL / 10.0 {
        let _ = writeln!(text, "  {} {:>5.1} %  less than that each", bar(rest), rest * 100.0);
    }
    text.push('\n');
}

/// For chats and tickets.
pub fn why_markdown(report: &WhyReport) -> String {
    let mut text = format!("## Why {} waits\n\n{}\n\n", escaped(&report.target), sentence(report));
    text += "| thread | share | time | in |\n|---|---:|---:|---|\n";
    for thread in shown(report) {
        for spent in thread.spent.iter().filter(|spent| part(spent, thread) >= SMALL).take(MAX_PARTS) {
            let what = object(spent.kind, &spent.on, thread.pid).replace('|', "\\|");
            let what = if what.is_empty() { String::new() } else { format!(": {what}") };
            let name = escaped(&thread.comm).replace('|', "\\|");
            let _ = writeln!(
                text,
                "| {name} ({}) | {} | {} | {}{what} |",
                thread.tid,
                share(part(spent, thread)),
                span(spent.seconds),
                label(spent.kind)
            );
        }
    }
    for missing in &report.missing {
        let _ = writeln!(text, "\nNot seen: {}", missing.what);
    }
    text
}

/// Folded stacks, microseconds each: what flame graph programs read.
pub fn why_folded(report: &WhyReport) -> String {
    let mut text = String::new();
    let plain = |text: &str| escaped(text).replace([';', ' '], "_");
    for thread in report.threads.iter().chain(&report.others) {
        for spent in &thread.spent {
            let mut frames = vec![format!("{}-{}", plain(&thread.comm), thread.pid), format!("thread-{}", thread.tid)];
            frames.push(spent.kind.name().to_owned());
            for detail in [&spent.on.call, &spent.on.object, &spent.on.place] {
                if !detail.is_empty() {
                    frames.push(plain(detail));
                }
            }
            for process in &spent.on.processes {
                frames.push(format!("{}-{}", plain(&process.comm), process.pid));
            }
            let _ = writeln!(text, "{} {:.0}", frames.join(";"), spent.seconds * 1e6);
        }
    }
    text
}
