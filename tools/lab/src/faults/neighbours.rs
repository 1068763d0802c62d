//! Several on one device: one asks so much of it that the others wait, though none does anything forbidden.

use std::path::Path;

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, number_in, run};
use crate::stage::{Behaviour, Device};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "noisy_neighbour",
        about: "a process writes 4 MB and syncs them, again and again; the small syncs of another on the same file system take long",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: noisy_neighbour,
    },
    Case {
        name: "copy_beside_database",
        about: "large files are copied and synced, and a database's commits on the same file system wait",
        needs: &["sqlite3", "nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: copy_beside_database,
    },
    Case {
        name: "scan_beside_database",
        about: "three direct scans read half a megabyte at a time, and the small syncs of another wait for the device",
        needs: &["fio", "nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: scan_beside_database,
    },
    Case {
        name: "syncs_of_several",
        about: "four programs sync small writes on one device, which is too slow for all of them together",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: syncs_of_several,
    },
    Case {
        name: "dirty_pages",
        about: "a process writes more than its device can write back, and the kernel holds up a small writer, too",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: dirty_pages,
    },
];

/// Small syncs, twenty a second at most; what they took in all, in milliseconds, is in a file.
fn syncs(scene: &mut Scene, dir: &Path) -> Result<(u32, impl Fn() -> Result<f64> + use<>)> {
    let took = scene.dir().join("took");
    let script = "import os,sys,time\n\
        fd=os.open(sys.argv[1]+'/wal',os.O_CREAT|os.O_WRONLY); took=0\n\
        while True:\n\
        \x20 begin=time.time(); os.write(fd,b'x'*2048); os.fdatasync(fd); took+=(time.time()-begin)*1000\n\
        \x20 open(sys.argv[2],'w').write(str(took)); time.sleep(0.05)";
    let pid = scene.spawn(&Run::python(script).arg(dir.display()).arg(took.display()))?;
    Ok((pid, move || Ok(number_in(&took))))
}

fn found(culprit: u32, victim: u32, device: Device) -> Staged {
    let marks = [Mark::Process(culprit), Mark::Victim(victim), Mark::Device(device.name)];
    Staged::fault(&["disk_io_bottleneck"], marks)
}

fn noisy_neighbour(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(256, &Behaviour { filters: "delay", parameters: "wdelay=15ms" })?;
    let mount = scene.ext4(&device, "")?;
    let (victim, took) = syncs(scene, &mount)?;
    let bulk = format!(
        "while :; do dd if=/dev/zero of='{}/other' bs=256k count=16 conv=fsync status=none; done",
        mount.display()
    );
    let culprit = scene.spawn(&Run::shell(bulk))?;
    let half = scene.window_seconds() * 400.0;
    Ok(found(culprit, victim, device).grows("milliseconds in syncs", half, took))
}

fn copy_beside_database(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(512, &Behaviour { filters: "delay", parameters: "wdelay=15ms" })?;
    let mount = scene.ext4(&device, "")?;
    let script = "cd '{}'; echo 'PRAGMA synchronous=FULL; CREATE TABLE t(x);' | sqlite3 db; \
         while :; do echo 'INSERT INTO t VALUES(1);'; sleep 0.05; done | sqlite3 db";
    let victim = scene.spawn(&Run::shell(script.replace("{}", &mount.display().to_string())))?;
    let copies = format!(
        "dd if=/dev/urandom of=source bs=1M count=48 status=none; \
         while :; do cp source '{0}/copy'; sync '{0}/copy'; done",
        mount.display()
    );
    let culprit = scene.spawn(&Run::shell(copies))?;
    let copied = mount.join("copy");
    scene.until("the first copy", || copied.exists())?;
    let (watched, sectors) = (device.clone(), scene.window_seconds() * 10e6 / 512.0);
    Ok(found(culprit, victim, device).grows("sectors written", sectors, move || watched.stat(6)))
}

fn scan_beside_database(scene: &mut Scene) -> Result<Staged> {
    let behaviour =
        Behaviour { filters: "noparallel delay", parameters: "serialize=all-requests rdelay=12ms wdelay=12ms" };
    let device = scene.odd_device(256, &behaviour)?;
    let mount = scene.ext4(&device, "")?;
    let scan = "fio --name=scan --rw=read --bs=512k --direct=1 --ioengine=psync --numjobs=3 --thread --size=40M \
                --time_based --runtime=600";
    let culprit = scene.spawn(&Run::words(scan).arg(format!("--filename={}/data", mount.display())))?;
    let (victim, took) = syncs(scene, &mount)?;
    let half = scene.window_seconds() * 400.0;
    scene.sleep(std::time::Duration::from_secs(3))?;
    Ok(found(culprit, victim, device).grows("milliseconds in syncs", half, took))
}

fn dirty_pages(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(512, &Behaviour { filters: "delay", parameters: "wdelay=100ms" })?;
    let mount = scene.ext4(&device, "")?;
    // So little of this device may be dirty.
    device.limit_dirty(2 << 20)?;
    // Over and over into the same blocks, so that the file system does not fill.
    run(&format!("fallocate -l 100M '{}/other'", mount.display()))?;
    let bulk = format!(
        "while :; do dd if=/dev/zero of='{}/other' bs=1M count=100 conv=notrunc status=none; done",
        mount.display()
    );
    let culprit = scene.spawn(&Run::shell(bulk))?;
    let took = scene.dir().join("took");
    let script = "import os,sys,time\n\
        fd=os.open(sys.argv[1]+'/app.log',os.O_CREAT|os.O_WRONLY); took=0\n\
        while True:\n\
        \x20 begin=time.time(); os.write(fd,b'x'*65536); took+=(time.time()-begin)*1000\n\
        \x20 open(sys.argv[2],'w').write(str(took)); time.sleep(0.01)";
    let victim = scene.spawn(&Run::python(script).arg(mount.display()).arg(took.display()))?;
    scene.sleep(std::time::Duration::from_secs(1))?;
    let part = scene.window_seconds() * 200.0;
    Ok(found(culprit, victim, device).grows("milliseconds in writes", part, move || Ok(number_in(&took))))
}

fn syncs_of_several(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(256, &Behaviour { filters: "delay", parameters: "wdelay=17ms" })?;
    let mount = scene.ext4(&device, "")?;
    let mut marks = vec![Mark::Device(device.name), Mark::Says("slow to sync")];
    let mut took = None;
    for number in 0..4 {
        let dir = mount.join(number.to_string());
        std::fs::create_dir(&dir)?;
        let (victim, time) = syncs(scene, &dir)?;
        marks.push(Mark::Victim(victim));
        took = Some(time);
    }
    let half = scene.window_seconds() * 400.0;
    let staged = Staged::fault(&["disk_io_bottleneck"], marks);
    Ok(match took {
        Some(took) => staged.grows("milliseconds in syncs", half, took),
        None => staged,
    })
}
