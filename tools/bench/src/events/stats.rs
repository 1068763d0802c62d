//! What the kernel itself counts of each program while it is asked to (`BPF_ENABLE_STATS`, Linux 5.8).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::programs::loaded_programs;

/// A loaded program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) translated_bytes: u32,
    pub(super) jited_bytes: u32,
    pub(super) run_ns: u64,
    pub(super) runs: u64,
}

/// The ids of the programs that a process has open.
pub(super) fn of_process(pid: u32) -> Vec<u32> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let mut ids: Vec<u32> =
        infos.filter_map(|info| field(&fs::read_to_string(info.path()).ok()?, "prog_id:")).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Those of these programs that are still there, by id.
pub(super) fn read(ids: &[u32]) -> BTreeMap<u32, Program> {
    let wanted = loaded_programs().filter_map(Result::ok).filter(|info| ids.contains(&info.id()));
    wanted
        .filter_map(|info| {
            let fd = info.fd().ok()?;
            // The times are not in what the library reads; /proc shows them as numbers.
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()?;
            let program = Program {
                name: info.name_as_str().unwrap_or("?").to_owned(),
                translated_bytes: info.size_translated().unwrap_or(0),
                jited_bytes: info.size_jitted(),
                run_ns: field(&text, "run_time_ns:")?,
                runs: field(&text, "run_cnt:")?,
            };
            Some((info.id(), program))
        })
        .collect()
}

fn field<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
