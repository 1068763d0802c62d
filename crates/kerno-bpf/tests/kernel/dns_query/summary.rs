//! The summary, against what the child did.

use std::time::Duration;

use kerno_model::{DnsNameUse, DnsServer, DnsSummary};

use super::net::{A, AAAA, Way, ask, connected, query};
use super::{server, with_servers};
use crate::support::{compare, observer};
use crate::tcp_monitor::net::enter;

const QUERIES: u16 = 251;

/// The part of the child's namespace.
fn part_of(work: impl FnOnce(&mut crate::support::Link)) -> (DnsSummary, u32) {
    let mut child = with_servers(work);
    let namespace = enter(&mut child);
    let mut observer = observer(&["dns_query"]);
    child.go();
    child.heard();
    let window = observer.finish().unwrap();
    child.run();
    let mut part = window.dns_query.clone().unwrap();
    let inode = u32::try_from(namespace.inode()).unwrap();
    part.servers.retain(|server| server.net_namespace == inode);
    part.names.retain(|name| name.net_namespace == inode);
    part.waits.retain(|wait| wait.net_namespace == inode);
    let loss = window.cost.loss.get("dns_query").copied().unwrap_or_default();
    assert_eq!((loss.overflow, loss.untracked), (0, 0), "{loss:?}");
    (part, child.pid)
}

fn named<'a>(part: &'a DnsSummary, name: &str) -> &'a DnsNameUse {
    part.names.iter().find(|known| known.name == name).unwrap_or_else(|| panic!("{name}: {:#?}", part.names))
}

#[test]
fn servers_and_names_have_just_what_was_asked() {
    let (part, pid) = part_of(|link| {
        for i in 0..QUERIES {
            let names = [
                "www.Zone.test",
                "WWW.zone.TEST",
                "missing.test",
                "failing.test",
                "refused.test",
                "empty.test",
                "slow.test",
            ];
            let name = names[if i % 50 == 49 { 6 } else { usize::from(i) % 6 }];
            ask(
                server(0),
                if i % 2 == 0 { Way::Send } else { Way::Tcp },
                &query(i, name, if i % 3 == 0 { A } else { AAAA }),
            );
        }
        link.tell(0);
        link.wait();
    });
    let of = |kind: usize| {
        (0..QUERIES).filter(|i| if i % 50 == 49 { kind == 6 } else { usize::from(*i) % 6 == kind }).count() as u64
    };
    let [
        DnsServer {
            server: address,
            answers,
            missing,
            servfail,
            refused,
            other_errors,
            latency_ns,
            pid: asker,
            comm,
            ..
        },
    ] = &part.servers[..]
    else {
        panic!("{:#?}", part.servers)
    };
    assert_eq!(*address, Some(server(0).into()));
    compare("dns_query", "answers of a server", *answers, u64::from(QUERIES), "the caller");
    assert_eq!((*missing, *servfail, *refused, *other_errors), (of(2), of(3), of(4), 0));
    assert_eq!((*asker, comm.as_str(), latency_ns.count()), (pid, "kerno asks", u64::from(QUERIES)));
    // On a busy machine others may be as late.
    assert!(latency_ns.count_above(29_000_000) >= of(6));
    // In lower case, whatever case was asked for.
    let zone = named(&part, "www.zone.test");
    assert_eq!((zone.queries, zone.found, zone.missing, zone.errors), (of(0) + of(1), of(0) + of(1), 0, 0));
    let errors = ["failing.test", "refused.test"].map(|name| (named(&part, name).queries, named(&part, name).errors));
    assert_eq!(errors, [(of(3), of(3)), (of(4), of(4))]);
    assert_eq!((named(&part, "missing.test").missing, named(&part, "empty.test").found), (of(2), 0));
    assert_eq!(
        (zone.pid, zone.parent_pid, zone.processes, zone.comm.as_str()),
        (pid, std::process::id(), 1, "kerno asks")
    );
    assert!(named(&part, "slow.test").waited_ns >= 29_000_000 * of(6));
    assert!(part.waits.is_empty());
}

#[test]
fn long_waits_are_kept_whether_they_ended_or_not() {
    let (part, pid) = part_of(|link| {
        let early = connected(server(0));
        early.send(&query(1, "mute.early", A)).unwrap();
        drop(early);
        let ended = connected(server(0));
        ended.send(&query(2, "mute.ended", A)).unwrap();
        std::thread::sleep(Duration::from_millis(2100));
        drop(ended);
        let open = connected(server(1));
        open.send(&query(3, "mute.open", A)).unwrap();
        std::thread::sleep(Duration::from_millis(2300));
        link.tell(0);
        link.wait();
    });
    let of = |i: usize| part.servers.iter().find(|known| known.server == Some(server(i).into()));
    let first = of(0).unwrap();
    assert_eq!((first.answers, first.unanswered, first.abandoned, first.failed), (0, 1, 1, 0));
    // What is not over is no query of a server yet.
    assert!(of(1).is_none());
    let waits: Vec<_> = part.waits.iter().map(|wait| (wait.server, wait.at_end, wait.pid)).collect();
    let expected = [(Some(server(1).into()), true, pid), (Some(server(0).into()), false, pid)];
    assert_eq!(waits, expected, "{:#?}", part.waits);
    // Whose a server is may be found out too late.
    assert!(part.waits.iter().any(|wait| wait.server_pid == pid), "{:#?}", part.waits);
    assert!(part.waits.iter().all(|wait| wait.seconds >= 2.0 && wait.seconds < 60.0));
    assert_eq!(named(&part, "mute.ended").unanswered, 1);
}

beside_all! {
    servers_and_names_have_just_what_was_asked
    long_waits_are_kept_whether_they_ended_or_not
}
