//! Several processes: writers that are killed, readers beside a writer.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kerno_store::{Reader, Store, StoreErrorKind};

use crate::incidents::incident;
use crate::made::{Dice, Machine, all, check_kept, files, folder, short};

/// What this test program does as a child, and where.
const TASK: &str = "KERNO_STORE_TEST_TASK";
const DIR: &str = "KERNO_STORE_TEST_DIR";

fn child(task: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::as_a_child", "--nocapture", "--quiet"])
        .env(TASK, task)
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test of its own: what children do.
#[test]
fn as_a_child() {
    let (Ok(task), Ok(dir)) = (std::env::var(TASK), std::env::var(DIR)) else { return };
    match task.as_str() {
        "append" => append(dir.as_ref()),
        "read" => read(dir.as_ref()),
        other => panic!("{other}"),
    }
}

/// Appends until it is killed, and says what it has done.
fn append(dir: &Path) {
    let (mut store, notes) = Store::open(dir, short()).unwrap();
    // What is left of a kill is never called damage.
    assert!(notes.iter().all(|note| note.to_string().contains("cut off")), "{notes:?}");
    let last = store.state::<u64>("last").unwrap().unwrap_or(0);
    let windows = all(&store.reader());
    let mut machine = Machine::default();
    let seen = windows.last().map_or(0, |window| window.cost.cpu_seconds as u64).max(last);
    // Up to where the one before came.
    let seen = seen.max(
        windows
            .last()
            .map_or(0, |window| ((window.span.end().monotonic_ns as f64 / 1e9 - 1000.0) / 10.0).round() as u64),
    );
    (0..seen).for_each(|_| drop(machine.watch(10.0)));
    let mut out = std::io::stdout();
    writeln!(out, "ready {seen}").unwrap();
    for number in seen + 1.. {
        store.append(&machine.watch(10.0)).unwrap();
        writeln!(out, "window {number}").unwrap();
        if number % 3 == 0 {
            store.put_incident(&incident(number / 3)).unwrap();
            writeln!(out, "incident {}", number / 3).unwrap();
        }
        if number % 5 == 0 {
            store.put_state("last", &number).unwrap();
            writeln!(out, "state {number}").unwrap();
        }
    }
}

#[test]
fn a_writer_that_is_killed_loses_nothing_it_had_appended() {
    let mut dice = Dice(77);
    let mut kills = 0;
    for _ in 0..12 {
        let dir = folder();
        let (mut appended, mut windows, mut machine) = (0, Vec::new(), Machine::default());
        let mut incidents = BTreeSet::new();
        for _ in 0..17 {
            let mut writer = child("append", dir.path());
            let mut lines = BufReader::new(writer.stdout.take().unwrap());
            let mut line = String::new();
            while !line.starts_with("ready") {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0, "the writer did not start");
            }
            std::thread::sleep(Duration::from_micros(dice.below(15_000)));
            writer.kill().unwrap();
            writer.wait().unwrap();
            kills += 1;
            let mut state = 0;
            for line in lines.lines() {
                let line = line.unwrap();
                let Some((what, number)) = line.split_once(' ') else { continue };
                // The last line may be incomplete.
                let Ok(number) = number.parse::<u64>() else { continue };
                match what {
                    "window" => appended = appended.max(number),
                    "incident" => drop(incidents.insert(incident(number).incident.id)),
                    "state" => state = number,
                    _ => {}
                }
            }
            // Beside the dead writer's files, without opening them for writing.
            let reader = Reader::open(dir.path()).unwrap();
            let kept = all(&reader);
            let last = kept
                .last()
                .map_or(0, |window| ((window.span.end().monotonic_ns as f64 / 1e9 - 1000.0) / 10.0).round() as u64);
            assert!((appended..=appended + 1).contains(&last), "{appended} were appended, and {last} are there");
            while (windows.len() as u64) < last {
                windows.push(machine.watch(10.0));
            }
            check_kept(&kept, &windows);
            assert!(reader.state::<u64>("last").unwrap().unwrap_or(0) >= state);
            let there: BTreeSet<_> = reader.incidents().unwrap().into_iter().map(|record| record.incident.id).collect();
            assert!(there.is_superset(&incidents), "{incidents:?} were kept, and {there:?} are there");
            appended = last;
        }
    }
    assert!(kills > 200, "{kills}");
}

/// Reads until it is told to stop.
fn read(dir: &Path) {
    let (stop, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = stop.send(());
    });
    let reader = Reader::open(dir).unwrap();
    let (mut rounds, mut most, mut last_end) = (0u64, 0, 0);
    println!("ready");
    let mut last_round = false;
    loop {
        let windows = all(&reader);
        for pair in windows.windows(2) {
            // Nothing is missing, and nothing is there twice, while files come and go.
            let gap = pair[1].span.started_ns.abs_diff(pair[0].span.end().monotonic_ns);
            assert!(gap < 1_000_000, "{:?} {:?}", pair[0].span, pair[1].span);
        }
        let end = windows.last().map_or(0, |window| window.span.end().monotonic_ns);
        assert!(end >= last_end, "it was there before");
        last_end = end;
        most = most.max(windows.len());
        let found = reader.between(0, u64::MAX).unwrap();
        assert!(found.is_none_or(|found| found.damaged == 0 && found.left_out == 0));
        assert_eq!(reader.status().unwrap().damaged, []);
        rounds += 1;
        if last_round {
            break;
        }
        last_round = stopped.try_recv().is_ok();
    }
    println!("read {rounds} {most} {last_end}");
}

#[test]
fn readers_work_beside_a_writer() {
    let dir = folder();
    // Files of ten windows, one of which is removed every 50 ms. It is an hour with the defaults.
    let mut settings = short();
    settings.tiers.iter_mut().for_each(|tier| tier.keep *= 4);
    let (mut store, _) = Store::open(dir.path(), settings).unwrap();
    let mut readers: Vec<_> = (0..2).map(|_| child("read", dir.path())).collect();
    let mut outputs: Vec<_> =
        readers.iter_mut().map(|reader| BufReader::new(reader.stdout.take().unwrap()).lines()).collect();
    let line = |lines: &mut std::io::Lines<BufReader<_>>, begins: &str| loop {
        let line: String = lines.next().unwrap().unwrap();
        if line.starts_with(begins) {
            return line;
        }
    };
    outputs.iter_mut().for_each(|lines| drop(line(lines, "ready")));
    let mut machine = Machine::default();
    for number in 0..600 {
        store.append(&machine.watch(10.0)).unwrap();
        std::thread::sleep(Duration::from_millis(4));
        if number % 10 == 0 {
            store.put_incident(&incident(number % 30)).unwrap();
        }
    }
    let end = machine.watch(0.0).span.started_ns;
    for (reader, lines) in readers.iter_mut().zip(&mut outputs) {
        writeln!(reader.stdin.take().unwrap(), "stop").unwrap();
        let line = line(lines, "read");
        let numbers: Vec<u64> = line.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
        assert!(numbers[0] >= 3 && numbers[1] > 60, "{line}");
        assert!(numbers[2].abs_diff(end) < 1_000_000, "{line}, not {end}");
        assert!(reader.wait().unwrap().success());
    }
}

#[test]
fn the_other_process_is_named() {
    let dir = folder();
    let mut writer = child("append", dir.path());
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().starts_with("window") {}
    let before: Vec<_> = files(dir.path()).into_iter().map(|(path, _)| path).collect();
    let error = Store::open(dir.path(), short()).unwrap_err();
    let expected = format!("{} is in use by process {}", dir.path().display(), writer.id());
    assert_eq!((error.to_string(), error.kind()), (expected, StoreErrorKind::InUse));
    assert!(!before.is_empty());
    writer.kill().unwrap();
    writer.wait().unwrap();
    Store::open(dir.path(), short()).unwrap();
}
