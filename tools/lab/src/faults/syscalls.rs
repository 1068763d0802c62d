//! System calls: failing, slow, and opens that fail over and over.

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, number_in};
use crate::stage::Behaviour;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "failed_open_storm",
        about: "a process tries to open a file that is not there, 1000 times a second",
        needs: &[],
        stage: failed_opens,
    },
    Case {
        name: "syscall_errors",
        about: "nearly every call of a process fails with EBADF",
        needs: &[],
        stage: errors,
    },
    Case {
        name: "slow_file_system",
        about: "each read of a file system without a disk takes 50 ms",
        needs: &["fio", "nbdkit", "nbdfuse", "fusermount3"],
        stage: slow_file_system,
    },
];

/// Runs a Python statement that fails, `rate` times a second, and counts its failures.
fn failing(scene: &mut Scene, setup: &str, statement: &str, rate: f64) -> Result<(u32, std::path::PathBuf)> {
    let counted = scene.dir().join("count");
    let script = format!(
        "import os,sys,time\n{setup}\nfailed=0; due=time.monotonic()\n\
         while True:\n for _ in range(20):\n  try: {statement}\n  except OSError: failed+=1\n \
         if failed%1000==0: open(sys.argv[1],'w').write(str(failed))\n due+={}; time.sleep(max(0,due-time.monotonic()))",
        20.0 / rate
    );
    let pid = scene.spawn(&Run::python(script).arg(counted.display()))?;
    scene.until("the first failures", || counted.exists())?;
    Ok((pid, counted))
}

fn failed_opens(scene: &mut Scene) -> Result<Staged> {
    let (pid, counted) = failing(scene, "", "os.open('/etc/kerno-lab/missing.conf',os.O_RDONLY)", 1000.0)?;
    Ok(Staged::fault(&["file_open_storm"], [Mark::Process(pid)]).grows(
        "opens that failed",
        scene.window_seconds() * 500.0,
        move || Ok(number_in(&counted)),
    ))
}

fn errors(scene: &mut Scene) -> Result<Staged> {
    let (pid, counted) = failing(scene, "fd=os.dup(1); os.close(fd)", "os.write(fd,b'x')", 2000.0)?;
    Ok(Staged::fault(&["syscall_error_rate"], [Mark::Process(pid)]).grows(
        "writes that failed",
        scene.window_seconds() * 1000.0,
        move || Ok(number_in(&counted)),
    ))
}

fn slow_file_system(scene: &mut Scene) -> Result<Staged> {
    let file = scene.odd_file(64, &Behaviour { filters: "delay", parameters: "rdelay=50ms" })?;
    let script = "import os,random,sys,time\n\
        fd=os.open(sys.argv[1],os.O_RDONLY|os.O_DIRECT); import mmap; b=mmap.mmap(-1,4096); n=0; t=time.monotonic()\n\
        while True:\n\
        \x20 os.preadv(fd,[b],4096*random.randrange(10000)); n+=1\n\
        \x20 open(sys.argv[2],'w').write(str(int((time.monotonic()-t)*1000)) if n>3 else '0')";
    let counted = scene.dir().join("count");
    let reader = scene.spawn(&Run::python(script).arg(file.display()).arg(counted.display()))?;
    scene.until("the first reads", || counted.exists())?;
    let grown = scene.window_seconds() * 700.0;
    Ok(Staged::fault(&["syscall_latency_high"], [Mark::Process(reader)]).grows(
        "milliseconds spent in reads",
        grown,
        move || Ok(number_in(&counted)),
    ))
}
