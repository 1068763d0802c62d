//! Processes that belong together, by their name and cgroup: the workers of one program, the compilers of one build.

use std::collections::HashMap;

use crate::engine::{ProcessAccount, Tasks};
use crate::event::Comm;
use kerno_model::CpuGroup;

/// The most groups that are named by each measure, and the most processes of each.
const MAX_GROUPS: usize = 6;
const MAX_PIDS: usize = 8;

/// `SCHED_FIFO`, `SCHED_RR` and `SCHED_DEADLINE`, linux/sched.h.
const REALTIME: [u32; 3] = [1, 2, 6];

/// The groups that used most CPU time, and those that waited most for it.
pub(super) fn groups(tasks: &Tasks) -> Vec<CpuGroup> {
    let mut groups: HashMap<(Comm, u64), Vec<&ProcessAccount>> = HashMap::new();
    let wanted = tasks.processes().filter(|process| process.used.run_ns > 0 || process.used.wait_ns > 0);
    for process in wanted {
        groups.entry((process.row.comm, process.row.cgroup_id)).or_default().push(process);
    }
    let mut groups: Vec<_> =
        groups.into_iter().map(|((comm, cgroup_id), members)| group(comm, cgroup_id, members)).collect();
    groups.sort_unstable_by_key(|group| std::cmp::Reverse((group.wait_ns, group.pids.first().copied())));
    let by_run = |group: &CpuGroup| std::cmp::Reverse((group.run_ns, group.pids.first().copied()));
    let mut others = groups.split_off(MAX_GROUPS.min(groups.len()));
    others.sort_unstable_by_key(by_run);
    others.truncate(MAX_GROUPS);
    groups.append(&mut others);
    groups.sort_unstable_by_key(by_run);
    groups.iter_mut().for_each(look_at_first);
    groups
}

/// How its first process is scheduled.
fn look_at_first(group: &mut CpuGroup) {
    let pid = group.pids.first().and_then(|pid| i32::try_from(*pid).ok());
    let stat = pid.and_then(|pid| procfs::process::Process::new(pid).ok()?.stat().ok());
    if let Some(stat) = stat {
        group.realtime = stat.policy.is_some_and(|policy| REALTIME.contains(&policy));
        group.nice = i32::try_from(stat.nice).unwrap_or(0);
    }
}

fn group(comm: Comm, cgroup_id: u64, mut members: Vec<&ProcessAccount>) -> CpuGroup {
    members.sort_unstable_by_key(|process| std::cmp::Reverse((process.used.run_ns, process.row.pid)));
    // A parent that only waits for its children is none of the crowd.
    let demand = |process: &ProcessAccount| process.used.run_ns.saturating_add(process.used.wait_ns);
    let most = members.iter().map(|process| demand(process)).max().unwrap_or(0);
    members.retain(|process| demand(process) >= most / 100);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    CpuGroup {
        comm: comm.to_str_lossy().into_owned(),
        cgroup_id,
        processes: count(members.len()),
        threads: members.iter().map(|process| process.threads).sum(),
        run_ns: members.iter().map(|process| process.used.run_ns).sum(),
        wait_ns: members.iter().map(|process| process.used.wait_ns).sum(),
        realtime: false,
        nice: 0,
        pids: members.iter().take(MAX_PIDS).map(|process| process.row.pid).collect(),
    }
}
