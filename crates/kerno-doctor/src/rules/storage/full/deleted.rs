//! Room that is taken by files without a name: they were deleted while somebody had them open. No listing shows them, and whoever is refused
//! for want of room is not the one who takes it.

use std::collections::BTreeMap;

use kerno_model::amount::{bytes, number};
use kerno_model::{DeletedFile, Device, Entity, Filesystem, Finding, Safety, Subject, Unit, Window};

use super::super::process_of;
use crate::shell::{is_service, word};

pub(super) const VARIANT: &str = "deleted_files";

/// Whoever holds so much of what is used is the reason, whatever else goes on.
const MOST: f64 = 0.5;
/// So much of it counts where nobody is known to fill the file system now.
const MUCH: f64 = 0.2;

/// The files that take most of the room, and who has them.
pub(super) struct Held<'a> {
    files: Vec<&'a DeletedFile>,
    bytes: f64,
    used_bytes: f64,
    /// The process that has most of them open; none if only loop devices do.
    holder: Option<(u32, &'a str)>,
    /// How many others have some open.
    others: usize,
}

/// Deleted files that are the reason why there is no room.
#[allow(clippy::cast_precision_loss, reason = "sizes")]
pub(super) fn held<'a>(fs: &'a Filesystem, used: f64, somebody_fills: bool) -> Option<Held<'a>> {
    let used_bytes = used * fs.total_bytes as f64;
    // Of a loop device's file only the size is known, which may be more than it takes.
    let held = (fs.deleted_bytes as f64).min(used_bytes);
    let enough = held >= used_bytes * if somebody_fills { MOST } else { MUCH };
    if fs.deleted.is_empty() || held <= 0.0 || !enough {
        return None;
    }
    let mut of: BTreeMap<(u32, &str), u64> = BTreeMap::new();
    for file in &fs.deleted {
        for holder in &file.holders {
            *of.entry((holder.pid, holder.comm.as_str())).or_default() += file.bytes;
        }
    }
    // Of a process and its children that have inherited the descriptor, the oldest.
    let most = of.iter().max_by_key(|((pid, _), bytes)| (**bytes, std::cmp::Reverse(*pid))).map(|(who, _)| *who);
    let files = match most {
        Some((pid, _)) => fs.deleted.iter().filter(|file| file.holders.iter().any(|h| h.pid == pid)).collect(),
        None => fs.deleted.iter().collect(),
    };
    Some(Held { files, bytes: held, used_bytes, holder: most, others: of.len().saturating_sub(1) })
}

impl Held<'_> {
    pub(super) fn subject(&self, window: &Window) -> Subject {
        self.holder.map(|(pid, comm)| Subject::process(window, pid, comm)).unwrap_or_default()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.holder.map(|(pid, _)| pid)
    }

    fn largest(&self) -> Option<&DeletedFile> {
        self.files.first().copied()
    }

    /// A descriptor of the largest file in the process that has most.
    fn descriptor(&self) -> Option<u32> {
        self.largest()?.holders.iter().find(|holder| Some(holder.pid) == self.pid())?.fd
    }

    #[allow(clippy::cast_precision_loss, reason = "counts")]
    pub(super) fn describe(&self, finding: Finding) -> Finding {
        let mut finding = finding
            .variant(VARIANT)
            .measured("deleted_bytes", self.bytes, Unit::Bytes, None)
            .detail("used_bytes", (self.used_bytes, Unit::Bytes))
            .detail("deleted_files", (self.files.len() as f64, Unit::Count))
            .detail("other_holders", (self.others as f64, Unit::Count));
        if let Some(file) = self.largest() {
            finding = finding.detail("deleted_path", file.path.as_str());
            if let Some(name) = &file.loop_device {
                finding = finding.detail("loop_device", name.as_str());
            }
        }
        match self.descriptor() {
            Some(fd) => finding.detail("descriptor", (f64::from(fd), Unit::Count)),
            None => finding.detail("mapped_only", self.holder.is_some()),
        }
    }

    /// What shows it, and what gives the room back.
    pub(super) fn fixes(&self, finding: Finding, fs: &Filesystem) -> Finding {
        let mount = word(&fs.mount);
        let look = |finding: Finding, command: String, why: &str| {
            finding.fix(Entity::Mount(fs.mount.clone()), Safety::ReadOnly, command, why)
        };
        let mut finding =
            look(finding, format!("lsof +L1 {mount}"), "lists the deleted files that are still open, with their sizes");
        finding = look(finding, format!("df -h {mount}; du -xsh {mount}"), "the difference is what they take");
        if let Some(name) = self.largest().and_then(|file| file.loop_device.as_deref()) {
            let device = Entity::Device(Device { dev: String::new(), name: name.to_owned() });
            let look = format!("losetup -l /dev/{name}; findmnt /dev/{name}");
            finding = finding
                .fix(device.clone(), Safety::ReadOnly, look, "shows the file, and where the device is mounted")
                .fix(
                    device,
                    Safety::Changing,
                    format!("losetup -d /dev/{name}"),
                    "gives the file back once the device is unmounted",
                );
        }
        let Some(pid) = self.pid() else { return finding };
        let fd = self.descriptor();
        finding = match fd {
            Some(fd) => {
                finding.look_at_process(format!("ls -lL /proc/{pid}/fd/{fd}"), "shows the file by its descriptor")
            }
            None => finding.look_at_process(format!("grep deleted /proc/{pid}/maps"), "shows where it is mapped"),
        };
        if let Some(fd) = fd {
            finding = finding.change_process(
                format!("truncate -s 0 /proc/{pid}/fd/{fd}"),
                "frees the room at once without a restart; what the file holds is lost",
            );
        }
        if let Some(unit) = finding.subject.unit.clone().filter(|unit| is_service(unit)) {
            let command = format!("systemctl restart {}", word(&unit));
            return finding.fix(
                Entity::Unit(unit),
                Safety::Changing,
                command,
                "closes the files, and so frees the room",
            );
        }
        finding.change_process(format!("kill {pid}"), "ends it, so that its files are closed; then start it again")
    }
}

pub(super) fn title(finding: &Finding, mount: &str) -> String {
    let who = match (&finding.subject.process, finding.text("loop_device")) {
        (Some(who), _) => who.to_string(),
        (None, Some(name)) => name.to_owned(),
        _ => "something".to_owned(),
    };
    let files = if finding.number("deleted_files") == Some(1.0) { "a deleted file" } else { "deleted files" };
    let mut title = format!("{who} keeps {files} open on {mount}");
    if let (Some(held), Some(used)) = (finding.number("deleted_bytes"), finding.number("used_bytes")) {
        title += &format!(": {} of {} used", bytes(held), bytes(used));
    }
    title
}

/// Why there is no room, as sentences.
pub(super) fn cause(finding: &Finding) -> String {
    let by_loop = finding.subject.process.is_none() && finding.text("loop_device").is_some();
    let who = if by_loop { finding.text("loop_device").unwrap_or_default().to_owned() } else { process_of(finding) };
    let path = finding.text("deleted_path").map_or_else(String::new, |path| format!(" {path}"));
    let more = finding.number("deleted_files").filter(|files| *files > 1.0);
    let more = more.map_or_else(String::new, |files| format!(" and {} more", number(files - 1.0)));
    let how = if by_loop {
        "stands on"
    } else if finding.flag("mapped_only") {
        "still has mapped"
    } else {
        "still has open"
    };
    let mut cause = format!(" Most of what is used was deleted already: {who} {how}{path}{more}.");
    if let Some(others) = finding.number("other_holders").filter(|others| *others > 0.0) {
        let processes = if others > 1.0 { "processes have" } else { "process has" };
        cause += &format!(" {} other {processes} some of it open, too.", number(others));
    }
    cause + " No directory lists such a file, so du does not count it. Its room comes back when the last one closes it."
}
