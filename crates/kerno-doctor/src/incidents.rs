//! The life of incidents: what one window's findings change about those that are open. A pure step, so that whoever watches (a command, a
//! daemon, a test) gets the same story from the same windows.
//!
//! What gets worse is told at once. What gets better or goes away must stay so for a while of *watched* time: a gap in watching closes
//! nothing and improves nothing. One that came back after it had been closed is the same incident, and each time it does, it has to stay
//! away longer before it is taken to be over again.

use std::collections::BTreeMap;

use kerno_model::{
    Course, Finding, Fingerprint, Incident, IncidentState, Moment, Severity, Span, Transition, Window, fill,
};
use serde::{Deserialize, Serialize};

use crate::rules;

#[cfg(test)]
mod tests;

/// How long something must hold before it is told. All in seconds of watched time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hysteresis {
    /// A finding that was away for so long, and for two windows at least, is over.
    pub close_seconds: f64,
    /// One that was less severe or nearer to its threshold for so long, and for two windows at least, is better.
    pub better_seconds: f64,
    /// How many times as far past its threshold one must be to be worse, or the other way round better: less is noise.
    pub clearly: f64,
    /// For so long one that was closed is remembered: if it comes back, it is the same incident.
    pub memory_seconds: f64,
}

impl Default for Hysteresis {
    fn default() -> Self {
        Self { close_seconds: 20.0, better_seconds: 20.0, clearly: 1.5, memory_seconds: 3600.0 }
    }
}

/// Windows for which something must be away or better, however long they are.
const MIN_WINDOWS: u32 = 2;
/// How many times longer one that comes back again and again must stay away, at most.
const MAX_PATIENCE: u32 = 8;
/// Incidents remembered, open and closed. What finds no room is counted.
const MAX_TRACKED: usize = 4096;

/// An incident with what decides about its next change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tracked {
    incident: Incident,
    /// Watched seconds, and windows, for which it was away.
    away: (f64, u32),
    /// The same for which it was better than was told.
    better: (f64, u32),
    /// The worst that it was meanwhile.
    better_severity: Severity,
    /// How far past its threshold it was when that was last told.
    told_excess: f64,
}

/// All incidents that are open or remembered. Serialises, so that they outlive whoever watches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incidents {
    hysteresis: Hysteresis,
    tracked: BTreeMap<Fingerprint, Tracked>,
    /// Findings for which there was no room.
    pub untracked: u64,
}

impl Incidents {
    /// None yet, with that hysteresis.
    pub fn new(hysteresis: Hysteresis) -> Self {
        Self { hysteresis, ..Self::default() }
    }

    /// Those that go on, in the order of their fingerprints.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.tracked.values().map(|tracked| &tracked.incident).filter(|incident| incident.is_open())
    }

    /// Those that go on and those that are over but remembered.
    pub fn all(&self) -> impl Iterator<Item = &Incident> {
        self.tracked.values().map(|tracked| &tracked.incident)
    }
}

/// What a window's findings change: the incidents afterwards, and what is to be told of it. `findings` are those of one window, consequences
/// under their causes, in any order; the window says how long it was watched and when. What it could not watch, it has nothing to say about: an
/// incident whose signal is missing goes on as it was.
pub fn step(mut incidents: Incidents, window: &Window, findings: &[Finding]) -> (Incidents, Vec<Transition>) {
    let span = &window.span;
    let now = span.end();
    let hysteresis = incidents.hysteresis;
    let mut seen = BTreeMap::new();
    flatten(findings, None, &mut seen);
    let mut transitions = Vec::new();
    for (fingerprint, tracked) in &mut incidents.tracked {
        let transition = match seen.remove(fingerprint) {
            Some((finding, under)) => present(tracked, hysteresis, span, now, finding, under),
            None if is_unwatched(&tracked.incident, window) => None,
            None => absent(tracked, hysteresis, span, now),
        };
        transitions.extend(transition);
    }
    incidents.tracked.retain(|_, tracked| !is_forgotten(tracked, hysteresis, now));
    for (fingerprint, (finding, under)) in seen {
        if incidents.tracked.len() >= MAX_TRACKED && !forget_one(&mut incidents.tracked) {
            incidents.untracked += 1;
            continue;
        }
        let tracked = opened(now, finding, under);
        transitions.push(transition(&tracked.incident, Course::Opened, now, None, 0.0));
        incidents.tracked.insert(fingerprint, tracked);
    }
    (incidents, transitions)
}

/// Whether the window does not have the signal that the incident's rule judges.
fn is_unwatched(incident: &Incident, window: &Window) -> bool {
    let rule = rules().find(|rule| rule.id == incident.rule.as_str());
    rule.is_some_and(|rule| window.missing.iter().any(|missing| missing.signal == rule.signal && missing.what == "all"))
}

/// Every finding by its fingerprint, with that of its cause. Of two alike the worse one counts.
fn flatten<'a>(
    findings: &'a [Finding],
    under: Option<Fingerprint>,
    seen: &mut BTreeMap<Fingerprint, (&'a Finding, Option<Fingerprint>)>,
) {
    for finding in findings {
        let fingerprint = finding.fingerprint();
        let worse = |other: &Finding| (finding.severity, finding.excess) > (other.severity, other.excess);
        if seen.get(&fingerprint).is_none_or(|(other, _)| worse(other)) {
            seen.insert(fingerprint, (finding, under));
        }
        flatten(&finding.consequences, Some(fingerprint), seen);
    }
}

fn opened(now: Moment, finding: &Finding, under: Option<Fingerprint>) -> Tracked {
    let incident = fill!(Incident { under, ..Incident::new(now, alone(finding)) });
    Tracked { incident, away: (0.0, 0), better: (0.0, 0), better_severity: Severity::Info, told_excess: finding.excess }
}

/// A finding without those under it, which are incidents of their own.
fn alone(finding: &Finding) -> Finding {
    fill!(Finding { consequences: Vec::new(), ..finding.clone() })
}

fn transition(incident: &Incident, course: Course, at: Moment, was: Option<Severity>, was_excess: f64) -> Transition {
    fill!(Transition { was, was_excess, ..Transition::new(course, incident, at) })
}

fn present(
    tracked: &mut Tracked,
    hysteresis: Hysteresis,
    span: &Span,
    now: Moment,
    finding: &Finding,
    under: Option<Fingerprint>,
) -> Option<Transition> {
    let Tracked { incident, away, better, better_severity, told_excess } = tracked;
    let (was, was_excess) = (incident.severity, *told_excess);
    *away = (0.0, 0);
    incident.last = alone(finding);
    incident.last_seen = now;
    incident.under = under;
    if (finding.severity, finding.excess) > (incident.worst.severity, incident.worst.excess) {
        incident.worst = alone(finding);
    }
    let mut tell = |incident: &mut Incident, course, severity| {
        incident.severity = severity;
        *told_excess = finding.excess;
        Some(transition(incident, course, now, Some(was), was_excess))
    };
    if incident.state == IncidentState::Closed {
        incident.state = IncidentState::Open;
        incident.closed = None;
        incident.reopened = incident.reopened.saturating_add(1);
        *better = (0.0, 0);
        return tell(incident, Course::Reopened, finding.severity);
    }
    let worse = finding.severity > was || (finding.severity == was && finding.excess > was_excess * hysteresis.clearly);
    if worse {
        *better = (0.0, 0);
        return tell(incident, Course::Worse, finding.severity);
    }
    let less = finding.severity < was || finding.excess * hysteresis.clearly < was_excess;
    if !less {
        *better = (0.0, 0);
        return None;
    }
    *better_severity = if better.1 == 0 { finding.severity } else { finding.severity.max(*better_severity) };
    *better = (better.0 + span.seconds, better.1.saturating_add(1));
    let lasts = better.0 >= hysteresis.better_seconds * f64::from(patience(incident)) && better.1 >= MIN_WINDOWS;
    if !lasts {
        return None;
    }
    *better = (0.0, 0);
    let severity = *better_severity;
    tell(incident, Course::Better, severity)
}

fn absent(tracked: &mut Tracked, hysteresis: Hysteresis, span: &Span, now: Moment) -> Option<Transition> {
    let Tracked { incident, away, better, told_excess, .. } = tracked;
    if !incident.is_open() {
        return None;
    }
    *better = (0.0, 0);
    *away = (away.0 + span.seconds, away.1.saturating_add(1));
    let over = away.0 >= hysteresis.close_seconds * f64::from(patience(incident)) && away.1 >= MIN_WINDOWS;
    if !over {
        return None;
    }
    incident.state = IncidentState::Closed;
    incident.closed = Some(now);
    Some(transition(incident, Course::Closed, now, Some(incident.severity), *told_excess))
}

/// How many times longer this one must stay away or better: it doubles each time it comes back.
fn patience(incident: &Incident) -> u32 {
    1_u32.checked_shl(incident.reopened).map_or(MAX_PATIENCE, |times| times.min(MAX_PATIENCE))
}

/// Closed for so long that it is no longer the same one if it comes back.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn is_forgotten(tracked: &Tracked, hysteresis: Hysteresis, now: Moment) -> bool {
    tracked.incident.closed.is_some_and(|closed| {
        let since = now.unix_ns.saturating_sub(closed.unix_ns) as f64 / 1e9;
        since > hysteresis.memory_seconds
    })
}

/// Makes room by forgetting the one that was closed longest ago; false when all are open.
fn forget_one(tracked: &mut BTreeMap<Fingerprint, Tracked>) -> bool {
    let closed = tracked.iter().filter_map(|(fingerprint, tracked)| Some((tracked.incident.closed?, *fingerprint)));
    let oldest = closed.min().map(|(_, fingerprint)| fingerprint);
    oldest.is_some_and(|fingerprint| tracked.remove(&fingerprint).is_some())
}
