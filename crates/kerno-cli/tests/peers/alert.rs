//! Alerts of a real `kerno start`, to real receivers.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::component::{Running, component, get};
use crate::daemon::{Daemon, Leak, config, directory, free_port, until};
use crate::support::{alone, kerno, run, text};
use crate::webhook::receiver;

#[test]
fn alertmanager_shows_the_alert_and_that_it_is_over() {
    let _alone = alone();
    let unpacked = component("prometheus-alertmanager/usr/bin/prometheus-alertmanager");
    let templates = component("prometheus-alertmanager/usr/share/prometheus");
    let directory = directory();
    let (port, hook) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let bodies = receiver(hook);
    let settings = directory.path().join("am.yml");
    let route = "route: {receiver: hook, group_by: ['...'], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}";
    let receivers =
        format!("receivers: [{{name: hook, webhook_configs: [{{url: 'http://{hook}/', send_resolved: true}}]}}]");
    std::fs::write(&settings, format!("{route}\n{receivers}\n")).unwrap();
    // It opens its template at a fixed path, whatever is configured. Nobody else sees this mount.
    let place = Path::new("/usr/share/prometheus");
    let made = !place.exists() && std::fs::create_dir_all(place).is_ok();
    let script = "mount --bind \"$1\" /usr/share/prometheus; exec \"$2\" --config.file=\"$3\" --storage.path=\"$4\" \
                  --web.listen-address=127.0.0.1:$5 --cluster.listen-address=";
    let manager = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([&templates, &unpacked, &settings, &directory.path().join("am")])
        .arg(port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _manager = Running(manager);
    until("Alertmanager does not start", || get(port, "/-/ready"));
    if made {
        // The mount is in another namespace, so this is the empty directory.
        let _ = std::fs::remove_dir(place);
    }
    let config = config(
        &directory,
        &format!(
            "[[sink]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:{port}\"\ngroup_wait = \"0s\"\nresend = \"2s\"\n"
        ),
    );
    let sent = run(kerno(&["alert", "test", "am", "--config", &config]).env_remove("KERNO_CONFIG"));
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let daemon = Daemon::start(&directory, &["--config", &config]);
    let leak = Leak::start();
    let pid = leak.pid();
    let ours = |alert: &Value| {
        let about = alert["annotations"]["summary"].as_str().unwrap_or_default();
        alert["labels"]["rule"] == "fd_leak" && about.contains(&pid.to_string())
    };
    let shown = || -> Option<Value> {
        let alerts: Value = serde_json::from_str(&get(port, "/api/v2/alerts")?).unwrap();
        alerts.as_array().unwrap().iter().find(|alert| ours(alert)).cloned()
    };
    let alert = until("Alertmanager does not show it", shown);
    assert_eq!((&alert["labels"]["alertname"], &alert["status"]["state"]), (&"KernoIncident".into(), &"active".into()));
    for annotation in ["summary", "description", "evidence", "commands"] {
        assert!(!alert["annotations"][annotation].as_str().unwrap().is_empty(), "{alert}");
    }
    // It would be over by now if it were not sent again.
    std::thread::sleep(Duration::from_secs(12));
    let later = shown().expect("it is sent again while it goes on");
    assert!(later["endsAt"].as_str() > alert["endsAt"].as_str() && later["startsAt"] == alert["startsAt"], "{later}");
    drop(leak);
    until("Alertmanager still shows it", || shown().is_none().then_some(()));
    let told = |status: &str| {
        let bodies = bodies.lock().unwrap();
        let alerts: Vec<_> = bodies.iter().flat_map(|body| body["alerts"].as_array().unwrap().clone()).collect();
        alerts.iter().filter(|alert| ours(alert) && alert["status"] == status).count()
    };
    until("Alertmanager does not tell that it is over", || (told("resolved") == 1).then_some(()));
    assert_eq!(told("firing"), 1, "sent again, it is the same");
    daemon.stop();
}

#[test]
fn a_real_syslog_daemon_understands_the_lines() {
    let program = component("rsyslog/usr/sbin/rsyslogd");
    let modules = component("rsyslog/usr/lib/x86_64-linux-gnu/rsyslog");
    let libraries = ["libestr0", "libfastjson4"].map(|name| component(&format!("{name}/usr/lib/x86_64-linux-gnu")));
    let directory = directory();
    let (udp, tcp) = (free_port(), free_port());
    let (socket, out) = (directory.path().join("log"), directory.path().join("out"));
    let settings = directory.path().join("rsyslog.conf");
    let template = "%pri-text%|%hostname%|%app-name%|%msgid%|%structured-data%|%msg%\\n";
    let text_of = format!(
        "global(workDirectory=\"{dir}\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\nmodule(load=\"imudp\")\nmodule(load=\"imtcp\")\n\
         input(type=\"imuxsock\" Socket=\"{socket}\" UseSpecialParser=\"off\" ParseHostname=\"on\")\n\
         input(type=\"imudp\" address=\"127.0.0.1\" port=\"{udp}\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tcp}\")\n\
         template(name=\"t\" type=\"string\" string=\"{template}\")\naction(type=\"omfile\" file=\"{out}\" template=\"t\")\n",
        dir = directory.path().display(),
        socket = socket.display(),
        out = out.display(),
    );
    std::fs::write(&settings, text_of).unwrap();
    let joined = libraries.map(|path| path.display().to_string()).join(":");
    let daemon = Command::new(program)
        .args(["-n", "-i", "NONE", "-f"])
        .arg(&settings)
        .arg("-M")
        .arg(&modules)
        .env("LD_LIBRARY_PATH", joined)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _daemon = Running(daemon);
    until("rsyslog does not listen", || {
        (socket.exists() && TcpStream::connect(("127.0.0.1", tcp)).is_ok()).then_some(())
    });
    let addresses = [socket.display().to_string(), format!("udp://127.0.0.1:{udp}"), format!("tcp://127.0.0.1:{tcp}")];
    for (number, address) in addresses.iter().enumerate() {
        let config = config(
            &directory,
            &format!("[[sink]]\nname = \"log\"\nkind = \"syslog\"\naddress = \"{address}\"\nfacility = \"local3\"\n"),
        );
        let sent = run(kerno(&["alert", "test", "log", "--config", &config]).env_remove("KERNO_CONFIG"));
        assert!(sent.status.success(), "{}", text(&sent.stderr));
        let lines = until("the line does not arrive", || {
            let lines = std::fs::read_to_string(&out).unwrap_or_default();
            Some(lines).filter(|lines| lines.lines().filter(|line| line.contains("TEST INFO")).count() > number)
        });
        let line = lines.lines().rfind(|line| line.contains("TEST INFO")).unwrap();
        let parts: Vec<_> = line.splitn(6, '|').collect();
        assert_eq!((parts[0], parts[2], parts[3]), ("local3.info", "kerno", "opened"), "{line}");
        assert!(parts[4].starts_with("[kerno@32473 incident=\"test-"), "{line}");
        assert!(!parts[1].is_empty() && parts[5].contains("nothing is wrong"), "{line}");
    }
}

#[test]
fn a_real_journal_has_the_fields() {
    let program = component("systemd/lib/systemd/systemd-journald");
    let reader = component("systemd/bin/journalctl");
    let libraries = component("libsystemd-shared/usr/lib/x86_64-linux-gnu/systemd");
    let directory = directory();
    let config = config(&directory, "[[sink]]\nname = \"journal\"\nkind = \"journald\"\n");
    // A /run of its own, so that the journal of this machine is left alone.
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal || exit 1\n\
                  \"$1\" >/dev/null 2>&1 & journal=$!\n\
                  for i in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done\n\
                  \"$3\" alert test journal --config \"$4\" >&2 || exit 2\n\
                  for i in $(seq 100); do\n\
                  found=$(\"$2\" -q -D /run/log/journal/* KERNO_RULE=test -o json); [ -n \"$found\" ] && break; sleep 0.05\n\
                  done\n\
                  kill $journal; wait $journal 2>/dev/null; printf %s \"$found\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).args([&program, &reader]);
    command.arg(env!("CARGO_BIN_EXE_kerno")).arg(&config).env("LD_LIBRARY_PATH", libraries).env_remove("KERNO_CONFIG");
    let output = run(&mut command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let entry: Value = serde_json::from_str(text(&output.stdout).trim()).unwrap();
    assert_eq!((&entry["SYSLOG_IDENTIFIER"], &entry["PRIORITY"]), (&"kerno".into(), &"6".into()));
    assert_eq!((&entry["KERNO_EVENT"], &entry["KERNO_TEST"]), (&"opened".into(), &"1".into()));
    let message = entry["MESSAGE"].as_str().unwrap();
    assert!(message.starts_with("TEST INFO on ") && message.contains("\n  $ kerno alert list"), "{message}");
}
