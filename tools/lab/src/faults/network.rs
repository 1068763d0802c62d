//! Networks: lossy, slow, refusing, silent. In namespaces of the lab's own.

use std::time::Duration;

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, run};
use crate::stage::{Network, client_address, counter, far_server_address, server_address};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "packet_loss_10",
        about: "a web server's clients are on two ways; one of them loses every tenth packet",
        needs: &["ip", "nft", "nginx", "wrk"],
        stage: |scene| packet_loss(scene, 10),
    },
    Case {
        name: "packet_loss_1",
        about: "the same, and one in a hundred is lost",
        needs: &["ip", "nft", "nginx", "wrk"],
        stage: |scene| packet_loss(scene, 1),
    },
    Case {
        name: "refused_connects",
        about: "a service is down, and its client tries again and again",
        needs: &["ip"],
        stage: refuse,
    },
    Case {
        name: "connect_timeouts",
        about: "a firewall drops what a client sends to open connections",
        needs: &["ip", "nft"],
        stage: connect_timeouts,
    },
    Case {
        name: "accept_queue_overflow",
        about: "a Redis that hangs does not accept, and clients go on connecting",
        needs: &["ip", "redis-server"],
        stage: accept_queue_overflow,
    },
    Case {
        name: "rtt_inflation",
        about: "downloads fill a long queue in front of a narrow link",
        needs: &["ip", "nginx", "wrk"],
        stage: rtt_inflation,
    },
];

/// A web server with a file of that many KiB, which sends it to each client at no more than `rate`, in nginx's words.
fn web_server(scene: &mut Scene, net: &Network, kib: u32, rate: &str) -> Result<u32> {
    let dir = scene.dir().join("web");
    std::fs::create_dir(&dir)?;
    run(&format!("chmod 755 {0} {0}/.. && dd if=/dev/zero of={0}/file bs=1K count={kib} status=none", dir.display()))?;
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log; events {{}}\n\
         http {{ access_log off; sendfile on; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;\n\
         uwsgi_temp_path {0}/d; scgi_temp_path {0}/e; server {{ listen 80 backlog=1024; root {0}; limit_rate {rate}; }} }}",
        dir.display()
    );
    std::fs::write(dir.join("conf"), config)?;
    let server = Run::words("nginx -e stderr -c").arg(dir.join("conf").display()).in_net(&net.server);
    let server = scene.spawn(&server)?;
    let pid = dir.join("pid");
    scene.until("nginx", || pid.exists())?;
    Ok(server)
}

fn clients(scene: &mut Scene, net: &Network, address: &str, connections: u32) -> Result<u32> {
    let run = Run::words("wrk -t1 -d600s --timeout 30s -c").arg(connections);
    scene.spawn(&run.arg(format!("http://{address}/file")).in_net(&net.client))
}

fn packet_loss(scene: &mut Scene, percent: u32) -> Result<Staged> {
    let net = scene.network()?;
    web_server(scene, &net, 256, "1m")?;
    clients(scene, &net, &server_address(0), 8)?;
    clients(scene, &net, &server_address(1), 8)?;
    scene.sleep(Duration::from_millis(500))?;
    let rules = format!(
        "add table netdev loss; add chain netdev loss in {{ type filter hook ingress device way1 priority 0; }}; \
         add rule netdev loss in ip protocol tcp numgen random mod 100 < {percent} counter drop"
    );
    run(&format!("nsenter --net=/run/netns/{} -- nft '{rules}'", net.client))?;
    let (client, server) = (net.client.clone(), net.server.clone());
    let lost = move || {
        let text = run(&format!("nsenter --net=/run/netns/{client} -- nft list chain netdev loss in"))?;
        Ok(text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0))
    };
    let marks = [Mark::Remote(client_address(1))];
    Ok(Staged::fault(&["tcp_retransmit_storm"], marks)
        .grows("packets dropped", scene.window_seconds() * 4.0, lost)
        .grows("segments sent again", scene.window_seconds() * 4.0, move || counter(&server, "TcpRetransSegs")))
}

/// A client of a service that is not there.
pub(super) fn refuse(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let script = "import socket,time\n\
        while True:\n\
        \x20 s=socket.socket()\n\
        \x20 try: s.connect(('127.0.0.1',5432))\n\
        \x20 except OSError: pass\n\
        \x20 s.close(); time.sleep(0.05)";
    let client = scene.spawn(&Run::python(script).in_net(&net))?;
    let marks = [Mark::Process(client), Mark::Remote("127.0.0.1:5432".to_owned())];
    Ok(Staged::fault(&["tcp_connect_failures"], marks).grows(
        "connects that failed",
        scene.window_seconds() * 10.0,
        move || counter(&net, "TcpAttemptFails"),
    ))
}

fn connect_timeouts(scene: &mut Scene) -> Result<Staged> {
    let net = scene.network()?;
    let rules = "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; \
         add rule inet wall in tcp dport 5432 counter drop";
    run(&format!("nsenter --net=/run/netns/{} -- nft '{rules}'", net.server))?;
    // Ten threads; each gives up as the kernel does after 3 seconds (one SYN more), or its program does after one.
    let script = "import socket,sys,threading,time\n\
        def go(n):\n\
        \x20 while True:\n\
        \x20  s=socket.socket(); s.setsockopt(6,7,1)\n\
        \x20  if n%2: s.settimeout(1)\n\
        \x20  try: s.connect((sys.argv[1],5432))\n\
        \x20  except OSError: pass\n\
        \x20  s.close(); time.sleep(0.02)\n\
        for n in range(9): threading.Thread(target=go,args=(n,)).start()\n\
        go(9)";
    let client = scene.spawn(&Run::python(script).arg(server_address(0)).in_net(&net.client))?;
    let marks = [Mark::Process(client), Mark::Remote(format!("{}:5432", server_address(0)))];
    let server = net.server.clone();
    Ok(Staged::fault(&["tcp_connect_failures"], marks).grows("SYNs dropped", scene.window_seconds() * 3.0, move || {
        let text = run(&format!("nsenter --net=/run/netns/{server} -- nft list chain inet wall in"))?;
        Ok(text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0))
    }))
}

fn accept_queue_overflow(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let redis = Run::words(
        "redis-server --port 6379 --bind 127.0.0.1 --tcp-backlog 4 --save --appendonly no --enable-debug-command yes",
    );
    let server = scene.spawn(&redis.in_net(&net))?;
    let listening = net.clone();
    scene.until("redis", || {
        run(&format!("nsenter --net=/run/netns/{listening} -- ss -Hltn")).is_ok_and(|text| text.contains(":6379"))
    })?;
    // One command lasts: Redis does nothing else meanwhile.
    let script = "import socket,time\n\
        slow=socket.create_connection(('127.0.0.1',6379)); slow.sendall(b'DEBUG SLEEP 300\\r\\n'); time.sleep(0.3)\n\
        kept=[]\n\
        while True:\n\
        \x20 s=socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1',6379)); kept.append((time.time(),s))\n\
        \x20 while kept and kept[0][0]<time.time()-2: kept.pop(0)[1].close()\n\
        \x20 time.sleep(0.02)";
    scene.spawn(&Run::python(script).in_net(&net))?;
    let marks = [Mark::Any(vec![Mark::Process(server), Mark::Local("127.0.0.1:6379".to_owned())])];
    Ok(Staged::fault(&["tcp_accept_queue_overflow"], marks).grows(
        "overflows",
        scene.window_seconds() * 5.0,
        move || counter(&net, "TcpExtListenOverflows"),
    ))
}

fn rtt_inflation(scene: &mut Scene) -> Result<Staged> {
    let net = scene.network_with_narrow_way()?;
    // Each connection has at most 256 KiB under way; all of it waits in front of 20 Mbit/s.
    run(&format!("nsenter --net=/run/netns/{} -- sysctl -qw net.ipv4.tcp_wmem='4096 16384 262144'", net.server))?;
    web_server(scene, &net, 16 << 10, "0")?;
    clients(scene, &net, &far_server_address(), 4)?;
    // The first packets found the queue empty.
    scene.sleep(Duration::from_millis(1500))?;
    let server = net.server.clone();
    let marks = [Mark::Remote(client_address(1))];
    Ok(Staged::fault(&["tcp_rtt_inflation"], marks).reaches("milliseconds of round trip time", 100.0, move || {
        let text = run(&format!("nsenter --net=/run/netns/{server} -- ss -Htin state established"))?;
        let times = text.split(" rtt:").skip(1).filter_map(|rest| rest.split('/').next()?.parse::<f64>().ok());
        Ok(times.fold(0.0, f64::max))
    }))
}
