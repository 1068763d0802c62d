//! Whose a socket is, where that is not plain.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use kerno_bpf::{Filter, Options, TcpEvent, TcpMonitorLoader};
use kerno_bpf::{TcpDirection, TcpEventType};

use super::net::{
    child_in_namespace, connected, enter, events_of, expect_end, observe_in_namespace, of_type, receive,
    reset_on_close, send, settle,
};
use super::uring;
use crate::support::{Child, Run, lacks_something, options, set_comm};

/// Loads while the child waits (its sockets made), then lets it go on to its end.
fn observe_from_the_middle(mut child: Child) -> (Vec<TcpEvent>, Child) {
    let namespace = enter(&mut child);
    child.go();
    assert_eq!(child.heard(), 0, "ready");
    let run = Run::start(TcpMonitorLoader::new(options(Filter::default())));
    child.run();
    let events = events_of(run, |event| namespace.has(event));
    (events, child)
}

#[test]
fn sockets_from_before_have_their_owner() {
    let child = child_in_namespace(|link| {
        set_comm("before client");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut worker = Child::new(|worker| {
            set_comm("before worker");
            let (mut server, _) = listener.accept().unwrap();
            worker.tell(0);
            worker.wait();
            receive(&mut server, 1 + 1234);
            send(&mut server, 77);
            expect_end(&mut server);
        });
        worker.go();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(worker.heard(), 0);
        send(&mut client, 1);
        link.tell(0);
        link.wait();
        worker.go();
        send(&mut client, 1234);
        receive(&mut client, 77);
        drop(client);
        assert_eq!(worker.wait(), 0);
        settle();
        link.tell(u64::from(port));
        link.tell(u64::from(worker.pid));
    });
    let (events, mut child) = observe_from_the_middle(child);
    let (port, worker) = (child.heard(), u32::try_from(child.heard()).unwrap());
    let closes = of_type(&events, TcpEventType::Close);
    assert_eq!(closes.len(), 2);
    for close in closes {
        let server = u64::from(close.src_port) == port;
        assert_eq!(close.pid, if server { worker } else { child.pid });
        assert_eq!(close.comm(), if server { "before worker" } else { "before client" });
        let bytes = (close.bytes_sent, close.bytes_received);
        assert_eq!(bytes, if server { (77, 1235) } else { (1235, 77) });
        assert_eq!(close.duration_ns, 0);
        assert_eq!(close.direction, if server { TcpDirection::Incoming } else { TcpDirection::Outgoing });
    }
    assert!(events.iter().all(|event| event.pid == worker || event.pid == child.pid));
    assert!(!of_type(&events, TcpEventType::Rtt).is_empty());
}

#[test]
fn of_several_holders_the_oldest_owns_a_socket_from_before() {
    let child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, server) = connected(&listener);
        // The heir has copies of both and outlives ours.
        let mut heir = Child::new(|heir| heir.wait());
        heir.go();
        link.tell(0);
        link.wait();
        drop((client, server));
        heir.go();
        assert_eq!(heir.wait(), 0);
        settle();
    });
    let (events, child) = observe_from_the_middle(child);
    let closes = of_type(&events, TcpEventType::Close);
    assert_eq!(closes.len(), 2);
    assert!(closes.iter().all(|close| close.pid == child.pid), "{closes:#?}");
}

#[test]
fn a_connection_that_waited_from_before_is_its_accepters() {
    let child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        link.tell(0);
        link.wait();
        let mut worker = Child::new(|_| drop(listener.accept().unwrap()));
        worker.run();
        expect_end(&mut client);
        drop(client);
        settle();
        link.tell(u64::from(worker.pid));
    });
    let (events, mut child) = observe_from_the_middle(child);
    let worker = u32::try_from(child.heard()).unwrap();
    let accepts = of_type(&events, TcpEventType::Accept);
    assert_eq!(accepts.len(), 1);
    assert_eq!((accepts[0].pid, accepts[0].latency_ns), (worker, 0));
    let closes = of_type(&events, TcpEventType::Close);
    assert_eq!(closes.iter().filter(|close| close.pid == worker).count(), 1);
    assert_eq!(closes.iter().filter(|close| close.pid == child.pid).count(), 1);
}

#[test]
fn a_connection_nobody_accepted_is_nobodys() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        link.tell(u64::from(listener.local_addr().unwrap().port()));
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        send(&mut client, 10);
        std::thread::sleep(Duration::from_millis(20));
        drop(listener);
        drop(client);
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let port = child.heard();
    let (theirs, ours): (Vec<TcpEvent>, Vec<TcpEvent>) =
        events.iter().copied().partition(|event| u64::from(event.src_port) == port);
    assert!(of_type(&events, TcpEventType::Accept).is_empty());
    assert_eq!(theirs.iter().filter(|event| event.event_type == TcpEventType::Close).count(), 1);
    for event in theirs {
        assert_eq!((event.pid, event.uid(), event.cgroup_id, event.comm().len()), (0, None, 0, 0), "{event}");
        assert_eq!(event.direction, TcpDirection::Incoming);
    }
    assert!(ours.iter().all(|event| event.pid == child.pid));
    assert!(ours.iter().any(|event| event.event_type == TcpEventType::Close));
}

#[test]
fn a_connection_reset_before_it_was_accepted_is_its_accepters_once_it_is() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        link.tell(u64::from(listener.local_addr().unwrap().port()));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        reset_on_close(&client);
        drop(client);
        std::thread::sleep(Duration::from_millis(20));
        drop(listener.accept().unwrap());
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let port = child.heard();
    let of_server: Vec<_> = events.iter().filter(|event| u64::from(event.src_port) == port).collect();
    let told: Vec<_> = of_server.iter().map(|event| (event.event_type, event.pid)).collect();
    let expected = [(TcpEventType::Reset, 0), (TcpEventType::Close, 0), (TcpEventType::Accept, child.pid)];
    assert_eq!(told, expected);
}

#[test]
fn a_connection_accepted_through_io_uring_is_its_readers() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut worker = Child::new(|_| {
            let mut server = uring::accept(&listener);
            for _ in 0..2 {
                receive(&mut server, 10);
                send(&mut server, 10);
            }
            expect_end(&mut server);
        });
        worker.go();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for _ in 0..2 {
            send(&mut client, 10);
            receive(&mut client, 10);
        }
        drop(client);
        assert_eq!(worker.wait(), 0);
        settle();
        link.tell(u64::from(port));
        link.tell(u64::from(worker.pid));
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let (port, worker) = (child.heard(), u32::try_from(child.heard()).unwrap());
    let of_server: Vec<_> = events.iter().filter(|event| u64::from(event.src_port) == port).collect();
    let told: Vec<_> = of_server.iter().map(|event| (event.event_type, event.pid)).collect();
    // From the first read on it is the reader's, in any case.
    let (accept, rest) = ((TcpEventType::Accept, worker), [(TcpEventType::Rtt, worker), (TcpEventType::Close, worker)]);
    if accept_is_hooked() {
        assert_eq!(told, [&[accept], rest.as_slice()].concat());
    } else {
        assert_eq!(told, rest);
    }
}

/// Whether this kernel lets programs attach to the function that accepts, which only trying shows.
fn accept_is_hooked() -> bool {
    let btf = aya::Btf::from_sys_fs().unwrap();
    let hooked = |program| -> Result<(), aya::programs::ProgramError> {
        let object = aya::include_bytes_aligned!("../../../objects/tcp_monitor.bpf.o");
        let mut ebpf = aya::Ebpf::load(object).unwrap();
        let program: &mut aya::programs::FExit = ebpf.program_mut(program).unwrap().try_into()?;
        program.load("inet_csk_accept", &btf)?;
        program.attach().map(drop)
    };
    !lacks_something() && ["on_accept", "on_accept_before_6_10"].into_iter().any(|program| hooked(program).is_ok())
}

#[test]
fn accepts_are_hooked_where_they_can_be() {
    let run = Run::start(TcpMonitorLoader::new(Options::default()));
    let hooks = run.handle.hooks();
    let has = |hook: &str| hooks.iter().any(|name| name == hook);
    assert_eq!((has("fexit/inet_csk_accept"), has("tp_btf/sys_exit")), (accept_is_hooked(), !accept_is_hooked()));
}

again! { by_system_calls, without "inet_csk_accept":
    sockets_from_before_have_their_owner
    a_connection_that_waited_from_before_is_its_accepters
    a_connection_nobody_accepted_is_nobodys
    a_connection_reset_before_it_was_accepted_is_its_accepters_once_it_is
    a_connection_accepted_through_io_uring_is_its_readers
    accepts_are_hooked_where_they_can_be
}

beside_all! {
    sockets_from_before_have_their_owner
    a_connection_that_waited_from_before_is_its_accepters
    a_connection_accepted_through_io_uring_is_its_readers
    accepts_are_hooked_where_they_can_be
}
