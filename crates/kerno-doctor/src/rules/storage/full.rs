//! disk_full: file systems without room, or soon without.

mod deleted;
mod suspect;
#[cfg(test)]
mod tests;

use kerno_model::amount::{bytes, number, share, span};
use kerno_model::{
    DiskSummary, Entity, Eta, Fact, Filesystem, Finding, Limit, Safety, Scope, Series, Severity, Subject, Unit, Window,
    errno,
};

use self::suspect::{Known, Refused, Suspect, refused, suspect};
use super::process_of;
use crate::growth::horizon;
use crate::shell::word;
use crate::{Words, rule};

/// File systems smaller than this are no place for data.
const MIN_BYTES: u64 = 1 << 20;

/// How far a trend is followed, in lengths of what was seen of it: from a few seconds nobody knows what is in an hour.
const FORESIGHT: f64 = 20.0;

/// None left sooner than this is critical.
const SOON_SECONDS: f64 = 60.0;

/// A file system of which less is used has to be full very soon to be told of.
const HALF: f64 = 0.5;

/// Samples that a trend needs.
const MIN_POINTS: usize = 5;

/// A file system that lost this share of its size in the window has somebody who takes it.
const LOSES: f64 = 0.01;

rule! {
    /// File systems without room.
    DiskFull = "disk_full", "disk_io", "a file system is full or soon will be",
        "Finds a writable file system with little space or few inodes left, as a share and, if it is large, in bytes; or one that fills \
         steadily and will be full soon. The forecast is a straight line through what was seen since space began to go. It counts only \
         if it fits well and if space went between most samples, and reaches at most 20 times as far ahead as what was seen. \
         Deleted files that somebody still has open take room that no listing shows: if most of what is used is in such files, whoever \
         has them open is named, not whoever is refused. \
         Read-only file systems are always full and are left out. File systems for booting are small by design: unless something \
         fills them, they are only information. One that is less than half full counts only when it will be full within a minute.",
        judge, words;
    causes: [NoSpace];
    suffers: [];
    trend: taken;
    thresholds: {
        used: 0.95 Ratio, 0.5 ..= 1.0, "share of bytes or inodes in use that is a warning";
        used_critical: 0.99 Ratio, 0.5 ..= 1.0, "share in use that is critical";
        spare: 2e10 Bytes, 0.0 ..= 1e15, "a file system with more bytes left than this is not full, whatever the share";
        eta: 600.0 Seconds, 1.0 ..= 86400.0, "a file system that will be full sooner than this is a warning; proportionally later in windows longer than 30 seconds, 12 hours at most";
        fit: 0.8 Ratio, 0.0 ..= 1.0, "how well a straight line must fit for a forecast (R squared)";
    }
    evidence: {
        space_used: "space used";
        space_left: "space left";
        space_taken: "space taken";
        inodes_used: "inodes used";
        inodes_left: "inodes left";
        inodes_taken: "inodes taken";
        deleted_bytes: "taken by deleted files that are still open";
        refused: "calls of {} that failed with ENOSPC";
    }
}

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Space,
    Inodes,
}

impl Resource {
    /// Its name; also that of the variant.
    const fn name(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Inodes => "inodes",
        }
    }

    fn of(finding: &Finding) -> Self {
        if finding.variant == Self::Inodes.name() { Self::Inodes } else { Self::Space }
    }

    const fn used(self) -> &'static str {
        match self {
            Self::Space => "space_used",
            Self::Inodes => "inodes_used",
        }
    }

    const fn left(self) -> &'static str {
        match self {
            Self::Space => "space_left",
            Self::Inodes => "inodes_left",
        }
    }

    const fn taken(self) -> &'static str {
        match self {
            Self::Space => "space_taken",
            Self::Inodes => "inodes_taken",
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::Space => Unit::Bytes,
            Self::Inodes => Unit::Count,
        }
    }

    const fn unit_of_pace(self) -> Unit {
        match self {
            Self::Space => Unit::BytesPerSecond,
            Self::Inodes => Unit::PerSecond,
        }
    }

    const fn limit(self) -> Limit {
        match self {
            Self::Space => Limit::FileSystemBytes,
            Self::Inodes => Limit::FileSystemInodes,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a size")]
    const fn size(self, fs: &Filesystem) -> f64 {
        match self {
            Self::Space => fs.total_bytes as f64,
            Self::Inodes => fs.total_inodes as f64,
        }
    }
}

/// Bytes or inodes of one file system.
struct Room<'a> {
    resource: Resource,
    used: f64,
    left: &'a Series,
    /// There is little left, not only a small share.
    scarce: bool,
}

fn judge(window: &Window, rule: &DiskFull) -> Vec<Finding> {
    let Some(disk) = &window.disk_io else { return Vec::new() };
    let writable = disk.filesystems.iter().filter(|fs| !fs.read_only && fs.total_bytes >= MIN_BYTES);
    let found = writable.filter_map(|fs| Some((fs, judge_one(window, disk, fs, rule)?)));
    let mut findings: Vec<(&Filesystem, Finding)> = Vec::new();
    for (fs, finding) in found {
        // All file systems of a pool run full together.
        let pool = findings.iter_mut().find(|(other, _)| pool(fs).is_some() && pool(fs) == pool(other));
        match pool {
            Some(told) if rank(&finding) > rank(&told.1) => *told = (fs, finding),
            Some(_) => {}
            None => findings.push((fs, finding)),
        }
    }
    // An image that grows because what is in it does: whoever fills the upper one fills both.
    let filling: Vec<&Filesystem> = findings.iter().map(|(fs, _)| *fs).collect();
    let only_follows = |fs: &Filesystem, finding: &Finding| {
        let is_upper = |device: &&kerno_model::DiskDevice| filling.iter().any(|upper| upper.dev == device.dev);
        let mut files = disk.devices.iter().filter(is_upper).flat_map(|device| &device.backing);
        let above = files.any(|file| file.starts_with('/') && nearest(disk, file) == Some(&fs.mount));
        above && finding.pid().is_none() && fullness(fs) < rule.used
    };
    findings.retain(|(fs, finding)| !only_follows(fs, finding));
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// Where the file system is mounted that has this file.
fn nearest<'a>(disk: &'a DiskSummary, file: &str) -> Option<&'a String> {
    let inside = |mount: &str| mount == "/" || kerno_model::paths::is_below(file, mount);
    let mounts = disk.filesystems.iter().map(|fs| &fs.mount).filter(|mount| inside(mount));
    mounts.max_by_key(|mount| mount.len())
}

/// One that somebody is known to fill says more than one that is only as full.
fn rank(finding: &Finding) -> (bool, Severity) {
    (finding.pid().is_some(), finding.severity)
}

/// The pool that a file system shares its room in with others.
fn pool(fs: &Filesystem) -> Option<&str> {
    (fs.kind == "zfs").then(|| fs.source.split('/').next()).flatten()
}

/// Of bytes or inodes, whatever is scarcer.
fn fullness(fs: &Filesystem) -> f64 {
    fs.bytes_used().unwrap_or(0.0).max(fs.inodes_used().unwrap_or(0.0))
}

/// What starts the machine: made as small as it can be, and written when a kernel is installed only.
fn is_for_boot(fs: &Filesystem) -> bool {
    ["/boot", "/efi"]
        .iter()
        .any(|place| fs.mount.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn judge_one(window: &Window, disk: &DiskSummary, fs: &Filesystem, rule: &DiskFull) -> Option<Finding> {
    let room_bytes = fs.bytes_used().map(|used| Room {
        resource: Resource::Space,
        used,
        left: &fs.available_bytes,
        scarce: fs.available_bytes.last().is_some_and(|left| left <= rule.spare),
    });
    let room_inodes =
        fs.inodes_used().map(|used| Room { resource: Resource::Inodes, used, left: &fs.free_inodes, scarce: true });
    let mut findings: Vec<_> = [room_bytes, room_inodes]
        .into_iter()
        .flatten()
        .filter_map(|room| finding(window, disk, fs, &room, rule))
        .collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.into_iter().next()
}

/// What grows.
fn taken(window: &Window, finding: &Finding) -> Option<Series> {
    let resource = Resource::of(finding);
    let mount = finding.subject.mount.as_ref()?;
    let fs = window.disk_io.as_ref()?.filesystems.iter().find(|fs| fs.mount == *mount)?;
    let left = if resource == Resource::Space { &fs.available_bytes } else { &fs.free_inodes };
    Some(left.points().iter().map(|(at, left)| (*at, resource.size(fs) - left)).collect())
}

/// In how many seconds nothing is left, when that can be told: by a line through what was seen since room began to go, if it went
/// on until the end.
fn eta(window: &Window, room: &Room<'_>, rule: &DiskFull) -> Option<Eta> {
    let fell = |pair: &[(f64, f64)]| matches!(pair, [a, b] if b.1 < a.1);
    let points = room.left.points();
    let first = points.windows(2).position(fell)?;
    let going = points.get(first..)?;
    let late = going.len().saturating_sub((going.len() / 4).max(2));
    if going.len() < MIN_POINTS || !going.get(late..)?.windows(2).any(fell) {
        return None;
    }
    let times = going.windows(2).filter(|pair| fell(pair)).count();
    let series: Series = going.iter().copied().collect();
    let seconds = series.seconds_until(0.0, rule.fit)?;
    let trend = series.trend()?;
    let seen = going.last()?.0 - going.first()?.0;
    (trend.per_second < 0.0 && times * 2 >= going.len() - 1 && seconds <= seen * FORESIGHT)
        .then(|| Eta::new(window.moment(window.covered_seconds() + seconds), seconds, trend.fit))
}

fn finding(window: &Window, disk: &DiskSummary, fs: &Filesystem, room: &Room<'_>, rule: &DiskFull) -> Option<Finding> {
    // With half of it left, a copy or a build will mostly be done before it is gone.
    let eta = eta(window, room, rule).filter(|eta| {
        eta.seconds <= horizon(window, if room.used >= HALF { rule.eta } else { rule.eta.min(SOON_SECONDS) })
    });
    let nearly_full = room.used >= rule.used && room.scarce;
    if !nearly_full && eta.is_none() {
        return None;
    }
    let fullest =
        !disk.filesystems.iter().any(|other| !other.read_only && other.dev != fs.dev && fullness(other) > fullness(fs));
    let refused = if nearly_full && fullest { refused(window) } else { Vec::new() };
    let left = room.left.last().unwrap_or(0.0);
    // Calls do not say where: only a file system that has really run out is meant, and of several the one with least left.
    let failing = !refused.is_empty() && room.used >= rule.used_critical.min(0.98);
    let full = nearly_full && room.used >= rule.used_critical;
    let soon = eta.as_ref().is_some_and(|eta| eta.seconds <= SOON_SECONDS && room.used >= HALF);
    let severity = match full || failing || soon {
        // Nobody writes there.
        _ if is_for_boot(fs) && eta.is_none() && refused.is_empty() => Severity::Info,
        true => Severity::Critical,
        false => Severity::Warning,
    };
    let resource = room.resource;
    let size = resource.size(fs);
    let loses = -room.left.change() >= LOSES * size;
    let who = suspect(window, disk, fs, room, &refused, eta.is_some() || failing || loses);
    let grows = who.as_ref().is_some_and(|who| matches!(who.known, Known::Grew { .. }));
    let held = deleted::held(fs, room.used, grows).filter(|_| nearly_full && resource == Resource::Space);
    // Whoever writes is only refused: the room is where nobody sees it.
    let who = who.filter(|_| held.is_none());
    let culprit = who.as_ref().map(|who| who.pid).or_else(|| held.as_ref().and_then(deleted::Held::pid));
    let mut subject = match &held {
        Some(held) => held.subject(window),
        None => who.as_ref().map(|who| Subject::process(window, who.pid, &who.comm)).unwrap_or_default(),
    };
    subject.mount = Some(fs.mount.clone());
    let mut finding = DiskFull::finding(severity)
        .variant(resource.name())
        // Of the file system, whoever fills it.
        .fact(Fact::Scope(Scope::Machine))
        .about(subject)
        .measured(resource.used(), room.used, Unit::Ratio, Some(rule.used))
        .measured(resource.left(), left, resource.unit(), None)
        .detail("size", (size, resource.unit()))
        .detail("source", fs.source.as_str())
        .detail("kind", fs.kind.as_str());
    if failing || left <= 0.0 {
        finding = finding.fact(Fact::AtLimit(resource.limit()));
    }
    if failing {
        finding = finding.detail("writes_fail", true);
    }
    if let (Some(trend), Some(_)) = (room.left.trend(), &eta) {
        finding = finding.measured(resource.taken(), -trend.per_second, resource.unit_of_pace(), None);
    }
    if let Some(file) = stands_on(disk, fs) {
        finding = finding.detail("image", file);
    }
    finding = with_refused(finding, window, &refused);
    if let Some(who) = &who {
        finding = with_known(finding, &who.known);
    }
    if let Some(held) = &held {
        finding = held.describe(finding);
    }
    let victims = refused.iter().filter(|call| culprit != Some(call.pid));
    finding.victims = victims.take(8).map(|call| Subject::process(window, call.pid, call.comm)).collect();
    let since = room.left.points().windows(2).find_map(|pair| match pair {
        [a, b] if b.1 < a.1 && a.0 > 0.5 => Some(a.0),
        _ => None,
    });
    let since = since.filter(|since| eta.is_some() && *since > window.covered_seconds() * 0.1);
    finding.since = since.map(|since| window.moment(since));
    finding.excess =
        (room.used / rule.used).max(eta.as_ref().map_or(0.0, |eta| (rule.eta / eta.seconds.max(1.0)).min(100.0)));
    finding.confidence = if nearly_full { 0.95 } else { eta.as_ref().map_or(0.8, |eta| eta.fit.min(0.9)) };
    finding.eta = eta.filter(|_| left > 0.0);
    Some(match &held {
        Some(held) => held.fixes(finding, fs),
        None => with_fixes(finding, fs, resource, who.as_ref()),
    })
}

/// A file there that a loop device stands on.
fn stands_on<'a>(disk: &'a DiskSummary, fs: &Filesystem) -> Option<&'a str> {
    let below = disk.devices.iter().flat_map(|device| &device.backing);
    let files = below.chain(disk.filesystems.iter().flat_map(|fs| &fs.backing)).filter(|file| file.starts_with('/'));
    files.map(String::as_str).find(|file| nearest(disk, file) == Some(&fs.mount))
}

/// Adds the calls that failed for want of room.
#[allow(clippy::cast_precision_loss, reason = "a count")]
fn with_refused(mut finding: Finding, window: &Window, refused: &[Refused<'_>]) -> Finding {
    for call in refused {
        for fact in [Fact::Errno(errno::ENOSPC), Fact::Call(call.name.to_owned())] {
            if !finding.has(&fact) {
                finding = finding.fact(fact);
            }
        }
    }
    for call in refused.iter().take(3) {
        let who = Subject::process(window, call.pid, call.comm).process;
        let who = who.map_or_else(String::new, |process| process.to_string());
        finding = finding.measured_of("refused", who, call.count as f64, Unit::Count, None);
    }
    finding
}

/// Adds how it is known who takes the room.
#[allow(clippy::cast_precision_loss, reason = "sizes and counts")]
fn with_known(finding: Finding, known: &Known) -> Finding {
    match known {
        Known::Grew { bytes } => finding.detail("files_grew", (*bytes as f64, Unit::Bytes)),
        Known::Refused { times } => finding.detail("refused_times", (*times as f64, Unit::Count)),
        Known::Opened { files, gone } => {
            finding.detail("files_opened", (*files as f64, Unit::Count)).detail("inodes_gone", (*gone, Unit::Count))
        }
        Known::HasFilesOpen => finding.detail("has_files_open", true),
        Known::Wrote { bytes } => finding.detail("wrote", (*bytes as f64, Unit::Bytes)),
    }
}

fn with_fixes(finding: Finding, fs: &Filesystem, resource: Resource, who: Option<&Suspect>) -> Finding {
    let mount = word(&fs.mount);
    let look = |finding: Finding, command: String, why: &str| {
        finding.fix(Entity::Mount(fs.mount.clone()), Safety::ReadOnly, command, why)
    };
    let finding = match resource {
        Resource::Space => {
            let finding = look(finding, format!("du -xh {mount} | sort -h | tail"), "finds what takes the space");
            look(finding, format!("lsof +L1 {mount}"), "finds deleted files that are still open and take space")
        }
        Resource::Inodes => {
            let finding = look(finding, format!("df -i {mount}"), "shows the inodes");
            look(finding, format!("du -x --inodes {mount} | sort -n | tail"), "finds directories with many files")
        }
    };
    let mut finding = look(finding, format!("fuser -vm {mount}"), "shows the processes that use it");
    let Some(who) = who else { return finding };
    finding = finding.look_at_process(format!("ls -l /proc/{}/fd", who.pid), "shows the files that it writes");
    if !who.path.is_empty() {
        let command = format!("ls -lh {}", word(&who.path));
        finding = finding.fix(Entity::File(who.path.clone()), Safety::ReadOnly, command, "shows the file that grows");
    }
    finding
        .change_process(format!("kill -STOP {}", who.pid), "pauses it before it takes the rest; kill -CONT resumes it")
}

fn words(finding: &Finding) -> Words {
    let resource = Resource::of(finding);
    let mount = finding.subject.mount.as_deref().unwrap_or("a file system");
    let outlook = finding.eta.as_ref().map_or_else(String::new, |_| format!("{mount} has no {} left", resource.name()));
    let impact = if finding.flag("writes_fail") {
        "Writes fail with ENOSPC. Programs lose data or stop."
    } else {
        "Once nothing is left, writes fail with ENOSPC, and programs lose data or stop."
    };
    let gone = finding.variant == deleted::VARIANT;
    Words {
        title: if gone { deleted::title(finding, mount) } else { title(finding, resource, mount) },
        cause: cause(finding, resource, mount),
        impact: impact.to_owned(),
        outlook,
    }
}

fn title(finding: &Finding, resource: Resource, mount: &str) -> String {
    let who = finding.subject.process.as_ref();
    let is_empty = finding.number(resource.left()).is_some_and(|left| left <= 0.0);
    let mut title = match (&finding.eta, who, resource) {
        (Some(_), Some(who), _) => format!("{who} fills {mount}"),
        (Some(_), None, _) => format!("{mount} fills up"),
        (None, _, Resource::Space) if is_empty => format!("{mount} is full"),
        (None, _, Resource::Space) => format!("{mount} is nearly full"),
        (None, _, Resource::Inodes) if is_empty => format!("{mount} has no inodes left"),
        (None, _, Resource::Inodes) => format!("{mount} has few inodes left"),
    };
    let used = finding.number(resource.used()).map(share).map(|used| match (&finding.eta, resource) {
        (Some(_), Resource::Inodes) => format!("{used} of inodes used"),
        _ => format!("{used} used"),
    });
    let then = match (&finding.eta, who, resource) {
        (Some(eta), _, Resource::Space) => Some(format!("full in {}", span(eta.seconds))),
        (Some(eta), _, Resource::Inodes) => Some(format!("none left in {}", span(eta.seconds))),
        (None, Some(who), Resource::Space) => Some(format!("{who} writes most")),
        (None, Some(who), Resource::Inodes) => Some(format!("{who} creates files")),
        (None, None, _) => None,
    };
    let told: Vec<_> = used.into_iter().chain(then).collect();
    if !told.is_empty() {
        title += &format!(": {}", told.join(", "));
    }
    title
}

fn cause(finding: &Finding, resource: Resource, mount: &str) -> String {
    let known = (finding.number(resource.left()), finding.number("size"));
    let mut cause = match (known, resource) {
        ((Some(left), Some(size)), Resource::Space) => format!("{} of {} is left on {mount}", bytes(left), bytes(size)),
        ((Some(left), Some(size)), Resource::Inodes) => {
            format!("{} of {} inodes are left on {mount}", number(left), number(size))
        }
        (_, Resource::Space) => format!("There is little space left on {mount}"),
        (_, Resource::Inodes) => format!("There are few inodes left on {mount}"),
    };
    let kind = finding.text("kind");
    let origin: Vec<_> = finding.text("source").into_iter().chain(kind).filter(|text| !text.is_empty()).collect();
    if !origin.is_empty() {
        cause += &format!(" ({})", origin.join(", "));
    }
    cause.push('.');
    if kind.is_some_and(|kind| kind.ends_with("tmpfs")) {
        cause += " It is kept in memory.";
    }
    if let Some(file) = finding.text("image") {
        cause += &format!(" A device stands on {file}, which is there: its writes fail when that file cannot grow.");
    }
    if finding.variant == deleted::VARIANT {
        return cause + &deleted::cause(finding);
    }
    if finding.subject.process.is_none() {
        return cause + " No process writes much to it now.";
    }
    let who = process_of(finding);
    if let Some(grew) = finding.number("files_grew") {
        cause += &format!(" Files that {who} has open there grew by {} while they were watched.", bytes(grew));
    } else if let Some(times) = finding.number("refused_times") {
        cause += &format!(" {who} needs more of it: {} of its calls failed.", number(times));
    } else if let (Some(files), Some(gone)) = (finding.number("files_opened"), finding.number("inodes_gone")) {
        cause += &format!(" {who} opened {} files while {} inodes were taken.", number(files), number(gone));
    } else if finding.flag("has_files_open") {
        cause += &format!(" {who} has files open for writing there.");
    } else if let Some(wrote) = finding.number("wrote") {
        cause += &format!(" {who} wrote {} in this time.", bytes(wrote));
    }
    cause
}
