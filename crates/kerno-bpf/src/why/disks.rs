//! Who uses which block device: whoever waits for one waits behind all of them.

use std::collections::BTreeMap;

use kerno_doctor::why::observed::DiskUse;
use kerno_model::{Missing, WhyProcess, Window, fill};

use super::objects::block_device;
use crate::engine::{Observer, ObserverOptions};
use crate::probe::Host;

/// Kernel threads write what processes have dirtied: from this share of a device's bytes on, those count who have.
const BY_KERNEL: f64 = 0.5;

/// Watches the block devices beside.
#[derive(Debug)]
pub(super) struct Disks {
    observer: Result<Observer, String>,
    /// Bytes by device and process.
    users: BTreeMap<String, BTreeMap<WhyProcess, u64>>,
}

impl Disks {
    pub(super) fn watch(host: &Host) -> Self {
        let options = ObserverOptions { signals: vec!["disk_io".into()], ..ObserverOptions::default() };
        let observer = Observer::start_on(options, host.clone()).map_err(|error| error.to_string());
        Self { observer, users: BTreeMap::new() }
    }

    pub(super) fn sample(&mut self) {
        if let Ok(observer) = &mut self.observer
            && let Err(error) = observer.sample()
        {
            self.observer = Err(error.to_string());
        }
    }

    pub(super) fn missing(&self) -> Option<Missing> {
        let error = self.observer.as_ref().err()?;
        Some(fill!(Missing { signal: "disk_io".into(), what: format!("who else uses a disk: {error}") }))
    }

    /// Since watching began.
    pub(super) fn users(&mut self) -> Vec<DiskUse> {
        if let Ok(observer) = &mut self.observer {
            match observer.finish() {
                Ok(window) => self.add(&window),
                Err(error) => self.observer = Err(error.to_string()),
            }
        }
        let sorted = |users: &BTreeMap<WhyProcess, u64>| {
            let mut users: Vec<_> = users.iter().map(|(process, bytes)| (process.clone(), *bytes)).collect();
            users.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            users
        };
        self.users.iter().map(|(device, users)| DiskUse { device: device.clone(), users: sorted(users) }).collect()
    }

    fn add(&mut self, window: &Window) {
        let Some(disk) = &window.disk_io else { return };
        let mut written: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for submitter in &disk.submitters {
            let Some(device) = name(&submitter.dev) else { continue };
            let bytes = submitter.read_bytes + submitter.write_bytes;
            let by_kernel = is_kernel(submitter.pid, window);
            let (all, kernel) = written.entry(device.clone()).or_default();
            *all += bytes;
            if by_kernel {
                *kernel += bytes;
            } else {
                let process = WhyProcess { pid: submitter.pid, comm: submitter.comm.clone() };
                *self.users.entry(device).or_default().entry(process).or_default() += bytes;
            }
        }
        self.add_dirtied(window, &written);
    }

    /// Whoever dirtied what the kernel's threads wrote. The kernel does not keep on which device: only where one has nearly all of it.
    #[allow(clippy::cast_precision_loss, reason = "bytes of seconds")]
    fn add_dirtied(&mut self, window: &Window, written: &BTreeMap<String, (u64, u64)>) {
        let total: u64 = written.values().map(|(_, kernel)| kernel).sum();
        let Some((device, (all, kernel))) = written.iter().max_by_key(|(_, (_, kernel))| *kernel) else { return };
        if total == 0 || (*kernel as f64) < 0.9 * total as f64 || (*kernel as f64) < BY_KERNEL * *all as f64 {
            return;
        }
        let users = self.users.entry(device.clone()).or_default();
        for (pid, process) in window.processes.iter().filter(|(_, process)| process.used.write_bytes > 0) {
            let known = users.entry(WhyProcess { pid: *pid, comm: process.comm.clone() }).or_default();
            *known = (*known).max(process.used.write_bytes.min(*kernel));
        }
    }
}

fn is_kernel(pid: u32, window: &Window) -> bool {
    let known = window.process(pid);
    pid == 0
        || known.map_or_else(
            || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty()),
            |process| process.kernel_thread,
        )
}

fn name(device: &str) -> Option<String> {
    let (major, minor) = device.split_once(':')?;
    block_device((major.parse().ok()?, minor.parse().ok()?))
}
