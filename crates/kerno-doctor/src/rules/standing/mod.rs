//! Who stands still because another does not do its part, and who that is.

pub(super) mod backlog;
pub(super) mod lock;
pub(super) mod peer;
pub(super) mod stopped;

use std::collections::BTreeMap;

use kerno_model::amount::number;
use kerno_model::{
    Awaited, AwaitedKind, Entity, Finding, NamedProcess, Safety, Severity, Stall, StallNeed, StallStep, StandingState,
    Subject, Value, Window,
};

use crate::shell::{is_service, word};

/// The most victims that a finding names, and the most findings of a rule.
const MAX_VICTIMS: usize = 8;
const MAX_FINDINGS: usize = 6;

/// Whoever runs is given more time than one that does nothing at all: it may come to it.
const AWAKE_SECONDS: f64 = 5.0;
const AWAKE_SHARE: f64 = 0.8;

/// Calls in which a process waits for work: whoever holds a lock meanwhile has it for good, or hands it on with the work.
const WAITS_FOR_WORK: &[&str] = &[
    "accept",
    "accept4",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "poll",
    "ppoll",
    "ppoll_time64",
    "select",
    "_newselect",
    "pselect6",
    "io_uring_enter",
    "io_getevents",
];

/// Calls that wait for work where nobody is known to owe what they wait for: the next request of a client, a signal, a message.
const WAITS_FOR_MORE: &[&str] = &[
    "read",
    "readv",
    "recv",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "recvmmsg_time64",
    "mq_timedreceive",
    "msgrcv",
    "pause",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "sigsuspend",
];

/// Programs (the begin of their names) that show terminals to people.
const SHOW_TO_PEOPLE: &[&str] = &[
    "sshd",
    "mosh-server",
    "tmux",
    "screen",
    "SCREEN",
    "script",
    "login",
    "telnetd",
    "xterm",
    "urxvt",
    "gnome-terminal",
    "konsole",
    "kitty",
    "alacritty",
    "foot",
    "wezterm",
    "ttyd",
    "sudo",
    "su",
    "docker",
    "containerd-shim",
    "conmon",
];

/// What kind of fault it is, and so which rule tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The one that all wait for is stopped, traced or frozen.
    Held,
    /// They wait for each other.
    Deadlock,
    /// It holds a lock.
    Lock,
    /// It does not read, write, accept or end.
    Peer,
}

/// One culprit and those who wait for it.
#[derive(Clone, Debug)]
struct Blame<'a> {
    fault: Fault,
    root: &'a StallStep,
    /// The longest first.
    waits: Vec<Wait<'a>>,
}

/// A stall, and the part of its chain that is to blame.
#[derive(Clone, Copy, Debug)]
struct Wait<'a> {
    stall: &'a Stall,
    chain: &'a [StallStep],
}

impl<'a> Wait<'a> {
    /// Up to one that cannot go on; or else to the last one that should do something for those before it. What a process that holds a
    /// lock or should read waits for then is its own business.
    fn of(stall: &'a Stall) -> Self {
        let chain = &stall.chain[..];
        let whole = Self { stall, chain };
        if stall.deadlock || stall.root().is_some_and(is_stuck) {
            return whole;
        }
        let owes = |steps: &usize| {
            let edge = Self { stall, chain: chain.get(..*steps).unwrap_or(chain) }.edge();
            edge.is_some_and(|edge| matches!(edge.need, StallNeed::Room | StallNeed::Release | StallNeed::Accept))
        };
        let steps = (1..=chain.len()).rev().find(owes).unwrap_or(chain.len());
        Self { stall, chain: chain.get(..steps).unwrap_or(chain) }
    }

    fn root(&self) -> Option<&'a StallStep> {
        self.chain.last()
    }

    /// What the last but one waits for.
    fn edge(&self) -> Option<&'a Awaited> {
        match self.chain.len() {
            0 => None,
            1 => Some(&self.stall.awaits),
            steps => self.chain.get(steps - 2)?.awaits.as_ref(),
        }
    }

    /// Of a deadlock, those who wait for each other: the last of the chain is the one that closes the circle.
    fn circle(&self) -> &'a [StallStep] {
        let Some((last, before)) = self.chain.split_last() else { return self.chain };
        let begin = before.iter().position(|step| step.tid == last.tid).map_or(0, |place| place + 1);
        self.chain.get(begin..).unwrap_or(self.chain)
    }
}

/// It cannot go on, and has not for some time: whoever is traced stops for a moment at each call, and whoever reads a disk sleeps
/// uninterruptibly for moments.
fn is_stuck(step: &StallStep) -> bool {
    (step.state.is_held() || step.state == StandingState::Blocked) && step.still_since_ns > 0
}

impl<'a> Blame<'a> {
    /// For how long somebody has waited.
    fn seconds(&self) -> f64 {
        self.waits.iter().map(|wait| wait.stall.seconds).fold(0.0, f64::max)
    }

    /// What the culprit is directly waited for.
    fn edge(&self) -> Option<&'a Awaited> {
        self.waits.iter().min_by_key(|wait| wait.chain.len())?.edge()
    }

    /// How many wait at its lock.
    fn waiters(&self) -> usize {
        let told = self.waits.iter().filter_map(Wait::edge).map(|edge| edge.waiters).max().unwrap_or(0);
        let seen = self.waits.iter().filter(|wait| wait.stall.awaits.need == StallNeed::Release).count();
        (told as usize).max(seen)
    }
}

/// All culprits of the window, for stalls of this length at least.
fn blames(window: &Window, seconds: f64) -> Vec<Blame<'_>> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let mut by_root: BTreeMap<(Fault, u32), Blame<'_>> = BTreeMap::new();
    for wait in sched.stalls.iter().map(Wait::of) {
        let Some(fault) = fault(window, &wait, seconds) else { continue };
        // Of a deadlock, the one with the lowest id stands for all.
        let in_circle = || wait.circle().iter().filter(|_| fault == Fault::Deadlock).min_by_key(|step| step.tid);
        let Some(root) = in_circle().or(wait.root()) else { continue };
        let key = if fault == Fault::Deadlock { root.tid } else { root.pid };
        by_root.entry((fault, key)).or_insert_with(|| Blame { fault, root, waits: Vec::new() }).waits.push(wait);
    }
    let mut blames: Vec<_> = by_root.into_values().collect();
    for blame in &mut blames {
        blame.waits.sort_by(|a, b| b.stall.seconds.total_cmp(&a.stall.seconds).then(a.stall.tid.cmp(&b.stall.tid)));
    }
    blames
}

/// What kind of fault a stall shows; `None` if it may well be normal.
fn fault(window: &Window, wait: &Wait<'_>, seconds: f64) -> Option<Fault> {
    let (stall, root, edge) = (wait.stall, wait.root()?, wait.edge()?);
    if stall.seconds < seconds || stall.moves {
        return None;
    }
    if root.state.is_held() && is_stuck(root) {
        // A debugger that waits for what it holds itself.
        return (stall.pid != root.tracer).then_some(Fault::Held);
    }
    if stall.deadlock {
        return Some(Fault::Deadlock);
    }
    // Somebody has stopped the output for a while, or sleeps, and the laptop too.
    if edge.kind == AwaitedKind::Terminal && SHOW_TO_PEOPLE.iter().any(|name| root.comm.starts_with(name)) {
        return None;
    }
    // A person reads what a pager shows, and answers what a program asks.
    if root.interactive && matches!(root.state, StandingState::Sleeps | StandingState::Runs) {
        return None;
    }
    let ran = root.still_since_ns == 0;
    let long = stall.seconds >= AWAKE_SECONDS.max(AWAKE_SHARE * window.covered_seconds());
    match edge.need {
        StallNeed::Release => (!waits_for_work(root) && (!ran || long)).then_some(Fault::Lock),
        StallNeed::Room | StallNeed::Accept => (!ran || long).then_some(Fault::Peer),
        // Nobody owes data or an end, unless it is stuck itself.
        _ => is_stuck(root).then_some(Fault::Peer),
    }
}

/// Whether it sleeps until there is something to do. Of several threads that take requests, mostly one waits for the next, with a lock that
/// the others want.
fn waits_for_work(root: &StallStep) -> bool {
    let is_one = |calls: &[&str]| root.call.as_deref().is_some_and(|call| calls.contains(&call));
    let at_ease = root.state == StandingState::Sleeps && root.awaits.is_none();
    is_one(WAITS_FOR_WORK) || (at_ease && is_one(WAITS_FOR_MORE))
}

fn severity(seconds: f64, critical_seconds: f64, waiting: usize, critical_waiting: f64) -> Severity {
    #[allow(clippy::cast_precision_loss, reason = "a few")]
    let many = waiting as f64 >= critical_waiting;
    if seconds >= critical_seconds || many { Severity::Critical } else { Severity::Warning }
}

/// Adds what all findings here say: the culprit's state, what it is waited for, who waits and by which way.
fn describe(mut finding: Finding, window: &Window, blame: &Blame<'_>) -> Finding {
    finding = with_state(finding, window, blame.root);
    if let Some(edge) = blame.edge() {
        finding = finding.detail("thing", thing(edge)).detail("need", edge.need.name());
        if edge.others > 0 {
            finding = finding.detail("others", (f64::from(edge.others), kerno_model::Unit::Count));
        }
    }
    let mut known = vec![blame.root.pid];
    for wait in &blame.waits {
        let between = wait.chain.iter().rev().skip(1).map(|step| (step.pid, &step.comm));
        for (pid, comm) in [(wait.stall.pid, &wait.stall.comm)].into_iter().chain(between) {
            if !known.contains(&pid) && finding.victims.len() < MAX_VICTIMS {
                known.push(pid);
                finding.victims.push(Subject::process(window, pid, comm));
            }
        }
    }
    let longest = blame.waits.iter().max_by_key(|wait| wait.chain.len());
    if let Some(wait) = longest.filter(|wait| wait.chain.len() > 1) {
        let id = |comm: &str, pid: u32, tid: u32| {
            if blame.fault == Fault::Deadlock { format!("{comm} ({tid})") } else { format!("{comm} ({pid})") }
        };
        let way: Vec<_> = [id(&wait.stall.comm, wait.stall.pid, wait.stall.tid)]
            .into_iter()
            .chain(wait.chain.iter().map(|step| id(&step.comm, step.pid, step.tid)))
            .collect();
        finding = finding.detail("way", way.join(" waits for "));
    }
    for Wait { stall, .. } in blame.waits.iter().take(3) {
        let at = window.moment((window.covered_seconds() - stall.seconds).max(0.0));
        let call = if stall.call.is_empty() { String::new() } else { format!(" in {}", stall.call) };
        let what = format!("{} ({}) fell asleep{call}, waiting for {}", stall.comm, stall.tid, awaited(&stall.awaits));
        finding.exemplars.push(kerno_model::Exemplar::new(at, what));
    }
    let begun = window.covered_seconds() - blame.seconds();
    finding.since = (begun > 0.5).then(|| window.moment(begun));
    finding
}

/// Adds what is known of the culprit's state.
fn with_state(finding: Finding, window: &Window, root: &StallStep) -> Finding {
    let mut finding = finding.detail("state", root.state.name());
    if root.tracer != 0
        && let Some(tracer) = Subject::process(window, root.tracer, &root.tracer_comm).process
    {
        finding = finding.detail("tracer", tracer);
    }
    if let Some(cgroup) = &root.cgroup {
        finding = finding.detail("cgroup", cgroup.as_str());
    }
    if let Some(call) = &root.call {
        finding = finding.detail("call", call.as_str());
    }
    if let Some(channel) = root.wait_channel.as_deref().filter(|_| root.state == StandingState::Blocked) {
        finding = finding.detail("place", channel);
    }
    finding
}

/// The commands that show why a process does not go on, and those that let it.
fn fixes(finding: Finding, window: &Window, root: &StallStep) -> Finding {
    let pid = root.pid;
    let finding = finding.look_at_process(
        format!("grep -E '^(State|TracerPid|Threads)' /proc/{pid}/status; cat /proc/{pid}/stack"),
        "its state now, and where in the kernel it sleeps",
    );
    match root.state {
        StandingState::Stopped => finding
            .look_at_process(
                format!("ps -o pid,ppid,user,tty,stat,lstart,args -p {pid}"),
                "who may have stopped it, and at which terminal",
            )
            .change_process(
                format!("kill -CONT {pid}"),
                "lets it go on, once it is known that nobody needs it to stand still",
            ),
        StandingState::Traced if root.tracer != 0 => {
            let tracer = Entity::Process(window.process_id(root.tracer));
            finding
                .fix(
                    tracer.clone(),
                    Safety::ReadOnly,
                    format!("ps -o pid,ppid,user,tty,lstart,args -p {}", root.tracer),
                    "who holds it, and since when",
                )
                .fix(
                    tracer,
                    Safety::Changing,
                    format!("kill {}", root.tracer),
                    "ends the one that holds it, which lets it go on",
                )
        }
        StandingState::Frozen => match &root.thaw_file {
            Some(file) => {
                let value = if file.ends_with("freezer.state") { "THAWED" } else { "0" };
                let cgroup = root.cgroup.clone().map_or(Entity::Machine, Entity::Cgroup);
                finding.fix(cgroup, Safety::Changing, format!("echo {value} > {}", word(file)), "thaws the cgroup")
            }
            None => finding,
        },
        _ => restart(
            finding.look_at_process(format!("timeout 5 strace -f -p {pid}"), "what it does instead"),
            "gets it going again; what it holds is lost",
        ),
    }
}

/// Restarting its unit, if it has one.
fn restart(finding: Finding, why: &str) -> Finding {
    match finding.subject.unit.clone().filter(|unit| is_service(unit)) {
        Some(unit) => {
            let command = format!("systemctl restart {}", word(&unit));
            finding.fix(Entity::Unit(unit), Safety::Changing, command, why)
        }
        None => finding,
    }
}

/// What is between two threads, as a phrase.
fn thing(awaited: &Awaited) -> String {
    let named = |what: &str| match &awaited.name {
        Some(name) if !name.is_empty() => format!("{what} {name}"),
        _ => what.to_owned(),
    };
    match awaited.kind {
        AwaitedKind::Pipe => "a pipe".to_owned(),
        AwaitedKind::Fifo => named("the named pipe"),
        AwaitedKind::UnixSocket | AwaitedKind::UnixDatagrams => match &awaited.name {
            Some(_) => named("the Unix socket"),
            None => "a Unix socket".to_owned(),
        },
        AwaitedKind::UnixListener => named("the Unix socket"),
        AwaitedKind::Tcp => match (awaited.local, awaited.remote) {
            (Some(local), Some(remote)) => format!("the connection {local} to {remote}"),
            _ => "a TCP connection".to_owned(),
        },
        AwaitedKind::Terminal => named("the terminal"),
        AwaitedKind::Flock | AwaitedKind::PosixLock | AwaitedKind::OfdLock | AwaitedKind::Lease => {
            let kind = match awaited.kind {
                AwaitedKind::Flock => "flock",
                AwaitedKind::PosixLock => "fcntl lock",
                AwaitedKind::OfdLock => "open file lock",
                _ => "lease",
            };
            match &awaited.name {
                Some(name) => format!("the {kind} on {name}"),
                None => format!("the {kind} on the file with inode {}", awaited.id),
            }
        }
        AwaitedKind::Mutex => "a mutex".to_owned(),
        AwaitedKind::Thread => "a thread".to_owned(),
        AwaitedKind::Child => "a child process".to_owned(),
        _ => "something".to_owned(),
    }
}

/// What a thread waits for, as a phrase.
fn awaited(awaited: &Awaited) -> String {
    let thing = thing(awaited);
    match awaited.need {
        StallNeed::Room => format!("room in {thing}"),
        StallNeed::Data => format!("data from {thing}"),
        StallNeed::Accept => format!("a place in the queue of {thing}"),
        StallNeed::End => format!("the end of {thing}"),
        _ => thing,
    }
}

/// The culprit's name.
fn who(finding: &Finding) -> String {
    finding.subject.process.as_ref().map_or_else(|| "a process".to_owned(), NamedProcess::to_string)
}

/// That others wait for it, in a few words.
fn waiting(finding: &Finding) -> String {
    let first = finding.victims.first().and_then(|victim| victim.process.as_ref());
    let Some(first) = first.map(NamedProcess::to_string) else { return "others wait for it".to_owned() };
    match finding.victims.len() - 1 {
        0 => format!("{first} waits for it"),
        1 => format!("{first} and one more wait for it"),
        #[allow(clippy::cast_precision_loss, reason = "a few")]
        more => format!("{first} and {} more wait for it", number(more as f64)),
    }
}

/// What the culprit does instead, as a sentence.
fn instead(finding: &Finding) -> String {
    let by = match finding.get("tracer") {
        Some(Value::Process(tracer)) => format!(" by {tracer}"),
        _ => String::new(),
    };
    let call = finding.text("call").map_or_else(String::new, |call| format!(" in {call}()"));
    match StandingState::from_name(finding.text("state").unwrap_or_default()) {
        StandingState::Stopped => "It was stopped by a signal (state T).".to_owned(),
        StandingState::Traced => format!("It is held{by} (state t), as by a debugger."),
        StandingState::Frozen => {
            let cgroup = finding.text("cgroup").map_or_else(String::new, |cgroup| format!(" {cgroup}"));
            format!("Its cgroup{cgroup} is frozen.")
        }
        StandingState::Blocked => {
            let place = finding.text("place").map_or_else(String::new, |place| format!(", in {place}()"));
            format!("It is stuck in the kernel itself (state D){place}.")
        }
        StandingState::Runs => "It runs, busy with something else.".to_owned(),
        StandingState::Sleeps => format!("It sleeps{call}."),
        StandingState::Zombie => "It has ended, and its parent has not asked for it.".to_owned(),
        _ => "What it does instead is not known.".to_owned(),
    }
}

/// The way from who waits to the culprit, if others are between, as a sentence with a space before it.
fn way(finding: &Finding) -> String {
    finding.text("way").map_or_else(String::new, |way| format!(" {way}."))
}

/// The worst first, and not more than a report can use.
fn worst(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(MAX_FINDINGS);
    findings
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::Thresholds;
    use kerno_model::{HeldProcess, SchedSummary};

    pub(super) fn step(pid: u32, comm: &str, state: StandingState) -> StallStep {
        StallStep { pid, tid: pid, comm: comm.into(), state, still_since_ns: 1, ..StallStep::default() }
    }

    pub(super) fn awaits(need: StallNeed, kind: AwaitedKind, name: Option<&str>) -> Awaited {
        Awaited { need, kind, name: name.map(str::to_owned), ..Awaited::default() }
    }

    pub(super) fn stall(pid: u32, comm: &str, seconds: f64, awaits: Awaited, chain: Vec<StallStep>) -> Stall {
        Stall {
            pid,
            tid: pid,
            comm: comm.into(),
            seconds,
            at_end: true,
            call: "write".into(),
            awaits,
            chain,
            ..Stall::default()
        }
    }

    pub(super) fn window(stalls: Vec<Stall>, held: Vec<HeldProcess>) -> Window {
        let mut window = Window::default();
        window.span.seconds = 8.0;
        window.sched_delay = Some(SchedSummary { stalls, held, ..SchedSummary::default() });
        window
    }

    pub(super) fn judge(rule: &crate::Rule, window: &Window) -> Vec<Finding> {
        let findings = (rule.judge)(window, &Thresholds::default());
        findings.iter().for_each(crate::rules::testing::words_hold);
        findings
    }
}
