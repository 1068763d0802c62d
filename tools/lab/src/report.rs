//! Running the doctor and reading its report.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
// The library's own types, and the only place that names where they live.
pub(super) use kerno::report::{Culprit, Diagnosis, Report};
use serde::Deserialize as _;

use super::scene::Scene;

/// Whom a finding blames, in a few words.
pub(super) fn blamed(culprit: &Culprit) -> String {
    let mut parts = Vec::new();
    if let Some(pid) = culprit.pid {
        parts.push(format!("{} ({pid})", culprit.process.as_deref().unwrap_or("?")));
    }
    let named = [
        ("cgroup", &culprit.cgroup),
        ("device", &culprit.device),
        ("mount", &culprit.mount),
        ("remote", &culprit.remote),
        ("local", &culprit.local),
    ];
    parts.extend(named.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))));
    if parts.is_empty() { "nobody".to_owned() } else { parts.join(", ") }
}

/// The doctor while it watches; killed when dropped.
pub(super) struct Doctor {
    child: Child,
}

impl Drop for Doctor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What the doctor said, and where it left the window that it said it of.
pub(super) struct Said {
    pub(super) report: Report,
    pub(super) json: serde_json::Value,
    pub(super) window: PathBuf,
    pub(super) pid: u32,
}

/// Runs the doctor for the scene's window. Meanwhile it notes who is there of each process that was started.
pub(super) fn diagnose(kerno: &Path, scene: &mut Scene) -> Result<Said> {
    let (path, errors) = (scene.dir().join("report.json"), scene.dir().join("doctor.log"));
    let window = scene.dir().join("window.json");
    let seconds = format!("{}ms", scene.window.as_millis());
    let mut command = Command::new(kerno);
    // The defaults are what is tried here, whatever this machine's settings are.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KERNO_")) {
        command.env_remove(name);
    }
    let child = command
        .env("KERNO_CONFIG", "/dev/null")
        .args(["doctor", "--output", "json", "--duration", &seconds, "--save"])
        .arg(&window)
        .stdin(Stdio::null())
        .stdout(File::create(&path)?)
        .stderr(File::create(&errors)?)
        .spawn()
        .with_context(|| format!("cannot run {}", kerno.display()))?;
    let mut doctor = Doctor { child };
    let pid = doctor.child.id();
    let deadline = Instant::now() + scene.window + Duration::from_secs(30);
    let status = loop {
        scene.look_at_families();
        if let Some(status) = doctor.child.try_wait()? {
            break status;
        }
        ensure!(Instant::now() < deadline, "kerno doctor does not end");
        scene.sleep(Duration::from_millis(100))?;
    };
    let said = || std::fs::read_to_string(&errors).unwrap_or_default();
    ensure!(status.success(), "kerno doctor: {status}: {}", said().trim());
    let text = std::fs::read_to_string(&path)?;
    let json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("no report; it said: {}", said()))?;
    Ok(Said { report: Report::deserialize(&json)?, json, window, pid })
}
