//! DNS servers that do not answer, in namespaces of the lab's own.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::standing::state;
use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, kill, run};

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
    let server = "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --user=root --listen-address=127.0.0.1 \
                  --bind-interfaces --pid-file= --address=/db.example/10.1.2.3";
    let server = scene.spawn(&Run::words(server).in_net(net))?;
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
