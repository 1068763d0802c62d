//! Hostile conditions: kerno works under them, or says exactly why not. The tests are in `crates/kerno-cli/tests/vm/conditions`.

use super::case::Case;

pub(super) const CONDITIONS: &[Case] = &[
    Case::new("conditions::no_btf", &["6.18"]),
    Case::new("conditions::privileges", &["6.18"]),
    Case::new("conditions::sysctls", &["6.18"]),
    // Before Linux 5.11 maps count against it, and one capability more is needed.
    Case::new("conditions::memlock", &["5.10"]),
    Case::new("conditions::lockdown", &["6.18"]),
    Case::new("conditions::cpus", &["6.18"]).cpus(3),
    Case::new("conditions::one_cpu", &["5.10"]).cpus(1),
    Case::new("conditions::cgroup_v1", &["5.10"]).append("kerno.cgroups=v1"),
    Case::new("conditions::cgroup_hybrid", &["5.10"]).append("kerno.cgroups=hybrid"),
    Case::new("conditions::cgroup_v2", &["6.18"]),
];
