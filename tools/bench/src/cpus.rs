//! Which CPU is for what is measured, and which for all else.

use anyhow::Context;

/// The last one: the first often has the devices' interrupts.
pub(super) fn measured() -> usize {
    // SAFETY: a plain call. Not the standard library's count, which is of those that we may use.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).unwrap_or(1).max(1) - 1
}

/// For readers and peers, so that they are not in the way; the same one where there is no other.
pub(super) const fn others() -> usize {
    0
}

/// Keeps this thread, and what it starts, on one CPU.
pub(super) fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu} alone"))
}

/// Lets this thread, and what it starts, run on any CPU again.
pub(super) fn unpin() -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    (0..=measured()).for_each(|cpu| set.set(cpu));
    rustix::thread::sched_setaffinity(None, &set).context("cannot run on all CPUs")
}

/// Before all others on this CPU.
pub(super) fn first_in_line() -> anyhow::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: a plain call with a valid struct.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    anyhow::ensure!(result == 0, "no real-time priority");
    Ok(())
}

/// As everybody else again.
pub(super) fn back_in_line() -> anyhow::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: a plain call with a valid struct.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const priority) };
    anyhow::ensure!(result == 0, "no ordinary priority");
    Ok(())
}

/// The processor's name.
pub(super) fn model() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    Ok(name.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned())
}
