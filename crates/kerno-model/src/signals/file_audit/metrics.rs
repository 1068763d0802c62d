use super::FileSummary;
use crate::metric::labels::{ERRNO, UNIT};
use crate::metric::{Describe, Described, Measure, Metric};

const OPENS: Measure = Measure::things("open");

impl Describe for FileSummary {
    const ABOUT: &'static str = "File opens";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::counter("kerno.file.opens", OPENS, "Attempts to open a file, failed ones included."),
            give: |part, give| give.all().add(part.opens),
        },
        Described {
            metric: Metric::counter(
                "kerno.file.open.errors",
                Measure::things("error"),
                "Attempts to open a file that failed, by error; some are normal life.",
            )
            .by(&[ERRNO]),
            give: |part, give| {
                for error in &part.errors {
                    #[allow(clippy::cast_precision_loss, reason = "to rank by")]
                    give.of(&[&error.name], error.count as f64).add(error.count);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.file.opens",
                OPENS,
                "Attempts to open a file, by unit, of the processes with most attempts or failures.",
            )
            .by(&[UNIT]),
            give: |part, give| part.processes.iter().for_each(|process| give.unit(process.pid).add(process.opens)),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.file.open.failures",
                OPENS,
                "Attempts to open a file that failed, by unit, of the processes with most attempts or failures.",
            )
            .by(&[UNIT]),
            give: |part, give| part.processes.iter().for_each(|process| give.unit(process.pid).add(process.failed)),
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("errors[].errno", "the label is the name"),
        ("processes[].errors[].*", "in `kerno.file.open.errors`, with those of all other processes"),
        ("processes[].first_failed_ns", "a time, for findings"),
        ("processes[].last_errno", "evidence, for findings"),
        ("processes[].repeated", "evidence of retries, for findings"),
        ("processes[].same_path", "evidence of retries, for findings"),
    ];
}
