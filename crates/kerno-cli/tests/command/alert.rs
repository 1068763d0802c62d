//! Alerts of a real `kerno start`.

use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::Value;

use crate::daemon::{Daemon, Leak, config, directory, free_port, until};
use crate::support::{alone, kerno, run, text};
use crate::webhook::receiver;

/// What a webhook was told of the leak of this process.
fn events(bodies: &Mutex<Vec<Value>>, pid: u32) -> Vec<(String, Value)> {
    let bodies = bodies.lock().unwrap();
    let all = bodies.iter().flat_map(|body| body["events"].as_array().unwrap().iter());
    let ours = all.filter(|event| {
        event["incident"]["rule"] == "fd_leak" && event["incident"]["culprit"]["pid"] == u64::from(pid)
    });
    ours.map(|event| (event["event"].as_str().unwrap().to_owned(), event["incident"].clone())).collect()
}

#[test]
fn an_alert_waits_for_its_receiver_over_a_restart_and_arrives_once() {
    let _alone = alone();
    let directory = directory();
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let config = config(
        &directory,
        &format!("[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://{address}/in\"\ngroup_wait = \"0s\"\n"),
    );
    let sinks = |daemon: &Daemon| daemon.json("/api/v1/status")["sinks"][0].clone();
    let daemon = Daemon::start(&directory, &["--config", &config]);
    let leak = Leak::start();
    let pid = leak.pid();
    until("no alert waits", || Some(sinks(&daemon)).filter(|sink| sink["waiting"].as_u64() > Some(0)));
    until("nothing says why", || Some(sinks(&daemon)).filter(|sink| sink["failing"].is_string()));
    let listed = run(daemon.asked(&["alert", "list", "--output", "json"]).args(["--config", &config]));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(listed[0]["status"]["failing"].as_str().unwrap().contains("refused"), "{listed}");
    until("the leak is no incident", || {
        daemon.incidents().into_iter().find(|one| one["finding"]["culprit"]["pid"] == u64::from(pid))
    });
    daemon.stop();
    let test = || run(kerno(&["alert", "test", "hook", "--config", &config]).env_remove("KERNO_CONFIG"));
    let failed = test();
    assert_eq!(failed.status.code(), Some(2));
    assert!(text(&failed.stderr).contains("Connection refused"), "{}", text(&failed.stderr));

    let bodies = receiver(address);
    let daemon = Daemon::start(&directory, &["--config", &config]);
    let (event, incident) = until("the alert does not arrive", || events(&bodies, pid).pop());
    assert_eq!(event, "opened");
    for field in ["title", "cause", "evidence", "commands", "since"] {
        assert!(!incident[field].as_str().is_some_and(str::is_empty), "{field}: {incident}");
    }
    assert!(
        incident["commands"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["command"].as_str().unwrap().contains(&pid.to_string()))
    );
    drop(leak);
    until("its end does not arrive", || events(&bodies, pid).into_iter().find(|(event, _)| event == "resolved"));
    let metrics = daemon.get("/metrics", "").1;
    assert!(metrics.contains("kerno_alert_delivered_total ") && metrics.contains("kerno_alert_waiting "), "{metrics}");
    daemon.stop();
    let all: Vec<_> = events(&bodies, pid).into_iter().map(|(event, _)| event).collect();
    assert_eq!(all, ["opened", "resolved"]);
    let sent = test();
    assert!(sent.status.success() && text(&sent.stdout).contains("204 No Content"), "{}", text(&sent.stderr));
    let last = bodies.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last["events"][0]["incident"]["test"], true);
}
