//! Controllers in v1 hierarchies, and a v2 hierarchy without controllers beside them, as older distributions have it.

use crate::conditions::cgroup_v2::{filters_by_cgroup, held_back_is_attributed, killed_is_attributed};
use crate::guest::watched;

#[test]
fn what_happens_in_a_cgroup_is_told_with_its_name() {
    watched(|| {
        filters_by_cgroup();
        held_back_is_attributed();
        killed_is_attributed();
    });
}
