use super::FdSummary;
use crate::metric::labels::UNIT;
use crate::metric::{Describe, Described, Measure, Metric};

impl Describe for FdSummary {
    const ABOUT: &'static str = "File descriptors";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::gauge(
                "kerno.descriptor.open",
                Measure::things("descriptor"),
                "File descriptors of all processes, at the latest sample.",
            ),
            give: |part, give| give.all().set_known(part.open.last()),
        },
        Described {
            metric: Metric::gauge(
                "kerno.file.in_use",
                Measure::things("file"),
                "Open files of the machine, at the latest sample; fewer than descriptors where those are shared (fs.file-nr).",
            ),
            give: |part, give| give.all().set_known(part.files.last()),
        },
        Described {
            metric: Metric::gauge(
                "kerno.file.limit",
                Measure::things("file"),
                "The most files that the machine can have open (fs.file-max).",
            ),
            give: |part, give| give.all().count(part.files_max),
        },
        Described {
            metric: Metric::gauge(
                "kerno.unit.descriptor.open",
                Measure::things("descriptor"),
                "File descriptors, by unit, of the processes with many, near their limit or with a growing number.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.processes.iter().for_each(|process| give.unit(process.pid).set_known(process.open.last()));
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.unit.descriptor.utilization",
                Measure::RATIO,
                "File descriptors as a share of the limit of their process (RLIMIT_NOFILE), of the process nearest to it, by unit.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.processes.iter().for_each(|process| give.unit(process.pid).set(process.share()));
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("processes[].hard_limit", "a setting; what fails is at the soft limit"),
        ("processes[].kinds[].*", "evidence of suspects, for findings"),
    ];
}
