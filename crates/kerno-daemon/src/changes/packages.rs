use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use kerno_model::{Change, ChangeKind};

use super::{change, moment};

/// Databases that tell only when they changed: rpm in its forms, apk, pacman.
const DATABASES: &[(&str, &str)] = &[
    ("/var/lib/rpm/rpmdb.sqlite", "rpm"),
    ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "rpm"),
    ("/var/lib/rpm/Packages", "rpm"),
    ("/lib/apk/db/installed", "apk"),
    ("/var/log/pacman.log", "pacman"),
];

/// Where dpkg says what it did.
const DPKG_LOG: &str = "/var/log/dpkg.log";

/// At most so much of the log is read at a time: its end.
const MAX_BYTES: u64 = 64 << 10;

/// What was installed up to so long before the start is told.
const LATELY_NS: i128 = 3600 * 1_000_000_000;

/// What packages were installed or removed.
#[derive(Debug)]
pub(super) struct Packages {
    log: PathBuf,
    /// How far the log was read, and of which file.
    read: Option<(u64, u64)>,
    databases: Vec<(&'static str, Option<i128>)>,
}

impl Packages {
    pub(super) fn now() -> Self {
        Self::of(DPKG_LOG.into())
    }

    fn of(log: PathBuf) -> Self {
        let databases = DATABASES.iter().map(|(path, _)| (*path, modified_ns(path))).collect();
        Self { log, read: None, databases }
    }

    pub(super) fn lately(&mut self) -> Vec<Change> {
        let now = jiff::Timestamp::now().as_nanosecond();
        let mut changes = self.new_lines();
        changes.retain(|change| i128::from(change.at.unix_ns) + LATELY_NS >= now);
        changes
    }

    pub(super) fn look(&mut self) -> Vec<Change> {
        let mut changes = self.new_lines();
        for ((path, known), (_, kind)) in self.databases.iter_mut().zip(DATABASES) {
            let now = modified_ns(path);
            if now != *known
                && let Some(at) = now
            {
                changes.push(Change::new(moment(at), ChangeKind::Package, format!("packages of {kind}")));
            }
            *known = now;
        }
        changes
    }

    /// What the log has since it was read last.
    fn new_lines(&mut self) -> Vec<Change> {
        let Ok(mut file) = File::open(&self.log) else { return Vec::new() };
        let Ok(meta) = file.metadata() else { return Vec::new() };
        // It may have been rotated.
        let from =
            self.read.filter(|(inode, read)| *inode == meta.ino() && *read <= meta.len()).map_or(0, |(_, read)| read);
        let cut = meta.len().saturating_sub(MAX_BYTES).max(from);
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(cut)).is_err() || file.take(MAX_BYTES).read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read = Some((meta.ino(), cut + whole as u64));
        String::from_utf8_lossy(&bytes[..whole]).lines().filter_map(installed).collect()
    }
}

/// `2026-11-28 20:41:03 upgrade nginx:amd64 1.22.1-9 1.22.1-9+deb12u1`
fn installed(line: &str) -> Option<Change> {
    let mut words = line.split(' ');
    let (date, time, action) = (words.next()?, words.next()?, words.next()?);
    if !matches!(action, "install" | "upgrade" | "remove" | "purge") {
        return None;
    }
    let (package, before, after) = (words.next()?, words.next()?, words.next()?);
    let at: DateTime = format!("{date}T{time}").parse().ok()?;
    let at = at.to_zoned(TimeZone::system()).ok()?.timestamp().as_nanosecond();
    let version = |version: &str| Some(version.to_owned()).filter(|version| version != "<none>");
    let (before, after) = (version(before), version(after));
    Some(change(moment(at), ChangeKind::Package, package, before.as_deref(), after.as_deref()))
}

fn modified_ns(path: &str) -> Option<i128> {
    let meta = std::fs::metadata(path).ok()?;
    Some(i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_dpkg_writes_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dpkg.log");
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        let old = "2020-01-01 00:00:00 install old:amd64 <none> 1.0\n";
        let upgrade = format!("{now} upgrade nginx:amd64 1.22 1.24\n{now} status half-configured nginx:amd64 1.24\n");
        std::fs::write(&path, format!("{old}{upgrade}")).unwrap();
        let mut packages = Packages::of(path.clone());
        let told = packages.lately();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (told[0].what.as_str(), told[0].before.as_deref(), told[0].after.as_deref()),
            ("nginx:amd64", Some("1.22"), Some("1.24"))
        );
        assert!(packages.look().is_empty());
        let mut log = File::options().append(true).open(&path).unwrap();
        log.write_all(format!("{now} install curl:amd64 <none> 7.88\n{now} install half").as_bytes()).unwrap();
        let told = packages.look();
        assert!(told.len() == 1 && told[0].what == "curl:amd64" && told[0].before.is_none(), "{told:?}");
        log.write_all(b":amd64 <none> 1\n").unwrap();
        assert_eq!(packages.look().len(), 1, "a line that was half written");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, format!("{now} remove curl:amd64 7.88 <none>\n")).unwrap();
        assert_eq!(packages.look().len(), 1, "a new file after it was rotated");
    }
}
