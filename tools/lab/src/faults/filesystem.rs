//! File systems that fill up, are full, or stand still.

use std::path::Path;

use anyhow::Result;
use rustix::fs::statvfs;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, number_in, run, undo};
use crate::stage::Behaviour;

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
        name: "deleted_log",
        about: "a log that was deleted while its writer has it open fills a file system; another program is refused",
        needs: &["mkfs.ext4", "losetup"],
        stage: deleted_log,
    },
    Case {
        name: "deleted_followed",
        about: "tail follows a large log that was rotated away and deleted, and a file system is full of it",
        needs: &["mkfs.ext4", "losetup"],
        stage: deleted_followed,
    },
    Case {
        name: "deleted_mapped",
        about: "a process has a deleted file mapped, without any descriptor, and a file system is full of it",
        needs: &["mkfs.ext4", "losetup"],
        stage: deleted_mapped,
    },
    Case {
        name: "image_on_full_disk",
        about: "the file behind a loop device cannot grow: its ext4 turns read-only with most of its room free",
        needs: &["mkfs.ext4", "losetup"],
        stage: image_on_full_disk,
    },
    Case {
        name: "read_only_after_errors",
        about: "a device fails writes, and its ext4 turns read-only",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: read_only_after_errors,
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

/// Writes 20 MB there again and again, which fails.
fn refused(scene: &mut Scene, mount: &Path) -> Result<u32> {
    let script = "import sys,time\n\
        while True:\n\
        \x20 try:\n\
        \x20  with open(sys.argv[1],'wb',0) as f:\n\
        \x20   for _ in range(20): f.write(bytes(1<<20))\n\
        \x20 except OSError: pass\n\
        \x20 time.sleep(.2)";
    scene.spawn(&Run::python(script).arg(mount.join("wanted").display()))
}

/// A full file system of which this much is in use by nobody that du(1) could list.
fn hidden_mib(mount: &Path) -> Result<f64> {
    let used = run(&format!("df --output=used -m {} | tail -n 1", mount.display()))?.trim().parse::<f64>()?;
    let listed = run(&format!("du -xsm {}", mount.display()))?;
    Ok(used - listed.split_whitespace().next().unwrap_or_default().parse::<f64>()?)
}

fn held(scene: &mut Scene, mount: std::path::PathBuf, holder: u32) -> Result<Staged> {
    let watched = mount.clone();
    scene.until("the deleted file", || hidden_mib(&watched).is_ok_and(|mib| mib > 90.0))?;
    let victim = refused(scene, &mount)?;
    let watched = mount.clone();
    let marks = [Mark::Mount(mount), Mark::Process(holder), Mark::Victim(victim), Mark::Says("deleted")];
    Ok(Staged::fault(&["disk_full"], marks).reaches("MiB that no directory lists", 90.0, move || hidden_mib(&watched)))
}

fn deleted_log(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(128)?;
    let mount = scene.ext4(&device, "")?;
    let script = "import os,sys,time\n\
        f=open(sys.argv[1],'wb',0)\n\
        try:\n\
        \x20 while f.write(bytes(1<<20)): pass\n\
        except OSError: pass\n\
        os.unlink(sys.argv[1]); time.sleep(600)";
    let holder = scene.spawn(&Run::python(script).arg(mount.join("app.log").display()))?;
    held(scene, mount, holder)
}

fn deleted_followed(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(128)?;
    let mount = scene.ext4(&device, "")?;
    let log = mount.join("app.log").display().to_string();
    run(&format!("dd if=/dev/zero of={log} bs=1M status=none || true"))?;
    let holder = scene.spawn(&Run::shell(format!("exec tail -c 1 -f '{log}'")))?;
    let fds = format!("/proc/{holder}/fd");
    let has_it = |fd: std::io::Result<std::fs::DirEntry>| {
        fd.and_then(|fd| std::fs::read_link(fd.path())).is_ok_and(|target| target.ends_with("app.log"))
    };
    scene.until("tail", || std::fs::read_dir(&fds).is_ok_and(|mut fds| fds.any(has_it)))?;
    std::fs::remove_file(&log)?;
    held(scene, mount, holder)
}

fn deleted_mapped(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(128)?;
    let mount = scene.ext4(&device, "")?;
    let script = "import mmap,os,sys,time\n\
        fd=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT); os.posix_fallocate(fd,0,100<<20)\n\
        m=mmap.mmap(fd,100<<20)\n\
        for fd in map(int,os.listdir('/proc/self/fd')):\n\
        \x20 if fd>2:\n\
        \x20  try: os.close(fd)\n\
        \x20  except OSError: pass\n\
        os.unlink(sys.argv[1]); time.sleep(600)";
    let holder = scene.spawn(&Run::python(script).arg(mount.join("cache").display()))?;
    held(scene, mount, holder)
}

/// Whether a mount is one that cannot be written to any more: proven by trying.
fn refuses(mount: &Path) -> f64 {
    let error = std::fs::write(mount.join("try"), "").err().and_then(|error| error.raw_os_error());
    // EROFS
    f64::from(u8::from(error == Some(30)))
}

/// Writes thirty files of this size there by turns and syncs each, whatever it is told.
fn writes_files(scene: &mut Scene, dir: &Path, bytes: u64) -> Result<u32> {
    let script = "import os,sys,time,itertools\n\
        for n in itertools.count():\n\
        \x20 try:\n\
        \x20  fd=os.open(f'{sys.argv[1]}/f{n%30}',os.O_CREAT|os.O_WRONLY)\n\
        \x20  try: os.write(fd,bytes(int(sys.argv[2]))); os.fsync(fd)\n\
        \x20  finally: os.close(fd)\n\
        \x20 except OSError: pass\n\
        \x20 time.sleep(0.1)";
    scene.spawn(&Run::python(script).arg(dir.display()).arg(bytes))
}

fn image_on_full_disk(scene: &mut Scene) -> Result<Staged> {
    let below = scene.memory_dir(80)?;
    let image = below.join("image");
    run(&format!("truncate -s 256M {}", image.display()))?;
    let device = scene.loop_device(&image, false)?;
    let mount = scene.ext4(&device, "-e remount-ro")?;
    let victim = writes_files(scene, &mount, 8 << 20)?;
    let full = mount.clone();
    scene.until("the file system to be read-only", || refuses(&full) > 0.0)?;
    let watched = mount.clone();
    let marks = [Mark::Mount(below), Mark::Victim(victim)];
    Ok(Staged::fault(&["disk_full"], marks).reaches("writes above refused", 1.0, move || Ok(refuses(&watched))))
}

fn read_only_after_errors(scene: &mut Scene) -> Result<Staged> {
    let begin = scene.dir().join("inject");
    let parameters = format!("error-pwrite-rate=100% error-file={}", begin.display());
    let device = scene.odd_device(128, &Behaviour { filters: "error", parameters: &parameters })?;
    let mount = scene.ext4(&device, "-e remount-ro")?;
    std::fs::write(&begin, "")?;
    let victim = writes_files(scene, &mount, 40 << 10)?;
    let full = mount.clone();
    scene.until("the file system to be read-only", || refuses(&full) > 0.0)?;
    let watched = mount.clone();
    let marks = [Mark::Mount(mount), Mark::Device(device.name), Mark::Victim(victim)];
    Ok(Staged::fault(&["filesystem_read_only"], marks).reaches("writes refused", 1.0, move || Ok(refuses(&watched))))
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
