//! Questions as they are asked, and answers that refuse.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kerno_doctor::report::IncidentFilter;
use kerno_model::{IncidentState, Severity};
use serde::{Deserialize, Serialize};

use crate::explain::explain;
use crate::past;
use crate::times::{Range, of_query};

/// What `report` and `windows` look at unless told otherwise.
const LENGTH: Duration = Duration::from_secs(30);

pub(super) type Answer<T> = Result<T, Refused>;

/// An answer that says what is wrong.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    pub(super) fn not_found(why: &str) -> Self {
        Self(StatusCode::NOT_FOUND, why.to_owned())
    }

    pub(super) fn bad(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }
}

/// Why a question is not answered.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Problem {
    /// What is wrong with it, or with what would answer it.
    error: String,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, axum::Json(Problem { error: self.1 })).into_response()
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl From<past::PastError> for Refused {
    fn from(error: past::PastError) -> Self {
        let status = match error {
            past::PastError::Nothing(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, explain(&error))
    }
}

/// What incidents to show.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Which {
    state: Option<IncidentState>,
    severity: Option<Severity>,
    rule: Option<String>,
    unit: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl Which {
    /// Changes as they happen have no time to be chosen by.
    pub(super) fn at_any_time(self) -> IncidentFilter {
        let Self { state, severity, rule, unit, .. } = self;
        IncidentFilter { state, severity, rule, unit, ..IncidentFilter::default() }
    }

    pub(super) fn filter(self) -> Answer<IncidentFilter> {
        let now = jiff::Zoned::now();
        let from_unix_ns = moment("from", self.from.as_deref(), &now)?;
        let to_unix_ns = moment("to", self.to.as_deref(), &now)?;
        Ok(IncidentFilter { from_unix_ns, to_unix_ns, ..self.at_any_time() })
    }
}

/// A moment of the query by the name of its parameter.
fn moment(name: &str, text: Option<&str>, now: &jiff::Zoned) -> Answer<Option<u64>> {
    let read = |text| of_query(text, now).map_err(|why| Refused::bad(format!("{name}: {why}")));
    text.map(read).transpose()
}

/// A stretch of time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct When {
    from: Option<String>,
    to: Option<String>,
    /// One window over the whole time instead of those that it is made of.
    pub(super) merged: bool,
}

impl When {
    pub(super) fn range(&self) -> Answer<Option<Range>> {
        let now = jiff::Zoned::now();
        let (from_ns, to_ns) = (moment("from", self.from.as_deref(), &now)?, moment("to", self.to.as_deref(), &now)?);
        let range = match (from_ns, to_ns) {
            (None, to_ns) => to_ns.map(|to_ns| Range::before(to_ns, LENGTH)),
            (Some(from_ns), to_ns) => {
                let now_ns = u64::try_from(now.timestamp().as_nanosecond()).unwrap_or(0);
                Some(Range { from_ns, to_ns: to_ns.unwrap_or(now_ns) })
            }
        };
        match range {
            Some(range) if range.from_ns >= range.to_ns => Err(Refused::bad("from must be before to")),
            range => Ok(range),
        }
    }
}
