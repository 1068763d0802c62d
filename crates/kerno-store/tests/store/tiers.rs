//! Windows over months: what is kept in which resolution.

use std::time::Duration;

use kerno_model::Window;
use kerno_store::{Reader, Settings, Store, Tier};

use crate::made::{BEGIN, Machine, SECOND};

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.max_share = 1.0;
    settings.tiers = vec![
        Tier::new(Duration::from_secs(10), Duration::from_secs(1200)),
        Tier::new(Duration::from_secs(60), Duration::from_secs(7200)),
        Tier::new(Duration::from_secs(600), Duration::from_secs(30_000)),
    ];
    settings
}

fn all(reader: &Reader) -> Vec<Window> {
    reader.windows(0, u64::MAX).map(Result::unwrap).collect()
}

fn merged(windows: &[Window]) -> Window {
    let mut merged = windows[0].clone();
    windows[1..].iter().for_each(|window| merged.merge(window).unwrap());
    merged
}

#[test]
fn what_is_appended_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, notes) = Store::open(dir.path(), settings()).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let mut machine = Machine::default();
    let reader = Reader::open(dir.path()).unwrap();
    let mut windows = Vec::new();
    for _ in 0..70 {
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
    let (mut store, notes) = Store::open(dir.path(), settings()).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    windows.push(machine.watch(10.0));
    store.append(windows.last().unwrap()).unwrap();
    assert_eq!(all(&reader), windows);
}

#[test]
fn older_windows_become_coarser() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path(), settings()).unwrap();
    let mut machine = Machine::default();
    let mut windows = Vec::new();
    for at in 0..4000 {
        windows.push(machine.watch(10.0));
        store.append(windows.last().unwrap()).unwrap();
        // Restarts lose nothing of what is being merged.
        if at % 1000 == 77 {
            drop(store);
            let notes;
            (store, notes) = Store::open(dir.path(), settings()).unwrap();
            assert!(notes.is_empty());
        }
    }
    let status = store.status();
    for (tier, (keep, resolution)) in status.tiers.iter().zip([(1200, 10), (7200, 60), (30_000, 600)]) {
        let expected = keep / resolution;
        assert!((expected..expected * 13 / 12 + 2).contains(&tier.windows), "{tier:#?}");
    }
    let reader = store.reader();
    let kept = all(&reader);
    let mut at = windows.len();
    for window in kept.iter().rev() {
        let count = (window.span.seconds / 10.0).round() as usize;
        at -= count;
        assert_eq!(*window, merged(&windows[at..at + count]), "{count} windows from {at}");
    }
    assert!((3000..3000 * 13 / 12 + 120).contains(&(windows.len() - at)), "{at} of {}", windows.len());
    let lengths: Vec<_> = kept.iter().map(|window| window.span.seconds.round() as u64).collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
}
