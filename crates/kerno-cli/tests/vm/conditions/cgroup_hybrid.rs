//! Controllers in v1 hierarchies, and a v2 hierarchy without controllers beside them, as older distributions have it.

use crate::cgroups::v2_mount;
use crate::conditions::cgroup_v2::what_happens_is_told_with_the_cgroups_name;

#[test]
fn what_happens_in_a_cgroup_is_told_with_its_name() {
    // The arrangement is what it is to be.
    assert!(v2_mount().ends_with("unified"));
    what_happens_is_told_with_the_cgroups_name();
}
