use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

pub(super) fn run(watch: Duration) -> anyhow::Result<()> {
    let kerno = std::env::current_exe()?.with_file_name("kerno");
    ensure!(kerno.exists(), "{} is not built", kerno.display());
    let mut child = Command::new(&kerno)
        .args(["trace", "all", "--pid", "4000000", "--output", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", kerno.display()))?;
    let result = watch_child(child.id(), watch);
    child.kill()?;
    child.wait()?;
    result
}

fn watch_child(pid: u32, watch: Duration) -> anyhow::Result<()> {
    // Loading is not idling.
    std::thread::sleep(Duration::from_secs(3));
    let before = cpu_ticks(pid)?;
    std::thread::sleep(watch);
    let ticks = cpu_ticks(pid)? - before;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kb = |name: &str| -> anyhow::Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in status"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let percent = ticks as f64 / per_second / watch.as_secs_f64() * 100.0;
    println!("idle kerno trace of all signals, {} s:", watch.as_secs());
    println!("{percent:.2} % of a core, {} KiB resident, {} KiB at most", kb("VmRSS:")?, kb("VmHWM:")?);
    Ok(())
}

/// User and system time in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("kerno has ended; run it by hand to see why")?;
    let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
