//! The resolver of the C library and a real server, whose log is the truth.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kerno_bpf::{DnsEvent, DnsOutcome, DnsQueryLoader};

use crate::support::{Run, compare, options, slowness};
use crate::tcp_monitor::net::{child_in_namespace, enter};

/// Look-ups of the C library by `getent`, in a namespace where `resolv.conf` names dnsmasq.
#[test]
fn what_the_c_library_asks_is_what_the_server_logs() {
    // The file systems of virtual machines have no programs. Everywhere else it is an error.
    if slowness() > 1 && !std::path::Path::new("/usr/sbin/dnsmasq").exists() {
        println!("there is no dnsmasq in here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let path = log.clone();
    let conf = folder.path().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\nsearch one.test two.test\noptions ndots:2\n").unwrap();
    let mut child = child_in_namespace(move |_| {
        crate::file_audit::mounts::private_namespace();
        let target = std::fs::canonicalize("/etc/resolv.conf").unwrap();
        rustix::mount::mount_bind(&conf, &target).unwrap();
        let mut server = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
                "--pid-file=",
            ])
            .args(["--log-queries", "--listen-address=127.0.0.1", "--bind-interfaces", "--cache-size=0"])
            .args(["--local=/test/", "--address=/there.test/192.0.2.7"])
            .arg(format!("--log-facility={}", log.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::UdpSocket::bind("127.0.0.1:53").is_ok() {
            assert!(Instant::now() < deadline, "dnsmasq does not serve");
            std::thread::sleep(Duration::from_millis(10));
        }
        for name in ["www.there.test", "a.b.there.test", "missing.test", "short"] {
            for database in ["ahosts", "ahostsv4", "hosts"] {
                Command::new("getent").args([database, name]).stdout(Stdio::null()).status().unwrap();
            }
        }
        server.kill().unwrap();
        server.wait().unwrap();
    });
    let namespace = enter(&mut child);
    let run = Run::start(DnsQueryLoader::new(options(kerno_bpf::Filter {
        comms: vec!["getent".to_owned()],
        ..kerno_bpf::Filter::default()
    })));
    child.run();
    let raw = run.finish();
    let events: Vec<DnsEvent> = raw.iter().map(|raw| *raw.as_raw().decode_as().unwrap()).collect();
    let events = events.iter().filter(|event| u64::from(event.netns) == namespace.inode());
    let mut ours: Vec<String> = events
        .map(|event| {
            assert_eq!(event.outcome, DnsOutcome::Answered, "{event}");
            format!("query[{}] {}", kerno_model::dns::type_name(event.qtype), event.name)
        })
        .collect();
    let text = std::fs::read_to_string(path).unwrap();
    let mut logged: Vec<String> = text
        .lines()
        .filter_map(|line| Some(line.get(line.find("query[")?..)?.split(" from ").next()?.to_owned()))
        .collect();
    compare("dns_query", "queries of getent", ours.len(), logged.len(), "dnsmasq's log");
    ours.sort_unstable();
    logged.sort_unstable();
    assert!(ours.len() > 30, "{ours:#?}");
    assert_eq!(ours, logged);
}
