use crate::Window;
use crate::metric::{Describe, Described, Label, Measure, Metric, Values};

const SIGNAL: Label = Label::new(
    "signal",
    "kerno.signal",
    Values::Top(10),
    "The signal, such as `disk_io`; `all` for what concerns every one.",
);
const LOSS: Label = Label::new(
    "loss",
    "kerno.loss",
    Values::Of(&["overflow", "untracked", "missed_runs"]),
    "A value whose source had no room in a map, a start that could not be tracked, or a run of a program that the kernel skipped.",
);
const VERSION: Label = Label::new("version", "service.version", Values::Top(1), "The version of kerno.");
const KERNEL: Label = Label::new("kernel", "os.version", Values::Top(1), "The release of the kernel (`uname -r`).");

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "negative ones become 0")]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

impl Describe for Window {
    const ABOUT: &'static str = "The machine, and what Kerno itself costs, loses and cannot see";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::info("kerno.build.info", "The version of kerno and the kernel it runs on.")
                .by(&[VERSION, KERNEL]),
            give: |window, give| give.of(&[&window.kerno_version, &window.host.kernel], 0.0).tell(),
        },
        Described {
            metric: Metric::gauge("kerno.cpu.online", Measure::things("cpu"), "CPUs online."),
            give: |window, give| give.all().set(f64::from(window.host.cpus)),
        },
        Described {
            metric: Metric::gauge("kerno.memory.limit", Measure::BYTES, "Memory of the machine."),
            give: |window, give| give.all().count(window.host.memory_bytes),
        },
        Described {
            metric: Metric::gauge("kerno.host.uptime", Measure::SECONDS, "Time since the machine started."),
            give: |window, give| give.all().set(window.host.uptime_seconds),
        },
        Described {
            metric: Metric::counter("kerno.windows", Measure::things("window"), "Windows that were observed."),
            give: |_, give| give.all().add(1),
        },
        Described {
            metric: Metric::counter(
                "kerno.window.time",
                Measure::NANOSECONDS,
                "Time that was observed, which is the length of all windows together.",
            ),
            give: |window, give| give.all().add(nanoseconds(window.span.seconds)),
        },
        Described {
            metric: Metric::counter(
                "kerno.window.samples",
                Measure::things("sample"),
                "Samples that were taken of what cannot be traced.",
            ),
            give: |window, give| give.all().add(u64::from(window.span.samples)),
        },
        Described {
            metric: Metric::gauge(
                "kerno.window.end.timestamp",
                Measure::SECONDS,
                "When the latest window ended, in seconds since 1970.",
            ),
            give: |window, give| give.all().set(window.span.started_unix + window.span.covered_seconds()),
        },
        Described {
            metric: Metric::gauge(
                "kerno.signal.observed",
                Measure::things("signal"),
                "Whether a signal was observed in the latest window: 1, or no series.",
            )
            .by(&[SIGNAL]),
            give: |window, give| window.observed().into_iter().for_each(|name| give.of(&[name], 1.0).set(1.0)),
        },
        Described {
            metric: Metric::gauge(
                "kerno.signal.missing",
                Measure::things("part"),
                "How many parts of a signal could not be observed in the latest window.",
            )
            .by(&[SIGNAL]),
            give: |window, give| window.missing.iter().for_each(|part| give.of(&[&part.signal], 1.0).set(1.0)),
        },
        Described {
            metric: Metric::counter(
                "kerno.signal.lost",
                Measure::things("event"),
                "What the programs of a signal in the kernel lost.",
            )
            .by(&[SIGNAL, LOSS]),
            give: |window, give| {
                // Those without a loss are told too, as 0.
                let signals = window.observed().into_iter().filter(|name| !window.cost.loss.contains_key(*name));
                let none = signals.map(|name| (name, crate::SummaryLoss::default()));
                let some = window.cost.loss.iter().map(|(name, loss)| (name.as_str(), *loss));
                for (name, loss) in none.chain(some) {
                    give.of(&[name, "overflow"], 1.0).add(loss.overflow);
                    give.of(&[name, "untracked"], 1.0).add(loss.untracked);
                    give.of(&[name, "missed_runs"], 1.0).add(loss.missed_runs);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cost.cpu.time",
                Measure::NANOSECONDS,
                "CPU time of Kerno's own process, without its programs in the kernel.",
            ),
            give: |window, give| give.all().add(nanoseconds(window.cost.cpu_seconds)),
        },
        Described {
            metric: Metric::gauge(
                "kerno.cost.memory.usage",
                Measure::BYTES,
                "Resident memory of Kerno's own process at the end of the latest window.",
            ),
            give: |window, give| give.all().count(window.cost.resident_bytes),
        },
        Described {
            metric: Metric::gauge(
                "kerno.cost.kernel.memory.usage",
                Measure::BYTES,
                "Kernel memory of the maps of Kerno's programs.",
            ),
            give: |window, give| {
                if window.cost.kernel_bytes > 0 {
                    give.all().count(window.cost.kernel_bytes);
                }
            },
        },
        Described {
            metric: Metric::gauge(
                "kerno.cost.kernel.utilization",
                Measure::RATIO,
                "The time in Kerno's programs in the kernel when that was last measured, as a share of all CPUs' time.",
            ),
            give: |window, give| {
                if !window.cost.kernel_shares.is_empty() {
                    give.all().set(window.cost.kernel_shares.values().sum());
                }
            },
        },
        Described {
            metric: Metric::gauge(
                "kerno.cost.signals.detached",
                Measure::things("signal"),
                "How many signals were not observed in the latest window because their programs cost too much.",
            ),
            give: |window, give| give.all().count(window.cost.detached.len() as u64),
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("kernel_messages[]*", "by kind and device; what is grave is told as findings"),
        ("limits[]*", "evidence for findings, read only when a call has failed"),
        ("merged.*", "how windows were added up, not an observation"),
        ("schema_version", "the form of a file, not an observation"),
    ];
}
