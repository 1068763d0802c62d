//! Damage at random places: everything else is read, and what is lost is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kerno_model::Window;
use kerno_store::{Note, Reader, Store};

use crate::incidents::incident;
use crate::made::{Dice, Machine, all, assert_same, copy, files, folder, merged, short};

/// A record, found as docs/store.md says and not by the code under test.
#[derive(Clone, Debug)]
struct Record {
    begin: usize,
    end: usize,
    /// Of windows: the first and last appended window.
    windows: (u64, u64),
    /// Where the window begins that it was compressed with.
    key: usize,
}

fn records(bytes: &[u8]) -> Vec<Record> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut begin = 20 + u32_at(12) as usize;
    let mut records = Vec::new();
    while begin < bytes.len() {
        let first = u64::from_le_bytes(bytes[begin + 16..begin + 24].try_into().unwrap());
        let last = first + u64::from(u32_at(begin + 24)).max(1) - 1;
        let end = begin + 64 + u32_at(begin + 4) as usize;
        records.push(Record { begin, end, windows: (first, last), key: begin - u32_at(begin + 28) as usize });
        begin = end;
    }
    records
}

struct Template {
    dir: tempfile::TempDir,
    windows: Vec<Window>,
    machine: Machine,
    records: BTreeMap<PathBuf, Vec<Record>>,
}

fn template() -> Template {
    let dir = folder();
    // Files of 25 s, 75 s and 250 s: several windows and keys in each, and a longer one.
    let mut settings = short();
    settings.tiers[0].keep *= 4;
    settings.tiers[1].keep *= 8;
    settings.tiers[2].keep *= 8;
    let (mut store, _) = Store::open(dir.path(), settings).unwrap();
    let mut machine = Machine::default();
    let windows: Vec<_> = (0..50).map(|_| machine.watch(10.0)).collect();
    windows.iter().for_each(|window| store.append(window).unwrap());
    (0..8).for_each(|number| store.put_incident(&incident(number)).unwrap());
    store.put_state("outbox", &[1, 2, 3]).unwrap();
    drop(store);
    let named = |path: &Path| path.file_name().unwrap().into();
    let records = files(dir.path())
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "kst"))
        .map(|(path, bytes)| (named(&path), records(&bytes)))
        .collect();
    Template { dir, windows, machine, records }
}

/// Damages bytes; returns which, if any has changed.
fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> Option<std::ops::Range<usize>> {
    let before = bytes.clone();
    let at = dice.below(bytes.len() as u64) as usize;
    let range = match dice.below(4) {
        0 => {
            bytes[at] ^= 1 << dice.below(8);
            at..at + 1
        }
        1 => {
            bytes.truncate(at);
            at..before.len()
        }
        2 => {
            // A page, or what of it is in the file.
            let page = at / 4096 * 4096;
            let end = (page + 4096).min(bytes.len());
            bytes[page..end].fill(0);
            page..end
        }
        _ => {
            let end = (at + 1 + dice.below(300) as usize).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
            at..end
        }
    };
    (*bytes != before).then_some(range)
}

#[test]
fn everything_else_is_read() {
    let template = template();
    let mut dice = Dice(0x5eed);
    let (mut told, mut rounds) = (0, 0);
    while rounds < 200 {
        let dir = folder();
        copy(template.dir.path(), dir.path());
        let names: Vec<_> = template.records.keys().collect();
        // Every other time the file that was written last.
        let windows = |name: &PathBuf| name.to_str().unwrap().starts_with("windows-10s");
        let newest = names.iter().copied().filter(|name| windows(name)).max().unwrap();
        let name = if dice.below(2) == 0 { newest } else { names[dice.below(names.len() as u64) as usize] };
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.len();
        let Some(hit) = damage(&mut bytes, &mut dice) else { continue };
        rounds += 1;
        std::fs::write(&path, &bytes).unwrap();
        let context = format!("round {rounds}, {}: {hit:?} of {whole}", name.display());

        let is_hit = |record: &Record| record.begin < hit.end && record.end > hit.start;
        let records = &template.records[name];
        let lost: Vec<_> = records
            .iter()
            .filter(|record| is_hit(record) || records.iter().any(|key| key.begin == record.key && is_hit(key)))
            .collect();

        // A reader, which changes nothing.
        let before = files(dir.path());
        let reader = Reader::open(dir.path()).unwrap();
        for window in reader.windows(0, u64::MAX).filter_map(Result::ok) {
            check(&window, &template.windows, &context);
        }
        assert!(rounds % 4 > 0 || reader.between(0, u64::MAX).unwrap().is_some(), "{context}");
        reader.incidents().unwrap();
        reader.status().unwrap();
        assert!(files(dir.path()) == before, "{context}: a reader wrote");

        // A writer.
        let (mut store, notes) = Store::open(dir.path(), short()).unwrap();
        let of_path = notes.iter().filter(|note| match note {
            Note::Damaged { path: damaged, .. } | Note::CutOff { path: damaged, .. } => *damaged == path,
            _ => false,
        });
        // A file that ends behind a record is whole.
        let ends_with_record =
            hit.end == whole && bytes.len() == hit.start && records.iter().any(|r| r.begin == hit.start);
        if ends_with_record {
            assert!(notes.is_empty(), "{context}: {notes:?}");
        } else {
            assert_eq!((of_path.count(), notes.len()), (1, 1), "{context}: {notes:?}");
            told += 1;
        }
        let kept = all(&store.reader());
        kept.iter().for_each(|window| check(window, &template.windows, &context));
        let there = numbers(&kept, &template.windows);
        if windows(name) {
            // The finest ones: what is not in their file any more may be in a coarser one.
            for number in 0..template.windows.len() as u64 {
                let is_lost = lost.iter().any(|lost| (lost.windows.0..=lost.windows.1).contains(&(number + 1)));
                assert!(is_lost || there.contains(&number), "{context}: window {number} is not there");
            }
        } else {
            assert_eq!(there.len(), template.windows.len(), "{context}");
        }
        let incidents = store.reader().incidents().unwrap();
        let expected = if name.to_str().unwrap().starts_with("incidents") { 8 - lost.len() } else { 8 };
        assert_eq!(incidents.len(), expected, "{context}");

        // And it goes on.
        let mut machine = template.machine.clone();
        let more: Vec<_> = (0..3).map(|_| machine.watch(10.0)).collect();
        more.iter().for_each(|window| store.append(window).unwrap());
        // Where the window before is lost, a coarser one may have them.
        let is_there = |store: &Store| numbers(&all(&store.reader()), &more).len() == more.len();
        assert!(is_there(&store), "{context}");
        store.put_incident(&incident(100)).unwrap();
        store.put_state("outbox", &[7]).unwrap();
        drop(store);
        let (store, notes) = Store::open(dir.path(), short()).unwrap();
        assert!(notes.is_empty(), "{context}: {notes:?}");
        assert!(is_there(&store), "{context}");
        assert_eq!(store.reader().incidents().unwrap().len(), expected + 1, "{context}");
    }
    assert!(told > 150, "{told}");
}

#[test]
fn much_damage_is_survived() {
    let template = template();
    let mut dice = Dice(0xdead);
    for round in 0..40 {
        let dir = folder();
        copy(template.dir.path(), dir.path());
        for (path, mut bytes) in files(dir.path()) {
            for _ in 0..=dice.below(6) {
                if !bytes.is_empty() {
                    damage(&mut bytes, &mut dice);
                }
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let reader = Reader::open(dir.path()).unwrap();
        let context = format!("round {round}");
        reader.windows(0, u64::MAX).filter_map(Result::ok).for_each(|w| check(&w, &template.windows, &context));
        let (mut store, _) = Store::open(dir.path(), short()).unwrap();
        all(&store.reader()).iter().for_each(|window| check(window, &template.windows, &context));
        let mut machine = template.machine.clone();
        (0..20).for_each(|_| store.append(&machine.watch(10.0)).unwrap());
        drop(store);
        let (_, notes) = Store::open(dir.path(), short()).unwrap();
        assert!(notes.is_empty(), "{context}: {notes:?}");
    }
}

/// A window is one that was appended, or several of them merged.
fn check(window: &Window, windows: &[Window], context: &str) {
    let numbers = numbers(std::slice::from_ref(window), windows);
    let of: Vec<_> = numbers.iter().map(|number| windows[*number as usize].clone()).collect();
    assert!(!of.is_empty(), "{context}: {:?}", window.span);
    assert_same(window, &merged(&of), context);
}

/// Which of the appended windows are in these.
fn numbers(kept: &[Window], windows: &[Window]) -> Vec<u64> {
    let is_in = |appended: &Window| {
        let at = appended.span.started_ns + 5_000_000_000;
        kept.iter().any(|window| {
            let watched_until = window.span.end().monotonic_ns;
            let gaps = window.merged.iter().flat_map(|merged| &merged.gaps);
            let mut gaps = gaps.map(|gap| {
                window.span.moment(gap.at).monotonic_ns..window.span.moment(gap.at + gap.seconds).monotonic_ns
            });
            (window.span.started_ns..watched_until).contains(&at) && !gaps.any(|gap| gap.contains(&at))
        })
    };
    (0..windows.len() as u64).filter(|number| is_in(&windows[*number as usize])).collect()
}
