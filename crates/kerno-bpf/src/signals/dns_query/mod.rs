//! Which DNS server was asked for which name, by whom, what it answered and how long that took.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sys_exit`, `sched_process_exit`; `iter/task_file` once, for sockets that are connected already |
//! | minimum kernel | 5.10 |
//! | cost | an array slot for a call that neither sends, receives, connects nor closes, beside the kernel's own slow path for traced calls; another slot for one on a descriptor that has nothing to do with DNS (4 ns of a `read` of 117), and the read of an address where one is sent to |
//! | kernel memory | 2.5 MiB; 4 MiB with the sums |
//!
//! Queries over UDP and TCP to port 53, IPv4 and IPv6, that a program sends by `sendto`, `sendmsg`, `sendmmsg`, `write` or `writev`, and their answers,
//! taken by `recvfrom`, `recvmsg`, `recvmmsg`, `read` or `readv`. So a query is seen at the program that makes it. Where a server of this
//! machine (systemd-resolved, dnsmasq) passes it on, there is another event, with that server's process.
//!
//! A query is found again by its socket, the server and its id. There is one event for each time it is sent, made when it is known what came of
//! it ([`DnsOutcome`]): an answer is taken, the same socket asks the same again (the C library does so after 5 seconds), it is closed, it has an error,
//! or the process ends. An answer that comes after the query was sent again is counted to the latest attempt;
//! [`elapsed_ns`](DnsEvent::elapsed_ns) is since the first.
//!
//! A program may close its socket as soon as another server has answered: [`GivenUp`](DnsOutcome::GivenUp) after some milliseconds says nothing
//! against the server.
//!
//! # What is not seen
//!
//! - What `io_uring` sends and receives, and 32-bit programs.
//! - DNS over TLS, HTTPS and QUIC; multicast DNS; servers on other ports.
//! - Descriptors that were duplicated, or came from another process, before they sent to an address; processes that end with a descriptor of 64 or higher leave
//!   their query without an event.
//! - Over TCP, the second of two queries that one call sends, and an answer whose beginning is read by several calls. Of `sendmmsg` and `recvmmsg` the first 16
//!   messages are looked at.
//! - More than 16 queries that a socket awaits at a time, or 4096 of all (`untracked` counts those).
//! - An answer that is taken by another thread before the call that sent the query has returned.

mod event;
mod loader;
mod name;
mod sampler;

pub use event::{DnsEvent, DnsOutcome, DnsProtocol};
pub use loader::DnsQueryLoader;
pub use name::DnsName;
pub(crate) use sampler::{sampler, sampler_of, summary_plan};
