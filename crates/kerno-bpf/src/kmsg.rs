//! The kernel's own log, from `/dev/kmsg`.
//!
//! The format is that of `Documentation/ABI/testing/dev-kmsg`: each read gives one record, `priority,sequence,timestamp,flags;text`, and lines that
//! begin with a space belong to it. Reading never waits and is bounded. It needs no eBPF.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use rustix::io::Errno;

/// A record has at most so many bytes, with its keys (`PRINTKRB_RECORD_MAX`, `CONSOLE_EXT_LOG_MAX`: 8 KiB); shorter buffers get `EINVAL`.
const RECORD_BYTES: usize = 16 << 10;

/// A log that is written to faster than it is read must not keep the reader for ever.
const MAX_READS: usize = 1 << 20;

/// What the kernel's log has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelLog {
    /// The newest records, the oldest of them first.
    pub records: Vec<KernelRecord>,
    /// How many records the kernel overwrote while the log was read, so that they are not here.
    pub overwritten: u64,
}

/// A record of the kernel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelRecord {
    /// The level, from 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Who wrote it: 0 is the kernel, others are programs that wrote to `/dev/kmsg`.
    pub facility: u32,
    /// Its number since the start of the machine.
    pub sequence: u64,
    /// When it was written, in nanoseconds since the start of the machine without what it was suspended. By a clock of its own
    /// (`local_clock`), which may differ from the monotonic one by some seconds after months.
    pub since_boot_ns: u64,
    /// The text as it was written: untrusted bytes, possibly of several lines.
    pub text: Vec<u8>,
}

/// Why the kernel's log could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelLogError {
    /// Only some may read it.
    #[error(
        "{} may not be read: with kernel.dmesg_restrict=1 that needs CAP_SYSLOG, as root has it", path.display()
    )]
    NotAllowed {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The file is there, but not what it should be.
    #[error("{} is not the kernel's log", path.display())]
    NotTheLog {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the kernel's log: of what is in it now, the newest `most` records. Never waits for new ones.
///
/// # Errors
///
/// If the log may not be read (`kernel.dmesg_restrict`) or is not there, as in most containers.
pub fn read(most: usize) -> Result<KernelLog, KernelLogError> {
    let mut file = open()?;
    records(&mut file, most).map_err(failed)
}

const PATH: &str = "/dev/kmsg";

fn failed(source: io::Error) -> KernelLogError {
    let path = PathBuf::from(PATH);
    match source.kind() {
        io::ErrorKind::PermissionDenied => KernelLogError::NotAllowed { path },
        _ => KernelLogError::Io { path, source },
    }
}

fn open() -> Result<File, KernelLogError> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(PATH).map_err(failed)?;
    if !file.metadata().map_err(failed)?.file_type().is_char_device() {
        return Err(KernelLogError::NotTheLog { path: PATH.into() });
    }
    Ok(file)
}

/// Reads what the kernel writes from now on.
#[derive(Debug)]
pub struct NewRecords {
    file: File,
    /// The number of the next record; `None` before the first.
    next: Option<u64>,
}

impl NewRecords {
    /// From now on.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn from_now() -> Result<Self, KernelLogError> {
        let mut file = open()?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, next: None })
    }

    /// What came since the last call: the newest `most` records. Never waits. [`KernelLog::overwritten`] has also those that came between two calls
    /// and were overwritten before the second.
    ///
    /// # Errors
    ///
    /// If the log cannot be read any more.
    pub fn read(&mut self, most: usize) -> Result<KernelLog, KernelLogError> {
        let (log, next) = records_from(&mut self.file, most, self.next).map_err(failed)?;
        self.next = next;
        Ok(log)
    }
}

/// Reads records until there are no more for now.
fn records(source: &mut impl Read, most: usize) -> io::Result<KernelLog> {
    Ok(records_from(source, most, None)?.0)
}

/// The same after those before this number, and the number of the next.
fn records_from(source: &mut impl Read, most: usize, mut next: Option<u64>) -> io::Result<(KernelLog, Option<u64>)> {
    let mut kept: VecDeque<KernelRecord> = VecDeque::new();
    let mut buffer = vec![0; RECORD_BYTES];
    let mut overwritten = 0;
    for _ in 0..MAX_READS {
        let bytes = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => break,
                // Records were overwritten before they were read, or a signal came: the next read goes on with the oldest that is left.
                Some(Errno::PIPE | Errno::INTR) => continue,
                _ => return Err(error),
            },
        };
        let Some((record, continues)) = parse(&buffer[..bytes]) else { continue };
        if let Some(expected) = next {
            overwritten += record.sequence.saturating_sub(expected);
        }
        next = Some(record.sequence.saturating_add(1));
        match kept.back_mut() {
            Some(last) if continues && last.text.len() < RECORD_BYTES => last.text.extend(record.text),
            _ => kept.push_back(record),
        }
        if kept.len() > most {
            kept.pop_front();
        }
    }
    Ok((KernelLog { records: kept.into(), overwritten }, next))
}

/// A record, and whether it continues the one before it. `None` if it is not of the format.
fn parse(bytes: &[u8]) -> Option<(KernelRecord, bool)> {
    let end = bytes.iter().position(|byte| *byte == b';')?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let since_boot_us: u64 = fields.next()?.parse().ok()?;
    // Later kernels may have more fields after the flags.
    let continues = fields.next()?.starts_with('+');
    let text = bytes[end + 1..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let level = u8::try_from(priority & 7).unwrap_or(7);
    let since_boot_ns = since_boot_us.saturating_mul(1000);
    let record = KernelRecord { level, facility: priority >> 3, sequence, since_boot_ns, text: unescaped(text) };
    Some((record, continues))
}

/// Takes back what the kernel does with bytes that are not printable, and with backslashes: `\xNN`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let escape = match rest {
            [b'\\', b'x', high, low, ..] => digit(high).zip(digit(low)),
            _ => None,
        };
        if let Some((high, low)) = escape {
            plain.push(high << 4 | low);
            rest = &rest[4..];
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each read as the kernel does: with a record, or an error.
    struct Log(VecDeque<Result<Vec<u8>, Errno>>);

    impl Read for Log {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let record = self.0.pop_front().unwrap_or(Err(Errno::AGAIN))?;
            buffer[..record.len()].copy_from_slice(&record);
            Ok(record.len())
        }
    }

    fn log(records: &[Result<&str, Errno>], most: usize) -> KernelLog {
        let records = records.iter().map(|record| record.map(|text| text.as_bytes().to_vec())).collect();
        super::records(&mut Log(records), most).unwrap()
    }

    fn text(record: &KernelRecord) -> &str {
        std::str::from_utf8(&record.text).unwrap()
    }

    #[test]
    fn records_are_taken_apart() {
        let log = log(
            &[
                Ok(
                    "7,160,424069,-;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
                ),
                Ok("30,339,5140900,c,caller=T1;NET: a\\x0ab \\x5c \\xzz \\xe2\\x82\\xac\n"),
            ],
            10,
        );
        assert_eq!(log.records.len(), 2);
        let first = &log.records[0];
        assert_eq!((first.level, first.facility, first.sequence, first.since_boot_ns), (7, 0, 160, 424_069_000));
        assert_eq!(text(first), "pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)");
        let second = &log.records[1];
        assert_eq!((second.level, second.facility), (6, 3));
        assert_eq!(text(second), "NET: a\nb \\ \\xzz €");
        assert_eq!(log.overwritten, 178, "those between the two");
    }

    #[test]
    fn lines_that_came_in_parts_are_one() {
        let log = log(&[Ok("6,1,1,c;one \n"), Ok("6,2,2,+;two\n"), Ok("6,3,3,-;three\n")], 10);
        assert_eq!(log.records.iter().map(text).collect::<Vec<_>>(), ["one two", "three"]);
    }

    #[test]
    fn what_was_overwritten_is_counted_and_the_rest_is_read() {
        let log = log(
            &[
                Ok("6,1,1,-;a\n"),
                Err(Errno::PIPE),
                Err(Errno::INTR),
                Ok("6,12,2,-;b\n"),
                Err(Errno::AGAIN),
                Ok("6,13,3,-;never\n"),
            ],
            10,
        );
        assert_eq!(log.records.iter().map(text).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(log.overwritten, 10);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let log = log(&[Ok("6,1,1,-;a\n"), Ok("6,2,2,-;b\n"), Ok("6,3,3,-;c\n")], 2);
        assert_eq!(log.records.iter().map(text).collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn what_is_not_a_record_is_left_out() {
        let log = log(&[Ok(""), Ok("never\n")], 2);
        assert_eq!(log, KernelLog::default(), "no bytes are the end");
        let odd = ["x", ";", ",,,;", "6,1;a", "6,1,2;a", "-6,1,2,-;a", "6,99999999999999999999,2,-;a", "\u{1b}[31m;"];
        let log = super::tests::log(&odd.map(Ok), 10);
        assert_eq!(log, KernelLog::default());
        assert!(super::records(&mut Log([Err(Errno::IO)].into()), 10).is_err());
    }

    #[test]
    fn a_line_written_to_the_log_is_found_again() {
        use std::io::Write as _;
        let line = format!("kerno test: \u{e4} \\ of process {}", std::process::id());
        let mut kmsg = OpenOptions::new().write(true).open("/dev/kmsg").unwrap();
        let before_ns = crate::probe::clock::monotonic_ns();
        kmsg.write_all(format!("<15>{line}\n").as_bytes()).unwrap();
        let log = read(10_000).unwrap();
        let found = log.records.iter().find(|record| record.text == line.as_bytes()).unwrap();
        assert_eq!((found.level, found.facility), (7, 1));
        assert!(found.since_boot_ns.abs_diff(before_ns) < 60_000_000_000, "{found:?}, {before_ns}");
        assert!(log.records.is_sorted_by_key(|record| record.sequence));
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::KernelRecord;

    pub(crate) fn record(facility: u32, text: &str) -> KernelRecord {
        KernelRecord { level: 3, facility, sequence: 1, since_boot_ns: 0, text: text.into() }
    }
}
