//! What a virtual machine starts from: an uncompressed kernel, and an initial file system with busybox and some modules.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use super::packages::{Archive, Kernel};
use super::succeed;

pub(super) struct Image {
    pub(super) vmlinux: PathBuf,
    pub(super) initrd: PathBuf,
    /// Of the package with the kernel.
    pub(super) checksum: String,
}

/// What the tests use and Debian builds as modules.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "loop",
    "veth",
    "dummy",
    "tun",
    "nf_tables",
    "nft_numgen",
    "ext4",
    "overlay",
    "fuse",
    "mq-deadline",
    "binfmt_misc",
    "sch_tbf",
    "crc32c_generic",
    "crc32c_intel",
    "sch_netem",
    "null_blk",
    "dm-mod",
    "dm-delay",
];

/// Programs of this machine that the tests run.
const TOOLS: &[&str] = &["mkfs.ext4"];

/// Unpacks a kernel's packages into what qemu boots; once, unless the recipe changed.
pub(super) fn prepare(archive: &Archive, kernel: &Kernel, home: &Path) -> anyhow::Result<Image> {
    let packages = archive.fetch(&kernel.packages)?;
    let mut digest = Sha256::new();
    for package in &packages {
        digest.update(fs::read(package)?);
    }
    let checksum: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let recipe: String =
        Sha256::digest(include_str!("image.rs")).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = home.join("images").join(format!("{}-{recipe}-{}", kernel.release, &checksum[..16]));
    let image = Image { vmlinux: folder.join("vmlinux"), initrd: folder.join("initrd"), checksum };
    if !folder.exists() {
        let partial = home.join("images").join(format!("{}.partial", kernel.release));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(partial.join("root"))?;
        for package in &packages {
            succeed(Command::new("dpkg-deb").arg("-x").arg(package).arg(partial.join("root")))?;
        }
        build(&partial, &kernel.release)?;
        fs::remove_dir_all(partial.join("root"))?;
        fs::remove_dir_all(partial.join("initial"))?;
        fs::rename(&partial, &folder)?;
    }
    Ok(image)
}

fn build(folder: &Path, release: &str) -> anyhow::Result<()> {
    let root = folder.join("root");
    let (usr_modules, modules) = (root.join("usr/lib/modules"), root.join("lib/modules"));
    if usr_modules.exists() && !modules.exists() {
        fs::create_dir_all(root.join("lib"))?;
        fs::rename(&usr_modules, &modules)?;
    }
    let modules = modules.join(release);
    let candidates = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let vmlinuz = candidates.iter().find(|path| path.exists()).context("the packages have no vmlinuz")?;
    fs::write(folder.join("vmlinux"), uncompressed(&fs::read(vmlinuz)?)?)?;
    shell(&root, "find . -name '*.ko.xz' -exec xz -d {} + ; find . -name '*.ko.zst' -exec zstd -dq --rm {} +")?;
    succeed(Command::new("depmod").arg("-b").arg(&root).arg(release).env("PATH", path_with_sbin()))?;

    let initial = folder.join("initial");
    let module_dir = initial.join("lib/modules").join(release);
    for place in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "root", "etc", "usr/bin", "usr/sbin"] {
        fs::create_dir_all(initial.join(place))?;
    }
    fs::create_dir_all(&module_dir)?;
    fs::copy("/bin/busybox", initial.join("bin/busybox"))?;
    for index in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin", "modules.order"] {
        fs::copy(modules.join(index), module_dir.join(index)).with_context(|| index.to_owned())?;
    }
    for module in MODULES {
        // Built in, or not there: then nothing is shown.
        let shown = Command::new("modprobe")
            .args(["-S", release, "--show-depends", module, "-d"])
            .arg(&root)
            .env("PATH", path_with_sbin())
            .output()?;
        let text = String::from_utf8_lossy(&shown.stdout);
        for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next()) {
            let to = initial.join(Path::new(file).strip_prefix(&root)?);
            fs::create_dir_all(to.parent().context("a module lies in a folder")?)?;
            fs::copy(file, to).with_context(|| file.to_owned())?;
        }
    }
    for tool in TOOLS {
        take_program(tool, &initial)?;
    }
    let init = initial.join("init");
    fs::write(&init, INIT)?;
    shell(&initial, "chmod +x init; find . | cpio -o -H newc --quiet > ../initrd")
}

/// Copies a program and the libraries it is linked with.
fn take_program(name: &str, to: &Path) -> anyhow::Result<()> {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).env("PATH", path_with_sbin()).output()?;
    let program = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    let linked = Command::new("ldd").arg(&program).output()?;
    let text = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    fs::copy(&program, to.join("usr/sbin").join(name)).with_context(|| format!("this machine has no {name}"))?;
    for library in libraries {
        let place = to.join(library.strip_prefix("/")?);
        fs::create_dir_all(place.parent().context("a library lies in a folder")?)?;
        fs::copy(&library, place)?;
    }
    Ok(())
}

/// Takes the kernel out of its self-extracting wrapper: emulated, unpacking takes seconds at every start.
fn uncompressed(vmlinuz: &[u8]) -> anyhow::Result<Vec<u8>> {
    const KINDS: [(&[u8], &str); 4] = [
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        // The old format; Debian's 5.10 cloud kernels.
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x1f\x8b\x08", "gzip"),
    ];
    for (magic, tool) in KINDS {
        let places = vmlinuz.windows(magic.len()).enumerate().filter(|(_, window)| *window == magic);
        for (at, _) in places {
            let mut child = Command::new(tool)
                .arg("-dc")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| tool.to_owned())?;
            let mut input = child.stdin.take().context("piped")?;
            let packed = vmlinuz[at..].to_vec();
            // What follows the packed kernel makes the tool end early.
            let feeder = std::thread::spawn(move || {
                let _ = input.write_all(&packed);
            });
            let output = child.wait_with_output()?.stdout;
            let _ = feeder.join();
            if output.starts_with(b"\x7fELF") {
                return Ok(output);
            }
        }
    }
    anyhow::bail!("no packed kernel of a known kind in the vmlinuz")
}

fn shell(folder: &Path, script: &str) -> anyhow::Result<()> {
    let status = Command::new("sh").args(["-e", "-c", script]).current_dir(folder).status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Process 1 of the machine: mounts, runs /command, tells its status on the second serial line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin; ln -sf /bin/modprobe /sbin/modprobe
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb RUST_BACKTRACE=0
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t debugfs dbg /sys/kernel/debug; mount -t tracefs tr /sys/kernel/tracing; mount -t bpf bpf /sys/fs/bpf
word() { sed -n "s/.*kerno\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
case "$(word cgroups)" in
v1|hybrid)
	mount -t tmpfs cg /sys/fs/cgroup
	for c in memory cpu blkio pids; do mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c $c /sys/fs/cgroup/$c; done
	[ "$(word cgroups)" = v1 ] || { mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cg /sys/fs/cgroup/unified; } ;;
*) mount -t cgroup2 cg /sys/fs/cgroup; echo '+cpu +memory +io +pids' > /sys/fs/cgroup/cgroup.subtree_control ;;
esac
ip link set lo up
echo root:x:0:0:root:/root:/bin/sh > /etc/passwd; echo root:x:0: > /etc/group; echo kerno > /etc/hostname; (umask 077; echo 'root:*::::::' > /etc/shadow)
for m in virtio_pci virtio_blk loop veth tun nf_tables ext4 mq-deadline binfmt_misc fuse; do modprobe $m 2>/dev/null; done
# Features that every kernel here knows.
printf '[defaults]\nbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n[fs_types]\next4 = {\nfeatures = has_journal,extent,huge_file,flex_bg,64bit,dir_nlink,extra_isize\n}\n' > /etc/mke2fs.conf
# A disk as programs have one: what they run from and write to is backed by files.
mkfs.ext4 -q /dev/vda && mount /dev/vda /tmp && chmod 1777 /tmp
mkdir -p /tmp/var /var/tmp && chmod 1777 /tmp/var && mount --bind /tmp/var /var/tmp
mkdir -p /tmp/bin && for f in /tests/*; do [ -f $f ] && mv $f /tmp/bin/; done
cd /tmp
if [ "$(word shell)" = 1 ]; then sh /command; reboot -f; fi
stty -F /dev/ttyS1 raw -echo
sh /command </dev/null >/dev/ttyS1 2>&1
printf '\n%s %s\n' "$(word nonce)" $? >/dev/ttyS1
reboot -f
"#;
