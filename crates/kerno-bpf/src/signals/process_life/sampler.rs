use std::cmp::Reverse;
use std::collections::HashMap;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::loader::tell_exits;
use super::zombies::Zombies;
use crate::engine::{Cumulative, Delta, Gaps, Pace, Sampler, Tick};
use crate::event::Comm;
use crate::probe::{Hook, Host, KernelHash, LoadError, MappedBlocks, Object, Plan, SummaryPrograms};
use kerno_model::text::until_nul;
use kerno_model::{Ending, ForkStarter, LifeSummary, ProgramLife, StartedProgram, WaitStatus, Window};

const OBJECT: Object = Object {
    name: "process_life_summary",
    data: aya::include_bytes_aligned!("../../../objects/process_life_summary.bpf.o"),
};

/// How many programs are told of at most, half of them those that failed most.
const MAX_PROGRAMS: usize = 64;
/// How many of those who start most.
const MAX_STARTERS: usize = 16;

/// How many elements its maps have.
const MAPS: [(&str, u32); 3] = [("births", 8192), ("programs", 1024), ("starters", 512)];

/// Mirror of `struct life_totals` in process_life_summary.bpf.c, where the fields are explained; so are the next ones.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Totals {
    forks: u64,
    execs: u64,
    ends: u64,
    failed: u64,
    killed: u64,
    dumped: u64,
    oom_killed: u64,
    told: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramKey {
    starter: u32,
    place: u32,
    forked: u32,
    pad: u32,
    comm: Comm,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct KernelEnding {
    count: u64,
    status: u32,
    pad: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Program {
    born_ns: u64,
    starts: u64,
    ends: u64,
    replaced: u64,
    failed: u64,
    killed: u64,
    dumped: u64,
    oom_killed: u64,
    brief: u64,
    again_failed: u64,
    again_ended: u64,
    same_args: u64,
    lived_ns: u64,
    cpu_ns: u64,
    endings: [KernelEnding; 4],
    window_ns: u64,
    shortest_ns: u64,
    longest_ns: u64,
    most_running: u32,
    running: i32,
    last_start_ns: u64,
    last_end_ns: u64,
    args_hash: u64,
    starter_start_ns: u64,
    cgroup_id: u64,
    last_status: u32,
    last_pid: u32,
    last_bad: u32,
    uid: u32,
    starter_comm: Comm,
    place: [u8; 64],
    filename: [u8; 128],
    args: [u8; 128],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Started {
    count: u64,
    comm: Comm,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Starter {
    start_ns: u64,
    forks: u64,
    execs: u64,
    ends: u64,
    brief: u64,
    cpu_ns: u64,
    window_ns: u64,
    started: [Started; 4],
    comm: Comm,
}

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(host: &Host) -> Result<(Object, Plan), LoadError> {
    let mut plan = Plan::default();
    plan.size_per_cpu("life_totals");
    plan.map_entries.extend(MAPS);
    tell_exits(host, &mut plan);
    plan.attach("on_sched_process_free", Hook::Tracepoint("sched_process_free"));
    plan.attach("on_sched_process_exit", Hook::Tracepoint("sched_process_exit"));
    plan.attach("on_sched_process_exec", Hook::Tracepoint("sched_process_exec"));
    plan.attach("on_sched_process_fork", Hook::Tracepoint("sched_process_fork"));
    Ok((OBJECT, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    sampler_of(SummaryPrograms::load(object, plan, host)?)
}

/// The same with programs that are loaded, its own or shared with other signals.
pub(crate) fn sampler_of(mut programs: SummaryPrograms) -> Result<Box<dyn Sampler>, LoadError> {
    Ok(Box::new(Sampled {
        blocks: programs.mapped("life_totals")?,
        programs: programs.hash("programs")?,
        starters: programs.hash("starters")?,
        loaded: programs,
        totals: Cumulative::new("processes that began and ended"),
        of_programs: Cumulative::new("which programs ended"),
        of_starters: Cumulative::new("who started processes"),
        zombies: Zombies::default(),
        begun: false,
        window_ns: 0,
        pace: Pace::default(),
    }))
}

#[derive(Debug)]
struct Sampled {
    loaded: SummaryPrograms,
    blocks: MappedBlocks<Totals>,
    programs: KernelHash<ProgramKey, Program>,
    starters: KernelHash<u32, Starter>,
    totals: Cumulative<Totals>,
    of_programs: Cumulative<HashMap<ProgramKey, Program>>,
    of_starters: Cumulative<HashMap<u32, Starter>>,
    zombies: Zombies,
    begun: bool,
    /// What the kernel side has been told as the window's begin.
    window_ns: u64,
    pace: Pace,
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.loaded.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // Later windows begin where the one before ended, so that nothing falls between them.
        if !self.begun {
            self.begun = true;
            self.totals.begin(Ok(totals(&self.blocks)));
            self.of_programs.begin(self.programs.read());
            self.of_starters.begin(self.starters.read());
            self.zombies.look(tick);
            self.begin_window(tick.now_ns);
        }
    }

    fn sample(&mut self, tick: &Tick<'_>) {
        self.zombies.look(tick);
    }

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut gaps = Gaps::new("process_life");
        let mut part = LifeSummary::default();
        if let Some(delta) = gaps.delta(self.totals.advance(Ok(totals(&self.blocks)))) {
            let since = |pick: fn(&Totals) -> u64| pick(delta.now).wrapping_sub(pick(&delta.before));
            part.forks = since(|totals| totals.forks);
            part.execs = since(|totals| totals.execs);
            part.ends = since(|totals| totals.ends);
            part.failed = since(|totals| totals.failed);
            part.killed = since(|totals| totals.killed);
            part.core_dumps = since(|totals| totals.dumped);
            part.oom_killed = since(|totals| totals.oom_killed);
            part.ends_not_told = part.ends.saturating_sub(since(|totals| totals.told));
        }
        let gone = |pid: u32| tick.tasks.process(pid).is_none_or(|process| !process.alive);
        if let Some(delta) = gaps.delta(self.of_programs.advance(self.programs.read())) {
            let (programs, left_out) = programs(&delta, self.window_ns);
            part.programs = programs;
            part.ends_not_told += left_out;
            // Nobody adds to what a process that is gone has started, once that has ended, too.
            let done = |key: &ProgramKey, program: &Program| gone(key.starter) && program.running <= 0;
            self.programs.remove(delta.now.extract_if(|key, program| done(key, program)).map(|(key, _)| key));
        }
        if let Some(delta) = gaps.delta(self.of_starters.advance(self.starters.read())) {
            part.starters = starters(&delta, self.window_ns);
            self.starters.remove(delta.now.extract_if(|pid, _| gone(*pid)).map(|(pid, _)| pid));
        }
        part.zombies = self.zombies.parents(tick, self.window_ns);
        signals.process_life = Some(part);
        gaps.tell(signals);
        self.begin_window(tick.now_ns);
    }

    fn pulse(&mut self, now_ns: u64) -> Option<String> {
        let forks = totals(&self.blocks).forks;
        self.pace.per_second(forks, now_ns).map(|rate| format!("{rate:.0} processes/s"))
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.loaded)
    }
}

impl Sampled {
    fn begin_window(&mut self, now_ns: u64) {
        self.window_ns = now_ns;
        self.loaded.begin_window(now_ns);
    }
}

/// Of all CPUs since the load.
fn totals(blocks: &MappedBlocks<Totals>) -> Totals {
    let mut all = Totals::default();
    for block in blocks.iter().map(|block| block.read()) {
        all.forks = all.forks.wrapping_add(block.forks);
        all.execs = all.execs.wrapping_add(block.execs);
        all.ends = all.ends.wrapping_add(block.ends);
        all.failed = all.failed.wrapping_add(block.failed);
        all.killed = all.killed.wrapping_add(block.killed);
        all.dumped = all.dumped.wrapping_add(block.dumped);
        all.oom_killed = all.oom_killed.wrapping_add(block.oom_killed);
        all.told = all.told.wrapping_add(block.told);
    }
    all
}

/// Those that are worth telling of, and how many ends the others had.
fn programs(delta: &Delta<'_, HashMap<ProgramKey, Program>>, window_ns: u64) -> (Vec<ProgramLife>, u64) {
    let mut programs: Vec<_> = delta
        .now
        .iter()
        .map(|(key, now)| {
            let before = delta.before.get(key).filter(|before| before.born_ns == now.born_ns);
            program(key, now, before, window_ns)
        })
        .filter(|program| program.ends > 0 || program.starts > 0)
        .collect();
    let all: u64 = programs.iter().map(|program| program.ends).sum();
    let failures = |program: &ProgramLife| program.failed + program.killed;
    let id = |program: &ProgramLife| (program.starter_pid, program.last_pid, program.program.clone());
    programs.sort_by_cached_key(|program| (Reverse(failures(program)), Reverse(program.ends), id(program)));
    let mut others = programs.split_off(programs.len().min(MAX_PROGRAMS / 2));
    others.sort_by_cached_key(|program| (Reverse(program.ends), id(program)));
    others.truncate(MAX_PROGRAMS / 2);
    programs.append(&mut others);
    let told: u64 = programs.iter().map(|program| program.ends).sum();
    (programs, all - told)
}

fn program(key: &ProgramKey, now: &Program, before: Option<&Program>, window_ns: u64) -> ProgramLife {
    let since = |pick: fn(&Program) -> u64| pick(now).saturating_sub(before.map_or(0, pick));
    let mut endings = Vec::new();
    for (place, ending) in now.endings.iter().enumerate() {
        let known = before.and_then(|before| before.endings.get(place)).map_or(0, |ending| ending.count);
        if let count @ 1.. = ending.count.saturating_sub(known) {
            endings.push(Ending::new(WaitStatus(ending.status), count));
        }
    }
    endings.sort_by_key(|ending| (Reverse(ending.count), ending.status));
    let current = now.window_ns == window_ns;
    ProgramLife {
        program: key.comm.to_str_lossy().into_owned(),
        forked: key.forked != 0,
        file: text(&now.filename),
        args: arguments(&now.args),
        starter_pid: key.starter,
        starter_comm: now.starter_comm.to_str_lossy().into_owned(),
        unit: text(&now.place),
        cgroup_id: now.cgroup_id,
        uid: now.uid,
        starts: since(|program| program.starts),
        ends: since(|program| program.ends),
        replaced: since(|program| program.replaced),
        failed: since(|program| program.failed),
        killed: since(|program| program.killed),
        core_dumps: since(|program| program.dumped),
        oom_killed: since(|program| program.oom_killed),
        brief: since(|program| program.brief),
        again_failed: since(|program| program.again_failed),
        again_ended: since(|program| program.again_ended),
        same_args: since(|program| program.same_args),
        lived_ns: since(|program| program.lived_ns),
        cpu_ns: since(|program| program.cpu_ns),
        endings,
        shortest_ns: if current { now.shortest_ns } else { 0 },
        longest_ns: if current { now.longest_ns } else { 0 },
        most_running: if current { now.most_running } else { now.running.max(0).cast_unsigned() },
        last_pid: now.last_pid,
        last_ending: WaitStatus(now.last_status),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(until_nul(bytes)).into_owned()
}

/// The arguments, without what the last one's end would be if it did not fit.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let bytes = bytes.get(..end).unwrap_or_default();
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

fn starters(delta: &Delta<'_, HashMap<u32, Starter>>, window_ns: u64) -> Vec<ForkStarter> {
    let mut starters: Vec<_> = delta
        .now
        .iter()
        .map(|(pid, now)| {
            let before = delta.before.get(pid).filter(|before| before.start_ns == now.start_ns);
            let since = |pick: fn(&Starter) -> u64| pick(now).saturating_sub(before.map_or(0, pick));
            let started = now.started.iter().filter(|started| started.count > 0 && now.window_ns == window_ns);
            let mut programs: Vec<_> = started
                .map(|started| StartedProgram {
                    program: started.comm.to_str_lossy().into_owned(),
                    count: started.count,
                })
                .collect();
            programs.sort_by(|a, b| (Reverse(a.count), &a.program).cmp(&(Reverse(b.count), &b.program)));
            ForkStarter {
                pid: *pid,
                comm: now.comm.to_str_lossy().into_owned(),
                forks: since(|starter| starter.forks),
                execs: since(|starter| starter.execs),
                ends: since(|starter| starter.ends),
                brief: since(|starter| starter.brief),
                cpu_ns: since(|starter| starter.cpu_ns),
                programs,
            }
        })
        .filter(|starter| starter.forks > 0 || starter.execs > 0)
        .collect();
    starters.sort_by_key(|starter| (Reverse(starter.forks.max(starter.execs)), starter.pid));
    starters.truncate(MAX_STARTERS);
    starters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn layouts_are_the_kernel_sides() {
        let totals = fields!(Totals: forks execs ends failed killed dumped oom_killed told);
        assert_matches(OBJECT.data, "life_totals", size_of::<Totals>(), totals);
        let key = fields!(ProgramKey: starter place forked pad comm);
        assert_matches(OBJECT.data, "program_key", size_of::<ProgramKey>(), key);
        let ending = fields!(KernelEnding: count status pad);
        assert_matches(OBJECT.data, "ending", size_of::<KernelEnding>(), ending);
        let program = fields!(Program: born_ns starts ends replaced failed killed dumped oom_killed brief again_failed again_ended
            same_args lived_ns cpu_ns endings window_ns shortest_ns longest_ns most_running running last_start_ns last_end_ns args_hash
            starter_start_ns cgroup_id last_status last_pid last_bad uid starter_comm place filename args);
        assert_matches(OBJECT.data, "program", size_of::<Program>(), program);
        assert_matches(OBJECT.data, "started", size_of::<Started>(), fields!(Started: count comm));
        let starter = fields!(Starter: start_ns forks execs ends brief cpu_ns window_ns started comm);
        assert_matches(OBJECT.data, "starter", size_of::<Starter>(), starter);
    }

    #[test]
    fn arguments_end_where_they_end() {
        assert_eq!(arguments(b"sh\0-c\0exit 1\0\0\0"), ["sh", "-c", "exit 1"]);
        assert_eq!(arguments(b"a\0\0b\0"), ["a", "", "b"]);
        assert!(arguments(&[0; 8]).is_empty() && arguments(b"").is_empty());
    }
}
