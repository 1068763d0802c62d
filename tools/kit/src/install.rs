//! Programs that developer commands run, from Debian.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Program and package.
const PACKAGES: &[(&str, &str)] = &[
    ("syscount", "libbpf-tools"),
    ("syscount-bpfcc", "bpfcc-tools"),
    ("bpftrace", "bpftrace"),
    ("fio", "fio"),
    ("stress-ng", "stress-ng"),
    ("nginx", "nginx"),
    ("wrk", "wrk"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("sqlite3", "sqlite3"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("rsyslogd", "rsyslog"),
    ("strace", "strace"),
    ("make", "make"),
    ("flock", "util-linux"),
    ("logger", "bsdutils"),
    ("inotifywait", "inotify-tools"),
    ("nbdkit", "nbdkit"),
    ("nbdfuse", "libnbd-bin"),
    ("fusermount3", "fuse3"),
    ("python3", "python3"),
    ("losetup", "mount"),
    ("setpriv", "util-linux"),
    ("pg_ctlcluster", "postgresql"),
    ("git", "git"),
    ("gzip", "gzip"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("lz4", "lz4"),
    ("strip", "binutils"),
];

fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin"]);
    let mut files = dirs.map(|dir| Path::new(dir).join(program));
    files.any(|file| file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0))
}

/// Installs with apt what is missing of these programs.
///
/// # Errors
///
/// When no package is known for one, or apt fails.
pub fn install<'a>(programs: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for program in programs.filter(|program| !is_there(program)) {
        let package = PACKAGES.iter().find(|(name, _)| *name == program).map(|(_, package)| *package);
        packages.push(package.with_context(|| format!("no package is known to have {program}"))?);
    }
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    ensure!(is_there("apt-get"), "these programs' packages are missing, and there is no apt-get: {list}");
    eprintln!("installing {list}");
    let _no_services = NoServices::new();
    apt(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&packages);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").output()?;
    ensure!(output.status.success(), "apt-get {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Keeps packages from starting their services, by Debian's own means for it.
struct NoServices {
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Self {
        let made = !Path::new(POLICY).exists()
            && std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755)).is_ok();
        Self { made }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
