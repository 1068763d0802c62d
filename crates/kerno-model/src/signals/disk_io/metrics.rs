use super::{CgroupIo, DiskSummary, Filesystem, RequestKind};
use crate::metric::labels::{CGROUP, DIRECTION, STALLED, UNIT};
use crate::metric::{Describe, Described, Give, Label, Measure, Metric, SLOW, Values, of_share};

const DEVICE: Label = Label::new(
    "device",
    "system.device",
    Values::Top(5),
    "The block device, such as `nvme0n1`. Those that were busy for most of the time.",
);
const OPERATION: Label = Label::new(
    "operation",
    "kerno.disk.operation",
    Values::Of(&["read", "write", "flush", "other"]),
    "What requests do; discards are among the others.",
);
const MOUNT: Label = Label::new(
    "mount",
    "system.filesystem.mountpoint",
    Values::Top(10),
    "Where the file system is mounted. The fullest, by bytes or inodes.",
);

const REQUESTS: Measure = Measure::things("request");
const INODES: Measure = Measure::things("inode");

fn operation(op: RequestKind) -> &'static str {
    match op {
        RequestKind::Read => "read",
        RequestKind::Write => "write",
        RequestKind::Flush => "flush",
        _ => "other",
    }
}

fn full(fs: &Filesystem) -> f64 {
    fs.bytes_used().unwrap_or(0.0).max(fs.inodes_used().unwrap_or(0.0))
}

/// A gauge of each file system.
fn by_mount(part: &DiskSummary, give: &mut Give<'_>, pick: fn(&Filesystem) -> Option<f64>) {
    for fs in &part.filesystems {
        give.of(&[&fs.mount], full(fs)).set_known(pick(fs));
    }
}

fn near_limit(cgroup: &CgroupIo) -> f64 {
    cgroup.limit_used
}

impl Describe for DiskSummary {
    const ABOUT: &'static str = "Disks and file systems";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::histogram(
                "kerno.disk.operation.duration",
                Measure::NANOSECONDS,
                SLOW,
                "How long requests took in the device, from their being given to it to their completion.",
            )
            .by(&[DEVICE, OPERATION]),
            give: |part, give| {
                for device in &part.devices {
                    for stat in &device.ops {
                        give.of(&[device.label(), operation(stat.op)], device.utilisation).values(&stat.device_ns, None);
                    }
                }
            },
        },
        Described {
            metric: Metric::histogram(
                "kerno.disk.queue.duration",
                Measure::NANOSECONDS,
                SLOW,
                "How long requests waited before they were given to the device, all operations together.",
            )
            .by(&[DEVICE]),
            give: |part, give| {
                for device in &part.devices {
                    for stat in &device.ops {
                        give.of(&[device.label()], device.utilisation).values(&stat.queue_ns, None);
                    }
                }
            },
        },
        Described {
            metric: Metric::counter("kerno.disk.io", Measure::BYTES, "Bytes in requests that completed.")
                .by(&[DEVICE, OPERATION]),
            give: |part, give| {
                for device in &part.devices {
                    for stat in &device.ops {
                        give.of(&[device.label(), operation(stat.op)], device.utilisation).add(stat.bytes);
                    }
                }
            },
        },
        Described {
            metric: Metric::counter("kerno.disk.errors", REQUESTS, "Requests that failed.").by(&[DEVICE]),
            give: |part, give| {
                for device in &part.devices {
                    let failed = device.ops.iter().flat_map(|stat| &stat.errors).map(|error| error.count).sum();
                    give.of(&[device.label()], device.utilisation).add(failed);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.disk.io_time",
                Measure::NANOSECONDS,
                "Time in which a device had requests under way.",
            )
            .by(&[DEVICE]),
            give: |part, give| {
                for device in &part.devices {
                    let active_ns = of_share(device.utilisation, give.seconds());
                    give.of(&[device.label()], device.utilisation).add(active_ns);
                }
            },
        },
        Described {
            metric: Metric::gauge("kerno.disk.in_flight", REQUESTS, "Requests under way, at the latest sample.")
                .by(&[DEVICE]),
            give: |part, give| {
                for device in &part.devices {
                    give.of(&[device.label()], device.utilisation).set_known(device.in_flight.last());
                }
            },
        },
        Described {
            metric: Metric::largest(
                "kerno.disk.in_flight.max",
                REQUESTS,
                "The most requests under way, of all samples since the last reading.",
            )
            .by(&[DEVICE]),
            give: |part, give| {
                for device in &part.devices {
                    give.of(&[device.label()], device.utilisation).largest(device.in_flight.max());
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.disk.stalled.time",
                Measure::NANOSECONDS,
                "Time in which tasks waited for I/O (PSI).",
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
            metric: Metric::gauge("kerno.memory.dirty", Measure::BYTES, "Page cache that is still to be written."),
            give: |part, give| give.all().set_known(part.dirty_bytes.last()),
        },
        Described {
            metric: Metric::gauge("kerno.memory.writeback", Measure::BYTES, "Page cache that is being written."),
            give: |part, give| give.all().set_known(part.writeback_bytes.last()),
        },
        Described {
            metric: Metric::gauge(
                "kerno.filesystem.limit",
                Measure::BYTES,
                "The size of a file system, without what is reserved for root.",
            )
            .by(&[MOUNT]),
            #[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
            give: |part, give| by_mount(part, give, |fs| Some(fs.total_bytes as f64)),
        },
        Described {
            metric: Metric::gauge(
                "kerno.filesystem.available",
                Measure::BYTES,
                "What ordinary users can still write to a file system.",
            )
            .by(&[MOUNT]),
            give: |part, give| by_mount(part, give, |fs| fs.available_bytes.last()),
        },
        Described {
            metric: Metric::worst(
                "kerno.filesystem.utilization",
                Measure::RATIO,
                "The share of a file system that is used, as df(1) has it.",
            )
            .by(&[MOUNT]),
            give: |part, give| by_mount(part, give, Filesystem::bytes_used),
        },
        Described {
            metric: Metric::gauge(
                "kerno.filesystem.inodes.limit",
                INODES,
                "The inodes of a file system; 0 where there is no fixed number.",
            )
            .by(&[MOUNT]),
            #[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
            give: |part, give| by_mount(part, give, |fs| Some(fs.total_inodes as f64)),
        },
        Described {
            metric: Metric::gauge("kerno.filesystem.inodes.free", INODES, "Inodes of a file system that are not used.")
                .by(&[MOUNT]),
            give: |part, give| by_mount(part, give, |fs| fs.free_inodes.last()),
        },
        Described {
            metric: Metric::gauge(
                "kerno.filesystem.read_only",
                Measure::things("filesystem"),
                "Whether a file system is mounted read-only: 1 or 0.",
            )
            .by(&[MOUNT]),
            give: |part, give| by_mount(part, give, |fs| Some(f64::from(u8::from(fs.read_only)))),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.disk.requests",
                REQUESTS,
                "Requests that processes submitted to devices themselves, by unit, of those that submitted most; buffered writes are submitted by \
                 the kernel.",
            )
            .by(&[UNIT]),
            give: |part, give| part.submitters.iter().for_each(|who| give.unit(who.pid).add(who.requests)),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.disk.request.time",
                Measure::NANOSECONDS,
                "Time that requests took which processes submitted themselves, queue and device, by unit, of those that submitted most.",
            )
            .by(&[UNIT]),
            give: |part, give| part.submitters.iter().for_each(|who| give.unit(who.pid).add(who.total_ns)),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.disk.flushes",
                REQUESTS,
                "Flushes of a device's cache, by unit, of the processes that submitted most requests.",
            )
            .by(&[UNIT]),
            give: |part, give| part.submitters.iter().for_each(|who| give.unit(who.pid).add(who.flushes)),
        },
        Described {
            metric: Metric::counter(
                "kerno.cgroup.disk.io",
                Measure::BYTES,
                "Bytes that a cgroup with an I/O limit read or wrote.",
            )
            .by(&[CGROUP, DIRECTION]),
            give: |part, give| {
                for cgroup in &part.throttled {
                    give.of(&[&cgroup.path, "read"], near_limit(cgroup)).add(cgroup.read_bytes);
                    give.of(&[&cgroup.path, "write"], near_limit(cgroup)).add(cgroup.write_bytes);
                }
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.cgroup.disk.utilization",
                Measure::RATIO,
                "How much of its tightest I/O limit a cgroup uses.",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.throttled {
                    give.of(&[&cgroup.path], near_limit(cgroup)).set(cgroup.limit_used);
                }
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.cgroup.disk.stalled",
                Measure::RATIO,
                "The share of the latest window in which at least one task of a cgroup with an I/O limit waited for I/O (PSI).",
            )
            .by(&[CGROUP]),
            give: |part, give| {
                for cgroup in &part.throttled {
                    give.of(&[&cgroup.path], near_limit(cgroup)).set_known(cgroup.some_stalled);
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("devices[].await_ms[][]", "an average of what the histograms have"),
        ("devices[].ops[].count", "the count of `kerno.disk.operation.duration`"),
        ("devices[].ops[].errors[].errno", "errors are counted by device; the finding names them"),
        ("failures[].*", "evidence, for findings; failures are counted by device"),
        ("filesystems[].deleted[].*", "without bound; evidence, for findings"),
        ("filesystems[].deleted_bytes", "only looked for when there is little room; evidence, for findings"),
        ("filesystems[].errors", "since the file system was last checked, not of the window; evidence, for findings"),
        ("filesystems[].last_error_unix", "a time; evidence, for findings"),
        ("filesystems[].writers[].*", "without bound; evidence, for findings"),
        ("submitters[].read_bytes", "in `kerno.unit.disk.io`, which has buffered writes too"),
        ("submitters[].write_bytes", "in `kerno.unit.disk.io`, which has buffered writes too"),
        ("throttled[].limits[].per_second", "a setting; how it binds is in `kerno.cgroup.disk.utilization`"),
        ("throttled[].pids[]", "without bound"),
        ("writers[].*", "without bound; evidence, for findings"),
    ];
}
