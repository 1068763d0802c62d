//! Two faults at once, which have nothing to do with each other: two root causes.

use anyhow::Result;

use super::{cpu, descriptors, filesystem, network};
use crate::case::{Case, Staged};
use crate::scene::Scene;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "two_leak_and_refused",
        about: "one process leaks sockets, another is refused by a service that is down",
        needs: &["ip"],
        stage: leak_and_refused,
    },
    Case {
        name: "two_throttled_and_filling",
        about: "one cgroup is throttled, and a file system fills up",
        needs: &["stress-ng", "mkfs.ext4", "losetup"],
        stage: throttled_and_filling,
    },
];

fn both(mut one: Staged, other: Staged) -> Staged {
    one.expected.extend(other.expected);
    one.proofs.extend(other.proofs);
    one
}

fn leak_and_refused(scene: &mut Scene) -> Result<Staged> {
    Ok(both(descriptors::leak(scene, "socket.socket()", "socket")?, network::refuse(scene)?))
}

fn throttled_and_filling(scene: &mut Scene) -> Result<Staged> {
    Ok(both(cpu::throttle(scene)?, filesystem::fill(scene)?))
}
