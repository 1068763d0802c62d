//! The limit of locked memory, which maps count against before Linux 5.11. The tests run in the order of their names: the last one
//! changes the limit of this process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::command::{Unprivileged, kerno};
use crate::guest::watched;
use crate::truth::{before_5_11, check, refuses, reports, traces_exactly};

/// The command with the limit that most systems have.
fn limited(mut command: Command) -> Command {
    let bytes = Some(64 << 10);
    // SAFETY: one system call, in the child before exec.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::Memlock, Rlimit { current: bytes, maximum: bytes })?));
    }
    command
}

#[test]
fn root_lifts_it() {
    watched(|| {
        let tiny = |args: &[&str]| limited(kerno(args));
        let facts = check(&mut tiny(&["check", "-o", "json"]), 0);
        assert_eq!(facts["doctor"]["available"], true, "{}", facts["doctor"]);
        traces_exactly(tiny);
        reports(tiny);
    });
}

#[test]
fn with_a_limit_the_capability_to_lift_it_is_missed() {
    watched(|| {
        let user = Unprivileged::new();
        let capabilities = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let tiny = |args: &[&str]| limited(user.with(capabilities, args));
        if before_5_11() {
            refuses(tiny, &["needs CAP_SYS_RESOURCE", "LimitMEMLOCK=infinity"]);
        } else {
            check(&mut tiny(&["check", "-o", "json"]), 0);
            traces_exactly(tiny);
        }
    });
}

#[test]
fn without_limits_nothing_has_to_be_lifted() {
    watched(|| {
        let user = Unprivileged::new();
        // Of this process, so that the command has it before it loses its privileges, as from a service manager.
        setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).unwrap();
        let unlimited = |args: &[&str]| user.with(CapabilitySet::BPF | CapabilitySet::PERFMON, args);
        check(&mut unlimited(&["check", "-o", "json"]), 0);
        traces_exactly(unlimited);
    });
}
