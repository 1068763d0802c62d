//! DNS servers that do not answer, in namespaces of the lab's own.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::standing::state;
use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, kill, run};
use crate::stage::counter;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "dns_queries_dropped",
        about: "a firewall drops what programs ask their DNS server",
        needs: &["ip", "nft", "getent"],
        stage: dropped,
    },
    Case {
        name: "dnsmasq_stopped",
        about: "dnsmasq is stopped while programs ask it for addresses",
        needs: &["ip", "dnsmasq", "getent"],
        stage: stopped,
    },
    Case {
        name: "dns_event_loop_waits",
        about: "a firewall drops what an event loop asks its DNS server by a socket that is not connected",
        needs: &["ip", "nft", "python3"],
        stage: event_loop_waits,
    },
    Case {
        name: "dns_slow_server",
        about: "a DNS server takes 0.4 s for each answer, and curl asks it",
        needs: &["ip", "curl", "python3"],
        stage: slow_server,
    },
    Case {
        name: "dns_slow_upstream",
        about: "the server that dnsmasq passes queries on to takes 0.4 s for each answer",
        needs: &["ip", "dnsmasq", "getent", "python3"],
        stage: slow_upstream,
    },
    Case {
        name: "dns_refused",
        about: "dnsmasq has no server for the names that programs ask for, and refuses",
        needs: &["ip", "dnsmasq", "getent"],
        stage: refused,
    },
    Case {
        name: "dns_nobody_listens",
        about: "programs ask a DNS server that is not running",
        needs: &["ip", "getent"],
        stage: nobody_listens,
    },
    Case {
        name: "dns_missing_name",
        about: "a program asks again and again for a name that is gone",
        needs: &["ip", "dnsmasq", "python3"],
        stage: missing_name,
    },
    Case {
        name: "dns_missing_name_by_shell",
        about: "a shell starts getent again and again for a name that is gone",
        needs: &["ip", "dnsmasq", "getent"],
        stage: missing_name_by_shell,
    },
    Case {
        name: "dns_search_list",
        about: "a program looks up a name with ndots:5 and three suffixes",
        needs: &["ip", "dnsmasq", "python3"],
        stage: search_list,
    },
    Case {
        name: "dns_search_list_curl",
        about: "curl is started again and again for a name, with ndots:5 and three suffixes",
        needs: &["ip", "dnsmasq", "curl"],
        stage: search_list_curl,
    },
];

/// Three programs that look up names all the time, and ask a server at 127.0.0.1.
pub(crate) fn look_up(scene: &mut Scene, net: &str) -> Result<Vec<u32>> {
    let conf = scene.dir().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\n")?;
    let script = format!(
        "mount --bind '{}' /etc/resolv.conf && while :; do getent hosts db.example >/dev/null; sleep .2; done",
        conf.display()
    );
    let run = || Run::new(["unshare", "--mount", "sh", "-c", &script]).in_net(net);
    (0..3).map(|_| scene.spawn(&run())).collect()
}

fn dropped(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let rules = "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; \
         add rule inet wall in udp dport 53 counter drop";
    run(&format!("nsenter --net=/run/netns/{net} -- nft '{rules}'"))?;
    let programs = look_up(scene, &net)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Remote("127.0.0.1:53".to_owned()), Mark::Victim(programs[0])];
    Ok(Staged::fault(&["dns_no_answer"], marks).reaches("queries dropped", 3.0, move || {
        let text = run(&format!("nsenter --net=/run/netns/{net} -- nft list chain inet wall in"))?;
        Ok(text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0))
    }))
}

/// A dnsmasq that knows the name.
pub(crate) fn dnsmasq(scene: &mut Scene, net: &str) -> Result<u32> {
    dnsmasq_with(scene, net, "--address=/db.example/10.1.2.3")
}

/// A dnsmasq that knows what these options say.
pub(crate) fn dnsmasq_with(scene: &mut Scene, net: &str, options: &str) -> Result<u32> {
    let server = "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --user=root --listen-address=127.0.0.1 \
                  --bind-interfaces --pid-file=";
    let server = scene.spawn(&Run::words(&format!("{server} {options}")).in_net(net))?;
    scene.until("dnsmasq", || {
        run(&format!("nsenter --net=/run/netns/{net} -- ss -Hlun")).is_ok_and(|text| text.contains(":53"))
    })?;
    Ok(server)
}

fn stopped(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let server = dnsmasq(scene, &net)?;
    look_up(scene, &net)?;
    scene.sleep(Duration::from_millis(700))?;
    kill(server, Signal::STOP);
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(server), Mark::Says("dnsmasq (")];
    Ok(Staged::fault(&["stopped_process"], marks)
        .reaches("dnsmasq stopped", 1.0, move || Ok(f64::from(u8::from(state(server) == 'T')))))
}

/// A command of a shell that asks a server at 127.0.0.1, with these other lines in its resolv.conf.
pub(crate) fn asks(scene: &mut Scene, net: &str, lines: &str, command: &str) -> Result<u32> {
    let conf = scene.dir().join("resolv.conf");
    std::fs::write(&conf, format!("nameserver 127.0.0.1\n{lines}"))?;
    let script = format!("mount --bind '{}' /etc/resolv.conf && {command}", conf.display());
    scene.spawn(&Run::new(["unshare", "--mount", "sh", "-c", &script]).in_net(net))
}

/// A loop of Python that looks up what `name` is for the number `i`, so often a second.
pub(crate) fn look_up_in_python(name: &str, per_second: u32) -> String {
    format!(
        "exec /usr/bin/python3 -c 'import itertools,socket,time\n\
         for i in itertools.count():\n\
         \x20 try: socket.getaddrinfo({name},80)\n\
         \x20 except OSError: pass\n\
         \x20 time.sleep(1/{per_second})'"
    )
}

fn datagrams(scene: &Scene, net: String, per_second: f64, staged: Staged) -> Staged {
    staged.grows("datagrams", scene.window_seconds() * per_second, move || counter(&net, "UdpInDatagrams"))
}

fn event_loop_waits(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let rules = "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; \
         add rule inet wall in udp dport 53 counter drop";
    run(&format!("nsenter --net=/run/netns/{net} -- nft '{rules}'"))?;
    let script = "import select,socket\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
        i=0\n\
        while True:\n\
        \x20 i=(i+1)%65536\n\
        \x20 s.sendto(i.to_bytes(2,'big')+b'\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\2db\\7example\\0\\0\\1\\0\\1',('127.0.0.1',53))\n\
        \x20 select.select([s,s.fileno()],[],[],2.5)";
    let client = scene.spawn(&Run::python(script).in_net(&net))?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Remote("127.0.0.1:53".to_owned()), Mark::Victim(client)];
    Ok(Staged::fault(&["dns_no_answer"], marks).reaches("queries dropped", 3.0, move || {
        let text = run(&format!("nsenter --net=/run/netns/{net} -- nft list chain inet wall in"))?;
        Ok(text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0))
    }))
}

/// A server that knows an address of each name, and thinks about it for 0.4 s.
fn slow(scene: &mut Scene, net: &str, address: &str) -> Result<u32> {
    let script = "import socket,sys,threading,time\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
        s.bind((sys.argv[1],53))\n\
        def answer(q,a):\n\
        \x20 time.sleep(.4)\n\
        \x20 end=q.index(0,12)+5\n\
        \x20 known=q[end-4:end-2]==b'\\0\\1'\n\
        \x20 record=b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\x0a\\1\\2\\3' if known else b''\n\
        \x20 s.sendto(q[:2]+b'\\x81\\x80\\0\\1\\0'+bytes([known])+b'\\0\\0\\0\\0'+q[12:end]+record,a)\n\
        while True:\n\
        \x20 q,a=s.recvfrom(4096)\n\
        \x20 threading.Thread(target=answer,args=(q,a),daemon=True).start()";
    let server = scene.spawn(&Run::python(script).arg(address).in_net(net))?;
    scene.until("the slow server", || {
        run(&format!("nsenter --net=/run/netns/{net} -- ss -Hlun"))
            .is_ok_and(|text| text.contains(&format!("{address}:53")))
    })?;
    Ok(server)
}

fn slow_server(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let server = slow(scene, &net, "127.0.0.1")?;
    let command = "while :; do curl -s --max-time 5 http://db.example/ >/dev/null; sleep .1; done";
    asks(scene, &net, "", command)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(server), Mark::Remote("127.0.0.1:53".to_owned()), Mark::Says("curl")];
    Ok(datagrams(scene, net, 2.0, Staged::fault(&["dns_slow"], marks)))
}

fn slow_upstream(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let server = slow(scene, &net, "127.0.0.2")?;
    let forwarder = dnsmasq_with(scene, &net, "--server=127.0.0.2 --cache-size=0")?;
    look_up(scene, &net)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(server), Mark::Remote("127.0.0.2:53".to_owned()), Mark::Victim(forwarder)];
    Ok(datagrams(scene, net, 5.0, Staged::fault(&["dns_slow"], marks)))
}

fn refused(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    let server = dnsmasq(scene, &net)?;
    let command = "while :; do getent hosts api.example.net >/dev/null; sleep .1; done";
    asks(scene, &net, "", command)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(server), Mark::Says("refused")];
    Ok(datagrams(scene, net, 5.0, Staged::fault(&["dns_failures"], marks)))
}

fn nobody_listens(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    look_up(scene, &net)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Remote("127.0.0.1:53".to_owned()), Mark::Says("nobody listens")];
    Ok(Staged::fault(&["dns_failures"], marks)
        .grows("datagrams for nobody", scene.window_seconds() * 3.0, move || counter(&net, "UdpNoPorts")))
}

fn missing_name(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    dnsmasq_with(scene, &net, "--local=/example/")?;
    let client = asks(scene, &net, "", &look_up_in_python("\"cache.gone.example\"", 20))?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(client), Mark::Says("cache.gone.example")];
    Ok(datagrams(scene, net, 20.0, Staged::fault(&["dns_missing_name"], marks)))
}

fn missing_name_by_shell(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    dnsmasq_with(scene, &net, "--local=/example/")?;
    let command = "while :; do getent ahosts queue.gone.example >/dev/null; sleep .05; done";
    let client = asks(scene, &net, "", command)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(client), Mark::Says("queue.gone.example")];
    Ok(datagrams(scene, net, 10.0, Staged::fault(&["dns_missing_name"], marks)))
}

/// As Kubernetes has it.
const SEARCH: &str = "search default.svc.cluster.example svc.cluster.example cluster.example\noptions ndots:5\n";
const KNOWS_API: &str = "--local=/example/ --address=/api.vendor.example/10.1.2.3";

fn search_list(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    dnsmasq_with(scene, &net, KNOWS_API)?;
    let client = asks(scene, &net, SEARCH, &look_up_in_python("\"api.vendor.example\"", 20))?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(client), Mark::Says("api.vendor.example")];
    Ok(datagrams(scene, net, 50.0, Staged::fault(&["dns_search_list"], marks)))
}

fn search_list_curl(scene: &mut Scene) -> Result<Staged> {
    let net = scene.lonely_net()?;
    dnsmasq_with(scene, &net, KNOWS_API)?;
    let command = "while :; do curl -s --max-time 5 http://api.vendor.example/ >/dev/null; done";
    let client = asks(scene, &net, SEARCH, command)?;
    scene.sleep(Duration::from_secs(1))?;
    let marks = [Mark::Process(client), Mark::Says("api.vendor.example")];
    Ok(datagrams(scene, net, 50.0, Staged::fault(&["dns_search_list"], marks)))
}
