use std::cmp::Reverse;

use kerno_model::amount::{number, share as percent};
use kerno_model::paths::is_within;
use kerno_model::{
    CpuGroup, Effect, Fact, Finding, NamedProcess, SchedSummary, SchedWaiter, Scope, Severity, Subject, Unit, WaitsFor,
    Window,
};

use super::{cpus, seconds};
use crate::causes::Tie;
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Tasks need a CPU and wait for it.
    SchedulerContention = "scheduler_contention", "sched_delay", "tasks wait for a CPU",
        "Busy CPUs are no fault: batch work is meant to use all of them and to share them. Looks for two things. First, overload: far \
         more tasks can run than there are CPUs, so that each gets a small part of one. This must hold for the whole window rather than \
         in a burst (`runnable` per CPU in four of five samples), pressure must show that some task waited most of the time, and the \
         waits must be long; a server with many clients that each need a CPU for a moment is only busy. Second, starvation: a process \
         that sleeps and wakes up, as servers and interactive programs do, spends much of the window in long waits after wake-ups, \
         more than it runs, because something such as a real-time process keeps it off the CPU. Waits after preemption do not count \
         there, since a process that uses up its time slices shares the CPU anyway. Waits caused by a quota belong to cpu_throttling. \
         The culprit is the group of processes (same name, same cgroup) that demands and gets the most CPU time. For starvation it is \
         the group that most often held the CPU when long waits ended, weighted by the CPU time it used.",
        judge, words;
    causes: [CpusTaken];
    suffers: [
        suffers(Effect::HeldBackByQuota, |t, a, b| t.in_throttled_cgroup(a, b), "held back by the quota of its cgroup"),
        suffers(Effect::CpusStolen, |_, _, _| Some(Tie::Mechanism), "waits for CPUs that the hypervisor gave to others"),
    ];
    thresholds: {
        runnable: 4.0 Count, 1.5 ..= 1000.0, "runnable tasks per CPU that count as overload";
        pressure: 0.5 Ratio, 0.01 ..= 1.0, "for overload, share of the window in which some task must have waited (PSI)";
        crowd_wait: 4.0 Milliseconds, 0.1 ..= 1000.0, "for overload, waits at least this long must make up half of all waiting";
        victim_share: 0.2 Ratio, 0.01 ..= 1.0, "share of the window in long waits after wake-ups that makes a process a victim";
        victim_wait: 8.0 Milliseconds, 5.0 ..= 10000.0, "mean length of the long waits of a victim";
        critical_share: 0.5 Ratio, 0.01 ..= 1.0, "critical if a victim waits at least this share of the window";
        critical_wait: 500.0 Milliseconds, 5.0 ..= 100000.0, "critical if a victim waits at least this long at once";
    }
    evidence: {
        runnable: "runnable tasks per CPU";
        some_stalled: "share of the window in which some task waited for a CPU (PSI)";
        cpus_used: "CPUs used by {}";
        own_wait: "share of its time that {} itself waited for a CPU";
        victim_wait: "share of the window that {} waited for a CPU after wake-ups";
        longest_wait: "longest wait of {}";
        preempted_mean: "wait after preemption (mean, all tasks)";
        wakeup_p99: "wait after a wake-up (p99, all tasks)";
    }
}

/// The variant with more runnable tasks than the CPUs can serve.
const OVERLOAD: &str = "overload";
/// The variant in which a process keeps others off the CPU.
const STARVATION: &str = "starvation";

/// The most victims that a finding names.
const MAX_VICTIMS: usize = 8;

/// The share of all waiting that must be in long waits.
const LONG_WAITS_SHARE: f64 = 0.5;

/// A real-time group that uses this share of a CPU keeps others off it.
const REALTIME_SHARE: f64 = 0.5;

/// Below this share of the window, summed over CPUs, a quota does not matter to its cgroup.
const HELD_BACK_SHARE: f64 = 0.02;

/// A group with this share of the total demand for CPU time causes the overload alone.
const MAIN_SHARE: f64 = 0.4;

fn judge(window: &Window, rule: &SchedulerContention) -> Vec<Finding> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let crowd = Crowd::of(sched);
    let oversubscribed = crowd.lasting >= rule.runnable
        && sched.some_stalled.is_none_or(|stalled| stalled >= rule.pressure)
        && long_waits(sched, rule.crowd_wait) >= LONG_WAITS_SHARE;
    let mut victims: Vec<_> = sched.waiters.iter().filter(|waiter| is_victim(window, rule, waiter)).collect();
    if !oversubscribed && victims.is_empty() {
        return Vec::new();
    }
    let Some(culprit) = culprit(window, sched, &victims, oversubscribed) else { return Vec::new() };
    victims.retain(|victim| !belongs(culprit, victim.pid, &victim.comm));
    if !oversubscribed && victims.is_empty() {
        return Vec::new();
    }
    // Those that waited for the culprit come first.
    let behind = |victim: &SchedWaiter| -> u64 {
        let held = victim.held_by.iter().filter(|held| held.pid != 0 && belongs(culprit, held.pid, &held.comm));
        held.map(|held| held.waits).sum()
    };
    victims.sort_by_key(|victim| (behind(victim) == 0, Reverse(victim.slow_total_ns)));
    vec![finding(window, rule, sched, &crowd, oversubscribed, culprit, &victims)]
}

/// The number of tasks that compete for the CPUs.
struct Crowd {
    cpus: f64,
    /// The mean number of runnable tasks.
    mean: f64,
    /// The number of runnable tasks per CPU that at least four of five samples reach.
    lasting: f64,
}

impl Crowd {
    #[allow(clippy::cast_precision_loss, reason = "a number of CPUs")]
    fn of(sched: &SchedSummary) -> Self {
        let cpus = sched.cpus.len().max(1) as f64;
        let mut values: Vec<_> = sched.runnable.points().iter().map(|point| point.1).collect();
        values.sort_by(f64::total_cmp);
        let lasting = values.get(values.len() / 5).copied().unwrap_or(0.0) / cpus;
        Self { cpus, mean: sched.runnable.mean().unwrap_or(0.0), lasting }
    }
}

/// The share of all waiting that was spent in waits at least this long.
#[allow(clippy::cast_precision_loss, reason = "times of a window")]
fn long_waits(sched: &SchedSummary, at_least_ms: f64) -> f64 {
    let (mut long, mut all) = (0.0, 0.0);
    for (low, high, count) in sched.wakeup_ns.buckets().chain(sched.preempted_ns.buckets()) {
        let time = count as f64 * (low as f64 + high as f64) / 2.0;
        all += time;
        if high as f64 >= at_least_ms * 1e6 {
            long += time;
        }
    }
    if all > 0.0 { long / all } else { 0.0 }
}

/// Whether a process that sleeps and wakes up then waits long, and waits more than it runs.
#[allow(clippy::cast_precision_loss, reason = "times and counts of a window")]
fn is_victim(window: &Window, rule: &SchedulerContention, waiter: &SchedWaiter) -> bool {
    let Some(sched) = &window.sched_delay else { return false };
    if is_held_back(window, sched, waiter.pid) {
        return false;
    }
    // The CPU was idle: the machine was slow to wake up.
    let idle: u64 = waiter.held_by.iter().filter(|held| held.pid == 0).map(|held| held.waits).sum();
    if idle * 2 > waiter.slow {
        return false;
    }
    let known = window.process(waiter.pid);
    // Kernel threads wait behind programs on every busy machine, and few tasks wait for them.
    if known.is_some_and(|process| process.kernel_thread) {
        return false;
    }
    let mean_ms = seconds(waiter.slow_total_ns) * 1e3 / waiter.slow.max(1) as f64;
    let waits_most = known.is_none_or(|process| process.used.wait_ns >= process.used.run_ns);
    share(window, waiter) >= rule.victim_share && mean_ms >= rule.victim_wait && waits_most
}

/// The share of the window that a process spent in long waits. Adds up its threads, so it may exceed 1.
fn share(window: &Window, waiter: &SchedWaiter) -> f64 {
    seconds(waiter.slow_total_ns) / window.seconds()
}

/// Whether a process waited because of a quota, of its own cgroup or of a parent (which lists only its busiest processes), and not only
/// for a moment.
fn is_held_back(window: &Window, sched: &SchedSummary, pid: u32) -> bool {
    let own = window.process(pid).and_then(|process| process.cgroup.as_deref());
    sched.throttled.iter().any(|cgroup| {
        seconds(cgroup.throttled_ns) >= HELD_BACK_SHARE * window.seconds()
            && (cgroup.pids.contains(&pid) || own.is_some_and(|own| is_within(own, &cgroup.path)))
    })
}

fn belongs(group: &CpuGroup, pid: u32, comm: &str) -> bool {
    group.pids.contains(&pid) || group.comm == comm
}

/// The CPU time that a group wants: the time that its tasks ran or waited to run.
const fn demand(group: &CpuGroup) -> u64 {
    group.run_ns.saturating_add(group.wait_ns)
}

/// The group that causes the waits.
fn culprit<'a>(
    window: &Window,
    sched: &'a SchedSummary,
    victims: &[&SchedWaiter],
    oversubscribed: bool,
) -> Option<&'a CpuGroup> {
    let length = window.seconds();
    let is_throttled = |group: &CpuGroup| group.pids.first().is_some_and(|pid| is_held_back(window, sched, *pid));
    let running = || sched.groups.iter().filter(|group| !is_throttled(group));
    // Ordinary tasks only get what real-time ones leave, however many they are.
    let realtime = running().filter(|group| group.realtime && seconds(group.run_ns) >= length * REALTIME_SHARE);
    if let Some(group) = realtime.max_by_key(|group| group.run_ns) {
        return Some(group);
    }
    if oversubscribed {
        // A group that wants much and gets nothing is a victim.
        let all: u64 = running().map(|group| group.run_ns).sum();
        return running().filter(|group| group.run_ns >= all / 20).max_by_key(|group| demand(group));
    }
    // A task that runs when a wait ends may have started a moment before, so CPU time counts as well as how often it was there.
    let held = |group: &CpuGroup| -> u64 {
        let holders = victims
            .iter()
            .filter(|victim| !belongs(group, victim.pid, &victim.comm))
            .flat_map(|victim| &victim.held_by);
        holders.filter(|held| held.pid != 0 && belongs(group, held.pid, &held.comm)).map(|held| held.waits).sum()
    };
    let scored = running().map(|group| (u128::from(held(group)) * u128::from(group.run_ns), group));
    scored.filter(|(score, _)| *score > 0).max_by_key(|(score, _)| *score).map(|(_, group)| group)
}

/// The process that represents several, of which the busiest comes first: the oldest of those that used at least half as much CPU time as
/// the busiest. The busiest one changes from window to window, and the identity of the finding must not.
fn representative(window: &Window, pids: &[u32]) -> Option<u32> {
    let used = |pid: &u32| window.process(*pid).map_or(0, |process| process.used.run_ns);
    let started = |pid: &u32| window.process(*pid).map_or(u64::MAX, |process| process.started_ns);
    let most = pids.first().map(used)?;
    pids.iter().copied().filter(|pid| used(pid) >= most / 2).min_by_key(|pid| (started(pid), *pid))
}

#[allow(clippy::cast_precision_loss, reason = "times and counts of a window")]
fn finding(
    window: &Window,
    rule: &SchedulerContention,
    sched: &SchedSummary,
    crowd: &Crowd,
    oversubscribed: bool,
    culprit: &CpuGroup,
    victims: &[&SchedWaiter],
) -> Finding {
    let all: f64 = sched.groups.iter().map(|group| demand(group) as f64).sum();
    let main = demand(culprit) as f64 / all.max(1.0);
    let worst_share = victims.iter().map(|victim| share(window, victim)).fold(0.0, f64::max);
    let longest_ms = victims.iter().map(|victim| seconds(victim.max_ns) * 1e3).fold(0.0, f64::max);
    let critical = worst_share >= rule.critical_share || longest_ms >= rule.critical_wait;
    let severity = if critical { Severity::Critical } else { Severity::Warning };
    // Ordinary tasks starve behind a real-time one, however many of them there are.
    let overload = oversubscribed && (!culprit.realtime || victims.is_empty());
    // The group is real-time if its first process is.
    let first = if culprit.realtime { culprit.pids.first().copied() } else { representative(window, &culprit.pids) };
    let mut finding = SchedulerContention::finding(severity)
        .variant(if overload { OVERLOAD } else { STARVATION })
        .about(first.map_or_else(Subject::default, |pid| Subject::process(window, pid, &culprit.comm)))
        .fact(Fact::WaitsFor(WaitsFor::Cpu))
        .detail("program", culprit.comm.as_str())
        .detail("processes", (f64::from(culprit.processes), Unit::Count))
        .detail("threads", (f64::from(culprit.threads), Unit::Count))
        .detail("realtime", culprit.realtime)
        .detail("nice", (f64::from(culprit.nice), Unit::Count))
        .detail("oversubscribed", oversubscribed)
        .detail("tasks", (crowd.mean, Unit::Count))
        .detail("cpus", (crowd.cpus, Unit::Count))
        .detail("demand_share", (main, Unit::Ratio))
        .detail("victims", (victims.len() as f64, Unit::Count));
    if overload {
        finding = finding.fact(Fact::Scope(Scope::Machine));
    }
    finding =
        finding.measured("runnable", crowd.mean / crowd.cpus, Unit::Count, oversubscribed.then_some(rule.runnable));
    if let Some(stalled) = sched.some_stalled {
        finding = finding.measured("some_stalled", stalled, Unit::Ratio, oversubscribed.then_some(rule.pressure));
    }
    let waited = culprit.wait_ns as f64 / (demand(culprit) as f64).max(1.0);
    finding = finding
        .measured_of("cpus_used", &culprit.comm, seconds(culprit.run_ns) / window.seconds(), Unit::Count, None)
        .measured_of("own_wait", &culprit.comm, waited, Unit::Ratio, None);
    if let Some(worst) = victims.first() {
        let longest_ms = seconds(worst.max_ns) * 1e3;
        finding = finding
            .measured_of("victim_wait", &worst.comm, share(window, worst), Unit::Ratio, Some(rule.victim_share))
            .measured_of("longest_wait", &worst.comm, longest_ms, Unit::Milliseconds, None);
    }
    if let Some(mean) = sched.preempted_ns.mean() {
        finding = finding.measured("preempted_mean", mean / 1e6, Unit::Milliseconds, None);
    }
    if let Some(p99) = sched.wakeup_ns.quantile(0.99) {
        finding = finding.measured("wakeup_p99", p99 as f64 / 1e6, Unit::Milliseconds, None);
    }
    let named = victims.iter().take(MAX_VICTIMS);
    finding.victims = named.map(|victim| Subject::process(window, victim.pid, &victim.comm)).collect();
    // Victims of consequences are added later, so the words need their own copy.
    if let Some(worst) = finding.victims.first().and_then(|victim| victim.process.clone()) {
        finding = finding.detail("victim", worst);
    }
    let since = since(window, rule, sched, crowd, oversubscribed, victims);
    finding.since = since.map(|since| window.moment(since));
    let crowded = if oversubscribed { crowd.mean / crowd.cpus / rule.runnable } else { 0.0 };
    finding.excess = crowded.max(worst_share / rule.victim_share);
    finding.confidence = if main >= MAIN_SHARE || !oversubscribed { 0.9 } else { 0.6 };
    with_fixes(finding, culprit, first)
}

/// When it began, in seconds since the start of the window; `None` if it had begun before.
fn since(
    window: &Window,
    rule: &SchedulerContention,
    sched: &SchedSummary,
    crowd: &Crowd,
    oversubscribed: bool,
    victims: &[&SchedWaiter],
) -> Option<f64> {
    let began = if oversubscribed {
        sched.runnable.since_at_least(rule.runnable * crowd.cpus)?
    } else {
        let first = victims.iter().map(|victim| victim.first_ns.saturating_sub(window.span.started_ns)).min()?;
        seconds(first)
    };
    (began > window.covered_seconds() / 10.0).then_some(began)
}

fn with_fixes(finding: Finding, culprit: &CpuGroup, first: Option<u32>) -> Finding {
    let Some(first) = first else { return finding };
    let list = |separator: &str| culprit.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(separator);
    let them = if culprit.pids.len() == 1 { "it" } else { "them" };
    let finding = finding
        .look_at_process(
            format!("ps -o pid,ppid,user,cls,rtprio,ni,pcpu,etime,args -p {}", list(",")),
            "shows scheduling class, priority, CPU use and command line",
        )
        .look_at_process(format!("cat /proc/{first}/cgroup"), "shows its cgroup, and so its service or container");
    let finding = if culprit.realtime {
        finding.change_process(
            format!("chrt --other --all-tasks --pid 0 {first}"),
            "makes it an ordinary task, which shares the CPU",
        )
    } else {
        finding.change_process(format!("renice -n 19 -p {}", list(" ")), "lets everything else run first")
    };
    finding.change_process(format!("kill -STOP {}", list(" ")), format!("pauses {them} until kill -CONT"))
}

/// The culprit: `dd (4711)`, `python3 (16 processes)`.
fn name(finding: &Finding) -> String {
    let program = finding.text("program").or_else(|| finding.subject.comm());
    match (program, finding.number("processes")) {
        (Some(program), Some(processes)) if processes > 1.0 => format!("{program} ({} processes)", number(processes)),
        _ => match (&finding.subject.process, program) {
            (Some(process), _) => process.to_string(),
            (None, Some(program)) => program.to_owned(),
            (None, None) => "a program".to_owned(),
        },
    }
}

fn words(finding: &Finding) -> Words {
    let overload = finding.variant == OVERLOAD;
    let title = match finding.process("victim") {
        Some(victim) if !overload => {
            let waited = finding.number("victim_wait");
            let waited = waited.map(|waited| format!("it waited {} of the time", percent(waited.min(1.0))));
            title(&format!("{} keeps {victim} off the CPU", name(finding)), [waited])
        }
        _ => {
            let tasks = finding.number("tasks").zip(finding.number("cpus"));
            let tasks = tasks.map(|(tasks, of)| format!("{} runnable tasks on {}", number(tasks.round()), cpus(of)));
            title(&format!("{} overloads the CPUs", name(finding)), [tasks])
        }
    };
    Words { title, cause: cause(finding), impact: impact(finding), outlook: String::new() }
}

fn cause(finding: &Finding) -> String {
    let name = name(finding);
    let mut cause = Vec::new();
    if finding.flag("oversubscribed") {
        match finding.number("demand_share") {
            Some(main) if main >= MAIN_SHARE => {
                cause.push(format!("{name} makes up {} of the demand for CPU time.", percent(main)));
            }
            Some(main) => cause.push(format!(
                "Many programs run at once. {name} wants the most CPU time, {} of the total.",
                percent(main)
            )),
            None => {}
        }
        let count = |quantity| finding.number(quantity).unwrap_or(0.0);
        if count("processes") <= 1.0 && count("threads") > count("processes") && count("cpus") > 0.0 {
            let threads = if count("threads") > 1.0 { "threads" } else { "thread" };
            cause.push(format!("It has {} {threads} for {}.", number(count("threads")), cpus(count("cpus"))));
        }
    }
    let nice = finding.number("nice").filter(|nice| *nice < 0.0);
    if finding.flag("realtime") {
        cause.push(
            "It has a real-time scheduling policy (SCHED_FIFO, SCHED_RR or SCHED_DEADLINE), so ordinary tasks get only the CPU time \
             that it leaves."
                .to_owned(),
        );
    } else if let Some(nice) = nice {
        cause.push(format!("It runs at high priority (nice {}).", number(nice)));
    }
    if cause.is_empty() {
        cause.push(format!("{name} was using the CPU when the long waits of others ended."));
    }
    cause.join(" ")
}

fn impact(finding: &Finding) -> String {
    let mut impact = Vec::new();
    let victim: Option<&NamedProcess> = finding.process("victim");
    let more = finding.number("victims").map_or(0.0, |victims| victims - 1.0);
    match victim {
        Some(victim) if more > 0.0 => {
            impact.push(format!("{victim} and {} more wake up but have to wait for a CPU.", number(more)));
        }
        Some(victim) => impact.push(format!("{victim} wakes up but has to wait for a CPU.")),
        None => {}
    }
    if let Some(waited) = finding.number("own_wait").filter(|_| finding.flag("oversubscribed")) {
        impact.push(format!(
            "Each task of the culprit waits for a CPU {} of the time, and so does everything else that needs one.",
            percent(waited)
        ));
    }
    if impact.is_empty() {
        impact.push("Tasks that need a CPU have to wait for one.".to_owned());
    }
    impact.join(" ")
}

#[cfg(test)]
mod tests;
