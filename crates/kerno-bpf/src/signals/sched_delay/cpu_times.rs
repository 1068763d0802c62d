//! What each CPU did, as `/proc/stat` tells. Parsed here because the number of a CPU matters: with some offline, its line's place is
//! another.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::engine::ProcFile;
use crate::probe::faults::read_text;

/// Ticks of one CPU since the machine started, as `/proc/stat` has them (proc_stat(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTimes {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    io_wait: u64,
    irq: u64,
    softirq: u64,
    steal: u64,
}

/// Shares of a time, each 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CpuShares {
    pub(super) busy: f64,
    pub(super) nice: f64,
    pub(super) interrupts: f64,
    pub(super) io_wait: f64,
    pub(super) steal: f64,
}

impl CpuTimes {
    /// Of every CPU online.
    pub(super) fn read() -> io::Result<BTreeMap<u32, Self>> {
        Ok(parse(&read_text(Path::new("/proc/stat"))?))
    }

    /// What the time between two readings was used for. The kernel's idle and I/O wait may go back a little: that counts as none.
    #[allow(clippy::cast_precision_loss, reason = "ticks of a window")]
    pub(super) fn shares_since(self, earlier: Self) -> CpuShares {
        let ticks = |pick: fn(&Self) -> u64| pick(&self).saturating_sub(pick(&earlier)) as f64;
        let (nice, io_wait, steal) = (ticks(|t| t.nice), ticks(|t| t.io_wait), ticks(|t| t.steal));
        let busy = ticks(|t| t.user) + nice + ticks(|t| t.system);
        let interrupts = ticks(|t| t.irq) + ticks(|t| t.softirq);
        let all = (busy + interrupts + io_wait + steal + ticks(|t| t.idle)).max(1.0);
        CpuShares {
            busy: busy / all,
            nice: nice / all,
            interrupts: interrupts / all,
            io_wait: io_wait / all,
            steal: steal / all,
        }
    }
}

fn parse(text: &str) -> BTreeMap<u32, CpuTimes> {
    let cpu = |line: &str| {
        let (name, ticks) = line.split_once(' ')?;
        let number = name.strip_prefix("cpu")?.parse().ok()?;
        let mut ticks = ticks.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let mut next = || ticks.next().unwrap_or(0);
        // User time includes that of guests.
        let times = CpuTimes {
            user: next(),
            nice: next(),
            system: next(),
            idle: next(),
            io_wait: next(),
            irq: next(),
            softirq: next(),
            steal: next(),
        };
        Some((number, times))
    };
    text.lines().filter_map(cpu).collect()
}

/// Tasks that run or could run now, without the caller's thread. The fourth word of `/proc/loadavg`; `/proc/stat` has it too, at many
/// times the price.
pub(super) fn runnable(loadavg: &mut ProcFile) -> io::Result<f64> {
    let words = loadavg.text()?.split(' ').nth(3).and_then(|word| word.split_once('/'));
    let running: u32 = words.and_then(|(running, _)| running.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(f64::from(running.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_between() {
        let text = |user: u64, steal: u64, idle: u64| {
            format!(
                "cpu  1 2 3 4\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu3 {user} 10 5 {idle} 20 1 2 {steal} 0 0\nintr 5\nctxt 7\n"
            )
        };
        let (before, after) = (parse(&text(100, 0, 1000)), parse(&text(140, 20, 1040)));
        assert_eq!(before.keys().copied().collect::<Vec<_>>(), [0, 3]);
        let shares = after[&3].shares_since(before[&3]);
        assert_eq!(shares, CpuShares { busy: 0.4, steal: 0.2, ..CpuShares::default() });
        assert_eq!(after[&0].shares_since(before[&0]), CpuShares::default());
    }

    #[test]
    fn this_machine_tells() {
        assert!(CpuTimes::read().unwrap().values().all(|times| times.idle + times.user + times.system > 0));
        assert!(runnable(&mut ProcFile::new("/proc/loadavg")).is_ok());
    }
}
