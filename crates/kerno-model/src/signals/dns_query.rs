mod merge;
mod metrics;

use serde::{Deserialize, Serialize};

use crate::{Address, DnsWait, Histogram};

/// DNS queries in a window: those that were answered in it, or came to an end without an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DnsSummary {
    /// By server. Bounded.
    pub servers: Vec<DnsServer>,
    /// By program and name, those asked most. Bounded.
    pub names: Vec<DnsNameUse>,
    /// Queries that waited for two seconds or longer, those that still wait at the window's end too. Bounded.
    pub waits: Vec<DnsWait>,
}

/// A DNS server, as the programs of one network namespace see it. Each time that a query is sent counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DnsServer {
    /// Its address.
    pub server: Option<Address>,
    /// Network namespace of those who asked, by inode number.
    pub net_namespace: u32,
    /// Answers, whatever they say.
    pub answers: u64,
    /// Of these, that there is no such name (`NXDOMAIN`).
    pub missing: u64,
    /// Of these, that the server could not find out (`SERVFAIL`).
    pub servfail: u64,
    /// Of these, that it does not want to (`REFUSED`).
    pub refused: u64,
    /// Of these, other errors.
    pub other_errors: u64,
    /// Queries without an answer for a second and longer: asked again, or given up.
    pub unanswered: u64,
    /// Queries that were given up sooner, as when another server has answered.
    pub abandoned: u64,
    /// Queries that ended with an error of the socket, as where nobody listens.
    pub failed: u64,
    /// From a query to its answer.
    pub latency_ns: Histogram,
    /// A process that asked; the last one.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The process that is the server, if it is in the same network namespace; else 0.
    pub server_pid: u32,
    /// Its name.
    pub server_comm: String,
}

/// What programs of one name in one network namespace asked about one name. Each time that a query is sent counts, and each type of record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DnsNameUse {
    /// The name asked for, in lower case; bytes that are not printable as `\DDD`.
    pub name: String,
    /// The name of the thread that asked.
    pub comm: String,
    /// A process that asked; the last one.
    pub pid: u32,
    /// Its parent then.
    pub parent_pid: u32,
    /// How often another process asked than the one before: 1 if it was always the same.
    pub processes: u64,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// The server that was asked last.
    pub server: Option<Address>,
    /// Queries that ended.
    pub queries: u64,
    /// Answers with records.
    pub found: u64,
    /// Answers that there is no such name (`NXDOMAIN`).
    pub missing: u64,
    /// Answers with another error (`SERVFAIL`, `REFUSED`, ...).
    pub errors: u64,
    /// Without an answer for a second and longer, or ended with an error of the socket.
    pub unanswered: u64,
    /// Time waited for all of them, in nanoseconds.
    pub waited_ns: u64,
    /// When the first of the window was sent: `CLOCK_MONOTONIC`, in nanoseconds.
    pub first_ns: u64,
}

impl DnsServer {
    /// Answers that say that the server could not or did not want to answer.
    pub const fn failures(&self) -> u64 {
        self.servfail.saturating_add(self.refused).saturating_add(self.other_errors)
    }
}

impl DnsSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let servers = self.servers.iter().flat_map(|server| [server.pid, server.server_pid]);
        let names = self.names.iter().flat_map(|name| [name.pid, name.parent_pid]);
        let waits = self.waits.iter().flat_map(|wait| [wait.pid, wait.server_pid]);
        servers.chain(names).chain(waits).filter(|pid| *pid != 0).collect()
    }
}
