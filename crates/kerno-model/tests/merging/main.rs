//! Short windows, merged, say what one long window would have said.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use kerno_model::fill;
use kerno_model::saved::read_window;
use kerno_model::*;
use proptest::prelude::*;
use serde_json::Value;
use world::{SECONDS, World, world};

/// The window as JSON, without what is said to be inexact.
fn essence(window: &Window) -> Value {
    let mut window = window.clone();
    let merged = window.merged.take();
    let tcp = window.tcp_monitor.as_mut().unwrap();
    // Said to be inexact, as `inexact_values_say_so` checks.
    tcp.rtt_us = Histogram::new();
    for failure in &mut tcp.failures {
        failure.first_ns = if failure.reason == TcpFailureReason::TimedOut { 0 } else { failure.first_ns };
    }
    tcp.peers.iter_mut().for_each(|peer| peer.srtt_us = None);
    window.sched_delay.as_mut().unwrap().groups.iter_mut().for_each(|group| group.processes = 0);
    if let Some(merged) = merged {
        let told: BTreeSet<_> = merged.inexact.keys().map(String::as_str).collect();
        let may_be = BTreeSet::from([
            "tcp_monitor.rtt_us",
            "tcp_monitor.failures.first_ns",
            "tcp_monitor.peers.srtt_us",
            "sched_delay.groups.processes",
        ]);
        assert!(told.is_subset(&may_be), "{told:?}");
        let cut: BTreeSet<_> = merged.cut.keys().map(String::as_str).collect();
        // Lists that are selections by their nature; here all there is has been selected.
        let selections = BTreeSet::from([
            "processes",
            "fd_track.processes",
            "oom_track.cgroups",
            "oom_track.processes",
            "disk_io.filesystems.writers",
            "disk_io.throttled",
            "disk_io.writers",
        ]);
        assert_eq!(cut, selections);
        assert!(merged.cut.values().all(|cut| cut.windows == merged.windows && cut.left_out == 0), "{:?}", merged.cut);
    }
    serde_json::to_value(window).unwrap()
}

/// The same but for rounding; entries of lists in any order.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
        }
        (Value::Array(a), Value::Array(b)) => {
            let sorted = |list: &[Value]| -> Vec<Value> {
                let mut list = list.to_vec();
                if list.iter().any(Value::is_object) {
                    list.sort_by_cached_key(without_floats);
                }
                list
            };
            a.len() == b.len() && sorted(a).iter().zip(&sorted(b)).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn without_floats(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => "~".to_owned(),
        Value::Array(list) => list.iter().map(without_floats).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| format!("{key}:{}", without_floats(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

fn assert_equal(a: &Value, b: &Value) {
    for (part, value) in b.as_object().unwrap() {
        assert!(same(&a[part], value), "{part}:\n{:#}\nis not\n{value:#}", a[part]);
    }
    assert!(same(a, b), "{a:#}\nis not\n{b:#}");
}

fn assert_same(merged: &Window, whole: &Window) {
    assert_equal(&essence(merged), &essence(whole));
}

/// Where it is cut: the seconds at which one window ends and the next begins, with both ends.
fn cuts() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::btree_set(1..SECONDS, 0..12)
        .prop_map(|cuts| std::iter::once(0).chain(cuts).chain([SECONDS]).collect())
}

fn pieces(world: &World, cuts: &[u64]) -> Vec<Window> {
    cuts.windows(2).map(|cut| world.window(cut[0], cut[1])).collect()
}

fn merged(windows: &[Window]) -> Window {
    let mut whole = windows[0].clone();
    windows[1..].iter().for_each(|window| whole.merge(window).unwrap());
    whole
}

/// Merges what is merged already: any neighbours first.
fn merged_as_a_tree(mut windows: Vec<Window>, choices: &[prop::sample::Index]) -> Window {
    for choice in choices.iter().cycle() {
        if windows.len() == 1 {
            break;
        }
        let at = choice.index(windows.len() - 1);
        let later = windows.remove(at + 1);
        windows[at].merge(&later).unwrap();
    }
    windows.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn short_windows_add_up_to_a_long_one(world in world(), cuts in cuts()) {
        assert_same(&merged(&pieces(&world, &cuts)), &world.window(0, SECONDS));
    }

    /// Whatever is missing of some of the windows, and whatever their lists were cut off at.
    #[test]
    fn the_order_of_merging_does_not_matter(
        world in world(),
        cuts in cuts(),
        harm in prop::collection::vec(any::<u16>(), 13),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let pieces = pieces(&world, &cuts).into_iter().zip(&harm);
        let mut started_ns = 2;
        let pieces: Vec<_> = pieces.filter_map(|(piece, harm)| harmed(piece, *harm, &mut started_ns)).collect();
        prop_assume!(!pieces.is_empty());
        let in_turn = merged(&pieces);
        let tree = merged_as_a_tree(pieces, &choices);
        assert_equal(&serde_json::to_value(&tree).unwrap(), &serde_json::to_value(&in_turn).unwrap());
    }

    /// An entry of a list that was cut off has at most what is true, and lacks at most what is said.
    #[test]
    fn what_lists_lack_is_bounded(
        seconds in prop::collection::vec(prop::collection::vec((0..400u32, 1..50u64), 0..150), 1..12),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let truth = sums(seconds.iter().flatten());
        let windows = seconds.iter().zip(0..).map(|(opens, begin)| opened(f64::from(begin), &sums(opens))).collect();
        let whole = merged_as_a_tree(windows, &choices);
        let files = whole.file_audit.as_ref().unwrap();
        prop_assert_eq!(files.opens, truth.values().sum::<u64>());
        let cut = whole.merged.as_ref().and_then(|merged| merged.cut.get("file_audit.processes"));
        let at_most = cut.map_or(0, |cut| cut.at_most.unwrap());
        prop_assert!(cut.is_none_or(|cut| cut.field == "opens"));
        let most = |second: &Vec<(u32, u64)>| sums(second).len();
        if seconds.len() > 1 && seconds.iter().map(most).max() > Some(64) {
            prop_assert!(cut.is_some_and(|cut| cut.windows > 0));
        }
        let told = |pid: u32| files.processes.iter().find(|process| process.pid == pid).map_or(0, |found| found.opens);
        for (pid, opens) in truth.into_iter().filter(|_| seconds.len() > 1) {
            prop_assert!(told(pid) <= opens && opens <= told(pid) + at_most, "{pid}: {} {opens} {at_most}", told(pid));
        }
    }

    /// However many points there are: their ends and extremes stay, and their number is bounded.
    #[test]
    fn long_series_keep_their_extremes(
        seconds in prop::collection::vec(prop::collection::vec(0..1000u32, 8), 2..60),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let windows: Vec<_> = seconds.iter().zip(0..).map(|(values, begin)| {
            let mut window = empty(f64::from(begin), 1.0);
            let points = (0..).zip(values).map(|(n, value)| (f64::from(n) * 0.125 + 0.0625, f64::from(*value)));
            window.fd_track = Some(FdSummary { open: points.collect(), ..FdSummary::default() });
            window
        }).collect();
        let values = || seconds.iter().flatten().copied().map(f64::from);
        let in_turn = merged(&windows);
        let tree = merged_as_a_tree(windows, &choices);
        let series = |window: &Window| window.fd_track.as_ref().unwrap().open.clone();
        prop_assert_eq!(series(&tree), series(&in_turn));
        let open = series(&tree);
        prop_assert!(open.points().len() <= 128 && open.points().len() >= values().count().min(31));
        prop_assert_eq!((open.first(), open.last()), (values().next(), values().next_back()));
        prop_assert_eq!((open.min(), open.max()), (values().reduce(f64::min), values().reduce(f64::max)));
        prop_assert!(open.points().windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    /// What is not watched is in no count, and is known as time that was not watched.
    #[test]
    fn gaps_are_kept(world in world(), cuts in cuts(), kept in prop::collection::vec(any::<bool>(), SECONDS as usize)) {
        let all = pieces(&world, &cuts);
        let pieces: Vec<_> = all.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(piece, _)| piece.clone()).collect();
        prop_assume!(!pieces.is_empty());
        let whole = merged(&pieces);
        let watched: f64 = pieces.iter().map(|piece| piece.span.seconds).sum();
        let (first, last) = (&pieces[0], &pieces[pieces.len() - 1]);
        let end = last.span.started_ns as f64 / 1e9 + last.span.seconds;
        let covered = end - first.span.started_ns as f64 / 1e9;
        prop_assert!((whole.span.seconds - watched).abs() < 1e-6);
        prop_assert!((whole.covered_seconds() - covered).abs() < 1e-6);
        prop_assert_eq!(whole.span.started_ns, first.span.started_ns);
        prop_assert!((whole.span.unwatched_seconds - (covered - watched)).abs() < 1e-6);
        let gaps = whole.merged.as_ref().map_or(&[][..], |merged| &merged.gaps);
        prop_assert!((gaps.iter().map(|gap| gap.seconds).sum::<f64>() - (covered - watched)).abs() < 1e-6);
        for gap in gaps {
            let at = |second: u64| pieces.iter().any(|piece| {
                let begin = (piece.span.started_ns - world::BEGIN_NS) / 1_000_000_000;
                (begin..begin + piece.span.seconds as u64).contains(&second)
            });
            let begin = (first.span.started_ns - world::BEGIN_NS) / 1_000_000_000 + gap.at as u64;
            prop_assert!((begin..begin + gap.seconds as u64).all(|second| !at(second)), "{gap:?}");
        }
        let sum = |of: fn(&Window) -> f64| pieces.iter().map(of).sum::<f64>();
        let weighted = |of: fn(&Window) -> f64| pieces.iter().map(|piece| of(piece) * piece.span.seconds).sum::<f64>();
        let calls = |window: &Window| window.syscall_latency.as_ref().unwrap().calls as f64;
        prop_assert_eq!(calls(&whole), sum(calls));
        let stalled = |window: &Window| window.oom_track.as_ref().unwrap().some_stalled.unwrap();
        prop_assert!((stalled(&whole) * watched - weighted(stalled)).abs() < 1e-6);
        let runnable = &whole.sched_delay.as_ref().unwrap().runnable;
        let times: Vec<_> = runnable.points().iter().map(|point| point.0).collect();
        prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]) && times.last() == Some(&covered));
    }
}

/// Without some of what a window has; `None`: it was not watched at all. `started_ns` is when the process began that has the id 2.
fn harmed(mut window: Window, harm: u16, started_ns: &mut u64) -> Option<Window> {
    let is = |bit: u16| harm & (1 << bit) != 0;
    if is(0) && is(1) {
        return None;
    }
    if is(2) {
        let memory = window.oom_track.as_mut().unwrap();
        (memory.some_stalled, memory.cgroups[0].some_stalled) = (None, None);
        memory.cgroups.truncate(1 + usize::from(is(3)));
        memory.processes.truncate(3);
    }
    if is(4) {
        let tcp = window.tcp_monitor.as_mut().unwrap();
        tcp.peers.truncate(1);
        tcp.failures.truncate(1);
        tcp.peers.iter_mut().for_each(|peer| peer.open = peer.open.filter(|_| is(5)));
    }
    if is(6) {
        let sched = window.sched_delay.as_mut().unwrap();
        sched.blocked.truncate(1);
        sched.cpus.truncate(1);
        sched.groups.truncate(1);
        window.disk_io.as_mut().unwrap().devices.truncate(1);
        window.missing.push(fill!(Missing {
            signal: "disk_io".into(),
            what: "a device".into(),
            reason: "it is broken".into(),
        }));
    }
    if is(7) && is(8) {
        window.disk_io = None;
    }
    if is(9) && is(10) {
        window.sched_delay = None;
    }
    if is(11) && is(12) {
        *started_ns = window.span.started_ns;
    }
    window.processes.get_mut(&2).unwrap().started_ns = *started_ns;
    if is(13) {
        window.processes.remove(&2);
    }
    Some(window)
}

fn sums<'a>(opens: impl IntoIterator<Item = &'a (u32, u64)>) -> BTreeMap<u32, u64> {
    let mut sums = BTreeMap::new();
    opens.into_iter().for_each(|(pid, opens)| *sums.entry(*pid).or_default() += opens);
    sums
}

/// What a window tells of these opens: of very many processes the first ones.
fn opened(begin: f64, opens: &BTreeMap<u32, u64>) -> Window {
    let process = |(pid, opens): (&u32, &u64)| FileProcess { pid: *pid, opens: *opens, ..FileProcess::default() };
    let mut processes: Vec<_> = opens.iter().map(process).collect();
    processes.sort_by_key(|process| (std::cmp::Reverse(process.opens), process.pid));
    processes.truncate(64);
    let part = FileSummary { opens: opens.values().sum(), processes, ..FileSummary::default() };
    fill!(Window { file_audit: Some(part), ..empty(begin, 1.0) })
}

/// A window of so many seconds that begins then, with nothing in it.
fn empty(begin: f64, seconds: f64) -> Window {
    let host = fill!(HostFacts { hostname: "host".into(), boot_id: "boot".into() });
    let started_ns = (begin * 1e9) as u64;
    let span = fill!(Span { started_unix: 1e9 + begin, started_ns, seconds, samples: 2 });
    fill!(Window { schema_version: SCHEMA_VERSION, host, span })
}

#[test]
fn inexact_values_say_so() {
    let peer = TcpPeer { connections: 3, open: Some(2), srtt_us: Some(400), ..TcpPeer::default() };
    let mut rtt_us = Histogram::new();
    rtt_us.record(100);
    let group = |processes| CpuGroup { comm: "cc".into(), processes, ..CpuGroup::default() };
    let with = |begin, processes| {
        fill!(Window {
            tcp_monitor: Some(TcpSummary {
                peers: vec![peer.clone()],
                rtt_us: rtt_us.clone(),
                ..TcpSummary::default()
            }),
            sched_delay: Some(SchedSummary { groups: vec![group(processes)], ..SchedSummary::default() }),
            ..empty(begin, 5.0)
        })
    };
    let whole = merged(&[with(0.0, 4), with(5.0, 2)]);
    let told = &whole.merged.as_ref().unwrap().inexact;
    assert_eq!(told["tcp_monitor.rtt_us"], Inexact::CountedAgain);
    assert_eq!(told["sched_delay.groups.processes"], Inexact::AtLeast);
    assert_eq!(told["tcp_monitor.peers.srtt_us"], Inexact::Latest);
    assert_eq!(whole.sched_delay.unwrap().groups[0].processes, 4);
    assert_eq!(whole.tcp_monitor.unwrap().peers[0].connections, 4);
}

#[test]
fn what_does_not_belong_together_is_refused_and_changes_nothing() {
    let first = empty(100.0, 10.0);
    let refused = |later: &Window| {
        let mut whole = first.clone();
        let error = whole.merge(later).unwrap_err();
        assert_eq!(whole, first);
        error
    };
    let mut other = empty(110.0, 10.0);
    (other.host.hostname, other.host.boot_id) = ("another".into(), "another".into());
    assert_eq!(refused(&other), MergeError::OtherMachine);
    let mut renamed = empty(110.0, 10.0);
    renamed.host.hostname = "another".into();
    assert_eq!(first.clone().merge(&renamed), Ok(()), "the boot is the same, and so is the machine");
    let mut other = empty(110.0, 10.0);
    other.host.boot_id = "another".into();
    assert_eq!(refused(&other), MergeError::OtherBoot);
    assert!(matches!(refused(&empty(105.0, 10.0)), MergeError::Overlap { seconds } if (seconds - 5.0).abs() < 1e-6));
    assert!(matches!(refused(&first), MergeError::Overlap { .. }));
    assert!(matches!(refused(&empty(95.0, 30.0)), MergeError::Overlap { seconds } if (seconds - 10.0).abs() < 1e-6));
    assert_eq!(refused(&empty(50.0, 10.0)), MergeError::Earlier);
    assert_eq!(refused(&empty(90.0, 10.0)), MergeError::Earlier);
    // Without boot ids both clocks tell.
    let unnamed = |mut window: Window| {
        window.host.boot_id.clear();
        window
    };
    assert!(unnamed(first.clone()).merge(&unnamed(empty(110.0, 10.0))).is_ok());
    let mut restarted = unnamed(empty(110.0, 10.0));
    restarted.span.started_unix += 600.0;
    assert_eq!(unnamed(first.clone()).merge(&restarted), Err(MergeError::OtherBoot));
}

#[test]
fn a_signal_that_was_observed_for_a_part_of_the_time_says_so() {
    let with = |begin, share| {
        fill!(Window {
            disk_io: Some(DiskSummary {
                some_stalled: Some(share),
                dirty_bytes: [(0.0, 1.0), (10.0, 2.0)].into_iter().collect(),
                ..DiskSummary::default()
            }),
            ..empty(begin, 10.0)
        })
    };
    let whole = merged(&[empty(0.0, 10.0), with(10.0, 0.2), with(20.0, 0.6), empty(30.0, 10.0)]);
    let disk = whole.disk_io.as_ref().unwrap();
    // Of the 20 seconds that it was observed.
    assert!((disk.some_stalled.unwrap() - 0.4).abs() < 1e-9);
    assert_eq!(disk.dirty_bytes.points(), [(10.0, 1.0), (20.0, 2.0), (30.0, 2.0)]);
    assert_eq!(whole.merged.as_ref().unwrap().observed_seconds["disk_io"], 20.0);
    let [missing] = &whole.missing[..] else { panic!("{:?}", whole.missing) };
    assert_eq!((missing.signal.as_str(), missing.what.as_str()), ("disk_io", "a part of the time"));
    assert_eq!(missing.reason, "observed for 20.0 of 40.0 seconds");
}

#[test]
fn a_process_id_that_is_used_again_is_another_process() {
    let with = |begin: f64, started_ns, comm: &str, opens| {
        let process = Process { pid: 7, comm: comm.into(), started_ns, alive: true, ..Process::default() };
        let opener = FileProcess { pid: 7, comm: comm.into(), opens, ..FileProcess::default() };
        fill!(Window {
            file_audit: Some(FileSummary { opens, processes: vec![opener], ..FileSummary::default() }),
            processes: [(7, process)].into(),
            ..empty(begin, 5.0)
        })
    };
    let whole = merged(&[with(0.0, 1, "old", 3), with(5.0, 9, "new", 4), with(10.0, 9, "new", 5)]);
    let files = whole.file_audit.unwrap();
    let told: Vec<_> = files.processes.iter().map(|process| (process.comm.as_str(), process.opens)).collect();
    assert_eq!((files.opens, told), (12, vec![("new", 9), ("old", 3)]));
    assert_eq!(whole.processes[&7].comm, "new");
    assert_eq!(whole.merged.unwrap().reused_pids, [7].into());
}

#[test]
fn lists_stay_bounded_and_what_is_left_out_is_counted() {
    let with = |begin: u32| {
        let opener = |i| FileProcess { pid: begin * 1000 + i, opens: u64::from(i) + 1, ..FileProcess::default() };
        let process = |i| (begin * 1000 + i, Process { pid: begin * 1000 + i, started_ns: 5, ..Process::default() });
        let files =
            FileSummary { opens: 64 * 65 / 2, processes: (0..64).map(opener).collect(), ..FileSummary::default() };
        fill!(Window {
            file_audit: Some(files),
            processes: (0..900).map(process).collect(),
            ..empty(f64::from(begin), 1.0)
        })
    };
    let whole = merged(&(0..10).map(with).collect::<Vec<_>>());
    let (files, notes) = (whole.file_audit.unwrap(), whole.merged.unwrap());
    assert_eq!(files.opens, 10 * 64 * 65 / 2, "totals have all");
    assert_eq!(files.processes.len() as u64 + notes.cut["file_audit.processes"].left_out, 640);
    let cut = &notes.cut["file_audit.processes"];
    assert_eq!((cut.windows, cut.field.as_str()), (10, "opens"));
    assert_eq!(whole.processes.len() as u64 + notes.cut["processes"].left_out, 9000);
    assert!(
        files.processes.iter().all(|opener| whole.processes.contains_key(&opener.pid)),
        "those that are named stay"
    );
}

#[test]
fn an_hour_of_seconds_stays_small() {
    let second = |i: u32| {
        let open: Series = (0..=4).map(|n| (f64::from(n) * 0.25, f64::from(i))).collect();
        let mut window = empty(f64::from(i), 1.0);
        window.fd_track = Some(FdSummary { open, files_max: 10, ..FdSummary::default() });
        window
    };
    let mut whole = second(0);
    (1..3600).for_each(|i| whole.merge(&second(i)).unwrap());
    let fds = whole.fd_track.as_ref().unwrap();
    assert!(fds.open.points().len() <= 128);
    assert_eq!((fds.open.first(), fds.open.last()), (Some(0.0), Some(3599.0)));
    let merged = whole.merged.as_ref().unwrap();
    assert_eq!((merged.windows, whole.span.unwatched_seconds, merged.gaps.len()), (3600, 0.0, 0));
    assert!((whole.span.seconds - 3600.0).abs() < 1e-6);
    assert!(serde_json::to_vec(&whole).unwrap().len() < 10_000);
}

/// Windows of a real machine, with times between them that were not watched.
#[test]
fn real_windows_add_up() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/saved/v1");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut windows: Vec<_> = files.filter_map(|path| read_window(&std::fs::read(path).ok()?).ok()).collect();
    windows.sort_by_key(|window| window.span.started_ns);
    assert!(windows.len() >= 8);
    let whole = merged(&windows);
    let notes = whole.merged.as_ref().unwrap();
    assert_eq!((notes.windows as usize, notes.gaps.len()), (windows.len(), windows.len() - 1));
    let last = windows.last().unwrap();
    let covered = (last.span.started_ns - windows[0].span.started_ns) as f64 / 1e9 + last.span.seconds;
    assert!((whole.covered_seconds() - covered).abs() < 1e-6);
    let sum = |of: fn(&Window) -> u64| windows.iter().map(of).sum::<u64>();
    let calls = |window: &Window| window.syscall_latency.as_ref().map_or(0, |part| part.calls);
    let waits = |window: &Window| window.sched_delay.as_ref().map_or(0, |part| part.wakeup_ns.count());
    let kills = |window: &Window| window.oom_track.as_ref().map_or(0, |part| part.kills_total);
    assert_eq!((calls(&whole), waits(&whole), kills(&whole)), (sum(calls), sum(waits), sum(kills)));
    assert!(kills(&whole) > 0);
    // The quiet one did not observe CPUs.
    assert!(notes.observed_seconds["sched_delay"] < whole.span.seconds);
    assert_eq!(whole.span.seconds, windows.iter().map(|window| window.span.seconds).sum::<f64>());
    let named = whole.named_pids();
    let unknown: Vec<_> = named.iter().filter(|pid| !whole.processes.contains_key(pid)).collect();
    let known_before = |pid: &u32| windows.iter().any(|window| window.processes.contains_key(pid));
    assert!(unknown.iter().all(|pid| !known_before(pid)), "{unknown:?}");
    let again = read_window(&serde_json::to_vec(&whole).unwrap()).unwrap();
    assert_eq!(again, whole, "a merged window is saved and read like any other");
}
