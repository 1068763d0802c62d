use super::{CgroupMemory, KillScope, OomSummary};
use crate::metric::labels::{CGROUP, STALLED};
use crate::metric::{Describe, Described, Label, Measure, Metric, Values, of_share};

const SCOPE: Label = Label::new("scope", "kerno.oom.scope", Values::Of(KillScope::NAMES), "Where memory ran out.");

const PAGES: Measure = Measure::things("page");

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn share(cgroup: &CgroupMemory) -> f64 {
    cgroup.used_bytes.last().unwrap_or(0.0) / cgroup.limit_bytes.max(1) as f64
}

impl Describe for OomSummary {
    const ABOUT: &'static str = "Memory";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::counter(
                "kerno.memory.oom_kills",
                Measure::things("kill"),
                "Processes that the kernel killed because memory had run out.",
            )
            .by(&[SCOPE]),
            give: |part, give| {
                let mut others = part.kills_total;
                for scope in KillScope::ALL {
                    let kills = part.kills.iter().filter(|kill| kill.scope == *scope).count() as u64;
                    others = others.saturating_sub(kills);
                    give.of(&[scope.name()], 0.0).add(kills);
                }
                // Those that the list has no room for.
                give.of(&[KillScope::Unknown.name()], 0.0).add(others);
            },
        },
        Described {
            metric: Metric::gauge(
                "kerno.memory.available",
                Measure::BYTES,
                "Memory that can be used without swapping (MemAvailable).",
            ),
            give: |part, give| give.all().set_known(part.available_bytes.last()),
        },
        Described {
            metric: Metric::gauge("kerno.swap.limit", Measure::BYTES, "Swap space of the machine."),
            give: |part, give| give.all().count(part.swap_total_bytes),
        },
        Described {
            metric: Metric::gauge("kerno.swap.free", Measure::BYTES, "Swap space that is not used."),
            give: |part, give| give.all().set_known(part.swap_free_bytes.last()),
        },
        Described {
            metric: Metric::counter(
                "kerno.memory.stalled.time",
                Measure::NANOSECONDS,
                "Time in which tasks waited for memory (PSI).",
            )
            .by(&[STALLED]),
            give: |part, give| {
                for (stalled, share) in [("some", part.some_stalled), ("all", part.all_stalled)] {
                    if let Some(share) = share {
                        let stalled_ns = of_share(share, give.seconds());
                        give.of(&[stalled], 0.0).add(stalled_ns);
                    }
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.memory.direct_reclaims",
                Measure::things("reclaim"),
                "Times that a task had to reclaim memory itself before it got any (allocstall).",
            ),
            give: |part, give| give.all().add(part.direct_reclaims),
        },
        Described {
            metric: Metric::counter(
                "kerno.memory.direct_reclaim.scanned",
                PAGES,
                "Pages that tasks looked at when they reclaimed memory themselves.",
            ),
            give: |part, give| give.all().add(part.direct_scanned_pages),
        },
        Described {
            metric: Metric::counter(
                "kerno.memory.major_faults",
                Measure::things("fault"),
                "Page faults of all processes that needed storage.",
            ),
            give: |part, give| give.all().add(part.major_faults),
        },
        Described {
            metric: Metric::counter(
                "kerno.memory.refaulted",
                PAGES,
                "Pages that were read again soon after they had been dropped, which is the sign of thrashing.",
            ),
            give: |part, give| give.all().add(part.refaulted_pages),
        },
        Described {
            metric: Metric::counter("kerno.memory.swapped_out", PAGES, "Pages that were written to swap space."),
            give: |part, give| give.all().add(part.swapped_out_pages),
        },
        Described {
            metric: Metric::gauge(
                "kerno.cgroup.memory.usage",
                Measure::BYTES,
                "Memory that a cgroup with a limit uses, without what the kernel could drop.",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.cgroups {
                    give.of(&[&cgroup.path], share(cgroup)).set_known(cgroup.used_bytes.last());
                }
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.cgroup.memory.utilization",
                Measure::RATIO,
                "Memory that a cgroup uses as a share of its limit.",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.cgroups {
                    give.of(&[&cgroup.path], share(cgroup)).set(share(cgroup));
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.memory.limit_hits",
                Measure::things("hit"),
                "Times that a cgroup reached its memory limit.",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.cgroups {
                    give.of(&[&cgroup.path], share(cgroup)).add(cgroup.limit_hits);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.memory.oom_kills",
                Measure::things("kill"),
                "Processes that the kernel killed in a cgroup because it had reached its memory limit.",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.cgroups {
                    give.of(&[&cgroup.path], share(cgroup)).add(cgroup.oom_kills);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.memory.stalled.time",
                Measure::NANOSECONDS,
                "Time in which at least one task of a cgroup waited for memory (PSI).",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.cgroups {
                    if let Some(stalled) = cgroup.some_stalled {
                        let stalled_ns = of_share(stalled, give.seconds());
                        give.of(&[&cgroup.path], share(cgroup)).add(stalled_ns);
                    }
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("total_bytes", "in `kerno.memory.limit`, which does not need this signal"),
        ("kills[].*", "evidence, for findings; kills are counted by scope"),
        ("cgroups[].high_bytes", "a setting; what nears it is in `kerno.cgroup.memory.stalled.time`"),
        ("cgroups[].high_hits", "evidence, for findings; what it costs is in `kerno.cgroup.memory.stalled.time`"),
        ("cgroups[].major_faults", "only read of cgroups near their limit; evidence, for findings"),
        ("cgroups[].refaulted_pages", "only read of cgroups near their limit; evidence, for findings"),
        ("cgroups[].largest[].*", "without bound; memory by unit is in `kerno.unit.memory.anonymous`"),
        ("processes[].*", "without bound; memory by unit is in `kerno.unit.memory.anonymous`"),
    ];
}
