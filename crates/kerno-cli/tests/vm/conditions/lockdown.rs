//! Kernel lockdown (kernel_lockdown(7)), which can only become stricter: one test.

use std::process::Command;

use crate::command::kerno;
use crate::guest::{watched, write};
use crate::truth::{refuses, works};

const SETTING: &str = "/sys/kernel/security/lockdown";

#[test]
fn integrity_is_no_matter_and_confidentiality_is_named() {
    watched(|| {
        let mounted =
            Command::new("mount").args(["-t", "securityfs", "none", "/sys/kernel/security"]).status().unwrap();
        assert!(mounted.success());
        write(SETTING, "integrity");
        works();
        write(SETTING, "confidentiality");
        let words = ["lockdown is in confidentiality mode", "lockdown=integrity"];
        refuses(kerno, &words);
        // Without it the mode is not to be seen; the refusals are.
        assert!(Command::new("umount").arg("/sys/kernel/security").status().unwrap().success());
        refuses(kerno, &words);
    });
}
