//! Who connects to whom, for how long and how well: connections opened, accepted, refused, reset and closed, segments sent again,
//! round-trip times. IPv4, IPv6 and IPv4 over v6 sockets (shown as IPv4), in every network namespace.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/inet_sock_set_state`, `sys_exit` (for `accept`), `tcp_retransmit_skb`, `tcp_retransmit_synack`, `tcp_probe`, `tcp_receive_reset`, `tcp_send_reset`, `tcp_rcv_space_adjust`, `tcp_destroy_sock`; `iter/task_file` once at load |
//! | minimum kernel | 5.10 |
//! | cost | a hash look-up for each segment received and for each receive call; 100 to 200 ns for each system call of the machine, mostly the kernel's own slow path for traced calls |
//! | kernel memory | 65,536 connections, about 10 MB |
//!
//! # Whose a connection is
//!
//! The process that opened or accepted it, with the name and cgroup it had then. A process that gets a connection later, by `fork` or
//! over a Unix socket, does not become its owner. Connections that were open at load belong to the oldest process that has them open.
//! The kernel has no accept of its own to hook: where a connection was accepted through `io_uring` it is the first reader's, or the
//! closer's, and there is no `Accept` event. One that nobody accepted is nobody's: pid 0, no name, no user. So are the answers to a
//! SYN that are sent again, and resets sent for closed ports. A filter on pid, name, user or cgroup lets only known owners through.
//!
//! # What the numbers mean
//!
//! - Bytes are payload: what was sent again, headers, SYN and FIN do not count. They are the kernel's own counts of the whole
//!   connection, also when part of it was before load.
//! - Retransmitted segments add up to `RetransSegs` less `TCPRetransFail` of the namespace (`/proc/net/snmp`, `/proc/net/netstat`).
//! - A close that waits for the peer is told when the kernel has done with the socket, not when the program called `close`.
//! - When a program aborts a connection, the `Close` comes before the `Reset` that it sends: the kernel changes the state first.
//!
//! Not seen: MPTCP's own sockets (their subflows are seen, without `Accept`); which connection a `TIME_WAIT` socket's reset ended.
//! With more than 65,536 connections at once, the owners of the rest are not known, and
//! [`Counters::untracked`](crate::Counters::untracked) counts them.
//!
//! # Compared with other tools
//!
//! `tcplife` (libbpf-tools) sees the same connections: of 211 opened and accepted and 13 refused, all were in both. It takes the owner
//! from whatever task runs when the state changes: of the 211 accepted ends it gave 31, which the client had reset, to the client; here
//! 30 of these are nobody's, for the reset came before the accept. `tcplife` shows a refused connect as a life of no bytes; here it is
//! `connect_failed` with its errno.

mod counters;
mod event;
mod gather;
mod loader;
mod rules;
mod sampler;
mod summary;
mod walk;
mod wire;

pub use event::{TcpDirection, TcpEvent, TcpEventType, TcpFamily, TcpResetBy, TcpState};
pub use loader::TcpMonitorLoader;
pub(crate) use rules::RULES;
pub(crate) use sampler::sampler;
pub use summary::{TcpFailure, TcpFailureReason, TcpListener, TcpNamespace, TcpPeer, TcpProcess, TcpSummary};
