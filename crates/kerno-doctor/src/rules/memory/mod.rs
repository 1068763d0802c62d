//! Memory that runs out or is short.

// The example of CONTRIBUTING.md.
#[cfg(test)]
mod example;
pub(super) mod imminent;
pub(super) mod kill;
pub(super) mod pressure;

use kerno_model::amount::bytes;
use kerno_model::paths::is_within as is_in;
use kerno_model::{CgroupMemory, Entity, Finding, ProcessMemory, Safety, Subject, Window};

use crate::shell::word;

/// The variant of findings about the memory of a cgroup.
const CGROUP: &str = "cgroup";
/// The variant of findings about the memory of the machine.
const MACHINE: &str = "machine";

/// Whoever makes memory scarce in a cgroup (`/` for the machine): the process whose own memory grew most, if that is much of
/// what the whole grew by, else the largest. One that has ended only when there is no other.
fn user_of_memory<'a>(window: &'a Window, inside: &str, grown_bytes: f64) -> Option<&'a ProcessMemory> {
    /// So much of the growth must be one process's.
    const MUCH: f64 = 0.3;
    let part = window.oom_track.as_ref()?;
    let growth = |process: &ProcessMemory| process.anon_bytes.change();
    let size = |process: &ProcessMemory| process.anon_bytes.last().unwrap_or(0.0);
    let pick = |alive: bool| {
        let within = move |process: &&ProcessMemory| {
            process.alive == alive && is_in(process.cgroup.as_deref().unwrap_or("/"), inside)
        };
        let processes = part.processes.iter().filter(within);
        let growing = processes.clone().max_by(|a, b| growth(a).total_cmp(&growth(b)));
        growing
            .filter(|process| grown_bytes > 0.0 && growth(process) >= MUCH * grown_bytes)
            .or_else(|| processes.max_by(|a, b| size(a).total_cmp(&size(b))))
    };
    pick(true).or_else(|| pick(false))
}

/// A process as the subject, with the cgroup that limits it.
fn subject(window: &Window, process: Option<(u32, &str)>, cgroup: Option<&str>) -> Subject {
    let mut subject = process.map(|(pid, comm)| Subject::process(window, pid, comm)).unwrap_or_default();
    if let Some(cgroup) = cgroup {
        subject.cgroup = Some(cgroup.to_owned());
    }
    subject
}

/// Whoever uses the memory, in words.
fn user(finding: &Finding) -> String {
    finding.subject.process.as_ref().map_or_else(|| "a process".to_owned(), ToString::to_string)
}

/// Whose memory it is, in words.
fn place(finding: &Finding) -> String {
    match finding.subject.cgroup.as_deref() {
        Some(path) if finding.variant == CGROUP => format!("cgroup {path}"),
        None if finding.variant == CGROUP => "its cgroup".to_owned(),
        _ => "the machine".to_owned(),
    }
}

/// A cgroup's limit and use: where to look, and how to raise it.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn advise_cgroup(finding: Finding, cgroup: &CgroupMemory) -> Finding {
    let dir = &cgroup.directory;
    let wanted = cgroup.limit_bytes.saturating_add(cgroup.limit_bytes / 2);
    let file = match (cgroup.v2, cgroup.high_bytes == Some(cgroup.limit_bytes)) {
        (true, true) => "memory.high",
        (true, false) => "memory.max",
        (false, _) => "memory.limit_in_bytes",
    };
    let usage = if cgroup.v2 { "memory.current" } else { "memory.usage_in_bytes" };
    let procs = format!("find {} -name cgroup.procs -exec cat {{}} +", word(dir));
    let (limit, usage) = (word(&format!("{dir}/{file}")), word(&format!("{dir}/{usage}")));
    let itself = || Entity::Cgroup(cgroup.path.clone());
    let finding = finding
        .fix(itself(), Safety::ReadOnly, format!("cat {limit} {usage}"), "shows its limit and use, with page cache")
        // Those of the cgroups in it, too: on v2 it often has none of its own.
        .fix(
            itself(),
            Safety::ReadOnly,
            format!("ps -o pid,rss,comm --sort=-rss -p \"$({procs} | paste -sd,)\" | head"),
            "shows which of its processes use most memory",
        );
    let why = format!("raises the limit to {}, if the machine has that to spare", bytes(wanted as f64));
    // The unit whose limit it is, which is not always that of the process.
    let unit = cgroup.path.rsplit('/').next().unwrap_or_default();
    let is_unit = [".service", ".scope", ".slice"].iter().any(|kind| unit.ends_with(kind));
    if cgroup.v2 && is_unit {
        let property = if file == "memory.high" { "MemoryHigh" } else { "MemoryMax" };
        let command = format!("systemctl set-property {} {property}={wanted}", word(unit));
        return finding.fix(Entity::Unit(unit.to_owned()), Safety::Changing, command, why);
    }
    finding.fix(itself(), Safety::Changing, format!("echo {wanted} > {limit}"), why)
}

/// What to type when the machine itself has too little.
fn advise_machine(finding: Finding, ended: bool) -> Finding {
    let finding = finding
        .look("ps -eo pid,rss,comm --sort=-rss | head", "shows which processes use most memory")
        .look("grep -E 'MemAvailable|Swap|Shmem|Slab|HugePages' /proc/meminfo", "shows what else uses memory");
    match (finding.subject.unit.clone(), finding.pid()) {
        (Some(unit), _) => {
            let command = format!("systemctl set-property {} MemoryMax=70%", word(&unit));
            let why = "limits it to 70 % of the machine's memory, so that it fails before others do";
            finding.fix(Entity::Unit(unit), Safety::Changing, command, why)
        }
        // One that has ended may have left its id to another.
        (None, Some(pid)) if !ended => {
            finding.change_process(format!("kill {pid}"), "ends it and frees its memory, if it can be spared")
        }
        _ => finding,
    }
}
