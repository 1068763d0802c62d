//! With some capabilities, without, and with none.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::command::{Unprivileged, kerno};
use crate::guest::watched;
use crate::truth::{just_enough, refuses, works_with};

#[test]
fn a_user_hears_which_and_what_to_type() {
    watched(|| {
        let user = Unprivileged::new();
        refuses(
            |args| user.with(CapabilitySet::empty(), args),
            &["CAP_BPF", "CAP_PERFMON", "sudo setcap cap_bpf,cap_perfmon"],
        );
    });
}

#[test]
fn just_enough_is_enough() {
    watched(|| works_with(&Unprivileged::new(), just_enough()));
}

#[test]
fn one_is_missed_by_its_name() {
    watched(|| {
        let user = Unprivileged::new();
        let without = |capability| just_enough().difference(capability);
        refuses(|args| user.with(without(CapabilitySet::PERFMON), args), &["needs CAP_PERFMON;"]);
        refuses(|args| user.with(without(CapabilitySet::BPF), args), &["needs CAP_BPF;"]);
    });
}

/// As in a container: uid 0, and what the engine leaves it.
fn bare_root(args: &[&str]) -> Command {
    let mut command = kerno(args);
    let drop_all = || {
        for bit in 0..63 {
            // Fails for bits that this kernel has no capability for.
            let _ = rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
        }
        let none = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        Ok(())
    };
    // SAFETY: system calls only, nothing that a fork could have left locked.
    unsafe { command.pre_exec(drop_all) };
    command
}

#[test]
fn root_of_a_container_is_not_told_to_become_root() {
    watched(|| refuses(bare_root, &["CAP_BPF and CAP_PERFMON", "--cap-add"]));
}
