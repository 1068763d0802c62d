//! The counters that each network namespace keeps by itself.

use std::collections::HashMap;
use std::io;

use super::walk::Namespace;
use crate::engine::is_gone;
use kerno_model::TcpNamespace;

/// Those that are used, since the namespace began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    out: u64,
    retransmitted: u64,
    listen_overflows: u64,
    listen_drops: u64,
    syn_retransmits: u64,
    syn_drops: u64,
    syn_cookies: u64,
    timeouts: u64,
    /// Datagrams for which a socket, or all of UDP, had no room.
    pub(super) datagram_drops: u64,
}

impl Counters {
    pub(super) fn read(namespace: Namespace) -> io::Result<Self> {
        let snmp6 = match namespace.read("snmp6") {
            // Not there without IPv6, or when the process has ended: then the next file tells.
            Err(error) if is_gone(&error) => String::new(),
            snmp6 => snmp6?,
        };
        Ok(Self::parse(&namespace.read("snmp")?, &namespace.read("netstat")?, &snmp6))
    }

    fn parse(snmp: &str, netstat: &str, snmp6: &str) -> Self {
        let (tcp, udp, more) = (group(snmp, "Tcp:"), group(snmp, "Udp:"), group(netstat, "TcpExt:"));
        let of_udp6 = |name: &str| {
            let value = snmp6.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            value.unwrap_or(0)
        };
        let get = |group: &HashMap<&str, u64>, name: &str| group.get(name).copied().unwrap_or(0);
        Self {
            out: get(&tcp, "OutSegs"),
            retransmitted: get(&tcp, "RetransSegs"),
            listen_overflows: get(&more, "ListenOverflows"),
            listen_drops: get(&more, "ListenDrops"),
            syn_drops: get(&more, "TCPReqQFullDrop") + get(&more, "TCPReqQFullDoCookies"),
            syn_retransmits: get(&more, "TCPSynRetrans"),
            syn_cookies: get(&more, "TCPReqQFullDoCookies"),
            timeouts: get(&more, "TCPTimeouts"),
            datagram_drops: get(&udp, "RcvbufErrors")
                + get(&udp, "MemErrors")
                + of_udp6("Udp6RcvbufErrors ")
                + of_udp6("Udp6MemErrors "),
        }
    }

    /// What came since `earlier`.
    pub(super) fn since(self, earlier: Self, namespace: Namespace, initial: u32) -> TcpNamespace {
        let retransmitted_segments = self.retransmitted.saturating_sub(earlier.retransmitted);
        TcpNamespace {
            inode: namespace.inode,
            pid: if namespace.pid == 0 { std::process::id() } else { namespace.pid },
            initial: namespace.inode == initial,
            // The kernel's OutSegs leaves out what is sent again.
            sent_segments: self.out.saturating_sub(earlier.out) + retransmitted_segments,
            retransmitted_segments,
            listen_overflows: self.listen_overflows.saturating_sub(earlier.listen_overflows),
            listen_drops: self.listen_drops.saturating_sub(earlier.listen_drops),
            syn_drops: self.syn_drops.saturating_sub(earlier.syn_drops),
            syn_retransmits: self.syn_retransmits.saturating_sub(earlier.syn_retransmits),
            syn_cookies: self.syn_cookies.saturating_sub(earlier.syn_cookies),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
        }
    }
}

/// Two lines a group: names and values.
fn group<'a>(text: &'a str, name: &str) -> HashMap<&'a str, u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(name));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    // MaxConn is -1.
    names.split(' ').zip(values.split(' ')).filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin MaxConn OutSegs RetransSegs\nTcp: 200 -1 1000 30\n";
        let netstat = "TcpExt: ListenOverflows ListenDrops TCPTimeouts TCPReqQFullDoCookies\nTcpExt: 5 6 7 8\n";
        let snmp6 =
            "Ip6InReceives          \t10\nUdp6RcvbufErrors                \t4\nUdp6MemErrors                   \t1\n";
        let now =
            Counters::parse(&format!("{snmp}Udp: InDatagrams RcvbufErrors MemErrors\nUdp: 5 6 7\n"), netstat, snmp6);
        assert_eq!((now.datagram_drops, Counters::parse(snmp, netstat, "").datagram_drops), (18, 0));
        let before = Counters { out: 900, retransmitted: 10, ..Counters::default() };
        let delta = now.since(before, Namespace { inode: 7, pid: 9 }, 7);
        assert_eq!((delta.sent_segments, delta.retransmitted_segments), (120, 20));
        assert_eq!((delta.listen_overflows, delta.listen_drops, delta.timeouts, delta.syn_drops), (5, 6, 7, 8));
        assert!(delta.initial && delta.pid == 9);
    }
}
