//! Incidents and states.

use std::time::Duration;

use kerno_model::{Change, ChangeKind, Finding, Incident, IncidentRecord, IncidentState, Moment, RuleId, Severity};
use kerno_store::{Reader, Store, StoreErrorKind};

use crate::made::{BEGIN, Machine, SECOND, folder, short};

pub fn incident(number: u64) -> IncidentRecord {
    let unix_ns = (BEGIN as u64 + number * 60) * SECOND;
    let finding = Finding::new(RuleId::new("fd_leak"), Severity::Warning);
    let mut record = IncidentRecord::new(Incident::new(Moment { monotonic_ns: number * SECOND, unix_ns }, finding));
    record.changes.push(Change::new(record.incident.opened, ChangeKind::UnitStarted, format!("unit-{number}.service")));
    record
}

fn close(record: &mut IncidentRecord, after_seconds: u64) {
    let opened = record.incident.opened;
    record.incident.state = IncidentState::Closed;
    record.incident.closed = Some(Moment { unix_ns: opened.unix_ns + after_seconds * SECOND, ..opened });
}

#[test]
fn the_latest_of_each_is_kept() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut records: Vec<_> = (0..20).map(incident).collect();
    records.iter().rev().for_each(|record| store.put_incident(record).unwrap());
    let reader = store.reader();
    assert_eq!(reader.incidents().unwrap(), records);
    for at in [3, 7] {
        close(&mut records[at], 100);
        store.put_incident(&records[at]).unwrap();
    }
    assert_eq!(reader.incidents().unwrap(), records);
    drop(store);
    let (store, notes) = Store::open(dir.path(), short()).unwrap();
    assert!(notes.is_empty());
    assert_eq!((store.status().incidents, store.reader().status().unwrap().incidents), (20, 20));
    assert_eq!(store.reader().incidents().unwrap(), records);
}

#[test]
fn an_incident_that_changes_all_the_time_stays_small() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut record = incident(1);
    let others: Vec<_> = (2..5).map(incident).collect();
    others.iter().for_each(|record| store.put_incident(record).unwrap());
    // Something that cannot be compressed.
    let mut noise = crate::made::Dice(9);
    let text =
        |noise: &mut crate::made::Dice| (0..400).map(|_| format!("{:x}", noise.below(u64::MAX))).collect::<String>();
    for round in 0..150 {
        record.changes[0].what = text(&mut noise);
        record.incident.reopened = round;
        store.put_incident(&record).unwrap();
        assert!(store.status().incident_bytes < 320 << 10, "{}", store.status().incident_bytes);
        let found = store.reader().incidents().unwrap();
        assert_eq!((found.len(), &found[0]), (4, &record));
    }
    assert_eq!(store.reader().incidents().unwrap()[1..], others);
}

#[test]
fn incidents_are_kept_for_their_time() {
    let dir = folder();
    let mut settings = short();
    settings.keep_incidents = Duration::from_secs(3600);
    let (mut store, _) = Store::open(dir.path(), settings.clone()).unwrap();
    let (mut old, open, mut new) = (incident(0), incident(1), incident(200));
    close(&mut old, 10);
    close(&mut new, 10);
    let mut machine = Machine::default();
    // A clock that is far ahead for a while is no reason to forget.
    machine.wall += 1e8;
    store.append(&machine.watch(10.0)).unwrap();
    machine.wall -= 1e8;
    [&old, &open, &new].into_iter().for_each(|record| store.put_incident(record).unwrap());
    assert_eq!(store.status().incidents, 3);
    for _ in 0..730 {
        store.append(&machine.watch(20.0)).unwrap();
    }
    store.put_incident(&new).unwrap();
    assert_eq!(store.status().incidents, 2);
}

#[test]
fn states_are_replaced() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    assert_eq!(store.state::<Vec<u32>>("outbox").unwrap(), None);
    store.put_state("outbox", &vec![1, 2, 3]).unwrap();
    store.put_state("outbox", &vec![4]).unwrap();
    store.put_state("open-incidents_2", &"x").unwrap();
    assert_eq!(store.state::<Vec<u32>>("outbox").unwrap(), Some(vec![4]));
    assert_eq!(Reader::open(dir.path()).unwrap().state::<String>("open-incidents_2").unwrap().unwrap(), "x");
    assert_eq!(store.state::<String>("outbox").unwrap_err().kind(), StoreErrorKind::Usage);
    for name in ["", "a/b", "..", "A", &"a".repeat(65)] {
        assert_eq!(store.put_state(name, &1).unwrap_err().kind(), StoreErrorKind::Usage, "{name}");
    }
    drop(store);
    // A damaged one is set aside, told of, and gone.
    let path = dir.path().join("state-outbox.kst");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(
        Reader::open(dir.path()).unwrap().state::<Vec<u32>>("outbox").unwrap_err().kind(),
        StoreErrorKind::Damaged
    );
    let (store, notes) = Store::open(dir.path(), short()).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(store.state::<Vec<u32>>("outbox").unwrap(), None);
    assert_eq!(store.state::<String>("open-incidents_2").unwrap().unwrap(), "x");
}
