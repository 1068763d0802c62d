//! Hostile conditions and hard runs, in the virtual machines of `cargo xtask vm --conditions` and `--hard`: they change settings that
//! cannot be changed back and take the machine's memory, disks and CPUs away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "../../../kerno-bpf/tests/kernel/block.rs"]
#[allow(dead_code, reason = "shared with the kernel tests")]
mod block;
#[path = "../../../kerno-bpf/tests/kernel/cgroups.rs"]
#[allow(dead_code, reason = "shared with the kernel tests")]
mod cgroups;
#[path = "../command/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the command")]
mod command;
#[path = "../../../kerno-bpf/tests/kernel/tcp_monitor/net.rs"]
#[allow(dead_code, reason = "shared with the kernel tests")]
mod net;
#[path = "../../../kerno-bpf/tests/kernel/support.rs"]
#[allow(dead_code, reason = "shared with the kernel tests")]
mod support;

mod guest;
mod mapper;
mod netem;
mod netlink;
mod truth;
mod veth;

mod conditions;
mod hard;
