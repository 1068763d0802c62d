use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC`, linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("no cgroup v2 hierarchy is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NotMounted,
    #[error("cgroup {} is not in the v2 hierarchy, which is mounted at {}", .path.display(), .mount.display())]
    NotV2 { path: PathBuf, mount: PathBuf },
    #[error("no such cgroup: {}", .path.display())]
    Missing {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where the v2 hierarchy is mounted: `/sys/fs/cgroup` on a unified host, below it on a hybrid one.
pub(crate) fn v2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescape_mount(target)))
    })
}

/// Undoes the octal escapes of spaces and the like (fstab(5)).
pub(crate) fn unescape_mount(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// The id that the kernel side compares: the directory's inode number (kernfs, 64-bit hosts).
pub(crate) fn id(path: &Path) -> Result<u64, CgroupError> {
    let mount = v2_mount().ok_or(CgroupError::NotMounted)?;
    let full = if path.starts_with("/sys/fs/cgroup") || path.starts_with(&mount) {
        path.to_owned()
    } else {
        mount.join(path.strip_prefix("/").unwrap_or(path))
    };
    let missing = |source| CgroupError::Missing { path: full.clone(), source };
    let metadata = std::fs::metadata(&full).map_err(missing)?;
    let fs = rustix::fs::statfs(&full).map_err(|errno| missing(errno.into()))?;
    if fs.f_type != CGROUP2_MAGIC || !metadata.is_dir() {
        return Err(CgroupError::NotV2 { path: full, mount });
    }
    Ok(metadata.ino())
}
