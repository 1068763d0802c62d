//! Long waits for answers of DNS servers, also those that ended within the window: a resolver gives up after some seconds, and tries again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::engine::{Question, Tick};
use crate::waits::chain::Look;
use crate::waits::{dns, state};
use kerno_model::DnsWait;

use super::told::of_condition;
use super::{Sleep, Sleeper, seconds};

/// The most waits that are kept of a window.
const MAX_WAITS: usize = 64;
/// The most servers that are looked for on this machine.
const MAX_SERVERS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Queries {
    waits: HashMap<Sleep, DnsWait>,
    /// There were more.
    pub(super) beyond: usize,
}

impl Queries {
    pub(super) fn begin(&mut self) {
        self.waits.clear();
        self.beyond = 0;
    }

    /// At a sample: this sleeper awaits an answer from there.
    pub(super) fn note(&mut self, tick: &Tick<'_>, sleeper: &Sleeper, server: SocketAddr) {
        let seconds = seconds(tick.now_ns.saturating_sub(sleeper.since_ns));
        if let Some(known) = self.waits.get_mut(&sleeper.sleep) {
            known.seconds = seconds;
            return;
        }
        if self.waits.len() >= MAX_WAITS {
            self.beyond += 1;
            return;
        }
        let process = tick.tasks.process(sleeper.pid);
        let wait = DnsWait {
            pid: sleeper.pid,
            tid: sleeper.sleep.0,
            comm: process.map(|process| process.row.comm.to_str_lossy().into_owned()).unwrap_or_default(),
            server: Some(server.into()),
            net_namespace: process.map_or(0, |process| process.row.net_namespace),
            seconds,
            since_ns: sleeper.since_ns,
            ..DnsWait::default()
        };
        self.waits.insert(sleeper.sleep, wait);
    }

    /// All of the window, the longest first; `asleep` are those that sleep now.
    pub(super) fn take(&mut self, asleep: impl Fn(&Sleep) -> bool) -> Vec<DnsWait> {
        let told = self.waits.drain().map(|(sleep, wait)| DnsWait { at_end: asleep(&sleep), ..wait });
        let mut told: Vec<_> = told.collect();
        told.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then((a.tid, a.since_ns).cmp(&(b.tid, b.since_ns))));
        told
    }
}

/// Says which of the servers are processes of this machine, and what these do.
pub(super) fn name_servers(tick: &Tick<'_>, look: &Arc<Look>, waits: &mut [DnsWait]) {
    let mut asked: Vec<(SocketAddr, u32, u32)> = Vec::new();
    for wait in waits.iter() {
        let Some(server) = wait.server.and_then(|server| Some(SocketAddr::new(server.ip, server.port?))) else {
            continue;
        };
        if asked.len() < MAX_SERVERS && !asked.iter().any(|known| (known.0, known.1) == (server, wait.net_namespace)) {
            asked.push((server, wait.net_namespace, wait.pid));
        }
    }
    let questions = asked.iter().map(|(server, _, pid)| {
        let (look, server, pid) = (Arc::clone(look), *server, *pid);
        (Question::DnsServer(server), move || {
            let inode = dns::local_server(pid, server)?;
            let holder = look.ends().of_socket(inode).iter().min_by_key(|holder| holder.pid)?.pid;
            let (stat, condition) = state::condition(holder, holder).ok()?;
            Some((holder, stat.comm, of_condition(&condition).state))
        })
    });
    for ((server, namespace, _), answer) in asked.iter().zip(tick.resolver.ask_all(questions)) {
        let Ok(Some((pid, comm, state))) = answer else { continue };
        let theirs = |wait: &&mut DnsWait| wait.server == Some((*server).into()) && wait.net_namespace == *namespace;
        for wait in waits.iter_mut().filter(theirs) {
            (wait.server_pid, wait.server_comm, wait.server_state) = (pid, comm.clone(), state);
        }
    }
}
