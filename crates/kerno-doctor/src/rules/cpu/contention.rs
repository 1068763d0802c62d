use super::{is_within, seconds};
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::amount;
use kerno_model::{CpuGroup, SchedSummary, SchedWaiter};

rule! {
    /// Somebody needs a CPU and waits for it.
    SchedulerContention = "scheduler_contention", "sched_delay", "tasks wait for a CPU",
    "Full CPUs are no fault: batch work that uses all of them, and shares them, is what they are for. Two things are. One: far more \
     tasks can run than there are CPUs, for the whole window and not in a burst, so that each gets a small part of a CPU (`runnable` \
     for each CPU in four of five samples, pressure says that somebody waited most of the time, and the waits are long: many \
     clients that each need a CPU for a moment only are a busy server). Two: a process that sleeps and \
     wakes, as servers and people's programs do, spends much of the window waiting after its wake-ups, in long waits, more than it \
     runs: something keeps it off the CPU, such as a real-time process or a herd. Waits after being preempted do not count there: \
     who uses up his time slices shares the CPU anyway. Waits by a quota are cpu_throttling. \
     The culprit is the group of processes (one name, one cgroup) that asks for and gets most CPU time; where it is \
     known who held the CPU when long waits ended, that counts too.", judge;
    runnable: 4.0 Count, 1.5 ..= 1000.0, "tasks that can run, for each CPU, from where on CPUs are oversubscribed";
    pressure: 0.5 Ratio, 0.01 ..= 1.0, "share of the window in which somebody must have waited (PSI), for the above";
    crowd_wait: 4.0 Milliseconds, 0.1 ..= 1000.0, "length of the waits that must make up half of all waiting, for the above";
    victim_share: 0.2 Ratio, 0.01 ..= 1.0, "share of the window that a process spends in long waits after wake-ups to be a victim";
    victim_wait: 8.0 Milliseconds, 5.0 ..= 10000.0, "mean length of a victim's long waits";
    critical_share: 0.5 Ratio, 0.01 ..= 1.0, "share of the window that a victim waits from where on it is critical";
    critical_wait: 500.0 Milliseconds, 5.0 ..= 100000.0, "a victim's longest wait from where on it is critical";
}

/// How many victims are named.
const MAX_VICTIMS: usize = 8;

/// How much of all waiting must be in long waits.
const LONG_WAITS_SHARE: f64 = 0.5;

/// A real-time group that takes this share of a CPU keeps others off it.
const REALTIME_SHARE: f64 = 0.5;

/// A cgroup whose tasks a quota stopped for less time than this share of the window, all CPUs together, is not held back by it.
const HELD_BACK_SHARE: f64 = 0.02;

/// A group that asks for this share of all CPU time asked for is behind it alone.
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
    // Those that waited for the culprit come first; where there are none, all that waited.
    let behind = |victim: &SchedWaiter| -> u64 {
        let held = victim.held_by.iter().filter(|held| held.pid != 0 && belongs(culprit, held.pid, &held.comm));
        held.map(|held| held.waits).sum()
    };
    victims.sort_by_key(|victim| (behind(victim) == 0, std::cmp::Reverse(victim.slow_total_ns)));
    vec![finding(window, rule, sched, &crowd, oversubscribed, culprit, &victims)]
}

/// How many tasks there are for the CPUs.
struct Crowd {
    cpus: f64,
    /// Tasks that could run, in the mean.
    mean: f64,
    /// For each CPU, in four of five samples at least.
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

/// Share of all waiting that was done in waits of this length and more.
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

/// Somebody who sleeps and wakes and, having woken, waits long and waits more than it runs.
#[allow(clippy::cast_precision_loss, reason = "times and counts of a window")]
fn is_victim(window: &Window, rule: &SchedulerContention, waiter: &SchedWaiter) -> bool {
    let Some(sched) = &window.sched_delay else { return false };
    if is_held_back(window, sched, waiter.pid) {
        return false;
    }
    // Nobody held the CPU: it was the machine that was slow to wake.
    let idle: u64 = waiter.held_by.iter().filter(|held| held.pid == 0).map(|held| held.waits).sum();
    if idle * 2 > waiter.slow {
        return false;
    }
    let known = window.process(waiter.pid);
    // Threads of the kernel wait behind programs on every busy machine, and nobody waits for most of them.
    if known.is_some_and(|process| process.kernel_thread) {
        return false;
    }
    let mean_ms = seconds(waiter.slow_total_ns) * 1e3 / waiter.slow.max(1) as f64;
    let waits_most = known.is_none_or(|process| process.used.wait_ns >= process.used.run_ns);
    share(window, waiter) >= rule.victim_share && mean_ms >= rule.victim_wait && waits_most
}

/// Share of the window that a process spent in long waits; of several threads together, so it may be above 1.
fn share(window: &Window, waiter: &SchedWaiter) -> f64 {
    seconds(waiter.slow_total_ns) / window.seconds()
}

/// Its waits are those of a quota: of its cgroup or one above, whose list of processes has the busiest only. One that was held back
/// for a moment is not meant.
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

/// What a group asks for: the time that its tasks ran or would have.
const fn demand(group: &CpuGroup) -> u64 {
    group.run_ns.saturating_add(group.wait_ns)
}

/// Who is behind it.
fn culprit<'a>(
    window: &Window,
    sched: &'a SchedSummary,
    victims: &[&SchedWaiter],
    oversubscribed: bool,
) -> Option<&'a CpuGroup> {
    let length = window.seconds();
    let is_throttled = |group: &CpuGroup| group.pids.first().is_some_and(|pid| is_held_back(window, sched, *pid));
    let running = || sched.groups.iter().filter(|group| !is_throttled(group));
    // Ordinary tasks get what a real-time one leaves, however many they are.
    let realtime = running().filter(|group| group.realtime && seconds(group.run_ns) >= length * REALTIME_SHARE);
    if let Some(group) = realtime.max_by_key(|group| group.run_ns) {
        return Some(group);
    }
    if oversubscribed {
        // Who asks for much and gets nothing is starved by others.
        let all: u64 = running().map(|group| group.run_ns).sum();
        return running().filter(|group| group.run_ns >= all / 20).max_by_key(|group| demand(group));
    }
    // Whoever is there when a wait ends may have come a moment before: who was there often and used the CPU long is behind it.
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
    let title = title(window, crowd, oversubscribed, culprit, victims);
    let mut finding = SchedulerContention::finding(severity, title);
    if oversubscribed {
        finding = finding.measured(
            "tasks that can run, for each CPU",
            crowd.mean / crowd.cpus,
            Unit::Count,
            Some(rule.runnable),
        );
    } else {
        finding = finding.measured("tasks that can run, for each CPU", crowd.mean / crowd.cpus, Unit::Count, None);
    }
    if let Some(stalled) = sched.some_stalled {
        let line = oversubscribed.then_some(rule.pressure);
        finding = finding.measured(
            "share of the window in which some task waited for a CPU (PSI)",
            stalled,
            Unit::Ratio,
            line,
        );
    }
    let length = window.seconds();
    finding = finding.measured(
        format!("CPUs that {} used", culprit.comm),
        seconds(culprit.run_ns) / length,
        Unit::Count,
        None,
    );
    let waited = culprit.wait_ns as f64 / (demand(culprit) as f64).max(1.0);
    finding = finding.measured(
        format!("share of its time that {} itself waited for a CPU", culprit.comm),
        waited,
        Unit::Ratio,
        None,
    );
    if let Some(worst) = victims.first() {
        finding = finding
            .measured(
                format!("share of the window that {} waited for a CPU after wake-ups", worst.comm),
                share(window, worst),
                Unit::Ratio,
                Some(rule.victim_share),
            )
            .measured(format!("longest wait of {}", worst.comm), seconds(worst.max_ns) * 1e3, Unit::Milliseconds, None);
    }
    if let Some(mean) = sched.preempted_ns.mean() {
        finding =
            finding.measured("wait after being preempted (mean, all tasks)", mean / 1e6, Unit::Milliseconds, None);
    }
    if let Some(p99) = sched.wakeup_ns.quantile(0.99) {
        finding = finding.measured("wait after a wake-up (p99, all tasks)", p99 as f64 / 1e6, Unit::Milliseconds, None);
    }
    if let Some(pid) = culprit.pids.first() {
        finding.culprit = Culprit::process(window, *pid, &culprit.comm);
    }
    finding.victims =
        victims.iter().take(MAX_VICTIMS).map(|victim| Culprit::process(window, victim.pid, &victim.comm)).collect();
    finding.cause = cause(crowd, oversubscribed, culprit, main);
    finding.impact = impact(oversubscribed, victims, waited);
    finding.since = since(window, rule, sched, crowd, oversubscribed, victims);
    let crowded = if oversubscribed { crowd.mean / crowd.cpus / rule.runnable } else { 0.0 };
    finding.excess = crowded.max(worst_share / rule.victim_share);
    finding.confidence = if main >= MAIN_SHARE || !oversubscribed { 0.9 } else { 0.6 };
    with_fixes(finding, culprit)
}

fn name(group: &CpuGroup) -> String {
    match (group.pids.first(), group.processes) {
        (Some(pid), 0 | 1) => format!("{} ({pid})", group.comm),
        (_, processes) => format!("{} ({processes} processes)", group.comm),
    }
}

fn title(window: &Window, crowd: &Crowd, oversubscribed: bool, culprit: &CpuGroup, victims: &[&SchedWaiter]) -> String {
    let who = name(culprit);
    match victims.first() {
        _ if oversubscribed && (!culprit.realtime || victims.is_empty()) => {
            let cpus = if crowd.cpus > 1.0 { format!("{:.0} CPUs", crowd.cpus) } else { "one CPU".into() };
            format!("{who} overloads the machine: {:.0} tasks want to run on {cpus} at once", crowd.mean)
        }
        Some(worst) => {
            let waited = amount::share(share(window, worst).min(1.0));
            format!("{who} keeps {} ({}) off the CPU: it waited {waited} of the time", worst.comm, worst.pid)
        }
        None => who,
    }
}

fn cause(crowd: &Crowd, oversubscribed: bool, culprit: &CpuGroup, main: f64) -> String {
    let mut cause = String::new();
    if oversubscribed {
        cause = if main >= MAIN_SHARE {
            format!("{} of all CPU time that is asked for is asked for by {}.", amount::share(main), name(culprit))
        } else {
            format!(
                "Many programs run at once; {} asks for most CPU time, {} of all.",
                name(culprit),
                amount::share(main)
            )
        };
        if culprit.threads > culprit.processes && culprit.processes <= 1 {
            cause += &format!(" It has {} threads for {:.0} CPUs.", culprit.threads, crowd.cpus);
        }
    }
    if culprit.realtime {
        cause +=
            " It runs in real time (SCHED_FIFO, SCHED_RR or SCHED_DEADLINE): ordinary tasks get only what it leaves.";
    } else if culprit.nice < 0 {
        cause += &format!(" It runs at high priority (nice {}).", culprit.nice);
    }
    if cause.is_empty() {
        cause = format!("{} held the CPU when long waits of others ended.", name(culprit));
    }
    cause.trim_start().to_owned()
}

fn impact(oversubscribed: bool, victims: &[&SchedWaiter], waited: f64) -> String {
    let mut impact = match victims {
        [] => String::new(),
        [one] => format!("{} ({}) wakes and does not get a CPU.", one.comm, one.pid),
        [one, others @ ..] => {
            format!("{} ({}) and {} more wake and do not get a CPU.", one.comm, one.pid, others.len())
        }
    };
    if oversubscribed {
        impact += &format!(
            " Each of the culprit's tasks waits {} of the time, and so does all else that needs a CPU.",
            amount::share(waited)
        );
    }
    impact.trim_start().to_owned()
}

/// When it began, where it was not so from the start.
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
    (began > window.seconds() / 10.0).then_some(began)
}

fn with_fixes(finding: Finding, culprit: &CpuGroup) -> Finding {
    let Some(first) = culprit.pids.first() else { return finding };
    let list = |separator: &str| culprit.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(separator);
    let ps = format!("ps -o pid,ppid,user,cls,rtprio,ni,pcpu,etime,args -p {}", list(","));
    let finding = finding
        .look(ps, "who they are: scheduling class, priority, CPU use, command line")
        .look(format!("cat /proc/{first}/cgroup"), "the cgroup, container or service that they belong to");
    let finding = if culprit.realtime {
        finding.change(
            format!("chrt --other --all-tasks --pid 0 {first}"),
            "makes it an ordinary task, which shares the CPU",
        )
    } else {
        finding.change(format!("renice -n 19 -p {}", list(" ")), "lets all others go first")
    };
    finding.change(format!("kill -STOP {}", list(" ")), "stops them until kill -CONT")
}

#[cfg(test)]
#[path = "contention_tests.rs"]
mod tests;
