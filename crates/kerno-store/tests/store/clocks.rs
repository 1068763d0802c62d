//! Clocks that jump, machines that start again.

use std::time::Duration;

use kerno_store::Store;

use crate::made::{BEGIN, Machine, SECOND, all, folder, merged, short};

#[test]
fn a_clock_set_back_claims_a_time_twice() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let mut windows: Vec<_> = (0..30).map(|_| machine.watch(10.0)).collect();
    // An hour back: 5 min from BEGIN, then 5 min from 55 min before it.
    machine.wall -= 3600.0;
    windows.extend((0..30).map(|_| machine.watch(10.0)));
    // And forward again.
    machine.wall += 3600.0;
    windows.extend((0..30).map(|_| machine.watch(10.0)));
    windows.iter().for_each(|window| store.append(window).unwrap());
    let reader = store.reader();
    // In the order in which they were observed, each once.
    let seconds: f64 = all(&reader).iter().map(|window| window.span.seconds).sum();
    assert_eq!(seconds.round(), 900.0);
    let starts: Vec<_> = all(&reader).iter().map(|window| window.span.started_ns).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    // By the wall clock, as it was.
    let begin = BEGIN as u64 * SECOND;
    let back = begin - 3300 * SECOND;
    let found = reader.between(back, back + 60 * SECOND).unwrap().unwrap();
    assert_eq!(found.window, merged(&windows[30..36]));
    assert!(found.gaps.is_empty() && found.others.is_empty(), "{found:?}");
    let found = reader.between(begin + 3600, begin + 60 * SECOND).unwrap().unwrap();
    assert_eq!(found.window, merged(&windows[..6]));
}

#[test]
fn a_time_that_came_twice_is_told_of() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let mut windows: Vec<_> = (0..30).map(|_| machine.watch(10.0)).collect();
    machine.wall -= 300.0;
    windows.extend((0..30).map(|_| machine.watch(10.0)));
    windows.iter().for_each(|window| store.append(window).unwrap());
    let begin = BEGIN as u64 * SECOND;
    let found = store.reader().between(begin + 60 * SECOND, begin + 120 * SECOND).unwrap().unwrap();
    // The latest says what is told; the other is named.
    assert_eq!(found.window, merged(&windows[36..42]));
    assert_eq!(found.others.len(), 1);
    assert_eq!((found.others[0].from, found.others[0].to), (begin + 60 * SECOND, begin + 120 * SECOND));
    let both: Vec<_> = store.reader().windows(begin + 60 * SECOND, begin + 120 * SECOND).map(Result::unwrap).collect();
    assert_eq!(both, [&windows[6..12], &windows[36..42]].concat());
}

#[test]
fn a_clock_that_jumps_ahead_removes_nothing() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let windows: Vec<_> = (0..20).map(|_| machine.watch(10.0)).collect();
    windows.iter().for_each(|window| store.append(window).unwrap());
    machine.wall += 10.0 * 365.0 * 86400.0;
    store.append(&machine.watch(10.0)).unwrap();
    machine.wall -= 10.0 * 365.0 * 86400.0;
    store.append(&machine.watch(10.0)).unwrap();
    assert_eq!(all(&store.reader())[..20], windows);
}

#[test]
fn boots_are_never_mixed() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let mut windows = Vec::new();
    for _ in 0..40 {
        windows.extend((0..7).map(|_| machine.watch(10.0)));
        machine.reboot(25.0);
    }
    windows.iter().for_each(|window| store.append(window).unwrap());
    let reader = store.reader();
    for window in all(&reader) {
        assert!(window.span.seconds < 70.1, "{:?}", window.span);
    }
    // The last boot, and the one before it.
    let to = windows.last().unwrap().span.end().unix_ns;
    let found = reader.between(to - 120 * SECOND, to).unwrap().unwrap();
    assert_eq!(found.window, merged(&windows[windows.len() - 7..]));
    let others: Vec<_> = found.others.iter().map(|other| other.boot_id.as_str()).collect();
    assert_eq!(others, ["boot-39"]);
    assert_eq!(found.gaps.len(), 1, "{:?}", found.gaps);
    assert_eq!(reader.status().unwrap().boots, 40);
}

#[test]
fn a_machine_that_was_off_still_has_the_day_before() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let windows: Vec<_> = (0..20).map(|_| machine.watch(10.0)).collect();
    windows.iter().for_each(|window| store.append(window).unwrap());
    machine.reboot(40.0 * 86400.0);
    store.append(&machine.watch(10.0)).unwrap();
    let reader = store.reader();
    assert_eq!(all(&reader)[..20], windows);
    // Between the two there is nothing, and it is known what is near.
    let when = (BEGIN as u64 + 86400) * SECOND;
    assert_eq!(reader.at(when, Duration::from_secs(300)).unwrap(), None);
    let (before, after) = reader.nearest(when).unwrap();
    assert_eq!(before, Some((BEGIN as u64 + 200) * SECOND));
    assert_eq!(after, Some((BEGIN as u64 + 200 + 40 * 86400) * SECOND));
}

#[test]
fn what_was_not_watched_is_told() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let first = machine.watch(10.0);
    machine.pass(35.0);
    let second = machine.watch(10.0);
    [&first, &second].into_iter().for_each(|window| store.append(window).unwrap());
    let begin = BEGIN as u64 * SECOND;
    let found = store.reader().between(begin - 5 * SECOND, begin + 60 * SECOND).unwrap().unwrap();
    let gaps: Vec<_> = found
        .gaps
        .iter()
        .skip(1)
        .map(|gap| ((gap.from + SECOND - begin) / SECOND, (gap.to - begin) / SECOND))
        .collect();
    assert_eq!(found.windows, 2);
    assert_eq!(gaps, [(11, 45), (56, 60)]);
    assert_eq!((found.gaps[0].from, found.gaps[0].to), (begin - 5 * SECOND, begin));
    assert_eq!(found.window.span.unwatched_seconds.round(), 35.0);
}
