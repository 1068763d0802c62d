//! The kerno that is tried.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Questions and the start may take so long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Daemon {
    child: Child,
    http: SocketAddr,
    directory: tempfile::TempDir,
}

/// What it holds at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    pub(super) mappings: u64,
    pub(super) kernel_bytes: u64,
    pub(super) store_bytes: u64,
    pub(super) series: u64,
}

/// What its windows say together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) windows: u64,
    /// The longest time between two of them, in seconds.
    pub(super) gap_seconds: f64,
    pub(super) getppid: u64,
    pub(super) seconds: f64,
}

impl Daemon {
    pub(super) fn start(kerno: &Path, interval: Duration) -> Result<Self> {
        let directory = tempfile::tempdir().context("no directory for the store")?;
        let at = |name: &str| directory.path().join(name);
        let mut child = Command::new(kerno)
            .args(["start", "--http", "127.0.0.1:0", "--config", "/dev/null", "--log", "json"])
            .args(["--interval", &format!("{}ms", interval.as_millis())])
            .arg("--store")
            .arg(at("store"))
            .arg("--socket")
            .arg(at("socket"))
            // What would go for its cost is to be watched here.
            .envs([("KERNO_START__MAX_KERNEL_SHARE", "1"), ("KERNO_START__MAX_CPU_SHARE", "1")])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", kerno.display()))?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?);
        let http = loop {
            let mut line = String::new();
            if log.read_line(&mut line)? == 0 {
                bail!("kerno start has ended: {}", child.wait()?);
            }
            if let Some(http) =
                serde_json::from_str::<Value>(&line).ok().and_then(|line| line["http"].as_str()?.parse().ok())
            {
                break http;
            }
            eprint!("{line}");
        };
        // Nobody may fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { child, http, directory })
    }

    /// Asks it something, each time something else.
    pub(super) fn ask(&mut self, turn: usize) -> Result<()> {
        const QUESTIONS: [(&str, &str); 6] = [
            ("/metrics", "application/openmetrics-text"),
            ("/metrics", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"),
            ("/metrics", "text/plain"),
            ("/api/v1/incidents", "*/*"),
            ("/api/v1/report", "*/*"),
            ("/api/v1/status", "*/*"),
        ];
        if let Some(status) = self.child.try_wait()? {
            bail!("kerno start has ended: {status}");
        }
        let (path, accept) = QUESTIONS[turn % QUESTIONS.len()];
        match self.get(path, accept) {
            // There is no report before the first window.
            Ok(_) => Ok(()),
            Err(_) if path == "/api/v1/report" && turn < 30 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn get(&self, path: &str, accept: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.http).context("kerno does not answer")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: what follows the head is the body.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: soak\r\nAccept: {accept}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("no whole answer to {path}"))?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
        let body = answer.split_off(head + 4);
        ensure!(
            answer.windows(5).take(16).any(|five| five == b" 200 "),
            "{path}: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(body)
    }

    pub(super) fn status(&self) -> Result<Value> {
        serde_json::from_slice(&self.get("/api/v1/status", "*/*")?).context("the status is no JSON")
    }

    pub(super) fn held(&self) -> Result<Held> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(proc.join("status")).context("kerno start has ended")?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let entries = fs::read_dir(proc.join("fdinfo"))?.flatten();
        let infos: Vec<_> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        let of_maps = infos.iter().filter(|info| info.contains("map_type:"));
        let kernel_bytes = of_maps
            .filter_map(|info| info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse::<u64>().ok())
            .sum();
        let metrics = String::from_utf8_lossy(&self.get("/metrics", "text/plain")?).into_owned();
        Ok(Held {
            resident_bytes: of("VmRSS:") * 1024,
            descriptors: infos.len() as u64,
            threads: of("Threads:"),
            mappings: fs::read_to_string(proc.join("maps"))?.lines().count() as u64,
            kernel_bytes,
            store_bytes: size(&self.directory.path().join("store")),
            series: metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count() as u64,
        })
    }

    /// Adds up all windows.
    pub(super) fn told(&self) -> Result<Told> {
        let lines = self.get("/api/v1/windows?from=0&to=now", "*/*")?;
        let mut told = Told::default();
        let mut ended: Option<f64> = None;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let window = kerno::model::saved::read_window(line).context("a window cannot be read")?;
            #[allow(clippy::cast_precision_loss, reason = "seconds")]
            let began = window.span.started_ns as f64 / 1e9;
            told.gap_seconds = ended.map_or(0.0, |ended| (began - ended).abs()).max(told.gap_seconds);
            ended = Some(began + window.span.seconds);
            told.windows += 1;
            told.seconds += window.span.seconds;
            let calls = window.syscall_latency.iter().flat_map(|part| &part.syscalls);
            told.getppid += calls.filter(|call| call.name == "getppid").map(|call| call.calls).sum::<u64>();
        }
        Ok(told)
    }

    /// Stops it, and says how long that took.
    pub(super) fn stop(mut self) -> Result<Duration> {
        let asked = Instant::now();
        let pid = libc::pid_t::try_from(self.child.id()).context("a strange process id")?;
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.child.wait()?;
        ensure!(status.success(), "kerno start ended badly: {status}");
        Ok(asked.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
