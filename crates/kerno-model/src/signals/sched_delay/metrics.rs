use super::{CgroupThrottle, CpuStat, SchedSummary};
use crate::metric::labels::{CGROUP, UNIT};
use crate::metric::{Describe, Described, FAST, Give, Label, Measure, Metric, Values, of_share};

const AFTER: Label = Label::new(
    "after",
    "kerno.cpu.wait.after",
    Values::Of(&["wakeup", "preemption"]),
    "What the wait began with: a wake-up, which someone notices, or losing the CPU to another task.",
);
const MODE: Label = Label::new(
    "mode",
    "cpu.mode",
    Values::Of(&["normal", "nice", "interrupt", "iowait", "steal", "idle"]),
    "What for: tasks, tasks of low priority, interrupts, nothing while I/O was outstanding, other virtual machines, nothing.",
);

const TASKS: Measure = Measure::things("task");

/// The shares of a CPU's time; together 1.
fn shares(cpu: &CpuStat) -> [(&'static str, f64); 6] {
    let idle = 1.0 - cpu.busy - cpu.interrupts - cpu.io_wait - cpu.steal;
    [
        ("normal", (cpu.busy - cpu.nice).max(0.0)),
        ("nice", cpu.nice),
        ("interrupt", cpu.interrupts),
        ("iowait", cpu.io_wait),
        ("steal", cpu.steal),
        ("idle", idle.max(0.0)),
    ]
}

/// A counter of each cgroup with a quota.
fn by_cgroup(part: &SchedSummary, give: &mut Give<'_>, pick: fn(&CgroupThrottle) -> u64) {
    for cgroup in &part.throttled {
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let held_back = cgroup.throttled_periods as f64 / cgroup.periods.max(1) as f64;
        give.of(&[&cgroup.path], held_back).add(pick(cgroup));
    }
}

impl Describe for SchedSummary {
    const ABOUT: &'static str = "CPUs, and tasks that wait for them";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::histogram(
                "kerno.cpu.wait.duration",
                Measure::NANOSECONDS,
                FAST,
                "How long tasks that could run waited for a CPU, all CPUs together.",
            )
            .by(&[AFTER]),
            give: |part, give| {
                let longest = part.waiters.iter().max_by_key(|waiter| waiter.max_ns);
                let longest = longest.map(|waiter| give.exemplar(waiter.max_ns, None, waiter.pid, &waiter.comm));
                give.of(&["wakeup"], 0.0).values(&part.wakeup_ns, longest);
                give.of(&["preemption"], 0.0).values(&part.preempted_ns, None);
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cpu.time",
                Measure::NANOSECONDS,
                "What the time of all CPUs was used for.",
            )
            .by(&[MODE]),
            give: |part, give| {
                for (mode, share) in part.cpus.iter().flat_map(shares) {
                    let used_ns = of_share(share, give.seconds());
                    give.of(&[mode], 0.0).add(used_ns);
                }
            },
        },
        Described {
            metric: Metric::largest(
                "kerno.cpu.utilization.max",
                Measure::RATIO,
                "How busy the busiest CPU was with tasks and interrupts, the most of the windows since the last reading.",
            ),
            give: |part, give| {
                let busiest = part.cpus.iter().map(|cpu| cpu.busy + cpu.interrupts).reduce(f64::max);
                give.all().largest(busiest);
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cpu.switches",
                Measure::things("switch"),
                "Switches from one task to another, all CPUs together.",
            ),
            give: |part, give| give.all().add(part.cpus.iter().map(|cpu| cpu.switches).sum()),
        },
        Described {
            metric: Metric::counter(
                "kerno.cpu.stalled.time",
                Measure::NANOSECONDS,
                "Time in which at least one task waited for a CPU (PSI).",
            ),
            give: |part, give| {
                if let Some(share) = part.some_stalled {
                    let stalled_ns = of_share(share, give.seconds());
                    give.all().add(stalled_ns);
                }
            },
        },
        Described {
            metric: Metric::gauge("kerno.task.runnable", TASKS, "Tasks that ran or could run, at the latest sample."),
            give: |part, give| give.all().set_known(part.runnable.last()),
        },
        Described {
            metric: Metric::largest(
                "kerno.task.runnable.max",
                TASKS,
                "The most tasks that ran or could run, of all samples since the last reading.",
            ),
            give: |part, give| give.all().largest(part.runnable.max()),
        },
        Described {
            metric: Metric::gauge(
                "kerno.task.uninterruptible",
                TASKS,
                "Tasks that slept uninterruptibly, at the latest sample.",
            ),
            give: |part, give| give.all().set_known(part.uninterruptible.last()),
        },
        Described {
            metric: Metric::largest(
                "kerno.task.uninterruptible.max",
                TASKS,
                "The most tasks that slept uninterruptibly, of all samples since the last reading.",
            ),
            give: |part, give| give.all().largest(part.uninterruptible.max()),
        },
        Described {
            metric: Metric::largest(
                "kerno.unit.task.blocked.max",
                Measure::SECONDS,
                "For how long a task had slept uninterruptibly, the longest since the last reading, by unit; only long sleeps.",
            )
            .by(&[UNIT]),
            give: |part, give| part.blocked.iter().for_each(|task| give.unit(task.pid).largest(Some(task.seconds))),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.cpu.slow_waits",
                Measure::things("wait"),
                "Long waits for a CPU after a wake-up, by unit, of the processes that had the worst.",
            )
            .by(&[UNIT]),
            give: |part, give| part.waiters.iter().for_each(|waiter| give.unit(waiter.pid).add(waiter.slow)),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.cpu.slow_wait.time",
                Measure::NANOSECONDS,
                "Time in long waits for a CPU after a wake-up, by unit, of the processes that had the worst.",
            )
            .by(&[UNIT]),
            give: |part, give| part.waiters.iter().for_each(|waiter| give.unit(waiter.pid).add(waiter.slow_total_ns)),
        },
        Described {
            metric: Metric::largest(
                "kerno.unit.cpu.wait.max",
                Measure::NANOSECONDS,
                "The longest wait for a CPU after a wake-up since the last reading, by unit; exact, and only long waits.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                for waiter in &part.waiters {
                    #[allow(clippy::cast_precision_loss, reason = "a duration")]
                    give.unit(waiter.pid).largest(Some(waiter.max_ns as f64));
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.cpu.periods",
                Measure::things("period"),
                "Periods in which a cgroup with a CPU quota ran.",
            )
            .by(&[CGROUP]),
            give: |part, give| by_cgroup(part, give, |cgroup| cgroup.periods),
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.cpu.throttled.periods",
                Measure::things("period"),
                "Periods in which a cgroup was held back by its CPU quota.",
            )
            .by(&[CGROUP]),
            give: |part, give| by_cgroup(part, give, |cgroup| cgroup.throttled_periods),
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.cpu.throttled.time",
                Measure::NANOSECONDS,
                "Time that a cgroup was held back by its CPU quota, summed over CPUs.",
            )
            .by(&[CGROUP]),
            give: |part, give| by_cgroup(part, give, |cgroup| cgroup.throttled_ns),
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.cpu.time",
                Measure::NANOSECONDS,
                "CPU time that a cgroup with a quota used.",
            )
            .by(&[CGROUP]),
            give: |part, give| by_cgroup(part, give, |cgroup| cgroup.used_ns),
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("cpus[].cpu", "one series a CPU would have no bound"),
        ("cpus[].delay_ns[][]", "in `kerno.cpu.wait.duration`, which has all CPUs together"),
        ("waiters[].slow_ns", "a setting, not an observation"),
        ("waiters[].first_ns", "a time, for findings"),
        ("waiters[].held_by[].*", "without bound; for findings"),
        ("groups[].*", "by name of program, which has no bound; use by unit is in `kerno.unit.*`"),
        ("throttled[].quota_us", "a setting; how it binds is in `kerno.cgroup.cpu.throttled.periods`"),
        ("throttled[].period_us", "a setting"),
        ("throttled[].pids[]", "without bound"),
        ("blocked[].since_ns", "a time, for findings"),
        ("blocked[].tid", "without bound"),
        ("blocked[].server", "without bound"),
        ("stalls[].*", "about single threads, without bound; for findings"),
        ("held[].*", "about single processes, without bound; for findings"),
        ("full_listeners[].*", "about single sockets, without bound; for findings"),
        ("dns_waits[].*", "about single threads, without bound; for findings"),
    ];
}
