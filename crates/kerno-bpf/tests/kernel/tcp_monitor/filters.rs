//! Each filter, applied in the kernel: what it refuses is never emitted.

use std::net::TcpListener;

use kerno_bpf::TcpEventType;
use kerno_bpf::{Filter, TcpEvent, TcpMonitorLoader};

use super::closed_port;
use super::net::{child_in_namespace, connected, enter, events_of, expect_end, of_type, reset_on_close, settle};
use crate::cgroups::{Cgroup, v2_mount};
use crate::support::{Child, Link, Run, options, pid, set_comm};

/// Three connections, both ends in one process: three connects, three accepts, six closes.
fn three_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        let (client, mut server) = connected(&listener);
        drop(client);
        expect_end(&mut server);
    }
    settle();
}

fn a_child(before: impl FnOnce()) -> Child {
    child_in_namespace(|_: &mut Link| {
        before();
        three_connections();
    })
}

/// Runs the children under a filter. Everything that was emitted counts, whatever namespace it is of.
fn emitted(filter: Filter, children: &mut [&mut Child]) -> Vec<TcpEvent> {
    for child in children.iter_mut() {
        enter(child);
    }
    let run = Run::start(TcpMonitorLoader::new(options(filter)));
    for child in children {
        child.run();
    }
    events_of(run, |_| true)
}

/// Only this process's three connections were emitted, and all of them.
fn expect_only(events: &[TcpEvent], pid: u32) {
    let count = |event_type| of_type(events, event_type).len();
    let counts = [TcpEventType::Connect, TcpEventType::Accept, TcpEventType::Close].map(count);
    assert_eq!(counts, [3, 3, 6]);
    assert!(events.iter().all(|event| event.pid == pid), "{events:#?}");
}

#[test]
fn pids() {
    let (mut wanted, mut other) = (a_child(|| {}), a_child(|| {}));
    expect_only(&emitted(pid(wanted.pid), &mut [&mut wanted, &mut other]), wanted.pid);
}

#[test]
fn comms() {
    let mut wanted = a_child(|| set_comm("kerno tcp yes"));
    let mut other = a_child(|| set_comm("kerno tcp no"));
    let filter = Filter { comms: vec!["kerno tcp yes".into()], ..Filter::default() };
    expect_only(&emitted(filter, &mut [&mut wanted, &mut other]), wanted.pid);
}

#[test]
fn uids() {
    const UID: u32 = 54_321;
    // SAFETY: no memory is involved; the child has one thread.
    let mut wanted = a_child(|| assert_eq!(unsafe { libc::setuid(UID) }, 0));
    let mut other = a_child(|| {});
    let events = emitted(Filter { uids: vec![UID], ..Filter::default() }, &mut [&mut wanted, &mut other]);
    expect_only(&events, wanted.pid);
    assert!(events.iter().all(|event| event.uid() == Some(UID)));
}

#[test]
fn cgroups_and_those_below_created_later() {
    let above = Cgroup::new(&v2_mount(), "tcp");
    let filter = Filter { cgroups: vec![above.path.clone()], ..Filter::default() };
    let run = Run::start(TcpMonitorLoader::new(options(filter)));
    let below = Cgroup::new(&above.path, "below");
    let (mut wanted, mut other) = (a_child(|| {}), a_child(|| {}));
    below.add(wanted.pid);
    enter(&mut wanted);
    enter(&mut other);
    wanted.run();
    other.run();
    let events = events_of(run, |_| true);
    expect_only(&events, wanted.pid);
}

#[test]
fn ports_at_either_end() {
    let mut child = child_in_namespace(|_| {
        for port in [20_011, 20_021] {
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            for _ in 0..3 {
                let (client, mut server) = connected(&listener);
                drop(client);
                expect_end(&mut server);
            }
        }
        settle();
    });
    let namespace = enter(&mut child);
    let filter = Filter { ports: vec![20_021], ..Filter::default() };
    let run = Run::start(TcpMonitorLoader::new(options(filter)));
    child.run();
    let events = events_of(run, |event| namespace.has(event) && event.event_type != TcpEventType::Rtt);
    expect_only(&events, child.pid);
    assert_eq!(events.iter().filter(|event| event.src_port == 20_021).count() * 2, events.len());
    assert_eq!(events.iter().filter(|event| event.dst_port == 20_021).count() * 2, events.len());
}

#[test]
fn errors_only() {
    let mut child = child_in_namespace(|_| {
        three_connections();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, mut server) = connected(&listener);
        reset_on_close(&client);
        drop(client);
        assert!(std::io::Read::read(&mut server, &mut [0]).is_err());
        drop(server);
        drop(start_connect_refused());
        settle();
    });
    let filter = Filter { errors_only: true, ..pid(child.pid) };
    let events = emitted(filter, &mut [&mut child]);
    let mut types: Vec<_> = events.iter().map(|event| event.event_type.name()).collect();
    types.sort_unstable();
    // The reset as sent and as received, the close it caused, the refused connect.
    assert_eq!(types, ["close", "connect_failed", "reset", "reset"]);
}

fn start_connect_refused() -> std::io::Error {
    std::net::TcpStream::connect(closed_port("127.0.0.1")).unwrap_err()
}

#[test]
fn its_own_process_is_left_out_unless_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for exclude_self in [true, false] {
        let filter = Filter { ports: vec![port], ..Filter::default() };
        let mut options = options(filter);
        options.exclude_self = exclude_self;
        let run = Run::start(TcpMonitorLoader::new(options));
        let (client, mut server) = connected(&listener);
        drop(client);
        expect_end(&mut server);
        drop(server);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let events = events_of(run, |event| event.event_type != TcpEventType::Rtt);
        assert_eq!(events.len(), if exclude_self { 0 } else { 4 }, "{events:#?}");
        assert!(events.iter().all(|event| event.pid == std::process::id()));
    }
}

#[test]
fn impossible_filters_are_refused() {
    let load = |filter| kerno_bpf::Loader::load(&mut TcpMonitorLoader::new(options(filter))).unwrap_err().reason();
    let many = Filter { ports: (1..=17).collect(), ..Filter::default() };
    assert!(load(many).contains("port: 17 values given, at most 16"));
    let misfit = Filter { syscalls: vec!["read".into()], ..Filter::default() };
    assert!(load(misfit).contains("filter syscall does not fit tcp_monitor"));
}

again! { by_system_calls, without "inet_csk_accept":
    pids
    cgroups_and_those_below_created_later
}

beside_all! {
    pids
    ports_at_either_end
    errors_only
}
