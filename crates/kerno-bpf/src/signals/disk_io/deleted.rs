//! Files without a name that still take room on a file system that has little left, and who has them open.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::devices::{Dev, number, parse_number};
use crate::engine::{Gap, Gaps, Question, Tick, proc_has_host_pids};
use crate::probe::unescape_mount;
use crate::waits::ends::{Holder, mount_id};
use kerno_model::{DeletedFile, DeletedHolder, Filesystem};

/// From this share used on it is looked for them.
const FROM: f64 = 0.9;

/// Descriptors looked at in all, and lines of `maps`.
const MAX_DESCRIPTORS: usize = 65_536;
const MAX_MAPPINGS: usize = 131_072;
/// Deleted files of one process, as each is asked for its size.
const MAX_FILES_EACH: usize = 256;
/// Loop devices looked at.
const MAX_LOOPS: usize = 256;

/// Files told of, for each file system, and holders of each.
const MAX_FILES: usize = 8;
const MAX_HOLDERS: usize = 8;

/// What the kernel puts behind the name of a file without one.
const DELETED: &str = " (deleted)";

/// A deleted file that a process or a loop device has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    dev: Dev,
    inode: u64,
    bytes: u64,
    path: String,
    fd: Option<u32>,
}

/// Looks for them, if any file system has little room left.
pub(super) fn find(filesystems: &mut [Filesystem], tick: &Tick<'_>, gaps: &mut Gaps) {
    let little = |fs: &&Filesystem| !fs.read_only && fs.bytes_used().is_some_and(|used| used >= FROM);
    let devices: Vec<Dev> = filesystems.iter().filter(little).filter_map(|fs| parse_number(&fs.dev)).collect();
    // Else these ids are others' in /proc.
    if devices.is_empty() || !proc_has_host_pids() {
        return;
    }
    let devices: Arc<[Dev]> = devices.into();
    let mut files: HashMap<(Dev, u64), DeletedFile> = HashMap::new();
    let left = Arc::new((AtomicUsize::new(MAX_DESCRIPTORS), AtomicUsize::new(MAX_MAPPINGS)));
    let mut users: Vec<_> = tick.tasks.processes().filter(|p| p.alive && !p.row.is_kernel_thread()).collect();
    users.sort_unstable_by_key(|process| process.row.pid);
    let questions = users.iter().map(|process| {
        let (pid, devices, left) = (process.row.pid, Arc::clone(&devices), Arc::clone(&left));
        (Question::DeletedFiles(pid, process.row.start_ns), move || held_by(pid, &devices, &left))
    });
    let mut late = None;
    for (process, answer) in users.iter().zip(tick.resolver.ask_all(questions)) {
        match answer {
            Ok(held) => {
                let comm = process.row.comm.to_str_lossy();
                held.into_iter().for_each(|held| add(&mut files, held, Some((process.row.pid, &comm))));
            }
            Err(reason) => late = Some((late.map_or(1, |(count, _)| count + 1), reason)),
        }
    }
    let what = |processes: usize| format!("which deleted files {processes} processes have open");
    if let Some((count, reason)) = late {
        gaps.add(Gap { what: what(count), reason: format!("/proc/PID/fd: {reason}") });
    }
    if left.0.load(Ordering::Relaxed) == 0 || left.1.load(Ordering::Relaxed) == 0 {
        let reason = format!("more than {MAX_DESCRIPTORS} descriptors or {MAX_MAPPINGS} mappings");
        gaps.add(Gap { what: "some of the deleted files that are still open".into(), reason });
    }
    for (name, held) in tick.resolver.ask(Question::DeletedBehindLoops, behind_loops).unwrap_or_default() {
        if devices.contains(&held.dev) {
            let key = (held.dev, held.inode);
            add(&mut files, held, None);
            if let Some(file) = files.get_mut(&key) {
                file.loop_device = Some(name);
            }
        }
    }
    tell(filesystems, files);
}

/// A file counts once, however many have it.
fn add(files: &mut HashMap<(Dev, u64), DeletedFile>, held: Held, holder: Option<(u32, &str)>) {
    let file = files.entry((held.dev, held.inode)).or_insert_with(|| DeletedFile {
        path: held.path.clone(),
        inode: held.inode,
        ..DeletedFile::default()
    });
    // What a loop device has may take less than its size: whoever has it open knows better.
    file.bytes = if file.holders.is_empty() { held.bytes } else { file.bytes };
    if let Some((pid, comm)) = holder {
        if let Some(known) = file.holders.iter_mut().find(|known| known.pid == pid) {
            known.fd = known.fd.or(held.fd);
        } else if file.holders.len() < MAX_HOLDERS {
            file.holders.push(DeletedHolder { pid, comm: comm.to_owned(), fd: held.fd });
        }
    }
}

fn tell(filesystems: &mut [Filesystem], files: HashMap<(Dev, u64), DeletedFile>) {
    let mut by_device: HashMap<String, Vec<DeletedFile>> = HashMap::new();
    for ((dev, _), file) in files {
        by_device.entry(number(dev)).or_default().push(file);
    }
    for fs in filesystems {
        let Some(mut list) = by_device.remove(&fs.dev) else { continue };
        list.sort_by_key(|file| (std::cmp::Reverse(file.bytes), file.inode));
        fs.deleted_bytes = list.iter().map(|file| file.bytes).sum();
        list.truncate(MAX_FILES);
        fs.deleted = list;
    }
}

/// The deleted files on these file systems that a process has open or mapped. Only their sizes are asked for, so that a file system whose
/// server is gone is left alone: which one a file is on, its mount tells.
fn held_by(pid: u32, devices: &[Dev], left: &(AtomicUsize, AtomicUsize)) -> Vec<Held> {
    let mut files: Vec<Held> = Vec::new();
    let mut known = None;
    let mounts = || Mounts::parse(&read(&format!("/proc/{pid}/mountinfo")), || read("/proc/self/mountinfo"));
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        if files.len() >= MAX_FILES_EACH || !take(&left.0) {
            break;
        }
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let Some(path) = target.strip_suffix(DELETED) else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let mounts = known.get_or_insert_with(mounts);
        let dev = mount_id(Holder { pid, fd }).and_then(|id| mounts.by_id.get(&id)).filter(|dev| devices.contains(dev));
        let Some((dev, (inode, bytes))) = dev.and_then(|dev| Some((*dev, nameless(&entry.path())?))) else { continue };
        if !files.iter().any(|file| (file.dev, file.inode) == (dev, inode)) {
            files.push(Held { dev, inode, bytes, path: path.to_owned(), fd: Some(fd) });
        }
    }
    for line in read(&format!("/proc/{pid}/maps")).lines() {
        if files.len() >= MAX_FILES_EACH || !take(&left.1) {
            break;
        }
        let Some((range, dev, inode, path)) = parse_mapping(line) else { continue };
        let below = || known.get_or_insert_with(mounts).overlays.get(&dev).copied();
        let dev = if devices.contains(&dev) { Some(dev) } else { (dev.0 == 0).then(below).flatten() };
        let Some(dev) = dev.filter(|dev| devices.contains(dev)) else { continue };
        if files.iter().any(|file| (file.dev, file.inode) == (dev, inode)) {
            continue;
        }
        if let Some((_, bytes)) = nameless(Path::new(&format!("/proc/{pid}/map_files/{range}"))) {
            files.push(Held { dev, inode, bytes, path: path.to_owned(), fd: None });
        }
    }
    files
}

/// Takes one of what is left.
fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// A file of `/proc`, lossy; empty if it cannot be read.
fn read(path: &str) -> String {
    fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}

/// The device numbers of mounts, as in `/proc/PID/mountinfo`.
#[derive(Debug, Default)]
struct Mounts {
    /// By the id of the mount. Of an overlay, that of the file system that takes what is written to it.
    by_id: HashMap<u32, Dev>,
    /// The same by the overlay's own number.
    overlays: HashMap<Dev, Dev>,
}

impl Mounts {
    /// The directory that takes what is written to an overlay has a path of the host, be it mounted in a container.
    fn parse(text: &str, own: impl FnOnce() -> String) -> Self {
        let mut mounts = Self::default();
        let mut uppers = Vec::new();
        for line in text.lines() {
            let mut fields = line.split(' ');
            let id = fields.next().and_then(|id| id.parse().ok());
            let (Some(id), Some(dev)) = (id, fields.nth(1).and_then(parse_number)) else { continue };
            mounts.by_id.insert(id, dev);
            let options = line.split_once(" - overlay ").and_then(|(_, rest)| rest.split_once(' '));
            let options = options.into_iter().flat_map(|(_, options)| options.split(','));
            if let Some(upper) = options.filter_map(|option| option.strip_prefix("upperdir=")).next() {
                uppers.push((id, dev, unescape_mount(upper)));
            }
        }
        if uppers.is_empty() {
            return mounts;
        }
        let own = own();
        let places: Vec<_> = own
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(2);
                let dev = parse_number(fields.next()?)?;
                Some((unescape_mount(fields.nth(1)?), dev))
            })
            .collect();
        for (id, overlay, upper) in uppers {
            let holds = |place: &str| place == "/" || Path::new(&upper).starts_with(place);
            let below = places.iter().filter(|(place, _)| holds(place)).max_by_key(|(place, _)| place.len());
            if let Some((_, dev)) = below {
                mounts.by_id.insert(id, *dev);
                mounts.overlays.insert(overlay, *dev);
            }
        }
        mounts
    }
}

/// A deleted file in a line of `/proc/PID/maps`: where it is mapped, its device, its inode, its path.
fn parse_mapping(line: &str) -> Option<(&str, Dev, u64, &str)> {
    let line = line.strip_suffix(DELETED)?;
    let mut fields = line.split_ascii_whitespace();
    let (range, dev, inode) = (fields.next()?, fields.nth(2)?, fields.next()?);
    let (major, minor) = dev.split_once(':')?;
    let dev = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let path = line.find('/').and_then(|begin| line.get(begin..))?;
    Some((range, dev, inode.parse().ok()?, path))
}

/// The inode of a regular file without a name, and what it takes, or will when it is written back: delayed allocation has no blocks yet.
fn nameless(link: &Path) -> Option<(u64, u64)> {
    let wanted = StatxFlags::INO | StatxFlags::SIZE | StatxFlags::BLOCKS | StatxFlags::TYPE | StatxFlags::NLINK;
    let stat = statx(CWD, link, AtFlags::STATX_DONT_SYNC, wanted).ok()?;
    let regular = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
    let blocks = stat.stx_blocks.saturating_mul(512);
    // Of a file with holes, the blocks tell; one that has none yet is still to be written back.
    let bytes = if blocks == 0 { stat.stx_size } else { blocks };
    (regular && stat.stx_nlink == 0).then_some((stat.stx_ino, bytes))
}

/// Deleted files behind loop devices, by the device. Nobody has to have them open.
fn behind_loops() -> Vec<(String, Held)> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let loops = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("loop")).take(MAX_LOOPS);
    loops
        .filter_map(|entry| {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            let path = file.trim_end_matches('\n').strip_suffix(DELETED)?.to_owned();
            let sectors: u64 = fs::read_to_string(entry.path().join("size")).ok()?.trim().parse().ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (dev, inode) = backing_inode(&name)?;
            Some((name, Held { dev, inode, bytes: sectors.saturating_mul(512), path, fd: None }))
        })
        .collect()
}

/// The device and the inode of the file behind a loop device (`LOOP_GET_STATUS64`, linux/loop.h).
fn backing_inode(name: &str) -> Option<(Dev, u64)> {
    const LOOP_GET_STATUS64: u64 = 0x4c05;
    /// `struct loop_info64`, of which the first two fields are of interest.
    #[repr(C)]
    struct Info {
        device: u64,
        inode: u64,
        rest: [u64; 27],
    }
    let node = fs::File::open(format!("/dev/{name}")).ok()?;
    let mut info = Info { device: 0, inode: 0, rest: [0; 27] };
    // SAFETY: the kernel writes a loop_info64, 232 bytes, which `Info` has.
    let done = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
    const { assert!(size_of::<Info>() >= 232) };
    let Info { device, inode, .. } = info;
    (done == 0).then(|| ((rustix::fs::major(device), rustix::fs::minor(device)), inode))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = "7f1000000000-7f1000001000 r--s 00000000 fe:00 1310732                    /var/a b (deleted)";
        let read = parse_mapping(line).unwrap();
        assert_eq!(read, ("7f1000000000-7f1000001000", (0xfe, 0), 1_310_732, "/var/a b"));
        assert_eq!(parse_mapping("7f10-7f11 r--p 00000000 fe:00 131 /lib/libc.so.6"), None);
        assert_eq!(parse_mapping("7f10-7f11 rw-p 00000000 00:00 0"), None);
        let text = "29 1 254:0 / / rw - ext4 /dev/vda rw\nnonsense\n31 29 0:27 / /m rw - tmpfs t rw\n";
        let mounts = Mounts::parse(text, String::new);
        assert_eq!((mounts.by_id.len(), mounts.by_id.get(&31)), (2, Some(&(0, 27))));
        let container = "76 64 0:50 / / rw - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/var/lib/x/diff,workdir=/w\n";
        let own = "29 1 254:0 / / rw - ext4 /dev/vda rw\n40 29 254:16 / /var/lib rw - xfs /dev/vdb rw\n";
        let mounts = Mounts::parse(container, || own.to_owned());
        assert_eq!((mounts.by_id.get(&76), mounts.overlays.get(&(0, 50))), (Some(&(254, 16)), Some(&(254, 16))));
    }

    #[test]
    fn own_deleted_files_are_found_and_others_are_not() {
        let dir = std::env::current_dir().unwrap();
        let path = |name: &str| dir.join(format!(".{name}-{}", std::process::id()));
        let mut gone = fs::File::create(path("deleted-open")).unwrap();
        gone.write_all(&vec![1; 100_000]).unwrap();
        let again = gone.try_clone().unwrap();
        let there = fs::File::create(path("kept (deleted)")).unwrap();
        fs::remove_file(path("deleted-open")).unwrap();
        let dev = gone.metadata().unwrap().dev();
        let devices = [(rustix::fs::major(dev), rustix::fs::minor(dev))];
        let left = || (AtomicUsize::new(MAX_DESCRIPTORS), AtomicUsize::new(MAX_MAPPINGS));
        let held = held_by(std::process::id(), &devices, &left());
        fs::remove_file(path("kept (deleted)")).unwrap();
        drop((again, there));
        let ours: Vec<_> = held.iter().filter(|held| held.path.contains("deleted-open")).collect();
        assert_eq!(ours.len(), 1, "{held:?}");
        assert!(ours[0].bytes >= 100_000 && ours[0].fd.is_some(), "{ours:?}");
        assert!(!held.iter().any(|held| held.path.contains("kept")), "it has a name");
        assert!(held_by(std::process::id(), &[(9999, 1)], &left()).is_empty());
        assert!(held_by(std::process::id(), &devices, &(AtomicUsize::new(0), AtomicUsize::new(0))).is_empty());
    }

    #[test]
    fn a_file_counts_once() {
        let mut files = HashMap::new();
        let held = Held { dev: (8, 1), inode: 5, bytes: 100, path: "/log".into(), fd: None };
        add(&mut files, held.clone(), Some((1, "a")));
        add(&mut files, Held { fd: Some(3), ..held.clone() }, Some((1, "a")));
        add(&mut files, Held { bytes: 900, ..held.clone() }, None);
        for pid in 2..20 {
            add(&mut files, held.clone(), Some((pid, "b")));
        }
        let mut filesystems = [
            Filesystem { dev: "8:1".into(), ..Filesystem::default() },
            Filesystem { dev: "8:2".into(), ..Filesystem::default() },
        ];
        tell(&mut filesystems, files);
        let [file] = &filesystems[0].deleted[..] else { panic!("one file") };
        assert_eq!((file.bytes, filesystems[0].deleted_bytes, file.holders.len()), (100, 100, MAX_HOLDERS));
        assert_eq!(file.holders[0].fd, Some(3));
        assert!(filesystems[1].deleted.is_empty());
    }
}
