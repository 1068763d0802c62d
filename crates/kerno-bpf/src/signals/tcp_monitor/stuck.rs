//! Connections on which nothing moves: who they are between, for how long, and whether the other end is there at all.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

use super::services::Services;
use super::sockets::Sockets;
use super::wire::{LISTEN, Row, StuckValue};
use kerno_model::TcpStuck;

/// How many are kept.
const MAX_LISTED: usize = 64;

/// Shorter than this is the ordinary course of things.
const SHORTEST_SECONDS: f64 = 1.0;

/// What the other connections with the same host do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Others {
    silent_seconds: Option<f64>,
    losing: u64,
}

/// The connections on which nothing has moved for a while, of those that were met, by the address of the socket. `name` tells a process's name.
pub(super) fn told_of(
    met: &HashMap<u64, StuckValue>,
    (before, now): (&Sockets, &Sockets),
    services: &Services,
    name: &impl Fn(u32) -> String,
) -> Vec<TcpStuck> {
    let hz = ticks_per_second();
    let mut list = Vec::new();
    for (sock, value) in met {
        let Some((row, owner)) = now.find(*sock).filter(|(row, _)| row.state != LISTEN) else { continue };
        let key = services.key(row);
        let pid = if owner == 0 { services.listener(&key) } else { owner };
        let stuck = told(row, value, key.outgoing != 0, pid, hz);
        if stuck.outstanding_seconds.max(stuck.closed_seconds) >= SHORTEST_SECONDS {
            list.push(stuck);
        }
    }
    list.sort_unstable_by_key(|stuck| {
        let longest = stuck.outstanding_seconds.max(stuck.closed_seconds);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an order; never negative")]
        let longest_ms = (longest * 1e3) as u64;
        (Reverse(longest_ms), stuck.remote, stuck.remote_port, stuck.local_port)
    });
    list.truncate(MAX_LISTED);
    if !list.is_empty() {
        look_beside(met, (before, now), hz, &mut list);
    }
    for stuck in &mut list {
        stuck.comm = name(stuck.pid);
        stuck.peer_comm = name(stuck.peer_pid);
    }
    list
}

#[allow(clippy::cast_precision_loss, reason = "times")]
fn told(row: &Row, value: &StuckValue, outgoing: bool, pid: u32, hz: f64) -> TcpStuck {
    // With nothing on its way, only the window holds it back: zero, or less than is worth a segment.
    let is_closed = value.unacked_segments == 0 && value.unsent_bytes > 0;
    let outstanding = if value.unacked_segments == 0 { 0.0 } else { f64::from(value.outstanding_ms) / 1e3 };
    // A stamp in microseconds, as a route can ask for (since Linux 6.7), is no time here: what the timer did is known all the same.
    let is_sane = outstanding < value.at_ns as f64 / 1e9;
    TcpStuck {
        local: row.local(),
        local_port: row.local_port,
        remote: row.remote(),
        remote_port: row.remote_port,
        outgoing,
        net_namespace: row.netns,
        pid,
        comm: String::new(),
        peer_pid: 0,
        peer_comm: String::new(),
        outstanding_seconds: if is_sane { outstanding } else { 0.0 },
        retransmits: u32::from(value.retransmits),
        closed_seconds: if is_closed { f64::from(value.unsent_jiffies) / hz } else { 0.0 },
        probes: u32::from(value.probes),
        silent_seconds: f64::from(row.silent_jiffies) / hz,
        unacknowledged_bytes: u64::from(value.unacked_bytes),
        unacknowledged_segments: u64::from(value.unacked_segments),
        arrived_segments: u64::from(value.sacked_segments),
        unsent_bytes: u64::from(value.unsent_bytes),
        // Without the SYN.
        acknowledged_bytes: value.acked_bytes.saturating_sub(u64::from(outgoing)),
        acknowledged_segments: u64::from(value.delivered_segments.saturating_sub(value.sacked_segments)),
        segment_bytes: value.mss_bytes,
        others_silent_seconds: None,
        others_losing: 0,
    }
}

/// Looks who has the other ends, and how other connections with the same hosts fare.
fn look_beside(met: &HashMap<u64, StuckValue>, (before, now): (&Sockets, &Sockets), hz: f64, list: &mut [TcpStuck]) {
    let mut others: HashMap<(u32, IpAddr), Others> =
        list.iter().map(|stuck| ((stuck.net_namespace, stuck.remote), Others::default())).collect();
    let ends = list.iter().enumerate();
    let ends: HashMap<_, _> =
        ends.map(|(at, stuck)| ((stuck.remote, stuck.remote_port, stuck.local, stuck.local_port), at)).collect();
    let mut peers = vec![0; list.len()];
    for (row, pid) in now.with_owners().filter(|(row, _)| row.is_connection()) {
        let remote = row.remote();
        if let Some(others) = others.get_mut(&(row.netns, remote))
            && !met.contains_key(&row.sock)
        {
            let earlier = before.find(row.sock).map(|(earlier, _)| earlier);
            let earlier = earlier.filter(|earlier| row.continues(earlier));
            others.losing += u64::from(row.retransmits > earlier.map_or(0, |earlier| earlier.retransmits));
            let silent = f64::from(row.silent_jiffies) / hz;
            others.silent_seconds = Some(others.silent_seconds.map_or(silent, |least| least.min(silent)));
        }
        if pid != 0
            && let Some(at) = ends.get(&(row.local(), row.local_port, remote, row.remote_port))
        {
            // Loopback addresses are of their own namespace; others may be any namespace's.
            let is_theirs =
                !remote.is_loopback() || list.get(*at).is_some_and(|stuck| stuck.net_namespace == row.netns);
            if let (true, Some(peer)) = (is_theirs, peers.get_mut(*at)) {
                *peer = pid;
            }
        }
    }
    for (stuck, peer_pid) in list.iter_mut().zip(peers) {
        let beside = others.get(&(stuck.net_namespace, stuck.remote)).copied().unwrap_or_default();
        (stuck.others_silent_seconds, stuck.others_losing) = (beside.silent_seconds, beside.losing);
        stuck.peer_pid = peer_pid;
    }
}

/// What the kernel counts its jiffies in: the coarse clocks advance by one of them.
fn ticks_per_second() -> f64 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    #[allow(clippy::cast_precision_loss, reason = "some millions")]
    let seconds = tick.tv_sec as f64 + tick.tv_nsec as f64 / 1e9;
    if seconds > 0.0 { 1.0 / seconds } else { 250.0 }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn row(edit: impl FnOnce(&mut Row)) -> Row {
        let mut row = Row::new_zeroed();
        (row.family, row.state, row.local_port, row.remote_port) = (2, 1, 40000, 80);
        row.remote[..4].copy_from_slice(&[10, 0, 0, 1]);
        edit(&mut row);
        row
    }

    #[test]
    fn times_are_in_seconds_and_the_syn_is_no_data() {
        let value = StuckValue {
            acked_bytes: 1_001,
            at_ns: 100_000_000_000,
            outstanding_ms: 7_500,
            unacked_bytes: 3_000,
            unacked_segments: 3,
            sacked_segments: 1,
            delivered_segments: 5,
            retransmits: 5,
            ..StuckValue::default()
        };
        let stuck = told(&row(|row| row.silent_jiffies = 2_000), &value, true, 7, 250.0);
        assert_eq!((stuck.outstanding_seconds, stuck.silent_seconds, stuck.closed_seconds), (7.5, 8.0, 0.0));
        assert_eq!((stuck.acknowledged_bytes, stuck.acknowledged_segments), (1_000, 4));
        // Longer ago than the machine runs.
        let value = StuckValue { outstanding_ms: 3_000_000_000, ..value };
        assert_eq!(told(&row(|_| {}), &value, true, 7, 250.0).outstanding_seconds, 0.0);
        let value = StuckValue { unacked_segments: 0, unsent_bytes: 9, unsent_jiffies: 1_000, ..value };
        let stuck = told(&row(|_| {}), &value, true, 7, 250.0);
        assert_eq!((stuck.outstanding_seconds, stuck.closed_seconds), (0.0, 4.0));
    }

    #[test]
    fn the_tick_is_one_that_kernels_are_built_with() {
        let hz = ticks_per_second();
        assert!([100.0, 250.0, 300.0, 1000.0].iter().any(|known| (hz - known).abs() < 1.0), "{hz}");
    }
}
