//! Programs that people run, of which one stands still and others with it.

use std::path::Path;

use anyhow::Result;
use rustix::process::Signal;

use super::standing::{PIPE_WRITE, is_in, sleeps, state};
use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, kill, members, run};
use crate::stage::counter;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "rsyslog_stopped",
        about: "rsyslogd is stopped, and logger(1) stands still at its socket",
        needs: &["rsyslogd", "logger"],
        stage: rsyslog_stopped,
    },
    Case {
        name: "backup_to_nobody",
        about: "tar packs into gzip, and what gzip writes to is open and not read",
        needs: &["tar", "gzip"],
        stage: backup_to_nobody,
    },
    Case {
        name: "make_waits_for_stopped",
        about: "one of the commands that make(1) runs is stopped",
        needs: &["make"],
        stage: make_waits_for_stopped,
    },
    Case {
        name: "frozen_web_server",
        about: "the cgroup of nginx is frozen while curl fetches from it",
        needs: &["nginx", "curl"],
        stage: frozen_web_server,
    },
    Case {
        name: "stuck_upstream",
        about: "what nginx forwards to takes no more connections",
        needs: &["nginx", "wrk"],
        stage: stuck_upstream,
    },
    Case {
        name: "redis_hangs_at_its_socket",
        about: "a Redis hangs in a command, and clients connect to its Unix socket",
        needs: &["redis-server"],
        stage: redis_hangs,
    },
    Case {
        name: "terminal_not_read",
        about: "a program that made a terminal for another does not read what that one prints",
        needs: &[],
        stage: terminal_not_read,
    },
    Case {
        name: "spool_locked",
        about: "a job holds the lock of a spool that two others want, and sleeps",
        needs: &[],
        stage: spool_lock,
    },
    Case {
        name: "stopped_strace",
        about: "somebody has stopped the strace that traces a Redis",
        needs: &["redis-server", "redis-cli", "strace"],
        stage: stopped_strace,
    },
];

fn rsyslog_stopped(scene: &mut Scene) -> Result<Staged> {
    let dir = scene.dir().to_owned();
    let config = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket=\"{0}/log\" RateLimit.Interval=\"0\")\n\
         global(workDirectory=\"{0}\")\n*.* action(type=\"omfile\" file=\"{0}/messages\")\n",
        dir.display()
    );
    std::fs::write(dir.join("rsyslog.conf"), config)?;
    let daemon = format!("exec rsyslogd -n -i {0}/rsyslog.pid -f {0}/rsyslog.conf", dir.display());
    let daemon = scene.spawn(&Run::shell(daemon))?;
    let messages = dir.join("messages");
    // Each line is a datagram.
    let log = format!("while :; do seq 1 1000; sleep .01; done | exec logger --socket {}/log -t app", dir.display());
    let socket = dir.join("log");
    scene.until("rsyslogd", || socket.exists())?;
    let logger = scene.spawn(&Run::shell(log))?;
    scene.until("the first messages", || std::fs::metadata(&messages).is_ok_and(|file| file.len() > 0))?;
    kill(daemon, Signal::STOP);
    let channels: &[&str] = &["unix_wait_for_peer", "sock_alloc_send_pskb"];
    scene.until("logger to sleep", || is_in(logger, channels))?;
    let marks = [Mark::Process(daemon), Mark::Victim(logger), Mark::Says("rsyslogd (")];
    Ok(sleeps(Staged::fault(&["stopped_process"], marks), "logger", logger, channels))
}

fn backup_to_nobody(scene: &mut Scene) -> Result<Staged> {
    run(&format!("mkfifo '{}/out'", scene.dir().display()))?;
    let receiver = scene.spawn(&Run::shell("exec sleep 600 <out"))?;
    let backup = scene.spawn(&Run::shell("tar cf - /usr/lib 2>/dev/null | gzip -1 >out"))?;
    let pipes = || {
        let asleep = |pid: &u32| {
            let channel = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            PIPE_WRITE.iter().any(|wanted| channel.contains(wanted))
        };
        members(backup).iter().filter(|pid| asleep(pid)).count() >= 2
    };
    scene.until("both to sleep", pipes)?;
    let marks = [Mark::Process(receiver), Mark::Victim(backup), Mark::Says("sleep (")];
    Ok(sleeps(Staged::fault(&["stalled_peer"], marks), "the backup", backup, PIPE_WRITE))
}

fn make_waits_for_stopped(scene: &mut Scene) -> Result<Staged> {
    std::fs::write(scene.dir().join("Makefile"), "all:\n\t@echo $$$$ >pid; kill -STOP $$$$; sleep 1\n")?;
    let make = scene.spawn(&Run::words("make"))?;
    let pid = scene.dir().join("pid");
    let stopped = move || {
        let pid = std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse().ok());
        f64::from(u8::from(pid.is_some_and(|pid| state(pid) == 'T')))
    };
    scene.until("the command to be stopped", || stopped() > 0.0)?;
    let marks = [Mark::Process(make), Mark::Says("is stopped"), Mark::Says("make (")];
    Ok(Staged::fault(&["stopped_process"], marks).reaches("the command stopped", 1.0, move || Ok(stopped())))
}

/// One process of nginx that listens there, started as is said, with what it does at `/`.
fn nginx(scene: &mut Scene, port: u32, serves: &str, start: impl FnOnce(Run) -> Run) -> Result<u32> {
    let dir = scene.dir().to_owned();
    let config = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;\n\
         uwsgi_temp_path {0}/d; scgi_temp_path {0}/e; server {{ listen 127.0.0.1:{port}; {serves} }} }}",
        dir.display()
    );
    std::fs::write(dir.join("conf"), config)?;
    let server = scene.spawn(&start(Run::words("nginx -e stderr -c").arg(dir.join("conf").display())))?;
    let started = dir.join("pid");
    scene.until("nginx", || started.exists())?;
    Ok(server)
}

fn stuck_upstream(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let script = "import socket,time\ns=socket.create_server(('127.0.0.1',9000),backlog=4); open('ready','w')\n\
        c,_=s.accept(); time.sleep(600)";
    let upstream = scene.spawn(&Run::python(script).in_net(&net))?;
    let ready = scene.dir().join("ready");
    scene.until("the upstream", || ready.exists())?;
    let serves = "location / { proxy_pass http://127.0.0.1:9000; proxy_connect_timeout 2s; }";
    nginx(scene, 8080, serves, |nginx| nginx.in_net(&net))?;
    scene.spawn(&Run::words("wrk -t1 -c32 -d600s --timeout 30s http://127.0.0.1:8080/").in_net(&net))?;
    let marks = [Mark::Any(vec![Mark::Process(upstream), Mark::Local("127.0.0.1:9000".to_owned())])];
    Ok(Staged::fault(&["tcp_accept_queue_overflow"], marks).grows(
        "overflows",
        scene.window_seconds() * 5.0,
        move || counter(&net, "TcpExtListenOverflows"),
    ))
}

fn frozen_web_server(scene: &mut Scene) -> Result<Staged> {
    let (cgroup, file, freeze) = scene.freezer()?;
    let port = 20_000 + std::process::id() % 10_000;
    let root = format!("root {};", scene.dir().display());
    let server = nginx(scene, port, &root, |nginx| nginx.in_cgroup(&cgroup))?;
    std::fs::write(file, freeze)?;
    for _ in 0..3 {
        scene.spawn(&Run::shell(format!("exec curl -s http://127.0.0.1:{port}/")))?;
    }
    let waiting = move || {
        let text = run(&format!("ss -Hltn 'sport = :{port}'"))?;
        Ok(text.split_whitespace().nth(1).and_then(|queued| queued.parse().ok()).unwrap_or(0.0))
    };
    scene.until("the clients to connect", || waiting().is_ok_and(|queued| queued >= 3.0))?;
    let marks = [Mark::Process(server), Mark::Says("is frozen"), Mark::Says("nginx (")];
    Ok(Staged::fault(&["stopped_process"], marks).reaches("connections that wait", 3.0, waiting))
}

fn redis_hangs(scene: &mut Scene) -> Result<Staged> {
    let socket = scene.dir().join("redis.sock");
    let redis = "redis-server --port 0 --save --appendonly no --tcp-backlog 2 --enable-debug-command yes --unixsocket";
    let server = scene.spawn(&Run::words(redis).arg(socket.display()))?;
    scene.until("redis", || socket.exists())?;
    let cli = format!("redis-cli -s {}", socket.display());
    scene.spawn(&Run::words(&format!("{cli} DEBUG SLEEP 600")))?;
    scene.until("redis to hang", || is_in(server, &["hrtimer_nanosleep", "common_nsleep", "do_nanosleep"]))?;
    // As many as wait there, and then it is full.
    for _ in 0..3 {
        scene.spawn(&Run::words(&format!("{cli} PING")))?;
    }
    scene.sleep(std::time::Duration::from_millis(300))?;
    let asks =
        format!("n=0; while :; do timeout 3 {cli} PING >/dev/null 2>&1 || n=$((n+1)); echo $n >count; sleep .02; done");
    scene.spawn(&Run::shell(asks))?;
    let counted = scene.dir().join("count");
    scene.until("the first to fail", || counted.exists())?;
    let marks = [Mark::Process(server), Mark::Says("redis.sock")];
    Ok(Staged::fault(&["unix_backlog_full", "stalled_peer"], marks).grows(
        "connects that failed",
        scene.window_seconds() * 5.0,
        move || Ok(crate::scene::number_in(&counted)),
    ))
}

fn terminal_not_read(scene: &mut Scene) -> Result<Staged> {
    let script = "import os,pty,time\n\
        pid,fd=pty.fork()\n\
        if pid==0: os.execvp('seq',['seq','1','1000000000'])\n\
        time.sleep(600)";
    let pid = scene.spawn(&Run::python(script))?;
    let writes: &[&str] = &["n_tty_write", "wait_woken"];
    scene.until("seq", || members(pid).len() > 1 || !children_of(pid).is_empty())?;
    scene.until("seq to sleep", || children_of(pid).iter().any(|pid| asleep_in(*pid, writes)))?;
    let marks = [Mark::Process(pid), Mark::Says("/dev/pts/")];
    Ok(Staged::fault(&["stalled_peer"], marks).reaches("seq asleep there", 1.0, move || {
        Ok(f64::from(u8::from(children_of(pid).iter().any(|pid| asleep_in(*pid, writes)))))
    }))
}

/// The children of a process, which may have sessions of their own.
fn children_of(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn asleep_in(pid: u32, channels: &[&str]) -> bool {
    let channel = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("wchan")).unwrap_or_default();
    channels.iter().any(|wanted| channel.contains(wanted))
}

fn spool_lock(scene: &mut Scene) -> Result<Staged> {
    // POSIX locks, as mail servers and databases take them.
    let script =
        "import fcntl,time\nf=open('spool','w'); fcntl.lockf(f,fcntl.LOCK_EX); open('held','w'); time.sleep(600)";
    let holder = scene.spawn(&Run::python(script))?;
    let held = scene.dir().join("held");
    scene.until("the lock", || held.exists())?;
    let waits = "import fcntl\nf=open('spool','w'); fcntl.lockf(f,fcntl.LOCK_EX)";
    let waiters: Vec<u32> = (0..2).map(|_| scene.spawn(&Run::python(waits))).collect::<Result<_>>()?;
    let channels: &[&str] = &["fcntl_setlk", "locks_lock_inode", "posix_lock", "do_lock_file_wait"];
    scene.until("the jobs to wait", || waiters.iter().all(|waiter| is_in(*waiter, channels)))?;
    let last = waiters.last().copied().unwrap_or_default();
    let marks = [Mark::Process(holder), Mark::Victim(last), Mark::Says("spool")];
    Ok(sleeps(Staged::fault(&["lock_held"], marks), "the last job", last, channels))
}

fn stopped_strace(scene: &mut Scene) -> Result<Staged> {
    let socket = scene.dir().join("redis.sock");
    let server = Run::words("redis-server --port 0 --save --appendonly no --unixsocket").arg(socket.display());
    let server = scene.spawn(&server)?;
    scene.until("redis", || socket.exists())?;
    let strace = scene.spawn(&Run::words("strace -f -o /dev/null -p").arg(server))?;
    let traced = move || {
        let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    };
    scene.until("strace", traced)?;
    kill(strace, Signal::STOP);
    // It goes on until the next thing that strace would have to note.
    let ping = Run::words(&format!("redis-cli -s {} PING", socket.display()));
    for _ in 0..3 {
        scene.spawn(&ping)?;
    }
    scene.until("redis to be held", || state(server) == 't')?;
    let marks = [Mark::Process(server), Mark::Says("redis-server ("), Mark::Says("strace (")];
    Ok(Staged::fault(&["stopped_process"], marks)
        .reaches("redis held", 1.0, move || Ok(f64::from(u8::from(state(server) == 't')))))
}
