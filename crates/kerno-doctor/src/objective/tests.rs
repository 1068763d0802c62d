use std::time::Duration;

use kerno_model::{
    DiskDevice, DiskSummary, Filesystem, Missing, Moment, Span, SyscallStat, SyscallSummary, catalogue, fill,
};
use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn objective(metric: &str, measured: &str, bound: Bound) -> Objective {
    Objective::new("one", catalogue::find(metric).unwrap(), measured.parse().unwrap(), bound)
}

fn with(mut objective: Objective, label: &str, value: &str) -> Objective {
    objective.labels.insert(label.into(), value.into());
    objective
}

/// A window with calls of these names that took so many milliseconds.
fn calls(calls: &[(&str, u64)]) -> Window {
    let stat = |(name, ms): &(&str, u64)| {
        let mut latency = Histogram::new();
        latency.record(ms * 1_000_000);
        fill!(SyscallStat { name: (*name).to_owned(), calls: 1, latency: latency })
    };
    let syscalls = calls.iter().map(stat).collect();
    fill!(Window {
        span: fill!(Span { seconds: 10.0 }),
        syscall_latency: Some(fill!(SyscallSummary { syscalls: syscalls })),
    })
}

fn judged(objective: &Objective, window: &Window) -> (Verdict, Option<f64>) {
    objective.check().unwrap();
    objective.judge(window, &catalogue::samples_by_name(window))
}

#[test]
fn histograms_are_judged_by_what_was_asked_for() {
    let slow = calls(&[("fsync", 1), ("fsync", 40), ("read", 900)]);
    let of = |measured, bound| with(objective("kerno_syscall_duration_seconds", measured, bound), "syscall", "fsync");
    assert_eq!(judged(&of("p50", Bound::Below(0.02)), &slow).0, Verdict::Good);
    let (verdict, value) = judged(&of("p99", Bound::Below(0.02)), &slow);
    assert!(verdict == Verdict::Bad && (0.04..0.043).contains(&value.unwrap()), "{value:?}");
    assert_eq!(judged(&of("max", Bound::Below(0.05)), &slow).0, Verdict::Good);
    assert_eq!(judged(&of("rate", Bound::Above(0.1)), &slow), (Verdict::Good, Some(0.2)));
    // All calls together without the label.
    let all = objective("kerno_syscall_duration_seconds", "max", Bound::Below(0.5));
    assert_eq!(judged(&all, &slow).0, Verdict::Bad);
    // No call, no latency. But no call is a rate.
    let none = calls(&[("read", 1)]);
    assert_eq!(judged(&of("p99", Bound::Below(0.02)), &none), (Verdict::NoData, None));
    assert_eq!(judged(&of("rate", Bound::Above(0.1)), &none), (Verdict::Bad, Some(0.0)));
    assert_eq!(
        of("p99", Bound::Below(0.02)).condition(),
        "kerno_syscall_duration_seconds (syscall=\"fsync\"): p99 below 20 ms"
    );
}

#[test]
fn what_is_not_observed_says_nothing() {
    let rate = objective("kerno_syscall_duration_seconds", "rate", Bound::Below(1.0));
    assert_eq!(judged(&rate, &Window::default()).0, Verdict::NoData);
    let mut partly = calls(&[]);
    assert_eq!(judged(&rate, &partly).0, Verdict::Good);
    partly.missing.push(fill!(Missing { signal: "syscall_latency".into(), what: "calls".into() }));
    assert_eq!(judged(&rate, &partly).0, Verdict::NoData);
}

#[test]
fn counters_and_gauges_are_judged_too() {
    let filesystem = |mount: &str, total_bytes: u64, available| {
        fill!(Filesystem {
            mount: mount.to_owned(),
            total_bytes,
            available_bytes: kerno_model::Series::from_iter([(0.0, available)]),
        })
    };
    let device = fill!(DiskDevice { name: "sda".to_owned(), utilisation: 0.75 });
    let window = fill!(Window {
        span: fill!(Span { seconds: 10.0 }),
        disk_io: Some(fill!(DiskSummary {
            devices: vec![device],
            filesystems: vec![filesystem("/", 100, 5.0), filesystem("/home", 100, 90.0)],
        })),
    });
    let busy = with(objective("kerno_disk_io_time_seconds_total", "rate", Bound::Below(0.8)), "device", "sda");
    assert_eq!(judged(&busy, &window), (Verdict::Good, Some(0.75)));
    assert_eq!(busy.condition(), "kerno_disk_io_time_seconds_total (device=\"sda\"): rate below 80 %");
    // The worse of the two, whichever side is good.
    let free = objective("kerno_filesystem_available_bytes", "value", Bound::Above(50.0));
    assert_eq!(judged(&free, &window), (Verdict::Bad, Some(5.0)));
    assert_eq!(judged(&with(free, "mount", "/home"), &window), (Verdict::Good, Some(90.0)));
    let little = objective("kerno_filesystem_available_bytes", "value", Bound::Below(50.0));
    assert_eq!(judged(&little, &window), (Verdict::Bad, Some(90.0)));
    assert_eq!(judged(&with(little, "mount", "/srv"), &window).0, Verdict::NoData);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_setting() {
    let good = || objective("kerno_syscall_duration_seconds", "p99", Bound::Below(0.02));
    good().check().unwrap();
    type Change = fn(&mut Objective);
    let wrong: [(&str, Change); 16] = [
        ("name", |o| o.name = "No Name".into()),
        ("name", |o| o.name = String::new()),
        ("metric", |o| o.metric = catalogue::find("kerno_incidents_open").unwrap()),
        ("metric", |o| o.metric = catalogue::find("kerno_build_info").unwrap()),
        ("labels", |o| drop(o.labels.insert("device".into(), "sda".into()))),
        ("labels", |o| drop(o.labels.insert("syscall".into(), String::new()))),
        ("measure", |o| o.measured = Measured::Value),
        ("measure", |o| o.measured = Measured::Quantile(1.5)),
        ("bound", |o| o.bound = Bound::Below(0.0)),
        ("bound", |o| o.bound = Bound::Above(f64::NAN)),
        ("bound", |o| o.bound = Bound::Below(-1.0)),
        ("share", |o| o.share = 1.0),
        ("share", |o| o.share = f64::NAN),
        ("share", |o| o.share = 0.2),
        ("over", |o| o.over = Duration::from_secs(60)),
        ("over", |o| o.over = DAY * 91),
    ];
    for (setting, change) in wrong {
        let mut objective = good();
        change(&mut objective);
        let error = objective.check().unwrap_err();
        assert_eq!(error.setting, setting, "{error}");
    }
    let closed = with(objective("kerno_disk_stalled_time_seconds_total", "rate", Bound::Below(0.1)), "stalled", "none");
    assert_eq!(
        closed.check().unwrap_err().to_string(),
        "objective.labels: stalled cannot be \"none\"; it may be: some, all"
    );
    for bad in ["p0", "p100", "p", "pNaN", "p-1", "pinf", "mean", "", "P99", "p1e400"] {
        assert!(bad.parse::<Measured>().is_err(), "{bad}");
    }
    for text in ["p50", "p99.9", "p99.99", "p1", "max", "rate", "value"] {
        assert_eq!(text.parse::<Measured>().unwrap().to_string(), text);
    }
}

/// What a budget is told: seconds, a verdict, and how long nobody watched before.
#[derive(Clone, Debug)]
struct Told {
    seconds: f64,
    verdict: Verdict,
    gap_seconds: u32,
    /// A step of the wall clock before it.
    step_seconds: i64,
    reboot: bool,
}

fn told() -> impl Strategy<Value = Told> {
    let verdict = prop_oneof![Just(Verdict::Good), Just(Verdict::Bad), Just(Verdict::NoData)];
    let gap = prop_oneof![9 => Just(0_u32), 1 => 0..200_000_u32];
    let step = prop_oneof![9 => Just(0_i64), 1 => -100_000_000..100_000_000_i64];
    let reboot = prop_oneof![19 => Just(false), 1 => Just(true)];
    (1.0..300.0_f64, verdict, gap, step, reboot).prop_map(|(seconds, verdict, gap_seconds, step_seconds, reboot)| {
        Told { seconds: seconds.round(), verdict, gap_seconds, step_seconds, reboot }
    })
}

/// The clocks of a machine.
struct Machine {
    boot: u32,
    monotonic_ns: u64,
    unix_ns: u64,
}

const S: u64 = 1_000_000_000;

impl Machine {
    fn new() -> Self {
        Self { boot: 1, monotonic_ns: 50 * S, unix_ns: 1_700_000_000 * S }
    }

    fn pass(&mut self, seconds: f64) {
        let ns = (seconds * 1e9) as u64;
        self.monotonic_ns += ns;
        self.unix_ns += ns;
    }

    fn now(&self) -> Moment {
        Moment { monotonic_ns: self.monotonic_ns, unix_ns: self.unix_ns }
    }

    fn tell(&mut self, budget: &mut Budget, told: &Told) -> bool {
        self.pass(f64::from(told.gap_seconds));
        if told.reboot {
            (self.boot, self.monotonic_ns) = (self.boot + 1, 20 * S);
        }
        self.unix_ns = self.unix_ns.saturating_add_signed(told.step_seconds * S.cast_signed());
        self.pass(told.seconds);
        budget.add(&self.boot.to_string(), self.now(), told.seconds, told.verdict)
    }
}

proptest! {
    #[test]
    fn a_budget_comes_back_only_as_time_passes(all in prop::collection::vec(told(), 1..300), days in 1..90_u32) {
        let mut budget = Budget::new(DAY * days);
        let mut machine = Machine::new();
        let mut before = 1.0;
        for told in &all {
            let known = budget.in_period();
            let elapsed = budget.known_ms();
            prop_assert!(machine.tell(&mut budget, told));
            let left = budget.remaining(0.99);
            // Until the period is over, nothing comes back: not by good windows, gaps, steps of the clock or restarts of the machine.
            if budget.known_ms() < u64::from(days) * 86_400_000 {
                prop_assert!(left <= before + 1e-9, "{left} after {before}: {told:?}");
                let now = budget.in_period();
                prop_assert!(now.good >= known.good - 1e-6 && now.bad >= known.bad - 1e-6 && now.none >= known.none - 1e-6);
            }
            prop_assert!(budget.known_ms() >= elapsed);
            prop_assert!(left <= 1.0);
            before = left;
            for (_, span) in TOLD {
                let burn = budget.burn(span, 0.99);
                // A window may be longer than the bucket it ends in.
                prop_assert!((0.0..=100.0 * 2.0).contains(&burn), "{burn}");
            }
        }
    }

    #[test]
    fn how_windows_are_cut_does_not_matter(stretches in prop::collection::vec((told(), 1..5_u32), 1..100)) {
        let (mut whole, mut cut) = (Budget::new(DAY * 30), Budget::new(DAY * 30));
        let (mut one, mut other) = (Machine::new(), Machine::new());
        for (told, parts) in &stretches {
            let told = Told { seconds: told.seconds * f64::from(*parts), ..told.clone() };
            one.tell(&mut whole, &told);
            for part in 0..*parts {
                let first = part == 0;
                let part = Told {
                    seconds: told.seconds / f64::from(*parts),
                    gap_seconds: if first { told.gap_seconds } else { 0 },
                    step_seconds: if first { told.step_seconds } else { 0 },
                    reboot: first && told.reboot,
                    ..told.clone()
                };
                other.tell(&mut cut, &part);
            }
        }
        let (a, b) = (whole.in_period(), cut.in_period());
        // Where the period has an end within them, they differ by what one bucket has.
        let bucket = 30.0 * 86_400_000.0 / 300.0;
        prop_assert!((a.bad - b.bad).abs() <= bucket && (a.good - b.good).abs() <= bucket, "{a:?} {b:?}");
        if one.unix_ns < (1_700_000_000 + 30 * 86_400) * S && whole.known_ms() < 30 * 86_400_000 {
            prop_assert!((a.bad - b.bad).abs() < 1.0 && (a.good - b.good).abs() < 1.0, "{a:?} {b:?}");
        }
    }

    #[test]
    fn it_stays_small_and_is_the_same_when_read_back(all in prop::collection::vec(told(), 1..700), hours in 1..2160_u32) {
        let over = Duration::from_secs(3600) * hours;
        let mut budget = Budget::new(over);
        let mut machine = Machine::new();
        for told in &all {
            machine.tell(&mut budget, told);
        }
        let json = serde_json::to_string(&budget).unwrap();
        prop_assert!(json.len() < 40_000, "{}", json.len());
        let read: Budget = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read, &budget);
        prop_assert_eq!(&read.over(over), &budget, "the same period changes nothing");
        let longer = budget.over(over * 2);
        prop_assert!(longer.in_period().bad >= budget.in_period().bad - 1e-6);
    }

    #[test]
    fn whatever_was_kept_is_taken(elapsed in any::<u64>(), width in any::<u64>(), numbers in prop::collection::vec(any::<[u64; 4]>(), 0..50)) {
        let buckets = serde_json::json!({ "width_ms": width, "span_ms": elapsed, "buckets": numbers });
        let json = serde_json::json!({
            "over_ms": width, "elapsed_ms": elapsed, "clock": null, "hour": buckets, "six_hours": buckets, "period": buckets,
        });
        let mut budget = serde_json::from_value::<Budget>(json).unwrap().over(DAY);
        budget.add("boot", Moment { monotonic_ns: 1, unix_ns: 1 }, 10.0, Verdict::Bad);
        prop_assert!(!budget.remaining(0.999).is_nan());
        budget.judge(0.999, 14.4, 6.0);
    }
}

#[test]
fn a_window_counts_once() {
    let mut budget = Budget::new(DAY);
    let at = |s: u64| Moment { monotonic_ns: s * S, unix_ns: s * S };
    assert!(budget.add("a", at(10), 10.0, Verdict::Bad));
    assert!(!budget.add("a", at(10), 10.0, Verdict::Bad));
    assert!(!budget.add("a", at(5), 10.0, Verdict::Bad));
    assert!((budget.in_period().bad - 10_000.0).abs() < 1e-6);
}

/// Windows of ten seconds.
fn windows(budget: &mut Budget, machine: &mut Machine, count: u32, verdict: Verdict) -> Vec<Option<Speed>> {
    let told = Told { seconds: 10.0, verdict, gap_seconds: 0, step_seconds: 0, reboot: false };
    let one = |_| {
        machine.tell(budget, &told);
        budget.judge(0.999, 14.4, 6.0)
    };
    (0..count).map(one).collect()
}

#[test]
fn an_outage_is_told_within_a_minute_and_over_in_five() {
    let (mut budget, mut machine) = (Budget::new(DAY * 30), Machine::new());
    assert!(windows(&mut budget, &mut machine, 360, Verdict::Good).iter().all(Option::is_none));
    // 14.4 times 0.1 % of an hour is 52 s.
    let out = windows(&mut budget, &mut machine, 30, Verdict::Bad);
    assert_eq!(out.iter().position(|alert| *alert == Some(Speed::Fast)), Some(5), "{out:?}");
    assert!(out[5..].iter().all(|alert| *alert == Some(Speed::Fast)));
    // 5 minutes of 43.2.
    assert!((budget.remaining(0.999) - (1.0 - 5.0 / 43.2)).abs() < 1e-6, "{}", budget.remaining(0.999));
    let back = windows(&mut budget, &mut machine, 400, Verdict::Good);
    let over = back.iter().position(|alert| *alert != Some(Speed::Fast)).unwrap();
    assert!((29..=33).contains(&over), "{over}");
    // The half hour still has five bad minutes.
    let over = back.iter().position(Option::is_none).unwrap();
    assert!((178..=200).contains(&over), "{over}");
    assert!(back[over..].iter().all(Option::is_none), "it does not come back");
}

#[test]
fn one_bad_window_at_the_start_is_no_alarm() {
    let (mut budget, mut machine) = (Budget::new(DAY * 30), Machine::new());
    assert_eq!(windows(&mut budget, &mut machine, 1, Verdict::Bad), [None]);
    assert!(windows(&mut budget, &mut machine, 1000, Verdict::Good).iter().all(Option::is_none));
}

#[test]
fn a_little_that_lasts_is_told_slowly() {
    let (mut budget, mut machine) = (Budget::new(DAY * 30), Machine::new());
    // One window in 120: 8.3 times as fast as it lasts.
    let mut told = Vec::new();
    for _ in 0..24 {
        told.extend(windows(&mut budget, &mut machine, 119, Verdict::Good));
        told.extend(windows(&mut budget, &mut machine, 1, Verdict::Bad));
    }
    assert!(!told.contains(&Some(Speed::Fast)));
    let first = told.iter().position(|alert| *alert == Some(Speed::Slow)).unwrap();
    assert!((1300..=2000).contains(&first), "{first}");
}

#[test]
fn silence_is_no_recovery() {
    let (mut budget, mut machine) = (Budget::new(DAY * 30), Machine::new());
    windows(&mut budget, &mut machine, 30, Verdict::Bad);
    let silent = windows(&mut budget, &mut machine, 300, Verdict::NoData);
    assert!(silent.iter().all(|alert| *alert == Some(Speed::Fast)), "no data for 50 minutes");
    let back = windows(&mut budget, &mut machine, 1, Verdict::Good);
    assert_eq!(back, [None], "all that was seen in half an hour was good");
    // But silence alone begins nothing: what was bad was over before.
    let (mut budget, mut machine) = (Budget::new(DAY * 30), Machine::new());
    windows(&mut budget, &mut machine, 30, Verdict::Bad);
    windows(&mut budget, &mut machine, 250, Verdict::Good);
    assert!(windows(&mut budget, &mut machine, 60, Verdict::NoData).iter().all(Option::is_none));
}

#[test]
fn a_large_budget_is_used_too_fast_when_all_is_bad() {
    // All the time is ten times 10 %, which is less than 14.4.
    let (mut budget, mut machine) = (Budget::new(DAY * 30), Machine::new());
    let told = Told { seconds: 10.0, verdict: Verdict::Bad, gap_seconds: 0, step_seconds: 0, reboot: false };
    let all: Vec<_> = (0..360)
        .map(|_| {
            machine.tell(&mut budget, &told);
            budget.judge(0.9, 14.4, 6.0)
        })
        .collect();
    let first = all.iter().position(|alert| *alert == Some(Speed::Fast)).unwrap();
    assert!((341..=345).contains(&first), "{first}");
}

#[test]
fn what_was_used_comes_back_after_the_period() {
    let (mut budget, mut machine) = (Budget::new(Duration::from_secs(3600)), Machine::new());
    windows(&mut budget, &mut machine, 6, Verdict::Bad);
    let used = budget.remaining(0.99);
    windows(&mut budget, &mut machine, 350, Verdict::Good);
    assert!((budget.remaining(0.99) - used).abs() < 1e-9);
    windows(&mut budget, &mut machine, 16, Verdict::Good);
    assert!((budget.remaining(0.99) - 1.0).abs() < 1e-9, "{}", budget.remaining(0.99));
}
