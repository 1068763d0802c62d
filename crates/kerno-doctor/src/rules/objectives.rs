//! Objectives from the configuration that are missed too often.

use std::borrow::Cow;

use kerno_model::amount::{number, share, span};
use kerno_model::{Device, Eta, Finding, Severity, Subject, Unit, Window, fill};

use crate::objective::{Budget, Objective, Speed, least, percent};
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// An objective whose error budget will not last.
    ObjectiveBurn = "objective_burn", "objectives", "an objective is missed so often that its error budget will not last",
        "An objective ([[objective]] in the configuration) allows a number to be on the wrong side for a share of the time: its error budget. \
         Judges how fast that is used, over two stretches of time each: the long one says that it matters, the short one that it still goes \
         on. What has no data counts as not missed. Only `kerno start` follows objectives.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        fast: 14.4 Times, 1.0 ..= 100_000.0, "how many times as fast as it lasts a budget is used, over 1 h and over 5 min, that is critical";
        slow: 6.0 Times, 1.0 ..= 100_000.0, "how many times as fast as it lasts a budget is used, over 6 h and over 30 min, that counts as a problem";
    }
    evidence: {
        burn: "how fast the error budget was used over the last {}";
        missed: "time on the wrong side in the last {}";
        remaining: "error budget left";
        latest: "measured in the latest window";
    }
}

/// One window alone says nothing: it takes the budget, which only who watches on has.
fn judge(_: &Window, _: &ObjectiveBurn) -> Vec<Finding> {
    Vec::new()
}

/// The finding of an objective whose budget is used too fast, after a window in which this was measured.
#[allow(clippy::cast_precision_loss, reason = "milliseconds")]
pub(crate) fn finding(
    objective: &Objective,
    budget: &Budget,
    latest: Option<f64>,
    window: &Window,
    rule: &ObjectiveBurn,
) -> Option<Finding> {
    let speed = budget.alert()?;
    let (severity, factor) = match speed {
        Speed::Fast => (Severity::Critical, rule.fast),
        Speed::Slow => (Severity::Warning, rule.slow),
    };
    let factor = least(factor, objective.share);
    let [(_, short), (_, long)] = speed.stretches();
    let [short_burn, burn] = [short, long].map(|ms| budget.burn(ms, objective.share));
    let of = |ms: u64| span(ms as f64 / 1e3);
    let remaining = budget.remaining(objective.share);
    let missed = burn * (1.0 - objective.share) * (long as f64 / 1e3).min(objective.over.as_secs_f64());
    let mut finding = ObjectiveBurn::finding(severity)
        .about(subject(objective))
        .detail("objective", objective.name.clone())
        .detail("condition", objective.condition())
        .detail("share", (objective.share, Unit::Ratio))
        .detail("over", (objective.over.as_secs_f64(), Unit::Seconds))
        .measured_of("burn", of(long), burn, Unit::Times, Some(factor))
        .measured_of("burn", of(short), short_burn, Unit::Times, Some(factor))
        .measured_of("missed", of(long), missed, Unit::Seconds, None)
        .measured("remaining", remaining, Unit::Ratio, None)
        .look("kerno incidents", "shows what else was wrong meanwhile")
        .look(
            format!("kerno doctor --last {}", if long > 3_600_000 { "6h" } else { "1h" }),
            "judges that stretch of time as a whole",
        );
    if let Some(latest) = latest {
        finding = finding.measured("latest", latest, objective.unit(), Some(objective.bound.number()));
    }
    // Its name tells it from the others.
    finding.variant = Cow::Owned(objective.name.clone());
    finding.excess = burn / factor;
    finding.confidence = 0.95;
    if remaining > 0.0 && burn > 0.0 {
        let seconds = remaining * objective.over.as_secs_f64() / burn;
        finding.eta = Some(Eta::new(window.moment(window.span.covered_seconds() + seconds), seconds, 1.0));
    }
    Some(finding)
}

/// What its labels name.
fn subject(objective: &Objective) -> Subject {
    let label = |name: &str| objective.labels.get(name).cloned();
    fill!(Subject {
        unit: label("unit").filter(|unit| unit.ends_with(".service")),
        cgroup: label("cgroup"),
        device: label("device").map(|name| Device { name, ..Device::default() }),
        mount: label("mount"),
    })
}

fn words(finding: &Finding) -> Words {
    let what = match finding.text("objective") {
        Some(name) => format!("objective {name} is missed too often"),
        None => "an objective is missed too often".to_owned(),
    };
    let burn = finding.number("burn").map(|burn| format!("error budget used {}x as fast as it lasts", number(burn)));
    let left = finding.number("remaining").map(|left| match left {
        left if left > 0.0 => format!("{} left", share(left)),
        _ => "none left".to_owned(),
    });
    let condition = finding.text("condition").unwrap_or("the bound of its metric");
    let promised = finding.number("share").zip(finding.number("over"));
    let promised = promised
        .map_or_else(|| "a share of the time".to_owned(), |(of, over)| format!("{} of {}", percent(of), span(over)));
    let missed = finding.evidence.iter().find(|evidence| evidence.quantity == "missed");
    let missed = missed.and_then(|evidence| Some((span(evidence.value.round()), evidence.of.as_deref()?)));
    let missed =
        missed.map_or_else(String::new, |(missed, of)| format!(" It did not hold for {missed} of the last {of}."));
    Words {
        title: title(&what, [burn, left]),
        cause: format!("This has to hold for {promised}: {condition}.{missed}"),
        impact: match finding.number("remaining") {
            Some(left) if left <= 0.0 => "More was missed than the whole period allows.".to_owned(),
            _ => "At this rate the objective will be missed for its period.".to_owned(),
        },
        outlook: match &finding.eta {
            Some(_) => finding.text("objective").map_or_else(
                || "an error budget is used up".to_owned(),
                |name| format!("the error budget of {name} is used up"),
            ),
            None => String::new(),
        },
    }
}
