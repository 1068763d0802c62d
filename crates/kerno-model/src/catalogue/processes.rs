use std::collections::BTreeMap;

use crate::Process;
use crate::metric::labels::{DIRECTION, UNIT};
use crate::metric::{Describe, Described, Give, Measure, Metric};

type Processes = BTreeMap<u32, Process>;

fn by_unit(part: &Processes, give: &mut Give<'_>, pick: fn(&Process) -> u64) {
    part.iter().for_each(|(pid, process)| give.unit(*pid).add(pick(process)));
}

impl Describe for Processes {
    const ABOUT: &'static str =
        "Processes, by unit: those that used most of each thing in a window, and those that another part names";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::counter("kerno.unit.cpu.time", Measure::NANOSECONDS, "CPU time, by unit.").by(&[UNIT]),
            give: |part, give| by_unit(part, give, |process| process.used.run_ns),
        },
        Described {
            metric: Metric::counter("kerno.unit.cpu.wait.time", Measure::NANOSECONDS, "Time in run queues, by unit.")
                .by(&[UNIT]),
            give: |part, give| by_unit(part, give, |process| process.used.wait_ns),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.memory.major_faults",
                Measure::things("fault"),
                "Page faults that needed storage, by unit.",
            )
            .by(&[UNIT]),
            give: |part, give| by_unit(part, give, |process| process.used.major_faults),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.disk.io",
                Measure::BYTES,
                "Bytes read from storage, and bytes that were made to be written to it, by unit; buffered writes are counted for their author.",
            )
            .by(&[UNIT, DIRECTION]),
            give: |part, give| {
                for (pid, process) in part {
                    give.unit_and(*pid, &["read"]).add(process.used.read_bytes);
                    give.unit_and(*pid, &["write"]).add(process.used.write_bytes);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.disk.wait.time",
                Measure::NANOSECONDS,
                "Time asleep for block I/O, by unit; 0 where delay accounting is off (kernel.task_delayacct).",
            )
            .by(&[UNIT]),
            give: |part, give| by_unit(part, give, |process| process.used.io_delay_ns),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.memory.reclaim.time",
                Measure::NANOSECONDS,
                "Time in direct memory reclaim, by unit; 0 where delay accounting is off (kernel.task_delayacct).",
            )
            .by(&[UNIT]),
            give: |part, give| by_unit(part, give, |process| process.used.reclaim_delay_ns),
        },
        Described {
            metric: Metric::gauge(
                "kerno.unit.memory.anonymous",
                Measure::BYTES,
                "Anonymous memory of processes that still run, by unit.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                for (pid, process) in part.iter().filter(|(_, process)| process.alive) {
                    give.unit(*pid).count(process.anon_bytes);
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("*.pid", "without bound"),
        ("*.parent_pid", "without bound"),
        ("*.uid", "without bound"),
        ("*.started_ns", "a time, for the identity of the process"),
        ("*.threads", "a detail for reports"),
        ("*.used.waits", "a detail for reports; time in run queues is in `kerno.unit.cpu.wait.time`"),
        ("*.used.voluntary", "a detail for reports; all switches are in `kerno.cpu.switches`"),
        ("*.used.involuntary", "a detail for reports; all switches are in `kerno.cpu.switches`"),
    ];
}
