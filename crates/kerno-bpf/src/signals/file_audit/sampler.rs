use std::cmp::Reverse;
use std::collections::HashMap;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::loader;
use crate::engine::{Cumulative, Delta, Gaps, Pace, Sampler, Tick};
use crate::event::{Comm, MAX_FILENAME_LEN};
use crate::probe::{Hook, Host, KernelHash, LoadError, MappedBlocks, Object, Plan, SummaryPrograms};
use kerno_model::{ErrnoCount, Window};
use kerno_model::{FileProcess, FileSummary};

const OBJECT: Object = Object {
    name: "file_audit_summary",
    data: aya::include_bytes_aligned!("../../../objects/file_audit_summary.bpf.o"),
};

/// What is told of at most, half of them those with the most failed opens.
const MAX_PROCESSES: usize = 64;

/// Mirror of `struct opens` in file_audit_summary.bpf.c, where the fields are explained; so are the next ones.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Opens {
    opens: u64,
    errors: [u64; 135],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OpenerError {
    count: u64,
    error: u32,
    pad: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Opener {
    born_ns: u64,
    opens: u64,
    failed: u64,
    repeated: u64,
    same_path: u64,
    first_failed_ns: u64,
    window_ns: u64,
    recent: [u64; 8],
    last_path: u64,
    next_recent: u32,
    last_error: u32,
    errors: [OpenerError; 6],
    comm: Comm,
    path: [u8; MAX_FILENAME_LEN],
}

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(_host: &Host) -> Result<(Object, Plan), LoadError> {
    let mut plan = Plan::default();
    plan.size_per_cpu("opens");
    plan.set("cfg_classes", &loader::classes());
    plan.attach("on_sched_process_exit", Hook::Tracepoint("sched_process_exit"));
    plan.attach("on_sys_exit", Hook::Tracepoint("sys_exit"));
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
        opens: programs.mapped("opens")?,
        openers: programs.hash("openers")?,
        programs,
        totals: Cumulative::new("opens"),
        kept: Cumulative::new("who opened files"),
        begun: false,
        window_ns: 0,
        pace: Pace::default(),
    }))
}

#[derive(Debug)]
struct Sampled {
    programs: SummaryPrograms,
    opens: MappedBlocks<Opens>,
    openers: KernelHash<u32, Opener>,
    /// Opens, and how many ended with each error.
    totals: Cumulative<(u64, Vec<u64>)>,
    kept: Cumulative<HashMap<u32, Opener>>,
    begun: bool,
    /// What the kernel side has been told as the window's begin.
    window_ns: u64,
    pace: Pace,
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // Later windows begin where the one before ended, so that no open falls between them.
        if !self.begun {
            self.begun = true;
            self.totals.begin(Ok(totals(&self.opens)));
            self.kept.begin(self.openers.read());
            self.begin_window(tick.now_ns);
        }
    }

    fn sample(&mut self, _tick: &Tick<'_>) {}

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut gaps = Gaps::new("file_audit");
        let (mut opens, mut errors) = (0, Vec::new());
        if let Some(delta) = gaps.delta(self.totals.advance(Ok(totals(&self.opens)))) {
            opens = delta.now.0.wrapping_sub(delta.before.0);
            for (errno, (now, before)) in delta.now.1.iter().zip(&delta.before.1).enumerate() {
                if let (Ok(errno), count @ 1..) = (i32::try_from(errno), now.wrapping_sub(*before)) {
                    errors.push(ErrnoCount::new(errno, count));
                }
            }
        }
        errors.sort_by_key(|error| (Reverse(error.count), error.errno));
        let openers = gaps.delta(self.kept.advance(self.openers.read()));
        let processes = openers.as_ref().map(|delta| processes(delta, self.window_ns)).unwrap_or_default();
        signals.file_audit = Some(FileSummary { opens, errors, processes });
        gaps.tell(signals);
        // Nobody writes to the elements of a process that is gone.
        let gone = |pid: u32| tick.tasks.process(pid).is_none_or(|process| !process.alive);
        if let Some(delta) = openers {
            self.openers.remove(delta.now.extract_if(|pid, _| gone(*pid)).map(|(pid, _)| pid));
        }
        self.begin_window(tick.now_ns);
    }

    fn pulse(&mut self, now_ns: u64) -> Option<String> {
        let opens = totals(&self.opens).0;
        self.pace.per_second(opens, now_ns).map(|rate| format!("{rate:.0} opens/s"))
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}

impl Sampled {
    fn begin_window(&mut self, now_ns: u64) {
        self.window_ns = now_ns;
        self.programs.begin_window(now_ns);
    }
}

/// Opens and errors of all CPUs since the load.
fn totals(mapped: &MappedBlocks<Opens>) -> (u64, Vec<u64>) {
    let (mut opens, mut errors) = (0u64, vec![0u64; 135]);
    for block in mapped.iter().map(|block| block.read()) {
        opens = opens.wrapping_add(block.opens);
        errors.iter_mut().zip(block.errors).for_each(|(sum, count)| *sum = sum.wrapping_add(count));
    }
    (opens, errors)
}

fn processes(delta: &Delta<'_, HashMap<u32, Opener>>, window_ns: u64) -> Vec<FileProcess> {
    let mut processes: Vec<_> = delta
        .now
        .iter()
        .map(|(pid, opener)| {
            let before = delta.before.get(pid).filter(|before| before.born_ns == opener.born_ns);
            process(*pid, opener, before, window_ns)
        })
        .filter(|process| process.opens > 0)
        .collect();
    processes.sort_by_key(|process| (Reverse(process.failed), Reverse(process.opens), process.pid));
    let mut others = processes.split_off(processes.len().min(MAX_PROCESSES / 2));
    others.sort_by_key(|process| (Reverse(process.opens), process.pid));
    others.truncate(MAX_PROCESSES / 2);
    processes.append(&mut others);
    processes
}

fn process(pid: u32, now: &Opener, before: Option<&Opener>, window_ns: u64) -> FileProcess {
    let since = |pick: fn(&Opener) -> u64| pick(now).saturating_sub(before.map_or(0, pick));
    let mut errors = Vec::new();
    for (i, error) in now.errors.iter().enumerate() {
        let before = before.map_or(0, |before| before.errors.get(i).map_or(0, |error| error.count));
        if let (Ok(errno @ 1..), count @ 1..) = (i32::try_from(error.error), error.count.saturating_sub(before)) {
            errors.push(ErrnoCount::new(errno, count));
        }
    }
    errors.sort_by_key(|error| (Reverse(error.count), error.errno));
    let failed = since(|opener| opener.failed);
    let current = failed > 0 && now.window_ns == window_ns;
    let last = match i32::try_from(now.last_error) {
        Ok(errno @ 1..) if failed > 0 => ErrnoCount::new(errno, 0),
        _ => ErrnoCount::default(),
    };
    let path = now.path.split(|byte| *byte == 0).next().unwrap_or(&[]);
    FileProcess {
        pid,
        comm: now.comm.to_str_lossy().into_owned(),
        opens: since(|opener| opener.opens),
        failed,
        errors,
        last_failed_path: if failed > 0 { String::from_utf8_lossy(path).into_owned() } else { String::new() },
        last_errno: last.errno,
        last_error: last.name,
        same_path: if current { now.same_path } else { 0 },
        repeated: since(|opener| opener.repeated),
        first_failed_ns: if current { now.first_failed_ns } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn layouts_are_the_kernel_sides() {
        assert_matches(OBJECT.data, "opens", size_of::<Opens>(), fields!(Opens: opens errors));
        let error = fields!(OpenerError: count error pad);
        assert_matches(OBJECT.data, "opener_error", size_of::<OpenerError>(), error);
        let opener = fields!(Opener: born_ns opens failed repeated same_path first_failed_ns window_ns recent last_path next_recent
            last_error errors comm path);
        assert_matches(OBJECT.data, "opener", size_of::<Opener>(), opener);
    }
}
