//! What is served.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::{IncidentReport, Report};
use kerno_doctor::{Thresholds, judge};
use kerno_store::Reader;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender};

use super::guard::Token;
use super::questions::{Answer, Refused, When, Which};
use super::{App, MAX_EXPORTS, events, exposition, openapi};
use crate::explain::explain;
use crate::hiding::{Hiding, write};
use crate::past::{self, Unreadable};
use crate::times::Range;

/// How much of an answer is in memory at once, but for the window that passes this.
const PAGE_BYTES: usize = 256 << 10;

/// Who may ask.
#[derive(Clone, Debug)]
pub(super) enum Whom {
    /// Whoever may open the socket.
    Socket,
    /// Every user of this machine.
    Local,
    /// Whoever has a certificate, which has been checked before anything could be asked.
    Certified,
    /// Whoever has this token.
    Token(Arc<Token>),
}

/// What is served, with who answers. The document describes the same paths.
macro_rules! routes {
    ($($path:literal => $answer:expr,)*) => {
        #[cfg(test)]
        pub(super) const PATHS: &[&str] = &[$($path),*];

        fn routes() -> Router<App> {
            Router::new()$(.route($path, get($answer)))*
        }
    };
}

routes! {
    "/healthz" => healthz,
    "/readyz" => readyz,
    "/metrics" => metrics,
    "/api/v1/openapi.json" => document,
    "/api/v1/status" => status,
    "/api/v1/incidents" => incidents,
    "/api/v1/incidents/{id}" => incident,
    "/api/v1/windows" => windows,
    "/api/v1/report" => report,
    "/api/v1/events" => events::events,
}

/// What everybody may ask.
pub(super) fn health(app: App) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(async || Refused::not_found("only /healthz and /readyz are served here"))
        .with_state(app)
}

pub(super) fn router(app: App, whom: Whom) -> Router {
    let router = routes()
        .fallback(async || Refused::not_found("there is nothing of this name; see /api/v1/openapi.json"))
        .method_not_allowed_fallback(async || Refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed".into()))
        .with_state(app);
    match whom {
        Whom::Socket | Whom::Certified => router,
        Whom::Local => router.layer(from_fn(of_this_machine)),
        Whom::Token(token) => router.layer(from_fn_with_state(token, with_token)),
    }
}

async fn with_token(State(token): State<Arc<Token>>, request: axum::extract::Request, next: Next) -> Response {
    if token.is_in(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes)) {
        return next.run(request).await;
    }
    let refused = Refused(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN".into());
    ([(WWW_AUTHENTICATE, "Bearer")], refused).into_response()
}

/// A web page that a user of this machine looks at must not read what is served here: its own host name may lead here, and browsers send that.
async fn of_this_machine(request: axum::extract::Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let local = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !local {
        return Refused(StatusCode::MISDIRECTED_REQUEST, "the Host of the request is not this machine".into())
            .into_response();
    }
    next.run(request).await
}

async fn healthz(State(app): State<App>) -> Response {
    told(app.shared.health())
}

async fn readyz(State(app): State<App>) -> Response {
    told(app.shared.ready())
}

fn told(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = exposition::Format::of(of(ACCEPT));
    let samples = app.shared.metrics(of(USER_AGENT));
    ([(CONTENT_TYPE, format.content_type())], exposition::write(&samples, format)).into_response()
}

async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], openapi::DOCUMENT).into_response()
}

async fn status(State(app): State<App>) -> Answer<Response> {
    json(&app, Arc::new(app.shared.status())).await
}

async fn incidents(State(app): State<App>, which: Result<Query<Which>, QueryRejection>) -> Answer<Response> {
    let Query(which) = which?;
    let filter = which.filter()?;
    let mut all = all_incidents(&app).await?;
    all.retain(|incident| filter.passes(incident));
    json(&app, Arc::new(all)).await
}

async fn incident(State(app): State<App>, Path(id): Path<String>) -> Answer<Response> {
    let found = all_incidents(&app).await?.into_iter().find(|incident| incident.id.as_str() == id);
    let found = found.ok_or_else(|| Refused::not_found("no incident has this id; /api/v1/incidents lists them"))?;
    json(&app, Arc::new(found)).await
}

async fn all_incidents(app: &App) -> Answer<Vec<IncidentReport>> {
    let followed = app.shared.incidents();
    let kept = match app.reader.clone() {
        Some(reader) => asked(move || past::incidents(&reader)).await??,
        None => Vec::new(),
    };
    Ok(past::together(kept, followed))
}

async fn windows(State(app): State<App>, when: Result<Query<When>, QueryRejection>) -> Answer<Response> {
    let Query(when) = when?;
    let Some(range) = when.range()? else {
        let latest = app.shared.latest().ok_or_else(|| Refused::from(past::PastError::Nothing("yet".into())))?;
        if when.merged {
            return json(&app, latest).await;
        }
        let mut lines = written(&app, latest).await?;
        lines.push(b'\n');
        return Ok(([(CONTENT_TYPE, NDJSON)], lines).into_response());
    };
    let reader = app.reader.clone().ok_or_else(no_store)?;
    if when.merged {
        let window = asked(move || past::window(&reader, range)).await??;
        return json(&app, Arc::new(window)).await;
    }
    let place = Arc::clone(&app.exports).try_acquire_owned().map_err(|_| {
        Refused(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MAX_EXPORTS} answers of many windows are being written; ask again"),
        )
    })?;
    let (pages, taken) = tokio::sync::mpsc::channel(1);
    let redaction = app.redaction.clone();
    let read = move || {
        read_pages(&reader, range, redaction.as_deref(), &pages);
        drop(place);
    };
    // A thread of its own: it waits for the client, and others' questions do not wait for it.
    std::thread::Builder::new()
        .name("kerno export".into())
        .spawn(read)
        .map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, format!("cannot start a thread: {error}")))?;
    let next = async |mut taken: Receiver<Vec<u8>>| taken.recv().await.map(|page| (Ok::<_, Infallible>(page), taken));
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(Box::pin(stream::unfold(taken, next)))).into_response())
}

const NDJSON: &str = "application/x-ndjson";

/// Reads windows as the client takes them, so that a day of them is never in memory at once.
fn read_pages(reader: &Reader, range: Range, redaction: Option<&Redaction>, pages: &Sender<Vec<u8>>) {
    let (mut page, mut hiding) = (Vec::new(), redaction.map(Hiding::new));
    for window in reader.windows(range.from_ns, range.to_ns) {
        match window {
            Ok(window) => write(&mut page, &window, hiding.as_mut()),
            Err(error) => write(&mut page, &Unreadable { unreadable: explain(&error) }, hiding.as_mut()),
        }
        page.push(b'\n');
        // An error says that the client is gone.
        if page.len() >= PAGE_BYTES && pages.blocking_send(std::mem::take(&mut page)).is_err() {
            return;
        }
    }
    let _ = pages.blocking_send(page);
}

/// A value as JSON, as it may be seen by whom it is for.
async fn written<T: Serialize + Send + Sync + 'static>(app: &App, value: Arc<T>) -> Answer<Vec<u8>> {
    let redaction = app.redaction.clone();
    let hides = redaction.is_some();
    let write = move || {
        let mut json = Vec::new();
        write(&mut json, &*value, redaction.as_deref().map(Hiding::new).as_mut());
        json
    };
    // Looking for secrets takes a while, in which others are answered.
    if hides { asked(write).await } else { Ok(write()) }
}

async fn json<T: Serialize + Send + Sync + 'static>(app: &App, value: Arc<T>) -> Answer<Response> {
    Ok(([(CONTENT_TYPE, "application/json")], written(app, value).await?).into_response())
}

async fn report(State(app): State<App>, when: Result<Query<When>, QueryRejection>) -> Answer<Response> {
    let Query(when) = when?;
    let report = match when.range()? {
        None => app.shared.report().ok_or_else(|| Refused::from(past::PastError::Nothing("yet".into())))?,
        Some(range) => {
            let (reader, thresholds) = (app.reader.clone().ok_or_else(no_store)?, app.shared.thresholds());
            asked(move || past_report(&reader, range, &thresholds)).await??
        }
    };
    json(&app, Arc::new(report)).await
}

fn past_report(reader: &Reader, range: Range, thresholds: &Thresholds) -> Result<Report, past::PastError> {
    let window = past::window(reader, range)?;
    Ok(Report::new(&window, &judge(&window, thresholds)))
}

fn no_store() -> Refused {
    Refused::not_found("kerno runs without a store: only the latest window is known")
}

/// Asks the store, off the thread that serves.
async fn asked<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    tokio::task::spawn_blocking(question)
        .await
        .map_err(|_| Refused(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed".into()))
}
