//! File systems as the host has them, though a service manager gives kerno other mounts.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::{built, run, text};

/// A file system in memory, unmounted when it is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Self {
        let mounted = Self(tempfile::tempdir().unwrap());
        let mut mount = Command::new("mount");
        let output = run(mount.args(["-t", "tmpfs", "-o", "size=8M", "kerno-test"]).arg(mounted.0.path()));
        assert!(output.status.success(), "{}", text(&output.stderr));
        mounted
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("file")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_that_is_read_only_for_kerno_alone_is_found() {
    let mounted = Mounted::new();
    // As full as it can be.
    let _ = std::fs::write(mounted.file(), vec![1; 16 << 20]);
    let mut script = Command::new("unshare");
    script.args(["-m", "--propagation", "slave", "sh", "-ec"]);
    script.arg("mount -o remount,bind,ro \"$1\"; ! touch \"$1/x\" 2>/dev/null; shift; exec \"$@\"").arg("sh");
    script.arg(mounted.0.path()).arg(built());
    script.args([
        "doctor",
        "--signals",
        "disk",
        "--duration",
        "1s",
        "--quiet",
        "--output",
        "json",
        "--config",
        "/dev/null",
    ]);
    let output = run(&mut script);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let place = mounted.0.path().to_str().unwrap();
    let titles: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter_map(|one| one["title"].as_str()).collect();
    assert!(titles.iter().any(|title| title.starts_with(&format!("{place} is full"))), "{titles:?}");
    // It has all that the host has.
    assert!(!report["missing"].to_string().contains("only on the host"), "{}", report["missing"]);
}
