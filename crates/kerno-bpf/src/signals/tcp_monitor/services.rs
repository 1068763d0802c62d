//! Which end of a connection is the service, and who listens there.

use super::sockets::Sockets;
use super::wire::{INCOMING, LISTEN, OUTGOING, PeerKey, Row};
use crate::engine::FastMap;

/// Where services listen, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Services {
    listening: FastMap<(u32, u16), u32>,
}

impl Services {
    pub(super) fn of(sockets: &Sockets) -> Self {
        let mut listening = FastMap::default();
        for (row, pid) in sockets.with_owners().filter(|(row, _)| row.state == LISTEN) {
            let known = listening.entry((row.netns, row.local_port)).or_insert(pid);
            // Of several that share a port the lowest, so that it is always the same.
            if pid != 0 && (*known == 0 || pid < *known) {
                *known = pid;
            }
        }
        Self { listening }
    }

    pub(super) fn key(&self, row: &Row) -> PeerKey {
        let outgoing = match row.direction {
            OUTGOING => true,
            INCOMING => false,
            // As the kernel side decides, but that a listener there tells for sure.
            _ => !self.listening.contains_key(&(row.netns, row.local_port)) && row.remote_port < row.local_port,
        };
        PeerKey {
            remote: row.remote,
            netns: row.netns,
            port: if outgoing { row.remote_port } else { row.local_port },
            family: row.family,
            outgoing: u8::from(outgoing),
            window: 0,
            pad0: 0,
        }
    }

    /// Who listens where the connections of this peer come to; 0 when that cannot be told.
    pub(super) fn listener(&self, key: &PeerKey) -> u32 {
        if key.outgoing != 0 { 0 } else { self.listening.get(&(key.netns, key.port)).copied().unwrap_or(0) }
    }
}
