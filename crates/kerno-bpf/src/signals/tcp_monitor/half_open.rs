//! Whose half-open connections fill the queue of a listening socket. Looked at only where the kernel says that such a queue was full.

use std::collections::HashMap;
use std::net::IpAddr;

use super::sockets::Sockets;
use super::walk::Namespace;
use super::wire::LISTEN;
use crate::waits::net::{InetSocket, tcp_listener, tcp_sockets};
use kerno_model::{TcpListener, TcpSummary};

/// Adds to the listeners of these namespaces what is half-open now. A listener that is not told of yet is added.
pub(super) fn look(namespaces: &[Namespace], known: &Sockets, name: impl Fn(u32) -> String, summary: &mut TcpSummary) {
    for namespace in namespaces {
        let full = summary.namespaces.iter().any(|told| told.inode == namespace.inode && told.syn_drops > 0);
        if !full {
            continue;
        }
        let pid = if namespace.pid == 0 { std::process::id() } else { namespace.pid };
        // A namespace that has gone has no queues any more.
        let sockets = tcp_sockets(pid).unwrap_or_default();
        let listening = known.with_owners().filter(|(row, _)| row.state == LISTEN && row.netns == namespace.inode);
        let listening = listening.map(|(row, pid)| TcpListener {
            local: row.local(),
            port: row.local_port,
            net_namespace: row.netns,
            pid,
            comm: name(pid),
            backlog: row.backlog,
            ..TcpListener::default()
        });
        add(namespace.inode, &sockets, &listening.collect::<Vec<_>>(), summary);
    }
}

fn add(inode: u32, sockets: &[InetSocket], listening: &[TcpListener], summary: &mut TcpSummary) {
    let mut queues: HashMap<(IpAddr, u16), HashMap<IpAddr, u64>> = HashMap::new();
    for socket in sockets.iter().filter(|socket| socket.half_open) {
        let listener = tcp_listener(sockets, socket.local).map_or(socket.local, |listener| listener.local);
        let from = queues.entry((listener.ip(), listener.port())).or_default();
        *from.entry(socket.remote.ip()).or_default() += 1;
    }
    for ((local, port), from) in queues {
        let (address, most) = from
            .iter()
            .max_by_key(|(address, count)| (**count, **address))
            .map_or((None, 0), |most| (Some(*most.0), *most.1));
        let is_it = |told: &TcpListener| (told.local, told.port, told.net_namespace) == (local, port, inode);
        if !summary.listeners.iter().any(is_it) {
            // It has dropped nothing, since cookies need no room.
            let unknown = TcpListener { local, port, net_namespace: inode, ..TcpListener::default() };
            summary.listeners.push(listening.iter().find(|known| is_it(known)).cloned().unwrap_or(unknown));
        }
        if let Some(listener) = summary.listeners.iter_mut().find(|told| is_it(told)) {
            listener.half_open = from.values().sum();
            listener.half_open_addresses = from.len() as u64;
            (listener.half_open_from, listener.half_open_from_it) = (address, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, remote: &str, listens: bool) -> InetSocket {
        InetSocket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            listens,
            established: false,
            half_open: !listens,
            time_wait: false,
            sent: 0,
            received: 0,
            probes: false,
            inode: 0,
            drops: 0,
        }
    }

    #[test]
    fn half_open_connections_are_counted_at_their_listener() {
        let mut sockets = vec![socket("0.0.0.0:80", "0.0.0.0:0", true), socket("127.0.0.1:81", "0.0.0.0:0", true)];
        sockets.extend((0..5).map(|port| socket("10.0.0.1:80", &format!("10.9.9.9:{}", 1000 + port), false)));
        sockets.push(socket("10.0.0.1:80", "10.9.9.8:77", false));
        let known = TcpListener {
            local: "0.0.0.0".parse().unwrap(),
            port: 80,
            net_namespace: 7,
            pid: 4711,
            ..TcpListener::default()
        };
        let mut summary = TcpSummary { listeners: vec![known.clone()], ..TcpSummary::default() };
        add(7, &sockets, &[], &mut summary);
        let [listener] = &summary.listeners[..] else { panic!("{:?}", summary.listeners) };
        assert_eq!((listener.pid, listener.half_open, listener.half_open_addresses), (4711, 6, 2));
        assert_eq!((listener.half_open_from, listener.half_open_from_it), ("10.9.9.9".parse().ok(), 5));
        let mut summary = TcpSummary::default();
        add(7, &sockets, &[known], &mut summary);
        let [listener] = &summary.listeners[..] else { panic!("{:?}", summary.listeners) };
        assert_eq!((listener.pid, listener.half_open), (4711, 6), "one that has dropped nothing");
    }
}
