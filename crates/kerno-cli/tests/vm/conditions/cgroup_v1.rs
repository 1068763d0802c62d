//! Controllers in v1 hierarchies and no v2 hierarchy at all.

use crate::command::{kerno, run, text};
use crate::conditions::cgroup_v2::what_happens_is_told_with_the_cgroups_name;
use crate::guest::watched;
use crate::truth::works;

#[test]
fn it_works_and_says_what_cannot_be_filtered() {
    watched(|| {
        works();
        let report = run(&mut kerno(&["check"]));
        assert!(text(&report.stdout).contains("not mounted: --cgroup cannot be used"), "{}", text(&report.stdout));
        let refused = run(&mut kerno(&["trace", "syscall", "--cgroup", "/", "--duration", "1s"]));
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains("mount -t cgroup2"), "{}", text(&refused.stderr));
    });
}

#[test]
fn what_happens_in_a_cgroup_is_told_with_its_name() {
    assert!(!crate::guest::read("/proc/self/mounts").contains(" cgroup2 "));
    what_happens_is_told_with_the_cgroups_name();
}
