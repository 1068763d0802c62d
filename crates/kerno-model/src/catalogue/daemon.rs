use crate::metric::{Describe, Described, Measure, Metric};

/// What a daemon counts about itself. Counts are those since they were told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Daemon {
    /// Windows that came faster than they could be judged, and were dropped.
    pub windows_lost: u64,
    /// What the store takes, in bytes; `None` without a store.
    pub store_bytes: Option<u64>,
    /// What the store may take, in bytes.
    pub store_limit_bytes: u64,
    /// Whether the store can be written to.
    pub store_writable: bool,
    /// Windows that were written to the store.
    pub store_windows: u64,
    /// Windows that could not be written to the store.
    pub store_windows_lost: u64,
    /// Connections that were closed at once because there were too many.
    pub connections_refused: u64,
    /// What is told to sinks; `None` without any.
    pub alerts: Option<AlertCounts>,
    /// What is sent by the protocol of OpenTelemetry; `None` if nothing is.
    pub otlp: Option<OtlpCounts>,
}

/// What is told to sinks. Counts are those since they were told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlertCounts {
    /// Messages that were delivered.
    pub delivered: u64,
    /// Messages that a receiver refused for good.
    pub failed: u64,
    /// Incidents that a sink did not tell of, because too many waited.
    pub dropped: u64,
    /// Attempts to deliver that failed, and are repeated.
    pub retries: u64,
    /// Incidents of which a sink is still to tell something.
    pub waiting: u64,
}

/// What is sent by the protocol of OpenTelemetry. Counts are those since they were told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtlpCounts {
    /// Points of metrics that receivers took.
    pub points_sent: u64,
    /// Points of metrics that receivers did not want.
    pub points_lost: u64,
    /// Changes of incidents that receivers took.
    pub records_sent: u64,
    /// Changes of incidents that receivers did not want, or that had no room to wait.
    pub records_lost: u64,
    /// Changes of incidents that wait now.
    pub records_waiting: u64,
    /// Requests that failed.
    pub failures: u64,
}

const WINDOWS: Measure = Measure::things("window");

#[allow(clippy::cast_precision_loss, reason = "sizes")]
impl Describe for Daemon {
    const ABOUT: &'static str = "The daemon itself (`kerno start`)";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::counter(
                "kerno.daemon.windows.lost",
                WINDOWS,
                "Windows that came faster than they could be judged.",
            ),
            give: |part, give| give.of(&[], 0.0).add(part.windows_lost),
        },
        Described {
            metric: Metric::counter(
                "kerno.daemon.connections.refused",
                Measure::things("connection"),
                "Connections that were closed at once because there were too many.",
            ),
            give: |part, give| give.of(&[], 0.0).add(part.connections_refused),
        },
        Described {
            metric: Metric::gauge("kerno.store.usage", Measure::BYTES, "What the store takes on disk."),
            give: |part, give| {
                if let Some(bytes) = part.store_bytes {
                    give.of(&[], 0.0).set(bytes as f64);
                }
            },
        },
        Described {
            metric: Metric::gauge("kerno.store.limit", Measure::BYTES, "What the store may take on disk."),
            give: |part, give| {
                if part.store_bytes.is_some() {
                    give.of(&[], 0.0).set(part.store_limit_bytes as f64);
                }
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.store.writable",
                Measure::things("store"),
                "Whether the store can be written to: 1 if so, 0 if writing fails.",
            ),
            give: |part, give| {
                if part.store_bytes.is_some() {
                    give.of(&[], 0.0).set(f64::from(u8::from(part.store_writable)));
                }
            },
        },
        Described {
            metric: Metric::counter("kerno.store.windows.written", WINDOWS, "Windows that were written to the store."),
            give: |part, give| give.of(&[], 0.0).add(part.store_windows),
        },
        Described {
            metric: Metric::counter(
                "kerno.store.windows.lost",
                WINDOWS,
                "Windows that could not be written to the store.",
            ),
            give: |part, give| give.of(&[], 0.0).add(part.store_windows_lost),
        },
        Described {
            metric: Metric::counter(
                "kerno.alert.delivered",
                Measure::things("message"),
                "Messages about incidents that sinks delivered.",
            ),
            give: |part, give| {
                if let Some(alerts) = &part.alerts {
                    give.of(&[], 0.0).add(alerts.delivered);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.alert.failed",
                Measure::things("message"),
                "Messages that a receiver refused for good.",
            ),
            give: |part, give| {
                if let Some(alerts) = &part.alerts {
                    give.of(&[], 0.0).add(alerts.failed);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.alert.dropped",
                Measure::things("incident"),
                "Incidents that a sink did not tell of, because too many waited.",
            ),
            give: |part, give| {
                if let Some(alerts) = &part.alerts {
                    give.of(&[], 0.0).add(alerts.dropped);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.alert.retries",
                Measure::things("attempt"),
                "Attempts to deliver a message that failed and are repeated.",
            ),
            give: |part, give| {
                if let Some(alerts) = &part.alerts {
                    give.of(&[], 0.0).add(alerts.retries);
                }
            },
        },
        Described {
            metric: Metric::gauge(
                "kerno.alert.waiting",
                Measure::things("incident"),
                "Incidents of which a sink is still to tell something.",
            ),
            give: |part, give| {
                if let Some(alerts) = &part.alerts {
                    give.of(&[], 0.0).set(alerts.waiting as f64);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.otlp.points.sent",
                Measure::things("point"),
                "Points of metrics that receivers of OpenTelemetry took.",
            ),
            give: |part, give| {
                if let Some(otlp) = &part.otlp {
                    give.of(&[], 0.0).add(otlp.points_sent);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.otlp.points.lost",
                Measure::things("point"),
                "Points of metrics that receivers of OpenTelemetry did not want.",
            ),
            give: |part, give| {
                if let Some(otlp) = &part.otlp {
                    give.of(&[], 0.0).add(otlp.points_lost);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.otlp.records.sent",
                Measure::things("record"),
                "Changes of incidents that receivers of OpenTelemetry took.",
            ),
            give: |part, give| {
                if let Some(otlp) = &part.otlp {
                    give.of(&[], 0.0).add(otlp.records_sent);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.otlp.records.lost",
                Measure::things("record"),
                "Changes of incidents that receivers of OpenTelemetry did not want, or that had no room to wait.",
            ),
            give: |part, give| {
                if let Some(otlp) = &part.otlp {
                    give.of(&[], 0.0).add(otlp.records_lost);
                }
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.otlp.failures",
                Measure::things("request"),
                "Requests to receivers of OpenTelemetry that failed; most are tried again.",
            ),
            give: |part, give| {
                if let Some(otlp) = &part.otlp {
                    give.of(&[], 0.0).add(otlp.failures);
                }
            },
        },
        Described {
            metric: Metric::gauge(
                "kerno.otlp.records.waiting",
                Measure::things("record"),
                "Changes of incidents that wait for a receiver of OpenTelemetry.",
            ),
            give: |part, give| {
                if let Some(otlp) = &part.otlp {
                    give.of(&[], 0.0).set(otlp.records_waiting as f64);
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[];
}
