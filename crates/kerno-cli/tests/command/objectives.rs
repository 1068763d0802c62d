//! Objectives, as a user sets them, against a load that breaks one.

use std::process::{Child, Command};

use serde_json::Value;

use crate::daemon::{Daemon, config, directory, until};
use crate::support::{alone, kerno, run, text};

/// Four that want one CPU all the time: each waits for the others.
struct Crowd(Vec<Child>);

impl Crowd {
    fn start() -> Self {
        let one = |_| Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..4).map(one).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One that the crowd breaks, one that always holds, and one that nothing can be said about.
fn objectives(fast: f64) -> String {
    format!(
        "[[objective]]\nname = 'run-queue'\nmetric = 'kerno_cpu_wait_duration_seconds'\nlabels = {{ after = 'preemption' }}\n\
         measure = 'max'\nbelow = '1ms'\nshare = '99.99 %'\n\n\
         [[objective]]\nname = 'room'\nmetric = 'kerno_memory_available_bytes'\nabove = '1MiB'\nshare = '99.9 %'\nover = '7d'\n\n\
         [[objective]]\nname = 'nobody'\nmetric = 'kerno_unit_sync_max_seconds'\nlabels = {{ unit = 'no-such.service' }}\n\
         below = '20ms'\nshare = '99 %'\n\n[rules.objective_burn]\nfast = {fast}\nslow = {fast}\n"
    )
}

fn objective(daemon: &Daemon, name: &str) -> Value {
    let status = daemon.json("/api/v1/status");
    status["objectives"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
}

fn metric(daemon: &Daemon, series: &str) -> f64 {
    let (_, metrics) = daemon.get("/metrics", "");
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {series}: {metrics}")).parse().unwrap()
}

#[test]
fn an_objective_that_a_load_breaks_is_an_incident_that_outlives_a_restart_and_ends() {
    let _alone = alone();
    let directory = directory();
    let file = config(&directory, &objectives(14.4));
    let daemon = Daemon::start(&directory, &["--config", &file]);
    let crowd = Crowd::start();
    let is_it = |incident: &&Value| incident["rule"] == "objective_burn";
    let opened = until("no incident", || daemon.incidents().iter().find(is_it).cloned());
    let title = opened["finding"]["title"].as_str().unwrap();
    assert!(title.starts_with("objective run-queue is missed too often: error budget used "), "{title}");
    assert_eq!(opened["severity"], "critical");
    let cause = opened["finding"]["cause"].as_str().unwrap();
    let condition = "kerno_cpu_wait_duration_seconds (after=\"preemption\"): max below 1 ms";
    assert!(cause.contains("99.99 % of 30 d") && cause.contains(condition), "{cause}");
    let id = opened["id"].as_str().unwrap().to_owned();
    let shown = run(&mut daemon.asked(&["incidents", "show", &id[..20]]));
    assert!(text(&shown.stdout).contains("the error budget of run-queue is used up"), "{}", text(&shown.stdout));
    let report = daemon.json("/api/v1/report");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["id"] == "objective_burn"), "{findings:?}");

    let broken = objective(&daemon, "run-queue");
    assert_eq!((&broken["alert"], &broken["condition"]), (&"fast".into(), &condition.into()));
    // 14.4 times 0.01 % of an hour is 5.2 s; 30 days have 259.2.
    let bad = broken["bad_seconds"].as_f64().unwrap();
    let left = broken["budget_remaining"].as_f64().unwrap();
    assert!(bad > 5.0 && (left - (1.0 - bad / 259.2)).abs() < 1e-6, "{broken}");
    let (room, nobody) = (objective(&daemon, "room"), objective(&daemon, "nobody"));
    assert!(
        room["good_seconds"].as_f64() > Some(4.0) && room["bad_seconds"] == 0.0 && room["latest"] == "good",
        "{room}"
    );
    assert!(nobody["no_data_seconds"].as_f64() > Some(4.0) && nobody["good_seconds"] == 0.0, "{nobody}");
    assert_eq!((&room["budget_remaining"], &nobody["latest"]), (&1.0.into(), &"no_data".into()));
    assert!(metric(&daemon, "kerno_objective_budget_remaining_ratio{objective=\"run-queue\"}") <= left);
    assert!(metric(&daemon, "kerno_objective_burn_rate{objective=\"run-queue\",window=\"1h\"}") >= 14.4);
    assert!(metric(&daemon, "kerno_objective_windows_total{objective=\"run-queue\",verdict=\"bad\"}") >= 5.0);
    assert!(metric(&daemon, "kerno_objective_windows_total{objective=\"nobody\",verdict=\"no_data\"}") >= 5.0);
    let subject = format!("kerno_incident_info{{incident=\"{id}\",rule=\"objective_burn\",subject=\"run-queue\"");
    assert!(daemon.get("/metrics", "").1.contains(&subject));
    drop(crowd);
    let before = objective(&daemon, "run-queue");
    daemon.stop();

    let daemon = Daemon::start(&directory, &["--config", &file]);
    until("no window after the restart", || (daemon.json("/api/v1/status")["windows"].as_u64()? >= 2).then_some(()));
    let after = objective(&daemon, "run-queue");
    assert!(after["bad_seconds"].as_f64() >= before["bad_seconds"].as_f64(), "{before} {after}");
    assert!(after["known_seconds"].as_f64() > before["known_seconds"].as_f64(), "{before} {after}");
    let again: Vec<_> =
        daemon.incidents().into_iter().filter(|incident| incident["rule"] == "objective_burn").collect();
    assert!(again.len() == 1 && again[0]["id"] == id && again[0]["state"] == "open", "{again:?}");

    // An hour would have to pass. With thresholds that are so much higher it is over now, and nothing is forgotten.
    config(&directory, &objectives(5000.0));
    daemon.hang_up();
    let is_closed = |incident: &&Value| incident["id"] == id.as_str() && incident["state"] == "closed";
    until("it does not end", || daemon.incidents().iter().find(is_closed).cloned());
    let later = objective(&daemon, "run-queue");
    assert!(later["alert"].is_null() && later["bad_seconds"].as_f64() >= after["bad_seconds"].as_f64(), "{later}");

    // Another bound is another objective; one that is gone has no series.
    let changed = objectives(14.4).replace("1ms", "1h");
    config(&directory, changed.split("[[objective]]\nname = 'nobody'").next().unwrap());
    daemon.hang_up();
    until("the settings are not taken", || {
        let status = daemon.json("/api/v1/status");
        (status["objectives"].as_array()?.len() == 2).then_some(())
    });
    let fresh = objective(&daemon, "run-queue");
    assert!(fresh["bad_seconds"] == 0.0 && fresh["good_seconds"].as_f64() < Some(30.0), "{fresh}");
    let (_, metrics) = daemon.get("/metrics", "");
    assert!(!metrics.contains("objective=\"nobody\"") && metrics.contains("objective=\"room\""), "{metrics}");
    daemon.stop();
}

#[test]
fn mistakes_in_objectives_are_told_before_it_starts() {
    let directory = directory();
    let checked = |text: &str| {
        let file = config(&directory, text);
        run(&mut kerno(&["start", "--check-config", "--config", &file]))
    };
    assert!(checked(&objectives(14.4)).status.success());
    let wrong = checked(&objectives(14.4).replace("kerno_memory_available_bytes", "kerno_memory_avialable_bytes"));
    assert_eq!(wrong.status.code(), Some(2));
    let said = text(&wrong.stderr);
    let expected = "config.toml:11:10: unknown metric \"kerno_memory_avialable_bytes\"; did you mean \"kerno_memory_available_bytes\"?";
    assert!(said.contains(expected), "{said}");
}
