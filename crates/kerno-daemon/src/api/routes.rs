//! What is served.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kerno_doctor::report::{IncidentReport, Report};
use kerno_doctor::{Thresholds, judge};
use kerno_model::Window;
use kerno_store::Reader;
use serde::Serialize;

use super::guard::Token;
use super::questions::{Answer, Refused, When, Which};
use super::{App, events, exposition};
use crate::past;
use crate::times::Range;

/// The most windows of one answer.
const MAX_WINDOWS: usize = 10_000;

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

/// What everybody may ask.
pub(super) fn health(app: App) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(async || Refused::not_found("only /healthz and /readyz are served here"))
        .with_state(app)
}

pub(super) fn router(app: App, whom: Whom) -> Router {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/incidents/{id}", get(incident))
        .route("/api/v1/windows", get(windows))
        .route("/api/v1/report", get(report))
        .route("/api/v1/events", get(events::events))
        .fallback(async || Refused::not_found("there is nothing of this name; see /api/v1/status"))
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

async fn status(State(app): State<App>) -> Response {
    axum::Json(app.shared.status()).into_response()
}

async fn incidents(State(app): State<App>, which: Result<Query<Which>, QueryRejection>) -> Answer<Response> {
    let Query(which) = which?;
    let filter = which.filter()?;
    let mut all = all_incidents(app).await?;
    all.retain(|incident| filter.passes(incident));
    Ok(axum::Json(all).into_response())
}

async fn incident(State(app): State<App>, Path(id): Path<String>) -> Answer<Response> {
    let found = all_incidents(app).await?.into_iter().find(|incident| incident.id.as_str() == id);
    let found = found.ok_or_else(|| Refused::not_found("no incident has this id; /api/v1/incidents lists them"))?;
    Ok(axum::Json(found).into_response())
}

async fn all_incidents(app: App) -> Answer<Vec<IncidentReport>> {
    let followed = app.shared.incidents();
    let kept = match app.reader {
        Some(reader) => asked(move || past::incidents(&reader)).await??,
        None => Vec::new(),
    };
    Ok(past::together(kept, followed))
}

async fn windows(State(app): State<App>, when: Result<Query<When>, QueryRejection>) -> Answer<Response> {
    let Query(when) = when?;
    let Some(range) = when.range()? else {
        let latest = app.shared.latest().ok_or_else(|| Refused::from(past::PastError::Nothing("yet".into())))?;
        return Ok(if when.merged { json(&*latest)? } else { lines(&[latest])? });
    };
    let reader = app.reader.ok_or_else(no_store)?;
    if when.merged {
        let window = asked(move || past::window(&reader, range)).await??;
        return json(&window);
    }
    let windows =
        asked(move || reader.windows(range.from_ns, range.to_ns).take(MAX_WINDOWS).collect::<Result<Vec<_>, _>>())
            .await?;
    let windows: Vec<_> = windows.map_err(past::PastError::from)?.into_iter().map(Arc::new).collect();
    lines(&windows)
}

fn json(value: &impl Serialize) -> Answer<Response> {
    Ok(axum::Json(value).into_response())
}

fn lines(windows: &[Arc<Window>]) -> Answer<Response> {
    let mut body = Vec::new();
    for window in windows {
        serde_json::to_writer(&mut body, &**window)
            .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        body.push(b'\n');
    }
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn report(State(app): State<App>, when: Result<Query<When>, QueryRejection>) -> Answer<Response> {
    let Query(when) = when?;
    let report = match when.range()? {
        None => app.shared.report().ok_or_else(|| Refused::from(past::PastError::Nothing("yet".into())))?,
        Some(range) => {
            let (reader, thresholds) = (app.reader.ok_or_else(no_store)?, app.shared.thresholds());
            asked(move || past_report(&reader, range, &thresholds)).await??
        }
    };
    json(&report)
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
