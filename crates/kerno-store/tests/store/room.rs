//! The cap.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kerno_store::{Settings, Store, StoreErrorKind};

use crate::incidents::incident;
use crate::made::{Dice, Machine, all, files, folder, recorded};

/// What the files take, as `du` counts and by their lengths.
fn taken(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let (mut blocks, mut bytes) = (std::fs::metadata(dir).unwrap().blocks() * 512, 0);
    for meta in entries {
        blocks += meta.blocks() * 512;
        bytes += meta.len();
    }
    blocks.max(bytes)
}

fn capped(bytes: u64) -> Settings {
    let mut settings = Settings::default();
    (settings.cap_bytes, settings.max_share) = (bytes, 1.0);
    settings
}

#[test]
fn the_cap_holds_at_every_moment() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), capped(1 << 20)).unwrap();
    let mut machine = Machine { like: recorded("write_storm"), ..Machine::default() };
    let mut dice = Dice(5);
    let mut appended = 0;
    for number in 0..250 {
        // No two are alike, so that they do not compress well.
        machine.like.processes.values_mut().for_each(|process| process.used.wait_ns = dice.below(1 << 40));
        machine.like.kerno_version = (0..500).map(|_| format!("{:x}", dice.below(u64::MAX))).collect();
        store.append(&machine.watch(10.0)).unwrap();
        appended += 1;
        if number % 5 == 0 {
            store.put_incident(&incident(number / 5)).unwrap();
        }
        if number % 7 == 0 {
            store.put_state("state", &vec![dice.below(u64::MAX); 600]).unwrap();
        }
        let (taken, counted) = (taken(dir.path()), store.status().bytes);
        assert!(taken <= 1 << 20, "{taken} after {appended}");
        assert!(taken <= counted && counted <= 1 << 20, "{taken}, {counted} counted");
    }
    let status = store.status();
    assert_eq!((status.incidents, status.failing.as_ref()), (50, None));
    // It is used, not only kept, and each tier goes further back than the finer one.
    assert!(status.bytes > 1 << 19, "{status:#?}");
    let oldest: Vec<_> = status.tiers.iter().map(|tier| tier.oldest.unwrap()).collect();
    assert!(oldest.is_sorted_by(|a, b| a >= b) && status.tiers[0].windows < 250, "{status:#?}");
    drop(store);
    // With a lower cap, what is too much goes at once; with a higher one, nothing.
    let (store, notes) = Store::open(dir.path(), capped(2 << 20)).unwrap();
    assert!(notes.is_empty());
    assert_eq!(store.status().bytes, status.bytes);
}

#[test]
fn a_lower_cap_holds_at_once() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), capped(64 << 20)).unwrap();
    let mut machine = Machine::default();
    let mut dice = Dice(5);
    while store.status().bytes < 3 << 20 {
        machine.like.kerno_version = (0..4000).map(|_| format!("{:x}", dice.below(u64::MAX))).collect();
        store.append(&machine.watch(10.0)).unwrap();
    }
    drop(store);
    let (store, _) = Store::open(dir.path(), capped(1 << 20)).unwrap();
    assert!(taken(dir.path()) <= 1 << 20);
    assert!(!all(&store.reader()).is_empty());
}

#[test]
fn damaged_files_go_first() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), capped(1 << 20)).unwrap();
    let mut machine = Machine::default();
    (0..30).for_each(|_| store.append(&machine.watch(10.0)).unwrap());
    drop(store);
    let damaged = files(dir.path()).into_iter().find(|(path, _)| path.to_str().unwrap().contains("windows")).unwrap();
    let mut bytes = damaged.1;
    bytes[3] = 0;
    bytes.resize(400 << 10, 9);
    std::fs::write(&damaged.0, bytes).unwrap();
    let (mut store, notes) = Store::open(dir.path(), capped(1 << 20)).unwrap();
    assert_eq!((notes.len(), store.status().aside.len()), (1, 1), "{notes:?}");
    assert_eq!(all(&store.reader()).len(), 30);
    let mut dice = Dice(5);
    while !store.status().aside.is_empty() {
        machine.like.kerno_version = (0..4000).map(|_| format!("{:x}", dice.below(u64::MAX))).collect();
        store.append(&machine.watch(10.0)).unwrap();
        assert!(taken(dir.path()) <= 1 << 20);
    }
    assert!(all(&store.reader()).len() > 30);
}

#[test]
fn a_window_that_is_larger_than_the_store_is_refused() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), capped(1 << 20)).unwrap();
    let mut machine = Machine::default();
    store.append(&machine.watch(10.0)).unwrap();
    let mut dice = Dice(5);
    let small = std::mem::replace(
        &mut machine.like.kerno_version,
        (0..200_000).map(|_| format!("{:x}", dice.below(u64::MAX))).collect(),
    );
    let error = store.append(&machine.watch(10.0)).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}");
    let failing = store.status().failing.unwrap();
    assert_eq!((failing.attempts, failing.why, store.status().not_written), (1, error.to_string(), 1));
    machine.like.kerno_version = small;
    store.append(&machine.watch(10.0)).unwrap();
    assert_eq!((store.status().failing, all(&store.reader()).len()), (None, 2));
}
