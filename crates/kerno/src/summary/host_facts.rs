//! What machine this is.

use super::signals::HostFacts;
use crate::probe::Host;

/// Looks at the machine. What cannot be read is left empty.
pub(super) fn host_facts(host: &Host) -> HostFacts {
    HostFacts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        kernel: host.release.clone(),
        machine: host.machine.clone(),
        ..HostFacts::default()
    }
}
