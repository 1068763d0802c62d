//! Loads that keep a machine busy and that nothing is wrong with: the doctor must leave them in peace.

use std::time::Duration;

use anyhow::Result;
use kerno_kit::workspace;

use super::case::{Case, Staged};
use super::faults::drops::datagrams;
use super::scene::{Run, Scene, cpu_seconds, run, undo};
use super::stage::{Behaviour, Device, counter};

const CASES: &[Case] = &[
    Case { name: "idle", about: "nothing", needs: &[], stage: |_| Ok(Staged::healthy()) },
    Case {
        name: "make_of_many_jobs",
        about: "make runs short commands beside each other, and some fail",
        needs: &["make"],
        stage: make_of_many,
    },
    Case {
        name: "configure_script",
        about: "a script tries what the machine has, as configure does",
        needs: &["gcc"],
        stage: configure,
    },
    Case {
        name: "cron_jobs",
        about: "a scheduler runs jobs of a second, some of which fail",
        needs: &[],
        stage: cron_jobs,
    },
    Case {
        name: "workers_recycled",
        about: "a server replaces its workers after some requests",
        needs: &[],
        stage: recycled,
    },
    Case {
        name: "waiting_scripts",
        about: "scripts wait until something works, and look with grep",
        needs: &["timeout"],
        stage: waiting,
    },
    Case { name: "cargo_build", about: "a compiler on every CPU", needs: &[], stage: cargo_build },
    Case {
        name: "redis_benchmark",
        about: "Redis under its own benchmark",
        needs: &["redis-server", "redis-benchmark"],
        stage: redis,
    },
    Case {
        name: "nginx_wrk",
        about: "nginx under wrk at a rate that it can serve",
        needs: &["nginx", "wrk"],
        stage: |scene| nginx(scene, "-c16"),
    },
    Case {
        name: "short_connections",
        about: "a web server with a new connection for each request",
        needs: &["nginx", "wrk"],
        stage: |scene| nginx(scene, "-c16 -H 'Connection: close'"),
    },
    Case {
        name: "metrics_over_udp",
        about: "a server that keeps up with metrics in datagrams, and beside it a socket that nobody reads",
        needs: &["ip"],
        stage: metrics_over_udp,
    },
    Case {
        name: "containers_come_and_go",
        about: "a bridge whose only port comes and goes with the containers on it",
        needs: &["ip"],
        stage: ports_come_and_go,
    },
    Case {
        name: "slow_downloads",
        about: "clients that fetch a large file at their own pace, and let the server wait",
        needs: &["nginx", "curl"],
        stage: slow_downloads,
    },
    Case {
        name: "sqlite_commits",
        about: "a database that syncs each of its commits to the disk",
        needs: &["sqlite3"],
        stage: sqlite,
    },
    Case {
        name: "pgbench",
        about: "PostgreSQL under its own benchmark: four clients, each transaction reaches the disk",
        needs: &["pg_ctlcluster"],
        stage: pgbench,
    },
    Case {
        name: "pgbench_one_row",
        about: "PostgreSQL with six clients that change the same row in turn",
        needs: &["pg_ctlcluster"],
        stage: one_row,
    },
    Case {
        name: "backup",
        about: "a sequential read of many files, packed and compressed",
        needs: &["gzip"],
        stage: backup,
    },
    Case { name: "git_gc", about: "git clones and packs a repository, again and again", needs: &["git"], stage: git },
    Case {
        name: "batch",
        about: "a job that computes on every CPU, and nobody else who needs one",
        needs: &["stress-ng"],
        stage: batch,
    },
    Case {
        name: "fast_reads",
        about: "direct reads as fast as the disk can, one at a time",
        needs: &["fio"],
        stage: fast_reads,
    },
    Case {
        name: "large_writes",
        about: "large files are written and synced, again and again",
        needs: &[],
        stage: large_writes,
    },
    Case {
        name: "cache_at_limit",
        about: "a cgroup whose memory is full of pages read once, as any container's is after a while",
        needs: &["losetup", "mkfs.ext4"],
        stage: cache_at_limit,
    },
    Case {
        name: "mapped_at_limit",
        about: "a cgroup whose limit is full of a mapped file that is read from end to end, once and again after a while",
        needs: &["losetup", "mkfs.ext4"],
        stage: mapped_at_limit,
    },
    Case {
        name: "small_syncs",
        about: "eight programs that sync a little now and then, on one file system, and nobody who writes much",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: small_syncs,
    },
    Case {
        name: "writer_on_another_disk",
        about: "small syncs on one device, and large files that are written and synced on another",
        needs: &["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4"],
        stage: writer_on_another_disk,
    },
    Case {
        name: "deleted_with_room",
        about: "temporary files that were deleted while they are open, on a file system with room",
        needs: &["losetup", "mkfs.ext4"],
        stage: deleted_with_room,
    },
    Case {
        name: "mounted_read_only",
        about: "file systems that were mounted or remounted read-only, and a program that tries to write there",
        needs: &["losetup", "mkfs.ext4"],
        stage: mounted_read_only,
    },
    Case {
        name: "many_connections",
        about: "a server takes 400 clients at once: descriptors go up, and stay there",
        needs: &["nginx", "wrk"],
        stage: many_connections,
    },
    Case {
        name: "slow_pipeline",
        about: "a pipeline of five with a slow stage, which keeps moving, and one that a pager shows",
        needs: &["less", "script"],
        stage: slow_pipeline,
    },
    Case {
        name: "idle_workers",
        about: "pools of threads and processes that wait for work at queues, locks and sockets",
        needs: &[],
        stage: idle_workers,
    },
    Case {
        name: "shells_at_prompts",
        about: "shells that wait for commands, with a stopped job and an editor",
        needs: &["script", "bash"],
        stage: shells,
    },
    Case {
        name: "lock_handed_round",
        about: "eight programs take a lock of a file in turn, each for a moment",
        needs: &["flock"],
        stage: lock_handed_round,
    },
    Case {
        name: "redis_queue",
        about: "workers that wait for jobs in a Redis (BLPOP), and a job now and then",
        needs: &["redis-server", "redis-cli"],
        stage: redis_queue,
    },
    Case {
        name: "dns_lookups",
        about: "programs that look up names, which dnsmasq knows",
        needs: &["ip", "dnsmasq", "getent"],
        stage: dns_lookups,
    },
    Case {
        name: "dns_many_names",
        about: "a program that looks up many names, which dnsmasq knows, and now and then one that does not exist",
        needs: &["ip", "dnsmasq", "python3"],
        stage: dns_many_names,
    },
    Case {
        name: "dns_block_list",
        about: "a program that asks a block list about many senders, few of which are listed",
        needs: &["ip", "dnsmasq", "python3"],
        stage: dns_block_list,
    },
    Case {
        name: "rsyslog_logging",
        about: "rsyslogd under a steady stream of messages",
        needs: &["rsyslogd", "logger"],
        stage: rsyslog_logging,
    },
    Case {
        name: "make_jobs",
        about: "make(1) with commands that take long, one at a time for each of its jobs",
        needs: &["make"],
        stage: make_jobs,
    },
    Case {
        name: "log_followers",
        about: "pipelines that follow a log in which little happens",
        needs: &["tail", "grep"],
        stage: log_followers,
    },
    Case {
        name: "closes_all_descriptors",
        about: "programs close every descriptor that they may have before they start another, open or not",
        needs: &[],
        stage: closes_all,
    },
    Case {
        name: "near_its_limits",
        about: "a client, a pool and a user that have nearly as much as they may, and a program that tries how much memory it gets",
        needs: &["ip"],
        stage: near_limits,
    },
    Case { name: "find", about: "a walk over all files", needs: &[], stage: find },
    Case { name: "python_imports", about: "interpreters start and look for their modules", needs: &[], stage: python },
];

pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    CASES.iter()
}

/// The load has settled after this.
const SETTLE: Duration = Duration::from_millis(700);

/// A load that keeps at least a fiftieth of a CPU busy.
fn settled(scene: &Scene, load: u32) -> Result<Staged> {
    scene.sleep(SETTLE)?;
    let hundredths = scene.window_seconds() * 2.0;
    Ok(Staged::healthy().grows("hundredths of a CPU second", hundredths, move || Ok(cpu_seconds(load) * 100.0)))
}

fn cargo_build(scene: &mut Scene) -> Result<Staged> {
    let target = scene.dir().join("target");
    let manifest = workspace::root().join("Cargo.toml");
    let build = format!(
        "while :; do '{}' build --quiet --offline --package kerno --manifest-path '{1}' --target-dir '{2}'; rm -rf '{2}'; done",
        env!("CARGO"),
        manifest.display(),
        target.display()
    );
    let pid = scene.spawn(&Run::shell(build))?;
    settled(scene, pid)
}

fn redis(scene: &mut Scene) -> Result<Staged> {
    let socket = scene.dir().join("redis.sock");
    scene.spawn(&Run::words("redis-server --port 0 --save --appendonly no --unixsocket").arg(socket.display()))?;
    scene.until("redis", || socket.exists())?;
    let load =
        format!("while :; do redis-benchmark -s '{}' -q -c 50 -n 100000 -t set,get,lpush,hset; done", socket.display());
    let pid = scene.spawn(&Run::shell(load))?;
    settled(scene, pid)
}

/// nginx with a file of that many KiB; returns where to fetch it.
fn web_server(scene: &mut Scene, kib: u32) -> Result<String> {
    let dir = scene.dir().to_owned();
    run(&format!("chmod 755 {0} && dd if=/dev/urandom of={0}/file bs=1K count={kib} status=none", dir.display()))?;
    let port = 20_000 + std::process::id() % 10_000;
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log; events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;\n\
         uwsgi_temp_path {0}/d; scgi_temp_path {0}/e; server {{ listen 127.0.0.1:{port} backlog=1024; root {0}; }} }}",
        dir.display()
    );
    std::fs::write(dir.join("conf"), config)?;
    scene.spawn(&Run::words("nginx -e stderr -c").arg(dir.join("conf").display()))?;
    let started = dir.join("pid");
    scene.until("nginx", || started.exists())?;
    Ok(format!("http://127.0.0.1:{port}/file"))
}

fn nginx(scene: &mut Scene, options: &str) -> Result<Staged> {
    let url = web_server(scene, 4)?;
    let pid = scene.spawn(&Run::shell(format!("exec wrk -t1 -d600s {options} {url}")))?;
    settled(scene, pid)
}

fn metrics_over_udp(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let server = "import socket\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('127.0.0.1',8125)); n=0\n\
        while True: n+=len(s.recv(512))";
    // As some clients of DHCP keep one, of which they read nothing.
    let unread = "import socket,time\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(1,8,2048); s.bind(('127.0.0.1',68))\n\
        while True: s.sendto(b'x'*300,('127.0.0.1',68)); time.sleep(0.4)";
    scene.spawn(&Run::python(server).in_net(&net))?;
    scene.spawn(&Run::python(unread).in_net(&net))?;
    scene.sleep(Duration::from_millis(300))?;
    scene.spawn(&datagrams("b'requests.%d:1|c'%(n%50)", "127.0.0.1", 8125, 3000).in_net(&net))?;
    Ok(Staged::healthy()
        .grows("datagrams received", scene.window_seconds() * 1000.0, move || counter(&net, "UdpInDatagrams")))
}

fn ports_come_and_go(scene: &mut Scene) -> Result<Staged> {
    run("ip link add kernobr type bridge && ip link set kernobr up")?;
    scene.at_end(|| undo("ip link delete kernobr"));
    scene.spawn(&Run::shell(
        "while :; do ip link add kernoport type veth peer name kernoin && ip link set kernoport master kernobr up && \
         ip link set kernoin up; sleep 0.4; ip link delete kernoport; sleep 0.2; done",
    ))?;
    scene.at_end(|| drop(run("ip link delete kernoport")));
    Ok(Staged::healthy().grows("changes of the bridge's carrier", scene.window_seconds().min(6.0), || {
        Ok(std::fs::read_to_string("/sys/class/net/kernobr/carrier_changes")?.trim().parse()?)
    }))
}

fn slow_downloads(scene: &mut Scene) -> Result<Staged> {
    let url = web_server(scene, 64 << 10)?;
    for rate in ["2k", "20k", "200k", "2m"] {
        scene.spawn(&Run::shell(format!("exec curl -s -o /dev/null --limit-rate {rate} {url}")))?;
    }
    scene.sleep(Duration::from_secs(4))?;
    // Receive windows of zero, by the kernel's count.
    Ok(Staged::healthy().reaches("closed windows", 1.0, || {
        let text = run("ss -Htin state established '( sport >= :20000 and sport < :30000 )'")?;
        Ok(if text.contains("rwnd_limited") { 1.0 } else { 0.0 })
    }))
}

fn sqlite(scene: &mut Scene) -> Result<Staged> {
    let load = "echo 'PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);' | sqlite3 db; \
        (echo 'PRAGMA synchronous=FULL;'; while :; do echo 'INSERT INTO t(x) VALUES(hex(randomblob(100)));'; done) | sqlite3 db";
    let pid = scene.spawn(&Run::shell(load))?;
    settled(scene, pid)
}

/// PostgreSQL with the tables of pgbench; returns how pgbench is called.
fn postgres(scene: &mut Scene) -> Result<String> {
    let programs = run("ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1")?;
    // It refuses to run as root.
    let user = Run::new(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    let dir = scene.dir().join("postgres");
    run(&format!(
        "chmod 755 {1} && mkdir {0} && chown 65534:65534 {0} && cd {0} && \
         setpriv --reuid=65534 --regid=65534 --clear-groups {programs}/initdb --username=bench --no-sync {0}/data",
        dir.display(),
        scene.dir().display()
    ))?;
    let server = user.arg(format!("{programs}/postgres")).arg("-D").arg(dir.join("data").display());
    scene.spawn(&server.arg("-k").arg(dir.display()).arg("-c").arg("listen_addresses="))?;
    scene.until("PostgreSQL", || dir.join(".s.PGSQL.5432").exists())?;
    let bench = format!("{programs}/pgbench --host={} --username=bench", dir.display());
    scene.until("its tables", || run(&format!("{bench} --initialize --quiet --scale=2 postgres")).is_ok())?;
    Ok(bench)
}

fn pgbench(scene: &mut Scene) -> Result<Staged> {
    let bench = postgres(scene)?;
    let pid = scene.spawn(&Run::words(&format!("{bench} --client=4 --time=600 postgres")))?;
    settled(scene, pid)
}

fn one_row(scene: &mut Scene) -> Result<Staged> {
    let bench = postgres(scene)?;
    let sql = scene.dir().join("sql");
    // Each holds the row for a while, as a transaction does that asks somebody else in between.
    let script =
        "BEGIN;\nUPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1;\n\\sleep 200 ms\nCOMMIT;\n";
    std::fs::write(&sql, script)?;
    let load = format!("{bench} --no-vacuum --client=6 --jobs=2 --time=600 --file={} postgres", sql.display());
    scene.spawn(&Run::words(&load))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy().reaches("sessions that wait for the row", 1.0, move || {
        let psql = bench.replace("/pgbench ", "/psql --tuples-only ");
        let ask = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        Ok(run(&format!("{psql} --command=\"{ask}\" postgres"))?.trim().parse().unwrap_or(0.0))
    }))
}

fn backup(scene: &mut Scene) -> Result<Staged> {
    let pid =
        scene.spawn(&Run::shell("while :; do tar -C /usr -cf - lib share bin | gzip -1 > backup.tar.gz; done"))?;
    settled(scene, pid)
}

fn git(scene: &mut Scene) -> Result<Staged> {
    let repository = workspace::root();
    let load = format!(
        "while :; do git clone --quiet --no-hardlinks '{}' clone && git -C clone gc --quiet --aggressive --prune=now && \
         git -C clone status >/dev/null && rm -rf clone || sleep 1; done",
        repository.display()
    );
    let pid = scene.spawn(&Run::shell(load))?;
    settled(scene, pid)
}

fn python(scene: &mut Scene) -> Result<Staged> {
    let load = "while :; do /usr/bin/python3 -c 'import json,ssl,asyncio,http.client,sqlite3,decimal,unittest,email,xml.dom'; done";
    let pid = scene.spawn(&Run::shell(load))?;
    settled(scene, pid)
}

fn batch(scene: &mut Scene) -> Result<Staged> {
    let cpus = std::thread::available_parallelism()?.get();
    let pid = scene.spawn(&Run::words("stress-ng --timeout 600 --cpu").arg(cpus))?;
    settled(scene, pid)
}

fn fast_reads(scene: &mut Scene) -> Result<Staged> {
    run(&format!("dd if=/dev/urandom of={}/data bs=1M count=64 conv=fsync status=none", scene.dir().display()))?;
    let fio = "fio --name=reads --rw=read --bs=128k --direct=1 --ioengine=psync --size=64M --time_based --runtime=600 --thread --filename=data";
    let pid = scene.spawn(&Run::words(fio))?;
    settled(scene, pid)
}

fn large_writes(scene: &mut Scene) -> Result<Staged> {
    let load = "while :; do dd if=/dev/zero of=large bs=1M count=256 conv=fsync status=none; rm large; done";
    let pid = scene.spawn(&Run::shell(load))?;
    settled(scene, pid)
}

fn cache_at_limit(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(512)?;
    let mount = scene.ext4(&device, "-O ^has_journal")?;
    run(&format!("dd if=/dev/zero of={}/data bs=1M count=400 oflag=direct status=none", mount.display()))?;
    let cgroup = scene.memory_limit(128 << 20)?;
    let reader = Run::shell(format!("while :; do cat '{}/data' >/dev/null; sleep 0.2; done", mount.display()));
    let pid = scene.spawn(&reader.in_cgroup(&cgroup))?;
    settled(scene, pid)
}

fn mapped_at_limit(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(256)?;
    let mount = scene.ext4(&device, "-O ^has_journal")?;
    run(&format!("dd if=/dev/zero of={}/data bs=1M count=200 oflag=direct status=none", mount.display()))?;
    let cgroup = scene.memory_limit(48 << 20)?;
    let script = "import mmap,os,sys,time\n\
        m=mmap.mmap(os.open(sys.argv[1],os.O_RDONLY),200<<20,prot=mmap.PROT_READ)\n\
        while True:\n\
        \x20 for at in range(0,len(m),4096):\n\
        \x20  m[at]\n\
        \x20  if at%(4<<20)==0: time.sleep(0.02)";
    let reader = Run::python(script).arg(mount.join("data").display());
    let pid = scene.spawn(&reader.in_cgroup(&cgroup))?;
    settled(scene, pid)
}

/// Writes a little and syncs it, again after so many seconds.
const SYNCS: &str = "import os,sys,time\n\
    fd=os.open(sys.argv[1],os.O_CREAT|os.O_WRONLY)\n\
    while True: os.write(fd,b'x'*2048); os.fdatasync(fd); time.sleep(float(sys.argv[2]))";

fn small_syncs(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(256, &Behaviour { filters: "delay", parameters: "wdelay=8ms" })?;
    let mount = scene.ext4(&device, "")?;
    for number in 0..8 {
        scene.spawn(&Run::python(SYNCS).arg(mount.join(format!("wal{number}")).display()).arg("0.3"))?;
    }
    written(scene, device, 500.0)
}

fn writer_on_another_disk(scene: &mut Scene) -> Result<Staged> {
    let device = scene.odd_device(256, &Behaviour { filters: "delay", parameters: "wdelay=8ms" })?;
    let mount = scene.ext4(&device, "")?;
    scene.spawn(&Run::python(SYNCS).arg(mount.join("wal").display()).arg("0.05"))?;
    scene.spawn(&Run::shell("while :; do dd if=/dev/zero of=bulk bs=256k count=64 conv=fsync status=none; done"))?;
    written(scene, device, 100.0)
}

/// Proven by so many sectors that are written to a device.
fn written(scene: &Scene, device: Device, sectors: f64) -> Result<Staged> {
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy().grows("sectors written", sectors, move || device.stat(6)))
}

fn deleted_with_room(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(256)?;
    let mount = scene.ext4(&device, "")?;
    let script = "import tempfile,sys,time\n\
        files=[tempfile.TemporaryFile(dir=sys.argv[1]) for _ in range(20)]\n\
        [(f.write(bytes(4<<20)),f.flush()) for f in files]\n\
        time.sleep(600)";
    scene.spawn(&Run::python(script).arg(mount.display()))?;
    quiet(scene)
}

fn mounted_read_only(scene: &mut Scene) -> Result<Staged> {
    let device = scene.fast_device(64)?;
    let mount = scene.ext4(&device, "")?;
    run(&format!("mount -o remount,ro {}", mount.display()))?;
    // As a program does that looks whether it may.
    scene.spawn(&Run::shell(format!("while :; do touch '{}/probe' 2>/dev/null; sleep 2; done", mount.display())))?;
    quiet(scene)
}

fn many_connections(scene: &mut Scene) -> Result<Staged> {
    nginx(scene, "-c400")
}

fn find(scene: &mut Scene) -> Result<Staged> {
    let pid = scene
        .spawn(&Run::shell("while :; do find /usr /var /etc -xdev -type f -newer /etc/passwd >/dev/null 2>&1; done"))?;
    settled(scene, pid)
}

/// A load that does hardly anything.
fn quiet(scene: &Scene) -> Result<Staged> {
    scene.sleep(Duration::from_secs(3))?;
    Ok(Staged::healthy())
}

fn slow_pipeline(scene: &mut Scene) -> Result<Staged> {
    // Reads byte by byte, some lines a second: those before it sleep for minutes in their writes.
    scene.spawn(&Run::shell(
        "yes 'a line of some length that is read slowly' | cat | tee /dev/null | while read line; do sleep 0.1; echo $line; done | cat >/dev/null",
    ))?;
    scene.spawn(&Run::new(["script", "-qfc", "seq 10000000 | less", "/dev/null"]))?;
    quiet(scene)
}

fn idle_workers(scene: &mut Scene) -> Result<Staged> {
    scene.spawn(&Run::python(
        "import concurrent.futures as f,queue,threading,time\n\
         q=queue.Queue(); p=f.ThreadPoolExecutor(16); [p.submit(q.get) for _ in range(16)]\n\
         threading.Event().wait()",
    ))?;
    // Workers that accept in turn: one waits for a connection, and has the lock; the others wait for the lock.
    scene.spawn(&Run::python(
        "import fcntl,os,socket\ns=socket.create_server(('127.0.0.1',0))\n\
         for _ in range(6):\n if os.fork()==0:\n  l=open('accept.lock','w'); fcntl.lockf(l,fcntl.LOCK_EX); s.accept()\nos.wait()",
    ))?;
    // A server without clients, a client that keeps its connection, a consumer of a pipe, and a parent that waits.
    scene.spawn(&Run::python(
        "import os,select,socket\ns=socket.create_server(('127.0.0.1',0)); c=socket.create_connection(s.getsockname()); a,_=s.accept()\n\
         r,w=os.pipe()\nif os.fork()==0: os.close(w); os.read(r,1)\nif os.fork()==0: c.recv(1)\nif os.fork()==0: os.wait() if False else select.select([s],[],[])\n\
         os.wait()",
    ))?;
    quiet(scene)
}

fn closes_all(scene: &mut Scene) -> Result<Staged> {
    let script = "import ctypes,time\nlibc=ctypes.CDLL(None)\n\
        while True:\n [libc.close(fd) for fd in range(3,65536)]; time.sleep(0.01)";
    let pid = scene.spawn(&Run::python(script))?;
    settled(scene, pid)
}

fn near_limits(scene: &mut Scene) -> Result<Staged> {
    let cgroup = scene.pids_limit(40)?;
    let pool = "import os,time\n\
        for _ in range(34):\n if os.fork()==0: time.sleep(600); os._exit(0)\n\
        while True:\n pid=os.fork(); pid or os._exit(0); os.wait(); time.sleep(0.01)";
    scene.spawn(&Run::python(pool).in_cgroup(&cgroup))?;
    let net = scene.lonely_net()?;
    run(&format!(
        "nsenter --net=/run/netns/{net} -- sh -c 'echo 40000 40060 > /proc/sys/net/ipv4/ip_local_port_range'"
    ))?;
    let client = "import socket,time\ns=socket.create_server(('127.0.0.1',8080),backlog=64); kept=[]\n\
        for _ in range(55): kept.append((socket.create_connection(('127.0.0.1',8080)),s.accept()[0]))\n\
        while True: c=socket.create_connection(('127.0.0.1',8080)); a=s.accept()[0]; a.close(); c.close(); time.sleep(5)";
    scene.spawn(&Run::python(client).in_net(&net))?;
    let memory = "import mmap,resource,time\nresource.setrlimit(resource.RLIMIT_AS,(1<<30,1<<30)); kept=[]\n\
        try:\n  while True: kept.append(mmap.mmap(-1,8<<20))\nexcept OSError: pass\nkept=kept[:8]\nwhile True: time.sleep(0.1)";
    scene.spawn(&Run::python(memory))?;
    quiet(scene)
}

fn shells(scene: &mut Scene) -> Result<Staged> {
    let feed = |commands: &str| {
        format!("(sleep 1; printf '{commands}'; sleep 600) | script -qfc 'bash --norc -i' /dev/null >/dev/null")
    };
    scene.spawn(&Run::shell(feed("echo hello\\n")))?;
    // ^Z
    scene.spawn(&Run::shell(feed("yes | cat >/dev/null\\n\\032")))?;
    scene.spawn(&Run::shell(feed("sleep 500 &\\nread answer\\n")))?;
    quiet(scene)
}

fn lock_handed_round(scene: &mut Scene) -> Result<Staged> {
    for _ in 0..8 {
        scene.spawn(&Run::shell("while :; do flock turn.lock sleep 0.05; done"))?;
    }
    quiet(scene)
}

fn redis_queue(scene: &mut Scene) -> Result<Staged> {
    let socket = scene.dir().join("redis.sock");
    scene.spawn(&Run::words("redis-server --port 0 --save --appendonly no --unixsocket").arg(socket.display()))?;
    scene.until("redis", || socket.exists())?;
    let cli = format!("redis-cli -s {}", socket.display());
    for _ in 0..6 {
        scene.spawn(&Run::shell(format!("while :; do {cli} BLPOP jobs 0 >/dev/null; sleep 1; done")))?;
    }
    scene.spawn(&Run::shell(format!("while :; do {cli} RPUSH jobs job >/dev/null; sleep 2; done")))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy().reaches("workers that wait", 4.0, move || {
        let clients = run(&format!("{cli} INFO clients"))?;
        let blocked = clients.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
        Ok(blocked.and_then(|count| count.trim().parse().ok()).unwrap_or(0.0))
    }))
}

fn rsyslog_logging(scene: &mut Scene) -> Result<Staged> {
    let dir = scene.dir().to_owned();
    let config = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket=\"{0}/log\" RateLimit.Interval=\"0\")\n\
         global(workDirectory=\"{0}\")\n*.* action(type=\"omfile\" file=\"{0}/messages\")\n",
        dir.display()
    );
    std::fs::write(dir.join("rsyslog.conf"), config)?;
    scene.spawn(&Run::shell(format!("exec rsyslogd -n -i {0}/rsyslog.pid -f {0}/rsyslog.conf", dir.display())))?;
    let socket = dir.join("log");
    scene.until("rsyslogd", || socket.exists())?;
    let log = format!("while :; do seq 1 100; sleep .1; done | exec logger --socket {} -t app", socket.display());
    scene.spawn(&Run::shell(log))?;
    let messages = dir.join("messages");
    scene.until("the first messages", || messages.exists())?;
    Ok(Staged::healthy().grows("KiB of messages", 10.0, move || {
        #[allow(clippy::cast_precision_loss, reason = "a size")]
        Ok(std::fs::metadata(&messages)?.len() as f64 / 1024.0)
    }))
}

fn make_jobs(scene: &mut Scene) -> Result<Staged> {
    // A job server, and a make below that waits for it.
    let rules = "all: a b c d e f\na b c d e f:\n\t@+sleep 60\nsub:\n\t@+$(MAKE) --no-print-directory all\n";
    std::fs::write(scene.dir().join("Makefile"), rules)?;
    let pid = scene.spawn(&Run::words("make -j2 sub"))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy().reaches("commands that run", 2.0, move || {
        #[allow(clippy::cast_precision_loss, reason = "a few")]
        Ok(super::scene::members(pid).len() as f64 - 1.0)
    }))
}

fn log_followers(scene: &mut Scene) -> Result<Staged> {
    let log = scene.dir().join("app.log");
    std::fs::write(&log, "started\n")?;
    for pattern in ["error", "warn", "."] {
        let follow =
            format!("tail -F {} | grep --line-buffered {pattern} | while read line; do :; done", log.display());
        scene.spawn(&Run::shell(follow))?;
    }
    scene.spawn(&Run::shell(format!("while :; do echo line >>{}; sleep 3; done", log.display())))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy())
}

fn dns_lookups(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    super::faults::dns::dnsmasq(scene, &net)?;
    super::faults::dns::look_up(scene, &net)?;
    scene.sleep(SETTLE)?;
    // Datagrams of both, by the namespace's count.
    Ok(Staged::healthy()
        .grows("datagrams", scene.window_seconds() * 10.0, move || super::stage::counter(&net, "UdpInDatagrams")))
}

fn make_of_many(scene: &mut Scene) -> Result<Staged> {
    let rules = "TARGETS:=$(shell seq 1 9000)\nall: $(TARGETS)\n.PHONY: all $(TARGETS)\n$(TARGETS):\n\
        \t@sh -c 'i=0; while [ $$i -lt 3000 ]; do i=$$((i+1)); done; exit $$(($@ % 7 == 0))'\n";
    std::fs::write(scene.dir().join("Makefile"), rules)?;
    scene.spawn(&Run::shell("while :; do make -k -j2 >/dev/null 2>&1; done"))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy())
}

fn configure(scene: &mut Scene) -> Result<Staged> {
    let script = "while :; do for f in stdio no_such string nothing math missing unistd stdlib; do\n\
        echo \"#include <$f.h>\" >conftest.c; echo 'int main(void){return 0;}' >>conftest.c\n\
        if gcc -o conftest conftest.c 2>conftest.err; then ./conftest; grep -q x conftest.err; fi\n\
        sed -n 1p conftest.c >/dev/null; expr a : b >/dev/null; cat conftest.err | sort | uniq >/dev/null; uname -m >/dev/null\n\
        rm -f conftest conftest.c conftest.err; basename $f >/dev/null; test -f nothing; dirname /a/b >/dev/null; tr a b </dev/null; done; done";
    scene.spawn(&Run::shell(script))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy())
}

fn cron_jobs(scene: &mut Scene) -> Result<Staged> {
    super::faults::life::program(scene, "job", "sleep 0.2; exit 1")?;
    // As cron does: one that forks for each job, and its shell.
    let script = "import os,subprocess,time\nn=0\n\
        while True:\n\
        \x20 n+=1\n\
        \x20 if os.fork()==0:\n\
        \x20  c=subprocess.call(['/bin/sh','-c','./job' if n%5==0 else 'sleep 0.1; exit 0']); os._exit(0)\n\
        \x20 time.sleep(0.5)\n\
        \x20 while True:\n\
        \x20  try:\n\
        \x20   if os.waitpid(-1,os.WNOHANG)[0]==0: break\n\
        \x20  except ChildProcessError: break";
    scene.spawn(&Run::python(script))?;
    let dir = scene.dir().to_owned();
    scene.until("the first job", || super::faults::life::starts(&dir).is_ok_and(|starts| starts > 0.0))?;
    Ok(Staged::healthy())
}

fn recycled(scene: &mut Scene) -> Result<Staged> {
    let script = "import os,time\n\
        def work():\n\
        \x20 if os.fork()==0: time.sleep(0.3); os._exit(0)\n\
        for _ in range(4): work()\n\
        while True: os.wait(); work()";
    scene.spawn(&Run::python(script))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy())
}

fn waiting(scene: &mut Scene) -> Result<Staged> {
    for script in [
        "until grep -q ready status 2>/dev/null; do sleep 0.1; done",
        "while :; do timeout 0.2 sleep 5; done",
        "until bash -c '[ -e status ]'; do sleep 0.2; done",
        "while :; do sh -c 'kill -TERM $$'; sleep 0.2; done",
    ] {
        scene.spawn(&Run::shell(script))?;
    }
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy())
}

fn dns_many_names(scene: &mut Scene) -> Result<Staged> {
    use super::faults::dns;
    let net = scene.lonely_net()?;
    dns::dnsmasq_with(scene, &net, "--address=/example/10.1.2.3 --local=/test/")?;
    let names = "f\"www.{i}.example\" if i%100 else \"typo.test\"";
    dns::asks(scene, &net, "search corp.test\n", &dns::look_up_in_python(names, 50))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy()
        .grows("datagrams", scene.window_seconds() * 100.0, move || super::stage::counter(&net, "UdpInDatagrams")))
}

fn dns_block_list(scene: &mut Scene) -> Result<Staged> {
    use super::faults::dns;
    let net = scene.lonely_net()?;
    dns::dnsmasq_with(scene, &net, "--local=/example/ --address=/7.2.0.192.list.example/127.0.0.2")?;
    let names = "f\"{i%250}.{i%3+1}.0.192.list.example\" if i%10 else \"7.2.0.192.list.example\"";
    dns::asks(scene, &net, "", &dns::look_up_in_python(names, 50))?;
    scene.sleep(SETTLE)?;
    Ok(Staged::healthy()
        .grows("datagrams", scene.window_seconds() * 100.0, move || super::stage::counter(&net, "UdpInDatagrams")))
}
