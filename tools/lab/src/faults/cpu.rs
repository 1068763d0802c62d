//! CPUs: limited by a quota, or wanted by too many.

use std::path::Path;

use anyhow::Result;

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "cpu_throttling",
        about: "a cgroup with a quota of a fifth of a CPU computes all the time",
        needs: &["stress-ng"],
        stage: cpu_throttling,
    },
    Case {
        name: "cpu_oversubscribed",
        about: "eight times as many hogs as CPUs, and a Redis that must answer",
        needs: &["stress-ng", "redis-server", "redis-benchmark"],
        stage: cpu_oversubscribed,
    },
];

fn throttled(cgroup: &Path) -> Result<f64> {
    let stat = std::fs::read_to_string(cgroup.join("cpu.stat"))?;
    let value = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    Ok(value.unwrap_or("0").parse()?)
}

/// A busy process in a cgroup with too small a quota.
pub(super) fn throttle(scene: &mut Scene) -> Result<Staged> {
    let cgroup = scene.cpu_limit(0.2)?;
    scene.spawn(&Run::words("stress-ng --cpu 1 --timeout 600").in_cgroup(&cgroup))?;
    let watched = cgroup.clone();
    let periods = scene.window_seconds() * 10.0 * 0.5;
    Ok(Staged::fault(&["cpu_throttling"], [Mark::Cgroup(cgroup)])
        .grows("periods throttled", periods, move || throttled(&watched)))
}

fn cpu_throttling(scene: &mut Scene) -> Result<Staged> {
    throttle(scene)
}

fn cpu_oversubscribed(scene: &mut Scene) -> Result<Staged> {
    let cpus = std::thread::available_parallelism()?.get();
    let cgroup = scene.cpu_group()?;
    let socket = scene.dir().join("redis.sock");
    let server = Run::words("redis-server --port 0 --save --appendonly no").arg("--unixsocket").arg(socket.display());
    let server = scene.spawn(&server.in_cgroup(&cgroup))?;
    let answering = socket.clone();
    scene.until("redis", || answering.exists())?;
    // A server that has work for half a CPU and more; with so many others it gets far less.
    let load = format!("while :; do redis-benchmark -s '{}' -q -c 20 -n 1000000 -t get; done", socket.display());
    scene.spawn(&Run::shell(load).in_cgroup(&cgroup))?;
    let hogs = scene.spawn(&Run::words("stress-ng --timeout 600 --cpu").arg(cpus * 8).in_cgroup(&cgroup))?;
    scene.sleep(std::time::Duration::from_millis(500))?;
    let waited = move || {
        let text = std::fs::read_to_string(format!("/proc/{server}/schedstat"))?;
        Ok(text.split_whitespace().nth(1).unwrap_or("0").parse::<f64>()? / 1e6)
    };
    Ok(Staged::fault(&["scheduler_contention"], [Mark::Process(hogs)])
        .grows("milliseconds that redis waited for a CPU", scene.window_seconds() * 200.0, waited)
        .reaches("load", cpus as f64, || {
            Ok(std::fs::read_to_string("/proc/loadavg")?
                .split('/')
                .next()
                .and_then(|text| text.rsplit(' ').next()?.parse().ok())
                .unwrap_or(0.0))
        }))
}
