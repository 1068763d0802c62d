//! Posts JSON, and tells what may be tried again from what may not.

use std::time::Duration;

use kerno_doctor::redaction::Redaction;
use serde_json::Value;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderValue, Response, StatusCode};

use super::deliver::{Failure, Receipt};
use super::settings::Place;
use super::text::fitted;
use crate::explain::explain;
use crate::outbound::{Outbound, OutboundError, Secret};

/// No answer is read further.
const MAX_ANSWER: u64 = 64 << 10;

/// What is shown of an answer, in characters.
const SHOWN: usize = 300;

/// A receiver that wants to be left alone for longer is asked again after this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Posts to one receiver.
#[derive(Debug)]
pub(super) struct Http {
    place: Place,
    token: Option<Secret>,
    outbound: Outbound,
    /// Made anew after a failure, since certificates may have changed.
    agent: Option<Agent>,
}

/// What a receiver answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// As far as it could be read.
    pub(super) body: String,
    pub(super) retry_after: Option<Duration>,
}

impl Http {
    pub(super) fn new(place: &Place, token: Option<&Secret>, outbound: &Outbound) -> Self {
        Self { place: place.clone(), token: token.cloned(), outbound: outbound.clone(), agent: None }
    }

    /// Posts JSON; any answer that is no success is a failure.
    pub(super) fn post(&mut self, path: &str, body: &Value, headers: &[(&str, String)]) -> Result<Receipt, Failure> {
        let bytes = serde_json::to_vec(body).map_err(|error| Failure::never(error.to_string()))?;
        let answer = self.ask(path, &bytes, headers)?;
        Ok(answer.receipt())
    }

    /// Posts bytes that are JSON; any answer that is no success is a failure.
    pub(super) fn ask(&mut self, path: &str, body: &[u8], headers: &[(&str, String)]) -> Result<Answer, Failure> {
        let result = self.try_to(path, body, headers);
        if result.is_err() {
            self.agent = None;
        }
        result
    }

    fn try_to(&mut self, path: &str, body: &[u8], headers: &[(&str, String)]) -> Result<Answer, Failure> {
        let here = |error: OutboundError| Failure::later(explain(&error));
        let base = self.place.url().map_err(here)?;
        let url = if path.is_empty() { base.clone() } else { format!("{}{path}", base.trim_end_matches('/')) };
        let hidden = |text: String| self.place_instead(&text, &base);
        let agent = match &self.agent {
            Some(agent) => agent.clone(),
            None => self.outbound.agent().map_err(here)?,
        };
        let mut request = agent.post(&url).header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, value.as_str());
        }
        for (name, value) in self.outbound.headers().map_err(here)? {
            request = request.header(name, value);
        }
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.read().map_err(here)?);
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Failure::later(format!("{token} has characters that no header may have")))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send(body).map_err(|error| Failure::later(hidden(reason(&error))))?;
        let answer = Answer::of(response, &hidden)?;
        self.agent = Some(agent);
        Ok(answer)
    }

    /// Errors may repeat the URL.
    fn place_instead(&self, text: &str, url: &str) -> String {
        match &self.place {
            Place::Plain(_) => text.to_owned(),
            Place::Secret(_) => text.replace(url, &self.place.to_string()),
        }
    }
}

/// Why a request did not get through, in words that people use.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
        ureq::Error::HostNotFound => "the host is not known".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

impl Answer {
    fn of(mut response: Response<ureq::Body>, hidden: &dyn Fn(String) -> String) -> Result<Self, Failure> {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(wait);
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Whether it was taken is known by its status. The rest may be missing.
        let body = response.body_mut().with_config().limit(MAX_ANSWER).lossy_utf8(true).read_to_string();
        let answer = Self { status, body: body.unwrap_or_default(), retry_after };
        let why = || hidden(answer.shown());
        if status.is_success() {
            Ok(answer)
        } else if status.is_redirection() {
            let to = location.map(|to| format!(" to {to}")).unwrap_or_default();
            Err(Failure::never(hidden(format!("it answers {status}, a redirect{to}; set the URL where it leads"))))
        } else if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) {
            Err(Failure::Later { why: why(), after: answer.retry_after })
        } else {
            Err(Failure::never(why()))
        }
    }

    /// What it was, in one line.
    pub(super) fn shown(&self) -> String {
        let body = self.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let body = fitted(&Redaction::default().hide(&body), SHOWN, super::text::plain);
        let body: String = body.chars().filter(|c| !c.is_control()).collect();
        if body.is_empty() { self.status.to_string() } else { format!("{}: {body}", self.status) }
    }

    pub(super) fn receipt(&self) -> Receipt {
        Receipt { answer: self.shown(), handle: None }
    }
}

/// `120`, or a date.
fn wait(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Duration::from_secs_f64(seconds.min(1e6)),
        Ok(_) => return None,
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_say_when_to_come_again() {
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait(" 0.5 "), Some(Duration::from_millis(500)));
        assert_eq!(wait("999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("Sat, 29 Nov 2003 08:00:00 GMT"), Some(Duration::ZERO), "in the past");
        let soon = jiff::Timestamp::now() + Duration::from_secs(100);
        let date = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!((98..=100).contains(&wait(&date).unwrap().as_secs()), "{date}");
        for bad in ["", "soon", "-1", "NaN", "inf"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }
}
