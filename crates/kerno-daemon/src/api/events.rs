//! Changes of incidents as they happen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::IncidentFilter;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::App;
use super::questions::{Refused, Which};
use crate::hiding::{Hiding, write};
use crate::state::Change;

/// So often something is sent, so that both ends see that the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Changes that this listener was too slow for.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Lost {
    /// How many.
    lost: u64,
}

/// A form of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One JSON object a line; an empty line now and then.
    Lines,
    /// Server-sent events.
    Sse,
}

impl Form {
    fn change(self, change: &Change, redaction: Option<&Redaction>) -> Option<String> {
        let mut json = Vec::new();
        write(&mut json, change, redaction.map(Hiding::new).as_mut());
        let json = String::from_utf8(json).ok()?;
        Some(match self {
            Self::Lines => json + "\n",
            Self::Sse => format!("event: {}\nid: {}\ndata: {json}\n\n", change.course.name(), change.incident.id),
        })
    }

    fn lost(self, lost: u64) -> Option<String> {
        let json = serde_json::to_string(&Lost { lost }).ok()?;
        Some(match self {
            Self::Lines => json + "\n",
            Self::Sse => format!("event: lost\ndata: {json}\n\n"),
        })
    }

    const fn keep_alive(self) -> &'static str {
        match self {
            Self::Lines => "\n",
            Self::Sse => ": kerno\n\n",
        }
    }
}

pub(super) async fn events(
    State(app): State<App>,
    which: Result<Query<Which>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let filter = which?.0.at_any_time();
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = if accept.contains("text/event-stream") { Form::Sse } else { Form::Lines };
    let content_type = if form == Form::Sse { "text/event-stream" } else { "application/x-ndjson" };
    let listening = app.shared.listen();
    // The head goes out with the first bytes.
    let begin = stream::iter([Ok::<_, Infallible>(form.keep_alive().to_owned())]);
    let rest =
        stream::unfold((listening, filter, app.redaction), move |(mut listening, filter, redaction)| async move {
            let told = next(&mut listening, &filter, form, redaction.as_deref()).await?;
            Some((Ok::<_, Infallible>(told), (listening, filter, redaction)))
        });
    let body = Body::from_stream(futures_util::StreamExt::chain(begin, rest));
    Ok(([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], body).into_response())
}

/// What is to be sent next; `None` at the end.
async fn next(
    listening: &mut Receiver<Arc<Change>>,
    filter: &IncidentFilter,
    form: Form,
    redaction: Option<&Redaction>,
) -> Option<String> {
    loop {
        match tokio::time::timeout(KEEP_ALIVE, listening.recv()).await {
            Ok(Ok(change)) if filter.passes(&change.incident) => return form.change(&change, redaction),
            Ok(Ok(_)) => {}
            Ok(Err(RecvError::Lagged(lost))) => return form.lost(lost),
            Ok(Err(RecvError::Closed)) => return None,
            Err(_) => return Some(form.keep_alive().to_owned()),
        }
    }
}
