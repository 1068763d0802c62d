//! Memory: killed for it, about to be, and waiting for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, run};
use crate::stage::Behaviour;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "cgroup_oom_kill",
        about: "a cgroup's processes are killed for lack of memory, again and again",
        needs: &[],
        stage: oom_kill,
    },
    Case {
        name: "oom_imminent",
        about: "a process grows steadily towards its cgroup's limit",
        needs: &[],
        stage: oom_imminent,
    },
    Case {
        name: "memory_pressure",
        about: "a cgroup too small for what it reads over and over: its pages are thrown out and read again",
        needs: &["fio", "losetup", "mkfs.ext4"],
        stage: memory_pressure,
    },
    Case {
        name: "limit_full_of_own_data",
        about: "a heap leaves a cgroup no room for the file that its process has mapped: each step reads it from the disk again",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup"],
        stage: full_of_own_data,
    },
    Case {
        name: "mapped_reads_at_limit",
        about: "fio reads at random places of a mapped file that is larger than its cgroup may have in memory",
        needs: &["fio", "nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: mapped_reads_at_limit,
    },
];

/// A number of a cgroup's file in which lines are "name number", or that is the number.
fn number(cgroup: &Path, files: &[&str], name: &str) -> Result<f64> {
    let text = files
        .iter()
        .find_map(|file| std::fs::read_to_string(cgroup.join(file)).ok())
        .context("no such file of the cgroup")?;
    let line = text
        .lines()
        .find_map(|line| if name.is_empty() { Some(line) } else { line.strip_prefix(name)?.strip_prefix(' ') });
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}

fn oom_kill(scene: &mut Scene) -> Result<Staged> {
    let cgroup = scene.memory_limit(64 << 20)?;
    let script = "while :; do /usr/bin/python3 -c 'x=[bytearray(1<<20) for _ in range(256)]' ; sleep 0.7; done";
    let killed = scene.spawn(&Run::shell(script).in_cgroup(&cgroup))?;
    let watched = cgroup.clone();
    Ok(Staged::fault(&["oom_kill"], [Mark::Any(vec![Mark::Process(killed), Mark::Cgroup(cgroup)])]).grows(
        "kills",
        1.0,
        move || number(&watched, &["memory.oom_control", "memory.events"], "oom_kill"),
    ))
}

fn oom_imminent(scene: &mut Scene) -> Result<Staged> {
    let limit: u64 = 512;
    let cgroup = scene.memory_limit(limit << 20)?;
    // From a quarter of it up to three quarters while the doctor watches.
    let rate = limit as f64 / 2.0 / (scene.window_seconds() + 2.0);
    let script = "import sys,time\n\
        rate=float(sys.argv[1]); kept=[bytearray(1<<20) for _ in range(int(sys.argv[2])//4)]; begin=time.time(); n=0\n\
        while True:\n\
        \x20 while n<(time.time()-begin)*rate: kept.append(bytearray(b'1')*(1<<20)); n+=1\n\
        \x20 time.sleep(0.02)";
    let grower = scene.spawn(&Run::python(script).arg(rate).arg(limit).in_cgroup(&cgroup))?;
    let used = |cgroup: &Path| -> Result<f64> {
        Ok(number(cgroup, &["memory.usage_in_bytes", "memory.current"], "")? / f64::from(1 << 20))
    };
    let (watched, before) = (cgroup.clone(), cgroup.clone());
    scene.until("it to have begun", || used(&before).is_ok_and(|mib| mib > limit as f64 / 4.0))?;
    let rest = cgroup.clone();
    let left = move || (limit as f64 - used(&rest).unwrap_or(0.0)) / rate;
    let marks = [Mark::Any(vec![Mark::Process(grower), Mark::Cgroup(cgroup)]), Mark::Eta(Box::new(left))];
    Ok(Staged::fault(&["oom_imminent"], marks)
        .grows("MiB used", rate * scene.window_seconds() * 0.7, move || used(&watched)))
}

fn memory_pressure(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(128)?;
    let mount = scene.ext4(&device, "-O ^has_journal")?;
    run(&format!("dd if=/dev/zero of={}/data bs=1M count=40 oflag=direct status=none", mount.display()))?;
    let cgroup = scene.memory_limit(32 << 20)?;
    // Some of it is read far more often than the rest, as in a database; so it is worth keeping, and does not fit.
    let reader = Run::words(
        "fio --name=data --rw=randread --norandommap --random_distribution=zipf:1.1 --bs=64k --ioengine=psync --size=40M \
         --time_based --runtime=600 --thread --numjobs=4",
    )
    .arg(format!("--filename={}/data", mount.display()))
    .in_cgroup(&cgroup);
    let reader = scene.spawn(&reader)?;
    scene.sleep(Duration::from_millis(500))?;
    let marks = [Mark::Any(vec![Mark::Process(reader), Mark::Cgroup(cgroup)])];
    Ok(Staged::fault(&["memory_pressure"], marks).grows(
        "milliseconds stalled for memory",
        scene.window_seconds() * 100.0,
        || {
            let text = std::fs::read_to_string("/proc/pressure/memory")?;
            let total = text.lines().next().and_then(|line| line.rsplit_once("total=")).context("no total")?.1;
            Ok(total.parse::<f64>()? / 1000.0)
        },
    ))
}

fn thrashes(cgroup: std::path::PathBuf, process: u32, faults: f64) -> Staged {
    let watched = cgroup.clone();
    let marks = [Mark::Process(process), Mark::Cgroup(cgroup)];
    Staged::fault(&["memory_pressure"], marks).grows("major faults", faults, move || {
        number(&watched, &["memory.stat"], "total_pgmajfault")
            .or_else(|_| number(&watched, &["memory.stat"], "pgmajfault"))
    })
}

fn full_of_own_data(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(96, &Behaviour { filters: "delay", parameters: "rdelay=1ms" })?;
    let cgroup = scene.memory_limit(32 << 20)?;
    let script = "import mmap,os,random,sys\n\
        m=mmap.mmap(os.open(sys.argv[1],os.O_RDONLY),12<<20,prot=mmap.PROT_READ); m.madvise(mmap.MADV_RANDOM)\n\
        heap=[bytearray(b'1')*(1<<20) for _ in range(18)]\n\
        while True: m[random.randrange(len(m))]";
    let process = scene.spawn(&Run::python(script).arg(&device.path).in_cgroup(&cgroup))?;
    scene.sleep(Duration::from_secs(2))?;
    Ok(thrashes(cgroup, process, scene.window_seconds() * 150.0))
}

fn mapped_reads_at_limit(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(128, &Behaviour { filters: "delay", parameters: "rdelay=1ms" })?;
    let mount = scene.ext4(&device, "-O ^has_journal")?;
    run(&format!("dd if=/dev/zero of={}/data bs=1M count=20 oflag=direct status=none", mount.display()))?;
    let cgroup = scene.memory_limit(16 << 20)?;
    let reader = Run::words(
        "fio --name=mapped --rw=randread --norandommap --bs=4k --ioengine=mmap --size=20M --time_based --runtime=600 --thread",
    )
    .arg(format!("--filename={}/data", mount.display()))
    .in_cgroup(&cgroup);
    let reader = scene.spawn(&reader)?;
    // Until most of it has been read once.
    scene.sleep(Duration::from_secs(6))?;
    Ok(thrashes(cgroup, reader, scene.window_seconds() * 150.0))
}
