//! Limits of the kernel that are reached: processes, ports, watches, keys and so on. In cgroups, namespaces and of users of the lab's own.

use std::path::PathBuf;

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, number_in, run, undo};

const RULE: &[&str] = &["limit_reached"];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "pids_max_zombies",
        about: "the first process of a container never waits, and its zombies fill pids.max",
        needs: &[],
        stage: zombies,
    },
    Case {
        name: "pids_max_workers",
        about: "a pool of workers fills pids.max of the cgroup above, and another program cannot fork",
        needs: &[],
        stage: workers,
    },
    Case {
        name: "ephemeral_ports",
        about: "a client opens a connection for each request until no local port is left",
        needs: &["ip"],
        stage: ports,
    },
    Case {
        name: "ephemeral_ports_curl",
        about: "a script runs curl for each request until no local port is left; each curl fails once and is gone",
        needs: &["ip", "nginx", "curl"],
        stage: ports_curl,
    },
    Case {
        name: "conntrack_full",
        about: "the table of tracked connections is full, and new connections get no answer",
        needs: &["ip", "nft"],
        stage: conntrack,
    },
    Case {
        name: "inotify_instances",
        about: "a user has as many inotifywait as it may have; each further one gives up",
        needs: &["inotifywait"],
        stage: inotify,
    },
    Case {
        name: "aio_max_nr",
        about: "one fio has most requests of asynchronous I/O, and another cannot start",
        needs: &["fio"],
        stage: aio,
    },
    Case { name: "keys_quota", about: "a program adds keys until its user may have no more", needs: &[], stage: keys },
    Case { name: "user_processes", about: "a user starts as many processes as it may have", needs: &[], stage: nproc },
    Case {
        name: "map_count",
        about: "a program maps memory until it has as many mappings as it may have",
        needs: &[],
        stage: mappings,
    },
    Case { name: "shm_full", about: "/dev/shm of a container is full", needs: &[], stage: shm },
    Case {
        name: "semaphore_sets",
        about: "a program makes semaphores in an IPC namespace until there are as many as may be",
        needs: &[],
        stage: semaphores,
    },
    Case {
        name: "terminals",
        about: "a program opens terminals until an instance of devpts has no more",
        needs: &[],
        stage: terminals,
    },
];

/// Does something again and again, which fails from some time on; the number of failures goes into the file `count`.
fn repeated(setup: &str, attempt: &str) -> String {
    format!(
        "import ctypes,mmap,os,resource,socket,time\nlibc=ctypes.CDLL(None,use_errno=True); count=os.open('count',os.O_CREAT|os.O_WRONLY); kept=[]; failed=0\n\
         def made(result):\n if result<0: raise OSError(ctypes.get_errno(),'')\n return result\n{setup}\n\
         while True:\n\
         \x20 try: {attempt}\n\
         \x20 except OSError:\n\
         \x20  failed+=1; os.pwrite(count,str(failed).encode(),0); time.sleep(0.1)"
    )
}

/// The finding names who fills it and who fails, and failures go on.
fn reached(scene: &Scene, count: PathBuf, marks: Vec<Mark>) -> Result<Staged> {
    scene.until("the limit", || number_in(&count) > 0.0)?;
    let failures = scene.window_seconds() * 2.0;
    Ok(Staged::fault(RULE, marks).grows("failed calls", failures, move || Ok(number_in(&count))))
}

/// The limit and the culprit are known, and it is the one who fails.
fn own(scene: &mut Scene, run: &Run, says: &'static str) -> Result<Staged> {
    let pid = scene.spawn(run)?;
    let count = scene.dir().join("count");
    reached(scene, count, vec![Mark::Process(pid), Mark::Victim(pid), Mark::Says(says)])
}

/// Runs this in namespaces of its own.
fn unshared(flags: &str, script: &str) -> Run {
    let mut words = vec!["unshare".to_owned()];
    words.extend(flags.split_whitespace().map(str::to_owned));
    words.extend(["/usr/bin/python3", "-u", "-c", script].map(str::to_owned));
    Run::new(words)
}

/// A user that nobody else is.
const USER: u32 = 54321;

fn as_user(scene: &Scene, setup: &str, attempt: &str) -> Result<Run> {
    run(&format!("chmod 711 {0} && touch {0}/count && chmod 666 {0}/count", scene.dir().display()))?;
    Ok(Run::python(repeated(&format!("os.setgid({USER}); os.setuid({USER}); {setup}"), attempt)))
}

const FORK: &str = "pid=os.fork()";

fn zombies(scene: &mut Scene) -> Result<Staged> {
    let cgroup = scene.pids_limit(40)?;
    let script = repeated("", &format!("{FORK}; pid or os._exit(0); time.sleep(0.02)"));
    let init = scene.spawn(&unshared("--pid --fork --kill-child", &script).in_cgroup(&cgroup))?;
    let marks = vec![Mark::Process(init), Mark::Cgroup(cgroup), Mark::Says("zombies")];
    let count = scene.dir().join("count");
    reached(scene, count, marks)
}

fn workers(scene: &mut Scene) -> Result<Staged> {
    let cgroup = scene.pids_limit(40)?;
    let inner = cgroup.join("inner");
    std::fs::create_dir(&inner)?;
    let remove = inner.clone();
    scene.at_end(move || crate::scene::undo_patiently(&format!("rmdir {}", remove.display())));
    let pool = "import os,time\n\
        for _ in range(60):\n\
        \x20 try:\n\
        \x20  if os.fork()==0: time.sleep(600); os._exit(0)\n\
        \x20 except OSError: break\n\
        time.sleep(600)";
    let victim =
        Run::python(repeated("time.sleep(1)", &format!("{FORK}; pid or os._exit(0); os.wait()"))).in_cgroup(&cgroup);
    let victim = scene.spawn(&victim)?;
    let pool = scene.spawn(&Run::python(pool).in_cgroup(&inner))?;
    let marks = vec![Mark::Process(pool), Mark::Cgroup(cgroup), Mark::Victim(victim), Mark::Says("pids.max")];
    let count = scene.dir().join("count");
    reached(scene, count, marks)
}

/// So few that they are used up at once.
fn few_ports(scene: &mut Scene) -> Result<String> {
    let net = scene.lonely_net()?;
    let set = |file: &str, value: &str| {
        run(&format!("nsenter --net=/run/netns/{net} -- sh -c 'echo {value} > /proc/sys/net/ipv4/{file}'"))
    };
    set("ip_local_port_range", "40000 40060")?;
    set("tcp_tw_reuse", "0")?;
    Ok(net)
}

fn ports(scene: &mut Scene) -> Result<Staged> {
    let net = few_ports(scene)?;
    let server = "import socket\ns=socket.create_server(('127.0.0.1',8080),backlog=64)\nwhile True:\n c=s.accept()[0]; c.recv(1); c.close()";
    scene.spawn(&Run::python(server).in_net(&net))?;
    let client =
        repeated("time.sleep(0.5)", "s=socket.create_connection(('127.0.0.1',8080)); s.close(); time.sleep(0.005)");
    let client = scene.spawn(&Run::python(client).in_net(&net))?;
    let marks = vec![
        Mark::Process(client),
        Mark::Victim(client),
        Mark::Remote("127.0.0.1:8080".to_owned()),
        Mark::Says("time_wait"),
    ];
    let count = scene.dir().join("count");
    reached(scene, count, marks)
}

fn ports_curl(scene: &mut Scene) -> Result<Staged> {
    let net = few_ports(scene)?;
    let dir = scene.dir().to_owned();
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;\n\
         uwsgi_temp_path {0}/d; scgi_temp_path {0}/e; server {{ listen 127.0.0.1:80; return 200 ok; }} }}",
        dir.display()
    );
    std::fs::write(dir.join("conf"), config)?;
    scene.spawn(&Run::words("nginx -e stderr -c").arg(dir.join("conf").display()).in_net(&net))?;
    let pid = dir.join("pid");
    scene.until("nginx", || pid.exists())?;
    let script = "n=0; while :; do curl -s -o /dev/null http://127.0.0.1/ || { n=$((n+1)); echo $n > count; }; done";
    scene.spawn(&Run::shell(script).in_net(&net))?;
    // Each lives too short to be known here.
    let marks = vec![Mark::Remote("127.0.0.1:80".to_owned()), Mark::Says("time_wait")];
    reached(scene, dir.join("count"), marks)
}

fn conntrack(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let rules = "add table ip lab; add chain ip lab out { type filter hook output priority 0; }; add rule ip lab out ct state new counter";
    run(&format!("nsenter --net=/run/netns/{net} -- nft '{rules}'"))?;
    // Of the whole machine; others track hardly any.
    const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
    let before = number_in(MAX.as_ref());
    scene.at_end(move || undo(&format!("echo {before} > {MAX}")));
    run(&format!("echo 64 > {MAX}"))?;
    let script = repeated(
        "s=socket.create_server(('127.0.0.1',8080),backlog=900)",
        "c=socket.socket(); kept=kept[-70:]+[c]; c.settimeout(0.3); c.connect(('127.0.0.1',8080))",
    );
    let client = scene.spawn(&Run::python(script).in_net(&net))?;
    let marks = vec![Mark::Process(client), Mark::Victim(client), Mark::Says("nf_conntrack_max")];
    let count = scene.dir().join("count");
    // It has as many sockets as it will ever have.
    scene.until("the limit", || number_in(&count) > 9.0)?;
    let failures = scene.window_seconds() * 0.5;
    Ok(Staged::fault(RULE, marks).grows("connects without an answer", failures, move || Ok(number_in(&count))))
}

fn inotify(scene: &mut Scene) -> Result<Staged> {
    run(&format!("chmod 711 {0} && touch {0}/count && chmod 666 {0}/count", scene.dir().display()))?;
    let most = number_in("/proc/sys/fs/inotify/max_user_instances".as_ref());
    let script = format!(
        "i=0; while [ $i -lt {most} ]; do inotifywait -qm /tmp >/dev/null 2>&1 & i=$((i+1)); done; sleep 1; n=0\n\
         while :; do inotifywait -qm /tmp >/dev/null 2>&1 || {{ n=$((n+1)); echo $n > count; }}; sleep 0.2; done"
    );
    let user = format!("setpriv --reuid={USER} --regid={USER} --clear-groups sh -c");
    let watcher = scene.spawn(&Run::words(&user).arg(script))?;
    let marks = vec![Mark::Process(watcher), Mark::Says("fs.inotify.max_user_instances")];
    let count = scene.dir().join("count");
    scene.until("the limit", || number_in(&count) > 0.0)?;
    let failures = scene.window_seconds();
    Ok(Staged::fault(RULE, marks).grows("inotifywait that gave up", failures, move || Ok(number_in(&count))))
}

fn aio(scene: &mut Scene) -> Result<Staged> {
    let dir = scene.memory_dir(64)?;
    let fio = |name: &str, jobs: u32| {
        format!(
            "fio --name={name} --ioengine=libaio --iodepth=4096 --numjobs={jobs} --size=1m --rw=randread --bs=4k --thinktime=500ms --thinktime_blocks=1 \
             --runtime=600 --time_based --filename={}/{name} --output-format=terse",
            dir.display()
        )
    };
    let free = number_in("/proc/sys/fs/aio-max-nr".as_ref()) - number_in("/proc/sys/fs/aio-nr".as_ref());
    // Each takes somewhat more than it asks for.
    let jobs = (free / 4096.0 * 0.85).max(1.0) as u32;
    let holder = scene.spawn(&Run::words(&fio("holder", jobs)))?;
    let taken = move || number_in("/proc/sys/fs/aio-nr".as_ref()) >= f64::from(jobs) * 4096.0;
    scene.until("the first fio", taken)?;
    let script = format!(
        "n=0; while :; do timeout 3 {} 2>&1 | grep -q io_queue_init && {{ n=$((n+1)); echo $n > count; }}; sleep 0.1; done",
        fio("second", 6)
    );
    scene.spawn(&Run::shell(script))?;
    let marks = vec![Mark::Process(holder), Mark::Says("fs.aio-max-nr")];
    let count = scene.dir().join("count");
    scene.until("the limit", || number_in(&count) > 0.0)?;
    let failures = scene.window_seconds() * 0.3;
    Ok(Staged::fault(RULE, marks).grows("fio that could not start", failures, move || Ok(number_in(&count))))
}

fn keys(scene: &mut Scene) -> Result<Staged> {
    // SYS_add_key, KEY_SPEC_SESSION_KEYRING
    let number = if cfg!(target_arch = "aarch64") { 217 } else { 248 };
    let add = format!("kept.append(made(libc.syscall({number},b'user',b'kerno-lab-%d'%len(kept),b'x',1,-3)))");
    let run = as_user(scene, "", &add)?;
    own(scene, &run, "kernel.keys.max")
}

fn nproc(scene: &mut Scene) -> Result<Staged> {
    let run = as_user(
        scene,
        "resource.setrlimit(resource.RLIMIT_NPROC,(30,30))",
        &format!("{FORK}; pid or (time.sleep(600), os._exit(0))"),
    )?;
    own(scene, &run, "rlimit_nproc")
}

fn mappings(scene: &mut Scene) -> Result<Staged> {
    // Neighbours that may not be merged.
    own(scene, &Run::python(repeated("", "kept.append(mmap.mmap(-1,4096,prot=1+2*(len(kept)%2)))")), "vm.max_map_count")
}

fn shm(scene: &mut Scene) -> Result<Staged> {
    let script = repeated("f=os.open('/dev/shm/kerno-lab',os.O_CREAT|os.O_WRONLY)", "os.write(f,b'x'*65536)");
    let shell = Run::words("unshare --mount sh -c")
        .arg("mount -t tmpfs -o size=8m shm /dev/shm && exec /usr/bin/python3 -uc \"$0\"")
        .arg(script);
    own(scene, &shell, "/dev/shm")
}

fn semaphores(scene: &mut Scene) -> Result<Staged> {
    let script = repeated(
        "open('/proc/sys/kernel/sem','w').write('250 32000 32 64')",
        "kept.append(made(libc.semget(0,1,0o1600)))",
    );
    own(scene, &unshared("--ipc", &script), "kernel.sem")
}

fn terminals(scene: &mut Scene) -> Result<Staged> {
    let script = repeated("", "kept.append(os.open('/dev/ptmx',os.O_RDWR|os.O_NOCTTY))");
    let mounts =
        "mount -t devpts -o newinstance,max=12,ptmxmode=666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx";
    let shell =
        Run::words("unshare --mount sh -c").arg(format!("{mounts} && exec /usr/bin/python3 -uc \"$0\"")).arg(script);
    own(scene, &shell, "kernel.pty.max")
}
