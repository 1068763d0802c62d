//! The saved form of a [`Window`], and how to read windows that earlier versions saved.
//!
//! A window is saved as one JSON object. Its `schema_version` gives the version of the form:
//!
//! | version | what changed |
//! |---|---|
//! | 1 | The first version. |
//! | 2 | `window` is now `span`. Arrays that stood for records became objects with named fields: the holders of a CPU, the owners of connections, and the processes with the most memory. I/O limits of cgroups became objects, and `tightest` is one of their kinds. Each window names the version of kerno that saved it. |
//!
//! The promise:
//!
//! - Every later version of kerno reads it. Fields that are missing get their default values.
//! - A reader ignores fields that it does not know, and reads words that it does not know as `other` or `unknown`. So new fields need no
//!   new version.
//! - The version grows when a field changes its meaning or form, or is removed. A reader refuses newer versions, since it would misread
//!   and misjudge them.

mod v1;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::{SCHEMA_VERSION, Span, Window};

/// The oldest version of the saved form that can be read.
pub const OLDEST_VERSION: u32 = 1;

/// Converts a saved window from one version to the next.
type Migration = fn(&mut Value);

/// The conversions in order: the first one is from [`OLDEST_VERSION`], the last one to [`SCHEMA_VERSION`].
const MIGRATIONS: [Migration; (SCHEMA_VERSION - OLDEST_VERSION) as usize] = [v1::migrate];

/// Why a window could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// It is not JSON, or a value in it has the wrong form.
    Malformed {
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1; 0 at the end of a line.
        column: usize,
        /// What is wrong.
        what: String,
    },
    /// A value of an earlier version has the wrong form.
    MalformedPart {
        /// The field of the window that contains it.
        part: String,
        /// What is wrong.
        what: String,
    },
    /// It is a report, which does not contain the window that it was made from.
    Report,
    /// It has no version.
    NoVersion,
    /// It has no span: it is not a window.
    NoSpan,
    /// This crate cannot read its version.
    Version {
        /// Its version.
        found: u64,
        /// The version of kerno that saved it, if it names one.
        saved_by: Option<String>,
    },
    /// Its start or length is impossible.
    ImpossibleSpan,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed { what, .. } => f.write_str(what),
            Self::MalformedPart { part, what } => write!(f, "{part}: {what}"),
            Self::Report => f.write_str("a report, not the window that it was made from"),
            Self::NoVersion => f.write_str("no schema_version"),
            Self::NoSpan => f.write_str("no span"),
            Self::Version { found, saved_by } => {
                write!(f, "schema version {found}")?;
                if let Some(kerno) = saved_by {
                    write!(f, ", saved by kerno {kerno}")?;
                }
                write!(f, "; versions {OLDEST_VERSION} to {SCHEMA_VERSION} are read")
            }
            Self::ImpossibleSpan => f.write_str("an impossible span"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        Self::Malformed { line, column, what: without_position(&error) }
    }
}

/// What is wrong, without the position, which is stored separately.
fn without_position(error: &serde_json::Error) -> String {
    let what = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    what.strip_suffix(&position).unwrap_or(&what).to_owned()
}

/// The fields that distinguish windows of any version from other JSON.
#[derive(Deserialize)]
struct Head {
    schema_version: Option<u64>,
    kerno_version: Option<Value>,
    /// Only a report has them.
    findings: Option<IgnoredAny>,
    span: Option<IgnoredAny>,
    /// The span, in version 1 and in reports.
    window: Option<IgnoredAny>,
}

/// Reads a saved window of this version or any earlier one.
///
/// # Errors
/// [`ReadError`] tells what is wrong and, if possible, where.
pub fn read_window(json: &[u8]) -> Result<Window, ReadError> {
    let head: Head = serde_json::from_slice(json)?;
    let version = match head.schema_version {
        _ if head.findings.is_some() => return Err(ReadError::Report),
        None => return Err(ReadError::NoVersion),
        Some(found) => known(found).ok_or_else(|| {
            let saved_by = head.kerno_version.as_ref().and_then(Value::as_str).map(str::to_owned);
            ReadError::Version { found, saved_by }
        })?,
    };
    if head.span.is_none() && (version > 1 || head.window.is_none()) {
        return Err(ReadError::NoSpan);
    }
    let window = if version == SCHEMA_VERSION {
        serde_json::from_slice(json)?
    } else {
        let mut value = serde_json::from_slice(json)?;
        migrate(&mut value, version);
        of_value(value)?
    };
    if is_possible(&window.span) { Ok(window) } else { Err(ReadError::ImpossibleSpan) }
}

fn known(version: u64) -> Option<u32> {
    u32::try_from(version).ok().filter(|version| (OLDEST_VERSION..=SCHEMA_VERSION).contains(version))
}

fn migrate(value: &mut Value, from: u32) {
    for migration in MIGRATIONS.iter().skip((from - OLDEST_VERSION) as usize) {
        migration(value);
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("schema_version".into(), SCHEMA_VERSION.into());
    }
}

/// Reads a window from a [`Value`], which has no positions. On failure, tries each part alone to find the wrong one.
fn of_value(value: Value) -> Result<Window, ReadError> {
    let error = match Window::deserialize(&value) {
        Ok(window) => return Ok(window),
        Err(error) => error,
    };
    let parts = value.as_object().into_iter().flatten();
    for (part, value) in parts {
        let alone = Value::Object([(part.clone(), value.clone())].into_iter().collect());
        if let Err(error) = Window::deserialize(alone) {
            return Err(ReadError::MalformedPart { part: part.clone(), what: error.to_string() });
        }
    }
    Err(error.into())
}

/// The JSON Schema of a saved window of this version.
#[cfg(feature = "schema")]
pub fn json_schema() -> Value {
    // The schema of what is written; a reader accepts less.
    let settings = schemars::generate::SchemaSettings::default().for_serialize();
    settings.into_generator().into_root_schema_for::<Window>().to_value()
}

/// Whether a span is possible. Rates divide by its length.
fn is_possible(span: &Span) -> bool {
    const YEAR_10000: f64 = 253_402_300_800.0;
    const CENTURY: f64 = 3_155_760_000.0;
    (0.0..YEAR_10000).contains(&span.started_unix) && (0.0..CENTURY).contains(&span.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Window, ReadError> {
        read_window(json.as_bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let span = Span { started_unix: 1_784_563_200.123_456_7, seconds: 0.1 + 0.2, ..Span::default() };
        let window = Window { schema_version: SCHEMA_VERSION, span, ..Window::default() };
        assert_eq!(read(&serde_json::to_string(&window).unwrap()).unwrap(), window);
    }

    #[test]
    fn what_is_not_there_has_its_default() {
        let window = read(r#"{"schema_version": 2, "span": {"seconds": 5}, "fd_track": {"processes": [{"pid": 7}]}}"#);
        let fd = window.unwrap().fd_track.unwrap();
        assert_eq!((fd.processes[0].pid, fd.processes[0].soft_limit, fd.files_max), (7, 0, 0));
    }

    #[test]
    fn what_a_later_kerno_adds_is_taken() {
        let json = r#"{"schema_version": 2, "span": {"seconds": 5, "leap": true}, "gpu_track": {},
            "disk_io": {"devices": [{"dev": "8:0", "ops": [{"op": "zone_append", "count": 3}]}]}}"#;
        let disk = read(json).unwrap().disk_io.unwrap();
        assert_eq!(disk.devices[0].ops[0].op, crate::RequestKind::Other);
        assert_eq!(disk.devices[0].ops[0].count, 3);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let malformed = |json: &str| match read(json).unwrap_err() {
            ReadError::Malformed { line, column, what } => (line, column, what),
            other => panic!("{json}: {other:?}"),
        };
        assert_eq!(malformed("{"), (1, 1, "EOF while parsing an object".into()));
        let (line, _, what) = malformed("{\"schema_version\": 2, \"span\": {},\n\"host\": 3}");
        assert_eq!(line, 2);
        assert!(what.contains("invalid type: integer `3`") && !what.contains("line"), "{what}");
        let old = r#"{"schema_version": 1, "window": {}, "host": {}, "fd_track": {"processes": 4}}"#;
        let error = read(old).unwrap_err();
        assert!(error.to_string().starts_with("fd_track: invalid type: integer `4`"), "{error}");
    }

    #[test]
    fn other_things_are_refused() {
        assert_eq!(read(r#"{"schema_version": 2, "window": {}, "findings": []}"#), Err(ReadError::Report));
        assert_eq!(read("{}"), Err(ReadError::NoVersion));
        assert_eq!(read(r#"{"schema_version": 2}"#), Err(ReadError::NoSpan));
        assert_eq!(read(r#"{"schema_version": 2, "window": {}}"#), Err(ReadError::NoSpan));
        assert_eq!(read(r#"{"schema_version": 1}"#), Err(ReadError::NoSpan));
        let error = read(r#"{"schema_version": 3, "kerno_version": "0.9.0", "span": 7}"#).unwrap_err();
        assert_eq!(error.to_string(), "schema version 3, saved by kerno 0.9.0; versions 1 to 2 are read");
        for version in ["0", "4294967298"] {
            let error = read(&format!(r#"{{"schema_version": {version}, "span": {{}}}}"#)).unwrap_err();
            assert_eq!(error.to_string(), format!("schema version {version}; versions 1 to 2 are read"));
        }
        for span in
            [r#"{"seconds": -1}"#, r#"{"started_unix": -1}"#, r#"{"seconds": 1e300}"#, r#"{"started_unix": 1e300}"#]
        {
            assert_eq!(read(&format!(r#"{{"schema_version": 2, "span": {span}}}"#)), Err(ReadError::ImpossibleSpan));
        }
        assert!(matches!(read(&"[".repeat(1 << 20)), Err(ReadError::Malformed { .. })));
    }
}
