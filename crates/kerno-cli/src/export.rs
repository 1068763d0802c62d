//! `kerno export`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kerno::doctor::redaction::Redaction;
use kerno_daemon::{ExportError, Exported, Format, Range, Table};

use crate::args::{ExportArgs, ExportFormat, ExportTable};
use crate::config::Config;
use crate::error::note;
use crate::{output, past};

/// What stands for standard output.
const STDOUT: &str = "-";

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let (table, format) = (table(args.table), format(args)?);
    let range = range(args)?;
    let past = past::open(&args.past)?;
    let redaction = match args.with_secrets {
        true => Redaction::off(),
        false => Config::load(args.config.as_deref(), &[])?.redaction()?,
    };
    let write = |out: &mut (dyn Write + Send)| kerno_daemon::export(&past, range, table, format, &redaction, out);
    let exported = if args.file == Path::new(STDOUT) {
        match write(&mut io::stdout()) {
            // Whoever read it has seen enough.
            Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(ExportError::Write(error)) => return Err(output::unwritable(error)),
            result => result?,
        }
    } else {
        to_file(&args.file, write)?
    };
    if args.file != Path::new(STDOUT) {
        note(&words(&exported, &args.file));
    }
    if let Some((number, why)) = &exported.unreadable {
        note(&format!("{number} windows could not be read and are not in it: {why}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes beside the file and puts it in its place when all is written: a failure leaves what was there before.
fn to_file(
    path: &Path,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<Exported, ExportError>,
) -> anyhow::Result<Exported> {
    let failed = || format!("cannot write {}", path.display());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.exists() && !path.is_file() {
        // A device or a pipe cannot be replaced.
        let mut file = std::fs::File::options().write(true).open(path).with_context(failed)?;
        return write(&mut file).map_err(|error| told(error, path));
    }
    let mut file = tempfile::Builder::new().prefix(".kerno-").tempfile_in(directory).with_context(failed)?;
    let exported = write(file.as_file_mut()).map_err(|error| told(error, path))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    file.as_file().set_permissions(mode).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(exported)
}

/// What cannot be written is the file's; the rest says itself what is wrong.
fn told(error: ExportError, path: &Path) -> anyhow::Error {
    match error {
        ExportError::Write(error) => anyhow::Error::new(error).context(format!("cannot write {}", path.display())),
        other => other.into(),
    }
}

const fn table(table: ExportTable) -> Table {
    match table {
        ExportTable::Samples => Table::Samples,
        ExportTable::Incidents => Table::Incidents,
        ExportTable::Windows => Table::Windows,
    }
}

fn format(args: &ExportArgs) -> anyhow::Result<Format> {
    if let Some(format) = args.format {
        return Ok(match format {
            ExportFormat::Parquet => Format::Parquet,
            ExportFormat::Ndjson => Format::Ndjson,
        });
    }
    match args.file.extension().and_then(|ending| ending.to_str()) {
        _ if args.file == Path::new(STDOUT) => Ok(Format::Ndjson),
        Some("parquet") => Ok(Format::Parquet),
        Some("ndjson" | "jsonl" | "json") => Ok(Format::Ndjson),
        _ => bail!("{} ends with neither .parquet nor .ndjson: say which with --format", args.file.display()),
    }
}

fn range(args: &ExportArgs) -> anyhow::Result<Range> {
    let now_ns = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
    if let Some(last) = args.last {
        return Ok(Range::before(now_ns, last));
    }
    let range = Range { from_ns: args.from.unwrap_or(0), to_ns: args.to.unwrap_or(now_ns) };
    if range.from_ns >= range.to_ns {
        bail!("--from is not before --to");
    }
    Ok(range)
}

fn words(exported: &Exported, path: &Path) -> String {
    let time = |ns: u64| {
        let zoned = jiff::Timestamp::from_nanosecond(ns.into()).map(|at| at.to_zoned(jiff::tz::TimeZone::system()));
        zoned.map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
    };
    let of = exported.covered.map_or_else(String::new, |(from, to)| {
        format!(" of {} windows, {} to {}", exported.windows, time(from), time(to))
    });
    format!("{}: {} rows{of}", path.display(), exported.rows)
}
