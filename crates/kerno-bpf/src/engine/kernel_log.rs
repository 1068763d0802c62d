//! What the kernel writes to its log while a window lasts, sorted by the kinds that `kerno explain` knows.

use std::collections::BTreeMap;

use kerno_doctor::kernel_log::explain;
use kerno_model::{KernelMessage, Window};

use super::cumulative::{Gap, Gaps};
use crate::kmsg::{KernelRecord, NewRecords};

/// The most records that one window looks at: a log that is flooded, as by a rule of a firewall, costs no more than this.
const MAX_LOOKED_AT: u64 = 1000;
/// The most records that one sample takes.
const MAX_READ: usize = 256;
/// The most kinds and devices that a window tells of.
const MAX_KINDS: usize = 64;
/// How much of a message is kept, in bytes.
const MAX_TEXT: usize = 240;
/// The names in a message that tell what it is about, the most telling first.
const ABOUT: [&str; 6] = ["device", "array", "interface", "server", "process", "cpu"];

/// Follows the log.
#[derive(Debug, Default)]
pub(super) struct KernelLogWatch {
    log: Option<NewRecords>,
    /// Why it cannot be read.
    failed: Option<String>,
    found: BTreeMap<(&'static str, String), KernelMessage>,
    looked_at: u64,
    /// Records that were not looked at, and those that the kernel overwrote first.
    left_out: u64,
    overwritten: u64,
}

impl KernelLogWatch {
    /// Follows it from now on.
    pub(super) fn begin(&mut self) {
        match NewRecords::from_now() {
            Ok(log) => self.log = Some(log),
            Err(error) => self.failed = Some(error.to_string()),
        }
    }

    /// Reads what came since.
    pub(super) fn sample(&mut self, now_ns: u64) {
        let Some(log) = &mut self.log else { return };
        match log.read(MAX_READ) {
            Ok(read) => {
                self.overwritten += read.overwritten;
                read.records.iter().for_each(|record| self.take(record, now_ns));
            }
            Err(error) => {
                self.failed = Some(error.to_string());
                self.log = None;
            }
        }
    }

    fn take(&mut self, record: &KernelRecord, now_ns: u64) {
        // Facility 0 is the kernel's: any program that may write to the log can pretend to be it but for that.
        if record.facility != 0 {
            return;
        }
        if self.looked_at >= MAX_LOOKED_AT {
            self.left_out += 1;
            return;
        }
        self.looked_at += 1;
        let text = String::from_utf8_lossy(&record.text);
        let Some(found) = explain(&text) else { return };
        let about = ABOUT.iter().find_map(|name| found.names.get(*name)).cloned().unwrap_or_default();
        let full = self.found.len() >= MAX_KINDS;
        let key = (found.id, about);
        if let Some(message) = self.found.get_mut(&key) {
            message.count += 1;
        } else if full {
            self.left_out += 1;
        } else {
            let end = (0..=MAX_TEXT.min(found.message.len())).rev().find(|at| found.message.is_char_boundary(*at));
            let text = found.message.get(..end.unwrap_or(0)).unwrap_or_default().to_owned();
            let (kind, about) = (found.id.to_owned(), key.1.clone());
            self.found.insert(key, KernelMessage { kind, about, count: 1, first_ns: now_ns, text });
        }
    }

    /// Ends the window.
    pub(super) fn finish(&mut self, gaps: &mut Gaps, window: &mut Window) {
        let what = || "messages of the kernel".to_owned();
        if let Some(reason) = &self.failed {
            gaps.add(Gap { what: what(), reason: reason.clone() });
        }
        let (left_out, overwritten) = (std::mem::take(&mut self.left_out), std::mem::take(&mut self.overwritten));
        if left_out + overwritten > 0 {
            let reason = format!("so many came that {left_out} were not looked at, and {overwritten} were overwritten");
            gaps.add(Gap { what: what(), reason });
        }
        self.looked_at = 0;
        window.kernel_messages = std::mem::take(&mut self.found).into_values().collect();
        window.kernel_messages.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.kind.cmp(&b.kind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(records: &[(u32, &str)]) -> Window {
        let mut watch = KernelLogWatch::default();
        for (facility, text) in records {
            let record = crate::kmsg::testing::record(*facility, text);
            watch.take(&record, 7);
        }
        let mut window = Window::default();
        watch.finish(&mut Gaps::new("all"), &mut window);
        window
    }

    #[test]
    fn messages_are_counted_by_kind_and_device() {
        let medium = "critical medium error, dev sda, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2";
        let other = "I/O error, dev sdb, sector 5 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 0";
        let window = watch(&[(0, medium), (0, medium), (0, other), (1, medium), (0, "all is well")]);
        let told: Vec<_> = window.kernel_messages.iter().map(|m| (&*m.kind, &*m.about, m.count)).collect();
        assert_eq!(told, [("medium_error", "sda", 2), ("io_error", "sdb", 1)]);
        assert_eq!((window.kernel_messages[0].text.as_str(), window.kernel_messages[0].first_ns), (medium, 7));
    }

    #[test]
    fn a_flood_is_bounded_and_told_of() {
        let mut watch = KernelLogWatch::default();
        for number in 0..2 * MAX_LOOKED_AT {
            let text =
                format!("I/O error, dev sd{number}, sector 5 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 0");
            watch.take(&crate::kmsg::testing::record(0, &text), 7);
        }
        let (mut gaps, mut window) = (Gaps::new("all"), Window::default());
        watch.finish(&mut gaps, &mut window);
        gaps.tell(&mut window);
        assert_eq!(window.kernel_messages.len(), MAX_KINDS);
        assert!(window.missing[0].reason.contains("1936 were not looked at"), "{:?}", window.missing);
    }
}
