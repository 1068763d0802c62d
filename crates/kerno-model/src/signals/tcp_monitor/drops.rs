//! What the network drops before a program reads it: at sockets for datagrams, interfaces and the backlogs of CPUs.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::StandingState;

/// A UDP socket that dropped datagrams in the window because its receive buffer was full (`drops` in `/proc/net/udp`, no more than
/// `RcvbufErrors` and `MemErrors` of its network namespace).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DatagramSocket {
    /// Its address.
    pub local: IpAddr,
    /// Its port.
    pub port: u16,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// Who has it open; the first of several; 0 when that could not be told.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Processes that have it open.
    pub holders: u32,
    /// Whether that process can read at all.
    pub state: StandingState,
    /// Datagrams dropped in the window.
    pub drops: u64,
    /// Bytes that waited to be read at the window's end, with what the kernel needs for them.
    pub queued_bytes: u64,
}

/// A network interface that dropped packets, counted errors, or lost its carrier in the window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NetworkInterface {
    /// Its name.
    pub name: String,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// Its driver, if it is a device and that is known; else empty.
    pub driver: String,
    /// Of a tun or tap device: who reads what is sent to it; 0 when that is nobody, or not known.
    pub reader_pid: u32,
    /// Its name.
    pub reader_comm: String,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that it had no room for (`rx_missed_errors`, `rx_fifo_errors`).
    pub received_missed: u64,
    /// Packets that were dropped later: no protocol wanted them, a backlog was full, the driver had no memory (`rx_dropped`).
    pub received_dropped: u64,
    /// Packets received that were damaged (`rx_errors` without the former).
    pub received_errors: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that it did not take (`tx_dropped`).
    pub sent_dropped: u64,
    /// Packets that could not be sent (`tx_errors`).
    pub sent_errors: u64,
    /// How often its carrier came or went (`carrier_changes`); only known in the machine's own namespace.
    pub carrier_changes: u64,
    /// Whether it had a carrier at the window's end; `None` if that is not known.
    pub carrier: Option<bool>,
}

impl NetworkInterface {
    /// All that went wrong: packets lost or damaged, and changes of the carrier.
    pub fn faults(&self) -> u64 {
        let received = self.received_missed.saturating_add(self.received_dropped).saturating_add(self.received_errors);
        let sent = self.sent_dropped.saturating_add(self.sent_errors);
        received.saturating_add(sent).saturating_add(self.carrier_changes)
    }
}

/// A CPU that dropped received packets in the window because its backlog was full (`/proc/net/softnet_stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuBacklog {
    /// The CPU.
    pub cpu: u32,
    /// Packets that it processed.
    pub packets: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// The most that may wait (`net.core.netdev_max_backlog`).
    pub limit: u64,
}

impl Default for DatagramSocket {
    fn default() -> Self {
        Self {
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            net_namespace: 0,
            pid: 0,
            comm: String::new(),
            holders: 0,
            state: StandingState::default(),
            drops: 0,
            queued_bytes: 0,
        }
    }
}
