//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

mod calls;
mod files;
mod network;

#[cfg(test)]
mod testing;

use crate::Rule;

/// Every rule, in the order of the signals that they need.
pub static ALL: &[Rule] = &[
    calls::latency::SyscallLatencyHigh::RULE,
    calls::error_rate::SyscallErrorRate::RULE,
    network::loss::RetransmitStorm::RULE,
    network::round_trips::RttInflation::RULE,
    network::connects::ConnectFailures::RULE,
    network::queue::AcceptQueueOverflow::RULE,
    files::FileOpenStorm::RULE,
];
