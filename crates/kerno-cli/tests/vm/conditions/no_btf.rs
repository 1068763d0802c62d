//! A kernel that does not describe its types (`CONFIG_DEBUG_INFO_BTF=n`), or a container that hides it.

use std::process::Command;

use crate::command::kerno;
use crate::guest::watched;
use crate::truth::refuses;

#[test]
fn the_option_that_the_kernel_lacks_is_named() {
    watched(|| {
        let mount = |args: &[&str]| assert!(Command::new(args[0]).args(&args[1..]).status().unwrap().success());
        mount(&["mount", "-t", "tmpfs", "none", "/sys/kernel/btf"]);
        refuses(kerno, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"]);
        mount(&["umount", "/sys/kernel/btf"]);
    });
}
