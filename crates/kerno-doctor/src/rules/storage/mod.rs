//! Disks and file systems.

pub(super) mod bottleneck;
pub(super) mod errors;
pub(super) mod full;
pub(super) mod read_only;
#[cfg(test)]
mod testing;

use kerno_model::{Device, DiskDevice, Entity, Finding, RequestKind, Safety, Window};

use crate::shell::word;

/// Whether a process is the kernel's own.
fn is_kernel_thread(window: &Window, pid: u32, comm: &str) -> bool {
    match window.process(pid) {
        Some(process) => process.kernel_thread,
        None => ["kworker", "jbd2", "kswapd", "xfsaild", "btrfs-", "flush-"].iter().any(|name| comm.starts_with(name)),
    }
}

/// Requests of a kind, in words.
const fn requests(operation: Option<RequestKind>) -> &'static str {
    match operation {
        Some(RequestKind::Read) => "reads",
        Some(RequestKind::Write) => "writes",
        Some(RequestKind::Flush) => "flushes",
        Some(RequestKind::Discard) => "discards",
        _ => "requests",
    }
}

/// The device that a finding names, in words.
fn device_of(finding: &Finding) -> &str {
    finding.subject.device_name().unwrap_or("a device")
}

/// The process that a finding names, in words.
fn process_of(finding: &Finding) -> String {
    finding.subject.process.as_ref().map_or_else(|| "a process".to_owned(), ToString::to_string)
}

fn entity(device: &DiskDevice) -> Entity {
    Entity::Device(Device { dev: device.dev.clone(), name: device.label().to_owned() })
}

/// Adds commands that tell more about a device.
fn look_at_device(finding: Finding, device: &DiskDevice) -> Finding {
    let label = device.label();
    let look =
        |finding: Finding, command: String, why: &str| finding.fix(entity(device), Safety::ReadOnly, command, why);
    let finding = look(finding, format!("iostat -x {label} 1 5"), "shows the device's queue and latency");
    let finding = look(finding, format!("dmesg | grep {label}"), "shows the device's resets, timeouts and errors");
    if let Some(file) = device.backing.first().filter(|_| label.starts_with("loop")) {
        let finding = look(finding, format!("losetup -l /dev/{label}"), "shows the file behind the loop device");
        let command = format!("df -h {}", word(file));
        return finding.fix(
            Entity::File(file.clone()),
            Safety::ReadOnly,
            command,
            "shows the file system that holds this file",
        );
    }
    if !device.backing.is_empty() {
        return look(finding, format!("lsblk -s /dev/{label}"), "shows the devices below it");
    }
    look(finding, format!("smartctl -a /dev/{label}"), "shows the health that the device reports")
}
