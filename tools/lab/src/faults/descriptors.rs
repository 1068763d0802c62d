//! Descriptors: leaked, and used up.

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, number_in};

pub(super) const CASES: &[Case] = &[
    Case { name: "fd_leak_files", about: "a process opens files and never closes them", needs: &[], stage: files },
    Case { name: "fd_leak_sockets", about: "a process leaks sockets", needs: &[], stage: sockets },
    Case { name: "fd_leak_eventfds", about: "a process leaks eventfds", needs: &[], stage: eventfds },
    Case {
        name: "fd_leak_duplicates",
        about: "a process duplicates a pipe's descriptor again and again",
        needs: &[],
        stage: duplicates,
    },
    Case {
        name: "emfile",
        about: "a server at its limit of descriptors gets EMFILE from accept",
        needs: &[],
        stage: emfile,
    },
];

const LIMIT: u32 = 4096;
const PER_SECOND: f64 = 40.0;

fn count(pid: u32) -> Result<f64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64)
}

/// Evaluates a Python expression 40 times a second and keeps what it gives.
pub(super) fn leak(scene: &mut Scene, expression: &str, kind: &'static str) -> Result<Staged> {
    let script = format!(
        "import os,socket,time\nkept=[]; pipe=os.pipe()[0]; due=time.monotonic()\n\
         while True:\n kept.append({expression}); due+={}; time.sleep(max(0,due-time.monotonic()))",
        1.0 / PER_SECOND
    );
    let leaker = scene.spawn(&Run::python(script).max_files(LIMIT))?;
    scene.until("the first leaks", || count(leaker).is_ok_and(|count| count > 10.0))?;
    let left = move || (f64::from(LIMIT) - count(leaker).unwrap_or(0.0)) / PER_SECOND;
    let marks = [Mark::Process(leaker), Mark::Says(kind), Mark::Eta(Box::new(left))];
    Ok(Staged::fault(&["fd_leak"], marks)
        .grows("descriptors", scene.window_seconds() * PER_SECOND * 0.7, move || count(leaker)))
}

fn files(scene: &mut Scene) -> Result<Staged> {
    leak(scene, "open('/etc/passwd')", "file")
}

fn sockets(scene: &mut Scene) -> Result<Staged> {
    leak(scene, "socket.socket()", "socket")
}

fn eventfds(scene: &mut Scene) -> Result<Staged> {
    leak(scene, "os.eventfd(0)", "eventfd")
}

fn duplicates(scene: &mut Scene) -> Result<Staged> {
    leak(scene, "os.dup(pipe)", "pipe")
}

fn emfile(scene: &mut Scene) -> Result<Staged> {
    let counted = scene.dir().join("count");
    let script = "import errno,socket,sys,time\n\
        s=socket.create_server(('127.0.0.1',0),backlog=64); a=s.getsockname(); kept=[]; clients=[]; failed=0\n\
        while True:\n\
        \x20 try:\n\
        \x20  kept.append(socket.socket()); kept.append(s.dup())\n\
        \x20 except OSError as e:\n\
        \x20  failed+=e.errno==errno.EMFILE\n\
        \x20  if failed%10==0: x=kept.pop(); x.close(); open(sys.argv[1],'w').write(str(failed))\n\
        \x20  time.sleep(0.02)";
    let server = scene.spawn(&Run::python(script).arg(counted.display()).max_files(256))?;
    scene.until("EMFILE", || counted.exists())?;
    let failures = scene.window_seconds() * 10.0;
    Ok(Staged::fault(&["fd_exhaustion"], [Mark::Process(server)])
        .grows("EMFILE", failures, move || Ok(number_in(&counted))))
}
