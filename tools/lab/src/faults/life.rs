//! How processes begin and end: loops of failures, storms of processes, zombies.

use std::path::Path;

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, run};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "runsv_failing_service",
        about: "runit's runsv starts a service that fails at once",
        needs: &["runsv"],
        stage: runsv_failing,
    },
    Case {
        name: "runsv_service_that_ends",
        about: "runsv starts a service that goes to the background and so ends",
        needs: &["runsv"],
        stage: runsv_ending,
    },
    Case {
        name: "crash_loop_in_shell",
        about: "a shell starts a program again and again, which fails after a moment",
        needs: &[],
        stage: shell_loop,
    },
    Case {
        name: "crash_loop_by_signal",
        about: "a supervisor in Python starts a program that gets SIGSEGV",
        needs: &[],
        stage: python_supervisor,
    },
    Case { name: "workers_crash", about: "a server forks workers, which abort", needs: &[], stage: workers },
    Case {
        name: "oom_loop",
        about: "a program is killed for memory as often as it is started",
        needs: &[],
        stage: oom_loop,
    },
    Case {
        name: "fork_storm",
        about: "a shell runs a program that does nothing, without end",
        needs: &[],
        stage: fork_storm,
    },
    Case {
        name: "fork_storm_of_subshells",
        about: "a script forks for each small piece of work",
        needs: &[],
        stage: subshells,
    },
    Case { name: "zombies", about: "a program does not wait for its children", needs: &[], stage: zombies },
    Case {
        name: "zombies_of_container",
        about: "process 1 of a pid namespace does not wait for the orphans that it is given",
        needs: &["unshare"],
        stage: namespace_zombies,
    },
];

/// A program of its own name that notes each start in a file, and then does this.
pub(crate) fn program(scene: &Scene, name: &str, then: &str) -> Result<std::path::PathBuf> {
    let path = scene.dir().join(name);
    std::fs::write(&path, format!("#!/bin/sh\necho x >>{}/starts\n{then}\n", scene.dir().display()))?;
    run(&format!("chmod +x '{}'", path.display()))?;
    Ok(path)
}

/// How often the program has been started.
#[allow(clippy::cast_precision_loss, reason = "a few")]
pub(crate) fn starts(dir: &Path) -> Result<f64> {
    Ok(std::fs::read_to_string(dir.join("starts")).unwrap_or_default().lines().count() as f64)
}

/// A loop that starts the program at least so often a second.
fn looping(scene: &mut Scene, starter: u32, says: &'static str, per_second: f64) -> Result<Staged> {
    let dir = scene.dir().to_owned();
    scene.until("the first start", || starts(&dir).is_ok_and(|starts| starts > 0.0))?;
    let marks = [Mark::Process(starter), Mark::Says(says)];
    let least = scene.window_seconds() * per_second;
    Ok(Staged::fault(&["crash_loop"], marks).grows("starts", least, move || starts(&dir)))
}

fn runsv(scene: &mut Scene, then: &str) -> Result<u32> {
    let app = program(scene, "app", then)?;
    let service = scene.dir().join("service");
    std::fs::create_dir(&service)?;
    std::fs::write(service.join("run"), format!("#!/bin/sh\nexec {}\n", app.display()))?;
    run(&format!("chmod +x '{}/run'", service.display()))?;
    scene.spawn(&Run::words("runsv").arg(service.display()))
}

fn runsv_failing(scene: &mut Scene) -> Result<Staged> {
    let starter = runsv(scene, "echo 'cannot bind port 80' >&2; exit 3")?;
    looping(scene, starter, "exit code 3", 0.6)
}

fn runsv_ending(scene: &mut Scene) -> Result<Staged> {
    let starter = runsv(scene, "exit 0")?;
    looping(scene, starter, "ends at once and is started again", 0.6)
}

fn shell_loop(scene: &mut Scene) -> Result<Staged> {
    let app = program(scene, "app", "sleep 0.1; exit 4")?;
    let starter = scene.spawn(&Run::shell(format!("while true; do {}; date; sleep 0.4; done", app.display())))?;
    looping(scene, starter, "exit code 4", 1.0)
}

fn python_supervisor(scene: &mut Scene) -> Result<Staged> {
    let app = program(scene, "app", "kill -SEGV $$")?;
    let script = "import subprocess,sys,time\n\
        while True:\n\
        \x20 subprocess.call([sys.argv[1],'--serve']); time.sleep(0.3)";
    let starter = scene.spawn(&Run::python(script).arg(app.display()))?;
    looping(scene, starter, "sigsegv", 1.5)
}

fn workers(scene: &mut Scene) -> Result<Staged> {
    let script = "import os,time\n\
        while True:\n\
        \x20 if os.fork()==0:\n\
        \x20  open('starts','a').write('x\\n'); time.sleep(0.05); os.abort()\n\
        \x20 time.sleep(0.1); os.wait()";
    let server =
        scene.spawn(&Run::shell("ulimit -c 0; exec \"$@\"").arg("sh").arg("/usr/bin/python3").arg("-c").arg(script))?;
    looping(scene, server, "sigabrt", 3.0)
}

fn oom_loop(scene: &mut Scene) -> Result<Staged> {
    let cgroup = scene.memory_limit(48 << 20)?;
    let app = program(scene, "eater", "exec /usr/bin/python3 -c 'x=[bytearray(1<<20) for _ in range(256)]'")?;
    let script = "import subprocess,sys,time\n\
        while True:\n\
        \x20 subprocess.call([sys.argv[1]]); time.sleep(0.2)";
    let starter = scene.spawn(&Run::python(script).arg(app.display()).in_cgroup(&cgroup))?;
    let dir = scene.dir().to_owned();
    scene.until("the first start", || starts(&dir).is_ok_and(|starts| starts > 1.0))?;
    let marks = [Mark::Any(vec![Mark::Process(starter), Mark::Cgroup(cgroup)])];
    let least = scene.window_seconds() * 0.8;
    Ok(Staged::fault(&["oom_kill", "crash_loop"], marks).grows("starts", least, move || starts(&dir)))
}

/// Processes that the machine has started by now.
fn forks() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("processes "));
    Ok(line.unwrap_or("0").trim().parse()?)
}

fn fork_storm(scene: &mut Scene) -> Result<Staged> {
    let starter = scene.spawn(&Run::shell("while :; do /bin/true; done"))?;
    scene.sleep(std::time::Duration::from_millis(1500))?;
    let marks = [Mark::Process(starter), Mark::Says("true most of all")];
    Ok(Staged::fault(&["fork_storm"], marks).grows("processes", scene.window_seconds() * 300.0, forks))
}

fn subshells(scene: &mut Scene) -> Result<Staged> {
    let starter = scene.spawn(&Run::shell("while :; do x=$(echo $x); done"))?;
    scene.sleep(std::time::Duration::from_millis(1500))?;
    let marks = [Mark::Process(starter), Mark::Says("short processes")];
    Ok(Staged::fault(&["fork_storm"], marks).grows("processes", scene.window_seconds() * 300.0, forks))
}

/// How many of the session have ended and are still there.
#[allow(clippy::cast_precision_loss, reason = "a few")]
fn ended(session: u32) -> f64 {
    let is_of = |stat: String| {
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect();
        Some(fields.first()? == "Z" && fields.get(3)?.parse() == Ok(session))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| is_of(stat.clone()) == Some(true)).count() as f64
}

fn zombies(scene: &mut Scene) -> Result<Staged> {
    let script = "import os,time\n\
        while True:\n\
        \x20 for _ in range(2):\n\
        \x20  if os.fork()==0: os._exit(0)\n\
        \x20 time.sleep(0.05)";
    let starter = scene.spawn(&Run::python(script))?;
    scene.until("zombies", || ended(starter) > 30.0)?;
    let marks = [Mark::Process(starter), Mark::Says("does not wait for its children")];
    Ok(Staged::fault(&["zombies"], marks).reaches("zombies", 60.0, move || Ok(ended(starter))))
}

fn namespace_zombies(scene: &mut Scene) -> Result<Staged> {
    let script = "import os,time\n\
        for _ in range(60):\n\
        \x20 if (p:=os.fork())==0:\n\
        \x20  if os.fork()==0: time.sleep(0.2); os._exit(0)\n\
        \x20  os._exit(0)\n\
        \x20 os.waitpid(p,0)\n\
        time.sleep(600)";
    let unshare = ["unshare", "--pid", "--fork", "--kill-child", "/usr/bin/python3", "-c", script];
    let starter = scene.spawn(&Run::new(unshare))?;
    scene.until("zombies", || ended(starter) > 50.0)?;
    let marks = [Mark::Process(starter), Mark::Says("process 1 of its container")];
    Ok(Staged::fault(&["zombies"], marks).reaches("zombies", 50.0, move || Ok(ended(starter))))
}
