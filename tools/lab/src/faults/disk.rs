//! Devices: slow, too busy, limited, broken.

use std::path::Path;

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene};
use crate::stage::{Behaviour, Device};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "slow_device",
        about: "one reader at a time, and every read takes 40 ms",
        needs: &["fio", "nbdkit", "nbdfuse", "fusermount3", "losetup"],
        stage: slow_device,
    },
    Case {
        name: "saturated_device",
        about: "many direct reads keep a device full while another process reads a little",
        needs: &["fio", "nbdkit", "nbdfuse", "fusermount3", "losetup"],
        stage: saturated_device,
    },
    Case {
        name: "cgroup_io_limit",
        about: "a cgroup that may read 1 MiB a second wants more; the device itself is fast",
        needs: &["fio", "losetup"],
        stage: cgroup_io_limit,
    },
    Case {
        name: "flush_storm",
        about: "eight writers sync every 4 KiB, and a database's commits on the same file system wait",
        needs: &["fio", "sqlite3", "nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: flush_storm,
    },
    Case {
        name: "write_storm",
        about: "a process writes large files as fast as it can, and a database's commits on the same file system wait",
        needs: &["sqlite3", "nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: write_storm,
    },
    Case {
        name: "device_errors",
        about: "every fifth read of a device fails with EIO",
        needs: &["fio", "nbdkit", "nbdfuse", "fusermount3", "losetup"],
        stage: device_errors,
    },
];

/// Waits until the device is being used.
fn in_use(scene: &Scene, device: &Device) -> Result<()> {
    let before = device.stat(0)? + device.stat(4)?;
    scene.until(
        "the load",
        || matches!((device.stat(0), device.stat(4)), (Ok(reads), Ok(writes)) if reads + writes > before + 20.0),
    )
}

/// Direct reads at random places of a device.
fn reads(device: &Device, jobs: u32) -> Run {
    Run::words("fio --name=reads --rw=randread --bs=4k --direct=1 --ioengine=psync --size=64M --time_based --runtime=600 --thread")
        .arg(format!("--filename={}", device.path))
        .arg(format!("--numjobs={jobs}"))
}

fn slow_device(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(128, &Behaviour { filters: "delay", parameters: "rdelay=40ms wdelay=40ms" })?;
    scene.spawn(&reads(&device, 1))?;
    in_use(scene, &device)?;
    let each = scene.window_seconds() * 1000.0 * 0.7;
    let (reads, wait) = (device.clone(), device.clone());
    Ok(Staged::fault(&["disk_io_bottleneck"], [Mark::Device(device.name)])
        .grows("reads", scene.window_seconds() * 10.0, move || reads.stat(0))
        .grows("milliseconds that reads took", each, move || wait.stat(3)))
}

fn saturated_device(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(
        128,
        &Behaviour { filters: "noparallel delay", parameters: "serialize=all-requests rdelay=4ms wdelay=4ms" },
    )?;
    let storm = scene.spawn(&reads(&device, 16))?;
    let victim = "import mmap,os,random,sys,time\n\
        fd=os.open(sys.argv[1],os.O_RDONLY|os.O_DIRECT); page=mmap.mmap(-1,4096)\n\
        while True: os.preadv(fd,[page],4096*random.randrange(1000)); time.sleep(0.02)";
    let victim = Run::python(victim).arg(&device.path);
    scene.spawn(&victim)?;
    in_use(scene, &device)?;
    let busy = scene.window_seconds() * 1000.0 * 0.9;
    let watched = device.clone();
    Ok(Staged::fault(&["disk_io_bottleneck"], [Mark::Process(storm), Mark::Device(device.name)]).grows(
        "milliseconds that the device was busy",
        busy,
        move || watched.stat(9),
    ))
}

fn cgroup_io_limit(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(128)?;
    let limit = 1 << 20;
    let cgroup = scene.read_limit(&device, limit)?;
    let limited = reads(&device, 2).in_cgroup(&cgroup);
    scene.spawn(&limited)?;
    in_use(scene, &device)?;
    // It gets what it may have, which is far less than the device gives.
    let sectors = scene.window_seconds() * limit as f64 / 512.0;
    let watched = device.clone();
    Ok(Staged::fault(&["disk_io_bottleneck"], [Mark::Cgroup(cgroup)])
        .grows("sectors read", sectors * 0.6, move || watched.stat(2)))
}

fn flush_storm(scene: &mut Scene) -> Result<Staged> {
    // As long as a disk that turns takes for a write that must be on it.
    let device = scene.odd_device(256, &Behaviour { filters: "delay", parameters: "wdelay=5ms" })?;
    let mount = scene.ext4(&device, "")?;
    let storm = Run::words("fio --name=storm --rw=randwrite --bs=4k --fsync=1 --ioengine=psync --size=4M --numjobs=8 --time_based --runtime=600 --thread")
        .arg(format!("--directory={}", mount.display()));
    let storm = scene.spawn(&storm)?;
    commits(scene, &mount)?;
    in_use(scene, &device)?;
    let watched = device.clone();
    Ok(Staged::fault(&["disk_io_bottleneck"], [Mark::Process(storm), Mark::Device(device.name)]).grows(
        "writes",
        scene.window_seconds() * 40.0,
        move || watched.stat(4),
    ))
}

fn write_storm(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(512, &Behaviour { filters: "delay", parameters: "wdelay=10ms" })?;
    let mount = scene.ext4(&device, "")?;
    commits(scene, &mount)?;
    // Written to memory first: what reaches the device is from a kernel thread.
    let storm = format!("while :; do dd if=/dev/zero of='{}/large' bs=1M count=300 status=none; done", mount.display());
    let storm = scene.spawn(&Run::shell(storm))?;
    in_use(scene, &device)?;
    let busy = scene.window_seconds() * 1000.0 * 0.7;
    let watched = device.clone();
    Ok(Staged::fault(&["disk_io_bottleneck"], [Mark::Process(storm), Mark::Device(device.name)]).grows(
        "milliseconds that the device was busy",
        busy,
        move || watched.stat(9),
    ))
}

/// A database that commits twenty times a second.
fn commits(scene: &mut Scene, dir: &Path) -> Result<u32> {
    let script = format!(
        "cd '{}'; echo 'PRAGMA synchronous=FULL; CREATE TABLE t(x);' | sqlite3 db; \
         while :; do echo \"INSERT INTO t VALUES(1);\"; sleep 0.05; done | sqlite3 db",
        dir.display()
    );
    scene.spawn(&Run::shell(script))
}

fn device_errors(scene: &mut Scene) -> Result<Staged> {
    let begin = scene.dir().join("inject");
    let parameters = format!("error-pread-rate=20% error-file={}", begin.display());
    let device = scene.odd_device(128, &Behaviour { filters: "error", parameters: &parameters })?;
    std::fs::write(&begin, "")?;
    let broken = reads(&device, 1).arg("--continue_on_error=io").arg("--thinktime=5000");
    scene.spawn(&broken)?;
    in_use(scene, &device)?;
    let name = device.name.clone();
    Ok(Staged::fault(&["disk_errors"], [Mark::Device(device.name)]).grows(
        "errors in the kernel's log",
        1.0,
        move || {
            let log = crate::scene::run("dmesg")?;
            Ok(log.lines().filter(|line| line.contains("error") && line.contains(&name)).count() as f64)
        },
    ))
}
