//! Chooses the processes that a window names.

use std::collections::BTreeSet;

use kerno_model::Window;

use super::tasks::{ProcessAccount, Tasks};

/// How many of the heaviest users of each resource.
const TOP: usize = 10;

/// The processes that the signals name, the heaviest users of each resource, and the parents of all of them.
pub(super) fn worth_naming<'a>(window: &Window, tasks: &'a Tasks) -> Vec<&'a ProcessAccount> {
    let mut pids: BTreeSet<u32> = window.named_pids();
    let uses: [fn(&ProcessAccount) -> u64; 9] = [
        |p| p.used.run_ns,
        |p| p.used.wait_ns,
        |p| p.used.read_bytes,
        |p| p.used.write_bytes,
        |p| p.used.io_delay_ns,
        |p| p.used.reclaim_delay_ns,
        |p| p.used.major_faults,
        |p| p.row.anon_pages,
        |p| p.used.involuntary,
    ];
    let mut all: Vec<_> = tasks.processes().collect();
    for used in uses {
        all.sort_unstable_by_key(|process| std::cmp::Reverse(used(process)));
        pids.extend(all.iter().take(TOP).filter(|process| used(process) > 0).map(|process| process.row.pid));
    }
    // The parents show who started them.
    let parents: Vec<_> = pids.iter().filter_map(|pid| Some(tasks.process(*pid)?.row.parent_pid)).collect();
    pids.extend(parents);
    pids.into_iter().filter_map(|pid| tasks.process(pid)).collect()
}
