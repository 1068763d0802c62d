//! netem, asked for over netlink.

use crate::netlink::{self, attribute, words};

/// What a network does to its packets, in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Netem {
    pub delay_ms: u32,
    pub loss_percent: u32,
    /// So many go at once, before those that are delayed.
    pub reorder_percent: u32,
}

// linux/rtnetlink.h, linux/pkt_sched.h
const RTM_NEWQDISC: u16 = 36;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_NETEM_REORDER: u16 = 3;
const TCA_NETEM_LATENCY64: u16 = 10;

fn probability(percent: u32) -> u32 {
    u32::MAX / 100 * percent
}

impl Netem {
    /// Makes an interface of the calling thread's network namespace so.
    pub fn apply(self, interface: &str) {
        // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
        let gap = u32::from(self.reorder_percent > 0);
        let mut netem = words(&[0, 10_000, probability(self.loss_percent), gap, 0, 0]);
        netem.extend(attribute(TCA_NETEM_LATENCY64, &(u64::from(self.delay_ms) * 1_000_000).to_ne_bytes()));
        if self.reorder_percent > 0 {
            netem.extend(attribute(TCA_NETEM_REORDER, &words(&[probability(self.reorder_percent), 0])));
        }
        // struct tcmsg: family and padding, ifindex, handle, parent, info
        let mut body = words(&[0, netlink::index_of(interface), 1 << 16, TC_H_ROOT, 0]);
        body.extend(attribute(TCA_KIND, b"netem\0"));
        body.extend(attribute(TCA_OPTIONS, &netem));
        netlink::request(RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body);
    }
}
