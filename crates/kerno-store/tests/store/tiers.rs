//! Windows over months: what is kept in which resolution.

use std::time::Duration;

use kerno_store::{Reader, Settings, Store, Tier};
use proptest::prelude::*;

use crate::made::{BEGIN, Machine, SECOND, all, check_kept, folder, merged, short};

#[test]
fn what_is_appended_is_read() {
    let dir = folder();
    let (mut store, notes) = Store::open(dir.path(), short()).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let mut machine = Machine::default();
    let reader = Reader::open(dir.path()).unwrap();
    let mut windows = Vec::new();
    for _ in 0..50 {
        windows.push(machine.watch(10.0));
        store.append(windows.last().unwrap()).unwrap();
        assert_eq!(all(&reader).last(), windows.last());
    }
    assert_eq!(all(&reader), windows);
    let begin = BEGIN as u64 * SECOND;
    let some: Vec<_> = reader.windows(begin + 25 * SECOND, begin + 40 * SECOND).map(Result::unwrap).collect();
    assert_eq!(some, windows[2..4]);
    let found = reader.between(begin + 65 * SECOND, begin + 135 * SECOND).unwrap().unwrap();
    assert_eq!(found.window, merged(&windows[6..14]));
    assert!(found.gaps.is_empty() && found.others.is_empty());
    drop(store);
    let (mut store, notes) = Store::open(dir.path(), short()).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    windows.push(machine.watch(10.0));
    store.append(windows.last().unwrap()).unwrap();
    assert_eq!(all(&reader), windows);
}

#[test]
fn older_windows_become_coarser() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let mut windows = Vec::new();
    for at in 0..900 {
        windows.push(machine.watch(10.0));
        store.append(windows.last().unwrap()).unwrap();
        // Restarts lose nothing of what is being merged.
        if at % 100 == 77 {
            drop(store);
            let notes;
            (store, notes) = Store::open(dir.path(), short()).unwrap();
            assert!(notes.is_empty());
        }
    }
    let status = store.status();
    for (tier, (keep, resolution)) in status.tiers.iter().zip([(600, 10), (1800, 60), (6000, 300)]) {
        let expected = keep / resolution;
        // A file more, which is at least one window.
        assert!((expected..=expected * 25 / 24 + 3).contains(&tier.windows), "{tier:#?}");
    }
    let kept = all(&store.reader());
    let there = check_kept(&kept, &windows);
    assert!((600..700).contains(&there), "{there}");
    let lengths: Vec<_> = kept.iter().map(|window| window.span.seconds.round() as u64).collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
    assert_eq!((lengths[0], lengths.contains(&60), lengths.last()), (300, true, Some(&10)));

    // Months are read from coarse windows, and are the same.
    let from = windows[windows.len() - 590].span.end().unix_ns;
    let found = store.reader().between(from, machine.now_ns()).unwrap().unwrap();
    assert!(found.windows < 60, "{}", found.windows);
    let count = found.window.merged.as_ref().unwrap().windows as usize;
    assert!((589..620).contains(&count), "{count}");
    assert_eq!(found.window, merged(&windows[windows.len() - count..]));
}

#[test]
fn other_tiers_later_are_no_problem() {
    let dir = folder();
    let mut machine = Machine::default();
    let mut windows = Vec::new();
    let other = |resolutions: &[(u64, u64)]| {
        let tier =
            |(resolution, keep): &(u64, u64)| Tier::new(Duration::from_secs(*resolution), Duration::from_secs(*keep));
        let mut settings = Settings::default();
        settings.tiers = resolutions.iter().map(tier).collect();
        settings
    };
    for settings in [other(&[(10, 600), (60, 1800)]), other(&[(10, 300), (90, 2400)]), other(&[(10, 600)]), short()] {
        let (mut store, notes) = Store::open(dir.path(), settings).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        for _ in 0..100 {
            windows.push(machine.watch(10.0));
            store.append(windows.last().unwrap()).unwrap();
        }
        let there = check_kept(&all(&store.reader()), &windows);
        assert!(there >= 60.min(windows.len()), "{there}");
    }
    // What no tier keeps any more is gone in time.
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    for _ in 0..750 {
        store.append(&machine.watch(10.0)).unwrap();
    }
    let resolutions: Vec<_> = store.status().tiers.iter().map(|tier| tier.resolution.as_secs()).collect();
    assert_eq!(resolutions, [10, 60, 300]);
}

#[test]
fn windows_of_any_length_are_kept() {
    for seconds in [1.0, 7.0, 45.0, 300.0] {
        let dir = folder();
        let (mut store, _) = Store::open(dir.path(), short()).unwrap();
        let mut machine = Machine::default();
        let windows: Vec<_> = (0..130).map(|_| machine.watch(seconds)).collect();
        windows.iter().for_each(|window| store.append(window).unwrap());
        let there = check_kept(&all(&store.reader()), &windows);
        let watched = there as f64 * seconds;
        assert!(watched >= (130.0 * seconds).min(5400.0), "{seconds}: {there}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Watch(f64, u8),
    Pass(f64),
    Reboot,
    SetClock(f64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => ((0..4usize), 1..20u8).prop_map(|(at, times)| Step::Watch([1.0, 9.98, 10.0, 61.5][at], times)),
        1 => (0.0..400.0).prop_map(Step::Pass),
        1 => Just(Step::Reboot),
        1 => (-7000.0..7000.0).prop_map(Step::SetClock),
        2 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_happens_each_window_is_there_once(steps in steps()) {
        let dir = folder();
        let (mut store, _) = Store::open(dir.path(), short()).unwrap();
        let (mut machine, mut windows) = (Machine::default(), Vec::new());
        for step in steps {
            match step {
                Step::Watch(seconds, times) => {
                    for _ in 0..times {
                        windows.push(machine.watch(seconds));
                        store.append(windows.last().unwrap()).unwrap();
                    }
                }
                Step::Pass(seconds) => machine.pass(seconds),
                Step::Reboot => machine.reboot(60.0),
                Step::SetClock(seconds) => machine.wall += seconds,
                Step::Restart => {
                    drop(store);
                    let (again, notes) = Store::open(dir.path(), short()).unwrap();
                    prop_assert!(notes.is_empty());
                    store = again;
                }
            }
        }
        let there = check_kept(&all(&store.reader()), &windows);
        let watched: f64 = windows[windows.len() - there..].iter().map(|window| window.span.seconds).sum();
        let total: f64 = windows.iter().map(|window| window.span.seconds).sum();
        prop_assert!(watched >= total.min(6000.0) - 1e-3, "{} of {}", watched, total);
    }
}
