//! File systems that fill up, are full, or stand still.

use std::path::Path;

use anyhow::Result;
use rustix::fs::statvfs;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, number_in, run, undo};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "disk_filling",
        about: "a process writes steadily into a file system that will be full within a minute or so",
        needs: &["mkfs.ext4", "losetup"],
        stage: disk_filling,
    },
    Case {
        name: "enospc",
        about: "a log writer on a full file system gets ENOSPC",
        needs: &["mkfs.ext4", "losetup"],
        stage: enospc,
    },
    Case {
        name: "inodes_exhausted",
        about: "a file system with room and no inodes left; a process goes on creating files",
        needs: &["mkfs.ext4", "losetup"],
        stage: inodes_exhausted,
    },
    Case {
        name: "blocked_writer",
        about: "a process writes to a frozen file system and sleeps uninterruptibly",
        needs: &["mkfs.ext4", "losetup"],
        stage: blocked_writer,
    },
];

fn free_mib(path: &Path) -> Result<f64> {
    let stat = statvfs(path)?;
    Ok((stat.f_bavail * stat.f_frsize) as f64 / f64::from(1 << 20))
}

/// Writes this many MiB a second into a file there, from half of the room on, until half of the rest is left after the window.
pub(super) fn fill(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(512)?;
    let mount = scene.ext4(&device, "-O ^has_journal")?;
    let room = free_mib(&mount)?;
    run(&format!("fallocate -l {}M {}/old", (room / 2.0) as u64, mount.display()))?;
    let rate = room / 4.0 / (scene.window_seconds() + 3.0);
    let script = "import sys,time\n\
        rate=float(sys.argv[1])*1048576; f=open(sys.argv[2],'wb',0); begin=time.time(); done=0\n\
        while True:\n\
        \x20 due=int((time.time()-begin)*rate)-done\n\
        \x20 if due>0: done+=f.write(bytes(due))\n\
        \x20 time.sleep(0.02)";
    let writer = scene.spawn(&Run::python(script).arg(rate).arg(mount.join("log").display()))?;
    let (path, watched) = (mount.clone(), mount.clone());
    let left = move || free_mib(&path).unwrap_or(0.0) / rate;
    let grown = rate * scene.window_seconds() * 0.7;
    let marks = [Mark::Mount(mount), Mark::Process(writer), Mark::Eta(Box::new(left))];
    Ok(Staged::fault(&["disk_full"], marks).grows("MiB used", grown, move || Ok(-free_mib(&watched)?)))
}

fn disk_filling(scene: &mut Scene) -> Result<Staged> {
    fill(scene)
}

fn enospc(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(64)?;
    let mount = scene.ext4(&device, "")?;
    let count = scene.dir().join("count");
    // Takes what is left and then goes on trying, as loggers do.
    let script = "import errno,os,sys,time\n\
        fd=os.open(sys.argv[1],os.O_WRONLY|os.O_CREAT|os.O_APPEND); failed=0\n\
        while True:\n\
        \x20 try:\n\
        \x20  while True: os.write(fd,bytes(65536))\n\
        \x20 except OSError as e:\n\
        \x20  failed+=e.errno==errno.ENOSPC\n\
        \x20 open(sys.argv[2],'w').write(str(failed)); time.sleep(0.02)";
    let writer = scene.spawn(&Run::python(script).arg(mount.join("log").display()).arg(count.display()))?;
    let full = mount.clone();
    scene.until("the file system to be full", || free_mib(&full).is_ok_and(|free| free < 1.0))?;
    let failures = scene.window_seconds() * 10.0;
    Ok(Staged::fault(&["disk_full"], [Mark::Mount(mount), Mark::Process(writer)]).grows(
        "writes that failed",
        failures,
        move || Ok(number_in(&count)),
    ))
}

fn inodes_exhausted(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(64)?;
    let mount = scene.ext4(&device, "-N 1024")?;
    let script = "import os,sys,time,itertools\n\
        for n in itertools.count():\n\
        \x20 try: os.close(os.open(f'{sys.argv[1]}/spool{n}',os.O_CREAT|os.O_WRONLY))\n\
        \x20 except OSError: time.sleep(0.05)";
    let maker = scene.spawn(&Run::python(script).arg(mount.display()))?;
    let free = |path: &Path| -> Result<f64> { Ok(statvfs(path)?.f_ffree as f64) };
    let (full, watched) = (mount.clone(), mount.clone());
    scene.until("the inodes to be used up", || free(&full).is_ok_and(|free| free == 0.0))?;
    Ok(Staged::fault(&["disk_full"], [Mark::Mount(mount), Mark::Process(maker), Mark::Says("inode")]).reaches(
        "minus the free inodes",
        0.0,
        move || Ok(-free(&watched)?),
    ))
}

fn blocked_writer(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(64)?;
    let mount = scene.ext4(&device, "")?;
    run(&format!("fsfreeze --freeze {}", mount.display()))?;
    let thaw = mount.clone();
    scene.at_end(move || undo(&format!("fsfreeze --unfreeze {}", thaw.display())));
    let writer =
        scene.spawn(&Run::words("dd if=/dev/zero bs=4k count=10").arg(format!("of={}/file", mount.display())))?;
    let is_stuck = move || {
        let stat = std::fs::read_to_string(format!("/proc/{writer}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
    };
    scene.until("the writer to block", is_stuck)?;
    Ok(Staged::fault(&["blocked_tasks"], [Mark::Any(vec![Mark::Process(writer), Mark::Victim(writer)])]).reaches(
        "tasks in state D",
        1.0,
        move || Ok(f64::from(u8::from(is_stuck()))),
    ))
}
