//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

mod calls;
mod cpu;
mod descriptors;
mod files;
mod kernel;
mod life;
mod limits;
mod memory;
mod network;
pub(crate) mod objectives;
mod standing;
mod storage;
#[cfg(test)]
pub(crate) mod testing;
mod waits;

use crate::Rule;

/// Every rule, in the order of the signals that they need. Where several findings would explain another equally well, the one whose rule
/// comes first here does.
pub static ALL: &[Rule] = &[
    calls::latency::SyscallLatencyHigh::RULE,
    calls::error_rate::SyscallErrorRate::RULE,
    network::stuck::StuckConnection::RULE,
    limits::reached::LimitReached::RULE,
    network::interfaces::CpuBacklogFull::RULE,
    network::interfaces::InterfaceDropping::RULE,
    network::interfaces::InterfaceFaults::RULE,
    network::half_open::HalfOpenFlood::RULE,
    network::datagrams::DatagramsDropped::RULE,
    network::loss::RetransmitStorm::RULE,
    network::round_trips::RttInflation::RULE,
    network::connects::ConnectFailures::RULE,
    network::queue::AcceptQueueOverflow::RULE,
    memory::kill::OomKilled::RULE,
    memory::imminent::OomImminent::RULE,
    memory::pressure::MemoryPressure::RULE,
    storage::bottleneck::DiskBottleneck::RULE,
    storage::errors::DiskErrors::RULE,
    storage::full::DiskFull::RULE,
    storage::read_only::FilesystemReadOnly::RULE,
    cpu::contention::SchedulerContention::RULE,
    cpu::throttling::CpuThrottling::RULE,
    cpu::steal::CpuSteal::RULE,
    waits::BlockedTasks::RULE,
    standing::stopped::StoppedProcess::RULE,
    standing::lock::LockHeld::RULE,
    standing::peer::StalledPeer::RULE,
    standing::backlog::UnixBacklogFull::RULE,
    network::dns::DnsNoAnswer::RULE,
    network::dns_slow::DnsSlow::RULE,
    network::dns_failures::DnsFailures::RULE,
    network::dns_missing_name::DnsMissingName::RULE,
    network::dns_search_list::DnsSearchList::RULE,
    descriptors::exhaustion::FdExhaustion::RULE,
    descriptors::leak::FdLeak::RULE,
    files::FileOpenStorm::RULE,
    kernel::message::KernelReport::RULE,
    life::crash_loop::CrashLoop::RULE,
    life::fork_storm::ForkStorm::RULE,
    life::zombies::Zombies::RULE,
    objectives::ObjectiveBurn::RULE,
];
