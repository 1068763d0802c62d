//! Who connects to whom, for how long and how well: connections opened, accepted, refused, reset and closed, segments sent again,
//! round-trip times. IPv4, IPv6 and IPv4 over v6 sockets (shown as IPv4), in every network namespace.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/inet_sock_set_state`, `tcp_retransmit_skb`, `tcp_retransmit_synack`, `tcp_probe`, `tcp_receive_reset`, `tcp_send_reset`, `tcp_rcv_space_adjust`, `tcp_destroy_sock`; for accepts `fexit/inet_csk_accept`, or `tp_btf/sys_exit` where the kernel's functions cannot be hooked; `iter/task_file` once at load |
//! | minimum kernel | 5.10 |
//! | cost | a hash look-up for each segment received and for each receive call; with `sys_exit` 100 to 200 ns for each system call of the machine, mostly the kernel's own slow path for traced calls |
//! | kernel memory | 65,536 connections, about 10 MB |
//!
//! # Whose a connection is
//!
//! The process that opened or accepted it, with the name and cgroup it had then. A process that gets a connection later, by `fork` or
//! over a Unix socket, does not become its owner. Connections that were open at load belong to the oldest process that has them open.
//! Accepts are seen in the function of the kernel that does them, also those through `io_uring` and of servers in the kernel. Where
//! functions cannot be hooked (a kernel built without it, arm64 before Linux 6.4) they are seen as system calls end: a connection that
//! was accepted another way is then the first reader's, or the closer's, and there is no `Accept` event. One that nobody accepted is
//! nobody's: pid 0, no name, no user. So are the answers to a SYN that are sent again, and resets sent for closed ports (told since
//! Linux 6.10, 19822a980e19). A filter on pid, name, user or cgroup lets only known owners through.
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
//! # The summary
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/inet_sock_set_state`, `tcp_retransmit_skb`, `tcp_retransmit_synack`, `tcp_receive_reset`, `tcp_send_reset`; `iter/tcp` and `iter/task_file` at a window's ends |
//! | cost | 0.4 µs for each end of a connection, from SYN to close; nothing for a segment that arrives without loss. A look at all sockets takes 11 to 15 ms for each network namespace that has any (4 namespaces, a table of 512 k buckets); a look at the accept queues, once a second, well under 1 ms where any connection is open |
//! | kernel memory | 16,384 other ends, 16,384 connection attempts under way (in sets of eight) and 4,096 kinds of failure, about 4 MB |
//!
//! - Segments sent in a window are taken from the sockets themselves at its ends, and from ended connections when they ended. A
//!   connection that ends within the milliseconds that a look takes may be missing in one window, or be whole in the next.
//! - Retransmissions are counted where they happen, and add up to `RetransSegs` less `TCPRetransFail`, as above. SYNs sent again are told
//!   apart: they are no lossy path, but a host that does not answer.
//! - Who opened a connection is known from its sequence numbers, under the socket's lock; where those do not tell, the service is
//!   the end that listens here, or that has the lower port.
//! - A connection's process is the oldest that has it open; of ended ones, who opened it or who listens there. The kernel does not keep
//!   who accepted a connection that has ended.
//! - Namespaces are those with a process in them, 64 at most, and sockets 65,536 at most; what is beyond is told of in
//!   [`Window::missing`](kerno_model::Window::missing).
//! - A connect that the routing refuses at once (`ENETUNREACH` without a route) never reaches TCP; it is an error of the system call.
//!
//! # Compared with other tools
//!
//! `tcplife` (libbpf-tools) sees the same connections: of 211 opened and accepted and 13 refused, all were in both. It takes the owner
//! from whatever task runs when the state changes: of the 211 accepted ends it gave 31, which the client had reset, to the client; here
//! 30 of these are nobody's, for the reset came before the accept. `tcplife` shows a refused connect as a life of no bytes; here it is
//! `connect_failed` with its errno.

mod counters;
mod drops;
mod event;
mod gather;
mod half_open;
mod loader;
mod sampler;
mod services;
mod sockets;
mod stuck;
mod walk;
mod wire;

pub use event::{TcpDirection, TcpEvent, TcpEventType, TcpFamily, TcpResetBy, TcpState};
pub use loader::TcpMonitorLoader;
pub(crate) use sampler::sampler;
#[cfg(test)]
pub(crate) use sampler::summary_plan;
