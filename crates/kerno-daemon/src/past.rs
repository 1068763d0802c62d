//! The past: from a running daemon, or from a store.

use std::path::Path;

use kerno_doctor::incidents::Incidents;
use kerno_doctor::report::IncidentReport;
use kerno_model::saved;
use kerno_model::{IncidentRecord, Window};
use kerno_store::{Reader, StoreError};
use serde::{Deserialize, Serialize};

use crate::client::{Client, ClientError};
use crate::explain::explain;
use crate::times::Range;

/// The name under which the incidents that are followed are kept.
pub(crate) const INCIDENTS: &str = "incidents";

/// Where the past is asked for.
#[derive(Debug)]
pub enum Past {
    /// A daemon that runs.
    Daemon(Client),
    /// A store, of this machine or another.
    Store(Reader),
}

/// Why the past is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PastError {
    /// Nothing was observed then.
    #[error("nothing was observed {0}")]
    Nothing(String),
    /// The store cannot be read.
    #[error("cannot read the store")]
    Store(#[from] StoreError),
    /// One window of many cannot be read.
    #[error("a window cannot be read: {0}")]
    Unreadable(String),
    /// The daemon does not answer, or refuses.
    #[error(transparent)]
    Daemon(#[from] ClientError),
}

impl Past {
    /// The past in this store.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn of_store(directory: &Path) -> Result<Self, PastError> {
        Ok(Self::Store(Reader::open(directory)?))
    }

    /// What was observed in a stretch of time, as one window.
    ///
    /// # Errors
    /// [`PastError::Nothing`] if nothing was.
    pub fn window(&self, range: Range) -> Result<Window, PastError> {
        match self {
            Self::Daemon(client) => Ok(client.window(range)?),
            Self::Store(reader) => window(reader, range),
        }
    }

    /// The windows that overlap a stretch of time, in the order in which they were observed. One that is damaged is
    /// [`PastError::Unreadable`], and those after it follow; any other error is the last item.
    ///
    /// # Errors
    /// [`PastError::Nothing`] if there is none.
    pub fn windows(&self, range: Range) -> Result<Box<dyn Iterator<Item = Result<Window, PastError>> + '_>, PastError> {
        let mut windows: Box<dyn Iterator<Item = Result<Window, PastError>>> = match self {
            Self::Daemon(client) => Box::new(client.windows(range)?.map(|line| match line {
                Ok(line) => of_line(&line),
                Err(error) => Err(PastError::Daemon(ClientError::Unanswered(error.into()))),
            })),
            Self::Store(reader) => Box::new(
                reader
                    .windows(range.from_ns, range.to_ns)
                    .map(|window| window.map_err(|error| PastError::Unreadable(explain(&error)))),
            ),
        };
        let Some(first) = windows.next() else {
            return Err(PastError::Nothing(match self {
                Self::Daemon(_) => "then".to_owned(),
                Self::Store(reader) => known(reader),
            }));
        };
        Ok(Box::new(std::iter::once(first).chain(windows)))
    }

    /// All incidents that are known, the oldest first.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn incidents(&self) -> Result<Vec<IncidentReport>, PastError> {
        match self {
            Self::Daemon(client) => Ok(client.incidents()?),
            Self::Store(reader) => Ok(together(incidents(reader)?, Vec::new())),
        }
    }
}

/// What a daemon answers in the place of a window that it cannot read.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Unreadable {
    /// Why it cannot be read.
    pub(crate) unreadable: String,
}

fn of_line(line: &str) -> Result<Window, PastError> {
    saved::read_window(line.as_bytes()).map_err(|error| match serde_json::from_str::<Unreadable>(line) {
        Ok(Unreadable { unreadable }) => PastError::Unreadable(unreadable),
        Err(_) => PastError::Daemon(ClientError::Unreadable(error.to_string())),
    })
}

/// What a store has of a stretch of time, as one window.
pub(crate) fn window(reader: &Reader, range: Range) -> Result<Window, PastError> {
    match reader.between(range.from_ns, range.to_ns)? {
        Some(found) => Ok(found.window),
        None => Err(PastError::Nothing(known(reader))),
    }
}

/// When something was observed, in words.
fn known(reader: &Reader) -> String {
    let time = |ns: u64| {
        jiff::Timestamp::from_nanosecond(ns.into())
            .map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
    };
    let covered = reader.status().ok().and_then(|status| status.oldest.zip(status.newest));
    match covered {
        Some((from, to)) => format!("then; the store has {} to {}", time(from), time(to)),
        None => "then; the store is empty".to_owned(),
    }
}

/// Those of a store: as they were when they changed last, and those that go on as they were last seen.
pub(crate) fn incidents(reader: &Reader) -> Result<Vec<IncidentRecord>, PastError> {
    let mut records = reader.incidents()?;
    let followed = reader.state::<Incidents>(INCIDENTS).ok().flatten().unwrap_or_default();
    for incident in followed.all() {
        match records.iter_mut().find(|record| record.incident.id == incident.id) {
            Some(record) => record.incident = incident.clone(),
            None => records.push(IncidentRecord::new(incident.clone())),
        }
    }
    Ok(records)
}

/// Those that were kept with those that are followed now, which are newer; the oldest first.
pub(crate) fn together(mut kept: Vec<IncidentRecord>, followed: Vec<IncidentRecord>) -> Vec<IncidentReport> {
    for record in followed {
        match kept.iter_mut().find(|known| known.incident.id == record.incident.id) {
            Some(known) => *known = record,
            None => kept.push(record),
        }
    }
    kept.sort_by_key(|record| record.incident.opened.unix_ns);
    kept.iter().map(IncidentReport::of).collect()
}
