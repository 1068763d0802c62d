//! Processes that stand still because others do not do their part.

use anyhow::Result;
use rustix::process::Signal;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, kill, members, run};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "stopped_log_reader",
        about: "the process that reads a service's standard output is stopped",
        needs: &[],
        stage: stopped_log_reader,
    },
    Case {
        name: "fifo_not_read",
        about: "a program has a named pipe open and does not read from it",
        needs: &["mkfifo"],
        stage: fifo_not_read,
    },
    Case {
        name: "unix_socket_not_read",
        about: "a server does not read what its client sends over a Unix socket",
        needs: &[],
        stage: unix_socket_not_read,
    },
    Case {
        name: "log_daemon_asleep",
        about: "a log daemon does not read its datagram socket, as /dev/log is one",
        needs: &[],
        stage: log_daemon_asleep,
    },
    Case {
        name: "tcp_not_read",
        about: "a server does not read what its client sends over TCP",
        needs: &[],
        stage: tcp_not_read,
    },
    Case {
        name: "flock_convoy",
        about: "four jobs wait for a lock of a file that a fifth one holds",
        needs: &["flock"],
        stage: flock_convoy,
    },
    Case {
        name: "file_lock_deadlock",
        about: "two programs each hold a lock of a file that the other one wants",
        needs: &[],
        stage: file_lock_deadlock,
    },
    Case {
        name: "mutex_deadlock",
        about: "two threads of a program each hold a mutex that the other one wants",
        needs: &[],
        stage: mutex_deadlock,
    },
    Case {
        name: "stopped_server",
        about: "a server is stopped while clients connect",
        needs: &[],
        stage: stopped_server,
    },
    Case {
        name: "traced_reader",
        about: "a forgotten debugger holds the last of a pipeline of three",
        needs: &["mkfifo"],
        stage: traced_reader,
    },
    Case {
        name: "frozen_reader",
        about: "the cgroup of a process that reads from a pipe is frozen",
        needs: &["mkfifo"],
        stage: frozen_reader,
    },
    Case {
        name: "unix_backlog",
        about: "all workers behind a Unix socket are busy, and its backlog is full",
        needs: &[],
        stage: unix_backlog,
    },
];

/// Proves that a thread of a session sleeps in one of these functions of the kernel.
pub(super) fn sleeps(staged: Staged, who: &str, session: u32, channels: &'static [&'static str]) -> Staged {
    staged.reaches(&format!("{who} asleep there"), 1.0, move || Ok(f64::from(u8::from(is_in(session, channels)))))
}

/// Whether any thread of a session sleeps in one of these functions.
pub(super) fn is_in(session: u32, channels: &[&str]) -> bool {
    let sleeps = |pid: u32| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut channel =
            threads.map(|thread| std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default());
        channel.any(|channel| channels.iter().any(|wanted| channel.contains(wanted)))
    };
    members(session).into_iter().any(sleeps)
}

/// The letter of a process's state.
pub(super) fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

pub(super) const PIPE_WRITE: &[&str] = &["pipe_write"];

fn stopped_log_reader(scene: &mut Scene) -> Result<Staged> {
    let service = "import time\nwhile True: print('GET /api 200'*50); time.sleep(.005)";
    let both = format!("/usr/bin/python3 -u -c \"{service}\" | sh -c 'kill -STOP $$; exec cat >/dev/null'");
    let pid = scene.spawn(&Run::shell(both))?;
    scene.until("the writer to sleep", || is_in(pid, PIPE_WRITE))?;
    Ok(sleeps(
        Staged::fault(&["stopped_process"], [Mark::Process(pid), Mark::Says("sh ("), Mark::Says("is stopped")]),
        "the service",
        pid,
        PIPE_WRITE,
    ))
}

/// A reader of a named pipe that does not read, and a writer into it.
fn fifo(scene: &mut Scene) -> Result<(u32, u32)> {
    run(&format!("mkfifo '{}/fifo'", scene.dir().display()))?;
    let reader = scene.spawn(&Run::python("import time\nf=open('fifo','rb')\ntime.sleep(600)"))?;
    let writer = scene.spawn(&Run::shell("exec yes >fifo"))?;
    scene.until("the writer to sleep", || is_in(writer, PIPE_WRITE))?;
    Ok((reader, writer))
}

fn fifo_not_read(scene: &mut Scene) -> Result<Staged> {
    let (reader, writer) = fifo(scene)?;
    let staged = Staged::fault(&["stalled_peer"], [Mark::Process(reader), Mark::Victim(writer), Mark::Says("/fifo")]);
    Ok(sleeps(staged, "the writer", writer, PIPE_WRITE))
}

/// A server that does not read, and a client that sends to it for ever.
fn unread(scene: &mut Scene, server: &str, client: &str, channels: &'static [&'static str]) -> Result<Staged> {
    let server = scene.spawn(&Run::python(server))?;
    let ready = scene.dir().join("ready");
    scene.until("the server", || ready.exists())?;
    let client = scene.spawn(&Run::python(client))?;
    scene.until("the client to sleep", || is_in(client, channels))?;
    let staged = Staged::fault(&["stalled_peer"], [Mark::Process(server), Mark::Victim(client)]);
    Ok(sleeps(staged, "the client", client, channels))
}

fn unix_socket_not_read(scene: &mut Scene) -> Result<Staged> {
    unread(
        scene,
        "import socket,time\ns=socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen(); open('ready','w')\n\
         c,_=s.accept(); time.sleep(600)",
        "import socket\ns=socket.socket(socket.AF_UNIX); s.connect('socket')\nwhile True: s.sendall(b'x'*4096)",
        &["sock_alloc_send_pskb", "unix_stream"],
    )
}

fn log_daemon_asleep(scene: &mut Scene) -> Result<Staged> {
    unread(
        scene,
        "import socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind('devlog'); open('ready','w')\n\
         time.sleep(600)",
        "import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.connect('devlog')\n\
         while True: s.send(b'<13>job: done')",
        &["unix_wait_for_peer", "sock_alloc_send_pskb"],
    )
}

fn tcp_not_read(scene: &mut Scene) -> Result<Staged> {
    let port = 30_000 + std::process::id() % 10_000;
    unread(
        scene,
        &format!(
            "import socket,time\ns=socket.create_server(('127.0.0.1',{port})); open('ready','w')\n\
             c,_=s.accept(); time.sleep(600)"
        ),
        &format!("import socket\ns=socket.create_connection(('127.0.0.1',{port}))\nwhile True: s.sendall(b'x'*65536)"),
        &["sk_stream_wait_memory", "wait_woken"],
    )
}

fn flock_convoy(scene: &mut Scene) -> Result<Staged> {
    let holder = scene.spawn(&Run::words("flock job.lock sleep 600"))?;
    let lock = scene.dir().join("job.lock");
    scene.until("the lock", || lock.exists() && members(holder).len() > 1)?;
    let waiters: Vec<u32> = (0..4).map(|_| scene.spawn(&Run::words("flock job.lock true"))).collect::<Result<_>>()?;
    let channels: &[&str] = &["flock", "locks_lock_inode"];
    scene.until("the jobs to wait", || waiters.iter().all(|waiter| is_in(*waiter, channels)))?;
    let last = waiters.last().copied().unwrap_or_default();
    let marks = [Mark::Process(holder), Mark::Victim(last), Mark::Says("job.lock")];
    Ok(sleeps(Staged::fault(&["lock_held"], marks), "the last job", last, channels))
}

fn file_lock_deadlock(scene: &mut Scene) -> Result<Staged> {
    let script = "import fcntl,sys,time\n\
        a,b=open(sys.argv[1],'w'),open(sys.argv[2],'w')\n\
        fcntl.flock(a,fcntl.LOCK_EX); time.sleep(.5); fcntl.flock(b,fcntl.LOCK_EX)";
    let one = scene.spawn(&Run::python(script).arg("a.lock").arg("b.lock"))?;
    let other = scene.spawn(&Run::python(script).arg("b.lock").arg("a.lock"))?;
    let channels: &[&str] = &["flock", "locks_lock_inode"];
    scene.until("both to wait", || is_in(one, channels) && is_in(other, channels))?;
    let either = Mark::Any(vec![Mark::Process(one), Mark::Process(other)]);
    let staged = Staged::fault(&["lock_held"], [either, Mark::Says("wait for each other")]);
    Ok(sleeps(staged, "one of the two", one, channels))
}

fn mutex_deadlock(scene: &mut Scene) -> Result<Staged> {
    let script = "import ctypes,threading,time\n\
        c=ctypes.CDLL(None); a,b=ctypes.create_string_buffer(64),ctypes.create_string_buffer(64)\n\
        def both(x,y): c.pthread_mutex_lock(x); time.sleep(.5); c.pthread_mutex_lock(y)\n\
        for x,y in (a,b),(b,a): threading.Thread(target=both,args=(x,y)).start()";
    let pid = scene.spawn(&Run::python(script))?;
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count();
    scene.until("its threads", || threads() == 3)?;
    scene.sleep(std::time::Duration::from_secs(1))?;
    let staged = Staged::fault(&["lock_held"], [Mark::Process(pid), Mark::Says("wait for each other")]);
    Ok(sleeps(staged, "its threads", pid, &["futex"]))
}

fn stopped_server(scene: &mut Scene) -> Result<Staged> {
    let server = scene.spawn(&Run::python(
        "import socket,time\ns=socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen(64); open('ready','w')\n\
         while True:\n c,_=s.accept(); c.sendall(b'hello'); c.close()",
    ))?;
    let ready = scene.dir().join("ready");
    scene.until("the server", || ready.exists())?;
    kill(server, Signal::STOP);
    scene.spawn(&Run::python(
        "import socket,time\nall=[]\nwhile len(all)<5:\n s=socket.socket(socket.AF_UNIX); s.connect('socket'); all.append(s)\n\
         all[0].recv(5)",
    ))?;
    let marks = [Mark::Process(server), Mark::Says("is stopped"), Mark::Says("client")];
    Ok(Staged::fault(&["stopped_process"], marks)
        .reaches("the server stopped", 1.0, move || Ok(f64::from(u8::from(state(server) == 'T')))))
}

fn traced_reader(scene: &mut Scene) -> Result<Staged> {
    run(&format!("cd '{}' && mkfifo one two", scene.dir().display()))?;
    let reader = scene.spawn(&Run::shell("exec cat <two >/dev/null"))?;
    let middle = scene.spawn(&Run::shell("exec cat <one >two"))?;
    let writer = scene.spawn(&Run::shell("exec yes >one"))?;
    scene.until("the pipeline", || members(writer).len() == 1 && state(writer) != 'D' && is_running(reader))?;
    // PTRACE_ATTACH is 16.
    let debugger = "import ctypes,os,sys,time\n\
        ctypes.CDLL(None).ptrace(16,int(sys.argv[1]),None,None); os.waitpid(int(sys.argv[1]),0x40000000); time.sleep(600)";
    scene.spawn(&Run::python(debugger).arg(reader))?;
    scene.until("the writer to sleep", || is_in(writer, PIPE_WRITE) && is_in(middle, PIPE_WRITE))?;
    let marks = [Mark::Process(reader), Mark::Victim(writer), Mark::Victim(middle), Mark::Says("python3 (")];
    let staged = Staged::fault(&["stopped_process"], marks)
        .reaches("the reader traced", 1.0, move || Ok(f64::from(u8::from(state(reader) == 't'))));
    Ok(sleeps(staged, "the writer", writer, PIPE_WRITE))
}

/// It has executed what it was started for.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "cat")
}

fn frozen_reader(scene: &mut Scene) -> Result<Staged> {
    let (cgroup, file, freeze) = scene.freezer()?;
    run(&format!("mkfifo '{}/fifo'", scene.dir().display()))?;
    let reader = scene.spawn(&Run::shell("exec cat <fifo >/dev/null").in_cgroup(&cgroup))?;
    let writer = scene.spawn(&Run::shell("exec yes >fifo"))?;
    scene.until("the reader", || is_running(reader))?;
    std::fs::write(file, freeze)?;
    scene.until("the writer to sleep", || is_in(writer, PIPE_WRITE))?;
    let marks = [Mark::Process(reader), Mark::Victim(writer), Mark::Says("is frozen")];
    Ok(sleeps(Staged::fault(&["stopped_process"], marks), "the writer", writer, PIPE_WRITE))
}

fn unix_backlog(scene: &mut Scene) -> Result<Staged> {
    let server = scene.spawn(&Run::python(
        "import socket,time\ns=socket.socket(socket.AF_UNIX); s.bind('php.sock'); s.listen(8); open('ready','w')\n\
         while True: s.accept()[0].close(); time.sleep(1)",
    ))?;
    let ready = scene.dir().join("ready");
    scene.until("the server", || ready.exists())?;
    let client = "import socket,time\nn=0\nwhile True:\n\
        \x20s=socket.socket(socket.AF_UNIX); s.setblocking(False); n+=s.connect_ex('php.sock')==11\n\
        \x20open('count','w').write(str(n)); time.sleep(.02)";
    let client = scene.spawn(&Run::python(client))?;
    let counted = scene.dir().join("count");
    scene.until("the first client", || counted.exists())?;
    let marks = [Mark::Process(server), Mark::Victim(client), Mark::Says("php.sock")];
    Ok(Staged::fault(&["unix_backlog_full"], marks).grows(
        "connects that failed",
        scene.window_seconds() * 10.0,
        move || Ok(crate::scene::number_in(&counted)),
    ))
}
