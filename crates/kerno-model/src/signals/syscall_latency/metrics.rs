use super::{SyscallOffender, SyscallStat, SyscallSummary};
use crate::metric::labels::{ERRNO, UNIT};
use crate::metric::{Describe, Described, FAST, Label, Measure, Metric, Values};

const SYSCALL: Label = Label::new(
    "syscall",
    "kerno.syscall",
    Values::Top(12),
    "The system call. Those that took most time, calls that wait by design last.",
);

/// Those that took most time first; calls that wait by design only by their number.
#[allow(clippy::cast_precision_loss, reason = "to rank by")]
fn weight(stat: &SyscallStat) -> f64 {
    if stat.waits { stat.latency.count() as f64 } else { stat.latency.sum() }
}

#[allow(clippy::cast_precision_loss, reason = "durations")]
fn longest(raw: u64) -> Option<f64> {
    (raw > 0).then_some(raw as f64)
}

impl Describe for SyscallSummary {
    const ABOUT: &'static str = "System calls";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::histogram(
                "kerno.syscall.duration",
                Measure::NANOSECONDS,
                FAST,
                "How long system calls took, from entry to return, by call.",
            )
            .by(&[SYSCALL]),
            give: |part, give| {
                for stat in &part.syscalls {
                    let known = |offender: &&SyscallOffender| offender.name == stat.name && offender.compat == stat.compat;
                    let kept = part.offenders.iter().filter(known).flat_map(|offender| {
                        offender.exemplars.iter().map(move |exemplar| (exemplar, offender))
                    });
                    let worst = kept.max_by_key(|(exemplar, _)| exemplar.latency_ns).map(|(exemplar, offender)| {
                        give.exemplar(exemplar.latency_ns, Some(exemplar.timestamp_ns), offender.pid, &offender.comm)
                    });
                    give.of(&[&stat.name], weight(stat)).values(&stat.latency, worst);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.syscall.failed",
                Measure::things("call"),
                "System calls that returned an error, by call; many errors are normal life.",
            )
            .by(&[SYSCALL]),
            give: |part, give| {
                for stat in &part.syscalls {
                    let failed = stat.errors.iter().map(|error| error.count).sum();
                    give.of(&[&stat.name], weight(stat)).add(failed);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.syscall.errors",
                Measure::things("error"),
                "Errors that system calls returned, by error; many are normal life.",
            )
            .by(&[ERRNO]),
            give: |part, give| {
                for error in part.syscalls.iter().flat_map(|stat| &stat.errors) {
                    #[allow(clippy::cast_precision_loss, reason = "to rank by")]
                    give.of(&[&error.name], error.count as f64).add(error.count);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.syscall.slow.calls",
                Measure::things("call"),
                "System calls slower than Kerno's threshold for slow ones, by unit, of the processes that had the worst.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.offenders.iter().for_each(|offender| give.unit(offender.pid).add(offender.slow));
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.syscall.slow.time",
                Measure::NANOSECONDS,
                "Time in slow system calls, by unit, of the processes that had the worst.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.offenders.iter().for_each(|offender| give.unit(offender.pid).add(offender.slow_total_ns));
            },
        },
        Described {
            metric: Metric::largest(
                "kerno.unit.syscall.slow.max",
                Measure::NANOSECONDS,
                "The longest slow system call since the last reading, by unit; exact.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.offenders.iter().for_each(|offender| give.unit(offender.pid).largest(longest(offender.max_ns)));
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.sync.calls",
                Measure::things("call"),
                "Calls that put data on storage (fsync, fdatasync, msync, sync and others), by unit, of the processes that spent most time in \
                 them.",
            )
            .by(&[UNIT]),
            give: |part, give| part.syncs.iter().for_each(|sync| give.unit(sync.pid).add(sync.calls)),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.sync.time",
                Measure::NANOSECONDS,
                "Time in calls that put data on storage, by unit, of the processes that spent most time in them.",
            )
            .by(&[UNIT]),
            give: |part, give| part.syncs.iter().for_each(|sync| give.unit(sync.pid).add(sync.total_ns)),
        },
        Described {
            metric: Metric::largest(
                "kerno.unit.sync.max",
                Measure::NANOSECONDS,
                "The longest call that put data on storage since the last reading, by unit; exact.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.syncs.iter().for_each(|sync| give.unit(sync.pid).largest(longest(sync.max_ns)));
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("calls", "the count of `kerno.syscall.duration`, all calls together"),
        ("syscalls[].calls", "the count of `kerno.syscall.duration`"),
        ("syscalls[].nr", "the label is the name"),
        ("syscalls[].errors[].errno", "the label is the name"),
        ("offenders[].nr", "the label is the name"),
        ("offenders[].slow_ns", "a setting, not an observation"),
        ("offenders[].first_ns", "a time, for findings"),
        ("offenders[].errors[].*", "in `kerno.syscall.errors`, with those of all other processes"),
        ("offenders[].exemplars[].tid", "an exemplar names its process"),
        ("offenders[].exemplars[].ret", "an exemplar is a duration"),
        ("syncs[].first_ns", "a time, for findings"),
    ];
}
