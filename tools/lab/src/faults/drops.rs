//! Packets that are dropped outside of TCP: by sockets, interfaces and backlogs. And half-open connections.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, kill, run, undo};
use crate::stage::{client_address, counter, server_address};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "metrics_server_too_slow",
        about: "a server takes metrics as datagrams, and works too long on each",
        needs: &["ip"],
        stage: metrics_server,
    },
    Case {
        name: "rsyslog_udp_stopped",
        about: "rsyslogd takes logs over UDP and is stopped",
        needs: &["ip", "rsyslogd"],
        stage: rsyslog_stopped,
    },
    Case {
        name: "tunnel_not_read",
        about: "a VPN hangs and reads nothing of what is sent into its tun device",
        needs: &["ip"],
        stage: tunnel,
    },
    Case {
        name: "syn_flood",
        about: "SYNs with made-up addresses reach nginx",
        needs: &["ip", "nginx"],
        stage: |scene| syns(scene, Sources::MadeUp),
    },
    Case {
        name: "syns_of_one",
        about: "one host sends SYNs to nginx and does not answer",
        needs: &["ip", "nginx"],
        stage: |scene| syns(scene, Sources::One),
    },
    Case {
        name: "link_flaps",
        about: "the other end of a link goes down and up again",
        needs: &["ip"],
        stage: link_flaps,
    },
    Case {
        name: "cpu_backlog_full",
        about: "bursts of packets arrive at a CPU whose backlog is short",
        needs: &["ip"],
        stage: short_backlog,
    },
];

/// Sends datagrams of a kind to an address, so many a second.
pub(crate) fn datagrams(payload: &str, to: &str, port: u16, per_second: u32) -> Run {
    let script = format!(
        "import socket,sys,time\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); n=0; t=time.time()\n\
         while True:\n\
         \x20 s.sendto({payload},(sys.argv[1],{port})); n+=1\n\
         \x20 if n%20==0: time.sleep(max(0,t+n/{per_second}-time.time()))"
    );
    Run::python(script).arg(to)
}

fn metrics_server(scene: &mut Scene) -> Result<Staged> {
    let net = scene.network()?;
    let script = "import socket,time\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',8125)); sums={}\n\
        while True:\n\
        \x20 name,_,value=s.recv(512).decode().partition(':')\n\
        \x20 until=time.process_time()+0.002\n\
        \x20 while time.process_time()<until: sums[name]=sums.get(name,0)+len(value)";
    let server = scene.spawn(&Run::python(script).in_net(&net.server))?;
    scene.sleep(Duration::from_millis(300))?;
    scene.spawn(&datagrams("b'requests.%d:1|c'%(n%50)", &server_address(0), 8125, 2000).in_net(&net.client))?;
    // Until its buffer is full.
    scene.sleep(Duration::from_millis(1500))?;
    let marks = [Mark::Process(server), Mark::Local("0.0.0.0:8125".to_owned())];
    Ok(Staged::fault(&["udp_receive_buffer_full"], marks).grows(
        "datagrams dropped",
        scene.window_seconds() * 200.0,
        move || counter(&net.server, "UdpRcvbufErrors"),
    ))
}

fn rsyslog_stopped(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let dir = scene.dir().join("syslog");
    std::fs::create_dir(&dir)?;
    let config = format!(
        "global(workDirectory=\"{0}\")\nmodule(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"514\" rcvbufSize=\"64k\")\n\
         *.* action(type=\"omfile\" file=\"{0}/out\")\n",
        dir.display()
    );
    std::fs::write(dir.join("conf"), config)?;
    let run_it = format!("exec rsyslogd -n -i {0}/pid -f {0}/conf", dir.display());
    let daemon = scene.spawn(&Run::shell(run_it).in_net(&net))?;
    let pid = dir.join("pid");
    scene.until("rsyslogd", || pid.exists())?;
    let line = "b'<13>Oct 11 22:14:15 web app[%d]: '%n+b'x'*400";
    scene.spawn(&datagrams(line, "127.0.0.1", 514, 400).in_net(&net))?;
    scene.sleep(Duration::from_millis(500))?;
    kill(daemon, Signal::STOP);
    scene.sleep(Duration::from_millis(1500))?;
    let marks = [Mark::Process(daemon), Mark::Says("stopped")];
    Ok(Staged::fault(&["udp_receive_buffer_full"], marks).grows(
        "datagrams dropped",
        scene.window_seconds() * 100.0,
        move || counter(&net, "UdpRcvbufErrors"),
    ))
}

fn tunnel(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let script = "import fcntl,os,struct,time\n\
        t=os.open('/dev/net/tun',os.O_RDWR); fcntl.ioctl(t,0x400454ca,struct.pack('16sH22x',b'vpn0',0x1001))\n\
        time.sleep(9999)";
    let vpn = scene.spawn(&Run::python(script).in_net(&net))?;
    let inside = format!("nsenter --net=/run/netns/{net} --");
    scene.until("the tunnel", || run(&format!("{inside} ip link show vpn0")).is_ok())?;
    run(&format!("{inside} ip address add 10.214.0.1/24 dev vpn0 && {inside} ip link set vpn0 up"))?;
    scene.spawn(&datagrams("b'x'*200", "10.214.0.2", 9, 1000).in_net(&net))?;
    // Until its queue is full.
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(vpn), Mark::Interface("vpn0")];
    Ok(Staged::fault(&["interface_dropping"], marks).grows(
        "packets dropped",
        scene.window_seconds() * 200.0,
        move || {
            let text = run(&format!("nsenter --net=/run/netns/{net} -- cat /proc/net/dev"))?;
            let line = text.lines().find_map(|line| line.trim().strip_prefix("vpn0:")).context("no such interface")?;
            Ok(line.split_whitespace().nth(11).context("no such field")?.parse()?)
        },
    ))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sources {
    One,
    MadeUp,
}

fn syns(scene: &mut Scene, sources: Sources) -> Result<Staged> {
    let net = scene.network()?;
    let dir = scene.dir().join("web");
    std::fs::create_dir(&dir)?;
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;\n\
         uwsgi_temp_path {0}/d; scgi_temp_path {0}/e; server {{ listen 80 backlog=64; return 204; }} }}",
        dir.display()
    );
    std::fs::write(dir.join("conf"), config)?;
    let nginx = Run::words("nginx -e stderr -c").arg(dir.join("conf").display()).in_net(&net.server);
    let server = scene.spawn(&nginx)?;
    let pid = dir.join("pid");
    scene.until("nginx", || pid.exists())?;
    // Nothing comes back to them: the client does not know these addresses, and the server cannot tell.
    run(&format!("ip -n {} route add 198.18.0.0/15 via {} dev way0", net.server, client_address(0)))?;
    let script = "import os,random,socket,struct,sys,time\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_RAW)\n\
        to=socket.inet_aton(sys.argv[1])\n\
        def sum16(b):\n\
        \x20 n=sum(struct.unpack('!%dH'%(len(b)//2),b)); n=(n>>16)+(n&0xffff); return ~(n+(n>>16))&0xffff\n\
        while True:\n\
        \x20 for _ in range(10):\n\
        \x20  a=socket.inet_aton('198.18.7.7' if sys.argv[2]=='one' else '198.%d.%d.%d'%(random.choice((18,19)),random.randrange(256),random.randrange(1,255)))\n\
        \x20  t=struct.pack('!HHIIBBHHH',random.randrange(1024,65535),80,random.getrandbits(32),0,0x50,2,64240,0,0)\n\
        \x20  c=sum16(a+to+struct.pack('!BBH',0,6,20)+t); t=t[:16]+struct.pack('!H',c)+t[18:]\n\
        \x20  h=struct.pack('!BBHHHBBH4s4s',0x45,0,40,0,0,64,6,0,a,to)\n\
        \x20  s.sendto(h+t,(sys.argv[1],0))\n\
        \x20 time.sleep(0.02)";
    let which = if sources == Sources::One { "one" } else { "many" };
    scene.spawn(&Run::python(script).arg(server_address(0)).arg(which).in_net(&net.client))?;
    scene.sleep(Duration::from_secs(1))?;
    let mut marks = vec![Mark::Local("0.0.0.0:80".to_owned()), Mark::Victim(server)];
    if sources == Sources::One {
        marks.push(Mark::Remote("198.18.7.7".to_owned()));
    }
    Ok(Staged::fault(&["tcp_half_open_flood"], marks).grows(
        "SYNs that found no room",
        scene.window_seconds() * 50.0,
        move || counter(&net.server, "TcpExtTCPReqQFullDoCookies"),
    ))
}

fn link_flaps(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    // Ours is where sysfs can be looked at.
    run(&format!("ip link add kernoflap type veth peer name flap netns {net} && ip link set kernoflap up"))?;
    scene.at_end(|| undo("ip link delete kernoflap"));
    scene.spawn(
        &Run::shell("while :; do ip link set flap up; sleep 0.3; ip link set flap down; sleep 0.3; done").in_net(&net),
    )?;
    scene.sleep(Duration::from_secs(1))?;
    Ok(Staged::fault(&["interface_faults"], [Mark::Interface("kernoflap")]).grows(
        "changes of its carrier",
        scene.window_seconds().min(8.0),
        || Ok(std::fs::read_to_string("/sys/class/net/kernoflap/carrier_changes")?.trim().parse()?),
    ))
}

fn short_backlog(scene: &mut Scene) -> Result<Staged> {
    const LIMIT: &str = "/proc/sys/net/core/netdev_max_backlog";
    let net = scene.network()?;
    let before = std::fs::read_to_string(LIMIT)?;
    std::fs::write(LIMIT, "4")?;
    scene.at_end(move || {
        if let Err(error) = std::fs::write(LIMIT, before.trim()) {
            eprintln!("{LIMIT}: {error}");
        }
    });
    // What one call sends is cut into segments in front of the link, which come at once. 103 is UDP_SEGMENT.
    let sender = "import socket,sys,time\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(17,103,1000)\n\
        while True: s.sendto(b'x'*40000,(sys.argv[1],9000)); time.sleep(0.02)";
    let reader = "import socket\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(1,8,4<<20); s.bind(('0.0.0.0',9000))\n\
        while True: s.recv(2000)";
    scene.spawn(&Run::python(reader).in_net(&net.server))?;
    scene.spawn(&Run::python(sender).arg(server_address(0)).in_net(&net.client))?;
    scene.sleep(Duration::from_millis(500))?;
    Ok(Staged::fault(&["packet_backlog_full"], []).grows(
        "packets dropped",
        scene.window_seconds() * 100.0,
        dropped_by_backlogs,
    ))
}

fn dropped_by_backlogs() -> Result<f64> {
    let text = std::fs::read_to_string(Path::new("/proc/net/softnet_stat"))?;
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    Ok(text.lines().filter_map(dropped).sum::<u64>() as f64)
}
