//! Connections that are open and dead: the host is gone, the way has forgotten them, or lets only small packets through.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, run};
use crate::stage::{Network, server_address};

const RULE: &[&str] = &["tcp_connection_stuck"];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "peer_gone",
        about: "the host of a Redis goes without a word while a client has a connection to it",
        needs: &["ip", "nft", "redis-server", "redis-cli"],
        stage: peer_gone,
    },
    Case {
        name: "connection_forgotten",
        about: "a firewall forgets one of two connections to a Redis, and drops what comes on it",
        needs: &["ip", "nft", "redis-server", "redis-cli"],
        stage: forgotten,
    },
    Case {
        name: "mtu_black_hole",
        about: "a client stores a large value in a Redis, over a way that drops large packets without a word",
        needs: &["ip", "nft", "redis-server", "redis-cli"],
        stage: mtu_black_hole,
    },
];

fn redis(scene: &mut Scene) -> Result<Network> {
    let net = scene.network()?;
    let server = "redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save --appendonly no";
    scene.spawn(&Run::words(server).in_net(&net.server))?;
    let listening = net.server.clone();
    scene.until("redis", || {
        run(&format!("nsenter --net=/run/netns/{listening} -- ss -Hltn")).is_ok_and(|text| text.contains(":6379"))
    })?;
    Ok(net)
}

/// A client that asks ten times a second on one connection.
fn client(scene: &mut Scene, net: &Network) -> Result<u32> {
    let run = Run::words("redis-cli -r -1 -i 0.1 -h").arg(server_address(0));
    scene.spawn(&run.arg("ping").in_net(&net.client))
}

/// From now on the server's host drops such packets.
fn drop_there(net: &Network, which: &str) -> Result<()> {
    let rules = format!(
        "add table inet hole; add chain inet hole in {{ type filter hook input priority 0; }}; add rule inet hole in {which} counter drop"
    );
    run(&format!("nsenter --net=/run/netns/{} -- nft '{rules}'", net.server)).map(|_| ())
}

fn staged(scene: &Scene, net: Network, pid: u32, says: &'static str) -> Result<Staged> {
    // A segment is sent again after some tenths of a second, and then each time after twice as long.
    scene.sleep(Duration::from_secs(2))?;
    let marks = [Mark::Process(pid), Mark::Remote(format!("{}:6379", server_address(0))), Mark::Says(says)];
    Ok(Staged::fault(RULE, marks).reaches("packets dropped", 3.0, move || {
        let text = run(&format!("nsenter --net=/run/netns/{} -- nft list chain inet hole in", net.server))?;
        let dropped = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        dropped.context("no counter")?.parse().context("no number of packets")
    }))
}

fn peer_gone(scene: &mut Scene) -> Result<Staged> {
    let net = redis(scene)?;
    let pid = client(scene, &net)?;
    scene.sleep(Duration::from_millis(500))?;
    drop_there(&net, "tcp dport 6379")?;
    staged(scene, net, pid, "the host is gone, or packets are dropped on the way")
}

fn forgotten(scene: &mut Scene) -> Result<Staged> {
    let net = redis(scene)?;
    client(scene, &net)?;
    let script = "import socket,sys,time\n\
        s=socket.create_connection((sys.argv[1],6379),source_address=('',40000))\n\
        while True: s.sendall(b'PING\\r\\n'); s.recv(99); time.sleep(0.1)";
    let pid = scene.spawn(&Run::python(script).arg(server_address(0)).in_net(&net.client))?;
    scene.sleep(Duration::from_millis(700))?;
    drop_there(&net, "tcp sport 40000")?;
    staged(scene, net, pid, "has forgotten this one")
}

fn mtu_black_hole(scene: &mut Scene) -> Result<Staged> {
    let net = redis(scene)?;
    drop_there(&net, "ip length > 1300")?;
    let value = scene.dir().join("value");
    std::fs::write(&value, vec![b'v'; 100_000])?;
    let script = format!("exec redis-cli -h {} -x set key <{}", server_address(0), value.display());
    let pid = scene.spawn(&Run::shell(script).in_net(&net.client))?;
    staged(scene, net, pid, "larger than a link on the way allows")
}
