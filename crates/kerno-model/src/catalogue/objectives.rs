use crate::metric::{Describe, Described, Label, Measure, Metric, Values};
use crate::{ObjectiveStatus, Verdict};

/// The most objectives that there can be.
pub const MAX_OBJECTIVES: usize = 32;

const OBJECTIVE: Label = Label::new(
    "objective",
    "kerno.objective",
    Values::Top(MAX_OBJECTIVES),
    "The name of an objective in the configuration. All of them: there can be no more.",
);
const VERDICT: Label = Label::new(
    "verdict",
    "kerno.verdict",
    Values::Of(&[Verdict::Good.name(), Verdict::Bad.name(), Verdict::NoData.name()]),
    "Whether the objective was met in a window, was missed, or there was nothing to judge by.",
);
const WINDOW: Label = Label::new(
    "window",
    "kerno.window",
    Values::Of(&["5m", "30m", "1h", "6h"]),
    "The latest stretch of time that a rate is of.",
);

impl Describe for [ObjectiveStatus] {
    const ABOUT: &'static str = "Objectives";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::worst(
                "kerno.objective.budget.remaining",
                Measure::RATIO,
                "The error budget of an objective that is left for its period, as a share of all of it; negative if more was used.",
            )
            .by(&[OBJECTIVE]),
            give: |objectives, give| {
                for objective in objectives {
                    give.of(&[&objective.name], 0.0).set(objective.budget_remaining);
                }
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.objective.burn.rate",
                Measure::things("budget"),
                "How many times as fast as it may the error budget of an objective was used over the latest stretch of time.",
            )
            .by(&[OBJECTIVE, WINDOW]),
            give: |objectives, give| {
                for objective in objectives {
                    for burn in &objective.burn {
                        give.of(&[&objective.name, &burn.window], 0.0).set(burn.rate);
                    }
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.objective.windows",
                Measure::things("window"),
                "Windows that an objective was judged by, by what they said.",
            )
            .by(&[OBJECTIVE, VERDICT]),
            give: |objectives, give| {
                for objective in objectives {
                    for verdict in [Verdict::Good, Verdict::Bad, Verdict::NoData] {
                        let is_it = objective.latest == Some(verdict);
                        give.of(&[&objective.name, verdict.name()], 0.0).add(u64::from(is_it));
                    }
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[];
}
