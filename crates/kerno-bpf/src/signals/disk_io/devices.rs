//! What the kernel itself counts and knows of block devices: `/proc/diskstats` and sysfs.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::{Gap, Gaps, ProcFile, Question, Resolver};
use kerno_model::DiskDevice;
use kerno_model::Series;

/// The most devices that are followed; a host with more has mostly idle ones, which come last.
const MAX_DEVICES: usize = 256;

/// major, minor
pub(super) type Dev = (u32, u32);

/// `/proc/diskstats` of one device (Documentation/admin-guide/iostats.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskCounters {
    /// Completed requests of all kinds.
    ios: u64,
    /// What they took, added up, in milliseconds.
    total_ms: u64,
    in_flight: u64,
    /// Time with requests under way, in milliseconds.
    busy_ms: u64,
}

/// A line: number, name, counters.
fn parse_line(line: &str) -> Option<(Dev, &str, DiskCounters)> {
    let mut words = line.split_ascii_whitespace();
    let dev = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let name = words.next()?;
    let mut fields = [0u64; 17];
    // Older kernels have fewer: no flushes before 5.5.
    fields.iter_mut().zip(words).for_each(|(field, word)| *field = word.parse().unwrap_or(0));
    let [
        reads,
        _,
        _,
        read_ms,
        writes,
        _,
        _,
        write_ms,
        in_flight,
        busy_ms,
        _,
        discards,
        _,
        _,
        discard_ms,
        flushes,
        flush_ms,
    ] = fields;
    let counters = DiskCounters {
        ios: reads + writes + discards + flushes,
        total_ms: read_ms + write_ms + discard_ms + flush_ms,
        in_flight,
        busy_ms,
    };
    Some((dev, name, counters))
}

#[derive(Debug)]
struct Followed {
    name: String,
    at_start: DiskCounters,
    latest: DiskCounters,
    in_flight: Series,
    await_ms: Series,
    /// Of the time between the last two samples.
    busy_now: f64,
    await_now: Option<f64>,
    /// As last read.
    nature: Nature,
}

/// The kind of a device, and the devices it is made of.
#[derive(Clone, Debug, Default)]
struct Nature {
    rotational: bool,
    backing: Vec<String>,
}

impl Nature {
    fn read(dev: Dev) -> Self {
        let rotational = fs::read_to_string(sysfs(dev).join("queue/rotational")).is_ok_and(|text| text.trim() == "1");
        Self { rotational, backing: backing(dev) }
    }
}

/// All whole devices over the window.
#[derive(Debug)]
pub(super) struct Devices {
    followed: HashMap<Dev, Followed>,
    /// Partitions and the like: their requests are their disk's.
    passed_over: HashMap<Dev, String>,
    last_seconds: f64,
    /// They have been read before: one that is new has come since.
    listed: bool,
    file: ProcFile,
}

impl Default for Devices {
    fn default() -> Self {
        let (followed, passed_over) = (HashMap::new(), HashMap::new());
        let file = ProcFile::new("/proc/diskstats");
        Self { followed, passed_over, last_seconds: 0.0, listed: false, file }
    }
}

impl Devices {
    /// Begins a window where the last one ended.
    pub(super) fn begin(&mut self, gaps: &mut Gaps) {
        for device in self.followed.values_mut() {
            device.at_start = device.latest;
            device.in_flight = Series::default();
            device.await_ms = Series::default();
        }
        self.passed_over.clear();
        self.last_seconds = 0.0;
        self.sample(0.0, gaps);
    }

    pub(super) fn sample(&mut self, seconds: f64, gaps: &mut Gaps) {
        let Some(text) = gaps.note("what disks did (/proc/diskstats)", self.file.text()) else { return };
        let elapsed_ms = (seconds - self.last_seconds).max(1e-3) * 1e3;
        for (dev, name, counters) in text.lines().filter_map(parse_line) {
            if self.passed_over.get(&dev).is_some_and(|known| known == name) {
                continue;
            }
            if self.followed.get(&dev).is_none_or(|device| device.name != name) {
                if fs::exists(sysfs(dev).join("partition")).unwrap_or(false) || self.followed.len() >= MAX_DEVICES {
                    self.passed_over.insert(dev, name.to_owned());
                    continue;
                }
                // One that appears in the middle of a window began at 0.
                let at_start = if self.listed && seconds > 0.0 { DiskCounters::default() } else { counters };
                self.followed.insert(dev, Followed::new(name, at_start));
            }
            if let Some(device) = self.followed.get_mut(&dev) {
                device.add(seconds, elapsed_ms, counters);
            }
        }
        self.last_seconds = seconds;
        self.listed = true;
    }

    /// Those that were used, without what the kernel side adds up.
    pub(super) fn used(
        &mut self,
        seconds: f64,
        mounts: &HashMap<Dev, Vec<String>>,
        resolver: &Resolver,
        gaps: &mut Gaps,
    ) -> HashMap<Dev, DiskDevice> {
        let used = self.followed.iter_mut().filter(|(_, device)| {
            device.latest.ios != device.at_start.ios || device.in_flight.max().unwrap_or(0.0) > 0.0
        });
        let used: Vec<_> = used.map(|(dev, device)| (*dev, device)).collect();
        // Some files of sysfs wait for the device.
        let answers = resolver.ask_all(used.iter().map(|(dev, _)| {
            let dev = *dev;
            (Question::Device(dev.0, dev.1), move || Nature::read(dev))
        }));
        let mut found = HashMap::new();
        for ((dev, device), nature) in used.into_iter().zip(answers) {
            match nature {
                Ok(nature) => device.nature = nature,
                Err(late) => {
                    gaps.add(Gap { what: format!("what kind of disk {} is", device.name), reason: late.to_string() })
                }
            }
            found.insert(dev, device.describe(dev, seconds, mounts));
        }
        found
    }

    /// One that the kernel side saw and `/proc/diskstats` did not tell of.
    pub(super) fn unlisted(dev: Dev, mounts: &HashMap<Dev, Vec<String>>) -> DiskDevice {
        let name =
            fs::read_link(sysfs(dev)).ok().and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        let now = DiskCounters::default();
        Followed::new(&name.unwrap_or_default(), now).describe(dev, 1.0, mounts)
    }

    /// The busiest device between the last two samples: its name, its share of the time, milliseconds a request.
    pub(super) fn busiest(&self) -> Option<(&str, f64, Option<f64>)> {
        let busiest = self.followed.values().max_by(|a, b| a.busy_now.total_cmp(&b.busy_now))?;
        Some((&busiest.name, busiest.busy_now, busiest.await_now))
    }
}

impl Followed {
    fn new(name: &str, at_start: DiskCounters) -> Self {
        Self {
            name: name.to_owned(),
            at_start,
            latest: at_start,
            in_flight: Series::default(),
            await_ms: Series::default(),
            busy_now: 0.0,
            await_now: None,
            nature: Nature::default(),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "milliseconds and requests between two samples")]
    fn add(&mut self, seconds: f64, elapsed_ms: f64, now: DiskCounters) {
        let before = std::mem::replace(&mut self.latest, now);
        if now.ios < before.ios {
            // Taken down and set up again meanwhile.
            self.at_start = DiskCounters::default();
        }
        let ios = now.ios.saturating_sub(before.ios);
        self.in_flight.push(seconds, now.in_flight as f64);
        self.await_now = (ios > 0).then(|| now.total_ms.saturating_sub(before.total_ms) as f64 / ios as f64);
        if let (Some(await_ms), true) = (self.await_now, seconds > 0.0) {
            self.await_ms.push(seconds, await_ms);
        }
        self.busy_now = (now.busy_ms.saturating_sub(before.busy_ms) as f64 / elapsed_ms).min(1.0);
    }

    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a window")]
    fn describe(&self, dev: Dev, seconds: f64, mounts: &HashMap<Dev, Vec<String>>) -> DiskDevice {
        let busy_ms = self.latest.busy_ms.saturating_sub(self.at_start.busy_ms) as f64;
        DiskDevice {
            dev: number(dev),
            name: self.name.clone(),
            rotational: self.nature.rotational,
            backing: self.nature.backing.clone(),
            mounts: mounts.get(&dev).cloned().unwrap_or_default(),
            ops: Vec::new(),
            in_flight: self.in_flight.clone(),
            utilisation: (busy_ms / 1e3 / seconds.max(1e-3)).min(1.0),
            await_ms: self.await_ms.clone(),
        }
    }
}

fn sysfs((major, minor): Dev) -> PathBuf {
    format!("/sys/dev/block/{major}:{minor}").into()
}

/// As the summary has it.
pub(super) fn number((major, minor): Dev) -> String {
    format!("{major}:{minor}")
}

/// Reads `major:minor`.
pub(super) fn parse_number(text: &str) -> Option<Dev> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The file below a loop device; the devices below one of dm or md.
pub(super) fn backing(dev: Dev) -> Vec<String> {
    let dir = sysfs(dev);
    if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file")) {
        return vec![file.trim_end_matches('\n').to_owned()];
    }
    let entries = fs::read_dir(dir.join("slaves")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The disk that a partition is on; a disk itself.
pub(super) fn whole_disk(dev: Dev) -> Dev {
    let dir = sysfs(dev);
    if !dir.join("partition").exists() {
        return dev;
    }
    let parent = dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_path_buf));
    parent.and_then(|parent| parse_number(&fs::read_to_string(parent.join("dev")).ok()?)).unwrap_or(dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_documented() {
        let line = " 254       0 vda 10 1 80 100 20 2 160 200 3 400 700 5 0 40 50 7 70";
        let (dev, name, counters) = parse_line(line).unwrap();
        assert_eq!((dev, name), ((254, 0), "vda"));
        assert_eq!(counters, DiskCounters { ios: 42, total_ms: 420, in_flight: 3, busy_ms: 400 });
        let old = parse_line("8 0 sda 10 1 80 100 20 2 160 200 3 400 700").unwrap();
        assert_eq!(old.2, DiskCounters { ios: 30, total_ms: 300, in_flight: 3, busy_ms: 400 });
        assert_eq!(parse_line("8 x sda"), None);
    }

    #[test]
    fn this_machines_devices_are_found() {
        let mut devices = Devices::default();
        let mut gaps = Gaps::new("disk_io");
        devices.begin(&mut gaps);
        devices.sample(0.5, &mut gaps);
        for (dev, device) in &devices.followed {
            assert!(sysfs(*dev).exists() && !device.name.is_empty());
            assert_eq!(whole_disk(*dev), *dev, "{}", device.name);
            assert_eq!(device.in_flight.points().len(), 2);
        }
        assert_eq!(parse_number("259:3\n"), Some((259, 3)));
    }
}
