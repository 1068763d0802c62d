//! Saves what was observed to a file, and reads it again.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use kerno::model::saved::{OLDEST_VERSION, ReadError, read_window};
use kerno::model::{SCHEMA_VERSION, Window};
use tempfile::NamedTempFile;

/// No snapshot is larger; a device never ends.
const MAX_BYTES: u64 = 256 << 20;

/// Where a snapshot goes.
#[derive(Debug)]
pub(super) struct Destination {
    /// As it was asked for.
    path: PathBuf,
    /// The file itself, behind any symbolic links.
    file: PathBuf,
    /// What is there is not a file that could be replaced: a pipe, a device.
    special: bool,
}

impl Destination {
    /// Finds out before watching whether it can be written.
    pub(super) fn new(path: &Path) -> anyhow::Result<Self> {
        let (file, special) = match fs::metadata(path) {
            Ok(found) if found.is_dir() => bail!("cannot save to {}: it is a directory", path.display()),
            Err(_) if path.file_name().is_none() => bail!("cannot save to {path:?}: that names no file"),
            Ok(found) if found.is_file() => (fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), false),
            Ok(_) => (path.to_owned(), true),
            Err(_) => (path.to_owned(), false),
        };
        let destination = Self { path: path.to_owned(), file, special };
        if !special {
            destination.temporary()?;
        }
        Ok(destination)
    }

    /// Writes all or nothing.
    pub(super) fn write(&self, signals: &Window) -> anyhow::Result<()> {
        if self.special {
            let file = File::options().write(true).open(&self.path).with_context(|| self.failed())?;
            return write(file, signals).with_context(|| self.failed());
        }
        let mut temporary = self.temporary()?;
        write(temporary.as_file_mut(), signals).with_context(|| self.failed())?;
        temporary.persist(&self.file).map(drop).with_context(|| self.failed())
    }

    /// A file beside the one it will replace, gone when it does not.
    fn temporary(&self) -> anyhow::Result<NamedTempFile> {
        let directory = self.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // As a file that was there, or as the umask says: what root saved, others may judge, and command lines are no secret in /proc.
        let mode = fs::metadata(&self.file).map_or(0o666, |found| found.permissions().mode() & 0o777);
        tempfile::Builder::new()
            .prefix(".kerno-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(directory)
            // Without the name that it would have had, which nobody asked for.
            .map_err(|error| anyhow!("{}", error.to_string().split(" at path ").next().unwrap_or_default()))
            .with_context(|| self.failed())
    }

    fn failed(&self) -> String {
        format!("cannot save to {}", self.path.display())
    }
}

fn write(file: impl io::Write, signals: &Window) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, signals)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// What [`Destination::write`] wrote.
///
/// # Errors
/// Says where in the file, and what to do.
pub(super) fn read(path: &Path) -> anyhow::Result<Window> {
    let name = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{name} is larger than any snapshot");
    }
    if bytes.is_empty() {
        bail!("{name} is empty; {ADVICE}");
    }
    read_window(&bytes).map_err(|error| match error {
        ReadError::Malformed { line, column, what } => anyhow!("{name}:{line}:{column}: {what}; {ADVICE}"),
        ReadError::MalformedPart { part, what } => anyhow!("{name}: {part}: {what}; {ADVICE}"),
        ReadError::Report => anyhow!("{name} is a report, not a snapshot; {ADVICE}"),
        ReadError::Version { found, saved_by } => anyhow!(
            "{name} has schema version {found}, and this kerno {} reads {OLDEST_VERSION} to {SCHEMA_VERSION}: judge it with {}, or save \
             a new one",
            env!("CARGO_PKG_VERSION"),
            saved_by.map_or_else(|| "the kerno that saved it".into(), |version| format!("kerno {version}, which saved it"))
        ),
        ReadError::ImpossibleSpan => anyhow!("{name} has an impossible window; {ADVICE}"),
        lacking => anyhow!("{name} has {lacking}; {ADVICE}"),
    })
}

const ADVICE: &str = "--from takes a file that `kerno doctor --save FILE` wrote";

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_model::fill;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot.json");
        let mut signals = fill!(Window { schema_version: SCHEMA_VERSION });
        // A number that a hasty parser gets wrong in the last place.
        signals.span.started_unix = 1_784_563_200.123_456_7;
        signals.span.seconds = 0.1 + 0.2;
        Destination::new(&path).unwrap().write(&signals).unwrap();
        assert_eq!(read(&path).unwrap(), signals);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_link_stays_and_its_file_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let signals = fill!(Window { schema_version: SCHEMA_VERSION });
        Destination::new(&link).unwrap().write(&signals).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&file).unwrap(), signals);
    }

    #[test]
    fn devices_are_written_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt as _;
        let null = Path::new("/dev/null");
        Destination::new(null).unwrap().write(&Window::default()).unwrap();
        assert!(fs::metadata(null).unwrap().file_type().is_char_device());
        let error = Destination::new(Path::new("/dev/full")).unwrap().write(&Window::default()).unwrap_err();
        assert!(format!("{error:#}").contains("cannot save to /dev/full: No space left"), "{error:#}");
    }

    #[test]
    fn where_nothing_can_be_written_is_told_at_once() {
        for path in ["/no/such/directory/file", "/proc/snapshot", "/tmp", ""] {
            let error = Destination::new(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains("cannot save to"), "{path}: {error:#}");
            assert!(!format!("{error:#}").contains(".kerno-"), "{path}: {error:#}");
        }
    }

    #[test]
    fn what_is_no_snapshot_is_told_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let cases: &[(&[u8], &str)] = &[
            (b"", "is empty; --from takes"),
            (b"{", ":1:1: EOF while parsing an object; --from takes"),
            (b"{\"schema_version\": 2, \"span\": {},\n \"host\": 3}", ":2:"),
            (b"not json", ":1:"),
            (b"[]", ":1:"),
            (b"{}", "no schema_version"),
            (b"{\"schema_version\": \"1\"}", ":1:"),
            (b"{\"schema_version\": 999}", "schema version 999, and this kerno"),
            (
                b"{\"schema_version\": 3, \"kerno_version\": \"7.1\"}",
                "reads 1 to 2: judge it with kerno 7.1, which saved it",
            ),
            (b"{\"schema_version\": 1, \"window\": {}, \"host\": 3}", "file: host: invalid type"),
            (b"{\"schema_version\": 2, \"span\": {\"seconds\": -1}}", "an impossible window"),
            (b"{\"schema_version\": 0}", "schema version 0"),
            (b"{\"schema_version\": 2}", "has no span"),
            (b"{\"schema_version\": 1, \"findings\": []}", "is a report"),
            (b"\xff\xfe", ":1:"),
            (b"\x1f\x8b\x08", ":1:"),
        ];
        for (bytes, why) in cases {
            fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains(why) && error.starts_with(path.to_str().unwrap()), "{bytes:?}: {error}");
            assert!(!error.contains("at line"), "{error}");
        }
        fs::write(&path, "[".repeat(1 << 20)).unwrap();
        assert!(read(&path).is_err());
        assert!(format!("{:#}", read(Path::new("/no/such")).unwrap_err()).contains("cannot read /no/such"));
        assert!(read(Path::new("/")).is_err());
    }
}
