//! What was observed as tables, for DuckDB, ClickHouse, pandas and the like.

mod parquet_table;
mod tables;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use kerno_doctor::redaction::Redaction;
use kerno_model::Window;

pub use tables::{Column, ColumnKind, columns};

use crate::hiding::Hiding;
use crate::past::{Past, PastError};
use crate::times::Range;
use parquet_table::ParquetTable;
use tables::{Row, incident_row, sample_rows};

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The numbers of the windows: a row for each number of each window.
    Samples,
    /// Incidents: a row for each.
    Incidents,
    /// Whole windows, as JSON only: they have no columns.
    Windows,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet, compressed with Snappy.
    Parquet,
    /// One JSON object a line.
    Ndjson,
}

/// How much was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Rows that were written.
    pub rows: u64,
    /// The windows that they are of; 0 for incidents.
    pub windows: u64,
    /// Windows that could not be read, and why the first of them could not be.
    pub unreadable: Option<(u64, String)>,
    /// When the first window began and the last one ended, in nanoseconds since 1970.
    pub covered: Option<(u64, u64)>,
}

/// Why nothing, or not everything, was exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The past is not known.
    #[error(transparent)]
    Past(#[from] PastError),
    /// It cannot be written.
    #[error("cannot write")]
    Write(#[from] io::Error),
    /// The form cannot hold it.
    #[error("cannot write as Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Windows have no columns.
    #[error("whole windows are exported as NDJSON; as Parquet there are the samples and the incidents")]
    NoColumns,
}

/// Writes a table of what was observed in a stretch of time, without what [`Redaction`] hides: a table is made to be given to others. Of windows, those that overlap it; of incidents, those that went on then.
///
/// # Errors
/// If the past is not known, or it cannot be written. What was written by then is of no use.
pub fn export(
    past: &Past,
    range: Range,
    table: Table,
    format: Format,
    redaction: &Redaction,
    out: impl Write + Send,
) -> Result<Exported, ExportError> {
    if table == Table::Windows && format == Format::Parquet {
        return Err(ExportError::NoColumns);
    }
    let mut sink = match format {
        Format::Parquet => Sink::Parquet(ParquetTable::new(columns(table), out)?),
        Format::Ndjson => Sink::Ndjson(io::BufWriter::new(out), columns(table)),
    };
    let (mut exported, mut hiding) = (Exported::default(), Hiding::new(redaction));
    if table == Table::Incidents {
        for incident in past.incidents()? {
            let ended_ns = incident.closed_unix_ns.unwrap_or(u64::MAX);
            if incident.opened_unix_ns < range.to_ns && ended_ns >= range.from_ns {
                sink.row(incident_row(&incident, redaction, &mut hiding))?;
                exported.rows += 1;
            }
        }
    } else {
        for window in past.windows(range)? {
            let window = match window {
                Ok(window) => window,
                Err(PastError::Unreadable(why)) => {
                    exported.unreadable.get_or_insert((0, why)).0 += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            exported.saw(&window);
            if table == Table::Windows {
                sink.window(&window, &mut hiding)?;
                exported.rows += 1;
                continue;
            }
            for row in sample_rows(&window) {
                sink.row(row)?;
                exported.rows += 1;
            }
        }
    }
    sink.finish()?;
    Ok(exported)
}

impl Exported {
    fn saw(&mut self, window: &Window) {
        self.windows += 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after 1970")]
        let began = (window.span.started_unix * 1e9) as u64;
        let ended = window.span.end().unix_ns;
        let (from, to) = self.covered.unwrap_or((began, ended));
        self.covered = Some((from.min(began), to.max(ended)));
    }
}

enum Sink<W: Write + Send> {
    Parquet(ParquetTable<W>),
    Ndjson(io::BufWriter<W>, Vec<Column>),
}

impl<W: Write + Send> Sink<W> {
    fn row(&mut self, row: Row) -> Result<(), ExportError> {
        match self {
            Self::Parquet(table) => Ok(table.add(row)?),
            Self::Ndjson(out, columns) => {
                serde_json::to_writer(&mut *out, &tables::object(columns, row)).map_err(io::Error::from)?;
                Ok(out.write_all(b"\n")?)
            }
        }
    }

    fn window(&mut self, window: &Window, hiding: &mut Hiding<'_>) -> Result<(), ExportError> {
        match self {
            Self::Parquet(_) => Err(ExportError::NoColumns),
            Self::Ndjson(out, _) => {
                serde_json::to_writer(&mut *out, &hiding.json(window)).map_err(io::Error::from)?;
                Ok(out.write_all(b"\n")?)
            }
        }
    }

    fn finish(self) -> Result<(), ExportError> {
        match self {
            Self::Parquet(table) => Ok(table.finish()?),
            Self::Ndjson(mut out, _) => Ok(out.flush()?),
        }
    }
}
